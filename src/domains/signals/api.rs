//! Heartbeats and trust scores on the wire.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::engine::{Decision, Extras, Network, Reading, Test, Touch};
use super::{Answer, Heartbeat, Signals};
use crate::domains::devices::{Device, DeviceEntry};
use crate::gate::{Context, Json, Params, Query, Reply, Validate};
use crate::kernel::error::FieldError;
use crate::kernel::ids::{DeviceId, SignalId};
use crate::kernel::{Refusal, Result, Timestamp, limits};

/// Readings of a device: one `payload`, or 1 to 100 `readings` oldest first.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRequest {
    /// Only on the socket, where it is `heartbeat`.
    #[serde(default, rename = "type")]
    #[schema(rename = "type")]
    kind: Option<String>,
    /// Only on the socket: the trace that the message is in (W3C Trace Context), as the header `traceparent` says it of a
    /// request.
    #[serde(default)]
    traceparent: Option<String>,
    /// The device's own name, 1 to 64 characters.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9._:-]{1,64}$", example = "BR-1")]
    device_id: DeviceId,
    /// The client's own count within its session; a repeat gets the same answer again.
    #[serde(default)]
    seq: Option<u64>,
    /// The device's wall clock.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    sent_at: Option<Timestamp>,
    /// A single reading.
    #[serde(default)]
    payload: Option<ReadingBody>,
    /// Several readings, oldest first.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 100)]
    readings: Option<Vec<ReadingBody>>,
}

/// What a device measured at one moment. Members that are not known are ignored.
#[derive(Deserialize, ToSchema)]
#[schema(as = Reading)]
pub struct ReadingBody {
    /// The device's monotonic clock; required in `readings`.
    #[serde(default)]
    t_ms: Option<u64>,
    /// m/s², gravity included; required of a device that declared the sensor.
    #[serde(default)]
    #[schema(value_type = Option<Vec<f64>>, min_items = 3, max_items = 3, example = json!([0.1, 9.79, 0.3]))]
    accelerometer: Option<[f64; 3]>,
    /// rad/s; required of a device that declared the sensor.
    #[serde(default)]
    #[schema(value_type = Option<Vec<f64>>, min_items = 3, max_items = 3, example = json!([0.01, 0.02, -0.03]))]
    gyroscope: Option<[f64; 3]>,
    /// Share of the screen under another app's overlay.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    overlay: Option<f64>,
    /// 0 near, 1 far; some devices report centimetres.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1000)]
    proximity: Option<f64>,
    /// The latest touch.
    #[serde(default)]
    touch: Option<TouchBody>,
    /// Network figures.
    #[serde(default)]
    network: Option<NetworkBody>,
    /// An accessibility service that can act for the user is on.
    #[serde(default)]
    accessibility_active: bool,
    /// The screen is being mirrored or cast.
    #[serde(default)]
    window_mirroring: bool,
    /// The system is rooted or jail-broken.
    #[serde(default)]
    rooted: bool,
    /// A debugger is attached.
    #[serde(default)]
    debugger: bool,
    /// Packages installed from outside the store.
    #[serde(default)]
    #[schema(max_items = 64)]
    sideloaded: Vec<String>,
}

/// A finger on the screen.
#[derive(Deserialize, ToSchema)]
#[schema(as = Touch)]
pub struct TouchBody {
    /// Across the screen.
    x: f64,
    /// Down the screen.
    y: f64,
    /// As the screen reports it.
    #[serde(default)]
    pressure: f64,
    /// Since the touch before.
    #[serde(default)]
    interval_ms: f64,
}

/// The network as the device sees it, since the reading before.
#[derive(Deserialize, ToSchema)]
#[schema(as = Network)]
pub struct NetworkBody {
    /// Received.
    #[serde(default)]
    rx_bytes: u64,
    /// Sent.
    #[serde(default)]
    tx_bytes: u64,
    /// Round trip to the appliance.
    #[serde(default)]
    rtt_ms: f64,
    /// Open connections.
    #[serde(default)]
    connections: u32,
    /// Names looked up.
    #[serde(default)]
    #[schema(max_items = 64)]
    dns: Vec<String>,
}

/// No sensor, screen or network of a real device reports more.
const MAGNITUDE_MAX: f64 = 1e6;
/// JSON numbers are exact up to here (RFC 7493).
const EXACT_MAX: u64 = (1 << 53) - 1;

impl Validate for HeartbeatRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        let mut refuse = |pointer: String, detail: &str| wrong.push(FieldError { pointer, detail: detail.to_owned() });
        match (&self.payload, &self.readings) {
            (Some(_), None) => {}
            (None, Some(readings)) => {
                if readings.is_empty() || readings.len() > limits::READINGS_PER_HEARTBEAT_MAX {
                    refuse("/readings".to_owned(), "must have 1 to 100 items");
                }
                for (i, reading) in readings.iter().enumerate() {
                    if reading.t_ms.is_none() {
                        refuse(format!("/readings/{i}/t_ms"), "is required");
                    }
                }
            }
            _ => refuse("/payload".to_owned(), "send exactly one of payload and readings"),
        }
        if self.seq.is_some_and(|seq| seq > EXACT_MAX) {
            refuse("/seq".to_owned(), "must be at most 2^53 - 1");
        }
        if let Some(reading) = &self.payload {
            reading.validate("/payload", wrong);
        }
        for (i, reading) in self.readings.iter().flatten().enumerate().take(limits::READINGS_PER_HEARTBEAT_MAX) {
            reading.validate(&format!("/readings/{i}"), wrong);
        }
    }

    fn device_id(&self) -> Option<&DeviceId> {
        Some(&self.device_id)
    }

    /// A declared sensor must be in every reading; one that was not declared is left out, whatever was sent.
    fn validate_for(&self, device: &Device, wrong: &mut Vec<FieldError>) {
        let one = self.payload.iter().map(|r| ("/payload".to_owned(), r));
        let many = self.readings.iter().flatten().enumerate().map(|(i, r)| (format!("/readings/{i}"), r));
        let declared = device.sensors;
        for (at, reading) in one.chain(many) {
            for (name, wanted, there) in [
                ("accelerometer", declared.accelerometer, reading.accelerometer.is_some()),
                ("gyroscope", declared.gyroscope, reading.gyroscope.is_some()),
            ] {
                if wanted && !there {
                    let detail = "is required: the device declared this sensor at enrollment".to_owned();
                    wrong.push(FieldError { pointer: format!("{at}/{name}"), detail });
                }
            }
        }
    }
}

impl ReadingBody {
    fn validate(&self, at: &str, wrong: &mut Vec<FieldError>) {
        let mut check = |fits: bool, name: &str, detail: &str| {
            if !fits {
                wrong.push(FieldError { pointer: format!("{at}/{name}"), detail: detail.to_owned() });
            }
        };
        let number = |v: f64| v.is_finite() && v.abs() <= MAGNITUDE_MAX;
        let magnitude = "must lie between -1000000 and 1000000";
        check(self.t_ms.is_none_or(|t| t <= EXACT_MAX), "t_ms", "must be at most 2^53 - 1");
        check(self.accelerometer.is_none_or(|v| v.into_iter().all(number)), "accelerometer", magnitude);
        check(self.gyroscope.is_none_or(|v| v.into_iter().all(number)), "gyroscope", magnitude);
        check(self.overlay.is_none_or(|v| (0.0..=1.0).contains(&v)), "overlay", "must be 0 to 1");
        check(self.proximity.is_none_or(|v| (0.0..=1000.0).contains(&v)), "proximity", "must be 0 to 1000");
        let names = |names: &[String]| {
            names.len() <= limits::NAMES_PER_READING_MAX
                && names.iter().all(|n| n.chars().count() <= limits::NAME_LEN_MAX)
        };
        let many = "must have at most 64 names of at most 255 characters";
        check(names(&self.sideloaded), "sideloaded", many);
        if let Some(touch) = &self.touch {
            for (name, value) in [("touch/x", touch.x), ("touch/y", touch.y), ("touch/pressure", touch.pressure)] {
                check(number(value), name, magnitude);
            }
            let interval = touch.interval_ms;
            check((0.0..=1e9).contains(&interval), "touch/interval_ms", "must be 0 to 1000000000");
        }
        if let Some(network) = &self.network {
            check(network.rx_bytes <= EXACT_MAX, "network/rx_bytes", "must be at most 2^53 - 1");
            check(network.tx_bytes <= EXACT_MAX, "network/tx_bytes", "must be at most 2^53 - 1");
            check((0.0..=1e9).contains(&network.rtt_ms), "network/rtt_ms", "must be 0 to 1000000000");
            check(names(&network.dns), "network/dns", many);
        }
    }

    /// The reading in the engine's own precision. A reading without a clock of its own gets `t_ms`.
    fn into_reading(self, t_ms: u64) -> Reading {
        let boxed = |names: Vec<String>| names.into_iter().map(String::into_boxed_str).collect::<Vec<_>>();
        let dns = self.network.as_ref().map_or(0, |n| n.dns.len());
        let mut extras = (dns > 0 || !self.sideloaded.is_empty()).then(Extras::default);
        let network = self.network.map(|n| {
            if let Some(extras) = &mut extras {
                extras.dns = boxed(n.dns);
            }
            Network { rx_bytes: n.rx_bytes, tx_bytes: n.tx_bytes, rtt_ms: single(n.rtt_ms), connections: n.connections }
        });
        if let Some(extras) = &mut extras {
            extras.sideloaded = boxed(self.sideloaded);
        }
        Reading {
            t_ms: self.t_ms.unwrap_or(t_ms),
            accelerometer: self.accelerometer.map(|v| v.map(single)),
            gyroscope: self.gyroscope.map(|v| v.map(single)),
            touch: self.touch.map(|t| Touch {
                x: single(t.x),
                y: single(t.y),
                pressure: single(t.pressure),
                interval_ms: single(t.interval_ms),
            }),
            network,
            overlay: self.overlay.map(single),
            proximity: self.proximity.map(single),
            accessibility_active: self.accessibility_active,
            window_mirroring: self.window_mirroring,
            rooted: self.rooted,
            debugger: self.debugger,
            extras: extras.map(Box::new),
        }
    }
}

/// Validated numbers fit; what is lost is below any sensor's resolution.
#[expect(clippy::cast_possible_truncation)]
const fn single(v: f64) -> f32 {
    v as f32
}

impl HeartbeatRequest {
    /// The domain's own form. A single reading without a clock is placed by the sender's wall clock, or by ours.
    pub fn into_heartbeat(self, now: Timestamp) -> Heartbeat {
        let t_ms = u64::try_from(self.sent_at.unwrap_or(now).as_millis()).unwrap_or(0);
        let one = self.payload.into_iter();
        let readings = one.chain(self.readings.into_iter().flatten()).map(|r| r.into_reading(t_ms)).collect();
        Heartbeat { seq: self.seq, readings }
    }

    /// What an older client's status message amounts to.
    pub fn of_legacy(device_id: DeviceId, accessibility_active: bool, window_mirroring: bool) -> Self {
        let payload = ReadingBody {
            t_ms: None,
            accelerometer: None,
            gyroscope: None,
            overlay: None,
            proximity: None,
            touch: None,
            network: None,
            accessibility_active,
            window_mirroring,
            rooted: false,
            debugger: false,
            sideloaded: Vec::new(),
        };
        Self {
            kind: None,
            traceparent: None,
            device_id,
            seq: None,
            sent_at: None,
            payload: Some(payload),
            readings: None,
        }
    }
}

/// What a heartbeat led to.
#[derive(Serialize, ToSchema)]
pub struct HeartbeatResponse {
    /// Always `accepted`: it is durable.
    pub status: &'static str,
    /// 0 (hostile) to 100.
    pub trust_score: u8,
    /// The same; for older clients.
    pub trust_hint: u8,
    /// `allow`, `challenge` or `block`.
    pub decision: &'static str,
    /// Below it the device is blocked.
    pub threshold: u8,
    /// `full` or `simplified`.
    pub engine: &'static str,
    /// `sig_...`
    #[schema(value_type = String)]
    pub signal_id: SignalId,
    /// When the next heartbeat is due.
    pub next_heartbeat_ms: u64,
}

/// The wire's form of an answer.
pub fn heartbeat_answer(answer: &Answer, signals: &Signals) -> HeartbeatResponse {
    HeartbeatResponse {
        status: "accepted",
        trust_score: answer.score.points(),
        trust_hint: answer.score.points(),
        decision: answer.decision.as_str(),
        threshold: answer.threshold,
        engine: answer.engine,
        signal_id: answer.signal_id,
        next_heartbeat_ms: u64::try_from(signals.next_heartbeat().as_millis()).unwrap_or(u64::MAX),
    }
}

/// `POST /v1/signals/heartbeat`
pub async fn heartbeat(ctx: Context, Json(request): Json<HeartbeatRequest>) -> Result<Reply<HeartbeatResponse>> {
    for (given, pointer) in [(request.kind.is_some(), "/type"), (request.traceparent.is_some(), "/traceparent")] {
        if given {
            return Err(Refusal::invalid(pointer, "is not a member of this request").into());
        }
    }
    let device = ctx.device()?;
    let signals = &ctx.services().signals;
    let beat = request.into_heartbeat(ctx.now());
    let answer =
        signals.heartbeat(&device.entry, device.session.id, Some(device.jti), beat, ctx.origin().clone()).await?;
    Ok(Reply::new(heartbeat_answer(&answer, signals)))
}

/// Names one device.
pub struct DeviceQuery {
    device_id: Option<DeviceId>,
}

impl Params for DeviceQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("device_id", "The device; a device may leave out its own.")];
    fn read(values: &crate::gate::Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { device_id: values.parse("device_id", wrong) }
    }
    fn device_id(&self) -> Option<&DeviceId> {
        self.device_id.as_ref()
    }
}

/// How far a device is trusted, and why.
#[derive(Serialize, ToSchema)]
pub struct TrustScoreResponse {
    /// The device.
    #[schema(value_type = String)]
    pub device_id: DeviceId,
    /// 0 (hostile) to 100.
    pub score: u8,
    /// `safe` from 50, else `block` when blocked, else `suspicious`.
    pub verdict: &'static str,
    /// `allow`, `challenge` or `block`.
    pub decision: &'static str,
    /// Below it the device is blocked.
    pub threshold: u8,
    /// `full` or `simplified`.
    pub engine: &'static str,
    /// The parts of the score; null where there is no sensor or no data.
    pub components: ComponentsBody,
    /// The measurements behind it, by name with unit.
    pub features: BTreeMap<&'static str, f64>,
    /// Why.
    pub reasons: Vec<ReasonBody>,
    /// The tests of motion and touches: what was measured, what is usual, what it adds.
    pub explanation: Vec<ExplanationBody>,
    /// What a second policy or population says of the same readings, where one is configured; it acts on nothing.
    pub shadow: Option<ShadowBody>,
    /// The time of the newest heartbeat; null before the first.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub updated_at: Option<Timestamp>,
}

/// The parts of a score.
#[derive(Serialize, ToSchema)]
#[schema(as = Components)]
pub struct ComponentsBody {
    /// How much the acceleration looks like a body's.
    pub accelerometer: Option<u8>,
    /// How much the rotation looks like a body's.
    pub gyroscope: Option<u8>,
    /// How little the touches look like a machine's.
    pub touch_entropy: Option<u8>,
    /// How usual the traffic is.
    pub network_spike: Option<u8>,
}

/// One test: its value against what is usual in the device's situation.
#[derive(Serialize, ToSchema)]
#[schema(as = Explanation)]
pub struct ExplanationBody {
    /// Stable.
    pub feature: &'static str,
    /// The last value.
    pub value: f32,
    /// What half of the genuine devices stay below in the same situation.
    pub baseline: f32,
    /// How rare the value is: 2 for one genuine window in a hundred.
    pub rarity_decades: f32,
    /// Evidence gathered so far; from 4 the owner is asked, from 7 the device is locked.
    pub contribution_decades: f32,
}

/// What judges beside the engine says.
#[derive(Serialize, ToSchema)]
#[schema(as = Shadow)]
pub struct ShadowBody {
    /// 0 (hostile) to 100.
    pub score: u8,
    /// `allow`, `challenge` or `block`.
    pub decision: &'static str,
    /// Below it the device would be blocked.
    pub threshold: u8,
    /// The version of the population that it judged against.
    pub population_version: u16,
}

/// One reason.
#[derive(Serialize, ToSchema)]
#[schema(as = Reason)]
pub struct ReasonBody {
    /// Stable.
    pub code: &'static str,
    /// For people.
    pub detail: &'static str,
}

/// `GET /v1/security/trust-score`
pub async fn trust_score(ctx: Context, Query(query): Query<DeviceQuery>) -> Result<Reply<TrustScoreResponse>> {
    let entry = match (&query.device_id, ctx.device()) {
        (Some(id), _) => ctx.device_entry(id)?,
        (None, Ok(device)) => std::sync::Arc::clone(&device.entry),
        (None, Err(_)) => return Err(Refusal::invalid("?device_id", "is required").into()),
    };
    Ok(Reply::new(trust_of(&entry, &ctx.services().signals)))
}

fn trust_of(entry: &DeviceEntry, signals: &Signals) -> TrustScoreResponse {
    let published = signals.trust(entry);
    let blocked = entry.is_blocked();
    let assessment = published.as_ref().map(|p| &p.assessment);
    let score = assessment.map_or(entry.score(), |a| a.score).points();
    let points = |part: Option<crate::kernel::TrustScore>| part.map(crate::kernel::TrustScore::points);
    let components = assessment.map(|a| a.components).unwrap_or_default();
    let decision = match assessment.map_or(Decision::Allow, |a| a.decision) {
        _ if blocked => Decision::Block,
        // Released since: its next heartbeat is judged without the old evidence.
        Decision::Block => Decision::Challenge,
        other => other,
    };
    TrustScoreResponse {
        device_id: entry.id.clone(),
        score,
        verdict: if blocked && score < 50 {
            "block"
        } else if score >= 50 {
            "safe"
        } else {
            "suspicious"
        },
        decision: decision.as_str(),
        threshold: assessment.map_or(signals.policy().threshold, |a| a.threshold),
        engine: assessment.map_or("full", |a| a.engine.as_str()),
        components: ComponentsBody {
            accelerometer: points(components.accelerometer),
            gyroscope: points(components.gyroscope),
            touch_entropy: points(components.touch_entropy),
            network_spike: points(components.network_spike),
        },
        // A measurement that could not be made is left out: JSON has no word for it.
        features: assessment
            .map(|a| a.features.iter().filter(|(_, v)| v.is_finite()).map(|(n, v)| (n, f64::from(v))).collect())
            .unwrap_or_default(),
        reasons: assessment
            .map(|a| a.reasons.iter().map(|r| ReasonBody { code: r.name(), detail: r.sentence() }).collect())
            .unwrap_or_default(),
        explanation: assessment
            .map(|a| {
                let tests = Test::ALL.iter().zip(a.tests);
                let told = tests.filter(|(_, w)| w.value.is_finite() && w.usual.is_finite());
                told.map(|(test, w)| ExplanationBody {
                    feature: test.as_str(),
                    value: w.value,
                    baseline: w.usual,
                    rarity_decades: w.decades,
                    contribution_decades: w.level,
                })
                .collect()
            })
            .unwrap_or_default(),
        shadow: published.as_ref().and_then(|p| p.shadow).map(|s| ShadowBody {
            score: s.score.points(),
            decision: s.decision.as_str(),
            threshold: s.threshold,
            population_version: s.population_version,
        }),
        updated_at: published.map(|p| p.at).or_else(|| entry.last_seen()),
    }
}
