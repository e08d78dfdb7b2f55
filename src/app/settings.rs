//! The configuration in the words of the services: files that it names are read, units are turned.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::attest::play;
use crate::attest::policy::Policy;
use crate::config::{self, Config, DpopNonce};
use crate::crypto::VerifyingKey;
use crate::domains::attestation;
use crate::domains::billing::{self, SharedSecret};
use crate::domains::signals::{self, engine};
use crate::gate::{Authority, GateSettings, GrpcSettings};
use crate::kernel::{Error, Result};
use crate::observe::Traces;

/// Reads the files that the configuration names for attestations.
pub(super) fn attestation(config: &Config) -> Result<attestation::Settings> {
    let read = |key: &str, path: &std::path::Path| {
        let cannot = |e| Error::Internal(format!("{key}: {} could not be read: {e}", path.display()));
        std::fs::read_to_string(path).map_err(cannot)
    };
    let wrong =
        |key: &str, path: &std::path::Path, e: String| Error::Internal(format!("{key}: {}: {e}", path.display()));
    let wanted = &config.attestation;
    let mut policy = match &wanted.policy {
        Some(path) => {
            let text = read("attestation.policy", path)?;
            Policy::from_toml(&text).map_err(|e| wrong("attestation.policy", path, e.to_string()))?
        }
        None => Policy::default(),
    };
    policy.android.require_status_list |= wanted.require_status_list;
    let play = match &wanted.play {
        Some(path) => {
            let text = read("attestation.play", path)?;
            let wrong = |e: String| wrong("attestation.play", path, e);
            let members = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
            Some(play::expectations(&members, &policy.play).map_err(|e| wrong(e.to_string()))?)
        }
        None => None,
    };
    Ok(attestation::Settings {
        nonce_ttl: wanted.nonce_ttl,
        heals: wanted.heals,
        releases_score: wanted.releases_score_locks,
        renew_after: wanted.renew,
        policy,
        apple_app_id: wanted.apple_app_id.clone(),
        play,
    })
}

pub(super) fn billing(config: &Config) -> Result<billing::Settings> {
    let wanted = &config.billing;
    let shared = |secret: &config::Secret| SharedSecret::new(secret.expose()).map_err(Error::internal);
    let secrets = [&wanted.webhook_secret, &wanted.webhook_secret_next, &wanted.webhook_secret_previous];
    let own = wanted.provider_secrets.iter().map(|(name, secret)| Ok((name.clone(), shared(secret)?)));
    Ok(billing::Settings {
        paywall: match wanted.paywall {
            config::Paywall::Device => billing::Paywall::Device,
            config::Paywall::Off => billing::Paywall::Off,
        },
        trial: wanted.trial,
        plans: wanted.plans.clone(),
        secrets: secrets.into_iter().flatten().map(shared).collect::<Result<_>>()?,
        provider_secrets: own.collect::<Result<_>>()?,
        allow: wanted.webhook_allow.clone(),
        devices_max: config.devices.max as u64,
        vendor_key: wanted.vendor_key.as_deref().map(vendor_key).transpose()?,
    })
}

fn vendor_key(path: &std::path::Path) -> Result<VerifyingKey> {
    let wrong = |e: String| Error::Internal(format!("billing.vendor_key: {}: {e}", path.display()));
    let pem = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    VerifyingKey::from_spki_pem(&pem).map_err(|e| wrong(e.to_string()))
}

/// What the configuration says about scores, with this threshold.
pub fn engine_policy(config: &Config, threshold: u8) -> engine::Policy {
    let w = &config.engine;
    let weights = [w.weight_accelerometer, w.weight_gyroscope, w.weight_touch, w.weight_network]
        .map(|percent| f32::from(percent) / 100.0);
    engine::Policy { threshold, weights, ..engine::Policy::default() }
}

/// What the configuration says about the way in.
pub(super) fn gate(config: &Config, authority: Arc<ArcSwapOption<Authority>>, traces: Arc<Traces>) -> GateSettings {
    GateSettings {
        traces,
        quotas: crate::gate::Quotas {
            read: config.limits.read_per_minute,
            write: config.limits.write_per_minute,
            public: config.limits.enroll_per_minute.max(config.limits.write_per_minute),
            login_failures: config.limits.login_failures_per_minute,
            auth_failures: config.limits.auth_failures_per_minute,
            handshakes: config.limits.socket_handshakes_per_minute,
        },
        body_timeout: config.http.body_timeout,
        answer_timeout: config.http.answer_timeout,
        authority,
        trusted_proxies: config.http.trusted_proxies.clone(),
        allowed_origins: config.http.allowed_origins.clone(),
        dpop_nonce_required: config.tokens.dpop_nonce == DpopNonce::Required,
        grpc: GrpcSettings {
            reflection: config.grpc.reflection,
            health: config.grpc.health,
            deadline: config.grpc.deadline,
            stream_max: config.grpc.stream_max,
            stream_idle: config.grpc.stream_idle,
            stream_messages_per_minute: config.grpc.stream_messages_per_minute,
        },
    }
}

/// What the configuration says about heartbeats.
pub(super) fn signals(config: &Config) -> Result<signals::Settings> {
    Ok(signals::Settings {
        next_heartbeat: config.heartbeat.next,
        policy: engine_policy(config, config.engine.threshold),
        shadow: shadow(config)?,
        scoring: signals::ScoringBounds {
            mean: config.machine.breaker.mean,
            p95: config.machine.breaker.tail,
            throughput_min: config.machine.breaker.throughput_min,
            queue: config.engine.simplified_from,
            open: config.machine.breaker.open,
        },
        retention: config.retention.signals,
        checkpoint_bytes: config.store.checkpoint_bytes as u64,
    })
}

/// What judges beside the active engine, as far as the configuration asks for it.
fn shadow(config: &Config) -> Result<Option<signals::Candidate>> {
    let policy = match config.engine.shadow_threshold {
        0 => engine_policy(config, config.engine.threshold),
        threshold => engine_policy(config, threshold),
    };
    let Some(path) = &config.engine.shadow_population else {
        let candidate = signals::Candidate { policy, population: None };
        return Ok((config.engine.shadow_threshold > 0).then_some(candidate));
    };
    let bad = |why: String| Error::Internal(format!("engine.shadow_population: {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    let population = engine::Population::parse(&text).map_err(|e| bad(e.to_string()))?;
    // Every device's engine refers to it for as long as the process lives.
    Ok(Some(signals::Candidate { policy, population: Some(Box::leak(Box::new(population))) }))
}
