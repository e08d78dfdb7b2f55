//! What can be typed after `blockremote attest`. Names, defaults and help; does nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::attest::cases::Kind;
use crate::kernel::Timestamp;

const VERIFY_HELP: &str = "\
FILE is one JSON object with the members of the type, or PEM for android-key, or
a raw log for tpm-eventlog; 16 MiB at most. `-` reads standard input.

  apple-attestation      app_id, client_data_hash_hex, key_id_b64,
                         attestation_object_b64, environment
  apple-assertion        app_id, public_key_spki_b64, client_data_b64,
                         previous_counter, assertion_b64
  apple-receipt          app_id, receipt_b64, environment, public_key_spki_b64
  android-key            chain_pem (leaf first), challenge_b64, package,
                         signature_digest, status_list, status_list_date, roots
  play-integrity         token, decryption_key_b64, verification_key_spki_b64,
                         config; seen: true for a token that came before
  tpm-quote              an entry of a quote file
  tpm-eventlog           event_log_b64
  webauthn-registration  an entry of a registration file
  webauthn-assertion     an entry of an authentication file
  jwt                    token, jwks, config
  jws                    jwk, token (ES256 only)

Judged at --now; without it at the time that the case states (config.now of a
JWT, config.now_millis of a Play token, else verify_at); else now. Nothing is
asked of the Internet and nothing is remembered: whether a nonce or a token came
before is for the appliance to know.

Exit codes: 0 accepted, 3 refused, which includes what is in no form of its
type; 2 the file or the policy cannot be opened or read, or an option is wrong.

Examples:
  blockremote attest verify --type play-integrity --file case.json
  blockremote attest verify --type android-key --file chain.pem --policy policy.toml --json
  blockremote attest verify --type jwt --file - --now 2026-01-31T09:30:00Z";

const POLICY_HELP: &str = "\
Every key stands there with its default and its meaning. Keep what you change.

Example:
  blockremote attest policy";

/// `attest`.
#[derive(Subcommand, Clone, Debug)]
pub enum AttestCommand {
    /// Judge one piece of evidence by hand, as the appliance does
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// Print the default policy with all its keys
    #[command(after_help = POLICY_HELP)]
    Policy,
}

/// `attest verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// What kind of evidence it is; the list is below
    #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
    pub kind: Kind,
    /// The evidence
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Policy file (TOML) [default: as `blockremote attest policy` prints it]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Judge as if it were this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub now: Option<Timestamp>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn kind(name: &str) -> Result<Kind, String> {
    name.parse()
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse()
}
