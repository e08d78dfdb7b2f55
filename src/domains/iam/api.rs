//! Logging in, enrolling, refreshing and sessions on the wire.

pub mod enrollment_tokens;
pub mod keys;
pub mod mfa;
pub mod passwords;
pub mod roles;
pub mod teams;
pub mod tenants;
pub mod users;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Credentials, Enrollment, EnrollmentBy, Iam, LoggedIn, Permission, Presenter, RoleName, SessionView, TokenPair, User,
};
use crate::crypto::{Jwk, Secret};
use crate::domains::attestation::EvidenceRequest;
use crate::domains::devices::SensorsDeclared;
use crate::gate::{Caller, Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::{DeviceId, SessionId, TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result, Timestamp};

/// A person's way in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// Upper and lower case are the same.
    #[schema(min_length = 1, max_length = 128)]
    username: String,
    /// At most 1,024 bytes.
    #[schema(value_type = String, min_length = 1, max_length = 1024)]
    password: Secret,
    /// A code of the second factor where one is set up, or a recovery code.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 16)]
    otp: Option<Secret>,
    /// The refresh token comes only as the cookie `__Host-refresh`.
    #[serde(default)]
    cookie: bool,
}

impl Validate for LoginRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        length(&self.username, "/username", 1, 128, wrong);
        length(self.password.expose(), "/password", 1, 1024, wrong);
        if let Some(otp) = &self.otp {
            length(otp.expose(), "/otp", 1, 16, wrong);
        }
    }
}

fn length(text: &str, pointer: &str, min: usize, max: usize, wrong: &mut Vec<FieldError>) {
    if !(min..=max).contains(&text.chars().count()) {
        let detail = format!("must have {min} to {max} characters");
        wrong.push(FieldError { pointer: pointer.to_owned(), detail });
    }
}

/// A person as they see themselves.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserView {
    /// `usr_...`
    #[schema(value_type = String)]
    pub id: UserId,
    /// `ten_...`
    #[schema(value_type = String)]
    pub tenant: TenantId,
    /// Unique on the appliance.
    pub username: String,
    /// For people.
    pub display_name: Option<String>,
    /// Names of built-in roles, ids of the tenant's own.
    #[schema(value_type = Vec<String>)]
    pub roles: Vec<RoleName>,
    /// What the roles allow.
    pub permissions: Vec<String>,
    /// Whether they also administer the appliance.
    pub system_admin: bool,
}

impl UserView {
    /// A person, and what their roles allow now.
    pub fn of(iam: &Iam, user: User) -> Self {
        Self {
            permissions: iam.permissions_of(&user).names(),
            id: user.id,
            tenant: user.tenant,
            username: user.username,
            display_name: user.display_name,
            roles: user.roles,
            system_admin: user.system_admin,
        }
    }
}

/// Tokens of a person.
#[derive(Serialize, ToSchema)]
pub struct LoginResponse {
    /// Fifteen minutes.
    access_token: String,
    /// Once; absent when it came as a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// `Bearer`, or `DPoP` when the request bore a DPoP proof.
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
    /// The session behind both.
    #[schema(value_type = String)]
    session_id: SessionId,
    /// Who logged in.
    user: UserView,
}

fn cookie_of(token: &str) -> String {
    format!("__Host-refresh={token}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=2592000")
}

/// `POST /v1/auth/login`
pub async fn login(ctx: Context, Json(request): Json<LoginRequest>) -> Result<Reply<LoginResponse>> {
    let (account, ip) = (request.username.clone(), ctx.origin().ip);
    let decision = ctx.limiter().login_try(&account, ip, ctx.now());
    if !decision.admitted {
        ctx.decided(decision);
        let detail = "Too many failed logins to this account from this address. Wait, then try again.";
        return Err(Refusal::new(Kind::RateLimited, "rate_limited", detail).retry_after_s(decision.reset_s).into());
    }
    let credentials = Credentials {
        username: request.username,
        password: request.password,
        otp: request.otp,
        binding: ctx.proven_key().cloned(),
    };
    let outcome = ctx.services().iam.login(credentials, ctx.origin().clone()).await;
    // Only bad credentials are failures: a full queue or a broken disk is not the caller's, and a code that is still due
    // is no wrong one.
    match &outcome {
        Ok(_) => ctx.limiter().login_succeeded(&account, ip, ctx.now()),
        Err(Error::Refused(refusal)) if refusal.code == "invalid_credentials" => ctx.decided(decision),
        Err(_) => ctx.limiter().login_undecided(&account, ip, ctx.now()),
    }
    Ok(welcome(&ctx, outcome?, request.cookie))
}

/// The answer to every way of logging in.
fn welcome(ctx: &Context, logged_in: LoggedIn, by_cookie: bool) -> Reply<LoginResponse> {
    let TokenPair { access_token, refresh_token, expires_in, session, token_type } = logged_in.pair;
    let reply = Reply::new(LoginResponse {
        access_token,
        refresh_token: (!by_cookie).then(|| refresh_token.clone()),
        token_type,
        expires_in,
        session_id: session,
        user: UserView::of(&ctx.services().iam, logged_in.user),
    });
    if by_cookie { reply.header("set-cookie", cookie_of(&refresh_token)) } else { reply }
}

/// A device's way in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The device's own name, 1 to 64 characters, unique within its tenant.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9._:-]{1,64}$", example = "BR-1")]
    device_id: DeviceId,
    /// For people.
    #[schema(min_length = 1, max_length = 128)]
    device_name: String,
    /// As the device reports it.
    #[schema(min_length = 1, max_length = 64)]
    os_version: String,
    /// `android`, `ios`, `windows`, ...
    #[serde(default)]
    #[schema(min_length = 1, max_length = 32)]
    platform: Option<String>,
    /// Motion sensors that the device has; both when absent.
    #[serde(default)]
    #[schema(max_items = 8)]
    sensors: Option<Vec<SensorName>>,
    /// The P-256 key that the device will prove itself with, as a JWK (RFC 7517).
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    public_key: Option<Jwk>,
    /// The right to enroll; may also come as `Authorization: Enrollment ...`.
    #[serde(default)]
    #[schema(max_length = 128)]
    enrollment_token: Option<String>,
    /// Proof of the hardware.
    #[serde(default)]
    attestation: Option<EvidenceRequest>,
}

/// A motion sensor.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SensorName {
    /// m/s², gravity included.
    Accelerometer,
    /// rad/s.
    Gyroscope,
}

impl Validate for EnrollRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        length(&self.device_name, "/device_name", 1, 128, wrong);
        length(&self.os_version, "/os_version", 1, 64, wrong);
        if let Some(platform) = &self.platform {
            length(platform, "/platform", 1, 32, wrong);
        }
        if let Some(token) = &self.enrollment_token {
            length(token, "/enrollment_token", 1, 128, wrong);
        }
        if self.sensors.as_ref().is_some_and(|s| s.len() > 8) {
            wrong.push(FieldError { pointer: "/sensors".to_owned(), detail: "must have at most 8 items".to_owned() });
        }
        if let Some(key) = &self.public_key
            && let Err(e) = crate::crypto::VerifyingKey::from_jwk(key)
        {
            wrong.push(FieldError { pointer: "/public_key".to_owned(), detail: e.to_string() });
        }
    }
}

/// Tokens of a device.
#[derive(Serialize, ToSchema)]
pub struct EnrollResponse {
    /// The access token again, for older clients.
    token: String,
    /// Fifteen minutes.
    access_token: String,
    /// Once.
    refresh_token: String,
    /// Seconds.
    expires_in: u64,
    /// The device.
    #[schema(value_type = String)]
    device_id: DeviceId,
    /// The session behind both tokens.
    #[schema(value_type = String)]
    session_id: SessionId,
    /// When the trial ends.
    #[schema(value_type = String, format = DateTime)]
    trial_expires_at: Timestamp,
}

/// `POST /v1/auth/device`
pub async fn enroll(ctx: Context, Json(request): Json<EnrollRequest>) -> Result<Reply<EnrollResponse>> {
    let attestation = request.attestation.map(|e| e.evidence("/attestation")).transpose()?;
    let token = request.enrollment_token.as_deref().or(ctx.enrollment_credential()).map(str::to_owned);
    let by = match (token, ctx.caller()) {
        (Some(token), _) => EnrollmentBy::Token(token),
        (None, Caller::User(user)) if user.may(Permission::DevicesWrite) => EnrollmentBy::User(user.session.clone()),
        (None, Caller::User(_) | Caller::Machine(_)) => {
            let detail = "This needs the permission devices:write, or an enrollment token.";
            return Err(Refusal::new(Kind::Forbidden, "forbidden", detail).into());
        }
        (None, Caller::Public | Caller::Anonymous(_) | Caller::Device(_)) => EnrollmentBy::Open,
    };
    let sensors = request.sensors.as_ref().map_or_else(SensorsDeclared::default, |list| SensorsDeclared {
        accelerometer: list.contains(&SensorName::Accelerometer),
        gyroscope: list.contains(&SensorName::Gyroscope),
    });
    let device_id = request.device_id.clone();
    let wanted = Enrollment {
        device_id: request.device_id,
        device_name: request.device_name,
        os_version: request.os_version,
        platform: request.platform.unwrap_or_else(|| "unknown".to_owned()),
        sensors,
        public_key: request.public_key,
        attestation,
        binding: ctx.proven_key().cloned(),
    };
    let (limiter, ip) = (ctx.limiter(), ctx.origin().ip);
    if let Some(ip) = ip.filter(|_| wanted.attestation.is_some()) {
        let budget = limiter.auth_budget(ip, ctx.now());
        if !budget.admitted {
            ctx.decided(budget);
            let detail = "Too many failed authentications from this address in the last minute.";
            let refusal = Refusal::new(Kind::RateLimited, "rate_limited", detail);
            return Err(refusal.retry_after_s(budget.reset_s).into());
        }
    }
    let enrolled = ctx.services().iam.enroll(wanted, by, ctx.origin().clone()).await;
    // A proof that was spent before may be somebody's copy: that counts against who brings it, not against the device.
    const SPENT: [&str; 2] = ["attestation_replayed", "attestation_nonce_invalid"];
    if let (Err(Error::Refused(refusal)), Some(ip)) = (&enrolled, ip)
        && SPENT.contains(&refusal.code)
    {
        limiter.auth_failed(ip, ctx.now());
    }
    let enrolled = enrolled?;
    let TokenPair { access_token, refresh_token, expires_in, session, token_type: _ } = enrolled.pair;
    Ok(Reply::new(EnrollResponse {
        token: access_token.clone(),
        access_token,
        refresh_token,
        expires_in,
        device_id,
        session_id: session,
        trial_expires_at: enrolled.trial_expires_at,
    }))
}

/// A refresh token for a new pair.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// May be left out when the cookie `__Host-refresh` is sent.
    #[serde(default)]
    #[schema(max_length = 256)]
    refresh_token: Option<String>,
    /// What the device says of itself; a stolen token from another device is told by it.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,64}$")]
    device_id: Option<DeviceId>,
    /// As at enrollment.
    #[serde(default)]
    #[schema(max_length = 32)]
    platform: Option<String>,
}

impl Validate for RefreshRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if let Some(token) = &self.refresh_token {
            length(token, "/refresh_token", 1, 256, wrong);
        }
        if let Some(platform) = &self.platform {
            length(platform, "/platform", 1, 32, wrong);
        }
    }
}

/// A new pair.
#[derive(Serialize, ToSchema)]
pub struct RefreshResponse {
    /// Fifteen minutes.
    access_token: String,
    /// Once; absent when it came as a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// `Bearer`, or `DPoP` when the request bore a DPoP proof.
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
    /// The session behind both.
    #[schema(value_type = String)]
    session_id: SessionId,
}

/// `POST /v1/auth/refresh`
pub async fn refresh(ctx: Context, Json(request): Json<RefreshRequest>) -> Result<Reply<RefreshResponse>> {
    let by_cookie = request.refresh_token.is_none();
    let cookie = if by_cookie { ctx.refresh_cookie()? } else { None };
    let token = request.refresh_token.as_deref().or(cookie);
    let token = token.ok_or_else(|| Refusal::invalid("/refresh_token", "is required without the cookie"))?.to_owned();
    let claimed = request.device_id.map(|id| (id, request.platform.unwrap_or_else(|| "unknown".to_owned())));
    let presenter = Presenter { claimed, key: ctx.proven_key().cloned() };
    let outcome = ctx.services().iam.refresh(&token, presenter, ctx.origin().clone()).await;
    ctx.count_refresh(match &outcome {
        Ok(_) => "refreshed",
        Err(Error::Refused(refusal)) => refusal.code,
        Err(Error::OutcomeUnknown | Error::Internal(_)) => "failed",
    });
    let pair = outcome?;
    let reply = Reply::new(RefreshResponse {
        access_token: pair.access_token,
        refresh_token: (!by_cookie).then(|| pair.refresh_token.clone()),
        token_type: pair.token_type,
        expires_in: pair.expires_in,
        session_id: pair.session,
    });
    Ok(if by_cookie { reply.header("set-cookie", cookie_of(&pair.refresh_token)) } else { reply })
}

/// Nothing.
#[derive(Serialize, ToSchema)]
pub struct Ended {}

/// `POST /v1/auth/logout`
pub async fn logout(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    let session = ctx.caller().session().ok_or_else(Refusal::not_found)?;
    ctx.services().iam.end_session(session, session.id, ctx.origin().clone()).await?;
    let gone = "__Host-refresh=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0";
    Ok(Reply::empty().header("set-cookie", gone))
}

/// `GET /v1/me`
pub async fn me(ctx: Context, _: Nothing) -> Result<Reply<UserView>> {
    let caller = ctx.user()?;
    let user = ctx.services().iam.user(caller.session.tenant, caller.id()).await?.ok_or_else(Refusal::not_found)?;
    Ok(Reply::new(UserView::of(&ctx.services().iam, user)))
}

crate::list_of! {
    /// A person's living sessions, newest first.
    SessionList of SessionView
}

/// A page of sessions.
pub struct SessionQuery {
    limit: usize,
    cursor: Option<SessionId>,
}

impl Params for SessionQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

/// `GET /v1/me/sessions`
pub async fn sessions(ctx: Context, Query(query): Query<SessionQuery>) -> Result<Reply<SessionList>> {
    let caller = ctx.user()?;
    let (tenant, user, current) = (caller.session.tenant, caller.id(), caller.session.id);
    let (data, next) = ctx.services().iam.sessions(tenant, user, Some(current), query.cursor, query.limit).await?;
    Ok(Reply::new(SessionList { data, next_cursor: next.map(|id| id.to_string()) }))
}

/// What a session is to be called.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionPatch {
    /// For its user.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
}

impl Validate for SessionPatch {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        length(&self.name, "/name", 1, 64, wrong);
    }
}

/// `PATCH /v1/me/sessions/{session_id}`
pub async fn name_session(ctx: Context, Json(request): Json<SessionPatch>) -> Result<Reply<Ended>> {
    let caller = ctx.user()?;
    let target: SessionId = ctx.path("session_id")?;
    ctx.services().iam.name_session(&caller.session, target, request.name, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}

/// Which sessions to end.
pub struct OthersQuery {
    devices: bool,
}

impl Params for OthersQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("devices", "true: the sessions of the caller's devices, too. They go on receiving commands.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { devices: values.parse("devices", wrong).unwrap_or(false) }
    }
}

/// What was ended.
#[derive(Serialize, ToSchema)]
pub struct EndedSessions {
    /// How many sessions.
    ended: usize,
}

/// `DELETE /v1/me/sessions`
pub async fn end_other_sessions(ctx: Context, Query(query): Query<OthersQuery>) -> Result<Reply<EndedSessions>> {
    let caller = ctx.user()?;
    let origin = ctx.origin().clone();
    let ended = ctx.services().iam.end_other_sessions(&caller.session, query.devices, origin).await?;
    Ok(Reply::new(EndedSessions { ended }))
}

/// `DELETE /v1/me/sessions/{session_id}`
pub async fn end_session(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    let caller = ctx.user()?;
    let target: SessionId = ctx.path("session_id")?;
    ctx.services().iam.end_session(&caller.session, target, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}
