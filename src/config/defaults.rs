//! What a configuration is before its keys are read. The values that count are those of the table of keys; these only
//! fill its places.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{
    Anonymous, Attestation, AuditLog, Backup, Billing, ClientCertificates, Config, Devices, DpopNonce, Engine,
    Enrollment, Grpc, Heartbeat, Http, Integrations, Intel, KEYS, Limits, Listener, Log, LogFormat, LogLevel, Machine,
    Paths, Paywall, Retention, Store, Tls, TlsVersion, Tokens, Tracing, Webauthn,
};

impl Default for Config {
    /// Every key at its default, as with no file, no variables and no flags.
    fn default() -> Self {
        let mut config = Self::blank();
        for key in KEYS {
            if let Some(word) = key.default {
                let accepted = key.kind.accept(&key.kind.read_word(word), &mut config);
                debug_assert!(accepted.is_ok(), "the default of {} is refused", key.name);
            }
        }
        config
    }
}

impl Config {
    /// Nothing set yet: a place for the table's setters to write to, never handed out. A test proves that the table
    /// reaches every field.
    pub(super) fn blank() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let none = Duration::ZERO;
        Self {
            paths: Paths { data: PathBuf::new(), certs: PathBuf::new(), sealing_key: None },
            http: Http {
                listen,
                max_connections: 0,
                connections_per_address: 0,
                trusted_proxies: Vec::new(),
                allowed_origins: Vec::new(),
                header_timeout: none,
                idle_timeout: none,
                body_timeout: none,
                answer_timeout: none,
            },
            grpc: Grpc {
                listen,
                certificate: none,
                streams_per_connection: 0,
                deadline: none,
                stream_max: none,
                stream_idle: none,
                stream_messages_per_minute: 0,
                health: false,
                reflection: false,
            },
            internal: Listener { listen },
            tls: Tls {
                min_version: TlsVersion::V1_3,
                names: Vec::new(),
                certificate: None,
                key: None,
                certificate_lifetime: none,
                client_certificates: ClientCertificates::Off,
            },
            tokens: Tokens {
                issuer: String::new(),
                audience: String::new(),
                access_ttl: none,
                refresh_ttl: none,
                refresh_absolute: none,
                dpop_nonce: DpopNonce::Optional,
                signing_key: None,
                next_key: None,
            },
            webauthn: Webauthn::default(),
            attestation: Attestation {
                nonce_ttl: none,
                heals: false,
                releases_score_locks: false,
                renew: none,
                require_status_list: true,
                policy: None,
                apple_app_id: None,
                play: None,
            },
            enrollment: Enrollment { open_tenant: None },
            billing: Billing {
                webhook_secret: None,
                webhook_secret_next: None,
                webhook_secret_previous: None,
                provider_secrets: Vec::new(),
                webhook_allow: Vec::new(),
                plans: None,
                vendor_key: None,
                paywall: Paywall::Device,
                trial: none,
            },
            devices: Devices { max: 0 },
            anonymous: Anonymous { limiter: true, limit: 0, window: none },
            limits: Limits {
                enroll_per_minute: 0,
                refresh_per_minute: 0,
                login_failures_per_minute: 0,
                auth_failures_per_minute: 0,
                read_per_minute: 0,
                write_per_minute: 0,
                socket_handshakes_per_minute: 0,
            },
            retention: Retention { signals: none },
            engine: Engine {
                threshold: 0,
                weight_accelerometer: 0,
                weight_gyroscope: 0,
                weight_touch: 0,
                weight_network: 0,
                shadow_threshold: 0,
                shadow_population: None,
                simplified_from: 0,
            },
            intel: Intel {
                sources: None,
                ca_certificates: PathBuf::new(),
                stale: none,
                critical_confidence: 0,
                indicators_max: 0,
                tenant_indicators_max: 0,
                feed_bytes: 0,
            },
            integrations: Integrations { allow_addresses: Vec::new(), ca_certificates: PathBuf::new(), timeout: none },
            heartbeat: Heartbeat { next: none },
            store: Store { cache_bytes: 0, two_phase_commit: true, quick_repair: false, checkpoint_bytes: 0 },
            machine: Machine::default(),
            log: Log { level: LogLevel::Info, format: LogFormat::Auto },
            tracing: Tracing {
                otlp_endpoint: None,
                otlp_authorization: None,
                sample_ppm: 10_000,
                ca_certificates: PathBuf::from("/etc/ssl/certs/ca-certificates.crt"),
            },
            audit: AuditLog::default(),
            backup: Backup {
                directory: None,
                every: none,
                recipients: Vec::new(),
                unencrypted: false,
                keep_hourly: 0,
                keep_daily: 0,
                keep_monthly: 0,
                drill_every: none,
                drill_identity_file: None,
            },
        }
    }
}
