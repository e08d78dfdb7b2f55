//! Integrations: other systems that a company has told of what happens, by signed webhooks, chats, syslog or mail.
//!
//! Which entries of the log are events is said by `audit` (events.rs). The transaction of such an entry leaves a row in the
//! outbox; from there it is handed out to the integrations that want it (`store::fan_out`), a row for each, and removed from
//! the outbox in the same commit. What is sent is made from the entry when it is sent, so every attempt has the same bytes
//! and the same id. An event counts as delivered when its receiver said so and that is durable: at least once, never "at
//! most once". Of one subject (a device) one event is under way at a time, in their order; others are not held up.
//!
//! Knows neither HTTP nor sockets: a [`Transport`] is handed in.

pub mod api;
mod change;
mod model;
mod queue;
mod render;
pub mod rules;
mod store;
mod worker;

pub use change::{Issued, Replay, Replayed, Tried, Wanted, WantedTarget};
pub use model::{Attempt, Kind, State, Tls};
pub use render::Parcel;
pub use store::{BACKLOG_MAX, INTEGRATIONS_MAX};

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore};

use crate::crypto::SealingKey;
use crate::domains::billing::Billing;
use crate::domains::tenants::Tenants;
use crate::kernel::ids::{IntegrationId, TenantId};
use crate::kernel::{Clock, Random, Refusal, Result, Timestamp};
use crate::store::tables::{DELIVERIES_DUE, INTEGRATIONS};
use crate::store::{Store, Tx};
use model::{Delivery, Integration};
use queue::Queue;
use store::Queued;

/// What came back from a receiver.
#[derive(Clone, Debug, Default)]
pub struct Receipt {
    /// Of HTTP; other ways have none, and coming back at all is success.
    pub status: Option<u16>,
    /// `Retry-After` as it came.
    pub retry_after: Option<String>,
    /// The first bytes of the answer.
    pub answer: String,
}

/// A parcel on its way. An error is a sentence without secrets.
pub type Sending = Pin<Box<dyn Future<Output = Result<Receipt, String>> + Send>>;

/// What carries parcels to their receivers, bounded in time and size.
pub trait Transport: Send + Sync {
    /// Sends one.
    fn send(&self, parcel: Parcel) -> Sending;
}

/// Hears of each attempt: its kind, and `delivered`, `failed`, `dead` or `gone`.
pub type Observer = Arc<dyn Fn(&'static str, &'static str) + Send + Sync>;

/// What integrations are made from.
pub struct Parts {
    /// Whose they are.
    pub tenants: Tenants,
    /// How many a company may have.
    pub billing: Billing,
    /// Seals their secrets.
    pub sealing: Arc<SealingKey>,
    /// Carries.
    pub transport: Arc<dyn Transport>,
    /// The machine's name, for syslog.
    pub host_name: String,
    /// Time.
    pub clock: Clock,
    /// Chance, for secrets and for the times between attempts.
    pub random: Random,
    /// For the metrics.
    pub observer: Observer,
}

/// Integrations. Cheap to clone.
#[derive(Clone)]
pub struct Integrations {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    parts: Parts,
    /// Those that exist, enabled or not. Only the writer changes it.
    endpoints: papaya::HashMap<(TenantId, IntegrationId), Arc<Endpoint>>,
    /// Rung when there is a new one, or one to remove.
    changed: Notify,
    /// Attempts that may be under way at once, of all companies together.
    slots: Arc<Semaphore>,
}

/// How an endpoint has behaved.
#[derive(Clone, Copy, Debug)]
struct Health {
    /// Failures since the last success.
    failures: u32,
    /// Attempts that it is trusted with at once.
    window: usize,
    /// When it is tried again after a failure, whatever is due before.
    not_before: Timestamp,
}

/// The live side of an integration.
struct Endpoint {
    row: ArcSwap<Integration>,
    queue: Mutex<Queue>,
    health: Mutex<Health>,
    wake: Notify,
    running: AtomicBool,
    removed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    fn new(row: Integration) -> Self {
        Self {
            row: ArcSwap::from_pointee(row),
            queue: Mutex::default(),
            health: Mutex::new(Health { failures: 0, window: 1, not_before: Timestamp::EPOCH }),
            wake: Notify::new(),
            running: AtomicBool::new(false),
            removed: AtomicBool::new(false),
        }
    }
}

/// What waits, all integrations together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Events that wait for an integration.
    pub backlog: u64,
    /// How long ago the oldest of them happened.
    pub oldest_s: u64,
}

/// Attempts that may be under way at once.
const SLOTS: usize = 256;

impl Integrations {
    /// Reads what is to be sent into memory.
    pub fn rebuild(store: Store, parts: Parts) -> Result<Self> {
        let endpoints = papaya::HashMap::new();
        let snapshot = store.read()?;
        snapshot.rows::<Integration>(INTEGRATIONS, |_, row| {
            endpoints.pin().insert((row.tenant, row.id), Arc::new(Endpoint::new(row)));
            Ok(())
        })?;
        snapshot.visit(DELIVERIES_DUE, &[], None, |key, value| {
            if let Some(queued) = store::read_due(key, value)
                && let Some(endpoint) = endpoints.pin().get(&(queued.tenant, queued.id))
            {
                lock(&endpoint.queue).add(queued.seq, &queued.subject, queued.due, queued.happened);
            }
            Ok(true)
        })?;
        let slots = Arc::new(Semaphore::new(SLOTS));
        let inner = Inner { store, parts, endpoints, changed: Notify::new(), slots };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What waits at this moment.
    pub fn figures(&self) -> Figures {
        let (now, mut figures) = (self.inner.parts.clock.now(), Figures::default());
        for endpoint in self.inner.endpoints.pin().values() {
            let queue = lock(&endpoint.queue);
            figures.backlog += queue.len() as u64;
            figures.oldest_s = figures.oldest_s.max(queue.oldest().map_or(0, |at| now.since(at).as_secs()));
        }
        figures
    }

    fn endpoint(&self, tenant: TenantId, id: IntegrationId) -> Result<Arc<Endpoint>> {
        let found = self.inner.endpoints.pin().get(&(tenant, id)).cloned();
        found.filter(|e| !e.row.load().removed).ok_or_else(|| Refusal::not_found().into())
    }

    /// Puts a changed row into memory, once it is durable.
    fn publish(&self, tx: &mut Tx<'_>, row: Integration) {
        let this = self.clone();
        tx.after_commit(move || {
            let key = (row.tenant, row.id);
            let endpoints = this.inner.endpoints.pin();
            let endpoint = Arc::clone(endpoints.get_or_insert_with(key, || Arc::new(Endpoint::new(row.clone()))));
            endpoint.removed.store(row.removed, Ordering::Release);
            // Whatever was changed may be what made it fail.
            *lock(&endpoint.health) = Health { failures: 0, window: 1, not_before: Timestamp::EPOCH };
            endpoint.row.store(Arc::new(row));
            endpoint.wake.notify_one();
            this.inner.changed.notify_one();
        });
    }

    /// Puts events into memory, once they are durable.
    fn enqueue(&self, tx: &mut Tx<'_>, queued: Vec<Queued>) {
        if queued.is_empty() {
            return;
        }
        let this = self.clone();
        tx.after_commit(move || {
            let endpoints = this.inner.endpoints.pin();
            for Queued { tenant, id, seq, subject, due, happened } in queued {
                if let Some(endpoint) = endpoints.get(&(tenant, id)) {
                    lock(&endpoint.queue).add(seq, &subject, due, happened);
                    endpoint.wake.notify_one();
                }
            }
        });
    }

    /// Deliveries of an integration, newest first, below the number `before`; with the number to go on below.
    async fn deliveries(
        &self,
        tenant: TenantId,
        id: IntegrationId,
        state: Option<State>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<(u64, Delivery)>, Option<u64>)> {
        let read = move |snapshot: &crate::store::Snapshot| store::page(snapshot, (tenant, id), state, before, limit);
        let (page, more) = self.inner.store.read_with(read).await?;
        let next = page.last().map(|(seq, _)| *seq).filter(|_| more);
        Ok((page, next))
    }
}
