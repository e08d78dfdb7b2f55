//! Bounds that no configuration can lift. Each is tested by what happens at it.

use std::time::Duration;

/// Readings that one heartbeat may carry.
pub const READINGS_PER_HEARTBEAT_MAX: usize = 100;
/// DNS names, and sideloaded packages, that one reading may carry.
pub const NAMES_PER_READING_MAX: usize = 64;
/// Characters of a name in a reading (RFC 1035 allows 253 for a domain).
pub const NAME_LEN_MAX: usize = 255;
/// Rows of one page of a list.
pub const PAGE_MAX: usize = 200;
/// Rows of a page when the caller names none.
pub const PAGE_DEFAULT: usize = 50;
/// Characters of an `X-Request-Id` that is taken over.
pub const REQUEST_ID_LEN_MAX: usize = 128;
/// A WebSocket message.
pub const WS_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// What may wait to be written to one socket before its owner counts as a slow consumer.
pub const WS_WRITE_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Frames that may wait for one socket.
pub const WS_QUEUE_FRAMES_MAX: usize = 64;
/// Changes and heartbeats that may wait for the writer; more are answered 503 `overloaded`.
pub const WRITE_QUEUE_MAX: usize = 16_384;
/// Changes and heartbeats that share one commit.
pub const WRITE_BATCH_MAX: usize = 1_024;
/// Unfinished commands that one device may have; more are refused until some end.
pub const OPEN_COMMANDS_PER_DEVICE_MAX: usize = 100;
/// How long after SIGTERM requests in flight may still finish.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Requests that are traced because their callers asked for it, all callers together.
pub const TRACES_ASKED_PER_MINUTE: u32 = 600;
