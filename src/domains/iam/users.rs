//! People of a tenant: made, changed, shut out, removed.
//!
//! Nobody hands out what they may not do themselves, and a tenant never loses its last administrator.
//!
//! Knows nothing of HTTP.

use super::model::User;
use super::permission::RoleName;
use super::{Iam, setup};
use crate::crypto::{Secret, password};
use crate::domains::audit::{self, Action, NewEntry};
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result};
use crate::store::Tx;
use crate::store::tables::{Key, USER_NAMES};

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

impl Iam {
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
        let inner = &self.inner;
        let now = inner.clock.now();
        if tx.get_raw(USER_NAMES, Key::new().text(&new.username.to_lowercase()))?.is_some() {
            let detail = "A user of this name exists on the appliance. Choose another name.";
            return Err(Error::from(Refusal::new(Kind::Conflict, "username_taken", detail)));
        }
        let user = User {
            id: UserId::generate(now, &inner.random),
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
        };
        self.save_user(tx, &user)?;
        let entry = NewEntry::new(Action::UserCreated, origin).user(user.id).reason(user.username.clone());
        audit::append(tx, tenant, now, &inner.random, &entry)?;
        Ok(user)
    }
}
