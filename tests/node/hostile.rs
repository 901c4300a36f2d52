//! Guests that speak the protocol well and then not: whatever they say, the daemon lives, serves the others, and keeps
//! little of it; commands end, print no control characters and write nothing elsewhere.
//!
//! `QX_HOSTILE_LIVES=N` has it live through more lives of such a guest than the few of a usual run; `QX_HOSTILE_SEED=N`
//! begins with another one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use prost::Message;
use prost::encoding::{decode_varint, encode_varint};
use quantix::frame::{Decoder, Seal, write_frame};
use quantix::ids::SessionId;
use quantix::limits::{IDLE, MAX_FRAME, SEAL};
use quantix::message::{AgentMessage, Body, agent, message};
use quantix::text::is_hidden;

use crate::sim::random::Random;
use crate::util::node::Node;
use crate::util::{Dir, beside, listen, rss_kib};
use crate::wire::messages;

/// What it says where a word is expected.
const WORDS: [&str; 10] = [
    "../../../../../../tmp/qx-out",
    "/tmp/qx-out",
    "evil\x1b]0;title\x07\x1b[2J\u{9b}31m",
    "a\nb\r\nc",
    "x\"} 1\nup{a=\"",
    "{{ 7 * 7 }}",
    "\u{202e}gnp.exe",
    "%s%n",
    "..",
    "",
];

/// What it says where a number is expected.
const NUMBERS: [u64; 8] = [
    0,
    1,
    127,
    1 << 31,
    (1 << 32) - 1,
    1 << 63,
    u64::MAX,
    0x7FF8_0000_0000_0000,
];

/// Of a message's fields: others in their place, more of them, fewer. What does not parse is taken for a word.
fn twist(random: &mut Random, bytes: &[u8], depth: usize, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let key = decode_varint(&mut rest).ok()?;
        let mut field = Vec::new();
        encode_varint(key, &mut field);
        let keep = random.percent(60);
        let number = NUMBERS[random.below(NUMBERS.len())];
        match key & 7 {
            0 => {
                let value = decode_varint(&mut rest).ok()?;
                encode_varint(if keep { value } else { number }, &mut field);
            }
            1 => {
                let value = rest.split_off(..8)?;
                let other = number.to_le_bytes();
                field.extend(if keep { value } else { &other });
            }
            5 => field.extend(rest.split_off(..4)?),
            2 => {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                let value = rest.split_off(..length)?;
                let mut inner = Vec::new();
                let is_message = depth > 0
                    && length > 1
                    && random.percent(97)
                    && twist(random, value, depth - 1, &mut inner).is_some();
                if !is_message {
                    let word = match random.below(20) {
                        0 => "A".repeat(random.size(30_000)),
                        n if keep || n < 4 => String::from_utf8_lossy(value).into_owned(),
                        _ => WORDS[random.below(WORDS.len())].to_owned(),
                    };
                    inner = word.into_bytes();
                }
                encode_varint(inner.len() as u64, &mut field);
                field.extend(inner);
            }
            _ => return None,
        }
        let times = match random.below(40) {
            0 => 0,
            1 => random.size(3000),
            _ => 1,
        };
        for _ in 0..times {
            if out.len() + field.len() < MAX_FRAME - 4 * SEAL {
                out.extend(&field);
            }
        }
    }
    Some(())
}

/// Any message that a guest may send, by the number of its body.
fn known() -> BTreeMap<u64, Vec<u8>> {
    let mut known = BTreeMap::new();
    for golden in messages::all() {
        let Some(body) = golden.message.body else {
            continue;
        };
        let bytes = message("", body).encode_to_vec();
        let key = decode_varint(&mut &bytes[..]).unwrap();
        known.insert(key >> 3, bytes);
    }
    known
}

/// The guest, for as long as a connection.
struct Life<'a> {
    random: Random,
    known: &'a BTreeMap<u64, Vec<u8>>,
    stream: UnixStream,
    session: SessionId,
    number: u64,
}

impl Life<'_> {
    /// True: it goes on.
    fn say_bytes(&mut self, id: &str, bytes: &[u8]) -> bool {
        let mut body = Vec::new();
        if !id.is_empty() {
            prost::encoding::string::encode(1, &id.to_owned(), &mut body);
        }
        body.extend(bytes);
        let fair = self.random.below(300) > 0;
        self.number += if fair { 1 } else { self.random.size(5) as u64 };
        let seal = Seal {
            session: self.session,
            number: self.number,
        };
        let mut out = Vec::new();
        write_frame(&mut out, &body, Some(seal));
        if self.random.below(300) == 0 {
            out.truncate(self.random.below(out.len()));
        }
        self.stream.write_all(&out).is_ok()
    }

    fn say(&mut self, id: &str, body: Body) -> bool {
        self.say_bytes(id, &message("", body).encode_to_vec())
    }

    /// A message of this kind, or of another, with anything in it.
    fn say_twisted(&mut self, id: &str, kind: u64) -> bool {
        let any = self.random.below(self.known.len());
        let bytes = match self.known.get(&kind) {
            Some(bytes) if self.random.percent(97) => bytes,
            _ => self.known.values().nth(any).unwrap(),
        };
        let mut out = Vec::new();
        if twist(&mut self.random, bytes, 4, &mut out).is_none() {
            out.clone_from(bytes);
        }
        self.say_bytes(id, &out)
    }

    fn answer(&mut self, id: &str, kind: u64) -> bool {
        let streams = [51, 53, 78, 76].contains(&kind);
        if self.random.percent(if streams { 60 } else { 3 }) {
            let mut offset = 0;
            for _ in 0..self.random.below(5) {
                let data = vec![b'x'; self.random.size(32_000)];
                let skew = if self.random.percent(5) { 1 << 40 } else { 0 };
                let chunk = agent::StreamChunk {
                    stream: match self.random.percent(90) {
                        true if kind == 51 => 2,
                        true => 4,
                        false => i32::try_from(self.random.below(6)).unwrap(),
                    },
                    offset: offset + skew,
                    eof: self.random.percent(10),
                    data,
                    ..Default::default()
                };
                offset += chunk.data.len() as u64;
                if !self.say(id, Body::StreamChunk(chunk)) {
                    return false;
                }
            }
        }
        match self.random.below(20) {
            // It does not answer.
            0 => true,
            1 => (0..20).all(|_| self.say_twisted(id, kind)),
            2 => {
                let noise: Vec<u8> = (0..=255).cycle().take(self.random.size(100_000)).collect();
                self.stream.write_all(&noise).is_ok()
            }
            3 => self.stream.write_all(&[IDLE; 5000]).is_ok(),
            _ => self.say_twisted(id, kind),
        }
    }

    fn live(&mut self) {
        let mut decoder = Decoder::new();
        let mut buffer = [0; 16 * 1024];
        let mut left = 5 + self.random.size(400);
        loop {
            // A guest that says nothing for so long has ended.
            let Ok(n @ 1..) = self.stream.read(&mut buffer) else {
                return;
            };
            let mut input = &buffer[..n];
            let mut asked = Vec::new();
            while let Some(body) = decoder.next(&mut input) {
                asked.extend(AgentMessage::decode(body).ok());
            }
            for AgentMessage {
                message_id, body, ..
            } in asked
            {
                let Some(body) = body else { continue };
                let key = decode_varint(&mut &message("", body.clone()).encode_to_vec()[..]);
                let kind = key.unwrap_or(0) >> 3;
                let goes_on = match body {
                    Body::Ping(ping) => self.on_ping(ping),
                    Body::Credit(_) | Body::Cancel(_) | Body::StreamChunk(_) => true,
                    _ => self.answer(&message_id, kind + 40),
                };
                left = left.saturating_sub(1);
                if !goes_on || left == 0 {
                    return;
                }
            }
        }
    }

    fn on_ping(&mut self, ping: agent::Ping) -> bool {
        let pong = agent::Pong {
            sequence: ping.sequence,
            nonce: ping.nonce,
            session: self.session.get(),
            version: "1".repeat(self.random.size(100)),
            boot_id: WORDS[self.random.below(WORDS.len())].to_owned(),
            instance: self.random.next(),
            ..Default::default()
        };
        if self.number > 0 {
            return self.say("", Body::Pong(pong)) && self.random.percent(70)
                || self.say_twisted("", 100);
        }
        let mut out = Vec::new();
        write_frame(
            &mut out,
            &message("", Body::Pong(pong)).encode_to_vec(),
            None,
        );
        self.stream.write_all(&out).is_ok()
            && self.say_twisted("", 101)
            && (0..self.random.below(20)).all(|_| self.say_twisted("", 100))
    }
}

/// One life after the other, until nobody connects any more.
fn haunt(listener: &UnixListener, seed: u64) {
    let known = known();
    let mut seeds = Random::new(seed);
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(false).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(700)))
            .unwrap();
        let mut random = Random::new(seeds.next());
        let session = SessionId::parse(random.next().max(1)).unwrap();
        Life {
            random,
            known: &known,
            stream,
            session,
            number: 0,
        }
        .live();
    }
}

/// What is asked of it, and whether both outputs are as the guest has them where they go to no terminal.
const ASKED: [(&[&str], bool); 18] = [
    (&["exec", "evil", "--", "x"], true),
    (&["ps", "evil"], false),
    (&["hardware", "evil"], false),
    (&["disks", "evil"], false),
    (&["network", "evil"], false),
    (&["ip", "evil"], false),
    (&["users", "evil"], false),
    (&["packages", "evil"], false),
    (&["services", "evil"], false),
    (&["service", "evil", "x", "status"], false),
    (&["jobs", "evil"], false),
    (&["keys", "evil", "x", "list"], false),
    (&["freeze-status", "evil"], false),
    (&["time", "evil"], false),
    (&["cat", "evil", "/x"], true),
    (&["cp", "-r", "evil:/x", "."], false),
    (&["telemetry", "evil"], false),
    (&["info", "evil"], false),
];

#[track_caller]
fn has_no_controls(what: &[&str], text: &str) {
    let bad = |c: char| is_hidden(c) && c != '\n';
    assert!(!text.contains(bad), "{what:?}: {text:?}");
}

#[test]
fn whatever_a_guest_says_the_daemon_lives_and_serves_the_others() {
    let number = |name, or| std::env::var(name).map_or(or, |text| text.parse::<usize>().unwrap());
    let (lives, seed) = (
        number("QX_HOSTILE_LIVES", 60),
        number("QX_HOSTILE_SEED", 1) as u64,
    );
    let (node, _vm) = Node::with_vm("web1");
    let listener = listen(&node.socket("evil"));
    let _guest = beside(move || haunt(&listener, seed));
    let before = rss_kib(&node.process);
    let mut random = Random::new(seed);
    for life in 0..lives {
        let place = Dir::new();
        fs::create_dir(place.join("in")).unwrap();
        let mut running = Vec::new();
        for _ in 0..6 {
            let (words, is_raw) = ASKED[random.below(ASKED.len())];
            let mut command = node.command(words);
            command.current_dir(place.join("in"));
            running.push((
                words,
                is_raw,
                crate::util::Running::start(&mut command, b""),
            ));
        }
        let said = node.exec("web1", "echo hello");
        assert_eq!(said.fine(), "hello\n", "life {life}");
        for (words, is_raw, command) in running {
            let said = command.end();
            assert!(
                (0..100).contains(&said.status) || is_raw,
                "{words:?}: {said:?}"
            );
            assert!(!said.stderr.contains("panicked"), "{words:?}: {said:?}");
            if !is_raw {
                has_no_controls(words, &said.stderr);
                has_no_controls(words, said.text());
            }
        }
        assert_eq!(place.list(""), ["in"], "life {life} got out");
        for words in [&["vms"][..], &["events"], &["channel", "evil"]] {
            let said = node.run(words);
            has_no_controls(words, said.text());
        }
    }
    assert!(fs::metadata("/tmp/qx-out").is_err());
    let grown = rss_kib(&node.process).saturating_sub(before);
    assert!(grown < 6 * 1024, "{grown} KiB for one guest");
    let log = node.process.log();
    has_no_controls(&["serve"], &log);
    let about = log.lines().filter(|line| line.contains("evil: ")).count();
    assert!(about < 100 + lives * 5, "{about} lines about it");
}
