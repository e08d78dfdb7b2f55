//! Enrollment tokens as those see them who look after devices: made, listed, revoked. The tokens themselves are shown once.
//!
//! Knows nothing of HTTP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::authority::Authority;
use super::enroll::{TokenSpec, make_token};
use super::model::EnrollmentTokenRow;
use super::permission::Permission;
use super::{Iam, setup};
use crate::domains::audit::{self, Action, NewEntry};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, EnrollmentId, TenantId, UserId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::store::Tx;
use crate::store::idempotency::{self, Once};
use crate::store::tables::{ENROLLMENT_TOKEN_IDS, ENROLLMENT_TOKENS, Key};

/// Enrollment tokens of one tenant. When it is reached, those that are over make room.
const TOKENS_MAX: usize = 1_000;

/// An enrollment token without its secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = EnrollmentToken)]
pub struct EnrollmentTokenView {
    /// `enr_...`
    #[schema(value_type = String)]
    pub id: EnrollmentId,
    /// Who will own the devices.
    #[schema(value_type = String)]
    pub owner: UserId,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// How many devices it has enrolled.
    pub uses: u32,
    /// How many it may enroll; null: any number.
    pub uses_max: Option<u32>,
    /// The one device it is for, and may enroll again; null: any new one.
    #[schema(value_type = Option<String>)]
    pub device_id: Option<DeviceId>,
    /// Whether it was revoked.
    pub revoked: bool,
}

impl From<EnrollmentTokenRow> for EnrollmentTokenView {
    fn from(row: EnrollmentTokenRow) -> Self {
        Self {
            id: row.id,
            owner: row.owner,
            created_at: row.created_at,
            expires_at: row.expires_at,
            uses: row.uses,
            uses_max: row.uses_max,
            device_id: row.device,
            revoked: row.revoked,
        }
    }
}

/// An enrollment token that was just made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedEnrollmentToken {
    /// `bre_...`. Shown once: null in the answer to a repeat of the request.
    pub token: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub details: EnrollmentTokenView,
}

/// Where a token stands by its id.
pub(super) fn key(tenant: TenantId, id: EnrollmentId) -> Key {
    Key::new().bytes(tenant.to_bytes()).bytes(id.to_bytes())
}

/// The tokens of a tenant that are over, when there is no room for another one.
///
/// # Errors
/// 409 `too_many_enrollment_tokens` when none of them is.
fn to_make_room(tx: &mut Tx<'_>, tenant: TenantId, now: Timestamp) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let places = tx.scan(ENROLLMENT_TOKEN_IDS, &Key::new().bytes(tenant.to_bytes()), TOKENS_MAX)?;
    if places.len() < TOKENS_MAX {
        return Ok(Vec::new());
    }
    let mut over = Vec::new();
    for (place, hash) in places {
        let row: Option<EnrollmentTokenRow> = tx.get(ENROLLMENT_TOKENS, Key::new().bytes(&hash))?;
        if row.is_none_or(|r| r.revoked || now >= r.expires_at || r.uses_max.is_some_and(|max| r.uses >= max)) {
            over.push((place, hash));
        }
    }
    if over.is_empty() {
        let detail = format!("The tenant has {TOKENS_MAX} valid enrollment tokens. Revoke some first.");
        return Err(Refusal::new(Kind::Conflict, "too_many_enrollment_tokens", detail).into());
    }
    Ok(over)
}

impl Iam {
    /// Makes an enrollment token; who asks for it will own the devices.
    ///
    /// # Errors
    /// 409 `too_many_enrollment_tokens`.
    pub async fn create_enrollment_token(
        &self,
        tenant: TenantId,
        spec: TokenSpec,
        authority: Authority,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<CreatedEnrollmentToken> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                authority.bound(tx, tenant, Permission::DevicesWrite)?;
                if let Some(first) = idempotency::recall(tx, tenant.to_bytes(), once.as_ref(), now)? {
                    return Ok(first);
                }
                // Who set up a gateway may have left since.
                let owner = match Self::load_user(tx, tenant, authority.by)? {
                    Some(user) => user.id,
                    None => setup::first_admin(tx, tenant)?.ok_or_else(Refusal::not_found)?,
                };
                for (place, hash) in to_make_room(tx, tenant, now)? {
                    tx.delete(ENROLLMENT_TOKENS, hash)?;
                    tx.delete(ENROLLMENT_TOKEN_IDS, place)?;
                }
                let (token, row) = make_token(tx, tenant, owner, &spec, now, &this.inner.random, &origin)?;
                let token = Some(token.expose().to_owned());
                let created = CreatedEnrollmentToken { token, details: row.into() };
                let again = CreatedEnrollmentToken { token: None, ..created.clone() };
                idempotency::remember(tx, tenant.to_bytes(), once.as_ref(), now, &again)?;
                Ok(created)
            })
            .await
    }

    /// A page of a tenant's enrollment tokens in the order of their making, and where the next one begins.
    pub async fn enrollment_tokens(
        &self,
        tenant: TenantId,
        after: Option<EnrollmentId>,
        limit: usize,
    ) -> Result<(Vec<EnrollmentTokenView>, Option<EnrollmentId>)> {
        self.inner
            .store
            .read_with(move |snapshot| {
                let prefix = Key::new().bytes(tenant.to_bytes());
                let after = after.map(|id| key(tenant, id));
                let (page, more) = snapshot.page(ENROLLMENT_TOKEN_IDS, &prefix, after, limit, |hash| {
                    let row: Option<EnrollmentTokenRow> = snapshot.get(ENROLLMENT_TOKENS, hash)?;
                    Ok(row.map(EnrollmentTokenView::from))
                })?;
                let next = page.last().filter(|_| more).map(|t| t.id);
                Ok((page, next))
            })
            .await
    }

    /// Revokes an enrollment token; devices that it enrolled stay. Again has no effect.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn revoke_enrollment_token(
        &self,
        tenant: TenantId,
        id: EnrollmentId,
        authority: Authority,
        origin: Origin,
    ) -> Result<()> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                authority.bound(tx, tenant, Permission::DevicesWrite)?;
                let hash = tx.get_raw(ENROLLMENT_TOKEN_IDS, key(tenant, id))?.ok_or_else(Refusal::not_found)?;
                let row: Option<EnrollmentTokenRow> = tx.get(ENROLLMENT_TOKENS, &hash)?;
                let mut row = row.ok_or_else(Refusal::not_found)?;
                if row.revoked {
                    return Ok(());
                }
                row.revoked = true;
                tx.put(ENROLLMENT_TOKENS, &hash, &row)?;
                let entry = NewEntry::new(Action::EnrollmentTokenRevoked, &origin).user(authority.by);
                let entry = entry.reason(id.to_string());
                audit::append(tx, tenant, this.inner.clock.now(), &this.inner.random, &entry).map(drop)
            })
            .await
    }
}
