//! System calls behind safe signatures. The only place in the repository with `unsafe`.
#![allow(unsafe_code)]

pub mod allocator;
pub mod capabilities;
pub mod clock;
pub mod entropy;
pub mod fd;
pub mod filesystem;
pub mod inotify;
pub mod netlink;
pub mod pass;
pub mod power;
pub mod process;
pub mod program;
pub mod rtc;
pub mod seccomp;
pub mod shared;
pub mod slots;
pub mod sock_diag;
pub mod socket;
pub mod statvfs;
pub mod tree;
pub mod tty;
pub mod uname;
pub mod xattr;

use std::io;

/// The usual "negative means errno" of the C library.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
