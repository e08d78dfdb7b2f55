//! Sealing of secrets that must lie in the data file: XChaCha20-Poly1305 under one key that does not.
//!
//! A sealed value is `version (1) | key id (4) | nonce (24) | ciphertext and tag`. The head and the caller's context are
//! authenticated, so a value moved to another row does not open. The key id lets a wrong key be named as such instead of
//! looking like damage. From the one key come, by HKDF-Expand (RFC 5869, one block), the sealing key proper and a key for
//! any other purpose: the one that was loaded is used for nothing else.
//!
//! The key comes from the environment, from a systemd credential or from a file, in this order; the first place that has
//! one decides, and a bad key there is an error, never a reason to look further. Knows nothing of what is sealed.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Base64Unpadded, Base64Url, Base64UrlUnpadded, Encoding};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use zeroize::{Zeroize, Zeroizing};

use super::{hex, hmac_sha256, sha256};
use crate::kernel::{Random, files};

/// The environment variable that may hold the key.
pub const ENVIRONMENT: &str = "BLOCKREMOTE_SEALING_KEY";
/// The name of the systemd credential that may hold the key.
pub const CREDENTIAL: &str = "sealing-key";
/// What sealing adds to a plaintext.
pub const OVERHEAD_BYTES: usize = 1 + 4 + 24 + 16;

const VERSION: u8 = 1;
const HEAD_LEN: usize = 5;
const NONCE_LEN: usize = 24;
/// A key file holds one short line; anything longer is some other file.
const KEY_TEXT_MAX: u64 = 1024;

/// Why something did not open, or no key could be had.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Sealed by another key.
    #[error(
        "this was sealed with key {sealed_with}, and the present sealing key is {present}; \
         start again with the sealing key that belongs to this data file"
    )]
    WrongKey {
        /// Eight hex digits.
        sealed_with: String,
        /// Eight hex digits.
        present: String,
    },
    /// Changed, cut short, or sealed for another purpose.
    #[error("the sealed value is damaged or belongs elsewhere")]
    Damaged,
    /// Written by a newer version.
    #[error("the sealed value has the unknown version {0}; a newer version of the program wrote it")]
    Version(u8),
    /// The key's text is not 32 bytes in hex or base64.
    #[error("the sealing key in {place} is not 32 bytes in hex or base64 (for example from `openssl rand -base64 32`)")]
    BadKey {
        /// The variable or file.
        place: String,
    },
    /// Others could read the key.
    #[error("the sealing key {} may be read by others (mode {mode:o}); run `chmod 600` on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that cannot be read or written.
    #[error("the sealing key {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
}

/// Where a key was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// [`ENVIRONMENT`].
    Environment,
    /// The systemd credential.
    Credential(PathBuf),
    /// The file.
    File(PathBuf),
}

/// The one key outside the data file. Wiped when dropped; `Debug` shows its id only.
pub struct SealingKey {
    secret: Zeroizing<[u8; 32]>,
    sealing: Zeroizing<[u8; 32]>,
    id: [u8; 4],
}

impl SealingKey {
    /// The key of these bytes.
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        let secret = Zeroizing::new(secret);
        let [a, b, c, d, ..] = sha256(secret.as_slice());
        let sealing = Zeroizing::new(expand(&secret, "blockremote/seal/v1"));
        Self { secret, sealing, id: [a, b, c, d] }
    }

    /// A fresh key.
    pub fn generate(random: &Random) -> Self {
        Self::from_bytes(random.bytes())
    }

    /// Reads 64 hex digits or base64 (either alphabet, padded or not) of 32 bytes. `place` is for the message.
    ///
    /// # Errors
    /// [`SealError::BadKey`], which does not repeat the text.
    pub fn from_text(text: &str, place: &str) -> Result<Self, SealError> {
        let text = text.trim();
        let mut out = Zeroizing::new([0_u8; 32]);
        let fits = if text.len() == 64 {
            base16(text, &mut out)
        } else {
            let decoders = [Base64::decode, Base64Unpadded::decode, Base64Url::decode, Base64UrlUnpadded::decode];
            decoders.iter().any(|decode| decode(text, out.as_mut_slice()).is_ok_and(|bytes| bytes.len() == 32))
        };
        if fits { Ok(Self::from_bytes(*out)) } else { Err(SealError::BadKey { place: place.to_owned() }) }
    }

    /// Finds the key: environment, systemd credential, file. `None` when there is none in any of the three places.
    ///
    /// # Errors
    /// [`SealError::BadKey`], [`SealError::Exposed`], [`SealError::Io`].
    pub fn load(variable: &dyn Fn(&str) -> Option<String>, file: &Path) -> Result<Option<(Self, Found)>, SealError> {
        if let Some(text) = variable(ENVIRONMENT) {
            let text = Zeroizing::new(text);
            return Ok(Some((Self::from_text(&text, ENVIRONMENT)?, Found::Environment)));
        }
        if let Some(folder) = variable("CREDENTIALS_DIRECTORY") {
            let path = Path::new(&folder).join(CREDENTIAL);
            if let Some(content) = read_bounded(&path, false)? {
                return Ok(Some((Self::from_content(&content, &path)?, Found::Credential(path))));
            }
        }
        match read_bounded(file, true)? {
            Some(content) => Ok(Some((Self::from_content(&content, file)?, Found::File(file.to_owned())))),
            None => Ok(None),
        }
    }

    /// Makes a key and writes it to a new file of mode 0600, in a folder that is made with mode 0700 if it is missing.
    ///
    /// # Errors
    /// [`SealError::Io`], also when the file exists: a key is never replaced, because what it sealed would be lost.
    pub fn create_file(path: &Path, random: &Random) -> Result<Self, SealError> {
        let failed = |source| SealError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            files::create_private_dir(parent).map_err(failed)?;
        }
        let key = Self::generate(random);
        key.write_file(path)?;
        Ok(key)
    }

    /// Writes this key to a new file of mode 0600, as [`SealingKey::create_file`] does.
    ///
    /// # Errors
    /// [`SealError::Io`], also when the file exists.
    pub fn write_file(&self, path: &Path) -> Result<(), SealError> {
        let mut text = self.to_text();
        text.push('\n');
        files::write_private(path, text.as_bytes()).map_err(|source| SealError::Io { path: path.to_owned(), source })
    }

    /// The key itself, in base64: for where it is encrypted at once.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(self.secret.as_slice()))
    }

    /// The first 4 bytes of SHA-256 of the key: names it, says nothing about it.
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// Seals `plaintext` for `context`, which names the place it belongs to (such as the table and row) and must be the
    /// same when it is opened.
    pub fn seal(&self, context: &[u8], plaintext: &[u8], random: &Random) -> Vec<u8> {
        let [a, b, c, d] = self.id;
        let head = [VERSION, a, b, c, d];
        let nonce = random.bytes::<NONCE_LEN>();
        let mut out = Vec::with_capacity(plaintext.len().saturating_add(OVERHEAD_BYTES));
        out.extend_from_slice(&head);
        out.extend_from_slice(&nonce);
        let aad = [&head, context].concat();
        // Fails only beyond the cipher's 256 GiB; an empty result then does not open, so nothing is stored in clear.
        match self.cipher().encrypt(&nonce.into(), Payload { msg: plaintext, aad: &aad }) {
            Ok(ciphertext) => out.extend_from_slice(&ciphertext),
            Err(_) => out.clear(),
        }
        out
    }

    /// Opens what [`SealingKey::seal`] made for the same `context`. The plaintext is wiped when dropped.
    ///
    /// # Errors
    /// [`SealError::WrongKey`], [`SealError::Version`], [`SealError::Damaged`].
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (head, rest) = sealed.split_first_chunk::<HEAD_LEN>().ok_or(SealError::Damaged)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Damaged)?;
        let [version, a, b, c, d] = *head;
        if version != VERSION {
            return Err(SealError::Version(version));
        }
        let sealed_with = [a, b, c, d];
        if sealed_with != self.id {
            return Err(SealError::WrongKey { sealed_with: hex(&sealed_with), present: hex(&self.id) });
        }
        let aad = [head, context].concat();
        let opened = self.cipher().decrypt(&(*nonce).into(), Payload { msg: ciphertext, aad: &aad });
        opened.map(Zeroizing::new).map_err(|_| SealError::Damaged)
    }

    /// A key for another purpose, named by `label`. The same label gives the same key for ever.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        expand(&self.secret, &format!("blockremote/derive/v1/{label}"))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.sealing).into())
    }

    /// A text, or the bare bytes, as `systemd-creds` stores what it is given: no text of a key has 32 characters.
    fn from_content(content: &[u8], path: &Path) -> Result<Self, SealError> {
        if let Ok(bytes) = <[u8; 32]>::try_from(content) {
            return Ok(Self::from_bytes(bytes));
        }
        let place = path.display().to_string();
        match std::str::from_utf8(content) {
            Ok(text) => Self::from_text(text, &place),
            Err(_) => Err(SealError::BadKey { place }),
        }
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", hex(&self.id))
    }
}

/// HKDF-Expand with a single block: the key is random already, so the extract step adds nothing (RFC 5869, section 3.3).
fn expand(secret: &[u8; 32], info: &str) -> [u8; 32] {
    hmac_sha256(secret, &[info.as_bytes(), &[1]].concat())
}

fn base16(text: &str, out: &mut [u8; 32]) -> bool {
    let nibble = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    for (pair, byte) in text.as_bytes().chunks_exact(2).zip(out.iter_mut()) {
        let [high, low] = pair else { return false };
        let (Some(high), Some(low)) = (nibble(*high), nibble(*low)) else { return false };
        *byte = high << 4 | low;
    }
    true
}

/// `None` when the file is not there. `private`: refuse a file that group or others may read; the folder of systemd
/// credentials is closed to others as a whole and needs no such check.
fn read_bounded(path: &Path, private: bool) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
    let failed = |source| SealError::Io { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if private && mode & 0o077 != 0 {
        return Err(SealError::Exposed { path: path.to_owned(), mode });
    }
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(KEY_TEXT_MAX).unwrap_or(0)));
    let read = file.take(KEY_TEXT_MAX).read_to_end(&mut content);
    if let Err(e) = read {
        content.zeroize();
        return Err(failed(e));
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn key(byte: u8) -> SealingKey {
        SealingKey::from_bytes([byte; 32])
    }

    #[test]
    fn what_is_sealed_opens_only_with_its_key_in_its_place() {
        let random = Random::seeded(1);
        let sealed = key(1).seal(b"keys/1", b"secret", &random);
        assert_eq!(sealed.len(), 6 + OVERHEAD_BYTES);
        assert_eq!(key(1).open(b"keys/1", &sealed).unwrap().as_slice(), b"secret");
        assert!(matches!(key(1).open(b"keys/2", &sealed), Err(SealError::Damaged)));
        assert_ne!(sealed, key(1).seal(b"keys/1", b"secret", &random), "every seal has its own nonce");
        assert!(key(1).open(b"", &key(1).seal(b"", b"", &random)).unwrap().is_empty());
    }

    #[test]
    fn a_wrong_key_is_named_and_not_called_damage() {
        let sealed = key(1).seal(b"c", b"secret", &Random::seeded(1));
        let message = key(2).open(b"c", &sealed).unwrap_err().to_string();
        assert!(message.contains(&hex(&key(1).id())) && message.contains(&hex(&key(2).id())), "{message}");
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let key = key(1);
        let sealed = key.seal(b"c", b"secret", &Random::seeded(1));
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(key.open(b"c", &bad).is_err(), "byte {i}");
            assert!(key.open(b"c", &sealed[..i]).is_err(), "cut at {i}");
        }
        let mut newer = sealed;
        newer[0] = 2;
        assert!(matches!(key.open(b"c", &newer), Err(SealError::Version(2))));
    }

    #[test]
    fn each_purpose_has_its_own_key() {
        let a = key(1);
        assert_eq!(a.derive("refresh"), key(1).derive("refresh"));
        assert_ne!(a.derive("refresh"), a.derive("csrf"));
        assert_ne!(a.derive("refresh"), key(2).derive("refresh"));
        assert_ne!(a.derive(""), *a.sealing);
    }

    #[test]
    fn a_key_may_be_written_in_any_usual_way() {
        let bytes: [u8; 32] = std::array::from_fn(|i| 255 - u8::try_from(i).unwrap());
        let id = SealingKey::from_bytes(bytes).id();
        let hexed: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        for text in [
            hexed.to_uppercase(),
            hexed,
            Base64::encode_string(&bytes) + "\n",
            Base64Unpadded::encode_string(&bytes),
            Base64Url::encode_string(&bytes),
            Base64UrlUnpadded::encode_string(&bytes),
        ] {
            assert_eq!(SealingKey::from_text(&text, "x").unwrap().id(), id, "{text}");
        }
        for bad in ["", "short", &"g".repeat(64), &"A".repeat(42), &"A".repeat(44), &"ä".repeat(32)] {
            assert!(matches!(SealingKey::from_text(bad, "x"), Err(SealError::BadKey { .. })), "{bad:?}");
        }
    }

    #[test]
    fn the_environment_comes_before_the_credential_and_that_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("private/sealing.key");
        let credentials = folder.path().join("credentials");
        let credentials_text = credentials.display().to_string();
        let nothing = |_: &str| None;
        assert!(SealingKey::load(&nothing, &file).unwrap().is_none());

        let made = SealingKey::create_file(&file, &Random::seeded(5)).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        let (loaded, found) = SealingKey::load(&nothing, &file).unwrap().unwrap();
        assert_eq!((loaded.id(), found), (made.id(), Found::File(file.clone())));

        std::fs::create_dir(&credentials).unwrap();
        std::fs::write(credentials.join(CREDENTIAL), [7; 32]).unwrap();
        let with_credential = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| credentials_text.clone());
        let (loaded, found) = SealingKey::load(&with_credential, &file).unwrap().unwrap();
        assert_eq!((loaded.id(), found), (key(7).id(), Found::Credential(credentials.join(CREDENTIAL))));

        let with_both = |name: &str| match name {
            ENVIRONMENT => Some("09".repeat(32)),
            other => with_credential(other),
        };
        let (loaded, found) = SealingKey::load(&with_both, &file).unwrap().unwrap();
        assert_eq!((loaded.id(), found), (key(9).id(), Found::Environment));
        let broken = |name: &str| (name == ENVIRONMENT).then(|| "oops".to_owned());
        let message = SealingKey::load(&broken, &file).unwrap_err().to_string();
        assert!(message.contains(ENVIRONMENT) && !message.contains("oops"), "{message}");
    }

    #[test]
    fn a_key_file_is_never_replaced_and_never_read_when_others_could_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sealing.key");
        let made = SealingKey::create_file(&file, &Random::seeded(5)).unwrap();
        assert!(matches!(SealingKey::create_file(&file, &Random::seeded(6)), Err(SealError::Io { .. })));
        assert_eq!(SealingKey::load(&|_| None, &file).unwrap().unwrap().0.id(), made.id());
        files::restrict(&file, 0o640).unwrap();
        assert!(matches!(SealingKey::load(&|_| None, &file), Err(SealError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", key(1)), format!("SealingKey({})", hex(&key(1).id())));
    }
}
