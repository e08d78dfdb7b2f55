//! `admin`: what an operator on the box does, on a running appliance or a stopped one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::args::{EnrollArgs, ListArgs, LogLevelArgs, RevokeArgs, exit};
use super::output::Style;
use super::{Failure, Outcome, output};
use crate::app::control::{self, Ask, Operator};
use crate::app::place::Place;
use crate::app::{self, Environment};
use crate::config::Config;
use crate::kernel::ids::{DeviceId, EnrollmentId};

/// Asks the running appliance, or does the same on the stopped one's data file.
pub(super) fn ask(config: &Config, what: &Ask) -> Result<Value, Failure> {
    if let Some(answer) = control::ask(&Place::of(config).control_socket(), what)? {
        return Ok(answer);
    }
    let env = Environment::system();
    let opened = app::open(config, &env, false)?;
    let operator = app::build(config, &env, opened)?.operator(config, &env)?;
    let runtime = super::runtime()?;
    let answer = runtime.block_on(operator.answer(what.clone()));
    let Operator { services, .. } = operator;
    services.store.stop();
    drop(Arc::clone(&services));
    Ok(answer?)
}

pub(super) fn rotate_keys(config: &Config, as_json: bool) -> Outcome {
    let answer = ask(config, &Ask::RotateKeys)?;
    let kid = answer.get("kid").and_then(Value::as_str).unwrap_or_default();
    if as_json {
        output::to_stdout(&output::json(&answer))?;
    } else {
        output::to_stdout(&format!(
            "Key {kid} signs from now on. The key before it stays published until nothing that it signed is valid.\n"
        ))?;
    }
    Ok(exit::DONE)
}

pub(super) fn enrollment_token(config: &Config, args: &EnrollArgs) -> Outcome {
    let device = match &args.device_id {
        Some(id) => Some(id.parse::<DeviceId>().map_err(|e| Failure::Usage(format!("--device-id {e}")))?),
        None => None,
    };
    let lifetime = Duration::from_secs(u64::from(args.days) * 86_400);
    let ask_for =
        Ask::EnrollmentToken { uses: args.uses, lifetime_s: lifetime.as_secs(), device, tenant: args.tenant.clone() };
    let answer = ask(config, &ask_for)?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
    } else {
        let token = answer.get("enrollment_token").and_then(Value::as_str).unwrap_or_default();
        output::to_stdout(&format!("{token}\n"))?;
        output::to_stderr("Shown once: only its hash is stored.\n")?;
    }
    Ok(exit::DONE)
}

pub(super) fn tokens(config: &Config, args: &ListArgs) -> Outcome {
    let answer = ask(config, &Ask::ListTokens { tenant: args.tenant.clone() })?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let rows = list(&answer, "tokens").map(|token| {
        let uses = match token.get("uses_max").and_then(Value::as_u64) {
            Some(max) => format!("{} of {max}", number(token, "uses")),
            None => number(token, "uses"),
        };
        let flag = |name: &str| token.get(name) == Some(&Value::Bool(true));
        let state = if flag("usable") {
            "usable"
        } else if flag("revoked") {
            "revoked"
        } else {
            "used up or over"
        };
        let device = text(token, "device_id");
        let device = if device.is_empty() { "any".to_owned() } else { device };
        [text(token, "id"), state.to_owned(), uses, text(token, "expires_at"), device, text(token, "tenant")]
            .map(output::Cell::from)
            .to_vec()
    });
    let heads = ["id", "state", "uses", "expires", "device", "tenant"];
    // Never wrapped: an id is there to be copied.
    output::to_stdout(&output::table(Style::plain(), &heads, rows.collect()))?;
    tell_of_more(&answer)?;
    Ok(exit::DONE)
}

pub(super) fn revoke_token(config: &Config, args: &RevokeArgs) -> Outcome {
    let id = args.id.parse::<EnrollmentId>().map_err(|e| Failure::Usage(format!("{:?} {e}", args.id)))?;
    let answer = ask(config, &Ask::RevokeToken { id })?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
    } else if answer.get("changed") == Some(&Value::Bool(true)) {
        output::to_stdout(&format!("Token {id} enrolls no further device. Those that it enrolled stay enrolled.\n"))?;
    } else {
        output::to_stdout(&format!("Token {id} was revoked before; nothing was changed.\n"))?;
    }
    Ok(exit::DONE)
}

pub(super) fn log_level(config: &Config, args: &LogLevelArgs) -> Outcome {
    // Nothing is opened for it: a stopped appliance logs nothing.
    let asked = control::ask(&Place::of(config).control_socket(), &Ask::LogLevel { level: args.level.clone() })?;
    let Some(answer) = asked else {
        return Err(Failure::Failed("The appliance is not running: set log.level, then start it.".to_owned()));
    };
    if args.json {
        output::to_stdout(&output::json(&answer))?;
    } else {
        output::to_stdout(&format!("Logs {} and graver from now on, until the appliance is restarted.\n", args.level))?;
    }
    Ok(exit::DONE)
}

pub(super) fn list<'a>(answer: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    answer.get(name).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_u64).unwrap_or_default().to_string()
}

/// A list that was cut says so.
pub(super) fn tell_of_more(answer: &Value) -> Result<(), Failure> {
    if answer.get("more") == Some(&Value::Bool(true)) {
        output::to_stderr("There are more than are shown; name a tenant with --tenant.\n")?;
    }
    Ok(())
}

/// A token for the agent on this very machine, so that trying the appliance takes no copying of secrets: whoever may
/// use the local socket may make tokens anyway.
pub(super) fn agent_token(config: &Config, devices: u32) -> Option<String> {
    let ask_for = Ask::EnrollmentToken { uses: Some(devices), lifetime_s: 3_600, device: None, tenant: None };
    let answer = control::ask(&Place::of(config).control_socket(), &ask_for).ok()??;
    answer.get("enrollment_token").and_then(Value::as_str).map(str::to_owned)
}
