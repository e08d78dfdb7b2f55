//! Passwords: Argon2id (RFC 9106) in PHC strings, and a text type that does not leak.
//!
//! A hash costs tens of milliseconds and tens of megabytes on purpose: callers run it off the async threads and bound how
//! many run at once. A stored string whose cost is beyond [`Params::CEILING`] is refused without computing it. Passwords
//! are hashed as the bytes that were sent, without Unicode normalisation: the client decides the spelling.
//! Knows nothing of users.

use std::fmt;
use std::time::Duration;

use argon2::{Algorithm, Argon2, Version};
use base64ct::{Base64Unpadded, Encoding};
use serde::{Deserialize, Deserializer};
use zeroize::{Zeroize, Zeroizing};

use super::constant_time_eq;
use crate::kernel::Random;
use crate::kernel::clock::Stopwatch;

const SALT_LEN: usize = 16;
const TAG_LEN: usize = 32;
/// Characters of a PHC string; ours have about 97.
const PHC_LEN_MAX: usize = 256;
/// Bytes of a password; more is refused unhashed, so that nobody hashes a novel.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// What a hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Memory in KiB.
    pub m_cost_kib: u32,
    /// Passes over the memory.
    pub t_cost: u32,
    /// Lanes.
    pub p_cost: u32,
}

impl Default for Params {
    /// 19 MiB, two passes, one lane: the least that OWASP recommends.
    fn default() -> Self {
        Self { m_cost_kib: 19_456, t_cost: 2, p_cost: 1 }
    }
}

impl Params {
    /// The most that a stored string may ask for; a string that asks for more did not come from here.
    pub const CEILING: Self = Self { m_cost_kib: 256 * 1024, t_cost: 16, p_cost: 8 };

    fn within_ceiling(self) -> bool {
        self.m_cost_kib <= Self::CEILING.m_cost_kib
            && self.t_cost <= Self::CEILING.t_cost
            && self.p_cost <= Self::CEILING.p_cost
    }

    fn weaker_than(self, other: Self) -> bool {
        self.m_cost_kib < other.m_cost_kib || self.t_cost < other.t_cost || self.p_cost < other.p_cost
    }
}

/// Why a password was not hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// More than [`PASSWORD_BYTES_MAX`] bytes.
    #[error("the password is longer than 1024 bytes")]
    TooLong,
    /// The parameters are outside what Argon2 and [`Params::CEILING`] allow.
    #[error("the password hashing parameters are out of range")]
    Params,
}

/// Hashes a password with a fresh salt into a PHC string.
///
/// # Errors
/// [`HashError`].
pub fn hash(password: &Secret, params: &Params, random: &Random) -> Result<String, HashError> {
    if password.expose().len() > PASSWORD_BYTES_MAX {
        return Err(HashError::TooLong);
    }
    let salt = random.bytes::<SALT_LEN>();
    let mut tag = Zeroizing::new([0_u8; TAG_LEN]);
    compute(password.expose().as_bytes(), &salt, *params, tag.as_mut_slice()).ok_or(HashError::Params)?;
    Ok(format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        params.m_cost_kib,
        params.t_cost,
        params.p_cost,
        Base64Unpadded::encode_string(&salt),
        Base64Unpadded::encode_string(tag.as_slice())
    ))
}

/// Whether `password` made `phc`. False for whatever is not a well-formed Argon2id string of version 19 within the
/// ceiling; never panics.
pub fn verify(password: &Secret, phc: &str) -> bool {
    if password.expose().len() > PASSWORD_BYTES_MAX {
        return false;
    }
    let Some(stored) = Phc::parse(phc) else { return false };
    let mut tag = Zeroizing::new(vec![0_u8; stored.tag.len()]);
    compute(password.expose().as_bytes(), &stored.salt, stored.params, &mut tag).is_some()
        && constant_time_eq(&tag, &stored.tag)
}

/// Does the work of [`verify`] for a user who does not exist, so that the time of the answer does not tell. `params` are
/// those of stored hashes. Always false.
pub fn verify_dummy(password: &Secret, params: &Params) -> bool {
    if password.expose().len() <= PASSWORD_BYTES_MAX {
        let mut tag = Zeroizing::new([0_u8; TAG_LEN]);
        let done = compute(password.expose().as_bytes(), &[0; SALT_LEN], *params, tag.as_mut_slice());
        std::hint::black_box((done, &tag));
    }
    false
}

/// Memory in KiB that [`calibrate`] tries after the default, before it adds passes: 32, 46 and 64 MiB. 46 and 19 are
/// figures of OWASP's recommendation; more than 64 MiB for each login is too much for a small machine.
const CALIBRATION_M_COSTS_KIB: [u32; 3] = [32 * 1024, 46 * 1024, 64 * 1024];
/// Hashes that [`calibrate`] measures at most, so that a start is never held up for long.
pub const CALIBRATION_MEASUREMENTS_MAX: usize = 8;

/// Finds the dearest parameters that this machine computes within `target_ms`; 120 is a good target.
///
/// Starts from [`Params::default`], below which it never goes however slow the machine is; raises the memory first and
/// the passes then, and stops at the first step that is too slow. A step counts as too slow only when a second
/// measurement agrees, since other work can slow one but nothing can speed it up. `measure` gives milliseconds and is
/// called at most [`CALIBRATION_MEASUREMENTS_MAX`] times.
pub fn calibrate(target_ms: u32, measure: &mut dyn FnMut(Params) -> u64) -> Params {
    let mut best = Params::default();
    let mut left = CALIBRATION_MEASUREMENTS_MAX;
    let mut fits = |params: Params| {
        for _ in 0..2 {
            if left == 0 {
                return false;
            }
            left -= 1;
            if measure(params) <= u64::from(target_ms) {
                return true;
            }
        }
        false
    };
    let wider = CALIBRATION_M_COSTS_KIB.map(|m_cost_kib| Params { m_cost_kib, ..best });
    let widest = wider.last().copied().unwrap_or(best);
    let longer = (widest.t_cost + 1..=Params::CEILING.t_cost).map(|t_cost| Params { t_cost, ..widest });
    for params in wider.into_iter().chain(longer) {
        if !params.within_ceiling() || !fits(params) {
            break;
        }
        best = params;
    }
    best
}

/// How long one hash with these parameters takes here and now.
///
/// # Errors
/// [`HashError::Params`].
pub fn measure_once(params: Params, random: &Random) -> Result<Duration, HashError> {
    let watch = Stopwatch::start();
    hash(&Secret::new("the length of a usual password"), &params, random)?;
    Ok(watch.elapsed())
}

/// Whether a stored hash is cheaper than `params` (or unreadable) and should be made anew at the next login.
pub fn needs_rehash(phc: &str, params: &Params) -> bool {
    Phc::parse(phc).is_none_or(|stored| stored.params.weaker_than(*params))
}

fn compute(password: &[u8], salt: &[u8], params: Params, tag: &mut [u8]) -> Option<()> {
    if !params.within_ceiling() {
        return None;
    }
    let params = argon2::Params::new(params.m_cost_kib, params.t_cost, params.p_cost, Some(tag.len())).ok()?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(password, salt, tag).ok()
}

struct Phc {
    params: Params,
    salt: Vec<u8>,
    tag: Vec<u8>,
}

impl Phc {
    /// `$argon2id$v=19$m=..,t=..,p=..$salt$tag`, exactly: no other order, no further parameter, no leading zero.
    fn parse(text: &str) -> Option<Self> {
        if text.len() > PHC_LEN_MAX {
            return None;
        }
        let mut fields = text.strip_prefix("$argon2id$v=19$")?.split('$');
        let (costs, salt, tag) = (fields.next()?, fields.next()?, fields.next()?);
        if fields.next().is_some() {
            return None;
        }
        let mut costs = costs.split(',');
        let mut cost = |name: &str| -> Option<u32> {
            let digits = costs.next()?.strip_prefix(name)?;
            let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
            if canonical { digits.parse().ok() } else { None }
        };
        let params = Params { m_cost_kib: cost("m=")?, t_cost: cost("t=")?, p_cost: cost("p=")? };
        if costs.next().is_some() || !params.within_ceiling() {
            return None;
        }
        let salt = Base64Unpadded::decode_vec(salt).ok().filter(|s| (8..=64).contains(&s.len()))?;
        let tag = Base64Unpadded::decode_vec(tag).ok().filter(|t| (16..=64).contains(&t.len()))?;
        Some(Self { params, salt, tag })
    }
}

/// A text that must not be seen: masked in `Debug`, wiped when dropped, compared in constant time, never serialised.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Every call of this is a place to review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(self.0.as_bytes(), other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const CHEAP: Params = Params { m_cost_kib: 64, t_cost: 1, p_cost: 1 };

    #[test]
    fn a_password_opens_its_own_hash_and_no_other_does() {
        let random = Random::seeded(1);
        let phc = hash(&Secret::new("correct horse"), &CHEAP, &random).unwrap();
        assert!(verify(&Secret::new("correct horse"), &phc));
        assert!(!verify(&Secret::new("correct hors"), &phc));
        assert!(!verify(&Secret::new(""), &phc));
        assert!(!verify_dummy(&Secret::new("correct horse"), &CHEAP));
        assert_ne!(phc, hash(&Secret::new("correct horse"), &CHEAP, &random).unwrap(), "every hash has its own salt");
    }

    #[test]
    fn the_default_is_the_recommended_cost() {
        let phc = hash(&Secret::new("x"), &Params::default(), &Random::seeded(1)).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(verify(&Secret::new("x"), &phc));
        assert!(!needs_rehash(&phc, &Params::default()));
        assert!(needs_rehash(&phc, &Params { t_cost: 3, ..Params::default() }));
        assert!(needs_rehash("", &Params::default()));
    }

    #[test]
    fn a_stored_string_has_one_spelling() {
        let phc = hash(&Secret::new("x"), &CHEAP, &Random::seeded(1)).unwrap();
        for (from, to) in [
            ("$v=19", ""),
            ("v=19", "v=16"),
            ("argon2id", "argon2d"),
            ("argon2id", "Argon2id"),
            ("m=64", "m=064"),
            ("m=64", "m=+64"),
            ("m=64,t=1", "t=1,m=64"),
            ("p=1", "p=1,keyid=AA"),
            ("p=1", "p=0"),
            ("t=1", "t=0"),
            ("m=64", "m=7"),
            ("m=64", "m=4294967296"),
        ] {
            let bad = phc.replacen(from, to, 1);
            assert_ne!(bad, phc);
            assert!(!verify(&Secret::new("x"), &bad), "{bad}");
        }
        for bad in [format!("{phc}$"), format!("{phc}="), format!(" {phc}"), "$".repeat(300)] {
            assert!(!verify(&Secret::new("x"), &bad), "{bad}");
        }
    }

    #[test]
    fn a_password_without_end_is_not_hashed() {
        let long = Secret::new("x".repeat(PASSWORD_BYTES_MAX + 1));
        assert_eq!(hash(&long, &CHEAP, &Random::seeded(1)), Err(HashError::TooLong));
        let over = Params { t_cost: Params::CEILING.t_cost + 1, ..CHEAP };
        assert_eq!(hash(&Secret::new("x"), &over, &Random::seeded(1)), Err(HashError::Params));
    }

    fn params(m_cost_mib: u32, t_cost: u32) -> Params {
        Params { m_cost_kib: m_cost_mib * 1024, t_cost, p_cost: 1 }
    }

    /// A machine that needs this many microseconds to pass once over a MiB.
    fn machine(us_per_mib: u64) -> impl FnMut(Params) -> u64 {
        move |p| u64::from(p.m_cost_kib / 1024 * p.t_cost) * us_per_mib / 1000
    }

    #[test]
    fn a_machine_gets_the_dearest_parameters_that_it_has_the_time_for() {
        for (us_per_mib, expect) in [
            (1_000_000, params(19, 2)),
            (2_000, params(19, 2)),
            (1_500, params(32, 2)),
            (1_200, params(46, 2)),
            (900, params(64, 2)),
            (500, params(64, 3)),
            (400, params(64, 4)),
            (1, params(64, 7)),
            (0, params(64, 7)),
        ] {
            let mut count = 0;
            let mut machine = machine(us_per_mib);
            let found = calibrate(120, &mut |p| {
                count += 1;
                assert!(p.within_ceiling() && !p.weaker_than(Params::default()), "{p:?}");
                machine(p)
            });
            assert_eq!(found, expect, "{us_per_mib} us");
            assert!(count <= CALIBRATION_MEASUREMENTS_MAX, "{us_per_mib} us: {count} measurements");
        }
        assert_eq!(calibrate(0, &mut machine(500)), Params::default(), "never below the floor");
    }

    #[test]
    fn one_disturbed_measurement_does_not_weaken_the_hashes() {
        for disturbed in 1..=4 {
            let (mut count, mut machine) = (0, machine(900));
            let found = calibrate(120, &mut |p| {
                count += 1;
                if count == disturbed { 10_000 } else { machine(p) }
            });
            assert_eq!(found, params(64, 2), "measurement {disturbed} was disturbed");
        }
    }

    #[test]
    fn a_measurement_is_of_the_hash_that_was_asked_for() {
        assert!(measure_once(CHEAP, &Random::seeded(1)).is_ok());
        assert_eq!(measure_once(params(257, 2), &Random::seeded(1)), Err(HashError::Params));
    }

    #[test]
    fn a_secret_shows_itself_only_when_asked() {
        let secret: Secret = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(secret, Secret::new("hunter2"));
        assert_ne!(secret, Secret::new("hunter3"));
    }

    proptest::proptest! {
        #[test]
        fn no_stored_string_makes_the_check_panic(tail in "\\PC{0,120}") {
            let _ = Phc::parse(&tail);
            let _ = Phc::parse(&format!("$argon2id$v=19${tail}"));
        }
    }
}
