use std::path::Path;
use std::process::Command;

use prost::Message;
use quantix::message::node::{NodeMessage, node_message};

use crate::util::Running;
use crate::util::node::Node;

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
