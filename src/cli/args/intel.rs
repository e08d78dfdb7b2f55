//! What can be typed after `blockremote intel`. Names, defaults and help; does nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ListArgs;
use super::feeds::FeedsCommand;
use crate::domains::attestation::RootKind;
use crate::kernel::Timestamp;

const ADD_HELP: &str = "\
FILE holds one certificate of an authority in PEM. Every device of the tenant
may then prove its hardware by a chain that ends in it, so take care whose it
is. A bundled root that was removed is added again by its own certificate.

Example:
  blockremote intel roots add --kind tpm --label lab root.pem";

const REMOVE_HELP: &str = "\
A root of the tenant's own is forgotten; a bundled one is distrusted. Proofs
that were accepted stand until the device has to prove itself again.

Example:
  blockremote intel roots remove android-key.0123456789abcdef0123456789abcdef";

const IMPORT_HELP: &str = "\
FILE is Google's list of revoked attestation keys, as it was fetched from
https://android.googleapis.com/attestation/status on a machine with Internet.
It counts for every tenant. When it was fetched is taken from the file's own
time of change, unless --fetched-at says it.

Examples:
  blockremote intel status-list import status.json
  blockremote intel status-list import status.json --fetched-at 2026-01-31T09:30:00Z";

/// `intel`.
#[derive(Subcommand, Clone, Debug)]
pub enum IntelCommand {
    /// Roots of trust for proofs of hardware
    #[command(subcommand, after_help = "Example:\n  blockremote intel roots list")]
    Roots(RootsCommand),
    /// Google's list of revoked Android attestation keys
    #[command(subcommand, after_help = "Example:\n  blockremote intel status-list show")]
    StatusList(StatusListCommand),
    /// Threat feeds, and names that none lists.
    #[command(flatten)]
    Feeds(FeedsCommand),
}

/// `intel roots`.
#[derive(Subcommand, Clone, Debug)]
pub enum RootsCommand {
    /// Show the bundled roots and a tenant's own
    #[command(after_help = "Example:\n  blockremote intel roots list --tenant default --json")]
    List(ListArgs),
    /// Trust another root
    #[command(after_help = ADD_HELP)]
    Add(AddRootArgs),
    /// Trust a root no longer
    #[command(after_help = REMOVE_HELP)]
    Remove(RemoveRootArgs),
}

/// `intel roots add`.
#[derive(Args, Clone, Debug)]
pub struct AddRootArgs {
    /// The certificate
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What it shall vouch for: android-key, apple-attestation, apple-receipt, tpm or webauthn
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub kind: RootKind,
    /// What people call it
    #[arg(long, value_name = "TEXT")]
    pub label: String,
    /// Whose devices, by name or id [default: the first tenant]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `intel roots remove`.
#[derive(Args, Clone, Debug)]
pub struct RemoveRootArgs {
    /// As `intel roots list` shows it
    #[arg(value_name = "ID")]
    pub id: String,
    /// Whose devices, by name or id [default: the first tenant]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `intel status-list`.
#[derive(Subcommand, Clone, Debug)]
pub enum StatusListCommand {
    /// Show which list is in force, and whether it is too old
    #[command(after_help = "Example:\n  blockremote intel status-list show --json")]
    Show(super::Json),
    /// Put a list in force
    #[command(after_help = IMPORT_HELP)]
    Import(ImportListArgs),
}

/// `intel status-list import`.
#[derive(Args, Clone, Debug)]
pub struct ImportListArgs {
    /// The list
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// When it was fetched (RFC 3339) [default: when the file was last changed]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub fetched_at: Option<Timestamp>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn kind(name: &str) -> Result<RootKind, String> {
    name.parse()
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse()
}
