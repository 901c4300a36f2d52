//! Forked children: how they begin, how they are ended, how they are reaped.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};

use super::check;

/// A child of this process, also the number of the process group and session that it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pid(libc::pid_t);

impl Pid {
    pub(super) const fn of(pid: libc::pid_t) -> Self {
        Self(pid)
    }

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

/// What to send to a process (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(libc::c_int);

impl Signal {
    /// The terminal is gone.
    pub const HANGUP: Self = Self(libc::SIGHUP);
    /// Ctrl-C.
    pub const INTERRUPT: Self = Self(libc::SIGINT);
    /// Ctrl-\.
    pub const QUIT: Self = Self(libc::SIGQUIT);
    /// Its meaning is the process's own.
    pub const USR1: Self = Self(libc::SIGUSR1);
    /// Ctrl-Z.
    pub const SUSPEND: Self = Self(libc::SIGTSTP);
    /// Please end.
    pub const TERMINATE: Self = Self(libc::SIGTERM);
    /// End.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// Go on, if stopped.
    pub const CONTINUE: Self = Self(libc::SIGCONT);

    /// A standard signal, 1 to 31.
    pub fn parse(number: u32) -> Option<Self> {
        let number = libc::c_int::try_from(number).ok()?;
        (1..=31).contains(&number).then_some(Self(number))
    }

    /// Its number on this system.
    pub const fn number(self) -> i32 {
        self.0
    }
}

/// The descriptors that a child keeps. Its work may own the files themselves, so they are named before.
#[derive(Debug)]
pub struct Keep(Vec<RawFd>);

impl From<&[&File]> for Keep {
    fn from(files: &[&File]) -> Self {
        Self(files.iter().map(|file| file.as_raw_fd()).collect())
    }
}

impl From<&[BorrowedFd<'_>]> for Keep {
    fn from(fds: &[BorrowedFd]) -> Self {
        Self(fds.iter().map(AsRawFd::as_raw_fd).collect())
    }
}

impl<const N: usize> From<&[&File; N]> for Keep {
    fn from(files: &[&File; N]) -> Self {
        Self::from(&files[..])
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
pub fn spawn(keep: impl Into<Keep>, work: impl FnOnce() -> i32) -> io::Result<Pid> {
    let mut work = Some(work);
    fork(&keep.into(), &mut || {
        work.take().map_or(WORKER_FAILED, |work| work())
    })
}

/// [`spawn`] for tests, which run beside others: the child allocates, which glibc sees to (malloc(3)), and
/// takes no other lock.
#[cfg(test)]
pub fn spawn_for_test(work: impl FnOnce() -> i32) -> io::Result<Pid> {
    let mut work = Some(work);
    fork_anyhow(&[], &mut || {
        work.take().map_or(WORKER_FAILED, |work| work())
    })
}

/// [`spawn`], once for all kinds of work.
fn fork(Keep(keep): &Keep, work: &mut dyn FnMut() -> i32) -> io::Result<Pid> {
    debug_assert!(is_single_threaded());
    fork_anyhow(keep, work)
}

fn fork_anyhow(keep: &[RawFd], work: &mut dyn FnMut() -> i32) -> io::Result<Pid> {
    let before = block_signals()?;
    // SAFETY: this process has one thread (`fork` asserts it in debug builds), so that the child's
    // copy of the heap and of every lock is consistent and it may allocate.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let status = match become_worker(keep) {
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
    unsafe { libc::kill(-pid.0, signal.0) };
}

/// Sends a signal to one process, or to a process group where the number is negative. True: it is
/// there.
pub fn signal(pid: i32, signal: Signal) -> bool {
    // 0, 1 and -1 mean this group, init and everyone: nobody is meant.
    if (-1..=1).contains(&pid) {
        return false;
    }
    // SAFETY: kill reads and writes no memory.
    unsafe { libc::kill(pid, signal.0) == 0 }
}

/// A process that is held, so that its number cannot become another's meanwhile.
#[derive(Debug)]
pub struct Held {
    pid: libc::pid_t,
    /// `None`: a kernel before 5.3, which cannot hold one.
    fd: Option<File>,
}

impl Held {
    /// Holds the process that has this number.
    ///
    /// # Errors
    /// ESRCH: there is none. EINVAL: a number that no process has, or one of a thread.
    pub fn new(pid: i32) -> io::Result<Self> {
        // 0, -1 and other negative numbers mean groups, or everyone: nobody is meant.
        if pid <= 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: pidfd_open takes two numbers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = libc::c_int::try_from(fd).unwrap_or(-1);
        match check(fd) {
            // SAFETY: pidfd_open succeeded, so this descriptor is open and nobody else owns it.
            Ok(fd) => Ok(Some(unsafe { File::from_raw_fd(fd) })),
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(None),
            Err(e) => Err(e),
        }
        .map(|fd| Self { pid, fd })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// ESRCH: it has ended. EPERM.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let sent = match &self.fd {
            Some(fd) => {
                let (info, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
                let call = libc::SYS_pidfd_send_signal;
                // SAFETY: without a siginfo the call reads no memory; the descriptor is open.
                let sent = unsafe { libc::syscall(call, fd.as_raw_fd(), signal.0, info, flags) };
                libc::c_int::try_from(sent).unwrap_or(-1)
            }
            // SAFETY: kill reads and writes no memory.
            None => unsafe { libc::kill(self.pid, signal.0) },
        };
        check(sent).map(|_| ())
    }
}

/// Bytes in what the kernel counts memory in.
pub fn page_size() -> u64 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// SIGCHLD and SIGTERM as readiness, for workers, which have no handlers (signalfd(2)).
#[derive(Debug)]
pub struct Watch(File);

impl Watch {
    /// Both are blocked from now on, and make this readable.
    ///
    /// # Errors
    /// EMFILE.
    pub fn new() -> io::Result<Self> {
        let mut set = empty_set();
        // SAFETY: `set` is a valid signal set and lives for the length of the calls.
        let fd = unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            let old = std::ptr::null_mut();
            check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, old))?;
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            check(libc::signalfd(-1, &raw const set, flags))?
        };
        // SAFETY: signalfd succeeded, so this descriptor is open and nobody else owns it.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Forgets what has come. True: a SIGTERM was among it.
    pub fn take(&self) -> bool {
        let mut terminated = false;
        // Each is a signalfd_siginfo of 128 bytes, whose first field is the signal's number.
        let mut one = [0; size_of::<libc::signalfd_siginfo>()];
        while matches!(io::Read::read(&mut &self.0, &mut one), Ok(n) if n == one.len()) {
            let number = one.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            terminated |= number == Some(libc::SIGTERM.unsigned_abs());
        }
        terminated
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// This process takes no notice of a signal, nor did whoever started it.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: a sigaction is a number, a pointer and a set, for all of which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action it only fills `action`, which lives for the length of the call.
    let done = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    done == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Makes this process the parent of those of its descendants whose own have ended.
pub fn adopt_orphans() {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes its argument by value and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
}

/// Names this process for ps(1): at most 15 bytes are shown.
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: PR_SET_NAME reads a string that ends with NUL and lives for the length of the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Has this process wait until whoever woke it has nothing more to do (SCHED_BATCH, sched(7)). For
/// workers that pass much on: else each piece that is put in, or taken out, is followed by two switches of
/// processes.
pub fn become_batch() {
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: reads one sched_param, which lives for the length of the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const ordinary) };
}

/// Has this process run before others that want the processor, as far as its user may: it answers at
/// once however busy they are, and is itself busy for moments only. Its children are not like that.
pub fn become_prompt() {
    set_nice(-3);
}

fn set_nice(nice: libc::c_int) {
    // SAFETY: reads and writes no memory.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

/// Gives this process the priority, the scheduling and the limits that an ordinary process of this
/// system has, whatever those of its parent: nice 0, no real time, the limits of process 1, and of
/// descriptors no more than select(2) can take until it asks for more. What it may not raise stays.
pub fn become_ordinary() {
    set_nice(0);
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: reads one sched_param, which lives for the length of the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary) };
    for resource in 0..RESOURCES {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: prlimit without a new limit only fills `limit`, which lives for the length of the call.
        let found = unsafe { libc::prlimit(1, resource, std::ptr::null(), &raw mut limit) };
        if found < 0 {
            continue;
        }
        if resource == libc::RLIMIT_NOFILE {
            limit.rlim_cur = limit.rlim_cur.min(1024);
        }
        // SAFETY: reads one rlimit, which lives for the length of the call.
        if unsafe { libc::setrlimit(resource, &raw const limit) } == 0 {
            continue;
        }
        let wanted = limit.rlim_cur;
        // SAFETY: fills one rlimit, which lives for the length of the call.
        if unsafe { libc::getrlimit(resource, &raw mut limit) } == 0 {
            limit.rlim_cur = wanted.min(limit.rlim_max);
            // SAFETY: as above.
            unsafe { libc::setrlimit(resource, &raw const limit) };
        }
    }
}

/// RLIM_NLIMITS: the resources of getrlimit(2) are numbered from 0.
const RESOURCES: u32 = 16;

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
        return Some((Pid(pid), ended(status)));
    }
}

/// How this child has ended, if it has. Never waits.
pub fn reap_one(pid: Pid) -> Option<Ended> {
    let mut status = 0;
    // SAFETY: waitpid writes one int to `status`, which lives for the length of the call.
    let reaped = unsafe { libc::waitpid(pid.0, &raw mut status, libc::WNOHANG) };
    (reaped == pid.0).then(|| ended(status))
}

const fn ended(status: libc::c_int) -> Ended {
    if libc::WIFSIGNALED(status) {
        Ended::Signalled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
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
            Ok(_) => return Ok(ended(status)),
        }
    }
}

/// This process has children: some that run, or some that wait to be reaped.
pub fn has_children() -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a siginfo_t is numbers and pointers, for all of which zero is a value; waitid fills one, which
    // lives for the length of the call.
    unsafe {
        let mut found: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &raw mut found, flags) == 0
    }
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

/// Closes stdin, stdout and stderr. For a worker that may hang: whoever reads what its parent has
/// written is not to wait for it too.
pub fn close_streams() {
    for fd in 0..3 {
        // SAFETY: close touches no memory; 0, 1 and 2 are owned by no object of this program.
        unsafe { libc::close(fd) };
    }
}

fn become_worker(keep: &[RawFd]) -> io::Result<()> {
    // SAFETY: setsid touches no memory. A freshly forked child leads no group, so it succeeds.
    check(unsafe { libc::setsid() })?;
    set_nice(0);
    // SIGPIPE stays ignored: a worker whose reader is gone has something to clean up.
    reset_signals((1..=31).filter(|signal| *signal != libc::SIGPIPE));
    close_all_but(keep);
    unblock_signals()
}

/// Gives these signals their default dispositions.
pub(super) fn reset_signals(signals: impl Iterator<Item = libc::c_int>) {
    for signal in signals {
        // SAFETY: SIG_DFL is a valid disposition; KILL and STOP answer EINVAL, which is ignored.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
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

/// Blocks all signals; returns those that were blocked before.
pub(super) fn block_signals() -> io::Result<libc::sigset_t> {
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

/// Blocks these signals and no others.
pub(super) fn restore_signals(mask: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `mask` lives for the length of the call; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) })?;
    Ok(())
}

/// Blocks no signal.
pub(super) fn unblock_signals() -> io::Result<()> {
    let mut none = empty_set();
    // SAFETY: `none` is a valid signal set and lives for the length of the call.
    unsafe { libc::sigemptyset(&raw mut none) };
    restore_signals(&none)
}

fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() == 1)
}
