//! What an operator at the machine's own shell does to people and enrollment tokens, for a site that locked itself out.
//!
//! Whoever has the shell has the data file, so nobody's permissions are asked here, and an account may be opened again
//! that nobody could reach over HTTP. Passwords still have to be fit, and a tenant keeps an administrator who can log in.
//! Every change is in the audit log like any other.
//!
//! Knows nothing of sockets, terminals or HTTP.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Serialize;

use super::model::{EnrollmentTokenRow, User};
use super::permission::RoleName;
use super::roles::RoleRow;
use super::second_factor::{self, FactorsRow};
use super::{Iam, NewUser, password_policy};
use crate::crypto::{Secret, sha256};
use crate::domains::audit::{self, Action, NewEntry};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, EnrollmentId, TenantId, UserId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::store::tables::{ENROLLMENT_TOKENS, Key, PASSKEY_OWNERS, ROLES, SECOND_FACTORS, USER_NAMES, USERS};
use crate::store::{Tx, codec};

/// Rows that one list shows.
const LISTED_MAX: usize = 10_000;
/// People that are looked through for another administrator. Beyond that the answer is no, which refuses too much and
/// never too little.
const SCANNED_MAX: usize = 100_000;
const NAME_CHARS_MAX: usize = 128;

/// A person as an operator sees them.
#[derive(Clone, Debug, Serialize)]
pub struct OperatorUser {
    /// `usr_...`
    pub id: UserId,
    /// Unique on the appliance.
    pub username: String,
    /// Where they belong.
    pub tenant: TenantId,
    /// What that tenant is called; `None` for a deleted one.
    pub tenant_name: Option<String>,
    /// What they may do.
    pub roles: Vec<RoleName>,
    /// Whether they also administer the appliance.
    pub system_admin: bool,
    /// Whether they were shut out.
    pub disabled: bool,
    /// Whether a login must show a second factor.
    pub second_factor: bool,
    /// When they were made.
    pub created_at: Timestamp,
}

/// An enrollment token as an operator sees it; the token itself is not kept.
#[derive(Clone, Debug, Serialize)]
pub struct OperatorToken {
    /// `enr_...`
    pub id: EnrollmentId,
    /// Whose devices.
    pub tenant: TenantId,
    /// Who owns them.
    pub owner: UserId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How often it was used.
    pub uses: u32,
    /// `None`: no limit.
    pub uses_max: Option<u32>,
    /// Only for this device.
    pub device_id: Option<DeviceId>,
    /// Whether it enrolls a device at this moment.
    pub usable: bool,
    /// Whether it was taken back.
    pub revoked: bool,
}

/// What setting a password did.
#[derive(Clone, Debug, Serialize)]
pub struct PasswordSet {
    /// Whose.
    pub user: OperatorUser,
    /// Sessions that ended with the old password.
    pub sessions_ended: usize,
    /// Whether there were second factors and they are gone.
    pub second_factor_removed: bool,
}

/// What shutting out or letting in did.
#[derive(Clone, Debug, Serialize)]
pub struct SwitchedUser {
    /// Whom.
    pub user: OperatorUser,
    /// `false`: it was so before.
    pub changed: bool,
    /// Sessions that ended with it.
    pub sessions_ended: usize,
}

impl Iam {
    /// Makes a person.
    ///
    /// # Errors
    /// 409 `username_taken`; 422 `bad_username`, `weak_password`, `unknown_role`. Nothing was changed then.
    pub async fn operator_add_user(&self, tenant: TenantId, new: NewUser, origin: Origin) -> Result<OperatorUser> {
        check_name(&new.username)?;
        let hash = match new.password.clone() {
            Some(plain) => {
                check_password(&plain, &new.username)?;
                Some(self.hash_password(plain).await?)
            }
            None => None,
        };
        let this = self.clone();
        let made = self.inner.store.write(move |tx| {
            check_roles(tx, tenant, &new.roles)?;
            this.create_user_in(tx, tenant, &new, hash.clone(), &origin)
        });
        Ok(self.as_operator_sees(made.await?))
    }

    /// Sets a person's password and ends their sessions, but not those of their devices; takes their second factors away
    /// where asked. Somebody who is shut out stays so.
    ///
    /// # Errors
    /// 404 `no_such_user`; 422 `weak_password`. Nothing was changed then.
    pub async fn operator_set_password(
        &self,
        username: &str,
        password: Secret,
        reset_second_factor: bool,
        origin: Origin,
    ) -> Result<PasswordSet> {
        check_password(&password, username)?;
        let hash = self.hash_password(password).await?;
        let (this, name) = (self.clone(), username.to_owned());
        let (user, sessions_ended, second_factor_removed) = self
            .inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let mut user = find(tx, &name)?;
                user.password = Some(hash.clone());
                user.password_changed_at = Some(now);
                this.save_user(tx, &user)?;
                let entry =
                    NewEntry::new(Action::PasswordChanged, &origin).user(user.id).reason("set at the command line");
                audit::append(tx, user.tenant, now, &this.inner.random, &entry)?;
                let removed = reset_second_factor && this.remove_second_factors(tx, &user, &origin)?;
                let ended = this.end_sessions_in(tx, user.tenant, user.id, None, false, &origin)?;
                Ok((user, ended, removed))
            })
            .await?;
        Ok(PasswordSet { user: self.as_operator_sees(user), sessions_ended, second_factor_removed })
    }

    /// Takes away everything that a person has beside the password; says whether there was anything.
    fn remove_second_factors(&self, tx: &mut Tx<'_>, user: &User, origin: &Origin) -> Result<bool> {
        let place = second_factor::key(user.tenant, user.id);
        let Some(row) = tx.get::<FactorsRow>(SECOND_FACTORS, &place)? else { return Ok(false) };
        for passkey in &row.passkeys {
            // One whose id cannot be read leads to nobody once the row is gone.
            if let Ok(id) = Base64UrlUnpadded::decode_vec(&passkey.credential_id) {
                tx.delete(PASSKEY_OWNERS, Key::new().bytes(sha256(&id)))?;
            }
        }
        tx.delete(SECOND_FACTORS, &place)?;
        let entry = NewEntry::new(Action::SecondFactorRemoved, origin)
            .user(user.id)
            .reason("all second factors, at the command line");
        audit::append(tx, user.tenant, self.inner.clock.now(), &self.inner.random, &entry)?;
        let (iam, user) = (self.clone(), user.id);
        tx.after_commit(move || iam.inner.directory.set_second_factor(user, false));
        Ok(true)
    }

    /// Shuts a person out, which ends their sessions (not those of their devices) in the same commit, or lets them in
    /// again.
    ///
    /// # Errors
    /// 404 `no_such_user`; 409 `last_administrator` when nobody would be left who administers the tenant, or the
    /// appliance. Nothing was changed then.
    pub async fn operator_set_disabled(&self, username: &str, disabled: bool, origin: Origin) -> Result<SwitchedUser> {
        let (this, name) = (self.clone(), username.to_owned());
        let (user, changed, sessions_ended) = self
            .inner
            .store
            .write(move |tx| {
                let mut user = find(tx, &name)?;
                if user.disabled == disabled {
                    return Ok((user, false, 0));
                }
                if disabled {
                    check_not_last(tx, &user)?;
                }
                user.disabled = disabled;
                this.save_user(tx, &user)?;
                let action = if disabled { Action::UserDisabled } else { Action::UserEnabled };
                let entry = NewEntry::new(action, &origin).user(user.id).reason("at the command line");
                audit::append(tx, user.tenant, this.inner.clock.now(), &this.inner.random, &entry)?;
                let ended = match disabled {
                    true => this.end_sessions_in(tx, user.tenant, user.id, None, false, &origin)?,
                    false => 0,
                };
                Ok((user, true, ended))
            })
            .await?;
        Ok(SwitchedUser { user: self.as_operator_sees(user), changed, sessions_ended })
    }

    /// The people of a tenant, or of all of them, and whether there are more than are shown.
    pub async fn operator_list_users(&self, tenant: Option<TenantId>) -> Result<(Vec<OperatorUser>, bool)> {
        let this = self.clone();
        let prefix = tenant.map_or_else(Key::new, |t| Key::new().bytes(t.to_bytes()));
        self.inner
            .store
            .read_with(move |snapshot| {
                let (mut users, mut more) = (Vec::new(), false);
                snapshot.visit_prefix(USERS, &prefix, |_, value| {
                    more = users.len() >= LISTED_MAX;
                    if !more {
                        users.push(this.as_operator_sees(codec::decode(value)?));
                    }
                    Ok(!more)
                })?;
                Ok((users, more))
            })
            .await
    }

    /// The enrollment tokens of a tenant, or of all of them, oldest first, and whether there are more than are shown.
    pub async fn operator_list_tokens(&self, tenant: Option<TenantId>) -> Result<(Vec<OperatorToken>, bool)> {
        let now = self.inner.clock.now();
        self.inner
            .store
            .read_with(move |snapshot| {
                let (mut tokens, mut more) = (Vec::new(), false);
                snapshot.visit(ENROLLMENT_TOKENS, &[], None, |_, value| {
                    let row: EnrollmentTokenRow = codec::decode(value)?;
                    if tenant.is_none_or(|t| t == row.tenant) {
                        more = tokens.len() >= LISTED_MAX;
                        if !more {
                            tokens.push(token_as_operator_sees(row, now));
                        }
                    }
                    Ok(!more)
                })?;
                // They lie in the order of their hashes; ids rise with time.
                tokens.sort_by_key(|t| t.id);
                Ok((tokens, more))
            })
            .await
    }

    /// Takes an enrollment token back; `false` when it was so before.
    ///
    /// # Errors
    /// 404 `no_such_token`.
    pub async fn operator_revoke_token(&self, id: EnrollmentId, origin: Origin) -> Result<bool> {
        let place = self
            .inner
            .store
            .read_with(move |snapshot| {
                let mut found = None;
                snapshot.visit(ENROLLMENT_TOKENS, &[], None, |key, value| {
                    let row: EnrollmentTokenRow = codec::decode(value)?;
                    if row.id == id {
                        found = Some(key.to_vec());
                    }
                    Ok(found.is_none())
                })?;
                Ok(found)
            })
            .await?;
        let no_such_token = move || {
            let detail = format!("There is no enrollment token {id}. `blockremote admin token list` shows them all.");
            Refusal::new(Kind::NotFound, "no_such_token", detail)
        };
        let place = place.ok_or_else(no_such_token)?;
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let mut row: EnrollmentTokenRow = tx.get(ENROLLMENT_TOKENS, &place)?.ok_or_else(no_such_token)?;
                if row.revoked {
                    return Ok(false);
                }
                row.revoked = true;
                tx.put(ENROLLMENT_TOKENS, &place, &row)?;
                let entry = NewEntry::new(Action::EnrollmentTokenRevoked, &origin).reason(id.to_string());
                audit::append(tx, row.tenant, this.inner.clock.now(), &this.inner.random, &entry)?;
                Ok(true)
            })
            .await
    }

    fn as_operator_sees(&self, user: User) -> OperatorUser {
        let tenant = self.inner.tenants.entry(user.tenant);
        OperatorUser {
            second_factor: self.inner.directory.get(user.id).is_some_and(|u| u.has_second_factor()),
            tenant_name: tenant.map(|t| t.tenant().name.clone()),
            id: user.id,
            username: user.username,
            tenant: user.tenant,
            roles: user.roles,
            system_admin: user.system_admin,
            disabled: user.disabled,
            created_at: user.created_at,
        }
    }
}

fn token_as_operator_sees(row: EnrollmentTokenRow, now: Timestamp) -> OperatorToken {
    let used_up = row.uses_max.is_some_and(|max| row.uses >= max);
    OperatorToken {
        id: row.id,
        tenant: row.tenant,
        owner: row.owner,
        created_at: row.created_at,
        expires_at: row.expires_at,
        uses: row.uses,
        uses_max: row.uses_max,
        device_id: row.device,
        usable: !row.revoked && !used_up && row.expires_at > now,
        revoked: row.revoked,
    }
}

fn find(tx: &mut Tx<'_>, name: &str) -> Result<User> {
    let no_such_user = || {
        let detail = format!("There is no user {name:?}. `blockremote admin user list` shows them all.");
        Refusal::new(Kind::NotFound, "no_such_user", detail)
    };
    let place = tx.get_raw(USER_NAMES, Key::new().text(&name.to_lowercase()))?.ok_or_else(no_such_user)?;
    Ok(tx.get(USERS, place)?.ok_or_else(no_such_user)?)
}

fn check_name(name: &str) -> Result<()> {
    let length = name.chars().count();
    if (1..=NAME_CHARS_MAX).contains(&length) && name.trim() == name && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let detail = "A user name has 1 to 128 characters, no control characters, and no space at either end.";
    Err(Refusal::new(Kind::Invalid, "bad_username", detail).into())
}

fn check_password(password: &Secret, name: &str) -> Result<()> {
    password_policy::check(password.expose(), &[name])
        .map_err(|fault| Refusal::new(Kind::Invalid, "weak_password", fault.to_string()).into())
}

fn check_roles(tx: &mut Tx<'_>, tenant: TenantId, roles: &[RoleName]) -> Result<()> {
    for role in roles {
        let RoleName::Custom(id) = role else { continue };
        let place = Key::new().bytes(tenant.to_bytes()).bytes(id.to_bytes());
        if tx.get::<RoleRow>(ROLES, place)?.is_none() {
            let detail = format!("The tenant has no role {id}.");
            return Err(Refusal::new(Kind::Invalid, "unknown_role", detail).into());
        }
    }
    Ok(())
}

/// Refuses to shut out the last one who can administer the tenant, or the appliance.
fn check_not_last(tx: &mut Tx<'_>, user: &User) -> Result<()> {
    let mut another = |within: &Key, is_one: fn(&User) -> bool| -> Result<bool> {
        for (_, value) in tx.scan(USERS, within, SCANNED_MAX)? {
            let other: User = codec::decode(&value)?;
            if other.id != user.id && is_one(&other) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let of_tenant = Key::new().bytes(user.tenant.to_bytes());
    let what = if user.is_administrator() && !another(&of_tenant, User::is_administrator)? {
        "of the tenant"
    } else if user.system_admin && !another(&Key::new(), |u| u.system_admin && !u.disabled)? {
        "of the appliance"
    } else {
        return Ok(());
    };
    let detail = format!("{:?} is the last administrator {what}. Make another one first.", user.username);
    Err(Refusal::new(Kind::Conflict, "last_administrator", detail).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<()>) -> &'static str {
        match result {
            Ok(()) => "fit",
            Err(crate::kernel::Error::Refused(refusal)) => refusal.code,
            Err(_) => "failed",
        }
    }

    #[test]
    fn only_a_password_that_somebody_has_to_guess_is_fit() {
        for (name, password, expect) in [
            ("zoe", "", "weak_password"),
            ("zoe", "eleven char", "weak_password"),
            ("zoe", "twelve chars", "fit"),
            ("zoe", "zwölf zeiche", "fit"),
            ("zoe", "a tab\tin the middle", "weak_password"),
            ("Zoe.Example", "zoe.example12", "weak_password"),
            ("zoe", "zoe and four unrelated words", "fit"),
        ] {
            assert_eq!(code(check_password(&Secret::new(password), name)), expect, "{password:?}");
        }
        assert_eq!(code(check_password(&Secret::new("x".repeat(1_025)), "zoe")), "weak_password");
    }

    #[test]
    fn a_name_can_be_typed_and_stored() {
        for (name, expect) in [
            ("zoe", "fit"),
            ("Zoë Example", "fit"),
            ("", "bad_username"),
            (" zoe", "bad_username"),
            ("zo\0e", "bad_username"),
            ("zo\ne", "bad_username"),
        ] {
            assert_eq!(code(check_name(name)), expect, "{name:?}");
        }
        assert_eq!(code(check_name(&"x".repeat(129))), "bad_username");
    }
}
