//! Client certificates of devices: issued by the internal CA, bound to one device, short-lived, revocable.
//!
//! Every request over mutual TLS asks [`Certificates::check`], so a revocation counts from its commit on, on connections
//! that are open, too; open streams hear of it by [`CertificateEntry::ended`]. A device that asks for its next
//! certificate must prove that it is the device: by the present one, or by its enrolled key. What it neither showed nor
//! got is revoked then, so it holds two at most.
//!
//! Knows nothing of TLS.

pub mod api;
mod model;

pub use model::{CertificateEntry, CertificateView, Issued, Row};

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::crypto::certs::CaPair;
use crate::crypto::client_certs::{self, ClientCertificate, Request};
use crate::crypto::{VerifyingKey, constant_time_eq};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::devices::{self, DeviceEntry, Devices};
use crate::domains::killswitch::Once;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId, UserId};
use crate::kernel::{Clock, Error, Kind, Random, Refusal, Result, Timestamp};
use crate::store::tables::{CLIENT_CERTIFICATES, Key};
use crate::store::{Store, Tx, codec, idempotency};

/// Living certificates of one device that people may issue.
const LIVING_PER_DEVICE_MAX: usize = 4;
/// Rows of one device that are looked at; ended ones are removed as new ones are made.
const ROWS_PER_DEVICE_MAX: usize = 64;
/// Certificates that an operator is shown at once.
const LISTED_MAX: usize = 1_000;

/// Client certificates. Cheap to clone.
#[derive(Clone)]
pub struct Certificates {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    devices: Devices,
    clock: Clock,
    random: Random,
    ca: CaPair,
    lifetime: Duration,
    by_hash: papaya::HashMap<[u8; 32], Arc<CertificateEntry>>,
}

/// How somebody who asks for a certificate may.
#[derive(Clone, Copy, Debug)]
pub enum Authority {
    /// A person or a program whose permissions were checked, or the operator on the box.
    Person(Option<UserId>),
    /// The device itself, and the certificate that it showed.
    Device(Option<[u8; 32]>),
}

fn revoked() -> Refusal {
    let why = "This client certificate was revoked. Ask for another one.";
    Refusal::new(Kind::Unauthenticated, "certificate_refused", why)
}

fn prefix(tenant: TenantId, device: &DeviceId) -> Key {
    Key::new().bytes(tenant.to_bytes()).text(device.as_str())
}

impl Certificates {
    /// Reads every certificate that still counts into memory.
    pub fn rebuild(devices: Devices, ca: CaPair, lifetime: Duration, clock: Clock, random: Random) -> Result<Self> {
        let store = devices.store().clone();
        let by_hash = papaya::HashMap::new();
        store.read()?.rows::<Row>(CLIENT_CERTIFICATES, |_, row| {
            if let Some(hash) = row.hash().filter(|_| row.revoked_at.is_none()) {
                by_hash.pin().insert(hash, Arc::new(CertificateEntry::of(&row)));
            }
            Ok(())
        })?;
        Ok(Self { inner: Arc::new(Inner { store, devices, clock, random, ca, lifetime, by_hash }) })
    }

    /// The certificate with this SHA-256, if it counts at this moment.
    ///
    /// # Errors
    /// 401 `certificate_refused`: it is none of ours, is revoked, has ended, or its device was removed.
    pub fn check(&self, sha256: &[u8; 32], now: Timestamp) -> Result<Arc<CertificateEntry>, Refusal> {
        let refused = |why: &'static str| Refusal::new(Kind::Unauthenticated, "certificate_refused", why);
        let found = self.inner.by_hash.pin().get(sha256).cloned();
        let Some(entry) = found else {
            return Err(refused("This client certificate is not known here, or was revoked. Ask for another one."));
        };
        if entry.has_ended() {
            return Err(revoked());
        }
        // It stays known: a clock that ran ahead comes back.
        if now > entry.expires_at {
            return Err(refused("This client certificate has expired. Ask for another one."));
        }
        if self.is_orphaned(&entry) {
            return Err(refused("The device of this client certificate was removed. Enroll it again."));
        }
        Ok(entry)
    }

    /// Whether its device was removed.
    pub fn is_orphaned(&self, entry: &CertificateEntry) -> bool {
        let device = self.inner.devices.entry(entry.tenant, &entry.device);
        device.is_none_or(|d| d.no != entry.device_no || d.is_removed())
    }

    /// Certificates that count at this moment.
    pub fn count(&self) -> usize {
        let now = self.inner.clock.now();
        self.inner.by_hash.pin().values().filter(|entry| now <= entry.expires_at && !entry.has_ended()).count()
    }

    /// Issues a certificate for the key of a PKCS 10 request.
    ///
    /// # Errors
    /// `not_found` for a device that is not there; `/csr` for what is no request; 403 `certificate_proof_required` for a
    /// device that neither showed a certificate of its own nor asks for its enrolled key; 409 `too_many_certificates`.
    pub async fn issue(
        &self,
        tenant: TenantId,
        device: &DeviceId,
        csr: &str,
        by: Authority,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<CertificateView> {
        let entry = self.inner.devices.entry(tenant, device).ok_or_else(Refusal::not_found)?;
        let request = Request::from_pem(csr).map_err(|e| Refusal::invalid("/csr", e.to_string()))?;
        let shown = match by {
            Authority::Person(_) => None,
            Authority::Device(shown) => self.proof(&entry, &request, shown)?,
        };
        let now = self.inner.clock.now();
        let (common_name, urn) = names(tenant, device);
        let lifetime = self.inner.lifetime;
        let names = (common_name, urn.as_str());
        let made = client_certs::issue(&self.inner.ca, &request, names, now, lifetime, &self.inner.random);
        self.keep(&entry, made.map_err(Error::internal)?, by, shown, once, origin).await
    }

    /// Makes a key and a certificate for it, for the operator on the box.
    ///
    /// # Errors
    /// As [`Certificates::issue`].
    pub async fn issue_with_key(
        &self,
        tenant: TenantId,
        device: &DeviceId,
        lifetime: Option<Duration>,
        origin: Origin,
    ) -> Result<(CertificateView, Zeroizing<String>)> {
        let entry = self.inner.devices.entry(tenant, device).ok_or_else(Refusal::not_found)?;
        let lifetime = lifetime.unwrap_or(self.inner.lifetime);
        let (common_name, urn) = names(tenant, device);
        let now = self.inner.clock.now();
        let made = client_certs::issue_with_key(&self.inner.ca, (common_name, &urn), now, lifetime, &self.inner.random);
        let (made, key) = made.map_err(Error::internal)?;
        let view = self.keep(&entry, made, Authority::Person(None), None, None, origin).await?;
        Ok((view, key))
    }

    /// The certificate that the device showed, if it did; else its enrolled key must be the one that is asked for.
    fn proof(&self, entry: &DeviceEntry, request: &Request, shown: Option<[u8; 32]>) -> Result<Option<[u8; 32]>> {
        let now = self.inner.clock.now();
        let own = shown.filter(|hash| {
            let found = self.check(hash, now);
            found.is_ok_and(|c| (c.tenant, c.device_no) == (entry.tenant, entry.no))
        });
        let enrolled = entry.device().public_key.as_ref().and_then(|jwk| VerifyingKey::from_jwk(jwk).ok());
        let same_key = enrolled.is_some_and(|key| constant_time_eq(&key.to_sec1(), request.key()));
        if own.is_none() && !same_key {
            let detail = "Show the device's present certificate, or ask for one of its enrolled key. The first one for another key is issued by a person.";
            return Err(Refusal::new(Kind::Forbidden, "certificate_proof_required", detail).into());
        }
        Ok(own)
    }

    async fn keep(
        &self,
        entry: &DeviceEntry,
        made: ClientCertificate,
        by: Authority,
        shown: Option<[u8; 32]>,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<CertificateView> {
        let (tenant, id, no) = (entry.tenant, entry.id.clone(), entry.no);
        let now = self.inner.clock.now();
        let row = Row::new(&made, tenant, id.clone(), no, now);
        let view = CertificateView::of(&row, made.cert_pem, self.inner.ca.cert_pem.clone());
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                if let Some(first) = idempotency::recall(tx, tenant.to_bytes(), once.as_ref(), now)? {
                    return Ok(first);
                }
                let device = devices::load(tx, tenant, &id)?.filter(|d| d.no == no).ok_or_else(Refusal::not_found)?;
                let living = this.living(tx, &row, now)?;
                // It may have been revoked while the renewal waited for its turn.
                if shown.is_some() && !living.iter().any(|row| row.hash() == shown) {
                    return Err(revoked().into());
                }
                match by {
                    Authority::Person(_) if living.len() >= LIVING_PER_DEVICE_MAX => {
                        let detail = format!(
                            "The device has {LIVING_PER_DEVICE_MAX} living certificates, which is all it may have. Revoke one first."
                        );
                        return Err(Refusal::new(Kind::Conflict, "too_many_certificates", detail).into());
                    }
                    Authority::Person(_) => {}
                    Authority::Device(_) => {
                        for old in living.into_iter().filter(|old| old.hash() != shown) {
                            this.end(tx, old, "superseded by a newer one", None, &origin)?;
                        }
                    }
                }
                tx.put(CLIENT_CERTIFICATES, row.key(), &row)?;
                let mut entry = NewEntry::new(Action::CertificateIssued, &origin)
                    .device(&device.id)
                    .reason(format!("client certificate {} until {}", row.serial, row.expires_at));
                if let Authority::Person(Some(user)) = by {
                    entry = entry.user(user);
                }
                audit::append(tx, tenant, now, &this.inner.random, &entry)?;
                idempotency::remember(tx, tenant.to_bytes(), once.as_ref(), now, &view)?;
                let (inner, live) = (Arc::clone(&this.inner), Arc::new(CertificateEntry::of(&row)));
                if let Some(hash) = row.hash() {
                    tx.after_commit(move || {
                        let _ = inner.by_hash.pin().insert(hash, live);
                    });
                }
                Ok(view.clone())
            })
            .await
    }

    /// The device's certificates that count; rows of those that do not are removed on the way.
    fn living(&self, tx: &mut Tx<'_>, new: &Row, now: Timestamp) -> Result<Vec<Row>> {
        let mut living = Vec::new();
        for (key, value) in tx.scan(CLIENT_CERTIFICATES, &prefix(new.tenant, &new.device), ROWS_PER_DEVICE_MAX)? {
            let row: Row = codec::decode(&value)?;
            if row.lives(now) && row.device_no == new.device_no {
                living.push(row);
                continue;
            }
            tx.delete(CLIENT_CERTIFICATES, key)?;
            if let Some(hash) = row.hash() {
                let inner = Arc::clone(&self.inner);
                tx.after_commit(move || {
                    let _ = inner.by_hash.pin().remove(&hash);
                });
            }
        }
        Ok(living)
    }

    fn end(&self, tx: &mut Tx<'_>, mut row: Row, reason: &str, by: Option<UserId>, origin: &Origin) -> Result<()> {
        let now = self.inner.clock.now();
        row.revoked_at = Some(now);
        tx.put(CLIENT_CERTIFICATES, row.key(), &row)?;
        let mut entry = NewEntry::new(Action::CertificateRevoked, origin)
            .device(&row.device)
            .level(ThreatLevel::Low)
            .reason(format!("client certificate {}: {reason}", row.serial));
        if let Some(user) = by {
            entry = entry.user(user);
        }
        audit::append(tx, row.tenant, now, &self.inner.random, &entry)?;
        if let Some(hash) = row.hash() {
            let inner = Arc::clone(&self.inner);
            tx.after_commit(move || {
                let ended = inner.by_hash.pin().remove(&hash).cloned();
                if let Some(entry) = ended {
                    entry.end();
                }
            });
        }
        Ok(())
    }

    /// Revokes the certificate with this serial number, whosever it is; says whether it counted until now.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn revoke(&self, serial: String, reason: String, origin: Origin) -> Result<(DeviceId, bool)> {
        let wanted = serial.clone();
        let found = self.inner.store.read_with(move |s| {
            let mut found = None;
            s.rows::<Row>(CLIENT_CERTIFICATES, |_, row| {
                if row.serial == wanted {
                    found = Some(row);
                }
                Ok(())
            })?;
            Ok(found)
        });
        let row = found.await?.ok_or_else(Refusal::not_found)?;
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let row: Row = tx.get(CLIENT_CERTIFICATES, row.key())?.ok_or_else(Refusal::not_found)?;
                let device = row.device.clone();
                let counted = row.revoked_at.is_none();
                if counted {
                    this.end(tx, row, &reason, None, &origin)?;
                }
                Ok((device, counted))
            })
            .await
    }

    /// Certificates, of one device where one is named; and whether there are more than are shown.
    pub async fn list(&self, tenant: Option<TenantId>, device: Option<DeviceId>) -> Result<(Vec<Issued>, bool)> {
        let now = self.inner.clock.now();
        let read = self.inner.store.read_with(move |s| {
            let mut found = Vec::new();
            s.rows::<Row>(CLIENT_CERTIFICATES, |_, row| {
                let wanted = tenant.is_none_or(|t| t == row.tenant) && device.as_ref().is_none_or(|d| *d == row.device);
                if wanted && found.len() <= LISTED_MAX {
                    found.push(Issued::of(&row, now));
                }
                Ok(())
            })?;
            Ok(found)
        });
        let mut found = read.await?;
        let more = found.len() > LISTED_MAX;
        found.truncate(LISTED_MAX);
        Ok((found, more))
    }
}

/// What a certificate calls its device.
fn names(tenant: TenantId, device: &DeviceId) -> (&str, String) {
    (device.as_str(), format!("urn:blockremote:device:{tenant}:{device}"))
}
