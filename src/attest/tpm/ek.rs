//! Certificates of endorsement keys (TCG EK Credential Profile for TPM 2.0): a maker vouches that a key lives in one of its
//! TPMs. Who then opens what was wrapped for that key speaks from inside the chip.

use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::super::Refused;
use super::super::chain::{self, Anchor, Anchors, Dates, Rules, parse_pem_chain};
use super::aik::{Bound, CRITICAL, Chip, microsoft_root};
use super::key::spki_der;
use super::wire::{Numbers, Public};
use crate::kernel::Timestamp;

/// tcg-kp-EKCertificate.
const EK_USAGE: Oid<'static> = oid!(2.23.133.8.1);
/// Certificates of one file of makers.
const ROOTS_MAX: usize = 100;

/// Demands that certificates, leaf first, are for this very endorsement key, under one of the makers at `now`.
///
/// # Errors
/// `ek_certificate_key`, `ek_certificate`, `algorithm`, `malformed_key`, and those of [`chain::verify`].
pub fn verify(key: &Public, ders: &[Vec<u8>], anchors: &Anchors, now: Timestamp) -> Result<Bound, Refused> {
    let rules = Rules { critical: &CRITICAL, dates: Dates::BELOW_ROOT, ..Rules::default() };
    let verified = chain::verify(ders, anchors, &rules, now)?;
    let leaf = verified.leaf()?;
    if !is_of(leaf, key)? {
        return Err(Refused::new("ek_certificate_key", "The certificate is for another key than the endorsement key."));
    }
    let fault = |detail: &str| Refused::new("ek_certificate", detail);
    if !matches!(leaf.basic_constraints(), Ok(Some(constraints)) if !constraints.value.ca) {
        return Err(fault("The certificate does not say that it is no authority."));
    }
    let usage = leaf.extended_key_usage().ok().flatten();
    if !usage.is_some_and(|usage| usage.value.other.contains(&EK_USAGE)) {
        return Err(fault("The certificate is not for an endorsement key."));
    }
    Ok(Bound::by(&verified, Chip::named_by(leaf).map_err(fault)?))
}

/// Whether a certificate is for this key. Of RSA keys only the numbers count, because makers also name them as keys for
/// OAEP alone.
fn is_of(leaf: &X509Certificate<'_>, key: &Public) -> Result<bool, Refused> {
    let (theirs, ours) = (leaf.public_key(), spki_der(key)?);
    if let Numbers::Ecc { .. } = key.numbers {
        return Ok(theirs.raw == ours);
    }
    let read = SubjectPublicKeyInfo::from_der(&ours);
    Ok(read.is_ok_and(|(_, ours)| ours.subject_public_key.data == theirs.subject_public_key.data))
}

/// The makers that are known without being told: AMD, Infineon, Intel, Microsoft, NSING, Nuvoton and STMicroelectronics.
///
/// Each certificate is the one that its maker publishes on its own pages, and stands with the same fingerprint in the list
/// that Microsoft signs for Windows Server (`TrustedTpm.cab` of November 2024). AMD's own two roots, which that list leaves
/// out, are those whose keys signed the authorities of AMD that stand in it.
///
/// # Errors
/// Only when the bundled file is broken.
pub fn bundled_makers() -> Result<Anchors, Refused> {
    let mut anchors = makers(include_str!("../roots/tpm_makers.pem"))?;
    for anchor in microsoft_root()?.iter() {
        anchors.push(anchor.clone());
    }
    Ok(anchors)
}

/// Reads the certificates of makers that count, as PEM one after another: roots, or the authorities right above the
/// endorsement keys where these come without what lies between. Verdicts call each by its subject.
///
/// # Errors
/// `chain_too_long` beyond a hundred, and those of [`parse_pem_chain`].
pub fn makers(pem: &str) -> Result<Anchors, Refused> {
    const END: &str = "-----END CERTIFICATE-----";
    let mut anchors = Vec::new();
    for one in pem.split_inclusive(END).filter(|part| !part.trim().is_empty()) {
        if anchors.len() == ROOTS_MAX {
            return Err(Refused::new("chain_too_long", "There are more than a hundred certificates of makers."));
        }
        for der in parse_pem_chain(one)? {
            let label = match chain::parse(std::slice::from_ref(&der))?.first() {
                Some(certificate) => certificate.subject().to_string(),
                None => String::new(),
            };
            anchors.push(Anchor::from_certificate(label, &der)?);
        }
    }
    Ok(Anchors::new(anchors))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::crypto::hex;
    use crate::crypto::sha256;

    #[test]
    fn the_bundled_makers_are_those_that_their_makers_publish() {
        let pem = include_str!("../roots/tpm_makers.pem");
        let ders = pem.split_inclusive("-----END CERTIFICATE-----").filter(|part| !part.trim().is_empty());
        let found: Vec<String> =
            ders.flat_map(|one| parse_pem_chain(one).unwrap()).map(|der| hex(&sha256(&der))).collect();
        assert_eq!(
            found,
            [
                "593a1794f9e17476c7ad427d2908a97c451451c9e0939fdc80d5d662c232d401", // AMD Pluton Global Factory ICA
                "14aac9fd58471a612afd75d8c0955daf99f091b1863702f9e0d4113faf234f9d", // AMDTPM ECC (modern version)
                "67bd2472a546751caca5f358a78f80727531671338960a9bcfdfbe6a34d0c6a1", // AMDTPM RSA (modern version)
                "cfeb02fecd55ad7a73c6e1d11985d4c47dee248ab63dcb66091a2489660443c3", // Infineon OPTIGA(TM) ECC Root CA
                "ee0c827555c4e9012037df4257bb8aaa26084a17b13ede41cd7895c8d6c11190", // Infineon OPTIGA(TM) ECC Root CA 2
                "899e35474c9807eb4c7f2f7a12da0028fb250cd02154d0009fca7d9c66574f3b", // Infineon OPTIGA(TM) RSA Root CA
                "b413c71580af3ec5efe83fad31db2d4af4612355e3b01e50903b10763d738894", // Infineon OPTIGA(TM) RSA Root CA 2
                "beb40bb7507b33967226aa80e084749fbb6593893c642e818d682e9a8d07fc24", // OnDie CA RootCA
                "32ab5fe7cb4396659fcb621ca14c6fb8fc2420f64050637d77e45a86c5d3916e", // Microsoft Pluton Root CA 2021
                "6ccf8a8a803d07a002a15d4889ffa0b125e4a82a1fe4211db3c6e8592919f9dc", // NSING TPM ECC ROOT CA 001
                "72ca00612395af027cd84c5514219f110e964dfa0bfc1efbb3ac147e3b173971", // NSING TPM RSA ROOT CA 001
                "083e7bd13e8fe0bb9b0c64db9e0c8356681df65714d2d5c4925eb98ae1369d40", // NPCTxxx ECC521 RootCA
                "2782e51a95e86d9557fe4204316cf805bd6f5898f81f9732e944d742bcdc5f54", // Nuvoton TPM Root CA 1110
                "e38c280f7c0e0b49f31efc7531032bb6a86c3fba4eb89beb1d510eaa4510ae4a", // Nuvoton TPM Root CA 1111
                "cd8185ff8995ed09811970090a8c36fafab34ef87f47fa51fdb9ecf95c9c2e04", // Nuvoton TPM Root CA 2111
                "66e3a1013d4f697700f731e7d68c69b58351f90ec9580d85862d020ab4abf1af", // Nuvoton TPM Root CA 2112
                "ba70a6ea7b77c7fee8947a07b1e70e0b26d39ce5e6307f63d5e4b9507f19a157", // NuvotonTPMRootCA1210
                "fc61abbc18100f460205ebe09d8c3e6995ac2be2234344a7facb62e15f9a7584", // NuvotonTPMRootCA2210
                "2bbc5db224b8f28a6d2cf336d4da7ab21c8c490e3d60ef497801dc0b6ac00227", // NuvotonTPMRootCA2211
                "5a8c7b5eb888cfce9322068e80e82b28b554ffeb7fdc9638dcb3763077401d26", // GlobalSign Trusted Platform Module ECC Root CA
                "f27bf02c6e00c73d915eeb6a6a2f5fbf0c31ae0393149e6b5c31e41b113841c3", // GlobalSign Trusted Platform Module Root CA
                "c541d7e5b9e3f935621acbd403896225ec641036c9ae3b5f7ac793a606ff9b79", // STM TPM ECC Root CA 01
                "f8e37a86b689a20a6cc0c40cc3f81fb130fa9f44ce7ffa60d62590aaf87273a9", // STM TPM EK Root CA
                "fd1e7b68accd825636b27b3177c67402d463a7f04c97b6c47ab705fcdc1a04f6", // STSAFE ECC Root CA 02
                "c8f179943356e13d9d84b100201cefabbf408880241e5329e60d950ce1dea623", // STSAFE RSA Root CA 02
            ]
        );
        assert_eq!(bundled_makers().unwrap().iter().count(), found.len() + 1);
    }

    #[test]
    fn a_file_of_makers_holds_certificates_and_nothing_else() {
        let one = include_str!("../roots/microsoft_tpm_root_2014.pem");
        for (pem, count) in [
            (String::new(), Ok(0)),
            (format!("\n{one}\n\n{one}"), Ok(2)),
            (one.repeat(ROOTS_MAX), Ok(ROOTS_MAX)),
            (one.repeat(ROOTS_MAX + 1), Err("chain_too_long")),
            (format!("a word\n{one}"), Err("pem_malformed")),
            (format!("{one}a word"), Err("pem_malformed")),
            (one.replace("MII", "AAA"), Err("certificate_malformed")),
        ] {
            assert_eq!(makers(&pem).map(|found| found.iter().count()).map_err(|e| e.reason), count);
        }
    }
}
