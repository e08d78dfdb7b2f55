//! Which roots count for a case: those that it brings, the bundled one that it names, or the bundled ones of its format.
//!
//! Bundled, as their vendors publish them: Apple WebAuthn Root CA (www.apple.com/certificateauthority/private), Microsoft
//! TPM Root Certificate Authority 2014 (www.microsoft.com/pkiops/certs), and the keys of Google's two roots of hardware
//! attestation.

use super::super::chain::{Anchor, Anchors, parse_pem_chain};
use super::super::members::Members;
use super::super::tpm::aik;
use super::super::{Refused, android};

const APPLE: (&str, &str) = ("apple_webauthn_root_ca", include_str!("../roots/apple_webauthn_root_ca.pem"));

/// The roots for a case; `None` where nobody knows one.
pub(super) fn anchors(m: Members<'_>, fmt: &str) -> Result<Option<Anchors>, Refused> {
    if let Some(der) = m.bytes(&["attestation_root_cert_der_hex", "root_der_hex", "root_der_b64"])? {
        return Ok(Some(Anchors::new(vec![Anchor::from_certificate("given with the case", &der)?])));
    }
    if let Some(pem) = m.text("root_pem")?.or(m.text("roots_pem")?) {
        let ders = parse_pem_chain(pem)?;
        let anchors = ders.iter().map(|der| Anchor::from_certificate("given with the case", der));
        return anchors.collect::<Result<_, _>>().map(|anchors| Some(Anchors::new(anchors)));
    }
    let named = m.text("root")?.and_then(|name| match name.trim_end_matches(".pem") {
        "apple_webauthn_root_ca" => Some("apple"),
        "microsoft_tpm_root_2014" => Some("tpm"),
        _ => None,
    });
    bundled_for(named.unwrap_or(fmt))
}

/// The bundled roots of a format; `None` where nobody knows one.
pub(super) fn bundled_for(fmt: &str) -> Result<Option<Anchors>, Refused> {
    match fmt {
        "apple" => bundled(APPLE),
        "tpm" => aik::microsoft_root(),
        "android-key" => android::google_roots(),
        _ => return Ok(None),
    }
    .map(Some)
}

fn bundled((label, pem): (&str, &str)) -> Result<Anchors, Refused> {
    let ders = parse_pem_chain(pem)?;
    ders.iter().map(|der| Anchor::from_certificate(label, der)).collect::<Result<_, _>>().map(Anchors::new)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::crypto::hex;
    use crate::crypto::sha256;

    /// The fingerprints that the vendors print.
    #[test]
    fn the_bundled_roots_are_those_of_their_vendors() {
        let microsoft = include_str!("../roots/microsoft_tpm_root_2014.pem");
        for (pem, fingerprint) in [
            (APPLE.1, "0915dd5c07a28db549d1f677bb5a75d4bfbe9561a773424327762e9e02f9bb29"),
            (microsoft, "870c7a35ceab3d59979f2c6a524042d404cb71518004350925fb2ced79a999da"),
        ] {
            let ders = parse_pem_chain(pem).unwrap();
            assert_eq!((ders.len(), hex(&sha256(&ders[0])).as_str()), (1, fingerprint));
        }
    }
}
