use prost::Message;
use quantix::frame::{Seal, write_frame};
use quantix::ids::SessionId;
use quantix::limits::MAX_FRAME;
use quantix::message::{Body, message};

use crate::util::agent::{Agent, Talk, frame, line, ping, read_file};

const NONCE: &[u8; 16] = b"nonce-of-16-byte";

/// The session goes on as if nothing had been sent.
fn is_dropped(what: &str, bytes: impl FnOnce(Body) -> Vec<u8>, logged: &str) {
    let (agent, mut talk) = Agent::ready();
    let acts = line(&format!("touch {}", agent.dir.text("ran")));
    talk.send_raw(&bytes(acts));
    talk.assert_alive();
    assert!(!agent.dir.join("ran").exists(), "{what}: it was acted on");
    agent.process.wait_log(logged);
}

/// The agent ends the session and says why; a Ping opens another.
fn is_fatal(what: &str, send: impl FnOnce(&mut Talk, Body)) {
    let (agent, mut talk) = Agent::ready();
    let acts = line(&format!("touch {}", agent.dir.text("ran")));
    send(&mut talk, acts);
    let Some(Body::SessionEnded(ended)) = talk.next().body else {
        panic!("{what}: the session was not ended");
    };
    assert!(!ended.reason.is_empty());
    talk.send_raw(&frame(&ping(9, b"another-nonce-16"), None));
    talk.opened(b"another-nonce-16");
    talk.next();
    talk.assert_alive();
    assert!(!agent.dir.join("ran").exists(), "{what}: it was acted on");
}

fn sealed(session: u64, number: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let session = SessionId::parse(session).unwrap();
    write_frame(&mut out, body, Some(Seal { session, number }));
    out
}

#[test]
fn bytes_outside_frames_are_skipped_to_the_next_idle_byte() {
    for header in [[0; 4], [0, 2, 0, 1], [0xFE, 0xFF, 0xFF, 0xFF], *b"GET "] {
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(b"garbage of any kind\xFF");
        is_dropped("garbage", |_| bytes, "23 bytes of garbage");
    }
}

#[test]
fn frames_of_another_session_are_dropped() {
    let bytes = |acts| sealed(12345, 1, &message("foreign", acts).encode_to_vec());
    is_dropped("foreign", bytes, "1 stale frames");
}

#[test]
fn a_request_without_a_seal_is_dropped() {
    let bytes = |acts| frame(&message("bare", acts), None);
    is_dropped("unsealed", bytes, "1 bad frames");
}

#[test]
fn a_ping_without_a_usable_nonce_is_no_ping() {
    let (agent, mut talk) = Agent::ready();
    talk.send_raw(&frame(&ping(5, b"short"), None));
    talk.send_raw(&frame(&ping(6, b""), None));
    talk.assert_alive();
    drop(agent);
}

#[test]
fn the_longest_frame_is_taken_and_one_byte_more_is_not() {
    let (_agent, mut talk) = Agent::ready();
    let overhead = {
        let body = message("long", line("")).encode_to_vec();
        // The longer string needs a longer length, in the string, the request and the envelope.
        body.len() + 2 + 2 + 2 + 20
    };
    let mut long = "true #".to_owned();
    long.extend(std::iter::repeat_n(
        'x',
        MAX_FRAME - overhead - 16 - long.len(),
    ));
    let body = message("long", line(&long)).encode_to_vec();
    assert!((MAX_FRAME - 40..=MAX_FRAME).contains(&(body.len() + 20)));
    let bytes = talk.seal(&body);
    talk.send_raw(&bytes);
    let Body::ExecuteResponse(answer) = talk.answer("long") else {
        panic!("not run");
    };
    assert_eq!(answer.exit_code, 0);
    let mut bytes = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes().to_vec();
    bytes.resize(4 + MAX_FRAME + 1, b'x');
    bytes.push(0xFF);
    talk.send_raw(&bytes);
    talk.assert_alive();
}

#[test]
fn a_gap_in_the_numbers_ends_the_session() {
    is_fatal("gap", |talk, acts| {
        talk.next_out += 1;
        talk.send("gap", acts);
    });
}

#[test]
fn a_repeated_number_ends_the_session() {
    is_fatal("repeated", |talk, acts| {
        talk.assert_alive();
        talk.next_out -= 1;
        talk.send("again", acts);
    });
}

#[test]
fn a_frame_that_lost_its_head_swallows_the_next_one_and_is_found_out() {
    is_fatal("truncated", |talk, acts| {
        let first = talk.seal(&message("1", line("true")).encode_to_vec());
        let second = talk.seal(&message("2", line("true")).encode_to_vec());
        // The announced length reaches into the second frame; the third shows the gap.
        talk.send_raw(&first[..first.len() - 10]);
        talk.send_raw(&second);
        talk.send_raw(&[0xFF; 200]);
        talk.send("3", acts);
    });
}

#[test]
fn acknowledging_more_than_was_sent_ends_the_session() {
    is_fatal("overacknowledged", |talk, _| {
        let credit = quantix::message::agent::Credit {
            stream: 0,
            bytes: u64::MAX,
        };
        talk.send("", Body::Credit(credit));
    });
}

#[test]
fn a_message_without_a_usable_id_ends_the_session() {
    is_fatal("no id", |talk, acts| talk.send("", acts));
    is_fatal("long id", |talk, acts| talk.send(&"i".repeat(65), acts));
}

#[test]
fn a_request_that_does_not_decode_is_refused_by_its_id() {
    let (_agent, mut talk) = Agent::ready();
    let mut body = message("bad", Body::ReadFile(read_file("/name-\u{7f}"))).encode_to_vec();
    let at = body.iter().position(|byte| *byte == 0x7F).unwrap();
    body[at] = 0xE9;
    let bytes = talk.seal(&body);
    talk.send_raw(&bytes);
    let (code, why) = talk.refusal("bad");
    assert_eq!(code, "INVALID");
    assert!(why.contains("UTF-8"), "{why}");
    talk.assert_alive();
}

#[test]
fn an_unknown_request_is_unsupported() {
    let (_agent, mut talk) = Agent::ready();
    // An envelope with an id and a field of length 0 that no version of ours knows: 199.
    let body = [&[0x0A, 3][..], b"new", &[0xBA, 0x0C, 0x00]].concat();
    let bytes = talk.seal(&body);
    talk.send_raw(&bytes);
    let (code, why) = talk.refusal("new");
    assert_eq!(code, "UNSUPPORTED", "{why}");
    // A message that is known and is no request.
    let ready = Body::AgentReady(Default::default());
    let (code, why) = talk.refused("odd", ready);
    assert_eq!(code, "UNSUPPORTED", "{why}");
    talk.assert_alive();
}

#[test]
fn frames_may_arrive_byte_by_byte_and_between_idle_bytes() {
    let agent = Agent::start();
    let mut talk = agent.accept();
    for byte in frame(&ping(1, NONCE), None) {
        talk.send_raw(&[byte]);
    }
    talk.opened(NONCE);
    talk.next();
    let bytes = talk.seal(&message("slow", line("echo slow")).encode_to_vec());
    talk.send_raw(&[0xFF; 1000]);
    for byte in bytes {
        talk.send_raw(&[byte]);
    }
    assert!(matches!(talk.answer("slow"), Body::ExecuteResponse(_)));
}

#[test]
fn a_flood_of_garbage_is_logged_at_a_limited_rate() {
    let (agent, mut talk) = Agent::ready();
    for _ in 0..3000 {
        talk.send_raw(&sealed(12345, 1, b""));
    }
    talk.assert_alive();
    let lines = agent.process.log().lines().count();
    assert!(lines < 200, "{lines} lines");
}
