//! Log lines to standard error: JSON for machines, text for people; with the journal's priorities where systemd reads
//! them. The level can be changed while the process runs.

use std::io::{self, Write};
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, FilterFn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use super::otlp::Export;
use crate::kernel::trace::TARGET;

static FILTER: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Starts logging for the whole process, and collecting spans where they have somewhere to go. A second call changes
/// nothing.
pub fn start(level: LevelFilter, json: bool, colours: bool, export: Option<&Export>) {
    let (filter, handle) = reload::Layer::new(level);
    let sink = Sink { journal: journal_reads_us() };
    let lines = tracing_subscriber::fmt::layer().with_writer(sink).with_ansi(colours).with_target(true);
    let lines = if json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    // Spans are for the collector: formatting them for lines that do not show them would cost every request that is traced.
    // Without a hint of its own the second filter would take that of the first away, and everything would be looked at.
    let lines_only = FilterFn::new(|about| about.target() != TARGET).with_max_level_hint(LevelFilter::TRACE);
    let filter = filter.and(lines_only);
    let spans = export.map(|export| {
        tracing_opentelemetry::layer()
            .with_tracer(export.tracer())
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(FilterFn::new(|about| about.target() == TARGET).with_max_level_hint(LevelFilter::INFO))
    });
    // Fails only when a logger is there already, as in tests.
    if tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Logs from now on what is at least this important; says whether a logger was there to be told. What the operator asks
/// for, and a reload of the configuration, both come through here.
pub fn set_level(level: LevelFilter) -> bool {
    FILTER.get().is_some_and(|filter| filter.reload(level).is_ok())
}

/// Whether standard error leads to systemd's journal, which then says so in `JOURNAL_STREAM` (systemd.exec(5)). Somebody
/// may have redirected it since, so device and inode must fit.
fn journal_reads_us() -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(here) = std::fs::metadata("/proc/self/fd/2") else { return false };
    named == format!("{}:{}", here.dev(), here.ino())
}

struct Sink {
    journal: bool,
}

/// One line on its way, with the journal's priority before it (sd-daemon(3)) where the journal reads.
pub struct Line(&'static str);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            io::stderr().lock().write_all(line)?;
        } else {
            // In one piece: the journal makes an entry of each line.
            let whole = [self.0.as_bytes(), line].concat();
            io::stderr().lock().write_all(&whole)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

impl MakeWriter<'_> for Sink {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line("")
    }

    fn make_writer_for(&self, about: &Metadata<'_>) -> Line {
        Line(if self.journal { priority(*about.level()) } else { "" })
    }
}

const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_told_how_grave_a_line_is() {
        for (level, word) in [(Level::ERROR, "<3>"), (Level::WARN, "<4>"), (Level::INFO, "<6>"), (Level::TRACE, "<7>")]
        {
            assert_eq!(priority(level), word);
        }
        assert!(!journal_reads_us(), "nobody of systemd's reads what a test says");
    }
}
