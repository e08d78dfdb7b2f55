//! Files that only the holder of a private key can open: age-encryption.org/v1 with X25519 keys, streamed.
//!
//! Knows nothing of what is encrypted. Private keys are only ever read, for opening; what a machine encrypts to, it cannot
//! open itself.

use std::io::{self, Read, Write};
use std::path::Path;

use age::x25519::{Identity, Recipient};
use zeroize::Zeroizing;

/// What every such file begins with.
pub const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// Of a file of private keys.
const IDENTITY_BYTES_MAX: u64 = 16 * 1024;

/// Why something could not be encrypted or opened. Holds no key.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Not a public key.
    #[error("{0} is no public key of age (they begin with age1)")]
    BadRecipient(String),
    /// The file of private keys cannot be read, or holds none.
    #[error("{0} holds no private key of age (a line that begins with AGE-SECRET-KEY-1)")]
    NoIdentity(String),
    /// Encrypted to other keys.
    #[error("it is encrypted to other keys than this one")]
    OtherKey,
    /// Cut, changed, or nothing of the kind.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The medium failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Public keys that something is encrypted to.
#[derive(Clone)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Reads public keys.
    ///
    /// # Errors
    /// [`VaultError::BadRecipient`].
    pub fn parse(keys: &[String]) -> Result<Self, VaultError> {
        let parse = |key: &String| key.parse().map_err(|_| VaultError::BadRecipient(key.clone()));
        Ok(Self(keys.iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same and one more.
    #[must_use]
    pub fn and(&self, key: &PrivateKey) -> Self {
        let more = key.0.iter().map(Identity::to_public);
        Self(self.0.iter().cloned().chain(more).collect())
    }

    /// Encrypts what is written, until `finish`, which must not be forgotten.
    ///
    /// # Errors
    /// [`VaultError::Io`].
    pub fn encrypt<W: Write>(&self, out: W) -> Result<age::stream::StreamWriter<W>, VaultError> {
        let all = self.0.iter().map(|r| r as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(all).map_err(|e| VaultError::Damaged(e.to_string()))?;
        Ok(encryptor.wrap_output(out)?)
    }
}

/// Private keys, of which one opens. Wiped when dropped.
pub struct PrivateKey(Vec<Identity>);

impl PrivateKey {
    /// A fresh key.
    pub fn generate() -> Self {
        Self(vec![Identity::generate()])
    }

    /// Reads a file as age-keygen writes it: comments, and a key a line.
    ///
    /// # Errors
    /// [`VaultError::NoIdentity`], [`VaultError::Io`].
    pub fn read(file: &Path) -> Result<Self, VaultError> {
        let mut text = Zeroizing::new(String::new());
        std::fs::File::open(file)?.take(IDENTITY_BYTES_MAX).read_to_string(&mut text)?;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let keys: Option<Vec<Identity>> = lines.map(|line| line.parse().ok()).collect();
        let keys = keys.filter(|keys| !keys.is_empty());
        keys.map(Self).ok_or_else(|| VaultError::NoIdentity(file.display().to_string()))
    }

    /// The public half of the first one.
    pub fn public(&self) -> String {
        self.0.first().map(|key| key.to_public().to_string()).unwrap_or_default()
    }

    /// The private half of the first one, for the file in which somebody keeps it.
    pub fn expose(&self) -> Zeroizing<String> {
        use age::secrecy::ExposeSecret;
        Zeroizing::new(self.0.first().map(|key| key.to_string().expose_secret().to_owned()).unwrap_or_default())
    }

    /// Opens what was encrypted to one of these keys. What is read is genuine; a cut shows at its end as an error.
    ///
    /// # Errors
    /// [`VaultError::OtherKey`], [`VaultError::Damaged`].
    pub fn open<R: Read>(&self, from: R) -> Result<age::stream::StreamReader<R>, VaultError> {
        let header = age::Decryptor::new(from).map_err(|e| VaultError::Damaged(e.to_string()))?;
        header.decrypt(self.0.iter().map(|i| i as &dyn age::Identity)).map_err(|e| match e {
            age::DecryptError::NoMatchingKeys => VaultError::OtherKey,
            other => VaultError::Damaged(other.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn sealed(keys: &Recipients, text: &[u8]) -> Vec<u8> {
        let mut writer = keys.encrypt(Vec::new()).unwrap();
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    }

    fn opened(key: &PrivateKey, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        key.open(bytes).ok()?.read_to_end(&mut out).ok()?;
        Some(out)
    }

    #[test]
    fn each_recipient_opens_it_alone_and_nobody_else() {
        let (one, two, other) = (PrivateKey::generate(), PrivateKey::generate(), PrivateKey::generate());
        let keys = Recipients::parse(&[one.public()]).unwrap().and(&two);
        let bytes = sealed(&keys, b"the data file");
        assert!(bytes.starts_with(MAGIC));
        assert_eq!(opened(&one, &bytes).unwrap(), b"the data file");
        assert_eq!(opened(&two, &bytes).unwrap(), b"the data file");
        assert!(matches!(other.open(bytes.as_slice()), Err(VaultError::OtherKey)));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let key = PrivateKey::generate();
        let bytes = sealed(&Recipients::parse(&[key.public()]).unwrap(), &[7; 100]);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(opened(&key, &changed), None, "byte {at}");
            assert_eq!(opened(&key, &bytes[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn a_file_of_keys_is_read_with_its_comments_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (folder.path().join("key.txt"), PrivateKey::generate());
        std::fs::write(&file, format!("# created\n\n{}\n", key.expose().as_str())).unwrap();
        assert_eq!(PrivateKey::read(&file).unwrap().public(), key.public());
        for bad in ["", "# nothing\n", "age1abc\n", &format!("{}\nnonsense\n", key.expose().as_str())] {
            std::fs::write(&file, bad).unwrap();
            let Err(e) = PrivateKey::read(&file) else { unreachable!("{bad}") };
            assert!(!e.to_string().contains("AGE-SECRET-KEY-1Q"), "{e}");
        }
        assert!(Recipients::parse(&["age1nonsense".to_owned()]).is_err());
    }
}
