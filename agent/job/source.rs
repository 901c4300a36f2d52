//! Bytes on their way to the host: the loop cuts what a child writes into a pipe, or shows on its
//! terminal, into chunks, as far as the host's credit goes. What is not read stays in the pipe, and
//! stops the child.

use quantix::credit::SendCredit;
use quantix::guest::Guest;
use quantix::ids::MessageId;
use quantix::limits::CHUNK;
use quantix::message::{Stream, agent};

use super::pipe::{Got, Inlet};

/// One stream of a request, from its child to the host.
#[derive(Debug)]
pub struct Source {
    inlet: Inlet,
    stream: Stream,
    credit: SendCredit,
    /// The longest chunk, in bytes.
    chunk: usize,
}

impl Source {
    /// A stream of which the host takes nothing yet.
    pub fn new(inlet: Inlet, stream: Stream) -> Self {
        Self {
            inlet,
            stream,
            credit: SendCredit::default(),
            chunk: CHUNK,
        }
    }

    /// With chunks of at most `bytes`; 0: as much as one holds.
    pub fn with_chunk(mut self, bytes: u32) -> Self {
        let wanted = usize::try_from(bytes).unwrap_or(CHUNK);
        if wanted > 0 {
            self.chunk = wanted.min(CHUNK);
        }
        self
    }

    /// An event said that there may be something.
    pub const fn on_ready(&mut self) {
        self.inlet.on_ready();
    }

    /// The host takes `total` bytes of this stream in all.
    pub fn allow(&mut self, stream: Stream, total: u64) {
        if stream == self.stream {
            self.credit.allow(total);
        }
    }

    /// Sends a chunk if there is one and the host takes it. True: it did, or found the end.
    pub fn pull(&mut self, id: &MessageId, guest: &mut Guest, buffer: &mut Vec<u8>) -> bool {
        let room = usize::try_from(self.credit.available()).unwrap_or(self.chunk);
        let room = room.min(self.chunk);
        if !self.inlet.is_ready() || room == 0 {
            return false;
        }
        buffer.resize(room, 0);
        let n = match self.inlet.read(buffer) {
            Got::Bytes(n) => n,
            Got::Nothing => return false,
            Got::End => return true,
        };
        buffer.truncate(n);
        // The bytes go in and come back: one buffer serves all chunks.
        let chunk = agent::StreamChunk {
            stream: self.stream.into(),
            offset: self.credit.spend(n),
            data: std::mem::take(buffer),
            eof: false,
        };
        *buffer = guest.send_chunk(id, chunk).data;
        true
    }

    /// The child has ended. What is in its pipe now is all that it wrote; whoever else holds the
    /// other end is not waited for.
    pub fn finish(&mut self) {
        self.inlet.finish();
    }

    /// All of it has been sent.
    pub fn is_drained(&mut self) -> bool {
        self.inlet.end_if_empty();
        self.inlet.is_ended()
    }
}
