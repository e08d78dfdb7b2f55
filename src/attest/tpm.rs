//! TPM 2.0: quotes, boot logs and the activation of credentials.
//!
//! A quote is what a TPM signs with a key that refuses to sign anything else: the registers of measured boot at one
//! moment, for one nonce. A boot log explains the registers. Credential activation binds the signing key to the chip's
//! own endorsement key. Sources: TCG, Trusted Platform Module Library 2.0, Parts 1 and 2; TCG PC Client Platform
//! Firmware Profile. Knows nothing of devices, and keeps nothing between calls.

pub mod activation;
pub mod aik;
pub mod ek;
pub mod event_log;
pub mod hash;
pub mod key;
mod log_claims;
pub mod quote;
pub mod wire;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::chain::{Anchor, Anchors, parse_pem_chain};
use super::members::{Members, missing, wrong};
use super::{Claims, Refused};
use crate::crypto::{hex, unhex};
use crate::kernel::Timestamp;
use aik::Bound;
use event_log::{EventLog, REGISTERS, Registers};
use hash::Hash;
use quote::{Counters, Evidence, Known, Quote};

/// What a device's TPM must show. One policy for each model of device: `pcr_values` differ from model to model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TpmPolicy {
    /// Registers that a quote must cover where the case does not say itself (`required_pcrs`); then more may be quoted.
    /// A case that says must be met exactly. Default 0 to 7: all that firmware measures.
    pub required_pcrs: Vec<u8>,
    /// Whether the registers may be those of the SHA-1 bank. Default false.
    pub allow_sha1_bank: bool,
    /// Whether the quote's signature may be RSASSA with SHA-1, as old TPMs under Windows make it. Default false.
    pub allow_sha1_signature: bool,
    /// Whether a quote without a nonce counts, for reading evidence that was recorded somewhere. It proves nothing about
    /// the present. Default false.
    pub allow_empty_nonce: bool,
    /// Whether something must bind the attestation key to a TPM: its name as activation found it (`ak_name_hex`) or a
    /// certificate (`ak_certificates_pem`). Default false: the key itself (`ak_public_b64`) comes from whoever keeps it.
    pub require_ak_binding: bool,
    /// Whether a quote with a clock that may have run backwards (`safe` is no) is refused. Default true.
    pub require_safe_clock: bool,
    /// Whether the machine may have been started again since the counters of the case were stored
    /// (`stored_reset_count`). Default false: the refusal `reset_count_changed` tells the caller to take a fresh
    /// baseline. Counters that went back are refused always.
    pub allow_reset: bool,
    /// Register numbers and the values that each may have, in hexadecimal; registers not named may have any. Default
    /// none.
    pub pcr_values: BTreeMap<String, Vec<String>>,
    /// The same for each model of device, by a name of yours. Where there are any, the registers must be those of one of
    /// them, which the claim `model` names. Nobody is asked which model it is: whoever could choose would choose the
    /// laxest. Default none.
    pub models: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Whether the appliance activates keys beside an endorsement key without a certificate of a trusted maker. Then
    /// nothing says that there is a TPM at all, and such a proof counts no more than one in software. Default false.
    pub allow_unknown_ek: bool,
    /// Whether a quote must come with its boot log. Default false. A log that comes is judged always.
    pub require_event_log: bool,
    /// Whether a boot log must come with registers to compare (`pcrs` or `pcr_values`). Default false: it is read, and
    /// `compared_pcrs` is empty, which says that nothing of it is proven.
    pub require_pcr_values: bool,
    /// Whether the boot log must show that Secure Boot was on. Default false. It is proven only where PCR 7 was compared,
    /// so that is demanded too.
    pub require_secure_boot: bool,
    /// Whether PCR 5 may have, beyond its log, the measurements of ExitBootServices that some firmware forgets to log.
    /// Default false.
    pub ebs_missing_workaround: bool,
}

impl Default for TpmPolicy {
    fn default() -> Self {
        Self {
            required_pcrs: (0..=7).collect(),
            allow_sha1_bank: false,
            allow_sha1_signature: false,
            allow_empty_nonce: false,
            require_ak_binding: false,
            require_safe_clock: true,
            allow_reset: false,
            pcr_values: BTreeMap::new(),
            models: BTreeMap::new(),
            allow_unknown_ek: false,
            require_event_log: false,
            require_pcr_values: false,
            require_secure_boot: false,
            ebs_missing_workaround: false,
        }
    }
}

/// Register numbers and the values that each may have, in hexadecimal.
type Allowed = BTreeMap<String, Vec<String>>;

/// The first register that has another value than these allow.
fn first_deviation<'a>(allowed: &'a Allowed, registers: &Registers) -> Option<&'a str> {
    let fits = |name: &str, values: &[String]| {
        let value = registers.iter().find(|(pcr, _)| pcr.to_string() == name).map(|(_, value)| value);
        value.is_some_and(|value| values.iter().any(|text| unhex(text).as_ref() == Some(value)))
    };
    allowed.iter().find(|(name, values)| !fits(name, values)).map(|(name, _)| name.as_str())
}

/// Judges one quote. `now` is for certificates alone: a TPM has no date, its nonce and counters stand for freshness.
///
/// Members: `ak_public_b64`, `attest_b64` (or `quote_b64`), `signature_b64` (or `quote_signature_b64`), `nonce_hex` (or
/// `nonce_b64`), `pcr_values` (or `pcrs`): numbers and values, or the same within banks; and where they are known
/// `pcr_bank` (default `sha256`), `required_pcrs`, `ak_name_hex`, `stored_reset_count`, `stored_restart_count`,
/// `stored_clock_ms`, `event_log_b64`, `ak_certificates_pem` (leaf first) with `root_pem` (default: the bundled root of
/// Microsoft's authorities).
///
/// # Errors
/// [`Refused`] with the first rule that was broken; `malformed_input` for a case that lacks a member.
pub fn verify_quote_case(input: &Map<String, Value>, policy: &TpmPolicy, now: Timestamp) -> Result<Claims, Refused> {
    let m = Members(input);
    let bank = match m.text("pcr_bank")? {
        None => Hash::Sha256,
        Some(name) => Hash::from_name(name).ok_or_else(|| wrong("pcr_bank", "sha1, sha256, sha384 or sha512"))?,
    };
    let mut banks = registers(m, Some(bank))?.ok_or_else(|| missing("pcr_values"))?;
    let ak_name = m.bytes(&["ak_name_hex", "ak_name_b64"])?;
    let certificates = m.text("ak_certificates_pem")?.map(parse_pem_chain).transpose()?;
    if policy.require_ak_binding && ak_name.is_none() && certificates.is_none() {
        return Err(Refused::new("ak_unbound", "Nothing binds the attestation key to a TPM."));
    }
    let public = m.required(&["ak_public_b64", "ak_public_hex"])?;
    let attest = m.required(&["attest_b64", "quote_b64", "attest_hex", "quote_hex"])?;
    let signature = m.required(&["signature_b64", "quote_signature_b64", "signature_hex", "quote_signature_hex"])?;
    let nonce = m.required(&["nonce_hex", "nonce_b64", "nonce_b64url"])?;
    let required_pcrs = m.get("required_pcrs").map(|value| numbers("required_pcrs", value)).transpose()?;
    let evidence = Evidence {
        ak_public: &public,
        attest: &attest,
        signature: &signature,
        registers: banks.remove(&bank).unwrap_or_default(),
    };
    let known = Known {
        nonce: &nonce,
        bank,
        required_pcrs,
        ak_name: ak_name.as_deref(),
        counters: Counters {
            reset_count: m.small("stored_reset_count")?,
            restart_count: m.small("stored_restart_count")?,
            clock_ms: m.number("stored_clock_ms")?,
        },
    };
    let anchors = match m.text("root_pem")? {
        None => aik::microsoft_root()?,
        Some(pem) => {
            let roots = parse_pem_chain(pem)?;
            let anchors = roots.iter().map(|der| Anchor::from_certificate("given with the case", der));
            anchors.collect::<Result<_, _>>().map(Anchors::new)?
        }
    };
    let event_log = m.bytes(&["event_log_b64", "eventlog_b64", "event_log_hex"])?;
    let beside = Beside { certificates: certificates.as_deref(), anchors: &anchors, event_log: event_log.as_deref() };
    verify_quote(&evidence, &known, &beside, policy, now).map(|verified| verified.claims)
}

/// What comes with a quote.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// That bind the attestation key to a TPM, leaf first.
    pub certificates: Option<&'a [Vec<u8>]>,
    /// Where these must end.
    pub anchors: &'a Anchors,
    /// The boot log.
    pub event_log: Option<&'a [u8]>,
}

/// A quote that holds.
#[derive(Clone, Debug)]
pub struct Verified {
    /// It.
    pub quote: Quote,
    /// The TPM that a certificate binds its key to, and the root that decided.
    pub bound: Option<Bound>,
    /// All that is true.
    pub claims: Claims,
}

/// Judges a quote and what came with it; see [`verify_quote_case`].
///
/// # Errors
/// [`Refused`] with the first rule that was broken.
pub fn verify_quote(
    evidence: &Evidence<'_>,
    known: &Known<'_>,
    beside: &Beside<'_>,
    policy: &TpmPolicy,
    now: Timestamp,
) -> Result<Verified, Refused> {
    let verified = quote::verify(evidence, known, policy)?;
    let mut claims = verified.claims();
    let bound = |ders: &[Vec<u8>]| aik::verify_bound(&verified.key, ders, beside.anchors, now);
    let bound = beside.certificates.map(bound).transpose()?;
    if let Some(bound) = &bound {
        claims.insert("ak_certificate_root".to_owned(), json!(bound.root));
        claims.extend(bound.chip.claims());
    }
    match beside.event_log {
        Some(bytes) => {
            let log = EventLog::parse(bytes)?;
            let registers = BTreeMap::from([(verified.bank, verified.registers.clone())]);
            let judged = log_claims::judge(&log, &registers, policy)?;
            claims.insert("event_log".to_owned(), Value::Object(judged));
        }
        None if policy.require_event_log || policy.require_secure_boot => {
            return Err(Refused::new(
                "eventlog_missing",
                "The quote comes without the boot log that the policy demands.",
            ));
        }
        None => {}
    }
    Ok(Verified { quote: verified, bound, claims })
}

/// Reads a boot log and compares it with registers, where the case has some.
///
/// Members: `eventlog_b64` (or `event_log_b64`); and where they are known `pcr_values` (or `pcrs`), `pcr_bank`. Values
/// without a bank belong to the one whose digests are as long.
///
/// # Errors
/// [`Refused`] with the first rule that was broken; `malformed_input` for a case that lacks a member.
pub fn verify_eventlog_case(input: &Map<String, Value>, policy: &TpmPolicy, now: Timestamp) -> Result<Claims, Refused> {
    let _ = now;
    let m = Members(input);
    let bytes = m.required(&["eventlog_b64", "event_log_b64", "log_b64", "eventlog_hex", "event_log_hex"])?;
    let bank = match m.text("pcr_bank")? {
        None => None,
        Some(name) => Some(Hash::from_name(name).ok_or_else(|| wrong("pcr_bank", "sha1, sha256, sha384 or sha512"))?),
    };
    let known = registers(m, bank)?.unwrap_or_default();
    let mut claims = log_claims::judge(&EventLog::parse(&bytes)?, &known, policy)?;
    claims.insert("type".to_owned(), json!("tpm-eventlog"));
    Ok(claims)
}

/// Reads the numbers and values (hexadecimal) of the registers of one bank.
///
/// # Errors
/// `malformed_input`, `pcr_value`.
pub fn read_registers(values: &Map<String, Value>, bank: Hash) -> Result<Registers, Refused> {
    let mut out = BTreeMap::new();
    for (key, value) in values {
        let (pcr, value) = register("pcr_values", key, value)?;
        insert(&mut out, bank, pcr, value)?;
    }
    Ok(out.remove(&bank).unwrap_or_default())
}

/// A name of a TPM's key from the hexadecimal that [`Quote::name_hex`] writes.
pub fn name_from_hex(text: &str) -> Option<Vec<u8>> {
    unhex(text)
}

/// The registers of a case: numbers and values, or the same within banks.
fn registers(m: Members<'_>, bank: Option<Hash>) -> Result<Option<BTreeMap<Hash, Registers>>, Refused> {
    let (name, found) = match m.inner("pcr_values")? {
        Some(found) => ("pcr_values", found),
        None => match m.inner("pcrs")? {
            Some(found) => ("pcrs", found),
            None => return Ok(None),
        },
    };
    let mut out: BTreeMap<Hash, Registers> = BTreeMap::new();
    for (key, value) in found.0 {
        match (Hash::from_name(key), value) {
            (Some(bank), Value::Object(inner)) => {
                for (key, value) in inner {
                    let (pcr, value) = register(name, key, value)?;
                    insert(&mut out, bank, pcr, value)?;
                }
            }
            _ => {
                let (pcr, value) = register(name, key, value)?;
                let by_length = || Hash::ALL.into_iter().find(|hash| hash.digest_bytes() == value.len());
                let bank = bank.or_else(by_length).ok_or_else(bad_value)?;
                insert(&mut out, bank, pcr, value)?;
            }
        }
    }
    Ok(Some(out))
}

fn register(name: &str, key: &str, value: &Value) -> Result<(u8, Vec<u8>), Refused> {
    // "7" and no other spelling of seven, so that no register is named twice.
    let pcr = key.parse::<u8>().ok().filter(|pcr| *pcr < REGISTERS && pcr.to_string() == key);
    let pcr = pcr.ok_or_else(|| wrong(name, "an object of register numbers from 0 to 23"))?;
    let value = value.as_str().and_then(unhex).ok_or_else(bad_value)?;
    Ok((pcr, value))
}

fn insert(out: &mut BTreeMap<Hash, Registers>, bank: Hash, pcr: u8, value: Vec<u8>) -> Result<(), Refused> {
    if value.len() != bank.digest_bytes() {
        return Err(bad_value());
    }
    match out.entry(bank).or_default().insert(pcr, value) {
        None => Ok(()),
        Some(_) => Err(bad_value()),
    }
}

fn bad_value() -> Refused {
    Refused::new(
        "pcr_value",
        "The value of a register is not hexadecimal, has not the length of its bank, or comes twice.",
    )
}

fn numbers(name: &str, value: &Value) -> Result<Vec<u8>, Refused> {
    let due = || wrong(name, "a list of register numbers from 0 to 23");
    let list = value.as_array().filter(|list| list.len() <= usize::from(REGISTERS)).ok_or_else(due)?;
    list.iter()
        .map(|n| n.as_u64().and_then(|n| u8::try_from(n).ok()).filter(|n| *n < REGISTERS).ok_or_else(due))
        .collect()
}

/// Registers as an object of numbers and hexadecimal values.
fn registers_json(registers: &Registers) -> Value {
    Value::Object(registers.iter().map(|(pcr, value)| (pcr.to_string(), json!(hex(value)))).collect())
}
