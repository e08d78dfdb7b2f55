//! What is paid, and what that allows: plans, subscriptions of devices, the paywall, licences, and the limits of companies.
//!
//! Two levels that are kept apart. A DEVICE has a subscription: what a gateway says is paid for that device of that person
//! ([`subscription`]). It decides trial, paywall and rate ([`paywall`]). A COMPANY has a plan, by its tenant's row or by a
//! licence ([`licence`]). It decides features and quotas. Both name a plan of the one catalogue ([`plans`]).
//!
//! Knows nothing of HTTP, and nothing of how a gateway takes money.

pub mod api;
mod deadlines;
mod entitlements;
mod events;
pub mod licence;
mod paywall;
pub mod plans;
mod subscription;
mod trial_clock;

pub use entitlements::{Admitted, DecidedBy, EntitlementView, Entitlements};
pub use events::{Event, EventResult, Proof, Taken};
pub use paywall::{BillingStatus, TrialSummary};
pub use subscription::{Status, Subscription, Word};

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use zeroize::Zeroizing;

use crate::crypto::{VerifyingKey, webhook};
use crate::domains::devices::Devices;
use crate::domains::killswitch::KillSwitch;
use crate::domains::tenants::{PlanTier, Quota, Tenants};
use crate::kernel::ids::TenantId;
use crate::kernel::network::Network;
use crate::kernel::{Clock, Error, Random, Result, Timestamp};
use crate::store::Store;
use crate::store::tables::{Key, META};
use deadlines::Deadlines;
use plans::Catalogue;
use trial_clock::{ClockRow, TrialClock};

/// Whether unpaid devices are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paywall {
    /// Each device is paid for.
    Device,
    /// Nobody is asked.
    Off,
}

/// A secret that is shared with a gateway, in the two forms that the schemes of signatures want.
#[derive(Clone)]
pub struct SharedSecret {
    /// The text, for hexadecimal signatures.
    pub text: Zeroizing<Vec<u8>>,
    /// The key of Standard Webhooks.
    pub standard: Zeroizing<Vec<u8>>,
}

impl SharedSecret {
    /// # Errors
    /// When it begins with `whsec_` and no key follows.
    pub fn new(text: &[u8]) -> Result<Self, webhook::BadSecret> {
        Ok(Self { standard: webhook::standard_key(text)?, text: Zeroizing::new(text.to_vec()) })
    }
}

/// What the configuration says about billing.
#[derive(Clone)]
pub struct Settings {
    /// Whether unpaid devices are refused.
    pub paywall: Paywall,
    /// From a device's registration.
    pub trial: Duration,
    /// What changes the plans' defaults (TOML).
    pub plans: Option<PathBuf>,
    /// Any of these signs an event; more than one while a secret is being changed. Empty: no provider without one of its
    /// own is heard.
    pub secrets: Vec<SharedSecret>,
    /// Providers with a secret of their own, which only they may use, and who may use no other.
    pub provider_secrets: Vec<(String, SharedSecret)>,
    /// Where events may come from; empty: from anywhere.
    pub allow: Vec<Network>,
    /// Devices that the machine takes, all companies together.
    pub devices_max: u64,
    /// Whose licences are taken; `None`: nobody's.
    pub vendor_key: Option<VerifyingKey>,
}

/// Billing. Cheap to clone.
#[derive(Clone)]
pub struct Billing {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    tenants: Tenants,
    devices: Devices,
    killswitch: KillSwitch,
    clock: Clock,
    random: Random,
    settings: Settings,
    catalogue: ArcSwap<Catalogue>,
    trial_clock: TrialClock,
    /// What the data file holds of the trials' clock. Only the watch locks it.
    clock_stored: Mutex<Option<ClockRow>>,
    warned_ms: AtomicI64,
    /// Set while every device has to be told anew how it stands.
    told_anew: AtomicBool,
    deadlines: Deadlines,
    /// Tenants that a licence covered at the last look. Only the watch locks it.
    covered: Mutex<HashSet<TenantId>>,
    /// When it was last noted that a limit is reached; what is on disk decides, this keeps repeats from the queue.
    exceeded: papaya::HashMap<(TenantId, Quota), Timestamp>,
}

impl Billing {
    /// Reads the catalogue, the trials' clock and the ends of all trials.
    ///
    /// # Errors
    /// When the file of plans cannot be read or is refused; the text names the place.
    pub fn rebuild(
        tenants: Tenants,
        devices: Devices,
        killswitch: KillSwitch,
        clock: Clock,
        random: Random,
        settings: Settings,
    ) -> Result<Self> {
        let store = devices.store().clone();
        let catalogue = read_catalogue(&settings)?;
        let stored: Option<ClockRow> = store.read()?.get(META, Key::new().text(paywall::CLOCK))?;
        let trial_clock = TrialClock::new(stored, clock.now(), clock.lived());
        let deadlines = Deadlines::default();
        deadlines.replace(&devices.entries());
        let inner = Inner {
            store,
            tenants,
            devices,
            killswitch,
            clock,
            random,
            settings,
            catalogue: ArcSwap::from_pointee(catalogue),
            trial_clock,
            clock_stored: Mutex::new(stored),
            warned_ms: AtomicI64::new(0),
            // A clock may also have gone back while the appliance was off.
            told_anew: AtomicBool::new(true),
            deadlines,
            covered: Mutex::default(),
            exceeded: papaya::HashMap::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The plans as they are now.
    pub fn catalogue(&self) -> Guard<Arc<Catalogue>> {
        self.inner.catalogue.load()
    }

    /// Heartbeats that a device of this tier may send.
    pub fn heartbeats_per_minute(&self, tier: PlanTier) -> u32 {
        self.catalogue().plan(tier).heartbeats_per_minute
    }

    /// Reads the file of plans anew; what it says counts from the next request on.
    ///
    /// # Errors
    /// As at the start; the plans stay as they were then.
    pub fn reload_plans(&self) -> Result<()> {
        self.inner.catalogue.store(Arc::new(read_catalogue(&self.inner.settings)?));
        Ok(())
    }

    /// What the configuration says.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }
}

fn read_catalogue(settings: &Settings) -> Result<Catalogue> {
    let Some(path) = &settings.plans else { return Catalogue::with("").map_err(Error::internal) };
    let said = |e: String| Error::Internal(format!("billing.plans: {}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| said(format!("cannot be read: {e}")))?;
    Catalogue::with(&text).map_err(|e| said(e.to_string()))
}

#[cfg(test)]
mod tests;
