//! The arguments of `admin cert` and `admin log-level`.

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};

/// `admin log-level`.
#[derive(Args, Clone, Debug)]
pub struct LogLevelArgs {
    /// The least important messages that are logged from now on
    #[arg(value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub level: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `admin cert`.
#[derive(Subcommand, Clone, Debug)]
pub enum CertCommand {
    /// Issue a certificate for a device, with a key of its own or for a request (CSR)
    #[command(after_help = "Example:\n  blockremote admin cert issue --device BR-1 --csr br-1.csr")]
    Issue(CertIssueArgs),
    /// Show certificates: serial number, state, device, end
    #[command(after_help = "Example:\n  blockremote admin cert list --device BR-1 --json")]
    List(CertListArgs),
    /// Take a certificate back: it counts no more from this moment on
    #[command(after_help = "Example:\n  blockremote admin cert revoke 5a3c9d0e4b7f42118c6d2e9f0a1b3c4d --reason lost")]
    Revoke(CertRevokeArgs),
}

/// `admin cert issue`.
#[derive(Args, Clone, Debug)]
pub struct CertIssueArgs {
    /// The device, as it enrolled
    #[arg(long, value_name = "ID")]
    pub device: String,
    /// Whose device [default: the first tenant]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// A request by the device (PKCS 10, PEM); without one a key is made
    #[arg(long, value_name = "FILE")]
    pub csr: Option<PathBuf>,
    /// Days until it ends, where a key is made [default: grpc.certificate_days]
    #[arg(long, value_name = "N", conflicts_with = "csr", value_parser = value_parser!(u32).range(1..=397))]
    pub days: Option<u32>,
    /// Folder for certificate, key and the authority's certificate
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `admin cert list`.
#[derive(Args, Clone, Debug)]
pub struct CertListArgs {
    /// Only of this device
    #[arg(long, value_name = "ID")]
    pub device: Option<String>,
    /// Only of this tenant
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `admin cert revoke`.
#[derive(Args, Clone, Debug)]
pub struct CertRevokeArgs {
    /// As `admin cert list` shows it
    #[arg(value_name = "SERIAL")]
    pub serial: String,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "by the operator")]
    pub reason: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
