//! What the appliance demands of evidence where a case does not say it itself: one section for each format, from a TOML
//! file.
//!
//! A key that is not known is refused by its name: a rule that somebody misspelt must not be a rule that nobody applies.
//! Knows nothing of files; it is handed their text.

use serde::Deserialize;

use super::android::AndroidPolicy;
use super::apple::ApplePolicy;
use super::play::PlayPolicy;
use super::tpm::TpmPolicy;
use super::webauthn::WebauthnPolicy;

mod reference;

/// Bytes of a policy file.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

/// The whole policy. Every key has a default; [`reference`] tells them all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Android Key Attestation.
    pub android: AndroidPolicy,
    /// Apple App Attest.
    pub apple: ApplePolicy,
    /// Google Play Integrity.
    pub play: PlayPolicy,
    /// TPM 2.0.
    pub tpm: TpmPolicy,
    /// WebAuthn.
    pub webauthn: WebauthnPolicy,
}

/// Why a text is no policy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyError {
    /// Longer than [`FILE_BYTES_MAX`].
    #[error("the policy is longer than 1 MiB")]
    TooLong,
    /// Not TOML, an unknown key, or a value of another type; names the line and the key.
    #[error("the policy cannot be read: {0}")]
    Toml(String),
}

impl Policy {
    /// Reads a policy file's text; what it does not say keeps its default.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(PolicyError::TooLong);
        }
        toml::from_str(text).map_err(|e| PolicyError::Toml(e.to_string()))
    }
}

/// The default policy as a file: every key with its default and its meaning.
pub fn reference() -> String {
    reference::SECTIONS.iter().fold(reference::HEAD.to_owned(), |file, section| file + "\n" + section)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// The names that a table of the policy takes, in the words of the reader that refuses another one.
    fn known(table: &str) -> Vec<String> {
        let error = Policy::from_toml(&format!("{table}\nno_such_name = 1\n")).unwrap_err().to_string();
        let (_, names) = error.split_once("expected ").unwrap();
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// A page that leaves out a key or tells another default misleads whoever trusts it. A key whose default is to be
    /// absent stands there behind a `# `.
    #[test]
    fn the_reference_tells_every_key_with_the_default_that_counts() {
        assert_eq!(Policy::from_toml(&reference()).unwrap(), Policy::default());
        let sections = known("");
        assert!(sections.contains(&"play".to_owned()), "{sections:?}");
        for section in sections {
            let text = reference();
            let (_, told) = text.split_once(&format!("\n[{section}]\n")).unwrap();
            let told = told.split_once("\n[").map_or(told, |(section, _)| section);
            for key in known(&format!("[{section}]")) {
                let stands = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
                assert_eq!(told.lines().filter(|line| stands(line)).count(), 1, "{section}.{key}");
            }
        }
        assert!(reference().lines().all(|line| line.len() <= 120));
    }

    #[test]
    fn what_a_file_does_not_say_keeps_its_default() {
        assert_eq!(Policy::from_toml("").unwrap(), Policy::default());
        let policy = Policy::from_toml("[play]\nmin_version = 7\nrequire_device = []\n").unwrap();
        assert_eq!(policy.play, PlayPolicy { min_version: 7, require_device: Vec::new(), ..PlayPolicy::default() });
    }

    #[test]
    fn an_unknown_key_or_a_wrong_type_is_refused_by_its_name() {
        for (text, named) in [
            ("[play]\nmin_versoin = 1", "min_versoin"),
            ("[playy]\nmin_version = 1", "playy"),
            ("[play]\nmin_version = \"1\"", "min_version"),
            ("[play]\nmin_version = -1", "min_version"),
            ("[play\n", "line 1"),
        ] {
            let error = Policy::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        let long = "#".repeat(FILE_BYTES_MAX + 1);
        assert_eq!(Policy::from_toml(&long), Err(PolicyError::TooLong));
    }
}
