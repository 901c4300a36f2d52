//! Changes in one directory (inotify(7)).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// A watch on one directory.
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

    /// Reads what has been told so far, at most `MAX_READS` pieces of it, and shows the name of each entry that has
    /// changed; names that are no UTF-8 are left out. False: more than that has, or the directory itself.
    pub fn changes(&mut self, mut each: impl FnMut(&str)) -> bool {
        const MAX_READS: usize = 64;
        // Longer than the longest event: a header and a NAME_MAX of 255 bytes with its NUL.
        let mut buffer = [0; 8192];
        for _ in 0..MAX_READS {
            match self.file.read(&mut buffer) {
                Ok(n) if n > 0 => {
                    if !events(&buffer[..n], &mut each) {
                        self.drain();
                        return false;
                    }
                }
                _ => return true,
            }
        }
        self.drain();
        false
    }

    /// Reads all that has been told so far and forgets it.
    pub fn drain(&mut self) {
        let mut buffer = [0; 4096];
        while matches!(self.file.read(&mut buffer), Ok(n) if n > 0) {}
    }
}

/// Shows the names in a piece of `struct inotify_event`s (linux/inotify.h). False: one is of no entry, such as
/// that of a queue which had no room.
fn events(mut bytes: &[u8], each: &mut impl FnMut(&str)) -> bool {
    /// wd, mask, cookie, and the length of the name that follows.
    const HEADER: usize = 16;
    while let Some((header, rest)) = bytes.split_at_checked(HEADER) {
        let length = header.last_chunk().map_or(0, |l| u32::from_ne_bytes(*l));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((name, rest)) = rest.split_at_checked(length) else {
            return false;
        };
        let end = name.iter().position(|byte| *byte == 0);
        match std::str::from_utf8(&name[..end.unwrap_or(length)]) {
            Ok("") => return false,
            Ok(name) => each(name),
            Err(_) => {}
        }
        bytes = rest;
    }
    true
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

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;

    use super::*;

    #[test]
    fn names_are_shown_until_there_are_too_many_or_the_directory_is_gone() {
        let dir = std::env::temp_dir().join(format!("qx-inotify-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut watch = Watch::new(&dir).unwrap();
        let mut changes = || {
            let mut names = Vec::new();
            let all = watch.changes(|name| names.push(name.to_owned()));
            names.dedup();
            (all, names)
        };
        assert_eq!(changes(), (true, vec![]));
        fs::write(dir.join("a"), "").unwrap();
        fs::rename(dir.join("a"), dir.join("b".repeat(255))).unwrap();
        fs::write(dir.join(OsStr::from_bytes(b"\xFF")), "").unwrap();
        assert_eq!(changes(), (true, vec!["a".to_owned(), "b".repeat(255)]));
        for n in 0..20_000 {
            fs::write(dir.join("c"), n.to_string()).unwrap();
            fs::remove_file(dir.join("c")).unwrap();
        }
        assert!(!changes().0);
        assert_eq!(changes(), (true, vec![]));
        fs::remove_dir_all(&dir).unwrap();
        assert!(!changes().0);
    }

    #[test]
    fn a_piece_that_makes_no_sense_is_no_name() {
        let mut none = |name: &str| panic!("{name}");
        assert!(events(&[], &mut none));
        assert!(!events(&[0; 16], &mut none));
        assert!(!events(&[0xFF; 16], &mut none));
    }
}
