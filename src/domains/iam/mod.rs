//! Who somebody is and what they may do: users, sessions, tokens, enrollment.
//!
//! An access token is believed for its signature and its session: the signature is checked once, the session on every
//! request. A refresh family has one live token; what may happen when one is presented is decided by [`refresh`].
//!
//! Knows nothing of HTTP, cookies or headers.

pub mod anonymous;
pub mod api;
mod api_key;
mod api_keys;
mod authority;
mod challenge;
mod directory;
mod enroll;
mod enrollment_tokens;
mod fleet;
mod guesses;
mod index;
mod keys;
mod links;
mod login;
mod model;
mod names;
mod operator;
mod passkeys;
pub mod password_policy;
mod permission;
pub mod refresh;
mod roles;
mod second_factor;
mod session;
mod setup;
mod sweep;
mod teams;
mod tenancy;
mod token;
mod users;

pub use anonymous::AnonymousCaller;
pub use api_key::{ApiKeyEntry, Bound, KeyKind, looks_like_api_key};
pub use api_keys::{ApiKeyView, BoundView, IssuedKey, NewKey};
pub use authority::Authority;
pub use directory::UserEntry;
pub use enroll::{Enrolled, Enrollment, EnrollmentBy, TokenSpec};
pub use enrollment_tokens::{CreatedEnrollmentToken, EnrollmentTokenView};
pub use index::{FRESH, SessionEntry};
pub use keys::{
    KeyCustody, OutsideKeys, is_settled as keys_are_settled, load as load_keys, rotate as rotate_keys,
    settle as settle_keys,
};
pub use links::OneTimeLink;
pub use login::{Credentials, LoggedIn};
pub use model::{Binding, EndCause, SessionView, User};
pub use operator::{OperatorToken, OperatorUser, PasswordSet, SwitchedUser};
pub use passkeys::{Attempt, Site};
pub use permission::{Permission, PermissionSet, Role, RoleName};
pub use roles::RoleView;
pub use second_factor::{Evidence, Factors, PasskeyView, PendingTotp};
pub use session::{Presenter, TokenPair};
pub use setup::{FirstSecrets, set_up};
pub use teams::{MemberView, TeamDetail, TeamView};
pub use tenancy::{Counted, FirstAdmin, Made, NewAdmin, NewTenant, TenantChange};
pub use token::{AccessClaims, DEVICE_SCOPE};
pub use users::{CreatedUser, NewUser, UserChange, UserDetail};

use std::sync::Arc;
use std::time::Duration;

use crate::crypto::keyring::KeyRing;
use crate::crypto::{JwtPolicy, SealingKey, hmac_sha256, password};
use crate::domains::attestation::Attestation;
use crate::domains::billing::Billing;
use crate::domains::devices::Devices;
use crate::domains::flags::Flags;
use crate::domains::killswitch::KillSwitch;
use crate::domains::signals::Signals;
use crate::domains::tenants::{self, Tenants};
use crate::kernel::ids::{DeviceId, SessionId, TenantId, UserId};
use crate::kernel::{Clock, Random, Result};
use crate::store::Store;

/// What the configuration says about tokens and enrollment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `iss` of our tokens.
    pub issuer: String,
    /// `aud` of our tokens.
    pub audience: String,
    /// Life of an access token.
    pub access_ttl: Duration,
    /// Sliding life of a refresh token.
    pub refresh_ttl: Duration,
    /// Life of a refresh family, however often it rotates.
    pub refresh_absolute: Duration,
    /// Devices on the whole appliance.
    pub devices_max: usize,
    /// The tenant that anybody on the network may enroll into.
    pub open_tenant: Option<TenantId>,
    /// Enrollments a minute for each token.
    pub enroll_per_minute: u32,
    /// Refresh tokens a minute of each session.
    pub refresh_per_minute: u32,
    /// The relying party's id of passkeys; `None`: the host that the browser calls.
    pub relying_party: Option<String>,
    /// Whether a new passkey must show which make of authenticator holds it.
    pub passkey_attestation: bool,
    /// Callers without an account.
    pub anonymous: anonymous::Settings,
}

/// Password checks that may wait for a thread; more are refused.
const LOGINS_WAITING_MAX: usize = 64;

/// Identity. Cheap to clone.
#[derive(Clone)]
pub struct Iam {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    tenants: Tenants,
    devices: Devices,
    flags: Flags,
    billing: Billing,
    attestation: Attestation,
    killswitch: KillSwitch,
    signals: Signals,
    keys: KeyRing,
    clock: Clock,
    random: Random,
    settings: Settings,
    policy: JwtPolicy,
    password_cost: password::Params,
    refresh_key: [u8; 32],
    api_key_key: [u8; 32],
    recovery_key: [u8; 32],
    sealing: Arc<SealingKey>,
    challenges: challenge::Challenges,
    request_key: [u8; 32],
    sessions: index::Index,
    directory: directory::Directory,
    api_keys: api_key::Index,
    enroll_rates: papaya::HashMap<[u8; 32], Arc<crate::kernel::rate::SlidingWindow>>,
    anonymous: anonymous::Anonymous,
    argon: crate::kernel::pool::Pool,
    sweeping: sweep::Sweeping,
}

/// What identity is built from.
pub struct Parts {
    /// Companies.
    pub tenants: Tenants,
    /// The registry.
    pub devices: Devices,
    /// Flags that switch parts of the appliance.
    pub flags: Flags,
    /// What is paid, and what that allows.
    pub billing: Billing,
    /// For proofs that come with an enrollment.
    pub attestation: Attestation,
    /// For the lock that answers a stolen refresh token.
    pub killswitch: KillSwitch,
    /// Forgets removed devices.
    pub signals: Signals,
    /// Signs and verifies.
    pub keys: KeyRing,
    /// Derives the key of refresh tokens.
    pub sealing: Arc<SealingKey>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// The configuration's part.
    pub settings: Settings,
}

impl Iam {
    /// Reads people, living sessions and API keys of the data file into memory.
    pub fn rebuild(parts: Parts) -> Result<Self> {
        let store = parts.devices.store().clone();
        let sessions = index::Index::default();
        let directory = directory::Directory::default();
        let api_keys = api_key::Index::default();
        let snapshot = store.read()?;
        sessions.rebuild(&snapshot, parts.clock.now())?;
        directory.rebuild(&snapshot)?;
        api_keys.rebuild(&snapshot)?;
        // Rows of a deleted tenant are still being removed: nobody is to find them.
        for (tenant, _) in tenants::going(&snapshot)? {
            sessions.remove_tenant(tenant);
            directory.remove_tenant(tenant);
            api_keys.remove_tenant(tenant);
        }
        let password_cost = setup::password_cost(&snapshot)?;
        let lifetime_s = u32::try_from(parts.settings.access_ttl.as_secs()).unwrap_or(u32::MAX);
        let policy = JwtPolicy {
            issuer: parts.settings.issuer.clone(),
            audience: parts.settings.audience.clone(),
            typ: token::ACCESS_JWT_TYPE.to_owned(),
            leeway_s: token::LEEWAY_S,
            max_lifetime_s: lifetime_s.max(900),
        };
        let anonymous = anonymous::Anonymous::rebuild(
            anonymous::Parts {
                store: store.clone(),
                keys: parts.keys.clone(),
                random: parts.random.clone(),
                issuer: parts.settings.issuer.clone(),
                audience: parts.settings.audience.clone(),
                settings: parts.settings.anonymous,
            },
            &snapshot,
            parts.clock.now(),
        )?;
        let sweeping = sweep::Sweeping::new(&parts.clock);
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                tenants: parts.tenants,
                devices: parts.devices,
                flags: parts.flags,
                billing: parts.billing,
                attestation: parts.attestation,
                killswitch: parts.killswitch,
                signals: parts.signals,
                keys: parts.keys,
                clock: parts.clock,
                password_cost,
                refresh_key: parts.sealing.derive("refresh-token"),
                api_key_key: parts.sealing.derive("api-key"),
                recovery_key: parts.sealing.derive("recovery-code"),
                // A key of this process: which challenges were used is known to this process only, so those of an
                // earlier one must not count.
                challenges: challenge::Challenges::new(parts.random.bytes()),
                request_key: parts.sealing.derive("request-hash"),
                sealing: parts.sealing,
                random: parts.random,
                settings: parts.settings,
                policy,
                sessions,
                directory,
                api_keys,
                enroll_rates: papaya::HashMap::new(),
                anonymous,
                argon: crate::kernel::pool::Pool::for_this_machine(
                    "argon",
                    LOGINS_WAITING_MAX,
                    "Too many logins wait to be checked. Try again in a moment.",
                )?,
                sweeping,
            }),
        })
    }

    /// The published signing keys (RFC 7517).
    pub fn jwks(&self) -> Arc<str> {
        self.inner.keys.jwks()
    }

    /// The living or just ended session with this id; `None` when it never was or ended long ago.
    pub fn session(&self, id: SessionId) -> Option<Arc<SessionEntry>> {
        self.inner.sessions.get(id)
    }

    /// The live side of a person; `None` when they were removed.
    pub fn user_entry(&self, id: UserId) -> Option<Arc<UserEntry>> {
        self.inner.directory.get(id)
    }

    /// Callers without an account.
    pub fn anonymous(&self) -> &anonymous::Anonymous {
        &self.inner.anonymous
    }

    /// The relying party's id of passkeys where the configuration fixes one.
    pub fn relying_party(&self) -> Option<&str> {
        self.inner.settings.relying_party.as_deref()
    }

    /// The living API key or instance token with this text.
    pub fn api_key(&self, text: &str) -> Option<Arc<ApiKeyEntry>> {
        self.inner.api_keys.verify(&self.inner.api_key_key, text, self.inner.clock.now())
    }

    /// A hash of a request by which its repeat is known. Keyed, because a request may hold a password, which whoever has
    /// the data file alone must not be able to try out.
    pub fn hash_of_request(&self, request: &[u8]) -> [u8; 32] {
        hmac_sha256(&self.inner.request_key, request)
    }

    /// What a user's roles allow.
    pub fn permissions_of(&self, user: &User) -> PermissionSet {
        self.inner.directory.permissions_of(user.tenant, &user.roles, user.system_admin)
    }

    /// A user's stored row.
    pub async fn user(&self, tenant: TenantId, user: UserId) -> Result<Option<User>> {
        self.inner.store.read_with(move |s| model::user(s, tenant, user)).await
    }

    /// Sessions in memory, for the metrics.
    pub fn session_count(&self) -> usize {
        self.inner.sessions.len()
    }

    /// Whether this device's id is known in the tenant.
    pub fn knows_device(&self, tenant: TenantId, id: &DeviceId) -> bool {
        self.inner.devices.entry(tenant, id).is_some()
    }
}
