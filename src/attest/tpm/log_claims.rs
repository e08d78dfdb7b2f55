//! What a boot log comes to: compared with registers, and told as claims.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::{Claims, Refused};
use super::event_log::{EV_AUTHORITY, EV_DRIVER_CONFIG, EV_SEPARATOR, Event, EventLog, Registers, Variable, type_name};
use super::hash::Hash;
use super::{TpmPolicy, registers_json};
use crate::crypto::hex;

/// EFI_GLOBAL_VARIABLE.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Where firmware measures the state of Secure Boot and its variables.
const SECURE_BOOT_PCR: u32 = 7;

/// The state of Secure Boot as it was measured.
struct SecureBoot {
    /// `None` where the first event of PCR 7 does not tell.
    enabled: Option<bool>,
    variables: Vec<Value>,
    authorities: Vec<Value>,
}

/// Compares a log with what is known of the registers, then tells it.
pub(super) fn judge(log: &EventLog, known: &BTreeMap<Hash, Registers>, policy: &TpmPolicy) -> Result<Claims, Refused> {
    if known.values().all(Registers::is_empty) && policy.require_pcr_values {
        return Err(Refused::new("pcr_value", "There are no register values to compare the boot log with."));
    }
    let mut compared = serde_json::Map::new();
    let mut secure_boot_proven = false;
    for (bank, registers) in known {
        let pcrs = log.compare(*bank, registers, policy.ebs_missing_workaround)?;
        secure_boot_proven |= pcrs.contains(&7) && (*bank != Hash::Sha1 || policy.allow_sha1_bank);
        compared.insert(bank.name().to_owned(), json!(pcrs));
    }
    let secure_boot = secure_boot(log)?;
    if policy.require_secure_boot && !(secure_boot.enabled == Some(true) && secure_boot_proven) {
        return Err(Refused::new("secure_boot", "The boot log does not prove that Secure Boot was on."));
    }
    let mut claims = Claims::new();
    for (name, value) in [
        ("format", json!(log.format.name())),
        ("banks", json!(log.banks.iter().map(|bank| bank.name()).collect::<Vec<_>>())),
        ("startup_locality", json!(log.startup_locality)),
        ("compared_pcrs", Value::Object(compared)),
        (
            "replayed_pcrs",
            Value::Object(log.banks.iter().map(|b| (b.name().to_owned(), registers_json(&log.replay(*b)))).collect()),
        ),
        (
            "secure_boot",
            json!({
                "enabled": secure_boot.enabled,
                "proven": secure_boot_proven,
                "variables": secure_boot.variables,
                "authorities": secure_boot.authorities,
            }),
        ),
        ("events", Value::Array(log.events.iter().map(event).collect())),
    ] {
        claims.insert(name.to_owned(), value);
    }
    Ok(claims)
}

fn event(event: &Event) -> Value {
    let kind = type_name(event.kind).map_or_else(|| format!("{:#010x}", event.kind), str::to_owned);
    let digests: serde_json::Map<_, _> =
        event.digests.iter().map(|(bank, digest)| (bank.name().to_owned(), json!(hex(digest)))).collect();
    json!({
        "pcr": event.pcr,
        "type": kind,
        "measured": event.is_measured(),
        "digests": digests,
        "data_bytes": event.data.len(),
        "data_is_measured": event.data_is_measured(),
    })
}

/// Reads the measured variables of Secure Boot.
///
/// Types of events are in no digest: a system that booted without Secure Boot could extend PCR 7 with a variable that
/// says otherwise, and relabel the firmware's own event. So only the first event of PCR 7 tells the state, where the
/// profile (section 3.3.4.8) puts it, and a later one can only switch it off.
fn secure_boot(log: &EventLog) -> Result<SecureBoot, Refused> {
    let mut out = SecureBoot { enabled: None, variables: Vec::new(), authorities: Vec::new() };
    let measured = log.events.iter().filter(|e| e.is_measured() && e.pcr == SECURE_BOOT_PCR);
    for (at, event) in measured.enumerate() {
        match event.kind {
            // By definition the digest is that of the data; data that is another would lie about a genuine register.
            EV_DRIVER_CONFIG | EV_SEPARATOR if !event.data_is_measured() => {
                return Err(Refused::new(
                    "eventlog_data",
                    "An event of PCR 7 has data that is not what was measured, so that nothing can be read from it.",
                ));
            }
            EV_DRIVER_CONFIG => {
                let Some(variable) = Variable::parse(&event.data) else {
                    return Err(Refused::new("eventlog_data", "A measured variable of Secure Boot cannot be read."));
                };
                if variable.guid == GLOBAL && variable.name == "SecureBoot" {
                    let on = variable.data == [1];
                    out.enabled = if at == 0 { Some(on) } else { out.enabled.map(|before| before && on) };
                }
                out.variables.push(described(&variable));
            }
            EV_AUTHORITY if event.data_is_measured() => {
                out.authorities.extend(Variable::parse(&event.data).as_ref().map(described));
            }
            _ => {}
        }
    }
    Ok(out)
}

fn described(variable: &Variable) -> Value {
    let digest = hex(&Hash::Sha256.digest(&variable.data));
    json!({"guid": variable.guid, "name": variable.name, "bytes": variable.data.len(), "sha256": digest})
}
