//! Frames: a 4-byte big-endian length, the message, and in a session a 20-byte seal at its end.
//!
//! The decoder takes bytes in any portions and answers with whole frame bodies. It knows nothing
//! of sessions. Whatever it was fed before, [`FLUSH`](crate::limits::FLUSH) idle bytes bring it to
//! a frame boundary: there is no state from which it needs to be restarted.

use crate::ids::SessionId;
use crate::limits::{HEADER, IDLE, MAX_FRAME, SEAL};
use crate::wipe::wipe;

/// Cuts a byte stream into frame bodies.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    /// Memory of the body being gathered, or of the one last handed out; may be longer than that.
    body: Vec<u8>,
    /// The body last handed out is in `body`.
    is_own: bool,
    garbage: u64,
}

#[derive(Clone, Debug)]
enum State {
    /// Between frames or inside a header; moves on when the header is complete.
    Header { bytes: [u8; HEADER], have: usize },
    /// Inside a body of `need` bytes, of which `Decoder::body` has the first `have`.
    Body { need: usize, have: usize },
    /// Behind a header outside the limits; the next idle byte ends it.
    Garbage,
}

impl State {
    const BOUNDARY: Self = Self::Header {
        bytes: [0; HEADER],
        have: 0,
    };
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at a frame boundary.
    pub const fn new() -> Self {
        Self {
            state: State::BOUNDARY,
            body: Vec::new(),
            is_own: false,
            garbage: 0,
        }
    }

    /// Where the next bytes of a body may be put at once, all that it still lacks; `None` where so few
    /// are missing, or none, that they may as well come as input. Then call [`filled`](Self::filled).
    pub fn space(&mut self) -> Option<&mut [u8]> {
        match self.state {
            State::Body { need, have } if need - have >= SPACE_FROM => {
                if self.body.len() < need {
                    self.body.resize(need, 0);
                }
                self.body.get_mut(have..need)
            }
            _ => None,
        }
    }

    /// So many bytes have been put into [`space`](Self::space). The body, if that completes it.
    pub fn filled(&mut self, bytes: usize) -> Option<&[u8]> {
        let State::Body { need, have } = &mut self.state else {
            return None;
        };
        let need = *need;
        *have = (*have + bytes).min(need);
        if *have < need {
            return None;
        }
        self.state = State::BOUNDARY;
        self.is_own = true;
        self.body.get(..need)
    }

    /// Exchanges the memory of the body last handed out for `other`. False: it was in the input.
    pub const fn exchange(&mut self, other: &mut Vec<u8>) -> bool {
        let is_own = std::mem::replace(&mut self.is_own, false);
        if is_own {
            std::mem::swap(&mut self.body, other);
        }
        is_own
    }

    /// The next whole body in `input`, which moves past it. `None`: all of `input` was taken and
    /// there is no further frame yet.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Option<&'s [u8]> {
        loop {
            match &mut self.state {
                State::Garbage => {
                    let junk = input.iter().position(|b| *b == IDLE);
                    let skipped = junk.unwrap_or(input.len());
                    self.garbage += skipped as u64;
                    *input = &input[skipped..];
                    junk?;
                    self.state = State::BOUNDARY;
                }
                State::Header { bytes, have } => {
                    if *have == 0 {
                        let idle = input.iter().position(|b| *b != IDLE);
                        *input = &input[idle.unwrap_or(input.len())..];
                    }
                    let (&byte, rest) = input.split_first()?;
                    *input = rest;
                    bytes[*have] = byte;
                    *have += 1;
                    if *have == HEADER {
                        self.state = match u32::from_be_bytes(*bytes) as usize {
                            need @ 1..=MAX_FRAME => State::Body { need, have: 0 },
                            _ => {
                                self.garbage += HEADER as u64;
                                State::Garbage
                            }
                        };
                    }
                }
                State::Body { need, have } => {
                    let (need, before) = (*need, *have);
                    let missing = need - before;
                    let (part, rest) = input.split_at(missing.min(input.len()));
                    *input = rest;
                    if part.len() == missing && before == 0 {
                        self.state = State::BOUNDARY;
                        self.is_own = false;
                        return Some(part);
                    }
                    let have = before + part.len();
                    if self.body.len() < have {
                        self.body.resize(have, 0);
                    }
                    self.body[before..have].copy_from_slice(part);
                    self.state = State::Body { need, have };
                    return self.filled(0);
                }
            }
        }
    }

    /// Between frames, keeps no more memory than an idle link needs. False: it is inside one.
    pub fn relax(&mut self) -> bool {
        if let State::Body { .. } = self.state {
            return false;
        }
        wipe(&mut self.body);
        self.body.truncate(IDLE_BODY);
        self.body.shrink_to(IDLE_BODY);
        true
    }

    /// Bytes dropped outside any frame since the last call.
    pub fn take_garbage(&mut self) -> u64 {
        std::mem::take(&mut self.garbage)
    }

    /// Nothing but an idle byte can begin a frame again.
    pub const fn is_lost(&self) -> bool {
        matches!(self.state, State::Garbage)
    }

    /// Bytes that the decoder holds of a frame not yet complete.
    pub fn buffered(&self) -> usize {
        match self.state {
            State::Body { have, .. } => have,
            _ => 0,
        }
    }
}

/// A body that lacks at least so many bytes is worth a read of its own: as much as one brings.
const SPACE_FROM: usize = 4096;

/// Bytes that a decoder keeps between frames.
const IDLE_BODY: usize = 4096;

/// What the last 20 bytes of a frame prove: that it belongs to a session, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Drawn by the guest.
    pub session: SessionId,
    /// Counts the sealed frames of one direction from 1.
    pub number: u64,
}

/// `fixed64 session = 2000` and `fixed64 number = 2001`: wire type 1, so (field << 3) | 1.
const SESSION_TAG: [u8; 2] = [0x81, 0x7D];
const NUMBER_TAG: [u8; 2] = [0x89, 0x7D];

/// The seal at the end of a body, if there is one.
pub fn read_seal(body: &[u8]) -> Option<Seal> {
    let (_, seal) = body.split_last_chunk::<SEAL>()?;
    let fixed64 = |at: usize, tag: [u8; 2]| {
        let (found, value) = seal.get(at..at + 10)?.split_at_checked(2)?;
        (found == tag).then_some(())?;
        Some(u64::from_le_bytes(value.try_into().ok()?))
    };
    Some(Seal {
        session: SessionId::parse(fixed64(0, SESSION_TAG)?)?,
        number: fixed64(10, NUMBER_TAG)?,
    })
}

/// Appends header, body and seal to `out`. The body has no seal of its own and fits
/// ([`message::encode`](crate::message::encode) sees to both).
pub fn write_frame(out: &mut Vec<u8>, body: &[u8], seal: Option<Seal>) {
    let length = body.len() + if seal.is_some() { SEAL } else { 0 };
    debug_assert!((1..=MAX_FRAME).contains(&length));
    out.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(body);
    if let Some(seal) = seal {
        out.extend_from_slice(&seal_bytes(seal));
    }
}

/// A seal as it stands at the end of a body.
pub fn seal_bytes(seal: Seal) -> [u8; SEAL] {
    let mut bytes = [0; SEAL];
    let (session, number) = bytes.split_at_mut(SEAL / 2);
    for (half, tag, value) in [
        (session, SESSION_TAG, seal.session.get()),
        (number, NUMBER_TAG, seal.number),
    ] {
        let (first, rest) = half.split_at_mut(tag.len());
        first.copy_from_slice(&tag);
        rest.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// The bytes that a body occupies on the wire once it is sealed.
pub const fn sealed_len(body: usize) -> usize {
    HEADER + body + SEAL
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::limits::FLUSH;

    fn decode_all(decoder: &mut Decoder, mut input: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(body) = decoder.next(&mut input) {
            frames.push(body.to_vec());
        }
        assert!(input.is_empty());
        frames
    }

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(&mut out, body, None);
        out
    }

    fn seal() -> Seal {
        Seal {
            session: SessionId::parse(0x1122_3344_5566_7788).unwrap(),
            number: 7,
        }
    }

    #[test]
    fn a_seal_is_read_back_and_is_valid_protobuf() {
        use prost::Message;
        let mut out = Vec::new();
        write_frame(&mut out, b"", Some(seal()));
        let body = &out[HEADER..];
        assert_eq!(body.len(), SEAL);
        assert_eq!(read_seal(body), Some(seal()));
        let message = crate::message::AgentMessage::decode(body).unwrap();
        assert_eq!(message.session, 0x1122_3344_5566_7788);
        assert_eq!(message.number, 7);
    }

    #[test]
    fn session_zero_is_no_seal() {
        let mut body = vec![0u8; SEAL];
        body[..2].copy_from_slice(&SESSION_TAG);
        body[10..12].copy_from_slice(&NUMBER_TAG);
        assert_eq!(read_seal(&body), None);
        assert_eq!(read_seal(&body[1..]), None);
    }

    #[test]
    fn a_length_outside_the_limits_is_skipped_to_the_next_idle_byte() {
        for header in [0u32, 128 * 1024 + 1, 0x4D5A_0001, 0xFEFF_FFFF] {
            let mut decoder = Decoder::new();
            let mut bytes = header.to_be_bytes().to_vec();
            bytes.extend_from_slice(b"garbage that looks like anything");
            assert!(decode_all(&mut decoder, &bytes).is_empty());
            assert_eq!(decoder.take_garbage(), 36, "header {header:#x}");
            bytes = vec![IDLE];
            bytes.extend(frame(b"next"));
            assert_eq!(decode_all(&mut decoder, &bytes), [b"next"]);
        }
    }

    #[test]
    fn the_longest_frame_passes_and_its_memory_is_given_back() {
        let body = vec![b'x'; MAX_FRAME];
        let wire = frame(&body);
        let mut decoder = Decoder::new();
        assert!(decode_all(&mut decoder, &wire[..1000]).is_empty());
        assert_eq!(decoder.buffered(), 996);
        assert_eq!(decode_all(&mut decoder, &wire[1000..]), [body]);
        decoder.relax();
        assert!(decoder.body.capacity() <= IDLE_BODY);
        assert!(decoder.body.iter().all(|byte| *byte == 0), "and wiped");
    }

    #[test]
    fn a_body_is_put_in_its_place_without_a_copy() {
        let body: Vec<u8> = (0..20_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut wire = &frame(&body)[..];
        let mut decoder = Decoder::new();
        assert!(decoder.space().is_none());
        let (mut first, rest) = wire.split_at(100);
        assert!(decoder.next(&mut first).is_none());
        wire = rest;
        let mut found = None;
        while let Some(space) = decoder.space() {
            let n = space.len().min(4096);
            space[..n].copy_from_slice(&wire[..n]);
            wire = &wire[n..];
            found = decoder.filled(n).map(<[u8]>::to_vec);
        }
        // The rest is short enough to come as input, with what is behind it.
        assert_eq!(
            found.or(decoder.next(&mut wire).map(<[u8]>::to_vec)),
            Some(body.clone())
        );
        let mut other = Vec::new();
        assert!(decoder.exchange(&mut other) && other == body);
        assert!(!decoder.exchange(&mut other));
    }

    proptest! {
        #[test]
        fn frames_survive_any_split(
            bodies in vec(vec(any::<u8>(), 1..200), 1..8),
            cuts in vec(1usize..64, 1..64),
            idle in 0usize..5,
        ) {
            let mut wire = Vec::new();
            for body in &bodies {
                wire.extend(std::iter::repeat_n(IDLE, idle));
                wire.extend(frame(body));
            }
            let mut decoder = Decoder::new();
            let mut found = Vec::new();
            let mut rest = &wire[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (part, behind) = rest.split_at((*cut).min(rest.len()));
                found.extend(decode_all(&mut decoder, part));
                rest = behind;
            }
            prop_assert_eq!(found, bodies);
            prop_assert_eq!(decoder.take_garbage(), 0);
        }

        /// The theorem that the whole channel rests on: after a flush, whatever came before and
        /// however it was cut, the next frame is found.
        #[test]
        fn a_flush_brings_any_receiver_to_a_frame_boundary(
            prefix in vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(IDLE), any::<u8>()], 0..40),
            long in prop_oneof![Just(0usize), 1usize..MAX_FRAME],
            cut in 1usize..5000,
            body in vec(any::<u8>(), 1..50),
        ) {
            let mut wire = prefix;
            wire.extend(std::iter::repeat_n(0u8, long));
            wire.extend(std::iter::repeat_n(IDLE, FLUSH));
            wire.extend(frame(&body));
            let mut decoder = Decoder::new();
            let mut last = None;
            for part in wire.chunks(cut) {
                last = decode_all(&mut decoder, part).pop().or(last);
            }
            prop_assert_eq!(last, Some(body));
            prop_assert_eq!(decoder.buffered(), 0);
        }
    }
}
