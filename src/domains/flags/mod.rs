//! Feature flags of each company: kept in the data file, evaluated from memory.
//!
//! A change and its entry in the log are one commit; every evaluation after its answer sees it. Some flags switch parts of
//! the appliance itself ([`System`]); all others mean what the company's own programs make of them, which ask over the
//! remote evaluation protocol of OpenFeature (`api::ofrep`).
//!
//! Knows nothing of HTTP.

pub mod api;
mod history;
mod model;

pub use model::{
    CannotTell, Comparison, Condition, Definition, Evaluation, Flag, Reason, Rule, Schedule, Serve, Work, is_name,
};

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::domains::audit::{self, Action, NewEntry};
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Clock, Kind, Random, Refusal, Result};
use crate::store::tables::{FLAGS, Key};
use crate::store::{Store, Tx};

/// Flags of one company.
const FLAGS_MAX: usize = 500;

/// Flags that switch a part of the appliance for a company. Where there is no such flag, nothing is switched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    /// `false`: no new device is enrolled.
    RegistrationOpen,
    /// `true`: a device must prove its hardware, to enroll and later, whatever the company's policy says.
    StrictAttestation,
    /// `"simplified"`: heartbeats are judged by the hard rules alone, `"full"`: by everything, as without the flag.
    EngineMode,
}

impl System {
    /// The key of the flag.
    pub const fn key(self) -> &'static str {
        match self {
            Self::RegistrationOpen => "registration-open",
            Self::StrictAttestation => "strict-attestation",
            Self::EngineMode => "engine-mode",
        }
    }
}

/// The flags of one company, by key.
pub type All = BTreeMap<String, Arc<Flag>>;

/// Feature flags. Cheap to clone.
#[derive(Clone)]
pub struct Flags {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    random: Random,
    /// Replaced as a whole by the writer; who evaluates keeps what it got.
    tenants: papaya::HashMap<TenantId, Arc<All>>,
}

fn key_of(tenant: TenantId, key: &str) -> Key {
    Key::new().bytes(tenant.to_bytes()).text(key)
}

impl Flags {
    /// Reads every flag into memory.
    pub fn rebuild(store: Store, clock: Clock, random: Random) -> Result<Self> {
        let mut found: BTreeMap<TenantId, All> = BTreeMap::new();
        store.read()?.rows::<Flag>(FLAGS, |key, flag| {
            if let Some(tenant) = key.first_chunk::<16>() {
                let all = found.entry(TenantId::from_bytes(*tenant)).or_default();
                all.insert(flag.key.clone(), Arc::new(flag));
            }
            Ok(())
        })?;
        let tenants = papaya::HashMap::new();
        for (tenant, all) in found {
            tenants.pin().insert(tenant, Arc::new(all));
        }
        Ok(Self { inner: Arc::new(Inner { store, clock, random, tenants }) })
    }

    /// The flags of a company at this moment.
    pub fn all(&self, tenant: TenantId) -> Arc<All> {
        self.inner.tenants.pin().get(&tenant).cloned().unwrap_or_default()
    }

    /// One flag.
    ///
    /// # Errors
    /// `not_found`.
    pub fn get(&self, tenant: TenantId, key: &str) -> Result<Arc<Flag>> {
        self.all(tenant).get(key).cloned().ok_or_else(|| Refusal::not_found().into())
    }

    /// What a flag of the appliance says of a device; `None` where the company has no such flag or it says neither yes nor
    /// no.
    pub fn switch(&self, tenant: TenantId, system: System, device: &str) -> Option<bool> {
        self.says(tenant, system, device)?.as_bool()
    }

    /// The same of a flag that says a word.
    pub fn word(&self, tenant: TenantId, system: System, device: &str) -> Option<String> {
        self.says(tenant, system, device)?.as_str().map(str::to_owned)
    }

    fn says(&self, tenant: TenantId, system: System, device: &str) -> Option<Value> {
        let flag = self.all(tenant).get(system.key()).cloned()?;
        let mut context = Map::new();
        context.insert("targetingKey".to_owned(), Value::from(device));
        context.insert("device_id".to_owned(), Value::from(device));
        Some(flag.evaluate(&context, self.inner.clock.now(), &mut Work::SWITCH.clone()).ok()?.value.clone())
    }

    /// Puts a flag in place; says whether it is a new one.
    ///
    /// # Errors
    /// 409 `too_many_flags`.
    pub async fn put(
        &self,
        tenant: TenantId,
        key: String,
        definition: Definition,
        by: UserId,
        origin: Origin,
    ) -> Result<(Flag, bool)> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let before: Option<Flag> = tx.get(FLAGS, key_of(tenant, &key))?;
                let count = tx.scan(FLAGS, &Key::new().bytes(tenant.to_bytes()), FLAGS_MAX)?.len();
                if before.is_none() && count >= FLAGS_MAX {
                    let detail =
                        format!("The company has {FLAGS_MAX} flags, which is all it takes. Remove some first.");
                    return Err(Refusal::new(Kind::Conflict, "too_many_flags", detail).into());
                }
                let is_new = before.is_none();
                let was_killed = before.as_ref().and_then(|flag| flag.definition.killed).unwrap_or(false);
                let killed = Some(definition.killed.unwrap_or(was_killed));
                let flag = Flag {
                    key: key.clone(),
                    definition: Definition { killed, ..definition.clone() },
                    created_at: before.as_ref().map_or(now, |flag| flag.created_at),
                    updated_at: now,
                    updated_by: by,
                };
                tx.put(FLAGS, key_of(tenant, &key), &flag)?;
                let action = if is_new { Action::FlagCreated } else { Action::FlagUpdated };
                for part in history::told(&key, before.as_ref().map(|flag| &flag.definition), &flag.definition) {
                    this.note(tx, tenant, action, &part, by, &origin)?;
                }
                let (inner, shown) = (Arc::clone(&this.inner), Arc::new(flag.clone()));
                tx.after_commit(move || inner.publish(tenant, |all| drop(all.insert(shown.key.clone(), shown))));
                Ok((flag, is_new))
            })
            .await
    }

    /// Removes a flag.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove(&self, tenant: TenantId, key: String, by: UserId, origin: Origin) -> Result<()> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                if tx.get_raw(FLAGS, key_of(tenant, &key))?.is_none() {
                    return Err(Refusal::not_found().into());
                }
                tx.delete(FLAGS, key_of(tenant, &key))?;
                this.note(tx, tenant, Action::FlagDeleted, &key, by, &origin)?;
                let (inner, key) = (Arc::clone(&this.inner), key.clone());
                tx.after_commit(move || inner.publish(tenant, |all| drop(all.remove(&key))));
                Ok(())
            })
            .await
    }

    fn note(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        action: Action,
        what: &str,
        by: UserId,
        origin: &Origin,
    ) -> Result<()> {
        let entry = NewEntry::new(action, origin).user(by).reason(what);
        audit::append(tx, tenant, self.inner.clock.now(), &self.inner.random, &entry).map(drop)
    }
}

impl Inner {
    /// Only the writer calls this, so nobody else replaces the map between the look and the insertion.
    fn publish(&self, tenant: TenantId, change: impl FnOnce(&mut All)) {
        let pinned = self.tenants.pin();
        let mut all = pinned.get(&tenant).map(|all| All::clone(all)).unwrap_or_default();
        change(&mut all);
        pinned.insert(tenant, Arc::new(all));
    }
}
