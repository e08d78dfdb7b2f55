//! Opening, refreshing and ending sessions.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};

use super::model::{self, Binding, EndCause, SessionRow, SessionView};
use super::refresh::{self, Family, Fingerprint, Presented, Rotation};
use super::{Iam, SessionEntry};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::devices::{self, BlockCause, Blocked, Device};
use crate::domains::killswitch::{self, NewCommand};
use crate::domains::tenants::{self, TenantState};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, SessionId, TenantId, UserId};
use crate::kernel::rate::Quota;
use crate::kernel::{Error, Kind, Refusal, Result, Timestamp};
use crate::store::Tx;
use crate::store::tables::{Key, SESSIONS, SESSIONS_BY_USER};

/// A fresh pair of tokens, and whom it is for.
#[derive(Clone, Debug)]
pub struct TokenPair {
    /// Fifteen minutes.
    pub access_token: String,
    /// Until it is used.
    pub refresh_token: String,
    /// Seconds until the access token ends.
    pub expires_in: u64,
    /// The session behind both.
    pub session: SessionId,
    /// How the access token is presented: `Bearer`, or `DPoP` when it is bound to a key.
    pub token_type: &'static str,
}

/// How somebody proved who they are when a session was opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Proof {
    /// A person did, just now; a device's enrollment is not a person's proof.
    pub person: bool,
    /// A second factor was among it.
    pub second_factor: bool,
    /// The key that the session's tokens are to be bound to.
    pub binding: Option<Binding>,
}

/// What a request shows of who presents a refresh token.
#[derive(Clone, Debug, Default)]
pub struct Presenter {
    /// What the device says of itself: its id and its platform.
    pub claimed: Option<(DeviceId, String)>,
    /// The key that the request proves to have: by DPoP, or by a client certificate.
    pub key: Option<Binding>,
}

impl Binding {
    fn text(&self) -> &str {
        match self {
            Self::Dpop(text) | Self::Certificate(text) => text,
        }
    }
}

pub(super) fn key(tenant: TenantId, session: SessionId) -> Key {
    Key::new().bytes(tenant.to_bytes()).bytes(session.to_bytes())
}

/// Where the living sessions of a user stand; one that ends is taken out.
pub(super) fn user_key(tenant: TenantId, user: UserId) -> Key {
    Key::new().bytes(tenant.to_bytes()).bytes(user.to_bytes())
}

/// Sessions of one user that one change ends. Who owns more devices ends them by the devices.
const SESSIONS_ENDED_MAX: usize = 10_000;

enum Outcome {
    Fresh { row: Box<SessionRow>, generation: u32 },
    Stolen,
}

impl Iam {
    /// Writes a new session in the caller's transaction; the pair is made once that is durable ([`Iam::pair`]).
    pub(super) fn open_session(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        user: UserId,
        device: Option<&Device>,
        proof: Proof,
        origin: &Origin,
    ) -> Result<SessionRow> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let id = SessionId::generate(now, &inner.random);
        let fingerprint = match device {
            Some(device) => fingerprint_of(device)?,
            None => Fingerprint::of_session(id, proof.binding.as_ref().map(Binding::text)),
        };
        let row = SessionRow {
            id,
            tenant,
            user,
            device: device.map(|d| d.id.clone()),
            created_at: now,
            last_refresh_at: now,
            ip: origin.ip.map(|ip| ip.to_string()),
            user_agent: origin.user_agent.as_deref().map(str::to_owned),
            family: Family {
                generation: 1,
                salt: Base64UrlUnpadded::encode_string(&inner.random.bytes::<16>()),
                rotated_at: None,
                expires_at: now.plus(self.refresh_ttl(device, now)),
                absolute_expires_at: now.plus(inner.settings.refresh_absolute),
                fingerprint,
            },
            ended: None,
            name: None,
            authenticated_at: proof.person.then_some(now),
            second_factor_at: proof.second_factor.then_some(now),
            binding: proof.binding,
        };
        tx.put_raw(SESSIONS_BY_USER, user_key(tenant, user).bytes(id.to_bytes()), &[])?;
        self.save_session(tx, &row)?;
        Ok(row)
    }

    /// How long a refresh token lives after its last use; of a device, as its plan says.
    fn refresh_ttl(&self, device: Option<&Device>, now: Timestamp) -> Duration {
        let by_plan = device.and_then(|device| self.inner.billing.refresh_ttl(device, now));
        by_plan.unwrap_or(self.inner.settings.refresh_ttl)
    }

    pub(super) fn save_session(&self, tx: &mut Tx<'_>, row: &SessionRow) -> Result<()> {
        tx.put(SESSIONS, key(row.tenant, row.id), row)?;
        let (iam, row) = (self.clone(), row.clone());
        tx.after_commit(move || iam.inner.sessions.apply(&row));
        Ok(())
    }

    /// The tokens of a session's generation.
    pub(super) fn pair(&self, row: &SessionRow, generation: u32, access_token: String) -> TokenPair {
        TokenPair {
            access_token,
            refresh_token: row.family.token(&self.inner.refresh_key, row.id, generation),
            expires_in: self.inner.settings.access_ttl.as_secs(),
            session: row.id,
            token_type: match row.binding {
                Some(Binding::Dpop(_)) => "DPoP",
                Some(Binding::Certificate(_)) | None => "Bearer",
            },
        }
    }

    /// Exchanges a refresh token.
    ///
    /// # Errors
    /// 429 for a session that refreshes too often; 403 `refresh_invalid` for what is unknown, expired or logged out; 403 `refresh_reused` for theft, after which the
    /// family and the device's other sessions are revoked, the device is blocked and told to lock itself.
    pub async fn refresh(&self, token: &str, presenter: Presenter, origin: Origin) -> Result<TokenPair> {
        let invalid = || Error::from(refresh_invalid());
        let presented = Presented::parse(token).ok_or_else(invalid)?;
        let entry = self.session(presented.session).ok_or_else(invalid)?;
        let quota = Quota::per_minute(self.inner.settings.refresh_per_minute);
        let decision = entry.refreshes.admit(quota, self.inner.clock.now());
        if !decision.admitted {
            let detail = "Too many refresh tokens of this session in the last minute.";
            let refusal = Refusal::new(Kind::RateLimited, "rate_limited", detail);
            return Err(refusal.retry_after_s(decision.reset_s).into());
        }
        let (this, tenant) = (self.clone(), entry.tenant);
        let outcome =
            self.inner.store.write(move |tx| this.refresh_in(tx, tenant, &presented, &presenter, &origin)).await?;
        match outcome {
            Outcome::Fresh { row, generation } => {
                entry.touch(self.inner.clock.now());
                let access = match &row.device {
                    Some(device) => self.mint_device(&row, device),
                    None => {
                        let user =
                            self.user(row.tenant, row.user).await?.filter(|u| !u.disabled).ok_or_else(invalid)?;
                        self.mint_user(&user, &row)
                    }
                };
                Ok(self.pair(&row, generation, access))
            }
            Outcome::Stolen => Err(Refusal::new(
                Kind::Forbidden,
                "refresh_reused",
                "This refresh token was used before. Its session and its device were revoked; enroll or log in again.",
            )
            .into()),
        }
    }

    fn refresh_in(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        presented: &Presented,
        presenter: &Presenter,
        origin: &Origin,
    ) -> Result<Outcome> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let mut row: SessionRow = tx.get(SESSIONS, key(tenant, presented.session))?.ok_or_else(refresh_invalid)?;
        let device = match &row.device {
            Some(id) => devices::load(tx, tenant, id)?,
            None => None,
        };
        let holder = holder(&row, device.as_ref(), presenter)?;
        // A suspended tenant's token is neither used up nor theft: it works again when the tenant does.
        let tenant_row = tenants::load(tx, tenant)?.ok_or_else(refresh_invalid)?;
        if tenant_row.state != TenantState::Active {
            return Err(tenants::suspended().into());
        }
        let ended = row.ended.is_some();
        match refresh::rotate(&row.family, &inner.refresh_key, presented, holder.as_ref(), ended, now) {
            Rotation::Invalid => Err(refresh_invalid().into()),
            Rotation::Repeat => {
                let generation = row.family.generation;
                Ok(Outcome::Fresh { row: Box::new(row), generation })
            }
            Rotation::Next => {
                row.family.generation += 1;
                row.family.rotated_at = Some(now);
                row.family.expires_at =
                    now.plus(self.refresh_ttl(device.as_ref(), now)).min(row.family.absolute_expires_at);
                row.last_refresh_at = now;
                self.save_session(tx, &row)?;
                let mut entry = NewEntry::new(Action::TokenRefreshed, origin).user(row.user);
                if let Some(device) = &row.device {
                    entry = entry.device(device);
                }
                audit::append(tx, tenant, now, &inner.random, &entry)?;
                let generation = row.family.generation;
                Ok(Outcome::Fresh { row: Box::new(row), generation })
            }
            Rotation::Stolen => {
                self.revoke_stolen(tx, row, device, origin)?;
                Ok(Outcome::Stolen)
            }
        }
    }

    /// Everything that answers a theft, in one transaction.
    fn revoke_stolen(&self, tx: &mut Tx<'_>, row: SessionRow, device: Option<Device>, origin: &Origin) -> Result<()> {
        const REASON: &str = "an old refresh token was presented: somebody else holds a copy of the device's session";
        let inner = &self.inner;
        let now = inner.clock.now();
        let tenant = row.tenant;
        let mut entry =
            NewEntry::new(Action::RefreshReused, origin).user(row.user).level(ThreatLevel::Critical).reason(REASON);
        if let Some(device) = &row.device {
            entry = entry.device(device);
        }
        audit::append(tx, tenant, now, &inner.random, &entry)?;
        self.end_row(tx, row, EndCause::RefreshReused)?;
        if let Some(mut device) = device {
            self.end_session_of(tx, &device, EndCause::RefreshReused)?;
            let lock = NewCommand::new(killswitch::Action::CriticalLock, REASON);
            let note = NewEntry::new(Action::DeviceBlocked, origin)
                .device(&device.id)
                .level(ThreatLevel::Critical)
                .reason(REASON);
            let blocked = inner.killswitch.block(tx, &mut device, BlockCause::RefreshReused, &lock, note, origin)?;
            // A device that is locked for something milder still has to forget its tokens.
            if blocked == Blocked::Already {
                inner.killswitch.issue(tx, &mut device, &lock, origin)?;
                devices::save(tx, &inner.devices, &device)?;
            }
        }
        Ok(())
    }

    pub(super) fn end_row(&self, tx: &mut Tx<'_>, mut row: SessionRow, cause: EndCause) -> Result<()> {
        if row.ended.is_none() {
            row.ended = Some((cause, self.inner.clock.now()));
            tx.delete(SESSIONS_BY_USER, user_key(row.tenant, row.user).bytes(row.id.to_bytes()))?;
            self.save_session(tx, &row)?;
        }
        Ok(())
    }

    /// Ends a device's session within the transaction of who locks it. Holds no share of the identity: whoever keeps it
    /// may be part of what the identity keeps.
    pub fn session_ender(&self) -> impl Fn(&mut Tx<'_>, &Device) -> Result<()> + Send + Sync + 'static {
        let inner = std::sync::Arc::downgrade(&self.inner);
        move |tx, device| match inner.upgrade() {
            Some(inner) => Self { inner }.end_session_of(tx, device, EndCause::Revoked),
            None => Ok(()),
        }
    }

    /// Ends the session that a device holds, if any.
    pub(super) fn end_session_of(&self, tx: &mut Tx<'_>, device: &Device, cause: EndCause) -> Result<()> {
        let Some(id) = device.session else { return Ok(()) };
        match tx.get::<SessionRow>(SESSIONS, key(device.tenant, id))? {
            Some(row) => self.end_row(tx, row, cause),
            None => Ok(()),
        }
    }

    /// Ends one of a user's own sessions, or, for the session itself, logs out.
    ///
    /// # Errors
    /// `not_found` also for another user's session.
    pub async fn end_session(&self, by: &SessionEntry, target: SessionId, origin: Origin) -> Result<()> {
        let (this, tenant, user, own) = (self.clone(), by.tenant, by.user, by.id == target);
        let device_session = by.device.is_some();
        let ended = self
            .inner
            .store
            .write(move |tx| {
                let row: Option<SessionRow> = tx.get(SESSIONS, key(tenant, target))?;
                let visible = |r: &SessionRow| r.user == user && r.ended.is_none() && (own || !device_session);
                let row = row.filter(visible).ok_or_else(Refusal::not_found)?;
                let (cause, action) = if own {
                    (EndCause::LoggedOut, Action::LoggedOut)
                } else {
                    (EndCause::Revoked, Action::SessionRevoked)
                };
                let mut entry = NewEntry::new(action, &origin).user(user).reason(format!("session {target}"));
                if let Some(device) = &row.device {
                    entry = entry.device(device);
                }
                audit::append(tx, tenant, this.inner.clock.now(), &this.inner.random, &entry)?;
                let device = row.device.clone();
                this.end_row(tx, row, cause)?;
                Ok(device)
            })
            .await?;
        // A device whose session was revoked keeps its socket for commands; one that logged out by itself does not.
        if own
            && let Some(device) = ended
            && let Some(entry) = self.inner.devices.entry(tenant, &device)
        {
            let close = killswitch::Outgoing::Close(killswitch::CloseReason::LoggedOut);
            self.inner.killswitch.hub().send(entry.no, close);
        }
        Ok(())
    }

    /// A page of the living sessions of a user, newest first; those of the devices they own among them.
    pub async fn sessions(
        &self,
        tenant: TenantId,
        user: UserId,
        current: Option<SessionId>,
        before: Option<SessionId>,
        limit: usize,
    ) -> Result<(Vec<SessionView>, Option<SessionId>)> {
        let this = self.clone();
        let now = self.inner.clock.now();
        self.inner
            .store
            .read_with(move |snapshot| {
                let mut views = Vec::new();
                let mut next = None;
                let prefix = user_key(tenant, user);
                let below = before.map(|id| prefix.clone().bytes(id.to_bytes()));
                snapshot.visit_back(SESSIONS_BY_USER, &prefix, below.as_ref(), |place, _| {
                    let id = place.last_chunk::<16>().map(|b| SessionId::from_bytes(*b));
                    let row: Option<SessionRow> = match id {
                        Some(id) => snapshot.get(SESSIONS, key(tenant, id))?,
                        None => None,
                    };
                    let Some(row) = row.filter(|r| r.ended.is_none() && r.family.is_alive(now)) else {
                        return Ok(true);
                    };
                    if views.len() >= limit {
                        next = views.last().map(|v: &SessionView| v.id);
                        return Ok(false);
                    }
                    let last_used_at = this.session(row.id).map_or(row.last_refresh_at, |e| e.last_used());
                    views.push(SessionView {
                        id: row.id,
                        device_id: row.device,
                        name: row.name,
                        ip: row.ip,
                        user_agent: row.user_agent,
                        created_at: row.created_at,
                        last_used_at,
                        current: current == Some(row.id),
                    });
                    Ok(true)
                })?;
                Ok((views, next))
            })
            .await
    }

    /// Gives one of a user's own sessions a name.
    ///
    /// # Errors
    /// `not_found` also for another user's session.
    pub async fn name_session(&self, by: &SessionEntry, target: SessionId, name: String, origin: Origin) -> Result<()> {
        let (this, tenant, user) = (self.clone(), by.tenant, by.user);
        self.inner
            .store
            .write(move |tx| {
                let row: Option<SessionRow> = tx.get(SESSIONS, key(tenant, target))?;
                let visible = |r: &SessionRow| r.user == user && r.ended.is_none();
                let mut row = row.filter(visible).ok_or_else(Refusal::not_found)?;
                row.name = Some(name.clone());
                this.save_session(tx, &row)?;
                let entry =
                    NewEntry::new(Action::SessionRenamed, &origin).user(user).reason(format!("session {target}"));
                audit::append(tx, tenant, this.inner.clock.now(), &this.inner.random, &entry).map(drop)
            })
            .await
    }

    /// Ends a user's sessions but `keep`, in the caller's transaction; those of the user's devices only when asked.
    /// Says how many. One audit entry stands for all of them.
    pub(super) fn end_sessions_in(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        user: UserId,
        keep: Option<SessionId>,
        devices_too: bool,
        origin: &Origin,
    ) -> Result<usize> {
        // Who owns a fleet has a session for each device: those are passed over here, not counted against the limit.
        let mut candidates = Vec::new();
        tx.visit(SESSIONS_BY_USER, &user_key(tenant, user), |place, _| {
            let id = place.last_chunk::<16>().map(|b| SessionId::from_bytes(*b)).filter(|id| keep != Some(*id));
            let wanted = |id: &SessionId| devices_too || self.session(*id).is_none_or(|s| s.device.is_none());
            candidates.extend(id.filter(wanted));
            Ok(candidates.len() < SESSIONS_ENDED_MAX)
        })?;
        let mut ended = 0;
        for id in candidates {
            let Some(row) = tx.get::<SessionRow>(SESSIONS, key(tenant, id))? else { continue };
            if row.ended.is_some() || (row.device.is_some() && !devices_too) {
                continue;
            }
            self.end_row(tx, row, EndCause::Revoked)?;
            ended += 1;
        }
        if ended > 0 {
            let entry = NewEntry::new(Action::SessionRevoked, origin).user(user).reason(format!("{ended} sessions"));
            audit::append(tx, tenant, self.inner.clock.now(), &self.inner.random, &entry)?;
        }
        Ok(ended)
    }

    /// Ends all sessions of a user but the one that asks; those of the user's devices only when asked. Says how many.
    pub async fn end_other_sessions(&self, by: &SessionEntry, devices_too: bool, origin: Origin) -> Result<usize> {
        let (this, tenant, user, keep) = (self.clone(), by.tenant, by.user, by.id);
        self.inner.store.write(move |tx| this.end_sessions_in(tx, tenant, user, Some(keep), devices_too, &origin)).await
    }

    /// Reads one user's row inside a change.
    pub(super) fn load_user(tx: &mut Tx<'_>, tenant: TenantId, user: UserId) -> Result<Option<model::User>> {
        tx.get(crate::store::tables::USERS, Key::new().bytes(tenant.to_bytes()).bytes(user.to_bytes()))
    }
}

/// Whose the request is by what it shows; `None` when it shows nothing that could contradict the family's own holder.
fn holder(row: &SessionRow, device: Option<&Device>, presenter: &Presenter) -> Result<Option<Fingerprint>> {
    let shown = presenter.key.as_ref().map(Binding::text);
    let Some(device) = device else {
        // Tokens that are bound to a key are worth nothing without it.
        return Ok(row.binding.is_some().then(|| Fingerprint::of_session(row.id, shown)));
    };
    if row.binding.is_some() && row.binding != presenter.key {
        // A session's fingerprint is no device's: whatever key the device was enrolled with, this one does not fit.
        return Ok(Some(Fingerprint::of_session(row.id, shown)));
    }
    let Some((id, platform)) = &presenter.claimed else { return Ok(None) };
    Ok(Some(Fingerprint::of_device(id, platform, thumbprint_of(device)?.as_deref())))
}

fn thumbprint_of(device: &Device) -> Result<Option<String>> {
    let Some(jwk) = &device.public_key else { return Ok(None) };
    let key = crate::crypto::VerifyingKey::from_jwk(jwk).map_err(Error::internal)?;
    Ok(Some(key.thumbprint()))
}

fn fingerprint_of(device: &Device) -> Result<Fingerprint> {
    Ok(Fingerprint::of_device(&device.id, &device.platform, thumbprint_of(device)?.as_deref()))
}

fn refresh_invalid() -> Refusal {
    Refusal::new(
        Kind::Forbidden,
        "refresh_invalid",
        "The refresh token is unknown, expired or logged out. Log in or enroll again.",
    )
}
