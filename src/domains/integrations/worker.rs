//! Hands out what commits leave in the outbox, and sends it: one task for each integration, so that a dead receiver holds
//! up nobody but itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::model::{Attempt, clean};
use super::rules::{self, Verdict};
use super::store::{self, After};
use super::{Endpoint, Health, Integrations, Receipt, lock, render};
use crate::domains::audit::{self, Action, Entry, Event, NewEntry, ThreatLevel};
use crate::kernel::clock::Stopwatch;
use crate::kernel::context::Origin;
use crate::kernel::ids::{IntegrationId, TenantId};
use crate::kernel::{Error, Result, Timestamp};
use crate::store::Tx;
use crate::store::tables::INTEGRATIONS;

/// Attempts that a receiver in good health gets at once.
const WINDOW_MAX: usize = 16;
/// A receiver that fails is left alone for at most this long, whatever waits for it.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// While something waits for its time: how often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After the data file could not be written.
const AFTER_TROUBLE: Duration = Duration::from_secs(1);

impl Integrations {
    /// Sends what is to be sent, for ever.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        let outbox = self.inner.store.state();
        loop {
            self.tend(&mut tasks).await;
            match self.hand_out().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(e) => {
                    tracing::warn!(error = %e, "events were not handed out to integrations and will be in a moment");
                    tokio::time::sleep(AFTER_TROUBLE).await;
                    continue;
                }
            }
            tokio::select! {
                () = outbox.outbox.notified() => {}
                () = self.inner.changed.notified() => {}
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }

    /// One commit's worth of the outbox; says whether there may be more.
    async fn hand_out(&self) -> Result<bool> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let backlog = |tenant, id| {
                    let endpoint = this.inner.endpoints.pin().get(&(tenant, id)).cloned();
                    endpoint.map_or(0, |e| lock(&e.queue).len())
                };
                let (queued, more) = store::fan_out(tx, this.inner.parts.clock.now(), &backlog)?;
                this.enqueue(tx, queued);
                Ok(more)
            })
            .await
    }

    /// Starts tasks for new integrations, and removes what is left of removed ones.
    async fn tend(&self, tasks: &mut JoinSet<()>) {
        let endpoints: Vec<_> =
            self.inner.endpoints.pin().iter().map(|(key, endpoint)| (*key, Arc::clone(endpoint))).collect();
        for (key, endpoint) in endpoints {
            let tenant_lives = self.inner.parts.tenants.entry(key.0).is_some();
            if !tenant_lives || endpoint.removed.load(Ordering::Acquire) || endpoint.row.load().removed {
                endpoint.removed.store(true, Ordering::Release);
                endpoint.wake.notify_one();
                // The rows of a whole tenant go with it.
                if !tenant_lives || self.purge(key).await {
                    self.inner.endpoints.pin().remove(&key);
                }
            } else if !endpoint.running.swap(true, Ordering::AcqRel) {
                tasks.spawn(self.clone().serve(endpoint));
            }
        }
    }

    async fn purge(&self, (tenant, id): (TenantId, IntegrationId)) -> bool {
        loop {
            match self.inner.store.write(move |tx| store::purge(tx, tenant, id)).await {
                Ok(true) => {}
                Ok(false) => return true,
                // The next start, or the next change, goes on where this one stopped.
                Err(_) => return false,
            }
        }
    }

    /// Sends the events of one integration until it is removed.
    async fn serve(self, endpoint: Arc<Endpoint>) {
        let mut under_way = JoinSet::new();
        loop {
            let row = endpoint.row.load_full();
            let gone = endpoint.removed.load(Ordering::Acquire) || self.inner.parts.tenants.entry(row.tenant).is_none();
            if gone {
                return;
            }
            let now = self.inner.parts.clock.now();
            let health = *lock(&endpoint.health);
            let rested = row.enabled && now >= health.not_before;
            while rested && under_way.len() < health.window {
                let Some((seq, subject)) = lock(&endpoint.queue).take(now) else { break };
                under_way.spawn(self.clone().attempt(Arc::clone(&endpoint), seq, subject));
            }
            let due = lock(&endpoint.queue).next_due().map(|due| due.max(health.not_before));
            let due = due.filter(|_| row.enabled && under_way.len() < health.window);
            let wait = due.map(|due| due.since(now).clamp(Duration::from_millis(1), LOOK_EVERY));
            tokio::select! {
                () = endpoint.wake.notified() => {}
                Some(_) = under_way.join_next(), if !under_way.is_empty() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    /// One attempt, and what follows from it.
    async fn attempt(self, endpoint: Arc<Endpoint>, seq: u64, subject: Arc<str>) {
        let slots = Arc::clone(&self.inner.slots);
        let slot = slots.acquire_owned().await;
        let outcome = self.attempt_and_settle(&endpoint, seq, &subject).await;
        drop(slot);
        match outcome {
            Ok(true) => {}
            // There was nothing to write: the event is nobody's any more.
            Ok(false) => lock(&endpoint.queue).done(seq, &subject),
            Err(e) => {
                // Nothing is known to be durable: it is sent again, which a receiver must be ready for anyway.
                tracing::warn!(error = %e, "an attempt at an integration could not be written down");
                let due = self.inner.parts.clock.now().plus(AFTER_TROUBLE);
                lock(&endpoint.queue).again(seq, &subject, due);
            }
        }
    }

    /// Says whether the queue has heard of it. It hears by the writer, in the order of the commits: a replay that is written
    /// behind this attempt must not be taken for it.
    async fn attempt_and_settle(&self, endpoint: &Arc<Endpoint>, seq: u64, subject: &Arc<str>) -> Result<bool> {
        let row = endpoint.row.load_full();
        let place = (row.tenant, row.id, seq);
        let found = self.inner.store.read_with(move |snapshot| store::to_send(snapshot, place)).await?;
        let Some((event, entry)) = found else { return Ok(false) };
        let (attempt, verdict) = match entry {
            Some(entry) => self.try_once(endpoint, event, &entry).await,
            None => {
                let answer = "the log keeps this event no more (retention.audit_days)".to_owned();
                let at = self.inner.parts.clock.now();
                (Attempt { at, status: None, duration_ms: 0, answer }, Verdict::Never)
            }
        };
        let failed = matches!(verdict, Verdict::Retry(_));
        self.judge(endpoint, failed);
        let (this, chance) = (self.clone(), self.inner.parts.random.u64());
        let shown = attempt.clone();
        let (heard, queue_of, subject) = (Arc::new(AtomicBool::new(false)), Arc::clone(endpoint), Arc::clone(subject));
        let told = Arc::clone(&heard);
        let after = self
            .inner
            .store
            .write(move |tx| {
                let now = this.inner.parts.clock.now();
                let after = store::settle(tx, place, &attempt, verdict, chance, now)?;
                if after == After::Disable {
                    this.disable_in(tx, (place.0, place.1))?;
                }
                let (endpoint, subject, told) = (Arc::clone(&queue_of), Arc::clone(&subject), Arc::clone(&told));
                tx.after_commit(move || {
                    match after {
                        After::Again(due) => lock(&endpoint.queue).again(seq, &subject, due),
                        After::Done | After::Disable => lock(&endpoint.queue).done(seq, &subject),
                    }
                    told.store(true, Ordering::Release);
                });
                Ok(after)
            })
            .await?;
        let result = match (after, verdict) {
            (_, Verdict::Delivered) => "delivered",
            (After::Again(_), _) => "failed",
            (After::Disable, _) => "gone",
            (After::Done, _) => "dead",
        };
        if result != "delivered" {
            let (id, answer) = (row.id, &shown.answer);
            tracing::info!(integration = %id, seq, result, status = shown.status, answer, "an event was not delivered");
        }
        (self.inner.parts.observer)(row.kind.name(), result);
        Ok(heard.load(Ordering::Acquire))
    }

    /// Sends an event once.
    pub(super) async fn try_once(&self, endpoint: &Endpoint, event: Event, entry: &Entry) -> (Attempt, Verdict) {
        let (parts, row) = (&self.inner.parts, endpoint.row.load_full());
        let (at, watch) = (parts.clock.now(), Stopwatch::start());
        let parcel = store::open(&parts.sealing, &row)
            .map_err(|e| e.to_string())
            .and_then(|secrets| render::parcel(&row, &secrets, event, entry, &parts.host_name, at));
        let outcome = match parcel {
            Ok(parcel) => parts.transport.send(parcel).await,
            Err(e) => Err(e),
        };
        let duration_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(Receipt { status, retry_after, answer }) => {
                let now = parts.clock.now();
                let verdict = status.map_or(Verdict::Delivered, |s| rules::judge(s, retry_after.as_deref(), now));
                let mut answer = clean(&answer);
                if status.is_some_and(|s| (300..400).contains(&s)) {
                    answer = "it redirects, and redirects are not followed: name the last address".to_owned();
                }
                (Attempt { at, status, duration_ms, answer }, verdict)
            }
            Err(e) => (Attempt { at, status: None, duration_ms, answer: clean(&e) }, Verdict::Retry(None)),
        }
    }

    /// A receiver that answers gets more at once; one that fails gets one at a time, after a pause.
    fn judge(&self, endpoint: &Endpoint, failed: bool) {
        let mut health = lock(&endpoint.health);
        if !failed {
            *health = Health { failures: 0, window: (health.window * 2).min(WINDOW_MAX), not_before: Timestamp::EPOCH };
            return;
        }
        let failures = health.failures.saturating_add(1);
        // One failure may be the event's own; from the second on the receiver is in trouble.
        let pause = match failures {
            1 => Duration::ZERO,
            n => rules::delay(n - 1, self.inner.parts.random.u64()).min(PAUSE_MAX),
        };
        *health = Health { failures, window: 1, not_before: self.inner.parts.clock.now().plus(pause) };
    }

    /// The receiver said that it is gone (410): nothing more is sent there until somebody of the company says so.
    fn disable_in(&self, tx: &mut Tx<'_>, (tenant, id): (TenantId, IntegrationId)) -> Result<()> {
        let Some(mut row) = store::load(tx, tenant, id)?.filter(|row| row.enabled) else { return Ok(()) };
        const WHY: &str = "the receiver answered 410: it is gone";
        let now = self.inner.parts.clock.now();
        (row.enabled, row.disabled_reason, row.updated_at) = (false, Some(WHY.to_owned()), now);
        tx.put(INTEGRATIONS, store::key(tenant, id), &row)?;
        store::recount(tx, tenant)?;
        let entry = NewEntry::new(Action::IntegrationDisabled, &Origin::system()).level(ThreatLevel::Low);
        let entry = entry.reason(format!("{id} ({}): {WHY}", row.name));
        audit::append(tx, tenant, now, &self.inner.parts.random, &entry).map(drop).map_err(Error::internal)?;
        self.publish(tx, row);
        Ok(())
    }
}
