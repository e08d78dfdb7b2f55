//! The formats that devices prove their hardware by: from a request's members to a verdict. Pure.
//!
//! Of the members only evidence is taken. Roots, lists, keys and expectations are the appliance's own; nothing that a
//! device sends can stand in for them.

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value};

use super::app_attest::AppAttestKey;
use super::judge::{Proven, ProvenKey};
use super::trust::{TrustSet, list_name};
use super::{Level, Settings, tpm};
use crate::attest::android::{self, SecurityLevel, StatusList};
use crate::attest::cases::Kind;
use crate::attest::chain::parse_pem_chain;
use crate::attest::{Refused, apple, play};
use crate::crypto::sha256;
use crate::kernel::Timestamp;

/// What the appliance itself brings to a verdict.
pub(super) struct Expected<'a> {
    /// What names tenant, device and nonce; its SHA-256 is the challenge.
    pub signed: &'a [u8],
    pub settings: &'a Settings,
    pub trust: &'a TrustSet,
    pub status_list: Option<&'a StatusList>,
    /// The device's App Attest key, when it has one.
    pub app_attest: Option<&'a AppAttestKey>,
    /// The key of the device's TPM, when one is bound to it.
    pub tpm_key: Option<&'a tpm::TpmKeyRow>,
    pub now: Timestamp,
}

/// Judges evidence of one format.
///
/// # Errors
/// [`Refused`]: `not_configured` where the operator did not say what to expect, else the first rule that was broken.
pub(super) fn judge(kind: Kind, members: &Map<String, Value>, by: &Expected<'_>) -> Result<Proven, Refused> {
    match kind {
        Kind::AndroidKey => android_key(members, by),
        Kind::AppleAttestation => apple_attestation(members, by),
        Kind::AppleAssertion => apple_assertion(members, by),
        Kind::PlayIntegrity => play_integrity(members, by),
        Kind::TpmQuote => tpm::prove(members, by),
        _ => Err(Refused::new("type", "Devices do not attest by evidence of this type.")),
    }
}

fn text<'m>(members: &'m Map<String, Value>, name: &str) -> Result<&'m str, Refused> {
    let text = members.get(name).and_then(Value::as_str);
    text.ok_or_else(|| Refused::new("malformed_input", format!("The member {name} is missing.")))
}

fn base64(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, Refused> {
    Base64::decode_vec(text(members, name)?)
        .map_err(|_| Refused::new("malformed_input", format!("The member {name} is not base64 with padding.")))
}

fn not_configured(key: &str) -> Refused {
    Refused::new("not_configured", format!("This appliance does not judge evidence of this type ({key} is not set)."))
}

fn android_key(members: &Map<String, Value>, by: &Expected<'_>) -> Result<Proven, Refused> {
    let chain = parse_pem_chain(text(members, "chain_pem")?)?;
    let challenge = sha256(by.signed);
    let evidence = android::Evidence {
        chain: &chain,
        challenge: Some(&challenge),
        roots: &by.trust.android,
        status_list: by.status_list,
    };
    let attested = android::verify(&evidence, &by.settings.policy.android, by.now)?;
    let level = match attested.description.keymint_level {
        SecurityLevel::StrongBox => Level::Hardware,
        SecurityLevel::TrustedEnvironment => Level::Trusted,
        SecurityLevel::Software => Level::Software,
    };
    Ok(Proven {
        level,
        claims: attested.claims(),
        root: Some(attested.root),
        list: attested.status_list_date.map(list_name),
        spki: Some(attested.spki),
        signer: None,
        key: ProvenKey::Other,
    })
}

fn apple_attestation(members: &Map<String, Value>, by: &Expected<'_>) -> Result<Proven, Refused> {
    let app_id = app_id(by)?;
    let policy = &by.settings.policy.apple;
    let attestation = apple::Attestation {
        app_id,
        client_data_hash: &sha256(by.signed),
        key_id: &base64(members, "key_id_b64")?,
        environment: None,
        object: &base64(members, "attestation_object_b64")?,
    };
    let attested = attestation.verify(policy, &by.trust.apple, by.now)?;
    let receipt = apple::Receipt {
        app_id,
        public_key_spki: Some(&attested.public_key_spki),
        environment: Some(attested.environment),
        receipt: &attested.receipt,
    };
    let mut claims = attested.claims();
    // The attestation stands without it: a receipt serves Apple's later word on fraud, not the proof.
    let receipt = match receipt.verify(policy, &by.trust.apple, by.now) {
        Ok(received) => Some((received, attested.receipt)),
        Err(refused) => {
            claims.insert("receipt_refused".to_owned(), refused.reason.into());
            None
        }
    };
    Ok(Proven {
        level: Level::Hardware,
        claims,
        root: Some(attested.root),
        list: None,
        spki: Some(attested.public_key_spki),
        signer: None,
        key: ProvenKey::AppAttest { environment: attested.environment, receipt },
    })
}

fn apple_assertion(members: &Map<String, Value>, by: &Expected<'_>) -> Result<Proven, Refused> {
    let app_id = app_id(by)?;
    let key = by.app_attest.ok_or_else(|| {
        Refused::new("no_attested_key", "The device has no attested key here: send an apple-attestation first.")
    })?;
    if !by.trust.apple.app_attestation.iter().any(|anchor| anchor.label() == key.root) {
        return Err(Refused::new("root_unknown", "The root that vouched for the key is trusted no longer."));
    }
    let assertion = apple::Assertion {
        app_id,
        public_key_spki: &key.spki()?,
        client_data: by.signed,
        previous_counter: key.counter,
        assertion: &base64(members, "assertion_b64")?,
    };
    let asserted = assertion.verify()?;
    let mut claims = key.claims.clone();
    claims.extend(asserted.claims());
    Ok(Proven {
        level: Level::Hardware,
        claims,
        root: Some(key.root.clone()),
        list: None,
        spki: Some(key.spki()?),
        signer: None,
        key: ProvenKey::Asserted { counter: asserted.counter },
    })
}

fn app_id<'a>(by: &Expected<'a>) -> Result<&'a str, Refused> {
    by.settings.apple_app_id.as_deref().ok_or_else(|| not_configured("attestation.apple_app_id"))
}

fn play_integrity(members: &Map<String, Value>, by: &Expected<'_>) -> Result<Proven, Refused> {
    let (keys, policy) = by.settings.play.as_ref().ok_or_else(|| not_configured("attestation.play"))?;
    let claims = play::verify(text(members, "token")?, keys, &sha256(by.signed), policy, by.now)?;
    Ok(Proven {
        level: Level::Verdict,
        claims,
        root: None,
        list: None,
        spki: None,
        signer: None,
        key: ProvenKey::Other,
    })
}
