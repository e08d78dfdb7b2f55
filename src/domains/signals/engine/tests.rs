//! The promises of the engine. Figures are printed: run with `--nocapture` to see them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod attacks;
mod bytes;
mod evasions;
mod odd_input;
mod recorded;
mod rules;

use super::*;

/// A phone on a desk: gravity and a little sensor noise, the same for each `i`.
fn desk(i: u64) -> Reading {
    let mut state = i;
    let mut noise = |scale: f32| {
        let bits = crate::kernel::random::splitmix64(&mut state);
        ((bits >> 40) as f32 / 16_777_216.0 - 0.5) * scale
    };
    let a = [0.05 + noise(0.02), 0.1 + noise(0.02), 9.79 + noise(0.02)];
    let g = [noise(0.003), noise(0.003), noise(0.003)];
    Reading { t_ms: 1000 + i * 20, accelerometer: Some(a), gyroscope: Some(g), ..Reading::default() }
}

fn touch(i: u64) -> Option<Touch> {
    let spread = (i * 37 % 90) as f32;
    Some(Touch { x: 0.05 + spread / 100.0, y: 0.5, pressure: 0.3, interval_ms: 150.0 + 7.0 * spread })
}

/// Streams readings in heartbeats of `batch` and returns, for each heartbeat, what was decided.
fn heartbeats<'a>(
    engine: &mut DeviceEngine,
    readings: impl IntoIterator<Item = &'a Reading>,
    batch: usize,
) -> Vec<Assessment> {
    let policy = Policy::default();
    let mut out = Vec::new();
    let mut filled = 0;
    for r in readings {
        engine.push(r);
        filled += 1;
        if filled % batch == 0 {
            out.push(engine.assess(&policy));
        }
    }
    if filled % batch != 0 {
        out.push(engine.assess(&policy));
    }
    out
}

fn names(a: &Assessment) -> String {
    a.reasons.iter().map(Reason::name).collect::<Vec<_>>().join(",")
}
