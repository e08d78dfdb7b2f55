//! Whether a command is genuine, meant for this device, still valid, and new.
//!
//! A lock that anybody on the network could send would be a weapon, and an `UNLOCK` that could be replayed a gift. So a
//! frame counts only if the appliance's key signed exactly what it says. What was accepted before is recognised by its
//! id and content, not by its place alone: a redelivery must be acknowledged again, but not carried out twice.

use std::collections::VecDeque;
use std::sync::Arc;

use super::frame::CommandFrame;
use crate::crypto::{Compact, JwkSet, JwsError, VerifyingKey, jcs, parse_compact, sha256};
use crate::kernel::Timestamp;
use crate::kernel::ids::{CommandId, DeviceId};
use crate::kernel::limits::{OPEN_COMMANDS_PER_DEVICE_MAX, WS_MESSAGE_BYTES_MAX};

/// Header type of a command's signature.
pub const COMMAND_TYP: &str = "br-command+jws";
/// How far the device's clock may run ahead of the appliance's before commands look expired.
const CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(30);
/// Commands that are remembered: twice what a server may have open for one device.
const REMEMBERED_MAX: usize = 2 * OPEN_COMMANDS_PER_DEVICE_MAX;

/// Why a frame does not count. It is neither obeyed nor acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The signature is not one at all, or not of the kind that commands have.
    #[error("its signature is not a command's: {0}")]
    Signature(#[from] JwsError),
    /// The key is not published, as far as this client knows. Fetch the key set again, once, and try again.
    #[error("it was signed by a key that is not published")]
    UnknownKey,
    /// The signature is somebody else's.
    #[error("its signature is not the appliance's")]
    NotSigned,
    /// What it says is not what was signed.
    #[error("it was changed after it was signed")]
    Altered,
    /// Another device's command.
    #[error("it is for another device")]
    OtherDevice,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// An older command that was never accepted comes after a newer one, or a place in the sequence is used twice.
    #[error("its place in the sequence has passed")]
    Replayed,
}

/// A frame that passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Genuine {
    /// A notice.
    Notice,
    /// A command that was not seen before: obey it.
    New,
    /// The same command again: acknowledge it again, do nothing else.
    Redelivered,
}

/// Judges the frames of one device.
#[derive(Debug)]
pub struct CommandVerifier {
    device_id: DeviceId,
    highest_seq: Option<u64>,
    accepted: VecDeque<(CommandId, [u8; 32])>,
}

impl CommandVerifier {
    /// For frames to this device.
    pub fn new(device_id: DeviceId) -> Self {
        Self { device_id, highest_seq: None, accepted: VecDeque::new() }
    }

    /// Checks a frame against the published keys. A refused frame changes nothing.
    ///
    /// # Errors
    /// The first rule that it breaks, the signature before all else: nothing that is not genuine is worth a more exact
    /// answer.
    pub fn verify(&mut self, frame: &CommandFrame, keys: &JwkSet, now: Timestamp) -> Result<Genuine, VerifyError> {
        let jws = parse_compact(&frame.signature, WS_MESSAGE_BYTES_MAX)?;
        jws.require_typ(COMMAND_TYP)?;
        let key = key_of(&jws, keys).ok_or(VerifyError::UnknownKey)?;
        let signed = jws.verify(&key).ok_or(VerifyError::NotSigned)?;
        let shown = jcs::canonicalize(&frame.signed).map_err(|_| VerifyError::Altered)?;
        if signed != shown.as_bytes() {
            return Err(VerifyError::Altered);
        }
        if frame.device_id != self.device_id {
            return Err(VerifyError::OtherDevice);
        }
        if now >= frame.expires_at.plus(CLOCK_SKEW) {
            return Err(VerifyError::Expired);
        }
        if frame.action.is_notice() {
            return Ok(Genuine::Notice);
        }
        self.place(frame, sha256(signed))
    }

    fn place(&mut self, frame: &CommandFrame, digest: [u8; 32]) -> Result<Genuine, VerifyError> {
        if let Some((_, before)) = self.accepted.iter().find(|(id, _)| *id == frame.command_id) {
            // One id with two contents, both signed: a defect of the server, or its key is lost.
            return if *before == digest { Ok(Genuine::Redelivered) } else { Err(VerifyError::Replayed) };
        }
        if self.highest_seq.is_some_and(|highest| frame.seq <= highest) {
            return Err(VerifyError::Replayed);
        }
        self.highest_seq = Some(frame.seq);
        if self.accepted.len() == REMEMBERED_MAX {
            self.accepted.pop_front();
        }
        self.accepted.push_back((frame.command_id, digest));
        Ok(Genuine::New)
    }
}

fn key_of(jws: &Compact<'_>, keys: &JwkSet) -> Option<Arc<VerifyingKey>> {
    keys.get(jws.kid()?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
    use serde_json::{Value, json};

    use super::super::frame::{Action, Incoming};
    use super::*;
    use crate::crypto::{SigningKey, sign_compact};
    use crate::kernel::Random;

    const NOW: i64 = 1_767_225_600_000;

    fn now() -> Timestamp {
        Timestamp::from_millis(NOW)
    }

    fn members(seq: u64, action: &str) -> Value {
        json!({
            "action": action,
            "command_id": format!("cmd_019b76da-a800-7000-8000-{seq:012}"),
            "seq": seq,
            "device_id": "BR-1",
            "issued_at": now(),
            "expires_at": Timestamp::from_millis(NOW + 60_000),
            "reason": "score 12 below 40",
            "payload": {"score": 12, "features": [0.5, "é"]},
        })
    }

    fn sealed(members: &Value, typ: &str, key: &SigningKey) -> Value {
        let canonical = jcs::canonicalize(members).unwrap();
        let mut frame = members.clone();
        frame["signature"] = sign_compact(typ, canonical.as_bytes(), key).into();
        frame["timestamp"] = NOW.into();
        frame
    }

    fn read(frame: &Value) -> CommandFrame {
        match Incoming::parse(&frame.to_string()) {
            Ok(Incoming::Command(command)) => *command,
            other => panic!("not a command: {other:?}"),
        }
    }

    fn key(seed: u64) -> SigningKey {
        SigningKey::generate(&Random::seeded(seed))
    }

    fn published(key: &SigningKey) -> JwkSet {
        JwkSet::from_value(&json!({"keys": [key.verifying().to_jwk().published_as(key.kid())]})).unwrap()
    }

    fn device() -> CommandVerifier {
        CommandVerifier::new("BR-1".parse().unwrap())
    }

    fn judge(frame: &Value) -> Result<Genuine, VerifyError> {
        device().verify(&read(frame), &published(&key(1)), now())
    }

    #[test]
    fn a_genuine_lock_is_obeyed_once_and_known_again() {
        let frame = read(&sealed(&members(7, "LOCK_SYSTEM"), COMMAND_TYP, &key(1)));
        assert!(frame.action == Action::LockSystem && frame.action.locks());
        let (mut verifier, keys) = (device(), published(&key(1)));
        assert_eq!(verifier.verify(&frame, &keys, now()), Ok(Genuine::New));
        assert_eq!(verifier.verify(&frame, &keys, now()), Ok(Genuine::Redelivered));
    }

    /// `timestamp` is for older clients and is not signed: it may say anything, and changes nothing.
    #[test]
    fn the_unsigned_timestamp_may_change_freely() {
        let good = sealed(&members(7, "LOCK_SYSTEM"), COMMAND_TYP, &key(1));
        for timestamp in [json!(0), json!("x"), Value::Null] {
            let mut changed = good.clone();
            changed["timestamp"] = timestamp;
            assert_eq!(judge(&changed), Ok(Genuine::New));
        }
        let mut absent = good;
        absent.as_object_mut().unwrap().remove("timestamp");
        assert_eq!(judge(&absent), Ok(Genuine::New));
    }

    #[test]
    fn whatever_is_changed_after_signing_is_seen() {
        let good = sealed(&members(7, "LOCK_SYSTEM"), COMMAND_TYP, &key(1));
        for (name, value) in [
            ("reason", json!("score 13 below 40")),
            ("action", json!("UNLOCK")),
            ("seq", json!(8)),
            ("device_id", json!("BR-2")),
            ("expires_at", json!("2036-01-01T00:00:00Z")),
            ("payload", json!({})),
            ("extra", json!(true)),
        ] {
            let mut tampered = good.clone();
            tampered[name] = value;
            assert_eq!(judge(&tampered), Err(VerifyError::Altered), "{name}");
        }
        let mut shorter = good;
        shorter.as_object_mut().unwrap().remove("payload");
        assert_eq!(judge(&shorter), Err(VerifyError::Altered));
    }

    #[test]
    fn only_the_published_key_and_the_right_type_of_signature_count() {
        let lock = members(7, "LOCK_SYSTEM");
        assert_eq!(judge(&sealed(&lock, COMMAND_TYP, &key(2))), Err(VerifyError::UnknownKey));
        let access_token = judge(&sealed(&lock, "at+jwt", &key(1)));
        assert_eq!(access_token, Err(VerifyError::Signature(JwsError::Typ)));

        // Another key under the published name.
        let header = json!({"alg": "ES256", "kid": key(1).kid(), "typ": COMMAND_TYP}).to_string();
        let payload = jcs::canonicalize(&lock).unwrap();
        let forged = forge(&header, &payload, &key(2));
        assert_eq!(judge(&with_signature(&lock, &forged)), Err(VerifyError::NotSigned));

        // A genuine signature over another genuine command.
        let other = sealed(&members(8, "UNLOCK"), COMMAND_TYP, &key(1));
        let borrowed = with_signature(&lock, other["signature"].as_str().unwrap());
        assert_eq!(judge(&borrowed), Err(VerifyError::Altered));
    }

    #[test]
    fn a_stripped_signature_and_alg_none_are_refused() {
        let lock = members(7, "LOCK_SYSTEM");
        assert!(Incoming::parse(&lock.to_string()).is_err(), "no signature at all");
        let payload = jcs::canonicalize(&lock).unwrap();
        let kid = key(1).kid().to_owned();
        for alg in ["none", "None", "HS256", "ES384"] {
            let header = json!({"alg": alg, "kid": kid, "typ": COMMAND_TYP}).to_string();
            let forged = forge(&header, &payload, &key(1));
            assert_eq!(
                judge(&with_signature(&lock, &forged)),
                Err(VerifyError::Signature(JwsError::Algorithm)),
                "{alg}"
            );
        }
        let good = sealed(&lock, COMMAND_TYP, &key(1));
        let whole = good["signature"].as_str().unwrap();
        let stripped = &whole[..=whole.rfind('.').unwrap()];
        for text in ["", "..", stripped] {
            assert!(matches!(judge(&with_signature(&lock, text)), Err(VerifyError::Signature(_))), "{text:?}");
        }
    }

    #[test]
    fn another_devices_command_and_an_expired_one_are_refused() {
        let mut other = members(7, "UNLOCK");
        other["device_id"] = "BR-2".into();
        assert_eq!(judge(&sealed(&other, COMMAND_TYP, &key(1))), Err(VerifyError::OtherDevice));
        let frame = read(&sealed(&members(7, "UNLOCK"), COMMAND_TYP, &key(1)));
        for (at_ms, expected) in [(89_999, Ok(Genuine::New)), (90_000, Err(VerifyError::Expired))] {
            let at = Timestamp::from_millis(NOW + at_ms);
            assert_eq!(device().verify(&frame, &published(&key(1)), at), expected, "after {at_ms} ms");
        }
    }

    /// A thief who kept an old `UNLOCK` must not open the device after a later lock; yet a server that redelivers
    /// everything that is open, oldest first, must be understood.
    #[test]
    fn an_old_command_cannot_follow_a_newer_one_unless_it_was_accepted_before() {
        let keys = published(&key(1));
        let frame = |seq, action| read(&sealed(&members(seq, action), COMMAND_TYP, &key(1)));
        let mut verifier = device();
        let steps = [
            (3, "LOCK_SYSTEM", Ok(Genuine::New)),
            (5, "CRITICAL_LOCK", Ok(Genuine::New)),
            (4, "UNLOCK", Err(VerifyError::Replayed)),
            (3, "LOCK_SYSTEM", Ok(Genuine::Redelivered)),
            (5, "UNLOCK", Err(VerifyError::Replayed)),
            (5, "CRITICAL_LOCK", Ok(Genuine::Redelivered)),
            (6, "UNLOCK", Ok(Genuine::New)),
            (0, "AUTH_OK", Ok(Genuine::Notice)),
        ];
        for (seq, action, expected) in steps {
            assert_eq!(verifier.verify(&frame(seq, action), &keys, now()), expected, "{seq} {action}");
        }
    }

    #[test]
    fn memory_of_commands_is_bounded_and_forgetting_never_means_obeying_twice() {
        let keys = published(&key(1));
        let mut verifier = device();
        let frames: Vec<_> = (1..=REMEMBERED_MAX as u64 + 1)
            .map(|seq| read(&sealed(&members(seq, "LOCK_SYSTEM"), COMMAND_TYP, &key(1))))
            .collect();
        for frame in &frames {
            assert_eq!(verifier.verify(frame, &keys, now()), Ok(Genuine::New));
        }
        assert_eq!(verifier.accepted.len(), REMEMBERED_MAX);
        assert_eq!(verifier.verify(&frames[0], &keys, now()), Err(VerifyError::Replayed));
    }

    #[test]
    fn a_refused_frame_changes_nothing() {
        let keys = published(&key(1));
        let mut verifier = device();
        let mut far = members(9_000, "LOCK_SYSTEM");
        far["device_id"] = "BR-2".into();
        assert!(verifier.verify(&read(&sealed(&far, COMMAND_TYP, &key(1))), &keys, now()).is_err());
        let near = read(&sealed(&members(1, "LOCK_SYSTEM"), COMMAND_TYP, &key(1)));
        assert_eq!(verifier.verify(&near, &keys, now()), Ok(Genuine::New));
    }

    fn with_signature(members: &Value, signature: &str) -> Value {
        let mut frame = members.clone();
        frame["signature"] = signature.into();
        frame
    }

    fn forge(header: &str, payload: &str, key: &SigningKey) -> String {
        use base64ct::{Base64UrlUnpadded, Encoding};
        let part = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
        let input = format!("{}.{}", part(header.as_bytes()), part(payload.as_bytes()));
        let signature = part(&key.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,200}|\\{(\"[a-z_]{1,12}\":[0-9\"a-z]{1,6},?){0,8}\\}") {
            let _ = Incoming::parse(&text);
        }
    }
}
