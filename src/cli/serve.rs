//! `serve`: runs the appliance until it is told to stop.

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use super::args::exit;
use super::init::FirstStart;
use super::output::{self, Style};
use super::{Failure, Outcome, runtime};
use crate::app::place::Place;
use crate::app::supervisor::{Inherited, Supervisor};
use crate::app::{App, Environment, sandbox, tracing as traces};
use crate::config::{Loaded, LogFormat, LogLevel};
use crate::observe::logs;

/// `again` loads the configuration anew, for SIGHUP.
pub(super) fn run(loaded: &Loaded, again: &dyn Fn() -> Result<Loaded, Failure>) -> Outcome {
    let config = &loaded.config;
    let variable = |name: &str| std::env::var(name).ok();
    // Before there are threads: both concern the whole process.
    let inherited = Inherited::from_environment();
    let on_terminal = Style::stderr().is_terminal();
    let json = match config.log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !on_terminal,
    };
    Place::of(config).make_folders()?;
    let given_up = sandbox::enter(config)?;
    let export = traces::export(config)?;
    logs::start(filter(config.log.level), json, on_terminal, export.as_ref());
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    given_up.note();
    take_open_files();
    let supervisor = Supervisor::of(&variable);
    runtime()?.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hang_up = signal(SignalKind::hangup())?;
        let environment = Environment { inherited: inherited.clone(), export: export.clone(), ..Environment::system() };
        let (app, first) = App::start(config, &environment).await?;
        for port in inherited.left() {
            tracing::warn!(
                port,
                "a listener was handed over that no *.listen of the configuration names; it is not served"
            );
        }
        if let Some(first) = first {
            FirstStart::new(config, app.addresses.http, first)?.show_once(on_terminal)?;
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            http = %app.addresses.http,
            grpc = %app.addresses.grpc,
            internal = %app.addresses.internal,
            data = %config.paths.data.display(),
            devices = app.services.devices.count(),
            "the appliance is ready"
        );
        let ready = json!({
            "http": app.addresses.http.to_string(),
            "grpc": app.addresses.grpc.to_string(),
            "internal": app.addresses.internal.to_string(),
        });
        output::to_stdout(&format!("ready {ready}\n"))?;
        supervisor.tell(&format!("READY=1\nSTATUS=Serving on {}", app.addresses.http));
        let mut running = Running { rows: loaded.rows.iter().map(|row| (row.key.name, row.shown())).collect() };
        let broken = loop {
            tokio::select! {
                _ = terminate.recv() => break false,
                _ = interrupt.recv() => break false,
                () = app.store_failed() => break true,
                _ = hang_up.recv() => {
                    supervisor.tell("RELOADING=1");
                    running.reload(&app, again()).await;
                    supervisor.tell("READY=1");
                }
                () = watchdog(&supervisor, &app) => {}
            }
        };
        tracing::info!(broken, "the appliance shuts down");
        supervisor.tell("STOPPING=1");
        if broken {
            // Those who wait hear that the outcome is unknown; then the process ends, so that the next start reads the
            // medium anew.
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            return Err(Failure::Failed(
                "The data file failed; see the log. Check the disk, then start the appliance again.".to_owned(),
            ));
        }
        if !app.shut_down().await {
            tracing::warn!("some connections did not end within ten seconds and were cut");
        }
        if let Some(export) = export {
            // It waits for its thread, which sends on this runtime.
            let _ = tokio::task::spawn_blocking(move || export.shut_down()).await;
        }
        Ok(exit::DONE)
    })
}

/// A connection for each device needs an open file each; shells allow 1,024, of which more may be taken.
fn take_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let allowed = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, maximum: allowed.maximum }) {
        tracing::warn!(error = %e, "the number of open files could not be raised");
    }
}

/// Gives signs of life as long as the appliance gets round to its work; for good where nobody wants any.
async fn watchdog(supervisor: &Supervisor, app: &App) {
    let Some(every) = supervisor.sign_of_life_every() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(every / 2).await;
        if app.is_alive(every).await {
            supervisor.tell("WATCHDOG=1");
        } else {
            tracing::error!("the appliance does not get round to its work; its supervisor will restart it");
        }
    }
}

/// Keys that count from the next SIGHUP on; what the named files hold is read anew in any case.
const RELOADED: &[&str] = &["log.level", "tls.certificate", "tls.key", "tls.names"];

/// What the appliance runs with, as it would be shown.
struct Running {
    rows: Vec<(&'static str, String)>,
}

impl Running {
    /// Takes over what can be taken over. A configuration that is wrong anywhere changes nothing.
    async fn reload(&mut self, app: &App, loaded: Result<Loaded, Failure>) {
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(failure) => {
                let why = failure.text();
                tracing::error!(why, "the configuration is broken: nothing was taken over, the old one stays in force");
                return;
            }
        };
        let ends = match app.reload(&loaded.config).await {
            Ok(ends) => ends,
            Err(e) => {
                tracing::error!(why = %e, "the certificate could not be read anew: nothing was taken over, the old one stays in force");
                return;
            }
        };
        logs::set_level(filter(loaded.config.log.level));
        let rows: Vec<_> = loaded.rows.iter().map(|row| (row.key.name, row.shown())).collect();
        let changed = |name: &&str| {
            let of = |rows: &[(&'static str, String)]| rows.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            of(&rows) != of(&self.rows)
        };
        let waiting: Vec<&str> =
            rows.iter().map(|(name, _)| *name).filter(|n| !RELOADED.contains(n)).filter(changed).collect();
        if !waiting.is_empty() {
            tracing::warn!(keys = waiting.join(", "), "these keys changed and count from the next start on");
        }
        for (name, value) in &mut self.rows {
            if let Some((_, new)) = rows.iter().find(|(n, _)| n == name).filter(|_| RELOADED.contains(name)) {
                value.clone_from(new);
            }
        }
        tracing::info!(certificate_ends = %ends, "the configuration and the certificate were read anew");
    }
}

const fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
