//! Access tokens: JWT (RFC 9068), ES256, fifteen minutes.

use serde_json::{Value, json};

use std::cell::Cell;

use super::Iam;
use super::model::{Binding, SessionRow, User};
use crate::crypto::{Claims, JwtError, verify_genuine, verify_jwt};
use crate::kernel::Timestamp;
use crate::kernel::ids::{DeviceId, SessionId, TenantId, TokenId, UserId};

/// Header type of an access token (RFC 9068).
pub(super) const ACCESS_JWT_TYPE: &str = "at+jwt";
/// How far two clocks may differ, in seconds.
pub(super) const LEEWAY_S: u32 = 30;
/// What a device's token carries: never its owner's permissions.
pub const DEVICE_SCOPE: &str = "device";

/// The proven claims of one of our access tokens.
#[derive(Clone, Debug)]
pub struct AccessClaims {
    /// The user, or the owner of the device.
    pub user: UserId,
    /// Where they belong.
    pub tenant: TenantId,
    /// The session that keeps it alive.
    pub session: SessionId,
    /// The token's own id.
    pub jti: TokenId,
    /// Present for a device's token.
    pub device: Option<DeviceId>,
    /// Space-separated.
    pub scope: String,
    /// The first moment at which it is no longer valid, the allowed clock skew included.
    pub expires_at: Timestamp,
}

impl Iam {
    /// A token for a person's session. The scope tells the client what to offer; what counts is what the person may do
    /// at the moment of each request.
    pub(super) fn mint_user(&self, user: &User, session: &SessionRow) -> String {
        self.mint(session, None, &self.permissions_of(user).scope())
    }

    /// A token for a device's session.
    pub(super) fn mint_device(&self, session: &SessionRow, device: &DeviceId) -> String {
        self.mint(session, Some(device), DEVICE_SCOPE)
    }

    fn mint(&self, session: &SessionRow, device: Option<&DeviceId>, scope: &str) -> String {
        let inner = &self.inner;
        let now = inner.clock.now();
        let mut claims = json!({
            "iss": inner.settings.issuer,
            "aud": inner.settings.audience,
            "sub": session.user,
            "tenant": session.tenant,
            "sid": session.id,
            "jti": TokenId::generate(now, &inner.random),
            "iat": now.as_secs(),
            "nbf": now.as_secs(),
            "exp": now.plus(inner.settings.access_ttl).as_secs(),
            "typ": "access",
            "scope": scope,
        });
        if let Some(map) = claims.as_object_mut() {
            if let Some(device) = device {
                map.insert("device_id".to_owned(), Value::from(device.as_str()));
            }
            match &session.binding {
                Some(Binding::Dpop(thumbprint)) => drop(map.insert("cnf".to_owned(), json!({ "jkt": thumbprint }))),
                Some(Binding::Certificate(hash)) => drop(map.insert("cnf".to_owned(), json!({ "x5t#S256": hash }))),
                None => {}
            }
        }
        inner.keys.sign(ACCESS_JWT_TYPE, claims.to_string().as_bytes())
    }

    /// Checks form, signature and claims; not whether the session still lives, which is asked on every request.
    ///
    /// # Errors
    /// The first rule that the token breaks.
    pub fn verify_access(&self, token: &str) -> Result<AccessClaims, JwtError> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let accept_until = Cell::new(None);
        let key_of = |kid: &str| {
            let (key, until) = inner.keys.access_verifier(kid, now)?;
            accept_until.set(until);
            Some(key)
        };
        let claims = verify_jwt(token, &key_of, &inner.policy, now)?;
        let mut claims = self.access_claims(&claims)?;
        // Who remembers this token must not remember it for longer than its key counts.
        if let Some(until) = accept_until.get() {
            claims.expires_at = claims.expires_at.min(until);
        }
        Ok(claims)
    }

    /// As [`Iam::verify_access`], but a token that was genuine and has only expired passes, also when its key was retired
    /// meanwhile: for a blocked device that comes back for its commands.
    pub fn verify_access_even_expired(&self, token: &str) -> Result<AccessClaims, JwtError> {
        let inner = &self.inner;
        let claims = verify_genuine(token, &|kid| inner.keys.verifier(kid), &inner.policy, inner.clock.now())?;
        self.access_claims(&claims)
    }

    fn access_claims(&self, claims: &Claims) -> Result<AccessClaims, JwtError> {
        if claims.text("typ") != Some("access") {
            return Err(JwtError::Claim("typ"));
        }
        fn id<T: std::str::FromStr>(text: Option<&str>, name: &'static str) -> Result<T, JwtError> {
            text.and_then(|t| t.parse().ok()).ok_or(JwtError::Claim(name))
        }
        let device = match claims.all.get("device_id") {
            None => None,
            Some(value) => Some(id(value.as_str(), "device_id")?),
        };
        let leeway_ms = i64::from(self.inner.policy.leeway_s) * 1_000;
        Ok(AccessClaims {
            user: id(Some(&claims.sub), "sub")?,
            tenant: id(claims.text("tenant"), "tenant")?,
            session: id(claims.text("sid"), "sid")?,
            jti: id(Some(&claims.jti), "jti")?,
            device,
            scope: claims.text("scope").ok_or(JwtError::Claim("scope"))?.to_owned(),
            expires_at: Timestamp::from_millis(claims.exp_s.saturating_mul(1_000).saturating_add(leeway_ms)),
        })
    }
}
