//! What a company may have and use: one function decides, inside the transaction that makes what it allows.
//!
//! [`Billing::admit`] reads the tenant's purchase and how much is used already, and refuses or hands out an [`Admitted`],
//! which writes the new use into the same commit. The writer runs changes one after another, so of a hundred who want the
//! last place one gets it. What is over a limit that was lowered stays; only more is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Billing;
use super::plans::Catalogue;
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::metering::{Span, day_at};
use crate::domains::tenants::{self, Feature, Overrides, PlanTier, Purchase, Quota, QuotaPeriod, Retention};
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::store::tables::{
    API_KEYS, DEVICES, INTEGRATIONS, Key, QUOTA_NOTICES, QUOTA_USAGE, TEAMS, Table, USERS, trailing_number,
};
use crate::store::{Snapshot, Tx, codec};

/// More days than any log is kept for; stands for one that is kept for ever.
const AUDIT_DAYS_MAX: u64 = 36_500;

/// How often the log says that a limit is reached.
const NOTICE_EVERY: Duration = Duration::from_secs(3_600);

/// Which word decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// The operator, for this company alone.
    Override,
    /// The vendor's licence.
    Licence,
    /// The company's plan.
    Plan,
    /// What the machine can take.
    Machine,
}

/// How much a company may have of one thing; `most` is `None` for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// The most that is allowed.
    pub most: Option<u64>,
    /// Which word says so.
    pub by: DecidedBy,
}

/// The limit of one quota, by what was bought and what the machine can take.
pub fn limit_of(
    catalogue: &Catalogue,
    purchase: &Purchase,
    quota: Quota,
    machine: Option<u64>,
    now: Timestamp,
) -> Limit {
    let licence = purchase.licence_at(now);
    let plan = catalogue.plan(purchase.plan_at(now));
    let (most, by) = if let Some(most) = purchase.overrides.quotas.get(&quota) {
        (*most, DecidedBy::Override)
    } else if let Some(most) = licence.and_then(|l| l.quotas.get(&quota)) {
        (*most, DecidedBy::Licence)
    } else {
        (plan.quotas.get(&quota).copied().flatten(), DecidedBy::Plan)
    };
    match (most, machine) {
        (Some(most), Some(machine)) if machine < most => Limit { most: Some(machine), by: DecidedBy::Machine },
        (None, Some(machine)) => Limit { most: Some(machine), by: DecidedBy::Machine },
        _ => Limit { most, by },
    }
}

/// Whether a company has a part of the appliance, and which word says so.
pub fn feature_of(catalogue: &Catalogue, purchase: &Purchase, feature: Feature, now: Timestamp) -> (bool, DecidedBy) {
    if let Some(on) = purchase.overrides.features.get(&feature) {
        return (*on, DecidedBy::Override);
    }
    let by = if purchase.licence_at(now).is_some() { DecidedBy::Licence } else { DecidedBy::Plan };
    (catalogue.plan(purchase.plan_at(now)).features.contains(&feature), by)
}

/// The number of the period that holds `now`, and when the next one begins; 0 and never for what has no periods.
fn period_of(quota: Quota, now: Timestamp) -> (u64, Option<Timestamp>) {
    let span = match quota.period() {
        QuotaPeriod::Standing => return (0, None),
        QuotaPeriod::Day => Span::Day,
        QuotaPeriod::Month => Span::Month,
    };
    let number = span.number(day_at(now));
    let next_day = i64::try_from(span.first_day(number + 1)).unwrap_or(0);
    (number, Some(Timestamp::from_millis(next_day.saturating_mul(86_400_000))))
}

/// Where the things are that a quota counts, for those that exist.
const fn rows_of(quota: Quota) -> Option<Table> {
    match quota {
        Quota::Devices => Some(DEVICES),
        Quota::Users => Some(USERS),
        Quota::Teams => Some(TEAMS),
        Quota::ApiKeys => Some(API_KEYS),
        Quota::Integrations => Some(INTEGRATIONS),
        _ => None,
    }
}

fn usage_key(tenant: TenantId, quota: Quota, period: u64) -> Key {
    Key::new().bytes(tenant.to_bytes()).text(quota.name()).number(period)
}

/// A place that was found free. It counts once it is noted, in the same transaction.
#[must_use = "what is made without noting its place is never counted"]
pub struct Admitted {
    key: Key,
    used: u64,
}

impl Admitted {
    /// Counts what is being made.
    pub fn note(self, tx: &mut Tx<'_>) -> Result<()> {
        tx.put_raw(QUOTA_USAGE, self.key, &self.used.to_be_bytes())
    }
}

fn used_in(tx: &mut Tx<'_>, tenant: TenantId, quota: Quota, period: u64) -> Result<u64> {
    let noted = tx.get_raw(QUOTA_USAGE, usage_key(tenant, quota, period))?;
    if let Some(used) = noted.as_deref().and_then(trailing_number) {
        return Ok(used);
    }
    // The first look counts what is there; from then on the number is kept.
    let mut used = 0;
    if let Some(table) = rows_of(quota) {
        tx.visit(table, &Key::new().bytes(tenant.to_bytes()), |_, _| {
            used += 1;
            Ok(true)
        })?;
    }
    Ok(used)
}

/// One quota of a company.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Entitlement)]
pub struct EntitlementView {
    /// What is limited.
    pub quota: Quota,
    /// The most that is allowed; null: no limit.
    pub limit: Option<u64>,
    /// How much there is, or was used in this period; of `audit_days` how long the log is kept (36500: for ever).
    pub used: u64,
    /// How much more is allowed; null: no limit.
    pub remaining: Option<u64>,
    /// When it counts anew.
    pub period: QuotaPeriod,
    /// When the next period begins; null for what exists and does not pass.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub resets_at: Option<Timestamp>,
    /// Which word decides.
    pub decided_by: DecidedBy,
}

/// Everything that a company may have.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Entitlements {
    /// The plan that counts, by purchase or licence.
    pub plan: PlanTier,
    /// The licence in force, by the vendor's name for it.
    pub licence_id: Option<String>,
    /// Parts of the appliance, on or off.
    #[schema(value_type = std::collections::HashMap<String, bool>)]
    pub features: BTreeMap<&'static str, bool>,
    /// All limits.
    pub quotas: Vec<EntitlementView>,
}

impl Billing {
    /// Decides whether a company may have `wanted` more of something. Writes nothing: note what it gives in the same
    /// transaction, behind everything that may still refuse.
    ///
    /// # Errors
    /// 403 `quota_exceeded` with the limit, what is used and the plan.
    pub fn admit(&self, tx: &mut Tx<'_>, tenant: TenantId, quota: Quota, wanted: u64) -> Result<Admitted> {
        self.admit_beside(tx, tenant, quota, wanted, 0)
    }

    /// As [`Billing::admit`], where `freed` of what is counted ended by itself and is removed in the same transaction.
    pub fn admit_beside(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        quota: Quota,
        wanted: u64,
        freed: u64,
    ) -> Result<Admitted> {
        let now = self.inner.clock.now();
        // A company that is being made has no row yet; its first person always has a place.
        let purchase = tenants::load(tx, tenant)?.map(|row| row.purchase).unwrap_or_default();
        let (period, resets_at) = period_of(quota, now);
        let used = used_in(tx, tenant, quota, period)?.saturating_sub(freed);
        let decided = self.decide(&purchase, quota, used, wanted, resets_at, now);
        if decided.is_err() {
            self.note_exceeded(tenant, quota, now);
        }
        decided?;
        Ok(Admitted { key: usage_key(tenant, quota, period), used: used.saturating_add(wanted) })
    }

    /// Notes in the log that a limit is reached, once an hour. A refusal leaves no trace in its own transaction, so this
    /// is one of its own, behind it; what comes too often is kept from the queue by memory.
    fn note_exceeded(&self, tenant: TenantId, quota: Quota, now: Timestamp) {
        let key = (tenant, quota);
        let last = self.inner.exceeded.pin().get(&key).copied();
        if last.is_some_and(|last| now.since(last) < NOTICE_EVERY) {
            return;
        }
        let this = self.clone();
        // A full queue loses the note; the next refusal brings another.
        let _ = self.inner.store.post(move |tx| this.note_exceeded_in(tx, tenant, quota));
    }

    fn note_exceeded_in(&self, tx: &mut Tx<'_>, tenant: TenantId, quota: Quota) -> Result<()> {
        let now = self.inner.clock.now();
        let place = Key::new().bytes(tenant.to_bytes()).text(quota.name());
        let noted = tx.get_raw(QUOTA_NOTICES, &place)?.as_deref().and_then(trailing_number);
        let noted = noted.and_then(|ms| i64::try_from(ms).ok()).map(Timestamp::from_millis);
        let fresh = noted.is_some_and(|at| now.since(at) < NOTICE_EVERY);
        let Some(row) = tenants::load(tx, tenant)?.filter(|_| !fresh) else { return Ok(()) };
        let (period, _) = period_of(quota, now);
        let used = used_in(tx, tenant, quota, period)?;
        let most = self.limit(&row.purchase, quota, now).most.map_or_else(|| "no limit".to_owned(), |n| n.to_string());
        let why = format!("{}: {used} of {most} ({})", quota.name(), row.purchase.plan_at(now).name());
        let entry = NewEntry::new(Action::QuotaExceeded, &Origin::system()).level(ThreatLevel::Low).reason(why);
        audit::append(tx, tenant, now, &self.inner.random, &entry)?;
        tx.put_raw(QUOTA_NOTICES, place, &u64::try_from(now.as_millis()).unwrap_or(0).to_be_bytes())?;
        let inner = std::sync::Arc::clone(&self.inner);
        tx.after_commit(move || {
            inner.exceeded.pin().insert((tenant, quota), now);
        });
        Ok(())
    }

    /// The one decision.
    fn decide(
        &self,
        purchase: &Purchase,
        quota: Quota,
        used: u64,
        wanted: u64,
        resets_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<()> {
        let limit = self.limit(purchase, quota, now);
        let Some(most) = limit.most.filter(|most| used.saturating_add(wanted) > *most) else { return Ok(()) };
        let plan = purchase.plan_at(self.licence_time(now));
        let detail = format!(
            "The company has {used} of {most} {} that its plan ({}) allows. Remove some, or ask for a larger plan.",
            quota.name(),
            plan.name()
        );
        let extra = serde_json::json!({
            "quota": quota, "limit": most, "used": used, "plan": plan, "resets_at": resets_at, "decided_by": limit.by,
        });
        let refusal = Refusal::new(Kind::Forbidden, "quota_exceeded", detail);
        Err(Refusal { extra: extra.as_object().cloned().map(Box::new), ..refusal }.into())
    }

    /// Refuses a setting beyond what was bought, such as days for which the log is kept.
    ///
    /// # Errors
    /// 403 `quota_exceeded`.
    pub fn check_setting(&self, purchase: &Purchase, quota: Quota, value: u64) -> Result<()> {
        self.decide(purchase, quota, 0, value, None, self.inner.clock.now())
    }

    /// How long a company's log is kept where nobody says: as long as what it bought allows.
    pub fn retention_of(&self, purchase: &Purchase) -> Retention {
        let most = self.limit(purchase, Quota::AuditDays, self.inner.clock.now()).most;
        let days = most.filter(|days| *days <= AUDIT_DAYS_MAX).and_then(|days| u32::try_from(days).ok());
        Retention { audit_days: days.map(|days| days.max(1)) }
    }

    /// Counts that something which exists is being removed, in the transaction that removes it: before its row goes.
    pub fn release(&self, tx: &mut Tx<'_>, tenant: TenantId, quota: Quota) -> Result<()> {
        let used = used_in(tx, tenant, quota, 0)?;
        tx.put_raw(QUOTA_USAGE, usage_key(tenant, quota, 0), &used.saturating_sub(1).to_be_bytes())
    }

    fn limit(&self, purchase: &Purchase, quota: Quota, now: Timestamp) -> Limit {
        let machine = (quota == Quota::Devices).then_some(self.inner.settings.devices_max);
        limit_of(&self.catalogue(), purchase, quota, machine, self.licence_time(now))
    }

    /// Refuses a part of the appliance that the company does not have.
    ///
    /// # Errors
    /// 403 `feature_not_included`.
    pub fn require(&self, tx: &mut Tx<'_>, tenant: TenantId, feature: Feature) -> Result<()> {
        let now = self.licence_time(self.inner.clock.now());
        let purchase = tenants::load(tx, tenant)?.ok_or_else(Refusal::not_found)?.purchase;
        if feature_of(&self.catalogue(), &purchase, feature, now).0 {
            return Ok(());
        }
        let plan = purchase.plan_at(now);
        let detail = format!("{} is no part of the company's plan ({}).", feature.name(), plan.name());
        let refusal = Refusal::new(Kind::Forbidden, "feature_not_included", detail);
        let extra = serde_json::json!({ "feature": feature, "plan": plan });
        Err(Refusal { extra: extra.as_object().cloned().map(Box::new), ..refusal }.into())
    }

    /// Whether a company has a part of the appliance, and which word says so; from memory.
    pub fn explain_feature(&self, tenant: TenantId, feature: Feature) -> (bool, DecidedBy) {
        let purchase = self.inner.tenants.entry(tenant).map(|t| t.tenant().purchase.clone()).unwrap_or_default();
        feature_of(&self.catalogue(), &purchase, feature, self.licence_time(self.inner.clock.now()))
    }

    /// Everything that a company may have, and what it uses of it.
    pub async fn entitlements(&self, tenant: TenantId) -> Result<Entitlements> {
        let now = self.inner.clock.now();
        let row = self.inner.tenants.entry(tenant).ok_or_else(Refusal::not_found)?.tenant();
        let purchase = row.purchase.clone();
        let used = self.inner.store.read_with(move |snapshot| all_used(snapshot, tenant, now)).await?;
        let kept = row.retention.audit_days.map_or(AUDIT_DAYS_MAX, u64::from);
        let view = |(quota, used): (Quota, u64)| {
            let used = if quota == Quota::AuditDays { kept } else { used };
            let limit = self.limit(&purchase, quota, now);
            EntitlementView {
                quota,
                limit: limit.most,
                used,
                remaining: limit.most.map(|most| most.saturating_sub(used)),
                period: quota.period(),
                resets_at: period_of(quota, now).1,
                decided_by: limit.by,
            }
        };
        let (catalogue, licensed) = (self.catalogue(), self.licence_time(now));
        let on = |f: &Feature| (f.name(), feature_of(&catalogue, &purchase, *f, licensed).0);
        let features = Feature::ALL.iter().map(on).collect();
        Ok(Entitlements {
            plan: purchase.plan_at(licensed),
            licence_id: purchase.licence_at(licensed).map(|licence| licence.id.clone()),
            features,
            quotas: used.into_iter().map(view).collect(),
        })
    }

    /// Grants or takes beyond the plan; what was granted before is replaced as a whole.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn set_overrides(
        &self,
        tenant: TenantId,
        overrides: Overrides,
        by: UserId,
        origin: Origin,
    ) -> Result<Entitlements> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let mut row = tenants::load(tx, tenant)?.ok_or_else(Refusal::not_found)?;
                row.purchase.overrides = overrides.clone();
                tenants::save(tx, Some(&this.inner.tenants), &row)?;
                let what = serde_json::to_string(&overrides).unwrap_or_default();
                let own = NewEntry::new(Action::EntitlementsChanged, &Origin::system()).reason(what.clone());
                let first = tenants::first(tx)?;
                // Who did it belongs to the appliance's company; the tenant learns what was done to it.
                if first != Some(tenant) {
                    audit::append(tx, tenant, now, &this.inner.random, &own)?;
                }
                let Some(first) = first else { return Ok(()) };
                let noted = NewEntry::new(Action::EntitlementsChanged, &origin).user(by);
                let noted = noted.reason(format!("{:?} ({tenant}): {what}", row.name));
                audit::append(tx, first, now, &this.inner.random, &noted).map(drop)
            })
            .await?;
        self.entitlements(tenant).await
    }
}

/// What says when a credential ends.
#[derive(Deserialize)]
struct Ends {
    expires_at: Timestamp,
}

/// Credentials that are not alive any more and whose rows are still there.
fn ended(snapshot: &Snapshot, tenant: TenantId, now: Timestamp) -> Result<u64> {
    let mut ended = 0;
    snapshot.visit_prefix(API_KEYS, &Key::new().bytes(tenant.to_bytes()), |_, row| {
        ended += u64::from(codec::member_of::<Ends>(row).is_some_and(|ends| ends.expires_at <= now));
        Ok(true)
    })?;
    Ok(ended)
}

fn all_used(snapshot: &Snapshot, tenant: TenantId, now: Timestamp) -> Result<Vec<(Quota, u64)>> {
    let mut out = Vec::with_capacity(Quota::ALL.len());
    for quota in Quota::ALL {
        let noted = snapshot.get_raw(QUOTA_USAGE, usage_key(tenant, *quota, period_of(*quota, now).0))?;
        let used = match noted.as_deref().and_then(trailing_number) {
            Some(used) => used,
            None => {
                let mut used = 0;
                if let Some(table) = rows_of(*quota) {
                    snapshot.visit_prefix(table, &Key::new().bytes(tenant.to_bytes()), |_, _| {
                        used += 1;
                        Ok(true)
                    })?;
                }
                used
            }
        };
        let used = match quota {
            Quota::ApiKeys => used.saturating_sub(ended(snapshot, tenant, now)?),
            _ => used,
        };
        out.push((*quota, used));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::domains::tenants::Licence;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_operator_outranks_the_licence_which_outranks_the_plan_and_the_machine_bounds_them_all() {
        let catalogue = Catalogue::with("").unwrap();
        let now = at("2026-03-01T00:00:00Z");
        let mut purchase = Purchase { plan: PlanTier::PaidBasic, ..Purchase::default() };
        let of = |purchase: &Purchase, machine| limit_of(&catalogue, purchase, Quota::Devices, machine, now);
        assert_eq!(of(&purchase, None), Limit { most: Some(1_000), by: DecidedBy::Plan });
        purchase.licence = Some(Licence {
            id: "L".to_owned(),
            plan: PlanTier::Paid,
            quotas: [(Quota::Devices, Some(5_000))].into(),
            covers_devices: false,
            issued_at: now,
            expires_at: at("2026-04-01T00:00:00Z"),
            jws: String::new(),
        });
        assert_eq!(of(&purchase, None), Limit { most: Some(5_000), by: DecidedBy::Licence });
        assert_eq!(of(&purchase, Some(4_000)), Limit { most: Some(4_000), by: DecidedBy::Machine });
        purchase.overrides.quotas.insert(Quota::Devices, None);
        assert_eq!(of(&purchase, None), Limit { most: None, by: DecidedBy::Override });
        assert_eq!(of(&purchase, Some(9)), Limit { most: Some(9), by: DecidedBy::Machine });
        purchase.overrides.quotas.insert(Quota::Devices, Some(0));
        assert_eq!(of(&purchase, Some(9)), Limit { most: Some(0), by: DecidedBy::Override });
        purchase.overrides = Overrides::default();
        let later = at("2026-04-01T00:00:00Z");
        let ended = limit_of(&catalogue, &purchase, Quota::Devices, None, later);
        assert_eq!(ended, Limit { most: Some(1_000), by: DecidedBy::Plan }, "a licence that ended says nothing");
        let (on, by) = feature_of(&catalogue, &purchase, Feature::Assistant, now);
        assert_eq!((on, by), (true, DecidedBy::Licence));
        assert_eq!(feature_of(&catalogue, &purchase, Feature::Assistant, later), (false, DecidedBy::Plan));
    }

    #[test]
    fn a_day_and_a_month_begin_at_midnight_utc() {
        for (quota, now, resets) in [
            (Quota::ScansPerDay, "2026-02-28T23:59:59.999Z", "2026-03-01T00:00:00Z"),
            (Quota::ScansPerDay, "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"),
            (Quota::ReportsPerMonth, "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"),
            (Quota::ReportsPerMonth, "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
        ] {
            let (number, next) = period_of(quota, at(now));
            assert_eq!(next, Some(at(resets)), "{now}");
            assert_eq!(period_of(quota, at(resets)).0, number + 1, "{now}");
        }
        assert_eq!(period_of(Quota::Users, at("2026-01-01T00:00:00Z")), (0, None));
    }
}
