//! The commands: a file each. They parse, call, print, and end with a stable exit code.

pub mod args;
pub mod output;
mod pages;

mod admin;
mod admin_billing;
mod admin_cert;
mod admin_user;
mod agent;
mod attest;
mod audit;
pub mod bench;
mod data;
mod doctor;
mod feeds;
mod init;
mod intel;
mod password;
mod replay;
mod serve;
mod settings;

use std::process::ExitCode;

use args::audit::AuditCommand;
use args::feeds::FeedsCommand;
use args::intel::IntelCommand;
use args::{AdminCommand, Cli, Command, KeysCommand, TokenCommand, exit};

use crate::app::control;
use crate::config::{Config, ConfigErrors, Loaded, Sources};
use crate::kernel::{Error, Kind};

/// Why a command ended without success.
pub(crate) enum Failure {
    /// Exit code 1: tried and failed.
    Failed(String),
    /// Exit code 2: wrong arguments or configuration.
    Usage(String),
    /// Exit code 3: refused on purpose; nothing was changed.
    Refused(String),
}

impl Failure {
    /// The words, whatever the exit code.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::Refused(text) => text,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            // Nothing is here under this name, or not now: tried and failed. All else was refused on purpose.
            Error::Refused(refusal) if matches!(refusal.kind, Kind::NotFound | Kind::Unavailable) => {
                Self::Failed(control::in_words(&refusal))
            }
            Error::Refused(refusal) => Self::Refused(control::in_words(&refusal)),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::Usage(errors.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(crate) type Outcome = Result<u8, Failure>;

/// Runs the command line to its end.
pub fn run(cli: &Cli) -> ExitCode {
    let code = match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => {
            let (code, text) = match failure {
                Failure::Failed(text) => (exit::FAILED, text),
                Failure::Usage(text) => (exit::USAGE, text),
                Failure::Refused(text) => (exit::REFUSED, text),
            };
            // A closed standard error leaves nobody to tell.
            let _ = output::to_stderr(&format!("{}\n", text.trim_end()));
            code
        }
    };
    ExitCode::from(code)
}

fn dispatch(cli: &Cli) -> Outcome {
    let command = cli.command_or_serve();
    match &command {
        Command::Agent(args) => agent::run(cli, args),
        Command::Attest(command) => attest::run(command),
        Command::Bench(command) => bench::run(cli, command),
        Command::Completions(args) => pages::completions(args.shell),
        Command::Man(args) => pages::manual(&args.folder),
        Command::Intel(IntelCommand::Feeds(FeedsCommand::FitDns(args))) => feeds::fit_dns(args),
        Command::Intel(IntelCommand::Feeds(FeedsCommand::ScoreDns(args))) => feeds::score_dns(args),
        other => {
            let loaded = load(cli)?;
            match other {
                Command::Serve(_) => serve::run(&loaded, &|| load(cli)),
                Command::Init(args) => init::run(&loaded.config, args.json),
                Command::Backup(args) => data::backup(&loaded.config, args),
                Command::Restore(args) => data::restore(&loaded.config, args),
                Command::Drill(args) => data::drill(&loaded.config, args.json),
                Command::Compact(args) => data::compact(&loaded.config, args.json),
                Command::Verify(args) => data::verify(&loaded.config, args.file.as_deref(), &[], None, args.json),
                Command::Audit(AuditCommand::Replay(args)) => replay::run(&loaded.config, args),
                Command::Audit(command) => audit::run(&loaded.config, command),
                Command::Config(args) => settings::run(&loaded, args.json),
                Command::Doctor(args) => doctor::run(&loaded, args.json),
                Command::Admin(AdminCommand::Keys(KeysCommand::Rotate(args))) => {
                    admin::rotate_keys(&loaded.config, args.json)
                }
                Command::Admin(AdminCommand::Token(TokenCommand::Enroll(args))) => {
                    admin::enrollment_token(&loaded.config, args)
                }
                Command::Admin(AdminCommand::Token(TokenCommand::List(args))) => admin::tokens(&loaded.config, args),
                Command::Admin(AdminCommand::Token(TokenCommand::Revoke(args))) => {
                    admin::revoke_token(&loaded.config, args)
                }
                Command::Admin(AdminCommand::Plans(command)) => admin_billing::plans(&loaded.config, command),
                Command::Admin(AdminCommand::Licence(args)) => admin_billing::licence(&loaded.config, args),
                Command::Admin(AdminCommand::Cert(command)) => admin_cert::run(&loaded.config, command),
                Command::Admin(AdminCommand::LogLevel(args)) => admin::log_level(&loaded.config, args),
                Command::Admin(AdminCommand::User(command)) => admin_user::run(&loaded.config, command),
                Command::Intel(command) => intel::run(&loaded.config, command.clone()),
                Command::Agent(_)
                | Command::Attest(_)
                | Command::Bench(_)
                | Command::Completions(_)
                | Command::Man(_) => Ok(exit::DONE),
            }
        }
    }
}

/// The configuration from file, environment and flags.
pub(crate) fn load(cli: &Cli) -> Result<Loaded, Failure> {
    let search: Vec<_> = crate::config::SEARCH.iter().map(std::path::PathBuf::from).collect();
    let sources = Sources {
        config_file: cli.config.clone(),
        env: args::environment(),
        flags: cli.flags(),
        defaults_search: &search,
    };
    Ok(Config::load(&sources)?)
}

/// A runtime for commands that speak to the network.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("blockremote").build()?)
}
