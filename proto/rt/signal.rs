//! Signals as readiness: the handler writes a byte into a socket that the loop polls.

use std::io::{self, Read};
use std::os::unix::net::UnixStream as StdStream;

use mio::net::UnixStream;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

/// What a loop acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT: end cleanly.
    Terminate,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGCHLD: a child has ended.
    Child,
}

/// One signal's readable end. Register it with the loop's poll.
#[derive(Debug)]
pub struct Signals {
    /// To be registered for reading.
    pub stream: UnixStream,
    what: Signal,
}

impl Signals {
    /// Catches the signals that mean `what` from now on.
    ///
    /// # Errors
    /// EMFILE.
    pub fn new(what: Signal) -> io::Result<Self> {
        let numbers: &[i32] = match what {
            Signal::Terminate => &[SIGTERM, SIGINT],
            Signal::Reload => &[SIGHUP],
            Signal::Child => &[SIGCHLD],
        };
        let (reader, writer) = StdStream::pair()?;
        reader.set_nonblocking(true)?;
        for &number in numbers {
            signal_hook::low_level::pipe::register(number, writer.try_clone()?)?;
        }
        Ok(Self {
            stream: UnixStream::from_std(reader),
            what,
        })
    }

    /// Which signal this is, if it has come since the last call.
    pub fn take(&mut self) -> Option<Signal> {
        let mut came = false;
        let mut buffer = [0; 64];
        while matches!(self.stream.read(&mut buffer), Ok(n) if n > 0) {
            came = true;
        }
        came.then_some(self.what)
    }
}
