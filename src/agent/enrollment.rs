//! A device's way in: it registers, with a proof where its tenant demands one, and waits as long as that may help.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::AgentError;
use super::device::{INTERVAL_MAX, Plan, SharedRow, Tokens, lock};
use super::fleet::Shared;
use super::link::delay;
use super::proof::{ProofError, Prover, Right};
use super::summary::State;
use crate::client::{ClientError, HttpClient};
use crate::crypto::Jwk;
use crate::kernel::ids::DeviceId;

#[derive(Serialize)]
struct Enrollment<'a> {
    device_id: &'a DeviceId,
    device_name: &'a str,
    os_version: &'static str,
    platform: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sensors: Option<&'static [&'static str]>,
    public_key: Jwk,
    enrollment_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestation: Option<Value>,
}

/// Registers the device, waiting and trying again as long as that may help.
pub(super) async fn enroll(
    shared: &Shared,
    plan: &Plan,
    prover: &Prover,
    row: &SharedRow,
) -> Option<(HttpClient, Tokens)> {
    let mut body = Enrollment {
        device_id: &plan.id,
        device_name: &plan.name,
        os_version: concat!("agent ", env!("CARGO_PKG_VERSION")),
        platform: "agent",
        sensors: (!plan.has_gyroscope).then_some(&["accelerometer"]),
        public_key: prover.key().verifying().to_jwk(),
        enrollment_token: &shared.enrollment_token,
        attestation: None,
    };
    // Only a tenant that demands a proof gets one with the enrollment; all others get it right afterwards.
    let mut is_demanded = false;
    let mut http = HttpClient::new(shared.endpoint.clone());
    let mut failures = 0;
    loop {
        let answer = {
            // A fleet does not shake a thousand hands at once.
            let _turn = shared.enrolling.acquire().await;
            let answer = match prove_with(&mut body, is_demanded, prover, shared, &mut http).await {
                Ok(()) => http.post("/v1/auth/device", None, &body).await.and_then(|r| r.json::<Tokens>()),
                Err(error) => Err(error),
            };
            http.close();
            answer
        };
        let error = match answer {
            Ok(tokens) => {
                let mut row = lock(row);
                (row.state, row.error) = (State::Offline, None);
                return Some((http, tokens));
            }
            Err(error) => error,
        };
        lock(row).error = Some(error.to_string());
        let wait = match error.problem() {
            Some(problem) if matches!(problem.status, 429 | 503) => problem.retry_after.unwrap_or_default(),
            Some(problem) if problem.code == "attestation_required" && !is_demanded => {
                is_demanded = true;
                Duration::ZERO
            }
            Some(problem) => {
                lock(row).state = State::Failed;
                shared.fail(AgentError::EnrollmentRefused { device_id: plan.id.to_string(), problem: problem.clone() });
                return None;
            }
            None => Duration::ZERO,
        };
        tokio::time::sleep(wait.min(INTERVAL_MAX) + delay(failures, &shared.random)).await;
        failures += 1;
    }
}

/// Puts a fresh proof into an enrollment where one is demanded: each counts once.
async fn prove_with(
    body: &mut Enrollment<'_>,
    is_demanded: bool,
    prover: &Prover,
    shared: &Shared,
    http: &mut HttpClient,
) -> Result<(), ClientError> {
    if !is_demanded {
        return Ok(());
    }
    match prover.evidence(http, &Right::Enrollment(shared.enrollment_token.clone())).await {
        Ok(evidence) => {
            body.attestation = Some(evidence.members);
            Ok(())
        }
        Err(ProofError::Client(error)) => Err(error),
        Err(other) => Err(ClientError::Unexpected(other.to_string())),
    }
}
