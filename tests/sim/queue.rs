//! Bytes that wait in a socket or a ring, as they were written.

use std::collections::VecDeque;

use quantix::window::charge;

/// What a Unix socket takes before it refuses more, with the kernel's own cost of each write.
pub const SOCKET: usize = 212_992;

/// What a write is charged for beside its bytes, until it is read whole.
pub fn overhead(bytes: usize) -> usize {
    usize::try_from(charge(bytes)).unwrap() - bytes
}

/// Bytes on their way, in the pieces in which they were written.
#[derive(Clone, Default)]
pub struct Queue {
    pub pieces: VecDeque<Piece>,
    pub cost: usize,
}

#[derive(Clone)]
pub struct Piece {
    pub bytes: Vec<u8>,
    pub read: usize,
    /// The writer's mark: which session of the guest's it was written in.
    pub mark: u64,
}

impl Queue {
    pub fn push(&mut self, piece: Piece) {
        self.cost += piece.bytes.len() + overhead(piece.bytes.len());
        self.pieces.push_back(piece);
    }

    pub fn remove(&mut self, at: usize) -> Option<Piece> {
        let piece = self.pieces.remove(at)?;
        self.cost -= piece.bytes.len() + overhead(piece.bytes.len());
        Some(piece)
    }

    pub const fn has_room(&self) -> bool {
        self.cost < SOCKET
    }

    /// Up to `most` bytes, across pieces.
    pub fn read(&mut self, most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < most
            && let Some(piece) = self.pieces.front_mut()
        {
            let rest = &piece.bytes[piece.read..];
            let part = rest.len().min(most - out.len());
            out.extend_from_slice(&rest[..part]);
            piece.read += part;
            if piece.read == piece.bytes.len() {
                self.remove(0);
            }
        }
        out
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}
