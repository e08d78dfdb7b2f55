//! The appliance while it runs: what can be changed, whether it is alive, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use super::App;
use crate::config::Config;
use crate::domains::killswitch::CloseReason;
use crate::kernel::{Error, Result, Timestamp, limits};

impl App {
    /// Takes over what can be changed while it runs: the certificate and its key.
    ///
    /// # Errors
    /// When they cannot be read or do not fit together; then the old ones stay.
    pub async fn reload(&self, config: &Config) -> Result<Timestamp> {
        let (certificates, config) = (Arc::clone(&self.certificates), config.clone());
        let reload = move || Ok::<_, Error>((certificates.reload(&config)?, certificates.authority(&config)?));
        let (ends, authority) = tokio::task::spawn_blocking(reload).await.map_err(Error::internal)??;
        self.announcer.tell(authority.as_ref().map(|a| a.fingerprint.as_str()));
        self.authority.store(authority.map(Arc::new));
        Ok(ends)
    }

    /// When the certificate ends that is served.
    pub fn certificate_ends(&self) -> Timestamp {
        self.certificates.ends()
    }

    /// Whether the writer and every lane get round to their work within `limit`.
    pub async fn is_alive(&self, limit: Duration) -> bool {
        let before = self.lanes.pulses();
        let commits = || self.store.state().commits.load(std::sync::atomic::Ordering::Relaxed);
        let committed = commits();
        let come_round = async {
            let writer = match self.store.write(|_| Ok(())).await {
                Ok(()) => true,
                // No room in the queue: it is busy, and alive as long as it empties it.
                Err(Error::Refused(_)) => {
                    while commits() == committed {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    true
                }
                Err(_) => false,
            };
            while self.lanes.pulses().iter().zip(&before).any(|(now, before)| now == before) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            writer
        };
        tokio::time::timeout(limit, come_round).await.unwrap_or(false)
    }

    /// Resolves when the disk has failed: the process should end then, so that the next start reads the medium anew.
    pub async fn store_failed(&self) {
        self.failed.notified().await;
    }

    /// Readiness goes red, sockets get 1001, requests in flight finish, what is queued is committed: within ten seconds.
    /// Says whether everything ended by itself.
    pub async fn shut_down(mut self) -> bool {
        drop(self.control.take());
        self.announcer.end();
        self.public.start();
        self.services.killswitch.hub().close_all(CloseReason::GoingAway);
        let drained = tokio::time::timeout(limits::DRAIN_MAX, self.public.finished()).await.is_ok();
        self.internal.start();
        let _ = tokio::time::timeout(Duration::from_millis(500), self.internal.finished()).await;
        for task in self.tasks.drain(..) {
            task.abort();
            // Until it is gone it holds the data file open, and the next start would find it in use.
            let _ = task.await;
        }
        let (store, lanes, services) = (self.store.clone(), self.lanes, self.services);
        let stop = move || {
            lanes.join();
            // Nobody is served any more: what the counters say now is what the next start reads.
            while services.iam.anonymous().persist().is_ok_and(|rows| rows > 0) {}
            drop(services);
            store.stop();
        };
        let stopped = tokio::task::spawn_blocking(stop).await.is_ok();
        drained && stopped
    }
}
