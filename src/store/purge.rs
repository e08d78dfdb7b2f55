//! Removing every row of a tenant, a few with each commit, so that nobody else waits long.
//!
//! Which rows are a tenant's stands in the list of tables (`tables::OWNERS`); nothing here knows a table by its name.

use serde::Deserialize;

use super::tables::{Key, OWNERS, Owner};
use super::{Tx, codec};
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// Where to go on.
#[derive(Clone, Debug, Default)]
pub struct Place {
    table: usize,
    from: Key,
}

/// The part of a row that says whose it is.
#[derive(Deserialize)]
struct Owned {
    tenant: TenantId,
}

/// Looks at up to `limit` rows, from `place` on, and removes those of the tenant; says where to go on, `None` when it is
/// through. Whatever was written meanwhile behind the place is left for another pass.
pub fn step(tx: &mut Tx<'_>, tenant: TenantId, place: &Place, limit: usize) -> Result<Option<Place>> {
    let mut left = limit;
    let mut from = place.from.clone();
    for (index, (table, owner)) in OWNERS.iter().enumerate().skip(place.table) {
        match owner {
            Owner::Appliance | Owner::Audit => {}
            Owner::Key => {
                let prefix = Key::new().bytes(tenant.to_bytes());
                if let Some(end) = prefix.end_of_prefix() {
                    left -= tx.delete_range(*table, &prefix, &end, left)?.min(left);
                }
                if left == 0 {
                    return Ok(Some(Place { table: index, from: Key::new() }));
                }
            }
            Owner::Value | Owner::Member => {
                let rows = tx.scan_from(*table, &from, left)?;
                left -= rows.len().min(left);
                let last = rows.last().map(|(key, _)| key.clone());
                for (key, value) in rows {
                    if owner_of(*owner, &value) == Some(tenant) {
                        tx.delete(*table, key)?;
                    }
                }
                if left == 0 {
                    let from = last.map_or_else(Key::new, |key| Key::new().bytes(key).byte(0));
                    return Ok(Some(Place { table: index, from }));
                }
            }
        }
        from = Key::new();
    }
    Ok(None)
}

/// Whose this value is; `None` also for what cannot be read, which is then left alone.
fn owner_of(owner: Owner, value: &[u8]) -> Option<TenantId> {
    match owner {
        Owner::Value => value.first_chunk::<16>().map(|bytes| TenantId::from_bytes(*bytes)),
        Owner::Member => codec::member_of::<Owned>(value).map(|row| row.tenant),
        Owner::Appliance | Owner::Audit | Owner::Key => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use redb::TableHandle;

    use super::*;
    use crate::kernel::Clock;
    use crate::store::{Options, Store, WriterParts};

    fn plant(tx: &mut Tx<'_>, tenant: TenantId, count: u64) -> Result<()> {
        for (table, owner) in OWNERS.iter().filter(|(t, _)| t.name() != "meta") {
            for i in 0..count {
                let by_tenant = Key::new().bytes(tenant.to_bytes()).number(i);
                // Of two tenants, the rows lie among each other.
                let other = Key::new().number(i).bytes(tenant.to_bytes());
                let named = [b"\x01", format!(r#"{{"tenant":"{tenant}","more":1}}"#).as_bytes()].concat();
                match owner {
                    Owner::Key | Owner::Audit => tx.put_raw(*table, by_tenant, b"x")?,
                    Owner::Appliance => tx.put_raw(*table, other, b"x")?,
                    Owner::Value => tx.put_raw(*table, other, &[&tenant.to_bytes()[..], b"x"].concat())?,
                    Owner::Member => tx.put_raw(*table, other, &named)?,
                }
            }
        }
        Ok(())
    }

    fn rows_of(store: &Store, tenant: TenantId) -> Vec<(String, usize)> {
        let snapshot = store.read().unwrap();
        let mut out = Vec::new();
        for (table, _) in OWNERS.iter().filter(|(t, _)| t.name() != "meta") {
            let mut count = 0;
            snapshot
                .visit(*table, &[], None, |key, value| {
                    let id = tenant.to_bytes();
                    let text = tenant.to_string();
                    let here = key.windows(16).any(|w| w == id) || value.windows(16).any(|w| w == id);
                    count += usize::from(here || value.windows(text.len()).any(|w| w == text.as_bytes()));
                    Ok(true)
                })
                .unwrap();
            out.push((table.name().to_owned(), count));
        }
        out
    }

    /// A table that somebody adds and forgets would keep the rows of companies that left.
    #[test]
    fn every_table_loses_the_tenants_rows_but_the_log_and_nobody_elses() {
        const COUNT: u64 = 7;
        let folder = crate::testkit::Folder::new().unwrap();
        let store = Store::open(&folder.path().join("x.redb"), Options::default(), true).unwrap();
        store.start(WriterParts::plain(Clock::System)).unwrap();
        let (gone, other) = (TenantId::from_bytes([7; 16]), TenantId::from_bytes([8; 16]));
        store.write_blocking(move |tx| plant(tx, gone, COUNT).and_then(|()| plant(tx, other, COUNT))).unwrap();
        let mut place = Place::default();
        let mut steps = 0;
        loop {
            let from = place.clone();
            let Some(next) = store.write_blocking(move |tx| step(tx, gone, &from, 5)).unwrap() else { break };
            place = next;
            steps += 1;
            assert!(steps < 1_000, "it does not get on");
        }
        assert!(steps > 10, "a few rows at a time: {steps}");
        for ((table, count), (_, owner)) in
            rows_of(&store, gone).iter().zip(OWNERS.iter().filter(|(t, _)| t.name() != "meta"))
        {
            let stays = matches!(owner, Owner::Appliance | Owner::Audit);
            assert_eq!(*count as u64, if stays { COUNT } else { 0 }, "{table}");
        }
        assert!(rows_of(&store, other).iter().all(|(_, count)| *count as u64 == COUNT));
        store.stop();
    }
}
