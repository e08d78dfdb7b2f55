//! Logs, metrics and traces. No label grows with devices or users; no secret is logged.

pub mod logs;
pub mod metrics;
pub mod otlp;
pub mod process;
pub mod strain;
pub mod traces;

pub use metrics::{BackupFigures, Gauges, Metrics};
pub use strain::Strain;
pub use traces::Traces;
