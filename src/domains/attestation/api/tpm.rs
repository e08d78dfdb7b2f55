//! Credential activation on the wire: two requests to one endpoint.

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::Level;
use super::super::tpm::{Activated, Candidate, Challenge, TpmKeys};
use crate::gate::{Context, Json, Reply, Validate};
use crate::kernel::error::FieldError;
use crate::kernel::ids::DeviceId;
use crate::kernel::{Refusal, Result, Timestamp};

/// First the keys, then the secret: either `ek_public_b64`, `ak_public_b64` and mostly `ek_certificates_pem`, or
/// `activation` and `secret_b64`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TpmActivationRequest)]
pub struct ActivationRequest {
    /// The caller itself, or the name under which it will enroll.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9._:-]{1,64}$", example = "BR-1")]
    device_id: DeviceId,
    /// TPMT_PUBLIC of the endorsement key in base64: RSA-2048 or P-256 by the default templates of the TCG.
    #[serde(default)]
    #[schema(max_length = 2_048)]
    ek_public_b64: Option<String>,
    /// The endorsement key's certificate and what lies between it and its maker's root, leaf first. Without it the policy
    /// must allow unknown makers.
    #[serde(default)]
    #[schema(max_length = 40_000)]
    ek_certificates_pem: Option<String>,
    /// TPMT_PUBLIC of the attestation key in base64: restricted, signing, made in the TPM and fixed to it. Made in the
    /// endorsement hierarchy, its quotes show the true counters.
    #[serde(default)]
    #[schema(max_length = 2_048)]
    ak_public_b64: Option<String>,
    /// The challenge that is answered.
    #[serde(default)]
    #[schema(min_length = 43, max_length = 43)]
    activation: Option<String>,
    /// What TPM2_ActivateCredential opened, in base64.
    #[serde(default)]
    #[schema(max_length = 64)]
    secret_b64: Option<String>,
}

impl Validate for ActivationRequest {
    fn device_id(&self) -> Option<&DeviceId> {
        Some(&self.device_id)
    }

    fn validate(&self, wrong: &mut Vec<FieldError>) {
        for (pointer, text, max) in [
            ("/ek_public_b64", &self.ek_public_b64, 2_048),
            ("/ek_certificates_pem", &self.ek_certificates_pem, 40_000),
            ("/ak_public_b64", &self.ak_public_b64, 2_048),
            ("/activation", &self.activation, 43),
            ("/secret_b64", &self.secret_b64, 64),
        ] {
            if text.as_ref().is_some_and(|text| text.chars().count() > max) {
                let detail = format!("must have at most {max} characters");
                wrong.push(FieldError { pointer: pointer.to_owned(), detail });
            }
        }
        let keys = self.ek_public_b64.is_some() || self.ek_certificates_pem.is_some() || self.ak_public_b64.is_some();
        let answer = self.activation.is_some() || self.secret_b64.is_some();
        if keys == answer {
            let detail = "is ek_public_b64 and ak_public_b64, or activation and secret_b64, and not both";
            wrong.push(FieldError { pointer: String::new(), detail: detail.to_owned() });
        }
    }
}

/// Where activation stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationStatus {
    /// The TPM must open the secret, and the device send it with `activation`.
    Challenged,
    /// The attestation key is the device's.
    Activated,
}

/// A challenge, or what came of one.
#[derive(Serialize, ToSchema)]
#[schema(as = TpmActivation)]
pub struct ActivationResponse {
    /// Which of both.
    status: ActivationStatus,
    /// `challenged`: the challenge's name, for one answer.
    activation: Option<String>,
    /// `challenged`: TPM2B_ID_OBJECT in base64, as TPM2_ActivateCredential takes it.
    credential_blob_b64: Option<String>,
    /// `challenged`: TPM2B_ENCRYPTED_SECRET in base64.
    encrypted_secret_b64: Option<String>,
    /// `challenged`: when it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// `activated`: the TPM's name for the key.
    ak_name_hex: Option<String>,
    /// `activated`: how far quotes of it will count.
    level: Option<Level>,
}

impl From<Challenge> for ActivationResponse {
    fn from(challenge: Challenge) -> Self {
        Self {
            status: ActivationStatus::Challenged,
            activation: Some(challenge.activation),
            credential_blob_b64: Some(Base64::encode_string(&challenge.credential.credential_blob)),
            encrypted_secret_b64: Some(Base64::encode_string(&challenge.credential.encrypted_secret)),
            expires_at: Some(challenge.expires_at),
            ak_name_hex: None,
            level: None,
        }
    }
}

impl From<Activated> for ActivationResponse {
    fn from(activated: Activated) -> Self {
        Self {
            status: ActivationStatus::Activated,
            activation: None,
            credential_blob_b64: None,
            encrypted_secret_b64: None,
            expires_at: None,
            ak_name_hex: Some(activated.ak_name),
            level: Some(activated.level),
        }
    }
}

fn bytes(text: Option<&str>, pointer: &str) -> Result<Vec<u8>> {
    let text = text.ok_or_else(|| Refusal::invalid(pointer, "is required"))?;
    Ok(Base64::decode_vec(text).map_err(|_| Refusal::invalid(pointer, "is not base64"))?)
}

/// `POST /v1/attestation/tpm/activate`
pub async fn activate(ctx: Context, Json(request): Json<ActivationRequest>) -> Result<Reply<ActivationResponse>> {
    let (tenant, asker) = super::asking(&ctx, &request.device_id).await?;
    let who = Candidate { tenant, device: request.device_id, asker, ip: ctx.origin().ip };
    let (attestation, origin) = (&ctx.services().attestation, ctx.origin().clone());
    if let Some(activation) = request.activation {
        let secret = bytes(request.secret_b64.as_deref(), "/secret_b64")?;
        return Ok(Reply::new(attestation.activate_tpm(who, activation, secret, origin).await?.into()));
    }
    let keys = TpmKeys {
        ek_public: bytes(request.ek_public_b64.as_deref(), "/ek_public_b64")?,
        ek_certificates_pem: request.ek_certificates_pem,
        ak_public: bytes(request.ak_public_b64.as_deref(), "/ak_public_b64")?,
    };
    Ok(Reply::new(attestation.challenge_tpm(who, keys, origin).await?.into()))
}
