//! Bytes on their way from the host: the loop feeds them into a child's pipe or terminal, and gives
//! the host credit for what has gone in.

use std::collections::VecDeque;

use quantix::chunk::Chunk;
use quantix::credit::{Fault, ReceiveCredit};
use quantix::limits::STREAM_WINDOW;

use super::pipe::Outlet;

/// One stream of a request, from the host to its child.
#[derive(Debug)]
pub struct Sink {
    /// `None` once the child has been told that this is all, or takes no more.
    outlet: Option<Outlet>,
    /// What the child has not taken; `at` bytes of the first have gone. Bounded by the credit.
    pieces: VecDeque<Piece>,
    at: usize,
    credit: ReceiveCredit,
}

#[derive(Debug)]
enum Piece {
    /// Bytes, and how many of them came against credit.
    Bytes(Vec<u8>, usize),
    /// Nothing follows.
    End,
}

impl Sink {
    /// Nothing has come, and nothing may yet.
    pub fn new(outlet: Outlet) -> Self {
        Self {
            outlet: Some(outlet),
            pieces: VecDeque::new(),
            at: 0,
            credit: ReceiveCredit::new(STREAM_WINDOW),
        }
    }

    /// An event said that there may be room.
    pub const fn on_ready(&mut self) {
        if let Some(outlet) = &mut self.outlet {
            outlet.on_ready();
        }
    }

    /// Whether this chunk may come now, and is the next one; notes it if so.
    ///
    /// # Errors
    /// The host broke the stream's rules.
    pub fn check(&mut self, chunk: &Chunk) -> Result<(), Fault> {
        self.credit.receive(chunk.head.offset, chunk.data().len())
    }

    /// Puts bytes behind the others; `credited` of them came against credit.
    pub fn push(&mut self, bytes: Vec<u8>, credited: usize) {
        if self.outlet.is_some() && !bytes.is_empty() {
            self.pieces.push_back(Piece::Bytes(bytes, credited));
        }
    }

    /// Ends the child's input behind what has been pushed.
    pub fn end(&mut self) {
        self.pieces.push_back(Piece::End);
    }

    /// Moves bytes into the pipe. The new total that the host may send, if it is worth saying.
    pub fn turn(&mut self) -> Option<u64> {
        while let (Some(outlet), Some(piece)) = (&mut self.outlet, self.pieces.front()) {
            let Piece::Bytes(bytes, credited) = piece else {
                self.abandon();
                break;
            };
            match outlet.write(&bytes[self.at..]) {
                Ok(0) => return None,
                Ok(n) => self.at += n,
                // The child reads no more. Its end tells the host why.
                Err(_) => {
                    self.abandon();
                    break;
                }
            }
            if self.at == bytes.len() {
                self.credit.consume(*credited);
                self.pieces.pop_front();
                self.at = 0;
            }
        }
        self.outlet.as_ref()?;
        self.credit.grant()
    }

    /// Ends the child's input here, whatever still waits.
    pub fn abandon(&mut self) {
        self.outlet = None;
        self.pieces.clear();
    }
}
