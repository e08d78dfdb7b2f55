//! Opaque tokens: 256 random bits with a prefix that says what they are for.
//!
//! Only a token's hash is stored. The bits are random, so a plain SHA-256 is enough; it covers the prefix, so a token of
//! one kind never matches the hash of another. The prefix also lets secret scanners find a token that leaked.
//! Knows nothing of sessions, expiry or rotation. API keys have a form of their own, by which they are found.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use zeroize::Zeroizing;

use super::{constant_time_eq, sha256};
use crate::kernel::Random;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An enrollment token.
    Enrollment,
    /// An invitation or a password reset: works once.
    Link,
}

impl TokenKind {
    /// What a token of this kind begins with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Enrollment => "bre_",
            Self::Link => "brl_",
        }
    }
}

/// One token in clear. Wiped when dropped; `Debug` shows its kind only.
#[derive(Clone)]
pub struct OpaqueToken {
    kind: TokenKind,
    text: Zeroizing<String>,
}

impl OpaqueToken {
    /// A fresh token.
    pub fn generate(kind: TokenKind, random: &Random) -> Self {
        Self::from_bits(kind, &random.bytes())
    }

    /// The token of these 256 bits, which must be random or derived under a secret key.
    pub fn from_bits(kind: TokenKind, bits: &[u8; 32]) -> Self {
        let text = Zeroizing::new(format!("{}{}", kind.prefix(), Base64UrlUnpadded::encode_string(bits)));
        Self { kind, text }
    }

    /// Reads a presented token: the kind's prefix and 43 characters of canonical base64url, nothing else.
    pub fn parse(kind: TokenKind, text: &str) -> Option<Self> {
        let body = text.strip_prefix(kind.prefix()).filter(|body| body.len() == 43)?;
        let mut bits = Zeroizing::new([0_u8; 32]);
        Base64UrlUnpadded::decode(body, bits.as_mut_slice()).ok()?;
        Some(Self { kind, text: Zeroizing::new(text.to_owned()) })
    }

    /// What it is for.
    pub fn kind(&self) -> TokenKind {
        self.kind
    }

    /// The token itself, to be shown once.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What is stored: SHA-256 of the whole text.
    pub fn hash(&self) -> [u8; 32] {
        sha256(self.text.as_bytes())
    }

    /// Whether this token made `hash`, in constant time.
    pub fn matches(&self, hash: &[u8; 32]) -> bool {
        constant_time_eq(&self.hash(), hash)
    }
}

impl fmt::Debug for OpaqueToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}***", self.kind.prefix())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_token_is_read_back_only_as_what_it_is() {
        let random = Random::seeded(1);
        let token = OpaqueToken::generate(TokenKind::Link, &random);
        assert_eq!(token.expose().len(), 47);
        let read = OpaqueToken::parse(TokenKind::Link, token.expose()).unwrap();
        assert!(read.matches(&token.hash()));
        assert!(OpaqueToken::parse(TokenKind::Enrollment, token.expose()).is_none());
        assert!(!OpaqueToken::generate(TokenKind::Link, &random).matches(&token.hash()));
        assert_eq!(format!("{token:?}"), "brl_***");
    }

    #[test]
    fn the_same_bits_of_another_kind_are_another_token() {
        let hashes = [TokenKind::Link, TokenKind::Enrollment].map(|kind| OpaqueToken::from_bits(kind, &[7; 32]).hash());
        assert_eq!(std::collections::HashSet::from(hashes).len(), 2);
    }

    #[test]
    fn a_token_has_one_spelling() {
        let text = OpaqueToken::from_bits(TokenKind::Link, &[0; 32]).expose().to_owned();
        let stray_bits = format!("brl_{}B", "A".repeat(42));
        let upper = text.to_uppercase();
        for bad in ["", "brl_", &text[..46], &stray_bits, &format!("{text}="), &format!("{text}\n"), &upper] {
            assert!(OpaqueToken::parse(TokenKind::Link, bad).is_none(), "{bad}");
        }
    }
}
