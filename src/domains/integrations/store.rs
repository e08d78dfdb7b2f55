//! Integrations and deliveries in the data file.

use base64ct::{Base64, Encoding};

use super::model::{Attempt, Delivery, Integration, Secrets, State};
use super::rules::{self, Verdict};
use crate::crypto::SealingKey;
use crate::domains::audit::{self, Entry, Event};
use crate::domains::metering::{self, Measure};
use crate::kernel::ids::{IntegrationId, TenantId};
use crate::kernel::{Error, Random, Refusal, Result, Timestamp};
use crate::store::tables::{
    DELIVERIES, DELIVERIES_DUE, INTEGRATION_COUNTS, INTEGRATIONS, Key, OUTBOX, trailing_number,
};
use crate::store::{Snapshot, Tx, codec};

/// Integrations of one tenant, whatever its plan says.
pub const INTEGRATIONS_MAX: usize = 100;
/// Events that wait for one integration; the next ones are dead letters at once.
pub const BACKLOG_MAX: usize = 20_000;
/// Entries of the outbox that are handed out in one commit.
pub const FANNED_OUT_AT_ONCE: usize = 128;
/// How long a finished delivery can be looked at and a dead one replayed.
const KEPT: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);
/// Old deliveries that go with each new one.
const TRIMMED_AT_ONCE: usize = 4;
/// Rows that a removed integration loses with one commit.
const PURGED_AT_ONCE: usize = 500;

pub fn key(tenant: TenantId, id: IntegrationId) -> Key {
    Key::new().bytes(tenant.to_bytes()).bytes(id.to_bytes())
}

pub fn row_key(tenant: TenantId, id: IntegrationId, seq: u64) -> Key {
    key(tenant, id).number(seq)
}

/// Tenant, integration and number of a row of a delivery.
pub fn parts_of(key: &[u8]) -> Option<(TenantId, IntegrationId, u64)> {
    let (tenant, rest) = key.split_first_chunk::<16>()?;
    let (id, rest) = rest.split_first_chunk::<16>()?;
    let seq = rest.first_chunk::<8>().filter(|_| rest.len() == 8)?;
    Some((TenantId::from_bytes(*tenant), IntegrationId::from_bytes(*id), u64::from_be_bytes(*seq)))
}

// ---- secrets

fn context(tenant: TenantId, id: IntegrationId) -> Vec<u8> {
    [b"integrations/".as_slice(), &tenant.to_bytes(), &id.to_bytes()].concat()
}

pub fn seal(
    key: &SealingKey,
    tenant: TenantId,
    id: IntegrationId,
    secrets: &Secrets,
    random: &Random,
) -> Result<String> {
    let text = zeroize::Zeroizing::new(serde_json::to_vec(secrets).map_err(Error::internal)?);
    Ok(Base64::encode_string(&key.seal(&context(tenant, id), &text, random)))
}

pub fn open(key: &SealingKey, row: &Integration) -> Result<Secrets> {
    let sealed = Base64::decode_vec(&row.sealed).map_err(Error::internal)?;
    let text = key.open(&context(row.tenant, row.id), &sealed).map_err(Error::internal)?;
    serde_json::from_slice(&text).map_err(Error::internal)
}

// ---- integrations

pub fn load(tx: &mut Tx<'_>, tenant: TenantId, id: IntegrationId) -> Result<Option<Integration>> {
    Ok(tx.get::<Integration>(INTEGRATIONS, key(tenant, id))?.filter(|row| !row.removed))
}

pub fn all_in(tx: &mut Tx<'_>, tenant: TenantId) -> Result<Vec<Integration>> {
    let rows = tx.scan(INTEGRATIONS, &Key::new().bytes(tenant.to_bytes()), INTEGRATIONS_MAX * 2)?;
    rows.iter().map(|(_, value)| codec::decode(value)).collect()
}

/// Keeps the number of a tenant's integrations, by which the log decides whether it fills the outbox.
pub fn recount(tx: &mut Tx<'_>, tenant: TenantId) -> Result<()> {
    let living = all_in(tx, tenant)?.iter().filter(|row| !row.removed && row.enabled).count();
    let place = Key::new().bytes(tenant.to_bytes());
    match living {
        0 => tx.delete(INTEGRATION_COUNTS, place).map(drop),
        n => tx.put_raw(INTEGRATION_COUNTS, place, &(n as u64).to_be_bytes()),
    }
}

// ---- deliveries

/// An event that now waits for an integration.
pub struct Queued {
    pub tenant: TenantId,
    pub id: IntegrationId,
    pub seq: u64,
    pub subject: String,
    pub due: Timestamp,
    pub happened: Timestamp,
}

fn due_value(due: Timestamp, happened: Timestamp, subject: &str) -> Vec<u8> {
    let number = |at: Timestamp| u64::try_from(at.as_millis()).unwrap_or(0).to_be_bytes();
    [number(due).as_slice(), &number(happened), subject.as_bytes()].concat()
}

pub fn read_due(key: &[u8], value: &[u8]) -> Option<Queued> {
    let (tenant, id, seq) = parts_of(key)?;
    let (due, rest) = value.split_first_chunk::<8>()?;
    let (happened, subject) = rest.split_first_chunk::<8>()?;
    let at = |bytes: &[u8; 8]| Timestamp::from_millis(i64::try_from(u64::from_be_bytes(*bytes)).unwrap_or(0));
    let subject = String::from_utf8(subject.to_vec()).ok()?;
    Some(Queued { tenant, id, seq, subject, due: at(due), happened: at(happened) })
}

/// Has an event sent to an integration, again where it was sent before.
pub fn queue(
    tx: &mut Tx<'_>,
    row: &Integration,
    seq: u64,
    posted: &audit::Posted,
    now: Timestamp,
    replay: bool,
) -> Result<Option<Queued>> {
    let place = row_key(row.tenant, row.id, seq);
    let mut delivery = Delivery::new(posted.id, posted.event, posted.at, now);
    if let Some(before) = tx.get::<Delivery>(DELIVERIES, &place)? {
        // Handed out already: only a replay begins anew.
        if !replay || before.state == State::Pending {
            return Ok(None);
        }
        delivery = Delivery { replays: before.replays.saturating_add(1), tries: before.tries, ..delivery };
    } else if replay {
        delivery.replays = 1;
    }
    tx.put(DELIVERIES, &place, &delivery)?;
    tx.put_raw(DELIVERIES_DUE, &place, &due_value(now, posted.at, &posted.subject))?;
    let (tenant, id, subject) = (row.tenant, row.id, posted.subject.clone());
    Ok(Some(Queued { tenant, id, seq, subject, due: now, happened: posted.at }))
}

/// Hands what lies in the outbox out to the integrations that want it; says what waits now, and whether there may be more.
/// `backlog` says how much waits for one already.
pub fn fan_out(
    tx: &mut Tx<'_>,
    now: Timestamp,
    backlog: &dyn Fn(TenantId, IntegrationId) -> usize,
) -> Result<(Vec<Queued>, bool)> {
    let lying = tx.scan_from(OUTBOX, &Key::new(), FANNED_OUT_AT_ONCE)?;
    let more = lying.len() == FANNED_OUT_AT_ONCE;
    let mut known: Option<(TenantId, Vec<Integration>)> = None;
    let mut queued = Vec::new();
    for (place, _) in lying {
        let (Some(tenant), Some(seq)) = (place.first_chunk::<16>(), trailing_number(&place)) else { continue };
        let tenant = TenantId::from_bytes(*tenant);
        if known.as_ref().is_none_or(|(of, _)| *of != tenant) {
            known = Some((tenant, all_in(tx, tenant)?));
        }
        tx.delete(OUTBOX, &place)?;
        let Some(posted) = audit::posted(tx, tenant, seq)? else { continue };
        let rows = known.iter().flat_map(|(_, rows)| rows).filter(|row| row.wants(posted.event));
        for row in rows.cloned().collect::<Vec<_>>() {
            let ahead = queued.iter().filter(|q: &&Queued| q.id == row.id).count();
            if backlog(tenant, row.id) + ahead >= BACKLOG_MAX {
                let mut dead = Delivery::new(posted.id, posted.event, posted.at, now);
                (dead.state, dead.next_at) = (State::Dead, None);
                let answer = format!("{BACKLOG_MAX} events waited for this integration already");
                dead.tries.push(Attempt { at: now, status: None, duration_ms: 0, answer });
                tx.put(DELIVERIES, row_key(tenant, row.id, seq), &dead)?;
            } else {
                queued.extend(queue(tx, &row, seq, &posted, now, false)?);
            }
        }
    }
    Ok((queued, more))
}

/// What to do with an event in memory, once its attempt is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// Nothing more.
    Done,
    /// Send it again then.
    Again(Timestamp),
    /// As `Done`, and the integration itself is to be switched off.
    Disable,
}

/// Writes down what an attempt led to. What is not there any more is nobody's business.
pub fn settle(
    tx: &mut Tx<'_>,
    (tenant, id, seq): (TenantId, IntegrationId, u64),
    attempt: &Attempt,
    verdict: Verdict,
    chance: u64,
    now: Timestamp,
) -> Result<After> {
    let place = row_key(tenant, id, seq);
    let row = tx.get::<Integration>(INTEGRATIONS, key(tenant, id))?;
    let Some(mut delivery) = tx.get::<Delivery>(DELIVERIES, &place)?.filter(|_| row.is_some_and(|row| !row.removed))
    else {
        return Ok(After::Done);
    };
    let Some(due) = tx.get_raw(DELIVERIES_DUE, &place)? else { return Ok(After::Done) };
    delivery.tried(attempt.clone());
    let next = match verdict {
        Verdict::Delivered | Verdict::Gone | Verdict::Never => None,
        Verdict::Retry(wait) => rules::next_attempt(delivery.queued_at, now, delivery.attempts, wait, chance),
    };
    delivery.next_at = next;
    let after = match (verdict, next) {
        (_, Some(next)) => {
            let again = read_due(place.as_ref(), &due).map(|q| due_value(next, q.happened, &q.subject));
            tx.put_raw(DELIVERIES_DUE, &place, &again.unwrap_or(due))?;
            After::Again(next)
        }
        (verdict, None) => {
            let delivered = verdict == Verdict::Delivered;
            delivery.state = if delivered { State::Delivered } else { State::Dead };
            tx.delete(DELIVERIES_DUE, &place)?;
            if delivered {
                metering::count(tx, tenant, Measure::WebhookDeliveries, 1, now)?;
            }
            trim(tx, tenant, id, now)?;
            if verdict == Verdict::Gone { After::Disable } else { After::Done }
        }
    };
    tx.put(DELIVERIES, place, &delivery)?;
    Ok(after)
}

/// Removes a few of the oldest deliveries whose time is over.
fn trim(tx: &mut Tx<'_>, tenant: TenantId, id: IntegrationId, now: Timestamp) -> Result<()> {
    for (place, value) in tx.scan(DELIVERIES, &key(tenant, id), TRIMMED_AT_ONCE)? {
        let old: Delivery = codec::decode(&value)?;
        if old.state == State::Pending || now.since(old.queued_at) < KEPT {
            break;
        }
        tx.delete(DELIVERIES, place)?;
    }
    Ok(())
}

/// Removes some rows of what belonged to a removed integration, at last its own; says whether anything is left.
pub fn purge(tx: &mut Tx<'_>, tenant: TenantId, id: IntegrationId) -> Result<bool> {
    let from = key(tenant, id);
    let Some(to) = from.end_of_prefix() else { return Ok(false) };
    let mut gone = 0;
    for table in [DELIVERIES_DUE, DELIVERIES] {
        gone += tx.delete_range(table, &from, &to, PURGED_AT_ONCE - gone)?;
        if gone == PURGED_AT_ONCE {
            return Ok(true);
        }
    }
    tx.delete(INTEGRATIONS, from)?;
    Ok(false)
}

/// What an attempt needs: the delivery, while it is still to be made, and its entry.
pub fn to_send(
    snapshot: &Snapshot,
    (tenant, id, seq): (TenantId, IntegrationId, u64),
) -> Result<Option<(Event, Option<Entry>)>> {
    let delivery = snapshot.get::<Delivery>(DELIVERIES, row_key(tenant, id, seq))?;
    let Some(delivery) = delivery.filter(|d| d.state == State::Pending) else { return Ok(None) };
    let event = delivery.event.parse().map_err(|e| Error::Internal(format!("{} {e}", delivery.event)))?;
    Ok(Some((event, audit::entry_at(snapshot, tenant, seq)?)))
}

/// Deliveries of an integration with their numbers, newest first, below `before`.
pub fn page(
    snapshot: &Snapshot,
    (tenant, id): (TenantId, IntegrationId),
    state: Option<State>,
    before: Option<u64>,
    limit: usize,
) -> Result<(Vec<(u64, Delivery)>, bool)> {
    snapshot
        .get::<Integration>(INTEGRATIONS, key(tenant, id))?
        .filter(|r| !r.removed)
        .ok_or_else(Refusal::not_found)?;
    let below = before.map(|seq| row_key(tenant, id, seq));
    let (mut found, mut more) = (Vec::new(), false);
    snapshot.visit_back(DELIVERIES, &key(tenant, id), below.as_ref(), |place, value| {
        let delivery: Delivery = codec::decode(value)?;
        if state.is_none_or(|wanted| delivery.state == wanted) {
            more = found.len() >= limit;
            if !more {
                found.push((trailing_number(place).unwrap_or(0), delivery));
            }
        }
        Ok(!more)
    })?;
    Ok((found, more))
}
