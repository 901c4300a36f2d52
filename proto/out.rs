//! The bytes of one side that are being written: what was begun is finished before another begins.

use crate::chunk::Packed;
use crate::limits::MAX_WRITE;
use crate::wipe::wipe;

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
        wipe(&mut self.bytes);
        self.bytes.clear();
        self.at = 0;
    }

    /// With nothing to write, keeps no more memory than an idle link needs.
    pub fn relax(&mut self) {
        if self.is_empty() {
            self.clear();
            self.bytes.shrink_to(IDLE_OUT);
        }
    }
}

/// Bytes that stay between frames.
const IDLE_OUT: usize = 1024;

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::chunk::{Head, Parcel};
    use crate::ids::MessageId;
    use crate::limits::{FLUSH, IDLE, SEAL};

    /// Memory that somebody waits for.
    #[derive(Debug)]
    struct Lent {
        bytes: Vec<u8>,
        _owner: Rc<()>,
    }

    impl Parcel for Lent {
        fn bytes(&self) -> &[u8] {
            &self.bytes
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.bytes
        }
    }

    #[test]
    fn a_parcel_is_held_until_its_last_byte_is_written_and_what_follows_stays_behind_it() {
        let owner = Rc::new(());
        let parcel = Lent {
            bytes: vec![7; MAX_WRITE],
            _owner: Rc::clone(&owner),
        };
        let id = MessageId::parse("id").unwrap();
        let frame = Packed::new(Box::new(parcel), &id, Head::default(), 10_000).unwrap();
        let whole = frame.bytes().to_vec();
        let mut out = Out::default();
        out.put(frame);
        assert_eq!(out.append(|bytes| bytes.extend([1; SEAL])), SEAL);
        let mut written = Vec::new();
        for part in [1, 5000, whole.len() - 5001] {
            assert_eq!(Rc::strong_count(&owner), 2);
            written.extend_from_slice(&out.next()[..part]);
            out.written(part);
        }
        assert_eq!(Rc::strong_count(&owner), 1);
        assert_eq!(written, whole);
        assert_eq!(out.next(), [1; SEAL]);
        out.written(SEAL);
        assert!(out.is_empty());
    }

    #[test]
    fn the_memory_of_a_flush_is_given_back_when_it_is_written_and_no_sooner() {
        let mut out = Out::default();
        out.append(|bytes| bytes.resize(FLUSH, IDLE));
        out.written(MAX_WRITE);
        out.relax();
        assert_eq!(out.len(), FLUSH - MAX_WRITE);
        while !out.is_empty() {
            let part = out.next().len();
            out.written(part);
        }
        out.relax();
        assert!(out.bytes.capacity() <= IDLE_OUT);
    }
}
