//! This program once more, for one VM.

use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{self, ChildStderr, ChildStdout, Stdio};

use quantix::error::system_text;
use quantix::rt::sys::fd::Wait;
use quantix::rt::sys::process::{Signal, signal};

use super::super::Trouble;
use super::super::live::ONE_OF_MANY;

/// Which of its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// One that runs.
pub struct Child {
    name: String,
    process: process::Child,
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
}

/// One that has ended.
pub struct Ended {
    pub name: String,
    /// As a shell has it: 128 + n for signal n.
    pub status: u8,
    /// Why it was not even started.
    pub why: Option<String>,
}

impl Ended {
    /// It could not be started.
    pub fn not_started(name: &str, trouble: &Trouble) -> Self {
        Self {
            name: name.to_owned(),
            status: trouble.status(),
            why: Some(trouble.to_string()),
        }
    }
}

impl Child {
    /// Starts it. It leads a group of its own: what a terminal sends to all of a group it gets from us.
    pub fn start(name: &str, command: &str, words: &[OsString]) -> Result<Self, Trouble> {
        let mut process = process::Command::new("/proc/self/exe")
            .arg(command)
            .args(words)
            .env(ONE_OF_MANY, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| Trouble::Local(format!("start qx-node: {}", system_text(&e))))?;
        Ok(Self {
            name: name.to_owned(),
            out: process.stdout.take(),
            err: process.stderr.take(),
            process,
        })
    }

    /// What to wait for.
    pub fn waits(&self) -> impl Iterator<Item = Wait<'_>> {
        let out = self.out.as_ref().map(Wait::read);
        out.into_iter().chain(self.err.as_ref().map(Wait::read))
    }

    /// Sends it this one.
    pub fn signal(&self, number: u32) {
        if let (Ok(pid), Some(what)) = (i32::try_from(self.process.id()), Signal::parse(number)) {
            signal(pid, what);
        }
    }

    /// Reads what is there.
    pub fn read(
        &mut self,
        mut each: impl FnMut(&str, Stream, &[u8]) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let name = &self.name;
        read_once(&mut self.out, |bytes| each(name, Stream::Out, bytes))?;
        read_once(&mut self.err, |bytes| each(name, Stream::Err, bytes))
    }

    /// How it has ended, if it has closed its streams; else itself.
    pub fn end(mut self) -> Result<Result<Ended, Self>, Trouble> {
        if self.out.is_some() || self.err.is_some() {
            return Ok(Err(self));
        }
        let status = self
            .process
            .wait()
            .map_err(|e| Trouble::Local(format!("wait for qx-node: {}", system_text(&e))))?;
        let signal = status.signal().map(|signal| 128 + signal);
        let status = status.code().or(signal).unwrap_or(255);
        Ok(Ok(Ended {
            name: self.name,
            status: u8::try_from(status).unwrap_or(255),
            why: None,
        }))
    }
}

/// Reads once where something is to be read. At its end the stream is dropped.
fn read_once<R: Read + std::os::fd::AsFd>(
    stream: &mut Option<R>,
    each: impl FnOnce(&[u8]) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let Some(from) = stream.as_mut().filter(|from| {
        // One that is at its end is ready as well.
        quantix::rt::sys::fd::is_readable_now(from)
    }) else {
        return Ok(());
    };
    let mut buffer = [0; 64 * 1024];
    match from.read(&mut buffer) {
        Ok(n) if n > 0 => each(&buffer[..n]),
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(()),
        Ok(_) | Err(_) => {
            *stream = None;
            Ok(())
        }
    }
}
