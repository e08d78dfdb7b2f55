//! Attestation keys of TPMs: bound to a chip by credential activation, kept with their device, trusted as far as the chip
//! is known.
//!
//! A device shows its endorsement key, which its maker certified, and an attestation key. The appliance wraps a secret so
//! that only the chip with the first opens it, and only if it holds the second, too; who hands it back has proven both.
//! Open challenges live in memory, bounded, for as long as a nonce does, and hold a hash of the secret alone; a restart
//! ends them. One answer counts; the identical one again hears the same and harms nobody, another is a failed attempt.
//!
//! How far a proof counts: `hardware` when the maker sells nothing but chips of their own, `trusted` for every other maker
//! that is trusted, because nothing tells a TPM of firmware from one of a hypervisor. Without a trusted certificate there
//! need not be a TPM at all: refused, or `software` where the policy allows it. What a quote must show is for
//! `crate::attest`.

mod open;
mod quote;

use std::net::IpAddr;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use open::Challenged;
pub(super) use open::Open;
pub(super) use quote::{Shown, keep, objection, prove};

use super::nonce::{Asker, Wish};
use super::store::{key_owner, release_key};
use super::trust::key_name;
use super::{Attestation, Level};
use crate::attest::chain::{Anchors, parse_pem_chain};
use crate::attest::tpm::activation::{Credential, make_credential};
use crate::attest::tpm::aik::Chip;
use crate::attest::tpm::quote::Counters;
use crate::attest::tpm::wire::Public;
use crate::attest::tpm::{TpmPolicy, ek, key};
use crate::attest::{Claims, Refused};
use crate::crypto::{constant_time_eq, hex, sha256};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::devices;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Kind, Random, Refusal, Result, Timestamp};
use crate::store::tables::{Key, TPM_KEYS};
use crate::store::{Row, Tx};

/// What evidence of a TPM is called in verdicts on its activation.
const ACTIVATION: &str = "tpm-activation";
/// Another device of the tenant has this chip.
const OTHER_DEVICE: &str = "ek_of_another_device";

/// A chip as its certificate tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ChipRow {
    pub manufacturer: String,
    pub model: String,
    pub version: String,
}

impl From<&Chip> for ChipRow {
    fn from(chip: &Chip) -> Self {
        let Chip { manufacturer, model, version } = chip.clone();
        Self { manufacturer, model, version }
    }
}

/// The attestation key of one device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct TpmKeyRow {
    /// TPMT_PUBLIC, in base64.
    pub ak_public: String,
    /// The TPM's name for it, in hexadecimal.
    pub ak_name: String,
    /// SHA-256 of the endorsement key's SPKI in base64url; `None` where a certificate bound the key.
    pub ek: Option<String>,
    pub chip: Option<ChipRow>,
    /// The maker's root, or the authority's that vouched for the key itself.
    pub root: Option<String>,
    /// SHA-256 of that root's SPKI in base64url: its label may come to name another root.
    #[serde(default)]
    pub root_key: Option<String>,
    /// When the certificates end that bound the key; `None` where activation did.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    pub level: Level,
    pub bound_at: Timestamp,
    /// SHA-256 of the challenge's name, and of its name and secret together: the same answer again is the same request.
    pub activation: [u8; 32],
    pub answer: [u8; 32],
    /// Of the last accepted quote.
    pub counters: Counters,
}
impl Row for TpmKeyRow {}

/// How far a proof counts.
fn level_of(chip: Option<&Chip>) -> Level {
    match chip {
        Some(chip) if chip.is_discrete() => Level::Hardware,
        Some(_) => Level::Trusted,
        None => Level::Software,
    }
}

/// Who wants a key activated.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Whose device.
    pub tenant: TenantId,
    /// The device, or the name under which it will enroll.
    pub device: DeviceId,
    /// By what right it asks.
    pub asker: Asker,
    /// From where.
    pub ip: Option<IpAddr>,
}

impl Candidate {
    /// Whether it asks with its own token.
    fn is_enrolled(&self) -> bool {
        self.asker == Asker::Enrolled
    }
}

/// What a device shows of its TPM.
#[derive(Clone, Debug)]
pub struct TpmKeys {
    /// TPMT_PUBLIC of the endorsement key.
    pub ek_public: Vec<u8>,
    /// Its certificate and what lies between that and the maker's root, PEM, leaf first.
    pub ek_certificates_pem: Option<String>,
    /// TPMT_PUBLIC of the attestation key.
    pub ak_public: Vec<u8>,
}

/// What the TPM must open.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// Its name.
    pub activation: String,
    /// For TPM2_ActivateCredential.
    pub credential: Credential,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A key that is bound.
#[derive(Clone, Debug)]
pub struct Activated {
    /// The TPM's name for it, in hexadecimal.
    pub ak_name: String,
    /// How far its proofs count.
    pub level: Level,
}

impl From<&TpmKeyRow> for Activated {
    fn from(row: &TpmKeyRow) -> Self {
        Self { ak_name: row.ak_name.clone(), level: row.level }
    }
}

fn refusal(reason: &str, detail: &str) -> Refusal {
    let extra = serde_json::json!({ "reason": reason });
    let refusal = Refusal::new(Kind::Forbidden, "activation_refused", detail.to_owned());
    Refusal { extra: extra.as_object().cloned().map(Box::new), ..refusal }
}

fn device_exists() -> Refusal {
    let detail = "A device of this name is enrolled already. It activates a key with its own token.";
    Refusal::new(Kind::Conflict, "device_exists", detail)
}

fn place(tenant: TenantId, device: &DeviceId) -> Key {
    Key::new().bytes(tenant.to_bytes()).text(device.as_str())
}

/// Removes what is stored of a removed device's TPM.
pub(super) fn forget(tx: &mut Tx<'_>, tenant: TenantId, device: &DeviceId) -> Result<()> {
    let row: Option<TpmKeyRow> = tx.get(TPM_KEYS, place(tenant, device))?;
    if let Some(ek) = row.and_then(|row| row.ek) {
        release_key(tx, tenant, device, &ek)?;
    }
    tx.delete(TPM_KEYS, place(tenant, device))?;
    Ok(())
}

impl Attestation {
    /// Wraps a secret for the TPM that holds both keys. A newer challenge of the same device takes the older one's place.
    ///
    /// # Errors
    /// 403 `activation_refused` with the rule that was broken; 409 `device_exists` for a name that is enrolled, without its
    /// token; 429 `too_many_activations`, `rate_limited`; 503 `overloaded`.
    pub async fn challenge_tpm(&self, who: Candidate, keys: TpmKeys, origin: Origin) -> Result<Challenge> {
        let inner = &self.inner;
        if !who.is_enrolled() && inner.devices.entry(who.tenant, &who.device).is_some() {
            return Err(device_exists().into());
        }
        let (now, this) = (inner.clock.now(), self.clone());
        inner.asked.admit(who.asker, who.ip, Wish::Activation, now)?;
        let makers = inner.trust.of(who.tenant);
        let work = move || prepare(&keys, &makers.tpm, &this.inner.settings.policy.tpm, &this.inner.random, now);
        match inner.pool.run(work).await? {
            Ok(prepared) => {
                let expires_at = now.plus(inner.settings.nonce_ttl);
                let challenged = Challenged { key: Box::new(prepared.key), secret: prepared.secret };
                inner.activations.open(who.tenant, who.device, challenged, expires_at, now)?;
                Ok(Challenge { activation: prepared.activation, credential: prepared.credential, expires_at })
            }
            Err(Refused { reason, detail }) => {
                let this = self.clone();
                // Not counted: an honest device whose maker nobody knows must not end in quarantine.
                let note = move |tx: &mut Tx<'_>| {
                    let entry = NewEntry::new(Action::AttestationRefused, &origin)
                        .device(&who.device)
                        .level(ThreatLevel::Medium)
                        .reason(format!("{ACTIVATION}: {reason}"));
                    audit::append(tx, who.tenant, this.inner.clock.now(), &this.inner.random, &entry).map(drop)
                };
                inner.store.write(note).await?;
                Err(refusal(reason, &detail).into())
            }
        }
    }

    /// Takes the opened secret, and keeps the key with its device. Of a device that is only about to enroll it is kept in
    /// memory until the enrollment brings a quote of it, or the time of a nonce is over.
    ///
    /// # Errors
    /// 403 `activation_refused` for a wrong secret, or a challenge that is unknown, used or over; 409 `device_exists`.
    pub async fn activate_tpm(
        &self,
        who: Candidate,
        activation: String,
        secret: Vec<u8>,
        origin: Origin,
    ) -> Result<Activated> {
        let this = self.clone();
        let change = move |tx: &mut Tx<'_>| this.activate_in(tx, &who, &activation, &secret, &origin);
        self.inner.store.write(change).await?.map_err(Into::into)
    }

    /// A refusal is part of what is committed.
    fn activate_in(
        &self,
        tx: &mut Tx<'_>,
        who: &Candidate,
        activation: &str,
        secret: &[u8],
        origin: &Origin,
    ) -> Result<std::result::Result<Activated, Refusal>> {
        let (tenant, id, now) = (who.tenant, &who.device, self.inner.clock.now());
        let mut device = devices::load(tx, tenant, id)?;
        if device.is_some() && !who.is_enrolled() {
            return Err(device_exists().into());
        }
        let (name, answer) = (sha256(activation.as_bytes()), sha256(&[activation.as_bytes(), b"\n", secret].concat()));
        let stored: Option<TpmKeyRow> = tx.get(TPM_KEYS, place(tenant, id))?;
        if let Some(row) = stored.as_ref().filter(|row| row.answer == answer) {
            return Ok(Ok(row.into()));
        }
        // Within one commit a used challenge is still in memory, but the row knows it.
        let is_used = stored.as_ref().is_some_and(|row| row.activation == name);
        if let Some(row) = self.inner.activations.activated(tenant, id, now).filter(|row| row.answer == answer) {
            return Ok(Ok((&*row).into()));
        }
        let verdict = match self.inner.activations.challenged(tenant, id, now).filter(|_| !is_used) {
            Some(Challenged { key, secret: hash }) if key.activation == name => {
                let opened = constant_time_eq(&sha256(secret), &hash);
                let taken = self.chip_of_another(tx, tenant, id, key.ek.as_deref())?;
                match (opened, taken) {
                    (true, false) => Ok(TpmKeyRow { answer, bound_at: now, ..*key }),
                    (true, true) => Err((OTHER_DEVICE, "This TPM belongs to another device. Remove that one first.")),
                    (false, _) => Err(("secret", "This is not the secret. Ask for a new challenge.")),
                }
            }
            _ => Err(("activation", "The challenge is unknown, used or over. Ask for a new one.")),
        };
        let (this, of, is_known) = (self.clone(), id.clone(), device.is_some());
        match verdict {
            Err((reason, detail)) => {
                self.fail(tx, tenant, id, device.as_mut(), ACTIVATION, reason, origin)?;
                if reason != "activation" {
                    tx.after_commit(move || this.inner.activations.end_challenge(tenant, &of));
                }
                Ok(Err(refusal(reason, detail)))
            }
            Ok(mut row) => {
                let activated = Activated::from(&row);
                let changed = stored.as_ref().is_some_and(|old| old.ek != row.ek);
                let mut entry = NewEntry::new(Action::AttestationKeyActivated, origin).device(id);
                if changed {
                    entry = entry.level(ThreatLevel::Medium).reason("the device has another TPM than before");
                }
                audit::append(tx, tenant, now, &self.inner.random, &entry.attestation(row.level.name()))?;
                if is_known {
                    row.counters = quote::carried_over(stored.as_ref(), &row);
                    quote::put(tx, tenant, id, stored.as_ref(), &row)?;
                    tx.after_commit(move || this.inner.activations.close(tenant, &of));
                } else {
                    let until = now.plus(self.inner.settings.nonce_ttl);
                    tx.after_commit(move || this.inner.activations.activate(tenant, of, Box::new(row), until));
                }
                Ok(Ok(activated))
            }
        }
    }

    /// Whether the chip is that of another living device of the tenant.
    fn chip_of_another(&self, tx: &mut Tx<'_>, tenant: TenantId, id: &DeviceId, ek: Option<&str>) -> Result<bool> {
        let Some(ek) = ek else { return Ok(false) };
        match key_owner(tx, tenant, ek)? {
            Some(owner) if owner != *id => Ok(devices::load(tx, tenant, &owner)?.is_some()),
            _ => Ok(false),
        }
    }

    /// The key that a device's quote must be by: the stored one, or the one that its enrollment activated.
    pub(super) async fn tpm_key(&self, tenant: TenantId, device: &DeviceId) -> Result<Option<TpmKeyRow>> {
        let at = place(tenant, device);
        if let Some(row) = self.inner.store.read_with(move |s| s.get(TPM_KEYS, &at)).await? {
            return Ok(Some(row));
        }
        Ok(self.inner.activations.activated(tenant, device, self.inner.clock.now()).map(|row| *row))
    }
}

/// A challenge before it is handed out.
struct Prepared {
    activation: String,
    key: TpmKeyRow,
    credential: Credential,
    /// SHA-256.
    secret: [u8; 32],
}

fn prepare(
    keys: &TpmKeys,
    makers: &Anchors,
    policy: &TpmPolicy,
    random: &Random,
    now: Timestamp,
) -> std::result::Result<Prepared, Refused> {
    let ak = Public::parse(&keys.ak_public)?;
    key::check_attestation_key(&ak)?;
    // Whether its numbers can sign at all: a key that never could would bind nothing.
    key::spki_der(&ak)?;
    let ek = Public::parse(&keys.ek_public)?;
    let ek_spki = key::spki_der(&ek)?;
    let known = match &keys.ek_certificates_pem {
        Some(pem) => Some(ek::verify(&ek, &parse_pem_chain(pem)?, makers, now)?),
        None if policy.allow_unknown_ek => None,
        None => {
            let detail = "The endorsement key comes without a certificate of its maker, which the policy demands.";
            return Err(Refused::new("ek_certificate_missing", detail));
        }
    };
    let secret = zeroize::Zeroizing::new(random.bytes::<32>());
    let credential = make_credential(&keys.ek_public, &ak.name, &*secret, random)?;
    let activation = Base64UrlUnpadded::encode_string(&random.bytes::<32>());
    let key = TpmKeyRow {
        ak_public: Base64::encode_string(&keys.ak_public),
        ak_name: hex(&ak.name),
        ek: Some(Base64UrlUnpadded::encode_string(&sha256(&ek_spki))),
        level: level_of(known.as_ref().map(|known| &known.chip)),
        chip: known.as_ref().map(|known| (&known.chip).into()),
        root_key: known.as_ref().map(|known| key_name(&known.root_spki)),
        root: known.map(|known| known.root),
        expires_at: None,
        bound_at: now,
        activation: sha256(activation.as_bytes()),
        answer: [0; 32],
        counters: Counters::default(),
    };
    Ok(Prepared { activation, key, credential, secret: sha256(&*secret) })
}

/// What is known of the chip, as claims.
fn chip_claims(row: &TpmKeyRow, claims: &mut Claims) {
    let mut say = |name: &str, value: Option<&String>| {
        if let Some(value) = value {
            claims.insert(name.to_owned(), Value::from(value.clone()));
        }
    };
    say("ek_sha256", row.ek.as_ref());
    say("tpm_manufacturer", row.chip.as_ref().map(|chip| &chip.manufacturer));
    say("tpm_model", row.chip.as_ref().map(|chip| &chip.model));
    say("tpm_version", row.chip.as_ref().map(|chip| &chip.version));
}
