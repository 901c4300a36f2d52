//! The last bytes of a stream in a file of bounded size: one process appends, others read along.
//!
//! The file begins with two numbers of 8 bytes, little-endian: how many bytes the stream has, and the
//! position of the first that ever was in the file. Byte `n` of the stream stands at
//! `HEADER + n % ROOM`. A reader looks at the count again behind each read: what was overwritten
//! meanwhile it passes over. The writer counts what it has written, so that an append under way may
//! overwrite bytes that are not counted as gone: for these there is more room than is kept.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of a stream that are kept.
pub const SIZE: u64 = 256 * 1024;

/// The longest append at once: what a keeper reads from a pipe.
pub const MAX_APPEND: usize = 64 * 1024;

const ROOM: u64 = SIZE + MAX_APPEND as u64;

const HEADER: u64 = 16;

/// The writer's end.
#[derive(Debug)]
pub struct Writer {
    file: File,
    total: u64,
}

impl Writer {
    /// A new file for a stream of which `start` bytes went elsewhere.
    pub fn create(path: &Path, start: u64) -> io::Result<Self> {
        let mut new = File::options();
        new.read(true).write(true).create_new(true).mode(0o600);
        let file = new.open(path)?;
        file.write_all_at(&[start.to_le_bytes(), start.to_le_bytes()].concat(), 0)?;
        Ok(Self { file, total: start })
    }

    /// Puts bytes behind the others.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let at = self.total % ROOM;
            let room = usize::try_from(ROOM - at).unwrap_or(bytes.len());
            let (now, later) = bytes.split_at(bytes.len().min(room).min(MAX_APPEND));
            self.file.write_all_at(now, HEADER + at)?;
            self.total += now.len() as u64;
            self.file.write_all_at(&self.total.to_le_bytes(), 0)?;
            bytes = later;
        }
        Ok(())
    }

    /// Bytes that the stream has.
    pub const fn total(&self) -> u64 {
        self.total
    }
}

/// A reader's end.
#[derive(Debug)]
pub struct Reader {
    file: File,
    at: u64,
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes in front of it that are gone.
    pub skipped: u64,
    pub bytes: Vec<u8>,
}

impl Reader {
    /// Reads from byte `from` of the stream on.
    pub fn open(path: &Path, from: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { file, at: from })
    }

    /// Bytes that the stream has.
    pub fn total(&self) -> io::Result<u64> {
        self.number(0)
    }

    fn number(&self, at: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The next bytes, at most `most`; `None`: there are none yet.
    pub fn read(&mut self, most: usize) -> io::Result<Option<Piece>> {
        let start = self.number(8)?;
        let total = self.total()?;
        // A stream shorter than what was already read is another's, from before a snapshot.
        let from = self.at.min(total).max(oldest(start, total));
        let skipped = from.saturating_sub(self.at);
        if from == total && skipped == 0 {
            return Ok(None);
        }
        let at = from % ROOM;
        let there = (total - from).min(ROOM - at);
        let wanted = usize::try_from(there).unwrap_or(most).min(most);
        let mut bytes = vec![0; wanted];
        let read = self.file.read_at(&mut bytes, HEADER + at)?;
        bytes.truncate(read);
        let gone = oldest(start, self.total()?).saturating_sub(from);
        let gone = usize::try_from(gone)
            .unwrap_or(bytes.len())
            .min(bytes.len());
        bytes.drain(..gone);
        self.at = from + read as u64;
        let skipped = skipped + gone as u64;
        Ok(Some(Piece { skipped, bytes }))
    }
}

const fn oldest(start: u64, total: u64) -> u64 {
    let kept = total.saturating_sub(SIZE);
    if kept > start { kept } else { start }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn ring(name: &str, start: u64) -> (Writer, PathBuf) {
        let unique = format!("qx-ring-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(unique);
        let _ = std::fs::remove_file(&path);
        (Writer::create(&path, start).unwrap(), path)
    }

    fn all(reader: &mut Reader) -> (u64, Vec<u8>) {
        let (mut skipped, mut bytes) = (0, Vec::new());
        while let Some(piece) = reader.read(1000).unwrap() {
            skipped += piece.skipped;
            bytes.extend(piece.bytes);
        }
        (skipped, bytes)
    }

    fn pattern(from: u64, to: u64) -> Vec<u8> {
        (from..to).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    #[test]
    fn a_reader_gets_each_byte_once_and_is_told_what_it_missed() {
        let (mut writer, path) = ring("once", 0);
        let mut early = Reader::open(&path, 0).unwrap();
        assert_eq!(early.read(10).unwrap(), None);
        writer.append(&pattern(0, 5000)).unwrap();
        assert_eq!(all(&mut early), (0, pattern(0, 5000)));
        assert_eq!(early.read(10).unwrap(), None);

        let end = SIZE * 2 + 77;
        writer.append(&pattern(5000, end)).unwrap();
        let kept = end - SIZE;
        assert_eq!(all(&mut early), (kept - 5000, pattern(kept, end)));
        let mut late = Reader::open(&path, 0).unwrap();
        assert_eq!(all(&mut late), (kept, pattern(kept, end)));
        let mut from = Reader::open(&path, end - 3).unwrap();
        assert_eq!(all(&mut from), (0, pattern(end - 3, end)));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_went_elsewhere_before_is_skipped_and_what_is_to_come_is_waited_for() {
        let (mut writer, path) = ring("start", 1000);
        let mut reader = Reader::open(&path, 900).unwrap();
        assert_eq!(all(&mut reader), (100, Vec::new()));
        writer.append(&pattern(1000, 1100)).unwrap();
        assert_eq!(all(&mut reader), (0, pattern(1000, 1100)));
        // From after the end: a guest that went back has written less.
        let mut ahead = Reader::open(&path, 9999).unwrap();
        assert_eq!(ahead.read(10).unwrap(), None);
        writer.append(b"more").unwrap();
        assert_eq!(writer.total(), 1104);
        std::fs::remove_file(path).unwrap();
    }
}
