//! Nonces: handed out, bound, used up once. Few may be open for one device, and few asked for by one network or with one
//! enrollment token; whoever holds such a token takes no place of an enrolled device. What nobody used is removed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use base64ct::{Base64UrlUnpadded, Encoding};

use super::Attestation;
use super::model::NonceRow;
use super::store::nonce_prefix;
use crate::crypto::sha256;
use crate::domains::devices;
use crate::kernel::ids::{DeviceId, EnrollmentId, TenantId};
use crate::kernel::network::network_of;
use crate::kernel::rate::{Quota, SlidingWindow};
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::store::codec;
use crate::store::tables::{ATTESTATION_NONCES, Key};

/// Nonces of one device that are neither used nor over, of those that it asked for itself; and as many of those that were
/// asked for in its name with one enrollment token.
const OPEN_PER_DEVICE_MAX: usize = 5;
/// The same with all enrollment tokens together.
const OPEN_BY_TOKENS_MAX: usize = 20;
/// Rows of one device that are kept: used ones are remembered, so that a replay is told from an unknown nonce.
const KEPT_PER_DEVICE_MAX: usize = 64;
/// Nonces a minute that one network may ask for by enrollment tokens, for names that nobody bears yet; and challenges of
/// TPMs.
const PER_NETWORK: u32 = 600;
/// Nonces a minute that the enrolled devices of one network may ask for: a whole site behind one address, three times over.
const PER_NETWORK_ENROLLED: u32 = 30_000;
/// Nonces and challenges a minute that one enrollment token is good for, from all networks together.
const PER_TOKEN: u32 = 12_000;
const SOURCES_MAX: usize = 50_000;
/// Rows that one sweep looks at, those that it removes at most, and those of one commit.
const SEEN_AT_ONCE: usize = 10_000;
const REMOVED_AT_ONCE: usize = 5_000;
const REMOVED_PER_COMMIT: usize = 500;

/// Who asks for a nonce, or to activate a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Asker {
    /// A device with its own token.
    Enrolled,
    /// Somebody with this enrollment token.
    Newcomer(EnrollmentId),
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Wish {
    Nonce,
    Activation,
}

/// Where requests come from that are counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Source {
    Devices(IpAddr, Wish),
    Strangers(IpAddr, Wish),
    Token(EnrollmentId),
}

impl Source {
    const fn quota(self) -> Quota {
        Quota::per_minute(match self {
            Self::Devices(..) => PER_NETWORK_ENROLLED,
            Self::Strangers(..) => PER_NETWORK,
            Self::Token(_) => PER_TOKEN,
        })
    }
}

/// What each source asked for in the last minute.
#[derive(Default)]
pub(super) struct Asked(Mutex<HashMap<Source, SlidingWindow>>);

impl Asked {
    /// Counts a request.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn admit(&self, asker: Asker, ip: Option<IpAddr>, wish: Wish, now: Timestamp) -> Result<()> {
        let network = ip.map(network_of);
        let (from, by) = match asker {
            Asker::Enrolled => (network.map(|network| Source::Devices(network, wish)), None),
            Asker::Newcomer(token) => {
                (network.map(|network| Source::Strangers(network, wish)), Some(Source::Token(token)))
            }
        };
        for (source, place) in [(from, "from this address"), (by, "with this enrollment token")] {
            let Some(source) = source else { continue };
            if let Some(wait_s) = self.wait_s(source, now) {
                let detail = format!("Too many nonces or challenges were asked for {place} in the last minute.");
                return Err(Refusal::new(Kind::RateLimited, "rate_limited", detail).retry_after_s(wait_s).into());
            }
        }
        Ok(())
    }

    /// How long a source has to wait that asked too often.
    fn wait_s(&self, source: Source, now: Timestamp) -> Option<u64> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= SOURCES_MAX {
            asked.retain(|source, window| !window.is_idle(source.quota(), now));
        }
        if asked.len() >= SOURCES_MAX {
            asked.clear();
        }
        let decision = asked.entry(source).or_default().admit(source.quota(), now);
        (!decision.admitted).then_some(decision.reset_s)
    }

    pub fn sweep(&self, now: Timestamp) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|source, window| !window.is_idle(source.quota(), now));
    }
}

/// Whether one more may be open for a device.
fn has_room(open: &[&NonceRow], by: Option<EnrollmentId>) -> bool {
    let own = open.iter().filter(|row| row.by == by).count();
    let by_tokens = open.iter().filter(|row| row.by.is_some()).count();
    own < OPEN_PER_DEVICE_MAX && (by.is_none() || by_tokens < OPEN_BY_TOKENS_MAX)
}

/// Where the sweep of the nonces goes on; lost without harm.
#[derive(Default)]
pub(super) struct Swept(Mutex<Key>);

/// Whose nonce a row is.
fn owner(key: &[u8]) -> Option<(TenantId, DeviceId)> {
    let (tenant, rest) = key.split_first_chunk::<16>()?;
    let name = rest.split(|byte| *byte == 0).next()?;
    Some((TenantId::from_bytes(*tenant), std::str::from_utf8(name).ok()?.parse().ok()?))
}

impl Attestation {
    /// Hands out 256 random bits for one device of one tenant, and says when they end. Without `ip` no network is counted.
    ///
    /// # Errors
    /// 429 `too_many_nonces` while five of the device's are open that this asker asked for; 429 `rate_limited` for a network
    /// or an enrollment token that asks too often.
    pub async fn new_nonce(
        &self,
        tenant: TenantId,
        device: DeviceId,
        asker: Asker,
        ip: Option<IpAddr>,
    ) -> Result<(String, Timestamp)> {
        self.inner.asked.admit(asker, ip, Wish::Nonce, self.inner.clock.now())?;
        let by = match asker {
            Asker::Enrolled => None,
            Asker::Newcomer(token) => Some(token),
        };
        let nonce = Base64UrlUnpadded::encode_string(&self.inner.random.bytes::<32>());
        let (this, hash) = (self.clone(), sha256(nonce.as_bytes()));
        let expires_at = self
            .inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let prefix = nonce_prefix(tenant, &device);
                let mut rows = Vec::new();
                for (key, value) in tx.scan(ATTESTATION_NONCES, &prefix, KEPT_PER_DEVICE_MAX * 2)? {
                    rows.push((key, codec::decode::<NonceRow>(&value)?));
                }
                let is_open = |row: &&NonceRow| row.used.is_none() && now < row.expires_at;
                let open: Vec<&NonceRow> = rows.iter().map(|(_, row)| row).filter(is_open).collect();
                if !has_room(&open, by) {
                    let detail = "Five nonces of this device are open. Use one, or wait until they end.";
                    let wait_s = this.inner.settings.nonce_ttl.as_secs();
                    return Err(Refusal::new(Kind::RateLimited, "too_many_nonces", detail)
                        .retry_after_s(wait_s)
                        .into());
                }
                // What was never used is forgotten at its end, what was used as late as room allows.
                let mut gone: Vec<(Timestamp, &Vec<u8>)> = Vec::new();
                for (key, row) in &rows {
                    match &row.used {
                        None if now >= row.expires_at => gone.push((Timestamp::EPOCH, key)),
                        Some(used) => gone.push((used.at, key)),
                        None => {}
                    }
                }
                gone.sort();
                let surplus = rows.len().saturating_sub(KEPT_PER_DEVICE_MAX - 1);
                let unused = gone.iter().filter(|(at, _)| *at == Timestamp::EPOCH).count();
                for (_, key) in gone.iter().take(surplus.max(unused)) {
                    tx.delete(ATTESTATION_NONCES, key)?;
                }
                let expires_at = now.plus(this.inner.settings.nonce_ttl);
                tx.put(ATTESTATION_NONCES, prefix.bytes(hash), &NonceRow { expires_at, by, used: None })?;
                Ok(expires_at)
            })
            .await?;
        Ok((nonce, expires_at))
    }

    /// Removes nonces whose time is over and that nobody used, or nobody who is enrolled: a part of the table, the next
    /// part the next time.
    ///
    /// # Errors
    /// Those of the data file.
    pub(super) async fn remove_old_nonces(&self) -> Result<()> {
        let place = &self.inner.nonces_swept.0;
        let from = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (now, registry) = (self.inner.clock.now(), self.inner.devices.clone());
        let (old, next) = self
            .inner
            .store
            .read_with(move |snapshot| {
                let mut old: Vec<Vec<u8>> = Vec::new();
                let (mut seen, mut next) = (0, Key::new());
                snapshot.visit(ATTESTATION_NONCES, from.as_ref(), None, |key, value| {
                    let row: NonceRow = codec::decode(value)?;
                    let is_known = || owner(key).is_some_and(|(tenant, id)| registry.entry(tenant, &id).is_some());
                    if now >= row.expires_at && (row.used.is_none() || !is_known()) {
                        old.push(key.to_vec());
                    }
                    seen += 1;
                    let go_on = seen < SEEN_AT_ONCE && old.len() < REMOVED_AT_ONCE;
                    if !go_on {
                        next = Key::new().bytes(key).byte(0);
                    }
                    Ok(go_on)
                })?;
                Ok((old, next))
            })
            .await?;
        for batch in old.chunks(REMOVED_PER_COMMIT) {
            let batch = batch.to_vec();
            let change = move |tx: &mut crate::store::Tx<'_>| {
                for key in &batch {
                    // Its time was over when it was looked at, so nobody uses it any more; but its device may be enrolled.
                    let enrolled = match owner(key) {
                        Some((tenant, id)) => devices::load(tx, tenant, &id)?.is_some(),
                        None => false,
                    };
                    let row: Option<NonceRow> = tx.get(ATTESTATION_NONCES, key)?;
                    if row.is_some_and(|row| row.used.is_none() || !enrolled) {
                        tx.delete(ATTESTATION_NONCES, key)?;
                    }
                }
                Ok(())
            };
            self.inner.store.write(change).await?;
        }
        *place.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A site of ten thousand devices stands behind one address and renews all proofs within a minute; who merely holds
    /// an enrollment token has no need of so many.
    #[test]
    fn the_devices_of_one_site_do_not_use_up_what_strangers_may_ask_for() {
        let (asked, ip) = (Asked::default(), Some(IpAddr::from([192, 0, 2, 1])));
        let token = Asker::Newcomer(EnrollmentId::from_bytes([1; 16]));
        let admitted = |asker, times: u32| {
            (0..times).filter(|_| asked.admit(asker, ip, Wish::Nonce, Timestamp::EPOCH).is_ok()).count()
        };
        assert_eq!(admitted(Asker::Enrolled, 10_000), 10_000);
        assert_eq!(admitted(token, 10_000), PER_NETWORK as usize);
        assert_eq!(admitted(Asker::Enrolled, 30_000), 20_000);
    }

    #[test]
    fn one_token_is_good_for_so_many_a_minute_wherever_they_are_asked_for() {
        let (asked, token) = (Asked::default(), Asker::Newcomer(EnrollmentId::from_bytes([1; 16])));
        let from = |n: u32| Some(IpAddr::from([10, 0, (n >> 8) as u8, n as u8]));
        let admit = |asker, n: u32| asked.admit(asker, from(n / 500), Wish::Nonce, Timestamp::EPOCH).is_ok();
        assert_eq!((0..20_000).filter(|n| admit(token, *n)).count(), PER_TOKEN as usize);
        assert!(admit(Asker::Newcomer(EnrollmentId::from_bytes([2; 16])), 30_000), "another token is not its fault");
    }

    #[test]
    fn each_asker_has_places_of_its_own_and_all_tokens_together_few() {
        let row = |by: Option<u8>| NonceRow {
            expires_at: Timestamp::EPOCH,
            by: by.map(|n| EnrollmentId::from_bytes([n; 16])),
            used: None,
        };
        let token = |n: u8| Some(EnrollmentId::from_bytes([n; 16]));
        for (open, by, room) in [
            (vec![], None, true),
            (vec![None; 4], None, true),
            (vec![None; 5], None, false),
            (vec![None; 5], token(1), true),
            (vec![Some(1); 5], None, true),
            (vec![Some(1); 5], token(1), false),
            (vec![Some(1); 5], token(2), true),
            (vec![Some(1); 20], token(2), false),
            (vec![Some(1); 20], None, true),
        ] {
            let rows: Vec<NonceRow> = open.iter().copied().map(row).collect();
            assert_eq!(has_room(&rows.iter().collect::<Vec<_>>(), by), room, "{open:?} {by:?}");
        }
    }
}
