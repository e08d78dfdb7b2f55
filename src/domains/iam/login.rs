//! A person's way in.

use super::model::{Binding, SessionRow, User};
use super::second_factor::FactorCheck;
use super::session::{Proof, TokenPair};
use super::{Iam, model};
use crate::crypto::{Secret, password};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::tenants::{self, TenantState};
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Kind, Refusal, Result};
use crate::store::Tx;
use crate::store::tables::{Key, USER_NAMES};

/// The code of the demand for a second factor; it is no failure.
const MFA_REQUIRED: &str = "mfa_required";

/// What a person shows.
pub struct Credentials {
    /// Unique on the appliance; upper and lower case are the same.
    pub username: String,
    /// Never logged.
    pub password: Secret,
    /// A code of a second factor, or a recovery code.
    pub otp: Option<Secret>,
    /// The key that the session's tokens are to be bound to.
    pub binding: Option<Binding>,
}

/// Who came in, and with what.
pub struct LoggedIn {
    /// The tokens.
    pub pair: TokenPair,
    /// The person.
    pub user: User,
}

/// What became of a login.
enum Outcome {
    In(Box<(SessionRow, User)>),
    Wrong,
    Suspended,
    CodeNeeded(&'static [&'static str]),
}

impl Iam {
    /// Logs a person in.
    ///
    /// # Errors
    /// 401 `invalid_credentials`: the same answer after the same work, whether the name, the password or the code is
    /// wrong. 401 `mfa_required` and 403 `tenant_suspended` only for who showed the right password.
    pub async fn login(&self, credentials: Credentials, origin: Origin) -> Result<LoggedIn> {
        let name = credentials.username.to_lowercase();
        let found = self.inner.store.read_with(move |s| find_user(s, &name)).await?;
        let stored = found.as_ref().and_then(|u| u.password.clone());
        let (password, cost, random) = (credentials.password, self.inner.password_cost, self.inner.random.clone());
        let (correct, rehashed) = self
            .inner
            .argon
            .run(move || match stored {
                Some(phc) => {
                    let correct = password::verify(&password, &phc);
                    // The one moment at which the password is known: an old, cheaper hash is replaced.
                    let stale = correct && password::needs_rehash(&phc, &cost);
                    (correct, if stale { password::hash(&password, &cost, &random).ok() } else { None })
                }
                // An unknown name costs the same work, so that time does not tell names apart.
                None => (password::verify_dummy(&password, &cost), None),
            })
            .await?;
        let this = self.clone();
        let (otp, binding) = (credentials.otp, credentials.binding);
        let outcome = self
            .inner
            .store
            .write(move |tx| {
                // Nobody of a deleted tenant exists any more, though its rows may still be there.
                let tenant = match &found {
                    Some(user) => tenants::load(tx, user.tenant)?,
                    None => None,
                };
                let found = found.as_ref().filter(|_| tenant.is_some());
                let user = match found {
                    Some(user) => Self::load_user(tx, user.tenant, user.id)?,
                    None => None,
                };
                // Between the check and this moment the password may have been changed.
                let unchanged = user.as_ref().map(|u| &u.password) == found.map(|u| &u.password);
                let Some(mut user) = user.filter(|u| correct && unchanged && !u.disabled) else {
                    this.note_failure(tx, found, &origin)?;
                    return Ok(Outcome::Wrong);
                };
                if tenant.is_none_or(|t| t.state != TenantState::Active) {
                    return Ok(Outcome::Suspended);
                }
                let second_factor = match this.check_factor(tx, &user, otp.as_ref(), &origin)? {
                    FactorCheck::NotSetUp => false,
                    FactorCheck::Shown => true,
                    FactorCheck::Needed(methods) => return Ok(Outcome::CodeNeeded(methods)),
                    FactorCheck::Wrong => {
                        this.note_failure(tx, Some(&user), &origin)?;
                        return Ok(Outcome::Wrong);
                    }
                };
                if let Some(hash) = &rehashed {
                    user.password = Some(hash.clone());
                    this.save_user(tx, &user)?;
                }
                let proof = Proof { person: true, second_factor, binding: binding.clone() };
                let row = this.log_in(tx, &user, proof, &origin)?;
                Ok(Outcome::In(Box::new((row, user))))
            })
            .await?;
        match outcome {
            Outcome::In(inside) => {
                let (row, user) = *inside;
                Ok(self.logged_in(row, user))
            }
            Outcome::Wrong => Err(wrong().into()),
            Outcome::Suspended => Err(tenants::suspended().into()),
            Outcome::CodeNeeded(methods) => Err(mfa_required(methods).into()),
        }
    }

    /// Opens a session for a person who proved who they are, with its audit entry.
    pub(super) fn log_in(&self, tx: &mut Tx<'_>, user: &User, proof: Proof, origin: &Origin) -> Result<SessionRow> {
        let row = self.open_session(tx, user.tenant, user.id, None, proof, origin)?;
        let entry = NewEntry::new(Action::LoginSucceeded, origin).user(user.id);
        audit::append(tx, user.tenant, self.inner.clock.now(), &self.inner.random, &entry)?;
        Ok(row)
    }

    /// The tokens of a session that was just opened.
    pub(super) fn logged_in(&self, row: SessionRow, user: User) -> LoggedIn {
        let access = self.mint_user(&user, &row);
        LoggedIn { pair: self.pair(&row, row.family.generation, access), user }
    }

    /// An unknown name costs the same commit as a wrong password. It is not written down: people type passwords into
    /// that field.
    pub(super) fn note_failure(&self, tx: &mut Tx<'_>, user: Option<&User>, origin: &Origin) -> Result<()> {
        let entry = NewEntry::new(Action::LoginFailed, origin).level(ThreatLevel::Low);
        let (tenant, entry) = match user {
            Some(user) => (Some(user.tenant), entry.user(user.id)),
            None => (tenants::first(tx)?, entry.reason("unknown user name")),
        };
        match tenant {
            Some(tenant) => audit::append(tx, tenant, self.inner.clock.now(), &self.inner.random, &entry).map(drop),
            None => Ok(()),
        }
    }
}

pub(super) fn find_user(snapshot: &crate::store::Snapshot, name: &str) -> Result<Option<User>> {
    let Some(place) = snapshot.get_raw(USER_NAMES, Key::new().text(name))? else { return Ok(None) };
    let (Some(tenant), Some(user)) = (place.first_chunk::<16>(), place.last_chunk::<16>()) else { return Ok(None) };
    model::user(snapshot, TenantId::from_bytes(*tenant), UserId::from_bytes(*user))
}

pub(super) fn wrong() -> Refusal {
    Refusal::new(Kind::Unauthenticated, "invalid_credentials", "The user name or the password is not right.")
}

fn mfa_required(methods: &[&str]) -> Refusal {
    let detail =
        "The password is right. Send it again with otp, a code of the second factor, or log in with a passkey.";
    let extra = serde_json::json!({ "methods": methods });
    let refusal = Refusal::new(Kind::Unauthenticated, MFA_REQUIRED, detail);
    Refusal { extra: extra.as_object().cloned().map(Box::new), ..refusal }
}
