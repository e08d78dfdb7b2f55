//! Every kind of id, in one registry. An id of one kind cannot be passed where another is due.
//!
//! Ours are UUIDv7 (RFC 9562) with a typed prefix: they sort by the time of their making, which keeps the store's keys
//! ascending. A device's id is the client's own string.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Random, Timestamp};

/// A text was not an id of the wanted kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct BadId(pub &'static str);

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What stands before the underscore.
            pub const PREFIX: &'static str = $prefix;
            /// All zeros: smaller than any real id.
            pub const NIL: Self = Self(0);

            /// A fresh id: the present millisecond, then 74 random bits.
            pub fn generate(now: Timestamp, random: &Random) -> Self {
                let ms = u64::try_from(now.as_millis()).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(ms, &random.bytes()).into_uuid().as_u128())
            }

            /// For keys: big-endian, so that keys sort by time.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The id that was stored as these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), uuid::Uuid::from_u128(self.0).as_hyphenated())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(s: &str) -> Result<Self, BadId> {
                const BAD: BadId = BadId(concat!("is not an id of the form ", $prefix, "_<uuid>"));
                let text = s.strip_prefix(concat!($prefix, "_")).ok_or(BAD)?;
                // One spelling only: 36 characters, lower case. Other spellings would be other keys to a cache.
                if text.len() != 36 || text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(BAD);
                }
                uuid::Uuid::try_parse(text).map(|u| Self(u.as_u128())).map_err(|_| BAD)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

ids! {
    /// A company that uses the appliance.
    TenantId = "ten";
    /// A person.
    UserId = "usr";
    /// A caller without an account, for as long as its token lives.
    AnonymousId = "anon";
    /// One login of a user, or one enrollment of a device.
    SessionId = "ses";
    /// One access token (`jti`).
    TokenId = "tok";
    /// An enrollment token.
    EnrollmentId = "enr";
    /// A role that a tenant made for itself.
    RoleId = "rol";
    /// A team of people.
    TeamId = "tea";
    /// An API key or an instance token.
    ApiKeyId = "key";
    /// A passkey of a person.
    PasskeyId = "pky";
    /// An invitation or a password reset: a link that works once.
    LinkId = "lnk";
    /// An audit entry.
    AuditId = "aud";
    /// A kill-switch command or notice.
    CommandId = "cmd";
    /// One accepted heartbeat.
    SignalId = "sig";
    /// An integration: where events of a tenant are sent.
    IntegrationId = "int";
    /// One request, where the client named none.
    RequestId = "req";
}

/// A device's own name for itself: 1 to 64 characters of `[A-Za-z0-9._:-]`, unique within its tenant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    /// The pattern, for the OpenAPI document.
    pub const PATTERN: &'static str = "^[A-Za-z0-9._:-]{1,64}$";

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        let fits = (1..=64).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
        if fits { Ok(Self(s.into())) } else { Err(BadId("must be 1 to 64 characters of A-Z a-z 0-9 . _ : -")) }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DeviceId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A device's place in this appliance's memory and journal: dense, ascending, never reused, never on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceNo(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_as_written_and_no_other_spelling_is_taken() {
        let random = Random::seeded(1);
        let id = UserId::generate(Timestamp::from_millis(1_767_225_600_000), &random);
        let text = id.to_string();
        assert!(text.starts_with("usr_019b76da-a800-7"), "{text}");
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(UserId::from_bytes(id.to_bytes()), id);
        let simple = text.replace('-', "");
        for bad in [text.to_uppercase(), simple, text.replace("usr_", "ses_"), format!("{text}0"), String::new()] {
            assert!(bad.parse::<UserId>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn ids_sort_by_the_time_of_their_making() {
        let random = Random::seeded(2);
        let early = AuditId::generate(Timestamp::from_millis(1_000), &random);
        let late = AuditId::generate(Timestamp::from_millis(2_000), &random);
        assert!(early.to_bytes() < late.to_bytes());
    }

    #[test]
    fn a_device_id_has_no_room_for_tricks() {
        for good in ["a", "BR-1", "a.b_c:d-e", &"x".repeat(64)] {
            assert!(good.parse::<DeviceId>().is_ok(), "{good:?}");
        }
        for bad in ["", &"x".repeat(65), "a b", "a/b", "ä", "a\0", "a\n", "../x?"] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?} must be refused");
        }
    }
}
