//! Who must pay: decided in memory at each request of a device, and told to the device at the moment it begins.
//!
//! A device must pay when its trial is over, nothing is paid for it and no licence of its tenant covers it. That is worked
//! out anew at each request from a few atomic words, so access is back the moment a payment is durable. Telling the device
//! is a durable command, `BILLING_EXPIRED`; [`Billing::settle`] keeps it in line with the fact, in one place for events,
//! deadlines and licences.

use std::time::Duration;

use serde::Serialize;

use super::subscription::{Status, Subscription};
use super::trial_clock::{ClockRow, Step};
use super::{Billing, Paywall, events};
use crate::domains::audit::{self, NewEntry, ThreatLevel};
use crate::domains::devices::{self, Device, DeviceEntry};
use crate::domains::killswitch::{Action, CloseReason, NewCommand, Outgoing};
use crate::domains::tenants::{PlanTier, TenantEntry};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::store::Tx;
use crate::store::tables::{Key, META};

/// Devices that one commit tells.
const TOLD_AT_ONCE: usize = 100;
/// How long before the end of a trial the operator is warned, and how often.
const WARN_BEFORE: Duration = Duration::from_secs(2 * DAY_S);
const WARN_EVERY: Duration = Duration::from_secs(DAY_S);
const DAY_S: u64 = 86_400;
pub(super) const CLOCK: &str = "trial_clock";

/// How a device stands with billing, as on the wire.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct BillingStatus {
    /// `trial`, `active`, `past_due`, `cancelled` or `expired`.
    pub status: Status,
    /// The plan that counts.
    pub plan: PlanTier,
    /// Whether it is paid for.
    pub premium: bool,
    /// Whether it is on its trial.
    pub trial: bool,
    /// Whether the trial is over, paid or not.
    pub trial_expired: bool,
    /// Whole days of trial that are left, a begun day counting as one.
    pub trial_days_remaining: u64,
    /// Whether the device may act.
    pub is_active: bool,
    /// When that ends; null: when somebody ends it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Which device.
    #[schema(value_type = String)]
    pub device_id: DeviceId,
}

/// Unpaid devices on the appliance, for who looks after it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TrialSummary {
    /// On trial, for two days at most.
    pub ending_soon: usize,
    /// Their trial is over and they are refused.
    pub refused: usize,
}

impl Billing {
    /// Whether a device of this tenant is refused until somebody pays. Reads a few words of memory and waits for nobody.
    pub fn must_pay(&self, entry: &DeviceEntry, tenant: &TenantEntry, now: Timestamp) -> bool {
        let trial_now = self.inner.trial_clock.at(now);
        entry.trial_is_over(trial_now)
            && entry.paid_tier(now).is_none()
            && self.inner.settings.paywall == Paywall::Device
            && tenant.covering_plan(trial_now).is_none()
    }

    /// What counts for a device at this moment: its own subscription or its tenant's licence, whichever gives more. Where
    /// there is neither and nobody has to pay for devices, its tenant's plan.
    pub fn tier(&self, entry: &DeviceEntry, tenant: &TenantEntry, now: Timestamp) -> PlanTier {
        self.tier_of(entry.paid_tier(now), Some(tenant), now)
    }

    /// The time by which licences end, at the machine's `now`.
    pub fn licence_time(&self, now: Timestamp) -> Timestamp {
        self.inner.trial_clock.at(now)
    }

    /// What a clock on the wall shows at the end of a trial, such as [`Device::trial_expires_at`].
    pub fn shown(&self, trial_end: Timestamp) -> Timestamp {
        self.inner.trial_clock.shown(trial_end)
    }

    /// The one place that says what counts.
    fn tier_of(&self, paid: Option<PlanTier>, tenant: Option<&TenantEntry>, now: Timestamp) -> PlanTier {
        let trial_now = self.inner.trial_clock.at(now);
        if let Some(tier) = paid.max(tenant.and_then(|tenant| tenant.covering_plan(trial_now))) {
            return tier;
        }
        match self.inner.settings.paywall {
            Paywall::Device => PlanTier::Trial,
            Paywall::Off => tenant.map_or(PlanTier::Trial, |tenant| tenant.tenant().purchase.plan_at(trial_now)),
        }
    }

    /// As [`Billing::must_pay`], by a row.
    fn row_must_pay(&self, device: &Device, now: Timestamp) -> bool {
        let trial_now = self.inner.trial_clock.at(now);
        let covered = || self.inner.tenants.entry(device.tenant).is_some_and(|t| t.covering_plan(trial_now).is_some());
        self.inner.settings.paywall == Paywall::Device
            && trial_now >= device.trial_expires_at
            && device.paid_tier(now).is_none()
            && !covered()
    }

    /// When the trial of a device ends that is registered now.
    pub fn trial_end(&self, now: Timestamp) -> Timestamp {
        self.inner.trial_clock.at(now).plus(self.inner.settings.trial)
    }

    /// How long a refresh token of this device lives after its last use.
    pub fn refresh_ttl(&self, device: &Device, now: Timestamp) -> Option<Duration> {
        let tenant = self.inner.tenants.entry(device.tenant);
        let tier = self.tier_of(device.paid_tier(now), tenant.as_deref(), now);
        self.catalogue().plan(tier).refresh
    }

    /// 402, with how the device stands.
    pub fn payment_required(&self, entry: &DeviceEntry, now: Timestamp) -> Refusal {
        let status = self.status_by(&entry.device(), None, now);
        let detail = "The device's trial is over and nothing is paid for it. Its kill switch goes on working.";
        let mut extra = match serde_json::to_value(&status) {
            Ok(serde_json::Value::Object(members)) => members,
            _ => serde_json::Map::new(),
        };
        // In a problem document this is the HTTP status.
        extra.remove("status");
        let extra = Some(Box::new(extra));
        Refusal { extra, ..Refusal::new(Kind::PaymentRequired, "trial_expired", detail) }
    }

    /// How a device stands.
    ///
    /// # Errors
    /// 402 `trial_expired` once nothing is paid for it and its trial is over.
    pub async fn status(&self, entry: &DeviceEntry) -> Result<BillingStatus> {
        let (now, device) = (self.inner.clock.now(), entry.device());
        if self.row_must_pay(&device, now) {
            return Err(self.payment_required(entry, now).into());
        }
        let row = device.clone();
        let subscription = self.inner.store.read_with(move |s| events::subscription_of(s, &row)).await?;
        Ok(self.status_by(&device, subscription.as_ref(), now))
    }

    /// The subscription of a device; `None` where no gateway ever spoke of it.
    pub async fn subscription(&self, entry: &DeviceEntry) -> Result<Option<Subscription>> {
        let device = entry.device();
        self.inner.store.read_with(move |s| events::subscription_of(s, &device)).await
    }

    pub(super) fn status_by(
        &self,
        device: &Device,
        subscription: Option<&Subscription>,
        now: Timestamp,
    ) -> BillingStatus {
        let trial_now = self.inner.trial_clock.at(now);
        let trial_expired = trial_now >= device.trial_expires_at;
        let left = device.trial_expires_at.since(trial_now).as_secs().div_ceil(DAY_S);
        let entry = self.inner.tenants.entry(device.tenant);
        let plan = self.tier_of(device.paid_tier(now), entry.as_deref(), now);
        let tenant = entry.map(|t| t.tenant());
        let licence = tenant.as_ref().and_then(|t| t.purchase.licence_at(trial_now)).filter(|l| l.covers_devices);
        let shown = Some(self.shown(device.trial_expires_at));
        let free = self.inner.settings.paywall == Paywall::Off;
        let said = subscription.map(|s| s.word.status);
        // Whichever gives more also says until when.
        let paid = device.paid_tier(now).filter(|tier| licence.is_none_or(|licence| licence.plan <= *tier));
        let (status, expires_at) = if paid.is_some() {
            (said.unwrap_or(Status::Active), device.paid.and_then(|paid| paid.until))
        } else if let Some(licence) = licence {
            (Status::Active, Some(licence.expires_at))
        } else if free {
            (Status::Active, None)
        } else if trial_expired {
            (said.filter(|s| *s == Status::Cancelled).unwrap_or(Status::Expired), shown)
        } else {
            (Status::Trial, shown)
        };
        BillingStatus {
            status,
            plan,
            premium: matches!(status, Status::Active | Status::PastDue),
            trial: status == Status::Trial,
            trial_expired,
            trial_days_remaining: left,
            is_active: !matches!(status, Status::Cancelled | Status::Expired),
            expires_at,
            device_id: device.id.clone(),
        }
    }

    /// Brings what the device was told in line with whether it must pay, in the caller's transaction, and saves it.
    pub(super) fn settle(&self, tx: &mut Tx<'_>, device: &mut Device, origin: &Origin) -> Result<()> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let must_pay = self.row_must_pay(device, now);
        if must_pay && !device.told_to_pay {
            device.told_to_pay = true;
            let why = "The trial is over and nothing is paid for the device.";
            let entry = NewEntry::new(audit::Action::PaymentRequired, origin)
                .device(&device.id)
                .user(device.owner)
                .level(ThreatLevel::Low)
                .reason(why);
            audit::append(tx, device.tenant, now, &inner.random, &entry)?;
            inner.killswitch.issue(tx, device, &NewCommand::new(Action::BillingExpired, why), origin)?;
            // A blocked device keeps its socket: it is the way in for its release.
            if !device.is_blocked() {
                let (hub, no) = (inner.killswitch.hub().clone(), device.no);
                tx.after_commit(move || hub.send(no, Outgoing::Close(CloseReason::Paywall)));
            }
        } else if !must_pay && device.told_to_pay {
            device.told_to_pay = false;
            let why = "The device is paid for again.";
            let entry = NewEntry::new(audit::Action::PaymentSettled, origin).device(&device.id).reason(why);
            audit::append(tx, device.tenant, now, &inner.random, &entry)?;
            if !device.is_blocked() {
                inner.killswitch.issue(tx, device, &NewCommand::new(Action::Unlock, why), origin)?;
            }
        }
        devices::save(tx, &inner.devices, device)
    }

    /// Watches trials and paid time from now on; ends with its task.
    pub async fn watch(&self) {
        const TICK: Duration = Duration::from_millis(200);
        loop {
            if let Err(e) = self.tick().await {
                tracing::warn!(error = %e, "the end of trials was not settled and will be tried again");
            }
            tokio::time::sleep(TICK).await;
        }
    }

    async fn tick(&self) -> Result<()> {
        let inner = &self.inner;
        let now = inner.clock.now();
        match inner.trial_clock.observe(now, inner.clock.lived()) {
            Step::None => {}
            Step::Back(by) => {
                tracing::warn!(back_s = by.as_secs(), "the clock was set back; trials go on as if it had not been");
                // Where that takes a step forward back, ends have come that are ahead again.
                inner.told_anew.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            Step::Forward(by) => tracing::warn!(forward_s = by.as_secs(), "the clock was set forward"),
        }
        self.store_clock().await?;
        if inner.told_anew.load(std::sync::atomic::Ordering::Relaxed) {
            let all = inner.devices.entries();
            inner.deadlines.replace(&all);
            self.settle_all(all.iter().map(|e| (e.tenant, e.id.clone())).collect()).await?;
            inner.told_anew.store(false, std::sync::atomic::Ordering::Relaxed);
        }
        self.warn_of_trials(now);
        self.uncovered(now).await?;
        loop {
            let due = inner.deadlines.due(now, inner.trial_clock.at(now), TOLD_AT_ONCE);
            if due.is_empty() {
                return Ok(());
            }
            if let Err(e) = self.settle_all(due.clone()).await {
                // They stay due.
                due.into_iter().for_each(|named| inner.deadlines.trial(named, now));
                return Err(e);
            }
        }
    }

    /// Settles those of the named devices whose facts changed.
    pub(super) async fn settle_all(&self, named: Vec<(TenantId, DeviceId)>) -> Result<()> {
        let now = self.inner.clock.now();
        let unsettled = |(tenant, id): &(TenantId, DeviceId)| {
            let entry = self.inner.devices.entry(*tenant, id);
            entry.is_some_and(|e| self.row_must_pay(&e.device(), now) != e.device().told_to_pay)
        };
        let named: Vec<_> = named.into_iter().filter(unsettled).collect();
        for some in named.chunks(TOLD_AT_ONCE) {
            let (this, some) = (self.clone(), some.to_vec());
            let change = move |tx: &mut Tx<'_>| {
                for (tenant, id) in &some {
                    if let Some(mut device) = devices::load(tx, *tenant, id)? {
                        this.settle(tx, &mut device, &Origin::system())?;
                    }
                }
                Ok(())
            };
            self.inner.store.write(change).await?;
        }
        Ok(())
    }

    /// Devices of tenants whose licence came or went since the last look. One whose devices could not be told yet stays to
    /// be looked at.
    pub(super) async fn uncovered(&self, now: Timestamp) -> Result<()> {
        let covered = || self.inner.covered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let trial_now = self.inner.trial_clock.at(now);
        for tenant in self.inner.tenants.entries() {
            let is = tenant.covering_plan(trial_now).is_some();
            if is == covered().contains(&tenant.id) {
                continue;
            }
            let named = self.inner.devices.of_tenant(tenant.id).iter().map(|e| (e.tenant, e.id.clone())).collect();
            self.settle_all(named).await?;
            if is {
                covered().insert(tenant.id)
            } else {
                covered().remove(&tenant.id)
            };
        }
        Ok(())
    }

    async fn store_clock(&self) -> Result<()> {
        let stored = || self.inner.clock_stored.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let row = self.inner.trial_clock.row();
        if !row.is_due_after(stored().as_ref()) {
            return Ok(());
        }
        self.inner.store.write(move |tx| tx.put::<ClockRow>(META, Key::new().text(CLOCK), &row)).await?;
        *stored() = Some(row);
        Ok(())
    }

    /// Unpaid devices, of all tenants together; looks at every device.
    pub fn trials(&self) -> TrialSummary {
        let now = self.inner.clock.now();
        let soon = self.inner.trial_clock.at(now).plus(WARN_BEFORE);
        let mut summary = TrialSummary { ending_soon: 0, refused: 0 };
        if self.inner.settings.paywall == Paywall::Off {
            return summary;
        }
        for entry in self.inner.devices.entries() {
            let device = entry.device();
            if self.row_must_pay(&device, now) {
                summary.refused += 1;
            } else if entry.paid_tier(now).is_none()
                && soon >= device.trial_expires_at
                && self
                    .inner
                    .tenants
                    .entry(entry.tenant)
                    .is_some_and(|t| t.covering_plan(self.inner.trial_clock.at(now)).is_none())
            {
                summary.ending_soon += 1;
            }
        }
        summary
    }

    fn warn_of_trials(&self, now: Timestamp) {
        use std::sync::atomic::Ordering::Relaxed;
        let last = Timestamp::from_millis(self.inner.warned_ms.load(Relaxed));
        if now.since(last) < WARN_EVERY {
            return;
        }
        self.inner.warned_ms.store(now.as_millis(), Relaxed);
        let TrialSummary { ending_soon, refused } = self.trials();
        if ending_soon + refused > 0 {
            tracing::warn!(
                ending_soon,
                refused,
                "trials end within two days or are over; pay, install a licence, or set billing.paywall = \"off\""
            );
        }
    }
}
