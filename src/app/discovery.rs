//! Announces the appliance on the LAN by multicast DNS (RFC 6762, RFC 6763): `_blockremote._tcp`, with its port and what
//! its certificate authority is known by. Off unless the administrator wants it: it tells everybody on the network.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use mdns_sd::{ServiceDaemon, ServiceInfo};

use super::place;
use crate::kernel::{Error, Result};

/// The type of service.
pub const SERVICE: &str = "_blockremote._tcp.local.";

/// An announcement; withdrawn when it is dropped.
struct Announcement {
    daemon: ServiceDaemon,
    name: String,
}

/// What is announced. `addresses` empty: all that the machine has, followed as they change.
fn service(host: &str, port: u16, fingerprint: Option<&str>, addresses: &[IpAddr]) -> Result<ServiceInfo> {
    // A label: the part before the first dot, of 63 bytes at most.
    let label: String = host.split('.').next().unwrap_or_default().chars().filter(char::is_ascii).take(63).collect();
    let label = if label.is_empty() { "blockremote".to_owned() } else { label };
    let known_by: String = fingerprint.unwrap_or_default().chars().filter(|c| *c != ':').collect();
    let mut properties = vec![("path", "/ca"), ("api", "v1")];
    if !known_by.is_empty() {
        properties.push(("ca-sha256", &known_by));
    }
    let info = ServiceInfo::new(
        SERVICE,
        &format!("BlockRemote on {label}"),
        &format!("{label}.local."),
        addresses,
        port,
        properties.as_slice(),
    );
    let info = info.map_err(Error::internal)?;
    Ok(if addresses.is_empty() { info.enable_addr_auto() } else { info })
}

/// Announces for as long as the appliance runs, where that is wanted.
pub struct Announcer {
    wanted: bool,
    port: u16,
    now: Mutex<Option<(Option<String>, Announcement)>>,
}

impl Announcer {
    /// Announces nothing yet.
    pub const fn new(wanted: bool, port: u16) -> Self {
        Self { wanted, port, now: Mutex::new(None) }
    }

    /// Announces the appliance with the authority that it is known by now. Where it cannot, the log says so.
    pub fn tell(&self, fingerprint: Option<&str>) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.wanted || now.as_ref().is_some_and(|(told, _)| told.as_deref() == fingerprint) {
            return;
        }
        // The old one is withdrawn first: both have one name.
        drop(now.take());
        match Announcement::start(self.port, fingerprint) {
            Ok(announcement) => *now = Some((fingerprint.map(str::to_owned), announcement)),
            Err(e) => tracing::warn!(error = %e, "the appliance could not be announced on the LAN"),
        }
    }

    /// Withdraws it.
    pub fn end(&self) {
        drop(self.now.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Announcement {
    /// Begins to announce.
    ///
    /// # Errors
    /// When the machine has no socket for it.
    fn start(port: u16, fingerprint: Option<&str>) -> Result<Self> {
        let daemon = ServiceDaemon::new().map_err(Error::internal)?;
        let info = service(&place::host_name(), port, fingerprint, &[])?;
        let name = info.get_fullname().to_owned();
        daemon.register(info).map_err(Error::internal)?;
        Ok(Self { daemon, name })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // Others forget it by themselves where this does not reach them.
        let _ = self.daemon.unregister(&self.name);
        let _ = self.daemon.shutdown();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use mdns_sd::{IfKind, ServiceEvent};
    use std::time::Duration;

    #[test]
    fn what_is_announced_is_a_service_with_port_and_fingerprint_and_no_secret() {
        let info = service("front.example.org", 8443, Some("AB:CD"), &["192.0.2.7".parse().unwrap()]).unwrap();
        assert_eq!(info.get_type(), SERVICE);
        assert_eq!((info.get_hostname(), info.get_port()), ("front.local.", 8443));
        assert!(info.get_fullname().starts_with("BlockRemote on front"), "{}", info.get_fullname());
        assert_eq!(info.get_property_val_str("ca-sha256"), Some("ABCD"));
        let mut names: Vec<_> = info.get_properties().iter().map(|p| p.key().to_owned()).collect();
        names.sort_unstable();
        assert_eq!(names, ["api", "ca-sha256", "path"]);
        assert!(service("", 1, None, &[]).is_ok(), "a machine without a name");
    }

    /// Over real packets, on the loopback alone. A machine whose loopback has no multicast cannot show it.
    #[test]
    fn somebody_who_looks_for_it_on_the_loopback_finds_it() {
        let of_loopback = || {
            let daemon = ServiceDaemon::new_with_port(15_353).unwrap();
            daemon.disable_interface(IfKind::All).unwrap();
            daemon.enable_interface(IfKind::LoopbackV4).unwrap();
            daemon
        };
        let (ours, theirs) = (of_loopback(), of_loopback());
        ours.register(service("front", 8443, Some("AB:CD"), &["127.0.0.1".parse().unwrap()]).unwrap()).unwrap();
        let events = theirs.browse(SERVICE).unwrap();
        let mut found = None;
        while let Ok(event) = events.recv_timeout(Duration::from_secs(5)) {
            if let ServiceEvent::ServiceResolved(service) = event {
                found = Some(service);
                break;
            }
        }
        let _ = (ours.shutdown(), theirs.shutdown());
        let Some(found) = found else {
            return eprintln!("skipped: multicast does not go over this machine's loopback");
        };
        assert_eq!(found.get_port(), 8443);
        assert_eq!(found.get_property_val_str("ca-sha256"), Some("ABCD"));
    }
}
