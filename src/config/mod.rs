//! File, environment and flags become one validated, immutable [`Config`].
//!
//! A flag wins over a variable, a variable over the file, the file over the default. One table, [`KEYS`], says what
//! exists. All problems are reported together; each names the key, the value (masked where it is secret), what is
//! allowed, and the line or the variable.
//!
//! Reads one file and nothing else: arguments and environment are handed in. Knows nothing of what the settings do.

mod defaults;
mod keys;
mod load;
mod machine;
mod report;
#[cfg(test)]
mod tests;
mod value;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use keys::{KEYS, Key, OTHER_VARIABLES, VARIABLE_PREFIX, reference};
pub use load::{FILE_BYTES_MAX, Loaded, SEARCH, Sources};
pub use machine::Machine;
pub use report::{ConfigErrors, Effective, Place, Problem};
pub use value::{Kind, MASK, Secret, SubjectName, Value};

/// Everything an administrator can choose. Made by [`Config::load`]; never changes while the process lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where things lie.
    pub paths: Paths,
    /// The public listener.
    pub http: Http,
    /// The gRPC listener.
    pub grpc: Grpc,
    /// The internal listener.
    pub internal: Listener,
    /// TLS of the public listeners.
    pub tls: Tls,
    /// Claims and lifetimes.
    pub tokens: Tokens,
    /// Passkeys.
    pub webauthn: Webauthn,
    /// Proofs of hardware.
    pub attestation: Attestation,
    /// Who may join.
    pub enrollment: Enrollment,
    /// The billing gateway and the paywall.
    pub billing: Billing,
    /// The fleet.
    pub devices: Devices,
    /// Callers without a token.
    pub anonymous: Anonymous,
    /// Rates.
    pub limits: Limits,
    /// What is kept how long.
    pub retention: Retention,
    /// Scoring.
    pub engine: Engine,
    /// Threat feeds.
    pub intel: Intel,
    /// Other systems that are told of what happens.
    pub integrations: Integrations,
    /// Pace of the devices.
    pub heartbeat: Heartbeat,
    /// The data file's engine.
    pub store: Store,
    /// What it may take of its machine.
    pub machine: Machine,
    /// Logs.
    pub log: Log,
    /// Traces for a collector.
    pub tracing: Tracing,
    /// The signed log.
    pub audit: AuditLog,
    /// Backups.
    pub backup: Backup,
}

/// Where things lie. Relative paths count from the working directory.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The data file.
    pub data: PathBuf,
    /// The directory of keys and certificates.
    pub certs: PathBuf,
    /// `sealing.key` beside the configuration file: from there a service takes its sealing key as a credential
    /// (`LoadCredential`), and there a command outside of the service finds it, if its user may read it.
    pub sealing_key: Option<PathBuf>,
}

/// The public listener and what every connection must keep to.
#[derive(Clone, Debug)]
pub struct Http {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Open connections, all listeners together.
    pub max_connections: usize,
    /// Open connections of one client address.
    pub connections_per_address: usize,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<crate::kernel::network::Network>,
    /// Lower case, without the scheme's own port, as browsers send them; empty: CORS is off.
    pub allowed_origins: Vec<String>,
    /// For a TLS handshake, and for a request's header.
    pub header_timeout: Duration,
    /// For a connection without a request.
    pub idle_timeout: Duration,
    /// For a request's body.
    pub body_timeout: Duration,
    /// For whatever a request asks for, once its body is there.
    pub answer_timeout: Duration,
}

/// A further listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
}

/// gRPC with mutual TLS.
#[derive(Clone, Debug)]
pub struct Grpc {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Life of a client certificate.
    pub certificate: Duration,
    /// Open at the same time on one connection.
    pub streams_per_connection: u32,
    /// For a call with one answer.
    pub deadline: Duration,
    /// For a stream.
    pub stream_max: Duration,
    /// Between two messages of a stream.
    pub stream_idle: Duration,
    /// Messages of one stream.
    pub stream_messages_per_minute: u32,
    /// Whether the health service answers.
    pub health: bool,
    /// Whether tools may ask which services there are.
    pub reflection: bool,
}

/// TLS of the public listeners.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The oldest version that is served.
    pub min_version: TlsVersion,
    /// Further names for the certificate that the appliance makes.
    pub names: Vec<SubjectName>,
    /// Own chain (PEM). Set if and only if `key` is.
    pub certificate: Option<PathBuf>,
    /// Private key (PEM) of `certificate`.
    pub key: Option<PathBuf>,
    /// Of a certificate that the appliance makes.
    pub certificate_lifetime: Duration,
    /// Whether clients may show one of their own.
    pub client_certificates: ClientCertificates,
}

impl Tls {
    /// Chain and key that the administrator brought; `None`: the appliance makes its own.
    pub fn own_files(&self) -> Option<(&Path, &Path)> {
        Some((self.certificate.as_deref()?, self.key.as_deref()?))
    }
}

/// Claims and lifetimes.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// Of an access token.
    pub access_ttl: Duration,
    /// Of a refresh token after its last use; never above `refresh_absolute`.
    pub refresh_ttl: Duration,
    /// Of a session, however often it is refreshed.
    pub refresh_absolute: Duration,
    /// Whether a DPoP proof needs a nonce of ours.
    pub dpop_nonce: DpopNonce,
    /// A PKCS#8 PEM that is kept outside the data file; `None`: a systemd credential, else the appliance's own keys.
    pub signing_key: Option<PathBuf>,
    /// PEM of the key that will sign next, or of its public half.
    pub next_key: Option<PathBuf>,
}

/// Passkeys.
#[derive(Clone, Debug, Default)]
pub struct Webauthn {
    /// The relying party's id; `None`: the host name that the browser calls.
    pub rp_id: Option<String>,
    /// Whether a new one must show which make of authenticator holds it.
    pub require_attestation: bool,
}

/// Proofs of hardware.
#[derive(Clone, Debug)]
pub struct Attestation {
    /// Life of a nonce.
    pub nonce_ttl: Duration,
    /// Whether a clean proof releases a device that failed ones put into quarantine.
    pub heals: bool,
    /// Whether a fresh proof by hardware releases a device that the engine locked.
    pub releases_score_locks: bool,
    /// How old the last proof may be.
    pub renew: Duration,
    /// Whether Android keys count only while a list of revoked certificates is there and not too old.
    pub require_status_list: bool,
    /// What evidence must show (TOML); `None`: the defaults.
    pub policy: Option<PathBuf>,
    /// Team and bundle of the Apple app.
    pub apple_app_id: Option<String>,
    /// Keys and expectations of Play Integrity tokens (JSON).
    pub play: Option<PathBuf>,
}

/// Who may join.
#[derive(Clone, Debug)]
pub struct Enrollment {
    /// Name or id of the tenant that devices without an enrollment token join; `None`: such devices are refused.
    pub open_tenant: Option<String>,
}

/// The billing gateway and the paywall.
#[derive(Clone, Debug)]
pub struct Billing {
    /// `None`: the webhook answers 503 `billing_not_configured`.
    pub webhook_secret: Option<Secret>,
    /// Taken as well, while the gateway's secret is being changed.
    pub webhook_secret_next: Option<Secret>,
    /// Taken as well, while the gateway's secret is being changed.
    pub webhook_secret_previous: Option<Secret>,
    /// Gateways with a secret of their own.
    pub provider_secrets: Vec<(String, Secret)>,
    /// Where events may come from; empty: from anywhere.
    pub webhook_allow: Vec<crate::kernel::network::Network>,
    /// What changes the plans (TOML).
    pub plans: Option<PathBuf>,
    /// Public key that licences are signed with (PEM).
    pub vendor_key: Option<PathBuf>,
    /// Whether unpaid devices are stopped.
    pub paywall: Paywall,
    /// From a device's registration.
    pub trial: Duration,
}

/// The fleet.
#[derive(Clone, Debug)]
pub struct Devices {
    /// Enrolled devices, all tenants together.
    pub max: usize,
}

/// Callers without a token.
#[derive(Clone, Debug)]
pub struct Anonymous {
    /// Whether they are limited at all.
    pub limiter: bool,
    /// Requests in a window.
    pub limit: u32,
    /// The sliding window.
    pub window: Duration,
}

/// Rates, each for one minute.
#[derive(Clone, Debug)]
pub struct Limits {
    /// By one enrollment token.
    pub enroll_per_minute: u32,
    /// Refresh tokens of one session.
    pub refresh_per_minute: u32,
    /// Of one account from one address.
    pub login_failures_per_minute: u32,
    /// From one address.
    pub auth_failures_per_minute: u32,
    /// By one caller.
    pub read_per_minute: u32,
    /// By one caller.
    pub write_per_minute: u32,
    /// By one device.
    pub socket_handshakes_per_minute: u32,
}

/// What is kept how long.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Readings.
    pub signals: Duration,
}

/// Scoring.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Points below which a device is blocked, before adaptation; 20 to 60.
    pub threshold: u8,
    /// What the accelerometer weighs in a score, in percent.
    pub weight_accelerometer: u8,
    /// What the gyroscope weighs.
    pub weight_gyroscope: u8,
    /// What touches weigh.
    pub weight_touch: u8,
    /// What the network weighs.
    pub weight_network: u8,
    /// Threshold of a second policy that only reports; 0: none.
    pub shadow_threshold: u8,
    /// Population table of a second engine that only reports; `None`: it judges against the one that is built in.
    pub shadow_population: Option<PathBuf>,
    /// Waiting jobs from which heartbeats are judged by the hard rules alone.
    pub simplified_from: u64,
}

/// Threat feeds.
#[derive(Clone, Debug)]
pub struct Intel {
    /// What is fetched from where (TOML); `None`: nothing.
    pub sources: Option<PathBuf>,
    /// Authorities (PEM) that their servers are trusted by.
    pub ca_certificates: PathBuf,
    /// How old a feed may get.
    pub stale: Duration,
    /// Percent from which a match locks.
    pub critical_confidence: u8,
    /// Of all feeds together.
    pub indicators_max: u64,
    /// Of one tenant's own feeds.
    pub tenant_indicators_max: u64,
    /// Of one feed.
    pub feed_bytes: usize,
}

/// Other systems that are told of what happens.
#[derive(Clone, Debug)]
pub struct Integrations {
    /// Addresses that may be called although they are the appliance's own, its link's or a cloud's metadata.
    pub allow_addresses: Vec<crate::kernel::network::Network>,
    /// Authorities (PEM) that receivers are trusted by.
    pub ca_certificates: PathBuf,
    /// For one attempt.
    pub timeout: Duration,
}

/// Pace of the devices.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// Until the next heartbeat is due.
    pub next: Duration,
}

/// The data file's engine.
#[derive(Clone, Debug)]
pub struct Store {
    /// Memory for pages.
    pub cache_bytes: usize,
    /// Commit in two steps.
    pub two_phase_commit: bool,
    /// Open faster after a crash.
    pub quick_repair: bool,
    /// Journal after which a checkpoint is due.
    pub checkpoint_bytes: usize,
}

/// Logs.
#[derive(Clone, Debug)]
pub struct Log {
    /// The least important messages that are logged.
    pub level: LogLevel,
    /// How they are written.
    pub format: LogFormat,
}

/// Traces for a collector (OpenTelemetry).
#[derive(Clone, Debug)]
pub struct Tracing {
    /// Where the collector takes OTLP over HTTP; `None`: nothing is collected.
    pub otlp_endpoint: Option<String>,
    /// The value of `Authorization` that it wants.
    pub otlp_authorization: Option<Secret>,
    /// Of a million requests, how many are traced where the client does not decide.
    pub sample_ppm: u32,
    /// Certificate authorities (PEM) that it is trusted by.
    pub ca_certificates: PathBuf,
}

/// The signed log.
#[derive(Clone, Debug, Default)]
pub struct AuditLog {
    /// What the appliance calls itself in checkpoints; `None`: a name that it made up.
    pub name: Option<String>,
    /// Time from one checkpoint of a growing log to the next.
    pub checkpoint_every: Duration,
    /// Who cosigns checkpoints.
    pub witness_url: Option<String>,
    /// The witness's verifier key. Set if and only if `witness_url` is.
    pub witness_key: Option<String>,
}

/// Backups that the appliance makes by itself.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Where they go; `None`: it makes none.
    pub directory: Option<PathBuf>,
    /// Time from one to the next.
    pub every: Duration,
    /// Public keys (age1...) that they are encrypted to.
    pub recipients: Vec<String>,
    /// Whether they may be written in clear where there are no recipients.
    pub unencrypted: bool,
    /// Hours of which one is kept.
    pub keep_hourly: usize,
    /// Days of which one is kept.
    pub keep_daily: usize,
    /// Months of which one is kept.
    pub keep_monthly: usize,
    /// Time from one trial of the newest to the next; zero: none.
    pub drill_every: Duration,
    /// File of the private key with which trials open backups.
    pub drill_identity_file: Option<PathBuf>,
}

/// A TLS version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsVersion {
    /// 1.2 (RFC 5246).
    V1_2,
    /// 1.3 (RFC 8446).
    V1_3,
}

/// Whether a DPoP proof needs a nonce of the appliance's (RFC 9449, section 8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DpopNonce {
    /// Only after a restart, when the memory of used proofs is gone.
    Optional,
    /// Always.
    Required,
}

/// Whether clients may show a certificate of their own, to which a token can be bound (RFC 8705).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCertificates {
    /// They are not asked.
    Off,
    /// They are asked and need not.
    Optional,
}

/// Whether unpaid devices are stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paywall {
    /// Each device is paid for.
    Device,
    /// Nobody is asked for payment.
    Off,
}

/// How important a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the words explain themselves")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How logs are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
