//! What a handler gets: who calls, for which tenant, by what path, and the services. Only the pipeline can make one.

use std::sync::{Arc, OnceLock};

use serde::Serialize;
use zeroize::Zeroizing;

use super::body::{FromRequest, invalid};
use super::limiter::Limiter;
use super::route::{Access, DeviceRule};
use crate::crypto::sha256;
use crate::domains::Services;
use crate::domains::devices::DeviceEntry;
use crate::domains::iam::{ApiKeyEntry, Authority, Binding, Permission, PermissionSet, SessionEntry, UserEntry};
use crate::domains::killswitch::Once;
use crate::domains::signals::device_blocked;
use crate::domains::tenants::TenantEntry;
use crate::kernel::context::Origin;
use crate::kernel::ids::{AnonymousId, DeviceId, TenantId, TokenId, UserId};
use crate::kernel::rate::Decision;
use crate::kernel::{Clock, Error, Kind, Refusal, Result, Timestamp};
use crate::observe::{Metrics, Strain};

/// A person.
pub struct UserCaller {
    /// The session behind the token.
    pub session: Arc<SessionEntry>,
    /// The live side of the person.
    pub user: Arc<UserEntry>,
    /// The token's id.
    pub jti: TokenId,
    pub(super) tenant: Arc<TenantEntry>,
}

impl UserCaller {
    /// Whether the person may do this at this moment, whatever the token said when it was made.
    pub fn may(&self, permission: Permission) -> bool {
        self.user.may(permission)
    }

    /// The person.
    pub fn id(&self) -> UserId {
        self.session.user
    }

    /// Whether they proved who they are within the last five minutes, by a second factor where they have one.
    pub fn has_fresh_proof(&self, now: Timestamp) -> bool {
        if self.user.has_second_factor() {
            self.session.has_fresh_second_factor(now)
        } else {
            self.session.is_fresh(now)
        }
    }
}

/// An enrolled device.
pub struct DeviceCaller {
    /// Its live entry.
    pub entry: Arc<DeviceEntry>,
    /// The session behind the token.
    pub session: Arc<SessionEntry>,
    /// The token's id.
    pub jti: TokenId,
    pub(super) tenant: Arc<TenantEntry>,
}

/// A program with an API key or an instance token.
pub struct MachineCaller {
    /// Its credential.
    pub key: Arc<ApiKeyEntry>,
    /// Who made an API key: it never may what they may not.
    pub(super) maker: Option<Arc<UserEntry>>,
    pub(super) tenant: Arc<TenantEntry>,
}

impl MachineCaller {
    /// Whether its scopes include the permission, and its maker still has it where it acts for one.
    pub fn may(&self, permission: Permission) -> bool {
        let maker = self.maker.as_ref().is_none_or(|m| m.may(permission));
        maker && self.key.scopes().has(permission)
    }
}

/// Who calls.
#[derive(Clone)]
pub enum Caller {
    /// Nobody in particular.
    Public,
    /// Nobody in particular, told apart from others and counted.
    Anonymous(AnonymousId),
    /// A person.
    User(Arc<UserCaller>),
    /// An enrolled device.
    Device(Arc<DeviceCaller>),
    /// A program.
    Machine(Arc<MachineCaller>),
}

impl Caller {
    /// The session behind the call.
    pub fn session(&self) -> Option<&Arc<SessionEntry>> {
        match self {
            Self::Public | Self::Anonymous(_) | Self::Machine(_) => None,
            Self::User(user) => Some(&user.session),
            Self::Device(device) => Some(&device.session),
        }
    }

    /// The tenant of the caller.
    pub fn tenant(&self) -> Option<&Arc<TenantEntry>> {
        match self {
            Self::Public | Self::Anonymous(_) => None,
            Self::User(user) => Some(&user.tenant),
            Self::Device(device) => Some(&device.tenant),
            Self::Machine(machine) => Some(&machine.tenant),
        }
    }

    /// Whether it is a person or a program that may do this.
    pub fn may(&self, permission: Permission) -> bool {
        match self {
            Self::User(user) => user.may(permission),
            Self::Machine(machine) => machine.may(permission),
            Self::Public | Self::Anonymous(_) | Self::Device(_) => false,
        }
    }
}

/// The cookie that a browser keeps the refresh token in.
pub(super) enum RefreshCookie {
    /// There is none, or there are two, of which somebody planted one.
    None,
    /// The one that a page of this site, or no page at all, sent.
    Genuine(String),
    /// A page of another site made the browser send it.
    CrossSite,
}

/// What a request says of its signature: the headers of the schemes that are known here.
#[derive(Default)]
pub struct SignatureHeaders(Vec<(&'static str, String)>);

impl SignatureHeaders {
    const NAMES: [&'static str; 5] =
        ["x-timestamp", "x-signature", "webhook-id", "webhook-timestamp", "webhook-signature"];

    pub(super) fn of(headers: &hyper::header::HeaderMap) -> Self {
        let all = |name| headers.get_all(name).iter().map(move |value| (name, value));
        // What is no text fits no signature.
        let text = |(name, value): (_, &hyper::header::HeaderValue)| (name, value.to_str().unwrap_or("").to_owned());
        Self(Self::NAMES.into_iter().flat_map(all).map(text).collect())
    }

    /// Whether it is there.
    pub fn any(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    /// The value of a header that is there once: of two, somebody may have added one.
    pub fn once(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        values.next().filter(|_| values.next().is_none())
    }
}

/// What a handler gets.
pub struct Context {
    pub(super) services: Arc<Services>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) caller: Caller,
    pub(super) origin: Origin,
    pub(super) path: Vec<(&'static str, String)>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) strain: Arc<Strain>,
    pub(super) authority: Option<Arc<super::Authority>>,
    pub(super) draining: bool,
    pub(super) accept: Option<String>,
    pub(super) enrollment: Option<String>,
    pub(super) embed: Option<String>,
    pub(super) cookie: RefreshCookie,
    pub(super) proven_key: Option<Binding>,
    pub(super) certificate: Option<[u8; 32]>,
    pub(super) signature: SignatureHeaders,
    pub(super) if_none_match: Option<String>,
    pub(super) host: Option<String>,
    pub(super) idempotency_key: Option<String>,
    pub(super) rate: Arc<OnceLock<Decision>>,
}

impl Context {
    /// The façades of the domains.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Who calls.
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Address, request id and the like.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The token of `Authorization: Enrollment ...`.
    pub fn enrollment_credential(&self) -> Option<&str> {
        self.enrollment.as_deref()
    }

    /// The token of the status widget, from `X-Embed-Token`: a header of its own, because it is no credential of a caller.
    pub fn embed_credential(&self) -> Option<&str> {
        self.embed.as_deref()
    }

    /// The value of the cookie `__Host-refresh`.
    ///
    /// # Errors
    /// 403 `csrf_refused` when the request comes from a page of another site: the browser adds the cookie by itself.
    pub fn refresh_cookie(&self) -> Result<Option<&str>> {
        match &self.cookie {
            RefreshCookie::None => Ok(None),
            RefreshCookie::Genuine(value) => Ok(Some(value)),
            RefreshCookie::CrossSite => {
                let detail = "A page of another site may not use this site's cookie.";
                Err(Refusal::new(Kind::Forbidden, "csrf_refused", detail).into())
            }
        }
    }

    /// The tags of what the client has already (RFC 9110, section 13.1.2).
    pub fn if_none_match(&self) -> Option<&str> {
        self.if_none_match.as_deref()
    }

    /// The headers of a signed request; empty on a route that takes none.
    pub const fn signature_headers(&self) -> &SignatureHeaders {
        &self.signature
    }

    /// The host and port by which the client calls this appliance.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The key that the request proves to have, by DPoP or by a client certificate: new tokens are bound to it.
    pub const fn proven_key(&self) -> Option<&Binding> {
        self.proven_key.as_ref()
    }

    /// SHA-256 of the certificate whose key the client proved to hold in the TLS handshake, whoever issued it.
    pub const fn client_certificate(&self) -> Option<[u8; 32]> {
        self.certificate
    }

    /// The caller's `Idempotency-Key`.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    /// What a handler counts itself: refresh attempts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Counters that a handler keeps itself: failed logins.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// What a counter that the handler keeps itself decided, for the headers of the answer; the first one counts.
    pub fn decided(&self, decision: Decision) {
        let _ = self.rate.set(decision);
    }

    /// Counts a presented refresh token by what came of it: a stable word.
    pub fn count_refresh(&self, result: &'static str) {
        self.metrics.refreshed(result);
    }

    /// The person who calls.
    ///
    /// # Errors
    /// 401 for anybody else; a route that admits persons only never sees it.
    pub fn user(&self) -> Result<&Arc<UserCaller>> {
        match &self.caller {
            Caller::User(user) => Ok(user),
            _ => Err(unauthenticated().into()),
        }
    }

    /// The person who answers for the call: the one who calls, or who made the program's credential.
    ///
    /// # Errors
    /// 401 for anybody else; a route that admits people and programs only never sees it.
    pub fn actor(&self) -> Result<UserId> {
        match &self.caller {
            Caller::User(user) => Ok(user.id()),
            Caller::Machine(machine) => Ok(machine.key.created_by()),
            _ => Err(unauthenticated().into()),
        }
    }

    /// What the caller may do at this moment: the bound of what it may hand on.
    pub fn permissions(&self) -> PermissionSet {
        Permission::ALL.iter().copied().filter(|p| self.caller.may(*p)).collect()
    }

    /// Who asks for a change of people or rights, and the bound of what they may hand on.
    ///
    /// # Errors
    /// 401 for anybody but a person or a program.
    pub fn authority(&self) -> Result<Authority> {
        let program = matches!(self.caller, Caller::Machine(_));
        let for_itself = matches!(&self.caller, Caller::Machine(machine) if machine.maker.is_none());
        Ok(Authority { by: self.actor()?, may: self.permissions(), program, bounded_by_person: !for_itself })
    }

    /// Refuses a person whose last proof of who they are is older than five minutes; a program has none to show.
    ///
    /// # Errors
    /// 403 `step_up_required`.
    pub fn demand_fresh_proof(&self) -> Result<()> {
        match &self.caller {
            Caller::User(user) if !user.has_fresh_proof(self.now()) => Err(super::authorize::step_up_required().into()),
            _ => Ok(()),
        }
    }

    /// What tells this request from others, where it bears an `Idempotency-Key`; `noun` is what it makes. `request` is
    /// kept only as a keyed hash.
    ///
    /// # Errors
    /// 401 for anybody but a person or a program.
    pub fn once(&self, noun: &str, request: &impl Serialize) -> Result<Option<Once>> {
        let Some(key) = self.idempotency_key() else { return Ok(None) };
        // A program is somebody else than the person who made its key.
        let who = match &self.caller {
            Caller::Machine(machine) => machine.key.id.to_string(),
            _ => self.actor()?.to_string(),
        };
        let name = sha256(format!("{who}\u{1f}{noun}\u{1f}{key}").as_bytes());
        let body = Zeroizing::new(serde_json::to_vec(request).map_err(Error::internal)?);
        Ok(Some(Once { name, body: self.services.iam.hash_of_request(&body) }))
    }

    /// Whether this device exists for the caller.
    pub fn sees_device(&self, id: &DeviceId) -> bool {
        match &self.caller {
            Caller::Device(device) => device.entry.id == *id,
            Caller::Machine(machine) => machine.key.sees_device(id),
            _ => true,
        }
    }

    /// The device that calls.
    ///
    /// # Errors
    /// 401 for anybody else; a route that admits devices only never sees it.
    pub fn device(&self) -> Result<&Arc<DeviceCaller>> {
        match &self.caller {
            Caller::Device(device) => Ok(device),
            _ => Err(unauthenticated().into()),
        }
    }

    /// The tenant of the caller.
    ///
    /// # Errors
    /// 401 for a caller without one; a route that demands a caller never sees it.
    pub fn tenant(&self) -> Result<TenantId> {
        self.caller.tenant().map(|t| t.id).ok_or_else(|| unauthenticated().into())
    }

    /// A parameter of the path, as its type. What is not of the type cannot exist: 404.
    pub fn path<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        let found = self.path.iter().find(|(n, _)| *n == name).and_then(|(_, value)| value.parse().ok());
        found.ok_or_else(|| Refusal::not_found().into())
    }

    /// The live entry of a device of the caller's tenant; 404 for what is absent or another tenant's. A device sees
    /// itself only.
    pub fn device_entry(&self, id: &DeviceId) -> Result<Arc<DeviceEntry>> {
        match &self.caller {
            Caller::Device(device) if device.entry.id == *id => Ok(Arc::clone(&device.entry)),
            _ if !self.sees_device(id) => Err(Refusal::not_found().into()),
            _ => self.services.devices.entry(self.tenant()?, id).ok_or_else(|| Refusal::not_found().into()),
        }
    }

    /// What can be judged only once the request is read: whether it fits the calling device, names it and no other, and
    /// whether that device may act; asked by the endpoint between parsing and handling.
    #[doc(hidden)]
    pub fn check_device(&self, request: &impl FromRequest, access: Access) -> Result<()> {
        let Caller::Device(device) = &self.caller else { return Ok(()) };
        let mut wrong = Vec::new();
        request.validate_for(&device.entry.device(), &mut wrong);
        if !wrong.is_empty() {
            return Err(invalid(wrong));
        }
        if request.device_id().is_some_and(|id| *id != device.entry.id) {
            return Err(device_mismatch().into());
        }
        if access != Access::Device(DeviceRule::Acting) {
            return Ok(());
        }
        check_acting(&self.services, device, self.now())
    }
}

/// 403: the request is about somebody else.
pub(super) fn device_mismatch() -> Refusal {
    let detail = "The request names another device than the one whose token it bears.";
    Refusal::new(Kind::Forbidden, "device_mismatch", detail)
}

/// 423 for a blocked device or tenant, 402 for one whose trial is over.
pub(super) fn check_acting(services: &Services, caller: &DeviceCaller, now: Timestamp) -> Result<(), Error> {
    let entry = &caller.entry;
    if entry.is_blocked() || caller.tenant.is_engaged() {
        return Err(device_blocked().into());
    }
    if services.billing.must_pay(entry, &caller.tenant, now) {
        return Err(services.billing.payment_required(entry, now).into());
    }
    Ok(())
}

/// 401 without a hint at what was wrong.
pub(super) fn unauthenticated() -> Refusal {
    let detail = "This needs a valid access token in the Authorization header. Log in, enroll or refresh to get one.";
    Refusal::new(Kind::Unauthenticated, "unauthenticated", detail)
}
