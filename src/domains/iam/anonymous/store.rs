//! The rows of anonymous windows: a restart must not give every caller a full quota again.
//!
//! Key: a kind byte and the address, group or identity. Value: 1 and the times, or 2 and a count with its moment. All
//! numbers are big-endian.

use std::net::IpAddr;

use super::log::{Rule, Saved};
use super::table::WindowKey;
use crate::kernel::Result;
use crate::store::tables::{ANONYMOUS_WINDOWS, Key};
use crate::store::{Snapshot, Store};

/// More rows than the tables have places: what a file can hold that this program wrote.
const ROWS_MAX: usize = 400_000;
const TIMES: u8 = 1;
const COUNT: u8 = 2;

fn key_of(key: WindowKey) -> Key {
    let (kind, body): (u8, &[u8]) = match &key {
        WindowKey::Token(id) => (1, id),
        WindowKey::Network(IpAddr::V4(v4)) => (2, &v4.octets()),
        WindowKey::Network(IpAddr::V6(v6)) => (3, &v6.octets()),
        WindowKey::Group4(group) => (4, group),
        WindowKey::Group6(group) => (5, group),
        WindowKey::Family4 => (6, &[]),
        WindowKey::Family6 => (7, &[]),
    };
    Key::new().byte(kind).bytes(body)
}

fn parse_key(key: &[u8]) -> Option<WindowKey> {
    let (kind, body) = key.split_first()?;
    Some(match kind {
        1 => WindowKey::Token(body.try_into().ok()?),
        2 => WindowKey::Network(IpAddr::from(<[u8; 4]>::try_from(body).ok()?)),
        3 => WindowKey::Network(IpAddr::from(<[u8; 16]>::try_from(body).ok()?)),
        4 => WindowKey::Group4(body.try_into().ok()?),
        5 => WindowKey::Group6(body.try_into().ok()?),
        6 if body.is_empty() => WindowKey::Family4,
        7 if body.is_empty() => WindowKey::Family6,
        _ => return None,
    })
}

fn encode(saved: &Saved) -> Vec<u8> {
    match saved {
        Saved::Times(times) => {
            let numbers = times.iter().flat_map(|t| t.to_be_bytes());
            std::iter::once(TIMES).chain(numbers).collect()
        }
        Saved::Count { count, at_ms } => [&[COUNT], &count.to_be_bytes()[..], &at_ms.to_be_bytes()[..]].concat(),
    }
}

fn decode(value: &[u8]) -> Option<Saved> {
    let (form, body) = value.split_first()?;
    match *form {
        TIMES => {
            let (times, rest) = body.as_chunks::<8>();
            let times: Vec<i64> = times.iter().map(|t| i64::from_be_bytes(*t)).collect();
            let fits = !times.is_empty() && times.len() <= Rule::EXACT_LIMIT_MAX as usize;
            (rest.is_empty() && fits && times.is_sorted()).then_some(Saved::Times(times))
        }
        COUNT => {
            let (count, at_ms) = body.split_first_chunk::<4>()?;
            Some(Saved::Count { count: u32::from_be_bytes(*count), at_ms: i64::from_be_bytes(at_ms.try_into().ok()?) })
        }
        _ => None,
    }
}

/// Queues one change that brings the rows up to date, without waiting for it.
///
/// # Errors
/// When the queue is full or the store is closed; nothing was changed then.
pub(super) fn post(store: &Store, changes: &[(WindowKey, Option<Saved>)]) -> Result<()> {
    let rows: Vec<(Key, Option<Vec<u8>>)> =
        changes.iter().map(|(key, saved)| (key_of(*key), saved.as_ref().map(encode))).collect();
    store.post(move |tx| {
        for (key, value) in &rows {
            match value {
                Some(value) => tx.put_raw(ANONYMOUS_WINDOWS, key, value)?,
                None => drop(tx.delete(ANONYMOUS_WINDOWS, key)?),
            }
        }
        Ok(())
    })
}

/// Every row. One that cannot be read is passed over: a lost counter must not keep the appliance from starting.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn load(snapshot: &Snapshot) -> Result<Vec<(WindowKey, Saved)>> {
    let mut rows = Vec::new();
    let mut unread = 0_usize;
    snapshot.visit(ANONYMOUS_WINDOWS, &[], None, |key, value| {
        match parse_key(key).zip(decode(value)) {
            Some(row) => rows.push(row),
            None => unread += 1,
        }
        Ok(rows.len() + unread < ROWS_MAX)
    })?;
    if unread > 0 {
        tracing::warn!(rows = unread, "counters of anonymous callers could not be read and start again at zero");
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_row_is_read_back_as_written() {
        let keys = [
            WindowKey::Token([7; 16]),
            WindowKey::Network("192.0.2.7".parse().unwrap()),
            WindowKey::Network("2001:db8::".parse().unwrap()),
            WindowKey::Group4([192, 0]),
            WindowKey::Group6([0x20, 1, 0xd, 0xb8, 0]),
            WindowKey::Family4,
            WindowKey::Family6,
        ];
        for key in keys {
            assert_eq!(parse_key(key_of(key).as_ref()), Some(key));
        }
        for saved in [Saved::Times(vec![1, 2, 2, i64::MAX]), Saved::Count { count: 9, at_ms: -5 }] {
            assert_eq!(decode(&encode(&saved)), Some(saved));
        }
    }

    #[test]
    fn a_damaged_row_is_nothing_and_never_a_panic() {
        let whole = encode(&Saved::Times(vec![1, 2]));
        for cut in 0..whole.len() {
            let read = whole.get(..cut).and_then(decode);
            assert!(read.is_none() || cut == 9, "{cut} bytes");
        }
        assert_eq!(decode(&encode(&Saved::Times(vec![2, 1]))), None, "times that go back");
        assert_eq!(decode(&encode(&Saved::Times(vec![0; 1_001]))), None, "more times than a log may have");
        assert_eq!(decode(&[COUNT, 0, 0, 0, 1]), None);
        for bad in [&[][..], &[0], &[1, 2], &[2, 1, 2, 3], &[6, 0], &[99; 17]] {
            assert_eq!(parse_key(bad), None);
        }
    }
}
