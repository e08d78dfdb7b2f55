//! The first start: a tenant, an administrator, the signing keys and an enrollment token, in one commit.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};

use super::enroll::{TokenSpec, new_token};
use super::keys::{self, KeyCustody};
use super::model::User;
use super::permission::{Role, RoleName};
use crate::crypto::{Secret, password};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::tenants::{self, EnrollmentPolicy, Tenant};
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Clock, Error, Random, Result};
use crate::store::tables::{Key, META, USER_NAMES, USERS};
use crate::store::{Row, Snapshot, Store, Tx, codec};

/// What the first start shows once.
pub struct FirstSecrets {
    /// The tenant that was made.
    pub tenant: TenantId,
    /// The administrator's name.
    pub username: String,
    /// 120 random bits.
    pub password: Secret,
    /// For the first devices: 30 days, any number of them.
    pub enrollment_token: String,
}

/// The first administrator's name.
const ADMIN: &str = "admin";
const FIRST_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 86_400);

/// Under which the cost of password hashes stands in the table of single values.
const PASSWORD_COST: &str = "password_cost";

/// What a password hash costs on this machine, measured at the first start.
#[derive(Serialize, Deserialize)]
struct CostRow {
    m_cost_kib: u32,
    t_cost: u32,
    p_cost: u32,
}
impl Row for CostRow {}

impl From<password::Params> for CostRow {
    fn from(params: password::Params) -> Self {
        Self { m_cost_kib: params.m_cost_kib, t_cost: params.t_cost, p_cost: params.p_cost }
    }
}

/// What new password hashes cost: as measured at the first start, the default where nothing was.
pub(super) fn password_cost(snapshot: &Snapshot) -> Result<password::Params> {
    let stored: Option<CostRow> = snapshot.get(META, Key::new().text(PASSWORD_COST))?;
    Ok(stored.map_or_else(password::Params::default, |row| password::Params {
        m_cost_kib: row.m_cost_kib,
        t_cost: row.t_cost,
        p_cost: row.p_cost,
    }))
}

/// Sets up an empty data file. `cost` is what a password hash may cost on this machine, from now on; `enrollment` is the
/// first tenant's policy.
///
/// # Errors
/// When it is not empty: nothing is changed then.
pub fn set_up(
    store: &Store,
    custody: KeyCustody,
    cost: password::Params,
    enrollment: EnrollmentPolicy,
    clock: &Clock,
    random: &Random,
) -> Result<FirstSecrets> {
    let plain = Secret::new(Base64UrlUnpadded::encode_string(&random.bytes::<15>()));
    let hash = password::hash(&plain, &cost, random).map_err(Error::internal)?;
    let (clock, random) = (clock.clone(), random.clone());
    let (tenant, enrollment_token) = store.write_blocking(move |tx| {
        let now = clock.now();
        if !tx.scan(crate::store::tables::TENANTS, &Key::new(), 1)?.is_empty() {
            return Err(Error::internal("the data file is set up already"));
        }
        let origin = Origin::cli();
        let tenant = Tenant { enrollment, ..Tenant::new(TenantId::generate(now, &random), "default", now) };
        tenants::save(tx, None, &tenant)?;
        tenants::set_first(tx, tenant.id)?;
        tx.put(META, Key::new().text(PASSWORD_COST), &CostRow::from(cost))?;
        let user = User {
            id: UserId::generate(now, &random),
            tenant: tenant.id,
            username: ADMIN.to_owned(),
            display_name: None,
            email: None,
            password: Some(hash.clone()),
            roles: vec![RoleName::BuiltIn(Role::Admin)],
            system_admin: true,
            disabled: false,
            created_at: now,
            password_changed_at: Some(now),
            link: None,
        };
        save_user(tx, &user)?;
        keys::create(tx, &custody, now, &random)?;
        for (action, reason) in [
            (Action::ApplianceInitialized, "the data file was made"),
            (Action::TenantCreated, "the first tenant"),
            (Action::UserCreated, "the first administrator"),
            (Action::SigningKeyRotated, "the first signing keys"),
        ] {
            audit::append(tx, tenant.id, now, &random, &NewEntry::new(action, &origin).user(user.id).reason(reason))?;
        }
        let spec = TokenSpec { lifetime: FIRST_TOKEN_LIFETIME, uses_max: None, device: None };
        let token = new_token(tx, tenant.id, user.id, &spec, now, &random, &origin)?;
        Ok((tenant.id, token))
    })?;
    Ok(FirstSecrets { tenant, username: ADMIN.to_owned(), password: plain, enrollment_token })
}

pub(super) fn save_user(tx: &mut Tx<'_>, user: &User) -> Result<()> {
    let place = Key::new().bytes(user.tenant.to_bytes()).bytes(user.id.to_bytes());
    tx.put_raw(USER_NAMES, Key::new().text(&user.username.to_lowercase()), place.as_ref())?;
    tx.put(USERS, place, user)
}

/// The oldest administrator of a tenant: who owns devices that nobody else claims.
pub(super) fn first_admin(tx: &mut Tx<'_>, tenant: TenantId) -> Result<Option<UserId>> {
    const USERS_SCANNED_MAX: usize = 1_000;
    for (_, value) in tx.scan(USERS, &Key::new().bytes(tenant.to_bytes()), USERS_SCANNED_MAX)? {
        let user: User = codec::decode(&value)?;
        if user.is_administrator() {
            return Ok(Some(user.id));
        }
    }
    Ok(None)
}
