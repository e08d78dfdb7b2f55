//! The engine's whole state as bytes: what a checkpoint keeps and what a decision stores as its evidence.
//!
//! An engine that is read back continues to the same bits as the one that was written.

use super::codec::{CodecError, put_f32s, take_f32, take_f32s, take_u8, take_u32, take_u64};
use super::features::{RING, Ring3, Window};
use super::reading::Sensors;
use super::rules::REASONS;
use super::sketch::Sketch;
use super::usage::{Touches, Traffic, ring_len};
use super::{Bands, DeviceEngine, Evidence, Flags, Person, Recall, Standing, Tracker};

/// Of this layout and of what the engine makes of it. Another number means another reader; a state of an older one is
/// set aside and the device starts anew, which its audit log says.
pub const VERSION: u8 = 3;

fn put_bits(out: &mut Vec<u8>, bits: &[bool]) {
    out.push(bits.iter().rev().fold(0, |byte, &bit| (byte << 1) | u8::from(bit)));
}

fn take_bits<const N: usize>(input: &mut &[u8]) -> Result<[bool; N], CodecError> {
    let byte = take_u8(input)?;
    if N < 8 && byte >> N != 0 {
        return Err(CodecError::Invalid("flags"));
    }
    let mut bits = [false; N];
    for (index, bit) in bits.iter_mut().enumerate() {
        *bit = byte >> index & 1 == 1;
    }
    Ok(bits)
}

fn put_ring(out: &mut Vec<u8>, ring: &Ring3) {
    #[expect(clippy::cast_possible_truncation, reason = "at most 100")]
    out.push(ring.len() as u8);
    for v in ring.iter_latest(RING) {
        put_f32s(out, v);
    }
}

fn take_ring(input: &mut &[u8]) -> Result<Ring3, CodecError> {
    let mut ring = Ring3::new([0.0; 3]);
    for _ in 0..ring_len(input)? {
        ring.push(take_f32s(input)?);
    }
    Ok(ring)
}

impl DeviceEngine {
    /// Appends the whole state: about 4 KiB, 7.5 KiB with touches and traffic.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_bits(
            out,
            &[self.sensors.accelerometer, self.sensors.gyroscope, self.touches.is_some(), self.traffic.is_some()],
        );
        let f = &self.flags;
        put_bits(out, &[f.accessibility, f.mirroring, f.rooted, f.debugger]);
        put_f32s(out, &[f.overlay]);
        for n in [self.count, self.last_t_ms, self.same_since_ms, self.last_touch, self.last_dead_ms, self.overlay_t_ms]
        {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.same_run.to_le_bytes());
        out.extend_from_slice(&self.unbroken.to_le_bytes());
        out.extend_from_slice(&[
            self.reversals,
            self.default_run,
            u8::from(self.resent),
            self.in_g,
            self.judge_in,
            self.dead_touches,
            self.constant_touches,
        ]);
        out.extend_from_slice(&self.high_ms.to_le_bytes());
        put_f32s(out, &[self.dt_ms, self.repeat_error, self.level, self.level_variance, self.noise, self.step]);
        put_f32s(out, &[self.block_ms, self.jitter_ms]);
        self.bands.encode(out);
        self.tracker.encode(out);
        self.recall.encode(out);
        self.evidence.encode(out);
        self.person.encode(out);
        self.standing.encode(out);
        put_f32s(out, &self.accelerometer_window.to_array());
        put_f32s(out, &self.gyroscope_window.to_array());
        #[expect(clippy::cast_possible_truncation, reason = "a score of reasons")]
        out.push(REASONS as u8);
        for at in self.fired {
            out.extend_from_slice(&at.to_le_bytes());
        }
        out.extend_from_slice(&self.began.unwrap_or(u64::MAX).to_le_bytes());
        out.extend_from_slice(&self.high_at_ms.to_le_bytes());
        out.extend_from_slice(&self.grace.to_le_bytes());
        put_ring(out, &self.accelerometer);
        put_ring(out, &self.gyroscope);
        self.sketch.encode(out);
        if let Some(touches) = &self.touches {
            touches.encode(out);
        }
        if let Some(traffic) = &self.traffic {
            traffic.encode(out);
        }
    }

    /// Takes a state of [`DeviceEngine::encode`] off the front of `input`.
    ///
    /// # Errors
    /// [`CodecError`] for another version, or for bytes that no engine could have written.
    pub fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        match take_u8(input)? {
            VERSION => {}
            other => return Err(CodecError::Version(other)),
        }
        let [accelerometer, gyroscope, has_touches, has_traffic] = take_bits(input)?;
        let mut engine = Self::new(Sensors { accelerometer, gyroscope });
        let [accessibility, mirroring, rooted, debugger] = take_bits(input)?;
        engine.flags = Flags { overlay: take_f32(input)?, accessibility, mirroring, rooted, debugger };
        engine.count = take_u64(input)?;
        engine.last_t_ms = take_u64(input)?;
        engine.same_since_ms = take_u64(input)?;
        engine.last_touch = take_u64(input)?;
        engine.last_dead_ms = take_u64(input)?;
        engine.overlay_t_ms = take_u64(input)?;
        engine.same_run = take_u32(input)?;
        engine.unbroken = u16::from_le_bytes(super::codec::take(input)?);
        let resent;
        [
            engine.reversals,
            engine.default_run,
            resent,
            engine.in_g,
            engine.judge_in,
            engine.dead_touches,
            engine.constant_touches,
        ] = super::codec::take(input)?;
        engine.resent = resent != 0;
        engine.high_ms = take_u64(input)?;
        [engine.dt_ms, engine.repeat_error, engine.level, engine.level_variance, engine.noise, engine.step] =
            take_f32s(input)?;
        [engine.block_ms, engine.jitter_ms] = take_f32s(input)?;
        engine.bands = Bands::decode(input)?;
        engine.tracker = Tracker::decode(input)?;
        engine.recall = Recall::decode(input)?;
        engine.evidence = Evidence::decode(input)?;
        engine.person = Person::decode(input)?;
        engine.standing = Standing::decode(input)?;
        engine.accelerometer_window = Window::from_array(take_f32s(input)?);
        engine.gyroscope_window = Window::from_array(take_f32s(input)?);
        if usize::from(take_u8(input)?) != REASONS {
            return Err(CodecError::Invalid("number of reasons"));
        }
        for at in &mut engine.fired {
            *at = take_u32(input)?;
        }
        engine.began = Some(take_u64(input)?).filter(|began| *began <= engine.count);
        engine.high_at_ms = take_u64(input)?;
        engine.grace = u16::from_le_bytes(super::codec::take(input)?);
        // Differences to the count are taken without a check elsewhere, and the count itself only ever rises.
        if engine.last_touch > engine.count || engine.count > u64::MAX / 2 || engine.grace > super::GRACE_MOST {
            return Err(CodecError::Invalid("count"));
        }
        engine.accelerometer = take_ring(input)?;
        engine.gyroscope = take_ring(input)?;
        engine.sketch = Sketch::decode(input)?;
        if has_touches {
            engine.touches = Some(Box::new(Touches::decode(input)?));
        }
        if has_traffic {
            engine.traffic = Some(Box::new(Traffic::decode(input)?));
        }
        Ok(engine)
    }
}
