//! What can be typed after `blockremote`. Names, defaults and help; does nothing.
//!
//! Every command ends its help with an example that a test parses. Settings of the appliance are not flags here: they
//! are keys of the configuration, and the few flags that stand for a key are listed in [`Cli::flags`].

use std::path::PathBuf;

use super::bench::args::BenchCommand;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use crate::agent::motion::AttackKind;
use crate::agent::tpm::Place;
use crate::config;

pub mod attest;
pub mod audit;
mod cert;
pub mod feeds;
pub mod intel;

pub use cert::{CertCommand, CertIssueArgs, CertListArgs, CertRevokeArgs, LogLevelArgs};

use attest::AttestCommand;
use audit::AuditCommand;
use intel::IntelCommand;

/// Exit codes. `USAGE` is also what the argument parser itself ends with.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Tried and failed.
    pub const FAILED: u8 = 1;
    /// Wrong arguments or configuration.
    pub const USAGE: u8 = 2;
    /// Refused on purpose; nothing was changed.
    pub const REFUSED: u8 = 3;
}

const MAIN_HELP: &str = "\
Configuration: /etc/blockremote/config.toml, else ./blockremote.toml, else
defaults. Every key is also a variable: http.listen is BLOCKREMOTE_HTTP__LISTEN.
`blockremote config --help` lists them all.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused (nothing was
changed).

Examples:
  blockremote
  blockremote --config /etc/blockremote/config.toml serve
  blockremote --data /var/lib/blockremote/data/blockremote.redb verify";

/// The command line.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "blockremote",
    version,
    about = "Notices that a device was taken over from afar, and locks it",
    long_about = "Notices that a device was taken over from afar, and locks it.\n\nWithout a command it serves.",
    after_help = MAIN_HELP,
    propagate_version = false,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data file [default: data/blockremote.redb]
    #[arg(long, global = true, value_name = "FILE")]
    pub data: Option<String>,
    /// Directory of keys and certificates [default: certs]
    #[arg(long, global = true, value_name = "DIR")]
    pub certs: Option<String>,
    /// What to do; nothing means serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Cli {
    /// The command, `serve` where none was given.
    pub fn command_or_serve(&self) -> Command {
        self.command.clone().unwrap_or_else(|| Command::Serve(ServeArgs::default()))
    }

    /// The keys of the configuration that were set by flags, for [`config::Sources`].
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        let mut flags = vec![("data", &self.data), ("certs", &self.certs)];
        if let Some(Command::Serve(serve)) = &self.command {
            flags.push(("http.listen", &serve.listen));
            flags.push(("grpc.listen", &serve.grpc_listen));
            flags.push(("internal.listen", &serve.internal_listen));
        }
        flags.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }
}

/// The variables of this process that are ours, for [`config::Sources`]. What is not UTF-8 is kept as far as it can be
/// shown, and is then refused by its key.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(config::VARIABLE_PREFIX))
        .collect()
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Run the appliance; on an empty place it initialises itself first
    #[command(
        after_help = "Once ready, one line `ready {...}` with the addresses goes to standard output.\n\nExample:\n  \
                            blockremote serve --listen 0.0.0.0:8443"
    )]
    Serve(ServeArgs),
    /// Make data file, keys, certificates and the first administrator, once, without serving
    #[command(after_help = "A second init is refused (exit code 3).\n\nExample:\n  blockremote init --json")]
    Init(Json),
    /// Play one device or a fleet against a server: enroll, send signals, obey the kill switch
    #[command(after_help = "Examples:\n  blockremote agent --token-file token.txt\n  \
                            blockremote agent --token-file token.txt --fleet 20 --takeover 3 --attack overlay")]
    Agent(Box<AgentArgs>),
    /// Copy the data file while the appliance runs, encrypted together with the sealing key
    #[command(
        after_help = "It is read again and checked before it gets its name. Without FILE it goes to backup.directory under a \
                      name of its own, and so it does into a FILE that is a folder.\n\nExamples:\n  blockremote backup\n  \
                      blockremote backup /mnt/backup/blockremote.redb.age --recipient age1...\n  \
                      blockremote backup /mnt/backup/blockremote.redb --unencrypted"
    )]
    Backup(BackupArgs),
    /// Put a backup in the place of the data file; the appliance must not be running
    #[command(after_help = "The log goes on under another name then, see docs/audit-log.md. Say it as root where the \
                            appliance is a service: the files then belong to the owner of their folder, and the sealing \
                            key is compared with, or put into, the file that the service takes it from.\n\nExample:\n  \
                            blockremote restore /mnt/backup/blockremote.redb.age --identity key.txt --force")]
    Restore(RestoreArgs),
    /// Restore the newest backup for trial, beside the running appliance
    #[command(
        after_help = "Needs backup.drill_identity_file for encrypted ones.\n\nExample:\n  blockremote drill --json"
    )]
    Drill(Json),
    /// Rewrite the data file of a stopped appliance without its free pages
    #[command(after_help = "The old file is kept beside it as FILE.before-compact; remove it when all is well.\n\n\
                            Example:\n  blockremote compact --json")]
    Compact(Json),
    /// Check a data file from end to end: structure, indexes, audit log
    #[command(after_help = "Examples:\n  blockremote verify\n  blockremote verify /mnt/backup/blockremote.redb --json")]
    Verify(VerifyArgs),
    /// The audit log
    #[command(subcommand, after_help = "Example:\n  blockremote audit verify")]
    Audit(AuditCommand),
    /// Show the configuration that counts, and where each value came from
    #[command(
        after_help = "Example:\n  blockremote config --json",
        after_long_help = format!("Example:\n  blockremote config --json\n\nKeys:\n{}", config::reference())
    )]
    Config(Json),
    /// Look for what commonly goes wrong: permissions, clock, ports, disk, certificates
    #[command(after_help = "Example:\n  blockremote doctor --json")]
    Doctor(Json),
    /// Administration on the box
    #[command(subcommand, after_help = "Example:\n  blockremote admin keys rotate")]
    Admin(AdminCommand),
    /// Attestations: what a device's hardware says of itself
    #[command(
        subcommand,
        after_help = "Example:\n  blockremote attest verify --type play-integrity --file case.json --json"
    )]
    Attest(AttestCommand),
    /// What the appliance believes of others: roots of trust, lists of revoked keys, threat feeds
    #[command(
        subcommand,
        after_help = "Examples:\n  blockremote intel roots list\n  blockremote intel import samples.csv --name stalkerware"
    )]
    Intel(IntelCommand),
    /// Measure this machine
    #[command(subcommand, after_help = "Example:\n  blockremote bench load --seconds 10")]
    Bench(BenchCommand),
    /// Print the completions of a shell, for packages
    #[command(hide = true, after_help = "Example:\n  blockremote completions bash")]
    Completions(CompletionsArgs),
    /// Write the manual pages into a folder, for packages
    #[command(hide = true, after_help = "Example:\n  blockremote man target/man")]
    Man(ManArgs),
}

/// `completions`.
#[derive(Args, Clone, Copy, Debug)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// An existing folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// For commands that print for people or for scripts.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Json {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `serve`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Address of HTTPS and WebSocket (http.listen); port 0 picks a free one
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Address of gRPC (grpc.listen)
    #[arg(long, value_name = "ADDR")]
    pub grpc_listen: Option<String>,
    /// Address of metrics and internal endpoints (internal.listen)
    #[arg(long, value_name = "ADDR")]
    pub internal_listen: Option<String>,
}

/// `agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// The appliance
    #[arg(long, default_value = "https://localhost:8443")]
    pub url: String,
    /// Certificate authority that signed the appliance's certificate (PEM)
    #[arg(long, value_name = "FILE", default_value = "certs/ca.pem")]
    pub ca: PathBuf,
    /// SHA-256 of that authority, as the appliance shows it
    #[arg(long, value_name = "HEX")]
    pub ca_fingerprint: Option<String>,
    /// Enrollment token; every user of the machine can see it, so rather use --token-file
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File that holds the enrollment token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Devices to play
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=100_000))]
    pub fleet: u32,
    /// Of these, devices that are taken over; at most --fleet
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = value_parser!(u32).range(0..=100_000))]
    pub takeover: u32,
    /// Seconds until the takeover begins
    #[arg(long, value_name = "S", default_value_t = 5)]
    pub after_s: u64,
    /// How devices are taken over, in turn, repeatable or separated by commas:
    /// still, emulator, noise, sine, loop, overlay, mirroring
    #[arg(long, value_name = "KIND", value_delimiter = ',', default_value = "still,emulator,overlay")]
    pub attack: Vec<AttackKind>,
    /// Send the readings of this file in place of made ones
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,
    /// Heartbeats a second of each device; each carries all readings (50 a second) since the one before
    #[arg(long, value_name = "HZ", default_value = "1", value_parser = rate)]
    pub rate_hz: f64,
    /// Stop after this long [default: some seconds after the last taken-over device was locked]
    #[arg(long, value_name = "S")]
    pub seconds: Option<u64>,
    /// The same seed plays the same devices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// What device ids begin with
    #[arg(long, value_name = "TEXT", default_value = "agent", value_parser = prefix)]
    pub prefix: String,
    /// How heartbeats travel
    #[arg(long, value_enum, default_value_t = Transport::Ws)]
    pub transport: Transport,
    /// TPM 2.0 to prove the device with, for --fleet 1: a device such as /dev/tpmrm0, a Unix socket, or
    /// tcp://127.0.0.1:PORT
    #[arg(long, value_name = "PATH")]
    pub tpm: Option<Place>,
    /// Print one JSON object at the end
    #[arg(long)]
    pub json: bool,
    /// Do not draw the live table
    #[arg(long)]
    pub no_table: bool,
}

/// How heartbeats travel.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Over the kill-switch socket.
    Ws,
    /// One request each.
    Http,
}

/// `backup`.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// Where it goes: a file that does not exist yet, or a folder [default: a new name in backup.directory]
    #[arg(value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Public key that it is encrypted to, repeatable [default: backup.recipients]
    #[arg(long = "recipient", value_name = "KEY")]
    pub recipients: Vec<String>,
    /// Where there are no recipients: write it in clear, and without the sealing key
    #[arg(long)]
    pub unencrypted: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub from: PathBuf,
    /// File of the private key that opens it (AGE-SECRET-KEY-1...)
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Where the appliance's sealing key comes from [default: sealing.key beside the configuration file, where there is
    /// one, else in the folder of keys]
    #[arg(long, value_name = "FILE")]
    pub sealing_key_file: Option<PathBuf>,
    /// Replace a data file, and a sealing key, that are there
    #[arg(long)]
    pub force: bool,
}

/// `verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The file [default: the data file]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `audit replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// As the heartbeat's answer and the audit log show it
    #[arg(value_name = "SIGNAL_ID")]
    pub signal: String,
    /// The file [default: the data file]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `admin`.
#[derive(Subcommand, Clone, Debug)]
pub enum AdminCommand {
    /// Signing keys
    #[command(subcommand, after_help = "Example:\n  blockremote admin keys rotate")]
    Keys(KeysCommand),
    /// Tokens
    #[command(subcommand, after_help = "Example:\n  blockremote admin token enroll --uses 1")]
    Token(TokenCommand),
    /// Client certificates of devices, for gRPC
    #[command(subcommand, after_help = "Example:\n  blockremote admin cert issue --device BR-1 --tenant default")]
    Cert(CertCommand),
    /// Change what the running appliance logs, until it is restarted
    #[command(after_help = "Example:\n  blockremote admin log-level debug")]
    LogLevel(LogLevelArgs),
    /// Plans
    #[command(subcommand, after_help = "Example:\n  blockremote admin plans show")]
    Plans(PlansCommand),
    /// Install a licence that the vendor signed
    #[command(after_help = "Example:\n  blockremote admin licence licence.jws --tenant default")]
    Licence(LicenceArgs),
    /// People: for a site that locked itself out
    #[command(subcommand, after_help = "Example:\n  blockremote admin user passwd admin --reset-second-factor")]
    User(UserCommand),
}

/// `admin plans`.
#[derive(Subcommand, Clone, Debug)]
pub enum PlansCommand {
    /// Print the plans that the program brings, as a file for billing.plans
    #[command(after_help = "Example:\n  blockremote admin plans show")]
    Show,
    /// Make the running appliance read the file of plans anew
    #[command(after_help = "Example:\n  blockremote admin plans reload")]
    Reload,
}

/// `admin licence`.
#[derive(Args, Clone, Debug)]
pub struct LicenceArgs {
    /// The licence
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// For which company, by name or id [default: the first tenant]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `admin user`.
#[derive(Subcommand, Clone, Debug)]
pub enum UserCommand {
    /// Make a person
    #[command(
        after_help = "The password is asked for on a terminal, read from standard input on demand, and made\nup and \
                            shown once otherwise.\n\nExamples:\n  blockremote admin user add zoe --role admin\n  \
                            blockremote admin user add zoe --role admin --system-admin --json"
    )]
    Add(AddUserArgs),
    /// Give a person a new password; ends their sessions and lets them try again at once
    #[command(
        after_help = "The password is asked for on a terminal, read from standard input on demand, and made\nup and \
                            shown once otherwise. The sessions of the person's devices go on.\n\nExamples:\n  \
                            blockremote admin user passwd admin\n  \
                            blockremote admin user passwd admin --reset-second-factor --password-stdin"
    )]
    Passwd(PasswdArgs),
    /// Shut a person out and end their sessions; the last administrator is refused
    #[command(after_help = "Example:\n  blockremote admin user disable zoe")]
    Disable(UserArgs),
    /// Let a person in again
    #[command(after_help = "Example:\n  blockremote admin user enable zoe")]
    Enable(UserArgs),
    /// Show the people
    #[command(after_help = "Example:\n  blockremote admin user list --tenant default --json")]
    List(ListArgs),
}

/// `admin user add`.
#[derive(Args, Clone, Debug)]
pub struct AddUserArgs {
    /// How they log in; upper and lower case are the same
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What they may do, repeatable: admin, security_analyst, manager, viewer, auditor, or a role's id
    #[arg(long = "role", value_name = "ROLE", default_value = "viewer")]
    pub roles: Vec<String>,
    /// Also administers the appliance and its tenants
    #[arg(long)]
    pub system_admin: bool,
    /// Where they belong, by name or id [default: the first tenant]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `admin user passwd`.
#[derive(Args, Clone, Debug)]
pub struct PasswdArgs {
    /// Whose
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Also take authenticator app, recovery codes and passkeys away: for who lost them
    #[arg(long)]
    pub reset_second_factor: bool,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `admin user disable` and `enable`.
#[derive(Args, Clone, Debug)]
pub struct UserArgs {
    /// Whom
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Lists of an operator.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Only this tenant, by name or id [default: all]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `admin keys`.
#[derive(Subcommand, Clone, Debug)]
pub enum KeysCommand {
    /// Sign with the next key from now on; the present one stays published until nothing signed by it is valid
    #[command(after_help = "Example:\n  blockremote admin keys rotate --json")]
    Rotate(Json),
}

/// `admin token`.
#[derive(Subcommand, Clone, Debug)]
pub enum TokenCommand {
    /// Make an enrollment token and show it once
    #[command(after_help = "Example:\n  blockremote admin token enroll --uses 50 --days 7 --json")]
    Enroll(EnrollArgs),
    /// Show the enrollment tokens, never their secrets
    #[command(after_help = "Example:\n  blockremote admin token list --json")]
    List(ListArgs),
    /// Take an enrollment token back; devices that it enrolled stay enrolled
    #[command(after_help = "Example:\n  blockremote admin token revoke enr_019b0a5e-7c11-7a4e-9d5a-2f6b1c3d4e5f")]
    Revoke(RevokeArgs),
}

/// `admin token revoke`.
#[derive(Args, Clone, Debug)]
pub struct RevokeArgs {
    /// As `admin token list` shows it
    #[arg(value_name = "ID")]
    pub id: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `admin token enroll`.
#[derive(Args, Clone, Debug)]
pub struct EnrollArgs {
    /// Devices that may use it [default: no limit]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub uses: Option<u32>,
    /// Days until it expires
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = value_parser!(u32).range(1..=365))]
    pub days: u32,
    /// Only for this device, and once
    #[arg(long, value_name = "ID", conflicts_with = "uses")]
    pub device_id: Option<String>,
    /// Whose devices; needed where there is more than one tenant
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hz) if (0.001..=1000.0).contains(&hz) => Ok(hz),
        _ => Err("must be a number from 0.001 to 1000".to_owned()),
    }
}

/// Leaves room for the number behind it within the 64 characters of a device's id.
fn prefix(text: &str) -> Result<String, String> {
    let fits = (1..=40).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
    if fits { Ok(text.to_owned()) } else { Err("must be 1 to 40 characters of A-Z a-z 0-9 . _ : -".to_owned()) }
}

#[cfg(test)]
mod tests;
