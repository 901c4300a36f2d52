//! A chunk of a stream, as a frame holds it: on its way out in memory that has room for the frame
//! around the bytes, on its way in inside the frame that it came in. So bulk data is not copied here.

use std::fmt::Debug;
use std::ops::Range;

use prost::encoding::{
    WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint,
};

use crate::frame::{Seal, seal_bytes};
use crate::ids::MessageId;
use crate::limits::{CHUNK, HEADER, MAX_WRITE, SEAL};
use crate::message::{Stream, agent};

/// Where the bytes begin in a parcel: behind the longest header and envelope.
pub const DATA: usize = MAX_WRITE - CHUNK - SEAL;

/// Memory that bulk data travels in: [`MAX_WRITE`] bytes, or less where the data is shorter, of which
/// those from [`DATA`] on are data, with room for a seal behind them.
pub trait Parcel: Debug {
    /// All of it.
    fn bytes(&self) -> &[u8];

    /// All of it, to be written.
    fn bytes_mut(&mut self) -> &mut [u8];
}

impl Parcel for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// What a chunk says of its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Which of the request's streams.
    pub stream: Stream,
    /// Where its bytes begin.
    pub offset: u64,
    /// Nothing follows.
    pub eof: bool,
    /// So many bytes in front of these were lost.
    pub skipped: u64,
}

impl Head {
    fn of(chunk: &agent::StreamChunk) -> Self {
        Self {
            stream: chunk.stream(),
            offset: chunk.offset,
            eof: chunk.eof,
            skipped: chunk.skipped,
        }
    }
}

/// A chunk in its parcel, from its envelope to its last byte; sealed, a whole frame.
#[derive(Debug)]
pub struct Packed {
    parcel: Box<dyn Parcel>,
    range: Range<usize>,
}

impl Packed {
    /// Puts an envelope in front of the parcel's first `length` bytes of data. `None`: that is more than
    /// a chunk has, or than the parcel holds with its seal.
    pub fn new(
        mut parcel: Box<dyn Parcel>,
        id: &MessageId,
        head: Head,
        length: usize,
    ) -> Option<Self> {
        let envelope = envelope(id, head, length);
        let range = DATA.checked_sub(envelope.len())?..DATA + length;
        if length > CHUNK || range.start < HEADER || parcel.bytes().len() < range.end + SEAL {
            return None;
        }
        let place = parcel.bytes_mut().get_mut(range.start..DATA)?;
        place.copy_from_slice(&envelope);
        Some(Self { parcel, range })
    }

    /// With a copy of these bytes. `None`: they are too many.
    pub fn copy_of(id: &MessageId, head: Head, data: &[u8]) -> Option<Self> {
        let mut parcel = Vec::with_capacity(DATA + data.len() + SEAL);
        parcel.resize(DATA, 0);
        parcel.extend_from_slice(data);
        parcel.resize(DATA + data.len() + SEAL, 0);
        Self::new(Box::new(parcel), id, head, data.len())
    }

    /// With a copy of a chunk's bytes. `None`: they are too many.
    pub fn of(id: &MessageId, chunk: &agent::StreamChunk) -> Option<Self> {
        Self::copy_of(id, Head::of(chunk), &chunk.data)
    }

    /// As it is now.
    pub fn bytes(&self) -> &[u8] {
        self.parcel.bytes().get(self.range.clone()).unwrap_or(&[])
    }

    /// Puts header and seal around it.
    pub fn seal(&mut self, seal: Seal) {
        let length = self.range.len() + SEAL;
        let header = u32::try_from(length).unwrap_or(0).to_be_bytes();
        let bytes = self.parcel.bytes_mut();
        let (start, end) = (self.range.start, self.range.end);
        // Both fit: `new` has seen to it.
        if let Some(place) = bytes.get_mut(start - HEADER..start) {
            place.copy_from_slice(&header);
        }
        if let Some(place) = bytes.get_mut(end..end + SEAL) {
            place.copy_from_slice(&seal_bytes(seal));
        }
        self.range = start - HEADER..end + SEAL;
    }
}

/// For those who go back to where they were: the bytes, in memory of their own.
impl Clone for Packed {
    fn clone(&self) -> Self {
        Self {
            parcel: Box::new(self.parcel.bytes().to_vec()),
            range: self.range.clone(),
        }
    }
}

const MESSAGE_ID: u32 = 1;
const STREAM_CHUNK: u32 = 112;
const STREAM: u32 = 1;
const OFFSET: u32 = 2;
const BYTES: u32 = 3;
const EOF: u32 = 4;
const SKIPPED: u32 = 5;

/// An `AgentMessage` with a `StreamChunk`, as far as its bytes, which come last.
fn envelope(id: &MessageId, head: Head, length: usize) -> Vec<u8> {
    let mut inner = Vec::with_capacity(32);
    let mut number = |field, value: u64| {
        if value > 0 {
            encode_key(field, WireType::Varint, &mut inner);
            encode_varint(value, &mut inner);
        }
    };
    number(STREAM, u64::from((head.stream as i32).unsigned_abs()));
    number(OFFSET, head.offset);
    number(EOF, head.eof.into());
    number(SKIPPED, head.skipped);
    if length > 0 {
        encode_key(BYTES, WireType::LengthDelimited, &mut inner);
        encode_varint(length as u64, &mut inner);
    }
    let mut out = Vec::with_capacity(128);
    encode_key(MESSAGE_ID, WireType::LengthDelimited, &mut out);
    encode_varint(id.as_str().len() as u64, &mut out);
    out.extend_from_slice(id.as_str().as_bytes());
    encode_key(STREAM_CHUNK, WireType::LengthDelimited, &mut out);
    encode_varint((inner.len() + length) as u64, &mut out);
    out.extend_from_slice(&inner);
    out
}

/// A chunk as it came: the frame's body, and where in it the bytes are.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// What it says of them.
    pub head: Head,
    body: Vec<u8>,
    data: Range<usize>,
}

impl Chunk {
    /// Its bytes.
    pub fn data(&self) -> &[u8] {
        self.body.get(self.data.clone()).unwrap_or(&[])
    }

    /// Its memory, for the next one.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// What [`find`] has found in this body.
    pub fn new(found: Found, body: Vec<u8>) -> (MessageId, Self) {
        let Found { id, head, data } = found;
        (id, Self { head, body, data })
    }
}

impl From<agent::StreamChunk> for Chunk {
    fn from(chunk: agent::StreamChunk) -> Self {
        Self {
            head: Head::of(&chunk),
            data: 0..chunk.data.len(),
            body: chunk.data,
        }
    }
}

impl From<Chunk> for agent::StreamChunk {
    fn from(chunk: Chunk) -> Self {
        Self {
            stream: chunk.head.stream.into(),
            offset: chunk.head.offset,
            data: chunk.data().to_vec(),
            eof: chunk.head.eof,
            skipped: chunk.head.skipped,
        }
    }
}

/// A chunk that has been found in a frame's body.
#[derive(Debug)]
pub struct Found {
    id: MessageId,
    head: Head,
    data: Range<usize>,
}

/// The chunk in a sealed body, if it is one of the plain form that our encoders write: its id, the
/// chunk, the seal. `None` says nothing: whoever asks decodes it as any other.
pub fn find(body: &[u8]) -> Option<Found> {
    let message = body.get(..body.len().checked_sub(SEAL)?)?;
    let mut rest = message;
    let id = delimited(&mut rest, MESSAGE_ID)?;
    let id = MessageId::parse(std::str::from_utf8(id).ok()?)?;
    let mut inner = delimited(&mut rest, STREAM_CHUNK)?;
    if !rest.is_empty() {
        return None;
    }
    let mut head = Head::default();
    let mut data = 0..0;
    while !inner.is_empty() {
        let (field, kind) = decode_key(&mut inner).ok()?;
        match (field, kind) {
            (BYTES, WireType::LengthDelimited) => {
                let length = usize::try_from(decode_varint(&mut inner).ok()?).ok()?;
                let start = message.len() - inner.len();
                inner = inner.get(length..)?;
                data = start..start + length;
            }
            (STREAM, WireType::Varint) => {
                let number = i32::try_from(decode_varint(&mut inner).ok()?).ok()?;
                head.stream = Stream::try_from(number).unwrap_or_default();
            }
            (OFFSET, WireType::Varint) => head.offset = decode_varint(&mut inner).ok()?,
            (EOF, WireType::Varint) => head.eof = decode_varint(&mut inner).ok()? != 0,
            (SKIPPED, WireType::Varint) => head.skipped = decode_varint(&mut inner).ok()?,
            _ => return None,
        }
    }
    Some(Found { id, head, data })
}

fn delimited<'a>(rest: &mut &'a [u8], field: u32) -> Option<&'a [u8]> {
    if decode_key(rest).ok()? != (field, WireType::LengthDelimited) {
        return None;
    }
    let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
    let (found, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(found)
}

// The longest id, and every number at its longest.
const _: () = assert!(
    HEADER + 2 + MessageId::MAX + 2 + 3 + 2 + 11 + 2 + 11 + 4 <= DATA
        && encoded_len_varint(CHUNK as u64) <= 3
);
