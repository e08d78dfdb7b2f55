//! `serve`: runs the appliance until it is told to stop.

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use super::args::exit;
use super::init::FirstStart;
use super::output::{self, Style};
use super::{Failure, Outcome, runtime};
use crate::app::{App, Environment};
use crate::config::{Loaded, LogFormat, LogLevel};
use crate::observe::logs;

pub(super) fn run(loaded: &Loaded) -> Outcome {
    let config = &loaded.config;
    let on_terminal = Style::stderr().is_terminal();
    let json = match config.log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !on_terminal,
    };
    logs::start(filter(config.log.level), json, on_terminal);
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    runtime()?.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let environment = Environment::system();
        let (app, first) = App::start(config, &environment).await?;
        if let Some(first) = first {
            FirstStart::new(config, app.addresses.http, first)?.show_once(on_terminal)?;
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            http = %app.addresses.http,
            internal = %app.addresses.internal,
            data = %config.paths.data.display(),
            devices = app.services.devices.count(),
            "the appliance is ready"
        );
        let ready = json!({
            "http": app.addresses.http.to_string(),
            "grpc": null,
            "internal": app.addresses.internal.to_string(),
        });
        output::to_stdout(&format!("ready {ready}\n"))?;
        let broken = tokio::select! {
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
            () = app.store_failed() => true,
        };
        tracing::info!(broken, "the appliance shuts down");
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
        Ok(exit::DONE)
    })
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
