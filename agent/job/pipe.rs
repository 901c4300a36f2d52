//! The loop's ends of the pipes to its children. Readiness is remembered, because epoll tells it
//! once: an end that still has bytes is read again without another event.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use quantix::rt::sys::fd;

/// The end that reads what a child writes.
#[derive(Debug)]
pub struct Inlet {
    file: Option<File>,
    ready: bool,
    last: Last,
}

/// What is still to be read.
#[derive(Clone, Copy, Debug)]
enum Last {
    /// As long as somebody can write.
    Open,
    /// The child has ended: so many bytes, then nothing.
    Bytes(u64),
    /// The child has ended: until there is nothing more.
    UntilEmpty,
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
            last: Last::Open,
        })
    }

    /// An event said that there may be something.
    pub const fn on_ready(&mut self) {
        self.ready = true;
    }

    /// The child has ended: only what it has written so far is still read, not what others write who
    /// hold its end too.
    pub fn finish(&mut self) {
        if let (Some(file), Last::Open) = (&self.file, self.last) {
            // Of a terminal nobody else can write any more (tty_io.c, __tty_hangup), and its last bytes
            // may not be in the buffer that is counted.
            self.last = match file.is_terminal() {
                true => Last::UntilEmpty,
                false => Last::Bytes(fd::unread(file) as u64),
            };
            self.ready = true;
        }
    }

    /// There may be something to read.
    pub const fn is_ready(&self) -> bool {
        self.ready && self.file.is_some()
    }

    /// The end was reached.
    pub const fn is_ended(&self) -> bool {
        self.file.is_none()
    }

    /// Notes the end of a finished pipe without reading: the reader may have no room for even one byte.
    pub fn end_if_empty(&mut self) {
        let Some(file) = &self.file else { return };
        let empty = match self.last {
            Last::Open => false,
            Last::Bytes(left) => left == 0,
            Last::UntilEmpty => !fd::is_readable_now(file),
        };
        if empty {
            self.file = None;
        }
    }

    /// Reads once.
    pub fn read(&mut self, buffer: &mut [u8]) -> Got {
        let Some(file) = &mut self.file else {
            return Got::End;
        };
        let mut buffer = buffer;
        if let Last::Bytes(left) = self.last {
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let room = buffer.len().min(left);
            buffer = &mut buffer[..room];
            if left == 0 {
                self.file = None;
                return Got::End;
            }
        }
        loop {
            match file.read(buffer) {
                Ok(0) if buffer.is_empty() => return Got::Nothing,
                Ok(0) => break,
                Ok(n) => {
                    if let Last::Bytes(left) = &mut self.last {
                        *left = left.saturating_sub(n as u64);
                    }
                    return Got::Bytes(n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if let Last::Bytes(_) | Last::UntilEmpty = self.last {
                        break;
                    }
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
