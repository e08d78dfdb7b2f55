//! What is demanded of a device's proofs, and what a proof may release: the one place for each. Knows nothing of formats,
//! nonces and keys.

use super::{Attestation, Level};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::devices::{self, BlockCause, Device, DeviceState};
use crate::domains::flags::System;
use crate::domains::killswitch::{self, NewCommand};
use crate::domains::tenants::{AttestationPolicy, Tenant};
use crate::kernel::Result;
use crate::kernel::context::Origin;
use crate::kernel::ids::DeviceId;
use crate::store::Tx;

/// The least level that a policy is content with.
const fn least(policy: AttestationPolicy) -> Level {
    match policy {
        AttestationPolicy::Optional => Level::None,
        AttestationPolicy::Required => Level::Software,
        AttestationPolicy::Hardware => Level::Trusted,
    }
}

/// A proof that was taken in, and the block of the device that made it.
struct Release {
    cause: BlockCause,
    level: Level,
    /// Whether it shows no less than is demanded of the device and than its hardware showed before.
    suffices: bool,
    /// Whether the switch of the tenant holds every device.
    switch_engaged: bool,
}

impl Release {
    /// Whether the device is released by it, where clean proofs end quarantine (`heals`) and those of hardware what the
    /// engine locked (`releases_score`).
    const fn is_due(&self, heals: bool, releases_score: bool) -> bool {
        if self.switch_engaged || !self.suffices {
            return false;
        }
        match self.cause {
            BlockCause::Quarantine => heals,
            BlockCause::Score => releases_score && self.level.is_hardware(),
            BlockCause::KillSwitch
            | BlockCause::RefreshReused
            | BlockCause::Command
            | BlockCause::Attestation
            | BlockCause::Intel => false,
        }
    }
}

impl Attestation {
    /// The least level that a tenant demands of a device: by its policy, or by its flag `strict-attestation` for this very
    /// device. `none`: nothing need be proven.
    pub fn demanded(&self, tenant: &Tenant, device: &DeviceId) -> Level {
        match self.inner.flags.switch(tenant.id, System::StrictAttestation, device.as_str()) {
            Some(true) => least(AttestationPolicy::Hardware),
            _ => least(tenant.attestation),
        }
    }

    /// Releases a device that a clean proof may release: from its failed ones, and by hardware from the engine's lock where
    /// the operator says so. `suffices`: it shows what is demanded, and no less than the device's hardware showed before.
    pub(super) fn heal(
        &self,
        tx: &mut Tx<'_>,
        device: &mut Device,
        (level, suffices): (Level, bool),
        origin: &Origin,
    ) -> Result<()> {
        let DeviceState::Blocked { cause, .. } = device.state else { return Ok(()) };
        let switch_engaged = killswitch::is_engaged(tx, device.tenant)?;
        let settings = &self.inner.settings;
        let release = Release { cause, level, suffices, switch_engaged };
        if !release.is_due(settings.heals, settings.releases_score) {
            return Ok(());
        }
        const WHY: &str = "the device attested cleanly";
        devices::unblock(device);
        let entry = NewEntry::new(Action::DeviceUnblocked, origin).device(&device.id).reason(WHY);
        audit::append(tx, device.tenant, self.inner.clock.now(), &self.inner.random, &entry)?;
        self.inner.killswitch.issue(tx, device, &NewCommand::new(killswitch::Action::Unlock, WHY), origin)?;
        devices::save(tx, &self.inner.devices, device)
    }
}

#[cfg(test)]
mod tests {
    use super::BlockCause::{Attestation, Command, Intel, KillSwitch, Quarantine, RefreshReused, Score};
    use super::*;

    #[test]
    fn a_proof_ends_quarantine_by_default_the_engines_lock_where_allowed_and_nothing_else_ever() {
        let by = |level, suffices, switch_engaged| move |cause| Release { cause, level, suffices, switch_engaged };
        let all = [Score, RefreshReused, Command, KillSwitch, Attestation, Quarantine, Intel];
        for (proof, settings, released) in [
            (by(Level::Software, true, false), (true, false), vec![Quarantine]),
            (by(Level::Hardware, true, false), (true, false), vec![Quarantine]),
            (by(Level::Hardware, true, false), (false, true), vec![Score]),
            (by(Level::Trusted, true, false), (true, true), vec![Score, Quarantine]),
            (by(Level::Verdict, true, false), (true, true), vec![Quarantine]),
            (by(Level::Hardware, false, false), (true, true), vec![]),
            (by(Level::Hardware, true, true), (true, true), vec![]),
            (by(Level::Hardware, true, false), (false, false), vec![]),
        ] {
            for cause in all {
                let release = proof(cause);
                let due = release.is_due(settings.0, settings.1);
                assert_eq!(due, released.contains(&cause), "{cause:?} by {:?} under {settings:?}", release.level);
            }
        }
    }

    #[test]
    fn a_policy_is_content_with_its_least_level_and_every_better_one() {
        let all = [Level::None, Level::Software, Level::Verdict, Level::Trusted, Level::Hardware];
        for (policy, content) in [
            (AttestationPolicy::Optional, [true; 5]),
            (AttestationPolicy::Required, [false, true, true, true, true]),
            (AttestationPolicy::Hardware, [false, false, false, true, true]),
        ] {
            assert_eq!(all.map(|level| level >= least(policy)), content, "{policy:?}");
        }
    }
}
