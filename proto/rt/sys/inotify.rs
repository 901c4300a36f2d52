//! Changes in one directory (inotify(7)).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// A watch on one directory. What changed is not told, only that something did: the caller looks.
#[derive(Debug)]
pub struct Watch {
    file: File,
}

impl Watch {
    /// Watches for entries that come, go or are renamed, and for the end of the directory itself.
    ///
    /// # Errors
    /// ENOENT, EMFILE, ENOSPC (the limits in /proc/sys/fs/inotify).
    pub fn new(directory: &Path) -> io::Result<Self> {
        let entries = libc::IN_CREATE
            | libc::IN_DELETE
            | libc::IN_MOVED_FROM
            | libc::IN_MOVED_TO
            | libc::IN_ATTRIB
            | libc::IN_DELETE_SELF
            | libc::IN_MOVE_SELF;
        Self::of(directory, entries)
    }

    /// Watches for files that are written to, closed by who wrote, or put in their place.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn contents(directory: &Path) -> io::Result<Self> {
        let files = libc::IN_MODIFY | libc::IN_CLOSE_WRITE | libc::IN_MOVED_TO;
        Self::of(directory, files)
    }

    fn of(directory: &Path, mask: u32) -> io::Result<Self> {
        let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
        // SAFETY: inotify_init1 touches no memory of ours.
        let fd = check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
        // SAFETY: the call succeeded, so the descriptor is open and nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        let mask = mask | libc::IN_ONLYDIR;
        // SAFETY: `path` ends with NUL and lives for the length of the call.
        check(unsafe { libc::inotify_add_watch(fd, path.as_ptr(), mask) })?;
        Ok(Self { file })
    }

    /// Reads all that has been told so far and forgets it.
    pub fn drain(&mut self) {
        let mut buffer = [0; 4096];
        while matches!(self.file.read(&mut buffer), Ok(n) if n > 0) {}
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
