//! The client data: what the browser says about the ceremony (Web Authentication Level 3, section 5.8.1).
//!
//! Knows nothing of authenticators.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::Value;

use super::{CHALLENGE_BYTES_MIN, Expected, WebauthnError};
use crate::crypto::{constant_time_eq, strict_json};

/// Bytes of a client data JSON. Real ones have a few hundred.
pub const CLIENT_DATA_BYTES_MAX: usize = 4 * 1024;

/// Which of the two ceremonies.
#[derive(Clone, Copy)]
pub(super) enum Ceremony {
    /// Registration.
    Create,
    /// Authentication.
    Get,
}

/// Checks the client data as sections 7.1 and 7.2 say. Members that are not known are
/// passed over, as the standard demands.
pub(super) fn check(ceremony: Ceremony, expected: &Expected<'_>, json: &[u8]) -> Result<(), WebauthnError> {
    if json.len() > CLIENT_DATA_BYTES_MAX {
        return Err(WebauthnError::ClientDataTooLong);
    }
    let data = strict_json::parse_object(json).map_err(WebauthnError::ClientData)?;
    let text = |name| data.get(name).and_then(Value::as_str);
    let kind = match ceremony {
        Ceremony::Create => "webauthn.create",
        Ceremony::Get => "webauthn.get",
    };
    if text("type") != Some(kind) {
        return Err(WebauthnError::Type);
    }
    // Texts are compared, not bytes: the right challenge has one spelling.
    let due = Base64UrlUnpadded::encode_string(expected.challenge);
    let challenge = text("challenge").ok_or(WebauthnError::Challenge)?;
    if expected.challenge.len() < CHALLENGE_BYTES_MIN || !constant_time_eq(challenge.as_bytes(), due.as_bytes()) {
        return Err(WebauthnError::Challenge);
    }
    let origin = text("origin").ok_or(WebauthnError::Origin)?;
    if !expected.origins.iter().any(|allowed| allowed == origin) {
        return Err(WebauthnError::Origin);
    }
    let framed = match data.get("crossOrigin") {
        None => false,
        Some(Value::Bool(framed)) if !framed || expected.cross_origin_allowed => *framed,
        Some(_) => return Err(WebauthnError::CrossOrigin),
    };
    match data.get("topOrigin") {
        None => {}
        // Only a frame has another page above it.
        Some(Value::String(top)) if framed || top == origin => {}
        Some(_) => return Err(WebauthnError::TopOrigin),
    }
    Ok(())
}
