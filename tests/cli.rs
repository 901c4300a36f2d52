//! `qx-node` as its users see it: words in, words and an exit status out.

#![cfg(test)]

// What shells offer when Tab is pressed.
mod completion;
// `cp` and `cat`.
mod copy;
// `doctor`: one fault after the other.
mod doctor;
// `exec` and `shell` while the command runs.
mod live;
// `cp` of trees and of several sources, and what is left of interrupted copies.
mod trees;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use crate::util::agent::{accept, lie};
use crate::util::node::{Node, direct, qx, run};
use crate::util::{Dir, Running, until_so};

const COMMANDS: [&str; 12] = [
    "vms",
    "ping",
    "info",
    "telemetry",
    "events",
    "exec",
    "shell",
    "cp",
    "cat",
    "channel",
    "doctor",
    "serve",
];

#[test]
fn help_names_every_command_and_each_has_its_own() {
    for words in [&["help"][..], &["--help"], &["-h"]] {
        let said = run(words);
        for command in COMMANDS {
            assert!(
                said.fine().contains(&format!("\n  {command} ")),
                "{command}"
            );
        }
        assert!(said.text().lines().all(|line| line.chars().count() <= 100));
    }
    for command in COMMANDS {
        let said = run(&[command, "--help"]);
        assert_eq!(said.fine(), run(&["help", command]).fine());
        assert!(
            said.text()
                .starts_with(&format!("Usage: qx-node {command}"))
        );
        assert!(said.text().lines().all(|line| line.chars().count() <= 100));
    }
    assert!(
        run(&["--version"])
            .fine()
            .starts_with(&format!("qx-node {}", quantix::VERSION))
    );
}

#[test]
fn what_is_typed_wrong_exits_with_2_and_says_how_to_go_on() {
    let cases: [&[&str]; 20] = [
        &[],
        &["no-such-command"],
        &["--no-such-option"],
        &["vms", "word"],
        &["vms", "--no-such"],
        &["ping"],
        &["ping", "a", "b"],
        &["ping", "vm", "-c", "0"],
        &["ping", "vm", "-c", "many"],
        &["events", "a", "b"],
        &["events", "--direct", "x"],
        &["exec", "vm"],
        &["exec", "vm", "--"],
        &["exec", "vm", "ls", "-l"],
        &["exec", "vm", "--env", "NOVALUE", "--", "true"],
        &["exec", "vm", "--timeout", "-1", "--", "true"],
        &["cp", "a"],
        &["cp", "a", "b"],
        &["cp", "--mode", "999", "a", "vm:/b"],
        &["serve", "--log", "loud"],
    ];
    for words in cases {
        let said = run(words);
        let why = said.trouble(2);
        assert!(
            why.starts_with("qx-node: ") && why.contains(" (try `qx-node "),
            "{words:?}: {why}"
        );
    }
}

#[test]
fn without_a_daemon_every_command_exits_with_3_but_exec_with_125() {
    let dir = Dir::new();
    let control = format!("--control={}", dir.text("none"));
    let cases: [(&[&str], i32); 8] = [
        (&["vms", &control], 3),
        (&["ping", &control, "vm"], 3),
        (&["info", &control, "vm"], 3),
        (&["telemetry", &control, "vm"], 3),
        (&["events", &control, "--follow"], 3),
        (&["cat", &control, "vm", "/x"], 3),
        (&["cp", &control, "vm:/x", "-"], 3),
        (&["exec", &control, "vm", "--", "true"], 125),
    ];
    for (words, status) in cases {
        let said = run(words);
        let why = said.trouble(status);
        assert!(
            why.contains(&dir.text("none")) && why.contains("qx-node serve"),
            "{why}"
        );
        assert!(why.contains("No such file or directory"), "{why}");
    }
}

#[test]
fn exec_passes_on_output_and_status_as_they_are() {
    let (node, _vm) = Node::with_vm("vm");
    let said = node.exec("vm", r"printf 'out\000\377'; printf err >&2; exit 42");
    assert_eq!(
        (said.status, &said.stdout[..], &said.stderr[..]),
        (42, &b"out\0\xFF"[..], "err")
    );
    let said = node.run(&[
        "exec", "vm", "--", "printf", "%s.", "a b", "--json", "$HOME",
    ]);
    assert_eq!(said.fine(), "a b.--json.$HOME.");
    assert_eq!(node.exec("vm", "kill -9 $$").status, 137);
    assert_eq!(node.exec("vm", "exit 255").status, 255);
    let said = node.run(&[
        "exec",
        "vm",
        "--env",
        "A=1",
        "--env=B=x=y",
        "--cwd",
        "/proc",
        "--",
        "echo $A $B $PWD",
    ]);
    assert_eq!(said.fine(), "1 x=y /proc\n");
    let said = node.run(&[
        "exec",
        "vm",
        "--timeout",
        "1",
        "--",
        "echo before; sleep 60",
    ]);
    assert_eq!((said.status, said.text()), (124, "before\n"));
    assert_eq!(
        said.stderr,
        "qx-node: killed after 1 s: it had not ended in time\n"
    );
    let said = node.run(&["exec", "vm", "--", "/no/such/program", "x"]);
    assert!(
        said.trouble(125)
            .contains("/no/such/program: No such file or directory")
    );
    let said = node.run(&["exec", "vm", "--user", "no-such-user", "--", "true"]);
    assert!(said.trouble(125).contains("no-such-user"));
    let said = node.run(&["exec", "no-such-vm", "--", "true"]);
    assert!(
        said.trouble(125)
            .contains("no VM is named \"no-such-vm\"; there are: vm")
    );
    let said = node.run(&["exec", "vm", "--detach", "--", "true"]);
    assert_eq!(said.fine(), "1\n");
    let said = node.exec("vm", "head -c 3000000 /dev/zero");
    assert_eq!((said.status, said.stdout.len()), (0, 3_000_000));
}

fn keys(value: &serde_json::Value) -> String {
    let object = value.as_object().unwrap();
    object.keys().cloned().collect::<Vec<_>>().join(" ")
}

#[test]
fn json_has_the_keys_that_programs_rely_on() {
    let node = Node::start();
    let _relay = node.relay("vm");
    let _agent = node.agent("vm", &["--telemetry-interval", "1"]);
    let vm = node.wait_state("vm", "ready");
    let vm_keys = "vm state reason ills behind since_ms socket agent boot_id uptime_seconds rtt_us \
        clock_skew_ms last_frame_ms held_bytes latest counters";
    assert_eq!(keys(&vm), vm_keys);
    assert_eq!(
        keys(&vm["agent"]),
        "version os_name os_version kernel_version architecture hostname ip_addresses primary_address \
         capabilities frozen"
    );
    assert_eq!(
        keys(&vm["counters"]),
        "sessions connects frames_in frames_out bytes_in bytes_out stale_frames bad_frames \
         garbage_bytes coalesced"
    );
    assert_eq!(keys(&node.run(&["info", "vm", "--json"]).json()), vm_keys);
    let ping = node.run(&["ping", "vm", "--json"]).json();
    assert_eq!(keys(&ping), "vm sequence rtt_us version uptime_seconds");
    assert!(ping["rtt_us"].as_u64().unwrap() > 0);
    let telemetry = node.run(&["telemetry", "vm", "--json"]).json();
    assert_eq!(
        keys(&telemetry),
        "vm age_ms hostname uptime_seconds cpu_usage_percent load_avg process_count memory swap \
         paging disk_io ballooned pressures disks interfaces coalesced stuck_mounts init_hangs"
    );
    assert!(telemetry["memory"]["total"].as_u64().unwrap() > 0);
    let said = node.run(&[
        "exec",
        "vm",
        "--json",
        "--",
        "echo out; echo err >&2; exit 3",
    ]);
    assert_eq!(said.status, 3);
    let exec = said.json();
    assert_eq!(
        keys(&exec),
        "vm exit_code signal stdout stderr truncated timed_out duration_ms"
    );
    assert_eq!(
        (&exec["stdout"], &exec["stderr"]),
        (&"out\n".into(), &"err\n".into())
    );
    let channel = node.run(&["channel", "vm", "--json"]).json();
    assert_eq!(keys(&channel), "vm socket libvirt qemu monitor");
    let watch = Running::start(
        &mut node.command(&["telemetry", "vm", "--watch", "--json"]),
        b"",
    );
    drop(watch);
}

#[test]
fn tables_align_and_people_can_read_them() {
    let node = Node::start();
    let vms = [node.vm("a"), node.vm("a-much-longer-name")];
    drop(UnixListener::bind(node.socket("off")).unwrap());
    node.wait_state("a", "ready");
    node.wait_state("a-much-longer-name", "ready");
    until_so("the reason is known", || {
        node.wait_state("off", "connecting")["reason"] != ""
    });
    let said = node.run(&["vms"]);
    let lines: Vec<&str> = said.fine().lines().collect();
    assert_eq!(lines.len(), 4);
    for (at, head) in lines[0]
        .match_indices("STATE")
        .chain(lines[0].match_indices("SINCE"))
    {
        for line in &lines[1..] {
            assert_eq!(&line[at - 2..at], "  ", "{head}: {line}");
            assert_ne!(line.as_bytes()[at], b' ', "{head}: {line}");
        }
    }
    assert!(lines.iter().all(|line| line.trim_end() == *line));
    assert!(lines[3].contains("connecting") && lines[3].contains("nothing listens on the socket"));
    let said = node.run(&["info", "a"]);
    assert!(said.fine().starts_with("VM:") && said.text().contains("\nKernel:"));
    let said = node.run(&["ping", "a"]);
    assert!(said.fine().starts_with("a: seq=1 time=") && said.text().contains(" ms "));
    drop(vms);
}

#[test]
fn an_empty_list_says_what_to_do() {
    let node = Node::start();
    assert!(
        node.run(&["vms"])
            .fine()
            .starts_with("no VMs: `qx-node channel VM`")
    );
}

#[test]
fn direct_needs_no_daemon() {
    let (mut node, _vm) = Node::with_vm("vm");
    node.process.kill();
    let socket = direct(&node.socket("vm"));
    assert!(run(&["ping", &socket]).fine().contains("seq=1"));
    assert!(run(&["ping", &socket, "vm"]).fine().contains("seq=1"));
    let said = run(&["exec", &socket, "--", "echo direct; exit 9"]);
    assert_eq!((said.status, said.text()), (9, "direct\n"));
    assert!(run(&["info", &socket]).fine().contains("ready for"));
    let list = run(&["vms", &socket, "--json"]).json();
    assert_eq!(list[0]["vm"], "vm");
    let missing = direct(&node.socket("missing"));
    let said = run(&["ping", &missing]);
    assert!(
        said.trouble(3)
            .contains("missing.agent.sock: No such file or directory")
    );
}

#[test]
fn channel_prints_xml_and_arguments_with_the_path_escaped() {
    let dir = "--vms-dir=/run/a'b<&>\"c,d";
    let said = run(&["channel", "vm-1", dir]);
    let text = said.fine();
    assert_well_formed(text);
    let path = "/run/a&apos;b&lt;&amp;&gt;&quot;c,d/vm-1.agent.sock";
    assert!(
        text.contains(&format!("<source mode='bind' path='{path}'/>")),
        "{text}"
    );
    assert!(
        text.contains("<target type='virtio' name='org.quantix.agent.0'/>"),
        "{text}"
    );
    assert!(
        text.contains("c,,d/vm-1.agent.sock,server=on,wait=off"),
        "{text}"
    );
    assert!(run(&["channel", "a/b"]).trouble(2).contains('/'));
    assert!(
        run(&["channel", &"n".repeat(120)])
            .trouble(1)
            .contains("longer than a socket's path")
    );
}

/// As far as XML without DTDs goes: tags match, attributes are quoted, comments hold no `--`.
pub fn assert_well_formed(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            let end = comment.find("-->").expect("an open comment");
            let inside = &comment[..end];
            assert!(
                !inside.contains("--") && !inside.ends_with('-'),
                "-- in a comment: {inside}"
            );
            rest = &comment[end + 3..];
            continue;
        }
        let end = rest.find('>').expect("an open tag");
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        let quotes = tag.chars().filter(|c| *c == '\'').count();
        assert!(quotes % 2 == 0 && !tag.contains('<'), "{tag}");
        for entity in tag.split('&').skip(1) {
            let known = ["amp;", "lt;", "gt;", "apos;", "quot;"];
            assert!(known.iter().any(|known| entity.starts_with(known)), "{tag}");
        }
        if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn whoever_stops_reading_hears_no_complaint() {
    let (node, _vm) = Node::with_vm("vm");
    let big = node.dir.file("big", vec![b'x'; 4 << 20]);
    for words in [
        &["vms"][..],
        &["help"],
        &["cat", "vm", &big],
        &["cp", &format!("vm:{big}"), "-"],
        &["exec", "vm", "--", "head -c 120000 /dev/zero"],
    ] {
        let mut child = node
            .command(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), &stderr[..]), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn nothing_that_a_guest_says_of_itself_reaches_the_terminal_as_control_characters() {
    let node = Node::start();
    let listener = UnixListener::bind(node.socket("liar")).unwrap();
    crate::util::beside(move || lie(&listener, "evil\x1b]0;title\x07\r\n\u{9b}31m"));
    node.wait_state("liar", "ready");
    until_so("its telemetry", || {
        node.run(&["telemetry", "liar"]).status == 0
    });
    let cases: [&[&str]; 8] = [
        &["vms"],
        &["info", "liar"],
        &["telemetry", "liar"],
        &["ping", "liar"],
        &["exec", "liar", "--", "true"],
        &["cat", "liar", "/x"],
        &["vms", "--json"],
        &["telemetry", "liar", "--json"],
    ];
    for words in cases {
        let said = node.run(words);
        let all = format!("{}{}", said.text(), said.stderr);
        assert!(all.contains("evil"), "{words:?}: {all}");
        let bad = all.chars().find(|c| c.is_control() && *c != '\n');
        // JSON needs no escape for U+0080 and up.
        let json = words.contains(&"--json");
        assert!(
            bad.is_none() || (json && bad == Some('\u{9b}')),
            "{words:?}: {all:?}"
        );
    }
    let log = node.process.log();
    assert!(log.chars().all(|c| !c.is_control() || c == '\n'), "{log:?}");
}

#[test]
fn an_answer_of_the_wrong_kind_is_an_error_and_no_panic() {
    let dir = Dir::new();
    let listener = UnixListener::bind(dir.join("control")).unwrap();
    let server = crate::util::beside(move || {
        for bytes in [&b"garbage garbage garbage"[..], &[0, 0, 0, 2, 8, 1], b""] {
            let mut stream = accept(&listener);
            let _ = stream.read(&mut [0; 1000]);
            stream.write_all(bytes).unwrap();
        }
    });
    for _ in 0..3 {
        let mut command = qx(&["vms"]);
        let said = Running::start(command.env("QX_NODE_SOCK", dir.join("control")), b"").end();
        said.trouble(3);
    }
    server.join().unwrap();
}
