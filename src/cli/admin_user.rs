//! `admin user`: people, from the shell of the machine.

use serde_json::Value;

use super::Outcome;
use super::admin::{ask, list, tell_of_more, text};
use super::args::{AddUserArgs, ListArgs, PasswdArgs, UserArgs, UserCommand, exit};
use super::output::{self, Cell, Paint, Style, clean};
use super::password::{self, NewPassword};
use crate::app::control::Ask;
use crate::config::Config;

pub(super) fn run(config: &Config, command: &UserCommand) -> Outcome {
    match command {
        UserCommand::Add(args) => add(config, args),
        UserCommand::Passwd(args) => passwd(config, args),
        UserCommand::Disable(args) => switch(config, args, true),
        UserCommand::Enable(args) => switch(config, args, false),
        UserCommand::List(args) => people(config, args),
    }
}

fn add(config: &Config, args: &AddUserArgs) -> Outcome {
    let new = password::obtain(args.password_stdin, &args.name)?;
    let user = ask(
        config,
        &Ask::AddUser {
            username: args.name.clone(),
            password: new.secret.clone(),
            roles: args.roles.clone(),
            system_admin: args.system_admin,
            tenant: args.tenant.clone(),
        },
    )?;
    let name = clean(&text(&user, "username"));
    let appliance = if args.system_admin { ", and administers the appliance" } else { "" };
    let said = format!("User {name} was made in tenant {}: {}{appliance}.", tenant_of(&user), roles_of(&user));
    tell(args.json, serde_json::json!({ "user": user }), &said, &new)
}

fn passwd(config: &Config, args: &PasswdArgs) -> Outcome {
    let new = password::obtain(args.password_stdin, &args.name)?;
    let answer = ask(
        config,
        &Ask::SetPassword {
            username: args.name.clone(),
            password: new.secret.clone(),
            reset_second_factor: args.reset_second_factor,
        },
    )?;
    let user = answer.get("user").cloned().unwrap_or_default();
    let name = clean(&text(&user, "username"));
    let is = |value: &Value, what: &str| value.get(what) == Some(&Value::Bool(true));
    let mut said = format!("User {name} has a new password. {}", sessions(&answer));
    if args.reset_second_factor {
        said.push_str(match is(&answer, "second_factor_removed") {
            true => " The second factors are gone; the next login asks for the password alone.",
            false => " There was no second factor.",
        });
    } else if is(&user, "second_factor") {
        said.push_str(" The second factor stays; --reset-second-factor takes it away.");
    }
    if is(&user, "disabled") {
        said.push_str(&format!(" The account is still disabled: blockremote admin user enable {name}"));
    }
    tell(args.json, answer, &said, &new)
}

fn switch(config: &Config, args: &UserArgs, disabled: bool) -> Outcome {
    let answer = ask(config, &Ask::SwitchUser { username: args.name.clone(), disabled })?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let name = clean(&args.name);
    let said = match (answer.get("changed") == Some(&Value::Bool(true)), disabled) {
        (true, true) => format!("User {name} is shut out. {}", sessions(&answer)),
        (true, false) => format!("User {name} can log in again."),
        (false, true) => format!("User {name} was shut out before; nothing was changed."),
        (false, false) => format!("User {name} was not shut out; nothing was changed."),
    };
    output::to_stdout(&format!("{said}\n"))?;
    Ok(exit::DONE)
}

fn people(config: &Config, args: &ListArgs) -> Outcome {
    let answer = ask(config, &Ask::ListUsers { tenant: args.tenant.clone() })?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let rows = list(&answer, "users").map(|user| {
        let flag = |name: &str| user.get(name) == Some(&Value::Bool(true));
        let mut roles = roles_of(user);
        if flag("system_admin") {
            roles.push_str(", system_admin");
        }
        let state = if flag("disabled") {
            Cell::painted(Paint::Warn, "disabled")
        } else {
            Cell::painted(Paint::Good, "active")
        };
        let factor = if flag("second_factor") { "yes" } else { "no" };
        vec![text(user, "username").into(), tenant_of(user).into(), roles.into(), state, factor.into()]
    });
    let heads = ["user", "tenant", "roles", "state", "second factor"];
    output::to_stdout(&output::table(Style::stdout(), &heads, rows.collect()))?;
    tell_of_more(&answer)?;
    Ok(exit::DONE)
}

/// A password that was made up stands alone on standard output, once, for a script to take; else the sentence does.
fn tell(as_json: bool, mut answer: Value, said: &str, new: &NewPassword) -> Outcome {
    if as_json {
        if let Some(members) = answer.as_object_mut().filter(|_| new.made_up) {
            members.insert("password".to_owned(), new.secret.expose().into());
        }
        output::to_stdout(&output::json(&answer))?;
    } else if new.made_up {
        output::to_stdout(&format!("{}\n", new.secret.expose()))?;
        output::to_stderr(&format!("{said}\nThe password was made up and is shown once: only its hash is stored.\n"))?;
    } else {
        output::to_stdout(&format!("{said}\n"))?;
    }
    Ok(exit::DONE)
}

fn sessions(answer: &Value) -> String {
    match answer.get("sessions_ended").and_then(Value::as_u64).unwrap_or_default() {
        0 => "There was no open session.".to_owned(),
        1 => "One session has ended.".to_owned(),
        n => format!("{n} sessions have ended."),
    }
}

fn tenant_of(user: &Value) -> String {
    let name = text(user, "tenant_name");
    clean(&if name.is_empty() { text(user, "tenant") } else { name })
}

fn roles_of(user: &Value) -> String {
    let roles: Vec<&str> = list(user, "roles").filter_map(Value::as_str).collect();
    if roles.is_empty() { "no role".to_owned() } else { roles.join(", ") }
}
