//! What a quote proves of a device, and what of it is remembered: the key, its chip and the chip's counters.

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value, json};

use super::super::formats::Expected;
use super::super::judge::{Proven, ProvenKey};
use super::super::store::{claim_key, release_key};
use super::super::trust::key_name;
use super::{OTHER_DEVICE, TpmKeyRow, chip_claims, level_of, place};
use crate::attest::chain::{Anchors, parse_pem_chain};
use crate::attest::tpm::aik::Bound;
use crate::attest::tpm::hash::Hash;
use crate::attest::tpm::quote::{Counters, Evidence, Known, check_counters};
use crate::attest::tpm::wire::ClockInfo;
use crate::attest::tpm::{self, Beside, TpmPolicy, key};
use crate::attest::{Claims, Refused};
use crate::crypto::sha256;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Result, Timestamp};
use crate::store::Tx;
use crate::store::tables::TPM_KEYS;

/// A key that has just quoted, and the counters that it quoted with.
#[derive(Clone)]
pub(in super::super) struct Shown {
    row: TpmKeyRow,
    clock: ClockInfo,
    /// Bound by a certificate and not by activation.
    by_certificate: bool,
}

/// Judges the members of `tpm-quote` for the nonce that is the hash of the device's challenge.
///
/// # Errors
/// `ak_unbound` where neither activation nor a certificate binds the key, and everything of
/// [`crate::attest::tpm::verify_quote`].
pub(in super::super) fn prove(members: &Map<String, Value>, by: &Expected<'_>) -> std::result::Result<Proven, Refused> {
    let (known, policy) = (by.tpm_key, &by.settings.policy.tpm);
    let ders = text(members, "ak_certificates_pem").map(parse_pem_chain).transpose()?;
    let (public, name) = match (&ders, known) {
        (Some(_), _) => (bytes(members, "ak_public_b64")?, None),
        (None, Some(row)) => (Base64::decode_vec(&row.ak_public).unwrap_or_default(), tpm::name_from_hex(&row.ak_name)),
        (None, None) => {
            const WHY: &str = "No key of this device's TPM is activated, and no certificate came with the quote.";
            return Err(Refused::new("ak_unbound", WHY));
        }
    };
    let (attest, signature) = (bytes(members, "attest_b64")?, bytes(members, "signature_b64")?);
    let event_log = text(members, "event_log_b64").map(|_| bytes(members, "event_log_b64")).transpose()?;
    let values = members.get("pcr_values").and_then(Value::as_object).cloned().unwrap_or_default();
    let evidence = Evidence {
        ak_public: &public,
        attest: &attest,
        signature: &signature,
        registers: tpm::read_registers(&values, Hash::Sha256)?,
    };
    let expected = Known {
        nonce: &sha256(by.signed),
        bank: Hash::Sha256,
        required_pcrs: None,
        ak_name: name.as_deref(),
        counters: Counters::default(),
    };
    let beside = Beside { certificates: ders.as_deref(), anchors: &by.trust.tpm, event_log: event_log.as_deref() };
    let verified = tpm::verify_quote(&evidence, &expected, &beside, policy, by.now)?;
    let row = match (&verified.bound, known) {
        (Some(Bound { chip, root, root_spki, not_after }), _) => TpmKeyRow {
            ak_public: Base64::encode_string(&public),
            ak_name: verified.quote.name_hex(),
            ek: None,
            chip: Some(chip.into()),
            root: Some(root.clone()),
            root_key: Some(key_name(root_spki)),
            expires_at: *not_after,
            level: level_of(Some(chip)),
            bound_at: by.now,
            activation: [0; 32],
            answer: [0; 32],
            counters: Counters::default(),
        },
        (None, Some(row)) => {
            check_standing(row, &by.trust.tpm, policy, by.now)?;
            row.clone()
        }
        (None, None) => return Err(Refused::new("ak_unbound", "Nothing binds the attestation key to a TPM.")),
    };
    let spki = key::spki_der(&verified.quote.key)?;
    let mut claims = verified.claims;
    chip_claims(&row, &mut claims);
    shorten(&mut claims);
    claims.insert("boot_state_sha256".to_owned(), boot_state(&verified.quote.registers, policy));
    Ok(Proven {
        level: row.level,
        claims,
        spki: Some(spki),
        root: row.root.clone(),
        list: None,
        signer: None,
        key: ProvenKey::Tpm(Box::new(Shown { clock: verified.quote.clock, by_certificate: ders.is_some(), row })),
    })
}

/// Demands that what once bound a key still counts: its root is trusted, its certificates last, and where nobody vouched for
/// the chip, the policy still takes that.
fn check_standing(
    row: &TpmKeyRow,
    makers: &Anchors,
    policy: &TpmPolicy,
    now: Timestamp,
) -> std::result::Result<(), Refused> {
    match (&row.root, &row.root_key) {
        (None, _) if policy.allow_unknown_ek => {}
        (None, _) => {
            const WHY: &str = "No maker vouches for the TPM of this device, which the policy demands by now.";
            return Err(Refused::new("ek_certificate_missing", WHY));
        }
        (Some(_), Some(key)) if makers.iter().any(|anchor| key_name(anchor.spki()) == *key) => {}
        // A row that does not tell the key yet.
        (Some(label), None) if makers.iter().any(|anchor| anchor.label() == label) => {}
        (Some(_), _) => {
            return Err(Refused::new("root_unknown", "The root that vouched for the key is trusted no longer."));
        }
    }
    if row.expires_at.is_some_and(|end| now > end) {
        const WHY: &str = "The certificate that bound the key has ended. Send the next one, or activate the key.";
        return Err(Refused::new("certificate_expired", WHY));
    }
    Ok(())
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    members.get(name).and_then(Value::as_str)
}

fn bytes(members: &Map<String, Value>, name: &str) -> std::result::Result<Vec<u8>, Refused> {
    let read = text(members, name).and_then(|text| Base64::decode_vec(text).ok());
    read.ok_or_else(|| Refused::new("malformed_input", format!("The member {name} is missing or is not base64.")))
}

/// The registers that the policy demands, as one value: where it changes, what the machine boots has changed.
fn boot_state(registers: &tpm::event_log::Registers, policy: &TpmPolicy) -> Value {
    let demanded = registers.iter().filter(|(pcr, _)| policy.required_pcrs.contains(pcr));
    let all: Vec<u8> = demanded.flat_map(|(pcr, value)| [&[*pcr], value.as_slice()].concat()).collect();
    json!(Base64UrlUnpadded::encode_string(&sha256(&all)))
}

/// Of the boot log only what follows from it is kept, and said as the other kinds of evidence say it.
fn shorten(claims: &mut Claims) {
    let Some(Value::Object(log)) = claims.remove("event_log") else { return };
    let state = log.get("secure_boot").cloned().unwrap_or_default();
    let (enabled, proven) = (state.get("enabled").cloned(), state.get("proven").cloned());
    if proven == Some(json!(true)) && enabled.as_ref().is_some_and(Value::is_boolean) {
        let verified = enabled == Some(json!(true));
        claims.insert("verified_boot_state".to_owned(), json!(if verified { "verified" } else { "unverified" }));
    }
    let kept = json!({
        "format": log.get("format"),
        "compared_pcrs": log.get("compared_pcrs"),
        "secure_boot": { "enabled": enabled, "proven": proven },
    });
    claims.insert("event_log".to_owned(), kept);
}

/// Why a genuine quote does not count after all: its key is no longer the device's, its counters went back, or its chip is
/// another device's.
pub(in super::super) fn objection(
    this: &super::Attestation,
    tx: &mut Tx<'_>,
    tenant: TenantId,
    id: &DeviceId,
    shown: &Shown,
) -> Result<Option<Refused>> {
    let stored: Option<TpmKeyRow> = tx.get(TPM_KEYS, place(tenant, id))?;
    let is_replaced = stored.as_ref().is_some_and(|row| row.ak_name != shown.row.ak_name) && !shown.by_certificate;
    if is_replaced {
        const WHY: &str = "The attestation key is no longer the one that is known for this device.";
        return Ok(Some(Refused::new("ak_name", WHY)));
    }
    if this.chip_of_another(tx, tenant, id, shown.row.ek.as_deref())? {
        return Ok(Some(Refused::new(OTHER_DEVICE, "The TPM belongs to another device.")));
    }
    let before = carried_over(stored.as_ref(), &shown.row);
    // A machine may be started as often as its owner likes; what it started is for the registers to show.
    Ok(check_counters(&shown.clock, &before, true).err())
}

/// What is known of the counters of a key that takes another's place. The chip's clock is the same for all its keys, but
/// the counts of starts may be blurred for each key by another number (Part 1, section 36.7).
pub(super) fn carried_over(before: Option<&TpmKeyRow>, row: &TpmKeyRow) -> Counters {
    match before {
        Some(before) if before.ak_name == row.ak_name => before.counters,
        Some(before) if before.ek == row.ek && row.ek.is_some() => {
            Counters { clock_ms: before.counters.clock_ms, ..Counters::default() }
        }
        _ => Counters::default(),
    }
}

/// Remembers a key that quoted, with its counters.
pub(in super::super) fn keep(tx: &mut Tx<'_>, tenant: TenantId, id: &DeviceId, shown: &Shown) -> Result<()> {
    let stored: Option<TpmKeyRow> = tx.get(TPM_KEYS, place(tenant, id))?;
    let mut row = TpmKeyRow { counters: shown.clock.into(), ..shown.row.clone() };
    // A certificate for the activated key takes nothing away that activation proved.
    if let Some(stored) = stored.as_ref().filter(|stored| stored.ak_name == row.ak_name && stored.ek.is_some()) {
        row = TpmKeyRow { counters: row.counters, ..stored.clone() };
    }
    put(tx, tenant, id, stored.as_ref(), &row)
}

/// Stores a device's key, and whose chip it is.
pub(super) fn put(
    tx: &mut Tx<'_>,
    tenant: TenantId,
    id: &DeviceId,
    before: Option<&TpmKeyRow>,
    row: &TpmKeyRow,
) -> Result<()> {
    let old = before.and_then(|row| row.ek.as_ref());
    if old != row.ek.as_ref()
        && let Some(old) = old
    {
        release_key(tx, tenant, id, old)?;
    }
    if let Some(ek) = &row.ek {
        claim_key(tx, tenant, id, ek)?;
    }
    tx.put(TPM_KEYS, place(tenant, id), row)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;
    use crate::attest::chain::Anchor;
    use crate::attest::tpm::ek::bundled_makers;
    use crate::domains::attestation::Level;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn row(root: Option<&Anchor>) -> TpmKeyRow {
        TpmKeyRow {
            ak_public: String::new(),
            ak_name: String::new(),
            ek: None,
            chip: None,
            root: root.map(|anchor| anchor.label().to_owned()),
            root_key: root.map(|anchor| key_name(anchor.spki())),
            expires_at: None,
            level: Level::Software,
            bound_at: NOW,
            activation: [0; 32],
            answer: [0; 32],
            counters: Counters::default(),
        }
    }

    /// What was good once is asked again with each quote: distrusted is distrusted, and over is over.
    #[test]
    fn a_bound_key_counts_while_what_bound_it_does() {
        let all = bundled_makers().unwrap();
        let (maker, other) = (all.iter().next().unwrap(), all.iter().nth(1).unwrap());
        let only = |anchor: &Anchor| Anchors::new(vec![anchor.clone()]);
        // Another root that somebody gave the same label.
        let namesake = only(&Anchor::from_spki(maker.label(), other.spki()).unwrap());
        let unlabelled = |label: &str| TpmKeyRow { root: Some(label.to_owned()), root_key: None, ..row(None) };
        let until = |end: Timestamp| TpmKeyRow { expires_at: Some(end), ..row(Some(maker)) };
        let past = NOW.minus(Duration::from_secs(1));
        for (row, makers, unknown_allowed, reason) in [
            (row(Some(maker)), only(maker), false, None),
            (row(Some(maker)), only(other), false, Some("root_unknown")),
            (row(Some(maker)), namesake, false, Some("root_unknown")),
            (row(Some(maker)), Anchors::default(), true, Some("root_unknown")),
            (unlabelled(maker.label()), only(maker), false, None),
            (unlabelled("a maker of before"), only(maker), false, Some("root_unknown")),
            (row(None), only(maker), true, None),
            (row(None), only(maker), false, Some("ek_certificate_missing")),
            (until(NOW), only(maker), false, None),
            (until(past), only(maker), false, Some("certificate_expired")),
        ] {
            let policy = TpmPolicy { allow_unknown_ek: unknown_allowed, ..TpmPolicy::default() };
            let verdict = check_standing(&row, &makers, &policy, NOW);
            assert_eq!(verdict.err().map(|refused| refused.reason), reason, "{row:?}");
        }
    }

    #[test]
    fn a_row_of_before_opens_and_knows_its_root_by_its_label() {
        let mut old = serde_json::to_value(row(bundled_makers().unwrap().iter().next())).unwrap();
        for member in ["root_key", "expires_at"] {
            old.as_object_mut().unwrap().remove(member).unwrap();
        }
        let read: TpmKeyRow = serde_json::from_value(old).unwrap();
        assert!(check_standing(&read, &bundled_makers().unwrap(), &TpmPolicy::default(), NOW).is_ok());
    }
}
