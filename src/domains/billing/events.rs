//! Events of the billing gateway in the data file: each is kept for ever under its provider's id, so that none counts
//! twice; the latest word of each device of each person is its subscription, whether the device is known yet or not.

use serde::{Deserialize, Serialize};

use super::Billing;
use super::subscription::{Subscription, Word};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::devices::{self, Device};
use crate::domains::tenants;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId, UserId};
use crate::kernel::{Kind, Refusal, Result, Timestamp, limits};
use crate::store::tables::{
    BILLING_EVENT_LOG, BILLING_EVENTS, BILLING_WAITING, Key, META, SUBSCRIPTIONS, trailing_number,
};
use crate::store::{Row, Snapshot, Tx};

/// Subscriptions of devices that nobody has enrolled. Whoever can sign events could else fill the disk with names.
const WAITING_MAX: u64 = 100_000;
const WAITING: &str = "billing_waiting";
/// Events that wait for one device.
const WAITING_OF_ONE_MAX: usize = 256;
const LAST_NUMBER: &str = "billing_event";

/// How the gateway proved that an event is its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// The header as it came.
    pub signature: String,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// SHA-256 of the body in hexadecimal.
    pub body_sha256: String,
}

/// What came of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BillingEventResult)]
pub enum EventResult {
    /// It became the device's subscription.
    Applied,
    /// Something later was known already.
    Overtaken,
    /// Nobody has enrolled the device; it is applied when somebody does.
    Waiting,
}

/// A kept event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Whose device it is about; `None` while that is not known.
    pub tenant: Option<TenantId>,
    /// Rises with each event that arrives.
    pub number: u64,
    /// What was said.
    pub word: Word,
    /// Who said it.
    pub proof: Proof,
    /// When it arrived.
    pub received_at: Timestamp,
    /// When `result` came to be.
    pub processed_at: Timestamp,
    /// What came of it.
    pub result: EventResult,
}
impl Row for Event {}

/// What the gateway is answered.
pub struct Taken {
    /// The subscription as it stands now.
    pub subscription: Subscription,
    /// Whether the event, now or at its first arrival, found no device.
    pub waiting: bool,
}

fn subscription_key(user: &str, device: &DeviceId) -> Key {
    Key::new().text(user).text(device.as_str())
}

fn event_key(provider: &str, event_id: &str) -> Key {
    Key::new().text(provider).text(event_id)
}

fn log_key(tenant: Option<TenantId>, number: u64) -> Key {
    Key::new().bytes(tenant.unwrap_or(TenantId::NIL).to_bytes()).number(number)
}

/// The subscription of a device by its owner.
pub(super) fn subscription_of(snapshot: &Snapshot, device: &Device) -> Result<Option<Subscription>> {
    snapshot.get(SUBSCRIPTIONS, subscription_key(&device.owner.to_string(), &device.id))
}

/// Changes how many subscriptions wait for their device.
fn count_waiting(tx: &mut Tx<'_>, change: impl Fn(u64) -> u64) -> Result<()> {
    let key = Key::new().text(WAITING);
    let before = tx.get_raw(META, &key)?.as_deref().and_then(trailing_number).unwrap_or(0);
    tx.put_raw(META, &key, &change(before).to_be_bytes())
}

impl Billing {
    /// Takes in an event whose signature was found genuine.
    ///
    /// # Errors
    /// 409 `event_conflict` when the provider used the event's id for something else; 503 `too_many_waiting` when too
    /// many subscriptions wait for their devices.
    pub async fn take_event(&self, word: Word, proof: Proof, origin: Origin) -> Result<Taken> {
        let this = self.clone();
        self.inner.store.write(move |tx| this.take_event_in(tx, &word, &proof, &origin)).await
    }

    fn take_event_in(&self, tx: &mut Tx<'_>, word: &Word, proof: &Proof, origin: &Origin) -> Result<Taken> {
        let now = self.inner.clock.now();
        let place = subscription_key(&word.user_id, &word.device_id);
        let known: Option<Subscription> = tx.get(SUBSCRIPTIONS, &place)?;
        if let Some(first) = tx.get::<Event>(BILLING_EVENTS, event_key(&word.provider, &word.event_id))? {
            if first.proof.body_sha256 != proof.body_sha256 {
                let detail = "The provider sent another event under this id before; nothing was changed.";
                return Err(Refusal::new(Kind::Conflict, "event_conflict", detail).into());
            }
            // Of a company that was deleted since only the event itself may be left.
            let subscription = known.unwrap_or(Subscription { tenant: first.tenant, word: first.word });
            return Ok(Taken { subscription, waiting: false });
        }
        let mut device = self.device_of(tx, word, known.as_ref().and_then(|k| k.tenant))?;
        let tenant = device.as_ref().map(|d| d.tenant).or_else(|| known.as_ref().and_then(|k| k.tenant));
        let too_many = || {
            let detail = "Too many subscriptions wait for devices that nobody has enrolled. Send it again later.";
            Refusal::new(Kind::Unavailable, "too_many_waiting", detail).retry_after_s(3_600)
        };
        if tenant.is_none() && tx.scan(BILLING_WAITING, &place, WAITING_OF_ONE_MAX)?.len() >= WAITING_OF_ONE_MAX {
            return Err(too_many().into());
        }
        if known.is_none() && tenant.is_none() {
            let waiting = tx.get_raw(META, Key::new().text(WAITING))?.as_deref().and_then(trailing_number);
            if waiting.unwrap_or(0) >= WAITING_MAX {
                return Err(too_many().into());
            }
            count_waiting(tx, |n| n + 1)?;
        }
        let wins = known.as_ref().is_none_or(|k| word.is_after(&k.word));
        let result = match (wins, tenant) {
            (false, _) => EventResult::Overtaken,
            (true, Some(_)) => EventResult::Applied,
            (true, None) => EventResult::Waiting,
        };
        let number = tx.next_number(LAST_NUMBER)?;
        let event = Event {
            tenant,
            number,
            word: word.clone(),
            proof: proof.clone(),
            received_at: now,
            processed_at: now,
            result,
        };
        let by_id = event_key(&word.provider, &word.event_id);
        tx.put_raw(BILLING_EVENT_LOG, log_key(tenant, number), by_id.as_ref())?;
        if tenant.is_none() {
            tx.put_raw(BILLING_WAITING, place.clone().number(number), by_id.as_ref())?;
        }
        tx.put(BILLING_EVENTS, by_id, &event)?;
        let subscription = match known {
            Some(known) if !wins => known,
            _ => Subscription { tenant, word: word.clone() },
        };
        tx.put(SUBSCRIPTIONS, place, &subscription)?;
        self.note(tx, tenant, word, result, origin)?;
        if let Some(device) = device.as_mut().filter(|_| wins) {
            self.pay(device, word, tx);
            self.settle(tx, device, origin)?;
        }
        Ok(Taken { subscription, waiting: result == EventResult::Waiting })
    }

    /// The device of this person and name. Names are unique within a tenant only, so every tenant is asked.
    fn device_of(&self, tx: &mut Tx<'_>, word: &Word, tenant: Option<TenantId>) -> Result<Option<Device>> {
        let Ok(user) = word.user_id.parse::<UserId>() else { return Ok(None) };
        let tenants = match tenant {
            Some(tenant) => vec![tenant],
            None => self.inner.tenants.entries().iter().map(|entry| entry.id).collect(),
        };
        for tenant in tenants {
            if let Some(device) = devices::load(tx, tenant, &word.device_id)?.filter(|d| d.owner == user) {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    /// The log of the tenant; of the first one, while nobody knows whose it is.
    fn note(
        &self,
        tx: &mut Tx<'_>,
        tenant: Option<TenantId>,
        word: &Word,
        result: EventResult,
        origin: &Origin,
    ) -> Result<()> {
        let of = match tenant {
            Some(tenant) => Some(tenant),
            None => tenants::first(tx)?,
        };
        let Some(of) = of else { return Ok(()) };
        let (action, came_of_it) = match result {
            EventResult::Applied => (Action::SubscriptionUpdated, "applied"),
            EventResult::Overtaken => (Action::BillingEventReceived, "overtaken by a later one"),
            EventResult::Waiting => (Action::BillingEventReceived, "waits for its device"),
        };
        let Word { event_id, provider, plan_code, tier, status, .. } = word;
        let why = format!("{event_id} of {provider}: {plan_code} ({}), {status:?}; {came_of_it}", tier.name());
        let mut entry = NewEntry::new(action, origin).device(&word.device_id).reason(why);
        if let Ok(user) = word.user_id.parse() {
            entry = entry.user(user);
        }
        audit::append(tx, of, self.inner.clock.now(), &self.inner.random, &entry).map(drop)
    }

    fn pay(&self, device: &mut Device, word: &Word, tx: &mut Tx<'_>) {
        device.paid = word.paid();
        if let Some(until) = device.paid.and_then(|paid| paid.until) {
            let (this, named) = (self.clone(), (device.tenant, device.id.clone()));
            tx.after_commit(move || this.inner.deadlines.paid(named, until));
        }
    }

    /// A device is being enrolled: gives it what was paid for it before, and begins to watch its trial. The caller saves
    /// the device.
    pub fn welcome(&self, tx: &mut Tx<'_>, device: &mut Device, origin: &Origin) -> Result<()> {
        let (this, named, trial_end) = (self.clone(), (device.tenant, device.id.clone()), device.trial_expires_at);
        tx.after_commit(move || this.inner.deadlines.trial(named, trial_end));
        let place = subscription_key(&device.owner.to_string(), &device.id);
        let Some(mut found) = tx.get::<Subscription>(SUBSCRIPTIONS, &place)? else { return Ok(()) };
        let waited = found.tenant.is_none();
        // Names are unique within a tenant, and a person belongs to one: nobody else's device is meant.
        found.tenant = Some(device.tenant);
        self.pay(device, &found.word, tx);
        if !waited {
            return Ok(());
        }
        tx.put(SUBSCRIPTIONS, &place, &found)?;
        count_waiting(tx, |n| n.saturating_sub(1))?;
        let applied = event_key(&found.word.provider, &found.word.event_id);
        // The one that counts is named here, too: a data file from before others were noted holds it alone.
        let mut all = vec![applied.as_ref().to_vec()];
        for (waiting, by_id) in tx.scan(BILLING_WAITING, &place, WAITING_OF_ONE_MAX)? {
            tx.delete(BILLING_WAITING, waiting)?;
            if by_id != applied.as_ref() {
                all.push(by_id);
            }
        }
        for by_id in all {
            let Some(mut event) = tx.get::<Event>(BILLING_EVENTS, &by_id)? else { continue };
            let counts = by_id == applied.as_ref();
            tx.delete(BILLING_EVENT_LOG, log_key(None, event.number))?;
            tx.put_raw(BILLING_EVENT_LOG, log_key(found.tenant, event.number), &by_id)?;
            event.tenant = found.tenant;
            event.result = if counts { EventResult::Applied } else { EventResult::Overtaken };
            event.processed_at = self.inner.clock.now();
            tx.put(BILLING_EVENTS, &by_id, &event)?;
        }
        self.note(tx, found.tenant, &found.word, EventResult::Applied, origin)
    }

    /// Events about a tenant's devices below `before`, newest first; `None`: those whose devices nobody has enrolled. With
    /// the number to go on below, when there are more.
    pub async fn events(
        &self,
        tenant: Option<TenantId>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Event>, Option<u64>)> {
        let limit = limit.clamp(1, limits::PAGE_MAX);
        self.inner
            .store
            .read_with(move |snapshot| {
                let prefix = Key::new().bytes(tenant.unwrap_or(TenantId::NIL).to_bytes());
                let below = before.map(|number| prefix.clone().number(number));
                let mut places = Vec::new();
                snapshot.visit_back(BILLING_EVENT_LOG, &prefix, below.as_ref(), |_, place| {
                    places.push(place.to_vec());
                    Ok(places.len() <= limit)
                })?;
                let more = places.len() > limit;
                places.truncate(limit);
                let mut events = Vec::with_capacity(places.len());
                for place in places {
                    events.extend(snapshot.get::<Event>(BILLING_EVENTS, Key::new().bytes(place))?);
                }
                let next = events.last().filter(|_| more).map(|e| e.number);
                Ok((events, next))
            })
            .await
    }
}
