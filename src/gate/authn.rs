//! Who calls: the signature of a token is checked once and remembered until it expires; its session is asked every time.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::header::{AUTHORIZATION, HeaderMap};

use super::context::{Caller, DeviceCaller, UserCaller, unauthenticated};
use super::limiter::Limiter;
use crate::crypto::sha256;
use crate::domains::Services;
use crate::domains::devices::DeviceEntry;
use crate::domains::iam::{AccessClaims, EndCause, SessionEntry};
use crate::kernel::{Clock, Error, Kind, Refusal, Result, Timestamp};

/// The credential of a scheme in `Authorization`; schemes are case-insensitive (RFC 9110, section 11.1).
pub(super) fn credential<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (given, credential) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| credential.trim_start())
}

/// Tokens that are remembered. A genuine token beyond that is checked anew on every request: slower, never wrong.
const REMEMBERED_MAX: usize = 262_144;

struct Remembered {
    caller: Caller,
    session: Arc<SessionEntry>,
    expires_at: Timestamp,
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
        if now >= remembered.expires_at || remembered.session.ended().is_some() {
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
        let (session, device) = self.belongings(&claims).ok_or_else(|| failed(&self.limiter))?;
        if session.ended().is_some() {
            return Err(unauthenticated().into());
        }
        let caller = match device {
            Some(entry) => Caller::Device(DeviceCaller { entry, session: Arc::clone(&session), jti: claims.jti }),
            None => {
                let scope = claims.scope.as_str().into();
                Caller::User(UserCaller { session: Arc::clone(&session), jti: claims.jti, scope })
            }
        };
        let remembered = Arc::new(Remembered { caller, session, expires_at: claims.expires_at });
        if self.tokens.len() < REMEMBERED_MAX {
            self.tokens.pin().insert(hash, Arc::clone(&remembered));
        }
        Ok(remembered)
    }

    /// The living session and device that genuine claims speak of.
    fn belongings(&self, claims: &AccessClaims) -> Option<(Arc<SessionEntry>, Option<Arc<DeviceEntry>>)> {
        let session = self.services.iam.session(claims.session)?;
        if session.tenant != claims.tenant || session.user != claims.user || session.device != claims.device {
            return None;
        }
        let device = match &claims.device {
            Some(id) => Some(self.services.devices.entry(claims.tenant, id)?),
            None => None,
        };
        Some((session, device))
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
    pub fn socket_caller(&self, token: &str, ip: IpAddr) -> Result<(DeviceCaller, bool)> {
        match self.caller(token, ip) {
            Ok(Caller::Device(device)) => return Ok((device, true)),
            Ok(Caller::User(_) | Caller::Public) => return Err(unauthenticated().into()),
            Err(Error::Refused(refusal)) if refusal.kind == Kind::Unauthenticated => {}
            Err(other) => return Err(other),
        }
        self.check_budget(ip, self.clock.now())?;
        let refused = || Error::from(unauthenticated());
        let claims = self.services.iam.verify_access_even_expired(token).map_err(|_| refused())?;
        let id = claims.device.clone().ok_or_else(refused)?;
        let entry = self.services.devices.entry(claims.tenant, &id).ok_or_else(refused)?;
        let session = self.services.iam.session(claims.session).ok_or_else(refused)?;
        if session.device.as_ref() != Some(&id) || session.tenant != claims.tenant {
            return Err(refused());
        }
        let reachable = match session.ended() {
            None => entry.is_blocked(),
            Some(EndCause::RefreshReused | EndCause::Revoked) => true,
            Some(EndCause::LoggedOut | EndCause::Replaced) => false,
        };
        if !reachable {
            return Err(refused());
        }
        Ok((DeviceCaller { entry, session, jti: claims.jti }, false))
    }

    /// Forgets tokens that have expired or whose session has ended.
    pub fn sweep(&self) {
        let now = self.clock.now();
        self.tokens.pin().retain(|_, r| now < r.expires_at && r.session.ended().is_none());
    }
}
