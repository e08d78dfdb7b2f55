//! Signing keys from outside the data file: where they are looked for, and what is wrong with one that does not fit.
//!
//! The file that `tokens.signing_key` names, else the systemd credential `signing-key`; the first that is there decides,
//! and a bad key in it is an error, never a reason to look further. Nothing here ever shows what a file holds.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::config::Config;
use crate::crypto::{KeyError, SigningKey, VerifyingKey};
use crate::domains::iam::OutsideKeys;
use crate::kernel::{Error, Result};

/// The name of the systemd credential that may hold the signing key.
pub const CREDENTIAL: &str = "signing-key";
/// The key of the configuration that names the signing key's file.
const SIGNING_KEY: &str = "tokens.signing_key";
/// The key of the configuration that names the next key's file.
const NEXT_KEY: &str = "tokens.next_key";
/// A PEM of a P-256 key has about 240 bytes; what is longer than this is some other file.
const PEM_BYTES_MAX: u64 = 4096;

/// Where the signing key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningPlace {
    /// In the data file, sealed: the appliance makes and rotates its own.
    DataFile,
    /// In the file that the configuration names.
    File(PathBuf),
    /// In the systemd credential.
    Credential(PathBuf),
}

impl SigningPlace {
    /// What the configuration and the environment say; the file itself is not looked into.
    pub fn find(config: &Config, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        if let Some(path) = &config.tokens.signing_key {
            return Self::File(path.clone());
        }
        let credential = variable("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(CREDENTIAL));
        // One that is there and cannot be read must be noticed, not passed over.
        match credential.filter(|path| path.symlink_metadata().is_ok()) {
            Some(path) => Self::Credential(path),
            None => Self::DataFile,
        }
    }
}

/// Reads the keys that live outside the data file; `None` when the appliance is to use its own.
///
/// # Errors
/// A sentence that names the setting and the file: missing, unreadable, open to everybody, not a key, or a next key
/// without one that signs now.
pub fn outside_keys(config: &Config, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<OutsideKeys>> {
    let (setting, path, private_file) = match SigningPlace::find(config, variable) {
        SigningPlace::File(path) => (SIGNING_KEY, path, true),
        // systemd closes the folder of credentials to others as a whole.
        SigningPlace::Credential(path) => ("the systemd credential signing-key", path, false),
        SigningPlace::DataFile => {
            return match &config.tokens.next_key {
                None => Ok(None),
                Some(path) => Err(Error::Internal(format!(
                    "{NEXT_KEY} names {} but there is no signing key from outside: set {SIGNING_KEY} (or the systemd \
                     credential {CREDENTIAL}), or remove {NEXT_KEY}",
                    path.display()
                ))),
            };
        }
    };
    let (pem, mode) = read(setting, &path)?;
    let signer = SigningKey::from_pkcs8_pem(&pem).map_err(|e| unfit(setting, &path, e))?;
    if private_file {
        check_private(setting, &path, mode)?;
    }
    let next = config.tokens.next_key.as_deref().map(next_key).transpose()?;
    Ok(Some(OutsideKeys { signer: Arc::new(signer), next }))
}

/// The public half is enough, so that the private one can stay elsewhere until it signs.
fn next_key(path: &Path) -> Result<VerifyingKey> {
    let (pem, mode) = read(NEXT_KEY, path)?;
    if let Ok(key) = VerifyingKey::from_spki_pem(&pem) {
        return Ok(key);
    }
    let Ok(key) = SigningKey::from_pkcs8_pem(&pem) else {
        return Err(Error::Internal(format!(
            "{NEXT_KEY}: {} is neither an SPKI PEM of a P-256 public key nor a PKCS#8 PEM of a P-256 private key; `openssl \
             pkey -in KEY -pubout` writes the public half",
            path.display()
        )));
    };
    check_private(NEXT_KEY, path, mode)?;
    Ok(key.verifying().clone())
}

fn read(setting: &str, path: &Path) -> Result<(Zeroizing<String>, u32)> {
    let cannot = |e: std::io::Error| Error::Internal(format!("{setting}: {} could not be read: {e}", path.display()));
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mode = file.metadata().map_err(cannot)?.mode();
    let mut pem = Zeroizing::new(String::with_capacity(usize::try_from(PEM_BYTES_MAX).unwrap_or(0) + 1));
    file.take(PEM_BYTES_MAX + 1).read_to_string(&mut pem).map_err(cannot)?;
    Ok((pem, mode))
}

fn unfit(setting: &str, path: &Path, error: KeyError) -> Error {
    let how = "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes one";
    Error::Internal(format!("{setting}: {} does not fit: {error}; {how}", path.display()))
}

fn check_private(setting: &str, path: &Path, mode: u32) -> Result<()> {
    if mode & 0o007 == 0 {
        return Ok(());
    }
    let shown = path.display();
    Err(Error::Internal(format!(
        "{setting}: {shown} holds a private key that every user of this machine may use (mode {:o}); run `chmod 600 {shown}`, \
         or 640 where a group needs it",
        mode & 0o777
    )))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::kernel::{Random, files};

    struct Desk {
        folder: tempfile::TempDir,
        config: Config,
    }

    impl Desk {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), config: Config::default() }
        }
        fn file(&self, name: &str, content: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            files::restrict(&path, 0o600).unwrap();
            path
        }
        fn read(&self) -> Result<Option<OutsideKeys>> {
            outside_keys(&self.config, &|_| None)
        }
    }

    fn key(seed: u64) -> SigningKey {
        SigningKey::generate(&Random::seeded(seed))
    }

    #[test]
    fn the_file_comes_before_the_credential_and_that_before_the_data_file() {
        let mut desk = Desk::new();
        assert!(desk.read().unwrap().is_none());
        let folder = desk.folder.path().display().to_string();
        let credentials = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| folder.clone());
        assert!(outside_keys(&desk.config, &credentials).unwrap().is_none(), "a folder without that credential");
        desk.file(CREDENTIAL, &key(1).to_pkcs8_pem().unwrap());
        let kid = |config: &Config| outside_keys(config, &credentials).unwrap().unwrap().signer.kid().to_owned();
        assert_eq!(kid(&desk.config), key(1).kid());
        desk.config.tokens.signing_key = Some(desk.file("signing.pem", &key(2).to_pkcs8_pem().unwrap()));
        assert_eq!(kid(&desk.config), key(2).kid());
    }

    #[test]
    fn the_next_key_may_be_its_public_half_alone() {
        let mut desk = Desk::new();
        desk.config.tokens.signing_key = Some(desk.file("signing.pem", &key(1).to_pkcs8_pem().unwrap()));
        for pem in [key(2).verifying().to_spki_pem().unwrap(), key(2).to_pkcs8_pem().unwrap().to_string()] {
            desk.config.tokens.next_key = Some(desk.file("next.pem", &pem));
            assert_eq!(desk.read().unwrap().unwrap().next.unwrap().thumbprint(), key(2).kid());
        }
    }

    /// Whoever reads the message must know which setting and which file, and must not learn the key.
    #[test]
    fn what_does_not_fit_is_named_by_its_setting_and_its_file() {
        let private = key(1).to_pkcs8_pem().unwrap();
        let public = key(1).verifying().to_spki_pem().unwrap();
        let long = "A".repeat(9_000);
        for (what, signing, next, setting) in [
            ("a public key cannot sign", Some(public.as_str()), None, SIGNING_KEY),
            ("no key", Some("hello"), None, SIGNING_KEY),
            ("empty", Some(""), None, SIGNING_KEY),
            ("some other file", Some(long.as_str()), None, SIGNING_KEY),
            ("next is no key", Some(private.as_str()), Some("hello"), NEXT_KEY),
            ("next alone", None, Some(public.as_str()), NEXT_KEY),
        ] {
            let mut desk = Desk::new();
            desk.config.tokens.signing_key = signing.map(|s| desk.file("signing.pem", s));
            desk.config.tokens.next_key = next.map(|n| desk.file("next.pem", n));
            let message = desk.read().unwrap_err().to_string();
            let file = if setting == SIGNING_KEY { "signing.pem" } else { "next.pem" };
            assert!(message.contains(setting) && message.contains(file), "{what}: {message}");
            assert!(!message.contains("AAAA") && !message.contains("hello"), "{what}: {message}");
        }
        let mut desk = Desk::new();
        desk.config.tokens.signing_key = Some(desk.folder.path().join("missing.pem"));
        let message = desk.read().unwrap_err().to_string();
        assert!(message.contains(SIGNING_KEY) && message.contains("missing.pem"), "{message}");
        let path = desk.file("open.pem", &private);
        files::restrict(&path, 0o644).unwrap();
        desk.config.tokens.signing_key = Some(path.clone());
        let message = desk.read().unwrap_err().to_string();
        assert!(message.contains("chmod 600") && message.contains("644"), "{message}");
        files::restrict(&path, 0o640).unwrap();
        assert!(desk.read().is_ok(), "a group may be meant");
    }
}
