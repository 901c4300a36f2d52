//! The loop's ends of the pipes to its children. Readiness is remembered, because epoll tells it
//! once: an end that still has bytes is read again without another event.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use quantix::rt::sys::fd;

/// The end that reads what a child writes.
#[derive(Debug)]
pub struct Inlet {
    file: Option<File>,
    ready: bool,
}

/// What a read found.
pub enum Got {
    /// This many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The child, and whoever inherited its end, will write no more.
    End,
}

impl Inlet {
    /// Registers the reading end of a pipe.
    pub fn new(file: File, registry: &Registry, token: Token) -> io::Result<Self> {
        fd::set_nonblocking(&file)?;
        registry.register(&mut SourceFd(&file.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self {
            file: Some(file),
            ready: true,
        })
    }

    /// An event said that there may be something.
    pub const fn on_ready(&mut self) {
        self.ready = true;
    }

    /// There may be something to read.
    pub const fn is_ready(&self) -> bool {
        self.ready && self.file.is_some()
    }

    /// The end was reached.
    pub const fn is_ended(&self) -> bool {
        self.file.is_none()
    }

    /// Notes the end without reading, where nobody is left who could write: the reader may have no
    /// room for even one byte.
    pub fn end_if_empty(&mut self) {
        if self.file.as_ref().is_some_and(|file| fd::unread(file) == 0) {
            self.file = None;
        }
    }

    /// Reads once.
    pub fn read(&mut self, buffer: &mut [u8]) -> Got {
        let Some(file) = &mut self.file else {
            return Got::End;
        };
        loop {
            match file.read(buffer) {
                Ok(0) if buffer.is_empty() => return Got::Nothing,
                Ok(0) => break,
                Ok(n) => return Got::Bytes(n),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.ready = false;
                    return Got::Nothing;
                }
                Err(_) => break,
            }
        }
        self.file = None;
        Got::End
    }

    /// Reads all there is now into `buffer`, and what is over `limit` nowhere. Returns how many
    /// bytes went nowhere. Gives up after a megabyte, so that a child that never stops writing
    /// cannot hold the loop; the rest is read at the next turn.
    pub fn read_into(&mut self, buffer: &mut Vec<u8>, limit: usize) -> usize {
        let mut lost = 0;
        let mut chunk = [0; 8192];
        for _ in 0..128 {
            match self.read(&mut chunk) {
                Got::Bytes(n) => {
                    let kept = n.min(limit.saturating_sub(buffer.len()));
                    buffer.extend_from_slice(&chunk[..kept]);
                    lost += n - kept;
                }
                Got::Nothing | Got::End => break,
            }
        }
        lost
    }
}

/// The end that writes what a child reads.
#[derive(Debug)]
pub struct Outlet {
    file: File,
    ready: bool,
}

impl Outlet {
    /// Registers the writing end of a pipe.
    pub fn new(file: File, registry: &Registry, token: Token) -> io::Result<Self> {
        fd::set_nonblocking(&file)?;
        registry.register(&mut SourceFd(&file.as_raw_fd()), token, Interest::WRITABLE)?;
        Ok(Self { file, ready: true })
    }

    /// An event said that there may be room.
    pub const fn on_ready(&mut self) {
        self.ready = true;
    }

    /// Writes what the pipe takes now.
    ///
    /// # Errors
    /// EPIPE: the child reads no more.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.ready {
            return Ok(0);
        }
        loop {
            match self.file.write(bytes) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.ready = false;
                    return Ok(0);
                }
                done => return done,
            }
        }
    }
}
