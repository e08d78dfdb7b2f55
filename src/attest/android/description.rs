//! What the secure hardware says of a key: the KeyDescription of Android's attestation extension, read strictly.
//!
//! Schema: Android Open Source Project, "Key and ID attestation", attestation versions 1 to 500. Members keep the list
//! they came in, because what the operating system says of itself (`softwareEnforced`) is worth less than what the
//! hardware says. Identifiers of the device (IMEI, serial number) are read over: nobody here needs them.

use super::der::{Reader, malformed};
use crate::attest::Refused;

/// Bytes of an extension; real ones have some hundred.
pub const DESCRIPTION_BYTES_MAX: usize = 8 * 1024;
/// Attestation versions that are taken: Keymaster 2 had 1, KeyMint 5 has 500; later ones append members.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1000;
/// Members of one list.
const MEMBERS_MAX: usize = 128;
/// Packages, and signers, of one application id.
const APPLICATION_NAMES_MAX: usize = 64;
/// Characters of a text, such as a package's name.
const TEXT_BYTES_MAX: usize = 512;

// Tags of AuthorizationList.
const PURPOSE: u32 = 1;
const ALGORITHM: u32 = 2;
const KEY_SIZE: u32 = 3;
const DIGEST: u32 = 5;
const PADDING: u32 = 6;
const EC_CURVE: u32 = 10;
const RSA_PUBLIC_EXPONENT: u32 = 200;
const NO_AUTH_REQUIRED: u32 = 503;
const USER_AUTH_TYPE: u32 = 504;
const AUTH_TIMEOUT: u32 = 505;
const ALLOW_WHILE_ON_BODY: u32 = 506;
const ALL_APPLICATIONS: u32 = 600;
const CREATION_DATE_TIME: u32 = 701;
const ORIGIN: u32 = 702;
const ROOT_OF_TRUST: u32 = 704;
const OS_VERSION: u32 = 705;
const OS_PATCH_LEVEL: u32 = 706;
const APPLICATION_ID: u32 = 709;
const BRAND: u32 = 710;
const DEVICE: u32 = 711;
const PRODUCT: u32 = 712;
const MANUFACTURER: u32 = 716;
const MODEL: u32 = 717;
const VENDOR_PATCH_LEVEL: u32 = 718;
const BOOT_PATCH_LEVEL: u32 = 719;

/// Where a key or a statement lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityLevel {
    /// In the operating system.
    Software,
    /// In the processor's trusted environment.
    TrustedEnvironment,
    /// In a chip of its own.
    StrongBox,
}

impl SecurityLevel {
    /// As claims write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::TrustedEnvironment => "trusted_environment",
            Self::StrongBox => "strong_box",
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Refused> {
        match reader.enumerated()? {
            0 => Ok(Self::Software),
            1 => Ok(Self::TrustedEnvironment),
            2 => Ok(Self::StrongBox),
            _ => Err(malformed("a security level is none of the three")),
        }
    }
}

/// What the boot loader found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootState {
    /// Signed by the maker.
    Verified,
    /// Signed by a key that the owner installed.
    SelfSigned,
    /// Not checked: the boot loader is unlocked.
    Unverified,
    /// Checked and found wrong.
    Failed,
}

impl BootState {
    /// As claims write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::SelfSigned => "self_signed",
            Self::Unverified => "unverified",
            Self::Failed => "failed",
        }
    }
}

/// What the device was started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RootOfTrust {
    /// The key, or its hash, that the system was verified by.
    pub boot_key: Vec<u8>,
    /// Whether the boot loader is locked.
    pub device_locked: bool,
    /// What the boot loader found.
    pub boot_state: BootState,
    /// Hash of everything that was verified; from attestation version 3 on.
    pub boot_hash: Option<Vec<u8>>,
}

/// Who asked for the key. Android lets apps share an identity, therefore several packages may stand here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApplicationId {
    /// Names and versions.
    pub packages: Vec<(String, u64)>,
    /// SHA-256 of the signers' certificates.
    pub signers: Vec<Vec<u8>>,
}

/// One of the two lists of a description. A member that is absent was not stated.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of the schema")]
pub struct AuthorizationList {
    pub purposes: Vec<u32>,
    pub algorithm: Option<u32>,
    pub key_size: Option<u32>,
    pub digests: Vec<u32>,
    pub paddings: Vec<u32>,
    pub ec_curve: Option<u32>,
    pub rsa_public_exponent: Option<u64>,
    pub no_auth_required: bool,
    pub user_auth_type: Option<u64>,
    pub auth_timeout_s: Option<u64>,
    pub allow_while_on_body: bool,
    pub all_applications: bool,
    pub creation_ms: Option<u64>,
    pub origin: Option<u32>,
    pub root_of_trust: Option<RootOfTrust>,
    pub os_version: Option<u32>,
    pub os_patch_level: Option<u32>,
    pub vendor_patch_level: Option<u32>,
    pub boot_patch_level: Option<u32>,
    pub application_id: Option<ApplicationId>,
    pub brand: Option<String>,
    pub device: Option<String>,
    pub product: Option<String>,
    pub manufacturer: Option<String>,
    pub model: Option<String>,
    /// Whether the members stood in ascending order, as the schema says.
    pub ordered: bool,
}

/// The whole statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyDescription {
    /// Version of the statement's form.
    pub attestation_version: u32,
    /// Where the statement was signed.
    pub attestation_level: SecurityLevel,
    /// Version of Keymaster or KeyMint.
    pub keymint_version: u32,
    /// Where the key lives.
    pub keymint_level: SecurityLevel,
    /// What the verifier asked to be repeated.
    pub challenge: Vec<u8>,
    /// What the operating system states.
    pub software: AuthorizationList,
    /// What the hardware states.
    pub hardware: AuthorizationList,
}

impl KeyDescription {
    /// Reads the extension's value. Members that are not known are read over, members that stand twice are refused; order is noted
    /// in [`AuthorizationList::ordered`].
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn parse(der: &[u8]) -> Result<Self, Refused> {
        if der.len() > DESCRIPTION_BYTES_MAX {
            return Err(malformed("it has more than 8192 bytes"));
        }
        let mut whole = Reader::new(der);
        let mut reader = whole.sequence()?;
        whole.end()?;
        let attestation_version = reader.small()?;
        if !VERSIONS.contains(&attestation_version) {
            return Err(malformed("its version is not between 1 and 1000"));
        }
        let attestation_level = SecurityLevel::read(&mut reader)?;
        let keymint_version = reader.small()?;
        let keymint_level = SecurityLevel::read(&mut reader)?;
        let challenge = reader.bytes()?.to_vec();
        let _unique_id = reader.bytes()?;
        let software = AuthorizationList::read(reader.sequence()?)?;
        let hardware = AuthorizationList::read(reader.sequence()?)?;
        reader.end()?;
        Ok(Self {
            attestation_version,
            attestation_level,
            keymint_version,
            keymint_level,
            challenge,
            software,
            hardware,
        })
    }
}

impl AuthorizationList {
    fn read(mut reader: Reader<'_>) -> Result<Self, Refused> {
        let mut list = Self { ordered: true, ..Self::default() };
        let mut seen: Vec<u32> = Vec::new();
        while let Some(element) = reader.next_element()? {
            let (number, mut value) = element.tagged()?;
            if seen.len() == MEMBERS_MAX {
                return Err(malformed("a list has more than 128 members"));
            }
            if seen.contains(&number) {
                return Err(malformed("a list has the same member twice"));
            }
            list.ordered &= seen.last().is_none_or(|before| *before < number);
            seen.push(number);
            if list.take(number, &mut value)? {
                value.end()?;
            }
        }
        Ok(list)
    }

    /// Reads a member that is known; whether it was.
    fn take(&mut self, number: u32, value: &mut Reader<'_>) -> Result<bool, Refused> {
        match number {
            PURPOSE => self.purposes = value.set_of_small()?,
            ALGORITHM => self.algorithm = Some(value.small()?),
            KEY_SIZE => self.key_size = Some(value.small()?),
            DIGEST => self.digests = value.set_of_small()?,
            PADDING => self.paddings = value.set_of_small()?,
            EC_CURVE => self.ec_curve = Some(value.small()?),
            RSA_PUBLIC_EXPONENT => self.rsa_public_exponent = Some(value.unsigned()?),
            NO_AUTH_REQUIRED => self.no_auth_required = flag(value)?,
            USER_AUTH_TYPE => self.user_auth_type = Some(value.unsigned()?),
            AUTH_TIMEOUT => self.auth_timeout_s = Some(value.unsigned()?),
            ALLOW_WHILE_ON_BODY => self.allow_while_on_body = flag(value)?,
            ALL_APPLICATIONS => self.all_applications = flag(value)?,
            CREATION_DATE_TIME => self.creation_ms = Some(value.unsigned()?),
            ORIGIN => self.origin = Some(value.small()?),
            ROOT_OF_TRUST => self.root_of_trust = Some(root_of_trust(value.sequence()?)?),
            OS_VERSION => self.os_version = Some(value.small()?),
            OS_PATCH_LEVEL => self.os_patch_level = Some(value.small()?),
            VENDOR_PATCH_LEVEL => self.vendor_patch_level = Some(value.small()?),
            BOOT_PATCH_LEVEL => self.boot_patch_level = Some(value.small()?),
            APPLICATION_ID => self.application_id = Some(application_id(value.bytes()?)?),
            BRAND => self.brand = Some(text(value.bytes()?)?),
            DEVICE => self.device = Some(text(value.bytes()?)?),
            PRODUCT => self.product = Some(text(value.bytes()?)?),
            MANUFACTURER => self.manufacturer = Some(text(value.bytes()?)?),
            MODEL => self.model = Some(text(value.bytes()?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn flag(value: &mut Reader<'_>) -> Result<bool, Refused> {
    value.null()?;
    Ok(true)
}

fn root_of_trust(mut reader: Reader<'_>) -> Result<RootOfTrust, Refused> {
    let boot_key = reader.bytes()?.to_vec();
    let device_locked = reader.boolean()?;
    let boot_state = match reader.enumerated()? {
        0 => BootState::Verified,
        1 => BootState::SelfSigned,
        2 => BootState::Unverified,
        3 => BootState::Failed,
        _ => return Err(malformed("a boot state is none of the four")),
    };
    let boot_hash = if reader.end().is_ok() { None } else { Some(reader.bytes()?.to_vec()) };
    reader.end()?;
    Ok(RootOfTrust { boot_key, device_locked, boot_state, boot_hash })
}

fn application_id(der: &[u8]) -> Result<ApplicationId, Refused> {
    let mut whole = Reader::new(der);
    let mut reader = whole.sequence()?;
    whole.end()?;
    let too_many = || malformed("an application id has more than 64 packages or signers");
    let mut packages = Vec::new();
    let mut set = reader.set()?;
    while set.end().is_err() {
        if packages.len() == APPLICATION_NAMES_MAX {
            return Err(too_many());
        }
        let mut package = set.sequence()?;
        packages.push((text(package.bytes()?)?, package.unsigned()?));
        package.end()?;
    }
    let mut signers = Vec::new();
    let mut set = reader.set()?;
    while set.end().is_err() {
        if signers.len() == APPLICATION_NAMES_MAX {
            return Err(too_many());
        }
        signers.push(set.bytes()?.to_vec());
    }
    reader.end()?;
    Ok(ApplicationId { packages, signers })
}

fn text(bytes: &[u8]) -> Result<String, Refused> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(malformed("a text has more than 512 bytes"));
    }
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| malformed("a text is not UTF-8"))
}
