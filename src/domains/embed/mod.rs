//! The status widget: a page that others may show in a frame of theirs, if the company lists their origin, and that shows
//! as much as its token allows.
//!
//! A token is for one origin, lives for minutes, and has a type and an audience of its own: it opens nothing but the
//! widget's figures, and no other token opens those. The list is asked at each use, so an origin that was taken off it sees
//! nothing more.
//!
//! Knows nothing of HTTP.

pub mod api;
mod page;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::crypto::keyring::KeyRing;
use crate::crypto::{JwtPolicy, verify_jwt};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::devices::Devices;
use crate::domains::tenants::Tenants;
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, TokenId, UserId};
use crate::kernel::{Clock, Kind, Random, Refusal, Result, Timestamp};
use crate::store::tables::{EMBED_ORIGINS, Key};
use crate::store::{Row, Store};

/// Header type of an embed token.
const TYP: &str = "br-embed+jwt";
/// Whom it is for: nobody but the widget.
const AUDIENCE: &str = "blockremote-embed";
/// The longest life of a token.
pub const LIFETIME_MAX: Duration = Duration::from_secs(900);
/// Origins of one company.
pub const ORIGINS_MAX: usize = 20;
/// A device that was heard within this time is there.
const SEEN_WITHIN: Duration = Duration::from_secs(300);
const LEEWAY_S: u32 = 30;

/// A figure that the widget can show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EmbedFigure)]
pub enum Figure {
    /// Enrolled devices.
    Devices,
    /// Those that were heard in the last five minutes.
    Seen,
    /// Those that are blocked.
    Blocked,
}

impl Figure {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Devices, Self::Seen, Self::Blocked];
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct OriginsRow {
    origins: BTreeSet<String>,
}
impl Row for OriginsRow {}

/// What a token proves.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Whose figures.
    pub tenant: TenantId,
    /// The page that may show them.
    pub origin: String,
    /// Which.
    pub figures: Vec<Figure>,
    /// Until when.
    pub expires_at: Timestamp,
}

/// What the widget is made from.
pub struct Parts {
    /// The data file.
    pub store: Store,
    /// Whose it is.
    pub tenants: Tenants,
    /// What is counted.
    pub devices: Devices,
    /// Sign tokens.
    pub keys: KeyRing,
    /// Of every token.
    pub issuer: String,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
}

/// The status widget. Cheap to clone.
#[derive(Clone)]
pub struct Embed {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    policy: JwtPolicy,
    /// Only the writer changes it.
    origins: papaya::HashMap<TenantId, Arc<BTreeSet<String>>>,
}

fn not_listed() -> Refusal {
    let detail = "This origin is not on the company's list. Put it there with PUT /v1/embed/origins first.";
    Refusal::new(Kind::Forbidden, "origin_not_listed", detail)
}

impl Embed {
    /// Reads every list into memory.
    pub fn rebuild(parts: Parts) -> Result<Self> {
        let origins = papaya::HashMap::new();
        parts.store.read()?.rows::<OriginsRow>(EMBED_ORIGINS, |key, row| {
            if let Some(tenant) = key.first_chunk::<16>() {
                origins.pin().insert(TenantId::from_bytes(*tenant), Arc::new(row.origins));
            }
            Ok(())
        })?;
        let policy = JwtPolicy {
            issuer: parts.issuer.clone(),
            audience: AUDIENCE.to_owned(),
            typ: TYP.to_owned(),
            leeway_s: LEEWAY_S,
            max_lifetime_s: u32::try_from(LIFETIME_MAX.as_secs()).unwrap_or(u32::MAX),
        };
        Ok(Self { inner: Arc::new(Inner { parts, policy, origins }) })
    }

    /// Who may show the widget of a company; nobody's for a company that does not exist.
    pub fn origins(&self, tenant: TenantId) -> Arc<BTreeSet<String>> {
        let lives = self.inner.parts.tenants.entry(tenant).is_some();
        let found = self.inner.origins.pin().get(&tenant).cloned().filter(|_| lives);
        found.unwrap_or_default()
    }

    /// Replaces the list.
    pub async fn set_origins(
        &self,
        tenant: TenantId,
        origins: BTreeSet<String>,
        by: UserId,
        origin: Origin,
    ) -> Result<()> {
        let this = self.clone();
        self.inner
            .parts
            .store
            .write(move |tx| {
                let parts = &this.inner.parts;
                tx.put(EMBED_ORIGINS, Key::new().bytes(tenant.to_bytes()), &OriginsRow { origins: origins.clone() })?;
                let listed = origins.iter().cloned().collect::<Vec<_>>().join(" ");
                let what = if listed.is_empty() { "nobody may show the widget".to_owned() } else { listed };
                let entry = NewEntry::new(Action::EmbedOriginsChanged, &origin).user(by).reason(what);
                audit::append(tx, tenant, parts.clock.now(), &parts.random, &entry)?;
                let (inner, origins) = (Arc::clone(&this.inner), Arc::new(origins.clone()));
                tx.after_commit(move || {
                    inner.origins.pin().insert(tenant, origins);
                });
                Ok(())
            })
            .await
    }

    /// Makes a token for pages of one origin.
    ///
    /// # Errors
    /// 403 `origin_not_listed`.
    pub async fn mint(
        &self,
        tenant: TenantId,
        page: String,
        figures: Vec<Figure>,
        lifetime: Duration,
        by: UserId,
        origin: Origin,
    ) -> Result<(String, Timestamp)> {
        if !self.origins(tenant).contains(&page) {
            return Err(not_listed().into());
        }
        let parts = &self.inner.parts;
        let (now, jti) = (parts.clock.now(), TokenId::generate(parts.clock.now(), &parts.random));
        let expires_at = now.plus(lifetime.min(LIFETIME_MAX));
        let claims = json!({
            "iss": parts.issuer,
            "aud": AUDIENCE,
            "sub": by,
            "tenant": tenant,
            "jti": jti,
            "iat": now.as_secs(),
            "nbf": now.as_secs(),
            "exp": expires_at.as_secs(),
            "typ": "embed",
            "origin": page,
            "figures": figures,
        });
        let this = self.clone();
        parts
            .store
            .write(move |tx| {
                let parts = &this.inner.parts;
                let what = format!("{jti} for {page}: {figures:?} until {expires_at}");
                let entry = NewEntry::new(Action::EmbedTokenCreated, &origin).user(by).reason(what);
                audit::append(tx, tenant, now, &parts.random, &entry).map(drop)
            })
            .await?;
        Ok((parts.keys.sign(TYP, claims.to_string().as_bytes()), expires_at))
    }

    /// What a token allows at this moment; `None` for whatever is none.
    pub fn verify(&self, token: &str) -> Option<Pass> {
        let parts = &self.inner.parts;
        let now = parts.clock.now();
        let key_of = |kid: &str| parts.keys.access_verifier(kid, now).map(|(key, _)| key);
        let claims = verify_jwt(token, &key_of, &self.inner.policy, now).ok()?;
        let tenant: TenantId = claims.text("tenant")?.parse().ok()?;
        let origin = claims.text("origin")?.to_owned();
        let figures = serde_json::from_value(claims.all.get("figures")?.clone()).ok()?;
        let entry = parts.tenants.entry(tenant).filter(|entry| !entry.is_suspended())?;
        let fits = claims.text("typ") == Some("embed") && self.origins(entry.id).contains(&origin);
        let expires_at = Timestamp::from_millis(claims.exp_s.saturating_mul(1_000));
        fits.then_some(Pass { tenant, origin, figures, expires_at })
    }

    /// The figures of a company, from memory.
    pub fn figures(&self, tenant: TenantId) -> [(Figure, usize); 3] {
        let parts = &self.inner.parts;
        let (now, devices) = (parts.clock.now(), parts.devices.of_tenant(tenant));
        let seen = devices.iter().filter(|d| d.last_seen().is_some_and(|at| now.since(at) < SEEN_WITHIN)).count();
        let blocked = devices.iter().filter(|d| d.is_blocked()).count();
        [(Figure::Devices, devices.len()), (Figure::Seen, seen), (Figure::Blocked, blocked)]
    }
}
