use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::process::Command;

use prost::Message;
use quantix::message::{AgentMessage, Body, agent};

use crate::util::agent::{Agent, Talk, accept, line, shell, spawn_by};
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

/// A command in the agent's own namespace of processes, where numbers can be chosen (ns_last_pid, proc(5)).
#[test]
fn the_number_of_a_command_that_has_gone_leads_to_no_other_process() {
    let dir = Dir::new();
    let listener = listen(&dir.join("port"));
    let mut apart = Command::new("unshare");
    apart.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    // Process 1 is a shell, which reaps whoever has no parent any more.
    apart.args(["sh", "-c", "\"$@\" & wait", "sh"]);
    let _agent = spawn_by(apart, &dir, "port", &[]);
    let mut talk = Talk::new(accept(&listener));
    talk.open(b"nonce-of-16-byte");
    let kept = agent::Execute {
        keep: true,
        ..shell("exec sleep 1000")
    };
    talk.exec("kept", kept);
    let Body::JobList(list) = talk.ask("list", Body::ListJobs(agent::ListJobs {})) else {
        panic!("no list");
    };
    let [job] = &list.jobs[..] else {
        panic!("{list:?}");
    };
    let (command, keeper) = (job.pid, job.keeper);
    // Both end, and others have their numbers.
    let line = format!(
        "kill -KILL {keeper} {command}
        for number in {keeper} {command}; do
            while kill -0 $number 2>/dev/null; do :; done
            until [ \"$!\" = $number ]; do
                echo $((number - 1)) >/proc/sys/kernel/ns_last_pid
                setsid sleep 1001 >/dev/null 2>&1 &
            done
        done"
    );
    assert_eq!(talk.exec("others", shell(&line)).exit_code, 0);
    for (id, signal) in [("end", 0), ("kill", 9)] {
        let request = agent::KillJob {
            job: job.job,
            signal,
        };
        let (code, why) = talk.refused(id, Body::KillJob(request));
        assert_eq!(code, "NOT_FOUND", "{why}");
    }
    let alive = shell(&format!("kill -0 {keeper} && kill -0 {command}"));
    assert_eq!(talk.exec("alive", alive).exit_code, 0);
}
