//! One client on the control socket: bytes in, messages out, and a bound on what waits for it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use mio::net::UnixStream;
use quantix::error::system_text;
use quantix::message::node::NodeMessage;
use quantix::wipe::wipe;

use super::lists::List;
use crate::access::Caller;
use crate::stream::{Inbox, encode};

/// Bytes that may wait for a client that does not read. It grants credit for what it asks for, so
/// only one that breaks its word gets there; it is disconnected.
const MAX_WAITING: usize = 4 * 1024 * 1024;

/// Reads in one turn, so that one client cannot keep the loop.
const READS_A_TURN: usize = 8;

/// A connected client.
#[derive(Debug)]
pub struct Client {
    pub stream: UnixStream,
    /// Who it is.
    pub caller: Caller,
    inbox: Inbox,
    out: Vec<u8>,
    at: usize,
    /// What it has asked for and is not made yet.
    pub lists: VecDeque<List>,
    readable: bool,
    writable: bool,
}

/// The client is to be disconnected: why.
pub type Gone = String;

impl Client {
    /// A client that has just connected.
    pub fn new(stream: UnixStream, caller: Caller) -> Self {
        Self {
            stream,
            caller,
            inbox: Inbox::default(),
            out: Vec::new(),
            at: 0,
            lists: VecDeque::new(),
            readable: true,
            writable: true,
        }
    }

    /// An event of the poll.
    pub const fn on_ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// There may be more to read without another event.
    pub const fn is_readable(&self) -> bool {
        self.readable
    }

    /// Reads a turn's share; the messages that are whole.
    ///
    /// # Errors
    /// It has left, or speaks another protocol.
    pub fn read(&mut self) -> Result<Vec<NodeMessage>, Gone> {
        let mut buffer = [0; 32 * 1024];
        let taken = self.take_in(&mut buffer);
        wipe(&mut buffer);
        taken?;
        let mut messages = Vec::new();
        loop {
            match self.inbox.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return Ok(messages),
                Err(_) => return Err("sent something that is not our protocol".to_owned()),
            }
        }
    }

    fn take_in(&mut self, buffer: &mut [u8]) -> Result<(), Gone> {
        for _ in 0..READS_A_TURN {
            match self.stream.read(buffer) {
                Ok(0) => return Err("left".to_owned()),
                Ok(n) => self.inbox.extend(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(());
                }
                Err(e) => return Err(describe(&e)),
            }
        }
        Ok(())
    }

    /// It has taken all that was for it, and waits for more.
    pub fn wants_list(&self) -> bool {
        self.out.is_empty() && !self.lists.is_empty()
    }

    /// Puts a message behind the others that wait for the client.
    pub fn push(&mut self, message: &NodeMessage) {
        encode(message, &mut self.out);
    }

    /// Writes what the client takes now.
    ///
    /// # Errors
    /// It has left, or does not read what it asked for.
    pub fn write(&mut self) -> Result<(), Gone> {
        while self.writable && self.at < self.out.len() {
            match self.stream.write(&self.out[self.at..]) {
                Ok(n) => self.at += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) => return Err(describe(&e)),
            }
        }
        if self.at == self.out.len() {
            self.out.clear();
            self.out.shrink_to(64 * 1024);
            self.at = 0;
        } else if self.at > MAX_WAITING / 2 {
            self.out.drain(..self.at);
            self.at = 0;
        }
        if self.out.len() - self.at > MAX_WAITING {
            return Err("does not read what it asked for".to_owned());
        }
        Ok(())
    }
}

fn describe(error: &io::Error) -> Gone {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => "left".to_owned(),
        _ => system_text(error),
    }
}
