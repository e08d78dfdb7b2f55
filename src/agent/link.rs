//! The way to the kill-switch socket: waiting, dialling, open. Opening again after a loss waits longer each time, by
//! chance, so that a fleet that lost its appliance does not come back all at once.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::socket::Event;
use crate::client::{ClientError, Endpoint, Socket};
use crate::kernel::Random;

/// A future that is polled from a `select!` and must survive the other branches.
pub(super) type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

const FIRST_DELAY: Duration = Duration::from_millis(500);
const DELAY_MAX: Duration = Duration::from_secs(30);

/// See the module.
pub(super) enum Link {
    /// Dial at this moment.
    Waiting(Instant),
    Dialling(Pending<Result<Socket, ClientError>>),
    Open(Box<Socket>),
}

/// What happened on the link.
pub(super) enum LinkEvent {
    /// The wait is over.
    Due,
    /// Dialling came to an end. The link must be replaced before it is asked again.
    Dialled(Result<Box<Socket>, ClientError>),
    /// The open socket heard something.
    Heard(Event),
}

impl Link {
    /// What happens next. Dropping the future loses nothing.
    pub(super) async fn event(&mut self) -> LinkEvent {
        match self {
            Self::Waiting(until) => {
                tokio::time::sleep_until(*until).await;
                LinkEvent::Due
            }
            Self::Dialling(dial) => LinkEvent::Dialled(dial.await.map(Box::new)),
            Self::Open(socket) => LinkEvent::Heard(socket.next().await),
        }
    }

    pub(super) fn dial(endpoint: &Endpoint, token: &str) -> Self {
        let (endpoint, token) = (endpoint.clone(), token.to_owned());
        Self::Dialling(Box::pin(async move { Socket::connect(&endpoint, &token).await }))
    }

    pub(super) fn socket(&mut self) -> Option<&mut Socket> {
        if let Self::Open(socket) = self { Some(socket) } else { None }
    }
}

/// How long to wait before the next attempt after `failures` in a row: doubling from half a second to half a minute, of
/// which chance takes up to three quarters.
pub(super) fn delay(failures: u32, random: &Random) -> Duration {
    let full = FIRST_DELAY.saturating_mul(1 << failures.min(8)).min(DELAY_MAX);
    let quarter = full / 4;
    let ms = u64::try_from((full - quarter).as_millis()).unwrap_or(u64::MAX).max(1);
    quarter + Duration::from_millis(random.u64() % ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rarer_and_differ_between_devices() {
        let random = Random::seeded(1);
        for failures in 0..40 {
            let full = FIRST_DELAY.saturating_mul(1 << failures.min(8)).min(DELAY_MAX);
            let delays: Vec<_> = (0..50).map(|_| delay(failures, &random)).collect();
            assert!(delays.iter().all(|d| (full / 4..full).contains(d)), "{failures}: {delays:?}");
            assert!(delays.iter().collect::<std::collections::HashSet<_>>().len() > 20);
        }
    }
}
