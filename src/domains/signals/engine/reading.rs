//! One reading of a device's sensors, and its compact form in the journal.
//!
//! The edge has checked every number (finite, in range) and every length before a reading comes here. Knows nothing of
//! JSON, protobuf, devices or scores; the agent makes the same type from the other side.

use super::codec::{CodecError, put_f32s, put_varint, take, take_f32, take_f32s, take_slice, take_varint};
use crate::kernel::limits::{NAME_LEN_MAX, NAMES_PER_READING_MAX};

/// Bytes of a name of [`NAME_LEN_MAX`] characters, four bytes a character at most.
const NAME_BYTES_MAX: usize = NAME_LEN_MAX * 4;

/// What a device declared at enrollment that it has. A sensor that is not declared abstains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sensors {
    /// Has an accelerometer.
    pub accelerometer: bool,
    /// Has a gyroscope.
    pub gyroscope: bool,
}

impl Default for Sensors {
    /// The contract's default: both.
    fn default() -> Self {
        Self { accelerometer: true, gyroscope: true }
    }
}

/// A finger on the screen.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Touch {
    /// Across the screen, 0 to 1.
    pub x: f32,
    /// Down the screen, 0 to 1.
    pub y: f32,
    /// As the screen reports it, 0 to 1.
    pub pressure: f32,
    /// Since the touch before.
    pub interval_ms: f32,
}

/// The network as the device sees it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Network {
    /// Received since the reading before.
    pub rx_bytes: u64,
    /// Sent since the reading before.
    pub tx_bytes: u64,
    /// Round trip to the appliance.
    pub rtt_ms: f32,
    /// Open connections.
    pub connections: u32,
}

/// What few readings carry; kept apart so that the others stay small.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extras {
    /// Names looked up since the reading before.
    pub dns: Vec<Box<str>>,
    /// Packages installed from outside the store.
    pub sideloaded: Vec<Box<str>>,
}

/// What a device measured at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reading {
    /// The device's monotonic clock.
    pub t_ms: u64,
    /// m/s², gravity included, device frame.
    pub accelerometer: Option<[f32; 3]>,
    /// rad/s, device frame.
    pub gyroscope: Option<[f32; 3]>,
    /// The latest touch, where one fell into this reading.
    pub touch: Option<Touch>,
    /// Network figures, where they were taken.
    pub network: Option<Network>,
    /// Share of the screen under another app's overlay, 0 to 1.
    pub overlay: Option<f32>,
    /// 0 near, 1 far.
    pub proximity: Option<f32>,
    /// An accessibility service that can act for the user is on.
    pub accessibility_active: bool,
    /// The screen is being mirrored or cast.
    pub window_mirroring: bool,
    /// The system is rooted or jail-broken.
    pub rooted: bool,
    /// A debugger is attached.
    pub debugger: bool,
    /// Names, where there are any.
    pub extras: Option<Box<Extras>>,
}

const ACCELEROMETER: u16 = 1;
const GYROSCOPE: u16 = 1 << 1;
const TOUCH: u16 = 1 << 2;
const NETWORK: u16 = 1 << 3;
const OVERLAY: u16 = 1 << 4;
const PROXIMITY: u16 = 1 << 5;
const ACCESSIBILITY: u16 = 1 << 6;
const MIRRORING: u16 = 1 << 7;
const ROOTED: u16 = 1 << 8;
const DEBUGGER: u16 = 1 << 9;
const EXTRAS: u16 = 1 << 10;
const KNOWN: u16 = (1 << 11) - 1;

impl Reading {
    /// Appends the compact form: two bytes of flags, the time, then only what is present. A plain motion reading takes
    /// about 30 bytes. Names beyond the limits of the kernel, which the edge refuses, are left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = [
            (ACCELEROMETER, self.accelerometer.is_some()),
            (GYROSCOPE, self.gyroscope.is_some()),
            (TOUCH, self.touch.is_some()),
            (NETWORK, self.network.is_some()),
            (OVERLAY, self.overlay.is_some()),
            (PROXIMITY, self.proximity.is_some()),
            (ACCESSIBILITY, self.accessibility_active),
            (MIRRORING, self.window_mirroring),
            (ROOTED, self.rooted),
            (DEBUGGER, self.debugger),
            (EXTRAS, self.extras.is_some()),
        ];
        let flags = flags.iter().filter(|(_, on)| *on).fold(0_u16, |all, (bit, _)| all | bit);
        out.extend_from_slice(&flags.to_le_bytes());
        put_varint(out, self.t_ms);
        for xyz in [self.accelerometer, self.gyroscope].into_iter().flatten() {
            put_f32s(out, &xyz);
        }
        if let Some(t) = self.touch {
            put_f32s(out, &[t.x, t.y, t.pressure, t.interval_ms]);
        }
        if let Some(n) = self.network {
            put_varint(out, n.rx_bytes);
            put_varint(out, n.tx_bytes);
            put_f32s(out, &[n.rtt_ms]);
            put_varint(out, u64::from(n.connections));
        }
        for share in [self.overlay, self.proximity].into_iter().flatten() {
            put_f32s(out, &[share]);
        }
        if let Some(extras) = &self.extras {
            put_names(out, &extras.dns);
            put_names(out, &extras.sideloaded);
        }
    }

    /// Takes one reading of [`Reading::encode`] off the front of `input`.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes end early or no encoder could have written them; `input` is then undefined.
    pub fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let flags = u16::from_le_bytes(take(input)?);
        if flags & !KNOWN != 0 {
            return Err(CodecError::Invalid("flags"));
        }
        let on = |bit: u16| flags & bit != 0;
        let mut reading = Self {
            t_ms: take_varint(input)?,
            accessibility_active: on(ACCESSIBILITY),
            window_mirroring: on(MIRRORING),
            rooted: on(ROOTED),
            debugger: on(DEBUGGER),
            ..Self::default()
        };
        if on(ACCELEROMETER) {
            reading.accelerometer = Some(take_f32s(input)?);
        }
        if on(GYROSCOPE) {
            reading.gyroscope = Some(take_f32s(input)?);
        }
        if on(TOUCH) {
            let [x, y, pressure, interval_ms] = take_f32s(input)?;
            reading.touch = Some(Touch { x, y, pressure, interval_ms });
        }
        if on(NETWORK) {
            let rx_bytes = take_varint(input)?;
            let tx_bytes = take_varint(input)?;
            let rtt_ms = take_f32(input)?;
            let connections = take_varint(input)?.try_into().map_err(|_| CodecError::Invalid("connections"))?;
            reading.network = Some(Network { rx_bytes, tx_bytes, rtt_ms, connections });
        }
        if on(OVERLAY) {
            reading.overlay = Some(take_f32(input)?);
        }
        if on(PROXIMITY) {
            reading.proximity = Some(take_f32(input)?);
        }
        if on(EXTRAS) {
            let dns = take_names(input)?;
            reading.extras = Some(Box::new(Extras { dns, sideloaded: take_names(input)? }));
        }
        Ok(reading)
    }
}

fn put_names(out: &mut Vec<u8>, names: &[Box<str>]) {
    let fitting = || names.iter().filter(|n| n.len() <= NAME_BYTES_MAX).take(NAMES_PER_READING_MAX);
    put_varint(out, fitting().count() as u64);
    for name in fitting() {
        put_varint(out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
    }
}

fn take_names(input: &mut &[u8]) -> Result<Vec<Box<str>>, CodecError> {
    let count = take_length(input, NAMES_PER_READING_MAX, "number of names")?;
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        let len = take_length(input, NAME_BYTES_MAX, "length of a name")?;
        let bytes = take_slice(input, len)?;
        names.push(std::str::from_utf8(bytes).map_err(|_| CodecError::Invalid("name"))?.into());
    }
    Ok(names)
}

fn take_length(input: &mut &[u8], max: usize, what: &'static str) -> Result<usize, CodecError> {
    let value = usize::try_from(take_varint(input)?).unwrap_or(usize::MAX);
    if value > max { Err(CodecError::Invalid(what)) } else { Ok(value) }
}
