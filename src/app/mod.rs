//! Boot and shutdown: opens the place, builds the services in their order, opens the doors; closes them in reverse.
//!
//! Imports everything. Nobody but the commands and the tests imports it.

pub mod backup;
mod certificates;
pub mod control;
mod deliver;
mod discovery;
mod doors;
pub mod export;
pub mod feeds;
pub mod place;
pub mod replay;
mod running;
pub mod sandbox;
mod settings;
pub mod signing;
pub mod supervisor;
pub mod tracing;
mod watch;
pub mod witness;

pub use settings::engine_policy;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::config::{ClientCertificates, Config, TlsVersion};
use crate::crypto::keyring::KeyRing;
use crate::crypto::password;
use crate::domains::attestation::{self, Attestation};
use crate::domains::billing::Billing;
use crate::domains::certificates::Certificates as DeviceCertificates;
use crate::domains::devices::Devices;
use crate::domains::embed::{self, Embed};
use crate::domains::flags::Flags;
use crate::domains::iam::{self, FirstSecrets, Iam, KeyCustody};
use crate::domains::intel::{self, Confidence, Intel};
use crate::domains::killswitch::KillSwitch;
use crate::domains::metering::Metering;
use crate::domains::signals::{self, Signals};
use crate::domains::tenants::{EnrollmentPolicy, Tenants};
use crate::domains::{Services, audit};
use crate::gate::{Authority, Gate, routes};
use crate::kernel::ids::TenantId;
use crate::kernel::{Clock, Error, Random, Result};
use crate::net::http::{Deadlines, Drain, Http2, Lanes, Settings};
use crate::net::limits::Connections;
use crate::net::{http, tls};
use crate::observe::metrics::ConnectionFigures;
use crate::observe::otlp::Export;
use crate::observe::strain::{Machine, ThisMachine};
use crate::observe::{Metrics, Strain, Traces};
use crate::store::{Options, Store, WriterParts};
use certificates::Certificates;
use discovery::Announcer;
use doors::{GrpcDoor, InternalDoor, PublicDoor};
use feeds::Fetcher;
use place::Place;
use supervisor::Inherited;
use watch::{STEP_MAX, Watch, keep_running, within};

/// Where the doors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// HTTPS and WebSocket.
    pub http: SocketAddr,
    /// gRPC with mutual TLS.
    pub grpc: SocketAddr,
    /// Metrics and internal endpoints.
    pub internal: SocketAddr,
}

/// Time and chance, from outside.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// What a password hash may cost; `None`: measured at the first start.
    pub password_cost: Option<password::Params>,
    /// Memory and disk, as they are looked at.
    pub machine: Arc<dyn Machine>,
    /// Listeners that are open already.
    pub inherited: Inherited,
    /// The way of traces to their collector.
    pub export: Option<Export>,
}

/// What a login may cost this machine: much for who guesses, little for who knows.
const PASSWORD_HASH_TARGET_MS: u32 = 120;

impl Environment {
    /// The machine's own.
    pub fn system() -> Self {
        Self {
            clock: Clock::System,
            random: Random::System,
            password_cost: None,
            machine: Arc::new(ThisMachine),
            inherited: Inherited::default(),
            export: None,
        }
    }

    /// Measured where nobody said: how long a hash takes on this very machine.
    fn password_cost(&self) -> password::Params {
        self.password_cost.unwrap_or_else(|| {
            let mut measure = |params| {
                let took = password::measure_once(params, &self.random);
                took.map_or(u64::MAX, |took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
            };
            password::calibrate(PASSWORD_HASH_TARGET_MS, &mut measure)
        })
    }
}

/// A running appliance.
pub struct App {
    /// The façades.
    pub services: Arc<Services>,
    /// Where the doors are.
    pub addresses: Addresses,
    store: Store,
    public: Drain,
    internal: Drain,
    failed: Arc<Notify>,
    lanes: Lanes,
    certificates: Arc<Certificates>,
    authority: Arc<ArcSwapOption<Authority>>,
    announcer: Announcer,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    control: Option<control::Listener>,
}

/// What an empty place became.
pub struct Opened {
    /// The data file, its writer not started yet.
    pub store: Store,
    /// The key that seals its secrets, and where the signing keys are.
    pub custody: KeyCustody,
    /// What is to be shown once; `None` when the place was set up before.
    pub first: Option<FirstSecrets>,
}

fn options(config: &Config) -> Options {
    Options {
        cache_bytes: config.store.cache_bytes,
        two_phase_commit: config.store.two_phase_commit,
        quick_repair: config.store.quick_repair,
    }
}

/// Opens the data file. Where `set_up` allows it, an empty place is set up first, and the stored signing keys follow the
/// ones from outside. Without it no signing key is looked for: a command on a stopped appliance may run where the key is
/// not, and must not take that for a change.
pub fn open(config: &Config, env: &Environment, set_up: bool) -> Result<Opened> {
    let place = Place::of(config);
    let variable = |name: &str| std::env::var(name).ok();
    let outside = if set_up { signing::outside_keys(config, &variable)? } else { None };
    let custody = |sealing| KeyCustody { sealing: Arc::new(sealing), outside, access_ttl: config.tokens.access_ttl };
    if set_up {
        place.make_folders()?;
    }
    let store = Store::open(&place.data, options(config), set_up).map_err(Error::internal)?;
    if Tenants::first(&store.read()?)?.is_some() {
        let sealing = place.sealing_key().map_err(Error::internal)?.ok_or_else(|| {
            Error::Internal(format!(
                "the key that seals the secrets of {} is missing: put sealing.key back into {}, or set BLOCKREMOTE_SEALING_KEY",
                place.data.display(),
                place.certs.display()
            ))
        })?;
        let custody = custody(sealing);
        let store = if set_up { settle_keys(config, env, store, &custody)? } else { store };
        return Ok(Opened { store, custody, first: None });
    }
    if !set_up {
        return Err(Error::Internal(format!("{} is not set up yet", place.data.display())));
    }
    let custody = custody(place.sealing_key_or_new(&env.random)?);
    place.server_files(config, &env.clock, &env.random)?;
    // A writer of its own, because the real one needs the services, which need the keys that this makes.
    store.start(WriterParts::plain(env.clock.clone()))?;
    // What the configuration names at the first start can only be the tenant that this start makes.
    let policy = match &config.enrollment.open_tenant {
        Some(_) => EnrollmentPolicy::Open,
        None => EnrollmentPolicy::Token,
    };
    let first = iam::set_up(&store, custody.clone(), env.password_cost(), policy, &env.clock, &env.random)?;
    store.stop();
    drop(store);
    let store = Store::open(&place.data, options(config), false).map_err(Error::internal)?;
    Ok(Opened { store, custody, first: Some(first) })
}

/// Brings the stored signing keys into line with those from outside, before anything is signed with them.
fn settle_keys(config: &Config, env: &Environment, store: Store, custody: &KeyCustody) -> Result<Store> {
    if iam::keys_are_settled(&store.read()?, custody, env.clock.now(), &env.random)? {
        return Ok(store);
    }
    // A writer of its own, as at the first start.
    store.start(WriterParts::plain(env.clock.clone()))?;
    let (custody, clock, random) = (custody.clone(), env.clock.clone(), env.random.clone());
    let settled = store.write_blocking(move |tx| iam::settle_keys(tx, &custody, clock.now(), &random));
    store.stop();
    drop(store);
    if let Some(reason) = settled? {
        ::tracing::warn!(reason, "the signing keys changed with this start");
    }
    Store::open(&Place::of(config).data, options(config), false).map_err(Error::internal)
}

/// The façades over an opened data file, its writer started.
pub struct Built {
    services: Arc<Services>,
    metrics: Arc<Metrics>,
    keys: KeyRing,
    custody: KeyCustody,
    failed: Arc<Notify>,
    traces: Arc<Traces>,
}

/// Builds the services in their order and starts the writer.
pub fn build(config: &Config, env: &Environment, opened: Opened) -> Result<Built> {
    let (clock, random) = (env.clock.clone(), env.random.clone());
    let store = opened.store;
    let custody = opened.custody;
    let labels: Vec<_> = routes::ROUTES.iter().map(|r| (r.path, r.verb.method())).collect();
    let metrics = Arc::new(Metrics::new(&labels));
    let traces = tracing::traces(config, env.export.as_ref());
    let keys = KeyRing::new(iam::load_keys(&store.read()?, &custody, clock.now(), &random)?);
    let devices = Devices::rebuild(store.clone())?;
    let tenants = Tenants::rebuild(store.clone())?;
    let flags = Flags::rebuild(store.clone(), clock.clone(), random.clone())?;
    let metering = Metering::rebuild(store.clone(), tenants.clone(), clock.clone())?;
    let killswitch = KillSwitch::new(tenants.clone(), devices.clone(), keys.clone(), clock.clone(), random.clone());
    let billing = Billing::rebuild(
        tenants.clone(),
        devices.clone(),
        killswitch.clone(),
        clock.clone(),
        random.clone(),
        settings::billing(config)?,
    )?;
    let integrations = deliver::integrations(config, env, &store, (&tenants, &billing), &custody, (&metrics, &traces))?;
    let attestation = Attestation::rebuild(attestation::Parts {
        tenants: tenants.clone(),
        flags: flags.clone(),
        devices: devices.clone(),
        killswitch: killswitch.clone(),
        sealing: Arc::clone(&custody.sealing),
        clock: clock.clone(),
        random: random.clone(),
        settings: settings::attestation(config)?,
    })?;
    let intel = Intel::rebuild(
        store.clone(),
        tenants.clone(),
        clock.clone(),
        random.clone(),
        intel::Settings {
            stale_after: config.intel.stale,
            indicators_max: config.intel.indicators_max,
            tenant_indicators_max: config.intel.tenant_indicators_max,
            critical: Confidence::new(config.intel.critical_confidence),
        },
    )?;
    let scored = Arc::clone(&metrics);
    let signals = Signals::rebuild(signals::Parts {
        devices: devices.clone(),
        killswitch: killswitch.clone(),
        metering: metering.clone(),
        tenants: tenants.clone(),
        billing: billing.clone(),
        flags: flags.clone(),
        attestation: attestation.clone(),
        intel: intel.clone(),
        clock: clock.clone(),
        random: random.clone(),
        settings: settings::signals(config)?,
        observer: Arc::new(move |s: signals::Scored| {
            scored.scored(s.took, s.decision.as_str(), s.shadow.map(|d| d.as_str()));
        }),
    })?;
    let random_ = random.clone();
    let open_tenant = match &config.enrollment.open_tenant {
        Some(name) => Some(tenant_named(&store, name)?),
        None => None,
    };
    let iam = Iam::rebuild(iam::Parts {
        tenants: tenants.clone(),
        devices: devices.clone(),
        flags: flags.clone(),
        billing: billing.clone(),
        attestation: attestation.clone(),
        killswitch: killswitch.clone(),
        signals: signals.clone(),
        keys: keys.clone(),
        sealing: Arc::clone(&custody.sealing),
        clock: clock.clone(),
        random,
        settings: iam::Settings {
            issuer: config.tokens.issuer.clone(),
            audience: config.tokens.audience.clone(),
            access_ttl: config.tokens.access_ttl,
            refresh_ttl: config.tokens.refresh_ttl,
            refresh_absolute: config.tokens.refresh_absolute,
            devices_max: config.devices.max,
            open_tenant,
            enroll_per_minute: config.limits.enroll_per_minute,
            refresh_per_minute: config.limits.refresh_per_minute,
            relying_party: config.webauthn.rp_id.clone(),
            passkey_attestation: config.webauthn.require_attestation,
            anonymous: iam::anonymous::Settings {
                enabled: config.anonymous.limiter,
                limit: config.anonymous.limit,
                window: config.anonymous.window,
            },
        },
    })?;
    let device_certificates = DeviceCertificates::rebuild(
        devices.clone(),
        Place::of(config).ca(&clock, &random_)?,
        config.grpc.certificate,
        clock.clone(),
        random_,
    )?;
    signals.end_sessions_by(Box::new(iam.session_ender()));
    let embed = Embed::rebuild(embed::Parts {
        store: store.clone(),
        tenants: tenants.clone(),
        devices: devices.clone(),
        keys: keys.clone(),
        issuer: config.tokens.issuer.clone(),
        clock: clock.clone(),
        random: env.random.clone(),
    })?;
    let failed = Arc::new(Notify::new());
    let (committed, tell) = (Arc::clone(&metrics), Arc::clone(&failed));
    store.start(WriterParts {
        clock,
        housekeeping: vec![signals.housekeeping(), metering.housekeeping()],
        observer: Some(Arc::new(move |took, jobs| committed.committed(took, jobs))),
        on_failure: Box::new(move |_| tell.notify_one()),
    })?;
    let audit = audit::Audit::new(store.clone(), env.clock.clone(), env.random.clone());
    audit.settle(Arc::clone(&custody.sealing), config.audit.name.clone())?;
    let services = Arc::new(Services {
        tenants,
        audit,
        iam,
        devices,
        killswitch,
        flags,
        metering,
        billing,
        integrations,
        attestation,
        intel,
        embed,
        signals,
        certificates: device_certificates,
        store,
    });
    Ok(Built { services, metrics, keys, custody, failed, traces })
}

impl Built {
    /// What answers an operator on the box while no door is open.
    ///
    /// # Errors
    /// When the settings of backups do not fit.
    pub fn operator(self, config: &Config, env: &Environment) -> Result<control::Operator> {
        let parts = backup::schedule::Parts {
            services: Arc::clone(&self.services),
            sealing: Arc::clone(&self.custody.sealing),
            clock: env.clock.clone(),
            random: env.random.clone(),
            metrics: None,
            machine: Arc::clone(&env.machine),
            strain: Arc::default(),
            job_max: backup::schedule::JOB_MAX,
        };
        Ok(control::Operator {
            backups: Arc::new(backup::schedule::Keeper::new(config, parts)?),
            feed_bytes_max: config.intel.feed_bytes,
            services: self.services,
            keys: self.keys,
            custody: self.custody,
            gate: None,
            clock: env.clock.clone(),
            random: env.random.clone(),
        })
    }
}

fn tenant_named(store: &Store, name: &str) -> Result<TenantId> {
    let found = Tenants::find(&store.read()?, Some(name))?.map(|t| t.id);
    found.ok_or_else(|| {
        Error::Internal(format!("enrollment.open_tenant names {name:?}, which is no tenant of this appliance"))
    })
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How often devices whose proof is nearly too old are asked for another one.
const REMIND_EVERY: Duration = Duration::from_secs(5);
/// Threads that serve connections: one for each processor, within reason.
const LANES_MAX: usize = 64;

impl App {
    /// Opens the place (setting it up when it is empty), builds the services and opens the doors.
    pub async fn start(config: &Config, env: &Environment) -> Result<(Self, Option<FirstSecrets>)> {
        let (config_, env_) = (config.clone(), env.clone());
        // Reading a large data file blocks: not on a thread that serves.
        let (built, first) = tokio::task::spawn_blocking(move || {
            let mut opened = open(&config_, &env_, true)?;
            let first = opened.first.take();
            Ok::<_, Error>((build(&config_, &env_, opened)?, first))
        })
        .await
        .map_err(Error::internal)??;
        let app = Self::open_doors(config, env, built).await?;
        Ok((app, first))
    }

    async fn open_doors(config: &Config, env: &Environment, built: Built) -> Result<Self> {
        let Built { services, metrics, keys, custody, failed, traces } = built;
        if let Some(export) = env.export.clone() {
            tracing::connect(&export, config)?;
            metrics.traces_by(Box::new(move || export.figures()));
        }
        let place = Place::of(config);
        let certificates = Arc::new(Certificates::open(config, env.clock.clone(), env.random.clone())?);
        let authority = Arc::new(ArcSwapOption::from(place.authority(config)?.map(Arc::new)));
        let tls12 = config.tls.min_version == TlsVersion::V1_2;
        let issuer = place.ca(&env.clock, &env.random)?.cert_pem;
        let mutual = tls::mutual_config(certificates.served(), &issuer, tls12, env.clock.clone())?;
        let optional = config.tls.client_certificates == ClientCertificates::Optional;
        let tls = tls::server_config(certificates.served(), tls12, optional)?;
        let (public, internal) = (Drain::default(), Drain::default());
        let (clock, random) = (env.clock.clone(), env.random.clone());
        let strain = Arc::new(Strain::default());
        let parts = backup::schedule::Parts {
            services: Arc::clone(&services),
            sealing: Arc::clone(&custody.sealing),
            clock: clock.clone(),
            random: random.clone(),
            metrics: Some(Arc::clone(&metrics)),
            machine: Arc::clone(&env.machine),
            strain: Arc::clone(&strain),
            job_max: backup::schedule::JOB_MAX,
        };
        let backups = Arc::new(backup::schedule::Keeper::new(config, parts)?);
        backup::remove_scratch(&place.data);
        let watched = Arc::clone(&metrics);
        let gate = Gate::new(
            Arc::clone(&services),
            settings::gate(config, Arc::clone(&authority), traces),
            clock.clone(),
            random.clone(),
            metrics,
            Arc::clone(&strain),
            public.clone(),
        );
        let gate = Arc::new(gate.map_err(Error::Internal)?);
        let connections = Connections::new(config.http.max_connections, config.http.connections_per_address);
        let (counted, max) = (connections.clone(), config.http.max_connections as u64);
        watched.connections_by(Box::new(move || ConnectionFigures {
            open: counted.open() as u64,
            max,
            refused: counted.refused() as u64,
        }));
        let deadlines = Deadlines {
            handshake: config.http.header_timeout,
            header: config.http.header_timeout,
            idle: config.http.idle_timeout,
        };
        let (http_listener, http_address) = listen(config.http.listen, &env.inherited).await?;
        let (internal_listener, internal_address) = listen(config.internal.listen, &env.inherited).await?;
        let (grpc_listener, grpc_address) = listen(config.grpc.listen, &env.inherited).await?;
        let http2 = Http2::default();
        let plain = Settings { deadlines, tls: None, connections: connections.clone(), http2 };
        let secure = Settings { deadlines, tls: Some(Arc::new(tls)), connections: connections.clone(), http2 };
        let http2 = doors::grpc_http2(config);
        let mutual = Settings { deadlines, tls: Some(Arc::new(mutual)), connections, http2 };
        let lane_count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(LANES_MAX);
        let door = PublicDoor(Arc::clone(&gate));
        let http_listener = http_listener.into_std().map_err(Error::internal)?;
        let lanes = Lanes::start(&http_listener, lane_count, &secure, &door, &public).map_err(Error::internal)?;
        let sweeper = Arc::clone(&gate);
        let (iam, sweep_clock) = (services.iam.clone(), clock.clone());
        let killswitch = services.killswitch.clone();
        let (attestation, reminding) = (services.attestation.clone(), services.attestation.clone());
        let billing = services.billing.clone();
        let intel = services.intel.clone();
        let fetcher = Fetcher::new(config, intel.clone(), services.store.clone(), clock.clone())?;
        let machine = (clock.clone(), random.clone());
        let watch = Watch::new(config, Arc::clone(&env.machine), Arc::clone(&strain), services.store.clone(), machine);
        let keep = |name, task: Task| keep_running(&strain, name, task);
        let mut tasks = vec![
            keep("watch", Box::pin(watch.run())),
            keep("certificates", Box::pin(Arc::clone(&certificates).keep())),
            keep("tenant_kill_switch", Box::pin(async move { killswitch.settle_all().await })),
            keep("payments", Box::pin(async move { billing.watch().await })),
            keep("integrations", Box::pin(services.integrations.clone().run())),
            keep(
                "grpc_listener",
                Box::pin(http::serve(grpc_listener, mutual, GrpcDoor(Arc::clone(&gate)), public.clone())),
            ),
            keep(
                "internal_listener",
                Box::pin(http::serve(internal_listener, plain, InternalDoor(Arc::clone(&gate)), internal.clone())),
            ),
            keep(
                "sweep",
                Box::pin(async move {
                    within("resume", STEP_MAX, iam.resume()).await;
                    within("resume", STEP_MAX, intel.resume()).await;
                    loop {
                        let _ = tokio::time::timeout(SWEEP_EVERY, iam.sweep_wanted()).await;
                        sweeper.sweep();
                        iam.anonymous().sweep(sweep_clock.now());
                        within("sweep", STEP_MAX, iam.sweep()).await;
                        within("sweep", STEP_MAX, attestation.sweep()).await;
                        intel.sweep();
                    }
                }),
            ),
            keep(
                "reminders",
                Box::pin(async move {
                    loop {
                        tokio::time::sleep(REMIND_EVERY).await;
                        within("reminders", STEP_MAX, reminding.remind_due()).await;
                    }
                }),
            ),
        ];
        tasks.extend(fetcher.map(|fetcher| keep("feeds", Box::pin(fetcher.run()))));
        let witness = witness::Witness::of(config)?;
        let signing = witness::run(Arc::clone(&services), witness, config.audit.checkpoint_every);
        tasks.push(keep("checkpoints", Box::pin(signing)));
        tasks.push(keep("backups", Box::pin(Arc::clone(&backups).run())));
        let store = services.store.clone();
        let operator = control::Operator {
            backups,
            services: Arc::clone(&services),
            keys,
            custody,
            gate: Some(gate),
            clock,
            random,
            feed_bytes_max: config.intel.feed_bytes,
        };
        let control = control::Listener::open(&place.control_socket(), operator)?;
        let addresses = Addresses { http: http_address, grpc: grpc_address, internal: internal_address };
        let control = Some(control);
        let announcer = Announcer::new(config.machine.discovery.announce, http_address.port());
        announcer.tell(authority.load().as_ref().map(|a| a.fingerprint.as_str()));
        Ok(Self {
            services,
            addresses,
            store,
            public,
            internal,
            failed,
            lanes,
            certificates,
            authority,
            announcer,
            tasks,
            control,
        })
    }
}

async fn listen(address: SocketAddr, inherited: &Inherited) -> Result<(TcpListener, SocketAddr)> {
    let cannot = |e: std::io::Error| Error::Internal(format!("{address} could not be listened on: {e}"));
    let listener = match inherited.take(address) {
        Some(listener) => {
            listener.set_nonblocking(true).map_err(cannot)?;
            TcpListener::from_std(listener).map_err(cannot)?
        }
        None => TcpListener::bind(address).await.map_err(cannot)?,
    };
    let address = listener.local_addr().map_err(cannot)?;
    Ok((listener, address))
}
