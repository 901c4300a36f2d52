//! The archive in which trees travel: records with their length in front, and which paths one may
//! name. Bytes go in, records come out; what they mean to a file system is not known here.

use prost::Message;

use crate::message::agent::{TreeKind, TreeRecord};

/// File bytes in one record: a chunk's worth.
pub const PIECE: usize = 32 * 1024;

/// The longest record: a piece, a path and a link as long as paths can be.
pub const MAX_RECORD: usize = PIECE + 3 * 4096;

/// Directories within each other. Each is open while it is filled.
pub const MAX_DEPTH: usize = 256;

const PREFIX: usize = 4;

/// What is no archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Puts a record behind others. False: it is too long, and nothing was put.
#[must_use]
pub fn encode(record: &TreeRecord, out: &mut Vec<u8>) -> bool {
    let length = record.encoded_len();
    let Some(prefix) = u32::try_from(length).ok().filter(|_| length <= MAX_RECORD) else {
        return false;
    };
    out.extend_from_slice(&prefix.to_be_bytes());
    record.encode_raw(out);
    true
}

/// Cuts bytes into records. It holds what it was given last and one record at most.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    at: usize,
}

impl Decoder {
    /// Takes the next bytes. All records of those before have to be taken out.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next record, if all of it is there.
    ///
    /// # Errors
    /// This is no archive; there is no way on.
    pub fn take(&mut self) -> Result<Option<TreeRecord>, Malformed> {
        let rest = &self.bytes[self.at..];
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > MAX_RECORD {
            return Err(Malformed);
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let record = TreeRecord::decode(body).map_err(|_| Malformed)?;
        self.at += PREFIX + length;
        Ok(Some(record))
    }
}

/// The components of an entry's path, which stays below where it begins: none is empty, `.`, `..`, or
/// has a NUL or a slash in it. The empty path has none.
///
/// # Errors
/// Any other path.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let all: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    match all.len() <= MAX_DEPTH && all.iter().all(|name| is_name(name)) {
        true => Ok(all),
        false => Err(Malformed),
    }
}

/// It names an entry of a directory, and only that.
pub fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// The name under which a source is copied: its last component; empty where that is no name, as of
/// `/`, `.` and `a/..`.
pub fn root_name(source: &[u8]) -> &[u8] {
    let end = source.iter().rposition(|byte| *byte != b'/');
    let source = end.map_or(&source[..0], |end| &source[..=end]);
    let name = source.rsplit(|byte| *byte == b'/').next();
    name.filter(|name| is_name(name)).unwrap_or_default()
}

/// The record in front of all others, where it was asked for: so many bytes are to come.
pub fn total(size: u64) -> TreeRecord {
    TreeRecord {
        kind: TreeKind::Total.into(),
        size,
        ..Default::default()
    }
}

/// The record behind all others.
pub fn end() -> TreeRecord {
    TreeRecord {
        kind: TreeKind::End.into(),
        ..Default::default()
    }
}

/// Goes on with a 64 bit FNV-1a checksum; it begins with [`CHECKSUM`]. It tells a file that has become
/// another, not one that was made to deceive.
pub fn checksum(before: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    bytes.iter().fold(before, step)
}

/// Of no bytes.
pub const CHECKSUM: u64 = 0xCBF2_9CE4_8422_2325;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(path: &[u8], data: &[u8]) -> TreeRecord {
        TreeRecord {
            kind: TreeKind::File.into(),
            path: path.to_vec(),
            data: data.to_vec(),
            size: data.len() as u64,
            last: true,
            ..Default::default()
        }
    }

    #[test]
    fn a_path_stays_below_its_root() {
        assert_eq!(components(b"a/b\n/..c").unwrap().len(), 3);
        assert!(components(b"").unwrap().is_empty());
        for bad in [
            "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0",
        ] {
            assert_eq!(components(bad.as_bytes()), Err(Malformed), "{bad:?}");
        }
        assert!(components(&b"a/".repeat(MAX_DEPTH)[..2 * MAX_DEPTH - 1]).is_ok());
        assert!(components(&b"a/".repeat(MAX_DEPTH + 1)[..2 * MAX_DEPTH + 1]).is_err());
    }

    #[test]
    fn a_source_gives_its_name_if_it_has_one() {
        let of = [
            "/a/b", "b/", "/a/b//", "/", "", ".", "a/.", "a/..", "/a/../",
        ];
        let names = of.map(|source| std::str::from_utf8(root_name(source.as_bytes())).unwrap());
        assert_eq!(names, ["b", "b", "b", "", "", "", "", "", ""]);
    }

    #[test]
    fn what_is_too_long_is_neither_written_nor_waited_for() {
        let mut out = Vec::new();
        assert!(!encode(&record(b"a", &[0; MAX_RECORD]), &mut out));
        assert!(out.is_empty());
        let mut decoder = Decoder::default();
        decoder.extend(&[0xFF; 4]);
        assert_eq!(decoder.take(), Err(Malformed));
        decoder = Decoder::default();
        decoder.extend(&[0, 0, 0, 1, 0xFF]);
        assert_eq!(decoder.take(), Err(Malformed));
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(checksum(CHECKSUM, b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(checksum(CHECKSUM, b"foobar"), 0x8594_4171_F739_67E8);
        let half = checksum(CHECKSUM, b"foo");
        assert_eq!(checksum(half, b"bar"), 0x8594_4171_F739_67E8);
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in_however_they_are_cut(
            all in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..20),
            cut in 1usize..300,
        ) {
            let all: Vec<TreeRecord> = all.iter().map(|(path, data)| record(path, data)).collect();
            let mut bytes = Vec::new();
            prop_assert!(all.iter().all(|record| encode(record, &mut bytes)));
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.extend(piece);
                while let Some(record) = decoder.take().unwrap() {
                    found.push(record);
                }
            }
            prop_assert_eq!(found, all);
        }

        #[test]
        fn any_bytes_are_survived_and_what_is_held_is_bounded(bytes: Vec<u8>, cut in 1usize..50) {
            let mut decoder = Decoder::default();
            'all: for piece in bytes.chunks(cut) {
                decoder.extend(piece);
                loop {
                    match decoder.take() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(Malformed) => break 'all,
                    }
                }
                prop_assert!(decoder.bytes.len() - decoder.at < PREFIX + MAX_RECORD);
            }
        }

        #[test]
        fn a_path_that_passes_has_no_component_that_leaves(path: Vec<u8>) {
            if let Ok(names) = components(&path) {
                prop_assert!(names.iter().all(|name| is_name(name)));
                prop_assert_eq!(names.join(&b'/'), path);
            }
        }
    }
}
