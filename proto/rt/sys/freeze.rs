//! Freezing a file system: FIFREEZE and FITHAW (linux/fs.h, fsfreeze(8)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`.
const FIFREEZE: libc::c_ulong = 0xC004_5877;
const FITHAW: libc::c_ulong = 0xC004_5878;

/// Writes out the file system that `file` is on, and has whoever writes to it wait from then on.
/// **Waits for its disk**, and nothing but that ends the wait.
///
/// # Errors
/// EBUSY: it is frozen. EOPNOTSUPP: it cannot be. EPERM.
pub fn freeze(file: &File) -> io::Result<()> {
    ioctl(file, FIFREEZE)
}

/// Ends that. Waits for a [`freeze`] that is under way.
///
/// # Errors
/// EINVAL: it is not frozen. EPERM.
pub fn thaw(file: &File) -> io::Result<()> {
    ioctl(file, FITHAW)
}

fn ioctl(file: &File, request: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the kernel takes no notice of the argument of either, and touches no memory.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, 0) })?;
    Ok(())
}
