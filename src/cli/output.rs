//! What the command line shows: tables, colours, the box of secrets that is shown once.
//!
//! On a terminal there are colours and lines; in a pipe or a file there are neither, so that scripts and logs read
//! clean text. Text from elsewhere (device names, paths) goes through [`clean`]: it cannot move the cursor.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write};

use comfy_table::presets::{NOTHING, UTF8_HORIZONTAL_ONLY};
use comfy_table::{Attribute, Color, ContentArrangement, LineStyle, Table};

/// What a piece of text wants to say by its colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paint {
    /// As it should be.
    Good,
    /// Look at it.
    Warn,
    /// Wrong.
    Bad,
    /// Important.
    Strong,
    /// Beside the point.
    Faint,
}

/// How much decoration the destination bears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    terminal: bool,
    colour: bool,
    stderr: bool,
}

impl Style {
    /// For standard output.
    pub fn stdout() -> Self {
        Self::of(io::stdout().is_terminal(), false)
    }

    /// For standard error.
    pub fn stderr() -> Self {
        Self::of(io::stderr().is_terminal(), true)
    }

    /// For a file or a pipe.
    pub const fn plain() -> Self {
        Self { terminal: false, colour: false, stderr: false }
    }

    // NO_COLOR (no-color.org) counts when it is not empty.
    fn of(terminal: bool, stderr: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        Self { terminal, colour: terminal && !unwanted, stderr }
    }

    /// Whether the destination is a terminal.
    pub const fn is_terminal(self) -> bool {
        self.terminal
    }

    /// `text`, cleaned, in colour where the destination bears it.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        let text = clean(text);
        if !self.colour {
            return text;
        }
        let code = match paint {
            Paint::Good => "32",
            Paint::Warn => "33",
            Paint::Bad => "1;31",
            Paint::Strong => "1",
            Paint::Faint => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// `text` on one line, without characters that steer a terminal or turn the direction of writing.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let steers =
            c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if steers {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// One field of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    paint: Option<Paint>,
}

impl Cell {
    /// A field with a colour.
    pub fn painted(paint: Paint, text: impl Into<String>) -> Self {
        Self { text: text.into(), paint: Some(paint) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), paint: None }
    }
}

/// Rows in aligned columns, with a final newline. On a terminal it fits the width; elsewhere nothing is ever wrapped.
pub fn table(style: Style, headers: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    if style.stderr {
        table.use_stderr();
    }
    if style.terminal {
        let lean = UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none());
        table.load_style(lean).set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.force_no_tty().load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    }
    let heads = headers.iter().map(|h| {
        let cell = comfy_table::Cell::new(h);
        if style.colour { cell.add_attribute(Attribute::Bold) } else { cell }
    });
    table.set_header(heads.collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.into_iter().map(|c| cell(style, &c)).collect::<Vec<_>>());
    }
    let mut out = table.trim_fmt();
    out.push('\n');
    out
}

fn cell(style: Style, cell: &Cell) -> comfy_table::Cell {
    let shown = comfy_table::Cell::new(clean(&cell.text));
    match cell.paint {
        Some(paint) if style.colour => match paint {
            Paint::Good => shown.fg(Color::Green),
            Paint::Warn => shown.fg(Color::Yellow),
            Paint::Bad => shown.fg(Color::Red).add_attribute(Attribute::Bold),
            Paint::Strong => shown.add_attribute(Attribute::Bold),
            Paint::Faint => shown.add_attribute(Attribute::Dim),
        },
        _ => shown,
    }
}

/// Secrets that are shown this once: each value alone on its line and never wrapped, so that it can be copied whole.
pub fn secret_box(style: Style, title: &str, secrets: &[(&str, &str)], footer: &str) -> String {
    let secrets: Vec<_> = secrets.iter().map(|(label, value)| (clean(label), clean(value))).collect();
    let widest = secrets.iter().flat_map(|(l, v)| [l.chars().count(), v.chars().count() + 2]);
    let width = widest
        .chain([title.chars().count(), footer.lines().map(|l| l.chars().count()).max().unwrap_or(0)])
        .max()
        .unwrap_or(0)
        .clamp(20, 100);
    let (corner, line, bar, end) = if style.terminal { ("┌", "─", "│", "└") } else { ("+", "-", "|", "+") };
    let rule = line.repeat(width + 2);

    let mut out = format!("{corner}{rule}\n{bar} {}\n{bar}\n", style.paint(Paint::Strong, title));
    for (label, value) in &secrets {
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "{bar} {}\n{bar}   {}", style.paint(Paint::Faint, label), style.paint(Paint::Warn, value));
    }
    let _ = writeln!(out, "{bar}");
    for line in footer.lines() {
        let _ = writeln!(out, "{bar} {}", style.paint(Paint::Strong, line));
    }
    let _ = writeln!(out, "{end}{rule}");
    out
}

/// JSON for scripts, with a final newline.
pub fn json(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// Writes to standard output.
///
/// # Errors
/// As the system reports; a reader that closed the pipe early (`| head`) has what it wanted and is no error.
pub fn to_stdout(text: &str) -> io::Result<()> {
    write_all(&mut io::stdout().lock(), text)
}

/// Writes to standard error.
///
/// # Errors
/// As [`to_stdout`].
pub fn to_stderr(text: &str) -> io::Result<()> {
    write_all(&mut io::stderr().lock(), text)
}

fn write_all(to: &mut impl Write, text: &str) -> io::Result<()> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOURED: Style = Style { terminal: true, colour: true, stderr: false };

    #[test]
    fn a_pipe_gets_plain_aligned_text() {
        let rows = vec![vec!["BR-1".into(), Cell::painted(Paint::Bad, "blocked")], vec!["a".into(), "ok".into()]];
        let shown = table(Style::plain(), &["device", "state"], rows);
        assert!(!shown.contains('\u{1b}') && shown.is_ascii(), "{shown:?}");
        let at: Vec<_> = ["state", "blocked", "ok"].iter().zip(shown.lines()).map(|(w, l)| l.find(w)).collect();
        assert!(at.iter().all(|a| *a == at.first().copied().flatten() && a.is_some()), "{shown}");
        assert!(shown.lines().all(|l| !l.ends_with(' ')) && shown.ends_with('\n'));
        assert_eq!(Style::plain().paint(Paint::Bad, "x"), "x");
        assert_eq!(COLOURED.paint(Paint::Bad, "x"), "\u{1b}[1;31mx\u{1b}[0m");
    }

    /// A device may call itself anything; an administrator's terminal must not obey it.
    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        for bad in ["\u{1b}[2Jgone", "a\nb", "a\rb", "\u{9b}31m", "\u{202e}txt.exe", "\u{7}"] {
            let shown = table(Style::plain(), &["name"], vec![vec![bad.into()]]);
            assert_eq!(shown.lines().count(), 2, "{shown:?}");
            assert!(!clean(bad).chars().any(|c| c.is_control() || c == '\u{202e}'), "{bad:?}");
        }
        assert_eq!(clean("Zoë's Händy 日本"), "Zoë's Händy 日本");
    }

    #[test]
    fn a_secret_stands_whole_on_its_own_line() {
        let token = "t".repeat(300);
        for style in [Style::plain(), Style { colour: false, ..COLOURED }] {
            let shown =
                secret_box(style, "Shown once", &[("user", "admin"), ("token", &token)], "Write them down now.");
            assert!(shown.lines().any(|l| l.split_whitespace().last() == Some(&token)), "{shown}");
            assert!(shown.contains("Write them down now.") && !shown.contains('\u{1b}'));
        }
        assert!(secret_box(Style::plain(), "t", &[], "f").is_ascii());
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(write_all(&mut Closed, "x").is_ok());
    }
}
