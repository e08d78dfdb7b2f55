//! Google Play Integrity: tokens of classic requests, opened and checked with the app's own keys.
//!
//! A classic request's token is a compact JWE (A256KW, A256GCM) around a compact JWS (ES256). Both keys can be
//! downloaded from the Play Console (there: "manage and download my response encryption keys"), so nobody has to be
//! asked. Standard requests have no such keys: only Google's servers open them, and they are refused here with words to
//! that effect. Members and labels follow the public documentation, "Integrity verdicts".
//!
//! Order: encryption, signature, then only the verdict: who asked, when, which app, which device, what else the policy
//! wants. A verdict counts for nothing unless both layers hold. Decisions where the format leaves room: a nonce may
//! carry its base64 padding, because Android's own encoder writes it and the bytes are the same; a time or a version is
//! a text of digits, as Google documents it, and a JSON number is refused; further members are ignored, further labels
//! grant nothing. Knows nothing of nonces that were handed out and of tokens seen before: the caller does.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::members::{Members, base64url, malformed};
use super::{Claims, Refused};
use crate::crypto::{JweError, VerifyingKey, decrypt_compact, parse_compact, strict_json};
use crate::kernel::Timestamp;

#[cfg(test)]
mod tests;
mod verdict;

/// Bytes of a nonce, both included: Google takes 16 and more, 500 characters at most.
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=375;
/// A SubjectPublicKeyInfo of P-256 up to its point (RFC 5480): id-ecPublicKey, secp256r1, a bit string of 66 bytes.
const SPKI_P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What a verdict must say. `blockremote attest policy` explains each key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlayPolicy {
    /// The app's package. Empty: nobody has said which app is ours, and every token is refused.
    pub package: String,
    /// SHA-256 of the certificates that sign the app, base64url. Empty: every token is refused.
    pub certificate_digests: Vec<String>,
    /// The lowest `versionCode`.
    pub min_version: u64,
    /// The oldest verdict.
    pub max_age_millis: u64,
    /// How far Google's clock may be ahead of ours.
    pub max_future_millis: u64,
    /// Labels that the device must have, all of them.
    pub require_device: Vec<String>,
    /// Whether the app must be installed or bought through Google Play.
    pub require_licensed: bool,
    /// Verdicts of Play Protect that refuse; a verdict that is absent refuses nothing.
    pub refuse_play_protect: Vec<String>,
    /// Kinds of other apps on the device that refuse; a report that is absent refuses nothing.
    pub refuse_app_risks: Vec<String>,
    /// Whether a verdict that a tester made up in the Play Console counts.
    pub allow_testing_response: bool,
}

impl Default for PlayPolicy {
    fn default() -> Self {
        let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect();
        Self {
            package: String::new(),
            certificate_digests: Vec::new(),
            min_version: 0,
            max_age_millis: 300_000,
            max_future_millis: 60_000,
            require_device: texts(&["MEETS_DEVICE_INTEGRITY"]),
            require_licensed: false,
            refuse_play_protect: texts(&["HIGH_RISK"]),
            refuse_app_risks: texts(&["KNOWN_CONTROLLING", "UNKNOWN_CONTROLLING"]),
            allow_testing_response: false,
        }
    }
}

/// The two keys of an app from the Play Console. Wiped when dropped; shows nothing of itself.
pub struct PlayKeys {
    decryption: Zeroizing<[u8; 32]>,
    verification: VerifyingKey,
}

impl PlayKeys {
    /// From the decryption key (32 bytes) and the verification key (a SubjectPublicKeyInfo of P-256 in DER), as the
    /// Play Console hands them out once their base64 is decoded.
    ///
    /// # Errors
    /// `bad_key`, with which one.
    pub fn new(decryption: &[u8], verification_spki: &[u8]) -> Result<Self, Refused> {
        let key = <[u8; 32]>::try_from(decryption);
        let decryption = key.map_err(|_| Refused::new("bad_key", "the decryption key must have 32 bytes"))?;
        let verification = verification_spki
            .strip_prefix(&SPKI_P256_PREFIX)
            .and_then(|point| VerifyingKey::from_sec1(point).ok())
            .ok_or_else(|| Refused::new("bad_key", "the verification key must be a P-256 key in DER (RFC 5480)"))?;
        Ok(Self { decryption: Zeroizing::new(decryption), verification })
    }
}

impl std::fmt::Debug for PlayKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PlayKeys({})", self.verification.thumbprint())
    }
}

/// Opens a token, checks who signed it, and judges its verdict at `now`. `nonce` is what the device was given to prove
/// that the verdict is fresh; that it is used once only is the caller's to see to.
///
/// # Errors
/// [`Refused`] with the first rule that was broken.
pub fn verify(
    token: &str,
    keys: &PlayKeys,
    nonce: &[u8],
    policy: &PlayPolicy,
    now: Timestamp,
) -> Result<Claims, Refused> {
    if policy.package.is_empty() || policy.certificate_digests.is_empty() {
        return Err(Refused::new(
            "policy_incomplete",
            "the policy names no package or no certificate digest; set play.package and play.certificate_digests",
        ));
    }
    let signed = decrypt_compact(token, &keys.decryption).map_err(not_opened)?;
    let signed = std::str::from_utf8(&signed)
        .map_err(|_| Refused::new("signature_form", "what was encrypted is not a signed token"))?;
    let parsed = parse_compact(signed, signed.len()).map_err(|e| {
        Refused::new("signature_form", format!("what was encrypted is not a token signed by ES256: {e}"))
    })?;
    let payload = parsed
        .verify(&keys.verification)
        .ok_or_else(|| Refused::new("signature", "the verdict was not signed by the holder of the verification key"))?;
    let verdict =
        strict_json::parse_object(payload).map_err(|e| Refused::new("verdict_form", format!("the verdict {e}")))?;
    verdict::judge(&verdict, nonce, policy, now)
}

fn not_opened(error: JweError) -> Refused {
    match error {
        JweError::Key => Refused::new(
            "not_decryptable",
            "the token does not open with this app's decryption key. Either the key is another app's, or this is the token \
             of a standard request, which only Google's servers can decrypt: let the app make classic requests, with \
             response encryption keys that you manage yourself",
        ),
        JweError::Content => Refused::new("altered", error.to_string()),
        _ => Refused::new("encryption_form", format!("{error}; what is due is a compact JWE with A256KW and A256GCM")),
    }
}

/// Judges a case: `token`, `decryption_key_b64`, `verification_key_spki_b64` and `config`, whose members are those of
/// [`PlayPolicy`] and win over `policy`; besides, `config.expected_nonce` (base64url) is required, and
/// `config.now_millis` is what `now` was taken from where nobody stated it. `seen: true` says that the same token was
/// presented before.
///
/// # Errors
/// `malformed_input` for members that are missing, of another type or unknown to `config`; else as [`verify`], and at
/// last `replayed`.
pub fn verify_case(input: &Map<String, Value>, policy: &PlayPolicy, now: Timestamp) -> Result<Claims, Refused> {
    let m = Members(input);
    let token = m.required_text("token")?;
    let (keys, policy) = expectations(input, policy)?;
    let nonce = base64url(m.required_inner("config")?.required_text("expected_nonce")?)
        .filter(|nonce| NONCE_BYTES.contains(&nonce.len()))
        .ok_or_else(|| malformed("config.expected_nonce must be base64url of 16 to 375 bytes"))?;
    let seen = m.flag("seen")?;
    let claims = verify(token, &keys, &nonce, &policy, now)?;
    if seen {
        return Err(Refused::new("replayed", "the same token was presented before, and each counts once"));
    }
    Ok(claims)
}

/// Keys and rules of an app: `decryption_key_b64`, `verification_key_spki_b64` and `config`, as in a case.
///
/// # Errors
/// `malformed_input`, `bad_key`.
pub fn expectations(input: &Map<String, Value>, policy: &PlayPolicy) -> Result<(PlayKeys, PlayPolicy), Refused> {
    let m = Members(input);
    let decryption = Zeroizing::new(m.required(&["decryption_key_b64"])?);
    let keys = PlayKeys::new(&decryption, &m.required(&["verification_key_spki_b64"])?)?;
    Ok((keys, merged(m.required_inner("config")?.0, policy)?))
}

/// The policy with the case's own rules over it. A rule that is not known is refused: to pass over it would be to accept
/// what somebody wanted refused.
fn merged(config: &Map<String, Value>, policy: &PlayPolicy) -> Result<PlayPolicy, Refused> {
    let Ok(Value::Object(mut rules)) = serde_json::to_value(policy) else {
        return Err(malformed("the policy cannot be merged"));
    };
    for (name, value) in config.iter().filter(|(name, _)| !matches!(name.as_str(), "now_millis" | "expected_nonce")) {
        rules.insert(name.clone(), value.clone());
    }
    serde_json::from_value(Value::Object(rules)).map_err(|e| malformed(format!("config: {e}")))
}
