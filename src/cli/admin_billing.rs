//! `admin plans`, `admin licence`: what an operator on the box does about plans and licences.

use serde_json::Value;

use super::admin::{ask, text};
use super::args::{LicenceArgs, PlansCommand, exit};
use super::{Failure, Outcome, output};
use crate::app::control::{self, Ask};
use crate::app::place::Place;
use crate::config::Config;
use crate::domains::billing::{licence, plans};

pub(super) fn plans(config: &Config, command: &PlansCommand) -> Outcome {
    match command {
        PlansCommand::Show => output::to_stdout(plans::DEFAULTS)?,
        PlansCommand::Reload => match control::ask(&Place::of(config).control_socket(), &Ask::ReloadPlans)? {
            Some(_) => output::to_stdout("The plans were read anew and count from the next request on.\n")?,
            None => output::to_stdout("The appliance is not running; it reads the plans when it starts.\n")?,
        },
    }
    Ok(exit::DONE)
}

pub(super) fn licence(config: &Config, args: &LicenceArgs) -> Outcome {
    let shown = args.file.display();
    let text_of_file =
        std::fs::read_to_string(&args.file).map_err(|e| Failure::Failed(format!("{shown} could not be read: {e}")))?;
    let jws = text_of_file.trim();
    if jws.is_empty() || jws.len() > licence::CHARS_MAX {
        return Err(Failure::Failed(format!("{shown} is no licence: it is empty or too long")));
    }
    let answer = ask(config, &Ask::InstallLicence { licence: jws.to_owned(), tenant: args.tenant.clone() })?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
    } else {
        let covers = if answer.get("covers_devices") == Some(&Value::Bool(true)) { ", for every device" } else { "" };
        let (id, plan, end) = (text(&answer, "id"), text(&answer, "plan"), text(&answer, "expires_at"));
        output::to_stdout(&format!("Licence {id} is installed: {plan} until {end}{covers}.\n"))?;
    }
    Ok(exit::DONE)
}
