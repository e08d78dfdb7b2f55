//! Leads traces to the collector that the configuration names.

use std::sync::Arc;

use crate::config::Config;
use crate::kernel::url::Url;
use crate::kernel::{Error, Result};
use crate::net::fetch::{self, Sent};
use crate::observe::Traces;
use crate::observe::otlp::{Collector, Export};

/// Of a collector's answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Where a collector takes traces, if the configuration does not say (OTLP specification, "OTLP/HTTP Request").
const TRACES: &str = "/v1/traces";

fn collector(config: &Config) -> Result<Option<Url>> {
    let Some(text) = &config.tracing.otlp_endpoint else { return Ok(None) };
    let wrong = |e: String| Error::Internal(format!("tracing.otlp_endpoint: {e}"));
    let url = Url::parse(text).map_err(wrong)?;
    if url.target() != "/" {
        return Ok(Some(url));
    }
    Url::parse(&format!("{}{TRACES}", text.trim_end_matches('/'))).map(Some).map_err(wrong)
}

/// Which requests are traced: none where they have nowhere to go.
pub(super) fn traces(config: &Config, export: Option<&Export>) -> Arc<Traces> {
    Arc::new(Traces::new(export.map(|_| config.tracing.sample_ppm)))
}

/// The way to the collector; its thread starts now, and nothing is sent before [`connect`].
///
/// # Errors
/// A sentence that names the setting.
pub fn export(config: &Config) -> Result<Option<Export>> {
    let Some(url) = collector(config)? else { return Ok(None) };
    let scheme = if url.is_secure() { "https" } else { "http" };
    let authorization = match config.tracing.otlp_authorization.as_ref().map(|secret| secret.expose()) {
        Some(bytes) => Some(std::str::from_utf8(bytes).map_err(Error::internal)?.to_owned()),
        None => None,
    };
    let instance = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let endpoint = format!("{scheme}://{}{}", url.authority(), url.target());
    let export = Export::start(Collector { endpoint, authorization, instance });
    export.map(Some).map_err(|e| Error::Internal(format!("tracing.otlp_endpoint: {e}")))
}

/// Lets messages go out, on the runtime that this is called in.
///
/// # Errors
/// As [`export`]; and where a collector is to be trusted by authorities that cannot be read.
pub(super) fn connect(export: &Export, config: &Config) -> Result<()> {
    let Some(url) = collector(config)? else { return Ok(()) };
    let tls = match url.is_secure() {
        true => Some(
            fetch::trust(&config.tracing.ca_certificates)
                .map_err(|e| Error::Internal(format!("tracing.ca_certificates: {e}")))?,
        ),
        false => None,
    };
    let url = Arc::new(url);
    export.send_by(Box::new(move |message| {
        let (url, tls) = (Arc::clone(&url), tls.clone());
        Box::pin(async move {
            let sent = Sent { headers: message.headers, body: message.body };
            fetch::post(&url, tls, sent, ANSWER_BYTES_MAX).await
        })
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_collector_is_named_with_or_without_its_path() {
        for (given, expected) in [
            ("http://collector:4318", "/v1/traces"),
            ("http://collector:4318/", "/v1/traces"),
            ("https://collector/otlp/v1/traces", "/otlp/v1/traces"),
        ] {
            let mut config = Config::default();
            config.tracing.otlp_endpoint = Some(given.to_owned());
            assert_eq!(collector(&config).unwrap().unwrap().target(), expected, "{given}");
        }
        let mut config = Config::default();
        config.tracing.otlp_endpoint = Some("grpc://collector:4317".to_owned());
        assert!(collector(&config).unwrap_err().to_string().contains("tracing.otlp_endpoint"));
    }
}
