//! App Attest keys between proofs: the counter that must rise, and Apple's receipts.
//!
//! A receipt is a secret between the app's maker and Apple, so it is sealed. Somebody with an Internet connection and the
//! maker's key exchanges it for a newer one, which says how many keys the device made; this appliance asks nobody.

use std::sync::Arc;

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use super::judge::{Proven, ProvenKey};
use super::model::StateRow;
use super::store::device_key;
use super::trust::key_name;
use super::{Attestation, rules};
use crate::attest::apple::{self, Environment, Received};
use crate::attest::{Claims, Refused};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::devices::{self, DeviceEntry};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result, Timestamp};
use crate::store::tables::ATTESTATION_STATES;

/// The attested key of a device of Apple's.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AppAttestKey {
    /// SubjectPublicKeyInfo in base64.
    spki: String,
    /// The counter of the last assertion; 0 before the first.
    pub counter: u32,
    environment: Environment,
    /// What the attestation said.
    pub claims: Claims,
    /// The root that vouched for it.
    pub root: String,
    receipt: Option<StoredReceipt>,
}

#[derive(Clone, Serialize, Deserialize)]
struct StoredReceipt {
    /// Base64 of the sealed bytes.
    sealed: String,
    facts: ReceiptView,
}

/// What a receipt says.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AppAttestReceipt)]
pub struct ReceiptView {
    /// `ATTEST` from the attestation itself, `RECEIPT` from Apple's server.
    #[serde(rename = "type")]
    #[schema(rename = "type")]
    pub kind: String,
    /// When Apple made it.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// From when on Apple exchanges it for the next one.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_before: Option<Timestamp>,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// About how many keys the device made for the app within 30 days; null in a receipt of an attestation.
    pub risk_metric: Option<u32>,
    /// The receipt itself in base64, for Apple's server. Only where it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt_b64: Option<String>,
}

impl ReceiptView {
    fn of(received: &Received) -> Self {
        Self {
            kind: received.kind.as_str().to_owned(),
            created_at: received.created_at,
            not_before: received.not_before,
            expires_at: received.expires_at,
            risk_metric: received.risk_metric,
            receipt_b64: None,
        }
    }
}

impl AppAttestKey {
    /// As keys are named where it stands whose they are.
    pub fn name(&self) -> Option<String> {
        self.spki().ok().as_deref().map(key_name)
    }

    /// DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> Result<Vec<u8>, Refused> {
        Base64::decode_vec(&self.spki).map_err(|_| Refused::new("public_key", "The stored key cannot be read."))
    }
}

fn seal_context(device: &DeviceId) -> Vec<u8> {
    [b"app-attest-receipt/", device.as_str().as_bytes()].concat()
}

fn no_receipt() -> Error {
    Refusal::not_found().into()
}

impl Attestation {
    /// The device's App Attest key as of now.
    pub(super) async fn app_attest_key(&self, tenant: TenantId, device: DeviceId) -> Result<Option<AppAttestKey>> {
        let read = move |s: &crate::store::Snapshot| s.get::<StateRow>(ATTESTATION_STATES, device_key(tenant, &device));
        Ok(self.inner.store.read_with(read).await?.and_then(|state| state.app_attest))
    }

    /// Whether an assertion still holds in the commit: by the same key, and counted further than any before.
    pub(super) fn still_rises(state: &StateRow, proven: &Proven) -> bool {
        let ProvenKey::Asserted { counter } = proven.key else { return true };
        let same = |key: &&AppAttestKey| key.spki().ok().as_ref() == proven.spki.as_ref();
        state.app_attest.as_ref().filter(same).is_some_and(|key| counter > key.counter)
    }

    /// Keeps what a proof says of the device's App Attest key.
    pub(super) fn keep_app_attest(&self, state: &mut StateRow, device: &DeviceId, proven: &Proven) {
        match &proven.key {
            ProvenKey::Other | ProvenKey::Tpm(_) => {}
            ProvenKey::Asserted { counter } => {
                if let Some(key) = &mut state.app_attest {
                    key.counter = *counter;
                }
            }
            ProvenKey::AppAttest { environment, receipt } => {
                state.app_attest = Some(AppAttestKey {
                    spki: Base64::encode_string(proven.spki.as_deref().unwrap_or_default()),
                    counter: 0,
                    environment: *environment,
                    claims: proven.claims.clone(),
                    root: proven.root.clone().unwrap_or_default(),
                    receipt: receipt.as_ref().map(|(received, bytes)| self.sealed(device, received, bytes)),
                });
            }
        }
    }

    fn sealed(&self, device: &DeviceId, received: &Received, bytes: &[u8]) -> StoredReceipt {
        let sealed = self.inner.sealing.seal(&seal_context(device), bytes, &self.inner.random);
        StoredReceipt { sealed: Base64::encode_string(&sealed), facts: ReceiptView::of(received) }
    }

    /// The newest receipt of a device's key, with its bytes: for whoever exchanges it with Apple.
    ///
    /// # Errors
    /// `not_found` when there is none.
    pub async fn receipt(&self, entry: &DeviceEntry) -> Result<ReceiptView> {
        let key = self.app_attest_key(entry.tenant, entry.id.clone()).await?;
        let stored = key.and_then(|key| key.receipt).ok_or_else(no_receipt)?;
        let sealed = Base64::decode_vec(&stored.sealed).map_err(Error::internal)?;
        let bytes = self.inner.sealing.open(&seal_context(&entry.id), &sealed).map_err(Error::internal)?;
        Ok(ReceiptView { receipt_b64: Some(Base64::encode_string(&bytes)), ..stored.facts })
    }

    /// Takes in a newer receipt for a device's key. Its risk metric counts from the next look at the score on.
    ///
    /// # Errors
    /// `not_found` for a device without an attested key; 422 for a receipt that does not hold; 409 `older_receipt`.
    pub async fn import_receipt(
        &self,
        entry: &DeviceEntry,
        receipt: Vec<u8>,
        by: UserId,
        origin: Origin,
    ) -> Result<ReceiptView> {
        let (tenant, id) = (entry.tenant, entry.id.clone());
        let key = self.app_attest_key(tenant, id.clone()).await?.ok_or_else(no_receipt)?;
        let receipt = Arc::new(receipt);
        let (this, bytes, spki) = (self.clone(), Arc::clone(&receipt), key.spki.clone());
        let verify = move || {
            let inner = &this.inner;
            let app_id = inner.settings.apple_app_id.as_deref();
            let spki = key.spki()?;
            let receipt = apple::Receipt {
                app_id: app_id.ok_or_else(|| Refused::new("not_configured", "attestation.apple_app_id is not set."))?,
                public_key_spki: Some(&spki),
                environment: Some(key.environment),
                receipt: &bytes,
            };
            receipt.verify(&inner.settings.policy.apple, &inner.trust.of(tenant).apple, inner.clock.now())
        };
        let received = self.inner.pool.run(verify).await?;
        let received = received.map_err(|e| Refusal::invalid("/receipt_b64", format!("{}: {}", e.reason, e.detail)))?;
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let place = device_key(tenant, &id);
                let mut state: StateRow = tx.get(ATTESTATION_STATES, &place)?.ok_or_else(no_receipt)?;
                let key = state.app_attest.as_mut().filter(|key| key.spki == spki).ok_or_else(no_receipt)?;
                if key.receipt.as_ref().is_some_and(|r| r.facts.created_at >= received.created_at) {
                    let detail = "A receipt that is as new or newer is there already; nothing was changed.";
                    return Err(Refusal::new(Kind::Conflict, "older_receipt", detail).into());
                }
                let stored = this.sealed(&id, &received, &receipt);
                let facts = stored.facts.clone();
                key.receipt = Some(stored);
                if let Some(metric) = facts.risk_metric {
                    key.claims.insert(rules::RISK_METRIC.to_owned(), metric.into());
                    if state.is_app_attest() {
                        state.claims.insert(rules::RISK_METRIC.to_owned(), metric.into());
                    }
                }
                tx.put(ATTESTATION_STATES, &place, &state)?;
                if let Some(mut device) = devices::load(tx, tenant, &id)? {
                    device.proof = state.mark();
                    devices::save(tx, &this.inner.devices, &device)?;
                }
                let metric = facts.risk_metric.map_or_else(|| "none".to_owned(), |m| m.to_string());
                let entry = NewEntry::new(Action::ReceiptImported, &origin).user(by).device(&id);
                let entry = entry.reason(format!("made {}, risk metric {metric}", facts.created_at));
                audit::append(tx, tenant, now, &this.inner.random, &entry)?;
                Ok(facts)
            })
            .await
    }
}
