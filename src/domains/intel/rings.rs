//! How many values of a device are kept, and which make room: a ring for each kind, so that a flood of names flushes names
//! only, and one for what was reported, which no flood of unknown values reaches. The oldest of a ring makes room.
//!
//! A value of a ring costs one look at the place that it takes; nothing is ever searched. A device that names new values
//! all day is cut off for the day and said so: what would have to be kept then is what it wants kept.

use serde::{Deserialize, Serialize};

use super::sightings::{Seen, SightingRow, device_key, row_key, value_key};
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{SIGHTED_BY, SIGHTINGS};
use crate::store::{Row, Tx};

/// Where a value is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ring {
    Package,
    Domain,
    Address,
    Origin,
    Motion,
    /// Values that a feed lists, of any kind.
    Reported,
}

impl Ring {
    pub const COUNT: usize = 6;

    pub const fn of(seen: Seen) -> Self {
        match seen {
            Seen::Package => Self::Package,
            Seen::Domain => Self::Domain,
            Seen::Address => Self::Address,
            Seen::Origin => Self::Origin,
            Seen::Motion => Self::Motion,
        }
    }

    const fn code(self) -> u8 {
        self as u8
    }

    /// Values that it keeps.
    pub const fn kept_max(self) -> u64 {
        match self {
            Self::Package => 400,
            Self::Domain => 1_200,
            Self::Address | Self::Origin | Self::Motion | Self::Reported => 100,
        }
    }

    /// New values of one day: no ring is turned over in less than two.
    const fn day_max(self) -> u32 {
        match self {
            Self::Package => 100,
            Self::Domain => 400,
            Self::Address | Self::Origin | Self::Motion | Self::Reported => 50,
        }
    }

    /// Values that one heartbeat writes.
    pub const fn beat_max(self) -> u32 {
        match self {
            Self::Package | Self::Domain | Self::Reported => 32,
            Self::Address | Self::Origin | Self::Motion => 8,
        }
    }
}

/// Keys of a device's sightings from here on hold no values.
const PLACES: u8 = 0xfd;
const STATE: u8 = 0xfe;

/// How far the rings of a device are filled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    /// Of each ring, the number of the next value.
    next: [u64; Ring::COUNT],
    /// Days since 1970.
    day: u64,
    /// New ones of that day.
    new: [u32; Ring::COUNT],
}
impl Row for State {}

/// Which sighting is where; of one device, in one transaction.
pub(super) struct Rings<'d> {
    tenant: TenantId,
    device: &'d DeviceId,
    /// What made room: it is no longer written down.
    evicted: Vec<(Seen, String)>,
    state: State,
    before: State,
}

impl<'d> Rings<'d> {
    /// As they are stored.
    pub fn load(tx: &mut Tx<'_>, tenant: TenantId, device: &'d DeviceId, now: Timestamp) -> Result<Self> {
        let before: State = tx.get(SIGHTINGS, device_key(tenant, device).byte(STATE))?.unwrap_or_default();
        let day = u64::try_from(now.as_secs()).unwrap_or(0) / 86_400;
        let mut state = before.clone();
        if state.day != day {
            (state.day, state.new) = (day, [0; Ring::COUNT]);
        }
        Ok(Self { tenant, device, evicted: Vec::new(), state, before })
    }

    /// Writes them down; gives what made room.
    pub fn save(self, tx: &mut Tx<'_>) -> Result<Vec<(Seen, String)>> {
        if self.state != self.before {
            tx.put(SIGHTINGS, device_key(self.tenant, self.device).byte(STATE), &self.state)?;
        }
        Ok(self.evicted)
    }

    /// Whether one more new value is kept today.
    pub fn admit(&mut self, ring: Ring) -> bool {
        let Some(new) = self.state.new.get_mut(usize::from(ring.code())) else { return false };
        if *new < ring.day_max() {
            *new += 1;
            return true;
        }
        if *new == ring.day_max() {
            *new += 1;
            tracing::warn!(
                device = %self.device, kind = ?ring, values = ring.day_max(),
                "a device named more new values today than are kept of it; what it names until midnight (UTC) is judged, but not searched for later"
            );
        }
        false
    }

    /// Gives the value a place in a ring, whose oldest value makes room. Where it was before becomes a gap.
    pub fn place(&mut self, tx: &mut Tx<'_>, row: &mut SightingRow, ring: Ring, seen: Seen, value: &str) -> Result<()> {
        if row.place.is_some_and(|(of, _)| of == ring.code()) {
            return Ok(());
        }
        let Some(next) = self.state.next.get_mut(usize::from(ring.code())) else { return Ok(()) };
        let number = *next;
        *next += 1;
        let slot = device_key(self.tenant, self.device).byte(PLACES).byte(ring.code()).number(number % ring.kept_max());
        if let Some(round_ago) = number.checked_sub(ring.kept_max())
            && let Some(before) = tx.get_raw(SIGHTINGS, &slot)?
            && let Some((seen, value)) = of_bytes(&before)
        {
            self.evict(tx, (ring, round_ago), seen, value)?;
        }
        row.place = Some((ring.code(), number));
        tx.put_raw(SIGHTINGS, &slot, &[&[seen.code()], value.as_bytes()].concat())
    }

    /// Removes a value, if it is still there.
    fn evict(&mut self, tx: &mut Tx<'_>, (ring, number): (Ring, u64), seen: Seen, value: &str) -> Result<()> {
        let key = row_key(self.tenant, self.device, seen, value);
        let row: Option<SightingRow> = tx.get(SIGHTINGS, &key)?;
        if row.is_some_and(|row| row.place == Some((ring.code(), number))) {
            tx.delete(SIGHTINGS, &key)?;
            tx.delete(SIGHTED_BY, value_key(self.tenant, seen, value).text(self.device.as_str()))?;
            self.evicted.push((seen, value.to_owned()));
        }
        Ok(())
    }
}

fn of_bytes(bytes: &[u8]) -> Option<(Seen, &str)> {
    let (code, value) = bytes.split_first()?;
    Some((Seen::of_code(*code)?, std::str::from_utf8(value).ok()?))
}

/// Rows of one device at most: its values, their places, and the state.
pub(super) const ROWS_MAX: usize = 2 * (400 + 1_200 + 4 * 100) + 1;

/// Removes what is stored of a device that is removed.
pub fn forget(tx: &mut Tx<'_>, tenant: TenantId, device: &DeviceId) -> Result<()> {
    let prefix = device_key(tenant, device);
    for (key, _) in tx.scan(SIGHTINGS, &prefix, ROWS_MAX)? {
        if let Some((seen, value)) = super::sightings::value_of(&prefix, &key) {
            tx.delete(SIGHTED_BY, value_key(tenant, seen, &value).text(device.as_str()))?;
        }
        tx.delete(SIGHTINGS, key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_device_are_what_its_rings_hold_and_no_ring_is_turned_over_in_a_day() {
        let all = [Ring::Package, Ring::Domain, Ring::Address, Ring::Origin, Ring::Motion, Ring::Reported];
        assert_eq!(all.len(), Ring::COUNT);
        let kept: u64 = all.iter().map(|ring| ring.kept_max()).sum();
        assert_eq!(ROWS_MAX as u64, 2 * kept + 1);
        for ring in all {
            assert!(u64::from(ring.day_max()) * 2 <= ring.kept_max() && ring.beat_max() <= ring.day_max(), "{ring:?}");
        }
    }
}
