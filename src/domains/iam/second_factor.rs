//! Second factors of a person: TOTP, recovery codes, passkeys.

use serde::{Deserialize, Serialize};

use super::Iam;
use super::model::User;
use crate::crypto::Secret;
use crate::kernel::context::Origin;
use crate::kernel::ids::{PasskeyId, TenantId, UserId};
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{Key, SECOND_FACTORS};
use crate::store::{Row, Tx};

/// A TOTP secret as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct TotpRow {
    /// The secret, sealed, in base64url.
    pub sealed: String,
    /// A secret counts only once its owner has shown a code of it.
    pub confirmed: bool,
    /// The step of the last code that was taken: none is taken twice.
    pub last_step: Option<u64>,
    pub created_at: Timestamp,
}

/// A passkey as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct PasskeyRow {
    pub id: PasskeyId,
    /// What its owner calls it.
    pub name: String,
    /// In base64url.
    pub credential_id: String,
    /// COSE_Key, in base64url.
    pub public_key: String,
    pub sign_count: u32,
    pub backup_eligible: bool,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
}

/// Everything that one person has beside a password.
#[derive(Clone, Serialize, Deserialize)]
pub struct FactorsRow {
    /// Whose.
    pub user: UserId,
    /// Where they belong.
    pub tenant: TenantId,
    #[serde(default)]
    pub(super) totp: Option<TotpRow>,
    /// Keyed hashes of the codes that are left, in base64url.
    #[serde(default)]
    pub(super) recovery: Vec<String>,
    #[serde(default)]
    pub(super) passkeys: Vec<PasskeyRow>,
}
impl Row for FactorsRow {}

impl FactorsRow {
    /// Whether there is a factor that a login must show.
    pub fn is_usable(&self) -> bool {
        self.totp.as_ref().is_some_and(|t| t.confirmed) || !self.passkeys.is_empty()
    }
}

/// What a shown code means for a login.
pub(super) enum FactorCheck {
    /// The person has no second factor.
    NotSetUp,
    /// One must be shown; by which means.
    Needed(&'static [&'static str]),
    /// It was shown, and used up.
    Shown,
    /// What was shown is not right.
    Wrong,
}

pub(super) fn key(tenant: TenantId, user: UserId) -> Key {
    Key::new().bytes(tenant.to_bytes()).bytes(user.to_bytes())
}

impl Iam {
    /// Judges and uses up a code in the caller's transaction.
    pub(super) fn check_factor(
        &self,
        tx: &mut Tx<'_>,
        user: &User,
        code: Option<&Secret>,
        _origin: &Origin,
    ) -> Result<FactorCheck> {
        let row: Option<FactorsRow> = tx.get(SECOND_FACTORS, key(user.tenant, user.id))?;
        if !row.is_some_and(|r| r.is_usable()) {
            return Ok(FactorCheck::NotSetUp);
        }
        Ok(match code {
            None => FactorCheck::Needed(&["otp", "passkey"]),
            Some(_) => FactorCheck::Wrong,
        })
    }
}
