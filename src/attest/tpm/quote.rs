//! Whether a quote is genuine, fresh and about the registers that were asked for.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::{Claims, Refused};
use super::event_log::Registers;
use super::hash::Hash;
use super::wire::{Attest, Attested, ClockInfo, Numbers, Public, Selection, Signature, alg, tag};
use super::{TpmPolicy, first_deviation, key, registers_json};
use crate::crypto::constant_time_eq;
use crate::crypto::hex;

/// The fewest bytes of a nonce.
const NONCE_BYTES_MIN: usize = 16;

/// What a device sent.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// TPMT_PUBLIC of the attestation key.
    pub ak_public: &'a [u8],
    /// TPMS_ATTEST.
    pub attest: &'a [u8],
    /// TPMT_SIGNATURE.
    pub signature: &'a [u8],
    /// The values that the device says its registers have.
    pub registers: Registers,
}

/// What is known from elsewhere.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// That was handed out for this quote.
    pub nonce: &'a [u8],
    /// The bank that was asked for.
    pub bank: Hash,
    /// Exactly the registers that were asked for; `None` leaves it to the policy.
    pub required_pcrs: Option<Vec<u8>>,
    /// The name of the device's key, as credential activation bound it.
    pub ak_name: Option<&'a [u8]>,
    /// Of the last accepted quote.
    pub counters: Counters,
}

/// What is remembered of a TPM's clock; each is absent where nobody knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// How often the machine was started.
    pub reset_count: Option<u32>,
    /// How often it woke or hibernated since.
    pub restart_count: Option<u32>,
    /// Milliseconds that the TPM had power, ever.
    pub clock_ms: Option<u64>,
}

impl From<ClockInfo> for Counters {
    fn from(clock: ClockInfo) -> Self {
        Self {
            reset_count: Some(clock.reset_count),
            restart_count: Some(clock.restart_count),
            clock_ms: Some(clock.clock_ms),
        }
    }
}

/// A genuine quote.
#[derive(Clone, Debug)]
pub struct Quote {
    /// The key that signed it.
    pub key: Public,
    /// The signature's scheme and hash.
    pub signature: (u16, Hash),
    /// When, and the counters to store.
    pub clock: ClockInfo,
    /// The vendor's number.
    pub firmware_version: u64,
    /// The bank of the registers.
    pub bank: Hash,
    /// The registers that the quote vouches for, and no others.
    pub registers: Registers,
    /// The model whose registers they are, where the policy knows models.
    pub model: Option<String>,
    /// Whether the key was the one that was expected by name.
    pub ak_known: bool,
}

impl Quote {
    /// The TPM's name for the key that signed, in hexadecimal.
    pub fn name_hex(&self) -> String {
        hex(&self.key.name)
    }

    /// As the command line prints it.
    pub fn claims(&self) -> Claims {
        let scheme = match self.signature.0 {
            alg::RSASSA => "rsassa",
            alg::RSAPSS => "rsapss",
            _ => "ecdsa",
        };
        let kind = match &self.key.numbers {
            Numbers::Rsa { bits, .. } => format!("rsa-{bits}"),
            Numbers::Ecc { curve: key::P256, .. } => "p-256".to_owned(),
            Numbers::Ecc { .. } => "p-384".to_owned(),
        };
        let mut claims = Claims::new();
        for (name, value) in [
            ("type", json!("tpm-quote")),
            ("ak_name", json!(hex(&self.key.name))),
            ("ak_known", json!(self.ak_known)),
            ("ak_key", json!(kind)),
            ("signature", json!(format!("{scheme}-{}", self.signature.1.name()))),
            ("pcr_bank", json!(self.bank.name())),
            ("pcrs", registers_json(&self.registers)),
            ("clock_ms", json!(self.clock.clock_ms)),
            ("clock_safe", json!(self.clock.safe)),
            ("reset_count", json!(self.clock.reset_count)),
            ("restart_count", json!(self.clock.restart_count)),
            ("firmware_version", json!(format!("{:016x}", self.firmware_version))),
        ] {
            claims.insert(name.to_owned(), value);
        }
        if let Some(model) = &self.model {
            claims.insert("model".to_owned(), json!(model));
        }
        claims
    }
}

/// Judges a quote: the key, the signature over the received bytes, then what was signed.
///
/// # Errors
/// `malformed`, `algorithm`, `malformed_key`, `ak_attributes`, `ak_name`, `signature`, `magic`, `attest_type`, `nonce`,
/// `pcr_bank`, `pcr_selection`, `pcr_value`, `pcr_digest`, `pcr_policy`, `pcr_model`, `clock_not_safe`, `reset_count_changed`,
/// `counter_rolled_back`.
pub fn verify(evidence: &Evidence<'_>, known: &Known<'_>, policy: &TpmPolicy) -> Result<Quote, Refused> {
    let key = Public::parse(evidence.ak_public)?;
    key::check_attestation_key(&key)?;
    if known.ak_name.is_some_and(|name| !constant_time_eq(name, &key.name)) {
        return Err(Refused::new("ak_name", "The attestation key is not the one that is known for this device."));
    }
    let signature = Signature::parse(evidence.signature)?;
    key::verify(&key, &signature, evidence.attest, policy.allow_sha1_signature)?;
    let signature_hash = Hash::from_tpm_id(signature.hash)
        .ok_or_else(|| Refused::new("algorithm", "The signature's hash is unknown."))?;

    let attest = Attest::parse(evidence.attest, tag::QUOTE)?;
    check_nonce(&attest.extra_data, known.nonce, policy)?;
    let Attested::Quote { selections, pcr_digest } = &attest.attested else {
        return Err(Refused::new("attest_type", "The attestation is not a quote."));
    };
    let selected = check_selection(selections, known, policy)?;
    let mut registers = Registers::new();
    let mut all = Vec::new();
    for pcr in &selected.pcrs {
        let value = evidence.registers.get(pcr).filter(|value| value.len() == known.bank.digest_bytes());
        let value = value.ok_or_else(|| {
            Refused::new("pcr_value", format!("The value of PCR {pcr}, which the quote covers, did not come with it."))
        })?;
        all.extend_from_slice(value);
        registers.insert(*pcr, value.clone());
    }
    if !constant_time_eq(&signature_hash.digest(&all), pcr_digest) {
        return Err(Refused::new(
            "pcr_digest",
            "The quote's digest is not that of the register values that came with it.",
        ));
    }
    check_policy_covered(&registers, policy)?;
    if let Some(pcr) = first_deviation(&policy.pcr_values, &registers) {
        return Err(Refused::new("pcr_policy", format!("PCR {pcr} has a value that the policy does not know.")));
    }
    let model = policy.models.iter().find(|(_, values)| first_deviation(values, &registers).is_none());
    if model.is_none() && !policy.models.is_empty() {
        return Err(Refused::new("pcr_model", "The registers are not those of any model that the policy knows."));
    }
    check_clock(&attest.clock, known, policy)?;
    Ok(Quote {
        key,
        signature: (signature.scheme, signature_hash),
        clock: attest.clock,
        firmware_version: attest.firmware_version,
        bank: known.bank,
        registers,
        model: model.map(|(name, _)| name.clone()),
        ak_known: known.ak_name.is_some(),
    })
}

fn check_nonce(found: &[u8], expected: &[u8], policy: &TpmPolicy) -> Result<(), Refused> {
    if expected.len() < NONCE_BYTES_MIN && !(expected.is_empty() && policy.allow_empty_nonce) {
        return Err(Refused::new(
            "nonce",
            "A quote without a nonce of at least 16 bytes says nothing about the present.",
        ));
    }
    if constant_time_eq(found, expected) {
        Ok(())
    } else {
        Err(Refused::new("nonce", "The quote was made for another nonce."))
    }
}

/// The one bank that was asked for, with the registers that were asked for.
fn check_selection<'a>(
    selections: &'a [Selection],
    known: &Known<'_>,
    policy: &TpmPolicy,
) -> Result<&'a Selection, Refused> {
    if known.bank == Hash::Sha1 && !policy.allow_sha1_bank {
        return Err(Refused::new("pcr_bank", "The quote is over the SHA-1 bank, which the policy does not accept."));
    }
    // TPMs list banks without any selected register too; those say nothing.
    let mut chosen = selections.iter().filter(|s| !s.pcrs.is_empty());
    let (Some(selected), None) = (chosen.next(), chosen.next()) else {
        return Err(Refused::new("pcr_bank", "The quote covers no bank of registers, or more than one."));
    };
    if selected.bank != known.bank.tpm_id() {
        let detail = format!("The quote is over another bank than {}.", known.bank.name());
        return Err(Refused::new("pcr_bank", detail));
    }
    let covers = |wanted: &[u8]| wanted.iter().all(|pcr| selected.pcrs.contains(pcr));
    let met = match &known.required_pcrs {
        Some(exactly) => covers(exactly) && selected.pcrs.iter().all(|pcr| exactly.contains(pcr)),
        None => covers(&policy.required_pcrs),
    };
    if met {
        Ok(selected)
    } else {
        Err(Refused::new("pcr_selection", "The quote does not cover the registers that were asked for."))
    }
}

/// A register that the policy pins must have been quoted at all.
fn check_policy_covered(registers: &Registers, policy: &TpmPolicy) -> Result<(), Refused> {
    let quoted = |name: &String| registers.keys().any(|pcr| pcr.to_string() == *name);
    match policy.pcr_values.keys().find(|name| !quoted(name)) {
        None => Ok(()),
        Some(name) => Err(Refused::new(
            "pcr_policy",
            format!("The policy has values for PCR {name}, which the quote does not cover."),
        )),
    }
}

fn check_clock(clock: &ClockInfo, known: &Known<'_>, policy: &TpmPolicy) -> Result<(), Refused> {
    if policy.require_safe_clock && !clock.safe {
        return Err(Refused::new("clock_not_safe", "The TPM says that its clock may have run backwards."));
    }
    check_counters(clock, &known.counters, policy.allow_reset)
}

/// Holds a quote's counters against those of the last accepted one. `allow_reset`: whether the machine may have been
/// started again since.
///
/// # Errors
/// `reset_count_changed`, `counter_rolled_back`.
pub fn check_counters(clock: &ClockInfo, known: &Counters, allow_reset: bool) -> Result<(), Refused> {
    let back = |what: &str| Err(Refused::new("counter_rolled_back", format!("The TPM's {what} is lower than it was.")));
    // The clock runs on over restarts and resets; only clearing the TPM sets it back.
    if clock.safe && known.clock_ms.is_some_and(|before| clock.clock_ms < before) {
        return back("clock");
    }
    let Some(resets) = known.reset_count else { return Ok(()) };
    if clock.reset_count < resets {
        return back("count of starts");
    }
    if clock.reset_count > resets {
        if allow_reset {
            return Ok(());
        }
        return Err(Refused::new(
            "reset_count_changed",
            "The machine was started again since the last quote: take a fresh baseline of its registers.",
        ));
    }
    match known.restart_count {
        Some(restarts) if clock.restart_count < restarts => back("count of restarts"),
        _ => Ok(()),
    }
}
