//! Nonces that the server can tell from any other text without remembering one (RFC 9449, section 8).
//!
//! A nonce is the number of a time step and its HMAC under a key that lives as long as the process: nobody could know it
//! before the step began or before the process started. It is no secret, and everybody gets the same one; that a proof
//! is used once is another's concern. Knows nothing of proofs.

use base64ct::{Base64UrlUnpadded, Encoding};
use zeroize::Zeroizing;

use crate::crypto::{constant_time_eq, hmac_sha256};
use crate::kernel::{Random, Timestamp};

/// How long a nonce is handed out; it is taken for one step more.
pub const STEP_S: i64 = 120;
/// Bytes of the HMAC that are kept.
const TAG_BYTES: usize = 16;

/// Makes and recognises nonces.
pub struct NonceMaker {
    key: Zeroizing<[u8; 32]>,
}

impl NonceMaker {
    /// With a key of its own.
    pub fn new(random: &Random) -> Self {
        Self { key: Zeroizing::new(random.bytes()) }
    }

    /// The nonce of this moment: 32 characters of base64url.
    pub fn current(&self, now: Timestamp) -> String {
        self.of_step(step(now))
    }

    /// Whether this is the nonce of the present or of the previous step, in time that depends on its length only.
    pub fn accepts(&self, nonce: &str, now: Timestamp) -> bool {
        let fits = |step| constant_time_eq(nonce.as_bytes(), self.of_step(step).as_bytes());
        let (present, previous) = (fits(step(now)), fits(step(now).saturating_sub(1)));
        present | previous
    }

    fn of_step(&self, step: i64) -> String {
        let mut bytes = step.to_be_bytes().to_vec();
        let tag = hmac_sha256(self.key.as_slice(), &bytes);
        bytes.extend(tag.into_iter().take(TAG_BYTES));
        Base64UrlUnpadded::encode_string(&bytes)
    }
}

const fn step(now: Timestamp) -> i64 {
    now.as_secs().div_euclid(STEP_S)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// At the start of a step.
    const NOW: Timestamp = Timestamp::from_millis(15_000_000 * STEP_S * 1000);

    #[test]
    fn a_nonce_is_good_until_the_step_after_its_own_has_ended() {
        let maker = NonceMaker::new(&Random::seeded(1));
        let nonce = maker.current(NOW);
        assert_eq!(nonce.len(), 32);
        for (after_ms, good) in [(0, true), (119_999, true), (120_000, true), (239_999, true), (240_000, false)] {
            assert_eq!(maker.accepts(&nonce, NOW.plus(Duration::from_millis(after_ms))), good, "{after_ms}");
        }
        assert!(!maker.accepts(&nonce, NOW.minus(Duration::from_millis(1))), "a step that has not begun has no nonce");
        assert_eq!(maker.current(NOW.plus(Duration::from_millis(119_999))), nonce);
        assert_ne!(maker.current(NOW.plus(Duration::from_millis(120_000))), nonce);
    }

    #[test]
    fn nobody_else_makes_a_nonce() {
        let maker = NonceMaker::new(&Random::seeded(1));
        let nonce = maker.current(NOW);
        assert!(!NonceMaker::new(&Random::seeded(2)).accepts(&nonce, NOW), "another process has another key");
        for bad in ["", " ", &nonce[..31], &format!("{nonce}A"), &format!(" {nonce}"), &nonce.to_lowercase()] {
            assert!(!maker.accepts(bad, NOW), "{bad:?}");
        }
        // A tag of one step does not serve another.
        let (later, later_at) =
            (maker.current(NOW.plus(Duration::from_secs(3600))), NOW.plus(Duration::from_secs(3600)));
        assert!(!maker.accepts(&format!("{}{}", &later[..11], &nonce[11..]), later_at));
    }
}
