//! Log lines to standard error: JSON for machines, text for people.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(level: LevelFilter, json: bool, colours: bool) {
    let registry = tracing_subscriber::registry().with(level);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(true);
    // Fails only when a logger is there already, as in tests.
    let _ =
        if json { registry.with(layer.json().flatten_event(true)).try_init() } else { registry.with(layer).try_init() };
}
