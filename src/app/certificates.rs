//! The certificate that the public listener shows: made, renewed before it ends, read anew when the administrator says
//! so, and swapped while connections are open. Whatever goes wrong, the one that is served stays.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::place::{Place, renew_before};
use crate::config::Config;
use crate::crypto::certs;
use crate::kernel::{Clock, Error, Random, Result, Timestamp};
use crate::net::tls;

/// How often the end is compared with the clock. It costs nothing, and a clock may be set.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After a renewal that failed; and how often the end of a certificate is told that only its owner can renew.
const TRY_AGAIN: Duration = Duration::from_secs(3_600);
/// From when on the log reminds of a certificate that the administrator brought.
const REMIND_BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// What is served, and what it is made from.
pub struct Certificates {
    served: Arc<tls::Certificate>,
    clock: Clock,
    random: Random,
    state: Mutex<State>,
}

struct State {
    config: Config,
    ends: Timestamp,
    next_try: Timestamp,
}

impl State {
    /// A configuration that was read anew, with the folders of the running one: they change with a start.
    fn here(&self, config: &Config) -> Config {
        Config { paths: self.config.paths.clone(), ..config.clone() }
    }
}

/// Reads, or makes, chain and key; gives them and when they end.
fn files(config: &Config, clock: &Clock, random: &Random) -> Result<(super::place::ServerFiles, Timestamp)> {
    let files = Place::of(config).server_files(config, clock, random)?;
    let ends = certs::not_after(&files.chain_pem).map_err(Error::internal)?;
    Ok((files, ends))
}

impl Certificates {
    /// Reads, or makes, what is served at first.
    ///
    /// # Errors
    /// When there is none and none can be made.
    pub fn open(config: &Config, clock: Clock, random: Random) -> Result<Self> {
        let (files, ends) = files(config, &clock, &random)?;
        let served = Arc::new(tls::Certificate::from_pem(&files.chain_pem, &files.key_pem)?);
        let state = Mutex::new(State { config: config.clone(), ends, next_try: Timestamp::EPOCH });
        Ok(Self { served, clock, random, state })
    }

    /// For the listener.
    pub fn served(&self) -> Arc<tls::Certificate> {
        Arc::clone(&self.served)
    }

    /// When the served one ends.
    pub fn ends(&self) -> Timestamp {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ends
    }

    /// Reads the files anew, from where this configuration says they are.
    ///
    /// # Errors
    /// When they cannot be read or do not fit together; the old ones go on being served.
    pub fn reload(&self, config: &Config) -> Result<Timestamp> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let config = state.here(config);
        let (files, ends) = files(&config, &self.clock, &self.random)?;
        self.served.replace(&files.chain_pem, &files.key_pem)?;
        *state = State { config, ends, next_try: Timestamp::EPOCH };
        Ok(ends)
    }

    /// Who issued what such a configuration serves; `None`: the administrator brought it.
    pub fn authority(&self, config: &Config) -> Result<Option<crate::gate::Authority>> {
        let config = self.state.lock().unwrap_or_else(PoisonError::into_inner).here(config);
        Place::of(&config).authority(&config)
    }

    /// Renews what is about to end.
    fn renew_if_due(&self) {
        let now = self.clock.now();
        let (config, ends) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            // A clock that was set back far does not keep a renewal waiting.
            let waits = now < state.next_try && state.next_try <= now.plus(TRY_AGAIN);
            if waits || state.ends > now.plus(renew_before(&state.config)) {
                return;
            }
            state.next_try = now.plus(TRY_AGAIN);
            (state.config.clone(), state.ends)
        };
        if config.tls.own_files().is_some() {
            if ends <= now.plus(REMIND_BEFORE) {
                tracing::warn!(%ends, "tls.certificate is about to end; put a new one in place and send SIGHUP");
            }
            return;
        }
        match self.reload(&config) {
            Ok(ends) => tracing::info!(%ends, "the server's certificate was renewed"),
            Err(e) => {
                tracing::error!(error = %e, %ends, "the server's certificate could not be renewed; the old one stays")
            }
        }
    }

    /// Keeps it renewed, for good.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let this = Arc::clone(&self);
            // Making one reads and writes files.
            let _ = tokio::task::spawn_blocking(move || this.renew_if_due()).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
