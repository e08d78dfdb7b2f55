//! `audit replay`: a decision, recomputed from what is stored.

use serde_json::Value;

use super::args::{ReplayArgs, exit};
use super::{Failure, Outcome, output};
use crate::app::control::{self, Ask};
use crate::app::place::Place;
use crate::app::{engine_policy, replay};
use crate::config::Config;
use crate::domains::signals::engine::Reason;
use crate::domains::tenants::Tenants;
use crate::kernel::Error;
use crate::kernel::ids::SignalId;
use crate::store::Store;

pub(super) fn run(config: &Config, args: &ReplayArgs) -> Outcome {
    let signal: SignalId = args
        .signal
        .parse()
        .map_err(|_| Failure::Usage(format!("{} is no signal's id; they look like sig_019b0a5e-...", args.signal)))?;
    // A running appliance has its file to itself, and answers for it.
    let running = match &args.file {
        None => control::ask(&Place::of(config).control_socket(), &Ask::Replay { signal })?,
        Some(_) => None,
    };
    let replayed = match running {
        Some(answer) => Some(answer).filter(|answer| !answer.is_null()),
        None => {
            let file = args.file.as_deref().unwrap_or(&config.paths.data);
            let store = Store::look(file).map_err(Error::internal)?;
            let policy = engine_policy(config, config.engine.threshold);
            replay::recompute(&store.read()?, &Tenants::rebuild(store.clone())?, signal, &policy)?
        }
    };
    let Some(replayed) = replayed else {
        return Err(Failure::Failed(format!(
            "Nothing is stored of {signal}. Readings of an allowed heartbeat are kept for {} days.",
            config.retention.signals.as_secs() / 86_400
        )));
    };
    let same = replayed.get("same").and_then(Value::as_bool) == Some(true);
    if args.json {
        output::to_stdout(&output::json(&replayed))?;
    } else {
        output::to_stdout(&in_words(signal, &replayed, same))?;
    }
    Ok(if same { exit::DONE } else { exit::FAILED })
}

fn in_words(signal: SignalId, replayed: &Value, same: bool) -> String {
    let said = |when: &str| {
        let of = |name: &str| replayed.get(when).and_then(|answer| answer.get(name)).cloned().unwrap_or_default();
        (of("decision").as_str().unwrap_or_default().to_owned(), of("score"), of("threshold"))
    };
    let ((then, score_then, threshold_then), (now, score, threshold)) = (said("recorded"), said("recomputed"));
    let mut text = format!(
        "{signal}: answered {then} with {score_then} of 100 at threshold {threshold_then}; recomputed {now} with {score} at \
         {threshold}.\n"
    );
    text.push_str(if same { "They are the same.\n" } else { "They differ: was the policy another one then?\n" });
    let names = replayed.get("reasons").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for reason in names.filter_map(|name| Reason::ALL.iter().find(|r| r.name() == name)) {
        text.push_str(&format!("  {}\n", reason.sentence()));
    }
    text
}
