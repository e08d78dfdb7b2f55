//! Attestation on the wire. What comes with an enrollment is taken by the enrollment.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub mod tpm;
pub mod trust;

use super::{Asker, AttestationView, Evidence, ReceiptView};
use crate::domains::billing::BillingStatus;
use crate::domains::devices::DeviceEntry;
use crate::gate::{Caller, Context, Json, Nothing, Reply, Validate};
use crate::kernel::error::FieldError;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};

/// Which device a nonce is for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NonceRequest {
    /// The caller itself, or the name under which it will enroll.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9._:-]{1,64}$", example = "BR-1")]
    device_id: DeviceId,
}

impl Validate for NonceRequest {
    fn device_id(&self) -> Option<&DeviceId> {
        Some(&self.device_id)
    }
}

/// A nonce.
#[derive(Serialize, ToSchema)]
pub struct NonceResponse {
    /// 32 bytes in base64url.
    nonce: String,
    /// The tenant that stands in what is signed.
    #[schema(value_type = String)]
    tenant: TenantId,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// `POST /v1/attestation/nonce`
pub async fn nonce(ctx: Context, Json(request): Json<NonceRequest>) -> Result<Reply<NonceResponse>> {
    let (tenant, asker) = asking(&ctx, &request.device_id).await?;
    let ip = ctx.origin().ip;
    let (nonce, expires_at) = ctx.services().attestation.new_nonce(tenant, request.device_id, asker, ip).await?;
    Ok(Reply::new(NonceResponse { nonce, tenant, expires_at }))
}

/// Who asks for this device, and of which tenant.
async fn asking(ctx: &Context, device: &DeviceId) -> Result<(TenantId, Asker)> {
    match (ctx.caller(), ctx.enrollment_credential()) {
        (Caller::Device(caller), _) => Ok((caller.entry.tenant, Asker::Enrolled)),
        (_, Some(token)) => {
            let found = ctx.services().iam.tenant_of_enrollment_token(token, device).await;
            if let (Err(_), Some(ip)) = (&found, ctx.origin().ip) {
                ctx.limiter().auth_failed(ip, ctx.now());
            }
            let (tenant, id) = found?;
            Ok((tenant, Asker::Newcomer(id)))
        }
        _ => {
            let detail = "This is for a device with its own token, or for one that shows an enrollment token \
                          (Authorization: Enrollment ...).";
            Err(Refusal::new(Kind::Unauthenticated, "unauthenticated", detail).into())
        }
    }
}

/// Evidence: `type`, `nonce` and the members that the type asks for.
#[derive(Deserialize, Serialize, Clone, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Evidence)]
pub struct EvidenceRequest {
    /// `software`, `android-key`, `apple-attestation`, `apple-assertion`, `play-integrity` or `tpm-quote`.
    #[serde(rename = "type")]
    #[schema(rename = "type", max_length = 32)]
    kind: String,
    /// As it was handed out; used up by this.
    #[schema(min_length = 43, max_length = 43)]
    nonce: String,
    /// `software`: ES256 by the enrolled key over `blockremote-attest-v1`, tenant, device and nonce, a line each; raw r||s
    /// in base64url. May come with `tpm-quote`, too: then one proof is of both keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    signature: Option<String>,
    /// `android-key`: the chain, leaf first. Its challenge is the SHA-256 of the same lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 60_000)]
    chain_pem: Option<String>,
    /// `apple-attestation`: the key's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    key_id_b64: Option<String>,
    /// `apple-attestation`: the object. Its client data hash is the SHA-256 of the same lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 60_000)]
    attestation_object_b64: Option<String>,
    /// `apple-assertion`: the assertion. Its client data are the same lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4_096)]
    assertion_b64: Option<String>,
    /// `play-integrity`: the token. Its nonce is the SHA-256 of the same lines in base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 32_768)]
    token: Option<String>,
    /// `tpm-quote`: TPMS_ATTEST by the activated key over PCRs of the SHA-256 bank. Its qualifying data is the SHA-256 of
    /// the same lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2_048)]
    attest_b64: Option<String>,
    /// `tpm-quote`: TPMT_SIGNATURE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2_048)]
    signature_b64: Option<String>,
    /// `tpm-quote`: numbers and values (hexadecimal) of the quoted registers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pcr_values: Option<BTreeMap<String, String>>,
    /// `tpm-quote`: the boot log, as firmware leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 300_000)]
    event_log_b64: Option<String>,
    /// `tpm-quote` by a key that was not activated: the key, TPMT_PUBLIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2_048)]
    ak_public_b64: Option<String>,
    /// `tpm-quote` by a key that was not activated: the certificate that binds it to a TPM, leaf first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 40_000)]
    ak_certificates_pem: Option<String>,
    /// What the type states beside its evidence. The appliance knows all of it itself and goes by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    app_id: Option<String>,
    /// As `app_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 32)]
    environment: Option<String>,
    /// As `app_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    client_data_hash_hex: Option<String>,
    /// As `app_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1_024)]
    client_data_b64: Option<String>,
    /// As `app_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1_024)]
    challenge_b64: Option<String>,
    /// As `app_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1_024)]
    public_key_spki_b64: Option<String>,
    /// As `app_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous_counter: Option<u32>,
}

impl EvidenceRequest {
    /// The evidence in it.
    ///
    /// # Errors
    /// 422 at the member, below `pointer`.
    pub fn evidence(&self, pointer: &str) -> Result<Evidence> {
        let members = serde_json::to_value(self).map_err(crate::kernel::Error::internal)?;
        Evidence::of(members.as_object().cloned().unwrap_or_default(), pointer)
    }
}

impl Validate for EvidenceRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        let members: [(&str, Option<&String>, usize); 18] = [
            ("/type", Some(&self.kind), 32),
            ("/signature", self.signature.as_ref(), 128),
            ("/chain_pem", self.chain_pem.as_ref(), 60_000),
            ("/key_id_b64", self.key_id_b64.as_ref(), 128),
            ("/attestation_object_b64", self.attestation_object_b64.as_ref(), 60_000),
            ("/assertion_b64", self.assertion_b64.as_ref(), 4_096),
            ("/token", self.token.as_ref(), 32_768),
            ("/attest_b64", self.attest_b64.as_ref(), 2_048),
            ("/signature_b64", self.signature_b64.as_ref(), 2_048),
            ("/event_log_b64", self.event_log_b64.as_ref(), 300_000),
            ("/ak_public_b64", self.ak_public_b64.as_ref(), 2_048),
            ("/ak_certificates_pem", self.ak_certificates_pem.as_ref(), 40_000),
            ("/app_id", self.app_id.as_ref(), 256),
            ("/environment", self.environment.as_ref(), 32),
            ("/client_data_hash_hex", self.client_data_hash_hex.as_ref(), 256),
            ("/client_data_b64", self.client_data_b64.as_ref(), 1_024),
            ("/challenge_b64", self.challenge_b64.as_ref(), 1_024),
            ("/public_key_spki_b64", self.public_key_spki_b64.as_ref(), 1_024),
        ];
        for (pointer, text, max) in members {
            if text.is_some_and(|t| t.chars().count() > max) {
                let detail = format!("must have at most {max} characters");
                wrong.push(FieldError { pointer: pointer.to_owned(), detail });
            }
        }
        if self.pcr_values.as_ref().is_some_and(|values| values.len() > 24) {
            let detail = "must have at most 24 members".to_owned();
            wrong.push(FieldError { pointer: "/pcr_values".to_owned(), detail });
        }
        if self.nonce.chars().count() != 43 {
            wrong.push(FieldError { pointer: "/nonce".to_owned(), detail: "must have 43 characters".to_owned() });
        }
    }
}

/// `POST /v1/devices/{device_id}/attestation`
pub async fn attest(ctx: Context, Json(request): Json<EvidenceRequest>) -> Result<Reply<AttestationView>> {
    let device = ctx.device()?;
    let named: DeviceId = ctx.path("device_id")?;
    if named != device.entry.id {
        return Err(Refusal::not_found().into());
    }
    let evidence = request.evidence("")?;
    let attestation = &ctx.services().attestation;
    let view = attestation.attest(&device.entry, evidence, ctx.origin().clone()).await?;
    Ok(Reply::new(with_binding(&ctx, &device.entry, view)))
}

/// Says whether the device's token is bound to the attested key.
fn with_binding(ctx: &Context, entry: &DeviceEntry, view: AttestationView) -> AttestationView {
    let session = entry.device().session.and_then(|id| ctx.services().iam.session(id));
    match session.as_ref().and_then(|session| session.dpop_key()) {
        Some(thumbprint) => view.bound_to(thumbprint),
        None => view,
    }
}

/// `GET /v1/devices/{device_id}/attestation`
pub async fn show(ctx: Context, _: Nothing) -> Result<Reply<AttestationView>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    let view = ctx.services().attestation.view(entry.tenant, entry.id.clone()).await?;
    Ok(Reply::new(with_binding(&ctx, &entry, view)))
}

/// Whether the device was asked.
#[derive(Serialize, ToSchema)]
pub struct Asked {
    /// Whether it was connected; one that is not is asked when its proof is too old and it comes back.
    connected: bool,
}

/// `POST /v1/devices/{device_id}/attestation/request`
pub async fn ask(ctx: Context, _: Nothing) -> Result<Reply<Asked>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    let services = ctx.services();
    let connected = services.killswitch.hub().is_open(entry.no);
    services.attestation.ask(&entry, ctx.actor()?, ctx.origin().clone()).await?;
    Ok(Reply::new(Asked { connected }))
}

/// `GET /v1/devices/{device_id}/attestation/receipt`
pub async fn receipt(ctx: Context, _: Nothing) -> Result<Reply<ReceiptView>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    Ok(Reply::new(ctx.services().attestation.receipt(&entry).await?))
}

/// A newer receipt from Apple's server.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiptRequest {
    /// As Apple's server answered, in base64.
    #[schema(min_length = 1, max_length = 65_536)]
    receipt_b64: String,
}

impl Validate for ReceiptRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if self.receipt().is_none() {
            let detail = "must be base64 with padding of at most 65,536 characters".to_owned();
            wrong.push(FieldError { pointer: "/receipt_b64".to_owned(), detail });
        }
    }
}

impl ReceiptRequest {
    fn receipt(&self) -> Option<Vec<u8>> {
        let text = Some(self.receipt_b64.trim()).filter(|text| !text.is_empty() && text.len() <= 65_536)?;
        Base64::decode_vec(text).ok()
    }
}

/// `PUT /v1/devices/{device_id}/attestation/receipt`
pub async fn import_receipt(ctx: Context, Json(request): Json<ReceiptRequest>) -> Result<Reply<ReceiptView>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    let receipt = request.receipt().unwrap_or_default();
    let attestation = &ctx.services().attestation;
    Ok(Reply::new(attestation.import_receipt(&entry, receipt, ctx.actor()?, ctx.origin().clone()).await?))
}

/// A proof of hardware, and the question how the device's subscription stands.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProvenStatusRequest {
    /// The caller itself.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9._:-]{1,64}$", example = "BR-1")]
    device_id: DeviceId,
    /// The proof.
    attestation: EvidenceRequest,
}

impl Validate for ProvenStatusRequest {
    fn device_id(&self) -> Option<&DeviceId> {
        Some(&self.device_id)
    }

    fn validate(&self, wrong: &mut Vec<FieldError>) {
        let mut inner = Vec::new();
        self.attestation.validate(&mut inner);
        let outward = |e: FieldError| FieldError { pointer: format!("/attestation{}", e.pointer), ..e };
        wrong.extend(inner.into_iter().map(outward));
    }
}

/// `POST /v1/billing/status`
///
/// The proof is stored whatever the subscription's state is; the answer is that of `GET /v1/billing/status`.
pub async fn prove_and_ask_status(
    ctx: Context,
    Json(request): Json<ProvenStatusRequest>,
) -> Result<Reply<BillingStatus>> {
    let device = ctx.device()?;
    let evidence = request.attestation.evidence("/attestation")?;
    let services = ctx.services();
    services.attestation.attest(&device.entry, evidence, ctx.origin().clone()).await?;
    Ok(Reply::new(services.billing.status(&device.entry).await?))
}
