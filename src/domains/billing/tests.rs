//! What the watch does when the store has no place for what it has to say.

use std::sync::PoisonError;
use std::sync::mpsc::channel;

use super::*;
use crate::domains::tenants::{self, Licence};
use crate::testkit::{Fault, Server, eventually};

const DAY: Duration = Duration::from_secs(86_400);

/// That a licence had ended was noted before its devices were told; where that failed because too much waited to be
/// written, they were never told until a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_licence_that_could_not_be_told_at_once_is_told_later() -> Result<(), Fault> {
    let server = Server::start().await?;
    server.enroll("BR-1").await?;
    let services = &server.app().services;
    let (billing, store) = (services.billing.clone(), services.store.clone());
    let tenant = services.tenants.entries().first().cloned().ok_or("no tenant")?;
    let entry = services.devices.entry(tenant.id, &"BR-1".parse()?).ok_or("no device")?;
    let (registry, id, now) = (services.tenants.clone(), tenant.id, server.clock.now());
    store
        .write(move |tx| {
            let mut row = tenants::load(tx, id)?.ok_or_else(crate::kernel::Refusal::not_found)?;
            row.purchase.licence = Some(Licence {
                id: "L-1".to_owned(),
                plan: PlanTier::Paid,
                quotas: std::collections::BTreeMap::new(),
                covers_devices: true,
                issued_at: now,
                expires_at: now.plus(10 * DAY),
                jws: String::new(),
            });
            tenants::save(tx, Some(&registry), &row)
        })
        .await?;
    let covered = || billing.inner.covered.lock().unwrap_or_else(PoisonError::into_inner).contains(&id);
    assert!(eventually(covered).await);
    server.clock.advance(8 * DAY);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!entry.device().told_to_pay, "the licence covers it");

    let (release, hold) = channel::<()>();
    let hold = Mutex::new(hold);
    store.post(move |_| {
        let _ = hold.lock().unwrap_or_else(PoisonError::into_inner).recv();
        Ok(())
    })?;
    // The writer takes what waits once more before it hangs, so the queue is full only when it stays so.
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        while store.post(|_| Ok(())).is_ok() {}
    }
    server.clock.advance(3 * DAY);
    assert!(billing.uncovered(server.clock.now()).await.is_err(), "overloaded");
    drop(release);
    assert!(eventually(|| entry.device().told_to_pay).await);
    Ok(())
}
