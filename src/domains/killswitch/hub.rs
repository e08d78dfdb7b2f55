//! The open sockets: one bounded queue of frames for each device. A newer socket replaces the older one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::kernel::ids::DeviceNo;
use crate::kernel::limits;

/// Why the appliance closes a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// A newer socket of the same device took over (4001).
    Replaced,
    /// Trial over and nothing paid (4003).
    Paywall,
    /// Its user logged out, or the device was deleted (1008).
    LoggedOut,
    /// It does not read what is sent to it (1013).
    SlowConsumer,
    /// The appliance is shutting down (1001).
    GoingAway,
}

/// What goes out on a socket.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// A durable command.
    Command {
        /// Its place in the device's sequence.
        seq: u64,
        /// The exact bytes.
        frame: Arc<str>,
    },
    /// A notice.
    Notice(Arc<str>),
    /// The last thing on this socket.
    Close(CloseReason),
}

/// The receiving end of one socket's queue.
pub struct Outbox {
    /// Tells this socket from a later one of the same device.
    pub id: u64,
    /// What is to be sent. Ends without a [`Outgoing::Close`] when the consumer was too slow.
    pub queue: mpsc::Receiver<Outgoing>,
}

struct Socket {
    id: u64,
    queue: mpsc::Sender<Outgoing>,
}

/// All open sockets.
#[derive(Default)]
pub struct Hub {
    sockets: papaya::HashMap<DeviceNo, Arc<Socket>>,
    next_id: AtomicU64,
}

impl Hub {
    /// Registers a socket; an older one of the same device is told to go.
    pub fn open(&self, device: DeviceNo) -> Outbox {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, queue) = mpsc::channel(limits::WS_QUEUE_FRAMES_MAX);
        let older = {
            let pinned = self.sockets.pin();
            pinned.insert(device, Arc::new(Socket { id, queue: sender })).cloned()
        };
        if let Some(older) = older {
            // A full queue means that it is closing anyway: dropping the last sender ends it.
            let _ = older.queue.try_send(Outgoing::Close(CloseReason::Replaced));
        }
        Outbox { id, queue }
    }

    /// Forgets a socket, unless a newer one has taken its place.
    pub fn close(&self, device: DeviceNo, id: u64) {
        let pinned = self.sockets.pin();
        let _ = pinned.remove_if(&device, |_, socket| socket.id == id);
    }

    /// Sends to the device if it is connected. A device that lets its queue fill up loses its socket: what is durable
    /// comes again when it reconnects.
    pub fn send(&self, device: DeviceNo, what: Outgoing) {
        let pinned = self.sockets.pin();
        let Some(socket) = pinned.get(&device) else { return };
        if socket.queue.try_send(what).is_err() {
            let id = socket.id;
            let _ = pinned.remove_if(&device, |_, socket| socket.id == id);
        }
    }

    /// Tells every socket to go.
    pub fn close_all(&self, reason: CloseReason) {
        for socket in self.sockets.pin().values() {
            let _ = socket.queue.try_send(Outgoing::Close(reason));
        }
    }

    /// Whether the device is connected.
    pub fn is_open(&self, device: DeviceNo) -> bool {
        self.sockets.pin().contains_key(&device)
    }

    /// Open sockets.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
