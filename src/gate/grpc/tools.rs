//! What tools and load balancers ask: how a service is, and which services and messages there are.

use std::time::Duration;

use prost::Message;
use tonic::Code;

use super::body::Reading;
use super::proto::health::health_check_response::ServingStatus;
use super::proto::health::{HealthCheckRequest, HealthCheckResponse};
use super::proto::reflection::server_reflection_request::MessageRequest as Question;
use super::proto::reflection::server_reflection_response::MessageResponse as Answer;
use super::proto::reflection::{
    ErrorResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest, ServerReflectionResponse,
    ServiceResponse,
};
use super::proto::{FILES, File};
use super::status::{Ended, too_slow};
use super::stream::{Call, Progress, Running};
use crate::gate::ops;
use crate::gate::pipeline::Gate;

/// How often a watcher's service is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Watchers of one certificate: a tool has one or two.
const WATCHERS_MAX: usize = 4;
/// Questions of one stream.
const QUESTIONS_MAX: u64 = 1_000;
/// Bytes of a question that are given back.
const NAME_BYTES_MAX: usize = 512;

fn serving(gate: &Gate, service: &str) -> Option<ServingStatus> {
    let known = service.is_empty() || FILES.iter().any(|f| f.services.contains(&service));
    let well = ops::failing(&gate.services, gate.drain.has_started(), &gate.strain).is_none();
    known.then_some(if well { ServingStatus::Serving } else { ServingStatus::NotServing })
}

pub async fn health_check(gate: &Gate, reading: Reading) -> Result<Vec<u8>, Ended> {
    let asked = tokio::time::timeout(gate.settings.body_timeout, reading.one::<HealthCheckRequest>()).await;
    let asked = asked.map_err(|_| too_slow())??;
    let Some(status) = serving(gate, &asked.service) else {
        return Err(Ended::new(Code::NotFound, "not_found", "There is no such service here."));
    };
    Ok(HealthCheckResponse { status: status.into() }.encode_to_vec())
}

pub fn health_watch<'a>(call: &'a Call, reading: Reading, progress: &'a mut Progress) -> Running<'a> {
    Box::pin(async move {
        match watch(call, reading, progress).await {
            Ok(ended) | Err(ended) => ended,
        }
    })
}

async fn watch(call: &Call, reading: Reading, progress: &mut Progress) -> Result<Ended, Ended> {
    let asked = tokio::time::timeout(call.gate.settings.body_timeout, reading.one::<HealthCheckRequest>()).await;
    let asked = asked.map_err(|_| too_slow())??;
    let _watching = call.certificate.watching(WATCHERS_MAX).ok_or_else(|| {
        let detail = format!("This certificate has {WATCHERS_MAX} streams of this kind already.");
        Ended::new(Code::ResourceExhausted, "too_many_watchers", detail)
    })?;
    let mut told = None;
    loop {
        // Only a revocation ends the stream by itself.
        if call.gate.services.certificates.is_orphaned(&call.certificate) {
            return Ok(Ended::new(Code::Unauthenticated, "certificate_refused", "The device was removed."));
        }
        let status = serving(&call.gate, &asked.service).unwrap_or(ServingStatus::ServiceUnknown);
        if told != Some(status) {
            progress.out.send(&HealthCheckResponse { status: status.into() }).await?;
            told = Some(status);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

pub fn reflection<'a>(call: &'a Call, reading: Reading, progress: &'a mut Progress) -> Running<'a> {
    Box::pin(async move {
        match reflect(call, reading, progress).await {
            Ok(ended) | Err(ended) => ended,
        }
    })
}

async fn reflect(call: &Call, reading: Reading, progress: &mut Progress) -> Result<Ended, Ended> {
    let mut questions = reading.messages::<ServerReflectionRequest>();
    let idle = call.gate.settings.grpc.stream_idle;
    loop {
        let silent = |_| Ended::new(Code::DeadlineExceeded, "stream_idle", "No question came for too long.");
        let next = tokio::time::timeout(idle, questions.message()).await.map_err(silent)??;
        let Some(question) = next else { return Ok(Ended::well()) };
        progress.tally.received += 1;
        if progress.tally.received > QUESTIONS_MAX {
            return Err(Ended::new(Code::ResourceExhausted, "stream_rate", "Too many questions on one stream."));
        }
        let answer = answer_to(question.message_request.as_ref());
        let valid_host = question.host.get(..NAME_BYTES_MAX).unwrap_or(&question.host).to_owned();
        let answer =
            ServerReflectionResponse { valid_host, original_request: Some(question), message_response: Some(answer) };
        progress.out.send(&answer).await?;
    }
}

fn answer_to(question: Option<&Question>) -> Answer {
    let found = match question {
        Some(Question::ListServices(_)) => {
            let named = FILES.iter().flat_map(|f| f.services).map(|s| ServiceResponse { name: (*s).to_owned() });
            return Answer::ListServicesResponse(ListServiceResponse { service: named.collect() });
        }
        Some(Question::FileByFilename(name)) => FILES.iter().find(|f| f.name == name),
        Some(Question::FileContainingSymbol(symbol)) => containing(symbol),
        _ => None,
    };
    match found {
        Some(file) => {
            let file_descriptor_proto = vec![file.descriptor.to_vec()];
            Answer::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto })
        }
        None => Answer::ErrorResponse(ErrorResponse {
            error_code: Code::NotFound as i32,
            error_message: "There is nothing here under this name.".to_owned(),
        }),
    }
}

/// The file that declares a symbol, or the message that a symbol lies in.
fn containing(symbol: &str) -> Option<&'static File> {
    let declares = |f: &&File| {
        f.symbols.iter().any(|s| symbol == *s || symbol.strip_prefix(s).is_some_and(|rest| rest.starts_with('.')))
    };
    FILES.iter().find(declares)
}
