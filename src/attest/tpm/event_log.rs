//! Logs of measured boot (TCG PC Client Platform Firmware Profile, sections 10.2 and 10.4): the crypto-agile form with a
//! digest for each bank, and the older one with SHA-1 alone.
//!
//! A log proves nothing by itself. Its digests, replayed, must give the registers that a quote vouches for; and of an
//! event's data only what hashes to its digest is evidence. Everything is little endian here.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Refused;
use super::hash::Hash;

/// Bytes of one log; real ones have 20 to 200 thousand.
pub const LOG_BYTES_MAX: usize = 1024 * 1024;
/// Events of one log; real ones have 20 to 300.
pub const EVENTS_MAX: usize = 8 * 1024;
/// Algorithms that a log may declare.
const ALGORITHMS_MAX: u32 = 8;
/// Registers of a TPM for the PC client.
pub const REGISTERS: u8 = 24;
/// Bytes of an unknown bank's digest.
const UNKNOWN_DIGEST_MAX: u16 = 128;

const EV_NO_ACTION: u32 = 3;
/// EV_SEPARATOR.
pub const EV_SEPARATOR: u32 = 4;
/// EV_EFI_VARIABLE_DRIVER_CONFIG.
pub const EV_DRIVER_CONFIG: u32 = 0x8000_0001;
/// EV_EFI_VARIABLE_AUTHORITY.
pub const EV_AUTHORITY: u32 = 0x8000_00e0;

/// What some firmware measures into PCR 5 around ExitBootServices and does not log (TCG PC Client Platform Firmware
/// Profile, section 8.2.4; the three orders are those that go-attestation met on real machines).
const EXIT_BOOT_SERVICES: [&[&str]; 3] = [
    &["Exit Boot Services Invocation", "Exit Boot Services Returned with Success"],
    &["Exit Boot Services Invocation", "Exit Boot Services Returned with Failure"],
    &[
        "Exit Boot Services Invocation",
        "Exit Boot Services Returned with Failure",
        "Exit Boot Services Returned with Success",
    ],
];
const EXIT_BOOT_SERVICES_PCR: u8 = 5;

/// Registers of one bank.
pub type Registers = BTreeMap<u8, Vec<u8>>;

/// How a log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// TCG_PCR_EVENT2.
    CryptoAgile,
    /// TCG_PCR_EVENT.
    Sha1,
}

impl Format {
    /// `crypto_agile` or `sha1`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CryptoAgile => "crypto_agile",
            Self::Sha1 => "sha1",
        }
    }
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The register; beyond 23 only where nothing is measured.
    pub pcr: u32,
    /// An EV_ number.
    pub kind: u32,
    /// By bank; of banks that are not known here nothing is kept.
    pub digests: BTreeMap<Hash, Vec<u8>>,
    /// As logged.
    pub data: Vec<u8>,
}

impl Event {
    /// Whether the event went into a register.
    pub const fn is_measured(&self) -> bool {
        self.kind != EV_NO_ACTION
    }

    /// Whether every digest is the hash of the data. For many types that is so by definition; where it is not, the
    /// data is hearsay.
    pub fn data_is_measured(&self) -> bool {
        self.is_measured()
            && !self.digests.is_empty()
            && self.digests.iter().all(|(hash, digest)| hash.digest(&self.data) == *digest)
    }
}

/// A log, read and not judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventLog {
    /// How it was written.
    pub format: Format,
    /// The banks that can be replayed.
    pub banks: BTreeSet<Hash>,
    /// In order.
    pub events: Vec<Event>,
    /// Where PCR 0 starts: the locality that started the TPM.
    pub startup_locality: u8,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(cut)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or_else(cut)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Refused> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Refused> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Refused> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Refused> {
        self.array().map(u64::from_le_bytes)
    }

    fn sized(&mut self) -> Result<&'a [u8], Refused> {
        let length = usize::try_from(self.u32()?).map_err(|_| cut())?;
        self.take(length)
    }
}

fn cut() -> Refused {
    malformed("The boot log ends inside an event.")
}

fn malformed(detail: &str) -> Refused {
    Refused::new("eventlog_malformed", detail)
}

impl EventLog {
    /// Reads a whole log: nothing may follow the last event.
    ///
    /// # Errors
    /// `eventlog_malformed`, `too_long`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > LOG_BYTES_MAX {
            return Err(Refused::new("too_long", "The boot log is longer than 1 MiB."));
        }
        let mut r = Reader(bytes);
        let first = legacy_event(&mut r)?;
        let algorithms = match first.data.strip_prefix(b"Spec ID Event03\0") {
            Some(header) if first.pcr == 0 && first.kind == EV_NO_ACTION => Some(spec_id(header)?),
            _ => None,
        };
        let mut events = vec![first];
        while !r.0.is_empty() {
            if events.len() >= EVENTS_MAX {
                return Err(Refused::new("too_long", "The boot log has more than 8,192 events."));
            }
            events.push(match &algorithms {
                Some(algorithms) => agile_event(&mut r, algorithms)?,
                None => legacy_event(&mut r)?,
            });
        }
        let (format, banks) = match algorithms {
            Some(sizes) => (Format::CryptoAgile, sizes.into_keys().filter_map(Hash::from_tpm_id).collect()),
            None => (Format::Sha1, BTreeSet::from([Hash::Sha1])),
        };
        let startup_locality = startup_locality(&events)?;
        Ok(Self { format, banks, events, startup_locality })
    }

    /// The registers of a bank after all events; only those that an event went into.
    pub fn replay(&self, bank: Hash) -> Registers {
        let mut registers = Registers::new();
        for event in self.events.iter().filter(|e| e.is_measured()) {
            if let (Ok(pcr), Some(digest)) = (u8::try_from(event.pcr), event.digests.get(&bank)) {
                let register = registers.entry(pcr).or_insert_with(|| self.start(bank, pcr));
                *register = bank.extend(register, digest);
            }
        }
        registers
    }

    fn start(&self, bank: Hash, pcr: u8) -> Vec<u8> {
        // Registers of a dynamic root of trust start with all bits set (Platform TPM Profile, table of PCR attributes).
        let mut register = vec![if (17..=22).contains(&pcr) { 0xff } else { 0 }; bank.digest_bytes()];
        if let (0, Some(last)) = (pcr, register.last_mut()) {
            *last = self.startup_locality;
        }
        register
    }

    /// Compares the replayed registers with `known` ones of a bank, and says which were compared: all of `known` that
    /// the log has events for, and the firmware's own (0 to 7) besides. Registers that systems extend without writing
    /// here (8 to 23) are passed over when no event names them.
    ///
    /// `exit_boot_services` admits a PCR 5 with the measurements of ExitBootServices that are missing in the log.
    ///
    /// # Errors
    /// `eventlog_bank` when the log has no such bank, `eventlog_mismatch`.
    pub fn compare(&self, bank: Hash, known: &Registers, exit_boot_services: bool) -> Result<Vec<u8>, Refused> {
        if !self.banks.contains(&bank) {
            return Err(Refused::new("eventlog_bank", format!("The boot log has no digests of {}.", bank.name())));
        }
        let replayed = self.replay(bank);
        let mut compared = Vec::new();
        for (pcr, value) in known {
            let logged = replayed.get(pcr);
            if logged.is_none() && *pcr > 7 {
                continue;
            }
            let from_log = logged.cloned().unwrap_or_else(|| self.start(bank, *pcr));
            let missing = *pcr == EXIT_BOOT_SERVICES_PCR && exit_boot_services && exits(bank, &from_log, value);
            if from_log != *value && !missing {
                return Err(Refused::new(
                    "eventlog_mismatch",
                    format!("The boot log does not replay to the value of PCR {pcr} in the bank {}.", bank.name()),
                ));
            }
            compared.push(*pcr);
        }
        // An event for a register that nobody vouches for is not evidence, and needs no refusal.
        Ok(compared)
    }
}

fn exits(bank: Hash, from_log: &[u8], value: &[u8]) -> bool {
    EXIT_BOOT_SERVICES.iter().any(|texts| {
        let register = texts
            .iter()
            .fold(from_log.to_vec(), |register, text| bank.extend(&register, &bank.digest(text.as_bytes())));
        register == value
    })
}

fn legacy_event(r: &mut Reader<'_>) -> Result<Event, Refused> {
    let (pcr, kind) = (r.u32()?, r.u32()?);
    let digest = r.take(Hash::Sha1.digest_bytes())?.to_vec();
    let data = r.sized()?.to_vec();
    checked(Event { pcr, kind, digests: BTreeMap::from([(Hash::Sha1, digest)]), data })
}

fn agile_event(r: &mut Reader<'_>, sizes: &BTreeMap<u16, u16>) -> Result<Event, Refused> {
    let (pcr, kind, count) = (r.u32()?, r.u32()?, r.u32()?);
    if usize::try_from(count).ok() != Some(sizes.len()) {
        return Err(malformed("An event of the boot log has more or fewer digests than the log declares."));
    }
    let (mut digests, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for _ in 0..count {
        let id = r.u16()?;
        let size = sizes.get(&id).filter(|_| seen.insert(id));
        let size =
            size.ok_or_else(|| malformed("An event of the boot log has a digest of an undeclared algorithm."))?;
        let digest = r.take(usize::from(*size))?;
        if let Some(hash) = Hash::from_tpm_id(id) {
            digests.insert(hash, digest.to_vec());
        }
    }
    checked(Event { pcr, kind, digests, data: r.sized()?.to_vec() })
}

fn checked(event: Event) -> Result<Event, Refused> {
    if event.is_measured() && event.pcr >= u32::from(REGISTERS) {
        return Err(malformed("An event of the boot log is for a register that no TPM has."));
    }
    Ok(event)
}

/// The rest of TCG_EfiSpecIdEvent: the declared algorithms and the bytes of their digests.
fn spec_id(header: &[u8]) -> Result<BTreeMap<u16, u16>, Refused> {
    let mut r = Reader(header);
    // Platform class, version, errata and the size of a pointer.
    r.take(8)?;
    let count = r.u32()?;
    if count == 0 || count > ALGORITHMS_MAX {
        return Err(malformed("The boot log declares no algorithm, or more than eight."));
    }
    let mut sizes = BTreeMap::new();
    for _ in 0..count {
        let (id, size) = (r.u16()?, r.u16()?);
        let fits = match Hash::from_tpm_id(id) {
            Some(hash) => usize::from(size) == hash.digest_bytes(),
            None => (1..=UNKNOWN_DIGEST_MAX).contains(&size),
        };
        if !fits || sizes.insert(id, size).is_some() {
            return Err(malformed("The boot log declares an algorithm twice or with a wrong size."));
        }
    }
    let vendor = usize::from(r.u8()?);
    r.take(vendor)?;
    if r.0.is_empty() { Ok(sizes) } else { Err(malformed("The boot log's first event goes on after its end.")) }
}

/// The locality that started the TPM, where an event says so: before anything went into PCR 0, and once.
fn startup_locality(events: &[Event]) -> Result<u8, Refused> {
    let (mut locality, mut measured) = (None, false);
    for event in events {
        measured |= event.is_measured() && event.pcr == 0;
        let Some(value) = event.data.strip_prefix(b"StartupLocality\0").filter(|_| !event.is_measured()) else {
            continue;
        };
        match value {
            // Locality 4 belongs to a root of trust that measured before the firmware began.
            [value @ (0 | 3 | 4)] if locality.is_none() && !measured => locality = Some(*value),
            _ => return Err(malformed("The boot log tells the TPM's startup locality twice, too late or wrongly.")),
        }
    }
    Ok(locality.unwrap_or(0))
}

/// UEFI_VARIABLE_DATA: a variable of the firmware as it was measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variable {
    /// As written by people: the first three groups are little endian on the wire.
    pub guid: String,
    /// Its name.
    pub name: String,
    /// Its content.
    pub data: Vec<u8>,
}

impl Variable {
    /// Reads the variable that an event's data is; `None` when it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let guid = guid(&mut r).ok()?;
        let (name_units, data_length) = (r.u64().ok()?, r.u64().ok()?);
        let name = r.take(usize::try_from(name_units).ok()?.checked_mul(2)?).ok()?;
        let data = r.take(usize::try_from(data_length).ok()?).ok()?.to_vec();
        let units: Vec<u16> = name.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        let name = String::from_utf16(&units).ok()?;
        r.0.is_empty().then_some(Self { guid, name, data })
    }
}

fn guid(r: &mut Reader<'_>) -> Result<String, Refused> {
    let (a, b, c) = (r.u32()?, r.u16()?, r.u16()?);
    let [d0, d1, e0, e1, e2, e3, e4, e5] = r.array::<8>()?;
    Ok(format!("{a:08x}-{b:04x}-{c:04x}-{d0:02x}{d1:02x}-{e0:02x}{e1:02x}{e2:02x}{e3:02x}{e4:02x}{e5:02x}"))
}

/// The name of a type (PC Client Platform Firmware Profile, table 27).
pub const fn type_name(kind: u32) -> Option<&'static str> {
    Some(match kind {
        0x0 => "EV_PREBOOT_CERT",
        0x1 => "EV_POST_CODE",
        0x3 => "EV_NO_ACTION",
        0x4 => "EV_SEPARATOR",
        0x5 => "EV_ACTION",
        0x6 => "EV_EVENT_TAG",
        0x7 => "EV_S_CRTM_CONTENTS",
        0x8 => "EV_S_CRTM_VERSION",
        0x9 => "EV_CPU_MICROCODE",
        0xa => "EV_PLATFORM_CONFIG_FLAGS",
        0xb => "EV_TABLE_OF_DEVICES",
        0xc => "EV_COMPACT_HASH",
        0xd => "EV_IPL",
        0xe => "EV_IPL_PARTITION_DATA",
        0xf => "EV_NONHOST_CODE",
        0x10 => "EV_NONHOST_CONFIG",
        0x11 => "EV_NONHOST_INFO",
        0x12 => "EV_OMIT_BOOT_DEVICE_EVENTS",
        0x13 => "EV_POST_CODE2",
        0x8000_0001 => "EV_EFI_VARIABLE_DRIVER_CONFIG",
        0x8000_0002 => "EV_EFI_VARIABLE_BOOT",
        0x8000_0003 => "EV_EFI_BOOT_SERVICES_APPLICATION",
        0x8000_0004 => "EV_EFI_BOOT_SERVICES_DRIVER",
        0x8000_0005 => "EV_EFI_RUNTIME_SERVICES_DRIVER",
        0x8000_0006 => "EV_EFI_GPT_EVENT",
        0x8000_0007 => "EV_EFI_ACTION",
        0x8000_0008 => "EV_EFI_PLATFORM_FIRMWARE_BLOB",
        0x8000_0009 => "EV_EFI_HANDOFF_TABLES",
        0x8000_000a => "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
        0x8000_000b => "EV_EFI_HANDOFF_TABLES2",
        0x8000_000c => "EV_EFI_VARIABLE_BOOT2",
        0x8000_000d => "EV_EFI_GPT_EVENT2",
        0x8000_0010 => "EV_EFI_HCRTM_EVENT",
        0x8000_00e0 => "EV_EFI_VARIABLE_AUTHORITY",
        0x8000_00e1 => "EV_EFI_SPDM_FIRMWARE_BLOB",
        0x8000_00e2 => "EV_EFI_SPDM_FIRMWARE_CONFIG",
        _ => return None,
    })
}
