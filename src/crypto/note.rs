//! Signed notes (c2sp.org/signed-note) with Ed25519 keys, and the cosignatures of witnesses (c2sp.org/tlog-cosignature).
//!
//! A note is a text that people can read, an empty line, and a line for each signature. A key has a name, and four bytes
//! of a hash over name and key tell a verifier which signature it can check. Knows nothing of what a text says.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64ct::{Base64, Encoding};

use super::{hex, sha256, unhex};

/// A whole note, in bytes: far beyond any checkpoint.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
const SIGNATURES_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 255;

/// What a key signs, as the byte in front of it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// The text of the note (0x01).
    Ed25519,
    /// A line with the time and the text of the note (0x04): a witness saw it.
    Cosignature,
}

impl KeyKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::Cosignature => 4,
        }
    }
}

/// Why something is no note, or no verifier key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoteError {
    /// Not a text of the form that notes have.
    #[error("it is not a signed note: a text, an empty line, and lines that begin with a dash and the signer's name")]
    NotANote,
    /// The verifier key does not read.
    #[error("it is not a verifier key of the form NAME+HASH+KEY, or of a kind that is not known here")]
    NotAKey,
    /// No signature of this key, or one that does not fit.
    #[error("it is not signed by that key")]
    NotSigned,
}

/// A signing key. Its secret lives in the library's own memory and is never shown.
pub struct NoteKey(Ed25519KeyPair);

impl NoteKey {
    /// The key of this seed (RFC 8032, section 5.1.5).
    ///
    /// # Errors
    /// [`NoteError::NotAKey`] when the library refuses it.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, NoteError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| NoteError::NotAKey)
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        let mut out = [0; 32];
        for (to, from) in out.iter_mut().zip(self.0.public_key().as_ref()) {
            *to = *from;
        }
        out
    }

    /// The note of `text`, which ends with a newline, signed under `name`.
    pub fn sign(&self, name: &str, text: &str) -> String {
        let verifier = Verifier::new(name, KeyKind::Ed25519, self.public());
        let signature = self.0.sign(text.as_bytes());
        format!("{text}\n{}", signature_line(&verifier, signature.as_ref()))
    }

    /// A witness's line for `text`: that it saw it at this time (Unix seconds).
    pub fn cosign(&self, name: &str, text: &str, at_s: u64) -> String {
        let verifier = Verifier::new(name, KeyKind::Cosignature, self.public());
        let signature = self.0.sign(cosigned(text, at_s).as_bytes());
        signature_line(&verifier, &[&at_s.to_be_bytes(), signature.as_ref()].concat())
    }
}

impl fmt::Debug for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoteKey({})", hex(&self.public()))
    }
}

fn cosigned(text: &str, at_s: u64) -> String {
    format!("cosignature/v1\ntime {at_s}\n{text}")
}

fn signature_line(verifier: &Verifier, signature: &[u8]) -> String {
    let bytes = [verifier.id().as_slice(), signature].concat();
    format!("\u{2014} {} {}\n", verifier.name, Base64::encode_string(&bytes))
}

/// Whether a text may be the name of a key: visible, without spaces and plus signs.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

/// The public half of a key, with its name. As a text: `NAME+HASH+KEY`, the form in which verifier keys are handed around.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verifier {
    name: String,
    kind: KeyKind,
    key: [u8; 32],
}

impl Verifier {
    /// Of a key whose public half is known.
    pub fn new(name: &str, kind: KeyKind, key: [u8; 32]) -> Self {
        Self { name: name.to_owned(), kind, key }
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key itself.
    pub const fn public(&self) -> [u8; 32] {
        self.key
    }

    /// What it signs.
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The first four bytes of a hash over name, kind and key.
    pub fn id(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = sha256(&[self.name.as_bytes(), b"\n", &[self.kind.byte()], &self.key].concat());
        [a, b, c, d]
    }

    fn fits(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.key).verify(message, signature).is_ok()
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = Base64::encode_string(&[&[self.kind.byte()], self.key.as_slice()].concat());
        write!(f, "{}+{}+{key}", self.name, hex(&self.id()))
    }
}

impl FromStr for Verifier {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::NotAKey);
        };
        let key = Base64::decode_vec(key).map_err(|_| NoteError::NotAKey)?;
        let (kind, key) = match key.split_first() {
            Some((1, key)) => (KeyKind::Ed25519, key),
            Some((4, key)) => (KeyKind::Cosignature, key),
            _ => return Err(NoteError::NotAKey),
        };
        let key = <[u8; 32]>::try_from(key).map_err(|_| NoteError::NotAKey)?;
        let verifier = Self::new(name, kind, key);
        let same = is_name(name) && unhex(id).is_some_and(|id| id == verifier.id());
        if same { Ok(verifier) } else { Err(NoteError::NotAKey) }
    }
}

/// One line below the text.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Signature {
    name: String,
    id: [u8; 4],
    bytes: Vec<u8>,
}

/// A note that was read. Reading it says nothing about its signatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    /// Reads a note, strictly.
    ///
    /// # Errors
    /// [`NoteError::NotANote`], also for one that is longer than [`NOTE_BYTES_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::NotANote)?;
        if bytes.len() > NOTE_BYTES_MAX || whole.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::NotANote);
        }
        // The last empty line parts the text from its signatures: the text may have empty lines of its own.
        let at = whole.rfind("\n\n").ok_or(NoteError::NotANote)?;
        let (text, rest) = whole.split_at(at + 1);
        let lines = rest.strip_prefix('\n').and_then(|r| r.strip_suffix('\n')).ok_or(NoteError::NotANote)?;
        let signatures = read_signatures(lines)?;
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// The text, its last newline included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Checks that `verifier`'s key signed the text.
    ///
    /// # Errors
    /// [`NoteError::NotSigned`].
    pub fn verify(&self, verifier: &Verifier) -> Result<(), NoteError> {
        let mut own = self.of(verifier).peekable();
        let any = own.peek().is_some();
        let all = own.all(|s| verifier.fits(self.text.as_bytes(), &s.bytes));
        if verifier.kind == KeyKind::Ed25519 && any && all { Ok(()) } else { Err(NoteError::NotSigned) }
    }

    /// When the witness with this key saw the text (Unix seconds).
    ///
    /// # Errors
    /// [`NoteError::NotSigned`].
    pub fn cosigned_at(&self, witness: &Verifier) -> Result<u64, NoteError> {
        let found = self.of(witness).find_map(|s| {
            let (at, signature) = s.bytes.split_first_chunk::<8>()?;
            let at_s = u64::from_be_bytes(*at);
            witness.fits(cosigned(&self.text, at_s).as_bytes(), signature).then_some(at_s)
        });
        found.filter(|_| witness.kind == KeyKind::Cosignature).ok_or(NoteError::NotSigned)
    }

    fn of<'a>(&'a self, verifier: &'a Verifier) -> impl Iterator<Item = &'a Signature> {
        let id = verifier.id();
        self.signatures.iter().filter(move |s| s.name == verifier.name && s.id == id)
    }
}

fn read_signatures(lines: &str) -> Result<Vec<Signature>, NoteError> {
    let mut out = Vec::new();
    for line in lines.split('\n') {
        let rest = line.strip_prefix("\u{2014} ").ok_or(NoteError::NotANote)?;
        let (name, encoded) = rest.split_once(' ').ok_or(NoteError::NotANote)?;
        let bytes = Base64::decode_vec(encoded).map_err(|_| NoteError::NotANote)?;
        let (id, signature) = bytes.split_first_chunk::<4>().ok_or(NoteError::NotANote)?;
        if !is_name(name) || signature.is_empty() || out.len() == SIGNATURES_MAX {
            return Err(NoteError::NotANote);
        }
        out.push(Signature { name: name.to_owned(), id: *id, bytes: signature.to_vec() });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    const TEXT: &str = "This is an example message.\n";
    /// The key of Go's checksum database, as every Go program holds it (cmd/go, modfetch/key.go).
    const KEY: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";

    fn key(byte: u8) -> NoteKey {
        NoteKey::from_seed(&[byte; 32]).unwrap()
    }

    fn verifier(name: &str, byte: u8, kind: KeyKind) -> Verifier {
        Verifier::new(name, kind, key(byte).public())
    }

    #[test]
    fn a_note_is_believed_under_its_key_and_name_alone() {
        let note = key(1).sign("log.example/a", TEXT);
        let read = Note::parse(note.as_bytes()).unwrap();
        assert_eq!(read.text(), TEXT);
        assert_eq!(read.verify(&verifier("log.example/a", 1, KeyKind::Ed25519)), Ok(()));
        for other in [
            verifier("log.example/a", 2, KeyKind::Ed25519),
            verifier("log.example/b", 1, KeyKind::Ed25519),
            verifier("log.example/a", 1, KeyKind::Cosignature),
        ] {
            assert_eq!(read.verify(&other), Err(NoteError::NotSigned), "{other}");
        }
    }

    #[test]
    fn a_cosignature_names_its_time_and_binds_it() {
        let log = key(1).sign("log", TEXT);
        let line = key(2).cosign("witness.example", TEXT, 1_700_000_000);
        let witness = verifier("witness.example", 2, KeyKind::Cosignature);
        let both = Note::parse(format!("{log}{line}").as_bytes()).unwrap();
        assert_eq!(both.cosigned_at(&witness), Ok(1_700_000_000));
        assert_eq!(both.verify(&verifier("log", 1, KeyKind::Ed25519)), Ok(()), "the log's own still stands");
        let mut later = both.clone();
        later.signatures[1].bytes[7] ^= 1;
        assert_eq!(later.cosigned_at(&witness), Err(NoteError::NotSigned));
        assert_eq!(both.cosigned_at(&verifier("witness.example", 3, KeyKind::Cosignature)), Err(NoteError::NotSigned));
    }

    #[test]
    fn a_verifier_key_reads_as_it_is_written_and_no_other_way() {
        let known: Verifier = KEY.parse().unwrap();
        assert_eq!((known.name(), known.to_string().as_str()), ("sum.golang.org", KEY));
        for kind in [KeyKind::Ed25519, KeyKind::Cosignature] {
            let made = verifier("log.example/a", 7, kind);
            assert_eq!(made.to_string().parse(), Ok(made));
        }
        for bad in [
            "",
            "a+b",
            "sum.golang.com+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
            "sum.golang.org+033de0af+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
            "sum.golang.org+033de0ae+As4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
            "sum.golang.org+033de0ae+Ac4zctda",
            "sum golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        ] {
            assert_eq!(bad.parse::<Verifier>(), Err(NoteError::NotAKey), "{bad}");
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let note = key(1).sign("log", "log\n3\nAAAA\n").into_bytes();
        let verifier = verifier("log", 1, KeyKind::Ed25519);
        let holds = |bytes: &[u8]| Note::parse(bytes).is_ok_and(|n| n.verify(&verifier).is_ok());
        assert!(holds(&note));
        for at in 0..note.len() {
            let mut changed = note.clone();
            changed[at] ^= 1;
            assert!(!holds(&changed), "byte {at}");
            assert!(!holds(&note[..at]), "cut at {at}");
        }
    }

    #[test]
    fn what_is_no_note_is_an_answer_and_no_panic() {
        let many = format!("a\n\n{}", "\u{2014} n AAAAAAA=\n".repeat(SIGNATURES_MAX + 1));
        let long = format!("{}\n\n\u{2014} n AAAAAAA=\n", "a".repeat(NOTE_BYTES_MAX));
        for bad in [
            "",
            "\n\n",
            "a\n\n",
            "a\n\nb\n",
            "a\n\n\u{2014} n\n",
            "a\n\n\u{2014} n AAA=\n",
            "a\u{7}\n\n\u{2014} n AAAAAAA=\n",
            &many,
            &long,
        ] {
            assert_eq!(Note::parse(bad.as_bytes()), Err(NoteError::NotANote), "{bad:.40}");
        }
        assert!(Note::parse(&[0xff, 0xfe]).is_err());
    }
}
