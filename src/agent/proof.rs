//! How a device proves that it is itself: by the key that it enrolled, always, and by its TPM where it has one.
//!
//! With a TPM one proof is of both: the quote carries a signature by the enrolled key, so that neither stands alone. A TPM
//! that does not work, or that the appliance does not trust, leaves the software key's proof: the appliance judges what
//! that is worth. Commands to the TPM wait on threads of their own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::link::delay;
use super::tpm::{self, Endorsement, Place, Tpm, TpmError};
use crate::client::{ClientError, Endpoint, HttpClient};
use crate::crypto::{SigningKey, hex, sha256};
use crate::kernel::Random;
use crate::kernel::ids::DeviceId;

/// Registers that are quoted: all that firmware measures.
const PCRS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// How often a proof is tried again that the appliance had no time for.
const ATTEMPTS: u32 = 6;
const WAIT_MAX: Duration = Duration::from_secs(90);

/// What a device shows to be let in to the attestation endpoints.
#[derive(Clone, Debug)]
pub(super) enum Right {
    /// It is enrolled: its access token.
    Device(String),
    /// It is about to be: the enrollment token.
    Enrollment(String),
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProofError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Tpm(#[from] TpmError),
    #[error("the TPM's thread ended")]
    Thread,
}

/// A proof as it is sent, and what is to be said of it.
pub(super) struct Evidence {
    pub members: Value,
    /// Why the TPM is not part of it, though there is one.
    pub without_tpm: Option<String>,
}

/// What a device proves itself with.
pub(super) struct Prover {
    device: DeviceId,
    key: SigningKey,
    tpm: Option<Place>,
    is_activated: AtomicBool,
}

#[derive(Deserialize)]
struct Nonce {
    nonce: String,
    tenant: String,
}

#[derive(Deserialize)]
struct Activation {
    activation: String,
    credential_blob_b64: String,
    encrypted_secret_b64: String,
}

#[derive(Deserialize)]
struct State {
    level: String,
}

impl Prover {
    pub(super) fn new(device: DeviceId, key: SigningKey, tpm: Option<Place>) -> Self {
        Self { device, key, tpm, is_activated: AtomicBool::new(false) }
    }

    pub(super) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Proves an enrolled device, trying again while the appliance is busy; gives the level that it granted, and why not
    /// the TPM's where that failed.
    pub(super) async fn prove(
        &self,
        endpoint: &Endpoint,
        access_token: &str,
        random: &Random,
    ) -> Result<(String, Option<String>), ProofError> {
        let mut http = HttpClient::new(endpoint.clone());
        for attempt in 0.. {
            let error = match self.prove_once(&mut http, access_token).await {
                Err(ProofError::Client(error)) => error,
                done => return done,
            };
            let wait = match error.problem() {
                Some(problem) if matches!(problem.status, 429 | 503) => problem.retry_after.unwrap_or_default(),
                Some(_) => return Err(error.into()),
                None => Duration::ZERO,
            };
            if attempt == ATTEMPTS {
                return Err(error.into());
            }
            http.close();
            tokio::time::sleep(wait.min(WAIT_MAX) + delay(attempt, random)).await;
        }
        Err(ProofError::Thread)
    }

    async fn prove_once(
        &self,
        http: &mut HttpClient,
        access_token: &str,
    ) -> Result<(String, Option<String>), ProofError> {
        let evidence = self.evidence(http, &Right::Device(access_token.to_owned())).await?;
        let path = format!("/v1/devices/{}/attestation", self.device);
        let answer = http.post(&path, Some(access_token), &evidence.members).await?.json::<State>();
        if answer.is_err() {
            // The appliance may have lost the key, with a backup or a removal: it is bound again next time.
            self.is_activated.store(false, Ordering::Relaxed);
        }
        Ok((answer?.level, evidence.without_tpm))
    }

    /// A fresh proof, also for an enrollment.
    pub(super) async fn evidence(&self, http: &mut HttpClient, right: &Right) -> Result<Evidence, ProofError> {
        let activated = match &self.tpm {
            None => Ok(None),
            Some(place) => self.activate(http, right, place).await.map(|()| Some(place)),
        };
        let nonce: Nonce = post(http, "/v1/attestation/nonce", right, &json!({ "device_id": self.device })).await?;
        let signed = format!("blockremote-attest-v1\n{}\n{}\n{}", nonce.tenant, self.device, nonce.nonce);
        let signature = Base64UrlUnpadded::encode_string(&self.key.sign(signed.as_bytes()));
        let quoted = match activated {
            Ok(None) => Ok(None),
            Ok(Some(place)) => quote(place.clone(), sha256(signed.as_bytes())).await.map(Some),
            Err(error) => Err(error),
        };
        let mut members = json!({ "type": "software", "nonce": nonce.nonce, "signature": signature });
        let without_tpm = match quoted {
            Ok(None) => None,
            Err(error) => Some(error.to_string()),
            Ok(Some(quote)) => {
                let values = quote.registers.iter().map(|(pcr, value)| (pcr.to_string(), json!(hex(value))));
                let of_tpm = json!({
                    "type": "tpm-quote",
                    "attest_b64": Base64::encode_string(&quote.attest),
                    "signature_b64": Base64::encode_string(&quote.signature),
                    "pcr_values": values.collect::<serde_json::Map<_, _>>(),
                });
                if let (Some(all), Value::Object(of_tpm)) = (members.as_object_mut(), of_tpm) {
                    all.extend(of_tpm);
                }
                None
            }
        };
        Ok(Evidence { members, without_tpm })
    }

    /// Binds the TPM's attestation key to this device, once.
    async fn activate(&self, http: &mut HttpClient, right: &Right, place: &Place) -> Result<(), ProofError> {
        const PATH: &str = "/v1/attestation/tpm/activate";
        if self.is_activated.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut wanted = on_thread(place.clone(), shown).await?;
        if let Some(members) = wanted.as_object_mut() {
            members.insert("device_id".to_owned(), json!(self.device));
        }
        let challenge: Activation = post(http, PATH, right, &wanted).await?;
        let decode = |text: &str| Base64::decode_vec(text).map_err(|e| ClientError::Unexpected(e.to_string()));
        let (blob, wrapped) = (decode(&challenge.credential_blob_b64)?, decode(&challenge.encrypted_secret_b64)?);
        let secret = on_thread(place.clone(), move |tpm| opened(tpm, &blob, &wrapped)).await?;
        let answer = json!({
            "device_id": self.device,
            "activation": challenge.activation,
            "secret_b64": Base64::encode_string(&secret),
        });
        post::<Value>(http, PATH, right, &answer).await?;
        self.is_activated.store(true, Ordering::Relaxed);
        Ok(())
    }
}

async fn post<T: serde::de::DeserializeOwned>(
    http: &mut HttpClient,
    path: &str,
    right: &Right,
    body: &Value,
) -> Result<T, ClientError> {
    let credential = match right {
        Right::Device(token) => format!("Bearer {token}"),
        Right::Enrollment(token) => format!("Enrollment {token}"),
    };
    let headers = [("content-type", "application/json"), ("authorization", credential.as_str())];
    http.request(Method::POST, path, &headers, body.to_string().into()).await?.json()
}

async fn on_thread<T: Send + 'static>(
    place: Place,
    work: impl FnOnce(&mut Tpm) -> Result<T, TpmError> + Send + 'static,
) -> Result<T, ProofError> {
    let done = tokio::task::spawn_blocking(move || work(&mut Tpm::open(&place)?)).await;
    Ok(done.map_err(|_| ProofError::Thread)??)
}

/// The endorsement key of the kind that its maker certified, where there is one.
fn endorsement(tpm: &mut Tpm) -> Result<(Endorsement, Option<Vec<u8>>), TpmError> {
    for kind in [Endorsement::P256, Endorsement::Rsa2048] {
        if let Some(certificate) = tpm.certificate(kind)? {
            return Ok((kind, Some(certificate)));
        }
    }
    Ok((Endorsement::Rsa2048, None))
}

fn shown(tpm: &mut Tpm) -> Result<Value, TpmError> {
    let (kind, certificate) = endorsement(tpm)?;
    let ek = tpm.primary(&kind.template())?;
    let ek_public = Base64::encode_string(&ek.public);
    tpm.forget(ek)?;
    let ak = tpm.primary(&tpm::attestation_template())?;
    let mut members = json!({ "ek_public_b64": ek_public, "ak_public_b64": Base64::encode_string(&ak.public) });
    tpm.forget(ak)?;
    if let (Some(certificate), Some(members)) = (certificate, members.as_object_mut()) {
        let base64 = Base64::encode_string(&certificate);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
        members.insert("ek_certificates_pem".to_owned(), json!(pem));
    }
    Ok(members)
}

fn opened(tpm: &mut Tpm, credential_blob: &[u8], encrypted_secret: &[u8]) -> Result<Vec<u8>, TpmError> {
    let (kind, _) = endorsement(tpm)?;
    let ek = tpm.primary(&kind.template())?;
    let ak = tpm.primary(&tpm::attestation_template())?;
    let secret = tpm.activate(&ek, &ak, credential_blob, encrypted_secret);
    tpm.forget(ak)?;
    tpm.forget(ek)?;
    secret
}

async fn quote(place: Place, nonce: [u8; 32]) -> Result<tpm::Quote, ProofError> {
    let work = move |tpm: &mut Tpm| {
        let ak = tpm.primary(&tpm::attestation_template())?;
        let quote = tpm.quote(&ak, &nonce, &PCRS);
        tpm.forget(ak)?;
        quote
    };
    on_thread(place, work).await
}
