//! A TPM 2.0 in software (swtpm), a process of its own, and a maker that certifies its endorsement keys.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use blockremote::agent::tpm::{Endorsement, Key, Place, Quote, Tpm, attestation_template};
use blockremote::attest::tpm::key::spki_der;
use blockremote::attest::tpm::wire::Public;
use blockremote::crypto::SigningKey;
use blockremote::kernel::Random;
use blockremote::testkit::{Fault, Folder, text};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SubjectPublicKeyInfo,
};
use serde_json::{Map, Value, json};

/// Registers that a machine's firmware measures into.
pub const PCRS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// A running TPM; dropping it ends the process.
pub struct Chip {
    process: Child,
    folder: Folder,
}

impl Chip {
    /// Starts a TPM without any state.
    pub fn start() -> Result<Self, Fault> {
        let folder = Folder::new()?;
        let process = Self::spawn(&folder, "type=unixio,path=", folder.path().join("tpm.sock").display().to_string())?;
        let chip = Self { process, folder };
        chip.wait_until_it_answers()?;
        Ok(chip)
    }

    /// Starts one that listens on the loopback instead.
    pub fn start_on(port: u16) -> Result<Self, Fault> {
        let folder = Folder::new()?;
        let process = Self::spawn(&folder, "type=tcp,bindaddr=127.0.0.1,port=", port.to_string())?;
        Ok(Self { process, folder })
    }

    fn spawn(folder: &Folder, server: &str, at: String) -> Result<Child, Fault> {
        let started = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", folder.path().display()))
            .arg("--server")
            .arg(format!("{server}{at}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        started.map_err(|e| format!("swtpm could not be started ({e}): these tests need Debian's package swtpm").into())
    }

    fn wait_until_it_answers(&self) -> Result<(), Fault> {
        for _ in 0..500 {
            if self.path().exists() && UnixStream::connect(self.path()).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("swtpm was started, but does not listen".into())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("tpm.sock")
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        Place::Path(self.path())
    }

    /// The machine is switched off and on: the registers begin anew, the count of starts rises.
    pub fn restart(&mut self) -> Result<(), Fault> {
        self.send(&[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x45, 0, 0])?;
        self.process.kill()?;
        self.process.wait()?;
        std::fs::remove_file(self.path())?;
        self.process = Self::spawn(&self.folder, "type=unixio,path=", self.path().display().to_string())?;
        self.wait_until_it_answers()
    }

    /// TPM2_Clear: somebody wipes the chip, which sets its counters back.
    pub fn clear(&self) -> Result<(), Fault> {
        self.authorized(0x0126, &[0x4000_000a], &[])
    }

    /// TPM2_PCR_Extend of the SHA-256 bank.
    pub fn measure(&self, pcr: u8, digest: [u8; 32]) -> Result<(), Fault> {
        self.authorized(0x0182, &[u32::from(pcr)], &[&[0, 0, 0, 1, 0, 0x0b][..], &digest].concat())
    }

    /// Leaves a certificate where makers do.
    pub fn store_certificate(&self, of: Endorsement, der: &[u8]) -> Result<(), Fault> {
        let (index, length) = (of.certificate_index(), u16::try_from(der.len())?);
        // Written and read by owner and whoever comes, outside the protection against guessing.
        let attributes = 0x0206_0006_u32.to_be_bytes();
        let area = [&index.to_be_bytes()[..], &[0, 0x0b], &attributes, &[0, 0], &length.to_be_bytes()].concat();
        let area = [&[0, 0, 0, 14][..], &area].concat();
        self.authorized(0x012a, &[0x4000_0001], &area)?;
        for (n, chunk) in der.chunks(512).enumerate() {
            let offset = u16::try_from(n * 512)?.to_be_bytes();
            let data = [&u16::try_from(chunk.len())?.to_be_bytes()[..], chunk, &offset].concat();
            self.authorized(0x0137, &[0x4000_0001, index], &data)?;
        }
        Ok(())
    }

    /// A command whose first handle is authorized by an empty password.
    fn authorized(&self, code: u32, handles: &[u32], parameters: &[u8]) -> Result<(), Fault> {
        let handles: Vec<u8> = handles.iter().flat_map(|h| h.to_be_bytes()).collect();
        let password = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        let body = [&code.to_be_bytes()[..], &handles, &password, parameters].concat();
        let size = u32::try_from(body.len() + 6)?.to_be_bytes();
        self.send(&[&[0x80, 2][..], &size, &body].concat())
    }

    fn send(&self, command: &[u8]) -> Result<(), Fault> {
        let mut stream = UnixStream::connect(self.path())?;
        stream.write_all(command)?;
        let mut head = [0; 10];
        stream.read_exact(&mut head)?;
        let code = u32::from_be_bytes([head[6], head[7], head[8], head[9]]);
        if code == 0 { Ok(()) } else { Err(format!("the TPM answered {code:#x}").into()) }
    }

    /// The endorsement key.
    pub fn endorsement(&self, kind: Endorsement) -> Result<Vec<u8>, Fault> {
        self.public(&kind.template())
    }

    /// The key of the endorsement hierarchy that a template describes.
    pub fn public(&self, template: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut tpm = Tpm::open(&self.place())?;
        let key = tpm.primary(template)?;
        let public = key.public.clone();
        tpm.forget(key)?;
        Ok(public)
    }

    /// What a device sends first.
    pub fn keys(&self, device: &str, kind: Endorsement, certificates_pem: Option<&str>) -> Result<Value, Fault> {
        let mut body = json!({
            "device_id": device,
            "ek_public_b64": Base64::encode_string(&self.endorsement(kind)?),
            "ak_public_b64": Base64::encode_string(&self.public(&attestation_template())?),
        });
        if let Some(pem) = certificates_pem {
            body["ek_certificates_pem"] = json!(pem);
        }
        Ok(body)
    }

    /// What the chip opens of a challenge.
    pub fn open(&self, kind: Endorsement, challenge: &Value) -> Result<Vec<u8>, Fault> {
        let bytes = |name: &str| Base64::decode_vec(challenge[name].as_str().unwrap_or_default());
        let (blob, wrapped) = (bytes("credential_blob_b64")?, bytes("encrypted_secret_b64")?);
        let mut tpm = Tpm::open(&self.place())?;
        let (ek, ak) = (tpm.primary(&kind.template())?, tpm.primary(&attestation_template())?);
        let opened = tpm.activate(&ek, &ak, &blob, &wrapped);
        tpm.forget(ak)?;
        tpm.forget(ek)?;
        Ok(opened?)
    }

    /// A quote for these 32 bytes.
    pub fn quote(&self, nonce: &[u8], pcrs: &[u8]) -> Result<Quote, Fault> {
        let mut tpm = Tpm::open(&self.place())?;
        let key: Key = tpm.primary(&attestation_template())?;
        let quote = tpm.quote(&key, nonce, pcrs)?;
        tpm.forget(key)?;
        Ok(quote)
    }
}

impl Drop for Chip {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The members of a quote's evidence.
pub fn evidence(nonce: &str, quote: &Quote) -> Value {
    let values = quote.registers.iter().map(|(pcr, value)| (pcr.to_string(), json!(hex(value))));
    json!({
        "type": "tpm-quote",
        "nonce": nonce,
        "attest_b64": Base64::encode_string(&quote.attest),
        "signature_b64": Base64::encode_string(&quote.signature),
        "pcr_values": values.collect::<Map<_, _>>(),
    })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Who makes TPMs.
pub struct Maker {
    params: CertificateParams,
    key: KeyPair,
    pub pem: String,
}

impl Maker {
    /// A maker of this name with a root of its own.
    pub fn new(name: &str) -> Result<Self, Fault> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { params, key, pem })
    }

    /// A certificate (DER) for this endorsement key of a TPM by `vendor`, such as `id:49465800`, for this use.
    pub fn certify_for(&self, ek_public: &[u8], vendor: &str, usage: &[u64]) -> Result<Vec<u8>, Fault> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(usage.to_vec())];
        let mut names = CustomExtension::from_oid_content(&[2, 5, 29, 17], named(vendor));
        names.set_criticality(true);
        params.custom_extensions.push(names);
        let key = SubjectPublicKeyInfo::from_der(&spki_der(&Public::parse(ek_public)?)?)?;
        Ok(params.signed_by(&key, &Issuer::from_params(&self.params, &self.key))?.der().to_vec())
    }

    /// The certificate of an endorsement key.
    pub fn certify(&self, ek_public: &[u8], vendor: &str) -> Result<Vec<u8>, Fault> {
        self.certify_for(ek_public, vendor, &[2, 23, 133, 8, 1])
    }

    /// The same as PEM.
    pub fn certified_pem(&self, ek_public: &[u8], vendor: &str) -> Result<String, Fault> {
        Ok(pem(&self.certify(ek_public, vendor)?))
    }
}

pub fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", Base64::encode_string(der))
}

/// GeneralNames with one directory name: manufacturer, model and version of a TPM.
fn named(vendor: &str) -> Vec<u8> {
    let attribute = |last: u8, text: &str| {
        let oid = [6, 5, 0x67, 0x81, 5, 2, last];
        tlv(0x31, &tlv(0x30, &[&oid[..], &tlv(0x0c, text.as_bytes())].concat()))
    };
    let name = [attribute(1, vendor), attribute(2, "SLB 9672"), attribute(3, "id:0010")].concat();
    tlv(0x30, &tlv(0xa4, &tlv(0x30, &name)))
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
    [head, content.to_vec()].concat()
}

/// What a device could send first of two keys that lie in no chip: the appliance asks for the secret, and nobody opens it.
pub fn keys_without_a_chip(device: &str, maker: &Maker) -> Result<Value, Fault> {
    let key = SigningKey::generate(&Random::System);
    let jwk = json!(key.verifying().to_jwk());
    let point = ["x", "y"].map(|half| Base64UrlUnpadded::decode_vec(&text(&jwk, half)).unwrap_or_default());
    let with_point = |template: &[u8], without: usize| {
        let head = template.get(..template.len() - without).unwrap_or_default();
        let sized = point.iter().flat_map(|half| [&[0, 32][..], half].concat());
        head.iter().copied().chain(sized).collect::<Vec<u8>>()
    };
    let (ek, ak) = (with_point(&Endorsement::P256.template(), 68), with_point(&attestation_template(), 4));
    Ok(json!({
        "device_id": device,
        "ek_public_b64": Base64::encode_string(&ek),
        "ek_certificates_pem": maker.certified_pem(&ek, "id:49465800")?,
        "ak_public_b64": Base64::encode_string(&ak),
    }))
}
