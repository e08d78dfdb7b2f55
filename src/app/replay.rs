//! A decision, recomputed from what is stored: the same answer from a running appliance and from its file.

use serde_json::{Value, json};

use crate::domains::signals;
use crate::domains::signals::engine::{Policy, Population, Test, VERSION};
use crate::domains::tenants::Tenants;
use crate::kernel::Result;
use crate::kernel::ids::SignalId;
use crate::store::Snapshot;

/// What was answered then and what the engine makes of it now, with every figure behind it; `None` where nothing is
/// stored of the heartbeat.
///
/// # Errors
/// As [`signals::replay`].
pub fn recompute(snapshot: &Snapshot, tenants: &Tenants, signal: SignalId, policy: &Policy) -> Result<Option<Value>> {
    let tenants: Vec<_> = tenants.entries().iter().map(|tenant| tenant.id).collect();
    let Some(replayed) = signals::replay(snapshot, &tenants, signal, policy)? else { return Ok(None) };
    let a = &replayed.assessment;
    let (score, decision, threshold) = replayed.recorded;
    let features: serde_json::Map<String, Value> =
        a.features.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let tests: Vec<_> = Test::ALL
        .iter()
        .zip(a.tests)
        .map(|(t, w)| {
            json!({ "test": t.as_str(), "value": w.value, "usual": w.usual, "decades": w.decades, "evidence": w.level })
        })
        .collect();
    Ok(Some(json!({
        "signal_id": signal, "same": replayed.same(), "engine_version": VERSION,
        "population_version": Population::shipped().version,
        "heartbeats_replayed": replayed.heartbeats, "readings": replayed.readings,
        "recorded": { "score": score, "decision": decision, "threshold": threshold },
        "recomputed": { "score": a.score, "decision": a.decision.as_str(), "threshold": a.threshold },
        "reasons": a.reasons.iter().map(|r| r.name()).collect::<Vec<_>>(),
        "features": features, "tests": tests,
    })))
}
