//! What systemd and its like hand over and want to hear: readiness, a sign of life, listeners that are open already.
//! The protocols are those of sd_notify(3) and sd_listen_fds(3). Where nobody listens, nothing happens.

use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Who watches over the process.
#[derive(Debug, Default)]
pub struct Supervisor {
    to: Option<(UnixDatagram, std::os::unix::net::SocketAddr)>,
    /// How long it may stay silent.
    watchdog: Option<Duration>,
}

/// A name in the environment that cannot be understood is passed over: the appliance runs without a supervisor, too.
fn address(name: &str) -> Option<std::os::unix::net::SocketAddr> {
    match name.strip_prefix('@') {
        Some(abstract_name) => std::os::unix::net::SocketAddr::from_abstract_name(abstract_name).ok(),
        None if name.starts_with('/') => std::os::unix::net::SocketAddr::from_pathname(name).ok(),
        None => None,
    }
}

impl Supervisor {
    /// The one that the environment names: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` where it means this process.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let to = variable("NOTIFY_SOCKET").as_deref().and_then(address);
        let to = to.and_then(|to| Some((UnixDatagram::unbound().ok()?, to)));
        let own = std::process::id();
        let meant = variable("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(own));
        let watchdog = variable("WATCHDOG_USEC").and_then(|us| us.parse().ok()).map(Duration::from_micros);
        let watchdog = watchdog.filter(|period| meant && to.is_some() && !period.is_zero());
        Self { to, watchdog }
    }

    /// How often it must hear a sign of life; half of what it allows.
    pub fn sign_of_life_every(&self) -> Option<Duration> {
        self.watchdog.map(|period| (period / 2).max(Duration::from_millis(10)))
    }

    /// Tells it something, such as `READY=1`. That nobody hears it is no reason to stop.
    pub fn tell(&self, what: &str) {
        if let Some((socket, to)) = &self.to
            && let Err(e) = socket.send_to_addr(what.as_bytes(), to)
        {
            tracing::warn!(error = %e, "the supervisor could not be told how the appliance is");
        }
    }
}

/// Listeners that were opened by whoever started the process. Cheap to clone; each is taken once.
#[derive(Clone, Debug, Default)]
pub struct Inherited(Arc<Mutex<Vec<TcpListener>>>);

/// Listeners that are taken over.
const INHERITED_MAX: usize = 16;

impl Inherited {
    /// Those that the environment names (`LISTEN_FDS`, `LISTEN_PID`). To be called once, before there are threads.
    pub fn from_environment() -> Self {
        let mut given = listenfd::ListenFd::from_env();
        let mut listeners = Vec::new();
        for index in 0..given.len().min(INHERITED_MAX) {
            match given.take_tcp_listener(index) {
                Ok(Some(listener)) => listeners.push(listener),
                Ok(None) => {}
                Err(e) => tracing::warn!(index, error = %e, "an inherited socket is no TCP listener and is not used"),
            }
        }
        Self(Arc::new(Mutex::new(listeners)))
    }

    /// The one that listens on this port, on whatever address.
    pub fn take(&self, wanted: SocketAddr) -> Option<TcpListener> {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |l: &TcpListener| l.local_addr().is_ok_and(|a| a.port() == wanted.port());
        let at = listeners.iter().position(fits).filter(|_| wanted.port() != 0)?;
        Some(listeners.swap_remove(at))
    }

    /// Ports of those that nobody took.
    pub fn left(&self) -> Vec<u16> {
        let listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.port()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(buffer.get(..n).unwrap()).into_owned()
    }

    #[test]
    fn it_is_told_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("blockremote-test-{}", std::process::id());
        let abstract_address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_address).unwrap();
        for (socket, named) in [(by_path, path.display().to_string()), (by_name, format!("@{name}"))] {
            let env = |wanted: &str| match wanted {
                "NOTIFY_SOCKET" => Some(named.clone()),
                "WATCHDOG_USEC" => Some("4000000".to_owned()),
                _ => None,
            };
            let supervisor = Supervisor::of(&env);
            supervisor.tell("READY=1");
            assert_eq!(heard(&socket), "READY=1");
            assert_eq!(supervisor.sign_of_life_every(), Some(Duration::from_secs(2)));
        }
    }

    #[test]
    fn without_a_supervisor_or_with_nonsense_nothing_happens() {
        for (socket, usec, pid) in [
            (None, Some("1000000"), None),
            (Some("relative/path"), Some("1000000"), None),
            (Some("/nowhere/at/all"), Some("soon"), None),
            (Some("/nowhere/at/all"), Some("0"), None),
            (Some("/nowhere/at/all"), Some("1000000"), Some("1")),
        ] {
            let env = |wanted: &str| match wanted {
                "NOTIFY_SOCKET" => socket.map(str::to_owned),
                "WATCHDOG_USEC" => usec.map(str::to_owned),
                "WATCHDOG_PID" => pid.map(str::to_owned),
                _ => None,
            };
            let supervisor = Supervisor::of(&env);
            supervisor.tell("READY=1");
            assert_eq!(supervisor.sign_of_life_every(), None, "{socket:?} {usec:?}");
        }
    }

    #[test]
    fn a_listener_is_taken_by_its_port_and_only_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inherited = Inherited(Arc::new(Mutex::new(vec![listener])));
        let any = SocketAddr::from(([0, 0, 0, 0], address.port()));
        assert!(inherited.take(SocketAddr::from(([0, 0, 0, 0], 0))).is_none(), "any free port is none of these");
        assert_eq!(inherited.left(), [address.port()]);
        assert!(inherited.take(any).is_some() && inherited.take(any).is_none());
        assert_eq!(inherited.left(), [0_u16; 0]);
    }
}
