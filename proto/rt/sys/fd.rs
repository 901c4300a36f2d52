//! Pipes and what the standard library does not say of file descriptors.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::check;

/// A pipe, both ends closed on exec: the reader's end, the writer's end.
///
/// # Errors
/// EMFILE, ENFILE (pipe(2)).
pub fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` is a valid place for two descriptors for the length of the call.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: pipe2 succeeded, so both descriptors are open and nobody else owns them.
    let [reader, writer] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    Ok((reader.into(), writer.into()))
}

/// Makes reads and writes answer EAGAIN instead of waiting.
///
/// # Errors
/// As fcntl(2).
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: F_GETFL and F_SETFL read and write no memory of ours.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Asks for a pipe that holds `bytes`; keeps the present size where the system refuses
/// (/proc/sys/fs/pipe-max-size).
pub fn grow_pipe(fd: &impl AsFd, bytes: libc::c_int) {
    // SAFETY: F_SETPIPE_SZ reads and writes no memory of ours.
    unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
}

/// Bytes that a socket or pipe end holds and its reader has not taken (SIOCOUTQ, unix(7)).
///
/// # Errors
/// As ioctl(2).
pub fn unread_by_peer(fd: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ writes one int to `bytes`, which lives for the length of the call.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Bytes that a pipe or socket holds for its reader (FIONREAD, ioctl_tty(2)); 0 on any failure.
pub fn unread(fd: &impl AsFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int to `bytes`, which lives for the length of the call.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if done < 0 {
        0
    } else {
        usize::try_from(bytes).unwrap_or(0)
    }
}

/// One more than the highest descriptor that this process may have: RLIMIT_NOFILE of getrlimit(2).
///
/// # Errors
/// None that getrlimit(2) knows for this.
pub fn limit() -> io::Result<u64> {
    limits().map(|limits| limits.rlim_cur)
}

/// Raises [`limit`] to what this process may give itself.
///
/// # Errors
/// EPERM, where a policy forbids it.
pub fn raise_limit() -> io::Result<()> {
    let mut limits = limits()?;
    limits.rlim_cur = limits.rlim_max;
    // SAFETY: reads the struct, which lives for the length of the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limits) }).map(drop)
}

fn limits() -> io::Result<libc::rlimit> {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes the struct, which lives for the length of the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limits) })?;
    Ok(limits)
}

/// Takes an exclusive lock on the whole file without waiting (flock(2)). It lasts as long as the
/// file is open. False: another process has it.
///
/// # Errors
/// As flock(2), but for EWOULDBLOCK.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: flock reads and writes no memory of ours.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether a process holds the lock of [`try_lock`].
///
/// # Errors
/// As flock(2), but for EWOULDBLOCK.
pub fn is_locked(file: &File) -> io::Result<bool> {
    // SAFETY: flock reads and writes no memory of ours.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) }) {
        // A shared one is in nobody's way but for the time of this call, who also only looks.
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) => Err(e),
    }
}

/// Takes a write lock on the whole file without waiting (F_SETLK, fcntl_locking(2)), as lckpwdf(3) does.
/// It lasts until this process closes the file. False: another process has it.
///
/// # Errors
/// As fcntl(2), but for EACCES and EAGAIN.
pub fn try_lock_record(file: &File) -> io::Result<bool> {
    // SAFETY: a flock is integers only, for which zero is a value: from the file's begin to its end.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    // The constant is 1, and an int on some systems.
    #[allow(clippy::cast_possible_truncation)]
    let kind = libc::F_WRLCK as libc::c_short;
    lock.l_type = kind;
    // SAFETY: F_SETLK reads one flock, which lives for the length of the call.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) }) {
        Ok(_) => Ok(true),
        Err(e) => match e.raw_os_error() {
            Some(libc::EACCES | libc::EAGAIN) => Ok(false),
            _ => Err(e),
        },
    }
}

/// Gives an unnamed file (O_TMPFILE) a name, which must not exist yet (open(2), linkat(2)).
///
/// # Errors
/// As linkat(2); ENOENT where /proc is not mounted.
pub fn name_unnamed(file: &File, path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let nul = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let from =
        std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(nul)?;
    let to = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(nul)?;
    // SAFETY: both strings end with NUL and live for the length of the call.
    check(unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })?;
    Ok(())
}

/// Whether this process may write to a path, which changes nothing there (access(2), for the effective
/// user).
///
/// # Errors
/// EACCES: it may not. As faccessat(2).
pub fn may_write(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::AT_EACCESS;
    // SAFETY: the string ends with NUL and lives for the length of the call.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, flags) })?;
    Ok(())
}

/// Whether a write of up to 4096 bytes (PIPE_BUF, pipe(7)) would be taken at once.
pub fn is_writable_now(fd: &impl AsFd) -> bool {
    let mut waits = [Wait::write(fd)];
    wait(&mut waits, Some(Duration::ZERO)).is_ok() && waits[0].is_ready()
}

/// Whether there is something to read, or the end.
pub fn is_readable_now(fd: &impl AsFd) -> bool {
    let mut waits = [Wait::read(fd)];
    wait(&mut waits, Some(Duration::ZERO)).is_ok() && waits[0].is_ready()
}

/// A descriptor, and what is waited for there.
#[repr(transparent)]
pub struct Wait<'a>(libc::pollfd, PhantomData<BorrowedFd<'a>>);

impl<'a> Wait<'a> {
    /// Until it can be read, or has ended.
    pub fn read(fd: &'a impl AsFd) -> Self {
        Self::of(fd.as_fd().as_raw_fd(), libc::POLLIN)
    }

    /// As [`read`](Self::read); of nothing, for ever.
    pub fn read_any(fd: Option<&'a impl AsFd>) -> Self {
        // poll(2) passes over a negative one.
        fd.map_or_else(|| Self::of(-1, 0), Self::read)
    }

    /// Until 4096 bytes can be written, or nobody reads any more.
    pub fn write(fd: &'a impl AsFd) -> Self {
        Self::of(fd.as_fd().as_raw_fd(), libc::POLLOUT)
    }

    /// As [`write`](Self::write); of nothing, for ever.
    pub fn write_any(fd: Option<&'a impl AsFd>) -> Self {
        fd.map_or_else(|| Self::of(-1, 0), Self::write)
    }

    const fn of(fd: RawFd, events: libc::c_short) -> Self {
        let revents = 0;
        Self(
            libc::pollfd {
                fd,
                events,
                revents,
            },
            PhantomData,
        )
    }

    /// What was waited for has come, or an error or the end has.
    pub const fn is_ready(&self) -> bool {
        self.0.revents != 0
    }

    /// Nobody is at the other end: of a virtio-serial port, no host.
    pub const fn is_hung_up(&self) -> bool {
        self.0.revents & libc::POLLHUP != 0
    }
}

/// Waits for the first of these (poll(2)), any kind of file among them, for `limit` at most: how many
/// are ready. A signal that is handled ends it too, with 0. For processes without a loop of their own.
///
/// # Errors
/// ENOMEM, EINVAL: more than RLIMIT_NOFILE.
pub fn wait(these: &mut [Wait], limit: Option<Duration>) -> io::Result<usize> {
    let millis = limit.map_or(-1, |limit| {
        let up = limit.as_micros().div_ceil(1000);
        libc::c_int::try_from(up).unwrap_or(libc::c_int::MAX)
    });
    let count = libc::nfds_t::try_from(these.len()).unwrap_or(0);
    // SAFETY: a Wait is a pollfd and nothing else; there are `count` of them, each for a descriptor
    // that its lifetime keeps open, and they live for the length of the call.
    match check(unsafe { libc::poll(these.as_mut_ptr().cast(), count, millis) }) {
        Ok(ready) => Ok(usize::try_from(ready).unwrap_or(0)),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(e) => Err(e),
    }
}

/// Sleeps, where there is no event to wait for. Not for loops that serve others.
pub fn rest(span: Duration) {
    let _ = wait(&mut [], Some(span));
}

#[cfg(test)]
mod tests {
    use super::super::process::{self, Ended};
    use super::*;

    #[test]
    fn a_record_lock_is_seen_by_another_process_until_its_file_is_closed() {
        let path = std::env::temp_dir().join(format!("qx-lock-{:x}", crate::rt::random::number()));
        let open = || {
            File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
        };
        let file = open().unwrap();
        assert!(try_lock_record(&file).unwrap());
        let other = || {
            let took = || open().and_then(|file| try_lock_record(&file)).unwrap();
            let pid = process::spawn_for_test(|| i32::from(took())).unwrap();
            process::wait(pid).unwrap() == Ended::Exited(1)
        };
        assert!(!other());
        drop(file);
        assert!(other());
        std::fs::remove_file(path).unwrap();
    }
}
