//! Log lines to standard error: JSON for machines, text for people.

use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(level: LevelFilter, json: bool, colours: bool) {
    let (filter, handle) = reload::Layer::new(level);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(true);
    // Fails only when a logger is there already, as in tests.
    let started =
        if json { registry.with(layer.json().flatten_event(true)).try_init() } else { registry.with(layer).try_init() };
    if started.is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Changes what is logged from now on; says whether that could be done.
pub fn set_level(level: LevelFilter) -> bool {
    LEVEL.get().is_some_and(|handle| handle.reload(level).is_ok())
}
