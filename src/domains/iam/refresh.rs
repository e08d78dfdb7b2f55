//! Refresh-token families: one family for each session, one live token in each family.
//!
//! A token is presented once. Presenting the immediate predecessor again within the grace period, from the same holder,
//! returns the successor that was already made (the answer got lost on the way). Anything older is theft: the family and
//! its device are revoked. Generations decide what is "immediate", never clocks.
//!
//! A token's secret is a keyed function of session, generation and the family's salt. So nothing of a token is stored,
//! the successor can be made again, and a token of any past generation is told apart from a forged one.
//!
//! Knows nothing of HTTP, cookies or tables. Source: RFC 9700, section 4.14.2.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};

use crate::crypto::{constant_time_eq, hmac_sha256, sha256};
use crate::kernel::Timestamp;
use crate::kernel::ids::{DeviceId, SessionId};

/// How long a lost answer may be asked for again.
pub const GRACE: Duration = Duration::from_secs(10);
const PREFIX: &str = "brr_";
const RAW_BYTES: usize = 16 + 4 + 32;

/// Whom a family is bound to: never an address, a user agent or a version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// A device: its name, its platform, and the thumbprint of its key where it has one.
    pub fn of_device(device: &DeviceId, platform: &str, key_thumbprint: Option<&str>) -> Self {
        // Unit separators: no member can hold one, so two different triples never read the same.
        let text = format!("{device}\u{1f}{platform}\u{1f}{}", key_thumbprint.unwrap_or(""));
        Self(Base64UrlUnpadded::encode_string(&sha256(text.as_bytes())))
    }

    /// A person: the session itself, and the key that it is bound to where it is bound to one.
    pub fn of_session(session: SessionId, bound_key: Option<&str>) -> Self {
        let text = format!("{session}\u{1f}{}", bound_key.unwrap_or(""));
        Self(Base64UrlUnpadded::encode_string(&sha256(text.as_bytes())))
    }
}

/// The state of one family. Lives in its session's row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Family {
    /// The live token's generation, from 1.
    pub generation: u32,
    /// 16 random bytes in base64url.
    pub salt: String,
    /// When the live token was made by a rotation; `None` for the first.
    pub rotated_at: Option<Timestamp>,
    /// Sliding: moved on by each rotation.
    pub expires_at: Timestamp,
    /// Fixed at the start.
    pub absolute_expires_at: Timestamp,
    /// Whom it is bound to.
    pub fingerprint: Fingerprint,
}

/// A refresh token as presented, taken apart. Whether it is genuine is for [`rotate`] to say.
#[derive(Clone, Copy)]
pub struct Presented {
    /// The session that it names.
    pub session: SessionId,
    generation: u32,
    secret: [u8; 32],
}

impl Presented {
    /// Takes a token apart; `None` for what cannot be one of ours.
    pub fn parse(token: &str) -> Option<Self> {
        let text = token.strip_prefix(PREFIX)?;
        let mut raw = [0; RAW_BYTES];
        let raw: &[u8; RAW_BYTES] = Base64UrlUnpadded::decode(text, &mut raw).ok()?.try_into().ok()?;
        let (session, rest) = raw.split_first_chunk::<16>()?;
        let (generation, secret) = rest.split_first_chunk::<4>()?;
        Some(Self {
            session: SessionId::from_bytes(*session),
            generation: u32::from_be_bytes(*generation),
            secret: secret.try_into().ok()?,
        })
    }
}

/// What presenting a refresh token leads to. Every variant is one outcome that the wire contract names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rotation {
    /// Make the next generation.
    Next,
    /// The answer was lost: hand out the live token again.
    Repeat,
    /// Somebody holds an old token. Revoke the family and the device, lock.
    Stolen,
    /// Unknown, forged, expired or logged out: 403 `refresh_invalid`, and never a lock.
    Invalid,
}

impl Family {
    /// The token of a generation of this family. `key` is the appliance's, never stored with the data.
    pub fn token(&self, key: &[u8; 32], session: SessionId, generation: u32) -> String {
        let mut raw = Vec::with_capacity(RAW_BYTES);
        raw.extend_from_slice(&session.to_bytes());
        raw.extend_from_slice(&generation.to_be_bytes());
        raw.extend_from_slice(&self.secret(key, session, generation));
        format!("{PREFIX}{}", Base64UrlUnpadded::encode_string(&raw))
    }

    fn secret(&self, key: &[u8; 32], session: SessionId, generation: u32) -> [u8; 32] {
        let mut message = Vec::with_capacity(64);
        message.extend_from_slice(&session.to_bytes());
        message.extend_from_slice(&generation.to_be_bytes());
        message.extend_from_slice(self.salt.as_bytes());
        hmac_sha256(key, &message)
    }

    /// Whether its live token would still be taken.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        !self.expired(now)
    }

    fn expired(&self, now: Timestamp) -> bool {
        now >= self.expires_at || now >= self.absolute_expires_at
    }
}

/// Decides. `holder` is the presenter's fingerprint where the request shows one, `ended` whether the session is over.
pub fn rotate(
    family: &Family,
    key: &[u8; 32],
    presented: &Presented,
    holder: Option<&Fingerprint>,
    ended: bool,
    now: Timestamp,
) -> Rotation {
    let genuine = presented.generation >= 1
        && presented.generation <= family.generation
        && constant_time_eq(&family.secret(key, presented.session, presented.generation), &presented.secret);
    // Ended and expired families are refused, never treated as theft: an old phone must not lock its owner out.
    if !genuine || ended || family.expired(now) {
        return Rotation::Invalid;
    }
    let same_holder = holder.is_none_or(|h| *h == family.fingerprint);
    let within_grace = family.rotated_at.is_some_and(|at| now.since(at) < GRACE && now >= at);
    match family.generation - presented.generation {
        0 if same_holder => Rotation::Next,
        1 if same_holder && within_grace => Rotation::Repeat,
        _ => Rotation::Stolen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Random;

    const KEY: [u8; 32] = [7; 32];

    fn setup(generation: u32) -> (Family, SessionId) {
        let now = Timestamp::from_millis(1_000_000);
        let session = SessionId::generate(now, &Random::seeded(1));
        let family = Family {
            generation,
            salt: "c2FsdA".to_owned(),
            rotated_at: (generation > 1).then_some(now),
            expires_at: now.plus(Duration::from_secs(7 * 86_400)),
            absolute_expires_at: now.plus(Duration::from_secs(30 * 86_400)),
            fingerprint: Fingerprint::of_session(session, None),
        };
        (family, session)
    }

    /// A phone that loses the answer to its refresh must not be locked out, and a thief must not profit from that kindness.
    #[test]
    fn grace_is_for_the_immediate_predecessor_only() {
        let (family, session) = setup(3);
        let at = family.rotated_at.unwrap_or_default();
        let same = family.fingerprint.clone();
        let other = Fingerprint::of_session(SessionId::NIL, None);
        for (name, generation, after_s, holder, expect) in [
            ("the live token", 3, 0, Some(&same), Rotation::Next),
            ("the live token, much later", 3, 86_400, Some(&same), Rotation::Next),
            ("the live token from another holder", 3, 0, Some(&other), Rotation::Stolen),
            ("the predecessor within the grace", 2, 3, Some(&same), Rotation::Repeat),
            ("the predecessor within the grace, holder unknown", 2, 3, None, Rotation::Repeat),
            ("the predecessor after the grace", 2, 10, Some(&same), Rotation::Stolen),
            ("the predecessor from another holder", 2, 3, Some(&other), Rotation::Stolen),
            ("the grandparent", 1, 0, Some(&same), Rotation::Stolen),
        ] {
            let token = family.token(&KEY, session, generation);
            let presented = Presented::parse(&token).unwrap_or_else(|| unreachable!("our own token"));
            let now = at.plus(Duration::from_secs(after_s));
            assert_eq!(rotate(&family, &KEY, &presented, holder, false, now), expect, "{name}");
        }
    }

    #[test]
    fn what_was_never_issued_or_is_over_is_refused_without_a_lock() {
        let (family, session) = setup(3);
        let now = family.rotated_at.unwrap_or_default();
        let live = family.token(&KEY, session, 3);
        let parse = |t: &str| Presented::parse(t).unwrap_or_else(|| unreachable!("well formed"));
        let forged = family.token(&[8; 32], session, 3);
        assert_eq!(rotate(&family, &KEY, &parse(&forged), None, false, now), Rotation::Invalid);
        let future = family.token(&KEY, session, 4);
        assert_eq!(rotate(&family, &KEY, &parse(&future), None, false, now), Rotation::Invalid);
        let zeroth = family.token(&KEY, session, 0);
        assert_eq!(rotate(&family, &KEY, &parse(&zeroth), None, false, now), Rotation::Invalid);
        assert_eq!(rotate(&family, &KEY, &parse(&live), None, true, now), Rotation::Invalid, "logged out");
        let late = now.plus(Duration::from_secs(7 * 86_400));
        assert_eq!(rotate(&family, &KEY, &parse(&live), None, false, late), Rotation::Invalid, "expired");
        for junk in ["", "brr_", "brr_AAAA", "x", &live.replace("brr_", ""), &format!("{live}A"), &format!("{live}=")] {
            assert!(Presented::parse(junk).is_none(), "{junk:?}");
        }
    }
}
