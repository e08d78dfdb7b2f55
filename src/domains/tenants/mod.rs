//! Companies that use the appliance. Every object's key starts with its tenant.

use serde::{Deserialize, Serialize};

use crate::kernel::ids::TenantId;
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{Key, TENANTS};
use crate::store::{Row, Snapshot, Store, Tx};

/// Who may enroll a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnrollmentPolicy {
    /// Who holds an enrollment token, or a user with `devices:write`.
    #[default]
    Token,
    /// Everybody on the network; the configuration names the one tenant for which this may be.
    Open,
}

/// A stored tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tenant {
    /// `ten_...`
    pub id: TenantId,
    /// For people.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who may enroll a device.
    #[serde(default)]
    pub enrollment: EnrollmentPolicy,
    /// Whether a new device must attest its hardware.
    #[serde(default)]
    pub attestation_required: bool,
}
impl Row for Tenant {}

/// Companies.
#[derive(Clone)]
pub struct Tenants {
    store: Store,
}

impl Tenants {
    /// Those of this data file.
    pub const fn new(store: Store) -> Self {
        Self { store }
    }

    /// One tenant.
    pub async fn get(&self, id: TenantId) -> Result<Option<Tenant>> {
        self.store.read_with(move |snapshot| snapshot.get(TENANTS, key(id))).await
    }

    /// The first tenant that was made: the one that `init` set up.
    pub fn first(snapshot: &Snapshot) -> Result<Option<Tenant>> {
        Self::find(snapshot, None)
    }

    /// The tenant of this id or name; the first one when none is named.
    pub fn find(snapshot: &Snapshot, wanted: Option<&str>) -> Result<Option<Tenant>> {
        let mut found = None;
        snapshot.visit(TENANTS, &[], None, |_, value| {
            let tenant: Tenant = crate::store::codec::decode(value)?;
            if wanted.is_none_or(|w| tenant.name == w || tenant.id.to_string() == w) {
                found = Some(tenant);
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }
}

fn key(id: TenantId) -> Key {
    Key::new().bytes(id.to_bytes())
}

/// Reads a tenant inside a change.
pub fn load(tx: &mut Tx<'_>, id: TenantId) -> Result<Option<Tenant>> {
    tx.get(TENANTS, key(id))
}

/// The first tenant that was made, inside a change: whose log holds what belongs to no tenant.
pub fn first(tx: &mut Tx<'_>) -> Result<Option<TenantId>> {
    let found = tx.scan(TENANTS, &Key::new(), 1)?;
    let id = found.first().and_then(|(key, _)| key.first_chunk::<16>());
    Ok(id.map(|bytes| TenantId::from_bytes(*bytes)))
}

/// Writes a tenant.
pub fn save(tx: &mut Tx<'_>, tenant: &Tenant) -> Result<()> {
    tx.put(TENANTS, key(tenant.id), tenant)
}
