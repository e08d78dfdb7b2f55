//! Roles that a tenant makes for itself, beside the built-in ones.

use serde::{Deserialize, Serialize};

use super::permission::PermissionSet;
use crate::kernel::Timestamp;
use crate::kernel::ids::{RoleId, TenantId};
use crate::store::Row;

/// A stored role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoleRow {
    /// `rol_...`
    pub id: RoleId,
    /// Whose.
    pub tenant: TenantId,
    /// For people; unique in the tenant.
    pub name: String,
    /// What it allows.
    pub permissions: PermissionSet,
    /// When it was made.
    pub created_at: Timestamp,
}
impl Row for RoleRow {}
