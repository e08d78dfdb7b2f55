//! Keys, signatures, sealing, passwords, one-time codes, opaque tokens and certificates: the primitives and their
//! strict formats.
//!
//! Everything here is a function of its arguments: time and randomness are handed in, and only the sealing key is ever
//! read from a file. Knows nothing of users, devices, tables or HTTP. Imports only `kernel`.

pub mod cbor;
pub mod certs;
pub mod client_certs;
pub mod cose;
pub mod dpop;
pub mod es256;
mod hex;
pub mod jcs;
pub mod jwe;
pub mod jwk;
pub mod jws;
pub mod jwt;
pub mod keyring;
pub mod note;
pub mod password;
pub mod recovery;
pub mod seal;
pub mod siphash;
pub mod strict_json;
pub mod token;
pub mod totp;
pub mod vault;
pub mod webauthn;
pub mod webhook;

#[cfg(test)]
mod vectors;
#[cfg(test)]
mod vectors_dpop;
#[cfg(test)]
mod vectors_jwe;

pub use es256::{KeyError, SigningKey, VerifyingKey};
pub use hex::{hex, unhex};
pub use jwe::{JweError, decrypt_compact};
pub use jwk::{Jwk, JwkSet};
pub use jws::{Compact, JwsError, parse_compact, sign_canonical, sign_compact};
pub use jwt::{Claims, JwtError, JwtPolicy, verify_genuine, verify_jwt};
pub use password::Secret;
pub use seal::{SealError, SealingKey};
pub use token::{OpaqueToken, TokenKind};
pub use totp::Totp;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// SHA-256 (FIPS 180-4) of `data`.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}

/// HMAC-SHA256 (RFC 2104) of `data` under `key`, which may have any length.
pub fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; 32] {
    use hmac::{Hmac, KeyInit, Mac};
    // The key is brought to the block's length here, as the RFC says, because then nothing can fail.
    let mut block = Zeroizing::new([0_u8; 64]);
    let hashed = Zeroizing::new(if key.len() > block.len() { sha256(key) } else { [0; 32] });
    let short = if key.len() > block.len() { hashed.as_slice() } else { key };
    for (to, from) in block.iter_mut().zip(short) {
        *to = *from;
    }
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// Compares in time that depends on the lengths only.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test cases 1, 2 and 6 (a key longer than the block), and the empty key.
    #[test]
    fn hmac_gives_the_printed_values() {
        for (key, data, tag) in [
            (vec![0x0b; 20], "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe".to_vec(),
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (Vec::new(), "", "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"),
        ] {
            assert_eq!(hex(&hmac_sha256(&key, data.as_bytes())), tag);
        }
    }

    #[test]
    fn equality_is_equality() {
        assert!(constant_time_eq(b"abc", b"abc"));
        assert!(!constant_time_eq(b"abc", b"abd"));
        assert!(!constant_time_eq(b"abc", b"ab"));
    }
}
