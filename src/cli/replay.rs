//! `audit replay`: a decision, recomputed from what is stored.

use serde_json::json;

use super::args::{ReplayArgs, exit};
use super::{Failure, Outcome, output};
use crate::app::engine_policy;
use crate::config::Config;
use crate::domains::signals;
use crate::domains::signals::engine::{Population, Test, VERSION};
use crate::domains::tenants::Tenants;
use crate::kernel::ids::SignalId;
use crate::store::Store;

pub(super) fn run(config: &Config, args: &ReplayArgs) -> Outcome {
    let signal: SignalId = args
        .signal
        .parse()
        .map_err(|_| Failure::Usage(format!("{} is no signal's id; they look like sig_019b0a5e-...", args.signal)))?;
    let file = args.file.as_deref().unwrap_or(&config.paths.data);
    let store = Store::look(file).map_err(crate::kernel::Error::internal)?;
    let tenants: Vec<_> = Tenants::rebuild(store.clone())?.entries().iter().map(|tenant| tenant.id).collect();
    let policy = engine_policy(config, config.engine.threshold);
    let Some(replayed) = signals::replay(&store.read()?, &tenants, signal, &policy)? else {
        return Err(Failure::Failed(format!(
            "Nothing is stored of {signal}. Readings of an allowed heartbeat are kept for {} days.",
            config.retention.signals.as_secs() / 86_400
        )));
    };
    let a = &replayed.assessment;
    let (score, decision, threshold) = replayed.recorded;
    let same = replayed.same();
    if args.json {
        let features: serde_json::Map<String, serde_json::Value> =
            a.features.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let tests: Vec<_> = Test::ALL
            .iter()
            .zip(a.tests)
            .map(|(t, w)| {
                json!({ "test": t.as_str(), "value": w.value, "usual": w.usual, "decades": w.decades, "evidence": w.level })
            })
            .collect();
        output::to_stdout(&output::json(&json!({
            "signal_id": signal, "same": same, "engine_version": VERSION,
            "population_version": Population::shipped().version,
            "heartbeats_replayed": replayed.heartbeats, "readings": replayed.readings,
            "recorded": { "score": score, "decision": decision, "threshold": threshold },
            "recomputed": { "score": a.score, "decision": a.decision.as_str(), "threshold": a.threshold },
            "reasons": a.reasons.iter().map(|r| r.name()).collect::<Vec<_>>(),
            "features": features, "tests": tests,
        })))?;
    } else {
        let mut text = format!(
            "{signal}: answered {decision} with {score} of 100 at threshold {threshold}; recomputed {} with {} at {}.\n",
            a.decision.as_str(),
            a.score.points(),
            a.threshold
        );
        text.push_str(if same { "They are the same.\n" } else { "They differ: was the policy another one then?\n" });
        for reason in a.reasons.iter() {
            text.push_str(&format!("  {}\n", reason.sentence()));
        }
        output::to_stdout(&text)?;
    }
    Ok(if same { exit::DONE } else { exit::FAILED })
}
