//! Making, changing, trying and replaying integrations, each with its entry in the log.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Integrations;
use super::model::{Attempt, Delivery, Integration, Kind, Secrets, State, Target, Tls, shown_url};
use super::rules::Verdict;
use super::store::{self, INTEGRATIONS_MAX};
use crate::crypto::webhook::new_secret;
use crate::domains::audit::{self, Action, Event, NewEntry, Posted};
use crate::domains::tenants::{Feature, Quota};
use crate::kernel::context::Origin;
use crate::kernel::ids::{IntegrationId, TenantId, UserId};
use crate::kernel::{Error, Kind as Refused, Refusal, Result, Timestamp};
use crate::store::idempotency::{self, Once};
use crate::store::tables::{DELIVERIES, INTEGRATIONS, Key};
use crate::store::{Snapshot, Tx};

/// Events that one replay sends again.
pub const REPLAYED_MAX: usize = 1_000;
/// Entries that it looks at.
const LOOKED_AT_MAX: usize = 50_000;

/// Where an integration is to lead; what a kind has no use for is refused where requests are checked.
#[derive(Clone, Default)]
pub struct WantedTarget {
    /// Of webhooks and chats.
    pub url: Option<String>,
    /// Of servers.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// How it is spoken to.
    pub tls: Option<Tls>,
    /// Of a mail server.
    pub username: Option<String>,
    /// Of a mail server.
    pub password: Option<String>,
    /// Who writes.
    pub from: Option<String>,
    /// To whom.
    pub to: Option<Vec<String>>,
}

/// What an integration is to be. In a change, `None` leaves a thing as it is.
#[derive(Clone, Default)]
pub struct Wanted {
    /// For people.
    pub name: Option<String>,
    /// What it is told of.
    pub events: Option<Vec<String>>,
    /// Whether it is told at all.
    pub enabled: Option<bool>,
    /// Where it leads.
    pub target: WantedTarget,
}

impl Wanted {
    fn apply(self, row: &mut Integration, secrets: &mut Secrets) {
        let WantedTarget { url, host, port, tls, username, password, from, to } = self.target;
        if let Some(url) = url {
            row.target.url = Some(shown_url(row.kind, &url));
            secrets.url = Some(url);
        }
        let target = &mut row.target;
        // A login belongs to the server that it was given for: at another one it would be given away.
        if host.as_ref().is_some_and(|host| Some(host) != target.host.as_ref()) && password.is_none() {
            (target.username, secrets.password) = (None, None);
        }
        target.host = host.or_else(|| target.host.take());
        target.port = port.or(target.port);
        target.tls = tls.or(target.tls);
        target.username = username.or_else(|| target.username.take());
        target.from = from.or_else(|| target.from.take());
        if let Some(to) = to {
            target.to = to;
        }
        secrets.password = password.or_else(|| secrets.password.take());
        if let Some(name) = self.name {
            row.name = name;
        }
        if let Some(events) = self.events {
            row.events = events;
        }
        if let Some(enabled) = self.enabled {
            row.enabled = enabled;
            row.disabled_reason = None;
        }
    }
}

/// An integration, and its secret where this is the one time that it is shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct Issued {
    /// The row.
    pub(super) row: Integration,
    /// `whsec_...`; a repeated request does not show it again.
    #[serde(skip)]
    pub secret: Option<Zeroizing<String>>,
}

impl Issued {
    /// Which one it is.
    pub const fn id(&self) -> IntegrationId {
        self.row.id
    }
}

/// Which events are sent again.
#[derive(Clone, Copy, Debug)]
pub enum Replay {
    /// Numbers in the log, both included.
    Seqs(u64, u64),
    /// Moments, both included.
    Times(Timestamp, Timestamp),
    /// Every dead letter.
    Dead,
}

/// What a replay did.
#[derive(Clone, Copy, Debug)]
pub struct Replayed {
    /// Events that wait again.
    pub queued: usize,
    /// The number to go on from, when the range was too long for one request.
    pub next_seq: Option<u64>,
}

/// What a trial led to.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Whether the receiver took it.
    pub delivered: bool,
    /// How it went.
    pub attempt: Attempt,
}

fn taken(name: &str) -> Error {
    let detail = format!("The company has another integration called {name:?}. Choose another name.");
    Refusal::new(Refused::Conflict, "name_taken", detail).into()
}

impl Integrations {
    fn note(
        &self,
        tx: &mut Tx<'_>,
        action: Action,
        row: &Integration,
        what: &str,
        by: UserId,
        origin: &Origin,
    ) -> Result<()> {
        let reason = format!("{} ({}, {}): {what}", row.id, row.name, row.kind.name());
        let entry = NewEntry::new(action, origin).user(by).reason(reason);
        let parts = &self.inner.parts;
        audit::append(tx, row.tenant, parts.clock.now(), &parts.random, &entry).map(drop)
    }

    fn save(&self, tx: &mut Tx<'_>, row: &Integration) -> Result<()> {
        tx.put(INTEGRATIONS, store::key(row.tenant, row.id), row)?;
        store::recount(tx, row.tenant)
    }

    /// The integrations of a company behind one of them, in the order of their making, and whether there are more.
    pub(super) async fn list(
        &self,
        tenant: TenantId,
        after: Option<IntegrationId>,
        limit: usize,
    ) -> Result<(Vec<Integration>, bool)> {
        let read = move |snapshot: &Snapshot| {
            let after = after.map(|id| store::key(tenant, id));
            snapshot.page(INTEGRATIONS, &Key::new().bytes(tenant.to_bytes()), after, limit, |value| {
                let row: Integration = crate::store::codec::decode(value)?;
                Ok(Some(row).filter(|row| !row.removed))
            })
        };
        self.inner.store.read_with(read).await
    }

    /// One of them, and how many events wait for it.
    pub(super) fn get(&self, tenant: TenantId, id: IntegrationId) -> Result<(Integration, usize)> {
        let endpoint = self.endpoint(tenant, id)?;
        let backlog = super::lock(&endpoint.queue).len();
        Ok((Integration::clone(&endpoint.row.load()), backlog))
    }

    /// Makes one; a webhook's secret is made with it.
    ///
    /// # Errors
    /// 403 `feature_not_included`, `quota_exceeded`; 409 `name_taken`, `too_many_integrations`.
    pub async fn create(
        &self,
        tenant: TenantId,
        kind: Kind,
        wanted: Wanted,
        by: UserId,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<Issued> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let parts = &this.inner.parts;
                let now = parts.clock.now();
                if let Some(first) = idempotency::recall::<Issued>(tx, tenant.to_bytes(), once.as_ref(), now)? {
                    return Ok(first);
                }
                let others = store::all_in(tx, tenant)?;
                let name = wanted.name.clone().unwrap_or_default();
                if others.iter().any(|row| !row.removed && row.name == name) {
                    return Err(taken(&name));
                }
                if others.iter().filter(|row| !row.removed).count() >= INTEGRATIONS_MAX {
                    let detail = format!("The company has {INTEGRATIONS_MAX} integrations. Remove some first.");
                    return Err(Refusal::new(Refused::Conflict, "too_many_integrations", detail).into());
                }
                parts.billing.require(tx, tenant, Feature::Integrations)?;
                let place = parts.billing.admit(tx, tenant, Quota::Integrations, 1)?;
                let id = IntegrationId::generate(now, &parts.random);
                let mut row = Integration {
                    id,
                    tenant,
                    name,
                    kind,
                    events: Vec::new(),
                    enabled: true,
                    disabled_reason: None,
                    target: Target::default(),
                    sealed: String::new(),
                    previous_until: None,
                    created_by: by,
                    created_at: now,
                    updated_at: now,
                    removed: false,
                };
                let secret = (kind == Kind::Webhook).then(|| new_secret(&parts.random.bytes()));
                let mut secrets = Secrets::default();
                secrets.signing = secret.as_ref().map(|s| s.to_string());
                wanted.clone().apply(&mut row, &mut secrets);
                row.sealed = store::seal(&parts.sealing, tenant, id, &secrets, &parts.random)?;
                this.save(tx, &row)?;
                place.note(tx)?;
                let what = format!("told of {}", row.events.join(", "));
                this.note(tx, Action::IntegrationCreated, &row, &what, by, &origin)?;
                this.publish(tx, row.clone());
                let issued = Issued { row, secret };
                idempotency::remember(tx, tenant.to_bytes(), once.as_ref(), now, &issued)?;
                Ok(issued)
            })
            .await
    }

    /// Changes one. `check` looks at what it would become.
    ///
    /// # Errors
    /// `not_found`; 409 `name_taken`; the refusal of `check`.
    pub(super) async fn update(
        &self,
        tenant: TenantId,
        id: IntegrationId,
        wanted: Wanted,
        check: impl Fn(&Integration, &Secrets) -> Result<()> + Send + 'static,
        by: UserId,
        origin: Origin,
    ) -> Result<Integration> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let parts = &this.inner.parts;
                let mut row = store::load(tx, tenant, id)?.ok_or_else(Refusal::not_found)?;
                let mut secrets = store::open(&parts.sealing, &row)?;
                wanted.clone().apply(&mut row, &mut secrets);
                check(&row, &secrets)?;
                let others = store::all_in(tx, tenant)?;
                if others.iter().any(|other| !other.removed && other.id != id && other.name == row.name) {
                    return Err(taken(&row.name));
                }
                row.sealed = store::seal(&parts.sealing, tenant, id, &secrets, &parts.random)?;
                row.updated_at = parts.clock.now();
                this.save(tx, &row)?;
                let state = if row.enabled { "enabled" } else { "disabled" };
                let what = format!("{state}, told of {}", row.events.join(", "));
                this.note(tx, Action::IntegrationUpdated, &row, &what, by, &origin)?;
                this.publish(tx, row.clone());
                Ok(row)
            })
            .await
    }

    /// Gives a webhook another secret; the one before signs, too, for the time of the overlap.
    ///
    /// # Errors
    /// `not_found`; 409 `no_secret` for what is no webhook.
    pub async fn rotate(
        &self,
        tenant: TenantId,
        id: IntegrationId,
        overlap: Duration,
        by: UserId,
        origin: Origin,
    ) -> Result<Issued> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let parts = &this.inner.parts;
                let now = parts.clock.now();
                let mut row = store::load(tx, tenant, id)?.ok_or_else(Refusal::not_found)?;
                if row.kind != Kind::Webhook {
                    let detail = "Only webhooks are signed; this integration has no secret of ours.";
                    return Err(Refusal::new(Refused::Conflict, "no_secret", detail).into());
                }
                let mut secrets = store::open(&parts.sealing, &row)?;
                let secret = new_secret(&parts.random.bytes());
                secrets.previous = secrets.signing.replace(secret.to_string());
                row.previous_until = Some(now.plus(overlap)).filter(|_| !overlap.is_zero());
                if overlap.is_zero() {
                    secrets.previous = None;
                }
                row.sealed = store::seal(&parts.sealing, tenant, id, &secrets, &parts.random)?;
                row.updated_at = now;
                this.save(tx, &row)?;
                let what = format!("both secrets sign for {} s", overlap.as_secs());
                this.note(tx, Action::IntegrationRotated, &row, &what, by, &origin)?;
                this.publish(tx, row.clone());
                Ok(Issued { row, secret: Some(secret) })
            })
            .await
    }

    /// Removes one. What waits for it is not sent any more.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove(&self, tenant: TenantId, id: IntegrationId, by: UserId, origin: Origin) -> Result<()> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let mut row = store::load(tx, tenant, id)?.ok_or_else(Refusal::not_found)?;
                this.inner.parts.billing.release(tx, tenant, Quota::Integrations)?;
                // Its deliveries go later, some with each commit, and the row at last.
                (row.removed, row.enabled, row.sealed) = (true, false, String::new());
                this.save(tx, &row)?;
                this.note(tx, Action::IntegrationDeleted, &row, "removed", by, &origin)?;
                this.publish(tx, row);
                Ok(())
            })
            .await
    }

    /// Sends an event of its own, once, and says how it went.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn test(&self, tenant: TenantId, id: IntegrationId, by: UserId, origin: Origin) -> Result<Tried> {
        let endpoint = self.endpoint(tenant, id)?;
        let this = self.clone();
        let audited = self
            .inner
            .store
            .write(move |tx| {
                let row = store::load(tx, tenant, id)?.ok_or_else(Refusal::not_found)?;
                let (parts, now) = (&this.inner.parts, this.inner.parts.clock.now());
                let entry = NewEntry::new(Action::IntegrationTested, &origin).user(by);
                let entry = entry.reason(format!("{id} ({}): tried out", row.name));
                audit::append(tx, tenant, now, &parts.random, &entry)
            })
            .await?;
        let newest = self.inner.store.read_with(move |s| audit::find_newest(s, tenant, audited)).await?;
        let entry = newest.ok_or_else(|| Error::internal("the entry of a test is not there"))?;
        let (attempt, verdict) = self.try_once(&endpoint, Event::IntegrationTest, &entry).await;
        let (seq, tried, now) = (entry.seq, attempt.clone(), self.inner.parts.clock.now());
        let delivered = verdict == Verdict::Delivered;
        self.inner
            .store
            .write(move |tx| {
                if store::load(tx, tenant, id)?.is_none() {
                    return Ok(());
                }
                let mut delivery = Delivery::new(audited, Event::IntegrationTest, entry.created_at, now);
                delivery.tried(tried.clone());
                delivery.next_at = None;
                delivery.state = if delivered { State::Delivered } else { State::Dead };
                tx.put(DELIVERIES, store::row_key(tenant, id, seq), &delivery)
            })
            .await?;
        Ok(Tried { delivered, attempt })
    }

    /// Has events sent again, in their order: those that it wants now, or those that are dead letters.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn replay(
        &self,
        tenant: TenantId,
        id: IntegrationId,
        which: Replay,
        by: UserId,
        origin: Origin,
    ) -> Result<Replayed> {
        let row = Integration::clone(&self.endpoint(tenant, id)?.row.load());
        let wanted = row.clone();
        let (found, next_seq) = self.inner.store.read_with(move |snapshot| chosen(snapshot, &wanted, which)).await?;
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let row = store::load(tx, tenant, id)?.ok_or_else(Refusal::not_found)?;
                let now = this.inner.parts.clock.now();
                let room = store::BACKLOG_MAX.saturating_sub(this.get(tenant, id)?.1);
                let mut queued = Vec::new();
                for (seq, posted) in found.iter().take(room) {
                    queued.extend(store::queue(tx, &row, *seq, posted, now, true)?);
                }
                let count = queued.len();
                let what = format!("{count} events are sent again ({which:?})");
                this.note(tx, Action::IntegrationReplayed, &row, &what, by, &origin)?;
                this.enqueue(tx, queued);
                // Who asks for it does not want to wait until the receiver is trusted again.
                let endpoint = this.endpoint(tenant, id)?;
                tx.after_commit(move || {
                    super::lock(&endpoint.health).not_before = Timestamp::EPOCH;
                    endpoint.wake.notify_one();
                });
                let unseen = found.get(room).map(|(seq, _)| *seq);
                Ok(Replayed { queued: count, next_seq: unseen.or(next_seq) })
            })
            .await
    }
}

type Chosen = (Vec<(u64, Posted)>, Option<u64>);

/// What a replay is about, and where the next one goes on.
fn chosen(snapshot: &Snapshot, row: &Integration, which: Replay) -> Result<Chosen> {
    let tenant = row.tenant;
    let (mut found, mut next) = (Vec::new(), None);
    let (from, to, until) = match which {
        Replay::Seqs(from, to) => (from, to, None),
        Replay::Times(from, to) => (audit::first_since(snapshot, tenant, from)?, u64::MAX, Some(to)),
        Replay::Dead => {
            snapshot.visit_prefix(DELIVERIES, &store::key(tenant, row.id), |place, value| {
                let delivery: Delivery = crate::store::codec::decode(value)?;
                let seq = crate::store::tables::trailing_number(place).unwrap_or(0);
                if delivery.state != State::Dead || delivery.event == Event::IntegrationTest.name() {
                    return Ok(true);
                }
                if found.len() >= REPLAYED_MAX {
                    next = Some(seq);
                    return Ok(false);
                }
                audit::visit_events(snapshot, tenant, (seq, seq), |seq, posted| {
                    found.extend(posted.map(|posted| (seq, posted)));
                    true
                })?;
                Ok(true)
            })?;
            return Ok((found, next));
        }
    };
    let mut looked_at = 0;
    audit::visit_events(snapshot, tenant, (from, to), |seq, posted| {
        looked_at += 1;
        if found.len() >= REPLAYED_MAX || looked_at > LOOKED_AT_MAX {
            next = Some(seq);
            return false;
        }
        if let Some(posted) = posted {
            if until.is_some_and(|until| posted.at > until) {
                return false;
            }
            // A subscription says what is wanted, whether it is switched on at the moment or not.
            let wanted = row.events.iter().any(|p| audit::takes_in(p, posted.event));
            if wanted && posted.event != Event::IntegrationTest {
                found.push((seq, posted));
            }
        }
        true
    })?;
    Ok((found, next))
}
