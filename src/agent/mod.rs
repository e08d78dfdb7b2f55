//! The reference agent: devices that behave as the contract wants it, in one process, some of them taken over.
//!
//! It shows that the appliance works (a taken-over device is locked, no other is), and it is an example of a client for
//! whoever writes one. It speaks through [`crate::client`] only and stores nothing; of the server it knows no more than
//! any device does. The only thing it shares with the server is the type of a reading.

mod device;
mod enrollment;
mod fleet;
mod link;
pub mod motion;
#[cfg(test)]
mod play_tests;
mod proof;
mod sensors;
mod summary;
mod table;
pub mod tpm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::{ClientError, Problem};
use motion::{AttackKind, ReplayError};

pub use fleet::play;
pub use summary::{LockTimes, Row, State, Summary};

/// The environment variable that may hold the enrollment token.
pub const TOKEN_VARIABLE: &str = "BLOCKREMOTE_ENROLLMENT_TOKEN";
/// Characters of an enrollment token.
const TOKEN_LEN_MAX: usize = 512;

/// What to play.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the appliance is: `https://host[:port]`.
    pub url: String,
    /// PEM file of the authority that signed its certificate.
    pub ca: PathBuf,
    /// SHA-256 of that authority in hex, where it is to be checked.
    pub ca_fingerprint: Option<String>,
    /// See [`enrollment_token`].
    pub enrollment_token: String,
    /// Devices.
    pub devices: usize,
    /// Of these, devices that are taken over.
    pub taken_over: usize,
    /// From a device's first accepted heartbeat to its takeover.
    pub takeover_after: Duration,
    /// How devices are taken over, in turn.
    pub attacks: Vec<AttackKind>,
    /// A CSV file whose readings are sent in place of made ones.
    pub replay: Option<PathBuf>,
    /// Between two heartbeats, unless the appliance asks for fewer.
    pub heartbeat_interval: Duration,
    /// When to stop; `None` stops `settle` after the last taken-over device was locked.
    pub stop_after: Option<Duration>,
    /// How long to go on after the last lock, so that a lock of an innocent device is still seen.
    pub settle: Duration,
    /// The same seed plays the same people and attacks.
    pub seed: u64,
    /// What device ids begin with, at most 40 characters.
    pub prefix: String,
    /// How heartbeats travel.
    pub transport: Transport,
    /// The machine's TPM, for one device.
    pub tpm: Option<tpm::Place>,
    /// What is shown.
    pub output: Output,
}

impl Options {
    /// One device at `url` that sends 50 readings a second in one heartbeat each second, and is not taken over.
    pub fn new(url: impl Into<String>, ca: impl Into<PathBuf>, enrollment_token: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca: ca.into(),
            ca_fingerprint: None,
            enrollment_token: enrollment_token.into(),
            devices: 1,
            taken_over: 0,
            takeover_after: Duration::from_secs(5),
            attacks: vec![AttackKind::Still, AttackKind::Emulator, AttackKind::Overlay],
            replay: None,
            heartbeat_interval: Duration::from_secs(1),
            stop_after: None,
            settle: Duration::from_secs(3),
            seed: 1,
            prefix: "agent".to_owned(),
            transport: Transport::Socket,
            tpm: None,
            output: Output::Table,
        }
    }
}

/// How heartbeats travel. The kill-switch socket is open either way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Over the kill-switch socket.
    Socket,
    /// As requests.
    Http,
}

/// What is shown while it plays and at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// A live table on a terminal, otherwise a line of progress every few seconds; a table at the end.
    Table,
    /// Lines of progress on standard error; a table at the end.
    Lines,
    /// As `Table` but on standard error, and one JSON object on standard output at the end.
    Json,
    /// Nothing: the caller has the [`Summary`].
    Nothing,
}

/// Why nothing could be played. The text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The appliance does not answer there.
    #[error(
        "Nothing answers at {authority}: {cause}.\nStart the appliance with `blockremote serve`, or name its address with --url."
    )]
    NotRunning {
        /// Host and port.
        authority: String,
        /// Why.
        cause: String,
    },
    /// The authority's file is missing or unusable.
    #[error(
        "The certificate authority {path} cannot be used: {cause}.\nThe appliance writes it as ca.pem into its certificate folder at its first start; copy it from there and name it with --ca."
    )]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The one who answers has another certificate.
    #[error(
        "{authority} answers, but does not prove to be the appliance: {cause}.\nIf the appliance was set up anew, fetch its ca.pem again; if it has other names, use with --url one that its certificate has."
    )]
    Untrusted {
        /// Host and port.
        authority: String,
        /// Why.
        cause: String,
    },
    /// No token at all.
    #[error(
        "An enrollment token is needed. The appliance shows one at its first start (`blockremote init`); `blockremote admin token enroll` makes another.\nGive it with --token-file FILE, in {TOKEN_VARIABLE}, or with --token."
    )]
    NoToken,
    /// The token's text cannot be one.
    #[error("The enrollment token {0}.\nTake the whole token as it was shown, on one line.")]
    BadToken(String),
    /// The appliance refused to enroll a device.
    #[error(
        "The appliance refused to enroll {device_id}: {problem}\nIf the token has expired or is used up, `blockremote admin token enroll` makes another."
    )]
    EnrollmentRefused {
        /// The first device that was refused.
        device_id: String,
        /// In the appliance's words.
        problem: Problem,
    },
    /// The recording cannot be played.
    #[error("{path}: {cause}")]
    Recording {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: ReplayError,
    },
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// Anything else on the way.
    #[error("The appliance cannot be used: {0}")]
    Client(ClientError),
}

impl From<ClientError> for AgentError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable { authority, cause } => Self::NotRunning { authority, cause },
            ClientError::Untrusted { authority, cause } => Self::Untrusted { authority, cause },
            ClientError::BadCa { path, cause } => Self::Authority { path, cause },
            ClientError::BadUrl(_) => Self::Options(format!("--url: {error}")),
            other => Self::Client(other),
        }
    }
}

/// The enrollment token: given directly, or the content of `file`, or that of [`TOKEN_VARIABLE`], in this order.
///
/// # Errors
/// [`AgentError::NoToken`] when there is none, [`AgentError::BadToken`] when the file cannot be read or the text cannot be
/// a token.
pub fn enrollment_token(
    given: Option<&str>,
    file: Option<&Path>,
    variable: Option<&str>,
) -> Result<String, AgentError> {
    let text = match (given, file, variable) {
        (Some(token), _, _) => token.to_owned(),
        (None, Some(path), _) => {
            use std::io::Read;
            let mut text = String::new();
            let opened = std::fs::File::open(path);
            opened
                .and_then(|f| f.take(4096).read_to_string(&mut text))
                .map_err(|e| AgentError::BadToken(format!("cannot be read from {}: {e}", path.display())))?;
            text
        }
        (None, None, Some(token)) => token.to_owned(),
        (None, None, None) => return Err(AgentError::NoToken),
    };
    let token = text.trim();
    if token.is_empty() {
        return Err(AgentError::NoToken);
    }
    if token.len() > TOKEN_LEN_MAX || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(AgentError::BadToken("has characters that no token has, or too many".to_owned()));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_token_comes_from_the_first_place_that_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "bre_file\n").unwrap();
        for (given, file, variable, expected) in [
            (Some("bre_given"), Some(&*file), Some("bre_variable"), "bre_given"),
            (None, Some(&*file), Some("bre_variable"), "bre_file"),
            (None, None, Some(" bre_variable "), "bre_variable"),
        ] {
            assert_eq!(enrollment_token(given, file, variable).unwrap(), expected);
        }
    }

    #[test]
    fn whoever_has_no_token_is_told_where_to_find_one() {
        for nothing in [None, Some(""), Some(" \n")] {
            let message = enrollment_token(nothing, None, None).unwrap_err().to_string();
            for hint in ["--token-file", TOKEN_VARIABLE, "first start", "admin token enroll"] {
                assert!(message.contains(hint), "{hint}: {message}");
            }
        }
        let long = "x".repeat(TOKEN_LEN_MAX + 1);
        for bad in ["two words", "t\u{1b}[2J", "ü", &long] {
            assert!(matches!(enrollment_token(Some(bad), None, None), Err(AgentError::BadToken(_))), "{bad:?}");
        }
        let missing = enrollment_token(None, Some(Path::new("/nowhere/token")), None).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/token"));
    }

    #[test]
    fn every_failure_says_what_to_do_next() {
        let authority = "localhost:8443".to_owned();
        let cause = || "x".to_owned();
        for (error, hint) in [
            (ClientError::Unreachable { authority: authority.clone(), cause: cause() }, "blockremote serve"),
            (ClientError::Untrusted { authority, cause: cause() }, "ca.pem"),
            (ClientError::BadCa { path: "certs/ca.pem".into(), cause: cause() }, "--ca"),
            (ClientError::BadUrl("x".to_owned()), "--url"),
        ] {
            let message = AgentError::from(error).to_string();
            assert!(message.contains(hint), "{message}");
        }
    }
}
