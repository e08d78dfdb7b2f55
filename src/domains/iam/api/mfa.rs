//! Second factors, passkeys and fresh proofs on the wire.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::{Ended, LoginResponse, length, welcome};
use crate::crypto::Secret;
use crate::domains::iam::{Attempt, Evidence, FRESH, PasskeyView, Site};
use crate::gate::{Context, Json, Nothing, Reply, Validate};
use crate::kernel::error::FieldError;
use crate::kernel::ids::PasskeyId;
use crate::kernel::{Error, Kind, Refusal, Result, Timestamp};

/// How the caller's second factors stand.
#[derive(Serialize, ToSchema)]
pub struct MfaView {
    /// When the authenticator app was set up; null when there is none.
    #[schema(value_type = Option<String>, format = DateTime)]
    totp_since: Option<Timestamp>,
    /// Passkeys.
    passkeys: Vec<PasskeyView>,
    /// Recovery codes that are left.
    recovery_codes_left: usize,
}

/// `GET /v1/me/mfa`
pub async fn show(ctx: Context, _: Nothing) -> Result<Reply<MfaView>> {
    let caller = ctx.user()?;
    let factors = ctx.services().iam.factors(ctx.tenant()?, caller.id()).await?;
    Ok(Reply::new(MfaView {
        totp_since: factors.totp_since,
        passkeys: factors.passkeys,
        recovery_codes_left: factors.recovery_codes_left,
    }))
}

/// A secret for an authenticator app. It counts once a code of it was confirmed.
#[derive(Serialize, ToSchema)]
pub struct TotpSecret {
    /// In base32, to be typed. Shown once.
    secret: String,
    /// For a QR code. Shown once.
    otpauth_uri: String,
}

/// `POST /v1/me/mfa/totp`
pub async fn begin_totp(ctx: Context, _: Nothing) -> Result<Reply<TotpSecret>> {
    let caller = ctx.user()?;
    let pending = ctx.services().iam.begin_totp(&caller.session, ctx.origin().clone()).await?;
    Ok(Reply::new(TotpSecret { secret: pending.secret.to_string(), otpauth_uri: pending.uri.to_string() }))
}

/// The first code of a new authenticator app.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CodeRequest {
    /// Six digits.
    #[schema(value_type = String, min_length = 1, max_length = 16)]
    code: Secret,
}

impl Validate for CodeRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        length(self.code.expose(), "/code", 1, 16, wrong);
    }
}

/// Codes for the day when the second factor is lost.
#[derive(Serialize, ToSchema)]
pub struct RecoveryCodes {
    /// Each works once. Shown once; empty where earlier ones still stand.
    recovery_codes: Vec<String>,
}

impl RecoveryCodes {
    fn of(codes: &[Zeroizing<String>]) -> Self {
        Self { recovery_codes: codes.iter().map(|code| code.to_string()).collect() }
    }
}

/// `POST /v1/me/mfa/totp/confirm`
pub async fn confirm_totp(ctx: Context, Json(request): Json<CodeRequest>) -> Result<Reply<RecoveryCodes>> {
    let caller = ctx.user()?;
    let codes = ctx.services().iam.confirm_totp(&caller.session, request.code, ctx.origin().clone()).await?;
    Ok(Reply::new(RecoveryCodes::of(&codes)))
}

/// `DELETE /v1/me/mfa/totp`
pub async fn remove_totp(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    let caller = ctx.user()?;
    ctx.services().iam.remove_totp(&caller.session, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}

/// `POST /v1/me/mfa/recovery-codes`
pub async fn replace_recovery_codes(ctx: Context, _: Nothing) -> Result<Reply<RecoveryCodes>> {
    let caller = ctx.user()?;
    let codes = ctx.services().iam.replace_recovery_codes(&caller.session, ctx.origin().clone()).await?;
    Ok(Reply::new(RecoveryCodes::of(&codes)))
}

/// Options for `navigator.credentials`, in the JSON form of Web Authentication Level 3.
#[derive(Serialize, ToSchema)]
pub struct Options {
    /// For `PublicKeyCredential.parseCreationOptionsFromJSON` or `parseRequestOptionsFromJSON`.
    #[serde(rename = "publicKey")]
    #[schema(rename = "publicKey", value_type = Object)]
    public_key: Value,
}

/// The site that the browser called; a passkey needs a host name.
fn site(ctx: &Context) -> Result<Site> {
    let fixed = ctx.services().iam.relying_party();
    ctx.host().and_then(|host| Site::of(host, fixed)).ok_or_else(|| {
        let detail = "Passkeys need the appliance to be called by its host name (webauthn.rp_id), not by an address.";
        Refusal::new(Kind::Invalid, "passkeys_need_a_host_name", detail).into()
    })
}

/// `POST /v1/me/mfa/passkeys/options`
pub async fn passkey_options(ctx: Context, _: Nothing) -> Result<Reply<Options>> {
    let caller = ctx.user()?;
    let site = site(&ctx)?;
    Ok(Reply::new(Options { public_key: ctx.services().iam.passkey_options(&caller.session, &site).await? }))
}

/// `POST /v1/me/mfa/verify/options`
pub async fn verify_options(ctx: Context, _: Nothing) -> Result<Reply<Options>> {
    let caller = ctx.user()?;
    let site = site(&ctx)?;
    Ok(Reply::new(Options { public_key: ctx.services().iam.passkey_step_up_options(&caller.session, &site) }))
}

/// `POST /v1/auth/passkey/options`
pub async fn login_options(ctx: Context, _: Nothing) -> Result<Reply<Options>> {
    let site = site(&ctx)?;
    Ok(Reply::new(Options { public_key: ctx.services().iam.passkey_login_options(&site) }))
}

/// What an authenticator answered (`RegistrationResponseJSON`, `AuthenticationResponseJSON`). Browsers add members;
/// those that are not needed are passed over.
#[derive(Deserialize)]
struct Credential {
    #[serde(rename = "rawId")]
    raw_id: String,
    #[serde(rename = "type")]
    kind: String,
    response: CredentialResponse,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialResponse {
    #[serde(rename = "clientDataJSON")]
    client_data_json: String,
    #[serde(default)]
    attestation_object: Option<String>,
    #[serde(default)]
    authenticator_data: Option<String>,
    #[serde(default)]
    signature: Option<String>,
    #[serde(default)]
    user_handle: Option<String>,
}

fn attempt(credential: Value) -> Result<Attempt> {
    let malformed = |what: &str| Error::from(Refusal::invalid("/credential", what));
    let credential: Credential =
        serde_json::from_value(credential).map_err(|e| malformed(&format!("is not a credential: {e}")))?;
    if credential.kind != "public-key" {
        return Err(malformed("is not of the type public-key"));
    }
    let decode = |text: &str| {
        Base64UrlUnpadded::decode_vec(text).map_err(|_| malformed("has a member that is not base64url without padding"))
    };
    let response = credential.response;
    let data = response.attestation_object.or(response.authenticator_data);
    let data = data.ok_or_else(|| malformed("has neither attestationObject nor authenticatorData"))?;
    Ok(Attempt {
        client_data: decode(&response.client_data_json)?,
        data: decode(&data)?,
        signature: decode(response.signature.as_deref().unwrap_or_default())?,
        credential_id: decode(&credential.raw_id)?,
        user_handle: response.user_handle.as_deref().map(decode).transpose()?,
    })
}

/// A new passkey.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPasskeyRequest {
    /// What its owner calls it.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    /// What `navigator.credentials.create` gave, as `toJSON()` writes it.
    #[schema(value_type = Object)]
    credential: Value,
}

impl Validate for NewPasskeyRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        length(&self.name, "/name", 1, 64, wrong);
    }
}

/// A passkey that was just made.
#[derive(Serialize, ToSchema)]
pub struct NewPasskey {
    /// The passkey.
    passkey: PasskeyView,
    /// Each works once. Shown once; empty where earlier ones still stand.
    recovery_codes: Vec<String>,
}

/// `POST /v1/me/mfa/passkeys`
pub async fn add_passkey(ctx: Context, Json(request): Json<NewPasskeyRequest>) -> Result<Reply<NewPasskey>> {
    let caller = ctx.user()?;
    let (site, attempt) = (site(&ctx)?, attempt(request.credential)?);
    let iam = &ctx.services().iam;
    let (passkey, codes) = iam.add_passkey(&caller.session, site, request.name, attempt, ctx.origin().clone()).await?;
    Ok(Reply::new(NewPasskey { passkey, recovery_codes: RecoveryCodes::of(&codes).recovery_codes }))
}

/// `DELETE /v1/me/mfa/passkeys/{passkey_id}`
pub async fn remove_passkey(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    let caller = ctx.user()?;
    let id: PasskeyId = ctx.path("passkey_id")?;
    ctx.services().iam.remove_passkey(&caller.session, id, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}

/// A fresh proof of who the caller is: exactly one of the three.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// A code of the authenticator app, or a recovery code.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 16)]
    otp: Option<Secret>,
    /// The password; only for who has no second factor.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1024)]
    password: Option<Secret>,
    /// What `navigator.credentials.get` gave, as `toJSON()` writes it.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    credential: Option<Value>,
}

impl Validate for VerifyRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if let Some(otp) = &self.otp {
            length(otp.expose(), "/otp", 1, 16, wrong);
        }
        if let Some(password) = &self.password {
            length(password.expose(), "/password", 1, 1024, wrong);
        }
        let given = [self.otp.is_some(), self.password.is_some(), self.credential.is_some()];
        if given.iter().filter(|g| **g).count() != 1 {
            let detail = "must have exactly one of otp, password and credential".to_owned();
            wrong.push(FieldError { pointer: String::new(), detail });
        }
    }
}

/// What a fresh proof is good for.
#[derive(Serialize, ToSchema)]
pub struct Verified {
    /// Whether it was a second factor.
    second_factor: bool,
    /// Until when it counts as fresh.
    #[schema(value_type = String, format = DateTime)]
    fresh_until: Timestamp,
}

/// `POST /v1/me/mfa/verify`
pub async fn verify(ctx: Context, Json(request): Json<VerifyRequest>) -> Result<Reply<Verified>> {
    let caller = ctx.user()?;
    let iam = &ctx.services().iam;
    // Before the try is taken: what cannot be read is no wrong proof.
    let by_passkey = match request.credential {
        Some(credential) => Some((site(&ctx)?, attempt(credential)?)),
        None => None,
    };
    let account = caller.id().to_string();
    let (ip, origin) = (ctx.origin().ip, ctx.origin().clone());
    let decision = ctx.limiter().proof_try(&account, ip, ctx.now());
    if !decision.admitted {
        ctx.decided(decision);
        let detail = "Too many wrong proofs from this address. Wait, then try again.";
        return Err(Refusal::new(Kind::RateLimited, "rate_limited", detail).retry_after_s(decision.reset_s).into());
    }
    let outcome = match (request.otp, request.password, by_passkey) {
        (_, _, Some((site, attempt))) => {
            iam.passkey_step_up(&caller.session, site, attempt, origin).await.map(|()| true)
        }
        (Some(code), _, _) => iam.step_up(&caller.session, Evidence::Code(code), origin).await,
        (_, Some(password), _) => iam.step_up(&caller.session, Evidence::Password(password), origin).await,
        (None, None, None) => Err(Refusal::invalid("", "must have one of otp, password and credential").into()),
    };
    match &outcome {
        Err(Error::Refused(refusal)) if refusal.code == "mfa_invalid" => ctx.decided(decision),
        Ok(_) | Err(_) => ctx.limiter().proof_taken(&account, ip, ctx.now()),
    }
    Ok(Reply::new(Verified { second_factor: outcome?, fresh_until: ctx.now().plus(FRESH) }))
}

/// A person's way in by a passkey.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasskeyLoginRequest {
    /// What `navigator.credentials.get` gave, as `toJSON()` writes it.
    #[schema(value_type = Object)]
    credential: Value,
    /// The refresh token comes only as the cookie `__Host-refresh`.
    #[serde(default)]
    cookie: bool,
}

impl Validate for PasskeyLoginRequest {}

/// `POST /v1/auth/passkey`
pub async fn login(ctx: Context, Json(request): Json<PasskeyLoginRequest>) -> Result<Reply<LoginResponse>> {
    let (site, attempt) = (site(&ctx)?, attempt(request.credential)?);
    let outcome =
        ctx.services().iam.passkey_login(site, attempt, ctx.proven_key().cloned(), ctx.origin().clone()).await;
    if let (Err(Error::Refused(refusal)), Some(ip)) = (&outcome, ctx.origin().ip)
        && refusal.kind == Kind::Unauthenticated
    {
        ctx.limiter().auth_failed(ip, ctx.now());
    }
    Ok(welcome(&ctx, outcome?, request.cookie))
}
