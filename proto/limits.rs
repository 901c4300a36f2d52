//! Every number of the protocol, with its reason.

use std::time::Duration;

use crate::window::{charge, frame_cost};

/// Longest frame body in bytes. A whole flush and a Ping must fit into the host's socket buffer
/// (212,992 bytes by default) even when nobody reads it.
pub const MAX_FRAME: usize = 128 * 1024;

/// The length in front of a frame.
pub const HEADER: usize = 4;

/// What stands for "nothing" where a header should begin.
pub const IDLE: u8 = 0xFF;

/// This many idle bytes bring a receiver in any state to a frame boundary: three may complete a
/// header, and the longest body that such a header can announce is `MAX_FRAME`.
pub const FLUSH: usize = MAX_FRAME + HEADER;

/// Two fixed64 fields with two-byte tags at the end of every sealed frame.
pub const SEAL: usize = 20;

/// Longest single write. virtio_console takes no more at once (`port_fops_write`), and nothing
/// urgent should wait behind more than this.
pub const MAX_WRITE: usize = 32 * 1024;

/// File or output bytes in one chunk: with its envelope it makes one write.
pub const CHUNK: usize = MAX_WRITE - 256;

/// Unanswered Pings and other frames that no session vouches for are short; a longer one is not
/// worth decoding.
pub const MAX_UNSEALED: usize = 1024;

/// Guest to host: what the host has not acknowledged, as QEMU's socket is charged for it
/// ([`charge`](crate::window::charge)). Five whole writes, and below that everything in flight sits in
/// the socket's buffer of 212,992 bytes and QEMU never throttles the port: even where the host has read,
/// and acknowledged, all but the last byte of a write that is charged until it is read whole.
pub const GUEST_WINDOW: u64 = 168 * 1024;

/// Host to guest: unacknowledged bytes and writes that surely fit into the 128 buffers of 4 KiB
/// of the guest's receive ring, so that nothing is lost when a side closes.
pub const HOST_WINDOW: u64 = 256 * 1024;
/// See [`HOST_WINDOW`].
pub const HOST_WRITES: usize = 64;

/// A receiver acknowledges after so much, as [`frame_cost`](crate::window::frame_cost) counts: behind
/// every second whole write. It is small enough that the longest frame still fits into the sender's
/// window when everything but this has been acknowledged, so a window can never stay shut.
pub const ACK_EVERY: u64 = 36 * 1024;

/// Bytes that a stream's receiver in a guest lets the host be ahead. Whole chunks, so that none is cut.
pub const STREAM_WINDOW: u64 = 8 * CHUNK as u64;

/// Bytes that a client lets a guest be ahead of it. They may have to wait in the daemon; the more they
/// are, the less often the guest is interrupted to be told of more.
pub const CLIENT_WINDOW: u64 = 16 * CHUNK as u64;

/// Reports on their way to a host that has not acknowledged them; a newer one waits, and replaces
/// what waits. A host acknowledges with each Ping, so this is more than it lets come together at a
/// report a second.
pub const MAX_REPORTS: usize = 8;

/// Frames and bytes in the control lane. Past this the other side has stopped reading while it
/// kept asking, and the session ends.
pub const CONTROL_FRAMES: usize = 512;
/// See [`CONTROL_FRAMES`].
pub const CONTROL_BYTES: usize = 512 * 1024;

/// Requests in flight to one guest; one more is answered `BUSY`.
pub const MAX_REQUESTS: usize = 64;

/// A keep-alive Ping this often while a session is open; the first [`LOOK_AFTER`] behind its begin.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// After this long without a Pong the host looks whether its Ping was taken.
pub const LOOK_AFTER: Duration = Duration::from_millis(250);

/// The longest pause between two such looks, and between Pings while waiting.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A guest with an open session that answers nothing, though it was seen to take our bytes, is
/// reconnected to after this long. Shorter would hang up the commands of a guest that is only slow;
/// longer, and the flushes that it is sent meanwhile would fill its ring.
pub const READY_PATIENCE: Duration = Duration::from_secs(4);

/// A request whose guest was silent for longer has a Ping in front of it.
pub const STALE_AFTER: Duration = Duration::from_secs(1);

/// First and longest pause between two connects.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// See [`BACKOFF_MIN`].
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Without a Ping for this long the guest ends the session and falls silent.
pub const HOST_SILENT: Duration = Duration::from_secs(30);

/// Unanswered Pings of a host; for one more it waits for the answer to the newest, which answers all.
pub const MAX_PINGS: usize = 16;

/// Pongs and acknowledgements that wait in a guest at once; a Ping over that is not answered, the
/// next one is. Enough for all that a host asks.
pub const MAX_PONGS: usize = 2 * MAX_PINGS;

// No legal header begins with an idle byte, and no header made of idle bytes alone is legal.
const _: () = assert!(MAX_FRAME < (IDLE as usize) << 24);
// A window that is open but for what the receiver has not yet acknowledged takes the longest frame.
const _: () = assert!(
    ACK_EVERY + charge(MAX_FRAME + HEADER) <= GUEST_WINDOW
        && ACK_EVERY + (MAX_FRAME + HEADER) as u64 <= HOST_WINDOW
        && ACK_EVERY / frame_cost(1) + 5 <= HOST_WRITES as u64
);
const _: () = assert!(5 * charge(MAX_WRITE) <= GUEST_WINDOW);
const _: () = assert!(CHUNK + 256 <= MAX_WRITE);

/// File systems that are frozen thaw after so many seconds, if nobody says otherwise.
pub const FREEZE_SECONDS: u32 = 60;
