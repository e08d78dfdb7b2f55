//! How many connections there may be, in all and from one address.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kernel::network::network_of;

/// Counts open connections.
#[derive(Clone)]
pub struct Connections {
    inner: Arc<Inner>,
}

struct Inner {
    max: usize,
    per_network_max: usize,
    open: AtomicUsize,
    refused: AtomicUsize,
    by_network: papaya::HashMap<IpAddr, Arc<AtomicUsize>>,
}

impl Connections {
    /// At most `max` in all and `per_network_max` from one network.
    pub fn new(max: usize, per_network_max: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                max,
                per_network_max,
                open: AtomicUsize::new(0),
                refused: AtomicUsize::new(0),
                by_network: papaya::HashMap::new(),
            }),
        }
    }

    /// A place for one connection from `ip`; `None` when it must be closed at once.
    pub fn admit(&self, ip: IpAddr) -> Option<Place> {
        let inner = &self.inner;
        if inner.open.fetch_add(1, Ordering::AcqRel) >= inner.max {
            inner.open.fetch_sub(1, Ordering::AcqRel);
            inner.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let network = network_of(ip);
        let mine = Arc::clone(inner.by_network.pin().get_or_insert_with(network, Arc::default));
        if mine.fetch_add(1, Ordering::AcqRel) >= inner.per_network_max {
            mine.fetch_sub(1, Ordering::AcqRel);
            inner.open.fetch_sub(1, Ordering::AcqRel);
            inner.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Place { connections: self.clone(), network, mine })
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// Connections that were closed at once.
    pub fn refused(&self) -> usize {
        self.inner.refused.load(Ordering::Relaxed)
    }
}

/// One open connection; dropping it gives the place back.
pub struct Place {
    connections: Connections,
    network: IpAddr,
    mine: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.inner.open.fetch_sub(1, Ordering::AcqRel);
        if self.mine.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The map stays as small as the number of connected networks. A connection that takes the counter at this
            // very moment keeps it alive by its own reference and is merely counted apart until it ends.
            let pinned = self.connections.inner.by_network.pin();
            let _ = pinned.remove_if(&self.network, |_, counter| counter.load(Ordering::Acquire) == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_cannot_take_every_place_and_a_place_comes_back() {
        let connections = Connections::new(3, 2);
        let a: IpAddr = [10, 0, 0, 1].into();
        let b: IpAddr = [10, 0, 0, 2].into();
        let first = connections.admit(a);
        let _second = connections.admit(a);
        assert!(connections.admit(a).is_none(), "a third from one address");
        let _third = connections.admit(b);
        assert!(connections.admit(b).is_none(), "a fourth in all");
        drop(first);
        assert!(connections.admit(b).is_some(), "the place came back");
        assert_eq!(connections.refused(), 2);
    }
}
