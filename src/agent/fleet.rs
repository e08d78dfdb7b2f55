//! Many devices in one process, what they share, and when it is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::device::{self, Plan, SharedRow, lock};
use super::motion::{Human, MotionSource, Recording, Replay};
use super::summary::{Row, Summary};
use super::table::Display;
use super::tpm::Place;
use super::{AgentError, Options, Transport};
use crate::client::{ClientError, Endpoint, HttpClient, tls};
use crate::crypto::JwkSet;
use crate::kernel::clock::Stopwatch;
use crate::kernel::ids::DeviceId;
use crate::kernel::random::splitmix64;
use crate::kernel::{Clock, Random};

/// Enrollments under way at one time.
const ENROLLING_MAX: usize = 16;
/// How often the fleet looks at itself and the table is drawn.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After the last takeover should have begun, without `stop_after`: by then nothing more will come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long devices may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);
/// The key set is not fetched more often, whatever unknown keys frames may name.
const KEYS_EVERY: Duration = Duration::from_secs(5);

/// What all devices share.
pub(super) struct Shared {
    pub endpoint: Endpoint,
    pub enrollment_token: String,
    pub transport: Transport,
    pub heartbeat_interval: Duration,
    pub takeover_after: Duration,
    pub tpm: Option<Place>,
    pub clock: Clock,
    pub random: Random,
    pub keys: Keys,
    pub enrolling: Semaphore,
    failure: Mutex<Option<AgentError>>,
}

impl Shared {
    /// One device met what every other will meet, too: the run is over.
    pub(super) fn fail(&self, error: AgentError) {
        self.failure().get_or_insert(error);
    }

    fn failure(&self) -> MutexGuard<'_, Option<AgentError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The appliance's published keys.
pub(super) struct Keys {
    set: ArcSwap<JwkSet>,
    fetched: tokio::sync::Mutex<Stopwatch>,
}

impl Keys {
    async fn fetch(endpoint: &Endpoint) -> Result<JwkSet, ClientError> {
        let mut http = HttpClient::new(endpoint.clone()).with_timeout(Duration::from_secs(5));
        let response = http.get("/.well-known/jwks.json", None).await?;
        JwkSet::parse(response.success()?).map_err(|e| ClientError::Unexpected(e.to_string()))
    }

    pub(super) fn current(&self) -> Arc<JwkSet> {
        self.set.load_full()
    }

    /// Fetches the set again, unless somebody just did.
    pub(super) async fn fetch_again(&self, endpoint: &Endpoint) -> Result<(), ClientError> {
        let mut fetched = self.fetched.lock().await;
        if fetched.elapsed() >= KEYS_EVERY {
            *fetched = Stopwatch::start();
            self.set.store(Arc::new(Self::fetch(endpoint).await?));
        }
        Ok(())
    }
}

/// Plays the fleet and shows it as [`Options::output`] says. Ends when every taken-over device was locked and nothing
/// followed, after [`Options::stop_after`], or at an interrupt.
///
/// # Errors
/// [`AgentError`] when nothing could be played; what goes wrong with single devices stands in the summary.
pub async fn play(options: &Options, clock: &Clock, random: &Random) -> Result<Summary, AgentError> {
    let plans = plans(options, random)?;
    let trusted = tls::trust(&options.ca, options.ca_fingerprint.as_deref())?;
    let endpoint = Endpoint::new(&options.url, trusted)?;
    // The first call finds out whether the appliance is there at all, once and not a thousand times.
    let keys = Keys::fetch(&endpoint).await?;
    let shared = Arc::new(Shared {
        endpoint,
        enrollment_token: options.enrollment_token.clone(),
        transport: options.transport,
        heartbeat_interval: options.heartbeat_interval.max(Duration::from_millis(20)),
        takeover_after: options.takeover_after,
        tpm: options.tpm.clone(),
        clock: clock.clone(),
        random: random.clone(),
        keys: Keys { set: ArcSwap::from_pointee(keys), fetched: tokio::sync::Mutex::new(Stopwatch::start()) },
        enrolling: Semaphore::new(ENROLLING_MAX),
        failure: Mutex::new(None),
    });
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut rows: Vec<SharedRow> = Vec::with_capacity(plans.len());
    for plan in plans {
        let row: SharedRow = Arc::new(Mutex::new(Row::new(plan.id.clone(), plan.attack)));
        rows.push(Arc::clone(&row));
        tasks.spawn(device::live(Arc::clone(&shared), plan, row, stopped.clone()));
    }
    drop(stopped);
    // What the devices were, not what their goodbyes make of them.
    let (devices, display, elapsed) = watch_over(options, &shared, &rows).await;
    let _ = stop.send(true);
    let _ = tokio::time::timeout(FAREWELL, async { while tasks.join_next().await.is_some() {} }).await;
    tasks.shutdown().await;
    if let Some(failure) = shared.failure().take() {
        return Err(failure);
    }
    let summary = Summary::of(devices, elapsed);
    display.finish(&summary);
    Ok(summary)
}

/// Looks at the fleet until it is over.
async fn watch_over(options: &Options, shared: &Shared, rows: &[SharedRow]) -> (Vec<Row>, Display, Duration) {
    let started = Stopwatch::start();
    let mut display = Display::new(options.output);
    let mut ending = Ending::new(options);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let interrupted = tokio::select! {
            _ = looks.tick() => false,
            _ = &mut interrupt => true,
        };
        let snapshot: Vec<Row> = rows.iter().map(|r| lock(r).clone()).collect();
        let elapsed = started.elapsed();
        display.show(&snapshot, elapsed);
        if interrupted || shared.failure().is_some() || ending.is_due(&snapshot, elapsed) {
            return (snapshot, display, elapsed);
        }
    }
}

/// When a run is over.
struct Ending {
    stop_after: Option<Duration>,
    takeover_after: Duration,
    settle: Duration,
    all_spoke_at: Option<Duration>,
    all_locked_at: Option<Duration>,
}

impl Ending {
    fn new(options: &Options) -> Self {
        let (stop_after, takeover_after) = (options.stop_after, options.takeover_after);
        Self { stop_after, takeover_after, settle: options.settle, all_spoke_at: None, all_locked_at: None }
    }

    fn is_due(&mut self, rows: &[Row], elapsed: Duration) -> bool {
        if let Some(stop_after) = self.stop_after {
            return elapsed >= stop_after;
        }
        let mut victims = rows.iter().filter(|r| r.attack.is_some()).peekable();
        if victims.peek().is_none() {
            return false;
        }
        if victims.all(|r| r.locked) {
            return elapsed >= *self.all_locked_at.get_or_insert(elapsed) + self.settle;
        }
        // Patience counts from when every device that will be taken over had its first heartbeat, or never will.
        let spoke = |r: &Row| r.heartbeats > 0 || elapsed > PATIENCE;
        if rows.iter().filter(|r| r.attack.is_some()).all(spoke) {
            return elapsed >= *self.all_spoke_at.get_or_insert(elapsed) + self.takeover_after + PATIENCE;
        }
        false
    }
}

/// Who plays. Ids carry a word that differs from run to run, because a device that is enrolled already is refused.
fn plans(options: &Options, random: &Random) -> Result<Vec<Plan>, AgentError> {
    if options.devices == 0 || options.taken_over > options.devices {
        let text = format!("--takeover must be at most --fleet ({}), and --fleet at least 1.", options.devices);
        return Err(AgentError::Options(text));
    }
    if options.taken_over > 0 && options.attacks.is_empty() {
        return Err(AgentError::Options("--attack must name a kind of attack.".to_owned()));
    }
    if options.tpm.is_some() && options.devices > 1 {
        return Err(AgentError::Options("--tpm is one machine's: play one device with it (--fleet 1).".to_owned()));
    }
    let recording = match &options.replay {
        None => None,
        Some(path) => {
            let opened = Recording::open(path);
            let opened = opened.map_err(|cause| AgentError::Recording { path: path.clone(), cause })?;
            Some(Arc::new(opened))
        }
    };
    let run = random.u64() & 0xF_FFFF;
    let mut seeds = options.seed;
    (0..options.devices)
        .map(|i| {
            let (motion_seed, attack_seed) = (splitmix64(&mut seeds), splitmix64(&mut seeds));
            let owner: Box<dyn MotionSource + Send + Sync> = match &recording {
                Some(recording) => Box::new(Replay::new(Arc::clone(recording), motion_seed)),
                None => Box::new(Human::new(motion_seed)),
            };
            let id: DeviceId = format!("{}-{run:05x}-{:04}", options.prefix, i + 1)
                .parse()
                .map_err(|e| AgentError::Options(format!("--prefix: a device id {e}.")))?;
            let attack = (i < options.taken_over).then(|| options.attacks.iter().cycle().nth(i).copied()).flatten();
            Ok(Plan {
                id,
                name: format!("Agent {}", i + 1),
                owner,
                has_gyroscope: recording.as_ref().is_none_or(|r| r.has_gyroscope()),
                attack,
                attack_seed,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::agent::motion::AttackKind;

    fn options(devices: usize, taken_over: usize) -> Options {
        Options { devices, taken_over, ..Options::new("https://localhost:8443", "certs/ca.pem", "bre_x") }
    }

    #[test]
    fn a_fleet_has_distinct_devices_and_takes_the_attacks_in_turn() {
        let plans = plans(&options(6, 4), &Random::seeded(1)).unwrap_or_default();
        let ids: std::collections::HashSet<_> = plans.iter().map(|p| p.id.as_str().to_owned()).collect();
        assert_eq!(ids.len(), 6);
        let attacks: Vec<_> = plans.iter().map(|p| p.attack).collect();
        use AttackKind::{Emulator, Overlay, Still};
        assert_eq!(attacks, [Some(Still), Some(Emulator), Some(Overlay), Some(Still), None, None]);
    }

    /// A device that exists is refused, so two runs with the same seed play the same people under other names.
    #[test]
    fn a_second_run_has_other_ids() {
        let random = Random::seeded(1);
        let id = || plans(&options(1, 0), &random).map(|p| p[0].id.clone()).ok();
        assert_ne!(id(), id());
    }

    #[test]
    fn contradictions_are_refused_in_words() {
        let tpm = "/dev/tpmrm0".parse().ok();
        for bad in [
            options(0, 0),
            options(2, 3),
            Options { attacks: vec![], ..options(2, 1) },
            Options { tpm, ..options(2, 0) },
        ] {
            assert!(matches!(plans(&bad, &Random::seeded(1)), Err(AgentError::Options(_))));
        }
        let long = Options { prefix: "x".repeat(60), ..options(1, 0) };
        assert!(plans(&long, &Random::seeded(1)).is_err());
    }

    #[test]
    fn a_run_ends_when_all_are_locked_and_nothing_follows_or_when_patience_ends() {
        let row = |locked, heartbeats| {
            let row = Row::new("a-1".parse().unwrap(), Some(AttackKind::Still));
            vec![Row { locked, taken_over: locked, heartbeats, ..row }]
        };
        let s = Duration::from_secs;
        let mut ending = Ending::new(&options(1, 1));
        assert!(!ending.is_due(&row(false, 0), s(1)));
        assert!(!ending.is_due(&row(true, 9), s(9)));
        assert!(!ending.is_due(&row(true, 9), s(11)));
        assert!(ending.is_due(&row(true, 9), s(12)));

        let mut patient = Ending::new(&options(1, 1));
        assert!(!patient.is_due(&row(false, 1), s(2)));
        assert!(!patient.is_due(&row(false, 50), s(66)));
        assert!(patient.is_due(&row(false, 50), s(67)));

        let mut timed = Ending::new(&Options { stop_after: Some(s(5)), ..options(1, 1) });
        assert!(!timed.is_due(&row(true, 9), s(4)) && timed.is_due(&row(false, 0), s(5)));

        let mut endless = Ending::new(&options(1, 0));
        let honest = vec![Row::new("a-1".parse().unwrap(), None)];
        assert!(!endless.is_due(&honest, s(86_400)));
    }

    #[tokio::test]
    async fn an_appliance_that_is_not_there_is_said_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let missing = Options { ca: ca.clone(), ..options(1, 0) };
        let refused = play(&missing, &Clock::System, &Random::System).await;
        assert!(matches!(refused, Err(AgentError::Authority { .. })), "{refused:?}");
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let nobody = Options { url: format!("https://127.0.0.1:{port}"), ca, ..options(1, 0) };
        let refused = play(&nobody, &Clock::System, &Random::System).await;
        assert!(matches!(refused, Err(AgentError::NotRunning { .. })), "{refused:?}");
    }
}
