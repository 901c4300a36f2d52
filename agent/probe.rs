//! A child that looks at something which may not answer, and writes what it has seen into a pipe.

use std::fs::File;
use std::io;
use std::time::Duration;

use mio::{Registry, Token};
use quantix::rt::sys::fd::pipe;
use quantix::rt::sys::process::{self, Pid};
use quantix::time::Time;

use crate::job::Inlet;

/// One that was started.
#[derive(Debug)]
pub struct Probe {
    pub pid: Pid,
    inlet: Inlet,
    /// What it has written so far.
    pub bytes: Vec<u8>,
    /// How long it is waited for.
    pub deadline: Time,
}

impl Probe {
    /// Has a child do `work`, whose status it ends with.
    ///
    /// # Errors
    /// EMFILE, EAGAIN, ENOMEM.
    pub fn start(
        now: Time,
        patience: Duration,
        registry: &Registry,
        token: Token,
        work: impl FnOnce(&File) -> i32,
    ) -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        let inlet = Inlet::new(reader, registry, token)?;
        let pid = process::spawn(&[&writer], || work(&writer))?;
        Ok(Self {
            pid,
            inlet,
            bytes: Vec::new(),
            deadline: now + patience,
        })
    }

    /// An event came for the token; `limit` bytes are kept. True: it has said all.
    pub fn on_ready(&mut self, limit: usize) -> bool {
        self.inlet.on_ready();
        self.inlet.read_into(&mut self.bytes, limit);
        self.inlet.is_ended()
    }
}
