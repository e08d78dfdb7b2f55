//! What a person sees while a fleet plays: a table that is drawn over itself, or a line now and then.
//!
//! Texts from the network are cleaned before they reach a terminal. Whatever cannot be written (a closed pipe) is not
//! worth ending a run for.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::presets::{NOTHING, UTF8_HORIZONTAL_ONLY};
use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle, Table};

use super::Output;
use super::summary::{Row, State, Summary};
use crate::client::frame::Decision;

/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Lines around the rows: rule, head, rule, rule, "and more", totals, and the one the cursor stands on.
const FRAME_LINES: usize = 7;
/// Rows of the final table in a pipe or file, which has no height.
const ROWS_MAX: usize = 1_000;

const STATE: &str = "state";
const SCORE: &str = "score";
const DECISION: &str = "decision";
const ATTACK: &str = "attack";
/// From the first hostile reading to the verified lock.
const TO_LOCK: &str = "to lock";
const NOTE: &str = "note";
const COLUMNS: [&str; 7] = ["device", STATE, SCORE, DECISION, ATTACK, TO_LOCK, NOTE];
/// A note that gets less room says nothing.
const NOTE_WIDTH_MIN: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Stdout,
    Stderr,
}

impl Target {
    fn write(self, text: &str) {
        let _ = match self {
            Self::Stdout => io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()),
            Self::Stderr => io::stderr().write_all(text.as_bytes()),
        };
    }

    fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
        }
    }

    /// Columns and lines, where it is a terminal that tells.
    fn size(self) -> Option<(u16, u16)> {
        let size = match self {
            Self::Stdout => rustix::termios::tcgetwinsize(io::stdout()),
            Self::Stderr => rustix::termios::tcgetwinsize(io::stderr()),
        };
        size.ok().map(|s| (s.ws_col, s.ws_row)).filter(|(columns, lines)| *columns > 0 && *lines > 0)
    }
}

/// How a table is to look.
#[derive(Clone, Copy)]
struct Look {
    /// `None` in a file or pipe: nothing is cut or coloured.
    columns: Option<u16>,
    rows_max: usize,
    colour: bool,
}

/// Shows a run.
pub(super) struct Display {
    output: Output,
    live: Option<Target>,
    colour: bool,
    drawn_lines: usize,
    next_line: Duration,
}

impl Display {
    pub(super) fn new(output: Output) -> Self {
        let candidates: &[Target] = match output {
            Output::Table => &[Target::Stdout, Target::Stderr],
            // Standard output belongs to the script.
            Output::Json => &[Target::Stderr],
            Output::Lines | Output::Nothing => &[],
        };
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let live = candidates.iter().copied().find(|t| t.is_terminal() && !dumb);
        let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { output, live, colour, drawn_lines: 0, next_line: LINE_EVERY }
    }

    /// Shows how things stand; cheap when nothing is to be shown.
    pub(super) fn show(&mut self, rows: &[Row], elapsed: Duration) {
        if self.output == Output::Nothing {
            return;
        }
        let Some(target) = self.live else {
            if elapsed >= self.next_line {
                self.next_line = elapsed + LINE_EVERY;
                Target::Stderr.write(&format!("{}\n", totals(rows, elapsed)));
            }
            return;
        };
        let (columns, lines) = target.size().unwrap_or((80, 24));
        let rows_max = usize::from(lines).saturating_sub(FRAME_LINES).max(1);
        let look = Look { columns: Some(columns), rows_max, colour: self.colour };
        let mut text = render(rows, look);
        let _ = writeln!(text, "{}", cut(&totals(rows, elapsed), columns));
        // Each line is overwritten in its place and the rest of the old picture removed: nothing flickers.
        let up = match self.drawn_lines {
            0 => String::new(),
            n => format!("\u{1b}[{n}A\r"),
        };
        self.drawn_lines = text.lines().count();
        let body = text.replace('\n', "\u{1b}[K\n");
        target.write(&format!("{up}{body}\u{1b}[J"));
    }

    /// Shows the end.
    pub(super) fn finish(self, summary: &Summary) {
        match self.output {
            Output::Nothing => return,
            Output::Json => {
                if let Ok(text) = serde_json::to_string(summary) {
                    Target::Stdout.write(&format!("{text}\n"));
                }
                Target::Stderr.write(&format!("{}\n", verdict(summary)));
                return;
            }
            Output::Table | Output::Lines => {}
        }
        // On a terminal the last picture already is the table.
        if self.live.is_none() {
            let look = Look { columns: None, rows_max: ROWS_MAX, colour: false };
            Target::Stdout.write(&render(&summary.devices, look));
        }
        Target::Stdout.write(&format!("{}\n", verdict(summary)));
    }
}

fn verdict(summary: &Summary) -> String {
    let times = summary.time_to_lock.map_or_else(String::new, |t| {
        format!(
            "; from the first hostile reading to the lock {} ms (fastest {}, slowest {})",
            t.median_ms, t.min_ms, t.max_ms
        )
    });
    format!("{}{times}", summary.verdict)
}

/// The line under the table.
fn totals(rows: &[Row], elapsed: Duration) -> String {
    let count = |which: &dyn Fn(&Row) -> bool| rows.iter().filter(|r| which(r)).count();
    let heartbeats: u64 = rows.iter().map(|r| r.heartbeats).sum();
    let mut text = format!(
        "{} s: {} devices, {} online, {} taken over, {} locked, {heartbeats} heartbeats",
        elapsed.as_secs(),
        rows.len(),
        count(&|r| r.state == State::Online),
        count(&|r| r.taken_over),
        count(&|r| r.locked),
    );
    let troubled = count(&|r| r.error.is_some() && r.state != State::Locked);
    if troubled > 0 {
        let _ = write!(text, ", {troubled} in trouble");
    }
    text
}

/// The table, a line for each row, with a final newline: the taken-over devices first, then the lowest scores.
fn render(rows: &[Row], look: Look) -> String {
    let mut order: Vec<&Row> = rows.iter().collect();
    order.sort_by_key(|r| {
        let unspoken = r.score.is_none();
        (!(r.attack.is_some() || r.locked), unspoken && r.error.is_none(), r.score.unwrap_or(0), &r.device_id)
    });
    let lines: Vec<[Field; COLUMNS.len()]> = order.iter().take(look.rows_max).map(|r| fields(r)).collect();
    let (shown, fits) = shown_columns(&lines, look.columns);
    let mut table = Table::new();
    table.force_no_tty();
    match look.columns {
        Some(columns) => {
            table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
        }
        None => {
            table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    if look.colour {
        table.enforce_styling();
    }
    let one_line = |cells: Vec<Cell>| {
        let mut row = comfy_table::Row::from(cells);
        row.max_height(1);
        row
    };
    let visible = || COLUMNS.iter().zip(shown).filter(|(_, shown)| *shown).map(|(column, _)| *column);
    table.set_header(one_line(visible().map(Cell::new).collect()));
    for line in lines {
        let visible = line.into_iter().zip(shown).filter(|(_, shown)| *shown);
        table.add_row(one_line(visible.map(|(field, _)| field.cell()).collect()));
    }
    for (column, name) in table.column_iter_mut().zip(visible()) {
        if matches!(name, SCORE | TO_LOCK) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if name != NOTE && fits {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    let hidden = order.len().saturating_sub(look.rows_max);
    if hidden > 0 {
        let _ = writeln!(text, " ... and {hidden} more");
    }
    text
}

/// Which columns to show, and whether they fit uncut. What says least goes first; the note takes what is left, if that
/// is enough for a few words.
fn shown_columns(lines: &[[Field; COLUMNS.len()]], columns: Option<u16>) -> ([bool; COLUMNS.len()], bool) {
    let mut shown = [true; COLUMNS.len()];
    let Some(columns) = columns else { return (shown, false) };
    let mut widths = COLUMNS.map(|name| name.chars().count());
    for line in lines {
        for (width, field) in widths.iter_mut().zip(line) {
            *width = field.text.chars().count().max(*width);
        }
    }
    let width = |name: &str, width: usize| 2 + if name == NOTE { width.min(NOTE_WIDTH_MIN) } else { width };
    let fits = |shown: [bool; COLUMNS.len()]| {
        let needed = COLUMNS.iter().zip(widths).zip(shown).filter(|(_, shown)| *shown);
        needed.map(|((name, w), _)| width(name, w)).sum::<usize>() <= usize::from(columns)
    };
    for leave_out in [NOTE, DECISION, ATTACK, STATE] {
        if fits(shown) {
            break;
        }
        for (name, shown) in COLUMNS.iter().zip(&mut shown) {
            *shown &= *name != leave_out;
        }
    }
    (shown, fits(shown))
}

/// One field of the table.
struct Field {
    text: String,
    colour: Color,
}

impl Field {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: Color::Reset }
    }

    fn cell(self) -> Cell {
        match self.colour {
            Color::Reset => Cell::new(self.text),
            colour => Cell::new(self.text).fg(colour),
        }
    }
}

fn fields(row: &Row) -> [Field; COLUMNS.len()] {
    let (state, state_colour) = match row.state {
        State::Enrolling => ("enrolling", Color::DarkGrey),
        State::Offline => ("offline", Color::Yellow),
        State::Online if row.taken_over && !row.locked => ("taken over", Color::Yellow),
        State::Online => ("online", Color::Green),
        State::Locked => ("LOCKED", Color::Red),
        State::Failed => ("failed", Color::Red),
    };
    let score = row.score.map_or_else(String::new, |s| s.to_string());
    let score_colour = match row.score {
        Some(0..40) => Color::Red,
        Some(40..50) => Color::Yellow,
        _ => Color::Green,
    };
    let decision_colour = match row.decision {
        Some(Decision::Block) => Color::Red,
        Some(Decision::Challenge) => Color::Yellow,
        _ => Color::Reset,
    };
    // Before it begins, a takeover is a plan.
    let attack = match row.attack {
        Some(kind) if row.taken_over => kind.as_str().to_owned(),
        Some(kind) => format!("({kind})"),
        None => String::new(),
    };
    let time = row.time_to_lock.map_or_else(String::new, |t| format!("{} ms", t.as_millis()));
    let decision = row.decision.map_or("", Decision::as_str).to_owned();
    [
        Field::plain(row.device_id.as_str()),
        Field { text: state.to_owned(), colour: state_colour },
        Field { text: score, colour: score_colour },
        Field { text: decision, colour: decision_colour },
        Field::plain(attack),
        Field::plain(time),
        Field::plain(clean(row.error.as_deref().or(row.tpm_error.as_deref()).unwrap_or(""))),
    ]
}

/// On one line and without characters that steer a terminal or turn the direction of writing.
fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().take(200).map(|c| if steers(c) { ' ' } else { c }).collect()
}

fn cut(text: &str, columns: u16) -> String {
    text.chars().take(usize::from(columns)).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::agent::motion::AttackKind;

    fn fleet(size: u8) -> Vec<Row> {
        let row = |n: u8| {
            let id = format!("agent-{n:03}").parse().unwrap();
            Row { state: State::Online, score: Some(99 - n % 50), heartbeats: 2, ..Row::new(id, None) }
        };
        let mut rows: Vec<Row> = (0..size).map(row).collect();
        rows[0].attack = Some(AttackKind::Overlay);
        rows[0].taken_over = true;
        rows[0].locked = true;
        rows[0].state = State::Locked;
        rows[0].time_to_lock = Some(Duration::from_millis(812));
        rows
    }

    #[test]
    fn a_large_fleet_shows_the_taken_over_first_then_the_lowest_scores_and_counts_the_rest() {
        let look = Look { columns: Some(100), rows_max: 5, colour: false };
        let text = render(&fleet(40), look);
        let found: Vec<_> = text.lines().filter(|l| l.contains("agent-")).collect();
        assert_eq!(found.len(), 5, "{text}");
        assert!(found[0].contains("agent-000") && found[0].contains("LOCKED") && found[0].contains("812 ms"), "{text}");
        assert!(found[1].contains("agent-039"), "{text}");
        assert!(text.contains("... and 35 more"));
    }

    /// A line that wraps would break drawing over the old picture; a server's text must not steer the terminal.
    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_text_steers_it() {
        let mut rows = fleet(3);
        rows[1].error = Some(format!("x\u{1b}[2J\n\u{202e}{}", "long ".repeat(100)));
        for columns in [24, 40, 80, 120] {
            let text = render(&rows, Look { columns: Some(columns), rows_max: 10, colour: false });
            assert!(text.lines().all(|l| l.chars().count() <= usize::from(columns)), "{columns}:\n{text}");
            assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
            assert_eq!(text.lines().filter(|l| l.contains("agent")).count(), 3, "{columns}:\n{text}");
        }
        assert!(cut(&totals(&rows, Duration::from_secs(1)), 20).chars().count() <= 20);
    }

    #[test]
    fn in_a_file_nothing_is_cut_or_coloured() {
        let mut rows = fleet(2);
        rows[1].error = Some("word ".repeat(30));
        let text = render(&rows, Look { columns: None, rows_max: ROWS_MAX, colour: false });
        assert!(text.contains(&"word ".repeat(30).trim_end().to_owned()) && text.is_ascii(), "{text}");
        let coloured = render(&rows, Look { columns: Some(80), rows_max: 9, colour: true });
        assert!(coloured.contains("\u{1b}["));
    }

    #[test]
    fn the_totals_say_how_things_stand() {
        let text = totals(&fleet(20), Duration::from_millis(12_300));
        assert_eq!(text, "12 s: 20 devices, 19 online, 1 taken over, 1 locked, 40 heartbeats");
    }
}
