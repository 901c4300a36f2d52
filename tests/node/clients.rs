use std::io::{Read, Write};
use std::net::Shutdown;

use quantix::limits::CHUNK;
use quantix::message::node::{self, node_message};
use quantix::message::{Body, Stream, agent};

use crate::util::agent::{line, read_file};
use crate::util::node::Node;
use crate::util::{is_alive, noise, pid_in, until_so};

fn credit(bytes: u64) -> Body {
    let stream = Stream::Data.into();
    Body::Credit(agent::Credit { stream, bytes })
}

#[test]
fn the_command_of_a_client_that_leaves_is_killed() {
    let (node, _vm) = Node::with_vm("vm");
    let pid = node.dir.text("pid");
    let line = format!("echo $$ > {pid}; sleep 60 & wait");
    let mut exec = node.begin(&["exec", "vm", "--", &line]);
    let command = pid_in(pid.as_ref());
    exec.kill();
    until_so("end of the command", || !is_alive(command));
    node.run(&["ping", "vm"]).fine();
}

#[test]
fn fifty_clients_at_once_are_all_answered() {
    let (node, _vm) = Node::with_vm("vm");
    let mut clients: Vec<_> = (0..50).map(|_| node.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let n = n as u64 + 1;
        client.send_agent(n, "vm", line(&format!("echo {n}")));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let n = n as u64 + 1;
        // The agent runs 32 at once; the others are told so.
        match client.next_agent(n) {
            Body::ExecuteResponse(answer) => assert_eq!(answer.stdout, format!("{n}\n").as_bytes()),
            Body::Error(error) => assert_eq!(error.code, "BUSY"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn one_client_may_ask_many_things_at_once() {
    let (node, _vm) = Node::with_vm("vm");
    let mut client = node.client();
    for id in 1..=20 {
        client.send_agent(id, "vm", line(&format!("echo {id}")));
    }
    let mut open: Vec<u64> = (1..=20).collect();
    while !open.is_empty() {
        let message = client.next().unwrap();
        let at = open
            .iter()
            .position(|id| *id == message.id)
            .expect("answered twice");
        open.remove(at);
        let Some(node_message::Body::Agent(answer)) = message.body else {
            panic!("not an answer");
        };
        let Some(Body::ExecuteResponse(answer)) = answer.body else {
            panic!("{answer:?}");
        };
        assert_eq!(answer.stdout, format!("{}\n", message.id).as_bytes());
    }
}

#[test]
fn a_client_that_speaks_another_protocol_is_disconnected_and_others_are_not() {
    let (node, _vm) = Node::with_vm("vm");
    let pid = node.dir.text("pid");
    let gate = node.dir.gate("gate");
    let waits = format!("echo $$ > {pid}; {gate}; echo end");
    let good = node.begin(&["exec", "vm", "--", &waits]);
    pid_in(pid.as_ref());
    let mut bad: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 4],
        vec![0xFF; 100],
        (192u32 * 1024 + 1).to_be_bytes().to_vec(),
        [&5u32.to_be_bytes()[..], &[0xFF; 5]].concat(),
    ];
    bad.push(noise(100_000));
    for bytes in bad {
        let mut client = node.client();
        // It may be hung up on before all of it is written.
        let _ = client.stream.write_all(&bytes);
        let mut rest = Vec::new();
        let _ = client.stream.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
    node.process
        .wait_log("client disconnected: sent something that is not our protocol");
    node.dir.open("gate");
    assert_eq!(good.end().fine(), "end\n");
}

#[test]
fn the_slow_reader_of_a_big_file_hinders_nobody() {
    let (node, vm) = Node::with_vm("vm");
    let bytes = noise(8 << 20);
    let path = node.dir.file("big", &bytes);
    let mut slow = node.client();
    slow.send_agent(1, "vm", Body::ReadFile(read_file(&path)));
    slow.send_agent(1, "vm", credit(256 * 1024));
    // It reads nothing; its credit has arrived over here, and no more than that.
    until_so("the window is full", || vm.relay.counts().1 > 256 * 1024);
    for _ in 0..3 {
        node.run(&["ping", "vm"]).fine();
        node.exec("vm", "true").fine();
    }
    let said = node.run(&["cat", "vm", &path]);
    assert!(said.stdout == bytes);
    // And it still gets every byte.
    let mut found = Vec::new();
    loop {
        match slow.next_agent(1) {
            Body::StreamChunk(chunk) => found.extend(chunk.data),
            Body::ReadFileResponse(_) => break,
            other => panic!("{other:?}"),
        }
        slow.send_agent(1, "vm", credit(found.len() as u64 + 256 * 1024));
    }
    assert!(found == bytes);
}

#[test]
fn a_client_that_takes_more_credit_than_it_reads_is_disconnected() {
    let (node, _vm) = Node::with_vm("vm");
    let path = node.dir.file("big", noise(16 << 20));
    let mut client = node.client();
    client.send_agent(1, "vm", Body::ReadFile(read_file(&path)));
    client.send_agent(1, "vm", credit(u64::MAX));
    node.process
        .wait_log("client disconnected: does not read what it asked for");
    node.run(&["ping", "vm"]).fine();
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process.pid())).unwrap();
    let rss = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: u64 = rss.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 64 * 1024, "{rss}");
}

#[test]
fn a_client_may_take_a_request_back() {
    let (node, _vm) = Node::with_vm("vm");
    let pid = node.dir.text("pid");
    let mut client = node.client();
    client.send_agent(1, "vm", line(&format!("echo $$ > {pid}; sleep 60 & wait")));
    let command = pid_in(pid.as_ref());
    client.send_agent(1, "vm", Body::Cancel(agent::Cancel {}));
    assert_eq!(client.refusal(1).0, "CANCELLED");
    until_so("end of the command", || !is_alive(command));
}

#[test]
fn requests_that_make_no_sense_are_refused_with_their_number() {
    let (node, _vm) = Node::with_vm("vm");
    let mut client = node.client();
    client.ping(7, "no-such");
    let (code, why) = client.refusal(7);
    assert_eq!(code, "NOT_FOUND");
    assert!(why.contains("there are: vm"), "{why}");
    client.ping(0, "vm");
    assert_eq!(client.refusal(0).0, "INVALID");
    client.send(8, "vm", node_message::Body::VmList(node::VmList::default()));
    assert_eq!(client.refusal(8).0, "UNSUPPORTED");
    client.send_agent(9, "vm", Body::Ping(agent::Ping::default()));
    assert_eq!(client.refusal(9).0, "UNSUPPORTED");
    client.send_agent(10, "vm", line(&"x".repeat(150 * 1024)));
    assert_eq!(client.refusal(10).0, "TOO_LARGE");
    // What comes too late for its request is no fault.
    client.send_agent(11, "vm", Body::Cancel(agent::Cancel {}));
    client.ping(12, "vm");
    assert_eq!(client.next().unwrap().id, 12);
}

#[test]
fn a_client_that_closes_its_half_is_gone() {
    let (node, _vm) = Node::with_vm("vm");
    let mut client = node.client();
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(client.next().is_none());
    node.run(&["ping", "vm"]).fine();
}

#[test]
fn each_new_report_goes_to_whoever_watches() {
    let node = Node::start();
    let _relay = node.relay("vm");
    let _agent = node.agent("vm", &["--telemetry-interval", "1"]);
    node.wait_state("vm", "ready");
    let mut client = node.client();
    let watch = node_message::Body::GetTelemetry(node::GetTelemetry { follow: true });
    client.send(3, "vm", watch);
    for _ in 0..3 {
        let message = client.next().unwrap();
        assert_eq!(message.id, 3);
        assert!(matches!(
            message.body,
            Some(node_message::Body::TelemetryReport(_))
        ));
    }
    client.send_agent(3, "vm", Body::Cancel(agent::Cancel {}));
    loop {
        match client.next().unwrap().body {
            Some(node_message::Body::TelemetryReport(_)) => {}
            Some(node_message::Body::Agent(answer)) => {
                assert!(matches!(answer.body, Some(Body::Error(e)) if e.code == "CANCELLED"));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_client_that_breaks_a_streams_rules_is_disconnected() {
    let (node, vm) = Node::with_vm("vm");
    let path = node.dir.file("file", "old");
    let gap = |_| vec![(1, 10)];
    let repetition = |_| vec![(0, 10), (0, 10)];
    let overspent = |credit: u64| {
        let whole = (0..credit).step_by(CHUNK);
        whole
            .map(|at| (at, CHUNK))
            .chain([(credit.next_multiple_of(CHUNK as u64), 1)])
            .collect()
    };
    let too_long = |_| vec![(0, CHUNK + 1)];
    let faults: [&dyn Fn(u64) -> Vec<(u64, usize)>; 4] = [&gap, &repetition, &overspent, &too_long];
    for fault in faults {
        let mut client = node.client();
        let write = agent::WriteFile {
            path: path.clone(),
            ..Default::default()
        };
        client.send_agent(1, "vm", Body::WriteFile(write));
        let Body::Credit(first) = client.next_agent(1) else {
            panic!("no credit");
        };
        // Stopped, it cannot grant more meanwhile.
        vm.agent.signal("STOP");
        let chunks = fault(first.bytes);
        for &(offset, bytes) in &chunks {
            let chunk = agent::StreamChunk {
                stream: Stream::Data.into(),
                offset,
                data: vec![b'x'; bytes],
                eof: false,
                ..Default::default()
            };
            client.send_agent(1, "vm", Body::StreamChunk(chunk));
        }
        assert!(client.next().is_none(), "{chunks:?}");
        vm.agent.signal("CONT");
        node.run(&["ping", "vm"]).fine();
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}
