//! Challenges of WebAuthn ceremonies: made without memory, taken once.
//!
//! A challenge carries its own end and is authenticated together with what it was made for, so that anybody may ask for
//! as many as they like and it costs no memory. Only challenges that led to something are remembered, until they end.
//!
//! Knows nothing of users, passkeys or HTTP. Source: Web Authentication Level 3, section 13.4.3.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::crypto::{constant_time_eq, hmac_sha256};
use crate::kernel::{Kind, Random, Refusal, Timestamp};

/// How long a person may take.
pub(super) const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Challenges that were used within their life; more logins in five minutes are refused.
const USED_MAX: usize = 100_000;
const NONCE_LEN: usize = 16;
const TAG_LEN: usize = 16;
const CHALLENGE_LEN: usize = NONCE_LEN + 8 + TAG_LEN;

/// Makes and takes challenges.
pub(super) struct Challenges {
    key: [u8; 32],
    used: Mutex<HashMap<[u8; NONCE_LEN], i64>>,
}

impl Challenges {
    /// `key` must be a fresh one of this process: which challenges were used is forgotten with it.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, used: Mutex::default() }
    }

    fn tag(&self, nonce: &[u8], end: &[u8], purpose: &str) -> [u8; 32] {
        hmac_sha256(&self.key, &[nonce, end, purpose.as_bytes()].concat())
    }

    /// A fresh challenge. `purpose` says what for, for whom and on which site.
    pub fn make(&self, purpose: &str, now: Timestamp, random: &Random) -> Vec<u8> {
        let nonce = random.bytes::<NONCE_LEN>();
        let end = now.plus(LIFETIME).as_millis().to_be_bytes();
        let tag = self.tag(&nonce, &end, purpose);
        nonce.into_iter().chain(end).chain(tag.into_iter().take(TAG_LEN)).collect()
    }

    /// Whether this challenge was made here for this purpose and has not ended; it may have been used.
    pub fn is_genuine(&self, challenge: &[u8], purpose: &str, now: Timestamp) -> bool {
        if challenge.len() != CHALLENGE_LEN {
            return false;
        }
        let Some((nonce, rest)) = challenge.split_first_chunk::<NONCE_LEN>() else { return false };
        let Some((end, tag)) = rest.split_first_chunk::<8>() else { return false };
        let expected = self.tag(nonce, end, purpose);
        let genuine = constant_time_eq(tag, expected.first_chunk::<TAG_LEN>().map_or(&[], |t| t.as_slice()));
        genuine && now.as_millis() < i64::from_be_bytes(*end)
    }

    /// Uses a genuine challenge up; says whether this was the first time.
    ///
    /// # Errors
    /// 503 `overloaded` when more are in use than can be remembered.
    pub fn take(&self, challenge: &[u8], now: Timestamp) -> Result<bool, Refusal> {
        let Some((nonce, rest)) = challenge.split_first_chunk::<NONCE_LEN>() else { return Ok(false) };
        let end_ms = rest.first_chunk::<8>().map_or(0, |end| i64::from_be_bytes(*end));
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= USED_MAX {
            used.retain(|_, end| *end > now.as_millis());
        }
        if used.len() >= USED_MAX {
            let detail = "Too many ceremonies at once. Try again in a few minutes.";
            return Err(Refusal::new(Kind::Unavailable, "overloaded", detail).retry_after_s(60));
        }
        Ok(used.insert(*nonce, end_ms).is_none())
    }

    /// Forgets challenges that have ended.
    pub fn sweep(&self, now: Timestamp) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, end| *end > now.as_millis());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_challenge_is_good_for_its_purpose_once_and_for_five_minutes() {
        let (challenges, random) = (Challenges::new([7; 32]), Random::seeded(1));
        let now = Timestamp::from_millis(1_800_000_000_000);
        let challenge = challenges.make("login\u{1f}box.lan", now, &random);
        assert_eq!(challenge.len(), CHALLENGE_LEN);
        let genuine = |c: &[u8], purpose, at| challenges.is_genuine(c, purpose, at);
        assert!(genuine(&challenge, "login\u{1f}box.lan", now));
        assert!(!genuine(&challenge, "login\u{1f}other.lan", now));
        assert!(genuine(&challenge, "login\u{1f}box.lan", now.plus(LIFETIME - Duration::from_millis(1))));
        assert!(!genuine(&challenge, "login\u{1f}box.lan", now.plus(LIFETIME)));
        for i in 0..challenge.len() {
            let mut altered = challenge.clone();
            if let Some(byte) = altered.get_mut(i) {
                *byte ^= 1;
            }
            assert!(!genuine(&altered, "login\u{1f}box.lan", now), "byte {i}");
        }
        assert!(!genuine(challenge.get(..CHALLENGE_LEN - 1).unwrap(), "login\u{1f}box.lan", now));
        assert!(!Challenges::new([8; 32]).is_genuine(&challenge, "login\u{1f}box.lan", now));
        assert!(challenges.take(&challenge, now).unwrap());
        assert!(!challenges.take(&challenge, now).unwrap(), "a second time");
        challenges.sweep(now.plus(LIFETIME));
        assert!(challenges.used.lock().unwrap().is_empty());
    }
}
