//! The idle-byte theorem: after a flush the next frame is found, from every state of the decoder
//! and at every split. The states are built on purpose, not hoped for.

use proptest::collection::vec;
use proptest::prelude::*;

use quantix::frame::{Decoder, write_frame};
use quantix::limits::{FLUSH, HEADER, IDLE, MAX_FRAME};

/// Where the bytes before a flush leave a decoder.
#[derive(Clone, Debug)]
enum Place {
    Boundary,
    /// Some bytes of a header have come.
    Header(Vec<u8>),
    /// A header has come, and so many bytes of its body.
    Body {
        need: usize,
        have: usize,
    },
    /// A header that is none, and bytes behind it.
    Garbage([u8; HEADER], Vec<u8>),
}

impl Place {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Boundary => Vec::new(),
            Self::Header(bytes) => bytes.clone(),
            Self::Body { need, have } => {
                let mut bytes = u32::try_from(*need).unwrap().to_be_bytes().to_vec();
                bytes.resize(HEADER + have, 0);
                bytes
            }
            Self::Garbage(header, junk) => [&header[..], junk].concat(),
        }
    }
}

/// Lengths of bodies, the longest and its neighbours among them.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        1usize..300,
        300usize..MAX_FRAME,
        MAX_FRAME - 3..=MAX_FRAME,
        Just(MAX_FRAME)
    ]
}

/// One to three bytes that idle bytes may complete to a legal header, or not.
fn begun_header() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![0]),
        Just(vec![0, 1]),
        Just(vec![0, 1, 0xFE]),
        Just(vec![0, 1, 0xFF]),
        Just(vec![0, 0]),
        Just(vec![0, 0, 0]),
        (0..IDLE, vec(any::<u8>(), 0..3)).prop_map(|(first, more)| [&[first][..], &more].concat()),
    ]
}

fn no_header() -> impl Strategy<Value = [u8; HEADER]> {
    prop_oneof![
        Just(0),
        Just(u32::try_from(MAX_FRAME).unwrap() + 1),
        Just(0xFEFF_FFFF),
        u32::try_from(MAX_FRAME).unwrap() + 1..0xFF00_0000,
    ]
    .prop_map(u32::to_be_bytes)
}

fn place() -> impl Strategy<Value = Place> {
    let junk = vec(any::<u8>().prop_filter("ends it", |b| *b != IDLE), 0..20);
    prop_oneof![
        Just(Place::Boundary),
        begun_header().prop_map(Place::Header),
        (length(), any::<prop::sample::Index>()).prop_map(|(need, at)| Place::Body {
            need,
            have: at.index(need),
        }),
        (no_header(), junk).prop_map(|(header, junk)| Place::Garbage(header, junk)),
    ]
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(&mut out, body, None);
    out
}

/// All bodies in these portions of a stream.
fn decode<'a>(decoder: &mut Decoder, parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for mut part in parts {
        while let Some(body) = decoder.next(&mut part) {
            found.push(body.to_vec());
        }
        assert!(part.is_empty(), "a portion is taken as a whole");
    }
    found
}

proptest! {
    #[test]
    fn a_flush_brings_a_receiver_in_any_state_to_a_frame_boundary(
        earlier in vec(vec(any::<u8>(), 1..20), 0..3),
        place in place(),
        idle in 0usize..3,
        cut in prop_oneof![1usize..9, 1usize..5000, Just(usize::MAX)],
        bodies in vec(vec(any::<u8>(), 1..50), 1..4),
    ) {
        let mut decoder = Decoder::new();
        let mut before = earlier.iter().flat_map(|body| frame(body)).collect::<Vec<_>>();
        before.extend(vec![IDLE; idle]);
        before.extend(place.bytes());
        let found = decode(&mut decoder, before.chunks(cut));
        prop_assert_eq!(found, earlier, "what was whole before");
        let have = if let Place::Body { have, .. } = place { have } else { 0 };
        prop_assert_eq!(decoder.buffered(), have, "the place is the one that was meant");

        let mut wire = vec![IDLE; FLUSH];
        wire.extend(bodies.iter().flat_map(|body| frame(body)));
        let mut found = decode(&mut decoder, wire.chunks(cut));
        // A begun header or body takes idle bytes into one frame that nobody sent.
        let ghosts = found.len() - bodies.len().min(found.len());
        let begun = matches!(place, Place::Header(_) | Place::Body { .. });
        prop_assert!(ghosts <= usize::from(begun), "{} frames", found.len());
        prop_assert_eq!(found.split_off(ghosts), bodies);
        prop_assert_eq!(decoder.buffered(), 0);
    }

    #[test]
    fn long_frames_and_idle_bytes_between_them_survive_any_split(
        frames in vec((length(), 0usize..4, any::<u8>()), 1..4),
        cuts in vec(prop_oneof![1usize..9, 1usize..40_000], 1..20),
    ) {
        let mut wire = Vec::new();
        let mut sent = Vec::new();
        for (length, idle, fill) in frames {
            let body = vec![fill; length];
            wire.extend(vec![IDLE; idle]);
            wire.extend(frame(&body));
            sent.push(body);
        }
        let mut rest = &wire[..];
        let mut parts = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (part, behind) = rest.split_at((*cut).min(rest.len()));
            parts.push(part);
            rest = behind;
        }
        let mut decoder = Decoder::new();
        prop_assert!(decode(&mut decoder, parts) == sent);
        prop_assert_eq!(decoder.take_garbage(), 0);
        prop_assert_eq!(decoder.buffered(), 0);
    }
}

/// One cut, at each byte before the flush, in its first and last bytes, and in the frame behind it.
#[test]
fn a_flush_may_be_cut_anywhere() {
    let places = [
        Place::Boundary,
        Place::Header(vec![0]),
        Place::Header(vec![0, 1]),
        Place::Header(vec![0, 1, 0xFF]),
        Place::Header(vec![0, 2, 0]),
        Place::Body { need: 40, have: 0 },
        Place::Body {
            need: MAX_FRAME,
            have: 0,
        },
        Place::Body {
            need: MAX_FRAME,
            have: 9,
        },
        Place::Garbage([0; HEADER], vec![7; 9]),
    ];
    for place in places {
        let mut wire = place.bytes();
        let begin = wire.len();
        wire.resize(begin + FLUSH, IDLE);
        let end = wire.len();
        wire.extend(frame(b"next"));
        let cuts = (0..begin + 50)
            .chain(begin + MAX_FRAME - 9..wire.len())
            .filter(|cut| *cut <= begin + 50 || *cut + 20 >= end);
        for cut in cuts {
            let (a, b) = wire.split_at(cut);
            let last = decode(&mut Decoder::new(), [a, b]).pop();
            assert_eq!(
                last.as_deref(),
                Some(&b"next"[..]),
                "{place:?} cut at {cut}"
            );
        }
    }
}
