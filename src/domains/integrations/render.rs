//! From an entry of the log to what a receiver gets: the bytes and where they go. Pure; the same entry gives the same text,
//! however often it is sent.
//!
//! Whatever of a text somebody else may have chosen (names of devices, reasons) is data in every form: it starts no line,
//! header, link or mention.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::model::{Integration, Kind, Secrets, Tls};
use crate::crypto::webhook::{sign_standard, standard_key};
use crate::domains::audit::{Entry, Event, ThreatLevel};
use crate::kernel::Timestamp;

/// What is to be sent.
#[derive(Clone, Debug)]
pub enum Parcel {
    /// An HTTP POST.
    Post {
        /// Whole; it may hold a credential.
        url: Zeroizing<String>,
        /// Beside those of HTTP itself.
        headers: Vec<(&'static str, String)>,
        /// JSON.
        body: Vec<u8>,
    },
    /// A frame over a connection of its own.
    Line {
        /// The server.
        host: String,
        /// Its port.
        port: u16,
        /// Whether TLS is spoken.
        tls: bool,
        /// With its length before it.
        frame: Vec<u8>,
    },
    /// A mail.
    Mail {
        /// The server.
        host: String,
        /// Its port.
        port: u16,
        /// How it is spoken to.
        tls: Tls,
        /// Name and password.
        login: Option<(String, Zeroizing<String>)>,
        /// Who writes.
        from: String,
        /// To whom.
        to: Vec<String>,
        /// One line.
        subject: String,
        /// The text.
        text: String,
        /// Unique and stable.
        id: String,
        /// When it was written.
        written: Timestamp,
    },
}

/// What webhooks and syslog servers get. Addresses and programs of callers are left out: they are personal data, and may be
/// erased here later.
pub fn payload(event: Event, entry: &Entry) -> Value {
    json!({
        "type": event.name(),
        "timestamp": entry.created_at,
        "data": {
            "id": entry.id,
            "seq": entry.seq,
            "tenant": entry.tenant,
            "device_id": entry.device_id,
            "user_id": entry.user_id,
            "action": entry.action_taken,
            "source": entry.source,
            "threat_level": entry.threat_level,
            "threat_score": entry.threat_score,
            "reason": entry.decision_reason,
            "attestation_state": entry.attestation_state,
            "signal_id": entry.signal_id,
            "request_id": entry.request_id,
        },
    })
}

/// The same in lines for people.
fn lines(event: Event, entry: &Entry) -> Vec<String> {
    let mut lines = vec![event.meaning().to_owned()];
    let mut line = |name: &str, value: Option<String>| lines.extend(value.map(|v| format!("{name}: {}", one_line(&v))));
    line("Device", entry.device_id.as_ref().map(ToString::to_string));
    line("Reason", entry.decision_reason.clone());
    line("Person", entry.user_id.map(|user| user.to_string()));
    line("Threat level", serde_json::to_value(entry.threat_level).ok().and_then(|v| v.as_str().map(str::to_owned)));
    line("When", Some(entry.created_at.to_string()));
    line("Entry", Some(format!("{} (number {})", entry.id, entry.seq)));
    lines
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c }).collect()
}

fn title(event: Event, entry: &Entry) -> String {
    match &entry.device_id {
        Some(device) => format!("{}: {device}", event.name()),
        None => event.name().to_owned(),
    }
}

/// Makes the parcel of an event for an integration, to be sent at `now`.
///
/// # Errors
/// A sentence, when the row lacks what its kind needs.
pub fn parcel(
    integration: &Integration,
    secrets: &Secrets,
    event: Event,
    entry: &Entry,
    host_name: &str,
    now: Timestamp,
) -> Result<Parcel, String> {
    let target = &integration.target;
    let post = |headers: Vec<(&'static str, String)>, body: Vec<u8>| {
        let url = secrets.url.clone().ok_or("the integration has no URL")?;
        let standing = [("content-type", "application/json".to_owned()), ("user-agent", "blockremote".to_owned())];
        Ok(Parcel::Post { url: Zeroizing::new(url), headers: headers.into_iter().chain(standing).collect(), body })
    };
    let server = || match (&target.host, target.port) {
        (Some(host), Some(port)) => Ok((host.clone(), port)),
        _ => Err("the integration names no server".to_owned()),
    };
    match integration.kind {
        Kind::Webhook => {
            let body = payload(event, entry).to_string().into_bytes();
            post(signed(integration, secrets, entry, &body, now)?, body)
        }
        Kind::Slack => post(Vec::new(), slack(event, entry).to_string().into_bytes()),
        Kind::Teams => post(Vec::new(), teams(event, entry).to_string().into_bytes()),
        Kind::Syslog => {
            let (host, port) = server()?;
            let line = syslog(event, entry, host_name);
            let frame = format!("{} {line}", line.len()).into_bytes();
            Ok(Parcel::Line { host, port, tls: target.tls != Some(Tls::None), frame })
        }
        Kind::Email => {
            let (host, port) = server()?;
            let password = secrets.password.clone().map(Zeroizing::new);
            Ok(Parcel::Mail {
                host,
                port,
                tls: target.tls.unwrap_or(Tls::Starttls),
                login: target.username.clone().zip(password),
                from: target.from.clone().ok_or("the integration names no sender")?,
                to: target.to.clone(),
                subject: format!("[BlockRemote] {}", title(event, entry)),
                text: lines(event, entry).join("\r\n") + "\r\n",
                id: format!("{}.{}@blockremote", entry.id, integration.id),
                written: entry.created_at,
            })
        }
    }
}

/// The headers of Standard Webhooks. While a secret is being changed, both sign.
fn signed(
    integration: &Integration,
    secrets: &Secrets,
    entry: &Entry,
    body: &[u8],
    now: Timestamp,
) -> Result<Vec<(&'static str, String)>, String> {
    let id = entry.id.to_string();
    let current = secrets.signing.as_deref().ok_or("the integration has no secret")?;
    let overlaps = integration.previous_until.is_some_and(|until| now < until);
    let previous = secrets.previous.as_deref().filter(|_| overlaps);
    let mut signatures = Vec::new();
    for secret in [Some(current), previous].into_iter().flatten() {
        let key = standard_key(secret.as_bytes()).map_err(|e| e.to_string())?;
        signatures.push(sign_standard(&key, &id, now.as_secs(), body));
    }
    Ok(vec![
        ("webhook-id", id),
        ("webhook-timestamp", now.as_secs().to_string()),
        ("webhook-signature", signatures.join(" ")),
    ])
}

/// By Slack's reference of incoming webhooks. Only plain text objects; the text for notifications is escaped as its
/// reference says, so nobody is mentioned by a device's name.
fn slack(event: Event, entry: &Entry) -> Value {
    let (title, text) = (title(event, entry), lines(event, entry).join("\n"));
    let escaped =
        format!("{title}: {}", event.meaning()).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let plain = |text: &str, max: usize| json!({ "type": "plain_text", "emoji": false, "text": cut(text, max) });
    json!({
        "text": escaped,
        "blocks": [
            { "type": "header", "text": plain(&title, 150) },
            { "type": "section", "text": plain(&text, 3_000) },
        ],
    })
}

fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

/// By Microsoft's reference of webhooks of Teams workflows: an adaptive card. Text runs know no markdown, so nothing in
/// them becomes a link.
fn teams(event: Event, entry: &Entry) -> Value {
    let run = |text: &str, bold: bool| {
        let weight = if bold { "bolder" } else { "default" };
        json!({ "type": "RichTextBlock", "inlines": [{ "type": "TextRun", "text": text, "weight": weight }] })
    };
    let mut body = vec![run(&title(event, entry), true)];
    body.extend(lines(event, entry).iter().map(|line| run(line, false)));
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.2",
                "body": body,
            },
        }],
    })
}

/// RFC 5424, section 6: facility "log audit" (13), the event's name as message id, its number in the log as sequence id,
/// and the payload as JSON, in which no control character stands by itself.
fn syslog(event: Event, entry: &Entry, host_name: &str) -> String {
    const FACILITY: u8 = 13;
    let severity = match entry.threat_level {
        ThreatLevel::None => 6,
        ThreatLevel::Low => 5,
        ThreatLevel::Medium => 4,
        ThreatLevel::High => 2,
        ThreatLevel::Critical => 1,
    };
    let priority = FACILITY * 8 + severity;
    // Sequence ids go round at 2^31 - 1 and begin at 1 (section 7.3.1).
    let sequence = entry.seq % 2_147_483_647 + 1;
    let host: String = host_name.chars().filter(char::is_ascii_graphic).take(255).collect();
    let host = if host.is_empty() { "-" } else { &host };
    let (at, name) = (entry.created_at, event.name());
    let mut message = String::new();
    for c in payload(event, entry).to_string().chars() {
        match c {
            // JSON's own text escapes what lies below the space; these it leaves.
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => message.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => message.push(c),
        }
    }
    format!("<{priority}>1 {at} {host} blockremote - {name} [meta sequenceId=\"{sequence}\"] \u{feff}{message}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::super::model::Target;
    use super::*;
    use crate::crypto::webhook::{new_secret, verify_standard};
    use crate::domains::audit::Action;
    use crate::kernel::context::Source;
    use crate::kernel::ids::{AuditId, IntegrationId, TenantId, UserId};

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);
    const EVIL: &str =
        "x\r\n<13>1 - - - - - - forged\n<!channel> [click](https://evil.example) \u{85}\u{2028}\u{1b}[2J ]\"\\";

    fn entry() -> Entry {
        Entry {
            id: AuditId::from_bytes([1; 16]),
            seq: 7,
            tenant: TenantId::from_bytes([2; 16]),
            user_id: None,
            device_id: Some("BR-1".parse().unwrap()),
            jti: None,
            key_id: None,
            ip: Some("203.0.113.77".to_owned()),
            user_agent: Some("a browser".to_owned()),
            source: Source::System,
            threat_level: ThreatLevel::High,
            threat_score: None,
            decision_reason: Some(EVIL.to_owned()),
            attestation_state: None,
            action_taken: Action::DeviceBlocked,
            signal_id: None,
            request_id: "system".to_owned(),
            created_at: NOW,
        }
    }

    fn integration(kind: Kind) -> (Integration, Secrets) {
        let target = Target {
            host: Some("logs.example".to_owned()),
            port: Some(6_514),
            tls: Some(Tls::Tls),
            from: Some("appliance@example.org".to_owned()),
            to: vec!["ops@example.org".to_owned()],
            ..Target::default()
        };
        let row = Integration {
            id: IntegrationId::from_bytes([3; 16]),
            tenant: TenantId::from_bytes([2; 16]),
            name: "a test".to_owned(),
            kind,
            events: vec!["*".to_owned()],
            enabled: true,
            disabled_reason: None,
            target,
            sealed: String::new(),
            previous_until: Some(NOW.plus(std::time::Duration::from_secs(60))),
            created_by: UserId::NIL,
            created_at: NOW,
            updated_at: NOW,
            removed: false,
        };
        let secrets = Secrets {
            url: Some("https://hooks.example/a?token=b".to_owned()),
            signing: Some(new_secret(&[1; 32]).to_string()),
            previous: Some(new_secret(&[2; 32]).to_string()),
            password: None,
        };
        (row, secrets)
    }

    fn made(kind: Kind, now: Timestamp) -> Parcel {
        let (row, secrets) = integration(kind);
        parcel(&row, &secrets, Event::DeviceBlocked, &entry(), "appliance", now).unwrap()
    }

    fn posted(kind: Kind) -> Value {
        let Parcel::Post { body, .. } = made(kind, NOW) else { unreachable!("it is posted") };
        assert!(!String::from_utf8_lossy(&body).contains("203.0.113.77"), "no address of a caller");
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn a_webhook_is_signed_by_both_secrets_until_the_overlap_ends() {
        for (after_s, previous_fits) in [(0, true), (59, true), (60, false)] {
            let now = NOW.plus(std::time::Duration::from_secs(after_s));
            let Parcel::Post { headers, body, .. } = made(Kind::Webhook, now) else { unreachable!("it is posted") };
            let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()).unwrap();
            let (id, at, signature) = (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
            for (key, fits) in [([1; 32], true), ([2; 32], previous_fits), ([9; 32], false)] {
                let judged = verify_standard(&[key], &id, &at, &signature, &body, now.as_secs());
                assert_eq!(judged.is_ok(), fits, "{key:?} after {after_s} s");
            }
        }
    }

    #[test]
    fn what_is_sent_again_is_the_same_to_the_byte() {
        let body = |now| match made(Kind::Webhook, now) {
            Parcel::Post { headers, body, .. } => {
                (headers.into_iter().find(|(n, _)| *n == "webhook-id").map(|(_, id)| id), body)
            }
            _ => unreachable!("it is posted"),
        };
        assert_eq!(body(NOW), body(NOW.plus(std::time::Duration::from_secs(86_400))));
    }

    #[test]
    fn chats_get_text_that_is_nothing_but_text() {
        let slack = posted(Kind::Slack);
        assert!(!slack["text"].as_str().unwrap().contains('<'));
        for block in slack["blocks"].as_array().unwrap() {
            assert_eq!(block["text"]["type"], "plain_text");
        }
        let teams = posted(Kind::Teams);
        let card = &teams["attachments"][0]["content"];
        assert_eq!((&card["type"], &teams["type"]), (&json!("AdaptiveCard"), &json!("message")));
        for block in card["body"].as_array().unwrap() {
            assert_eq!((&block["type"], &block["inlines"][0]["type"]), (&json!("RichTextBlock"), &json!("TextRun")));
        }
    }

    #[test]
    fn a_syslog_frame_is_one_message_whatever_the_reason_says() {
        let Parcel::Line { frame, tls, .. } = made(Kind::Syslog, NOW) else { unreachable!("it is a frame") };
        assert!(tls);
        let text = String::from_utf8(frame).unwrap();
        let (length, message) = text.split_once(' ').unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), message.len(), "octets, not characters");
        assert!(!message.chars().any(char::is_control), "{message:?}");
        let head =
            "<106>1 2026-01-01T00:00:00.000Z appliance blockremote - device.blocked [meta sequenceId=\"8\"] \u{feff}{";
        assert!(message.starts_with(head), "{message}");
        let json: Value = serde_json::from_str(message.split_once('\u{feff}').unwrap().1).unwrap();
        assert_eq!(json["data"]["reason"], EVIL, "and still says all of it");
    }

    #[test]
    fn a_mail_has_one_line_for_each_fact() {
        let Parcel::Mail { subject, text, .. } = made(Kind::Email, NOW) else { unreachable!("it is a mail") };
        assert_eq!(subject, "[BlockRemote] device.blocked: BR-1");
        assert!(text.lines().all(|line| !line.chars().any(char::is_control)), "{text:?}");
        assert_eq!(text.lines().filter(|line| line.starts_with("Reason: ")).count(), 1);
    }
}
