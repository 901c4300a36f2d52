//! Any bytes in any portions: the decoder finds what a naive one finds, and behind a flush the next
//! frame, whatever came before.
//!
//! The first byte says how many of the next give the sizes of portions, 0 for all that is left; the
//! rest is the stream.

use quantix::frame::{Decoder, read_seal, write_frame};
use quantix::limits::{FLUSH, IDLE, MAX_FRAME};

use super::naive::{self, Naive};

pub fn run(data: &[u8]) {
    let Some((&count, rest)) = data.split_first() else {
        return;
    };
    let (sizes, stream) = rest.split_at(usize::from(count % 16).min(rest.len()));
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    for part in portions(stream, sizes) {
        decode(&mut decoder, part, &mut found);
    }

    let mut naive = Naive::default();
    naive.feed(stream);
    let expected: Vec<_> = std::iter::from_fn(|| naive.next()).collect();
    assert!(found == expected, "other frames than the naive decoder's");
    assert_eq!(decoder.take_garbage(), naive.garbage);
    assert_eq!(decoder.take_garbage(), 0, "counted once");
    assert_eq!(decoder.buffered(), naive.buffered());
    for body in &found {
        let seal = read_seal(body).map(|seal| (seal.session.get(), seal.number));
        assert_eq!(seal, naive::seal(body));
    }
    survives_a_flush(decoder, sizes, stream);
}

/// The flush's first and last bytes come in the same small portions, its middle at once.
fn survives_a_flush(mut decoder: Decoder, sizes: &[u8], stream: &[u8]) {
    const EDGE: usize = 64;
    let body = if stream.is_empty() {
        b"x"
    } else {
        &stream[..stream.len().min(100)]
    };
    let mut end = vec![IDLE; EDGE];
    write_frame(&mut end, body, None);
    let middle = &[IDLE; FLUSH - 2 * EDGE];
    let parts = [
        portions(&[IDLE; EDGE], sizes),
        vec![middle],
        portions(&end, sizes),
    ];
    let mut ghosts = Vec::new();
    for part in parts.into_iter().flatten() {
        decode(&mut decoder, part, &mut ghosts);
    }
    let last = ghosts.pop();
    assert_eq!(last.as_deref(), Some(body), "lost behind a flush");
    // Idle bytes may have filled up one frame, which nobody sent.
    assert!(ghosts.len() <= 1 && ghosts.iter().all(|ghost| ghost.len() <= MAX_FRAME));
    assert_eq!(decoder.buffered(), 0);
}

fn decode(decoder: &mut Decoder, mut part: &[u8], found: &mut Vec<Vec<u8>>) {
    while let Some(body) = decoder.next(&mut part) {
        found.push(body.to_vec());
    }
    assert!(part.is_empty(), "a portion is taken as a whole");
}

fn portions<'a>(mut rest: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = match sizes.next() {
            None | Some(0) => rest.len(),
            Some(size) => usize::from(*size).min(rest.len()),
        };
        let (part, behind) = rest.split_at(size);
        parts.push(part);
        rest = behind;
    }
    parts
}
