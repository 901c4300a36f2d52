//! What the daemon does without, whoever starts it. It reads what guests say: one that found a hole in it would find
//! neither a program that it may run nor root's rights over the kernel.

use std::io;

use quantix::rt::sys::capabilities::{self, Capability};
use quantix::rt::sys::seccomp::{self, Reach};

/// VMs' sockets belong to their QEMU's user, who is behind them is seen in /proc, and metrics may be served below port
/// 1024.
const KEPT: &[Capability] = &[
    Capability::DacOverride,
    Capability::SysPtrace,
    Capability::NetBindService,
];

/// Has this process do without the rest, for good, and all that it forks from now on.
///
/// # Errors
/// The kernel has no such thing: seccomp came with Linux 3.5, and may be left out.
pub fn confine() -> io::Result<()> {
    capabilities::keep_only(KEPT)?;
    seccomp::give_up(&[Reach::Programs, Reach::System])
}
