//! Keepers, as the loop has them: one that is free stands by for the next command. To fork one is much
//! of what a short command takes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use quantix::rt::sys::fd::{is_readable_now, set_nonblocking};
use quantix::rt::sys::pass;
use quantix::rt::sys::process::{self, Pid};
use quantix::rt::sys::shared::Shared;
use quantix::time::Time;

use super::keeper;
use super::kept::Root;

/// A keeper. Without its line it ends, but for one whose command goes on without the agent.
#[derive(Debug)]
pub struct Standby {
    pub pid: Pid,
    pub line: File,
    /// Where it sees how much of its command's outputs was read.
    pub progress: Rc<Shared>,
}

/// The one for the next command.
#[derive(Debug, Default)]
pub struct Next {
    free: Option<Standby>,
    /// When it is dismissed: it is memory.
    until: Time,
}

/// How long it waits after a command was asked for.
const PATIENCE: Duration = Duration::from_secs(60);

impl Standby {
    fn fork(root: &Root) -> io::Result<Self> {
        let progress = Rc::new(Shared::new()?);
        let (line, keepers) = pass::pair()?;
        set_nonblocking(&line)?;
        set_nonblocking(&keepers)?;
        let pid = process::spawn(&[&keepers], || keeper::keep(&keepers, &progress, root))?;
        Ok(Self {
            pid,
            line,
            progress,
        })
    }

    /// Has what it says told under this token.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let fd = self.line.as_raw_fd();
        // It may be registered from its last command, whose token nobody minds now.
        let _ = registry.deregister(&mut SourceFd(&fd));
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }
}

impl Next {
    /// A keeper for a command: the one that stands by, or a new one.
    ///
    /// # Errors
    /// EMFILE, EAGAIN, ENOMEM.
    pub fn take(&mut self, now: Time, root: &Root) -> io::Result<Standby> {
        self.until = now + PATIENCE;
        // One that is free says nothing; of one that was killed the end is there.
        match self.free.take() {
            Some(free) if !is_readable_now(&free.line) => {
                free.progress.reset();
                Ok(free)
            }
            _ => Standby::fork(root),
        }
    }

    /// One is free. Where another stands by it ends.
    pub fn put(&mut self, keeper: Standby) {
        self.free.get_or_insert(keeper);
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.free.as_ref().map(|_| self.until)
    }

    /// Dismisses it when it has waited for long enough.
    pub fn on_timeout(&mut self, now: Time) {
        self.free.take_if(|_| self.until <= now);
    }

    /// Dismisses it: no command is going to come.
    pub fn dismiss(&mut self) {
        self.free = None;
    }

    /// Forgets it if it is the child that has ended.
    pub fn on_exit(&mut self, pid: Pid) {
        self.free.take_if(|keeper| keeper.pid == pid);
    }
}
