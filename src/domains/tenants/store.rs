//! Tenant rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Tenants;
use super::model::{Tenant, TenantState};
use crate::kernel::ids::TenantId;
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::store::tables::{Key, META, TENANTS, Table, trailing_number};
use crate::store::{Snapshot, Tx, codec};

pub(super) fn key(id: TenantId) -> Key {
    Key::new().bytes(id.to_bytes())
}

/// Reads a tenant inside a change; `None` for a deleted one.
pub fn load(tx: &mut Tx<'_>, id: TenantId) -> Result<Option<Tenant>> {
    Ok(tx.get(TENANTS, key(id))?.filter(|t: &Tenant| !t.is_deleted()))
}

/// Under which the id of the first tenant stands in the table of single values. The order of ids does not say it: they
/// are made by a clock that may have been set back, and two of one millisecond sort by chance.
const FIRST: &str = "first_tenant";

fn id_of(bytes: &[u8]) -> Option<TenantId> {
    bytes.first_chunk::<16>().map(|bytes| TenantId::from_bytes(*bytes))
}

/// Remembers which tenant `init` made.
pub fn set_first(tx: &mut Tx<'_>, id: TenantId) -> Result<()> {
    tx.put_raw(META, Key::new().text(FIRST), &id.to_bytes())
}

/// The first tenant that was made, inside a change: whose log holds what belongs to no tenant. It cannot be deleted.
pub fn first(tx: &mut Tx<'_>) -> Result<Option<TenantId>> {
    if let Some(id) = tx.get_raw(META, Key::new().text(FIRST))? {
        return Ok(id_of(&id));
    }
    // A data file from before this was noted.
    Ok(tx.scan(TENANTS, &Key::new(), 1)?.first().and_then(|(key, _)| id_of(key)))
}

/// [`first`] for readers.
pub(super) fn first_noted(snapshot: &Snapshot) -> Result<Option<Tenant>> {
    match snapshot.get_raw(META, Key::new().text(FIRST))?.as_deref().and_then(id_of) {
        Some(id) => snapshot.get(TENANTS, key(id)),
        None => Ok(None),
    }
}

/// Tenants that the appliance may ever have had: a look through all of them must stay a small thing.
const TENANTS_MAX: usize = 10_000;

/// Refuses a name that another living tenant bears, in whatever case.
///
/// # Errors
/// 409 `name_taken`.
pub fn check_name(tx: &mut Tx<'_>, name: &str, but: Option<TenantId>) -> Result<()> {
    let wanted = name.to_lowercase();
    for (_, value) in tx.scan(TENANTS, &Key::new(), TENANTS_MAX)? {
        let tenant: Tenant = codec::decode(&value)?;
        if !tenant.is_deleted() && Some(tenant.id) != but && tenant.name.to_lowercase() == wanted {
            let detail = "A tenant of this name exists. Choose another name.";
            return Err(Refusal::new(Kind::Conflict, "name_taken", detail).into());
        }
    }
    Ok(())
}

/// Refuses another tenant where there have been too many.
///
/// # Errors
/// 409 `tenant_limit_reached`.
pub fn check_room(tx: &mut Tx<'_>) -> Result<()> {
    if tx.scan(TENANTS, &Key::new(), TENANTS_MAX)?.len() < TENANTS_MAX {
        return Ok(());
    }
    let detail = "The appliance has had 10000 tenants and takes no more.";
    Err(Refusal::new(Kind::Conflict, "tenant_limit_reached", detail).into())
}

/// How many rows a table holds whose keys begin with the tenant, of all living tenants together, as this transaction
/// sees it: what the index in memory says comes after the commit, and two changes of one batch would not see each other.
/// The first look counts; from then on whoever makes or removes a row keeps the number by [`set_population`].
pub fn population(tx: &mut Tx<'_>, table: Table, name: &str) -> Result<u64> {
    if let Some(known) = tx.get_raw(META, Key::new().text(name))?.as_deref().and_then(trailing_number) {
        return Ok(known);
    }
    let mut counts: BTreeMap<TenantId, u64> = BTreeMap::new();
    tx.visit(table, &Key::new(), |row, _| {
        if let Some(tenant) = id_of(row) {
            *counts.entry(tenant).or_default() += 1;
        }
        Ok(true)
    })?;
    let mut sum = 0;
    for (tenant, count) in counts {
        if tx.get::<Tenant>(TENANTS, key(tenant))?.is_some_and(|row| !row.is_deleted()) {
            sum += count;
        }
    }
    Ok(sum)
}

/// Keeps the number of [`population`].
pub fn set_population(tx: &mut Tx<'_>, name: &str, rows: u64) -> Result<()> {
    tx.put_raw(META, Key::new().text(name), &rows.to_be_bytes())
}

/// How many rows of a table are this tenant's; looks at all of them.
pub fn rows_in(tx: &mut Tx<'_>, table: Table, tenant: TenantId) -> Result<u64> {
    let mut rows = 0;
    tx.visit(table, &key(tenant), |_, _| {
        rows += 1;
        Ok(true)
    })?;
    Ok(rows)
}

/// Remembers that every row of a deleted tenant is gone.
pub fn mark_purged(tx: &mut Tx<'_>, id: TenantId) -> Result<()> {
    let Some(mut tenant) = tx.get::<Tenant>(TENANTS, key(id))? else { return Ok(()) };
    if let TenantState::Deleted { purged, .. } = &mut tenant.state {
        *purged = true;
        tx.put(TENANTS, key(id), &tenant)?;
    }
    Ok(())
}

/// Deleted tenants whose rows are not all gone yet, and since when each is deleted.
pub fn going(snapshot: &Snapshot) -> Result<Vec<(TenantId, Timestamp)>> {
    let mut out = Vec::new();
    snapshot.rows::<Tenant>(TENANTS, |_, tenant| {
        if let TenantState::Deleted { at, purged: false } = tenant.state {
            out.push((tenant.id, at));
        }
        Ok(())
    })?;
    Ok(out)
}

/// Tenants whose log is kept for a time, deleted ones among them, with the days.
pub fn with_audit_retention(snapshot: &Snapshot) -> Result<Vec<(TenantId, u32)>> {
    let mut out = Vec::new();
    snapshot.rows::<Tenant>(TENANTS, |_, tenant| {
        out.extend(tenant.retention.audit_days.map(|days| (tenant.id, days)));
        Ok(())
    })?;
    Ok(out)
}

/// Living tenants behind `after`, in the order of their making, and whether there are more.
pub(super) fn page(snapshot: &Snapshot, after: Option<TenantId>, limit: usize) -> Result<(Vec<Tenant>, bool)> {
    snapshot.page(TENANTS, &Key::new(), after.map(key), limit, |value| {
        let tenant: Tenant = codec::decode(value)?;
        Ok(Some(tenant).filter(|t| !t.is_deleted()))
    })
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
