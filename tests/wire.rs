//! Golden frames: the protocol's bytes, in files that an implementer in any language can use.
//!
//! Each file of `tests/wire/` is read, compared with what it must mean, and written again to the
//! same bytes; `conversation.hex` is played to a real guest and to a real host. A change that fails
//! here breaks peers that are already installed. Where it is meant, `QX_BLESS=1 cargo test --test
//! main wire` writes the files anew, and their difference belongs into the review.

#![cfg(test)]

mod hex;
pub mod messages;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use quantix::frame::{Decoder, read_seal, write_frame};
use quantix::guest::{self, Guest};
use quantix::host::{self, Host};
use quantix::ids::MessageId;
use quantix::limits::{FLUSH, IDLE, MAX_FRAME};
use quantix::message::{AgentMessage, Body, encode};
use quantix::time::Time;

use hex::{Annotator, Turn};
use messages::{Golden, NONCE, WALL};

#[test]
fn every_golden_frame_means_what_it_must_and_is_written_the_same() {
    for golden in messages::all() {
        let Golden { file, seal, .. } = golden;
        let mut encoded = Vec::new();
        write_frame(&mut encoded, &encode(&golden.message).unwrap(), seal);
        let mut annotator = Annotator::new(golden.about);
        annotator.stream(&encoded);
        let text = Text::of(file, annotator);
        let wire = text.only_turn();

        let bodies = decode(&wire);
        assert_eq!(bodies.len(), 1, "{file}: not one frame");
        assert_eq!(read_seal(&bodies[0]), seal, "{file}: seal");
        let expected = AgentMessage {
            session: seal.map_or(0, |s| s.session.get()),
            number: seal.map_or(0, |s| s.number),
            ..golden.message
        };
        let found = AgentMessage::decode(&bodies[0][..]).unwrap();
        assert_eq!(found, expected, "{file}: meaning");
        assert_eq!(wire, encoded, "{file}: bytes");
        text.assert_annotated();
    }
}

#[test]
fn what_is_no_frame_is_skipped_and_the_next_one_found() {
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|sequence| {
        let mut wire = Vec::new();
        write_frame(&mut wire, &encode(&messages::ping(sequence)).unwrap(), None);
        wire
    });
    let junk = [0x7F, 0, 0, 1, 0x0A, 0, 0, 0, 4, 0x52];
    let too_long = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
    let cut = &third[..9];

    let mut annotator = Annotator::new(
        "Idle bytes, lengths that no frame has, and a frame whose end was lost: a receiver finds the\n\
         Pings 1, 2 and 4. It drops 14 bytes as garbage, and the cut frame as one of 22 bytes that\n\
         the flush has filled up and that is no message.",
    );
    annotator.raw(&[IDLE; 3], "idle");
    annotator.stream(&first);
    annotator.raw(&junk[..4], "no length: 2130706433 is more than 131072");
    annotator.raw(&junk[4..], "dropped up to the next idle byte");
    annotator.raw(&[IDLE], "idle: what follows is a header again");
    annotator.stream(&second);
    annotator.raw(&too_long, "no length: 131073");
    annotator.raw(&[IDLE], "idle");
    annotator.raw(cut, "a Ping of which only this arrived");
    annotator.stream(&[IDLE; FLUSH]);
    annotator.stream(&fourth);
    let text = Text::of("recovery", annotator);
    let wire = text.only_turn();

    let bodies = decode(&wire);
    let meanings: Vec<_> = bodies
        .iter()
        .map(|body| AgentMessage::decode(&body[..]).ok())
        .collect();
    let pings = [1, 2, 4].map(|sequence| Some(messages::ping(sequence)));
    let [one, two, four] = pings;
    assert_eq!(meanings, [one, two, None, four]);
    assert_eq!(bodies[2].len(), third.len() - 4);
    assert_eq!(read_seal(&bodies[2]), None);

    let mut decoder = Decoder::new();
    let mut rest = &wire[..];
    while decoder.next(&mut rest).is_some() {}
    assert_eq!(decoder.take_garbage(), (junk.len() + too_long.len()) as u64);
    text.assert_annotated();
}

#[test]
fn a_guest_and_a_host_hold_the_golden_conversation() {
    let (mut guest, mut host) = (TestGuest::new(), TestHost::new());
    let mut spoken: Vec<Turn> = Vec::new();
    let mut heard = Vec::new();
    for _ in 0..3 {
        let asked = host.turn(&heard);
        heard = guest.turn(&asked);
        spoken.push(turn("host", &asked));
        spoken.push(turn("guest", &heard));
    }
    let mut annotator = Annotator::new(CONVERSATION);
    for turn in &spoken {
        annotator.side(&turn.from);
        annotator.stream(&turn.bytes);
    }
    let text = Text::of("conversation", annotator);
    let turns = hex::parse(&text.stored);
    assert_eq!(turns.len(), spoken.len());

    // Each side alone against the file, so that two equal mistakes do not cancel out.
    let (mut guest, mut host) = (TestGuest::new(), TestHost::new());
    let mut heard: &[u8] = &[];
    for (at, pair) in turns.chunks(2).enumerate() {
        let [asked, answered] = pair else {
            panic!("a turn without an answer");
        };
        assert_eq!((&asked.from[..], &answered.from[..]), ("host", "guest"));
        assert_same(&host.turn(heard), &asked.bytes, at, "host");
        assert_same(&guest.turn(&asked.bytes), &answered.bytes, at, "guest");
        heard = &answered.bytes;
    }
    host.hear(heard);
    assert_eq!(
        host.events,
        ["opened", "ready", "done", "pong 2"],
        "what the host made of it"
    );
    assert_eq!(guest.events, ["opened", "execute"]);
    text.assert_annotated();
}

#[test]
fn no_file_is_without_a_test() {
    let mut known: BTreeSet<PathBuf> = messages::all().iter().map(|g| path(g.file)).collect();
    known.extend([path("recovery"), path("conversation")]);
    let present: BTreeSet<PathBuf> = fs::read_dir(path("").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "hex"))
        .collect();
    assert!(
        present.is_subset(&known),
        "{:?}",
        present.difference(&known)
    );
}

/// A guest in an agent that knows one command's result by heart.
struct TestGuest {
    guest: Guest,
    events: Vec<&'static str>,
}

impl TestGuest {
    fn new() -> Self {
        let identity = guest::Identity {
            version: "0.1.0".into(),
            boot_id: "0f3c2a51-7d0e-4b7e-9a53-5a1d7c3e9b10".into(),
            instance: 0,
        };
        Self {
            guest: Guest::new(identity),
            events: Vec::new(),
        }
    }

    fn turn(&mut self, input: &[u8]) -> Vec<u8> {
        let moment = guest::Moment {
            now: Time::from_micros(0),
            wall: WALL,
            uptime_seconds: 86_400,
        };
        self.guest
            .handle_bytes(&moment, input, &mut || 0x0123_4567_89AB_CDEF);
        while let Some(event) = self.guest.poll_event() {
            match event {
                guest::Event::Opened => {
                    self.events.push("opened");
                    self.guest.announce(messages::agent_ready());
                }
                guest::Event::Request(id, Body::Execute(_), _) => {
                    self.events.push("execute");
                    let answer = Body::ExecuteResponse(messages::execute_response());
                    self.guest.answer(&id, answer);
                }
                guest::Event::Answered(..) => {}
                other => panic!("{other:?}"),
            }
        }
        let mut out = Vec::new();
        while let Some(bytes) = self.guest.poll_transmit() {
            out.extend_from_slice(bytes);
            let written = bytes.len();
            self.guest.on_written(written);
        }
        out
    }
}

/// A host whose daemon runs one command as soon as the guest is ready.
struct TestHost {
    host: Host,
    now: Time,
    events: Vec<String>,
}

impl TestHost {
    fn new() -> Self {
        let mut host = Host::new();
        let now = Time::from_micros(0);
        host.handle_socket(now);
        host.handle_timeout(now, false);
        assert!(matches!(host.poll_event(), Some(host::Event::Connect)));
        host.handle_connected(now, &mut || *NONCE.bytes());
        Self {
            host,
            now,
            events: Vec::new(),
        }
    }

    fn hear(&mut self, input: &[u8]) {
        self.host
            .handle_bytes(self.now, input, &mut || panic!("a second nonce"));
        while let Some(event) = self.host.poll_event() {
            self.events.push(match event {
                host::Event::Opened(_) => "opened".into(),
                host::Event::Pong { sequence, .. } => format!("pong {sequence}"),
                host::Event::Message(message) => match message.body {
                    Some(Body::AgentReady(ready)) => {
                        assert_eq!(ready, messages::agent_ready());
                        let request = encode(&messages::execute()).unwrap();
                        let id = MessageId::parse(messages::REQUEST).unwrap();
                        self.host.request(self.now, &id, request).unwrap();
                        "ready".into()
                    }
                    Some(Body::ExecuteResponse(response)) => {
                        assert_eq!(message.message_id, messages::REQUEST);
                        assert_eq!(response, messages::execute_response());
                        "done".into()
                    }
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            });
        }
    }

    fn turn(&mut self, input: &[u8]) -> Vec<u8> {
        self.hear(input);
        let mut out = self.transmit();
        if out.is_empty() {
            // Nothing to say: the next thing to happen is the keep-alive.
            self.now = self.host.poll_timeout().unwrap();
            self.host.handle_timeout(self.now, true);
            out = self.transmit();
        }
        out
    }

    fn transmit(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(bytes) = self.host.poll_transmit() {
            out.extend_from_slice(bytes);
            let written = bytes.len();
            self.host.on_written(written);
        }
        out
    }
}

/// A file as it is stored, and as it would be written now.
struct Text {
    path: PathBuf,
    stored: String,
    expected: String,
}

impl Text {
    /// Reads the file, which is written anew first where that was asked for.
    fn of(file: &str, annotator: Annotator) -> Self {
        let (path, expected) = (path(file), annotator.finish());
        if std::env::var_os("QX_BLESS").is_some() {
            fs::write(&path, &expected).unwrap();
        }
        Self {
            stored: fs::read_to_string(&path).unwrap(),
            path,
            expected,
        }
    }

    fn only_turn(&self) -> Vec<u8> {
        let mut turns = hex::parse(&self.stored);
        assert_eq!(turns.len(), 1, "{}", self.path.display());
        turns.remove(0).bytes
    }

    /// The comments are true as well: a reader without our code has nothing else.
    fn assert_annotated(&self) {
        let mut lines = self.stored.lines().zip(self.expected.lines());
        let at = lines.position(|(a, b)| a != b);
        assert!(
            self.stored == self.expected,
            "{}: the comments are not those of these bytes (first at line {:?})",
            self.path.display(),
            at.map(|at| at + 1),
        );
    }
}

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/wire")
        .join(format!("{file}.hex"))
}

/// Whole frames, in whole and byte by byte: both must be the same.
fn decode(wire: &[u8]) -> Vec<Vec<u8>> {
    let all = |portion: usize| {
        let mut decoder = Decoder::new();
        let mut bodies = Vec::new();
        for mut part in wire.chunks(portion) {
            while let Some(body) = decoder.next(&mut part) {
                bodies.push(body.to_vec());
            }
        }
        assert_eq!(decoder.buffered(), 0, "half a frame at the end");
        bodies
    };
    let bodies = all(wire.len());
    assert_eq!(bodies, all(1), "portions change what is found");
    bodies
}

fn turn(from: &str, bytes: &[u8]) -> Turn {
    Turn {
        from: from.to_owned(),
        bytes: bytes.to_vec(),
    }
}

/// As `assert_eq`, without 131,076 idle bytes in the message.
fn assert_same(found: &[u8], expected: &[u8], turn: usize, who: &str) {
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(
        found == expected,
        "turn {turn}: the {who} sent {} bytes and the file has {}; the first difference is at {at:?}",
        found.len(),
        expected.len(),
    );
}

const CONVERSATION: &str = "\
A whole session: opened, one command, one keep-alive. The host's nonce is A0 to AF; the guest drew
the session's number. A guest that knows nothing of its pipe's past sends a flush first.
The host reports the guest ready, asks, and 5 s after the first Pong sends a Ping; in front of Ping
and Pong either side acknowledges what it has read since the Pong or the Ping that opened the session.";
