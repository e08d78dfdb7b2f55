//! Tenant rows.

use std::sync::Arc;

use super::Tenants;
use super::model::Tenant;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;
use crate::store::Tx;
use crate::store::tables::{Key, TENANTS};

pub(super) fn key(id: TenantId) -> Key {
    Key::new().bytes(id.to_bytes())
}

/// Reads a tenant inside a change; `None` for a deleted one.
pub fn load(tx: &mut Tx<'_>, id: TenantId) -> Result<Option<Tenant>> {
    Ok(tx.get(TENANTS, key(id))?.filter(|t: &Tenant| !t.is_deleted()))
}

/// The first tenant that was made, inside a change: whose log holds what belongs to no tenant. It cannot be deleted.
pub fn first(tx: &mut Tx<'_>) -> Result<Option<TenantId>> {
    let found = tx.scan(TENANTS, &Key::new(), 1)?;
    let id = found.first().and_then(|(key, _)| key.first_chunk::<16>());
    Ok(id.map(|bytes| TenantId::from_bytes(*bytes)))
}

/// Writes a tenant; feeds the index of `registry` after the commit, where there is one yet.
pub fn save(tx: &mut Tx<'_>, registry: Option<&Tenants>, tenant: &Tenant) -> Result<()> {
    tx.put(TENANTS, key(tenant.id), tenant)?;
    if let Some(registry) = registry {
        let (index, tenant) = (Arc::clone(&registry.index), tenant.clone());
        tx.after_commit(move || index.apply(tenant));
    }
    Ok(())
}
