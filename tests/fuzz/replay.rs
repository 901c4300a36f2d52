//! Each target with each file of its corpus, and with random inputs.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{frames, messages, operations};

/// Says which file it was.
struct Replay(String);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replaying {}", self.0);
        }
    }
}

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let files = fs::read_dir(folder.join(target)).unwrap();
    let mut count = 0;
    for file in files {
        let file = file.unwrap().path();
        let data = fs::read(&file).unwrap();
        let replay = Replay(file.display().to_string());
        run(&data);
        drop(replay);
        count += 1;
    }
    assert!(count > 10, "the corpus of {target} is not here");
}

#[test]
fn frames_corpus() {
    replay("frames", frames::run);
}

#[test]
fn messages_corpus() {
    replay("messages", messages::run);
}

#[test]
fn operations_corpus() {
    replay("operations", operations::run);
}

/// Bytes of which headers and idle bytes are made, and any.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(1), Just(2), Just(0xFF), any::<u8>()]
}

/// Fields of protobuf in no good order: tags of what there is, short lengths, and any bytes.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let field = (1u64..120, 0u8..6, vec(any::<u8>(), 0..24)).prop_map(|(number, kind, content)| {
        let mut field = Vec::new();
        prost::encoding::encode_varint(number << 3 | u64::from(kind), &mut field);
        if kind == 2 {
            prost::encoding::encode_varint(content.len() as u64, &mut field);
        }
        [field, content].concat()
    });
    let id = [0x0A, 1, b'a'];
    (any::<bool>(), vec(field, 0..5)).prop_map(move |(named, fields)| {
        let id = if named { &id[..] } else { &[] };
        [id, &fields.concat()].concat()
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn frames_of_random_bytes(data in vec(byte(), 0..300)) {
        frames::run(&data);
    }

    #[test]
    fn messages_of_random_bytes(data in vec(any::<u8>(), 0..100)) {
        messages::run(&data);
    }

    #[test]
    fn messages_of_random_fields(data in message()) {
        messages::run(&data);
    }

    /// What a session's transitions must keep to, whatever is done to it in whatever order.
    #[test]
    fn operations_in_any_order(ops in vec((0..operations::KINDS, any::<[u8; 3]>()), 0..120)) {
        operations::run(&bytes(ops));
    }

    /// Where nothing fails, sessions do not end for a fault, and nothing waits for a clock.
    #[test]
    fn operations_without_faults(ops in vec((calm(), any::<[u8; 3]>()), 0..120)) {
        operations::run(&bytes(ops));
    }
}

fn calm() -> impl Strategy<Value = u8> {
    (0..operations::KINDS).prop_filter("a fault", |kind| !operations::FAULTS.contains(kind))
}

fn bytes(ops: Vec<(u8, [u8; 3])>) -> Vec<u8> {
    let bytes = |(kind, [flag, a, b]): (u8, [u8; 3])| [kind, flag, a, b];
    ops.into_iter().flat_map(bytes).collect()
}

/// The fuzzer tries as many in a second or two. What is found goes into the corpus.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
