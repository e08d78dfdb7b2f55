//! Heartbeats: taken in, made durable, scored, and answered; a takeover leads to a lock in the same commit.
//!
//! The engine of a device is moved by the writer alone, in the order of the journal; so replaying the journal after a
//! crash gives the same state to the same bits. What the rest of the house sees of a device is published after the
//! commit. Knows nothing of HTTP or WebSockets.

pub mod api;
mod beat;
mod breaker;
mod cell;
pub mod engine;
mod fold;
mod record;
mod replay;
mod shadow;

pub use beat::Heartbeat;
pub use breaker::{Bounds as ScoringBounds, Cause as DegradedCause, State as BreakerState};
pub use cell::{Answer, Published};
pub use replay::{Replayed, replay};
pub use shadow::{Candidate, Shadow};

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use tracing::Instrument;

use crate::domains::attestation::Attestation;
use crate::domains::audit::{self, NewEntry, ThreatLevel};
use crate::domains::billing::Billing;
use crate::domains::devices::{Device, DeviceEntry, Devices};
use crate::domains::flags::{Flags, System};
use crate::domains::intel::{Intel, Motion};
use crate::domains::killswitch::KillSwitch;
use crate::domains::metering::Metering;
use crate::domains::tenants::{self, Tenants};
use crate::kernel::clock::Stopwatch;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceNo, SessionId, SignalId, TokenId};
use crate::kernel::trace::TraceContext;
use crate::kernel::{Clock, Error, Kind, Random, Refusal, Result, Timestamp, trace};
use crate::store::tables::{Key, SIGNAL_ANCHORS, SIGNAL_RINGS};
use crate::store::{Store, Tx};
use breaker::{Breaker, Change};
use cell::Cell;
use engine::Policy;

/// What the configuration says about heartbeats.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When the next heartbeat is due.
    pub next_heartbeat: Duration,
    /// How a score is made and judged.
    pub policy: Policy,
    /// How long readings are kept for investigation.
    pub retention: Duration,
    /// Bytes of journal after which the rings are written.
    pub checkpoint_bytes: u64,
    /// What judges beside the active engine and only reports; `None`: nothing does.
    pub shadow: Option<Candidate>,
    /// Beyond them heartbeats are judged by the hard rules alone.
    pub scoring: ScoringBounds,
}

/// What the flag `engine-mode` says where the hard rules alone are to judge.
const ENGINE_SIMPLIFIED: &str = "simplified";
/// More than one a day for the longest retention.
const ANCHORS_MAX: usize = 400;

/// One heartbeat's scoring, for the metrics.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    /// How long the active engine took.
    pub took: Duration,
    /// What it decided.
    pub decision: engine::Decision,
    /// What the shadow would have decided, where there is one.
    pub shadow: Option<engine::Decision>,
}

/// Hears of each scoring, for the metrics.
pub type ScoringObserver = Arc<dyn Fn(Scored) + Send + Sync>;

/// Ends a device's session within the transaction of its lock.
pub type EndSession = Box<dyn Fn(&mut Tx<'_>, &Device) -> Result<()> + Send + Sync>;

/// The intake. Cheap to clone.
#[derive(Clone)]
pub struct Signals {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    devices: Devices,
    killswitch: KillSwitch,
    metering: Metering,
    tenants: Tenants,
    billing: Billing,
    flags: Flags,
    attestation: Attestation,
    intel: Intel,
    /// Sessions belong to a domain that is built later.
    end_session: OnceLock<EndSession>,
    clock: Clock,
    random: Random,
    settings: Settings,
    cells: papaya::HashMap<DeviceNo, Arc<Cell>>,
    /// Cells with readings that no checkpoint holds yet. Only the writer locks it.
    dirty: Mutex<Vec<Arc<Cell>>>,
    observer: ScoringObserver,
    /// The writer alone locks it.
    breaker: Mutex<Breaker>,
    /// What the breaker came to, for everybody else.
    scoring: ArcSwap<Scoring>,
}

/// Whether heartbeats are judged in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// Where the breaker stands.
    pub state: BreakerState,
    /// Why it is not closed.
    pub cause: Option<DegradedCause>,
}

/// What the intake is built from.
pub struct Parts {
    /// The registry.
    pub devices: Devices,
    /// What locks.
    pub killswitch: KillSwitch,
    /// Counts heartbeats.
    pub metering: Metering,
    /// Whose devices they are.
    pub tenants: Tenants,
    /// Knows what is paid.
    pub billing: Billing,
    /// Switch the engine.
    pub flags: Flags,
    /// Knows what devices proved.
    pub attestation: Attestation,
    /// Knows what is bad.
    pub intel: Intel,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// The configuration.
    pub settings: Settings,
    /// Hears of each scoring.
    pub observer: ScoringObserver,
}

impl Inner {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much is made of a heartbeat: all, if there is time and its company did not switch it off (`switched`). It is
    /// recorded with the heartbeat, so that a replay does the same whatever the flag says by then.
    fn effort(&self, now: Timestamp, switched: bool) -> cell::Effort {
        if switched { cell::Effort::Simplified } else { self.breaker().admit(now, self.store.queued()) }
    }

    /// Hears how long a heartbeat took, and writes down what that changed: an entry for each change, none for heartbeats.
    fn scored(&self, tx: &mut Tx<'_>, now: Timestamp, took: Duration, effort: cell::Effort) -> Result<()> {
        let mut breaker = self.breaker();
        breaker.observe(now, took, effort);
        self.settle_breaker(tx, now, breaker)
    }

    /// Lets time pass for the breaker while nothing arrives.
    fn tick(&self, tx: &mut Tx<'_>) -> Result<()> {
        let now = self.clock.now();
        let mut breaker = self.breaker();
        breaker.tick(now, self.store.queued());
        self.settle_breaker(tx, now, breaker)
    }

    fn settle_breaker(&self, tx: &mut Tx<'_>, now: Timestamp, mut breaker: MutexGuard<'_, Breaker>) -> Result<()> {
        let scoring = Scoring { state: breaker.state(), cause: breaker.cause() };
        let changes = breaker.take_changes();
        drop(breaker);
        if **self.scoring.load() != scoring {
            self.scoring.store(Arc::new(scoring));
        }
        for change in changes {
            let (action, level, why) = match change {
                Change::Degraded { cause, measured, bound } => (
                    audit::Action::ScoringDegraded,
                    ThreatLevel::Medium,
                    format!(
                        "Scoring is too slow ({}: {measured}, bound {bound}): the hard rules decide, and the last decision \
                         holds for at most five minutes.",
                        cause.as_str()
                    ),
                ),
                Change::Recovered { after } => (
                    audit::Action::ScoringRecovered,
                    ThreatLevel::None,
                    format!("Heartbeats are judged in full again, after {} s.", after.as_secs()),
                ),
            };
            tracing::warn!(why, "how heartbeats are judged changed");
            if let Some(tenant) = tenants::first(tx)? {
                let note = NewEntry::new(action, &Origin::system()).level(level).reason(why);
                audit::append(tx, tenant, now, &self.random, &note)?;
            }
        }
        Ok(())
    }
}

impl Signals {
    /// Restores every device's rings: the last checkpoint, then the journal behind it.
    pub fn rebuild(parts: Parts) -> Result<Self> {
        let Parts {
            devices,
            killswitch,
            metering,
            tenants,
            billing,
            flags,
            attestation,
            intel,
            clock,
            random,
            settings,
            observer,
        } = parts;
        let (scoring, now) = (settings.scoring, clock.now());
        let inner = Inner {
            store: devices.store().clone(),
            devices,
            killswitch,
            metering,
            tenants,
            billing,
            flags,
            attestation,
            intel,
            end_session: OnceLock::new(),
            clock,
            random,
            settings,
            cells: papaya::HashMap::new(),
            dirty: Mutex::new(Vec::new()),
            observer,
            breaker: Mutex::new(Breaker::new(scoring, now)),
            scoring: ArcSwap::from_pointee(Scoring { state: BreakerState::Closed, cause: None }),
        };
        fold::restore(&inner)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Says how sessions are ended; told once, before anything is served.
    pub fn end_sessions_by(&self, end: EndSession) {
        // A second one would be a defect of the boot sequence; the first one counts.
        let _ = self.inner.end_session.set(end);
    }

    /// The work that rides along with commits: checkpoints of the rings, trimming of the journal.
    pub fn housekeeping(&self) -> Box<dyn crate::store::Housekeeping> {
        Box::new(fold::Folding::new(Arc::clone(&self.inner)))
    }

    /// Takes in one heartbeat and answers when it is durable. That declared sensors are there is checked at the edge: an
    /// older client's status has none.
    ///
    /// # Errors
    /// 423 `device_blocked`; 409 `seq_replayed`; 503 `overloaded`.
    pub async fn heartbeat(
        &self,
        entry: &Arc<DeviceEntry>,
        session: SessionId,
        jti: Option<TokenId>,
        beat: Heartbeat,
        origin: Origin,
    ) -> Result<Answer> {
        if entry.is_removed() {
            return Err(device_removed().into());
        }
        let device = entry.device();
        let now = self.inner.clock.now();
        let extras = || beat.readings.iter().filter_map(|r| r.extras.as_deref());
        let names = extras().flat_map(|e| &e.dns).map(AsRef::as_ref);
        let packages = extras().flat_map(|e| &e.sideloaded).map(AsRef::as_ref);
        let sight = self.inner.intel.sight(entry.tenant, origin.ip, names, packages);
        let motion = Motion::of(beat.readings.iter().map(|r| r.accelerometer));
        let mode = self.inner.flags.word(entry.tenant, System::EngineMode, entry.id.as_str());
        let (reply, answer) = oneshot::channel();
        let (watch, heard) = (Stopwatch::start(), origin.clone());
        let job = beat::Job {
            signals: Arc::clone(&self.inner),
            entry: Arc::clone(entry),
            cell: self.cell(entry),
            session,
            jti,
            beat,
            sensors: device.sensors,
            sighted: sight.sighted,
            strangest_name: sight.strangest_name.map(|(_, score)| percent(score)),
            motion,
            simplified: mode.as_deref() == Some(ENGINE_SIMPLIFIED),
            origin,
            received_at: now,
            signal_id: SignalId::generate(now, &self.inner.random),
            result: None,
            publish: None,
            reply,
        };
        self.inner.store.submit(Box::new(job))?;
        let judged = async { answer.await.unwrap_or(Err(Error::OutcomeUnknown)) };
        let answer = judged.instrument(trace::step("score and commit")).await?;
        tracing::debug!(
            request_id = &*heard.request_id,
            trace_id = heard.trace.map(TraceContext::trace_id_text),
            tenant = %entry.tenant,
            device = %entry.id,
            jti = jti.map(tracing::field::display),
            decision = answer.decision.as_str(),
            score = answer.score.points(),
            signal = %answer.signal_id,
            took_us = u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX),
            "a heartbeat was judged"
        );
        Ok(answer)
    }

    /// Removes a device's rings in the caller's transaction; what is in memory goes once that is durable. Readings in the
    /// journal stay for their time and are skipped by whoever replays it; only usage still counts them.
    pub fn forget(&self, tx: &mut Tx<'_>, device: &Device) -> Result<()> {
        let of_device = Key::new().bytes(device.tenant.to_bytes()).number(device.no.0);
        for (key, _) in tx.scan(SIGNAL_ANCHORS, &of_device, ANCHORS_MAX)? {
            tx.delete(SIGNAL_ANCHORS, key)?;
        }
        tx.delete(SIGNAL_RINGS, of_device)?;
        fold::note_removed(tx, device)?;
        let (this, no) = (self.clone(), device.no);
        tx.after_commit(move || this.drop_cell(no));
        Ok(())
    }

    /// Forgets what is in memory of a removed device.
    pub fn drop_cell(&self, device: DeviceNo) {
        self.inner.cells.pin().remove(&device);
    }

    fn cell(&self, entry: &DeviceEntry) -> Arc<Cell> {
        let pinned = self.inner.cells.pin();
        match pinned.get(&entry.no) {
            Some(cell) => Arc::clone(cell),
            None => {
                let fresh = || Arc::new(Cell::new(entry, entry.device().sensors));
                Arc::clone(pinned.get_or_insert_with(entry.no, fresh))
            }
        }
    }

    /// What is known of a device's trust; `None` before its first heartbeat.
    pub fn trust(&self, entry: &DeviceEntry) -> Option<Published> {
        let cell = self.inner.cells.pin().get(&entry.no).cloned()?;
        cell.published()
    }

    /// Whether heartbeats are judged in full at this moment, and why not.
    pub fn scoring(&self) -> Scoring {
        **self.inner.scoring.load()
    }

    /// Devices with readings that no finished checkpoint is known to hold.
    pub fn unfolded(&self) -> usize {
        let pinned = self.inner.cells.pin();
        pinned.values().filter(|cell| cell.live().dirty).count()
    }

    /// How a score is made and judged.
    pub fn policy(&self) -> &Policy {
        &self.inner.settings.policy
    }

    /// When the next heartbeat is due.
    pub fn next_heartbeat(&self) -> Duration {
        self.inner.settings.next_heartbeat
    }

    /// The registry, for the socket that finds its device there.
    pub fn devices(&self) -> &Devices {
        &self.inner.devices
    }

    /// The kill switch that locks are issued through.
    pub fn killswitch(&self) -> &KillSwitch {
        &self.inner.killswitch
    }
}

/// A share as a whole number of hundredths.
fn percent(share: f32) -> u8 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let percent = (100.0 * share).clamp(0.0, 100.0) as u8;
    percent
}

/// 401: the device was removed while the heartbeat was under way.
fn device_removed() -> Refusal {
    Refusal::new(Kind::Unauthenticated, "unauthenticated", "The device was removed. Enroll it again.")
}

/// 423: the device is blocked.
pub fn device_blocked() -> Refusal {
    let detail =
        "The device is blocked. It still receives commands on its kill-switch socket; an analyst can release it.";
    Refusal::new(Kind::Locked, "device_blocked", detail)
}
