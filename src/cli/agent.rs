//! `agent`: plays devices against a running appliance.

use std::time::Duration;

use super::args::{AgentArgs, Cli, Transport};
use super::{Failure, Outcome, admin, load, runtime};
use crate::agent::{self, Options, Output, TOKEN_VARIABLE};
use crate::kernel::{Clock, Random};

pub(super) fn run(cli: &Cli, args: &AgentArgs) -> Outcome {
    if args.takeover > args.fleet {
        return Err(Failure::Usage(format!("--takeover {} is more than --fleet {}", args.takeover, args.fleet)));
    }
    let variable = std::env::var(TOKEN_VARIABLE).ok();
    let given = agent::enrollment_token(args.token.as_deref(), args.token_file.as_deref(), variable.as_deref());
    let token = match given {
        Ok(token) => token,
        Err(missing) => load(cli)
            .ok()
            .and_then(|loaded| admin::agent_token(&loaded.config, args.fleet))
            .ok_or_else(|| Failure::Failed(missing.to_string()))?,
    };
    let mut options = Options::new(args.url.clone(), args.ca.clone(), token);
    options.ca_fingerprint.clone_from(&args.ca_fingerprint);
    options.devices = args.fleet as usize;
    options.taken_over = args.takeover as usize;
    options.takeover_after = Duration::from_secs(args.after_s);
    options.attacks.clone_from(&args.attack);
    options.replay.clone_from(&args.replay);
    options.heartbeat_interval = Duration::from_secs_f64(1.0 / args.rate_hz);
    options.stop_after = args.seconds.map(Duration::from_secs);
    options.seed = args.seed;
    options.prefix.clone_from(&args.prefix);
    options.tpm.clone_from(&args.tpm);
    options.transport = match args.transport {
        Transport::Ws => agent::Transport::Socket,
        Transport::Http => agent::Transport::Http,
    };
    options.output = match (args.json, args.no_table) {
        (true, _) => Output::Json,
        (false, true) => Output::Lines,
        (false, false) => Output::Table,
    };
    let played = runtime()?.block_on(agent::play(&options, &Clock::System, &Random::System));
    Ok(played.map_err(|e| Failure::Failed(e.to_string()))?.exit_code())
}
