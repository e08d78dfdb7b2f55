//! The boot log beside a quote: believed where it replays to the quoted registers, and nowhere else.

use base64ct::{Base64, Encoding};
use blockremote::crypto::sha256;
use serde_json::{Value, json};

use super::chip::{Chip, Maker, PCRS, evidence};
use super::{INTEL, activate, assert_reason, challenge_hash, server};
use crate::attestation::{attest, nonce, state};
use crate::common::{Done, body};

const EV_NO_ACTION: u32 = 3;
const EV_SEPARATOR: u32 = 4;
const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;

/// Data of a variable as firmware measures it: Secure Boot on or off.
fn secure_boot(on: bool) -> Vec<u8> {
    let mut data = vec![0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 3, 0x2b, 0x8c];
    data.extend(10_u64.to_le_bytes());
    data.extend(1_u64.to_le_bytes());
    data.extend("SecureBoot".encode_utf16().flat_map(u16::to_le_bytes));
    data.push(u8::from(on));
    data
}

/// A log of the crypto-agile form with digests of SHA-256.
fn log(events: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
    let le = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    let head = [&b"Spec ID Event03\0"[..], &[0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]].concat();
    let mut out = [&[0; 4][..], &EV_NO_ACTION.to_le_bytes(), &[0; 20], &le(head.len()), &head].concat();
    for (pcr, kind, data) in events {
        out.extend([pcr.to_le_bytes(), kind.to_le_bytes(), 1_u32.to_le_bytes()].concat());
        out.extend([&[0x0b, 0][..], &sha256(data), &le(data.len()), data].concat());
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boot_log_counts_when_it_replays_to_the_quoted_registers() -> Done {
    let maker = Maker::new("a maker")?;
    let (server, _folder) = server(&[&maker], "[tpm]\nrequire_event_log = true\n").await?;
    for (n, (on, boot_state, score)) in [(true, "verified", 85), (false, "unverified", 40)].into_iter().enumerate() {
        let (id, chip) = (format!("BR-{n}"), Chip::start()?);
        let device = server.enroll(&id).await?;
        activate(&server, &device, &chip, (&maker, INTEL)).await?;
        let events = [
            (7, EV_EFI_VARIABLE_DRIVER_CONFIG, secure_boot(on)),
            (4, EV_SEPARATOR, vec![0; 4]),
            (7, EV_SEPARATOR, vec![0; 4]),
        ];
        for (pcr, _, data) in &events {
            chip.measure(u8::try_from(*pcr)?, sha256(data))?;
        }
        let quoted_with = async |log: Option<Vec<u8>>| -> Result<Value, blockremote::testkit::Fault> {
            let nonce = nonce(&server, &device).await?;
            let hash = challenge_hash(&server, &id, &nonce).await?;
            let mut proof = evidence(&nonce, &chip.quote(&hash, &PCRS)?);
            if let Some(log) = log {
                proof["event_log_b64"] = json!(Base64::encode_string(&log));
            }
            Ok(proof)
        };
        // Secure Boot as it was not; an event that did not happen; no log at all.
        let [mut claimed, mut longer] = [events.to_vec(), events.to_vec()];
        claimed[0].2 = secure_boot(!on);
        longer.push((0, EV_SEPARATOR, vec![0; 4]));
        for (log, reason) in [
            (Some(log(&claimed)), "eventlog_mismatch"),
            (Some(log(&longer)), "eventlog_mismatch"),
            (None, "eventlog_missing"),
        ] {
            let refused = attest(&server, &device, &quoted_with(log).await?).await?;
            assert_reason(&refused, "attestation_refused", reason);
        }
        let accepted = attest(&server, &device, &quoted_with(Some(log(&events))).await?).await?;
        assert_eq!(accepted.status, 200, "{}", body(&accepted));
        let view = state(&server, &id).await?;
        let claims = &view["claims"];
        assert_eq!((&claims["verified_boot_state"], &view["score"]), (&json!(boot_state), &json!(score)), "{view}");
        assert_eq!(claims["event_log"]["secure_boot"], json!({ "enabled": on, "proven": true }));
        assert_eq!(claims["event_log"]["events"], Value::Null, "what thousands of events say is not kept");
    }
    Ok(())
}
