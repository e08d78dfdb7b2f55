//! Apple App Attest: attestations of a key in the Secure Enclave, assertions by that key, and Apple's receipts with the
//! risk metric.
//!
//! Pure, like the room it stands in: whoever calls brings the bytes, the policy, the roots and the time, and keeps keys
//! and counters. Rules are Apple's ("Validating apps that connect to your server", "Assessing fraud risk"), order included
//! where it can be seen. Knows nothing of devices, nonces or where a challenge comes from.

pub mod assertion;
pub mod attestation;
pub mod authenticator;
pub mod ber;
mod case;
pub mod cms;
pub mod receipt;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod made_up;
#[cfg(test)]
mod negatives;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use assertion::{Asserted, Assertion};
pub use attestation::{Attestation, Attested};
pub use case::{verify_assertion_case, verify_attestation_case, verify_receipt_case};
pub use receipt::{Receipt, ReceiptKind, Received};

use super::Refused;
use super::chain::{Anchor, Anchors};

/// Where an app runs from: built by a developer, or handed out by Apple. Apple keeps their keys and receipts apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Environment {
    /// Built with the development entitlement; receipts say `sandbox`.
    Development,
    /// From the App Store, TestFlight or enterprise distribution.
    Production,
}

impl Environment {
    /// `development` or `production`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
        }
    }
}

/// What the operator decides about Apple's evidence: the table of a policy file. A name that is not known is refused.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApplePolicy {
    /// Environments that are taken, as a limit on what a case may ask for. Default: no limit of its own, which means for
    /// an attestation the environment that the case names, and production where it names none; and for a receipt the one
    /// that the case names, and any where it names none.
    pub environments: Option<Vec<Environment>>,
    /// How old a receipt may be, in seconds since Apple made it. Default: 300, as Apple advises.
    pub receipt_age_max_s: u64,
    /// How far Apple's clock may be ahead of ours, in seconds, when a receipt says when it was made. Default: 60.
    /// Certificates get no such grace.
    pub clock_ahead_max_s: u64,
}

impl Default for ApplePolicy {
    fn default() -> Self {
        Self { environments: None, receipt_age_max_s: 300, clock_ahead_max_s: 60 }
    }
}

impl ApplePolicy {
    /// Whether the policy's limit takes this environment.
    fn takes(&self, environment: Environment) -> bool {
        self.environments.as_ref().is_none_or(|taken| taken.contains(&environment))
    }
}

/// The ends that chains of Apple's evidence must reach, each for its own kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppleRoots {
    /// For attestations.
    pub app_attestation: Anchors,
    /// For receipts.
    pub receipts: Anchors,
}

impl AppleRoots {
    /// Those that are part of the program: Apple App Attestation Root CA and Apple Root CA - G3, as Apple publishes them
    /// (<https://www.apple.com/certificateauthority/>; SHA-256 of the certificates 1cb9823b...c932 and 63343abf...9179).
    ///
    /// # Errors
    /// Never, as a test sees to; a type cannot say so.
    pub fn bundled() -> Result<Self, Refused> {
        let anchors = |label: &str, pem: &str| -> Result<Anchors, Refused> {
            let ders = super::chain::parse_pem_chain(pem)?;
            let pinned = ders.iter().map(|der| Anchor::from_certificate(label, der));
            Ok(Anchors::new(pinned.collect::<Result<_, _>>()?))
        };
        Ok(Self {
            app_attestation: anchors(
                "Apple App Attestation Root CA",
                include_str!("roots/apple_app_attestation_root_ca.pem"),
            )?,
            receipts: anchors("Apple Root CA - G3", include_str!("roots/apple_root_ca_g3.pem"))?,
        })
    }
}

/// DER SubjectPublicKeyInfo (RFC 5480) of an uncompressed point of P-256, up to the point.
const P256_SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The uncompressed point of a P-256 key; whether it lies on the curve is seen when it is used.
pub(crate) fn point_of_spki(spki: &[u8]) -> Option<[u8; 65]> {
    let point: [u8; 65] = spki.strip_prefix(&P256_SPKI_HEAD)?.try_into().ok()?;
    (point.first() == Some(&4)).then_some(point)
}

fn spki_of_point(point: &[u8; 65]) -> Vec<u8> {
    [&P256_SPKI_HEAD[..], point].concat()
}
