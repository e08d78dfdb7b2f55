//! Google Play in software: makes tokens of classic requests with keys of its own, and can be told to lie.
//!
//! Knows the format (compact JWE around compact JWS, "Integrity verdicts" of the public documentation) and nothing of how
//! the appliance checks it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value, json};

use super::Fault;
use crate::crypto::SigningKey;
use crate::kernel::{Random, Timestamp};

/// One app's keys in the Play Console.
pub struct PlayConsole {
    signing: SigningKey,
    decryption: [u8; 32],
    random: Random,
    /// The app's package.
    pub package: String,
    /// SHA-256 of the app's certificate, base64url.
    pub certificate_digest: String,
}

impl PlayConsole {
    /// Fresh keys for an app.
    pub fn new(package: &str, random: &Random) -> Self {
        Self {
            signing: SigningKey::generate(random),
            decryption: random.bytes(),
            random: random.clone(),
            package: package.to_owned(),
            certificate_digest: Base64UrlUnpadded::encode_string(&random.bytes::<32>()),
        }
    }

    /// The verdict on an honest device, which a test may then turn.
    pub fn verdict(&self, nonce: &str, now: Timestamp) -> Value {
        json!({
            "requestDetails": {
                "requestPackageName": self.package, "nonce": nonce, "timestampMillis": now.as_millis().to_string(),
            },
            "appIntegrity": {
                "appRecognitionVerdict": "PLAY_RECOGNIZED", "packageName": self.package,
                "certificateSha256Digest": [self.certificate_digest], "versionCode": "42",
            },
            "deviceIntegrity": {
                "deviceRecognitionVerdict": ["MEETS_BASIC_INTEGRITY", "MEETS_DEVICE_INTEGRITY"],
                "deviceAttributes": { "sdkVersion": 35 },
                "recentDeviceActivity": { "deviceActivityLevel": "LEVEL_1" },
            },
            "accountDetails": { "appLicensingVerdict": "LICENSED" },
            "environmentDetails": {
                "playProtectVerdict": "NO_ISSUES", "appAccessRiskVerdict": { "appsDetected": ["KNOWN_INSTALLED"] },
            },
        })
    }

    /// Signs a verdict and encrypts it.
    ///
    /// # Errors
    /// Only what a defect can cause.
    pub fn token(&self, verdict: &Value) -> Result<String, Fault> {
        self.encrypt(&self.sign(&verdict.to_string()))
    }

    /// The inner token: a compact JWS, as Google signs it, without a key id.
    pub fn sign(&self, payload: &str) -> String {
        let b64 = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
        let input = format!("{}.{}", b64(br#"{"alg":"ES256"}"#), b64(payload.as_bytes()));
        let signature = b64(&self.signing.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }

    /// The outer token around whatever is given.
    ///
    /// # Errors
    /// Only what a defect can cause.
    pub fn encrypt(&self, content: &str) -> Result<String, Fault> {
        let b64 = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
        let (content_key, iv) = (self.random.bytes::<32>(), self.random.bytes::<12>());
        let mut wrapped = [0; 40];
        AesKek::new(&AES_256, &self.decryption)?.wrap(&content_key, &mut wrapped)?;
        let header = b64(br#"{"alg":"A256KW","enc":"A256GCM"}"#);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &content_key)?);
        let mut content = content.as_bytes().to_vec();
        let nonce = Nonce::assume_unique_for_key(iv);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(header.as_bytes()), &mut content)?;
        Ok([header, b64(&wrapped), b64(&iv), b64(&content), b64(tag.as_ref())].join("."))
    }

    /// The decryption key as the Play Console shows it: base64 of 32 bytes.
    pub fn decryption_key_b64(&self) -> String {
        Base64::encode_string(&self.decryption)
    }

    /// The verification key as the Play Console shows it: base64 of a SubjectPublicKeyInfo.
    pub fn verification_key_spki_b64(&self) -> String {
        // RFC 5480: id-ecPublicKey, secp256r1, a bit string that holds the point.
        let mut der = vec![0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        der.extend([0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00]);
        der.extend(self.signing.verifying().to_sec1());
        Base64::encode_string(&der)
    }

    /// A whole case for `blockremote attest verify --type play-integrity`, its rules included.
    pub fn case(&self, token: &str, nonce: &str, now: Timestamp) -> Map<String, Value> {
        let mut case = Map::new();
        for (name, value) in [
            ("token", json!(token)),
            ("decryption_key_b64", json!(self.decryption_key_b64())),
            ("verification_key_spki_b64", json!(self.verification_key_spki_b64())),
            (
                "config",
                json!({
                    "package": self.package, "certificate_digests": [self.certificate_digest],
                    "expected_nonce": nonce, "now_millis": now.as_millis(),
                }),
            ),
        ] {
            case.insert(name.to_owned(), value);
        }
        case
    }
}
