//! The bytes of one side that are being written: what was begun is finished before another begins.

use crate::chunk::Packed;
use crate::limits::MAX_WRITE;

/// Bytes that were begun.
#[derive(Clone, Debug, Default)]
pub struct Out {
    /// A frame in the memory that its data came in; nothing is ever in front of it.
    packed: Option<Packed>,
    /// What is behind it.
    bytes: Vec<u8>,
    /// So many bytes of the first of the two are written.
    at: usize,
}

impl Out {
    /// A frame with bulk data, where there is nothing else.
    pub fn put(&mut self, frame: Packed) {
        self.packed = Some(frame);
    }

    /// Appends what `write` does; returns how many bytes.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.bytes.len() - before
    }

    /// Bytes that are not written yet.
    pub fn len(&self) -> usize {
        let packed = self
            .packed
            .as_ref()
            .map_or(0, |packed| packed.bytes().len());
        packed + self.bytes.len() - self.at
    }

    /// All is written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What one write is given.
    pub fn next(&self) -> &[u8] {
        let first = match &self.packed {
            Some(packed) => packed.bytes(),
            None => &self.bytes,
        };
        let rest = &first[self.at..];
        &rest[..rest.len().min(MAX_WRITE)]
    }

    /// Notes that a write took this many bytes. Memory that somebody waits for goes back as soon as it
    /// can.
    pub fn written(&mut self, bytes: usize) {
        self.at += bytes;
        let done = |packed: &mut Packed| self.at >= packed.bytes().len();
        if let Some(packed) = self.packed.take_if(done) {
            self.at -= packed.bytes().len();
        }
    }

    /// Forgets it all.
    pub fn clear(&mut self) {
        self.packed = None;
        self.bytes.clear();
        self.bytes.shrink_to(MAX_WRITE);
        self.at = 0;
    }
}
