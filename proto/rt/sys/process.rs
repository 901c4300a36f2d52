//! Forked children: how they begin, how they are ended, how they are reaped.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::check;

/// A child of this process, also the number of the process group and session that it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pid(libc::pid_t);

impl Pid {
    /// The number, as in /proc.
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It called exit with this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
}

impl Ended {
    /// As a shell reports it: 128 + n for signal n.
    pub const fn shell_status(self) -> i32 {
        match self {
            Self::Exited(status) => status,
            Self::Signalled(signal) => 128 + signal,
        }
    }
}

/// What to send to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The terminal is gone.
    Hangup,
    /// Please end.
    Terminate,
    /// End.
    Kill,
}

impl Signal {
    const fn number(self) -> libc::c_int {
        match self {
            Self::Hangup => libc::SIGHUP,
            Self::Terminate => libc::SIGTERM,
            Self::Kill => libc::SIGKILL,
        }
    }
}

/// Runs `work` in a child and ends the child with the status that it returns.
///
/// The child leads a session of its own, has default signal dispositions (SIGPIPE is ignored, as in
/// every Rust program) and an empty signal mask,
/// and of this process's descriptors only 0, 1, 2 and those in `keep`: a child that hangs on a sick
/// disk must not hold the port open.
///
/// # Errors
/// EAGAIN, ENOMEM (fork(2)).
pub fn spawn(keep: &[&File], work: impl FnOnce() -> i32) -> io::Result<Pid> {
    debug_assert!(is_single_threaded());
    let keep: Vec<RawFd> = keep.iter().map(|file| file.as_raw_fd()).collect();
    let before = block_signals()?;
    // SAFETY: this process has one thread (asserted above in debug builds), so that the child's
    // copy of the heap and of every lock is consistent and it may allocate.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let status = match become_worker(&keep) {
            Ok(()) => work(),
            Err(_) => WORKER_FAILED,
        };
        // SAFETY: ends the child without running the parent's destructors or exit handlers.
        unsafe { libc::_exit(status) }
    }
    let forked = check(pid);
    restore_signals(&before)?;
    forked.map(Pid)
}

/// A worker that could not even begin ends with this status.
pub const WORKER_FAILED: i32 = 126;

/// Sends a signal to the child's whole process group. A group that is gone already is no error.
pub fn signal_group(pid: Pid, signal: Signal) {
    // SAFETY: kill reads and writes no memory. The group's number stays taken while its leader has
    // not been reaped or any member lives, so it cannot hit a stranger's group before that.
    unsafe { libc::kill(-pid.0, signal.number()) };
}

/// The next child that has ended, whichever it is. Never waits.
pub fn reap() -> Option<(Pid, Ended)> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes one int to `status`, which lives for the length of the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        if pid <= 0 {
            return None;
        }
        let ended = if libc::WIFSIGNALED(status) {
            Ended::Signalled(libc::WTERMSIG(status))
        } else {
            Ended::Exited(libc::WEXITSTATUS(status))
        };
        return Some((Pid(pid), ended));
    }
}

/// Waits for one child to end. For programs without a loop.
///
/// # Errors
/// ECHILD (waitpid(2)).
pub fn wait(pid: Pid) -> io::Result<Ended> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes one int to `status`, which lives for the length of the call.
        match check(unsafe { libc::waitpid(pid.0, &raw mut status, 0) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) if libc::WIFSIGNALED(status) => {
                return Ok(Ended::Signalled(libc::WTERMSIG(status)));
            }
            Ok(_) => return Ok(Ended::Exited(libc::WEXITSTATUS(status))),
        }
    }
}

/// Makes `file` this process's descriptor 0, 1 or 2, open across exec.
///
/// # Errors
/// As dup2(2).
pub fn redirect(file: &File, to: RawFd) -> io::Result<()> {
    // SAFETY: dup2 reads and writes no memory; 0, 1 and 2 are owned by no object of ours.
    check(unsafe { libc::dup2(file.as_raw_fd(), to) })?;
    Ok(())
}

/// Takes on a user for good: supplementary groups, then group, then user.
///
/// # Errors
/// EPERM, EINVAL (setgroups(2), setgid(2), setuid(2)).
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: `groups` is valid for its length for the length of the call.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: reads and writes no memory.
    check(unsafe { libc::setgid(gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::setuid(uid) })?;
    Ok(())
}

/// The effective user of this process.
pub fn effective_user() -> u32 {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::geteuid() }
}

/// Sets the file mode creation mask; returns the one before.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::umask(mask) }
}

fn become_worker(keep: &[RawFd]) -> io::Result<()> {
    // SAFETY: setsid touches no memory. A freshly forked child leads no group, so it succeeds.
    check(unsafe { libc::setsid() })?;
    // SIGPIPE stays ignored: a worker whose reader is gone has something to clean up. What a worker
    // turns into by exec gets the default from the standard library.
    for signal in (1..=31).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: SIG_DFL is a valid disposition; KILL and STOP answer EINVAL, which is ignored.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    close_all_but(keep);
    let mut none = empty_set();
    // SAFETY: `none` was initialised by sigemptyset.
    unsafe { libc::sigemptyset(&raw mut none) };
    restore_signals(&none)
}

/// Closes every descriptor above 2 that is not in `keep`.
fn close_all_but(keep: &[RawFd]) {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut from = 3;
    for &fd in keep.iter().filter(|fd| **fd > 2) {
        close_range(from, fd - 1);
        from = fd + 1;
    }
    close_range(from, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    // SAFETY: close_range (kernel 5.9) touches no memory. The objects that own these descriptors
    // belong to the parent; this child never runs their destructors, it ends with _exit or exec.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 {
        return;
    }
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<RawFd> = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| (first..=last).contains(fd))
        .collect();
    for fd in open {
        // SAFETY: as above; closing the directory's own descriptor again answers EBADF.
        unsafe { libc::close(fd) };
    }
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: sigset_t is a plain array of integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

fn block_signals() -> io::Result<libc::sigset_t> {
    let (mut all, mut before) = (empty_set(), empty_set());
    // SAFETY: both sets live for the length of the calls.
    unsafe {
        libc::sigfillset(&raw mut all);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const all,
            &raw mut before,
        ))?;
    }
    Ok(before)
}

fn restore_signals(mask: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `mask` lives for the length of the call; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) })?;
    Ok(())
}

fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() == 1)
}
