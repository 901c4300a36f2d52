//! `qx-node users`, `passwd` and `keys`, as far as nobody's password or keys change: the agent's guest is
//! this machine.

use crate::util::node::Node;
use std::fs;

use quantix::message::Body;
use quantix::message::agent::SetPassword;

use crate::util::{Dir, Running, children, in_memory};

#[test]
fn whoever_is_logged_in_here_is_listed() {
    let (node, _vm) = Node::with_vm("vm");
    let all = node.run(&["users", "vm", "--json"]).json();
    for user in all.as_array().unwrap() {
        assert!(
            user["user"].as_str().is_some_and(|name| !name.is_empty()),
            "{user}"
        );
        assert!(user["since"].as_i64().unwrap() > 0, "{user}");
    }
    let said = node.run(&["users", "vm"]);
    let text = said.fine();
    assert!(
        text.starts_with("USER ") || text == "nobody is logged in\n",
        "{text}"
    );
}

#[test]
fn a_password_that_cannot_be_one_changes_nothing_and_is_not_repeated() {
    let (node, _vm) = Node::with_vm("vm");
    // Were one of them taken, there is nobody whose it could be.
    let user = "qx-nobody-at-all";
    for (password, words, status, why) in [
        ("", &[][..], 1, "no password on stdin"),
        ("\n", &[], 1, "no password on stdin"),
        ("hunter\n2\n", &[], 1, "more than one line"),
        (
            "hunter:2",
            &[],
            1,
            "a newline, another control character or a colon",
        ),
        (
            "hunter\0",
            &[],
            1,
            "a newline, another control character or a colon",
        ),
        ("hunter2", &["--crypted"], 1, "no hash as crypt(5) has them"),
        (
            "hunter2",
            &["--lock", "--unlock"],
            2,
            "one of --crypted, --lock and",
        ),
        (
            "hunter2",
            &[],
            1,
            "user qx-nobody-at-all: not in the guest's /etc/passwd",
        ),
    ] {
        let mut command = node.command(&[&["passwd", "vm", user], words].concat());
        let said = Running::start(&mut command, password.as_bytes()).end();
        let why_not = said.trouble(status);
        assert!(why_not.contains(why), "{password:?}: {why_not}");
        assert!(!why_not.contains("hunter"), "{why_not}");
    }
    for user in ["", "a:b", "a\nb"] {
        let said = node.run(&["passwd", "vm", user, "--lock"]);
        assert!(said.trouble(1).contains("a user's name has"), "{user:?}");
    }
    let logs = [node.process.log(), _vm.agent.log()].concat();
    assert!(!logs.contains("hunter"), "{logs}");
}

#[test]
fn a_password_stays_in_no_memory() {
    // What writes its log is a process of its own.
    let dir = Dir::new();
    let node = Node::serving(&["--log", &dir.text("log")]);
    let vm = node.vm("vm");
    node.wait_state("vm", "ready");
    let password = ["not so", "secret", "any more"].join("-");
    // It stays, and its connection with it.
    let mut client = node.client();
    let request = SetPassword {
        username: "qx-nobody-at-all".into(),
        password: password.clone(),
        ..Default::default()
    };
    client.send_agent(1, "vm", Body::SetPassword(request));
    let (_, why) = client.refusal(1);
    assert!(why.contains("not in the guest's /etc/passwd"), "{why}");
    for parent in [vm.agent.pid(), node.process.pid()] {
        for pid in children(parent).into_iter().chain([parent]) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
            assert_eq!(in_memory(pid, password.as_bytes()), 0, "{name}");
            // What looks finds what is there.
            assert!(in_memory(pid, b"PATH=") > 0, "{name}");
        }
    }
}

#[test]
fn what_is_no_key_does_not_leave_this_host() {
    let (node, _vm) = Node::with_vm("vm");
    let secret = node
        .dir
        .file("id", "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n");
    let said = node.run(&["keys", "vm", "root", "add", &secret]);
    let why = said.trouble(1);
    assert!(
        why.contains("id is a private key") && !why.contains("secret"),
        "{why}"
    );
    let said = node.run(&["keys", "vm", "root", "add", &node.dir.text("none")]);
    assert!(said.trouble(1).contains("none: No such file"));
    for (words, why) in [
        (&["add"][..], "which keys?"),
        (&["remove"], "which keys?"),
        (&["list", "f"], "list, add FILE or remove FILE"),
        (&["add", "f", "g"], "g is one word too many"),
        (&["add", "SHA256:abc"], "a fingerprint is no key"),
    ] {
        let said = node.run(&[&["keys", "vm", "root"], words].concat());
        assert!(said.trouble(2).contains(why), "{words:?}");
    }
    let said = node.run(&["keys", "vm", "qx-nobody-at-all"]);
    assert!(said.trouble(1).contains("not in the guest's /etc/passwd"));
}
