//! Attestation statements of WebAuthn registrations (Web Authentication Level 3, section 8): which make of authenticator
//! holds a new credential, on the word of certificates.
//!
//! The ceremony itself (challenge, origin, relying party, flags, signature of an assertion) is judged by the same code
//! that serves passkeys; here the statements are judged that it hands back unverified. Knows nothing of users, devices
//! or tables.

mod android;
mod roots;
mod statement;
mod tpm;

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::chain::{self, Anchors};
use super::members::Members;
use super::{Claims, Refused};
use crate::crypto::cose::Algorithm;
use crate::crypto::hex;
use crate::crypto::webauthn::{
    self as ceremony, AuthenticatorData, Expected, Registered, StoredCredential, WebauthnError,
};
use crate::kernel::Timestamp;

/// What a registration or an assertion must show.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebauthnPolicy {
    /// Statement formats that count. Default: `none`, `packed`, `tpm`, `android-key`, `apple`, `fido-u2f`. Leave `none`
    /// out to demand attestation.
    pub formats: Vec<String>,
    /// Whether `packed` may be signed by the credential itself, which proves no make. `None`: yes, but not for people's
    /// passkeys where these must show their make.
    pub allow_self_attestation: Option<bool>,
    /// Whether certificates must lead to a root that is known: from the case, or bundled for `tpm` (Microsoft),
    /// `android-key` (Google) and `apple`. Where a root is known the chain must lead there in any case. `None`: no, a
    /// statement of a make without a known root counts, and its claim `trusted` is false; but yes for people's passkeys
    /// where these must show their make.
    pub require_trusted_chain: Option<bool>,
    /// Whether a PIN, a fingerprint or the like is demanded. Default false.
    pub require_user_verification: bool,
    /// Whether a frame of another origin may hold the ceremony (`crossOrigin` and `topOrigin` of the client data).
    /// Default true: a statement says the same of its authenticator wherever it was asked for. Passkeys of people follow
    /// a rule of their own, which allows no frames.
    pub allow_cross_origin: bool,
    /// Whether a `tpm` statement may be signed with RSASSA and SHA-1 (`RS1`), as Windows Hello does; certificates never
    /// may. Default true.
    pub allow_tpm_rs1: bool,
    /// Vendors of TPMs that count, as eight hexadecimal digits such as `494E5443`. Default empty: any.
    pub tpm_vendors: Vec<String>,
    /// Whether an `android-key` must be in secure hardware, with origin and purpose on its word. `None`: no, either may be
    /// absent, as in the example that the recommendation itself prints; but yes for people's passkeys where these must
    /// show their make.
    pub require_android_hardware: Option<bool>,
    /// Models that count, as 32 hexadecimal digits. Only a trusted chain proves a model, so one is demanded when this is
    /// not empty. Default empty: any.
    pub aaguids: Vec<String>,
}

impl Default for WebauthnPolicy {
    fn default() -> Self {
        let formats = ["none", "packed", "tpm", "android-key", "apple", "fido-u2f"];
        Self {
            formats: formats.map(str::to_owned).to_vec(),
            allow_self_attestation: None,
            require_trusted_chain: None,
            require_user_verification: false,
            allow_cross_origin: true,
            allow_tpm_rs1: true,
            tpm_vendors: Vec::new(),
            require_android_hardware: None,
            aaguids: Vec::new(),
        }
    }
}

impl WebauthnPolicy {
    /// These rules where a passkey must show its make: nothing that proves no make counts, unless the rules say so in so
    /// many words.
    #[must_use]
    pub fn for_a_make(mut self) -> Self {
        self.formats.retain(|format| format != "none");
        self.allow_self_attestation.get_or_insert(false);
        self.require_trusted_chain.get_or_insert(true);
        self.require_android_hardware.get_or_insert(true);
        self
    }
}

/// What a statement was found to be.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Statement {
    /// Section 6.5.4: `none`, `self`, `basic`, `attca` or `anonca`.
    kind: &'static str,
    /// Label of the root that the certificates lead to.
    root: Option<String>,
    /// What else the format tells.
    details: Map<String, Value>,
}

/// Judges one registration with its statement, at `now`, which certificates must cover.
///
/// Members, by themselves or within `registration`: `challenge_hex` (or `challenge_b64url`), `client_data_json_...`,
/// `attestation_object_...`; beside them `rp_id`, `origin`, and where there are some `attestation_root_cert_der_hex` (or
/// `root_pem`) or `root`, the name of a bundled root.
///
/// # Errors
/// [`Refused`] with the first rule that was broken; `malformed_input` for a case that lacks a member.
pub fn verify_registration_case(
    input: &Map<String, Value>,
    policy: &WebauthnPolicy,
    now: Timestamp,
) -> Result<Claims, Refused> {
    let m = Members(input);
    let registered = register(m, policy)?;
    let anchors = roots::anchors(m, &registered.attestation.fmt)?;
    judge(&registered, anchors.as_ref(), policy, now)
}

/// The bundled roots of a statement's format; `None` where nobody knows one.
///
/// # Errors
/// Only when the bundled files are broken.
pub fn bundled_roots(fmt: &str) -> Result<Option<Anchors>, Refused> {
    roots::bundled_for(fmt)
}

/// Serial numbers of a statement's certificates, leaf first, as lists of revoked ones write them.
///
/// # Errors
/// [`Refused`] for a statement without certificates, or with broken ones.
pub fn serials(registered: &Registered) -> Result<Vec<String>, Refused> {
    let ders = statement::certificates(registered)?;
    Ok(chain::parse(&ders)?.iter().map(chain::serial_hex).collect())
}

/// Judges the statement of a registration whose ceremony holds, at `now`, which certificates must cover. `roots`: where
/// its certificates may end, when anybody knows.
///
/// # Errors
/// [`Refused`] with the first rule that was broken.
pub fn judge(
    registered: &Registered,
    roots: Option<&Anchors>,
    policy: &WebauthnPolicy,
    now: Timestamp,
) -> Result<Claims, Refused> {
    let fmt = registered.attestation.fmt.clone();
    if !policy.formats.contains(&fmt) {
        return Err(Refused::new("format", "The policy does not accept statements of this format."));
    }
    // U2F has no notion of a verified user, and signs neither flags nor model.
    let u2f = fmt == "fido-u2f";
    if u2f && policy.require_user_verification {
        return Err(Refused::new("user_unverified", "A U2F authenticator cannot prove that the user was verified."));
    }
    let statement = statement::verify(registered, roots, policy, now)?;
    if statement.kind == "self" && !policy.allow_self_attestation.unwrap_or(true) {
        return Err(Refused::new(
            "self_attestation",
            "The policy does not accept statements that a credential signs itself.",
        ));
    }
    let unproven = statement.root.is_none();
    if unproven && policy.require_trusted_chain.unwrap_or(false) && !matches!(statement.kind, "none" | "self") {
        return Err(Refused::new("root_unknown", "The statement's certificates lead to no root that is known."));
    }
    if !policy.aaguids.is_empty()
        && (unproven || u2f || !policy.aaguids.iter().any(|model| model.eq_ignore_ascii_case(&hex(&registered.aaguid))))
    {
        return Err(Refused::new("aaguid", "The authenticator is not proven to be of a model that the policy knows."));
    }
    Ok(claims(registered, statement))
}

/// Judges one assertion by the credential that the same case registers.
///
/// Members: `registration` as in [`verify_registration_case`], and within `authentication` `challenge_hex`,
/// `client_data_json_...`, `authenticator_data_...`, `signature_...`. The statement of the registration is not judged
/// again.
///
/// # Errors
/// [`Refused`] with the first rule that was broken; `malformed_input` for a case that lacks a member.
pub fn verify_assertion_case(
    input: &Map<String, Value>,
    policy: &WebauthnPolicy,
    now: Timestamp,
) -> Result<Claims, Refused> {
    let _ = now;
    let m = Members(input);
    let registered = register(m, policy)?;
    let used = m
        .inner("authentication")?
        .or(m.inner("assertion")?)
        .ok_or_else(|| Refused::new("malformed_input", "The member authentication is missing."))?;
    let challenge = challenge(used)?;
    let client_data = client_data(used)?;
    let data = used.required(&["authenticator_data_hex", "authenticator_data_b64url", "authenticator_data_b64"])?;
    let signature = used.required(&["signature_hex", "signature_b64url", "signature_b64"])?;
    let origins = [m.required_text("origin")?.to_owned()];
    let expected = expected(m.required_text("rp_id")?, &origins, &challenge, policy);
    let stored = StoredCredential {
        public_key_cose: &registered.public_key_cose,
        sign_count: registered.sign_count,
        backup_eligible: registered.backup_eligible,
    };
    let asserted = ceremony::verify_assertion(&expected, &stored, &client_data, &data, &signature).map_err(broken)?;
    let mut claims = Claims::new();
    for (name, value) in [
        ("type", json!("webauthn-assertion")),
        ("credential_id_hex", json!(hex(&registered.credential_id))),
        ("cose_alg", json!(registered.algorithm.cose_id())),
        ("sign_count", json!(asserted.sign_count)),
        ("user_verified", json!(asserted.user_verified)),
        ("backed_up", json!(asserted.backed_up)),
    ] {
        claims.insert(name.to_owned(), value);
    }
    Ok(claims)
}

fn register(m: Members<'_>, policy: &WebauthnPolicy) -> Result<Registered, Refused> {
    let made = m.inner("registration")?.unwrap_or(m);
    let challenge = challenge(made)?;
    let client_data = client_data(made)?;
    let object = made.required(&["attestation_object_hex", "attestation_object_b64url", "attestation_object_b64"])?;
    let origins = [m.required_text("origin")?.to_owned()];
    let expected = expected(m.required_text("rp_id")?, &origins, &challenge, policy);
    ceremony::verify_registration(&expected, &client_data, &object).map_err(broken)
}

fn challenge(m: Members<'_>) -> Result<Vec<u8>, Refused> {
    m.required(&["challenge_hex", "challenge_b64url", "challenge_b64"])
}

fn client_data(m: Members<'_>) -> Result<Vec<u8>, Refused> {
    m.required(&["client_data_json_hex", "client_data_json_b64url", "client_data_json_b64"])
}

fn expected<'a>(rp_id: &'a str, origins: &'a [String], challenge: &'a [u8], policy: &WebauthnPolicy) -> Expected<'a> {
    Expected {
        rp_id,
        origins,
        challenge,
        user_verification_required: policy.require_user_verification,
        cross_origin_allowed: policy.allow_cross_origin,
        algorithms: &Algorithm::ALL,
    }
}

/// The ceremony's refusals by name.
fn broken(fault: WebauthnError) -> Refused {
    use WebauthnError as E;
    let reason = match fault {
        E::ClientDataTooLong | E::ClientData(_) => "client_data",
        E::Type => "ceremony_type",
        E::Challenge => "challenge",
        E::Origin => "origin",
        E::CrossOrigin | E::TopOrigin => "cross_origin",
        E::AttestationObjectTooLong | E::AttestationObject(_) | E::AttestationForm => "attestation_object",
        E::RpId => "rp_id",
        E::UserAbsent => "user_absent",
        E::UserUnverified => "user_unverified",
        E::BackupState | E::BackupEligibility => "backup_flags",
        E::Key(_) | E::StoredKey(_) | E::Algorithm => "credential_key",
        E::NoneStatement => "none_statement",
        E::SelfAttestation => "self_attestation",
        E::Signature => "signature",
        E::Counter { .. } => "counter",
        _ => "authenticator_data",
    };
    Refused::new(reason, format!("The ceremony does not hold: {fault}."))
}

fn claims(registered: &Registered, statement: Statement) -> Claims {
    let present = AuthenticatorData::parse(&registered.attestation.authenticator_data)
        .is_ok_and(|data| data.flags.user_present());
    let mut claims = Claims::new();
    for (name, value) in [
        ("type", json!("webauthn-registration")),
        ("fmt", json!(registered.attestation.fmt)),
        ("attestation", json!(statement.kind)),
        ("trusted", json!(statement.root.is_some())),
        ("root", json!(statement.root)),
        ("credential_id_hex", json!(hex(&registered.credential_id))),
        ("public_key_cose_hex", json!(hex(&registered.public_key_cose))),
        ("cose_alg", json!(registered.algorithm.cose_id())),
        ("aaguid", json!(hex(&registered.aaguid))),
        ("sign_count", json!(registered.sign_count)),
        ("user_present", json!(present)),
        ("user_verified", json!(registered.user_verified)),
        ("backup_eligible", json!(registered.backup_eligible)),
        ("backed_up", json!(registered.backed_up)),
    ] {
        claims.insert(name.to_owned(), value);
    }
    claims.extend(statement.details);
    claims
}
