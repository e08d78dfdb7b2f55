//! One-time codes of authenticator apps: TOTP (RFC 6238) over HOTP (RFC 4226), as every such app speaks it.
//!
//! HMAC-SHA-1, steps of 30 seconds, six digits: what the apps support without asking. SHA-1's collisions do not matter
//! here, since HMAC does not rest on them. One step of drift either way is forgiven (RFC 6238, section 5.2), and a step
//! is accepted once: the caller stores the step that [`Totp::matching_step`] gives and hands it in the next time.
//! Knows nothing of users, attempts or tables: whoever asks must bound how often.

use std::fmt;

use zeroize::Zeroizing;

use super::constant_time_eq;
use crate::kernel::{Random, Timestamp};

/// Seconds of one step.
pub const STEP_S: u64 = 30;
/// Bytes of a secret: the length of a SHA-1, as RFC 4226, section 4 recommends.
pub const SECRET_LEN: usize = 20;
const DIGITS: usize = 6;
/// Characters of an input that are looked at; six digits with blanks between them need fewer.
const INPUT_LEN_MAX: usize = 32;

/// The shared secret of one authenticator app. Wiped when dropped; masked in `Debug`.
#[derive(Clone)]
pub struct Totp(Zeroizing<[u8; SECRET_LEN]>);

impl Totp {
    /// A fresh secret.
    pub fn generate(random: &Random) -> Self {
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        random.fill(secret.as_mut_slice());
        Self(secret)
    }

    /// The secret of these bytes.
    pub fn from_bytes(secret: [u8; SECRET_LEN]) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// The bytes, to be sealed. Every call of this is a place to review.
    pub fn expose(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// The secret as people type it into an app: base32 (RFC 4648, section 6) without padding, 32 characters.
    pub fn secret_base32(&self) -> Zeroizing<String> {
        base32(self.0.as_slice())
    }

    /// What a QR code holds: `otpauth://totp/Issuer:account?secret=..&issuer=..&algorithm=SHA1&digits=6&period=30`.
    ///
    /// Both names are percent-encoded; colons are dropped from them, since the first one ends the issuer.
    pub fn uri(&self, issuer: &str, account: &str) -> Zeroizing<String> {
        let (issuer, account) = (percent_encoded(issuer), percent_encoded(account));
        Zeroizing::new(format!(
            "otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={STEP_S}",
            self.secret_base32().as_str(),
        ))
    }

    /// The six digits of a step: seconds since 1970 divided by [`STEP_S`].
    pub fn code_at(&self, step: u64) -> String {
        hotp(self.0.as_slice(), step)
    }

    /// Which step `code` belongs to: the present one or a neighbour, and later than `last_used_step`.
    ///
    /// The code must be six ASCII digits; blanks are taken out first, because apps show `123 456`. Whoever accepts the
    /// code stores the step as the new `last_used_step`, in the transaction that accepts. All three codes are computed
    /// and compared whatever matches, so that time tells nothing.
    pub fn matching_step(&self, code: &str, now: Timestamp, last_used_step: Option<u64>) -> Option<u64> {
        let code = six_digits(code)?;
        let present = u64::try_from(now.as_secs()).ok()? / STEP_S;
        let mut found = None;
        // Before the first step of 1970 lies none: it is looked at twice then.
        for step in [present.saturating_sub(1), present, present.saturating_add(1)] {
            let right = constant_time_eq(hotp(self.0.as_slice(), step).as_bytes(), &code[..]);
            let unused = last_used_step.is_none_or(|used| step > used);
            if right & unused {
                found = Some(step);
            }
        }
        found
    }
}

impl fmt::Debug for Totp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Totp(***)")
    }
}

fn six_digits(text: &str) -> Option<[u8; DIGITS]> {
    if text.len() > INPUT_LEN_MAX {
        return None;
    }
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
    <[u8; DIGITS]>::try_from(digits).ok().filter(|code| code.iter().all(u8::is_ascii_digit))
}

/// RFC 4226, section 5.3: HMAC-SHA-1 over the counter, then 31 bits from where the last nibble points.
fn hotp(secret: &[u8], counter: u64) -> String {
    let tag = hmac_sha1(secret, &counter.to_be_bytes());
    let offset = usize::from(tag.last().copied().unwrap_or_default() & 0x0f);
    // Offset is at most 15 and the tag has 20 bytes: the four are always there.
    let four = tag.get(offset..).and_then(|rest| rest.first_chunk::<4>()).copied().unwrap_or_default();
    let number = (u32::from_be_bytes(four) & 0x7fff_ffff) % 1_000_000;
    format!("{number:06}")
}

/// HMAC-SHA-1 (RFC 2104) under a key of at most 64 bytes, which is brought to the block's length here, because then
/// nothing can fail.
fn hmac_sha1(key: &[u8], data: &[u8]) -> [u8; 20] {
    use hmac::{Hmac, KeyInit, Mac};
    let mut block = Zeroizing::new([0_u8; 64]);
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let mut mac = Hmac::<sha1::Sha1>::new((&*block).into());
    mac.update(data);
    mac.finalize().into_bytes().into()
}

fn base32(bytes: &[u8]) -> Zeroizing<String> {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut out = Zeroizing::new(String::with_capacity(bytes.len().div_ceil(5) * 8));
    for chunk in bytes.chunks(5) {
        let mut five = Zeroizing::new([0_u8; 8]);
        for (to, from) in five.iter_mut().skip(3).zip(chunk) {
            *to = *from;
        }
        let group = u64::from_be_bytes(*five);
        for place in 0..(chunk.len() * 8).div_ceil(5) {
            let index = usize::try_from((group >> (35 - 5 * place)) & 31).unwrap_or_default();
            out.extend(ALPHABET.get(index).map(|c| char::from(*c)));
        }
    }
    out
}

/// RFC 3986, section 2.1: everything but unreserved characters.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes().filter(|b| *b != b':') {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 4226, appendix D and of RFC 6238, appendix B.
    const RFC_SECRET: &[u8; 20] = b"12345678901234567890";

    fn app() -> Totp {
        Totp::from_bytes(*RFC_SECRET)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn the_first_ten_codes_are_those_of_rfc_4226() {
        let printed =
            ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"];
        for (counter, code) in (0..).zip(printed) {
            assert_eq!(app().code_at(counter), code, "counter {counter}");
        }
    }

    #[test]
    fn codes_at_a_time_are_those_of_rfc_6238() {
        // Appendix B prints eight digits; an app shows the last six.
        for (seconds, printed) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            let six = printed.get(2..).unwrap_or_default();
            let step = app().matching_step(six, at(seconds), None);
            assert_eq!(step, u64::try_from(seconds / 30).ok(), "{seconds} s");
        }
    }

    #[test]
    fn a_clock_may_be_one_step_off_and_no_more() {
        let now = at(1_767_225_615);
        let present = 1_767_225_615 / 30;
        for (off, accepted) in [(-2, false), (-1, true), (0, true), (1, true), (2, false)] {
            let step = present + off;
            let step = u64::try_from(step).unwrap_or_default();
            let found = app().matching_step(&app().code_at(step), now, None);
            assert_eq!(found, accepted.then_some(step), "{off} steps off");
        }
    }

    #[test]
    fn no_code_is_accepted_twice_nor_an_older_one_after_a_newer() {
        let now = at(1_767_225_615);
        let present = 1_767_225_615 / 30;
        let [old, new, next] = [present - 1, present, present + 1].map(|step| app().code_at(step));
        assert_eq!(app().matching_step(&new, now, None), Some(present));
        assert_eq!(app().matching_step(&new, now, Some(present)), None, "the same code again");
        assert_eq!(app().matching_step(&old, now, Some(present)), None, "an older code after a newer");
        assert_eq!(app().matching_step(&next, now, Some(present)), Some(present + 1));
        assert_eq!(app().matching_step(&new, now, Some(present - 1)), Some(present), "the one before was used");
        assert_eq!(app().matching_step(&new, now, Some(u64::MAX)), None);
    }

    #[test]
    fn only_six_ascii_digits_are_a_code() {
        let now = at(59);
        for good in ["287082", "287 082", " 287082 ", "2 8 7 0 8 2"] {
            assert_eq!(app().matching_step(good, now, None), Some(1), "{good:?}");
        }
        let long = format!("287082{}", " ".repeat(100));
        for bad in
            ["", " ", "28708", "0287082", "2870822", "94287082", "287-082", "+87082", "28708٢", "287082\n", &long]
        {
            assert_eq!(app().matching_step(bad, now, None), None, "{bad:?}");
        }
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        assert_eq!(app().matching_step("755224", at(0), None), Some(0));
        assert_eq!(app().matching_step("755224", at(-1), None), None);
        let _ = app().matching_step("755224", Timestamp::MAX, None);
        assert_eq!(app().code_at(u64::MAX).len(), 6);
    }

    /// RFC 4648, section 10, without the padding.
    #[test]
    fn base32_gives_the_printed_values() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(plain.as_bytes()).as_str(), encoded);
        }
    }

    #[test]
    fn the_address_of_the_qr_code_survives_any_name() {
        let uri = app().uri("Müller & Co: Trust", "anna@example.com");
        assert_eq!(
            uri.as_str(),
            "otpauth://totp/M%C3%BCller%20%26%20Co%20Trust:anna%40example.com\
             ?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=M%C3%BCller%20%26%20Co%20Trust\
             &algorithm=SHA1&digits=6&period=30"
        );
    }

    #[test]
    fn a_secret_is_random_and_shows_itself_to_nobody() {
        let random = Random::seeded(1);
        let (one, other) = (Totp::generate(&random), Totp::generate(&random));
        assert_ne!(one.expose(), other.expose());
        assert_eq!(one.secret_base32().len(), 32);
        assert_eq!(format!("{one:?}"), "Totp(***)");
    }
}
