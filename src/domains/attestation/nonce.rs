//! Nonces: handed out, bound, used up once. Few may be open for one device, and few asked for by one network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use base64ct::{Base64UrlUnpadded, Encoding};

use super::Attestation;
use super::model::NonceRow;
use super::store::nonce_prefix;
use crate::crypto::sha256;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::network::network_of;
use crate::kernel::rate::{Quota, SlidingWindow};
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::store::codec;
use crate::store::tables::ATTESTATION_NONCES;

/// Nonces of one device that are neither used nor over.
const OPEN_PER_DEVICE_MAX: usize = 5;
/// Rows of one device that are kept: used ones are remembered, so that a replay is told from an unknown nonce.
const KEPT_PER_DEVICE_MAX: usize = 64;
/// Nonces a minute that one network may ask for by enrollment tokens, for names that nobody bears yet.
const PER_NETWORK: u32 = 600;
/// Nonces a minute that the enrolled devices of one network may ask for: a whole site behind one address, three times over.
const PER_NETWORK_ENROLLED: u32 = 30_000;
const NETWORKS_MAX: usize = 50_000;

/// Who asks for a nonce.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Asker {
    /// A device with its own token.
    Enrolled,
    /// Somebody with an enrollment token.
    Newcomer,
}

impl Asker {
    const fn quota(self) -> Quota {
        Quota::per_minute(match self {
            Self::Enrolled => PER_NETWORK_ENROLLED,
            Self::Newcomer => PER_NETWORK,
        })
    }
}

/// Nonces that each network asked for in the last minute.
#[derive(Default)]
pub(super) struct Asked(Mutex<HashMap<(IpAddr, Asker), SlidingWindow>>);

impl Asked {
    fn admit(&self, ip: IpAddr, asker: Asker, now: Timestamp) -> Result<()> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= NETWORKS_MAX {
            asked.retain(|(_, asker), window| !window.is_idle(asker.quota(), now));
        }
        if asked.len() >= NETWORKS_MAX {
            asked.clear();
        }
        let decision = asked.entry((network_of(ip), asker)).or_default().admit(asker.quota(), now);
        if decision.admitted {
            return Ok(());
        }
        let detail = "Too many nonces were asked for from this address in the last minute.";
        Err(Refusal::new(Kind::RateLimited, "rate_limited", detail).retry_after_s(decision.reset_s).into())
    }

    pub fn sweep(&self, now: Timestamp) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|(_, asker), window| !window.is_idle(asker.quota(), now));
    }
}

impl Attestation {
    /// Hands out 256 random bits for one device of one tenant, and says when they end.
    ///
    /// # Errors
    /// 429 `too_many_nonces` while five of the device's are open; 429 `rate_limited` for a network that asks too often.
    pub async fn new_nonce(
        &self,
        tenant: TenantId,
        device: DeviceId,
        from: Option<(IpAddr, Asker)>,
    ) -> Result<(String, Timestamp)> {
        if let Some((ip, asker)) = from {
            self.inner.asked.admit(ip, asker, self.inner.clock.now())?;
        }
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
                let is_open = |row: &NonceRow| row.used.is_none() && now < row.expires_at;
                let open = rows.iter().filter(|(_, row)| is_open(row)).count();
                if open >= OPEN_PER_DEVICE_MAX {
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
                tx.put(ATTESTATION_NONCES, prefix.bytes(hash), &NonceRow { expires_at, used: None })?;
                Ok(expires_at)
            })
            .await?;
        Ok((nonce, expires_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A site of ten thousand devices stands behind one address and renews all proofs within a minute; who merely holds
    /// an enrollment token has no need of so many.
    #[test]
    fn the_devices_of_one_site_do_not_use_up_what_strangers_may_ask_for() {
        let (asked, ip) = (Asked::default(), IpAddr::from([192, 0, 2, 1]));
        let admitted =
            |asker, times: u32| (0..times).filter(|_| asked.admit(ip, asker, Timestamp::EPOCH).is_ok()).count();
        assert_eq!(admitted(Asker::Enrolled, 10_000), 10_000);
        assert_eq!(admitted(Asker::Newcomer, 10_000), PER_NETWORK as usize);
        assert_eq!(admitted(Asker::Enrolled, 30_000), 20_000);
    }
}
