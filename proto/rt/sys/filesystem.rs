//! What is done to a file system as a whole: FIFREEZE, FITHAW (fsfreeze(8)), FITRIM (fstrim(8); linux/fs.h).

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

/// `struct fstrim_range`, in bytes.
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
    minimum: u64,
}

/// `_IOWR('X', 121, struct fstrim_range)`.
const FITRIM: libc::c_ulong = 0xC018_5879;

/// Tells the disk of the file system that `file` is on which blocks are free, of `len` bytes from `start`
/// on, and in pieces of at least `minimum`. Returns how many bytes that were. Waits for the disk; a signal
/// that kills ends it.
///
/// # Errors
/// EINVAL: the file system is not so long. EOPNOTSUPP: the disk takes no discards. EPERM, EROFS.
pub fn trim(file: &File, start: u64, len: u64, minimum: u64) -> io::Result<u64> {
    let mut range = Range {
        start,
        len,
        minimum,
    };
    // SAFETY: the call reads and writes one Range, which lives for its length.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FITRIM, &raw mut range) })?;
    Ok(range.len)
}
