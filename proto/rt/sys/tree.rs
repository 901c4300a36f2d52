//! Entries of open directories: made, opened and named without a path that could lead elsewhere. No
//! call here follows a symbolic link in its last component, and every name is one component.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use super::check;

/// A name that the system takes.
///
/// # Errors
/// `InvalidInput`: it has a NUL in it.
pub fn name(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Opens an entry of a directory; a new file has mode 0600.
///
/// # Errors
/// As openat(2); ELOOP for a symbolic link unless `flags` have O_PATH.
pub fn open_at(dir: &File, name: &CStr, flags: libc::c_int) -> io::Result<File> {
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `name` ends with NUL and lives for the length of the call.
    let fd = check(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags, 0o600) })?;
    // SAFETY: openat succeeded, so this descriptor is open and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Makes a directory that only its owner may enter.
///
/// # Errors
/// As mkdirat(2).
pub fn make_directory_at(dir: &File, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` ends with NUL and lives for the length of the call.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), 0o700) })?;
    Ok(())
}

/// Makes a symbolic link that leads to `to`.
///
/// # Errors
/// As symlinkat(2).
pub fn make_link_at(to: &CStr, dir: &File, name: &CStr) -> io::Result<()> {
    // SAFETY: both strings end with NUL and live for the length of the call.
    check(unsafe { libc::symlinkat(to.as_ptr(), dir.as_raw_fd(), name.as_ptr()) })?;
    Ok(())
}

/// Gives an unnamed file (O_TMPFILE) a name that nothing has yet.
///
/// # Errors
/// As linkat(2); ENOENT where /proc is not mounted.
pub fn name_at(file: &File, dir: &File, name: &CStr) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    // SAFETY: both strings end with NUL and live for the length of the call.
    check(unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })?;
    Ok(())
}

/// Renames an entry within its directory, over another if there is one.
///
/// # Errors
/// As renameat(2).
pub fn rename_at(dir: &File, from: &CStr, to: &CStr) -> io::Result<()> {
    let dir = dir.as_raw_fd();
    // SAFETY: both strings end with NUL and live for the length of the call.
    check(unsafe { libc::renameat(dir, from.as_ptr(), dir, to.as_ptr()) })?;
    Ok(())
}

/// Removes an entry that is no directory.
///
/// # Errors
/// As unlinkat(2).
pub fn remove_at(dir: &File, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` ends with NUL and lives for the length of the call.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) })?;
    Ok(())
}

/// Changes the owner of an entry itself.
///
/// # Errors
/// As fchownat(2).
pub fn chown_at(dir: &File, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `name` ends with NUL and lives for the length of the call.
    check(unsafe { libc::fchownat(dir.as_raw_fd(), name.as_ptr(), uid, gid, flags) })?;
    Ok(())
}

/// Sets when an entry itself was changed last.
///
/// # Errors
/// As utimensat(2).
pub fn set_modified_at(dir: &File, name: &CStr, seconds: i64, nanos: i32) -> io::Result<()> {
    let times = times(seconds, nanos);
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `name` ends with NUL; it and the two times live for the length of the call.
    check(unsafe { libc::utimensat(dir.as_raw_fd(), name.as_ptr(), times.as_ptr(), flags) })?;
    Ok(())
}

/// Sets when an open file was changed last.
///
/// # Errors
/// As futimens(3).
pub fn set_modified(file: &File, seconds: i64, nanos: i32) -> io::Result<()> {
    let times = times(seconds, nanos);
    // SAFETY: the two times live for the length of the call.
    check(unsafe { libc::futimens(file.as_raw_fd(), times.as_ptr()) })?;
    Ok(())
}

fn times(seconds: i64, nanos: i32) -> [libc::timespec; 2] {
    let time = |tv_nsec| libc::timespec {
        tv_sec: seconds,
        tv_nsec,
    };
    [
        time(libc::UTIME_OMIT),
        time(nanos.clamp(0, 999_999_999).into()),
    ]
}

/// Where a symbolic link leads that was opened with O_PATH.
///
/// # Errors
/// As readlinkat(2).
pub fn read_link(link: &File) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let room = buffer.as_mut_ptr().cast();
    // SAFETY: the path is empty, so the link is the descriptor itself; `buffer` is writable for the
    // length that is given and lives for the length of the call.
    let n = unsafe { libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), room, buffer.len()) };
    let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    buffer.truncate(n);
    Ok(buffer)
}

/// The next bytes of a file that are no hole, from `offset` on: where they begin and end. `None`: only
/// a hole follows. Where the file system does not know, everything is data. Moves the file's position.
pub fn data_from(file: &File, offset: u64) -> Option<(u64, u64)> {
    let seek = |at: u64, whence| {
        let at = libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX);
        // SAFETY: lseek reads and writes no memory of ours.
        let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
        u64::try_from(found).map_err(|_| io::Error::last_os_error().raw_os_error())
    };
    match seek(offset, libc::SEEK_DATA) {
        Ok(begin) => Some((begin, seek(begin, libc::SEEK_HOLE).unwrap_or(u64::MAX))),
        Err(Some(libc::ENXIO)) => None,
        Err(_) => Some((offset, u64::MAX)),
    }
}

/// Writes all that a file system holds to its disk (syncfs(2)).
///
/// # Errors
/// EIO, ENOSPC, EDQUOT: something of it could not be written.
pub fn sync_all_of(file: &File) -> io::Result<()> {
    // SAFETY: syncfs reads and writes no memory of ours.
    check(unsafe { libc::syncfs(file.as_raw_fd()) })?;
    Ok(())
}

/// The names in a directory, `.` and `..` aside, a few at a time.
#[derive(Debug)]
pub struct Names {
    buffer: Box<[u64; 512]>,
    at: usize,
    end: usize,
}

/// Of `struct linux_dirent64`: where the record's length and the name stand (getdents64(2)).
const LENGTH_AT: usize = 16;
const NAME_AT: usize = 19;

impl Default for Names {
    fn default() -> Self {
        Self {
            buffer: Box::new([0; 512]),
            at: 0,
            end: 0,
        }
    }
}

impl Names {
    /// The next name in this directory, always the same one. `None`: there is no more.
    ///
    /// # Errors
    /// As getdents64(2).
    pub fn next(&mut self, dir: &File) -> io::Result<Option<CString>> {
        loop {
            if self.at >= self.end && !self.fill(dir)? {
                return Ok(None);
            }
            let found = self.take();
            if let Some(name) = found.filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
                return Ok(Some(name));
            }
        }
    }

    fn fill(&mut self, dir: &File) -> io::Result<bool> {
        let size = size_of_val(&*self.buffer);
        let (fd, room) = (dir.as_raw_fd(), self.buffer.as_mut_ptr());
        // SAFETY: `room` is writable for `size` bytes and lives for the length of the call.
        let n = unsafe { libc::syscall(libc::SYS_getdents64, fd, room, size) };
        self.end = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        self.at = 0;
        Ok(self.end > 0)
    }

    fn take(&mut self) -> Option<CString> {
        let all = self.buffer.as_ptr().cast::<u8>();
        let size = size_of_val(&*self.buffer);
        // SAFETY: the buffer's `size` bytes are initialised, and borrowed by `self` while these are.
        let bytes = unsafe { std::slice::from_raw_parts(all, size) };
        let record = bytes.get(self.at..self.end)?;
        let length = record.get(LENGTH_AT..LENGTH_AT + 2)?.try_into().ok()?;
        // At least the head, so that a record without a length would not be read for ever.
        self.at += usize::from(u16::from_ne_bytes(length)).max(NAME_AT);
        let name = CStr::from_bytes_until_nul(record.get(NAME_AT..)?).ok()?;
        Some(name.to_owned())
    }
}
