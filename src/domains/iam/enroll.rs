//! A device's way in: a new device is registered, a known one proves itself again.

use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};

use super::model::{Binding, EndCause, EnrollmentTokenRow};
use super::session::{Proof, TokenPair};
use super::{Iam, SessionEntry, enrollment_tokens};
use crate::crypto::{Jwk, OpaqueToken, TokenKind, VerifyingKey, sha256};
use crate::domains::attestation::{self, Attestation, Bringer, Evidence, Judged, Level, Taken};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::devices::{self, Device, DeviceState, SensorsDeclared};
use crate::domains::flags::System;
use crate::domains::tenants::{self, EnrollmentPolicy, TenantState};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, DeviceNo, EnrollmentId, TenantId, UserId};
use crate::kernel::rate::Quota;
use crate::kernel::{Error, Kind, Random, Refusal, Result, Timestamp};
use crate::store::Tx;
use crate::store::tables::{ENROLLMENT_TOKEN_IDS, ENROLLMENT_TOKENS, Key};

/// What a device says of itself.
#[derive(Clone, Debug)]
pub struct Enrollment {
    /// Its own name.
    pub device_id: DeviceId,
    /// For people.
    pub device_name: String,
    /// As reported.
    pub os_version: String,
    /// As reported; `unknown` when not.
    pub platform: String,
    /// What it can sense.
    pub sensors: SensorsDeclared,
    /// The key that it will prove itself with.
    pub public_key: Option<Jwk>,
    /// What it brought to prove its hardware.
    pub attestation: Option<Evidence>,
    /// The key that the session's tokens are to be bound to.
    pub binding: Option<Binding>,
}

impl Enrollment {
    /// SHA-256 of all that it asks for beside the proof, in base64url: the same again is the same enrollment.
    fn hash(&self) -> Result<String> {
        let Self { device_id, device_name, os_version, platform, sensors, public_key, attestation: _, binding } = self;
        let all = (device_id, device_name, os_version, platform, sensors, public_key, binding);
        let all = serde_json::to_vec(&all).map_err(Error::internal)?;
        Ok(Base64UrlUnpadded::encode_string(&sha256(&all)))
    }
}

/// By what right it comes.
#[derive(Clone)]
pub enum EnrollmentBy {
    /// An enrollment token.
    Token(String),
    /// A user's session with `devices:write`.
    User(Arc<SessionEntry>),
    /// Nothing: the configuration names a tenant, and that tenant's own policy says `open`, too. The one is the word of
    /// who runs the box, the other of who answers for the tenant; neither can open it alone.
    Open,
}

enum Outcome {
    In(Box<(super::model::SessionRow, Device)>),
    Refused(Box<Refusal>),
}

/// An enrolled device's tokens.
pub struct Enrolled {
    /// The tokens.
    pub pair: TokenPair,
    /// When the trial ends.
    pub trial_expires_at: Timestamp,
}

impl Iam {
    /// Registers a device, or opens a new session for a known one; earlier sessions end, a block stays.
    ///
    /// # Errors
    /// 401 `enrollment_refused` without a valid right; 409 `device_exists` when the device is known and the caller is
    /// neither its owner nor holds a token that was issued for it; 403 `attestation_required`, `device_limit_reached`.
    pub async fn enroll(&self, wanted: Enrollment, by: EnrollmentBy, origin: Origin) -> Result<Enrolled> {
        if let EnrollmentBy::Token(token) = &by {
            self.check_enroll_rate(token)?;
        }
        let judged = match &wanted.attestation {
            Some(evidence) => Some(self.judge(&wanted, evidence.clone(), &by).await?),
            None => None,
        };
        let this = self.clone();
        let write = move |tx: &mut Tx<'_>| this.enroll_in(tx, &wanted, judged.as_ref(), &by, &origin);
        let (row, device) = match self.inner.store.write(write).await? {
            Outcome::In(inside) => *inside,
            Outcome::Refused(refusal) => return Err(refusal.into()),
        };
        let access = self.mint_device(&row, &device.id);
        let pair = self.pair(&row, row.family.generation, access);
        Ok(Enrolled { pair, trial_expires_at: self.inner.billing.shown(device.trial_expires_at) })
    }

    fn enroll_in(
        &self,
        tx: &mut Tx<'_>,
        wanted: &Enrollment,
        judged: Option<&(TenantId, Judged)>,
        by: &EnrollmentBy,
        origin: &Origin,
    ) -> Result<Outcome> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let right = self.right(tx, wanted, by, now)?;
        let tenant = tenants::load(tx, right.tenant)?.ok_or_else(refused)?;
        if tenant.state != TenantState::Active {
            return Err(tenants::suspended().into());
        }
        if tenant.kill_switch.is_some() {
            let detail = "The kill switch of the tenant is engaged: no device is enrolled until it is released.";
            return Err(Refusal::new(Kind::Forbidden, "kill_switch_engaged", detail).into());
        }
        let known = devices::load(tx, right.tenant, &wanted.device_id)?;
        let judged = judged.filter(|(of, _)| *of == right.tenant).map(|(_, judged)| judged);
        // By the key that is enrolled at this moment; another one may have been when the proof was looked at.
        let enrolled_key = known.as_ref().and_then(|device| device.public_key.as_ref());
        let by_its_key = judged.zip(enrolled_key).is_some_and(|(judged, key)| judged.is_by(key));
        let brings_key =
            wanted.public_key.is_some() && thumbprint(wanted.public_key.as_ref()) != thumbprint(enrolled_key);
        if known.is_some() && !by_its_key && !known.as_ref().is_some_and(|d| right.covers(d)) {
            let detail = "A device of this name is enrolled already. Its owner, or a token issued for this very device, can enroll it again.";
            return Err(Refusal::new(Kind::Conflict, "device_exists", detail).into());
        }
        if known.is_none() {
            let open = inner.flags.switch(right.tenant, System::RegistrationOpen, wanted.device_id.as_str());
            if open == Some(false) {
                let detail = "The company takes no new devices at the moment (its flag registration-open).";
                return Err(Refusal::new(Kind::Forbidden, "registration_closed", detail).into());
            }
            if devices::enrolled(tx)? >= inner.settings.devices_max as u64 {
                let detail = "The appliance has reached its number of devices (devices.max).";
                return Err(Refusal::new(Kind::Forbidden, "device_limit_reached", detail).into());
            }
        }
        // Another key is another device as far as anybody knows, whatever its name.
        if known.is_none() || brings_key {
            let demanded = inner.attestation.demanded(&tenant, &wanted.device_id);
            // What does not hold is refused below, with the reason.
            let is_enough = |judged: &Judged| !judged.holds() || judged.level() >= demanded;
            if demanded > Level::None && !judged.is_some_and(is_enough) {
                return Err(attestation::required().into());
            }
        }
        let place = match known {
            Some(_) => None,
            None => Some(inner.billing.admit(tx, right.tenant, tenants::Quota::Devices, 1)?),
        };
        let earlier = match known {
            Some(_) => None,
            None => devices::tombstone(tx, right.tenant, &wanted.device_id)?,
        };
        let action = if known.is_some() { Action::DeviceReenrolled } else { Action::DeviceEnrolled };
        // From here on it writes, and nothing may refuse any more; what the proof leads to is committed either way.
        if let Some(judged) = judged {
            let hash = wanted.hash()?;
            let bringer = Bringer::Enrollment { hash: &hash, key: wanted.public_key.as_ref() };
            let taken = inner.attestation.take_in(tx, right.tenant, &wanted.device_id, judged, bringer, origin)?;
            if let Taken::Refused(refusal) = taken {
                return Ok(Outcome::Refused(refusal));
            }
        }
        // A clean proof may have released it.
        let known = match known {
            Some(_) => devices::load(tx, right.tenant, &wanted.device_id)?,
            None => None,
        };
        right.spend(tx)?;
        if let Some(place) = place {
            place.note(tx)?;
            let before = devices::enrolled(tx)?;
            devices::note_enrolled(tx, before)?;
        }
        let mut how = right.how;
        let mut device = match known {
            Some(mut device) => {
                self.end_session_of(tx, &device, EndCause::Replaced)?;
                if judged.is_none() {
                    Attestation::forget_proof(tx, &mut device)?;
                }
                how.push_str(&change_of_sensors(device.sensors, wanted.sensors));
                updated(device, wanted, now)
            }
            None => {
                let no = DeviceNo(tx.next_number("device_no")?);
                let fresh = registered(no, right.tenant, right.owner, wanted, now, inner.billing.trial_end(now));
                let proof = inner.attestation.mark(tx, right.tenant, &wanted.device_id)?;
                let fresh = Device { proof, ..fresh };
                let mut device = match earlier {
                    Some(earlier) => {
                        devices::take_tombstone(tx, right.tenant, &wanted.device_id)?;
                        earlier.returns_as(fresh)
                    }
                    None => fresh,
                };
                inner.billing.welcome(tx, &mut device, origin)?;
                device
            }
        };
        let proof = Proof { binding: wanted.binding.clone(), ..Proof::default() };
        let row = self.open_session(tx, device.tenant, device.owner, Some(&device), proof, origin)?;
        device.session = Some(row.id);
        devices::save(tx, &inner.devices, &device)?;
        let entry = NewEntry::new(action, origin).user(right.owner).device(&device.id).reason(how);
        audit::append(tx, device.tenant, now, &inner.random, &entry)?;
        Ok(Outcome::In(Box::new((row, device))))
    }

    /// Judges what came with an enrollment: by the key that a known device has enrolled, or that a new one brings.
    async fn judge(&self, wanted: &Enrollment, evidence: Evidence, by: &EnrollmentBy) -> Result<(TenantId, Judged)> {
        let tenant = match by {
            EnrollmentBy::Token(token) => self.tenant_of_enrollment_token(token, &wanted.device_id).await?.0,
            EnrollmentBy::User(session) => session.tenant,
            EnrollmentBy::Open => self.inner.settings.open_tenant.ok_or_else(refused)?,
        };
        let known = self.inner.devices.entry(tenant, &wanted.device_id).map(|e| e.device());
        let key = known.map_or_else(|| wanted.public_key.clone(), |device| device.public_key.clone());
        let judged = self.inner.attestation.judge(tenant, wanted.device_id.clone(), key, evidence).await?;
        Ok((tenant, judged))
    }

    /// Whose devices a living enrollment token enrolls under this name, and which token it is.
    ///
    /// # Errors
    /// 401 `enrollment_refused`.
    pub async fn tenant_of_enrollment_token(&self, token: &str, device: &DeviceId) -> Result<(TenantId, EnrollmentId)> {
        let (hash, now, device) = (sha256(token.as_bytes()), self.inner.clock.now(), device.clone());
        let row = self
            .inner
            .store
            .read_with(move |s| s.get::<EnrollmentTokenRow>(ENROLLMENT_TOKENS, Key::new().bytes(hash)))
            .await?;
        let row = row.filter(|row| row.is_good_for(&device, now)).ok_or_else(refused)?;
        Ok((row.tenant, row.id))
    }

    fn right(&self, tx: &mut Tx<'_>, wanted: &Enrollment, by: &EnrollmentBy, now: Timestamp) -> Result<Right> {
        match by {
            EnrollmentBy::Token(token) => {
                let hash = sha256(token.as_bytes());
                let row: EnrollmentTokenRow = tx.get(ENROLLMENT_TOKENS, Key::new().bytes(hash))?.ok_or_else(refused)?;
                if !row.is_good_for(&wanted.device_id, now) {
                    return Err(refused());
                }
                let for_device = row.device.is_some();
                let how = format!("enrollment token {}", row.id);
                Ok(Right {
                    tenant: row.tenant,
                    owner: row.owner,
                    owner_present: false,
                    for_device,
                    how,
                    token: Some((hash, row)),
                })
            }
            EnrollmentBy::User(session) => Ok(Right {
                tenant: session.tenant,
                owner: session.user,
                owner_present: true,
                for_device: false,
                how: "a user's session".to_owned(),
                token: None,
            }),
            EnrollmentBy::Open => {
                let tenant = self.inner.settings.open_tenant.ok_or_else(refused)?;
                if tenants::load(tx, tenant)?.is_none_or(|t| t.enrollment != EnrollmentPolicy::Open) {
                    return Err(refused());
                }
                let owner = super::setup::first_admin(tx, tenant)?.ok_or_else(refused)?;
                let how = "open enrollment".to_owned();
                Ok(Right { tenant, owner, owner_present: false, for_device: false, how, token: None })
            }
        }
    }

    fn check_enroll_rate(&self, token: &str) -> Result<()> {
        let inner = &self.inner;
        let quota = Quota::per_minute(inner.settings.enroll_per_minute);
        let pinned = inner.enroll_rates.pin();
        let window = pinned.get_or_insert_with(sha256(token.as_bytes()), Arc::default);
        let decision = window.admit(quota, inner.clock.now());
        if decision.admitted {
            return Ok(());
        }
        let detail = "Too many enrollments with this token in the last minute.";
        Err(Refusal::new(Kind::RateLimited, "rate_limited", detail).retry_after_s(decision.reset_s).into())
    }

    /// Makes an enrollment token for devices that `owner` (when absent, the tenant's first administrator) will own. The
    /// token is shown once: only its hash is stored.
    pub async fn new_enrollment_token(
        &self,
        tenant: TenantId,
        owner: Option<UserId>,
        spec: TokenSpec,
        origin: Origin,
    ) -> Result<String> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let owner = match owner {
                    Some(owner) => owner,
                    None => super::setup::first_admin(tx, tenant)?.ok_or_else(Refusal::not_found)?,
                };
                new_token(tx, tenant, owner, &spec, now, &this.inner.random, &origin)
            })
            .await
    }
}

/// What an enrollment token allows.
#[derive(Clone, Debug)]
pub struct TokenSpec {
    /// How long it is valid.
    pub lifetime: Duration,
    /// `None`: no limit.
    pub uses_max: Option<u32>,
    /// Only for this device, and then also for enrolling it again.
    pub device: Option<DeviceId>,
}

pub(super) fn new_token(
    tx: &mut Tx<'_>,
    tenant: TenantId,
    owner: UserId,
    spec: &TokenSpec,
    now: Timestamp,
    random: &Random,
    origin: &Origin,
) -> Result<String> {
    let (token, _) = make_token(tx, tenant, owner, spec, now, random, origin)?;
    Ok(token.expose().to_owned())
}

/// Writes an enrollment token, by its hash and by its id, with its audit entry.
pub(super) fn make_token(
    tx: &mut Tx<'_>,
    tenant: TenantId,
    owner: UserId,
    spec: &TokenSpec,
    now: Timestamp,
    random: &Random,
    origin: &Origin,
) -> Result<(OpaqueToken, EnrollmentTokenRow)> {
    let token = OpaqueToken::generate(TokenKind::Enrollment, random);
    let row = EnrollmentTokenRow {
        id: EnrollmentId::generate(now, random),
        tenant,
        owner,
        created_at: now,
        expires_at: now.plus(spec.lifetime),
        uses_max: spec.uses_max,
        uses: 0,
        device: spec.device.clone(),
        revoked: false,
    };
    tx.put(ENROLLMENT_TOKENS, Key::new().bytes(token.hash()), &row)?;
    tx.put_raw(ENROLLMENT_TOKEN_IDS, enrollment_tokens::key(tenant, row.id), &token.hash())?;
    let entry = NewEntry::new(Action::EnrollmentTokenCreated, origin).user(owner).reason(row.id.to_string());
    audit::append(tx, tenant, now, random, &entry)?;
    Ok((token, row))
}

/// A right that was checked.
struct Right {
    tenant: TenantId,
    owner: UserId,
    owner_present: bool,
    for_device: bool,
    how: String,
    token: Option<([u8; 32], EnrollmentTokenRow)>,
}

impl Right {
    /// Whether it also covers a device that is enrolled already.
    fn covers(&self, device: &Device) -> bool {
        self.for_device || (self.owner_present && self.owner == device.owner)
    }

    fn spend(&self, tx: &mut Tx<'_>) -> Result<()> {
        let Some((hash, row)) = &self.token else { return Ok(()) };
        let spent = EnrollmentTokenRow { uses: row.uses.saturating_add(1), ..row.clone() };
        tx.put(ENROLLMENT_TOKENS, Key::new().bytes(hash), &spent)
    }
}

/// The JWK thumbprint of a key that can be read.
fn thumbprint(key: Option<&Jwk>) -> Option<String> {
    VerifyingKey::from_jwk(key?).ok().map(|key| key.thumbprint())
}

fn registered(
    no: DeviceNo,
    tenant: TenantId,
    owner: UserId,
    wanted: &Enrollment,
    now: Timestamp,
    trial_expires_at: Timestamp,
) -> Device {
    Device {
        no,
        tenant,
        id: wanted.device_id.clone(),
        name: wanted.device_name.clone(),
        platform: wanted.platform.clone(),
        os_version: wanted.os_version.clone(),
        owner,
        sensors: wanted.sensors,
        public_key: wanted.public_key.clone(),
        registered_at: now,
        enrolled_at: now,
        session: None,
        state: DeviceState::Active,
        trial_expires_at,
        paid: None,
        told_to_pay: false,
        command_seq: 0,
        oldest_open_command_seq: 1,
        proof: None,
    }
}

/// A known device that came again: block, trial and owner stand; its key changes only if it brought one, and a sensor that
/// it once declared it has for good: whoever can enroll it again must not be able to stop it being watched by that.
fn updated(device: Device, wanted: &Enrollment, now: Timestamp) -> Device {
    Device {
        name: wanted.device_name.clone(),
        platform: wanted.platform.clone(),
        os_version: wanted.os_version.clone(),
        sensors: SensorsDeclared {
            accelerometer: device.sensors.accelerometer || wanted.sensors.accelerometer,
            gyroscope: device.sensors.gyroscope || wanted.sensors.gyroscope,
        },
        public_key: wanted.public_key.clone().or_else(|| device.public_key.clone()),
        enrolled_at: now,
        ..device
    }
}

/// What the audit log says of sensors that a device declares otherwise than before; empty where it does not.
fn change_of_sensors(before: SensorsDeclared, wanted: SensorsDeclared) -> String {
    let mut said = String::new();
    for (name, had, has) in [
        ("accelerometer", before.accelerometer, wanted.accelerometer),
        ("gyroscope", before.gyroscope, wanted.gyroscope),
    ] {
        said.push_str(match (had, has) {
            (false, true) => "; it has a sensor more, the ",
            (true, false) => "; it left out a sensor that it still has to send, the ",
            _ => continue,
        });
        said.push_str(name);
    }
    said
}

fn refused() -> Error {
    let detail = "Enrollment needs a valid enrollment token, or the token of a user who may enroll devices.";
    Refusal::new(Kind::Unauthenticated, "enrollment_refused", detail).into()
}
