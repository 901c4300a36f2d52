//! One direction of the port, with all that it may do to bytes.
//!
//! In one life a pipe either loses bytes or has more of them than were written, never both: in a
//! frame that lost as many as it won nothing tells of the damage, and no port is known to do that.

use std::collections::VecDeque;

/// What happens to the bytes on their way.
#[derive(Clone, Copy)]
pub enum Fault {
    /// A write is lost.
    Drop,
    /// Of a write only the beginning arrives.
    Cut,
    /// All is lost.
    Clear,
    /// A write arrives twice.
    Repeat,
    /// What was read before, in this session or another, is there again.
    Stale,
    /// Bytes that nobody wrote; a frame of a session that never was.
    Junk,
}

impl From<u8> for Fault {
    fn from(number: u8) -> Self {
        let all = [
            Self::Drop,
            Self::Cut,
            Self::Clear,
            Self::Repeat,
            Self::Stale,
            Self::Junk,
        ];
        all[usize::from(number) % all.len()]
    }
}

#[derive(Clone)]
struct Piece {
    bytes: Vec<u8>,
    /// The writer's session, 0 for what nobody wrote.
    session: u64,
    /// It goes on with a write that was taken in part.
    continued: bool,
}

#[derive(Default)]
pub struct Pipe {
    pieces: VecDeque<Piece>,
    /// Writes that were read.
    former: VecDeque<Piece>,
    pub has_lost: bool,
    pub has_won: bool,
}

/// Writes that a stale piece is chosen from.
const REMEMBERED: usize = 16;

impl Pipe {
    pub fn write(&mut self, bytes: &[u8], session: u64, continued: bool) {
        self.pieces.push_back(Piece {
            bytes: bytes.to_vec(),
            session,
            continued,
        });
    }

    /// Up to `most` bytes of the next write.
    pub fn read(&mut self, most: usize) -> Option<Vec<u8>> {
        let piece = self.pieces.front_mut()?;
        if piece.bytes.len() > most {
            let rest = piece.bytes.split_off(most);
            return Some(std::mem::replace(&mut piece.bytes, rest));
        }
        let piece = self.pieces.pop_front()?;
        self.former.push_back(piece.clone());
        if self.former.len() > REMEMBERED {
            self.former.pop_front();
        }
        Some(piece.bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes and writes of a session that are on their way.
    pub fn in_flight(&self, session: u64) -> (usize, usize) {
        let of_it = self.pieces.iter().filter(|p| p.session == session);
        of_it.fold((0, 0), |(bytes, writes), piece| {
            (
                bytes + piece.bytes.len(),
                writes + usize::from(!piece.continued),
            )
        })
    }

    pub fn fail(&mut self, fault: Fault, a: usize, b: usize) {
        let loses = matches!(fault, Fault::Drop | Fault::Cut | Fault::Clear);
        if (loses && self.has_won) || (!loses && self.has_lost) {
            return;
        }
        let at = a % self.pieces.len().max(1);
        match fault {
            Fault::Drop => drop(self.pieces.remove(at)),
            Fault::Cut => {
                if let Some(piece) = self.pieces.get_mut(at) {
                    piece.bytes.truncate(b % piece.bytes.len().max(1));
                }
            }
            Fault::Clear => self.pieces.clear(),
            Fault::Repeat => {
                if let Some(piece) = self.pieces.get(at) {
                    self.win(at, piece.bytes.clone());
                }
            }
            Fault::Stale => {
                let from = b % self.former.len().max(1);
                let old: Vec<u8> = self
                    .former
                    .range(from..)
                    .flat_map(|p| p.bytes.clone())
                    .collect();
                self.win(at, old);
            }
            Fault::Junk => self.win(at, junk(b)),
        }
        self.has_lost |= loses;
        self.has_won |= !loses;
    }

    fn win(&mut self, at: usize, bytes: Vec<u8>) {
        let piece = Piece {
            bytes,
            session: 0,
            continued: false,
        };
        self.pieces.insert(at, piece);
    }

    /// The connection has ended: of what was on its way, so many writes still arrive, and of the next
    /// one so many bytes. That is no fault: the next connection is another stream.
    pub fn end(&mut self, writes: usize, bytes: usize) {
        if let Some(piece) = self.pieces.get_mut(writes) {
            piece.bytes.truncate(bytes);
        }
        self.pieces.truncate(writes + 1);
        for piece in &mut self.pieces {
            piece.session = 0;
        }
    }
}

fn junk(kind: usize) -> Vec<u8> {
    let mut seal = vec![0x81, 0x7D, 1, 2, 3, 4, 5, 6, 7, 8, 0x89, 0x7D];
    seal.extend(1u64.to_le_bytes());
    match kind % 6 {
        0 => vec![0xFF; kind],
        1 => vec![0, 0, kind as u8],
        2 => vec![0, 1, 0xFF, 0xFF, kind as u8],
        3 => b"hello?\n".to_vec(),
        // A Cancel that names no request, of another session.
        4 => [&[0, 0, 0, 23, 0x8A, 7, 0], &seal[..]].concat(),
        // A Ping with another nonce.
        _ => [&[0, 0, 0, 20, 0x52, 18, 0x52, 16][..], &[kind as u8; 16]].concat(),
    }
}
