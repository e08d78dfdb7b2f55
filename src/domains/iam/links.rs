//! Setting passwords: by a link that works once, or by who knows the present one.
//!
//! A person has at most one link; a newer one takes the place of an older one. Only its hash is stored. Unknown, used,
//! expired and replaced are one answer, so that nobody learns from it who was invited. A link never leads to more rights
//! than those of whoever made it.
//!
//! Knows nothing of HTTP.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::authority::{Authority, permissions_in};
use super::model::User;
use super::permission::PermissionSet;
use super::{Iam, SessionEntry, model};
use crate::crypto::{OpaqueToken, Secret, TokenKind, constant_time_eq, password};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::tenants::{self, TenantState};
use crate::kernel::context::Origin;
use crate::kernel::ids::{LinkId, TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result, Timestamp};
use crate::store::idempotency::{self, Once};
use crate::store::tables::{Key, LINKS};
use crate::store::{Row, Tx};

/// What a link is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Purpose {
    /// The first password of somebody new.
    Invitation,
    /// Another password for somebody who lost theirs.
    Reset,
}

impl Purpose {
    const fn lifetime(self) -> Duration {
        const DAY_S: u64 = 86_400;
        match self {
            Self::Invitation => Duration::from_secs(7 * DAY_S),
            Self::Reset => Duration::from_secs(DAY_S),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Invitation => "invitation",
            Self::Reset => "password reset",
        }
    }
}

/// A stored link; the key is the token's hash.
#[derive(Serialize, Deserialize)]
struct LinkRow {
    id: LinkId,
    tenant: TenantId,
    user: UserId,
    purpose: Purpose,
    created_at: Timestamp,
    expires_at: Timestamp,
    /// What whoever made it might do themselves. They may have kept it: should its owner rise above them before it is
    /// used, it would lift them, too.
    bound: PermissionSet,
}
impl Row for LinkRow {}

/// A link that sets a password once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct OneTimeLink {
    /// `brl_...`, for `POST /v1/auth/password`. Shown once: null in the answer to a repeat of the request.
    pub token: Option<String>,
    /// When it ends if it is not used.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

impl OneTimeLink {
    /// What a repeat of the request is answered.
    pub(super) const fn without_token(&self) -> Self {
        Self { token: None, expires_at: self.expires_at }
    }
}

/// Takes a person's link away, if there is one; the caller saves the person.
pub(super) fn void(tx: &mut Tx<'_>, user: &mut User) -> Result<()> {
    match user.link.take() {
        Some(hash) => tx.delete(LINKS, Key::new().bytes(hash)).map(drop),
        None => Ok(()),
    }
}

/// 401, whatever is wrong with the link.
fn link_invalid() -> Error {
    let detail = "This link is not valid any more. Ask an administrator for a new one.";
    Refusal::new(Kind::Unauthenticated, "link_invalid", detail).into()
}

fn wrong_password() -> Refusal {
    Refusal::new(Kind::Forbidden, "wrong_password", "The current password is not right.")
}

/// Says of another member what was said of `/password`.
fn of_member(error: Error, pointer: &str) -> Error {
    match error {
        Error::Refused(mut refusal) => {
            refusal.fields.iter_mut().for_each(|field| pointer.clone_into(&mut field.pointer));
            Error::Refused(refusal)
        }
        other => other,
    }
}

fn context_of(user: &User) -> Vec<&str> {
    [Some(&user.username), user.display_name.as_ref(), user.email.as_ref()]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect()
}

impl Iam {
    /// Makes a person's link in the caller's transaction, with its audit entry; an older one is void. The caller saves the
    /// person.
    pub(super) fn make_link(
        &self,
        tx: &mut Tx<'_>,
        user: &mut User,
        purpose: Purpose,
        (by, bound): (UserId, PermissionSet),
        origin: &Origin,
    ) -> Result<OneTimeLink> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let token = OpaqueToken::generate(TokenKind::Link, &inner.random);
        let row = LinkRow {
            id: LinkId::generate(now, &inner.random),
            tenant: user.tenant,
            user: user.id,
            purpose,
            created_at: now,
            expires_at: now.plus(purpose.lifetime()),
            bound,
        };
        void(tx, user)?;
        tx.put(LINKS, Key::new().bytes(token.hash()), &row)?;
        user.link = Some(token.hash());
        let what = format!("{} {}", purpose.name(), row.id);
        let entry = self.person_entry(Action::PasswordLinkCreated, user, by, &what, origin);
        audit::append(tx, user.tenant, now, &inner.random, &entry)?;
        Ok(OneTimeLink { token: Some(token.expose().to_owned()), expires_at: row.expires_at })
    }

    /// Makes a link by which a person sets another password, within 24 hours. The present password goes on until then.
    ///
    /// # Errors
    /// `not_found`; 403 `forbidden` for somebody with rights beyond the caller's; 409 `user_disabled`.
    pub async fn new_password_link(
        &self,
        tenant: TenantId,
        target: UserId,
        authority: Authority,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<OneTimeLink> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let (mut user, may) = authority.target(tx, tenant, target)?;
                if let Some(first) = idempotency::recall(tx, tenant.to_bytes(), once.as_ref(), now)? {
                    return Ok(first);
                }
                if user.disabled {
                    let detail = "This person is disabled. Enable them first.";
                    return Err(Refusal::new(Kind::Conflict, "user_disabled", detail).into());
                }
                let link = this.make_link(tx, &mut user, Purpose::Reset, (authority.by, may), &origin)?;
                this.save_user(tx, &user)?;
                idempotency::remember(tx, tenant.to_bytes(), once.as_ref(), now, &link.without_token())?;
                Ok(link)
            })
            .await
    }

    /// Whether the link still leads to this person.
    fn leads_to(row: &LinkRow, user: &User, hash: &[u8; 32], now: Timestamp) -> bool {
        now < row.expires_at && !user.disabled && user.link.as_ref().is_some_and(|own| constant_time_eq(own, hash))
    }

    /// Sets the password of whoever the link was made for, and ends all of their sessions. The link is used up with it.
    ///
    /// # Errors
    /// 401 `link_invalid`, whether it is unknown, used, expired or replaced; 422 at `/password`, and then the link is still
    /// good; 403 `tenant_suspended`.
    pub async fn use_password_link(&self, token: &str, plain: Secret, origin: Origin) -> Result<()> {
        let hash = OpaqueToken::parse(TokenKind::Link, token).ok_or_else(link_invalid)?.hash();
        let (this, now) = (self.clone(), self.inner.clock.now());
        let found = self
            .inner
            .store
            .read_with(move |snapshot| {
                let Some(row) = snapshot.get::<LinkRow>(LINKS, Key::new().bytes(hash))? else { return Ok(None) };
                let user = model::user(snapshot, row.tenant, row.user)?;
                let leads =
                    |user: &User| Self::leads_to(&row, user, &hash, now) && row.bound.covers(this.permissions_of(user));
                Ok(user.filter(leads))
            })
            .await?;
        // Only a good link is worth the work of a hash, and learns what its owner's password must not be made of.
        let user = found.ok_or_else(link_invalid)?;
        self.acceptable_password(&plain, &context_of(&user))?;
        let phc = self.hash_password(plain).await?;
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let row: LinkRow = tx.get(LINKS, Key::new().bytes(hash))?.ok_or_else(link_invalid)?;
                let user = Self::load_user(tx, row.tenant, row.user)?;
                let leads = |user: &User| Self::leads_to(&row, user, &hash, this.inner.clock.now());
                let user = user.filter(leads).ok_or_else(link_invalid)?;
                if !row.bound.covers(permissions_in(tx, &user)?) {
                    return Err(link_invalid());
                }
                if tenants::load(tx, row.tenant)?.is_none_or(|t| t.state != TenantState::Active) {
                    return Err(tenants::suspended().into());
                }
                let how = format!("{} {}", row.purpose.name(), row.id);
                this.set_password(tx, user, phc.clone(), None, &how, &origin)
            })
            .await
    }

    /// Writes a new password, voids a waiting link and ends the person's sessions but `keep`.
    fn set_password(
        &self,
        tx: &mut Tx<'_>,
        mut user: User,
        phc: String,
        keep: Option<&SessionEntry>,
        how: &str,
        origin: &Origin,
    ) -> Result<()> {
        let now = self.inner.clock.now();
        void(tx, &mut user)?;
        user.password = Some(phc);
        user.password_changed_at = Some(now);
        self.save_user(tx, &user)?;
        let entry = NewEntry::new(Action::PasswordChanged, origin).user(user.id).reason(how);
        audit::append(tx, user.tenant, now, &self.inner.random, &entry)?;
        self.end_sessions_in(tx, user.tenant, user.id, keep.map(|s| s.id), false, origin).map(drop)
    }

    /// Sets the own password, and ends the person's other sessions.
    ///
    /// # Errors
    /// 403 `wrong_password`; 422 at `/new_password`.
    pub async fn change_own_password(
        &self,
        by: &std::sync::Arc<SessionEntry>,
        current: Secret,
        new: Secret,
        origin: Origin,
    ) -> Result<()> {
        let found = self.user(by.tenant, by.user).await?.ok_or_else(Refusal::not_found)?;
        let (stored, cost) = (found.password.clone(), self.inner.password_cost);
        let check = move || match stored {
            Some(phc) => password::verify(&current, &phc),
            None => password::verify_dummy(&current, &cost),
        };
        let correct = self.inner.argon.run(check).await?;
        let (this, session) = (self.clone(), std::sync::Arc::clone(by));
        if !correct {
            let entry = NewEntry::new(Action::StepUpFailed, &origin).level(ThreatLevel::Low).user(found.id);
            let entry = entry.reason("a wrong password for setting another one");
            let append = move |tx: &mut Tx<'_>| {
                audit::append(tx, session.tenant, this.inner.clock.now(), &this.inner.random, &entry).map(drop)
            };
            self.inner.store.write(append).await?;
            return Err(wrong_password().into());
        }
        self.acceptable_password(&new, &context_of(&found)).map_err(|e| of_member(e, "/new_password"))?;
        let phc = self.hash_password(new).await.map_err(|e| of_member(e, "/new_password"))?;
        self.inner
            .store
            .write(move |tx| {
                let user = Self::load_user(tx, session.tenant, session.user)?;
                // Between the check and this moment the password may have been changed.
                let unchanged = |u: &User| u.password == found.password && !u.disabled;
                let user = user.filter(unchanged).ok_or_else(wrong_password)?;
                this.set_password(tx, user, phc.clone(), Some(&session), "by its owner", &origin)
            })
            .await
    }
}
