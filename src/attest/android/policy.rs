//! What a tenant, or the operator at the command line, wants of an Android key.
//!
//! The defaults are strict where the hardware speaks and open where only the operator knows: which app, which patch level.
//! Knows nothing of chains.

use std::time::Duration;

use serde::Deserialize;

use super::GENERATED;
use super::description::{BootState, KeyDescription, RootOfTrust, SecurityLevel};
use crate::attest::Refused;
use crate::crypto::hex;

/// Rules for the statement of an Android key. Every key may be left out.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AndroidPolicy {
    /// Where the key must live at least: `trusted_environment` (default) or `strong_box`. `software` takes everything, but
    /// chains of software end in no root that is bundled.
    pub min_security_level: SecurityLevel,
    /// Whether a verified boot state other than `verified` is taken, except `failed`. Default: false.
    pub allow_unverified_boot: bool,
    /// Whether an unlocked boot loader is taken. Default: false.
    pub allow_unlocked: bool,
    /// Boot keys (hex) whose owner-signed systems (`self_signed`) count as verified. Default: none.
    pub self_signed_boot_keys_hex: Vec<String>,
    /// The least version of Android, as the hardware writes it: 140000 is 14. Default: 0, any or none stated.
    pub min_os_version: u32,
    /// The least patch level of the system as YYYYMM. Default: 0, any or none stated.
    pub min_os_patch_level: u32,
    /// The least patch level of the vendor's part as YYYYMM. Default: 0.
    pub min_vendor_patch_level: u32,
    /// The least patch level of the boot image as YYYYMM. Default: 0.
    pub min_boot_patch_level: u32,
    /// Packages of which one must have made the key. Default: none, which takes any.
    pub packages: Vec<String>,
    /// SHA-256 (hex) of signers' certificates; every signer of the app must be among them. Default: none, which takes any.
    pub signer_digests_hex: Vec<String>,
    /// Whether several packages that share an identity are taken, of which any could have made the key. Default: false.
    pub allow_shared_uid: bool,
    /// Whether a statement is taken only with a challenge to compare. Default: false, for looking at old evidence; a
    /// server always has one.
    pub require_challenge: bool,
    /// Whether a dated revocation list must be there. Default: false: without a list nothing is revoked.
    pub require_status_list: bool,
    /// Days after which a dated revocation list no longer clears anybody. Default: 30.
    pub status_list_max_age_days: u32,
    /// Whether members must stand in the order that the schema says. Default: true.
    pub require_order: bool,
}

impl Default for AndroidPolicy {
    fn default() -> Self {
        Self {
            min_security_level: SecurityLevel::TrustedEnvironment,
            allow_unverified_boot: false,
            allow_unlocked: false,
            self_signed_boot_keys_hex: Vec::new(),
            min_os_version: 0,
            min_os_patch_level: 0,
            min_vendor_patch_level: 0,
            min_boot_patch_level: 0,
            packages: Vec::new(),
            signer_digests_hex: Vec::new(),
            allow_shared_uid: false,
            require_challenge: false,
            require_status_list: false,
            status_list_max_age_days: 30,
            require_order: true,
        }
    }
}

impl AndroidPolicy {
    /// How old a revocation list may be.
    pub fn status_list_max_age(&self) -> Duration {
        Duration::from_secs(u64::from(self.status_list_max_age_days) * 86_400)
    }

    /// Judges a statement whose chain was verified.
    ///
    /// # Errors
    /// `attestation_order`, `security_level`, `origin`, `root_of_trust_missing`, `verified_boot_state`,
    /// `device_unlocked`, `os_version`, `os_patch_level`, `vendor_patch_level`, `boot_patch_level`,
    /// `application_id_missing`, `shared_uid`, `package`, `signer`.
    pub fn judge(&self, description: &KeyDescription) -> Result<(), Refused> {
        let hardware = &description.hardware;
        if self.require_order && !(hardware.ordered && description.software.ordered) {
            return Err(Refused::new("attestation_order", "members of the attestation do not stand in their order"));
        }
        self.judge_levels(description.attestation_level, description.keymint_level)?;
        if hardware.origin != Some(GENERATED) {
            return Err(Refused::new("origin", "the hardware does not state that it generated the key itself"));
        }
        self.judge_boot(hardware.root_of_trust.as_ref())?;
        at_least("os_version", hardware.os_version, self.min_os_version)?;
        at_least("os_patch_level", month(hardware.os_patch_level), self.min_os_patch_level)?;
        at_least("vendor_patch_level", month(hardware.vendor_patch_level), self.min_vendor_patch_level)?;
        at_least("boot_patch_level", month(hardware.boot_patch_level), self.min_boot_patch_level)?;
        self.judge_application(description)
    }

    fn judge_levels(&self, attestation: SecurityLevel, key: SecurityLevel) -> Result<(), Refused> {
        if attestation == key && key >= self.min_security_level {
            return Ok(());
        }
        Err(Refused::new(
            "security_level",
            format!(
                "the key lives in {} and the statement was made in {}; both must be the same and at least {}",
                key.name(),
                attestation.name(),
                self.min_security_level.name()
            ),
        ))
    }

    fn judge_boot(&self, stated: Option<&RootOfTrust>) -> Result<(), Refused> {
        let Some(boot) = stated else {
            if self.allow_unverified_boot && self.allow_unlocked {
                return Ok(());
            }
            return Err(Refused::new("root_of_trust_missing", "the hardware does not state what was started"));
        };
        let known = |key: &[u8]| listed(&self.self_signed_boot_keys_hex, key);
        let good = match boot.boot_state {
            BootState::Verified => true,
            BootState::SelfSigned => self.allow_unverified_boot || known(&boot.boot_key),
            BootState::Unverified => self.allow_unverified_boot,
            BootState::Failed => false,
        };
        if !good {
            let state = boot.boot_state.name();
            return Err(Refused::new("verified_boot_state", format!("the system that was started is {state}")));
        }
        if !boot.device_locked && !self.allow_unlocked {
            return Err(Refused::new("device_unlocked", "the boot loader is unlocked"));
        }
        Ok(())
    }

    fn judge_application(&self, description: &KeyDescription) -> Result<(), Refused> {
        let Some(id) = &description.software.application_id else {
            if self.packages.is_empty() && self.signer_digests_hex.is_empty() {
                return Ok(());
            }
            return Err(Refused::new("application_id_missing", "the attestation does not say which app made the key"));
        };
        if id.packages.len() > 1 && !self.allow_shared_uid {
            return Err(Refused::new("shared_uid", "several packages share the identity that made the key"));
        }
        let all_wanted = !id.packages.is_empty() && id.packages.iter().all(|(name, _)| self.packages.contains(name));
        if !self.packages.is_empty() && !all_wanted {
            return Err(Refused::new("package", "the key was made by another package than the policy wants"));
        }
        let all_known = !id.signers.is_empty() && id.signers.iter().all(|d| listed(&self.signer_digests_hex, d));
        if !self.signer_digests_hex.is_empty() && !all_known {
            let what = "the app that made the key was signed by another key than the policy wants";
            return Err(Refused::new("signer", what));
        }
        Ok(())
    }
}

fn listed(list: &[String], bytes: &[u8]) -> bool {
    let hex = hex(bytes);
    list.iter().any(|listed| listed.eq_ignore_ascii_case(&hex))
}

/// Patch levels come as YYYYMM and YYYYMMDD; they are compared by the month.
fn month(level: Option<u32>) -> Option<u32> {
    level.map(|level| if level > 999_999 { level / 100 } else { level })
}

fn at_least(rule: &'static str, stated: Option<u32>, least: u32) -> Result<(), Refused> {
    match stated {
        _ if least == 0 => Ok(()),
        Some(stated) if stated >= least => Ok(()),
        Some(stated) => Err(Refused::new(rule, format!("{rule} is {stated}; the policy wants {least} at least"))),
        None => Err(Refused::new(rule, format!("the hardware states no {rule}; the policy wants {least} at least"))),
    }
}
