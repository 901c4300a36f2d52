//! `qx-node exec` while the command runs: pipes on either side of it, signals, and how it ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use quantix::message::{Body, agent};

use crate::util::agent::shell;
use crate::util::node::{Node, qx, serve};
use crate::util::{Running, Said, holders, noise, signal, until, until_so, workers};

/// A command line that runs, its streams in the test's hands.
struct Live {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Live {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "it has ended behind {line:?}");
        line.trim_end().to_owned()
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// The rest of what it says. A signal that ended it is the negative status.
    #[track_caller]
    fn end(mut self) -> Said {
        drop(self.child.stdin.take());
        let (mut stdout, mut stderr) = (Vec::new(), String::new());
        self.stdout.read_to_end(&mut stdout).unwrap();
        let mut pipe = self.child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        let status = until("end of a command", || self.child.try_wait().unwrap());
        let signal = || -status.signal().unwrap();
        Said {
            status: status.code().unwrap_or_else(signal),
            stdout,
            stderr,
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line for the shell here; `$QX` is the command line.
fn script(node: &Node, line: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", line])
        .current_dir(node.dir.path())
        .env("QX", qx(&[]).get_program())
        .env("QX_NODE_SOCK", node.control());
    command
}

#[track_caller]
fn sh(node: &Node, line: &str) -> Said {
    Running::start(&mut script(node, line), b"").end()
}

/// Words of an exec all of whose processes can be found again by [`left`].
fn marked(node: &Node, line: &str) -> Command {
    let mark = format!("QX_MARK={}", node.dir.text("mark"));
    node.command(&["exec", "vm", "--env", &mark, "--", line])
}

fn left(node: &Node) -> Vec<u32> {
    let mark = format!("QX_MARK={}", node.dir.text("mark"));
    holders(&mark)
}

#[track_caller]
fn all_gone(node: &Node) {
    until_so("end of all that the command has started", || {
        left(node).is_empty()
    });
}

#[test]
fn an_archive_passes_through_from_end_to_end() {
    let (node, _vm) = Node::with_vm("vm");
    fs::create_dir_all(node.dir.join("from/deep/er")).unwrap();
    fs::create_dir(node.dir.join("to")).unwrap();
    fs::create_dir(node.dir.join("back")).unwrap();
    let bytes = noise(3_000_001);
    node.dir.file("from/big", &bytes);
    node.dir.file("from/deep/er/empty", "");
    node.dir.file("from/deep/name with\nline", "x");
    let to = node.dir.text("to");
    let line = format!("tar -c -C from . | \"$QX\" exec -i vm --cwd {to} -- tar -x");
    sh(&node, &line).fine();
    assert!(fs::read(node.dir.join("to/big")).unwrap() == bytes);
    sh(&node, "diff -r from to").fine();
    let line = format!("\"$QX\" exec vm --cwd {to} -- tar -c . | tar -x -C back");
    sh(&node, &line).fine();
    sh(&node, "diff -r from back").fine();
}

#[test]
fn output_is_the_commands_byte_by_byte_and_as_it_comes() {
    let (node, _vm) = Node::with_vm("vm");
    let bytes = noise(5_000_000);
    let file = node.dir.file("bytes", &bytes);
    let said = node.run(&["exec", "vm", "--", "cat", &file]);
    assert!(said.status == 0 && said.stdout == bytes && said.stderr.is_empty());
    let mut live = Live::start(&mut node.command(&[
        "exec",
        "-i",
        "vm",
        "--",
        "echo ready; read x; echo got $x; exit 3",
    ]));
    assert_eq!(live.line(), "ready");
    live.child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"it\n")
        .unwrap();
    assert_eq!(live.line(), "got it");
    assert_eq!(live.end().status, 3);
}

#[test]
fn an_outcome_tells_the_commands_statuses_from_ours() {
    let (node, mut vm) = Node::with_vm("vm");
    let run = |line| {
        node.run(&[
            "exec",
            "vm",
            "--timeout",
            "60",
            "--outcome",
            "W",
            "--",
            line,
        ])
    };
    // What it writes stays as it is: the line begins with a line feed of its own.
    for (line, status, outcome) in [
        ("printf out; printf err >&2", 0, "err\nW exit 0\n"),
        ("echo err >&2; exit 125", 125, "err\n\nW exit 125\n"),
        ("exit 2", 2, "\nW exit 2\n"),
        ("exit 124", 124, "\nW exit 124\n"),
        ("exit 143", 143, "\nW exit 143\n"),
        ("kill -TERM $$", 143, "\nW signal 15\n"),
    ] {
        let said = run(line);
        assert_eq!((said.status, &said.stderr[..]), (status, outcome), "{line}");
    }
    let words = [
        "exec",
        "vm",
        "--timeout",
        "1",
        "--outcome",
        "W",
        "--",
        "exec sleep 1000",
    ];
    let said = node.run(&words);
    assert_eq!(said.status, 124);
    assert!(said.stderr.ends_with("\n\nW timeout\n"), "{said:?}");
    // What did not come to its end has none, nor has what was never begun.
    for words in [
        &[
            "exec",
            "vm",
            "--outcome",
            "W",
            "--user",
            "nobody-here",
            "--",
            "true",
        ][..],
        &["exec", "other", "--outcome", "W", "--", "true"],
    ] {
        let said = node.run(words);
        assert_eq!(said.status, 125, "{said:?}");
        assert!(!said.stderr.contains('W'), "{said:?}");
    }
    let line = "echo ready; read x; exit 3";
    let words = ["exec", "-i", "vm", "--outcome", "W", "--", line];
    let mut live = Live::start(&mut node.command(&words));
    assert_eq!(live.line(), "ready");
    node.restart_agent(&mut vm);
    let said = live.end();
    assert_eq!(said.status, 125, "{said:?}");
    assert!(!said.stderr.contains('W'), "{said:?}");
    for word in ["", "two words"] {
        let said = node.run(&["exec", "vm", "--outcome", word, "--", "true"]);
        assert!(said.trouble(2).contains("--outcome takes one word"));
    }
    let words = ["exec", "vm", "--detach", "--outcome", "W", "--", "true"];
    node.run(&words).trouble(2);
}

#[test]
fn a_reader_that_has_had_enough_ends_the_command() {
    let (node, _vm) = Node::with_vm("vm");
    let mark = node.dir.text("mark");
    let line = format!("\"$QX\" exec vm --env QX_MARK={mark} -- yes | head -n 3");
    let said = sh(&node, &line);
    assert_eq!((said.fine(), &said.stderr[..]), ("y\ny\ny\n", ""));
    all_gone(&node);
}

#[test]
fn errors_flow_while_nobody_reads_the_output() {
    let (node, _vm) = Node::with_vm("vm");
    let line = "yes & i=0; while [ $i -lt 3000 ]; do echo error $i >&2; i=$((i+1)); done; \
        echo over >&2; wait";
    let mut live = Live::start(&mut marked(&node, line));
    let mut errors = BufReader::new(live.child.stderr.take().unwrap()).lines();
    let mut count = 0;
    while errors.next().unwrap().unwrap() != "over" {
        count += 1;
    }
    assert_eq!(count, 3000);
    // And so do the requests of others.
    assert_eq!(node.exec("vm", "echo well").fine(), "well\n");
    drop(live);
    all_gone(&node);
}

#[test]
fn clients_that_take_nothing_and_leave_take_no_room_in_the_guest() {
    let (node, vm) = Node::with_vm("vm");
    // More of them than run at once. The command of each has ended before it leaves.
    for n in 0..40 {
        let mut client = node.client();
        let started = node.dir.join(&format!("started.{n}"));
        let command = agent::Execute {
            stream_output: true,
            ..shell(&format!("echo > {}; echo last words", started.display()))
        };
        client.send_agent(1, "vm", Body::Execute(command));
        until_so("its start", || started.exists());
        until_so("its end", || workers(vm.agent.pid()).is_empty());
    }
    assert_eq!(node.exec("vm", "echo well").fine(), "well\n");
}

const SPIN: &str = "while :; do sleep 0.02; done";

#[test]
fn ctrl_c_is_the_commands_and_the_third_ends_it() {
    let (node, _vm) = Node::with_vm("vm");
    let line = format!("trap 'echo interrupted' INT; echo ready; {SPIN}");
    let mut live = Live::start(&mut marked(&node, &line));
    assert_eq!(live.line(), "ready");
    live.signal("INT");
    assert_eq!(live.line(), "interrupted");
    live.signal("INT");
    assert_eq!(live.line(), "interrupted");
    live.signal("INT");
    let said = live.end();
    assert_eq!(said.status, 125, "{said:?}");
    assert!(
        said.stderr.contains("once more ends the command"),
        "{said:?}"
    );
    assert!(said.stderr.contains("cancelled"), "{said:?}");
    all_gone(&node);
    let mut live = Live::start(&mut marked(&node, "echo ready; exec sleep 1000"));
    assert_eq!(live.line(), "ready");
    live.signal("INT");
    let said = live.end();
    assert_eq!((said.status, &said.stderr[..]), (130, ""));
}

#[test]
fn signals_reach_the_command() {
    let (node, _vm) = Node::with_vm("vm");
    for (name, number) in [("TERM", 15), ("QUIT", 3), ("USR1", 10), ("USR2", 12)] {
        let line = format!("trap 'echo caught; exit 9' {name}; echo ready; {SPIN}");
        let mut live = Live::start(&mut marked(&node, &line));
        assert_eq!(live.line(), "ready");
        live.signal(name);
        assert_eq!(live.line(), "caught");
        assert_eq!(live.end().status, 9);
        let mut live = Live::start(&mut marked(&node, "echo ready; exec sleep 1000"));
        assert_eq!(live.line(), "ready");
        live.signal(name);
        assert_eq!(live.end().status, 128 + number);
    }
    all_gone(&node);
}

#[test]
fn a_command_line_that_goes_away_takes_the_command_with_it() {
    let (node, _vm) = Node::with_vm("vm");
    for name in ["HUP", "KILL"] {
        let line = "setsid sh -c 'trap \"\" HUP TERM; echo ready; sleep 1000' & \
            trap '' HUP TERM; while :; do sleep 1000; done";
        let mut live = Live::start(&mut marked(&node, line));
        assert_eq!(live.line(), "ready");
        live.signal(name);
        let said = live.end();
        if name == "HUP" {
            assert_eq!(
                said.trouble(125),
                "qx-node: the terminal is gone; the command was hung up"
            );
        } else {
            assert_eq!(said.status, -9);
        }
        all_gone(&node);
    }
}

#[test]
fn json_has_the_output_and_how_it_ended() {
    let (node, _vm) = Node::with_vm("vm");
    let json = |words: &[&str]| {
        let said = node.run(&[&["exec", "vm", "--json"], words].concat());
        (said.status, said.json())
    };
    let (status, value) = json(&["--", "echo out; echo err >&2; kill -TERM $$"]);
    assert_eq!((status, &value["exit_code"]), (143, &143.into()));
    assert_eq!(
        (&value["stdout"], &value["stderr"]),
        (&"out\n".into(), &"err\n".into())
    );
    let (status, value) = json(&["--timeout", "1", "--", "echo out; sleep 1000"]);
    assert_eq!((status, &value["timed_out"]), (124, &true.into()));
    assert_eq!(value["stdout"], "out\n");
    let (status, value) = json(&["--", "head -c 1000000 /dev/zero | tr '\\0' x"]);
    assert_eq!((status, &value["truncated"]), (0, &false.into()));
    assert_eq!(value["stdout"].as_str().unwrap().len(), 1_000_000);
    let said = sh(&node, "echo in | \"$QX\" exec -i vm --json -- cat");
    assert_eq!(said.json()["stdout"], "in\n");
}

#[test]
fn the_status_is_the_commands() {
    let (node, _vm) = Node::with_vm("vm");
    for status in [0, 1, 7, 124, 125, 126, 127, 255] {
        assert_eq!(node.exec("vm", &format!("exit {status}")).status, status);
    }
    for (name, number) in [("INT", 2), ("SEGV", 11), ("KILL", 9), ("PIPE", 13)] {
        assert_eq!(
            node.exec("vm", &format!("kill -{name} $$")).status,
            128 + number
        );
    }
    assert_eq!(node.exec("vm", "/no/such/program").status, 127);
}

#[test]
fn a_timeout_ends_all_of_it_and_shows_what_was_written() {
    let (node, _vm) = Node::with_vm("vm");
    let line = "setsid sleep 1000 & trap '' TERM; echo before; echo error >&2; while :; do sleep 1000; done";
    let mark = format!("QX_MARK={}", node.dir.text("mark"));
    let said = node.run(&["exec", "vm", "--timeout", "1", "--env", &mark, "--", line]);
    assert_eq!((said.status, said.text()), (124, "before\n"));
    let lines: Vec<&str> = said.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{said:?}");
    assert_eq!(lines[0], "error");
    assert!(lines[1].starts_with("qx-node: killed after "), "{said:?}");
    assert_eq!(left(&node), [0; 0]);
}

#[test]
fn a_daemon_that_is_killed_is_told_of_and_ends_the_command() {
    let (mut node, _vm) = Node::with_vm("vm");
    let mut live = Live::start(&mut marked(&node, "echo ready; exec sleep 1000"));
    assert_eq!(live.line(), "ready");
    node.process.kill();
    let said = live.end();
    assert!(said.trouble(125).contains("the daemon is gone"), "{said:?}");
    // At the latest with the next session. A port tells of it at once, the relay here does not.
    node.process = serve(&node.dir);
    all_gone(&node);
}

#[test]
fn a_command_whose_agent_was_killed_is_followed_and_can_be_ended() {
    let (node, mut vm) = Node::with_vm("vm");
    let mut live = Live::start(&mut marked(&node, "echo ready; exec sleep 1000"));
    assert_eq!(live.line(), "ready");
    node.restart_agent(&mut vm);
    // The first to ask may find that the agent is another.
    until_so("its end", || node.run(&["kill", "vm", "1"]).status == 0);
    let said = live.end();
    assert_eq!((said.status, &*said.stderr), (143, ""), "{said:?}");
    all_gone(&node);
}

#[test]
fn input_is_what_stdin_is() {
    let (node, _vm) = Node::with_vm("vm");
    let bytes = noise(1_000_000);
    node.dir.file("bytes", &bytes);
    for (line, out) in [
        ("\"$QX\" exec -i vm -- wc -c </dev/null", "0\n"),
        ("\"$QX\" exec -i vm -- wc -c <&-", "0\n"),
        ("\"$QX\" exec -i vm -- wc -c <bytes", "1000000\n"),
        ("cat bytes | \"$QX\" exec -i vm -- wc -c", "1000000\n"),
        // Without -i it is not touched.
        (
            "{ \"$QX\" exec vm -- wc -c; wc -c; } <bytes",
            "0\n1000000\n",
        ),
        // What the command does not want is not waited for.
        ("yes | \"$QX\" exec -i vm -- head -n 1", "y\n"),
    ] {
        assert_eq!(sh(&node, line).fine(), out, "{line}");
    }
    let said = sh(&node, "\"$QX\" exec -i vm -- cat <.");
    assert_eq!(said.trouble(125), "qx-node: stdin: Is a directory");
    let output = File::create(node.dir.join("output")).unwrap();
    let status = node
        .command(&["exec", "-i", "vm", "--", "cat"])
        .stdin(File::open(node.dir.join("bytes")).unwrap())
        .stdout(output)
        .status();
    assert!(status.unwrap().success());
    let found = fs::read(node.dir.join("output")).unwrap();
    assert!(found == bytes);
}

#[test]
fn a_command_that_waits_for_input_ends_without_it() {
    let (node, _vm) = Node::with_vm("vm");
    // Our end of its stdin stays open.
    let mut live = Live::start(&mut node.command(&["exec", "-i", "vm", "--", "exit 4"]));
    let status = until("its end", || live.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(4));
}

#[test]
fn a_terminal_needs_none_here() {
    let (node, _vm) = Node::with_vm("vm");
    let said = node.run(&["exec", "-t", "vm", "--", "tty; stty size; exit 2"]);
    assert_eq!(said.status, 2);
    assert!(said.text().starts_with("/dev/pts/"), "{said:?}");
    assert!(said.text().ends_with("\r\n0 0\r\n"), "{said:?}");
    let said = sh(
        &node,
        "printf 'a\\nb\\n' | \"$QX\" exec -i -t vm -- 'stty -echo; exec wc -l'",
    );
    assert!(said.fine().ends_with("2\r\n"), "{said:?}");
}

#[test]
fn shell_takes_its_commands_from_a_pipe() {
    let (node, _vm) = Node::with_vm("vm");
    let said = sh(&node, "echo 'echo $0; exit 5' | \"$QX\" shell vm");
    assert_eq!(said.status, 5);
    assert!(said.text().contains("-"), "{said:?}");
}

#[test]
fn many_commands_at_once_each_have_their_own_streams() {
    let (node, _vm) = Node::with_vm("vm");
    let all: Vec<_> = (0..8)
        .map(|n| {
            let line = format!("cat; echo {n}; exit {n}");
            let input = vec![b'0' + n; 300_000];
            let words = ["exec", "-i", "vm", "--", &line];
            (n, Running::start(&mut node.command(&words), &input), input)
        })
        .collect();
    for (n, running, mut expected) in all {
        let said = running.end();
        expected.extend(format!("{n}\n").bytes());
        assert_eq!(said.status, i32::from(n));
        assert!(said.stdout == expected, "{n}");
    }
}
