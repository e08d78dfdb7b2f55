//! One case from a file: names and base64 in, a verdict of the typed verifiers out. Members that are not inputs, such as
//! expected values, are passed over. Decides nothing itself.

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value};

use super::{ApplePolicy, AppleRoots, Assertion, Attestation, Environment, Receipt};
use crate::attest::{Claims, Refused};
use crate::kernel::Timestamp;

/// Characters of one member: what 64 KiB are in base64, and a little.
const MEMBER_CHARS_MAX: usize = 96 * 1024;

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
    let attestation = Attestation {
        app_id: text(input, "app_id")?,
        client_data_hash: &unhex(input, "client_data_hash_hex")?,
        key_id: &base64(input, "key_id_b64")?,
        environment: environment(input)?,
        object: &base64(input, "attestation_object_b64")?,
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
    let previous = input.get("previous_counter").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let assertion = Assertion {
        app_id: text(input, "app_id")?,
        public_key_spki: &base64(input, "public_key_spki_b64")?,
        client_data: &base64(input, "client_data_b64")?,
        previous_counter: previous.ok_or_else(|| refused("previous_counter", "is not a number of 32 bits"))?,
        assertion: &base64(input, "assertion_b64")?,
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
    let key = input.contains_key("public_key_spki_b64").then(|| base64(input, "public_key_spki_b64")).transpose()?;
    let receipt = Receipt {
        app_id: text(input, "app_id")?,
        public_key_spki: key.as_deref(),
        environment: environment(input)?,
        receipt: &base64(input, "receipt_b64")?,
    };
    Ok(receipt.verify(policy, &AppleRoots::bundled()?, now)?.claims())
}

fn refused(name: &str, what: &str) -> Refused {
    Refused::new("malformed_input", format!("{name} {what}"))
}

fn text<'a>(input: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refused> {
    let text = input.get(name).and_then(Value::as_str).ok_or_else(|| refused(name, "is missing or not a text"))?;
    if text.len() > MEMBER_CHARS_MAX { Err(refused(name, "is longer than 96 KiB")) } else { Ok(text) }
}

fn base64(input: &Map<String, Value>, name: &str) -> Result<Vec<u8>, Refused> {
    Base64::decode_vec(text(input, name)?).map_err(|_| refused(name, "is not base64 with padding"))
}

fn unhex(input: &Map<String, Value>, name: &str) -> Result<Vec<u8>, Refused> {
    let digits = text(input, name)?.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(value(*high)? << 4 | value(*low)?),
        _ => None,
    };
    digits.chunks(2).map(byte).collect::<Option<_>>().ok_or_else(|| refused(name, "is not hex"))
}

fn environment(input: &Map<String, Value>) -> Result<Option<Environment>, Refused> {
    match input.get("environment") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => match name.as_str() {
            "production" => Ok(Some(Environment::Production)),
            "development" | "development-only" | "sandbox" => Ok(Some(Environment::Development)),
            _ => Err(refused("environment", "is neither production nor development")),
        },
        Some(_) => Err(refused("environment", "is not a text")),
    }
}
