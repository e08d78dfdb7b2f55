//! The rules that hold or not with each reading: what the device says of itself against what its sensors say.

use super::features::spread;
use super::rules::Reason;
use super::screen::GYRO_ALIVE;
use super::{DeviceEngine, Flags, OVERLAY};

/// Readings with all sensors equal to the bit before they count as dead; real ones on a table reach 42.
const DEAD_RUN: u32 = 64;
/// Share of the screen from which an overlay counts on a rooted device that nobody holds and that an accessibility
/// service can operate.
const OVERLAY_LOW: f32 = 0.2;

/// Score from which a name is said to seem generated: one legitimate name in a hundred reaches it. A hint and never a
/// proof: content networks make such names, too.
const GENERATED: u8 = 95;

impl DeviceEngine {
    /// The rules that hold or not with each reading.
    pub(super) fn apply_rules(&mut self) {
        if self.flags != Flags::default() {
            self.apply_flag_rules();
        }
        if self.default_run > 0 {
            let seen_through = self.flags.overlay >= OVERLAY || self.flags.mirroring;
            if seen_through || (self.default_run >= 2 && self.in_use()) {
                self.fire(Reason::EmulatorInUse);
            } else if self.default_run >= 2 {
                self.fire(Reason::EmulatorDefault);
            }
        }
        let facts = *self.standing.facts();
        if facts.known_bad_package {
            self.fire(Reason::KnownBadPackage);
        }
        if facts.known_bad_contact {
            self.fire(Reason::KnownBadContact);
        }
        if facts.strangest_name.is_some_and(|score| score >= GENERATED) {
            self.fire(Reason::GeneratedName);
        }
        if self.reversals >= 3 {
            self.fire(Reason::ClockReversed);
        }
    }

    fn apply_flag_rules(&mut self) {
        let f = self.flags;
        let overlay = f.overlay >= OVERLAY;
        for (holds, reason) in [
            (overlay, Reason::OverlayPresent),
            (f.mirroring, Reason::MirroringActive),
            (overlay && f.accessibility, Reason::OverlayWithAccessibility),
            (f.mirroring && f.accessibility, Reason::MirroringWithAccessibility),
            (f.rooted, Reason::Rooted),
            (f.debugger, Reason::Debugger),
        ] {
            if holds {
                self.fire(reason);
            }
        }
        if f.rooted && f.accessibility && f.overlay >= OVERLAY_LOW && self.unattended() {
            self.fire(Reason::RootedRemoteControl);
        }
        if self.sensors_dead() && (overlay || f.mirroring || f.accessibility) {
            self.fire(Reason::DeadSensorsInUse);
            if overlay {
                self.fire(Reason::OverlayUnattended);
            }
            if f.mirroring {
                self.fire(Reason::MirroringUnattended);
            }
        }
    }

    /// Both sensors equal to the bit for longer than real ones ever are.
    pub(super) fn sensors_dead(&self) -> bool {
        let both = self.accelerometer.len() > 0 && self.gyroscope.len() > 0;
        let span_ms = self.last_t_ms.saturating_sub(self.same_since_ms);
        both && ((self.same_run >= DEAD_RUN && span_ms >= 1000) || (self.same_run >= 12 && span_ms >= 10_000))
    }

    /// Nothing moves beyond the sensor's noise.
    pub(super) fn unattended(&self) -> bool {
        let n = usize::from(self.unbroken).min(16);
        let seen = self.accelerometer.len() >= 4 && n >= 4;
        seen && spread(&self.accelerometer, n) < 2.0 * self.dead_below() && spread(&self.gyroscope, n) < GYRO_ALIVE
    }
}
