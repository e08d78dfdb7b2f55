//! Credentials of programs: API keys and instance tokens, as stored and as every request asks them.
//!
//! `br_live_<prefix>.<secret>` for a script that acts for a person, `bri_<prefix>.<secret>` for a gateway or an
//! integration. The prefix finds the key, the secret has 256 random bits. What is stored is HMAC-SHA-256 of the secret
//! under a key that is not in the data file, and no slow hash: Argon2 exists to make guessing dear where people choose
//! secrets, and nobody guesses 256 bits. On the hot path it would cost 50 ms and 19 MiB a request, which an attacker
//! could spend for us by sending rubbish.
//!
//! An API key never may what its maker may not at this very moment, and falls silent when its maker is shut out. An
//! instance token belongs to the tenant: it outlives who made it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use arc_swap::ArcSwap;
use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::permission::PermissionSet;
use crate::crypto::{constant_time_eq, hex, hmac_sha256};
use crate::kernel::ids::{ApiKeyId, DeviceId, TenantId, UserId};
use crate::kernel::network::Network;
use crate::kernel::rate::SlidingWindow;
use crate::kernel::{Random, Result, Timestamp};
use crate::store::tables::API_KEYS;
use crate::store::{Row, Snapshot};

/// What a credential is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// A script that acts for the person who made it.
    Api,
    /// A gateway or an integration of the tenant.
    Instance,
}

impl KeyKind {
    /// What its texts begin with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Api => "br_live_",
            Self::Instance => "bri_",
        }
    }
}

/// What an instance token is good for, and nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// One integration, by its name; of devices it sees what its scopes say.
    Integration(String),
    /// These devices; no other exists for it.
    Devices(BTreeSet<DeviceId>),
}

/// A secret of the past that still works during a rotation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PreviousSecret {
    pub hash: String,
    pub until: Timestamp,
}

/// A stored credential.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ApiKeyRow {
    pub id: ApiKeyId,
    pub tenant: TenantId,
    pub kind: KeyKind,
    /// For people.
    pub name: String,
    /// Finds the key; no secret. Stays through rotations.
    pub prefix: String,
    /// Keyed hash of the secret, in base64url.
    pub hash: String,
    pub previous: Option<PreviousSecret>,
    pub scopes: PermissionSet,
    pub created_by: UserId,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    /// Where it may be used from; empty: anywhere.
    pub allow: Vec<Network>,
    pub requests_per_minute: u32,
    pub bound: Option<Bound>,
    pub revoked_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub last_used_ip: Option<String>,
}
impl Row for ApiKeyRow {}

const PREFIX_BYTES: usize = 6;
const PREFIX_CHARS: usize = 2 * PREFIX_BYTES;
const SECRET_CHARS: usize = 43;

/// A fresh prefix: 12 hexadecimal digits.
pub(super) fn new_prefix(random: &Random) -> String {
    hex(&random.bytes::<PREFIX_BYTES>())
}

/// A fresh secret in base64url, and its keyed hash.
pub(super) fn new_secret(key: &[u8; 32], random: &Random) -> (Zeroizing<String>, String) {
    let bits = Zeroizing::new(random.bytes::<32>());
    let secret = Zeroizing::new(Base64UrlUnpadded::encode_string(bits.as_slice()));
    let hash = hash(key, &secret);
    (secret, hash)
}

fn hash(key: &[u8; 32], secret: &str) -> String {
    Base64UrlUnpadded::encode_string(&hmac_sha256(key, secret.as_bytes()))
}

/// A presented text taken apart: kind, prefix, secret. `None` for what cannot be one of ours.
pub(super) fn parse(text: &str) -> Option<(KeyKind, &str, &str)> {
    let (kind, rest) = [KeyKind::Api, KeyKind::Instance]
        .into_iter()
        .find_map(|kind| text.strip_prefix(kind.prefix()).map(|rest| (kind, rest)))?;
    let (prefix, secret) = rest.split_once('.')?;
    let hex = prefix.len() == PREFIX_CHARS && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut bits = Zeroizing::new([0_u8; 32]);
    let genuine_form = secret.len() == SECRET_CHARS && Base64UrlUnpadded::decode(secret, bits.as_mut_slice()).is_ok();
    (hex && genuine_form).then_some((kind, prefix, secret))
}

/// Whether a bearer credential is meant to be one of ours rather than a token.
pub fn looks_like_api_key(text: &str) -> bool {
    [KeyKind::Api, KeyKind::Instance].into_iter().any(|kind| text.starts_with(kind.prefix()))
}

/// The live side of one credential.
pub struct ApiKeyEntry {
    /// `key_...`
    pub id: ApiKeyId,
    /// Whose.
    pub tenant: TenantId,
    /// What it is.
    pub kind: KeyKind,
    /// Requests of the last minute.
    pub rate: SlidingWindow,
    revoked: AtomicBool,
    last_used_ms: AtomicI64,
    last_used_ip: ArcSwap<Option<IpAddr>>,
    last_used_dirty: AtomicBool,
    row: ArcSwap<ApiKeyRow>,
}

impl ApiKeyEntry {
    fn new(row: ApiKeyRow) -> Self {
        Self {
            id: row.id,
            tenant: row.tenant,
            kind: row.kind,
            rate: SlidingWindow::default(),
            revoked: AtomicBool::new(row.revoked_at.is_some()),
            last_used_ms: AtomicI64::new(row.last_used_at.map_or(0, Timestamp::as_millis)),
            last_used_ip: ArcSwap::from_pointee(row.last_used_ip.as_deref().and_then(|ip| ip.parse().ok())),
            last_used_dirty: AtomicBool::new(false),
            row: ArcSwap::from_pointee(row),
        }
    }

    /// What it was given when it was made.
    pub fn scopes(&self) -> PermissionSet {
        self.row.load().scopes
    }

    /// Who made it.
    pub fn created_by(&self) -> UserId {
        self.row.load().created_by
    }

    /// Requests a minute.
    pub fn requests_per_minute(&self) -> u32 {
        self.row.load().requests_per_minute
    }

    /// Whether it may be used from this address.
    pub fn admits(&self, ip: IpAddr) -> bool {
        let row = self.row.load();
        row.allow.is_empty() || row.allow.iter().any(|network| network.contains(ip))
    }

    /// Whether this device exists for it.
    pub fn sees_device(&self, id: &DeviceId) -> bool {
        match &self.row.load().bound {
            Some(Bound::Devices(devices)) => devices.contains(id),
            Some(Bound::Integration(_)) | None => true,
        }
    }

    /// Whether it is limited to some devices.
    pub fn is_bound_to_devices(&self) -> bool {
        matches!(self.row.load().bound, Some(Bound::Devices(_)))
    }

    /// Whether it has neither ended nor been revoked.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        !self.revoked.load(Ordering::Acquire) && now < self.row.load().expires_at
    }

    fn has_secret(&self, presented_hash: &str, now: Timestamp) -> bool {
        let row = self.row.load();
        let current = constant_time_eq(row.hash.as_bytes(), presented_hash.as_bytes());
        let previous = row.previous.as_ref().is_some_and(|p| {
            // Both comparisons are made, whatever the first one said.
            constant_time_eq(p.hash.as_bytes(), presented_hash.as_bytes()) & (now < p.until)
        });
        current | previous
    }

    /// Remembers that it was used; telemetry, to the second.
    pub fn touch(&self, ip: IpAddr, now: Timestamp) {
        let ms = now.as_millis();
        let same_address = **self.last_used_ip.load() == Some(ip);
        if same_address && ms - self.last_used_ms.load(Ordering::Relaxed) < 1_000 {
            return;
        }
        self.last_used_ms.store(ms, Ordering::Relaxed);
        if !same_address {
            self.last_used_ip.store(Arc::new(Some(ip)));
        }
        self.last_used_dirty.store(true, Ordering::Release);
    }

    /// When and from where it was last used.
    pub fn last_used(&self) -> (Option<Timestamp>, Option<IpAddr>) {
        let at = match self.last_used_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(Timestamp::from_millis(ms)),
        };
        (at, **self.last_used_ip.load())
    }

    /// Whether its use has changed since the last call: then it is to be written down.
    pub(super) fn take_dirty(&self) -> bool {
        self.last_used_dirty.swap(false, Ordering::AcqRel)
    }

    /// Takes [`ApiKeyEntry::take_dirty`] back: it could not be written down.
    pub(super) fn mark_dirty(&self) {
        self.last_used_dirty.store(true, Ordering::Release);
    }
}

#[derive(Default)]
pub(super) struct Index {
    by_prefix: papaya::HashMap<String, Arc<ApiKeyEntry>>,
}

impl Index {
    pub fn rebuild(&self, snapshot: &Snapshot) -> Result<()> {
        snapshot.rows::<ApiKeyRow>(API_KEYS, |_, row| {
            self.apply(row);
            Ok(())
        })
    }

    /// The credential with this secret. An unknown prefix costs the same work as a wrong secret.
    pub fn verify(&self, hash_key: &[u8; 32], text: &str, now: Timestamp) -> Option<Arc<ApiKeyEntry>> {
        let (kind, prefix, secret) = parse(text)?;
        let presented = hash(hash_key, secret);
        let found = self.by_prefix.pin().get(prefix).cloned();
        let Some(entry) = found.filter(|e| e.kind == kind) else {
            std::hint::black_box(constant_time_eq(presented.as_bytes(), presented.as_bytes()));
            return None;
        };
        (entry.has_secret(&presented, now) && entry.is_alive(now)).then_some(entry)
    }

    pub fn knows_prefix(&self, prefix: &str) -> bool {
        self.by_prefix.pin().contains_key(prefix)
    }

    /// The live entries of a tenant, for lists and for writing down their last use.
    pub fn all(&self) -> Vec<Arc<ApiKeyEntry>> {
        self.by_prefix.pin().values().cloned().collect()
    }

    pub fn get(&self, prefix: &str) -> Option<Arc<ApiKeyEntry>> {
        self.by_prefix.pin().get(prefix).cloned()
    }

    /// Only the writer calls this after start-up, as everything below.
    pub fn apply(&self, row: ApiKeyRow) {
        let pinned = self.by_prefix.pin();
        match pinned.get(&row.prefix) {
            // Two that were made in one commit might have drawn the same prefix: then only the first one works.
            Some(entry) if entry.id != row.id => {}
            Some(entry) => {
                entry.revoked.store(row.revoked_at.is_some(), Ordering::Release);
                entry.row.store(Arc::new(row));
            }
            None => drop(pinned.insert(row.prefix.clone(), Arc::new(ApiKeyEntry::new(row)))),
        }
    }

    /// Forgets a removed credential; who still holds the entry finds it revoked.
    pub fn remove(&self, prefix: &str) {
        if let Some(entry) = self.by_prefix.pin().remove(prefix) {
            entry.revoked.store(true, Ordering::Release);
        }
    }

    /// Forgets those of a tenant.
    pub fn remove_tenant(&self, tenant: TenantId) {
        let pinned = self.by_prefix.pin();
        for entry in pinned.values().filter(|k| k.tenant == tenant) {
            entry.revoked.store(true, Ordering::Release);
        }
        pinned.retain(|_, entry| entry.tenant != tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_spelling_and_one_secret() {
        let random = Random::seeded(1);
        let (secret, _) = new_secret(&[7; 32], &random);
        let prefix = new_prefix(&random);
        let text = format!("br_live_{prefix}.{}", *secret);
        assert_eq!(parse(&text), Some((KeyKind::Api, prefix.as_str(), secret.as_str())));
        let other_kind = text.replace("br_live_", "bri_");
        assert_eq!(parse(&other_kind).map(|(kind, ..)| kind), Some(KeyKind::Instance));
        for bad in [
            text.replace('.', "_"),
            text.to_uppercase(),
            format!("{text}A"),
            format!("{text}="),
            text.replace("br_live_", "br_test_"),
            format!("br_live_.{}", *secret),
            String::new(),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reading_panic(text in "\\PC{0,80}|br_live_[0-9a-f.]{0,60}") {
            let _ = parse(&text);
        }
    }
}
