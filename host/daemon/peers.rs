//! Whether QEMU has accepted our connections, where nothing that was read or taken shows it. The kernel looks
//! through all sockets for each that it is asked about, so it is asked for all at once.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Duration;

use quantix::rt::sys::sock_diag::{self, inode};
use quantix::time::Time;

/// What the kernel has said is believed for so long.
const FRESH: Duration = Duration::from_millis(200);

/// What it said last.
#[derive(Debug, Default)]
pub struct Peers {
    asked: Option<Time>,
    /// Connections that nobody has accepted; `None`: it does not tell.
    waiting: Option<BTreeSet<u32>>,
}

impl Peers {
    /// What it said before counts no more: something has happened since.
    pub const fn forget(&mut self) {
        self.asked = None;
    }

    /// Whether this connection has been accepted. A kernel that does not tell leaves it to the guest's answers.
    /// The connection has stood for longer than what is believed.
    pub fn has_accepted(&mut self, now: Time, connection: &impl AsFd) -> bool {
        if self.asked.is_none_or(|at| now.since(at) >= FRESH) {
            self.asked = Some(now);
            self.waiting = sock_diag::unaccepted().ok();
        }
        match (&self.waiting, inode(connection)) {
            (Some(waiting), Ok(inode)) => !waiting.contains(&inode),
            _ => true,
        }
    }
}
