//! Messages of methods with one answer, as the JSON that the handlers of HTTP take and give.
//!
//! The members have the same names, so a refusal's pointers fit both. What JSON cannot say is refused here.

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::body::Reading;
use super::proto::signals::{
    AcknowledgeRequest, AcknowledgeResponse, CertificateRequest, CertificateResponse, HeartbeatRequest,
    HeartbeatResponse, Reading as SensorReading, TrustScoreRequest, TrustScoreResponse,
};
use super::status::Ended;
use crate::gate::body::Input;
use crate::kernel::{Error, Refusal, Result};

/// Which messages a method takes and gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Heartbeat,
    TrustScore,
    Acknowledge,
    Certificate,
}

impl Kind {
    /// The one message of a call, as the handler takes it.
    pub async fn read(self, reading: Reading) -> Result<Input, Ended> {
        match self {
            Self::Heartbeat => Ok(heartbeat(&reading.one().await?)?),
            Self::Acknowledge => Ok(in_json(&reading.one::<AcknowledgeRequest>().await?)?),
            Self::Certificate => Ok(in_json(&reading.one::<CertificateRequest>().await?)?),
            Self::TrustScore => {
                let request: TrustScoreRequest = reading.one().await?;
                let device = request.device_id;
                // What a device's name cannot hold must not become part of a query.
                if !device.is_empty() && device.parse::<crate::kernel::ids::DeviceId>().is_err() {
                    return Err(Error::from(Refusal::invalid("/device_id", "is no device's name")).into());
                }
                let query = if device.is_empty() { String::new() } else { format!("device_id={device}") };
                Ok(Input { body: hyper::body::Bytes::new(), query })
            }
        }
    }

    /// The handler's answer as a message.
    pub fn write(self, answer: &[u8]) -> Result<Vec<u8>, Ended> {
        match self {
            Self::Heartbeat => Ok(out_of_json::<HeartbeatResponse>(answer)?.encode_to_vec()),
            Self::Certificate => Ok(out_of_json::<CertificateResponse>(answer)?.encode_to_vec()),
            Self::Acknowledge => {
                let value: Value = out_of_json(answer)?;
                let status = value.get("status").and_then(Value::as_str).unwrap_or_default().to_owned();
                Ok(AcknowledgeResponse { status }.encode_to_vec())
            }
            Self::TrustScore => Ok(trust_score(answer)?.encode_to_vec()),
        }
    }
}

fn in_json(message: &impl Serialize) -> Result<Input> {
    let body = serde_json::to_vec(message).map_err(Error::internal)?;
    Ok(Input { body: body.into(), query: String::new() })
}

fn out_of_json<T: DeserializeOwned>(answer: &[u8]) -> Result<T> {
    serde_json::from_slice(answer).map_err(Error::internal)
}

/// A heartbeat. JSON has no word for what is no number, and would pass it over as absent.
pub fn heartbeat(message: &HeartbeatRequest) -> Result<Input> {
    let one = message.payload.iter().map(|r| ("/payload".to_owned(), r));
    let many = message.readings.iter().enumerate().map(|(i, r)| (format!("/readings/{i}"), r));
    for (at, reading) in one.chain(many) {
        if let Some(name) = not_a_number(reading) {
            return Err(Refusal::invalid(format!("{at}/{name}"), "must be a number").into());
        }
    }
    in_json(message)
}

fn not_a_number(reading: &SensorReading) -> Option<&'static str> {
    let single = [("overlay", reading.overlay), ("proximity", reading.proximity)];
    let touch = reading.touch.iter().flat_map(|t| {
        [("touch/x", t.x), ("touch/y", t.y), ("touch/pressure", t.pressure), ("touch/interval_ms", t.interval_ms)]
    });
    let network = reading.network.iter().map(|n| ("network/rtt_ms", n.rtt_ms));
    let accelerometer = reading.accelerometer.iter().map(|v| ("accelerometer", *v));
    let gyroscope = reading.gyroscope.iter().map(|v| ("gyroscope", *v));
    let single = single.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let mut all = single.chain(touch).chain(network).chain(accelerometer).chain(gyroscope);
    all.find(|(_, value)| !value.is_finite()).map(|(name, _)| name)
}

fn trust_score(answer: &[u8]) -> Result<TrustScoreResponse> {
    let mut value: Value = out_of_json(answer)?;
    if let Some(members) = value.as_object_mut() {
        if let Some(features) = members.get_mut("features").and_then(Value::as_object_mut) {
            features.retain(|_, v| v.is_number());
        }
        members.insert("json".to_owned(), String::from_utf8_lossy(answer).into_owned().into());
    }
    serde_json::from_value(value).map_err(Error::internal)
}
