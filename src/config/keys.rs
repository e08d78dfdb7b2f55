//! The one table of keys. The file, the variables, the flags, `blockremote config`, the help text and the
//! documentation are all driven by it: a key that is not in it does not exist.

use std::path::PathBuf;
use std::time::Duration;

use super::value::{Choice, Kind, Secret, SubjectName};
use super::{ClientCertificates, Config, DpopNonce, LogFormat, LogLevel, Paywall, TlsVersion};
use crate::kernel::network::Network;

/// One setting.
pub struct Key {
    /// Dotted name, as in the file.
    pub name: &'static str,
    /// What it holds and where it goes.
    pub kind: Kind,
    /// As it would be written in a variable; `None`: not set unless somebody sets it.
    pub default: Option<&'static str>,
    /// One line for the administrator.
    pub doc: &'static str,
}

impl Key {
    /// `http.listen` -> `BLOCKREMOTE_HTTP__LISTEN`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.replace('.', "__").to_ascii_uppercase())
    }

    /// The key of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|k| k.name == name)
    }
}

/// What every variable of ours begins with.
pub const VARIABLE_PREFIX: &str = "BLOCKREMOTE_";
/// Names the configuration file, as `--config` does.
pub const VARIABLE_CONFIG: &str = "BLOCKREMOTE_CONFIG";
/// Variables with our prefix that are no keys, and what they are for.
pub const OTHER_VARIABLES: &[(&str, &str)] = &[
    (VARIABLE_CONFIG, "The configuration file; --config wins over it."),
    ("BLOCKREMOTE_SEALING_KEY", "The sealing key itself, in hex or base64; see certs/README.md."),
    ("BLOCKREMOTE_ENROLLMENT_TOKEN", "The enrollment token of the reference agent."),
];

type Set<T> = fn(&mut Config, T);

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { name, kind, default, doc }
}
const fn integer(
    name: &'static str,
    (default, min, max): (&'static str, u32, u32),
    set: Set<u32>,
    doc: &'static str,
) -> Key {
    key(name, Kind::Integer { min, max, set }, Some(default), doc)
}
const fn address(name: &'static str, default: &'static str, set: Set<std::net::SocketAddr>, doc: &'static str) -> Key {
    key(name, Kind::Address(set), Some(default), doc)
}
const fn switch(name: &'static str, default: &'static str, set: Set<bool>, doc: &'static str) -> Key {
    key(name, Kind::Switch(set), Some(default), doc)
}
const fn choice(name: &'static str, default: &'static str, words: &'static [Choice], doc: &'static str) -> Key {
    key(name, Kind::Choice(words), Some(default), doc)
}
const fn text(name: &'static str, default: &'static str, set: Set<String>, doc: &'static str) -> Key {
    key(name, Kind::Text(set), Some(default), doc)
}
const fn path(name: &'static str, default: Option<&'static str>, set: Set<PathBuf>, doc: &'static str) -> Key {
    key(name, Kind::Path(set), default, doc)
}
const fn networks(name: &'static str, set: Set<Vec<Network>>, doc: &'static str) -> Key {
    key(name, Kind::Networks(set), Some(""), doc)
}
const fn names(name: &'static str, set: Set<Vec<SubjectName>>, doc: &'static str) -> Key {
    key(name, Kind::Names(set), Some(""), doc)
}
const fn origins(name: &'static str, set: Set<Vec<String>>, doc: &'static str) -> Key {
    key(name, Kind::Origins(set), Some(""), doc)
}
const fn secret(name: &'static str, (min, max): (usize, usize), set: Set<Secret>, doc: &'static str) -> Key {
    key(name, Kind::Secret { min, max, set }, None, doc)
}

fn ms(n: u32) -> Duration {
    Duration::from_millis(n.into())
}
fn us(n: u32) -> Duration {
    Duration::from_micros(n.into())
}
fn secs(n: u32) -> Duration {
    Duration::from_secs(n.into())
}
fn days(n: u32) -> Duration {
    secs(1) * 86_400 * n
}
fn hours(n: u32) -> Duration {
    secs(1) * 3_600 * n
}
fn mib(n: u32) -> usize {
    usize::try_from(u64::from(n) * 1024 * 1024).unwrap_or(usize::MAX)
}
fn percent(n: u32) -> u8 {
    u8::try_from(n).unwrap_or(100)
}
fn count(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

const TLS_VERSIONS: &[Choice] =
    &[("1.3", |c| c.tls.min_version = TlsVersion::V1_3), ("1.2", |c| c.tls.min_version = TlsVersion::V1_2)];
const CLIENT_CERTIFICATES: &[Choice] = &[
    ("off", |c| c.tls.client_certificates = ClientCertificates::Off),
    ("optional", |c| c.tls.client_certificates = ClientCertificates::Optional),
];
const DPOP_NONCES: &[Choice] = &[
    ("optional", |c| c.tokens.dpop_nonce = DpopNonce::Optional),
    ("required", |c| c.tokens.dpop_nonce = DpopNonce::Required),
];
const PAYWALLS: &[Choice] =
    &[("device", |c| c.billing.paywall = Paywall::Device), ("off", |c| c.billing.paywall = Paywall::Off)];
const LIMITERS: &[Choice] = &[("on", |c| c.anonymous.limiter = true), ("off", |c| c.anonymous.limiter = false)];
const LOG_LEVELS: &[Choice] = &[
    ("error", |c| c.log.level = LogLevel::Error),
    ("warn", |c| c.log.level = LogLevel::Warn),
    ("info", |c| c.log.level = LogLevel::Info),
    ("debug", |c| c.log.level = LogLevel::Debug),
    ("trace", |c| c.log.level = LogLevel::Trace),
];
const LOG_FORMATS: &[Choice] = &[
    ("auto", |c| c.log.format = LogFormat::Auto),
    ("json", |c| c.log.format = LogFormat::Json),
    ("text", |c| c.log.format = LogFormat::Text),
];

/// Every key, in the order in which it is shown. Sections stay together.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    path("data", Some("data/blockremote.redb"), |c, v| c.paths.data = v,
        "The data file: the whole state of the appliance."),
    path("certs", Some("certs"), |c, v| c.paths.certs = v,
        "The directory of keys and certificates."),

    address("http.listen", "0.0.0.0:8443", |c, v| c.http.listen = v,
        "Where HTTPS and WebSocket are served; port 0 picks a free one."),
    integer("http.max_connections", ("10000", 1, 1_000_000), |c, n| c.http.max_connections = count(n),
        "Open connections, all listeners together; more are closed at once."),
    integer("http.connections_per_address", ("1024", 1, 1_000_000), |c, n| c.http.connections_per_address = count(n),
        "Open connections of one client address."),
    networks("http.trusted_proxies", |c, v| c.http.trusted_proxies = v,
        "Proxies whose X-Forwarded-For is believed; nobody's by default."),
    origins("http.allowed_origins", |c, v| c.http.allowed_origins = v,
        "Web origins that may call from a browser (CORS, WebSocket); empty: CORS is off."),
    integer("http.header_timeout_ms", ("5000", 100, 60_000), |c, n| c.http.header_timeout = ms(n),
        "How long a TLS handshake or a request's header may take."),
    integer("http.idle_timeout_ms", ("60000", 1_000, 3_600_000), |c, n| c.http.idle_timeout = ms(n),
        "How long a connection may stay open without a request."),
    integer("http.body_timeout_ms", ("15000", 100, 300_000), |c, n| c.http.body_timeout = ms(n),
        "How long a request's body may take."),
    integer("http.answer_timeout_ms", ("60000", 100, 600_000), |c, n| c.http.answer_timeout = ms(n),
        "How long the appliance may take for an answer, once the body is there; then 503."),

    address("grpc.listen", "0.0.0.0:8444", |c, v| c.grpc.listen = v,
        "Where gRPC with mutual TLS is served."),
    integer("grpc.certificate_days", ("30", 1, 397), |c, n| c.grpc.certificate = days(n),
        "How long a device's client certificate lives; it renews its own."),
    integer("grpc.streams_per_connection", ("32", 1, 1_000), |c, n| c.grpc.streams_per_connection = n,
        "Calls and streams that are open on one connection at the same time."),
    integer("grpc.deadline_ms", ("30000", 100, 600_000), |c, n| c.grpc.deadline = ms(n),
        "The most that a call with one answer may take, whatever the client allows."),
    integer("grpc.stream_max_s", ("86400", 1, 2_592_000), |c, n| c.grpc.stream_max = secs(n),
        "The most that a stream may last."),
    integer("grpc.stream_idle_s", ("120", 1, 86_400), |c, n| c.grpc.stream_idle = secs(n),
        "How long a stream of heartbeats may be silent."),
    integer("grpc.stream_messages_per_minute", ("1200", 1, 1_000_000), |c, n| c.grpc.stream_messages_per_minute = n,
        "Messages of one stream; more end it."),
    switch("grpc.health", "true", |c, b| c.grpc.health = b,
        "Whether the health service (grpc.health.v1) answers."),
    switch("grpc.reflection", "false", |c, b| c.grpc.reflection = b,
        "Whether tools may ask which services and messages there are (grpc.reflection.v1)."),
    address("internal.listen", "127.0.0.1:9464", |c, v| c.internal.listen = v,
        "Metrics and internal endpoints, without TLS: keep it on the machine."),

    choice("tls.min_version", "1.3", TLS_VERSIONS,
        "The oldest TLS version that is served."),
    names("tls.names", |c, v| c.tls.names = v,
        "Further host names and addresses for the certificate that the appliance makes."),
    path("tls.certificate", None, |c, v| c.tls.certificate = Some(v),
        "Own certificate chain (PEM) in place of a made one; needs tls.key."),
    path("tls.key", None, |c, v| c.tls.key = Some(v),
        "Private key (PEM) of tls.certificate."),
    integer("tls.certificate_lifetime_days", ("90", 2, 397), |c, n| c.tls.certificate_lifetime = days(n),
        "How long a certificate lives that the appliance makes; it is renewed when a third of that is left."),
    choice("tls.client_certificates", "off", CLIENT_CERTIFICATES,
        "Whether clients may show a certificate to which their tokens are bound; browsers then ask their users for one."),

    text("tokens.issuer", "https://blockremote", |c, v| c.tokens.issuer = v,
        "The iss claim of every token."),
    text("tokens.audience", "blockremote", |c, v| c.tokens.audience = v,
        "The aud claim of every token."),
    integer("tokens.access_ttl_s", ("900", 10, 3_600), |c, n| c.tokens.access_ttl = secs(n),
        "How long an access token lives."),
    integer("tokens.refresh_ttl_days", ("7", 1, 365), |c, n| c.tokens.refresh_ttl = days(n),
        "How long a refresh token lives after its last use."),
    integer("tokens.refresh_absolute_days", ("30", 1, 365), |c, n| c.tokens.refresh_absolute = days(n),
        "How long a session lives however often it is refreshed."),
    choice("tokens.dpop_nonce", "optional", DPOP_NONCES,
        "Whether a DPoP proof must bear a nonce of the appliance's, beyond the minute after a restart."),
    path("tokens.signing_key", None, |c, v| c.tokens.signing_key = Some(v),
        "Signing key kept outside the data file: a PKCS#8 PEM of a P-256 key."),
    path("tokens.next_key", None, |c, v| c.tokens.next_key = Some(v),
        "Key that will sign after tokens.signing_key (PEM); its public half is enough."),

    key("webauthn.rp_id", Kind::Text(|c, v| c.webauthn.rp_id = Some(v.to_ascii_lowercase())), None,
        "Host name that passkeys are made for; not set: the name by which the browser calls the appliance."),
    switch("webauthn.require_attestation", "false", |c, b| c.webauthn.require_attestation = b,
        "Whether a new passkey must show its authenticator's make, by the [webauthn] rules of attestation.policy."),

    integer("attestation.nonce_ttl_s", ("180", 120, 300), |c, n| c.attestation.nonce_ttl = secs(n),
        "How long a device may take to answer a nonce."),
    switch("attestation.heals", "true", |c, b| c.attestation.heals = b,
        "Whether a clean proof releases a device that failed ones put into quarantine."),
    switch("attestation.releases_score_locks", "false", |c, b| c.attestation.releases_score_locks = b,
        "Whether a fresh proof by hardware releases a device that the engine locked; otherwise a person must."),
    integer("attestation.renew_days", ("7", 1, 365), |c, n| c.attestation.renew = days(n),
        "How old a device's last proof may be before its score falls and it is asked again."),
    switch("attestation.require_status_list", "true", |c, b| c.attestation.require_status_list = b,
        "Whether Android keys are refused until Google's list of revoked keys is imported, and when it is too old."),
    path("attestation.policy", None, |c, v| c.attestation.policy = Some(v),
        "What evidence must show (TOML; `blockremote attest policy` prints one with all defaults)."),
    key("attestation.apple_app_id", Kind::Text(|c, v| c.attestation.apple_app_id = Some(v)), None,
        "Team and bundle of your app, such as TEAM123456.com.example.app; not set: App Attest is refused."),
    path("attestation.play", None, |c, v| c.attestation.play = Some(v),
        "Play Integrity keys and expectations (JSON as in `attest verify`, without token); not set: refused."),

    key("enrollment.open_tenant", Kind::Tenant(|c, v| c.enrollment.open_tenant = Some(v)), None,
        "The tenant that devices without an enrollment token join, if its policy is open."),

    secret("billing.webhook_secret", (16, 1024), |c, v| c.billing.webhook_secret = Some(v),
        "Shared with the billing gateway; not set: the webhook answers 503."),
    secret("billing.webhook_secret_next", (16, 1024), |c, v| c.billing.webhook_secret_next = Some(v),
        "Taken as well: the one that the gateway is about to change to."),
    secret("billing.webhook_secret_previous", (16, 1024), |c, v| c.billing.webhook_secret_previous = Some(v),
        "Taken as well: the one that the gateway has just changed from."),
    key("billing.provider_secrets", Kind::Secrets(|c, v| c.billing.provider_secrets = v), None,
        "Secrets of single gateways, each as \"provider:secret\"; such a gateway may use no other."),
    networks("billing.webhook_allow", |c, v| c.billing.webhook_allow = v,
        "Where billing events may come from; empty: from anywhere."),
    path("billing.plans", None, |c, v| c.billing.plans = Some(v),
        "What changes the plans (TOML; `blockremote admin plans show` prints them); not set: the defaults."),
    path("billing.vendor_key", None, |c, v| c.billing.vendor_key = Some(v),
        "Public key (PEM) that licences must be signed with; not set: no licence is taken."),
    choice("billing.paywall", "device", PAYWALLS,
        "Whether a device must be paid for once its trial is over."),
    integer("billing.trial_days", ("7", 0, 365), |c, n| c.billing.trial = days(n),
        "How long a device may be used before it is paid for."),

    integer("devices.max", ("100000", 1, 1_000_000), |c, n| c.devices.max = count(n),
        "Enrolled devices, all tenants together."),

    choice("anonymous.limiter", "on", LIMITERS,
        "Whether anonymous requests are counted and limited."),
    integer("anonymous.limit", ("100", 1, 1_000_000), |c, n| c.anonymous.limit = n,
        "Requests of one anonymous caller in a window."),
    integer("anonymous.window_s", ("3600", 1, 86_400), |c, n| c.anonymous.window = secs(n),
        "Length of that sliding window."),

    integer("limits.enroll_per_minute", ("6000", 1, 1_000_000), |c, n| c.limits.enroll_per_minute = n,
        "Enrollments by one enrollment token."),
    integer("limits.refresh_per_minute", ("60", 1, 1_000_000), |c, n| c.limits.refresh_per_minute = n,
        "Refresh tokens presented for one session, a device's or a person's."),
    integer("limits.login_failures_per_minute", ("5", 1, 1_000), |c, n| c.limits.login_failures_per_minute = n,
        "Failed logins of one account from one address."),
    integer("limits.auth_failures_per_minute", ("60", 1, 100_000), |c, n| c.limits.auth_failures_per_minute = n,
        "Bad tokens from one address, before any signature is checked."),
    integer("limits.read_per_minute", ("1200", 1, 1_000_000), |c, n| c.limits.read_per_minute = n,
        "Reads by one caller."),
    integer("limits.write_per_minute", ("600", 1, 1_000_000), |c, n| c.limits.write_per_minute = n,
        "Ordinary writes by one caller."),
    integer("limits.socket_handshakes_per_minute", ("60", 1, 100_000), |c, n| c.limits.socket_handshakes_per_minute = n,
        "WebSocket handshakes by one device."),

    integer("retention.signals_days", ("7", 1, 365), |c, n| c.retention.signals = days(n),
        "How long readings are kept for investigation."),
    integer("engine.threshold", ("40", 20, 60), |c, n| c.engine.threshold = u8::try_from(n).unwrap_or(60),
        "Trust score below which a device is blocked, before adaptation."),
    integer("engine.weight_accelerometer", ("40", 0, 100), |c, n| c.engine.weight_accelerometer = percent(n),
        "Weight of the accelerometer in the trust score; the four are put in proportion."),
    integer("engine.weight_gyroscope", ("30", 0, 100), |c, n| c.engine.weight_gyroscope = percent(n),
        "Weight of the gyroscope."),
    integer("engine.weight_touch", ("15", 0, 100), |c, n| c.engine.weight_touch = percent(n),
        "Weight of the touches."),
    integer("engine.weight_network", ("15", 0, 100), |c, n| c.engine.weight_network = percent(n),
        "Weight of the network."),
    integer("engine.shadow_threshold", ("0", 0, 60), |c, n| c.engine.shadow_threshold = u8::try_from(n).unwrap_or(60),
        "Threshold of a second policy that judges beside the first and only reports; 0: none."),
    path("engine.shadow_population", None, |c, v| c.engine.shadow_population = Some(v),
        "Population table that a second engine judges against and only reports (`bench engine --fit` makes one)."),
    integer("engine.simplified_from", ("8192", 1, 16_384), |c, n| c.engine.simplified_from = n.into(),
        "Jobs waiting to be written from which heartbeats are judged by the hard rules alone."),
    path("intel.sources", None, |c, v| c.intel.sources = Some(v),
        "Threat feeds to fetch on a schedule (TOML; README.md shows one); not set: none is fetched."),
    path("intel.ca_certificates", Some("/etc/ssl/certs/ca-certificates.crt"), |c, v| c.intel.ca_certificates = v,
        "Certificate authorities (PEM) that servers of threat feeds are trusted by."),
    integer("intel.stale_days", ("7", 1, 365), |c, n| c.intel.stale = days(n),
        "How old a threat feed may get before what it does not list counts as unknown."),
    integer("intel.critical_confidence", ("90", 1, 100), |c, n| c.intel.critical_confidence = u8::try_from(n).unwrap_or(100),
        "How sure (percent) a threat feed must be for a match to lock the device at once."),
    integer("intel.indicators_max", ("5000000", 1, 50_000_000), |c, n| c.intel.indicators_max = n.into(),
        "Indicators of all threat feeds together, about 21 bytes of memory each."),
    integer("intel.tenant_indicators_max", ("1000000", 1, 50_000_000), |c, n| c.intel.tenant_indicators_max = n.into(),
        "Indicators of one tenant's own threat feeds together."),
    integer("intel.feed_mib", ("256", 1, 2_048), |c, n| c.intel.feed_bytes = mib(n),
        "Size of one threat feed that is read from a file or fetched."),
    networks("integrations.allow_addresses", |c, v| c.integrations.allow_addresses = v,
        "Addresses that integrations may lead to although they are the appliance's own, its link's or a cloud's metadata."),
    path("integrations.ca_certificates", Some("/etc/ssl/certs/ca-certificates.crt"), |c, v| c.integrations.ca_certificates = v,
        "Certificate authorities (PEM) that receivers of integrations are trusted by."),
    integer("integrations.timeout_ms", ("15000", 100, 60_000), |c, n| c.integrations.timeout = ms(n),
        "How long one attempt to tell an integration may take."),
    integer("heartbeat.next_ms", ("5000", 250, 600_000), |c, n| c.heartbeat.next = ms(n),
        "When devices are told to send the next heartbeat."),

    integer("store.cache_mib", ("64", 4, 65_536), |c, n| c.store.cache_bytes = mib(n),
        "Memory for pages of the data file."),
    switch("store.two_phase_commit", "true", |c, b| c.store.two_phase_commit = b,
        "Commit in two steps: safer where attackers choose the input, a little slower."),
    switch("store.quick_repair", "false", |c, b| c.store.quick_repair = b,
        "Open faster after a crash, for slower commits; implies two_phase_commit."),
    integer("store.checkpoint_mib", ("32", 1, 4_096), |c, n| c.store.checkpoint_bytes = mib(n),
        "Journal after which the devices' rings are written out and the journal is trimmed."),

    integer("disk.read_only_mib", ("512", 0, 1_048_576), |c, n| c.machine.disk.read_only_bytes = mib(n) as u64,
        "Free space below which most changes are refused (503); heartbeats and locks go on; 0: never."),
    integer("disk.stop_mib", ("128", 0, 1_048_576), |c, n| c.machine.disk.stop_bytes = mib(n) as u64,
        "Free space below which heartbeats are refused, too, since they could not be kept; 0: never."),
    integer("disk.ballast_mib", ("64", 0, 65_536), |c, n| c.machine.disk.ballast_bytes = mib(n) as u64,
        "Size of a file beside the data file that is removed when the disk is nearly full, for room to work; 0: none."),

    integer("memory.limit_mib", ("0", 0, 4_194_304), |c, n| c.machine.memory.limit_bytes = mib(n) as u64,
        "Memory that the process should keep to; 0: its control group's limit, else four fifths of the machine's."),
    integer("memory.shed_percent", ("80", 10, 100), |c, n| c.machine.memory.shed_percent = percent(n),
        "Share of it from which requests are refused (503), lists and pages first, heartbeats last; 100: never."),

    integer("breaker.mean_us", ("10000", 1, 10_000_000), |c, n| c.machine.breaker.mean = us(n),
        "Mean time to judge a heartbeat, over a second, above which the hard rules decide alone."),
    integer("breaker.tail_us", ("40000", 1, 10_000_000), |c, n| c.machine.breaker.tail = us(n),
        "Time in which 95 of 100 heartbeats must be judged."),
    integer("breaker.throughput_min", ("20", 0, 1_000_000), |c, n| c.machine.breaker.throughput_min = n,
        "Heartbeats that must be judged in a second while 256 wait; 0: any number."),
    integer("breaker.open_ms", ("5000", 100, 300_000), |c, n| c.machine.breaker.open = ms(n),
        "How long the hard rules decide before a heartbeat is judged in full to see whether that works again."),

    switch("sandbox.landlock", "true", |c, b| c.machine.sandbox.landlock = b,
        "Whether the running appliance gives up writing outside of its folders (Landlock), where the kernel can."),
    switch("sandbox.seccomp", "true", |c, b| c.machine.sandbox.seccomp = b,
        "Whether it gives up the system calls that it does not need (seccomp), where the kernel can."),
    path("sandbox.write_folder", None, |c, v| c.machine.sandbox.write_folder = Some(v),
        "A further folder that it may write to, such as a mounted disk for backups."),

    switch("discovery.announce", "false", |c, b| c.machine.discovery.announce = b,
        "Whether the appliance announces itself on the LAN (DNS-SD, _blockremote._tcp)."),

    choice("log.level", "info", LOG_LEVELS,
        "The least important messages that are logged."),
    choice("log.format", "auto", LOG_FORMATS,
        "How logs are written; auto: text on a terminal, else json."),

    key("tracing.otlp_endpoint", Kind::Text(|c, v| c.tracing.otlp_endpoint = Some(v)), None,
        "Collector that takes traces by OTLP over HTTP, such as http://collector:4318; not set: none are made."),
    secret("tracing.otlp_authorization", (8, 4096), |c, v| c.tracing.otlp_authorization = Some(v),
        "Value of the Authorization header that the collector wants, such as \"Bearer ...\"."),
    integer("tracing.sample_ppm", ("10000", 0, 1_000_000), |c, n| c.tracing.sample_ppm = n,
        "Of a million requests, how many are traced; a client's own decision (traceparent) wins, 600 a minute at most."),
    path("tracing.ca_certificates", Some("/etc/ssl/certs/ca-certificates.crt"), |c, v| c.tracing.ca_certificates = v,
        "Certificate authorities (PEM) that the collector is trusted by."),

    key("audit.name", Kind::Tenant(|c, v| c.audit.name = Some(v)), None,
        "What the appliance calls itself in signed checkpoints of the audit log; not set: a name that it made up."),
    integer("audit.checkpoint_every_s", ("60", 5, 86_400), |c, n| c.audit.checkpoint_every = secs(n),
        "Time from one signed checkpoint of a growing audit log to the next."),
    key("audit.witness_url", Kind::Text(|c, v| c.audit.witness_url = Some(v)), None,
        "Witness that cosigns checkpoints (c2sp.org/tlog-witness); needs audit.witness_key."),
    key("audit.witness_key", Kind::Text(|c, v| c.audit.witness_key = Some(v)), None,
        "Verifier key of that witness, as NAME+HASH+KEY."),

    path("backup.directory", None, |c, v| c.backup.directory = Some(v),
        "Where backups are written by themselves; not set: none is."),
    integer("backup.every_hours", ("1", 1, 168), |c, n| c.backup.every = hours(n),
        "Time from one backup to the next."),
    key("backup.recipients", Kind::Recipients(|c, v| c.backup.recipients = v), Some(""),
        "Public keys (age1...) that backups are encrypted to; name two, of which one lies in a safe."),
    switch("backup.unencrypted", "false", |c, b| c.backup.unencrypted = b,
        "Whether backups may be written in clear, and without the sealing key, where there are no recipients."),
    integer("backup.keep_hourly", ("168", 1, 10_000), |c, n| c.backup.keep_hourly = count(n),
        "Hours of which the last backup is kept."),
    integer("backup.keep_daily", ("35", 0, 10_000), |c, n| c.backup.keep_daily = count(n),
        "Days of which the last backup is kept."),
    integer("backup.keep_monthly", ("13", 0, 1_000), |c, n| c.backup.keep_monthly = count(n),
        "Months of which the last backup is kept."),
    integer("backup.drill_every_hours", ("24", 0, 168), |c, n| c.backup.drill_every = hours(n),
        "Time from one trial restore of the newest backup to the next; 0: none."),
    path("backup.drill_identity_file", None, |c, v| c.backup.drill_identity_file = Some(v),
        "Private key (AGE-SECRET-KEY-1...) for those trials; not set: each backup is tried while it is made, no older one."),
];

/// Every key and variable, for `--help` and the documentation. Plain text, no line above 120 characters of ours.
pub fn reference() -> String {
    let mut out = String::new();
    for k in KEYS {
        let default = match (k.default, &k.kind) {
            (None, _) => "not set".to_owned(),
            (Some(""), _) => "empty".to_owned(),
            (Some(d), _) => d.to_owned(),
        };
        out.push_str(&format!("{}\n    {}\n    Default {default}; {}.\n", k.name, k.doc, k.kind.allowed()));
    }
    out.push_str("\nVariables that are no keys:\n");
    for (name, doc) in OTHER_VARIABLES {
        out.push_str(&format!("{name}\n    {doc}\n"));
    }
    out
}
