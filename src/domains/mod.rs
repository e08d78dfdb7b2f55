//! The nouns of the product, one folder each. A domain's `mod.rs` is its façade: other domains use nothing deeper.
//!
//! Who leans on whom, in this order and never back: audit, tenants, metering, flags, devices, killswitch, billing,
//! integrations, attestation, intel, signals, certificates, iam, embed.

pub mod attestation;
pub mod audit;
pub mod billing;
pub mod certificates;
pub mod devices;
pub mod embed;
pub mod flags;
pub mod iam;
pub mod integrations;
pub mod intel;
pub mod killswitch;
pub mod metering;
pub mod signals;
pub mod tenants;

/// The façades, built once by the boot sequence and handed to every caller.
pub struct Services {
    /// Who may do what.
    pub iam: iam::Iam,
    /// Companies.
    pub tenants: tenants::Tenants,
    /// Enrolled devices.
    pub devices: devices::Devices,
    /// Commands and the sockets that carry them.
    pub killswitch: killswitch::KillSwitch,
    /// Feature flags.
    pub flags: flags::Flags,
    /// How much is used.
    pub metering: metering::Metering,
    /// What is paid, and what that allows.
    pub billing: billing::Billing,
    /// Other systems that are told of what happens.
    pub integrations: integrations::Integrations,
    /// Client certificates of devices.
    pub certificates: certificates::Certificates,
    /// Proofs of hardware.
    pub attestation: attestation::Attestation,
    /// Lists of what is known to be bad.
    pub intel: intel::Intel,
    /// The status widget.
    pub embed: embed::Embed,
    /// Heartbeats and trust scores.
    pub signals: signals::Signals,
    /// The forensic log.
    pub audit: audit::Audit,
    /// The data file, for health.
    pub store: crate::store::Store,
}
