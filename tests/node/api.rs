use std::path::Path;
use std::process::Command;

use prost::Message;
use quantix::message::node::{NodeMessage, node_message};

use super::metrics::{page, value, with_metrics};
use crate::util::node::Node;
use crate::util::{Running, until_so};

#[test]
fn the_example_in_the_documents_works() {
    let (node, _vm) = Node::with_vm("web1");
    let _bare = node.relay("bare");
    node.wait_state("bare", "waiting for agent");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/example.py");
    let text = std::fs::read_to_string(&example).unwrap();
    assert!(text.lines().count() < 80);
    let run = |words: &[&str]| {
        let mut python = Command::new("python3");
        python.arg(&example).arg(node.control()).args(words);
        Running::start(&mut python, b"").end()
    };
    assert_eq!(run(&[]).fine(), "bare waiting\nweb1 ready\n");
    let said = run(&["web1", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (said.status, said.text(), &*said.stderr),
        (7, "out\n", "err\n")
    );
    let said = run(&["bare", "true"]);
    assert_eq!(said.status, 1);
    assert!(said.stderr.contains("bare"), "{said:?}");
}

#[test]
fn a_request_of_a_later_version_is_answered_that_it_is_not_known() {
    let (node, _vm) = Node::with_vm("vm");
    let mut client = node.client();
    // Number 7, and a field 49 that no version has yet.
    let mut bytes = vec![0x08, 7, 0x12, 2, b'v', b'm', 0x8a, 0x03, 0];
    assert_eq!(NodeMessage::decode(&bytes[..]).unwrap().body, None);
    let mut framed = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    framed.append(&mut bytes);
    std::io::Write::write_all(&mut client.stream, &framed).unwrap();
    let answer = client.next().unwrap();
    assert_eq!(answer.id, 7);
    let Some(node_message::Body::Agent(message)) = answer.body else {
        panic!("{answer:?}");
    };
    let text = format!("{:?}", message.body);
    assert!(
        text.contains("UNSUPPORTED") && text.contains("does not know this request"),
        "{text}"
    );
    node.run(&["ping", "vm"]).fine();
}

#[test]
fn who_only_asks_is_answered_by_the_daemon_that_comes_next() {
    let (mut node, vm, address) = with_metrics(&[]);
    let _relay = node.relay("late");
    node.wait_state("late", "waiting for agent");
    // It waits for a session, and its daemon ends.
    let ping = node.begin(&["ping", "late"]);
    until_so("it has asked", || {
        value(&page(&address), "quantix_node_requests") == 1.0
    });
    node.process.kill();
    let _agent = node.agent("late", &[]);
    node.process = node.serve_again(&[]);
    assert!(ping.end().fine().starts_with("late: seq=1 "));
    // What was not there in the first place is not waited for.
    node.process.kill();
    let said = node.run(&["ping", "late"]);
    assert!(said.trouble(3).contains("Start it with `qx-node serve`"));
    drop(vm);
}
