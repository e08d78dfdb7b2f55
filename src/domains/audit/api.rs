//! The log on the wire.

use super::Entry;
use crate::domains::iam::Permission;
use crate::gate::{Caller, Context, Params, Query, Reply, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::DeviceId;
use crate::kernel::{Refusal, Result};
use crate::list_of;

list_of! {
    /// A page of audit entries, newest first.
    AuditList of Entry
}

/// What to show.
pub struct LogQuery {
    device_id: Option<DeviceId>,
    limit: usize,
    cursor: Option<u64>,
}

impl Params for LogQuery {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("device_id", "Entries of this device; may be left out with the permission audit:read."),
        ("limit", "1 to 200, 50 when absent."),
        ("cursor", "next_cursor of the page before."),
    ];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self {
            device_id: values.parse("device_id", wrong),
            limit: values.limit(wrong),
            cursor: values.parse("cursor", wrong),
        }
    }
    fn device_id(&self) -> Option<&DeviceId> {
        self.device_id.as_ref()
    }
}

/// `GET /v1/audit/logs`
pub async fn logs(ctx: Context, Query(query): Query<LogQuery>) -> Result<Reply<AuditList>> {
    let bound = matches!(ctx.caller(), Caller::Machine(machine) if machine.key.is_bound_to_devices());
    let all = ctx.caller().may(Permission::AuditRead) && !bound;
    match &query.device_id {
        Some(id) => drop(ctx.device_entry(id)?),
        None if all => {}
        None => return Err(Refusal::invalid("?device_id", "is required without the permission audit:read").into()),
    }
    let page = ctx.services().audit.list(ctx.tenant()?, query.device_id, query.cursor, query.limit).await?;
    Ok(Reply::new(AuditList { data: page.entries, next_cursor: page.next.map(|seq| seq.to_string()) }))
}
