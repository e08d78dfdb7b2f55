//! An appliance of its own for a bench: in a temporary folder, on free ports, with paid devices.

use std::sync::Arc;

use crate::app::{App, Environment};
use crate::cli::Failure;
use crate::config::Config;
use crate::domains::devices::{self, Paid, SensorsDeclared};
use crate::domains::iam::{Enrollment, EnrollmentBy, TokenPair};
use crate::domains::tenants::PlanTier;
use crate::kernel::Error;
use crate::kernel::context::Origin;
use crate::kernel::ids::DeviceId;
use crate::testkit::Folder;

pub(super) struct Place {
    pub app: App,
    pub config: Config,
    /// Device and access token.
    pub devices: Vec<(DeviceId, String)>,
    /// Refresh tokens, in no order.
    pub refresh_tokens: Vec<String>,
    // Removed last.
    pub folder: Folder,
}

/// Enrollments that are under way at the same time: enough to fill commits.
const AT_ONCE: usize = 256;

/// The operator's own settings, but in the bench's folder, on free ports, without limits that would be measured.
fn config_in(folder: &Folder, mut config: Config) -> Result<Config, Failure> {
    config.paths.data = folder.path().join("data/blockremote.redb");
    config.paths.certs = folder.path().join("certs");
    let anywhere = "127.0.0.1:0".parse().map_err(|e| Failure::Failed(format!("{e}")))?;
    config.http.listen = anywhere;
    config.grpc.listen = anywhere;
    config.internal.listen = anywhere;
    config.devices.max = 1_000_000;
    config.limits.enroll_per_minute = 1_000_000;
    config.http.connections_per_address = 100_000;
    config.http.max_connections = 100_000;
    Ok(config)
}

/// What a device of a bench says of itself.
pub(super) fn wanted(id: &DeviceId) -> Enrollment {
    Enrollment {
        device_id: id.clone(),
        device_name: "bench".to_owned(),
        os_version: "1".to_owned(),
        platform: "bench".to_owned(),
        sensors: SensorsDeclared::default(),
        public_key: None,
        attestation: None,
        binding: None,
    }
}

impl Place {
    pub async fn open(settings: Config, devices: u32) -> Result<Self, Failure> {
        let folder = Folder::new()?;
        let config = config_in(&folder, settings)?;
        let (app, first) = App::start(&config, &Environment::system()).await?;
        let token = first.map(|f| f.enrollment_token).ok_or_else(|| Error::internal("the folder was not empty"))?;
        let mut place = Self { app, config, devices: Vec::new(), refresh_tokens: Vec::new(), folder };
        place.enroll(devices, &token).await?;
        Ok(place)
    }

    fn take(&mut self, (id, pair): (DeviceId, TokenPair)) {
        self.devices.push((id, pair.access_token));
        self.refresh_tokens.push(pair.refresh_token);
    }

    async fn enroll(&mut self, count: u32, token: &str) -> Result<(), Failure> {
        let services = Arc::clone(&self.app.services);
        let bar = indicatif::ProgressBar::new(u64::from(count)).with_message("enrolling devices");
        let mut running = tokio::task::JoinSet::new();
        for n in 0..count {
            if running.len() >= AT_ONCE
                && let Some(done) = running.join_next().await
            {
                self.take(done.map_err(Error::internal)??);
                bar.inc(1);
            }
            let (services, token) = (Arc::clone(&services), token.to_owned());
            running.spawn(async move {
                let id: DeviceId = format!("bench-{n:07}").parse().map_err(Error::internal)?;
                let enrolled = services.iam.enroll(wanted(&id), EnrollmentBy::Token(token), Origin::cli()).await?;
                // On the paid rate, so that no limit is measured.
                let registry = services.devices.clone();
                let paid = id.clone();
                let tenant =
                    services.iam.session(enrolled.pair.session).map(|s| s.tenant).ok_or(Error::OutcomeUnknown)?;
                let pay = move |tx: &mut crate::store::Tx<'_>| {
                    if let Some(mut device) = devices::load(tx, tenant, &paid)? {
                        device.paid = Some(Paid { tier: PlanTier::Paid, until: None });
                        devices::save(tx, &registry, &device)?;
                    }
                    Ok(())
                };
                services.store.write(pay).await?;
                Ok::<_, Error>((id, enrolled.pair))
            });
        }
        while let Some(done) = running.join_next().await {
            self.take(done.map_err(Error::internal)??);
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.devices.sort();
        Ok(())
    }
}
