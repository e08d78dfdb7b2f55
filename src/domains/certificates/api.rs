//! Client certificates on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Authority, CertificateView};
use crate::crypto::client_certs::REQUEST_BYTES_MAX;
use crate::gate::{Caller, Context, Json, Reply, Validate};
use crate::kernel::Result;
use crate::kernel::error::FieldError;
use crate::kernel::ids::DeviceId;

/// A request for a client certificate.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateRequest {
    /// PKCS 10 in PEM. Only its key counts: P-256, P-384 or Ed25519.
    #[schema(max_length = 8192)]
    csr: String,
}

impl Validate for CertificateRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if self.csr.len() > REQUEST_BYTES_MAX {
            let detail = "must have at most 8192 characters".to_owned();
            wrong.push(FieldError { pointer: "/csr".to_owned(), detail });
        }
    }
}

/// `POST /v1/devices/{device_id}/certificate`, and `RenewCertificate` of gRPC
pub async fn issue(ctx: Context, Json(request): Json<CertificateRequest>) -> Result<Reply<CertificateView>> {
    let id: DeviceId = ctx.path("device_id")?;
    let device = ctx.device_entry(&id)?;
    let (by, once) = match ctx.caller() {
        Caller::Device(_) => (Authority::Device(ctx.client_certificate()), None),
        _ => (Authority::Person(Some(ctx.actor()?)), ctx.once(&format!("certificate of {id}"), &request)?),
    };
    let certificates = &ctx.services().certificates;
    let made = certificates.issue(device.tenant, &device.id, &request.csr, by, once, ctx.origin().clone()).await?;
    Ok(Reply::new(made))
}
