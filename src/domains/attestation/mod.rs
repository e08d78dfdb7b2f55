//! What devices prove of their hardware: nonces, verdicts, the state and score that follow from them.
//!
//! A nonce is bound to a tenant and a device, lives three minutes and is used up in the commit of the verdict it led to.
//! The identical request again gets the stored answer and harms nobody; another body with a used nonce is a replay, and
//! blocks the device. Failures count against the device that made them; the third within ten minutes puts it into
//! quarantine. A key that is seen on two devices blocks both.
//!
//! Whether evidence holds is judged by `crate::attest`, off the threads that serve; this domain keeps what came of it.
//! Knows nothing of HTTP.

pub mod api;
mod app_attest;
mod demand;
mod formats;
mod judge;
mod model;
mod nonce;
mod reminders;
mod rules;
mod store;
mod tpm;
mod trust;

pub use api::EvidenceRequest;
pub use app_attest::ReceiptView;
pub use judge::{Evidence, EvidenceKind, Judged};
pub use model::{AttestationView, Bringer, Taken, VerdictView};
pub use nonce::Asker;
pub use store::{forget, sharing_key};
pub use tpm::{Activated, Candidate, Challenge, TpmKeys};
pub use trust::{LIST_BYTES_MAX, NewRoot, RootKind, RootState, RootView, StatusListView};

pub use crate::domains::devices::AttestationLevel as Level;

use std::sync::Arc;
use std::time::Duration;

use crate::attest::play::{PlayKeys, PlayPolicy};
use crate::attest::policy::Policy;
use crate::attest::{Claims, Refused, android, webauthn};
use crate::crypto::seal::SealingKey;
use crate::crypto::webauthn::Registered;
use crate::domains::devices::{Device, DeviceEntry, Devices};
use crate::domains::flags::Flags;
use crate::domains::killswitch::KillSwitch;
use crate::domains::tenants::Tenants;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::pool::Pool;
use crate::kernel::{Clock, Kind, Random, Refusal, Result};
use crate::store::Store;

/// What the configuration says about attestation.
#[derive(Debug)]
pub struct Settings {
    /// Life of a nonce, two to five minutes.
    pub nonce_ttl: Duration,
    /// Whether an accepted attestation releases a device that failed ones put into quarantine.
    pub heals: bool,
    /// Whether a fresh proof by hardware releases a device that the engine locked.
    pub releases_score: bool,
    /// How old the last proof may be before a device is asked again.
    pub renew_after: Duration,
    /// What evidence must show.
    pub policy: Policy,
    /// Team and bundle of the Apple app; `None`: its attestations are refused.
    pub apple_app_id: Option<String>,
    /// Keys and expectations of the app's Play Integrity tokens; `None`: they are refused.
    pub play: Option<(PlayKeys, PlayPolicy)>,
}

/// What proofs of hardware are built from.
pub struct Parts {
    /// What each tenant demands.
    pub tenants: Tenants,
    /// By which a tenant demands more of some.
    pub flags: Flags,
    /// The registry.
    pub devices: Devices,
    /// What locks and reminds.
    pub killswitch: KillSwitch,
    /// Seals receipts.
    pub sealing: Arc<SealingKey>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// The configuration.
    pub settings: Settings,
}

/// Evidence that may wait for a thread.
const WAITING_MAX: usize = 1_024;
const BUSY: &str = "Too many attestations wait to be judged. Try again in a moment.";

/// Proofs of hardware. Cheap to clone.
#[derive(Clone)]
pub struct Attestation {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    tenants: Tenants,
    flags: Flags,
    devices: Devices,
    killswitch: KillSwitch,
    clock: Clock,
    random: Random,
    settings: Settings,
    sealing: Arc<SealingKey>,
    pool: Pool,
    trust: trust::Trust,
    reminders: reminders::Reminders,
    /// Nonces that each network and token asked for; see [`nonce`].
    asked: nonce::Asked,
    nonces_swept: nonce::Swept,
    activations: tpm::Open,
}

impl Attestation {
    /// Reads roots and lists from the data file.
    ///
    /// # Errors
    /// When the system gives no threads, or the data file cannot be read.
    pub fn rebuild(parts: Parts) -> Result<Self> {
        let Parts { tenants, flags, devices, killswitch, sealing, clock, random, settings } = parts;
        let pool = Pool::for_this_machine("attest", WAITING_MAX, BUSY)?;
        let store = devices.store().clone();
        let trust = trust::Trust::rebuild(&store.read()?)?;
        let (asked, reminders) = (nonce::Asked::default(), reminders::Reminders::default());
        let inner = Inner {
            store,
            tenants,
            flags,
            devices,
            killswitch,
            clock,
            random,
            settings,
            sealing,
            pool,
            trust,
            reminders,
            asked,
            nonces_swept: nonce::Swept::default(),
            activations: tpm::Open::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Judges a registered device's evidence and stores what came of it.
    ///
    /// # Errors
    /// 403 `attestation_refused`, `attestation_nonce_invalid`, `attestation_replayed`; 503 `overloaded`.
    pub async fn attest(&self, entry: &DeviceEntry, evidence: Evidence, origin: Origin) -> Result<AttestationView> {
        let device = entry.device();
        let judged = self.judge(device.tenant, device.id.clone(), device.public_key.clone(), evidence).await?;
        let (this, tenant, id) = (self.clone(), device.tenant, device.id.clone());
        let taken =
            self.inner.store.write(move |tx| this.take_in(tx, tenant, &id, &judged, Bringer::Device, &origin)).await?;
        match taken {
            Taken::Accepted(view) => Ok(*view),
            Taken::Refused(refusal) => Err((*refusal).into()),
        }
    }

    /// How a device's attestation stands, and the newest verdicts.
    pub async fn view(&self, tenant: TenantId, device: DeviceId) -> Result<AttestationView> {
        let (now, renew_after) = (self.inner.clock.now(), self.inner.settings.renew_after);
        self.inner.store.read_with(move |s| store::view(s, tenant, &device, now, renew_after)).await
    }

    /// Judges what an authenticator says of the passkey that it made: by the rules for WebAuthn, without the choice to say
    /// nothing or nothing that anybody vouches for. Certificates may end in a bundled root of their format that the tenant
    /// does not distrust, or one of the tenant's own; those of Android's keys must not be revoked.
    ///
    /// # Errors
    /// 503 `overloaded`; the inner one with the rule that was broken.
    pub async fn judge_passkey(
        &self,
        tenant: TenantId,
        made: Registered,
    ) -> Result<std::result::Result<Claims, Refused>> {
        let this = self.clone();
        let work = move || {
            let (settings, now) = (&this.inner.settings, this.inner.clock.now());
            let policy = settings.policy.webauthn.clone().for_a_make();
            let roots = this.inner.trust.of(tenant).for_passkeys(webauthn::bundled_roots(&made.attestation.fmt)?);
            let claims = webauthn::judge(&made, roots.as_ref(), &policy, now)?;
            if made.attestation.fmt == "android-key" {
                let list = this.inner.trust.status_list();
                android::check_revocation(&webauthn::serials(&made)?, list.as_deref(), &settings.policy.android, now)?;
            }
            Ok(claims)
        };
        self.inner.pool.run(work).await
    }

    /// What is left of a device's last proof, 0 to 100; `None` for one that never proved anything.
    pub fn score(&self, device: &Device) -> Option<u8> {
        let (now, renew_after) = (self.inner.clock.now(), self.inner.settings.renew_after);
        device.proof.as_ref().map(|mark| rules::score(Some(mark), now, renew_after))
    }

    /// Forgets counters of networks that are quiet, activations and nonces that are over; run from time to time. What
    /// fails is logged and comes again with the next sweep.
    pub async fn sweep(&self) {
        self.inner.activations.sweep(self.inner.clock.now());
        self.inner.asked.sweep(self.inner.clock.now());
        if let Err(e) = self.remove_old_nonces().await {
            tracing::warn!(error = %e, "old nonces could not all be removed; the next sweep goes on");
        }
    }
}

/// 403: a new device has to prove its hardware.
pub fn required() -> Refusal {
    let detail = "This tenant demands proof of the device's hardware. Send attestation with the enrollment.";
    Refusal::new(Kind::Forbidden, "attestation_required", detail)
}
