//! Companies that use the appliance. Every object's key starts with its tenant.
//!
//! A suspended tenant's rows stay, and its people and devices are refused at the gate; commands still reach its devices.
//! A deleted tenant does not exist for anybody any more, though its row and its log stay behind.

mod index;
mod model;
mod store;

pub use index::TenantEntry;
pub use model::{AttestationPolicy, EnrollmentPolicy, KillSwitchEngaged, Retention, Tenant, TenantState};
pub use store::{first, load, save};

use std::sync::Arc;

use crate::kernel::ids::TenantId;
use crate::kernel::{Kind, Refusal, Result};
use crate::store::tables::TENANTS;
use crate::store::{Snapshot, Store};

/// 403: the tenant was shut out. Its devices still receive commands.
pub fn suspended() -> Refusal {
    let detail = "The tenant is suspended. Ask the administrator of the appliance to let it in again.";
    Refusal::new(Kind::Forbidden, "tenant_suspended", detail)
}

/// Companies. Cheap to clone.
#[derive(Clone)]
pub struct Tenants {
    store: Store,
    index: Arc<index::Index>,
}

impl Tenants {
    /// Reads every tenant of the data file into the index.
    pub fn rebuild(store: Store) -> Result<Self> {
        let index = Arc::new(index::Index::default());
        index.rebuild(&store.read()?)?;
        Ok(Self { store, index })
    }

    /// The live entry of a tenant; `None` for a deleted one.
    pub fn entry(&self, id: TenantId) -> Option<Arc<TenantEntry>> {
        self.index.get(id)
    }

    /// Every live entry.
    pub fn entries(&self) -> Vec<Arc<TenantEntry>> {
        self.index.all()
    }

    /// One tenant; `None` for a deleted one.
    pub async fn get(&self, id: TenantId) -> Result<Option<Tenant>> {
        let found: Option<Tenant> = self.store.read_with(move |s| s.get(TENANTS, store::key(id))).await?;
        Ok(found.filter(|t| !t.is_deleted()))
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
            if !tenant.is_deleted() && wanted.is_none_or(|w| tenant.name == w || tenant.id.to_string() == w) {
                found = Some(tenant);
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }
}
