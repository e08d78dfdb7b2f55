//! Logs and metrics. No label grows with devices or users; no secret is logged.

pub mod logs;
pub mod metrics;
pub mod process;
pub mod strain;

pub use metrics::{BackupFigures, Gauges, Metrics};
pub use strain::Strain;
