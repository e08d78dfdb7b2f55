//! Companies that use the appliance. Every object's key starts with its tenant.
//!
//! A suspended tenant's rows stay, and its people and devices are refused at the gate; commands still reach its devices.
//! A deleted tenant does not exist for anybody any more, though its row and its log stay behind.

mod index;
mod model;
mod plan;
mod store;

pub use index::TenantEntry;
pub use model::{AttestationPolicy, EnrollmentPolicy, KillSwitchEngaged, Retention, Tenant, TenantState};
pub use plan::{Feature, Licence, Limits, Overrides, PlanTier, Purchase, Quota, QuotaPeriod};
pub use store::{
    check_name, check_room, first, going, load, mark_purged, population, rows_in, save, set_first, set_population,
    with_audit_retention,
};

use std::sync::Arc;

use crate::kernel::ids::TenantId;
use crate::kernel::{Kind, Refusal, Result, limits};
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

    /// Living tenants behind `after`, oldest first, and the one to go on after when there are more.
    pub fn page(snapshot: &Snapshot, after: Option<TenantId>, limit: usize) -> Result<(Vec<Tenant>, Option<TenantId>)> {
        let limit = limit.clamp(1, limits::PAGE_MAX);
        let (found, more) = store::page(snapshot, after, limit)?;
        let next = found.last().filter(|_| more).map(|t| t.id);
        Ok((found, next))
    }

    /// The first tenant that was made: the one that `init` set up.
    pub fn first(snapshot: &Snapshot) -> Result<Option<Tenant>> {
        Self::find(snapshot, None)
    }

    /// The tenant of this id or name; the first one when none is named.
    pub fn find(snapshot: &Snapshot, wanted: Option<&str>) -> Result<Option<Tenant>> {
        if wanted.is_none()
            && let Some(first) = store::first_noted(snapshot)?
        {
            return Ok(Some(first));
        }
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
