//! What an integration is, and what became of an event that was to be sent to one.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::domains::audit::{self, Event};
use crate::kernel::Timestamp;
use crate::kernel::ids::{AuditId, IntegrationId, TenantId, UserId};
use crate::store::Row;

/// Where events go and in what form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = IntegrationKind)]
pub enum Kind {
    /// An HTTP endpoint of the company's, signed by Standard Webhooks.
    Webhook,
    /// A channel of Slack, by an incoming webhook.
    Slack,
    /// A channel of Microsoft Teams, by a workflow that takes webhooks.
    Teams,
    /// A syslog server (RFC 5424 over TCP, RFC 6587; over TLS, RFC 5425).
    Syslog,
    /// People, by e-mail.
    Email,
}

impl Kind {
    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::Teams => "teams",
            Self::Syslog => "syslog",
            Self::Email => "email",
        }
    }
}

/// How a syslog or mail server is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = IntegrationTls)]
pub enum Tls {
    /// TLS from the first byte.
    Tls,
    /// TLS after STARTTLS; for mail only.
    Starttls,
    /// In the clear.
    None,
}

/// What everybody who may see the integration sees of where it leads.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Target {
    /// Of HTTP endpoints, without what may be secret in it.
    #[serde(default)]
    pub url: Option<String>,
    /// Of servers.
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Of mail servers.
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub from: Option<String>,
    #[serde(default)]
    pub to: Vec<String>,
}

/// What nobody sees; sealed in the row. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Secrets {
    /// Whole: its path may be the credential.
    #[serde(default)]
    pub url: Option<String>,
    /// Signs webhooks (`whsec_...`).
    #[serde(default)]
    pub signing: Option<String>,
    /// Signs them, too, until the row says so.
    #[serde(default)]
    pub previous: Option<String>,
    /// Of the mail server.
    #[serde(default)]
    pub password: Option<String>,
}

impl Drop for Secrets {
    fn drop(&mut self) {
        for secret in [&mut self.url, &mut self.signing, &mut self.previous, &mut self.password] {
            secret.zeroize();
        }
    }
}

/// An integration in the data file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Integration {
    pub id: IntegrationId,
    pub tenant: TenantId,
    pub name: String,
    pub kind: Kind,
    /// Names of events, or `*` at the end of one.
    pub events: Vec<String>,
    pub enabled: bool,
    /// Why it was switched off, when nobody of the company did it.
    #[serde(default)]
    pub disabled_reason: Option<String>,
    pub target: Target,
    /// [`Secrets`] in base64.
    pub sealed: String,
    /// Until when the previous secret signs, too.
    #[serde(default)]
    pub previous_until: Option<Timestamp>,
    pub created_by: UserId,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// It does not exist any more; what belongs to it is still being removed.
    #[serde(default)]
    pub removed: bool,
}
impl Row for Integration {}

impl Integration {
    /// Whether it is to be told of an event.
    pub fn wants(&self, event: Event) -> bool {
        self.enabled && !self.removed && self.events.iter().any(|pattern| audit::takes_in(pattern, event))
    }
}

/// How far an event got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeliveryState)]
pub enum State {
    /// It is still to be sent.
    Pending,
    /// The receiver has it.
    Delivered,
    /// A dead letter: it is not tried any more, and can be replayed.
    Dead,
}

impl std::str::FromStr for State {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pending" => Ok(Self::Pending),
            "delivered" => Ok(Self::Delivered),
            "dead" => Ok(Self::Dead),
            _ => Err("must be pending, delivered or dead"),
        }
    }
}

/// One try.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DeliveryAttempt)]
pub struct Attempt {
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Of HTTP.
    pub status: Option<u16>,
    /// How long it took.
    pub duration_ms: u64,
    /// The first bytes of the answer, or why there was none.
    pub answer: String,
}

/// Attempts that are kept.
pub const ATTEMPTS_KEPT: usize = 8;
/// Characters of an answer that are kept.
pub const ANSWER_CHARS_MAX: usize = 256;

/// What became of an event that was to be sent to an integration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    pub id: AuditId,
    pub event: String,
    /// When it happened.
    pub at: Timestamp,
    pub state: State,
    /// From when on its three days run.
    pub queued_at: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next.
    pub next_at: Option<Timestamp>,
    /// The last ones.
    pub tries: Vec<Attempt>,
    /// How often somebody had it sent again.
    #[serde(default)]
    pub replays: u32,
}
impl Row for Delivery {}

impl Delivery {
    /// An event that is to be sent at once.
    pub fn new(id: AuditId, event: Event, at: Timestamp, now: Timestamp) -> Self {
        Self {
            id,
            event: event.name().to_owned(),
            at,
            state: State::Pending,
            queued_at: now,
            attempts: 0,
            next_at: Some(now),
            tries: Vec::new(),
            replays: 0,
        }
    }

    /// Notes a try.
    pub fn tried(&mut self, attempt: Attempt) {
        self.attempts = self.attempts.saturating_add(1);
        self.tries.push(attempt);
        let surplus = self.tries.len().saturating_sub(ATTEMPTS_KEPT);
        self.tries.drain(..surplus);
    }
}

/// A text of somebody else, fit to be kept and shown: short, on one line.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ANSWER_CHARS_MAX).collect()
}

/// A URL with everything left out that may be a credential.
pub fn shown_url(kind: Kind, url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    match kind {
        Kind::Webhook => {
            let (path, query) = path.split_once('?').map_or((path, ""), |(path, _)| (path, "?***"));
            format!("{scheme}://{authority}{path}{query}")
        }
        _ => format!("{scheme}://{authority}/***"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_credential_in_a_url_is_not_shown() {
        for (kind, url, shown) in [
            (Kind::Webhook, "https://a.example/hook", "https://a.example/hook"),
            (Kind::Webhook, "http://a.example:81/hook?token=x", "http://a.example:81/hook?***"),
            (Kind::Webhook, "https://a.example?token=x", "https://a.example?***"),
            (Kind::Slack, "https://hooks.slack.com/services/T/B/x", "https://hooks.slack.com/***"),
            (Kind::Teams, "https://a.example/powerautomate?sig=x", "https://a.example/***"),
        ] {
            assert_eq!(shown_url(kind, url), shown);
        }
        assert_eq!(clean("a\r\nb\u{0}\u{1b}[31m"), "a  b  [31m");
    }
}
