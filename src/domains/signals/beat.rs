//! One heartbeat on its way through the writer.

use std::sync::{Arc, PoisonError};

use serde_json::json;
use tokio::sync::oneshot;

use super::cell::{Answer, Cell, Effort, LastSeq, Live, Published};
use super::engine::{Assessment, Decision, Facts, Plan, Reading};
use super::fold;
use super::record::{Record, encode_decision, encode_live};
use super::shadow::Met;
use super::{Inner, Scored, device_blocked, device_removed};
use crate::domains::audit::{self, NewEntry, ThreatLevel};
use crate::domains::devices::{self, BlockCause, Blocked, DeviceEntry, SensorsDeclared};
use crate::domains::intel::{Kind as Listed, Match, Motion, Sighted};
use crate::domains::killswitch::{self, NewCommand, Notice, Outgoing};
use crate::domains::tenants::PlanTier;
use crate::kernel::clock::Stopwatch;
use crate::kernel::context::Origin;
use crate::kernel::ids::{SessionId, SignalId, TokenId};
use crate::kernel::{Error, Kind, Refusal, Result, Timestamp};
use crate::store::tables::{DECISION_STATES, Key};
use crate::store::{self, Fate, Tx};

/// A heartbeat that the edge has checked: 1 to 100 readings, every number finite and in range.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The client's own count within its session.
    pub seq: Option<u64>,
    /// Oldest first.
    pub readings: Vec<Reading>,
}

pub(super) struct Job {
    pub signals: Arc<Inner>,
    pub entry: Arc<DeviceEntry>,
    pub cell: Arc<Cell>,
    pub session: SessionId,
    pub jti: Option<TokenId>,
    pub beat: Heartbeat,
    pub sensors: SensorsDeclared,
    /// What threat intelligence says of the names in it.
    pub sighted: Vec<Sighted>,
    /// How strange the strangest of them is, 0 to 100.
    pub strangest_name: Option<u8>,
    pub motion: Option<Motion>,
    /// Its company wants the hard rules alone.
    pub simplified: bool,
    pub origin: Origin,
    pub received_at: Timestamp,
    pub signal_id: SignalId,
    pub result: Option<Result<Answer>>,
    pub publish: Option<Published>,
    pub reply: oneshot::Sender<Result<Answer>>,
}

impl store::Job for Job {
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        let cell = Arc::clone(&self.cell);
        let mut live = cell.live();
        if self.entry.is_removed() {
            self.result = Some(Err(device_removed().into()));
            return Ok(());
        }
        if self.entry.is_blocked() || live.block_pending {
            self.result = Some(Err(device_blocked().into()));
            return Ok(());
        }
        if let Some(result) = self.repeated(&live) {
            self.result = Some(result);
            return Ok(());
        }
        self.anchor_after_silence(tx, &cell, &mut live)?;
        let watch = Stopwatch::start();
        let intel = &self.signals.intel;
        let critical = intel.critical(&self.sighted);
        let facts = self.facts(critical.map(|(sighted, _)| sighted));
        let effort = self.signals.effort(self.received_at, self.simplified);
        // A decision is kept with the state that it was made from.
        let from = live.clone();
        live.prepare(self.sensors, &facts);
        live.received_at = self.received_at;
        let assessment = live.take(&self.beat.readings, effort, &self.signals.settings.policy);
        let took = watch.elapsed();
        if !self.simplified {
            self.signals.scored(tx, self.received_at, took, effort)?;
        }
        let answer = Answer {
            signal_id: self.signal_id,
            score: assessment.score,
            decision: assessment.decision,
            threshold: assessment.threshold,
            engine: assessment.engine.as_str(),
        };
        let record = self.record(&answer, facts, effort, assessment.digest());
        tx.append_signal(|out| record.encode(out));
        self.signals.metering.heartbeat(self.entry.tenant, self.entry.no, self.received_at);
        if let Some(seq) = self.beat.seq {
            live.last_seq = Some(LastSeq { session: self.session, seq, answer });
        }
        if let Some(version) = live.set_aside.take() {
            self.note_set_aside(tx, version)?;
        }
        // A device that was released begins with a clean sheet, whatever it was blocked for.
        let before = if from.decision == Decision::Block { Decision::Allow } else { from.decision };
        match critical {
            Some((sighted, hit)) => self.quarantine(tx, &mut live, &assessment, (&from, &record), sighted, hit)?,
            None if before != answer.decision => self.decide(tx, &mut live, &assessment, (&from, &record))?,
            None => {}
        }
        intel.note(tx, &self.entry, &self.sighted, &self.origin, self.received_at)?;
        if let Some(motion) = self.motion {
            intel.compare_motion(tx, &self.entry, motion, self.received_at)?;
        }
        if !live.dirty {
            live.dirty = true;
            self.signals.dirty.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&cell));
        }
        let shadow = self.signals.settings.shadow.as_ref().map(|candidate| {
            let met = Met {
                sensors: live.engine.sensors(),
                facts: &facts,
                readings: &self.beat.readings,
                effort,
                released: from.decision == Decision::Block,
            };
            candidate.judge(&live.engine, &cell.shadow, &met)
        });
        if let Some(shadow) = shadow.filter(|s| s.decision != answer.decision) {
            tracing::info!(
                device = %self.entry.id, signal = %self.signal_id, active = answer.decision.as_str(),
                shadow = shadow.decision.as_str(), "the shadow would decide otherwise"
            );
        }
        let scored = Scored { took, decision: answer.decision, shadow: shadow.map(|s| s.decision) };
        (self.signals.observer)(scored);
        self.publish = Some(Published { assessment, at: self.received_at, shadow });
        self.result = Some(Ok(answer));
        Ok(())
    }

    fn finish(self: Box<Self>, fate: Fate) {
        let this = *self;
        let result = match fate {
            Fate::Unknown => Err(Error::OutcomeUnknown),
            Fate::Committed => {
                if let Some(published) = this.publish {
                    this.cell.publish(published);
                    this.entry.seen(published.assessment.score, published.at);
                }
                this.result.unwrap_or(Err(Error::OutcomeUnknown))
            }
        };
        // A caller that went away has no use for the answer.
        let _ = this.reply.send(result);
    }

    fn is_signal(&self) -> bool {
        true
    }
}

impl Job {
    /// The state from before a long silence is kept: the readings that led to it may be gone while what follows is still to
    /// be recomputed.
    fn anchor_after_silence(&self, tx: &mut Tx<'_>, cell: &Cell, live: &mut Live) -> Result<()> {
        let silent = self.received_at.since(live.received_at) > fold::ANCHOR_EVERY;
        if !silent || live.engine.readings() == 0 {
            return Ok(());
        }
        let through = tx.committed_journal_block();
        let mut state = Vec::with_capacity(12 << 10);
        encode_live(live, through, &mut state);
        live.anchored_at = self.received_at;
        fold::keep_anchor(tx, &self.signals, cell, &state, through)
    }

    /// The answer to a `seq` that was accepted already, or the refusal of a lower one.
    fn repeated(&self, live: &Live) -> Option<Result<Answer>> {
        let seq = self.beat.seq?;
        let last = live.last_seq.filter(|last| last.session == self.session)?;
        match seq.cmp(&last.seq) {
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Equal => Some(Ok(last.answer)),
            std::cmp::Ordering::Less => {
                let detail = format!("seq {seq} was passed already; the last accepted one is {}.", last.seq);
                Some(Err(Refusal::new(Kind::Conflict, "seq_replayed", detail).into()))
            }
        }
    }

    /// What others know of the device at this moment; everything from outside of its readings comes in here.
    fn facts(&self, critical: Option<&Sighted>) -> Facts {
        let listed = critical.and_then(Sighted::listed_kind);
        let tenant = self.signals.tenants.entry(self.entry.tenant);
        let tier = tenant.map(|tenant| self.signals.billing.tier(&self.entry, &tenant, self.received_at));
        let plan = match tier {
            None | Some(PlanTier::Trial) => Plan::Trial,
            Some(PlanTier::PaidBasic) => Plan::Basic,
            Some(PlanTier::Paid) => Plan::Paid,
            Some(PlanTier::Enterprise) => Plan::Enterprise,
        };
        Facts {
            now_ms: u64::try_from(self.received_at.as_millis()).unwrap_or(0),
            attestation_score: self.signals.attestation.score(&self.entry.device()),
            plan,
            known_bad_package: listed == Some(Listed::Package),
            known_bad_contact: listed.is_some_and(|kind| kind != Listed::Package),
            strangest_name: self.strangest_name,
        }
    }

    fn note_set_aside(&self, tx: &mut Tx<'_>, version: u8) -> Result<()> {
        let why = format!(
            "The appliance was updated: what engine {version} had gathered of this device cannot be continued by engine {}, so the device starts anew.",
            super::engine::VERSION
        );
        let note = NewEntry::new(audit::Action::EngineRestarted, &self.origin)
            .device(&self.entry.id)
            .user(self.entry.device().owner)
            .level(ThreatLevel::None)
            .reason(why);
        audit::append(tx, self.entry.tenant, self.received_at, &self.signals.random, &note)?;
        Ok(())
    }

    fn record(&self, answer: &Answer, facts: Facts, effort: Effort, digest: u32) -> Record<'_> {
        Record {
            device: self.entry.no,
            signal_id: self.signal_id,
            received_at: self.received_at,
            session: self.session,
            seq: self.beat.seq,
            sensors: self.sensors,
            score: answer.score,
            decision: answer.decision,
            threshold: answer.threshold,
            facts,
            effort,
            judged: Some((super::engine::VERSION, digest)),
            readings: self.beat.readings.as_slice().into(),
        }
    }

    /// Everything that answers a match that is sure enough, in the heartbeat's own transaction: the device is blocked and
    /// told to isolate and lock itself, its tokens end, and its engine's state is kept for who investigates.
    fn quarantine(
        &self,
        tx: &mut Tx<'_>,
        live: &mut Live,
        assessment: &Assessment,
        (from, record): (&Live, &Record<'_>),
        sighted: &Sighted,
        hit: &Match,
    ) -> Result<()> {
        let entry = &self.entry;
        let Some(mut device) = devices::load(tx, entry.tenant, &entry.id)? else { return Ok(()) };
        self.keep_state(tx, from, record)?;
        let why = format!("{} is listed as {} by {}", sighted.value, hit.listed, hit.feed.name);
        let order = |action| NewCommand::new(action, why.clone()).payload(json!({ "signal_id": self.signal_id }));
        let note = NewEntry::new(audit::Action::DeviceBlocked, &self.origin)
            .device(&entry.id)
            .user(device.owner)
            .token(self.jti)
            .signal(self.signal_id, assessment.score)
            .level(ThreatLevel::Critical)
            .reason(why.clone());
        let killswitch = &self.signals.killswitch;
        let first = order(killswitch::Action::ImmediateQuarantine);
        let blocked = killswitch.block(tx, &mut device, BlockCause::Intel, &first, note, &self.origin)?;
        // One that was blocked for something milder a moment ago still has to hear all of it.
        if blocked == Blocked::Already {
            killswitch.issue(tx, &mut device, &first, &self.origin)?;
        }
        for action in [killswitch::Action::CriticalLock, killswitch::Action::ForceOverlay] {
            killswitch.issue(tx, &mut device, &order(action), &self.origin)?;
        }
        devices::save(tx, &self.signals.devices, &device)?;
        if let Some(end_session) = self.signals.end_session.get() {
            end_session(tx, &device)?;
        }
        self.block_until_committed(tx, live);
        Ok(())
    }

    /// Stores the state that a decision was made from and the heartbeat that led to it, so that it can be recomputed.
    fn keep_state(&self, tx: &mut Tx<'_>, from: &Live, record: &Record<'_>) -> Result<()> {
        let mut state = Vec::with_capacity(12 << 10);
        encode_decision(from, record, &mut state);
        let key = Key::new().bytes(self.entry.tenant.to_bytes()).bytes(self.signal_id.to_bytes());
        tx.put_raw(DECISION_STATES, key, &state)
    }

    /// From the commit on the index says that the device is blocked; until then its place does.
    fn block_until_committed(&self, tx: &mut Tx<'_>, live: &mut Live) {
        live.block_pending = true;
        let cell = Arc::clone(&self.cell);
        tx.after_commit(move || cell.live().block_pending = false);
    }

    /// What a change of decision brings with it, in the heartbeat's own transaction.
    fn decide(
        &self,
        tx: &mut Tx<'_>,
        live: &mut Live,
        assessment: &Assessment,
        (from, record): (&Live, &Record<'_>),
    ) -> Result<()> {
        let entry = &self.entry;
        let why = explain(assessment);
        let (action, level) = match assessment.decision {
            Decision::Allow => (audit::Action::DeviceTrusted, ThreatLevel::None),
            Decision::Challenge => (audit::Action::DeviceChallenged, ThreatLevel::Medium),
            Decision::Block => (audit::Action::DeviceBlocked, ThreatLevel::High),
        };
        let note = NewEntry::new(action, &self.origin)
            .device(&entry.id)
            .user(entry.device().owner)
            .token(self.jti)
            .signal(self.signal_id, assessment.score)
            .level(level)
            .reason(why.clone());
        if assessment.decision != Decision::Allow {
            self.keep_state(tx, from, record)?;
        }
        if assessment.decision == Decision::Block {
            // The row is read here, in the writer: a command of the same batch may have moved its `command_seq`.
            if let Some(mut device) = devices::load(tx, entry.tenant, &entry.id)? {
                let lock = NewCommand::new(killswitch::Action::LockSystem, why).payload(json!({
                    "signal_id": self.signal_id,
                    "trust_score": assessment.score,
                    "reasons": assessment.reasons.iter().map(|r| r.name()).collect::<Vec<_>>(),
                }));
                let system = Origin { source: self.origin.source, ..self.origin.clone() };
                self.signals.killswitch.block(tx, &mut device, BlockCause::Score, &lock, note, &system)?;
                self.block_until_committed(tx, live);
            }
            return Ok(());
        }
        audit::append(tx, entry.tenant, self.received_at, &self.signals.random, &note)?;
        let notice = if assessment.decision == Decision::Challenge { Notice::StatusAudit } else { Notice::StatusSafe };
        let payload = json!({ "trust_score": assessment.score });
        let frame = self.signals.killswitch.notice(entry, notice, &why, payload)?;
        let (signals, no) = (Arc::clone(&self.signals), entry.no);
        tx.after_commit(move || signals.killswitch.hub().send(no, Outgoing::Notice(frame)));
        Ok(())
    }
}

/// Why, in words that an analyst reads.
fn explain(assessment: &Assessment) -> String {
    let mut text = assessment.reasons.iter().map(|r| r.sentence()).collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        text.push_str(match assessment.decision {
            Decision::Allow => "The device behaves as its owner's again.",
            Decision::Challenge | Decision::Block => "The parts of the score together fell below the threshold.",
        });
    }
    text
}
