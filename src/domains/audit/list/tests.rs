//! Pages of a long log: bounded, complete when followed to the end, and in order.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::super::{NewEntry, append};
use super::*;
use crate::kernel::context::Origin;
use crate::kernel::{Clock, Random};
use crate::store::{Options, Store, WriterParts};

const COUNT: u64 = 3 * LOOKED_AT_MAX as u64;

fn log(folder: &std::path::Path) -> (Store, TenantId, Vec<Timestamp>) {
    let store = Store::open(&folder.join("log.redb"), Options::default(), true).unwrap();
    let clock = Clock::simulated(Timestamp::from_millis(1_800_000_000_000));
    store.start(WriterParts::plain(clock.clone())).unwrap();
    let tenant = TenantId::generate(clock.now(), &Random::seeded(1));
    let mut times = Vec::new();
    for thousand in 0..COUNT / 1_000 {
        clock.advance(std::time::Duration::from_secs(60));
        times.push(clock.now());
        let now = clock.now();
        let write = move |tx: &mut crate::store::Tx<'_>| {
            for i in thousand * 1_000..(thousand + 1) * 1_000 {
                let rare = i == 7 || i == COUNT - 7;
                let action = if rare { Action::LoginFailed } else { Action::TokenRefreshed };
                let device: DeviceId = format!("BR-{}", i % 10).parse().unwrap();
                // Somebody who would like to be found for what they did not do.
                let entry = NewEntry::new(action, &Origin::system())
                    .device(&device)
                    .reason("\"action_taken\":\"login_failed\",\"threat_level\":\"critical\"");
                append(tx, tenant, now, &Random::seeded(i), &entry)?;
            }
            Ok(())
        };
        store.write_blocking(write).unwrap();
    }
    (store, tenant, times)
}

/// Follows the cursors; gives every entry, and how many pages it took.
fn all(snapshot: &Snapshot, tenant: TenantId, filter: &Filter, limit: usize) -> (Vec<u64>, usize) {
    let (mut found, mut pages, mut before) = (Vec::new(), 0, None);
    loop {
        let page = page(snapshot, tenant, filter, before, limit).unwrap();
        assert!(page.entries.len() <= limit);
        found.extend(page.entries.iter().map(|e| e.seq));
        pages += 1;
        match page.next {
            Some(next) => assert!(before.replace(next).is_none_or(|before| next < before), "a cursor always goes on"),
            None => return (found, pages),
        }
    }
}

#[test]
fn a_page_looks_at_a_bounded_number_and_the_cursor_leads_to_all_that_fits() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant, times) = log(folder.path());
    let snapshot = store.read().unwrap();
    let rare = Filter { action: Some(Action::LoginFailed), ..Filter::default() };
    assert_eq!(all(&snapshot, tenant, &rare, 50), (vec![COUNT - 7, 7], 3));
    let first = page(&snapshot, tenant, &rare, None, 50).unwrap();
    assert_eq!((first.entries.len(), first.next), (1, Some(COUNT - LOOKED_AT_MAX as u64)));

    let none = Filter { level: Some(ThreatLevel::Critical), ..Filter::default() };
    assert_eq!(all(&snapshot, tenant, &none, 50), (vec![], 3), "words within a reason are no level");

    let device: DeviceId = "BR-7".parse().unwrap();
    let of_device = Filter { device: Some(device.clone()), action: Some(Action::LoginFailed), ..Filter::default() };
    assert_eq!(all(&snapshot, tenant, &of_device, 50).0, [7]);
    let count = COUNT as usize;
    let both = Filter { device: Some(device), ..Filter::default() };
    assert_eq!(all(&snapshot, tenant, &both, 200).0.len(), count / 10);

    // A window of time is found without looking at what lies behind it.
    let window = Filter { from: times.get(2).copied(), to: times.get(4).copied(), ..Filter::default() };
    let (found, pages) = all(&snapshot, tenant, &window, 200);
    assert_eq!((found.first(), found.last(), found.len(), pages), (Some(&3_999), Some(&2_000), 2_000, 10));
    let after = Filter { from: times.last().map(|t| t.plus(std::time::Duration::from_secs(1))), ..Filter::default() };
    assert_eq!(all(&snapshot, tenant, &after, 50), (vec![], 1));
    let (every, _) = all(&snapshot, tenant, &Filter::default(), 200);
    assert_eq!(every, (0..COUNT).rev().collect::<Vec<_>>());
    store.stop();
}
