//! What the kernel's random numbers come from (random(4), linux/random.h).

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;

use super::check;

/// Bytes of one gift.
pub const MAX_ENTROPY: usize = 256;

/// `struct rand_pool_info`, with room for `MAX_ENTROPY`.
#[repr(C)]
struct Pool {
    bits: libc::c_int,
    bytes: libc::c_int,
    data: [u8; MAX_ENTROPY],
}

/// `_IOW('R', 0x03, int [2])` and `_IO('R', 0x07)`.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// Adds bytes that nobody else knows, and has all random numbers from now on come from them, too. A write to
/// /dev/urandom alone would be taken into account only after minutes. False: this kernel, one before 4.17, cannot be
/// told to. One before 4.8 takes what is written into account at once, those between do within five minutes.
///
/// # Errors
/// EPERM.
pub fn reseed(bytes: &[u8]) -> io::Result<bool> {
    let mut random = File::options().write(true).open("/dev/urandom")?;
    let mut pool = Pool {
        bits: 0,
        bytes: 0,
        data: [0; MAX_ENTROPY],
    };
    let length = bytes.len().min(MAX_ENTROPY);
    pool.data[..length].copy_from_slice(&bytes[..length]);
    pool.bytes = libc::c_int::try_from(length).unwrap_or(0);
    pool.bits = pool.bytes * 8;
    // SAFETY: the call reads a Pool of which `bytes` of the data are given; it lives for its length.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const pool) })?;
    // SAFETY: takes no argument and touches no memory.
    match check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG, 0) }) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            random.write_all(&bytes[..length])?;
            Ok(false)
        }
        Err(e) => Err(e),
    }
}
