//! `attest`: judges one piece of evidence by hand, with the verifiers that the appliance uses.
//!
//! Reads files, states the time, prints the verdict; the rules are not here.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value, json};

use super::args::attest::{AttestCommand, VerifyArgs};
use super::args::exit;
use super::output::{self, Cell, Paint, Style};
use super::{Failure, Outcome};
use crate::attest::cases::{self, Kind};
use crate::attest::policy::{self, Policy};
use crate::attest::{Claims, Refused};
use crate::crypto::strict_json;
use crate::kernel::{Clock, Timestamp};

/// Bytes of a file of evidence.
const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;

pub(super) fn run(command: &AttestCommand) -> Outcome {
    match command {
        AttestCommand::Verify(args) => verify(args),
        AttestCommand::Policy => {
            output::to_stdout(&policy::reference())?;
            Ok(exit::DONE)
        }
    }
}

fn verify(args: &VerifyArgs) -> Outcome {
    let policy = match &args.policy {
        None => Policy::default(),
        Some(path) => read_policy(path)?,
    };
    let clock = || Clock::System.now();
    let (now, verdict) = match read(&args.file, FILE_BYTES_MAX)?.and_then(|bytes| case_of(args.kind, &bytes)) {
        Err(refused) => (args.now.unwrap_or_else(clock), Err(refused)),
        Ok(input) => {
            let stated = cases::case_time(args.kind, &input);
            let now = args.now.or_else(|| stated.clone().ok().flatten()).unwrap_or_else(clock);
            (now, stated.and_then(|_| cases::judge(args.kind, &input, &policy, now)))
        }
    };
    let shown = if args.json { as_json(&verdict) } else { in_words(args.kind, now, &verdict) };
    output::to_stdout(&shown)?;
    Ok(if verdict.is_ok() { exit::DONE } else { exit::REFUSED })
}

fn usage(path: &Path, problem: &str) -> Failure {
    Failure::Usage(format!("{}: {problem}", path.display()))
}

/// A whole file, or standard input for `-`; refused when it is longer than `bytes_max`.
///
/// # Errors
/// A file that cannot be opened or read, which says nothing of the evidence.
fn read(path: &Path, bytes_max: usize) -> Result<Result<Vec<u8>, Refused>, Failure> {
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let done = if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    done.map_err(|e| usage(path, &format!("cannot be read: {e}")))?;
    if bytes.len() > bytes_max {
        return Ok(Err(Refused::new(
            "too_long",
            format!("the file is longer than {bytes_max} bytes, which is the limit"),
        )));
    }
    Ok(Ok(bytes))
}

fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let bytes = read(path, policy::FILE_BYTES_MAX)?.map_err(|refused| usage(path, &refused.detail))?;
    let text = String::from_utf8(bytes).map_err(|_| usage(path, "is not UTF-8 text"))?;
    let hint = "`blockremote attest policy` prints every key";
    Policy::from_toml(&text).map_err(|e| usage(path, &format!("{}\n{hint}", e.to_string().trim_end())))
}

/// The case that a file holds. Two formats have a form of their own beside JSON: PEM, and the raw log of a boot. What a
/// file holds came from a device, so what is in no form at all is refused like other bad evidence.
fn case_of(kind: Kind, bytes: &[u8]) -> Result<Map<String, Value>, Refused> {
    let malformed = |what: String| Refused::new("malformed_input", what);
    let start = bytes.trim_ascii_start();
    let wrapped = |name: &str, text: String| Map::from_iter([(name.to_owned(), Value::String(text))]);
    if kind == Kind::AndroidKey && !start.starts_with(b"{") && contains(start, b"-----BEGIN CERTIFICATE-----") {
        let pem = std::str::from_utf8(bytes).map_err(|_| malformed("the file is not a PEM text".to_owned()))?;
        return Ok(wrapped("chain_pem", pem.to_owned()));
    }
    // A log begins with the number of a PCR, which is no character.
    if kind == Kind::TpmEventlog && !start.is_empty() && !start.starts_with(b"{") {
        return Ok(wrapped("event_log_b64", Base64::encode_string(bytes)));
    }
    strict_json::parse_object(bytes)
        .map_err(|e| malformed(format!("the file {e}; see `blockremote attest verify --help` for what it must hold")))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn as_json(verdict: &Result<Claims, Refused>) -> String {
    output::json(&match verdict {
        Ok(claims) => json!({ "result": "accept", "reason": null, "claims": claims }),
        Err(refused) => {
            json!({ "result": "refuse", "reason": refused.reason, "detail": refused.detail, "claims": {} })
        }
    })
}

fn in_words(kind: Kind, now: Timestamp, verdict: &Result<Claims, Refused>) -> String {
    let style = Style::stdout();
    match verdict {
        Ok(claims) => {
            let rows = claims.iter().map(|(name, value)| {
                let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                vec![Cell::from(name.as_str()), Cell::from(shown)]
            });
            let head = format!("{} {kind}, judged at {now}\n", style.paint(Paint::Good, "ACCEPTED"));
            head + &output::table(style, &["claim", "value"], rows.collect())
        }
        Err(refused) => format!(
            "{} {kind}, judged at {now}\n{}: {}\n",
            style.paint(Paint::Bad, "REFUSED"),
            refused.reason,
            output::clean(&refused.detail)
        ),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn a_file_is_json_or_what_its_type_is_at_home() {
        let case = |kind, bytes: &[u8]| case_of(kind, bytes).ok();
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        assert_eq!(case(Kind::AndroidKey, pem.as_bytes()).unwrap()["chain_pem"], pem);
        let commented = format!("leaf:\n{pem}");
        assert_eq!(case(Kind::AndroidKey, commented.as_bytes()).unwrap()["chain_pem"], *commented);
        assert_eq!(case(Kind::AndroidKey, br#" {"chain_pem":"x"}"#).unwrap()["chain_pem"], "x");
        assert_eq!(case(Kind::TpmEventlog, &[0, 0, 0, 0, 8]).unwrap()["event_log_b64"], "AAAAAAg=");
        assert_eq!(case(Kind::TpmEventlog, br#"{"event_log_b64":"AA=="}"#).unwrap()["event_log_b64"], "AA==");
        for (kind, bytes) in [
            (Kind::Jwt, pem.as_bytes()),
            (Kind::AndroidKey, b"AAAA"),
            (Kind::Jwt, b""),
            (Kind::TpmEventlog, b""),
            (Kind::Jws, b"[]"),
            (Kind::Jws, br#"{"jwk":1,"jwk":1}"#),
            (Kind::Jws, br#"{"jwk":1} x"#),
            (Kind::AndroidKey, b"-----BEGIN CERTIFICATE-----\xff"),
        ] {
            assert!(case(kind, bytes).is_none(), "{kind} {bytes:?}");
        }
    }

    #[test]
    fn words_from_evidence_cannot_steer_the_terminal() {
        let refused = Err(Refused::new("claim", "\u{1b}[2Jgone"));
        assert!(!in_words(Kind::Jwt, Timestamp::EPOCH, &refused).contains('\u{1b}'));
        let accepted = Ok(Claims::from_iter([("sub".to_owned(), json!("\u{1b}[2Jgone"))]));
        assert!(!in_words(Kind::Jwt, Timestamp::EPOCH, &accepted).contains('\u{1b}'));
    }
}
