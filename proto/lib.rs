//! The Quantix guest channel: the core that both programs share.
//!
//! Everything here but [`rt`] is pure: bytes, time and random numbers go in, bytes, events and
//! deadlines come out. There is no file descriptor, no clock, no thread and no `unsafe`, so that
//! hours of a channel's life can be simulated in a test that never sleeps. `tests/fence.rs` holds
//! this line.
//!
//! From the wire up: [`frame`] cuts a byte stream into frames and seals them, [`window`] bounds
//! what is in flight, [`outbox`] decides what is sent next, [`endpoint`] joins the three for one
//! side of a session, and [`guest`] and [`host`] hold the rules of either side.

pub mod action;
pub mod archive;
pub mod chunk;
pub mod credit;
pub mod endpoint;
pub mod error;
pub mod frame;
pub mod guest;
pub mod host;
pub mod ids;
pub mod limits;
pub mod loss;
pub mod message;
pub mod out;
pub mod outbox;
pub mod pace;
pub mod pings;
pub mod probe;
pub mod rate;
pub mod text;
pub mod time;
pub mod window;
pub mod wipe;

#[cfg(unix)]
pub mod rt;

/// What `--version` prints and Pong carries: the package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The git revision this was built from, or `unknown`.
pub const REVISION: &str = env!("QUANTIX_REVISION");
