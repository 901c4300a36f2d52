//! A program in a process of its own, started without a copy of this one: until it is the program, the
//! child runs in the memory of this process, which waits for it (CLONE_VM and CLONE_VFORK, clone(2)).
//! fork(2) would copy the page tables and have both fault on every page that they write.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;
use super::process::{Pid, block_signals, reset_signals, restore_signals, unblock_signals};

/// What to run, and as what.
#[derive(Debug)]
pub struct Program {
    /// Where to look for it, one after the other.
    pub paths: Vec<CString>,
    /// Its arguments, its own name first.
    pub args: Vec<CString>,
    /// `NAME=value`, nothing else.
    pub environment: Vec<CString>,
    /// Its working directory: the first of these that can be entered.
    pub directories: Vec<CString>,
    /// Who it runs as; without one as whoever this process does.
    pub user: Option<Identity>,
    /// It has a terminal of its own, which is its stdin.
    pub with_terminal: bool,
}

/// A user for good: supplementary groups, then group, then user.
#[derive(Debug)]
pub struct Identity {
    /// See getuid(2).
    pub uid: u32,
    /// See getgid(2).
    pub gid: u32,
    /// The supplementary ones, all of them.
    pub groups: Vec<u32>,
}

impl Identity {
    /// Makes this process, which has one thread, that user's for good. Allocates nothing.
    ///
    /// # Errors
    /// As setuid(2); what has been done stays so.
    pub fn assume(&self) -> io::Result<()> {
        let groups = &self.groups;
        // SAFETY: `groups` is valid for its length for the length of the call; the others touch no
        // memory. The bare system calls change this process alone, as the C library's functions would
        // where there is one thread.
        unsafe {
            let count = groups.len();
            check_long(libc::syscall(libc::SYS_setgroups, count, groups.as_ptr()))?;
            check_long(libc::syscall(libc::SYS_setgid, self.gid))?;
            check_long(libc::syscall(libc::SYS_setuid, self.uid))
        }
    }
}

/// What the child was at when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Taking its terminal, or redirecting a stream.
    Streams,
    /// setgroups(2), setgid(2), setuid(2).
    User,
    /// chdir(2).
    Directory,
    /// execve(2).
    Run,
}

/// What the child reads, and the one thing it writes. Nothing in it is allocated by the child.
struct Plan<'a> {
    program: &'a Program,
    streams: [i32; 3],
    args: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// As `args`, for the shell where the program is a text without `#!`: as execvp(3) does it.
    script: Cell<Vec<*const c_char>>,
    failed: Cell<Option<(Step, i32)>>,
}

const SHELL: &CStr = c"/bin/sh";

/// Bytes of the child's stack: it makes system calls, nothing else.
const STACK: usize = 64 * 1024;

impl Program {
    /// Where a program with this name is looked for: beside the path itself in each directory of `path`,
    /// as execvp(3) does.
    pub fn candidates(name: &str, path: &str) -> Vec<CString> {
        let directories: Vec<&str> = match name.contains('/') {
            true => vec![""],
            false => path.split(':').collect(),
        };
        let join = |directory: &str| Path::new(directory).join(name);
        let paths = directories.into_iter().map(join);
        paths
            .filter_map(|path| CString::new(path.as_os_str().as_bytes()).ok())
            .collect()
    }

    /// Starts it with these as stdin, stdout and stderr, and no other descriptor that is not closed on
    /// exec. Comes back when it runs, however long its file takes to be found: a process that has
    /// to kill it then kills this one, with which it ends (PR_SET_PDEATHSIG) as long as this one lives as its
    /// parent. It leads a session, and has no signal blocked, handled or ignored.
    ///
    /// # Errors
    /// What failed, and why; there is no child then. EAGAIN, ENOMEM (clone(2)) count as [`Step::Run`].
    pub fn start(&self, streams: [&File; 3]) -> Result<Pid, (Step, io::Error)> {
        let pointers = |all: &[CString]| {
            let all = all.iter().map(|one| one.as_ptr());
            all.chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        let args = pointers(&self.args);
        let mut script = vec![SHELL.as_ptr(), std::ptr::null()];
        script.extend(args.get(1..).unwrap_or(&[std::ptr::null()]));
        let plan = Plan {
            program: self,
            streams: streams.map(AsRawFd::as_raw_fd),
            args,
            environment: pointers(&self.environment),
            script: Cell::new(script),
            failed: Cell::new(None),
        };
        let run = |e| (Step::Run, e);
        let mut stack = vec![0u128; STACK / size_of::<u128>()];
        let before = block_signals().map_err(run)?;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = stack.as_mut_ptr_range().end;
        // SAFETY: the child runs `child` on a stack of its own, aligned to 16 bytes, with `plan`. This
        // process, which has one thread, does not run until the child has ended or is another program, so
        // that nobody else touches what it sees.
        let pid = unsafe {
            let plan = (&raw const plan).cast_mut().cast::<c_void>();
            libc::clone(child, top.cast(), flags, plan)
        };
        let cloned = check(pid);
        drop(stack);
        restore_signals(&before).map_err(run)?;
        let pid = Pid::of(cloned.map_err(run)?);
        match plan.failed.take() {
            None => Ok(pid),
            Some((step, errno)) => {
                let _ = super::process::wait(pid);
                Err((step, io::Error::from_raw_os_error(errno)))
            }
        }
    }
}

/// In the child. Allocates nothing and locks nothing: it may be killed at any moment, and its memory is
/// its parent's.
extern "C" fn child(plan: *mut c_void) -> libc::c_int {
    // SAFETY: `start` gives a pointer to a Plan that lives until this child has ended or is another program.
    let plan = unsafe { &*plan.cast::<Plan>() };
    let (step, errno) = plan.follow();
    plan.failed.set(Some((step, errno)));
    super::process::WORKER_FAILED
}

impl Plan<'_> {
    /// Becomes the program. Comes back only with what failed, and why.
    fn follow(&self) -> (Step, i32) {
        let at = |step| move |e: io::Error| (step, e.raw_os_error().unwrap_or(libc::EIO));
        let done = self
            .take_streams()
            .map_err(at(Step::Streams))
            .and_then(|()| self.become_user().map_err(at(Step::User)))
            .and_then(|()| self.enter().map_err(at(Step::Directory)));
        match done {
            Ok(()) => (Step::Run, self.run()),
            Err(failed) => failed,
        }
    }

    fn take_streams(&self) -> io::Result<()> {
        // SAFETY: none of these touches memory; 0, 1 and 2 are owned by no object of this program.
        unsafe {
            check(libc::setsid())?;
            if self.program.with_terminal {
                check(libc::ioctl(self.streams[0], libc::TIOCSCTTY, 0))?;
            }
            for (to, from) in (0..).zip(self.streams) {
                check(libc::dup2(from, to))?;
            }
        }
        Ok(())
    }

    fn become_user(&self) -> io::Result<()> {
        if let Some(user) = &self.program.user {
            user.assume()?;
        }
        // Behind setuid, which would forget it.
        // SAFETY: takes its argument by value and touches no memory.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    }

    fn enter(&self) -> io::Result<()> {
        let mut first = None;
        for directory in &self.program.directories {
            // SAFETY: the string ends with NUL and lives for the length of the call.
            match check(unsafe { libc::chdir(directory.as_ptr()) }) {
                Ok(_) => return Ok(()),
                Err(e) => first = first.or(Some(e)),
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn run(&self) -> i32 {
        reset_signals(1..=31);
        let _ = unblock_signals();
        let mut found = libc::ENOENT;
        for path in &self.program.paths {
            match self.exec(path, &self.args) {
                libc::ENOEXEC => {
                    let mut script = self.script.take();
                    script[1] = path.as_ptr();
                    found = self.exec(SHELL, &script);
                    self.script.set(script);
                    break;
                }
                // As execvp(3): it may be found elsewhere, and if not that is what it failed of.
                libc::EACCES => found = libc::EACCES,
                libc::ENOENT | libc::ENOTDIR => {}
                errno => {
                    found = errno;
                    break;
                }
            }
        }
        found
    }

    fn exec(&self, path: &CStr, args: &[*const c_char]) -> i32 {
        // SAFETY: `path` ends with NUL, both lists with a null pointer behind pointers to strings that
        // end with NUL, and all of them live until this process is another program.
        unsafe { libc::execve(path.as_ptr(), args.as_ptr(), self.environment.as_ptr()) };
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)
    }
}

fn check_long(result: libc::c_long) -> io::Result<()> {
    check(libc::c_int::try_from(result).unwrap_or(-1)).map(|_| ())
}
