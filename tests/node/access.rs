//! Who may do what: users of this machine at the control socket, and what the audit has of them. Their numbers are
//! nobody's here. It takes root to be somebody else.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use quantix::message::node::node_message;
use quantix::message::{AgentMessage, Body, agent, message};

use super::config::{change, with_file};
use crate::util::agent::line as shell;
use crate::util::node::{Node, Vm};
use crate::util::{Dir, Running, Said, is_root, until, until_so};

const ROLES: &str = "view = 4001\noperate = @4002\nadmin = 4003:web*\n";

/// `None`: we are not root.
fn node(dir: &Dir) -> Option<(Node, Vec<Vm>)> {
    if !is_root() {
        return None;
    }
    let node = with_file(&format!("{ROLES}audit = {}\n", dir.text("audit")));
    let vms = vec![node.vm("web1"), node.vm("db1")];
    for name in ["web1", "db1"] {
        node.wait_state(name, "ready");
    }
    Some((node, vms))
}

/// By a user with one group.
fn begin(mut command: Command, uid: u32, gid: u32) -> Running {
    command.current_dir("/").gid(gid).uid(uid);
    Running::start(&mut command, b"")
}

/// `qx-node`
fn run(node: &Node, uid: u32, gid: u32, words: &[&str]) -> Said {
    begin(node.command(words), uid, gid).end()
}

/// Python with the control socket's name.
fn python(node: &Node, uid: u32, script: &str) -> Running {
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(node.control());
    begin(command, uid, 1)
}

#[track_caller]
fn denied(said: &Said, why: &str) {
    assert!(said.status != 0 && said.stderr.contains(why), "{said:?}");
}

#[test]
fn each_may_do_what_its_role_has_and_no_more() {
    let dir = Dir::new();
    let Some((node, _vms)) = node(&dir) else {
        return;
    };
    let exec = |uid, gid, vm| run(&node, uid, gid, &["exec", vm, "--", "echo hello"]);

    for words in [
        &["vms"][..],
        &["ping", "db1", "-c", "1"],
        &["hardware", "db1"],
    ] {
        run(&node, 4001, 1, words).fine();
    }
    let why = "4001 has view for \"db1\", and ps takes operate: see node.conf on the host";
    denied(&run(&node, 4001, 1, &["ps", "db1"]), why);
    denied(&exec(4001, 1, "web1"), "and exec takes admin");

    run(&node, 4009, 4002, &["ps", "db1"]).fine();
    denied(&exec(4009, 4002, "db1"), "4009 has operate for \"db1\"");

    assert_eq!(exec(4003, 1, "web1").fine(), "hello\n");
    // What it may not see is not there, whether it is or not.
    for name in ["db1", "none"] {
        let why = format!("4003 has no role for {name:?}");
        denied(&run(&node, 4003, 1, &["ping", name]), &why);
    }
    let listed = run(&node, 4003, 1, &["vms", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let events = run(&node, 4003, 1, &["events"]).fine().to_owned();
    assert!(
        events.contains("web1") && !events.contains("db1"),
        "{events}"
    );

    for words in [&["vms"][..], &["exec", "web1", "--", "true"]] {
        denied(&run(&node, 4010, 1, words), "4010 may do nothing here");
    }
    assert_eq!(node.exec("db1", "echo hello").fine(), "hello\n");

    let audit = || fs::read_to_string(dir.join("audit")).unwrap_or_default();
    let has = |words: &[&str]| {
        let text = audit();
        text.lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    for words in [
        &[
            "uid=4001",
            "action=exec",
            "what=\"echo hello\"",
            "result=DENIED",
        ][..],
        &["uid=4003", "vm=\"db1\"", "action=ping", "result=DENIED"],
        &["uid=4010", "action=connect", "result=DENIED"],
        &[
            "uid=4003",
            "vm=\"web1\"",
            "action=exec",
            "request=",
            "result=begun",
        ],
        &[
            "uid=4003",
            "vm=\"web1\"",
            "action=exec",
            "request=",
            "result=exit:0",
        ],
        &["uid=0", "user=\"root\"", "vm=\"db1\"", "result=exit:0"],
    ] {
        until_so(&format!("{words:?} in the audit"), || has(words));
    }
    assert!(!audit().contains("hardware"), "{}", audit());
}

#[test]
fn both_audits_name_the_same_user_and_request_whatever_a_client_says() {
    let dir = Dir::new();
    let Some((node, vms)) = node(&dir) else {
        return;
    };
    run(&node, 4003, 1, &["exec", "web1", "--", "true"]).fine();
    let of_host = || {
        let text = fs::read_to_string(dir.join("audit")).unwrap_or_default();
        let line = text.lines().find(|line| line.contains("uid=4003"))?;
        let request = line.split("request=").nth(1)?;
        Some(request.split(' ').next()?.to_owned())
    };
    let request = until("the host's line", of_host);
    let line = format!(
        "audit: uid=4003 user=\"4003\" action=exec request={request} result=begun what=\"true\""
    );
    vms[0].agent.wait_log(&line);
    // One that calls itself another.
    let mut client = node.client();
    let asked = AgentMessage {
        caller: Some(agent::Caller {
            uid: 4003,
            user: "4003".to_owned(),
        }),
        ..message("", shell("echo forged"))
    };
    client.send(1, "web1", node_message::Body::Agent(asked));
    assert!(matches!(client.next_agent(1), Body::ExecuteResponse(_)));
    until_so("the guest's line", || {
        let log = vms[0].agent.log();
        let mut lines = log.lines().filter(|line| line.contains("echo forged"));
        lines
            .next()
            .is_some_and(|line| line.contains("audit: uid=0 user=\"root\""))
    });
}

#[test]
fn who_loses_a_role_has_lost_it_with_the_next_request() {
    let dir = Dir::new();
    let Some((node, _vms)) = node(&dir) else {
        return;
    };
    let words = ["exec", "web1", "--", "true"];
    run(&node, 4003, 1, &words).fine();
    change(&node, "admin = 4003:web*", "admin = 4004");
    node.process.wait_log("configuration read");
    denied(&run(&node, 4003, 1, &words), "4003 may do nothing here");
    run(&node, 4004, 1, &words).fine();
}

#[test]
fn nobody_takes_the_places_of_others() {
    let dir = Dir::new();
    let Some((node, _vms)) = node(&dir) else {
        return;
    };
    // The last six of them come too late, and are told so.
    let script = "import socket, sys
all = [socket.socket(socket.AF_UNIX) for _ in range(70)]
for one in all: one.connect(sys.argv[1])
told = 0
for one in reversed(all):
    one.settimeout(10 if told < 6 else 0.5)
    try: told += b'BUSY' in one.recv(1000)
    except TimeoutError: break
print(told)";
    let held = python(&node, 4001, script);
    assert_eq!(held.end().fine(), "6\n");
    node.run(&["vms"]).fine();
}

#[test]
fn whoever_may_nothing_keeps_nobody_waiting() {
    let dir = Dir::new();
    let Some((node, _vms)) = node(&dir) else {
        return;
    };
    let script = "import socket, sys
while True:
    one = socket.socket(socket.AF_UNIX)
    try: one.connect(sys.argv[1])
    except OSError: pass";
    let flood = || python(&node, 4010, script);
    let _floods = [flood(), flood(), flood()];
    until_so("a refusal", || {
        let audit = fs::read_to_string(dir.join("audit")).unwrap_or_default();
        audit.contains("uid=4010")
    });
    for _ in 0..5 {
        assert_eq!(node.exec("web1", "echo hello").fine(), "hello\n");
    }
    // What they could have written is bounded, too.
    let audit = fs::read_to_string(dir.join("audit")).unwrap();
    assert!(audit.lines().count() < 1000, "{}", audit.lines().count());
}

#[test]
fn the_socket_is_open_to_those_who_may_be_let_in() {
    let mode = |text: &str| {
        let node = with_file(text);
        fs::metadata(node.control()).unwrap().mode() & 0o777
    };
    assert_eq!(mode(""), 0o666);
    assert_eq!(mode("operate =\n"), 0o600);
    // A mistake lets nobody in.
    assert_eq!(mode("operate = @\n"), 0o600);
}
