//! `init`, and what the first start shows once.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;

use super::args::exit;
use super::output::{self, Style};
use super::{Failure, Outcome};
use crate::app::place::{Place, host_name};
use crate::app::{self, Environment};
use crate::config::Config;
use crate::domains::iam::FirstSecrets;
use crate::domains::tenants::Tenants;
use crate::kernel::{Result, files};
use crate::store::{OpenError, Store};

pub(super) fn run(config: &Config, as_json: bool) -> Outcome {
    let refused = || {
        Failure::Refused(format!(
            "{} is set up already; nothing was changed. Start it with `blockremote serve`.",
            config.paths.data.display()
        ))
    };
    // Opening the file properly would already write to it.
    match Store::look(&config.paths.data) {
        Ok(store) if Tenants::first(&store.read()?)?.is_some() => return Err(refused()),
        Err(OpenError::InUse(_)) => return Err(refused()),
        // Missing, empty, or begun and not finished: that is what `init` is for. A damaged one is refused below.
        _ => {}
    }
    let opened = app::open(config, &Environment::system(), true)?;
    let first = opened.first.ok_or_else(refused)?;
    let first = FirstStart::new(config, config.http.listen, first)?;
    if as_json {
        output::to_stdout(&output::json(&first.to_json()))?;
    } else {
        output::to_stdout(&first.boxed(Style::stdout()))?;
    }
    Ok(exit::DONE)
}

/// The secrets of the first start and how to go on with them.
pub(super) struct FirstStart {
    url: String,
    ca_certificate: PathBuf,
    ca_fingerprint: String,
    secrets_file: PathBuf,
    secrets: FirstSecrets,
}

impl FirstStart {
    pub fn new(config: &Config, address: SocketAddr, secrets: FirstSecrets) -> Result<Self> {
        let place = Place::of(config);
        let host = if address.ip().is_loopback() { "localhost".to_owned() } else { host_name() };
        let ca = place.ca_certificate();
        Ok(Self {
            url: format!("https://{host}:{}", address.port()),
            ca_certificate: std::fs::canonicalize(&ca).unwrap_or(ca),
            ca_fingerprint: place.ca_fingerprint()?,
            secrets_file: place.secrets_file(),
            secrets,
        })
    }

    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "url": self.url,
            "ca_certificate": self.ca_certificate,
            "ca_fingerprint_sha256": self.ca_fingerprint,
            "admin": { "username": self.secrets.username, "password": self.secrets.password.expose() },
            "tenant": self.secrets.tenant,
            "enrollment_token": self.secrets.enrollment_token,
        })
    }

    pub fn boxed(&self, style: Style) -> String {
        let ca = self.ca_certificate.display().to_string();
        let tenant = self.secrets.tenant.to_string();
        let rows = [
            ("URL", self.url.as_str()),
            ("CA certificate", &ca),
            ("CA SHA-256", &self.ca_fingerprint),
            ("Tenant", &tenant),
            ("User", &self.secrets.username),
            ("Password", self.secrets.password.expose()),
            ("Enrollment token", &self.secrets.enrollment_token),
        ];
        let footer = "Shown once: write them down now. The token enrolls devices for 30 days.\n\
                      Try next, in another terminal:  cargo run --release -- agent --fleet 50 --takeover 3\n\
                      (installed:  blockremote agent --fleet 50 --takeover 3)";
        output::secret_box(style, "BlockRemote is set up", &rows, footer)
    }

    /// On a terminal in a box, otherwise in a file for its owner alone, because a log would keep the secrets for ever.
    pub fn show_once(&self, on_terminal: bool) -> Result<()> {
        let cannot =
            |e: std::io::Error| crate::kernel::Error::internal(format!("the first secrets could not be shown: {e}"));
        if on_terminal {
            return output::to_stderr(&self.boxed(Style::stderr())).map_err(cannot);
        }
        match std::fs::remove_file(&self.secrets_file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(e)),
            _ => {}
        }
        files::write_private(&self.secrets_file, self.boxed(Style::plain()).as_bytes()).map_err(cannot)?;
        let file = self.secrets_file.display();
        tracing::warn!(%file, "the first secrets are in this file: read it, then delete it");
        Ok(())
    }
}
