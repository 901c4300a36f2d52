use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use quantix::message::node::{self, node_message};
use quantix::message::{Body, agent};
use serde_json::Value;

use crate::util::node::Node;
use crate::util::{PATIENCE, beside, is_accepted, until, until_so};

fn events(node: &Node, words: &[&str]) -> Vec<Value> {
    let said = node.run(&[&["events", "--json"], words].concat());
    let lines = said.fine().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The words for what has happened to a VM.
fn story(node: &Node, name: &str) -> Vec<String> {
    let told = |event: &Value| match event["event"].as_str().unwrap() {
        "state" => event["to"].as_str().unwrap().to_owned(),
        other => other.to_owned(),
    };
    events(node, &[name]).iter().map(told).collect()
}

/// `qx-node events --follow`, line by line.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(node: &Node, words: &[&str]) -> Self {
        let mut command = node.command(&["events", "--follow"]);
        let mut child = command
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, receive) = channel();
        beside(move || {
            for line in lines.map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self {
            child,
            lines: receive,
        }
    }

    /// The next line; empty at the end.
    #[track_caller]
    fn line(&self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => String::new(),
            Err(RecvTimeoutError::Timeout) => panic!("nothing is told"),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_vms_life_is_kept_and_told() {
    let (node, vm) = Node::with_vm("vm");
    let other = node.vm("other");
    node.wait_state("other", "ready");
    fs::remove_file(node.socket("vm")).unwrap();
    node.wait_state("vm", "absent");
    let all = events(&node, &["vm"]);
    let first = all.first().unwrap();
    let keys: Vec<&str> = first
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys.join(" "), "number time vm event from to reason behind");
    assert_eq!(first["from"], Value::Null);
    assert!(first["reason"].as_str().unwrap().starts_with("found /"));
    let story = story(&node, "vm");
    assert_eq!(story, ["connecting", "ready", "session_lost", "absent"]);
    let lost = all
        .iter()
        .find(|event| event["event"] == "session_lost")
        .unwrap();
    assert_eq!(lost["reason"], "the VM's socket is gone");
    let numbers: Vec<u64> = events(&node, &[])
        .iter()
        .map(|event| event["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let text = node.run(&["events"]);
    let line = text
        .fine()
        .lines()
        .find(|line| line.contains("connecting -> ready"))
        .unwrap();
    // 2026-11-22T21:20:05Z
    let (time, rest) = line.split_at(20);
    assert!(
        time.starts_with("20") && time.ends_with('Z') && &time[10..11] == "T",
        "{line}"
    );
    assert!(rest.starts_with("  vm     connecting -> ready"), "{line:?}");
    assert!(text.text().lines().all(|line| line.trim_end() == line));
    let said = node.run(&["events", "no-such"]);
    assert!(said.trouble(1).contains("no VM is named \"no-such\""));
    drop((vm, other));
}

#[test]
fn each_change_is_told_as_it_happens_until_the_daemon_ends() {
    let mut node = Node::start();
    let all = Follower::start(&node, &[]);
    let vm = node.vm("vm");
    assert!(all.line().contains("  vm  connecting  found /"));
    // The daemon may have found the socket before it listened.
    until_so("it is ready", || {
        all.line().contains("  vm  connecting -> ready")
    });
    // One that comes later sees what is kept first.
    let mut one = Follower::start(&node, &["vm", "--json"]);
    let of = |line: String| -> Value { serde_json::from_str(&line).unwrap() };
    assert_eq!(of(one.line())["to"], "connecting");
    until_so("it is ready", || of(one.line())["to"] == "ready");
    let other = node.relay("other");
    assert!(all.line().contains("  other  connecting"));
    fs::remove_file(node.socket("vm")).unwrap();
    assert_eq!(of(one.line())["event"], "session_lost");
    assert_eq!(of(one.line())["to"], "absent");
    node.process.signal("TERM");
    assert!(node.process.wait().success());
    while one.line() != "" {}
    let status = until("the follower ends", || one.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(3));
    drop((vm, other));
}

#[test]
fn a_restarted_agent_is_noticed() {
    let (node, mut vm) = Node::with_vm("vm");
    node.restart_agent(&mut vm);
    node.run(&["ping", "vm"]).fine();
    until_so("it is told", || {
        story(&node, "vm").contains(&"agent_restarted".to_owned())
    });
    // Our own reconnect is none.
    vm.relay.cut_host();
    until_so("another session", || {
        node.look("vm").unwrap()["counters"]["sessions"] == 3
    });
    let count = |word: &str| story(&node, "vm").iter().filter(|w| *w == word).count();
    assert_eq!(count("session_lost"), 2);
    assert_eq!(count("agent_restarted"), 1);
    // Nor is one that says goodbye taken for anything else.
    vm.agent.signal("TERM");
    assert!(vm.agent.wait().success());
    vm.relay.wait_guest(false);
    vm.agent = node.agent("vm", &[]);
    until_so("it is told", || count("agent_restarted") == 2);
}

#[test]
fn a_follower_that_does_not_read_is_dropped_and_hinders_nobody() {
    let node = Node::start();
    let mut slow = node.client();
    for id in 1..=16 {
        let follow = node_message::Body::GetEvents(node::GetEvents { follow: true });
        slow.send(id, "", follow);
    }
    // Each is found, and then found to be dead: two events, for each of the sixteen.
    for n in 0..900 {
        let name = format!("{n:0>60}");
        drop(UnixListener::bind(node.socket(&name)).unwrap());
    }
    // The log has other lines to drop. A socket without its other end has no peer.
    until_so("the daemon hangs up", || !is_accepted(&slow.stream));
    node.run(&["vms"]).fine();
    assert!(events(&node, &[]).len() <= 1000);
    let status = fs::read_to_string(format!("/proc/{}/status", node.process.pid())).unwrap();
    let rss = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: u64 = rss.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 64 * 1024, "{rss}");
}

#[test]
fn a_client_may_stop_to_follow() {
    let node = Node::start();
    let mut client = node.client();
    let follow = node_message::Body::GetEvents(node::GetEvents { follow: true });
    client.send(4, "", follow.clone());
    let list = client.next().unwrap().body;
    assert!(matches!(list, Some(node_message::Body::EventList(list)) if list.more));
    client.send(4, "", follow.clone());
    assert_eq!(client.refusal(4).0, "INVALID");
    client.send_agent(4, "", Body::Cancel(agent::Cancel {}));
    assert_eq!(client.refusal(4).0, "CANCELLED");
    let relay = node.relay("vm");
    node.wait_state("vm", "waiting for agent");
    client.send(5, "vm", follow);
    // Nothing of the first has come in between.
    assert_eq!(client.next().unwrap().id, 5);
    client.send(
        6,
        "no-such",
        node_message::Body::GetEvents(node::GetEvents::default()),
    );
    assert_eq!(client.refusal(6).0, "NOT_FOUND");
    drop(relay);
}
