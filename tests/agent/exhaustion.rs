use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::process::Command;

use prost::Message;
use quantix::message::{AgentMessage, Body, agent};

use crate::util::agent::{Agent, Talk, accept, line, spawn_by};
use crate::util::{Dir, listen, rss_kib, until_so};

/// How often each code, or exit status, was answered to what was asked.
fn answers(talk: &mut Talk, count: usize) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < count {
        let AgentMessage {
            message_id, body, ..
        } = talk.next();
        let what = match body {
            Some(Body::ExecuteResponse(answer)) => format!("exit:{}", answer.exit_code),
            Some(Body::Error(error)) => error.code,
            other => panic!("{message_id}: {other:?}"),
        };
        assert!(seen.insert(message_id), "it is answered twice");
        *found.entry(what).or_insert(0) += 1;
    }
    found
}

#[test]
fn ten_thousand_requests_at_once_are_each_answered_once() {
    let (agent, mut talk) = Agent::ready();
    let before = rss_kib(&agent.process);
    // 400 at a time: of one that asks more and reads nothing the session ends.
    let mut found = BTreeMap::new();
    for batch in 0..25 {
        let mut bytes = Vec::new();
        for number in 0..400 {
            let id = format!("r{batch}-{number}");
            let message = quantix::message::message(&id, line("true"));
            bytes.extend(talk.seal(&message.encode_to_vec()));
        }
        talk.send_raw(&bytes);
        for (what, count) in answers(&mut talk, 400) {
            *found.entry(what).or_insert(0) += count;
        }
    }
    let (done, busy) = (found["exit:0"], found.get("BUSY").copied().unwrap_or(0));
    assert_eq!(done + busy, 10_000, "{found:?}");
    assert!(done >= 100 && busy > 0, "{found:?}");
    talk.assert_alive();
    let grown = rss_kib(&agent.process).saturating_sub(before);
    assert!(grown < 2048, "{grown} KiB");
}

#[test]
fn an_agent_without_descriptors_answers_and_says_so() {
    let dir = Dir::new();
    let listener = listen(&dir.join("port"));
    let mut few = Command::new("prlimit");
    few.args(["--nofile=40", "--"]);
    let agent = spawn_by(few, &dir, "port", &[]);
    let mut talk = Talk::new(accept(&listener));
    talk.open(b"nonce-of-16-byte");
    let gate = dir.gate("gate");
    for number in 0..30 {
        talk.send(&format!("r{number}"), line(&gate));
    }
    let Some(Body::Error(error)) = talk.next().body else {
        panic!("nothing ends, and one is refused");
    };
    assert_eq!(error.code, "INTERNAL");
    assert!(error.message.contains("Too many open files"), "{error:?}");
    // It answers who asks whether it is there.
    let ping = agent::Ping {
        sequence: 2,
        nonce: b"nonce-of-16-byte".to_vec(),
    };
    talk.send("", Body::Ping(ping));
    while !matches!(talk.next().body, Some(Body::Pong(_))) {}
    // And works as soon as there is room.
    dir.open("gate");
    until_so("room", || {
        talk.send("again", line("echo again"));
        loop {
            let message = talk.next();
            if message.message_id == "again" {
                break matches!(message.body, Some(Body::ExecuteResponse(_)));
            }
        }
    });
    drop(agent);
    assert_eq!(
        listener.accept().map(|_| ()).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
}
