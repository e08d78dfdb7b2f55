//! Companies as the administrator of the appliance makes, changes, shuts out and removes them.
//!
//! It lives here because making one makes its first administrator, and removing one removes people and sessions. What is
//! done to a tenant stands in its own log, without whose hand it was, and with all of it in the log of the first tenant.

use serde::{Deserialize, Serialize};

use super::Iam;
use super::links::{OneTimeLink, Purpose};
use super::permission::{Role, RoleName};
use super::users::{self, NewUser};
use crate::crypto::Secret;
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::devices;
use crate::domains::killswitch::{CloseReason, Outgoing};
use crate::domains::tenants::{
    self, AttestationPolicy, EnrollmentPolicy, PlanTier, Purchase, Quota, Retention, Tenant, TenantState, Tenants,
};
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result};
use crate::store::idempotency::{self, Once};
use crate::store::tables::TENANTS;
use crate::store::{Key, Tx};

/// A tenant to be.
#[derive(Clone, Debug)]
pub struct NewTenant {
    /// Unique on the appliance; upper and lower case are the same.
    pub name: String,
    /// Who may enroll a device.
    pub enrollment: EnrollmentPolicy,
    /// Whether a new device must attest its hardware.
    pub attestation: AttestationPolicy,
    /// BCP 47 tag.
    pub locale: String,
    /// How long data is kept; `None`: as long as its plan allows.
    pub retention: Option<Retention>,
    /// What it has bought.
    pub plan: PlanTier,
    /// Who administers it; `None`: nobody yet.
    pub admin: Option<NewAdmin>,
}

/// A tenant's first administrator to be.
#[derive(Clone, Debug)]
pub struct NewAdmin {
    /// Unique on the appliance; upper and lower case are the same.
    pub username: String,
    /// Never logged; `None`: they choose it by an invitation.
    pub password: Option<Secret>,
}

/// What of a tenant is to be another; `None`: as it is.
#[derive(Clone, Debug, Default)]
pub struct TenantChange {
    /// Unique on the appliance; upper and lower case are the same.
    pub name: Option<String>,
    /// Whether it is shut out.
    pub suspended: Option<bool>,
    /// Why, in words; counts only for one that is shut out now.
    pub suspend_reason: Option<String>,
    /// Who may enroll a device.
    pub enrollment: Option<EnrollmentPolicy>,
    /// Whether a new device must attest its hardware.
    pub attestation: Option<AttestationPolicy>,
    /// BCP 47 tag.
    pub locale: Option<String>,
    /// How long data is kept.
    pub retention: Option<Retention>,
    /// What it has bought.
    pub plan: Option<PlanTier>,
}

/// Who administers a tenant from its beginning.
#[derive(Clone, Serialize, Deserialize)]
pub struct FirstAdmin {
    /// `usr_...`
    pub id: UserId,
    /// What they log in with.
    pub username: String,
    /// Where they have no password yet.
    #[serde(default)]
    pub invitation: Option<OneTimeLink>,
}

/// A tenant that was just made.
#[derive(Clone, Serialize, Deserialize)]
pub struct Made {
    /// The tenant.
    pub tenant: Tenant,
    /// Who administers it, where somebody does.
    pub admin: Option<FirstAdmin>,
}

/// A tenant and how many it has.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The tenant.
    pub tenant: Tenant,
    /// Enrolled devices.
    pub devices: usize,
    /// People.
    pub users: usize,
}

/// Why a tenant is shut out, where nobody said.
const NO_REASON: &str = "by the administrator of the appliance";

impl Iam {
    /// Living tenants behind `after`, oldest first, and the one to go on after when there are more.
    pub async fn tenants(&self, after: Option<TenantId>, limit: usize) -> Result<(Vec<Counted>, Option<TenantId>)> {
        let this = self.clone();
        self.inner
            .store
            .read_with(move |snapshot| {
                let (page, next) = Tenants::page(snapshot, after, limit)?;
                Ok((this.counted(page), next))
            })
            .await
    }

    /// One tenant.
    ///
    /// # Errors
    /// `not_found` also for a deleted one.
    pub async fn tenant(&self, id: TenantId) -> Result<Counted> {
        let this = self.clone();
        self.inner
            .store
            .read_with(move |snapshot| {
                let found: Option<Tenant> = snapshot.get(TENANTS, Key::new().bytes(id.to_bytes()))?;
                let living = found.filter(|t| !t.is_deleted()).ok_or_else(Refusal::not_found)?;
                this.counted(vec![living]).pop().ok_or_else(|| Refusal::not_found().into())
            })
            .await
    }

    /// Walks through people and devices once, however many tenants are asked for: not on a thread that serves.
    fn counted(&self, page: Vec<Tenant>) -> Vec<Counted> {
        let (devices, users) = (self.inner.devices.tally(), self.inner.directory.tally());
        let of = |counts: &std::collections::HashMap<TenantId, usize>, id| counts.get(&id).copied().unwrap_or(0);
        page.into_iter()
            .map(|tenant| Counted { devices: of(&devices, tenant.id), users: of(&users, tenant.id), tenant })
            .collect()
    }

    /// Makes a tenant, and its first administrator where one is named. A repeat with the same idempotency key, by the
    /// same tenant's administrator, gets the first answer and does nothing.
    ///
    /// # Errors
    /// 409 `name_taken`, `username_taken`, `tenant_limit_reached`.
    pub async fn create_tenant(
        &self,
        new: NewTenant,
        own: TenantId,
        once: Option<Once>,
        by: UserId,
        origin: Origin,
    ) -> Result<Made> {
        let hash = match new.admin.as_ref().and_then(|admin| admin.password.clone().map(|p| (p, &admin.username))) {
            Some((password, username)) => {
                self.acceptable_password(&password, &[username, &new.name])?;
                Some(self.hash_password(password).await?)
            }
            None => None,
        };
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                if let Some(first) = idempotency::recall(tx, own.to_bytes(), once.as_ref(), now)? {
                    return Ok(first);
                }
                tenants::check_room(tx)?;
                tenants::check_name(tx, &new.name, None)?;
                let purchase = Purchase { plan: new.plan, ..Purchase::default() };
                let tenant = Tenant {
                    enrollment: new.enrollment,
                    attestation: new.attestation,
                    locale: new.locale.clone(),
                    retention: new.retention.unwrap_or_else(|| this.inner.billing.retention_of(&purchase)),
                    purchase,
                    ..Tenant::new(TenantId::generate(now, &this.inner.random), new.name.clone(), now)
                };
                this.check_retention(&tenant)?;
                // Refuses a name that is taken, and so comes before everything that writes.
                let admin = match &new.admin {
                    Some(admin) => Some(this.first_administrator(tx, tenant.id, admin, hash.clone(), by, &origin)?),
                    None => None,
                };
                tenants::save(tx, Some(&this.inner.tenants), &tenant)?;
                this.note_tenant(tx, &tenant, Action::TenantCreated, "made", by, &origin)?;
                let made = Made { tenant, admin };
                let mut again = made.clone();
                if let Some(admin) = &mut again.admin {
                    admin.invitation = admin.invitation.as_ref().map(OneTimeLink::without_token);
                }
                idempotency::remember(tx, own.to_bytes(), once.as_ref(), now, &again)?;
                Ok(made)
            })
            .await
    }

    /// Days for which the log is kept are bought; for ever is more than any number of them.
    fn check_retention(&self, tenant: &Tenant) -> Result<()> {
        let days = tenant.retention.audit_days.map_or(u64::MAX, u64::from);
        self.inner.billing.check_setting(&tenant.purchase, Quota::AuditDays, days)
    }

    /// Makes who administers a new tenant. The entries of the log name no hand: they stand in the new tenant's own log.
    fn first_administrator(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        admin: &NewAdmin,
        password: Option<String>,
        by: UserId,
        origin: &Origin,
    ) -> Result<FirstAdmin> {
        let new = NewUser {
            username: admin.username.clone(),
            display_name: None,
            email: None,
            roles: vec![RoleName::BuiltIn(Role::Admin)],
            password: None,
            system_admin: false,
        };
        let invited = password.is_none();
        let mut user = self.create_user_in(tx, tenant, &new, password, &from_outside(origin))?;
        let mut invitation = None;
        if invited {
            let right = (by, Role::Admin.permissions());
            invitation = Some(self.make_link(tx, &mut user, Purpose::Invitation, right, &from_outside(origin))?);
            self.save_user(tx, &user)?;
        }
        Ok(FirstAdmin { id: user.id, username: user.username, invitation })
    }

    /// Changes a tenant. What is as it is wanted already is not changed, and not noted.
    ///
    /// # Errors
    /// `not_found`; 409 `name_taken`; 409 `own_tenant` for shutting out the caller's own or the first tenant.
    pub async fn update_tenant(
        &self,
        id: TenantId,
        change: TenantChange,
        own: TenantId,
        by: UserId,
        origin: Origin,
    ) -> Result<Counted> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let before = tenants::load(tx, id)?.ok_or_else(Refusal::not_found)?;
                if change.suspended == Some(true) {
                    check_not_own(tx, id, own)?;
                }
                if let Some(name) = &change.name {
                    tenants::check_name(tx, name, Some(id))?;
                }
                let mut after = before.clone();
                let policies = apply(&mut after, &change);
                if after.retention != before.retention {
                    this.check_retention(&after)?;
                }
                let (suspended, now) = (before.state != TenantState::Active, this.inner.clock.now());
                let step = match change.suspended {
                    Some(true) if !suspended => {
                        let reason = change.suspend_reason.as_deref().unwrap_or(NO_REASON).to_owned();
                        after.state = TenantState::Suspended { reason: reason.clone(), at: now };
                        Some((Action::TenantSuspended, reason))
                    }
                    Some(false) if suspended => {
                        after.state = TenantState::Active;
                        Some((Action::TenantResumed, "let in again".to_owned()))
                    }
                    _ => None,
                };
                if policies.is_empty() && step.is_none() {
                    return Ok(());
                }
                tenants::save(tx, Some(&this.inner.tenants), &after)?;
                if !policies.is_empty() {
                    this.note_tenant(tx, &after, Action::TenantUpdated, &policies.join("; "), by, &origin)?;
                }
                if let Some((action, why)) = step {
                    this.note_tenant(tx, &after, action, &why, by, &origin)?;
                }
                Ok(())
            })
            .await?;
        self.tenant(id).await
    }

    /// Deletes a tenant: from this commit on neither it nor anybody or anything of it exists. Its rows are then removed by
    /// sweeps, a few at a time; its log stays.
    ///
    /// # Errors
    /// `not_found`; 409 `own_tenant`.
    pub async fn delete_tenant(&self, id: TenantId, own: TenantId, by: UserId, origin: Origin) -> Result<()> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let mut tenant = tenants::load(tx, id)?.ok_or_else(Refusal::not_found)?;
                check_not_own(tx, id, own)?;
                devices::forget_tenant(tx, id)?;
                users::forget_tenant(tx, id)?;
                tenant.state = TenantState::Deleted { at: this.inner.clock.now(), purged: false };
                tenants::save(tx, Some(&this.inner.tenants), &tenant)?;
                this.note_tenant(tx, &tenant, Action::TenantDeleted, "deleted", by, &origin)?;
                let this = this.clone();
                tx.after_commit(move || {
                    this.forget_tenant(id);
                    this.inner.sweeping.wanted.notify_one();
                });
                Ok(())
            })
            .await
    }

    /// Takes everything of a deleted tenant out of memory and closes its sockets. Only the writer calls this.
    pub(super) fn forget_tenant(&self, tenant: TenantId) {
        let inner = &self.inner;
        inner.sessions.remove_tenant(tenant);
        inner.directory.remove_tenant(tenant);
        inner.api_keys.remove_tenant(tenant);
        for entry in inner.devices.remove_tenant(tenant) {
            inner.signals.drop_cell(entry.no);
            inner.killswitch.hub().send(entry.no, Outgoing::Close(CloseReason::LoggedOut));
        }
    }

    /// Notes in the tenant's own log what was done to it, and in the first tenant's also by whom and from where: the
    /// people of a tenant are not told of those of another.
    fn note_tenant(
        &self,
        tx: &mut Tx<'_>,
        tenant: &Tenant,
        action: Action,
        what: &str,
        by: UserId,
        origin: &Origin,
    ) -> Result<()> {
        let (now, random) = (self.inner.clock.now(), &self.inner.random);
        let level = match action {
            Action::TenantSuspended | Action::TenantDeleted => ThreatLevel::Low,
            _ => ThreatLevel::None,
        };
        let first = tenants::first(tx)?;
        if first != Some(tenant.id) {
            let entry = NewEntry::new(action, &from_outside(origin)).level(level).reason(what);
            audit::append(tx, tenant.id, now, random, &entry)?;
        }
        let Some(first) = first else { return Ok(()) };
        let what = format!("{:?} ({}): {what}", tenant.name, tenant.id);
        let entry = NewEntry::new(action, origin).level(level).user(by).reason(what);
        audit::append(tx, first, now, random, &entry).map(drop)
    }
}

/// What the log of one tenant may say of a request that came from another.
fn from_outside(origin: &Origin) -> Origin {
    Origin { ip: None, user_agent: None, jti: None, key: None, ..origin.clone() }
}

/// Applies everything but the suspension; says what has changed, in words.
fn apply(tenant: &mut Tenant, change: &TenantChange) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(name) = change.name.as_ref().filter(|n| **n != tenant.name) {
        told.push(format!("renamed from {:?} to {name:?}", tenant.name));
        tenant.name.clone_from(name);
    }
    if let Some(enrollment) = change.enrollment.filter(|e| *e != tenant.enrollment) {
        told.push(format!("enrollment is {enrollment:?}").to_lowercase());
        tenant.enrollment = enrollment;
    }
    if let Some(attestation) = change.attestation.filter(|a| *a != tenant.attestation) {
        told.push(format!("attestation is {attestation:?}").to_lowercase());
        tenant.attestation = attestation;
    }
    if let Some(locale) = change.locale.as_ref().filter(|l| **l != tenant.locale) {
        told.push(format!("locale is {locale}"));
        tenant.locale.clone_from(locale);
    }
    if let Some(retention) = change.retention.filter(|r| *r != tenant.retention) {
        told.push(match retention.audit_days {
            Some(days) => format!("entries of the log are kept for {days} days"),
            None => "entries of the log are kept for ever".to_owned(),
        });
        tenant.retention = retention;
    }
    if let Some(plan) = change.plan.filter(|p| *p != tenant.purchase.plan) {
        told.push(format!("plan is {}", plan.name()));
        tenant.purchase.plan = plan;
    }
    told
}

/// The first tenant holds the administrators of the appliance: without it nobody could undo anything.
fn check_not_own(tx: &mut Tx<'_>, id: TenantId, own: TenantId) -> Result<(), Error> {
    if id != own && tenants::first(tx)? != Some(id) {
        return Ok(());
    }
    let detail = "The tenant of the appliance's administrators can be neither suspended nor deleted.";
    Err(Refusal::new(Kind::Conflict, "own_tenant", detail).into())
}
