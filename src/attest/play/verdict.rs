//! The verdict inside a token, once it is known to be Google's: rule by rule, first failure first.
//!
//! Knows nothing of encryption and signatures.

use serde_json::{Map, Value, json};

use super::super::members::base64url;
use super::super::{Claims, Refused};
use super::{NONCE_BYTES, PlayPolicy};
use crate::kernel::Timestamp;

/// Entries of a list in a verdict; Google's have a handful.
const LIST_MAX: usize = 32;
/// Digits of a time or a version.
const DIGITS_MAX: usize = 18;

type Verdict = Map<String, Value>;

pub(super) fn judge(verdict: &Verdict, nonce: &[u8], policy: &PlayPolicy, now: Timestamp) -> Result<Claims, Refused> {
    let mut claims = Claims::new();
    request(section(verdict, "requestDetails")?, nonce, policy, now, &mut claims)?;
    app(section(verdict, "appIntegrity")?, policy, &mut claims)?;
    device(optional(verdict, "deviceIntegrity")?, policy, &mut claims)?;
    account(optional(verdict, "accountDetails")?, policy, &mut claims)?;
    environment(optional(verdict, "environmentDetails")?, policy, &mut claims)?;
    testing(optional(verdict, "testingDetails")?, policy, &mut claims)?;
    Ok(claims)
}

fn request(
    request: &Verdict,
    nonce: &[u8],
    policy: &PlayPolicy,
    now: Timestamp,
    claims: &mut Claims,
) -> Result<(), Refused> {
    if request.contains_key("requestHash") {
        return Err(Refused::new(
            "standard_request",
            "the verdict belongs to a standard request (it has a requestHash). Standard requests need Google's servers and \
             are not taken: let the app make classic requests with a nonce",
        ));
    }
    if text(request, "requestPackageName")? != policy.package {
        return Err(Refused::new("package", "the request came from another package"));
    }
    let presented = base64url(text(request, "nonce")?).filter(|n| NONCE_BYTES.contains(&n.len()));
    if presented.is_none_or(|presented| presented != nonce) {
        return Err(Refused::new("nonce", "the nonce is another one"));
    }
    let made_ms = i64::try_from(number(request, "timestampMillis")?).unwrap_or(i64::MAX);
    let made = Timestamp::from_millis(made_ms);
    let within = |span: std::time::Duration, limit_ms: u64| span.as_millis() <= u128::from(limit_ms);
    if !within(now.since(made), policy.max_age_millis) {
        return Err(Refused::new(
            "stale",
            format!("the verdict is of {made}, older than {} ms at {now}", policy.max_age_millis),
        ));
    }
    if !within(made.since(now), policy.max_future_millis) {
        return Err(Refused::new("future", format!("the verdict is of {made}, which lies ahead of {now}")));
    }
    claims.insert("package".to_owned(), json!(policy.package));
    claims.insert("made_at".to_owned(), json!(made));
    Ok(())
}

fn app(app: &Verdict, policy: &PlayPolicy, claims: &mut Claims) -> Result<(), Refused> {
    let recognition = text(app, "appRecognitionVerdict")?;
    if recognition != "PLAY_RECOGNIZED" {
        return Err(Refused::new("app_recognition", "Google Play does not know this app in this version"));
    }
    if text(app, "packageName")? != policy.package {
        return Err(Refused::new("package", "the app is of another package"));
    }
    let digests = texts(app.get("certificateSha256Digest")).ok_or_else(|| form("certificateSha256Digest"))?;
    let known: Vec<_> = policy.certificate_digests.iter().filter_map(|d| base64url(d)).collect();
    let ours = |digest: &&str| base64url(digest).is_some_and(|d| d.len() == 32 && known.contains(&d));
    if digests.is_empty() || !digests.iter().all(ours) {
        return Err(Refused::new("app_signer", "the app was signed by a certificate that the policy does not name"));
    }
    let version = number(app, "versionCode")?;
    if version < policy.min_version {
        return Err(Refused::new(
            "app_version",
            format!("the app's version is {version}, below the lowest allowed of {}", policy.min_version),
        ));
    }
    claims.insert("app_recognition".to_owned(), json!(recognition));
    claims.insert("certificate_digests".to_owned(), json!(digests));
    claims.insert("version".to_owned(), json!(version));
    Ok(())
}

fn device(device: Option<&Verdict>, policy: &PlayPolicy, claims: &mut Claims) -> Result<(), Refused> {
    let labels = match device.and_then(|d| d.get("deviceRecognitionVerdict")) {
        // Google leaves the list out for a device that meets nothing.
        None => Vec::new(),
        labels => texts(labels).ok_or_else(|| form("deviceRecognitionVerdict"))?,
    };
    if let Some(missing) = policy.require_device.iter().find(|wanted| !labels.contains(&wanted.as_str())) {
        return Err(Refused::new("device_integrity", format!("the device does not have the label {missing}")));
    }
    claims.insert("device_recognition".to_owned(), json!(labels));
    let within = |outer: &str, inner: &str| device.and_then(|d| d.get(outer)).and_then(|o| o.get(inner));
    if let Some(sdk) = within("deviceAttributes", "sdkVersion").and_then(Value::as_u64) {
        claims.insert("sdk_version".to_owned(), json!(sdk));
    }
    if let Some(level) = within("recentDeviceActivity", "deviceActivityLevel").and_then(Value::as_str) {
        claims.insert("device_activity".to_owned(), json!(level));
    }
    Ok(())
}

fn account(account: Option<&Verdict>, policy: &PlayPolicy, claims: &mut Claims) -> Result<(), Refused> {
    let licence = match account {
        None => None,
        Some(account) => Some(text(account, "appLicensingVerdict")?),
    };
    if policy.require_licensed && licence != Some("LICENSED") {
        return Err(Refused::new("licence", "the account has no licence for the app from Google Play"));
    }
    claims.insert("app_licence".to_owned(), json!(licence));
    Ok(())
}

fn environment(environment: Option<&Verdict>, policy: &PlayPolicy, claims: &mut Claims) -> Result<(), Refused> {
    let Some(environment) = environment else { return Ok(()) };
    if environment.contains_key("playProtectVerdict") {
        let found = text(environment, "playProtectVerdict")?;
        if policy.refuse_play_protect.iter().any(|refused| refused == found) {
            return Err(Refused::new("play_protect", format!("Play Protect says {found:.64}")));
        }
        claims.insert("play_protect".to_owned(), json!(found));
    }
    if let Some(risk) = optional(environment, "appAccessRiskVerdict")? {
        let found = match risk.get("appsDetected") {
            // Nothing was found, or nothing was evaluated.
            None => Vec::new(),
            found => texts(found).ok_or_else(|| form("appsDetected"))?,
        };
        if let Some(risk) = policy.refuse_app_risks.iter().find(|refused| found.contains(&refused.as_str())) {
            return Err(Refused::new("app_access_risk", format!("another app on the device is {risk}")));
        }
        claims.insert("app_access_risks".to_owned(), json!(found));
    }
    Ok(())
}

fn testing(testing: Option<&Verdict>, policy: &PlayPolicy, claims: &mut Claims) -> Result<(), Refused> {
    let Some(testing) = testing else { return Ok(()) };
    // Only a plain "no" is none.
    let genuine = testing.get("isTestingResponse") == Some(&Value::Bool(false));
    if !genuine && !policy.allow_testing_response {
        return Err(Refused::new("testing_response", "a tester configured this response in the Play Console"));
    }
    claims.insert("testing_response".to_owned(), json!(!genuine));
    Ok(())
}

// ---- members of a verdict

fn form(name: &str) -> Refused {
    Refused::new("verdict_form", format!("{name} is missing or not of its documented type"))
}

fn section<'a>(verdict: &'a Verdict, name: &str) -> Result<&'a Verdict, Refused> {
    optional(verdict, name)?.ok_or_else(|| form(name))
}

fn optional<'a>(verdict: &'a Verdict, name: &str) -> Result<Option<&'a Verdict>, Refused> {
    verdict.get(name).map(|value| value.as_object().ok_or_else(|| form(name))).transpose()
}

fn text<'a>(section: &'a Verdict, name: &str) -> Result<&'a str, Refused> {
    section.get(name).and_then(Value::as_str).ok_or_else(|| form(name))
}

/// A number as Google writes one of 64 bits: a text of digits.
fn number(section: &Verdict, name: &str) -> Result<u64, Refused> {
    let digits = text(section, name)?;
    let plain = (1..=DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain).ok_or_else(|| form(name))
}

/// A list of texts; `None` for anything else and for more than [`LIST_MAX`].
fn texts(value: Option<&Value>) -> Option<Vec<&str>> {
    let list = value?.as_array().filter(|list| list.len() <= LIST_MAX)?;
    list.iter().map(Value::as_str).collect()
}
