//! What an integration is asked to be, and what is wrong with it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domains::audit::is_pattern;
use crate::domains::integrations::WantedTarget;
use crate::domains::integrations::model::{Integration, Kind, Secrets, Tls};
use crate::gate::Validate;
use crate::kernel::error::FieldError;
use crate::kernel::url::Url;
use crate::kernel::{Kind as Refused, Refusal, Result};

const NAME_MAX: usize = 64;
const EVENTS_MAX: usize = 32;
const TO_MAX: usize = 20;
const LOGIN_MAX: usize = 256;

/// An integration to be. `url` is for `webhook`, `slack` and `teams`; `host`, `port` and `tls` are for `syslog` and `email`;
/// the rest is for `email`.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IntegrationRequest {
    /// Unique in the company.
    #[schema(min_length = 1, max_length = 64)]
    pub(super) name: String,
    /// Where events go and in what form.
    pub(super) kind: Kind,
    /// Names of events, `device.*` or `*`; `GET /v1/integration-events` shows them.
    #[schema(min_items = 1, max_items = 32, example = json!(["device.*", "refresh.reused"]))]
    pub(super) events: Vec<String>,
    /// `true` when absent.
    #[serde(default)]
    pub(super) enabled: Option<bool>,
    /// It may hold a credential and is not shown again as a whole.
    #[serde(default)]
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// Name or address of the server.
    #[serde(default)]
    #[schema(max_length = 253)]
    host: Option<String>,
    /// Of the server.
    #[serde(default)]
    #[schema(minimum = 1)]
    port: Option<u16>,
    /// `tls` when absent; `starttls` for mail only.
    #[serde(default)]
    tls: Option<Tls>,
    /// Of the mail server; only over TLS.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 256)]
    username: Option<String>,
    /// Of the mail server; not shown again.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 256)]
    password: Option<String>,
    /// Who writes.
    #[serde(default)]
    #[schema(max_length = 254)]
    from: Option<String>,
    /// To whom.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 20)]
    to: Option<Vec<String>>,
}

/// A change; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IntegrationPatch {
    /// Unique in the company.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64)]
    pub(super) name: Option<String>,
    /// Names of events, `device.*` or `*`.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 32)]
    pub(super) events: Option<Vec<String>>,
    /// Whether it is told at all.
    #[serde(default)]
    pub(super) enabled: Option<bool>,
    /// Another one.
    #[serde(default)]
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// Another server; without a new login the old one is forgotten.
    #[serde(default)]
    #[schema(max_length = 253)]
    host: Option<String>,
    /// Of the server.
    #[serde(default)]
    #[schema(minimum = 1)]
    port: Option<u16>,
    /// How it is spoken to.
    #[serde(default)]
    tls: Option<Tls>,
    /// Of the mail server.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 256)]
    username: Option<String>,
    /// Of the mail server.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 256)]
    password: Option<String>,
    /// Who writes.
    #[serde(default)]
    #[schema(max_length = 254)]
    from: Option<String>,
    /// To whom.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 20)]
    to: Option<Vec<String>>,
}

fn refuse(wrong: &mut Vec<FieldError>, pointer: &str, detail: impl Into<String>) {
    wrong.push(FieldError { pointer: pointer.to_owned(), detail: detail.into() });
}

fn check_name(name: &str, wrong: &mut Vec<FieldError>) {
    if !(1..=NAME_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control) || name.trim() != name {
        refuse(wrong, "/name", format!("must have 1 to {NAME_MAX} characters, no spaces at its ends"));
    }
}

fn check_events(events: &[String], wrong: &mut Vec<FieldError>) {
    if !(1..=EVENTS_MAX).contains(&events.len()) {
        refuse(wrong, "/events", format!("must have 1 to {EVENTS_MAX} items"));
    }
    for (i, event) in events.iter().enumerate().take(EVENTS_MAX) {
        if !is_pattern(event) {
            refuse(wrong, &format!("/events/{i}"), "is no event; GET /v1/integration-events shows them all");
        }
    }
}

/// What is wrong with a part of a target, whatever the kind is.
fn check_parts(target: &WantedTarget, wrong: &mut Vec<FieldError>) {
    if let Some(Err(why)) = target.url.as_deref().map(Url::parse) {
        refuse(wrong, "/url", why);
    }
    if target.host.as_deref().is_some_and(|host| !is_host(host)) {
        refuse(wrong, "/host", "must be a host name or an address");
    }
    if target.port == Some(0) {
        refuse(wrong, "/port", "must be 1 to 65535");
    }
    for (pointer, text) in [("/username", &target.username), ("/password", &target.password)] {
        let fits = |t: &String| (1..=LOGIN_MAX).contains(&t.len()) && !t.chars().any(char::is_control);
        if text.as_ref().is_some_and(|t| !fits(t)) {
            refuse(wrong, pointer, format!("must have 1 to {LOGIN_MAX} bytes and no control characters"));
        }
    }
    if target.from.as_deref().is_some_and(|from| !is_mailbox(from)) {
        refuse(wrong, "/from", "must be an address such as appliance@example.org");
    }
    let to = target.to.as_deref().unwrap_or_default();
    if target.to.is_some() && !(1..=TO_MAX).contains(&to.len()) {
        refuse(wrong, "/to", format!("must have 1 to {TO_MAX} items"));
    }
    for (i, _) in to.iter().enumerate().take(TO_MAX).filter(|(_, to)| !is_mailbox(to)) {
        refuse(wrong, &format!("/to/{i}"), "must be an address such as ops@example.org");
    }
}

fn is_host(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(label))
}

/// A plain address: dot-atom and host name of RFC 5322, nothing quoted, nothing around it.
fn is_mailbox(text: &str) -> bool {
    let atom =
        |a: &str| !a.is_empty() && a.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b));
    let Some((local, host)) = text.rsplit_once('@') else { return false };
    text.len() <= 254 && local.len() <= 64 && local.split('.').all(atom) && is_host(host)
}

/// What a whole target lacks, or has too much of, for its kind.
fn check_whole(kind: Kind, has: &dyn Fn(&str) -> bool, tls: Option<Tls>, wrong: &mut Vec<FieldError>) {
    let (needed, optional): (&[&str], &[&str]) = match kind {
        Kind::Webhook | Kind::Slack | Kind::Teams => (&["url"], &[]),
        Kind::Syslog => (&["host", "port"], &["tls"]),
        Kind::Email => (&["host", "port", "from", "to"], &["tls", "username", "password"]),
    };
    for member in ["url", "host", "port", "tls", "username", "password", "from", "to"] {
        let pointer = format!("/{member}");
        match (has(member), needed.contains(&member), optional.contains(&member)) {
            (false, true, _) => refuse(wrong, &pointer, format!("is required of {}", kind.name())),
            (true, false, false) => refuse(wrong, &pointer, format!("has no meaning for {}", kind.name())),
            _ => {}
        }
    }
    if kind == Kind::Syslog && tls == Some(Tls::Starttls) {
        refuse(wrong, "/tls", "must be tls or none for syslog");
    }
    if has("username") != has("password") {
        refuse(wrong, "/password", "username and password belong together");
    }
    if has("password") && tls == Some(Tls::None) {
        refuse(wrong, "/tls", "a password is not sent in the clear: choose tls or starttls");
    }
}

/// Chats are called over HTTPS: their URL is the credential.
fn check_scheme(kind: Kind, url: Option<&str>, wrong: &mut Vec<FieldError>) {
    if matches!(kind, Kind::Slack | Kind::Teams) && url.is_some_and(|url| !url.starts_with("https://")) {
        refuse(wrong, "/url", "must begin with https://");
    }
}

impl IntegrationRequest {
    pub(super) fn target(&self) -> WantedTarget {
        WantedTarget {
            url: self.url.clone(),
            host: self.host.clone(),
            port: self.port,
            tls: self.tls,
            username: self.username.clone(),
            password: self.password.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
        }
    }
}

impl Validate for IntegrationRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        check_name(&self.name, wrong);
        check_events(&self.events, wrong);
        check_parts(&self.target(), wrong);
        check_scheme(self.kind, self.url.as_deref(), wrong);
        let has = |member: &str| match member {
            "url" => self.url.is_some(),
            "host" => self.host.is_some(),
            "port" => self.port.is_some(),
            "tls" => self.tls.is_some(),
            "username" => self.username.is_some(),
            "password" => self.password.is_some(),
            "from" => self.from.is_some(),
            _ => self.to.is_some(),
        };
        check_whole(self.kind, &has, self.tls, wrong);
    }
}

impl IntegrationPatch {
    pub(super) fn target(&self) -> WantedTarget {
        WantedTarget {
            url: self.url.clone(),
            host: self.host.clone(),
            port: self.port,
            tls: self.tls,
            username: self.username.clone(),
            password: self.password.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
        }
    }
}

impl Validate for IntegrationPatch {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if let Some(name) = &self.name {
            check_name(name, wrong);
        }
        if let Some(events) = &self.events {
            check_events(events, wrong);
        }
        check_parts(&self.target(), wrong);
    }
}

/// A change must leave something that its kind can work with.
pub(super) fn check_row(row: &Integration, secrets: &Secrets) -> Result<()> {
    let mut wrong = Vec::new();
    let target = &row.target;
    let has = |member: &str| match member {
        "url" => secrets.url.is_some(),
        "host" => target.host.is_some(),
        "port" => target.port.is_some(),
        "tls" => target.tls.is_some(),
        "username" => target.username.is_some(),
        "password" => secrets.password.is_some(),
        "from" => target.from.is_some(),
        _ => !target.to.is_empty(),
    };
    check_whole(row.kind, &has, target.tls, &mut wrong);
    check_scheme(row.kind, secrets.url.as_deref(), &mut wrong);
    if wrong.is_empty() {
        return Ok(());
    }
    let detail = "The integration would not work with this change; see errors.";
    Err(Refusal { fields: wrong, ..Refusal::new(Refused::Invalid, "invalid_request", detail) }.into())
}
