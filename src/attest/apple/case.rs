//! One case from a file: names and base64 in, a verdict of the typed verifiers out. Members that are not inputs, such as
//! expected values, are passed over. Decides nothing itself.

use serde_json::{Map, Value};

use super::{ApplePolicy, AppleRoots, Assertion, Attestation, Environment, Receipt};
use crate::attest::members::{Members, missing, wrong};
use crate::attest::{Claims, Refused};
use crate::kernel::Timestamp;

/// Judges a case of type `apple-attestation`: `app_id`, `client_data_hash_hex`, `key_id_b64`, `attestation_object_b64`,
/// and `environment` (`production`, which is the default, `development`, or `development-only`, which is the same).
///
/// # Errors
/// [`Refused`]: `malformed_input` for a case that cannot be read, else as [`Attestation::verify`].
pub fn verify_attestation_case(
    input: &Map<String, Value>,
    policy: &ApplePolicy,
    now: Timestamp,
) -> Result<Claims, Refused> {
    let m = Members(input);
    let attestation = Attestation {
        app_id: m.required_text("app_id")?,
        client_data_hash: &m.required(&["client_data_hash_hex"])?,
        key_id: &m.required(&["key_id_b64"])?,
        environment: environment(m)?,
        object: &m.required(&["attestation_object_b64"])?,
    };
    Ok(attestation.verify(policy, &AppleRoots::bundled()?, now)?.claims())
}

/// Judges a case of type `apple-assertion`: `app_id`, `public_key_spki_b64`, `client_data_b64`, `previous_counter`,
/// `assertion_b64`. Neither policy nor time plays a part: the key decides, which has no end.
///
/// # Errors
/// [`Refused`]: `malformed_input` for a case that cannot be read, else as [`Assertion::verify`].
pub fn verify_assertion_case(
    input: &Map<String, Value>,
    _policy: &ApplePolicy,
    _now: Timestamp,
) -> Result<Claims, Refused> {
    let m = Members(input);
    let assertion = Assertion {
        app_id: m.required_text("app_id")?,
        public_key_spki: &m.required(&["public_key_spki_b64"])?,
        client_data: &m.required(&["client_data_b64"])?,
        previous_counter: m.small("previous_counter")?.ok_or_else(|| missing("previous_counter"))?,
        assertion: &m.required(&["assertion_b64"])?,
    };
    Ok(assertion.verify()?.claims())
}

/// Judges a case of type `apple-receipt`: `app_id`, `receipt_b64`, and where they are there `environment` (`sandbox` or
/// `development`, `production`) and `public_key_spki_b64`.
///
/// # Errors
/// [`Refused`]: `malformed_input` for a case that cannot be read, else as [`Receipt::verify`].
pub fn verify_receipt_case(
    input: &Map<String, Value>,
    policy: &ApplePolicy,
    now: Timestamp,
) -> Result<Claims, Refused> {
    let m = Members(input);
    let key = m.bytes(&["public_key_spki_b64"])?;
    let receipt = Receipt {
        app_id: m.required_text("app_id")?,
        public_key_spki: key.as_deref(),
        environment: environment(m)?,
        receipt: &m.required(&["receipt_b64"])?,
    };
    Ok(receipt.verify(policy, &AppleRoots::bundled()?, now)?.claims())
}

fn environment(m: Members<'_>) -> Result<Option<Environment>, Refused> {
    match m.text("environment")? {
        None => Ok(None),
        Some("production") => Ok(Some(Environment::Production)),
        Some("development" | "development-only" | "sandbox") => Ok(Some(Environment::Development)),
        Some(_) => Err(wrong("environment", "production or development")),
    }
}
