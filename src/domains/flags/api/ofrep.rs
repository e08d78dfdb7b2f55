//! The OpenFeature Remote Evaluation Protocol, version 0.2: what SDKs of any language ask for a flag's value.
//!
//! Errors keep the protocol's members (`key`, `errorCode`, `errorDetails`) within the appliance's problem document.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::crypto::sha256;
use crate::domains::flags::{CannotTell, Flag, Reason, Work};
use crate::gate::{Context, Raw, Reply};
use crate::kernel::{Kind, Refusal, Result, Timestamp};

/// Members of a context.
const MEMBERS_MAX: usize = 100;
/// Characters of a text in it.
const TEXT_MAX: usize = 1_024;

/// What is known of who the flag is asked for.
#[derive(Deserialize, ToSchema)]
pub struct OfrepRequest {
    /// `targetingKey` tells callers apart; all other members are free.
    #[serde(default)]
    #[schema(value_type = Object)]
    context: Option<Map<String, Value>>,
}

/// A flag's value for this context.
#[derive(Serialize, ToSchema)]
pub struct OfrepValue {
    /// Which flag.
    pub key: String,
    /// Why.
    pub reason: Reason,
    /// By name.
    pub variant: String,
    /// The value itself.
    #[schema(value_type = Value)]
    pub value: Value,
}

/// All flags of the company.
#[derive(Serialize, ToSchema)]
pub struct OfrepBulk {
    /// Values, or for each that cannot be told `key` and `errorCode`.
    #[schema(value_type = Vec<Object>)]
    pub flags: Vec<Value>,
}

fn refused(kind: Kind, code: &'static str, key: Option<&str>, error: &str, detail: impl Into<String>) -> Refusal {
    let detail = detail.into();
    let mut extra = Map::new();
    extra.extend(key.map(|key| ("key".to_owned(), Value::from(key))));
    extra.insert("errorCode".to_owned(), error.into());
    extra.insert("errorDetails".to_owned(), detail.clone().into());
    Refusal { extra: Some(Box::new(extra)), ..Refusal::new(kind, code, detail) }
}

fn context_in(body: &[u8], key: Option<&str>) -> Result<Map<String, Value>> {
    let parsed: OfrepRequest = serde_json::from_slice(body).map_err(|e| {
        let detail = format!("The body is no evaluation request (line {}, column {}).", e.line(), e.column());
        refused(Kind::Malformed, "malformed_json", key, "PARSE_ERROR", detail)
    })?;
    let context = parsed.context.unwrap_or_default();
    let long = |value: &Value| value.as_str().is_some_and(|text| text.chars().nth(TEXT_MAX).is_some());
    if context.len() > MEMBERS_MAX
        || context.values().any(long)
        || context.get("targetingKey").is_some_and(|k| !k.is_string())
    {
        let detail = format!(
            "The context may have {MEMBERS_MAX} members and texts of {TEXT_MAX} characters, and targetingKey must be a text."
        );
        return Err(refused(Kind::Malformed, "invalid_context", key, "INVALID_CONTEXT", detail).into());
    }
    Ok(context)
}

fn value_of(flag: &Flag, context: &Map<String, Value>, now: Timestamp, work: &mut Work) -> Result<OfrepValue, Refusal> {
    let key = &flag.key;
    let cannot = |e: CannotTell| {
        let (code, error) = match e {
            CannotTell::TargetingKeyMissing => ("targeting_key_missing", "TARGETING_KEY_MISSING"),
            CannotTell::TooMuchWork => ("too_many_rules", "GENERAL"),
        };
        refused(Kind::Malformed, code, Some(key), error, e.to_string())
    };
    let said = flag.evaluate(context, now, work).map_err(cannot)?;
    Ok(OfrepValue {
        key: key.clone(),
        reason: said.reason,
        variant: said.variant.to_owned(),
        value: said.value.clone(),
    })
}

/// `POST /ofrep/v1/evaluate/flags/{flag_key}`
pub async fn one(ctx: Context, Raw(body, _): Raw<OfrepRequest>) -> Result<Reply<OfrepValue>> {
    let key: String = ctx.path("flag_key")?;
    let shown: String = key.chars().take(64).collect();
    let context = context_in(&body, Some(&shown))?;
    let all = ctx.services().flags.all(ctx.tenant()?);
    let flag = all.get(&key).ok_or_else(|| {
        let detail = "There is no flag of this name.";
        refused(Kind::NotFound, "not_found", Some(&shown), "FLAG_NOT_FOUND", detail)
    })?;
    Ok(Reply::new(value_of(flag, &context, ctx.now(), &mut Work::REQUEST.clone())?))
}

/// `POST /ofrep/v1/evaluate/flags`
pub async fn bulk(ctx: Context, Raw(body, _): Raw<OfrepRequest>) -> Result<Reply<OfrepBulk>> {
    let context = context_in(&body, None)?;
    let (all, now) = (ctx.services().flags.all(ctx.tenant()?), ctx.now());
    let mut work = Work::REQUEST;
    let flags: Vec<Value> = all
        .values()
        .map(|flag| match value_of(flag, &context, now, &mut work) {
            Ok(value) => json!(value),
            Err(refusal) => Value::Object(refusal.extra.map(|extra| *extra).unwrap_or_default()),
        })
        .collect();
    let answer = OfrepBulk { flags };
    let text = serde_json::to_vec(&answer).unwrap_or_default();
    let etag = format!("\"{}\"", Base64UrlUnpadded::encode_string(&sha256(&text)));
    let known = ctx.if_none_match().is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == etag));
    let reply = if known { Reply::empty().status(304) } else { Reply::new(answer) };
    Ok(reply.header("etag", etag))
}
