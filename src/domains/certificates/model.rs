//! A client certificate: its row, its live side, and how it is shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::crypto::client_certs::ClientCertificate;
use crate::crypto::{hex, unhex};
use crate::kernel::Timestamp;
use crate::kernel::ids::{DeviceId, DeviceNo, TenantId};
use crate::store::tables::Key;

/// A certificate as it is stored; the certificate itself is not needed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Hexadecimal.
    pub serial: String,
    /// SHA-256 of its DER, hexadecimal.
    pub sha256: String,
    /// Whose device.
    pub tenant: TenantId,
    /// Which device.
    pub device: DeviceId,
    /// A device of the same name that enrolls later is another one.
    pub device_no: DeviceNo,
    /// When it was made.
    pub issued_at: Timestamp,
    /// Its last second.
    pub expires_at: Timestamp,
    /// When it was taken back.
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
}
impl crate::store::Row for Row {}

impl Row {
    pub(super) fn new(
        made: &ClientCertificate,
        tenant: TenantId,
        device: DeviceId,
        device_no: DeviceNo,
        now: Timestamp,
    ) -> Self {
        Self {
            serial: made.serial.clone(),
            sha256: hex(&made.sha256),
            tenant,
            device,
            device_no,
            issued_at: now,
            expires_at: made.expires_at,
            revoked_at: None,
        }
    }

    pub(super) fn key(&self) -> Key {
        Key::new().bytes(self.tenant.to_bytes()).text(self.device.as_str()).text(&self.serial)
    }

    /// The hash as bytes.
    pub fn hash(&self) -> Option<[u8; 32]> {
        unhex(&self.sha256)?.try_into().ok()
    }

    /// Whether it counts at this moment.
    pub fn lives(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && now <= self.expires_at
    }
}

/// The live side of a certificate.
pub struct CertificateEntry {
    /// Whose device.
    pub tenant: TenantId,
    /// Which device.
    pub device: DeviceId,
    /// Its number on this appliance.
    pub device_no: DeviceNo,
    /// Its last second.
    pub expires_at: Timestamp,
    ended: watch::Sender<bool>,
    watchers: Arc<AtomicUsize>,
}

/// One of the streams that a certificate may have of a kind.
pub struct Watching(Arc<AtomicUsize>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl CertificateEntry {
    pub(super) fn of(row: &Row) -> Self {
        Self {
            tenant: row.tenant,
            device: row.device.clone(),
            device_no: row.device_no,
            expires_at: row.expires_at,
            ended: watch::Sender::new(row.revoked_at.is_some()),
            watchers: Arc::default(),
        }
    }

    pub(super) fn end(&self) {
        self.ended.send_replace(true);
    }

    /// A place among its watchers, of whom there are so many at most.
    pub fn watching(&self, most: usize) -> Option<Watching> {
        let place = Watching(Arc::clone(&self.watchers));
        (self.watchers.fetch_add(1, Ordering::AcqRel) < most).then_some(place)
    }

    /// Whether it was revoked.
    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Resolves when it is revoked.
    pub async fn ended(&self) {
        let mut watch = self.ended.subscribe();
        // The sender lives in `self`, so this cannot fail while it is awaited.
        let _ = watch.wait_for(|ended| *ended).await;
    }
}

/// A certificate that was just made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ClientCertificate)]
pub struct CertificateView {
    /// Hexadecimal.
    pub serial: String,
    /// PEM.
    pub certificate: String,
    /// The authority that signed it, PEM.
    pub ca_certificate: String,
    /// Its last second; ask for the next one before.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

impl CertificateView {
    pub(super) fn of(row: &Row, certificate: String, ca_certificate: String) -> Self {
        Self { serial: row.serial.clone(), certificate, ca_certificate, expires_at: row.expires_at }
    }
}

/// A certificate, for the operator.
#[derive(Debug, Serialize)]
pub struct Issued {
    /// Hexadecimal.
    pub serial: String,
    /// Whose device.
    pub tenant: TenantId,
    /// Which device.
    pub device_id: DeviceId,
    /// When it was made.
    pub issued_at: Timestamp,
    /// Its last second.
    pub expires_at: Timestamp,
    /// `living`, `revoked` or `expired`.
    pub state: &'static str,
}

impl Issued {
    pub(super) fn of(row: &Row, now: Timestamp) -> Self {
        let state = match row.revoked_at {
            Some(_) => "revoked",
            None if row.lives(now) => "living",
            None => "expired",
        };
        Self {
            serial: row.serial.clone(),
            tenant: row.tenant,
            device_id: row.device.clone(),
            issued_at: row.issued_at,
            expires_at: row.expires_at,
            state,
        }
    }
}
