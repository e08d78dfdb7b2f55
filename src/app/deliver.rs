//! Carries what integrations send: from what is meant (`domains::integrations`) to bytes on a wire (`net::outbound`).

use std::path::Path;
use std::sync::Arc;

use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::Environment;
use crate::config::Config;
use crate::domains::billing::Billing;
use crate::domains::iam::KeyCustody;
use crate::domains::integrations::{Integrations, Parcel, Parts, Receipt, Sending, Tls, Transport};
use crate::domains::tenants::Tenants;
use crate::kernel::trace::{TARGET, TraceContext};
use crate::kernel::url::Url;
use crate::kernel::{Clock, Random, Result};
use crate::net::fetch;
use crate::net::outbound::{Mail, MailTls, Outbound, Settings, SystemResolver};
use crate::observe::{Metrics, Traces};
use crate::store::Store;

/// The domain with the network below it.
pub(super) fn integrations(
    config: &Config,
    env: &Environment,
    store: &Store,
    (tenants, billing): (&Tenants, &Billing),
    custody: &KeyCustody,
    (metrics, traces): (&Arc<Metrics>, &Arc<Traces>),
) -> Result<Integrations> {
    let told = Arc::clone(metrics);
    let parts = Parts {
        tenants: tenants.clone(),
        billing: billing.clone(),
        sealing: Arc::clone(&custody.sealing),
        transport: Arc::new(Wire::new(config, env, traces)),
        host_name: host_name(),
        clock: env.clock.clone(),
        random: env.random.clone(),
        observer: Arc::new(move |kind, result| told.delivery(kind, result)),
    };
    Integrations::rebuild(store.clone(), parts)
}

/// The machine's name, as far as it fits into a header.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if !name.is_empty() && name.len() <= 253 && name.chars().all(fits) { name } else { "blockremote".to_owned() }
}

/// Over the network, by the configuration's rules.
struct Wire {
    outbound: Outbound,
    traces: Arc<Traces>,
    clock: Clock,
    random: Random,
}

impl Wire {
    fn new(config: &Config, env: &Environment, traces: &Arc<Traces>) -> Self {
        let wanted = &config.integrations;
        let tls = trust(&wanted.ca_certificates);
        let settings =
            Settings { allow: wanted.allow_addresses.clone(), tls, timeout: wanted.timeout, host_name: host_name() };
        Self {
            outbound: Outbound::new(settings, Arc::new(SystemResolver)),
            traces: Arc::clone(traces),
            clock: env.clock.clone(),
            random: env.random.clone(),
        }
    }

    /// The span of one attempt, and its place for the receiver to go on from.
    fn begin(&self, kind: &'static str) -> (Span, Option<TraceContext>) {
        self.traces.begin(None, self.clock.now(), &self.random, || {
            tracing::info_span!(
                target: TARGET,
                "delivery",
                otel.name = format_args!("deliver by {kind}"),
                otel.kind = "client",
                otel.status_code = Empty,
                http.response.status_code = Empty,
            )
        })
    }
}

/// A machine without the file can still serve who is called without TLS; who is called with it hears why it cannot be.
fn trust(path: &Path) -> Option<Arc<rustls::ClientConfig>> {
    fetch::trust(path).inspect_err(|e| tracing::debug!("integrations.ca_certificates: {e}")).ok()
}

impl Transport for Wire {
    fn send(&self, parcel: Parcel) -> Sending {
        let outbound = self.outbound.clone();
        let (span, place) = self.begin(match &parcel {
            Parcel::Post { .. } => "HTTP",
            Parcel::Line { .. } => "syslog",
            Parcel::Mail { .. } => "SMTP",
        });
        let (told, here) = (span.clone(), span.clone());
        let work = async move {
            match parcel {
                Parcel::Post { url, mut headers, body } => {
                    let url = Url::parse(&url)?;
                    headers.extend(place.map(|place| ("traceparent", place.to_string())));
                    let answer = outbound.post(&url, &headers, body.into()).await?;
                    here.record("http.response.status_code", answer.status);
                    let start = String::from_utf8_lossy(&answer.start).into_owned();
                    Ok(Receipt { status: Some(answer.status), retry_after: answer.retry_after, answer: start })
                }
                Parcel::Line { host, port, tls, frame } => {
                    outbound.line(&host, port, tls, &frame).await?;
                    Ok(Receipt { answer: "sent".to_owned(), ..Receipt::default() })
                }
                Parcel::Mail { host, port, tls, login, from, to, subject, text, id, written } => {
                    let tls = match tls {
                        Tls::Tls => MailTls::Implicit,
                        Tls::Starttls => MailTls::StartTls,
                        Tls::None => MailTls::None,
                    };
                    let written_s = u64::try_from(written.as_secs()).unwrap_or(0);
                    let mail = Mail { host, port, tls, login, from, to, subject, text, id, written_s };
                    Ok(Receipt { answer: outbound.mail(&mail).await?, ..Receipt::default() })
                }
            }
        };
        let work = async move {
            work.await.inspect_err(|_: &String| {
                told.record("otel.status_code", "ERROR");
            })
        };
        Box::pin(work.instrument(span))
    }
}
