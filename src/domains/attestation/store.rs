//! Taking evidence in: nonce, verdict, state, history and what follows from them, in one commit.

use std::time::Duration;

use super::app_attest::AppAttestKey;
use super::judge::{Judged, Proven, ProvenKey};
use super::model::{AttestationView, Bringer, NonceRow, StateRow, Taken, Used, VerdictView};
use super::trust::{key_name, thumbprint};
use super::{Attestation, Level, rules, tpm};
use crate::attest::Refused;
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::devices::{self, BlockCause, Blocked, Device, ProofMark};
use crate::domains::killswitch::{self, NewCommand};
use crate::domains::tenants;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::store::tables::{ATTESTATION_NONCES, ATTESTATION_STATES, ATTESTATION_VERDICTS, ATTESTED_KEYS, Key};
use crate::store::{Snapshot, Tx, codec};

/// Failures within this time that put a device into quarantine.
const FAILURES_MAX: usize = 3;
const FAILURES_WITHIN: Duration = Duration::from_secs(600);
/// Why a proof does not count that holds and shows too little.
const TOO_WEAK: &str = "level";
/// Verdicts that are kept of one device, and shown.
const VERDICTS_KEPT: u64 = 100;
const VERDICTS_SHOWN: usize = 20;

pub(super) fn device_key(tenant: TenantId, device: &DeviceId) -> Key {
    Key::new().bytes(tenant.to_bytes()).text(device.as_str())
}

/// Where the nonces of a device stand.
pub(super) fn nonce_prefix(tenant: TenantId, device: &DeviceId) -> Key {
    device_key(tenant, device)
}

/// Removes what is stored of a device that is removed.
pub fn forget(tx: &mut Tx<'_>, tenant: TenantId, device: &DeviceId) -> Result<()> {
    let state: Option<StateRow> = tx.get(ATTESTATION_STATES, device_key(tenant, device))?;
    if let Some(state) = state {
        let of_app = state.app_attest.as_ref().and_then(AppAttestKey::name);
        for key in state.key.iter().chain(&of_app) {
            release_key(tx, tenant, device, key)?;
        }
        if let Some(key) = &state.key {
            tx.delete(ATTESTED_KEYS, key_place(tenant, key).text(device.as_str()))?;
        }
    }
    tx.delete(ATTESTATION_STATES, device_key(tenant, device))?;
    tpm::forget(tx, tenant, device)?;
    for table in [ATTESTATION_NONCES, ATTESTATION_VERDICTS] {
        let prefix = device_key(tenant, device);
        let end = prefix.end_of_prefix().unwrap_or_default();
        while tx.delete_range(table, &prefix, &end, 1_000)? > 0 {}
    }
    Ok(())
}

fn key_place(tenant: TenantId, name: &str) -> Key {
    Key::new().bytes(tenant.to_bytes()).text(name)
}

/// Whose an attested or endorsement key is, by its name.
pub(super) fn key_owner(tx: &mut Tx<'_>, tenant: TenantId, name: &str) -> Result<Option<DeviceId>> {
    let owner = tx.get_raw(ATTESTED_KEYS, key_place(tenant, name))?;
    Ok(owner.as_deref().and_then(|o| std::str::from_utf8(o).ok()?.parse().ok()))
}

/// Notes whose the key is; the other device when it is another's already.
pub(super) fn claim_key(tx: &mut Tx<'_>, tenant: TenantId, id: &DeviceId, key: &str) -> Result<Option<DeviceId>> {
    match key_owner(tx, tenant, key)? {
        Some(owner) if owner != *id => Ok(Some(owner)),
        _ => {
            tx.put_raw(ATTESTED_KEYS, key_place(tenant, key), id.as_str().as_bytes())?;
            Ok(None)
        }
    }
}

/// Forgets whose a key is, if it is this device's: who shows a copy of another's must not be able to free it.
pub(super) fn release_key(tx: &mut Tx<'_>, tenant: TenantId, id: &DeviceId, name: &str) -> Result<()> {
    if key_owner(tx, tenant, name)?.as_ref() == Some(id) {
        tx.delete(ATTESTED_KEYS, key_place(tenant, name))?;
    }
    Ok(())
}

fn nonce_invalid() -> Refusal {
    let detail = "The nonce is unknown, was handed out for another device, or has ended. Ask for a new one.";
    Refusal::new(Kind::Forbidden, "attestation_nonce_invalid", detail)
}

fn refused(reason: &str) -> Refusal {
    let detail = format!("The attestation was refused: {reason}. Ask for a new nonce before you try again.");
    let extra = serde_json::json!({ "reason": reason });
    let refusal = Refusal::new(Kind::Forbidden, "attestation_refused", detail);
    Refusal { extra: extra.as_object().cloned().map(Box::new), ..refusal }
}

fn replayed(was_blocked: bool) -> Refusal {
    let detail = if was_blocked {
        "This nonce was used before, by another request. The device was blocked."
    } else {
        "This nonce was used before, by another request. Ask for a new one."
    };
    Refusal::new(Kind::Forbidden, "attestation_replayed", detail)
}

impl Attestation {
    /// Takes judged evidence in, within the caller's transaction. A refusal is part of what is committed. A device that
    /// is only being enrolled has no row yet: nothing is blocked then.
    pub fn take_in(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        id: &DeviceId,
        judged: &Judged,
        bringer: Bringer<'_>,
        origin: &Origin,
    ) -> Result<Taken> {
        let now = self.inner.clock.now();
        let place = nonce_prefix(tenant, id).bytes(judged.nonce_hash);
        let nonce: Option<NonceRow> = tx.get(ATTESTATION_NONCES, &place)?;
        let mut device = devices::load(tx, tenant, id)?;
        let nonce = match nonce {
            Some(NonceRow { used: Some(used), expires_at, .. }) => {
                let before = (&used, now < expires_at);
                return self.take_again(tx, (tenant, id), device, judged, before, bringer, origin);
            }
            Some(row) if now < row.expires_at => row,
            Some(_) | None => {
                let charged = device.as_mut().filter(|_| bringer.is_device());
                self.fail(tx, tenant, id, charged, judged.kind, "nonce", origin)?;
                return Ok(Taken::Refused(Box::new(nonce_invalid())));
            }
        };
        let demanded = tenants::load(tx, tenant)?.map(|t| self.demanded(&t, id)).unwrap_or_default();
        let objection = match &judged.verdict {
            Ok(Proven { key: ProvenKey::Tpm(shown), .. }) => tpm::objection(self, tx, tenant, id, shown)?,
            _ => None,
        };
        let enrolled_key = device.as_ref().map_or_else(|| bringer.key(), |device| device.public_key.as_ref());
        let verdict = match &judged.verdict {
            Ok(_) if objection.is_some() => Err(objection.map_or("tpm", |refused| refused.reason)),
            // Another key may have been enrolled since the signature was looked at.
            Ok(proven) if !proven.fits(enrolled_key) => Err("signature"),
            // Who returns by an enrollment shows who it is, whatever its key is kept in; that heals nothing.
            Ok(proven) if bringer.is_device() && proven.level < demanded => Err(TOO_WEAK),
            Ok(proven) if device.is_none() && self.copied(tx, tenant, id, proven, origin)?.is_some() => {
                Err("key_of_another_device")
            }
            // Another assertion may have been taken in since this one was judged.
            Ok(proven) if !Self::still_rises(&Self::state(tx, tenant, id)?, proven) => Err("counter"),
            Ok(proven) => Ok(proven),
            Err(Refused { reason, detail }) => {
                tracing::debug!(device = %id, reason, detail, "an attestation was refused");
                Err(*reason)
            }
        };
        let (taken, answer, reason) = match verdict {
            Ok(proven) => {
                let view = self.accept(tx, tenant, id, device.as_mut(), judged.kind, (proven, demanded), origin)?;
                (Taken::Accepted(Box::new(view.clone())), Some(view), None)
            }
            Err(reason) => {
                let charged = device.as_mut().filter(|_| bringer.is_device());
                self.fail(tx, tenant, id, charged, judged.kind, reason, origin)?;
                (Taken::Refused(Box::new(refused(reason))), None, Some(reason.to_owned()))
            }
        };
        let enrollment = bringer.hash().map(str::to_owned);
        let used = Used { body: judged.body_hash.clone(), at: now, answer, reason, enrollment };
        tx.put(ATTESTATION_NONCES, &place, &NonceRow { used: Some(used), ..nonce })?;
        Ok(taken)
    }

    /// What evidence leads to whose nonce was used before, and whether the time of that nonce still runs. The same request
    /// hears the same. An answer can be shown at any time; an enrollment opens a session anew, so a copy of one must not be
    /// good for ever, and the proof in it for no other enrollment.
    #[expect(clippy::too_many_arguments, reason = "one commit's worth of facts")]
    fn take_again(
        &self,
        tx: &mut Tx<'_>,
        (tenant, id): (TenantId, &DeviceId),
        device: Option<Device>,
        judged: &Judged,
        (used, in_time): (&Used, bool),
        bringer: Bringer<'_>,
        origin: &Origin,
    ) -> Result<Taken> {
        let is_same =
            used.body == judged.body_hash && (bringer.is_device() || used.enrollment.as_deref() == bringer.hash());
        if is_same {
            return Ok(match &used.answer {
                Some(view) if bringer.is_device() || in_time => Taken::Accepted(Box::new(view.clone())),
                Some(_) => {
                    self.fail(tx, tenant, id, None, judged.kind, "nonce", origin)?;
                    Taken::Refused(Box::new(nonce_invalid()))
                }
                None => Taken::Refused(Box::new(refused(used.reason.as_deref().unwrap_or("refused")))),
            });
        }
        // Who enrolls may be anybody with a copy of what the device once sent: that locks nobody.
        let device = device.filter(|_| bringer.is_device());
        let refusal = replayed(device.is_some());
        if let Some(mut device) = device {
            const WHY: &str = "a nonce came back with another attestation: somebody replays or races the device";
            self.block(tx, &mut device, BlockCause::Attestation, killswitch::Action::LockSystem, WHY, origin)?;
        }
        let entry = NewEntry::new(Action::AttestationReplayed, origin).device(id).level(ThreatLevel::Critical);
        audit::append(tx, tenant, self.inner.clock.now(), &self.inner.random, &entry)?;
        Ok(Taken::Refused(Box::new(refusal)))
    }

    /// The enrolled device whose attested key a new one brings, blocked by this: one of them is a copy.
    fn copied(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        id: &DeviceId,
        proven: &Proven,
        origin: &Origin,
    ) -> Result<Option<DeviceId>> {
        let Some(spki) = &proven.spki else { return Ok(None) };
        let owner = key_owner(tx, tenant, &key_name(spki))?;
        let Some(owner) = owner.filter(|owner| owner != id) else { return Ok(None) };
        if let Some(mut other) = devices::load(tx, tenant, &owner)? {
            let why = format!("its attested key came with the enrollment of {id}: one of them is a copy");
            self.block(tx, &mut other, BlockCause::Attestation, killswitch::Action::LockSystem, &why, origin)?;
        }
        Ok(Some(owner))
    }

    /// What a new device's row is to say of the proof that it enrolled with, within the caller's transaction.
    pub fn mark(&self, tx: &mut Tx<'_>, tenant: TenantId, id: &DeviceId) -> Result<Option<ProofMark>> {
        Ok(Self::state(tx, tenant, id)?.mark())
    }

    /// Forgets the last proof of a device, which the caller saves: somebody enrolled under its name, and did not show that
    /// it is the same device.
    pub fn forget_proof(tx: &mut Tx<'_>, device: &mut Device) -> Result<()> {
        device.proof = None;
        let place = device_key(device.tenant, &device.id);
        match tx.get::<StateRow>(ATTESTATION_STATES, &place)? {
            Some(state) => tx.put(ATTESTATION_STATES, &place, &state.unproven()),
            None => Ok(()),
        }
    }

    fn state(tx: &mut Tx<'_>, tenant: TenantId, id: &DeviceId) -> Result<StateRow> {
        Ok(tx.get(ATTESTATION_STATES, device_key(tenant, id))?.unwrap_or_default())
    }

    fn verdict(
        tx: &mut Tx<'_>,
        tenant: TenantId,
        id: &DeviceId,
        state: &mut StateRow,
        verdict: &VerdictView,
    ) -> Result<()> {
        state.verdicts += 1;
        tx.put(ATTESTATION_VERDICTS, device_key(tenant, id).number(state.verdicts), verdict)?;
        if let Some(old) = state.verdicts.checked_sub(VERDICTS_KEPT) {
            tx.delete(ATTESTATION_VERDICTS, device_key(tenant, id).number(old))?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one commit's worth of facts")]
    fn accept(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        id: &DeviceId,
        device: Option<&mut Device>,
        kind: &'static str,
        (proven, demanded): (&Proven, Level),
        origin: &Origin,
    ) -> Result<AttestationView> {
        let now = self.inner.clock.now();
        let mut state = Self::state(tx, tenant, id)?;
        let suffices = proven.level >= demanded.max(state.shown_by_hardware());
        let changed = state.level.is_hardware() && hardware(&state.claims) != hardware(&proven.claims);
        let key = proven.spki.as_deref().map(key_name);
        if state.key != key {
            // An App Attest key goes on being the device's own while it proves itself otherwise.
            let of_app = state.app_attest.as_ref().and_then(AppAttestKey::name);
            let replaced = matches!(proven.key, ProvenKey::AppAttest { .. });
            let stays = |old: &String| !replaced && of_app.as_ref() == Some(old);
            for old in state.key.iter().chain(of_app.iter().filter(|_| replaced)).filter(|old| !stays(old)) {
                release_key(tx, tenant, id, old)?;
            }
            if let Some(old) = &state.key {
                tx.delete(ATTESTED_KEYS, key_place(tenant, old).text(id.as_str()))?;
            }
            if let Some(key) = &key {
                tx.put_raw(ATTESTED_KEYS, key_place(tenant, key).text(id.as_str()), &[])?;
            }
            state.key_changed = state.key.is_some();
            state.key_since = Some(now);
        }
        let shared = match &key {
            Some(key) => claim_key(tx, tenant, id, key)?,
            None => None,
        };
        state.hardware_level = state.shown_by_hardware();
        state.level = proven.level;
        state.kind = Some(kind.to_owned());
        state.claims = proven.claims.clone();
        state.key_thumbprint = proven.spki.as_deref().and_then(thumbprint);
        state.root = proven.root.clone();
        state.list = proven.list.clone();
        state.hardware_changed = changed;
        self.keep_app_attest(&mut state, id, proven);
        state.key = key;
        state.verified_at = Some(now);
        if suffices {
            state.failures.clear();
        }
        let verdict = VerdictView {
            at: now,
            kind: kind.to_owned(),
            result: "accepted".to_owned(),
            reason: None,
            root: proven.root.clone(),
            status_list: proven.list.clone(),
        };
        Self::verdict(tx, tenant, id, &mut state, &verdict)?;
        tx.put(ATTESTATION_STATES, device_key(tenant, id), &state)?;
        if let ProvenKey::Tpm(shown) = &proven.key {
            tpm::keep(tx, tenant, id, shown)?;
        }
        let entry = NewEntry::new(Action::AttestationAccepted, origin).device(id).reason(kind);
        audit::append(tx, tenant, now, &self.inner.random, &entry.attestation(proven.level.name()))?;
        if let Some(device) = device {
            device.proof = state.mark();
            devices::save(tx, &self.inner.devices, device)?;
            if let Some(other) = shared {
                let why = format!("its attested key is also that of {other}: one of them is a copy");
                self.block(tx, device, BlockCause::Attestation, killswitch::Action::LockSystem, &why, origin)?;
                if let Some(mut other) = devices::load(tx, tenant, &other)? {
                    let why = format!("its attested key is also that of {id}: one of them is a copy");
                    self.block(tx, &mut other, BlockCause::Attestation, killswitch::Action::LockSystem, &why, origin)?;
                }
            } else if changed {
                let entry = NewEntry::new(Action::DeviceChallenged, origin)
                    .device(id)
                    .level(ThreatLevel::Medium)
                    .reason("what its hardware says of itself is another than before");
                audit::append(tx, tenant, now, &self.inner.random, &entry.attestation(proven.level.name()))?;
                self.remind_after(tx, device)?;
            } else {
                self.heal(tx, device, (proven.level, suffices), origin)?;
            }
        }
        view_of(id, &state, vec![verdict], now, self.inner.settings.renew_after)
    }

    #[expect(clippy::too_many_arguments, reason = "one commit's worth of facts")]
    pub(super) fn fail(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        id: &DeviceId,
        device: Option<&mut Device>,
        kind: &'static str,
        reason: &str,
        origin: &Origin,
    ) -> Result<()> {
        let now = self.inner.clock.now();
        let entry = NewEntry::new(Action::AttestationRefused, origin)
            .device(id)
            .level(ThreatLevel::Medium)
            .reason(format!("{kind}: {reason}"));
        audit::append(tx, tenant, now, &self.inner.random, &entry)?;
        // Who is not enrolled has nothing to be quarantined; the limits by address hold.
        let Some(device) = device else { return Ok(()) };
        let mut state = Self::state(tx, tenant, id)?;
        state.failures.retain(|at| now.since(*at) < FAILURES_WITHIN);
        // Whose key lies in software is honest about it: that is no failed attempt, and takes none back either.
        let counts = reason != TOO_WEAK;
        state.failures.extend(counts.then_some(now));
        let verdict = VerdictView {
            at: now,
            kind: kind.to_owned(),
            result: "refused".to_owned(),
            reason: Some(reason.to_owned()),
            root: None,
            status_list: None,
        };
        Self::verdict(tx, tenant, id, &mut state, &verdict)?;
        let quarantine = counts && state.failures.len() >= FAILURES_MAX;
        tx.put(ATTESTATION_STATES, device_key(tenant, id), &state)?;
        if quarantine {
            const WHY: &str = "three attestations were refused within ten minutes";
            self.block(tx, device, BlockCause::Quarantine, killswitch::Action::ImmediateQuarantine, WHY, origin)?;
        }
        Ok(())
    }

    fn block(
        &self,
        tx: &mut Tx<'_>,
        device: &mut Device,
        cause: BlockCause,
        action: killswitch::Action,
        why: &str,
        origin: &Origin,
    ) -> Result<Blocked> {
        let note = NewEntry::new(Action::DeviceBlocked, origin).device(&device.id).level(ThreatLevel::High).reason(why);
        self.inner.killswitch.block(tx, device, cause, &NewCommand::new(action, why), note, origin)
    }
}

/// What of the claims is the hardware's own and does not change with an update.
fn hardware(claims: &crate::attest::Claims) -> Vec<Option<&serde_json::Value>> {
    const NAMES: [&str; 7] = [
        "security_level",
        "verified_boot_key_hex",
        "root",
        "model",
        "tpm_manufacturer",
        "ek_sha256",
        "boot_state_sha256",
    ];
    NAMES.iter().map(|name| claims.get(*name)).collect()
}

fn view_of(
    id: &DeviceId,
    state: &StateRow,
    history: Vec<VerdictView>,
    now: Timestamp,
    renew_after: Duration,
) -> Result<AttestationView> {
    Ok(AttestationView {
        device_id: id.clone(),
        level: state.level,
        kind: state.kind.clone(),
        score: rules::score(state.mark().as_ref(), now, renew_after),
        stale: state.verified_at.is_none_or(|at| now.since(at) > renew_after),
        claims: state.claims.clone(),
        key_sha256: state.key.clone(),
        root: state.root.clone(),
        status_list: state.list.clone(),
        key_thumbprint: state.key_thumbprint.clone(),
        token_bound: false,
        key_since: state.key_since.filter(|_| state.key.is_some()),
        hardware_changed: state.hardware_changed,
        verified_at: state.verified_at,
        recent_failures: state.failures.iter().filter(|at| now.since(**at) < FAILURES_WITHIN).count(),
        history,
    })
}

/// The tenant's other devices on which the attested key of this one was proven, too, with that key's hash; at most
/// `limit` of them.
pub fn sharing_key(
    snapshot: &Snapshot,
    tenant: TenantId,
    id: &DeviceId,
    limit: usize,
) -> Result<Vec<(String, DeviceId)>> {
    let state: Option<StateRow> = snapshot.get(ATTESTATION_STATES, device_key(tenant, id))?;
    let Some(key) = state.and_then(|state| state.key) else { return Ok(Vec::new()) };
    let prefix = key_place(tenant, &key);
    let mut found = Vec::new();
    snapshot.visit_prefix(ATTESTED_KEYS, &prefix, |row, _| {
        let name = row.get(prefix.as_ref().len()..).and_then(|name| name.strip_suffix(b"\0"));
        let other = name.and_then(|name| std::str::from_utf8(name).ok()?.parse::<DeviceId>().ok());
        found.extend(other.filter(|other| other != id).map(|other| (key.clone(), other)));
        Ok(found.len() < limit)
    })?;
    Ok(found)
}

/// How a device's attestation stands.
pub(super) fn view(
    snapshot: &Snapshot,
    tenant: TenantId,
    id: &DeviceId,
    now: Timestamp,
    renew_after: Duration,
) -> Result<AttestationView> {
    let state: Option<StateRow> = snapshot.get(ATTESTATION_STATES, device_key(tenant, id))?;
    let mut history = Vec::new();
    snapshot.visit_back(ATTESTATION_VERDICTS, &device_key(tenant, id), None, |_, value| {
        history.push(codec::decode(value)?);
        Ok(history.len() < VERDICTS_SHOWN)
    })?;
    view_of(id, &state.unwrap_or_default(), history, now, renew_after)
}
