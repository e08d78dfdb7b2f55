//! Who calls: the signature of a token is checked once and remembered until it expires; its session is asked every time.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::header::{AUTHORIZATION, HeaderMap};

use super::context::{Caller, DeviceCaller, MachineCaller, UserCaller, unauthenticated};
use super::limiter::Limiter;
use crate::crypto::sha256;
use crate::domains::Services;
use crate::domains::devices::DeviceEntry;
use crate::domains::iam::{AccessClaims, EndCause, KeyKind, SessionEntry, UserEntry};
use crate::domains::tenants::TenantEntry;
use crate::kernel::{Clock, Error, Kind, Refusal, Result, Timestamp};

/// The credential of a scheme in `Authorization`; schemes are case-insensitive (RFC 9110, section 11.1).
pub(super) fn credential<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (given, credential) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| credential.trim_start())
}

type Belongings = (Arc<SessionEntry>, Arc<TenantEntry>, Option<Arc<DeviceEntry>>);

/// Tokens that are remembered. A genuine token beyond that is checked anew on every request: slower, never wrong.
const REMEMBERED_MAX: usize = 262_144;

struct Remembered {
    caller: Caller,
    session: Arc<SessionEntry>,
    /// The person behind a person's token.
    user: Option<Arc<UserEntry>>,
    expires_at: Timestamp,
}

impl Remembered {
    fn is_over(&self, now: Timestamp) -> bool {
        let shut_out = self.user.as_ref().is_some_and(|u| u.is_disabled());
        now >= self.expires_at || self.session.ended().is_some() || shut_out
    }
}

/// Checks credentials.
pub(super) struct Authenticator {
    services: Arc<Services>,
    limiter: Arc<Limiter>,
    clock: Clock,
    tokens: papaya::HashMap<[u8; 32], Arc<Remembered>>,
}

impl Authenticator {
    pub fn new(services: Arc<Services>, limiter: Arc<Limiter>, clock: Clock) -> Self {
        Self { services, limiter, clock, tokens: papaya::HashMap::new() }
    }

    /// The holder of this access token.
    ///
    /// # Errors
    /// 401 for anything but a living token of a living session; 429 when the network has failed too often.
    pub fn caller(&self, token: &str, ip: IpAddr) -> Result<Caller> {
        let now = self.clock.now();
        let hash = sha256(token.as_bytes());
        let known = self.tokens.pin().get(&hash).cloned();
        let remembered = match known {
            Some(remembered) => remembered,
            None => self.check(token, hash, ip, now)?,
        };
        if remembered.is_over(now) {
            self.tokens.pin().remove(&hash);
            return Err(unauthenticated().into());
        }
        remembered.session.touch(now);
        Ok(remembered.caller.clone())
    }

    fn check(&self, token: &str, hash: [u8; 32], ip: IpAddr, now: Timestamp) -> Result<Arc<Remembered>> {
        self.check_budget(ip, now)?;
        let failed = |limiter: &Limiter| {
            limiter.auth_failed(ip, now);
            Error::from(unauthenticated())
        };
        let claims = self.services.iam.verify_access(token).map_err(|e| {
            tracing::debug!(%ip, reason = %e, "an access token was refused");
            failed(&self.limiter)
        })?;
        let (session, tenant, device) = self.belongings(&claims).ok_or_else(|| failed(&self.limiter))?;
        if session.ended().is_some() {
            return Err(unauthenticated().into());
        }
        let jti = claims.jti;
        let (caller, user) = match device {
            Some(entry) => {
                let device = DeviceCaller { entry, session: Arc::clone(&session), jti, tenant };
                (Caller::Device(Arc::new(device)), None)
            }
            None => {
                let user = self.services.iam.user_entry(claims.user).ok_or_else(unauthenticated)?;
                let caller = UserCaller { session: Arc::clone(&session), user: Arc::clone(&user), jti, tenant };
                (Caller::User(Arc::new(caller)), Some(user))
            }
        };
        let remembered = Arc::new(Remembered { caller, session, user, expires_at: claims.expires_at });
        if remembered.is_over(now) {
            return Err(unauthenticated().into());
        }
        if self.tokens.len() < REMEMBERED_MAX {
            self.tokens.pin().insert(hash, Arc::clone(&remembered));
        }
        Ok(remembered)
    }

    /// The session, tenant and device that genuine claims speak of, if they are still there.
    fn belongings(&self, claims: &AccessClaims) -> Option<Belongings> {
        let session = self.services.iam.session(claims.session)?;
        if session.tenant != claims.tenant || session.user != claims.user || session.device != claims.device {
            return None;
        }
        let tenant = self.services.tenants.entry(claims.tenant)?;
        let device = match &claims.device {
            Some(id) => Some(self.services.devices.entry(claims.tenant, id)?),
            None => None,
        };
        Some((session, tenant, device))
    }

    /// The program with this API key or instance token.
    ///
    /// # Errors
    /// 401 for anything but a living one; 403 `address_not_allowed` from elsewhere than it may be used; 429 when the
    /// network has failed too often.
    pub fn machine(&self, text: &str, ip: IpAddr) -> Result<Caller> {
        let now = self.clock.now();
        let found = self.services.iam.api_key(text).and_then(|key| {
            let tenant = self.services.tenants.entry(key.tenant)?;
            let maker = match key.kind {
                // A key acts for its maker, and falls silent with them.
                KeyKind::Api => {
                    Some(self.services.iam.user_entry(key.created_by()).filter(|maker| !maker.is_disabled())?)
                }
                KeyKind::Instance => None,
            };
            Some(MachineCaller { key, maker, tenant })
        });
        // Looking costs a hash. Only who shows what is no key pays: others behind the same address go on.
        let Some(machine) = found else {
            self.check_budget(ip, now)?;
            self.limiter.auth_failed(ip, now);
            return Err(unauthenticated().into());
        };
        if !machine.key.admits(ip) {
            let detail = "This key may not be used from this address.";
            return Err(Refusal::new(Kind::Forbidden, "address_not_allowed", detail).into());
        }
        machine.key.touch(ip, now);
        Ok(Caller::Machine(Arc::new(machine)))
    }

    /// 429 when this network has failed too often in the last minute: a forged token costs a signature check.
    pub fn check_budget(&self, ip: IpAddr, now: Timestamp) -> Result<()> {
        let budget = self.limiter.auth_budget(ip, now);
        if budget.admitted {
            return Ok(());
        }
        let detail = "Too many failed authentications from this address in the last minute.";
        Err(Refusal::new(Kind::RateLimited, "rate_limited", detail).retry_after_s(budget.reset_s).into())
    }

    /// The device behind a token that comes for its kill-switch socket, and whether it may do more than receive commands.
    /// A blocked device, or one whose session was revoked (but not one that logged out), may come back with a token
    /// that was genuine, expired or not.
    ///
    /// # Errors
    /// As [`Authenticator::caller`].
    pub fn socket_caller(&self, token: &str, ip: IpAddr) -> Result<(Arc<DeviceCaller>, bool)> {
        match self.caller(token, ip) {
            Ok(Caller::Device(device)) => return Ok((device, true)),
            Ok(_) => return Err(unauthenticated().into()),
            Err(Error::Refused(refusal)) if refusal.kind == Kind::Unauthenticated => {}
            Err(other) => return Err(other),
        }
        self.check_budget(ip, self.clock.now())?;
        let refused = || Error::from(unauthenticated());
        let claims = self.services.iam.verify_access_even_expired(token).map_err(|_| refused())?;
        let (session, tenant, device) = self.belongings(&claims).ok_or_else(refused)?;
        let entry = device.ok_or_else(refused)?;
        let reachable = match session.ended() {
            None => entry.is_blocked(),
            Some(EndCause::RefreshReused | EndCause::Revoked) => true,
            Some(EndCause::LoggedOut | EndCause::Replaced | EndCause::DeviceRemoved) => false,
        };
        if !reachable {
            return Err(refused());
        }
        Ok((Arc::new(DeviceCaller { entry, session, jti: claims.jti, tenant }), false))
    }

    /// Forgets tokens that have expired or whose session has ended.
    pub fn sweep(&self) {
        let now = self.clock.now();
        self.tokens.pin().retain(|_, r| !r.is_over(now));
    }
}
