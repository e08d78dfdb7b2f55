//! What can be typed after `blockremote audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Json, ReplayArgs};

/// `audit`.
#[derive(Subcommand, Clone, Debug)]
pub enum AuditCommand {
    /// Check a log from its entries up: of a data file, an exported folder, or an appliance
    #[command(
        after_help = "Without a target, the data file. Exit codes: 0 sound, 1 not sound (the first bad entry is named), \
                      3 no verdict.\n\nExamples:\n  blockremote audit verify\n  \
                      blockremote audit verify /mnt/backup/blockremote.redb --json\n  \
                      blockremote audit verify audit-export --checkpoint saved-checkpoint.txt\n  \
                      blockremote audit verify https://localhost:8443 --token-file token.txt"
    )]
    Verify(AuditVerifyArgs),
    /// Write everything that an outsider needs to check the logs into a folder
    #[command(
        after_help = "One folder for each tenant, in the layout of docs/audit-log.md. Entries up to a checkpoint that is \
                      signed for the purpose.\n\nExample:\n  blockremote audit export audit-export --tenant default"
    )]
    Export(ExportArgs),
    /// Sign the logs as they stand now, and show the checkpoints
    #[command(after_help = "Example:\n  blockremote audit checkpoint --tenant default")]
    Checkpoint(OfTenant),
    /// Show the keys that checkpoints are checked with: give them to whoever is to check them
    #[command(after_help = "Example:\n  blockremote audit key --tenant default")]
    Key(OfTenant),
    /// Recompute a decision from the stored readings and state, and compare it with what was answered
    #[command(after_help = "Uses the thresholds and weights of the configuration, which must be those of then.\n\n\
                            Example:\n  blockremote audit replay sig_019b0a5e-7c11-7a4e-9d5a-2f6b1c3d4e5f --json")]
    Replay(ReplayArgs),
}

/// `audit verify`.
#[derive(Args, Clone, Debug)]
pub struct AuditVerifyArgs {
    /// A data file, a folder that `audit export` wrote, or https://HOST:PORT [default: the data file]
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
    /// Believe this key only, as `audit key` shows it [default: the one beside the log]
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// A checkpoint that was kept elsewhere: the log must agree with it; repeatable
    #[arg(long = "checkpoint", value_name = "FILE")]
    pub checkpoints: Vec<PathBuf>,
    /// Key of a witness whose cosignature the checkpoint must bear
    #[arg(long, value_name = "KEY")]
    pub witness_key: Option<String>,
    /// File with a token that may read the log (audit:read), for an appliance
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificate authority of the appliance (PEM)
    #[arg(long, value_name = "FILE", default_value = "certs/ca.pem")]
    pub ca: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `audit export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// The folder; made if it is missing, and must be empty
    #[arg(value_name = "DIR")]
    pub to: PathBuf,
    /// Only this tenant, by name or id [default: all]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Leave addresses and user agents out
    #[arg(long)]
    pub without_personal: bool,
    /// Print one JSON object
    #[command(flatten)]
    pub json: Json,
}

/// `audit checkpoint` and `audit key`.
#[derive(Args, Clone, Debug)]
pub struct OfTenant {
    /// Only this tenant, by name or id [default: all]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[command(flatten)]
    pub json: Json,
}
