//! The first answer to a request that bears an `Idempotency-Key`, kept in the commit of what it did.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::tables::{IDEMPOTENCY, Key};
use super::{Row, Tx};
use crate::kernel::{Error, Kind, Refusal, Result, Timestamp};

/// How long a repeat gets the first answer.
pub const LIFETIME: Duration = Duration::from_secs(86_400);

/// What tells one request from another.
#[derive(Clone, Copy, Debug)]
pub struct Once {
    /// Hash of caller, action and the caller's key.
    pub name: [u8; 32],
    /// Hash of the body: a repeat must be a repeat.
    pub body: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct AnswerRow {
    body: [u8; 32],
    at: Timestamp,
    answer: serde_json::Value,
}
impl Row for AnswerRow {}

fn key(tenant: [u8; 16], once: &Once) -> Key {
    Key::new().bytes(tenant).bytes(once.name)
}

/// The first answer, if this request bears a key and was answered within the last 24 hours.
///
/// # Errors
/// 409 `idempotency_conflict` when the key was used with another body.
pub fn recall<T: DeserializeOwned>(
    tx: &mut Tx<'_>,
    tenant: [u8; 16],
    once: Option<&Once>,
    now: Timestamp,
) -> Result<Option<T>> {
    let Some(once) = once else { return Ok(None) };
    let Some(row) = tx.get::<AnswerRow>(IDEMPOTENCY, key(tenant, once))? else { return Ok(None) };
    if now.since(row.at) >= LIFETIME {
        return Ok(None);
    }
    if row.body != once.body {
        let detail = "This Idempotency-Key was used within the last 24 hours with another body.";
        return Err(Refusal::new(Kind::Conflict, "idempotency_conflict", detail).into());
    }
    serde_json::from_value(row.answer).map(Some).map_err(Error::internal)
}

/// Keeps the answer to a request that bears a key, in the same commit as what it tells of.
pub fn remember<T: Serialize>(
    tx: &mut Tx<'_>,
    tenant: [u8; 16],
    once: Option<&Once>,
    now: Timestamp,
    answer: &T,
) -> Result<()> {
    let Some(once) = once else { return Ok(()) };
    let answer = serde_json::to_value(answer).map_err(Error::internal)?;
    tx.put(IDEMPOTENCY, key(tenant, once), &AnswerRow { body: once.body, at: now, answer })
}
