//! People of a tenant: made, changed, shut out, removed.
//!
//! Nobody hands out what they may not do themselves, and a tenant never loses its last administrator.
//!
//! Knows nothing of HTTP.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::authority::{Authority, check_administrators, check_granted, forbidden, permissions_in};
use super::links::{self, OneTimeLink, Purpose};
use super::model::User;
use super::permission::{PermissionSet, RoleName};
use super::second_factor::{self, FactorsRow};
use super::session::user_key;
use super::{Iam, names, password_policy, setup, teams};
use crate::crypto::{Secret, password, sha256};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::billing::Admitted;
use crate::domains::tenants::{self, Quota};
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result, Timestamp};
use crate::store::idempotency::{self, Once};
use crate::store::tables::{Key, PASSKEY_OWNERS, SECOND_FACTORS, USER_NAMES, USERS};
use crate::store::{Tx, codec};

/// People on the appliance: each has a place in memory.
const PEOPLE_MAX: u64 = 100_000;
/// In META: people of all tenants together.
const PEOPLE: &str = "people";

/// A place for one more person, in the company and on the appliance.
struct Seat {
    place: Admitted,
    people: u64,
}

impl Seat {
    fn note(self, tx: &mut Tx<'_>) -> Result<()> {
        self.place.note(tx)?;
        tenants::set_population(tx, PEOPLE, self.people.saturating_add(1))
    }
}

/// A tenant is being deleted: its people count no more. Before the tenant's row says so.
pub(super) fn forget_tenant(tx: &mut Tx<'_>, tenant: TenantId) -> Result<()> {
    let left = tenants::population(tx, USERS, PEOPLE)?.saturating_sub(tenants::rows_in(tx, USERS, tenant)?);
    tenants::set_population(tx, PEOPLE, left)
}

/// A person to be.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Unique on the appliance; upper and lower case are the same.
    pub username: String,
    /// For people.
    pub display_name: Option<String>,
    /// Where an invitation may be sent by hand.
    pub email: Option<String>,
    /// What they may do.
    pub roles: Vec<RoleName>,
    /// `None`: they choose it by an invitation.
    pub password: Option<Secret>,
    /// Whether they also administer the appliance.
    pub system_admin: bool,
}

/// What is to become of a person; what is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// `Some(None)` takes it away.
    pub display_name: Option<Option<String>>,
    /// `Some(None)` takes it away.
    pub email: Option<Option<String>>,
    /// All roles from now on.
    pub roles: Option<Vec<RoleName>>,
    /// Whether they are shut out.
    pub disabled: Option<bool>,
}

/// A person as those see them who look after people.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UserDetail {
    /// `usr_...`
    #[schema(value_type = String)]
    pub id: UserId,
    /// `ten_...`
    #[schema(value_type = String)]
    pub tenant: TenantId,
    /// Unique on the appliance; upper and lower case are the same.
    pub username: String,
    /// For people.
    pub display_name: Option<String>,
    /// Where an invitation may be sent by hand; the appliance itself sends no mail.
    pub email: Option<String>,
    /// Names of built-in roles, ids of the tenant's own.
    #[schema(value_type = Vec<String>)]
    pub roles: Vec<RoleName>,
    /// What the roles allow.
    pub permissions: Vec<String>,
    /// Whether they also administer the appliance.
    pub system_admin: bool,
    /// Whether they are shut out.
    pub disabled: bool,
    /// Whether they have yet to choose their first password.
    pub invited: bool,
    /// Whether a login must show a second factor.
    pub second_factor: bool,
    /// When they were made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the password was last set; null before the first.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub password_changed_at: Option<Timestamp>,
}

/// A person who was just made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedUser {
    /// The person.
    #[serde(flatten)]
    pub user: UserDetail,
    /// By which they choose their password, within seven days; null when one was given.
    pub invitation: Option<OneTimeLink>,
}

/// 409: what nobody may do to their own account.
fn own_account(what: &str) -> Error {
    let detail = format!("Nobody {what} their own account. Ask another administrator.");
    Refusal::new(Kind::Conflict, "own_account", detail).into()
}

impl Iam {
    /// Whether a password may be set. `context` is what it must not be made of: the names of its owner.
    ///
    /// # Errors
    /// 422 at `/password`.
    pub fn acceptable_password(&self, plain: &Secret, context: &[&str]) -> Result<()> {
        password_policy::check(plain.expose(), context)
            .map_err(|fault| Refusal::invalid("/password", fault.to_string()).into())
    }

    /// Writes a person in the caller's transaction and feeds the directory once that is durable.
    pub(super) fn save_user(&self, tx: &mut Tx<'_>, user: &User) -> Result<()> {
        setup::save_user(tx, user)?;
        let (iam, user) = (self.clone(), user.clone());
        tx.after_commit(move || iam.inner.directory.apply(&user));
        Ok(())
    }

    /// Hashes a password off the threads that serve.
    pub(super) async fn hash_password(&self, plain: Secret) -> Result<String> {
        let (cost, random) = (self.inner.password_cost, self.inner.random.clone());
        let hashed = self.inner.argon.run(move || password::hash(&plain, &cost, &random)).await?;
        hashed.map_err(|e| Refusal::invalid("/password", e.to_string()).into())
    }

    pub(super) fn user_detail(&self, user: &User, permissions: PermissionSet) -> UserDetail {
        UserDetail {
            id: user.id,
            tenant: user.tenant,
            username: user.username.clone(),
            display_name: user.display_name.clone(),
            email: user.email.clone(),
            roles: user.roles.clone(),
            permissions: permissions.names(),
            system_admin: user.system_admin,
            disabled: user.disabled,
            invited: user.password.is_none(),
            second_factor: self.user_entry(user.id).is_some_and(|entry| entry.has_second_factor()),
            created_at: user.created_at,
            password_changed_at: user.password_changed_at,
        }
    }

    /// One person of a tenant.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn person(&self, tenant: TenantId, user: UserId) -> Result<UserDetail> {
        let user = self.user(tenant, user).await?.ok_or_else(Refusal::not_found)?;
        Ok(self.user_detail(&user, self.permissions_of(&user)))
    }

    /// A page of a tenant's people in the order of their making, and where the next one begins.
    pub async fn people(
        &self,
        tenant: TenantId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<(Vec<UserDetail>, Option<UserId>)> {
        let this = self.clone();
        self.inner
            .store
            .read_with(move |snapshot| {
                let prefix = Key::new().bytes(tenant.to_bytes());
                let after = after.map(|id| prefix.clone().bytes(id.to_bytes()));
                let (page, more) = snapshot.page(USERS, &prefix, after, limit, |value| {
                    let user: User = codec::decode(value)?;
                    Ok(Some(this.user_detail(&user, this.permissions_of(&user))))
                })?;
                let next = page.last().filter(|_| more).map(|u| u.id);
                Ok((page, next))
            })
            .await
    }

    /// Makes a person.
    ///
    /// # Errors
    /// 409 `username_taken`.
    pub async fn create_user(&self, tenant: TenantId, new: NewUser, origin: Origin) -> Result<User> {
        let hash = match new.password.clone() {
            Some(plain) => Some(self.hash_password(plain).await?),
            None => None,
        };
        let this = self.clone();
        self.inner.store.write(move |tx| this.create_user_in(tx, tenant, &new, hash.clone(), &origin)).await
    }

    pub(super) fn create_user_in(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        new: &NewUser,
        password: Option<String>,
        origin: &Origin,
    ) -> Result<User> {
        let place = self.check_new(tx, tenant, new)?;
        let user = self.new_user(tenant, new, password);
        place.note(tx)?;
        self.save_user(tx, &user)?;
        let entry = NewEntry::new(Action::UserCreated, origin).user(user.id).reason(user.username.clone());
        audit::append(tx, tenant, self.inner.clock.now(), &self.inner.random, &entry)?;
        Ok(user)
    }

    fn check_new(&self, tx: &mut Tx<'_>, tenant: TenantId, new: &NewUser) -> Result<Seat> {
        names::check(&new.username, names::USER_NAME_MAX).map_err(|e| Refusal::invalid("/username", e))?;
        if tx.get_raw(USER_NAMES, Key::new().text(&new.username.to_lowercase()))?.is_some() {
            let detail = "A user of this name exists on the appliance. Choose another name.";
            return Err(Refusal::new(Kind::Conflict, "username_taken", detail).into());
        }
        let people = tenants::population(tx, USERS, PEOPLE)?;
        if people >= PEOPLE_MAX {
            let detail = format!("The appliance has {PEOPLE_MAX} users, which is all it takes. Remove some first.");
            return Err(Refusal::new(Kind::Conflict, "too_many_users", detail).into());
        }
        Ok(Seat { place: self.inner.billing.admit(tx, tenant, Quota::Users, 1)?, people })
    }

    fn new_user(&self, tenant: TenantId, new: &NewUser, password: Option<String>) -> User {
        let now = self.inner.clock.now();
        User {
            id: UserId::generate(now, &self.inner.random),
            tenant,
            username: new.username.clone(),
            display_name: new.display_name.clone(),
            email: new.email.clone(),
            password_changed_at: password.as_ref().map(|_| now),
            password,
            roles: new.roles.clone(),
            system_admin: new.system_admin,
            disabled: false,
            created_at: now,
            link: None,
        }
    }

    /// Makes a person at the wish of somebody, who hands on nothing beyond their own rights. Without a password there is
    /// an invitation.
    ///
    /// # Errors
    /// 409 `username_taken`; 403 `forbidden` for a role beyond the caller's rights; 422 for a role or a password that
    /// cannot be.
    pub async fn add_person(
        &self,
        tenant: TenantId,
        mut new: NewUser,
        authority: Authority,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<CreatedUser> {
        let hash = match new.password.take() {
            Some(plain) => {
                let context = [Some(&new.username), new.display_name.as_ref(), new.email.as_ref()];
                let context: Vec<&str> = context.into_iter().flatten().map(String::as_str).collect();
                self.acceptable_password(&plain, &context)?;
                Some(self.hash_password(plain).await?)
            }
            None => None,
        };
        // Who administers the appliance is decided on the box, never over this way.
        new.system_admin = false;
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let may = authority.bound(tx, tenant, super::Permission::UsersWrite)?;
                if let Some(first) = idempotency::recall(tx, tenant.to_bytes(), once.as_ref(), now)? {
                    return Ok(first);
                }
                check_granted(tx, tenant, &new.roles, may)?;
                let place = this.check_new(tx, tenant, &new)?;
                let mut user = this.new_user(tenant, &new, hash.clone());
                place.note(tx)?;
                let entry = this.person_entry(Action::UserCreated, &user, authority.by, &list(&user.roles), &origin);
                audit::append(tx, tenant, now, &this.inner.random, &entry)?;
                let invitation = match &user.password {
                    Some(_) => None,
                    None => Some(this.make_link(tx, &mut user, Purpose::Invitation, (authority.by, may), &origin)?),
                };
                this.save_user(tx, &user)?;
                let permissions = permissions_in(tx, &user)?;
                let created = CreatedUser { user: this.user_detail(&user, permissions), invitation };
                let shown_once = created.invitation.as_ref().map(OneTimeLink::without_token);
                let again = CreatedUser { invitation: shown_once, ..created.clone() };
                idempotency::remember(tx, tenant.to_bytes(), once.as_ref(), now, &again)?;
                Ok(created)
            })
            .await
    }

    pub(super) fn person_entry(
        &self,
        action: Action,
        target: &User,
        by: UserId,
        what: &str,
        origin: &Origin,
    ) -> NewEntry {
        NewEntry::new(action, origin).user(by).reason(format!("{} ({}): {what}", target.id, target.username))
    }

    /// Changes a person. Shutting them out ends all of their sessions and voids a link that waits for them.
    ///
    /// # Errors
    /// `not_found`; 403 `forbidden` beyond the caller's rights, and for a program that changes roles; 409 `own_account`,
    /// `last_administrator`.
    pub async fn change_person(
        &self,
        tenant: TenantId,
        target: UserId,
        change: UserChange,
        authority: Authority,
        origin: Origin,
    ) -> Result<UserDetail> {
        let this = self.clone();
        self.inner.store.write(move |tx| this.change_person_in(tx, tenant, target, &change, authority, &origin)).await
    }

    fn change_person_in(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        target: UserId,
        change: &UserChange,
        authority: Authority,
        origin: &Origin,
    ) -> Result<UserDetail> {
        let (before, may) = authority.target(tx, tenant, target)?;
        let mut user = before.clone();
        if let Some(name) = &change.display_name {
            user.display_name.clone_from(name);
        }
        if let Some(email) = &change.email {
            user.email.clone_from(email);
        }
        if let Some(roles) = change.roles.as_ref().filter(|roles| **roles != before.roles) {
            if authority.program {
                return Err(forbidden("Roles are changed by people, not by programs.".to_owned()));
            }
            check_granted(tx, tenant, roles, may)?;
            user.roles.clone_from(roles);
        }
        user.disabled = change.disabled.unwrap_or(before.disabled);
        let shut_out = user.disabled && !before.disabled;
        if shut_out && authority.by == target {
            return Err(own_account("disables"));
        }
        check_administrators(tx, &before, Some(&user))?;
        // From here on it writes, and nothing may refuse any more.
        let mut entries = Vec::new();
        let described = |u: &User| (u.display_name.clone(), u.email.clone(), u.roles.clone());
        if described(&user) != described(&before) {
            let what = if user.roles == before.roles {
                "name or address".to_owned()
            } else {
                format!("roles {} became {}", list(&before.roles), list(&user.roles))
            };
            entries.push(self.person_entry(Action::UserUpdated, &user, authority.by, &what, origin));
        }
        if user.disabled != before.disabled {
            let action = if user.disabled { Action::UserDisabled } else { Action::UserEnabled };
            let what = if user.disabled { "shut out" } else { "let in again" };
            entries.push(self.person_entry(action, &user, authority.by, what, origin));
        }
        for entry in &entries {
            audit::append(tx, tenant, self.inner.clock.now(), &self.inner.random, entry)?;
        }
        if shut_out {
            links::void(tx, &mut user)?;
            self.end_sessions_in(tx, tenant, target, None, false, origin)?;
        }
        if !entries.is_empty() {
            self.save_user(tx, &user)?;
        }
        let permissions = permissions_in(tx, &user)?;
        Ok(self.user_detail(&user, permissions))
    }

    /// Removes a person: their sessions end, their name is free again, second factors, memberships and links are gone. The
    /// log stays, and so do the devices that they own.
    ///
    /// # Errors
    /// `not_found`; 403 `forbidden` beyond the caller's rights; 409 `own_account`, `last_administrator`.
    pub async fn remove_person(
        &self,
        tenant: TenantId,
        target: UserId,
        authority: Authority,
        origin: Origin,
    ) -> Result<()> {
        let this = self.clone();
        self.inner.store.write(move |tx| this.remove_person_in(tx, tenant, target, authority, &origin)).await
    }

    fn remove_person_in(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        target: UserId,
        authority: Authority,
        origin: &Origin,
    ) -> Result<()> {
        let (mut user, _) = authority.target(tx, tenant, target)?;
        if authority.by == target {
            return Err(own_account("deletes"));
        }
        check_administrators(tx, &user, None)?;
        let factors: Option<FactorsRow> = tx.get(SECOND_FACTORS, second_factor::key(tenant, target))?;
        // From here on it writes, and nothing may refuse any more.
        let entry = self.person_entry(Action::UserDeleted, &user, authority.by, "removed", origin);
        audit::append(tx, tenant, self.inner.clock.now(), &self.inner.random, &entry)?;
        self.end_sessions_in(tx, tenant, target, None, false, origin)?;
        for passkey in factors.iter().flat_map(|f| &f.passkeys) {
            if let Ok(credential) = Base64UrlUnpadded::decode_vec(&passkey.credential_id) {
                tx.delete(PASSKEY_OWNERS, Key::new().bytes(sha256(&credential)))?;
            }
        }
        tx.delete(SECOND_FACTORS, second_factor::key(tenant, target))?;
        teams::leave_all(tx, tenant, target)?;
        links::void(tx, &mut user)?;
        tx.delete(USER_NAMES, Key::new().text(&user.username.to_lowercase()))?;
        self.inner.billing.release(tx, tenant, Quota::Users)?;
        let left = tenants::population(tx, USERS, PEOPLE)?.saturating_sub(1);
        tenants::set_population(tx, PEOPLE, left)?;
        tx.delete(USERS, user_key(tenant, target))?;
        let iam = self.clone();
        tx.after_commit(move || iam.inner.directory.remove(target));
        Ok(())
    }

    /// Ends all sessions of a person; those of their devices only when asked. Says how many.
    ///
    /// # Errors
    /// `not_found`; 403 `forbidden` beyond the caller's rights.
    pub async fn end_sessions_of(
        &self,
        tenant: TenantId,
        target: UserId,
        devices_too: bool,
        authority: Authority,
        origin: Origin,
    ) -> Result<usize> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                authority.target(tx, tenant, target)?;
                this.end_sessions_in(tx, tenant, target, None, devices_too, &origin)
            })
            .await
    }
}

fn list(roles: &[RoleName]) -> String {
    if roles.is_empty() {
        return "none".to_owned();
    }
    roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
