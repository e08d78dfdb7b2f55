//! API keys and instance tokens of a tenant: made, given a new secret, listed, revoked.
//!
//! Nobody makes or rotates a credential that may more than they may themselves: whoever rotates it holds its secret
//! afterwards. A secret is in the answer that made it and nowhere else. A revoked credential is removed, and the audit
//! log keeps its history.
//!
//! Knows nothing of HTTP.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Iam;
use super::api_key::{self, ApiKeyRow, Bound, KeyKind, PreviousSecret};
use super::permission::{Permission, PermissionSet};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::billing::Admitted;
use crate::domains::tenants::Quota;
use crate::kernel::context::Origin;
use crate::kernel::ids::{ApiKeyId, DeviceId, TenantId, UserId};
use crate::kernel::network::Network;
use crate::kernel::{Error, Kind, Random, Refusal, Result, Timestamp};
use crate::store::idempotency::Once;
use crate::store::tables::{API_KEYS, Key};
use crate::store::{Snapshot, Tx, codec, idempotency};

/// How far ahead a credential may end: a year, and the day that a leap year has more.
pub const LIFETIME_MAX: Duration = Duration::from_secs(366 * 86_400);
/// How long the old secret may go on working beside the new one.
pub const OVERLAP_MAX: Duration = Duration::from_secs(7 * 86_400);
/// API keys and instance tokens, together, that a tenant may have alive.
pub const PER_TENANT_MAX: usize = 1_000;
/// Last uses that one sweep writes down; the others follow with the next.
const LAST_USES_PER_SWEEP_MAX: usize = 1_000;
/// Two prefixes in a row that are taken mean that the random source is broken, not that prefixes run out.
const PREFIX_DRAWS_MAX: usize = 8;

/// A credential to be: bound, it is an instance token; else an API key.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// For people.
    pub name: String,
    /// What it may do.
    pub scopes: PermissionSet,
    /// In the future, at most [`LIFETIME_MAX`] ahead.
    pub expires_at: Timestamp,
    /// Where it may be used from; empty: anywhere.
    pub allow: Vec<Network>,
    /// Its rate.
    pub requests_per_minute: u32,
    /// What an instance token is good for.
    pub bound: Option<Bound>,
}

/// What an instance token is good for, as on the wire; exactly one member.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Bound)]
pub struct BoundView {
    /// One integration, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub integration: Option<String>,
    /// These devices; no other exists for the token. They may be enrolled later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 1000)]
    pub devices: Option<Vec<DeviceId>>,
}

impl From<Bound> for BoundView {
    fn from(bound: Bound) -> Self {
        match bound {
            Bound::Integration(name) => Self { integration: Some(name), devices: None },
            Bound::Devices(devices) => Self { integration: None, devices: Some(devices.into_iter().collect()) },
        }
    }
}

/// A credential as an administrator sees it: never its secret.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ApiKey)]
pub struct ApiKeyView {
    /// `key_...`
    #[schema(value_type = String)]
    pub id: ApiKeyId,
    /// For people.
    pub name: String,
    /// What its text begins with, up to the dot: tells keys apart in logs of other programs. No secret.
    pub prefix: String,
    /// `api` or `instance`.
    pub kind: KeyKind,
    /// What it may do. An API key never may what its maker may not at that moment.
    #[schema(value_type = Vec<String>)]
    pub scopes: PermissionSet,
    /// Addresses and networks that it may be used from; empty: anywhere.
    #[schema(value_type = Vec<String>)]
    pub allow: Vec<Network>,
    /// Its rate.
    pub requests_per_minute: u32,
    /// Only for an instance token: what it is good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<BoundView>,
    /// Who made it.
    #[schema(value_type = String)]
    pub created_by: UserId,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// When it was last used, to the second; null before the first time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// Where it was last used from.
    pub last_used_ip: Option<String>,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// A credential that was just made or got a new secret.
pub struct IssuedKey {
    /// What may be seen again.
    pub view: ApiKeyView,
    /// The whole text, which is never seen again; `None` when this repeats an answer that was given before.
    pub key: Option<Zeroizing<String>>,
}

impl Iam {
    /// Makes an API key or an instance token. A repeat with the same idempotency key gets the first answer without the
    /// secret.
    ///
    /// # Errors
    /// 422 for an expiry that is past or too far ahead; 403 `forbidden` for scopes beyond what `by` may at this moment;
    /// 409 `too_many_keys`.
    pub async fn create_api_key(
        &self,
        tenant: TenantId,
        by: UserId,
        new: NewKey,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<IssuedKey> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                if let Some(view) = idempotency::recall(tx, tenant.to_bytes(), once.as_ref(), now)? {
                    return Ok(IssuedKey { view, key: None });
                }
                if new.expires_at <= now || new.expires_at > now.plus(LIFETIME_MAX) {
                    let detail = "must be in the future, at most 366 days ahead";
                    return Err(Refusal::invalid("/expires_at", detail).into());
                }
                this.check_scopes(tx, tenant, by, new.scopes)?;
                let (seat, ended) = this.key_seat(tx, tenant, now)?;
                let prefix = free_prefix(&this.inner.random, |prefix| this.inner.api_keys.knows_prefix(prefix))?;
                for ended in &ended {
                    // Its end was its expiry, which the entry of its making names: there is nothing new to record.
                    this.forget_key(tx, ended)?;
                }
                seat.note(tx)?;
                let (secret, hash) = api_key::new_secret(&this.inner.api_key_key, &this.inner.random);
                let (kind, action) = match new.bound {
                    None => (KeyKind::Api, Action::ApiKeyCreated),
                    Some(_) => (KeyKind::Instance, Action::InstanceTokenCreated),
                };
                let row = ApiKeyRow {
                    id: ApiKeyId::generate(now, &this.inner.random),
                    tenant,
                    kind,
                    name: new.name.clone(),
                    prefix,
                    hash,
                    previous: None,
                    scopes: new.scopes,
                    created_by: by,
                    created_at: now,
                    expires_at: new.expires_at,
                    allow: new.allow.clone(),
                    requests_per_minute: new.requests_per_minute,
                    bound: new.bound.clone(),
                    revoked_at: None,
                    last_used_at: None,
                    last_used_ip: None,
                };
                this.save_key(tx, &row)?;
                let about = format!("until {}, scopes {}", row.expires_at, row.scopes.scope());
                this.note_key(tx, action, &row, &about, by, &origin)?;
                let view = this.view_of(&row);
                idempotency::remember(tx, tenant.to_bytes(), once.as_ref(), now, &view)?;
                Ok(IssuedKey { view, key: Some(text_of(&row, &secret)) })
            })
            .await
    }

    /// Gives an API key a new secret. The present one works on for `overlap`; one from a rotation before is void at
    /// once. A repeat with the same idempotency key gets the first answer without the secret, and changes nothing.
    ///
    /// # Errors
    /// `not_found`; 403 `forbidden` when the key may more than `by` may at this moment; 409 `key_expired`.
    pub async fn rotate_api_key(
        &self,
        tenant: TenantId,
        by: UserId,
        id: ApiKeyId,
        overlap: Duration,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<IssuedKey> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                if let Some(view) = idempotency::recall(tx, tenant.to_bytes(), once.as_ref(), now)? {
                    return Ok(IssuedKey { view, key: None });
                }
                let mut row = load(tx, tenant, KeyKind::Api, id)?;
                if now >= row.expires_at {
                    let detail = "The key has expired, and a new secret would not revive it. Make a new key.";
                    return Err(Refusal::new(Kind::Conflict, "key_expired", detail).into());
                }
                this.check_scopes(tx, tenant, by, row.scopes)?;
                let (secret, hash) = api_key::new_secret(&this.inner.api_key_key, &this.inner.random);
                let old = std::mem::replace(&mut row.hash, hash);
                row.previous = (!overlap.is_zero()).then(|| PreviousSecret { hash: old, until: now.plus(overlap) });
                this.save_key(tx, &row)?;
                let about = format!("the old secret works for {} s more", overlap.as_secs());
                this.note_key(tx, Action::ApiKeyRotated, &row, &about, by, &origin)?;
                let view = this.view_of(&row);
                idempotency::remember(tx, tenant.to_bytes(), once.as_ref(), now, &view)?;
                Ok(IssuedKey { view, key: Some(text_of(&row, &secret)) })
            })
            .await
    }

    /// Revokes a credential: the very next request with it is refused.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn revoke_api_key(
        &self,
        tenant: TenantId,
        kind: KeyKind,
        id: ApiKeyId,
        by: UserId,
        origin: Origin,
    ) -> Result<()> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let row = load(tx, tenant, kind, id)?;
                let action = match kind {
                    KeyKind::Api => Action::ApiKeyRevoked,
                    KeyKind::Instance => Action::InstanceTokenRevoked,
                };
                this.inner.billing.release(tx, tenant, Quota::ApiKeys)?;
                this.forget_key(tx, &row)?;
                this.note_key(tx, action, &row, "it is removed", by, &origin)
            })
            .await
    }

    /// One credential.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn api_key_view(&self, tenant: TenantId, kind: KeyKind, id: ApiKeyId) -> Result<ApiKeyView> {
        let this = self.clone();
        self.inner
            .store
            .read_with(move |snapshot| {
                let row: Option<ApiKeyRow> = snapshot.get(API_KEYS, place(tenant, id))?;
                let row = row.filter(|row| row.kind == kind).ok_or_else(Refusal::not_found)?;
                Ok(this.view_of(&row))
            })
            .await
    }

    /// Credentials of a tenant made before `before`, newest first; and the id to go on with, when there is more.
    pub async fn api_keys(
        &self,
        tenant: TenantId,
        kind: KeyKind,
        before: Option<ApiKeyId>,
        limit: usize,
    ) -> Result<(Vec<ApiKeyView>, Option<ApiKeyId>)> {
        let this = self.clone();
        self.inner.store.read_with(move |snapshot| this.page(snapshot, tenant, kind, before, limit)).await
    }

    fn page(
        &self,
        snapshot: &Snapshot,
        tenant: TenantId,
        kind: KeyKind,
        before: Option<ApiKeyId>,
        limit: usize,
    ) -> Result<(Vec<ApiKeyView>, Option<ApiKeyId>)> {
        let mut views: Vec<ApiKeyView> = Vec::new();
        let mut next = None;
        let prefix = Key::new().bytes(tenant.to_bytes());
        let below = before.map(|id| place(tenant, id));
        snapshot.visit_back(API_KEYS, &prefix, below.as_ref(), |_, bytes| {
            let row: ApiKeyRow = codec::decode(bytes)?;
            if row.kind != kind {
                return Ok(true);
            }
            if views.len() >= limit {
                next = views.last().map(|view| view.id);
                return Ok(false);
            }
            views.push(self.view_of(&row));
            Ok(true)
        })?;
        Ok((views, next))
    }

    /// Writes down when and from where credentials were last used, without waiting: a crash loses some seconds of it.
    pub(super) fn write_last_uses(&self) {
        let used: Vec<_> =
            self.inner.api_keys.all().into_iter().filter(|e| e.take_dirty()).take(LAST_USES_PER_SWEEP_MAX).collect();
        if used.is_empty() {
            return;
        }
        let entries = used.clone();
        let posted = self.inner.store.post(move |tx| {
            for entry in &entries {
                let key = place(entry.tenant, entry.id);
                // It may have been revoked since: then there is nothing to write.
                let Some(mut row) = tx.get::<ApiKeyRow>(API_KEYS, &key)? else { continue };
                let (at, ip) = entry.last_used();
                (row.last_used_at, row.last_used_ip) = (at, ip.map(|ip| ip.to_string()));
                tx.put(API_KEYS, &key, &row)?;
            }
            Ok(())
        });
        if let Err(e) = posted {
            tracing::debug!(error = %e, "the last uses of keys were not written down; the next sweep tries again");
            used.iter().for_each(|entry| entry.mark_dirty());
        }
    }

    /// Refuses scopes that this person may not hand on at this moment, by the roles that the transaction sees.
    fn check_scopes(&self, tx: &mut Tx<'_>, tenant: TenantId, by: UserId, scopes: PermissionSet) -> Result<()> {
        let forbidden = |detail: String| Error::from(Refusal::new(Kind::Forbidden, "forbidden", detail));
        if scopes.has(Permission::SystemAdmin) {
            return Err(forbidden("No key may have the scope system:admin.".to_owned()));
        }
        let own = match Self::load_user(tx, tenant, by)? {
            Some(user) if !user.disabled => self.permissions_of(&user),
            _ => PermissionSet::NONE,
        };
        let beyond: PermissionSet = scopes.iter().filter(|p| !own.has(*p)).collect();
        if beyond == PermissionSet::NONE {
            return Ok(());
        }
        let detail = format!("You cannot hand on what you may not do yourself: {}.", beyond.names().join(", "));
        Err(forbidden(detail))
    }

    /// A place for one more. Rows of expired credentials stay until a place is needed: then all of them are given up, and
    /// these are they. What is alive is held against the quota in any case.
    fn key_seat(&self, tx: &mut Tx<'_>, tenant: TenantId, now: Timestamp) -> Result<(Admitted, Vec<ApiKeyRow>)> {
        let rows = tx.scan(API_KEYS, &Key::new().bytes(tenant.to_bytes()), PER_TENANT_MAX)?;
        if rows.len() < PER_TENANT_MAX
            && let Ok(seat) = self.inner.billing.admit(tx, tenant, Quota::ApiKeys, 1)
        {
            return Ok((seat, Vec::new()));
        }
        let decoded = rows.iter().map(|(_, bytes)| codec::decode::<ApiKeyRow>(bytes)).collect::<Result<Vec<_>>>()?;
        let ended: Vec<ApiKeyRow> = decoded.into_iter().filter(|row| row.expires_at <= now).collect();
        if ended.is_empty() && rows.len() >= PER_TENANT_MAX {
            let detail = "The tenant has 1,000 living API keys and instance tokens. Revoke some that nobody uses.";
            return Err(Refusal::new(Kind::Conflict, "too_many_keys", detail).into());
        }
        let seat = self.inner.billing.admit_beside(tx, tenant, Quota::ApiKeys, 1, ended.len() as u64)?;
        Ok((seat, ended))
    }

    fn save_key(&self, tx: &mut Tx<'_>, row: &ApiKeyRow) -> Result<()> {
        tx.put(API_KEYS, place(row.tenant, row.id), row)?;
        let (iam, row) = (self.clone(), row.clone());
        tx.after_commit(move || iam.inner.api_keys.apply(row));
        Ok(())
    }

    fn forget_key(&self, tx: &mut Tx<'_>, row: &ApiKeyRow) -> Result<()> {
        tx.delete(API_KEYS, place(row.tenant, row.id))?;
        let (iam, prefix) = (self.clone(), row.prefix.clone());
        tx.after_commit(move || iam.inner.api_keys.remove(&prefix));
        Ok(())
    }

    fn note_key(
        &self,
        tx: &mut Tx<'_>,
        action: Action,
        row: &ApiKeyRow,
        about: &str,
        by: UserId,
        origin: &Origin,
    ) -> Result<()> {
        let reason = format!("{} \"{}\" ({}): {about}", row.id, row.name, row.prefix);
        let entry = NewEntry::new(action, origin).user(by).reason(reason);
        audit::append(tx, row.tenant, self.inner.clock.now(), &self.inner.random, &entry).map(drop)
    }

    /// The stored row, and of the living entry what is newer than it.
    fn view_of(&self, row: &ApiKeyRow) -> ApiKeyView {
        let live = self.inner.api_keys.get(&row.prefix).filter(|entry| entry.id == row.id);
        let (last_used_at, last_used_ip) = match live {
            Some(entry) => {
                let (at, ip) = entry.last_used();
                (at, ip.map(|ip| ip.to_string()))
            }
            None => (row.last_used_at, row.last_used_ip.clone()),
        };
        ApiKeyView {
            id: row.id,
            name: row.name.clone(),
            prefix: format!("{}{}", row.kind.prefix(), row.prefix),
            kind: row.kind,
            scopes: row.scopes,
            allow: row.allow.clone(),
            requests_per_minute: row.requests_per_minute,
            bound: row.bound.clone().map(BoundView::from),
            created_by: row.created_by,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at,
            last_used_ip,
            revoked: row.revoked_at.is_some(),
        }
    }
}

fn place(tenant: TenantId, id: ApiKeyId) -> Key {
    Key::new().bytes(tenant.to_bytes()).bytes(id.to_bytes())
}

fn load(tx: &mut Tx<'_>, tenant: TenantId, kind: KeyKind, id: ApiKeyId) -> Result<ApiKeyRow> {
    let row: Option<ApiKeyRow> = tx.get(API_KEYS, place(tenant, id))?;
    row.filter(|row| row.kind == kind).ok_or_else(|| Refusal::not_found().into())
}

fn text_of(row: &ApiKeyRow, secret: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("{}{}.{secret}", row.kind.prefix(), row.prefix))
}

fn free_prefix(random: &Random, taken: impl Fn(&str) -> bool) -> Result<String> {
    let mut draws = (0..PREFIX_DRAWS_MAX).map(|_| api_key::new_prefix(random));
    draws.find(|prefix| !taken(prefix)).ok_or_else(|| Error::internal("the random source repeats itself"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::cell::Cell;

    use super::*;
    use crate::domains::iam::{Role, RoleName, User};
    use crate::domains::tenants::Tenants;
    use crate::testkit::{Fault, Server};

    #[test]
    fn a_prefix_that_is_taken_is_drawn_again_but_not_for_ever() {
        let random = Random::seeded(7);
        let drawn = Cell::new(0);
        let taken_until = |n: usize| {
            let drawn = &drawn;
            drawn.set(0);
            move |_: &str| {
                drawn.set(drawn.get() + 1);
                drawn.get() < n
            }
        };
        assert_eq!(free_prefix(&random, taken_until(4)).unwrap().len(), 12);
        assert_eq!(drawn.get(), 4);
        assert!(free_prefix(&random, taken_until(usize::MAX)).is_err());
        assert_eq!(drawn.get(), PREFIX_DRAWS_MAX);
    }

    fn new_key(server: &Server, bound: Option<Bound>) -> NewKey {
        NewKey {
            name: "a script".to_owned(),
            scopes: PermissionSet::NONE.with(Permission::DevicesRead).with(Permission::KeysWrite),
            expires_at: server.clock.now().plus(Duration::from_secs(86_400)),
            allow: Vec::new(),
            requests_per_minute: 600,
            bound,
        }
    }

    /// Makes the change to the stored user, as an administrator's request does.
    async fn change_user(server: &Server, tenant: TenantId, id: UserId, change: fn(&mut User)) -> Result<(), Fault> {
        let iam = server.app().services.iam.clone();
        let store = server.app().services.store.clone();
        store
            .write(move |tx| {
                let mut user = Iam::load_user(tx, tenant, id)?.ok_or_else(Refusal::not_found)?;
                change(&mut user);
                iam.save_user(tx, &user)
            })
            .await?;
        Ok(())
    }

    /// The maker of a key is asked on every request: a person who was shut out must not act on through a script.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_key_lives_and_falls_with_its_maker_and_an_instance_token_does_not() -> Result<(), Fault> {
        let server = Server::start().await?;
        let iam = server.app().services.iam.clone();
        let tenant = server.app().services.store.read_with(Tenants::first).await?.ok_or("no tenant")?.id;
        let new = super::super::NewUser {
            username: "maker".to_owned(),
            display_name: None,
            email: None,
            roles: vec![RoleName::BuiltIn(Role::Admin)],
            password: None,
            system_admin: false,
        };
        let maker = iam.create_user(tenant, new, Origin::cli()).await?.id;
        let key = iam.create_api_key(tenant, maker, new_key(&server, None), None, Origin::cli()).await?;
        let bound = Bound::Integration("the ticket desk".to_owned());
        let token = iam.create_api_key(tenant, maker, new_key(&server, Some(bound)), None, Origin::cli()).await?;
        let (key, token) = (key.key.ok_or("no key")?, token.key.ok_or("no token")?);
        let mut client = server.client()?;
        let mut seen = Vec::new();
        let changes: [fn(&mut User); 4] = [
            |_| {},
            |user| user.roles = vec![RoleName::BuiltIn(Role::Manager)],
            |user| user.roles = Vec::new(),
            |user| user.disabled = true,
        ];
        for change in changes {
            change_user(&server, tenant, maker, change).await?;
            let of_key = client.get("/v1/devices", Some(&key)).await?.status;
            let nothing = "/v1/api-keys/key_00000000-0000-7000-8000-000000000000";
            let bearer = format!("Bearer {}", *key);
            let headers = [("authorization", bearer.as_str())];
            let writes = client.request(hyper::Method::DELETE, nothing, &headers, "".into()).await?.status;
            seen.push((of_key, writes, client.get("/v1/devices", Some(&token)).await?.status));
        }
        assert_eq!(seen, [(200, 404, 200), (200, 403, 200), (403, 403, 200), (401, 401, 200)]);
        Ok(())
    }

    /// Otherwise who may change keys but not lock devices would get a secret that locks them.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_rotates_a_key_that_may_more_than_they_may() -> Result<(), Fault> {
        let server = Server::start().await?;
        let iam = server.app().services.iam.clone();
        let tenant = server.app().services.store.read_with(Tenants::first).await?.ok_or("no tenant")?.id;
        let mut made = Vec::new();
        for (name, role) in [("full", Role::Admin), ("less", Role::Auditor)] {
            let new = super::super::NewUser {
                username: name.to_owned(),
                display_name: None,
                email: None,
                roles: vec![RoleName::BuiltIn(role)],
                password: None,
                system_admin: false,
            };
            made.push(iam.create_user(tenant, new, Origin::cli()).await?.id);
        }
        let [full, less] = made.try_into().map_err(|_| "two users")?;
        let id = iam.create_api_key(tenant, full, new_key(&server, None), None, Origin::cli()).await?.view.id;
        let refused = iam.rotate_api_key(tenant, less, id, Duration::ZERO, None, Origin::cli()).await.err();
        assert!(refused.is_some_and(|e| e.to_string().starts_with("forbidden")));
        assert!(iam.rotate_api_key(tenant, full, id, Duration::ZERO, None, Origin::cli()).await.is_ok());
        Ok(())
    }
}
