//! One device: it enrolls, measures, reports, and obeys.
//!
//! A single task waits for whatever comes first: its socket, the answer to its one request in flight, or a deadline. No
//! wait hides another, so a lock is obeyed while a heartbeat is still unanswered. Nothing is stored: a device that is
//! started again is another device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Transport;
use super::enrollment::enroll;
use super::fleet::Shared;
use super::link::{Link, LinkEvent, Pending, delay};
use super::motion::{AttackKind, MotionSource};
use super::proof::{ProofError, Prover};
use super::sensors::{Sensors, WireReading, time_to_lock};
use super::summary::{Row, State};
use crate::client::frame::{AckStatus, Action, CommandFrame, Decision, Heartbeat, HeartbeatAck, Incoming};
use crate::client::socket::Event;
use crate::client::{ClientError, CommandVerifier, Genuine, HttpClient, Problem, Response, VerifyError};
use crate::crypto::SigningKey;
use crate::kernel::Timestamp;
use crate::kernel::clock::Stopwatch;
use crate::kernel::ids::DeviceId;

/// A socket that has not answered a heartbeat for so long, or said nothing at all, is given up.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How often an idle socket is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Heartbeats of a device whose trial is over, and any that the appliance wants: never rarer.
pub(super) const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Never, for practical purposes.
const FAR: Duration = Duration::from_secs(30 * 86_400);

/// What the fleet shows of a device.
pub(super) type SharedRow = Arc<Mutex<Row>>;

pub(super) fn lock(row: &SharedRow) -> MutexGuard<'_, Row> {
    row.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a device is to be.
pub(super) struct Plan {
    pub id: DeviceId,
    pub name: String,
    pub owner: Box<dyn MotionSource + Send + Sync>,
    pub has_gyroscope: bool,
    pub attack: Option<AttackKind>,
    /// Chooses how the attack goes and where between two heartbeats it begins.
    pub attack_seed: u64,
}

#[derive(Deserialize)]
pub(super) struct Tokens {
    pub access_token: String,
    pub refresh_token: String,
    pub expires_in: u64,
}

/// The level that was granted, and why it is not the TPM's.
type Proof = Result<(String, Option<String>), ProofError>;

enum Answer {
    Heartbeat(Result<HeartbeatAck, ClientError>),
    Refresh(Result<Tokens, ClientError>),
}

/// A heartbeat until it is answered. It is repeated as it is, so that it counts once.
struct Beat {
    seq: u64,
    sent_at: Timestamp,
    readings: Vec<WireReading>,
    /// Since when an answer is due on the open socket, or by the request in flight.
    in_flight: Option<Stopwatch>,
}

struct Device {
    shared: Arc<Shared>,
    row: SharedRow,
    id: DeviceId,
    attack: Option<(AttackKind, u64)>,
    life: Stopwatch,
    sensors: Sensors,
    verifier: CommandVerifier,
    /// Away while a request is in flight.
    http: Option<HttpClient>,
    call: Option<Pending<(HttpClient, Answer)>>,
    prover: Arc<Prover>,
    /// A proof under way.
    proof: Option<Pending<Proof>>,
    link: Link,
    failures: u32,
    last_heard: Stopwatch,
    tokens: Tokens,
    beat: Option<Beat>,
    seq: u64,
    interval: Duration,
    last_beat: Instant,
    next_beat: Instant,
    next_refresh: Instant,
    next_ping: Instant,
    /// Locked, or refused as blocked: nothing is measured or sent until `UNLOCK`.
    silent: bool,
    /// The refresh token was refused for good. Presenting it again and again would look like theft.
    session_over: bool,
}

/// Plays one device until `stop` says so. What becomes of it stands in `row`.
pub(super) async fn live(shared: Arc<Shared>, plan: Plan, row: SharedRow, mut stop: watch::Receiver<bool>) {
    let prover = Arc::new(Prover::new(plan.id.clone(), SigningKey::generate(&shared.random), shared.tpm.clone()));
    let enrolled = tokio::select! {
        enrolled = enroll(&shared, &plan, &prover, &row) => enrolled,
        () = stopped(&mut stop) => return,
    };
    let Some((http, tokens)) = enrolled else { return };
    let now = Instant::now();
    let mut device = Device {
        link: Link::dial(&shared.endpoint, &tokens.access_token),
        sensors: Sensors::new(plan.owner, plan.attack.is_some()),
        verifier: CommandVerifier::new(plan.id.clone()),
        attack: plan.attack.map(|kind| (kind, plan.attack_seed)),
        life: Stopwatch::start(),
        id: plan.id,
        http: Some(http),
        call: None,
        prover,
        proof: None,
        failures: 0,
        last_heard: Stopwatch::start(),
        beat: None,
        seq: 0,
        interval: shared.heartbeat_interval,
        last_beat: now,
        // Devices do not beat in step.
        next_beat: now + shared.heartbeat_interval.mul_f64(0.5 + (plan.attack_seed % 512) as f64 / 1024.0),
        next_refresh: now + refresh_after(tokens.expires_in),
        next_ping: now + PING_EVERY,
        silent: false,
        session_over: false,
        tokens,
        shared,
        row,
    };
    device.prove();
    device.run(&mut stop).await;
    if let Link::Open(socket) = device.link {
        socket.close().await;
    }
}

impl Device {
    async fn run(&mut self, stop: &mut watch::Receiver<bool>) {
        loop {
            let deadline = self.next_beat.min(self.next_refresh).min(self.next_ping);
            tokio::select! {
                () = stopped(stop) => return,
                event = self.link.event() => self.on_link(event).await,
                (http, answer) = answered(&mut self.call) => {
                    self.call = None;
                    self.on_answer(http, answer);
                }
                proof = answered(&mut self.proof) => {
                    self.proof = None;
                    self.on_proof(proof);
                }
                () = tokio::time::sleep_until(deadline) => self.on_deadline().await,
            }
        }
    }

    async fn on_deadline(&mut self) {
        let now = Instant::now();
        if now >= self.next_beat {
            self.next_beat = now + self.interval;
            if !self.silent {
                self.report().await;
            }
        }
        if now >= self.next_refresh {
            self.refresh();
        }
        if now >= self.next_ping {
            self.next_ping = now + PING_EVERY;
            if self.last_heard.elapsed() > PING_EVERY * 3 {
                self.lose("its socket fell silent".to_owned());
            } else if let Some(socket) = self.link.socket()
                && let Err(e) = socket.ping().await
            {
                self.lose(e.to_string());
            }
        }
    }

    // Heartbeats

    /// Sends a heartbeat, or the one again that is not answered yet, if the way is free.
    async fn report(&mut self) {
        self.produce();
        if let Some(waited) = self.beat.as_ref().and_then(|b| b.in_flight) {
            if self.shared.transport == Transport::Socket && waited.elapsed() > ANSWER_MAX {
                self.lose(format!("no answer to a heartbeat within {} s", ANSWER_MAX.as_secs()));
            }
            return;
        }
        let free = match self.shared.transport {
            Transport::Socket => matches!(self.link, Link::Open(_)),
            Transport::Http => self.http.is_some(),
        };
        if !free {
            return;
        }
        if self.beat.is_none() {
            let readings = self.sensors.take_batch();
            if readings.is_empty() {
                return;
            }
            self.seq += 1;
            self.beat = Some(Beat { seq: self.seq, sent_at: self.shared.clock.now(), readings, in_flight: None });
        }
        let Some(beat) = &mut self.beat else { return };
        beat.in_flight = Some(Stopwatch::start());
        let message = Heartbeat { device_id: &self.id, seq: beat.seq, sent_at: beat.sent_at, readings: &beat.readings };
        self.last_beat = Instant::now();
        if let (Transport::Socket, Some(socket)) = (self.shared.transport, self.link.socket()) {
            if let Err(e) = socket.send_heartbeat(&message).await {
                self.lose(e.to_string());
            }
        } else if let Some(mut http) = self.http.take() {
            let body = serde_json::to_vec(&message).unwrap_or_default();
            let token = self.tokens.access_token.clone();
            self.call = Some(Box::pin(async move {
                let answer = http.post_bytes("/v1/signals/heartbeat", Some(&token), body.into()).await;
                (http, Answer::Heartbeat(answer.and_then(|r: Response| r.json())))
            }));
        }
    }

    fn produce(&mut self) {
        self.sensors.produce(millis(self.life.elapsed()));
        if self.sensors.hostile_since_ms().is_some() {
            lock(&self.row).taken_over = true;
        }
    }

    fn on_accepted(&mut self, ack: &HeartbeatAck) {
        self.beat = None;
        let wanted = ack.next_heartbeat_ms.map_or(Duration::ZERO, Duration::from_millis);
        // The appliance says when the next one is due at the latest; this device sends at its own, faster pace.
        self.interval =
            if wanted.is_zero() { self.shared.heartbeat_interval } else { self.shared.heartbeat_interval.min(wanted) };
        self.next_beat = (self.last_beat + self.interval).max(Instant::now());
        {
            let mut row = lock(&self.row);
            (row.score, row.decision, row.error) = (Some(ack.trust_score), Some(ack.decision), None);
            row.heartbeats += 1;
        }
        if ack.decision == Decision::Block {
            // The lock is on its way; the next heartbeat would be refused.
            self.silent = true;
        }
        if let Some((kind, seed)) = self.attack.take() {
            let into_ms = seed % millis(self.shared.heartbeat_interval).max(1);
            let begins_ms = millis(self.life.elapsed() + self.shared.takeover_after) + into_ms;
            self.sensors.plan_takeover(kind, seed, begins_ms);
        }
    }

    fn on_refused(&mut self, problem: &Problem) {
        let now = Instant::now();
        let wait = problem.retry_after.unwrap_or(Duration::from_secs(1)).clamp(Duration::from_secs(1), INTERVAL_MAX);
        match problem.status {
            // The same heartbeat again, later.
            429 | 503 => {
                self.mark_unsent();
                self.next_beat = now + wait;
            }
            401 => {
                self.mark_unsent();
                self.next_refresh = now;
            }
            402 => {
                self.beat = None;
                self.interval = INTERVAL_MAX;
                self.next_beat = now + INTERVAL_MAX;
            }
            423 => {
                self.beat = None;
                self.silent = true;
            }
            _ => self.beat = None,
        }
        lock(&self.row).error = Some(problem.to_string());
    }

    fn mark_unsent(&mut self) {
        if let Some(beat) = &mut self.beat {
            beat.in_flight = None;
        }
    }

    // Requests

    /// Proves what it is, beside everything else it does; one proof at a time.
    fn prove(&mut self) {
        if self.proof.is_some() {
            return;
        }
        let (prover, shared) = (Arc::clone(&self.prover), Arc::clone(&self.shared));
        let token = self.tokens.access_token.clone();
        self.proof = Some(Box::pin(async move { prover.prove(&shared.endpoint, &token, &shared.random).await }));
    }

    fn on_proof(&mut self, proof: Proof) {
        match proof {
            Ok((level, without_tpm)) => {
                let mut row = lock(&self.row);
                row.attested = Some(level);
                row.tpm_error = without_tpm;
            }
            Err(error) => self.note(format!("its proof failed: {error}")),
        }
    }

    fn refresh(&mut self) {
        if self.session_over {
            self.next_refresh = Instant::now() + FAR;
            return;
        }
        let Some(mut http) = self.http.take() else {
            // A heartbeat is under way; its answer comes soon.
            self.next_refresh = Instant::now() + Duration::from_millis(200);
            return;
        };
        self.next_refresh = Instant::now() + FAR;
        let refresh_token = self.tokens.refresh_token.clone();
        self.call = Some(Box::pin(async move {
            let body = serde_json::json!({"refresh_token": refresh_token});
            let answer = http.post("/v1/auth/refresh", None, &body).await;
            (http, Answer::Refresh(answer.and_then(|r| r.json())))
        }));
    }

    fn on_answer(&mut self, mut http: HttpClient, answer: Answer) {
        if self.shared.transport == Transport::Socket {
            http.close();
        }
        self.http = Some(http);
        match answer {
            Answer::Heartbeat(Ok(ack)) => self.on_accepted(&ack),
            Answer::Heartbeat(Err(ClientError::Problem(problem))) => self.on_refused(&problem),
            Answer::Heartbeat(Err(error)) => {
                self.mark_unsent();
                self.note(error.to_string());
            }
            Answer::Refresh(Ok(tokens)) => {
                self.next_refresh = Instant::now() + refresh_after(tokens.expires_in);
                self.tokens = tokens;
            }
            Answer::Refresh(Err(error)) => {
                match error.problem().map(|p| p.status) {
                    // Soon enough to get the same successor, should only the answer have been lost.
                    None | Some(429 | 500..) => self.next_refresh = Instant::now() + Duration::from_secs(3),
                    // The socket stays: it needs no fresh token to hear commands.
                    Some(_) => (self.session_over, self.silent) = (true, true),
                }
                self.note(error.to_string());
            }
        }
    }

    // The socket

    async fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Due => self.link = Link::dial(&self.shared.endpoint, &self.tokens.access_token),
            LinkEvent::Dialled(Ok(socket)) => {
                self.link = Link::Open(socket);
                self.last_heard = Stopwatch::start();
            }
            LinkEvent::Dialled(Err(error)) => {
                if error.problem().is_some_and(|p| p.status == 401) {
                    self.next_refresh = Instant::now();
                }
                self.lose(error.to_string());
            }
            LinkEvent::Heard(event) => {
                self.last_heard = Stopwatch::start();
                match event {
                    Event::Frame(Incoming::Command(frame)) => self.on_command(&frame).await,
                    Event::Frame(Incoming::HeartbeatAck(ack)) => self.on_accepted(&ack),
                    Event::Frame(Incoming::Error(problem)) if self.beat.is_some() => self.on_refused(&problem),
                    Event::Frame(Incoming::Error(problem)) => self.note(problem.to_string()),
                    Event::Odd(what) => self.note(what),
                    Event::Pong => {}
                    Event::Closed(code, reason) => self.on_closed(code, &reason),
                }
            }
        }
    }

    fn on_closed(&mut self, code: u16, reason: &str) {
        match code {
            1008 => self.next_refresh = Instant::now(),
            // Paywall, or another socket of this device: coming back at once would not help.
            4001 | 4003 => self.failures = self.failures.max(6),
            _ => {}
        }
        self.lose(format!("its socket was closed ({code}) {reason}").trim_end().to_owned());
    }

    /// The socket is gone; another attempt follows. What was not answered is sent again then.
    fn lose(&mut self, why: String) {
        self.link = Link::Waiting(Instant::now() + delay(self.failures, &self.shared.random));
        self.failures = self.failures.saturating_add(1);
        if self.shared.transport == Transport::Socket {
            self.mark_unsent();
        }
        let mut row = lock(&self.row);
        row.error = Some(why);
        if row.state == State::Online {
            row.state = State::Offline;
        }
    }

    async fn on_command(&mut self, frame: &CommandFrame) {
        let mut judged = self.verifier.verify(frame, &self.shared.keys.current(), self.shared.clock.now());
        if judged == Err(VerifyError::UnknownKey) && self.shared.keys.fetch_again(&self.shared.endpoint).await.is_ok() {
            judged = self.verifier.verify(frame, &self.shared.keys.current(), self.shared.clock.now());
        }
        let sent = match judged {
            Ok(Genuine::Notice) => {
                match frame.action {
                    Action::AuthOk => self.on_admitted(),
                    Action::StatusAudit if frame.reason == "attest" => self.prove(),
                    _ => {}
                }
                return;
            }
            Ok(Genuine::New) => {
                let obeyed = self.obey(&frame.action);
                self.acknowledge(frame, obeyed).await
            }
            Ok(Genuine::Redelivered) => self.acknowledge(frame, understood(&frame.action)).await,
            // Not acknowledged: whoever sent it learns nothing, and a genuine one will come again.
            Err(why) => return self.note(format!("refused {}: {why}", frame.action.as_str())),
        };
        if let Err(e) = sent {
            self.lose(e.to_string());
        }
    }

    fn on_admitted(&mut self) {
        self.failures = 0;
        let mut row = lock(&self.row);
        row.error = None;
        if row.state == State::Offline {
            row.state = State::Online;
        }
    }

    /// Carries a genuine command out; false when it is not understood.
    fn obey(&mut self, action: &Action) -> bool {
        if action.locks() {
            let now_ms = millis(self.life.elapsed());
            self.silent = true;
            self.beat = None;
            let mut row = lock(&self.row);
            row.state = State::Locked;
            if !row.locked {
                row.locked = true;
                row.time_to_lock = time_to_lock(self.sensors.hostile_since_ms(), now_ms);
            }
        } else if *action == Action::Unlock {
            self.sensors.return_to_owner(millis(self.life.elapsed()));
            (self.silent, self.beat) = (false, None);
            self.interval = self.shared.heartbeat_interval;
            let mut row = lock(&self.row);
            (row.state, row.error) = (State::Online, None);
        } else if *action == Action::BillingExpired {
            self.interval = INTERVAL_MAX;
            self.note("its trial is over and nothing is paid".to_owned());
        }
        understood(action)
    }

    async fn acknowledge(&mut self, frame: &CommandFrame, obeyed: bool) -> Result<(), ClientError> {
        let Some(socket) = self.link.socket() else { return Ok(()) };
        socket.ack(frame.command_id, AckStatus::Delivered, None).await?;
        if obeyed {
            socket.ack(frame.command_id, AckStatus::Enforced, None).await
        } else {
            let detail = "this device does not know the action";
            socket.ack(frame.command_id, AckStatus::Failed, Some(detail)).await
        }
    }

    fn note(&self, what: String) {
        lock(&self.row).error = Some(what);
    }
}

/// When the fleet says so, or is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|s| *s).await;
}

/// What is in flight, for ever where there is nothing. Dropping the future loses nothing.
async fn answered<T>(call: &mut Option<Pending<T>>) -> T {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

fn understood(action: &Action) -> bool {
    !matches!(action, Action::Unknown(_))
}

/// Well before the token expires, so that a refresh may fail a few times.
fn refresh_after(expires_in_s: u64) -> Duration {
    Duration::from_secs(expires_in_s.min(86_400)).mul_f64(0.75).max(Duration::from_secs(1))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
