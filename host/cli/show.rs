//! One of a command's streams on its way to ours: what has come, and how much of it was written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};

use quantix::credit::ReceiveCredit;
use quantix::limits::CLIENT_WINDOW;
use quantix::message::{Stream, agent};

use super::Trouble;
use super::client::unexpected;
use super::live::{AT_ONCE, MAX_KEPT, Output, passing};
use super::render::Escaper;

/// A stream, stdout or stderr.
pub struct Show {
    pub stream: Stream,
    /// The next byte that is to come, counted from the command's begin.
    pub cursor: u64,
    pub credit: ReceiveCredit,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first that are written.
    at: usize,
    /// See [`Output::Escaped`].
    escaper: Option<Escaper>,
    /// Escaped, and not yet written.
    escaped: Vec<u8>,
    keep: bool,
    pub kept: Vec<u8>,
    /// More came than is kept, or than we were told of.
    pub lost: bool,
}

impl Show {
    pub fn new(stream: Stream, from: u64, output: &Output) -> Self {
        Self {
            stream,
            cursor: from,
            credit: ReceiveCredit::new(CLIENT_WINDOW),
            queue: VecDeque::new(),
            at: 0,
            escaper: matches!(output, Output::Escaped).then(Escaper::default),
            escaped: Vec::new(),
            keep: matches!(output, Output::Kept),
            kept: Vec::new(),
            lost: false,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.escaped.is_empty()
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        if self.queue.is_empty()
            && let Some(escaper) = &mut self.escaper
        {
            self.escaped.extend(escaper.end());
        }
    }

    pub fn push(&mut self, chunk: agent::StreamChunk) -> Result<(), Trouble> {
        let received = self.credit.receive(chunk.offset, chunk.data.len());
        received.map_err(|_| unexpected())?;
        self.cursor += chunk.skipped + chunk.data.len() as u64;
        if chunk.skipped > 0 {
            self.lost = true;
            let (lost, name) = (chunk.skipped, self.stream.as_str_name());
            let name = name.trim_start_matches("STREAM_").to_lowercase();
            let _ = writeln!(
                io::stderr(),
                "qx-node: {lost} bytes of {name} are lost: overwritten before they were read"
            );
        }
        if self.keep {
            let room = (MAX_KEPT / 2).saturating_sub(self.kept.len());
            let kept = chunk.data.len().min(room);
            self.kept.extend_from_slice(&chunk.data[..kept]);
            self.lost |= kept < chunk.data.len();
            self.credit.consume(chunk.data.len());
        } else if !chunk.data.is_empty() {
            self.queue.push_back(chunk.data);
        }
        Ok(())
    }

    /// Writes as much as is surely taken at once.
    pub fn write(&mut self, mut to: &File) -> Result<(), Trouble> {
        self.escape();
        if !self.escaped.is_empty() {
            let most = self.escaped.len().min(AT_ONCE);
            return match to.write(&self.escaped[..most]) {
                Ok(n) => {
                    self.escaped.drain(..n);
                    Ok(())
                }
                Err(e) => passing(e),
            };
        }
        let Some(first) = self.queue.front() else {
            return Ok(());
        };
        let rest = &first[self.at..];
        match to.write(&rest[..rest.len().min(AT_ONCE)]) {
            Ok(n) => {
                self.at += n;
                self.credit.consume(n);
                if self.at == first.len() {
                    self.queue.pop_front();
                    self.at = 0;
                }
                Ok(())
            }
            Err(e) => passing(e),
        }
    }

    /// Escapes the next bytes, if that is wanted and those before are written.
    fn escape(&mut self) {
        let Some(escaper) = &mut self.escaper else {
            return;
        };
        while self.escaped.is_empty()
            && let Some(first) = self.queue.front()
        {
            let rest = &first[self.at..];
            let next = &rest[..rest.len().min(AT_ONCE / 4)];
            self.escaped = escaper.push(next);
            self.at += next.len();
            self.credit.consume(next.len());
            if self.at == first.len() {
                self.queue.pop_front();
                self.at = 0;
            }
        }
    }

    /// The stream goes on in another request: where.
    pub fn again(&mut self) -> u64 {
        // What still waits here will count in the new request: once, its sender may be that much ahead.
        self.credit = ReceiveCredit::new(CLIENT_WINDOW);
        self.cursor
    }

    pub fn drop_all(&mut self) {
        let bytes: usize = self.queue.iter().map(Vec::len).sum();
        self.credit.consume(bytes - self.at);
        self.queue.clear();
        self.escaped.clear();
        self.at = 0;
    }
}
