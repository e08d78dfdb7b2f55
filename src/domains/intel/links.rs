//! Devices that have something in common which devices seldom have in common: a listed value, a rare package, the address
//! they come from, a key that was proven on both, the same motion to the bit.

use std::collections::BTreeMap;

use serde::Serialize;

use super::hunt::parts;
use super::sightings::{Seen, SightingRow, device_key, value_key, value_of};
use super::{Intel, Kind, Verdict};
use crate::crypto::VerifyingKey;
use crate::domains::attestation;
use crate::domains::devices::{DeviceEntry, Devices};
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Result, Timestamp};
use crate::store::Snapshot;
use crate::store::codec;
use crate::store::tables::{SIGHTED_BY, SIGHTINGS};

/// What more devices than this have in common says nothing of any two of them; a listed value does.
const COMMON_MAX: usize = 20;
/// Devices of one listed value, and links of one device, that are shown.
const LINKS_MAX: usize = 200;

/// What two devices have in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, utoipa::ToSchema)]
pub struct Shared {
    /// `indicator`, `package`, `address`, `attestation_key`, `enrolled_key` or `motion`.
    pub by: &'static str,
    /// What it is.
    pub value: String,
}

/// A device that has something in common with the one that is asked about.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DeviceLink)]
pub struct Link {
    /// Which.
    #[schema(value_type = String)]
    pub device_id: DeviceId,
    /// In what.
    pub shared: Vec<Shared>,
}

/// A value in a device's history.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Sideload {
    /// The package.
    pub package: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
    /// Until when, to within some hours.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// What is known of it now: `listed`, `clean` or `unknown`.
    pub verdict: &'static str,
}

impl Intel {
    /// The packages from outside the store that a device was seen with, by name.
    pub async fn sideloads(&self, entry: &DeviceEntry) -> Result<Vec<Sideload>> {
        let (this, tenant, device) = (self.clone(), entry.tenant, entry.id.clone());
        let read = move |snapshot: &Snapshot| {
            let mut out = Vec::new();
            for (seen, value, row) in history(snapshot, tenant, &device)? {
                if seen == Seen::Package {
                    let verdict = this.look_up(tenant, Kind::Package, &value).name();
                    let (first_seen, last_seen) = (row.first_seen, row.last_seen);
                    out.push(Sideload { package: value, first_seen, last_seen, verdict });
                }
            }
            Ok(out)
        };
        self.inner.store.read_with(read).await
    }

    /// The devices of the tenant that have something telling in common with this one, those with most of it first.
    pub async fn links(&self, devices: &Devices, entry: &DeviceEntry) -> Result<Vec<Link>> {
        let (this, tenant, id) = (self.clone(), entry.tenant, entry.id.clone());
        let own = entry.device().public_key.clone();
        let others = if own.is_some() { devices.of_tenant(tenant) } else { Vec::new() };
        let read = move |snapshot: &Snapshot| {
            let mut links: BTreeMap<DeviceId, Vec<Shared>> = BTreeMap::new();
            let shown = own.as_ref().and_then(|key| VerifyingKey::from_jwk(key).ok()).map(|key| key.thumbprint());
            for other in others.iter().filter(|other| other.id != id && other.device().public_key == own) {
                let value = shown.clone().unwrap_or_default();
                links.entry(other.id.clone()).or_default().push(Shared { by: "enrolled_key", value });
            }
            for (key, other) in attestation::sharing_key(snapshot, tenant, &id, LINKS_MAX)? {
                links.entry(other).or_default().push(Shared { by: "attestation_key", value: key });
            }
            for (seen, value, _) in history(snapshot, tenant, &id)? {
                let listed = this.is_listed(tenant, seen, &value);
                let by = match seen {
                    _ if listed => "indicator",
                    Seen::Package => "package",
                    Seen::Origin => "address",
                    Seen::Motion => "motion",
                    // Everybody looks names up.
                    Seen::Domain | Seen::Address => continue,
                };
                for other in havers(snapshot, tenant, seen, &value, listed)?.into_iter().filter(|other| *other != id) {
                    links.entry(other).or_default().push(Shared { by, value: value.clone() });
                }
            }
            let mut links: Vec<Link> =
                links.into_iter().map(|(device_id, shared)| Link { device_id, shared }).collect();
            links.sort_by_key(|link| std::cmp::Reverse(link.shared.len()));
            links.truncate(LINKS_MAX);
            Ok(links)
        };
        self.inner.store.read_with(read).await
    }

    fn is_listed(&self, tenant: TenantId, seen: Seen, value: &str) -> bool {
        seen.kind().is_some_and(|kind| matches!(self.look_up(tenant, kind, value), Verdict::Listed { .. }))
    }
}

/// Everything that a device was seen with.
fn history(snapshot: &Snapshot, tenant: TenantId, device: &DeviceId) -> Result<Vec<(Seen, String, SightingRow)>> {
    let prefix = device_key(tenant, device);
    let mut out = Vec::new();
    snapshot.visit_prefix(SIGHTINGS, &prefix, |key, value| {
        // What stands behind the values is how they are kept.
        let Some((seen, text)) = value_of(&prefix, key) else { return Ok(false) };
        out.push((seen, text, codec::decode(value)?));
        Ok(true)
    })?;
    Ok(out)
}

/// The devices that were seen with a value; none where too many were.
fn havers(snapshot: &Snapshot, tenant: TenantId, seen: Seen, value: &str, listed: bool) -> Result<Vec<DeviceId>> {
    let most = if listed { LINKS_MAX } else { COMMON_MAX };
    let mut out = Vec::new();
    snapshot.visit_prefix(SIGHTED_BY, &value_key(tenant, seen, value), |key, _| {
        out.extend(parts(key).map(|(_, _, _, device)| device));
        Ok(out.len() <= most)
    })?;
    if out.len() > most && !listed {
        out.clear();
    }
    Ok(out)
}
