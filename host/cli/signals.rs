//! Signals to a command line that waits for a command: they are the command's.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quantix::rt::sys::process;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caught {
    /// Our terminal has another size.
    Resize,
    /// Our terminal is gone.
    HangUp,
    /// For the command, by its number.
    Other(u32),
}

/// The signals that are caught.
pub struct Signals {
    /// Readable when one has come.
    pub stream: UnixStream,
    flags: Vec<(i32, Arc<AtomicBool>)>,
}

/// Those that end a program, caught once: the next one ends it there and then.
pub struct Stop(Signals);

impl Stop {
    /// Catches them from now on.
    pub fn catch() -> io::Result<Self> {
        Ok(Self(Signals::register(&[SIGHUP, SIGINT, SIGTERM], true)?))
    }

    /// The one that has come.
    pub fn came(&self) -> Option<u8> {
        let mut flags = self.0.flags.iter();
        let (number, _) = flags.find(|(_, flag)| flag.load(Ordering::SeqCst))?;
        u8::try_from(*number).ok()
    }
}

impl AsFd for Stop {
    /// Readable when one has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.stream.as_fd()
    }
}

impl Signals {
    /// Ctrl-C.
    pub const INTERRUPT: u32 = SIGINT.unsigned_abs();

    /// Catches them from now on, but those that whoever started us has us ignore, as nohup(1) does.
    pub fn catch() -> io::Result<Self> {
        let all = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
        Self::register(&all, false)
    }

    /// `once`: one that has come before does what it does to a program that catches none.
    fn register(numbers: &[i32], once: bool) -> io::Result<Self> {
        let (stream, writer) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let mut flags = Vec::new();
        for &number in numbers {
            if process::is_ignored(number) {
                continue;
            }
            let flag = Arc::new(AtomicBool::new(false));
            // In this order: what wakes us finds the flag set.
            if once {
                signal_hook::flag::register_conditional_default(number, flag.clone())?;
            }
            signal_hook::flag::register(number, flag.clone())?;
            signal_hook::low_level::pipe::register(number, writer.try_clone()?)?;
            flags.push((number, flag));
        }
        Ok(Self { stream, flags })
    }

    /// What has come since the last call.
    pub fn take(&self) -> Vec<Caught> {
        let mut buffer = [0; 64];
        while matches!((&self.stream).read(&mut buffer), Ok(n) if n > 0) {}
        let came = self
            .flags
            .iter()
            .filter(|(_, flag)| flag.swap(false, Ordering::SeqCst));
        came.map(|(number, _)| match *number {
            SIGWINCH => Caught::Resize,
            SIGHUP => Caught::HangUp,
            other => Caught::Other(other.unsigned_abs()),
        })
        .collect()
    }
}
