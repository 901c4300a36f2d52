//! One test for each bug that was found, named after what went wrong. A bug's test stands here,
//! with the issue's number where it has one, even if another file is about the same matter.

#![cfg(test)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use quantix::guest::{Event, Guest, Identity, Moment};
use quantix::host::Host;
use quantix::ids::MessageId;
use quantix::message::node::{self, node_message};
use quantix::message::{Body, Stream, agent, encode, message};
use quantix::time::Time;

use crate::cli::assert_well_formed;
use crate::util::agent::{Agent, Talk, accept, lie, read_file, shell, spawn, write_file};
use crate::util::node::{Node, qx, run};
use crate::util::{Dir, Process, noise, signal, until_so, workers};

#[test]
fn fifty_pings_at_once_are_all_answered() {
    let (node, _vm) = Node::with_vm("vm");
    let mut clients: Vec<_> = (0..50).map(|_| node.client()).collect();
    for client in &mut clients {
        client.ping(1, "vm");
    }
    for client in &mut clients {
        let answer = client.next().expect("the daemon has hung up").body;
        assert!(
            matches!(answer, Some(node_message::Body::PingResult(_))),
            "{answer:?}"
        );
    }
}

#[test]
fn an_agent_that_sends_no_telemetry_hangs_no_client() {
    let (node, _vm) = Node::with_vm("vm");
    let said = node.run(&["telemetry", "vm"]);
    assert_ne!(said.status, 0, "{said:?}");
    assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
}

#[test]
fn a_configuration_that_was_named_and_is_not_there_ends_it_with_a_line_that_names_it() {
    let dir = Dir::new();
    let missing = dir.text("missing.conf");
    let mut agent = spawn(&dir, "port", &["--config", &missing]);
    assert_eq!(agent.wait().code(), Some(1));
    agent.wait_log(&missing);
}

#[test]
fn channel_is_well_formed_whatever_the_name() {
    for name in ["web--1", "-", "a-->b", "two words", "\u{e9}"] {
        let said = run(&["channel", "--", name]);
        let said = if said.status == 2 {
            run(&["channel", name])
        } else {
            said
        };
        if said.status == 0 {
            assert_well_formed(said.text());
        }
    }
}

#[test]
fn a_name_that_no_vm_can_have_gets_no_channel() {
    for name in ["a\nb", "a\x01b"] {
        let said = run(&["channel", name]);
        assert_ne!(said.status, 0, "{said:?}");
    }
}

#[test]
fn a_part_of_a_file_whose_size_is_unknown_is_not_its_end() {
    let (_agent, mut talk) = Agent::ready();
    let request = agent::ReadFile {
        length: 5,
        ..read_file("/proc/version")
    };
    let (found, answer) = talk.read("r", request);
    assert_eq!(found, b"Linux");
    assert!(!answer.eof);
}

/// Two guests can say 240 KiB of themselves, and honest ones do so when there are many.
#[test]
fn guests_that_say_much_of_themselves_hide_no_vm_from_the_list() {
    let node = Node::start();
    for name in ["big-1", "big-2"] {
        let listener = UnixListener::bind(node.socket(name)).unwrap();
        crate::util::beside(move || lie(&listener, &"x".repeat(20_000)));
    }
    let list = || node.run(&["vms", "--json"]);
    until_so("both have spoken, or the list is broken", || {
        let said = list();
        said.status != 0 || said.text().matches("\"ready\"").count() == 2
    });
    assert_eq!(list().json().as_array().unwrap().len(), 2);
}

#[test]
fn a_client_that_came_when_no_descriptor_was_left_is_served_later() {
    let dir = Dir::new();
    fs::create_dir(dir.join("vms")).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -n 24; exec \"$@\"", "sh"]);
    command.arg(qx(&[]).get_program()).arg("serve");
    command.arg("--vms-dir").arg(dir.join("vms"));
    command.arg("--control").arg(dir.join("control"));
    let process = Process::start(&mut command, dir.join("node.log"));
    let node = Node { process, dir };
    node.wait_control();
    let mut clients: Vec<_> = (0..30).map(|_| node.client()).collect();
    node.process.wait_log("no file descriptor left");
    let mut last = clients.pop().unwrap();
    drop(clients);
    last.send(1, "", node_message::Body::ListVms(node::ListVms {}));
    assert_eq!(last.next().unwrap().id, 1);
}

#[test]
fn a_full_disk_without_unnamed_files_keeps_no_temporary_file() {
    let dir = Dir::new();
    fs::create_dir(dir.join("disk")).unwrap();
    let listener = UnixListener::bind(dir.join("port")).unwrap();
    let config = dir.file("agent.conf", "telemetry_interval = 0\n");
    // Without /proc an unnamed file could not be given its name, so none is used.
    let script = "mount -t tmpfs none /proc && mount -t tmpfs -o size=1m none \"$1\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "/bin/sh", "-c", script, "sh"])
        .arg(dir.join("disk"));
    command.arg(env!("CARGO_BIN_EXE_quantix-kvm-agent"));
    command
        .args(["--log", "stderr", "--config", &config, "--port"])
        .arg(dir.join("port"));
    let allowed = Command::new("unshare")
        .args(["--mount", "/bin/sh", "-c", "mount -t tmpfs none /proc"])
        .output();
    if !allowed.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: mount is not permitted");
        return;
    }
    let _agent = Process::start(&mut command, dir.join("port.log"));
    let mut talk = Talk::new(accept(&listener));
    talk.open(b"nonce-of-16-byte");
    let path = dir.text("disk/file");
    let Body::Error(error) = talk.write("w", write_file(&path), &noise(2 << 20)) else {
        panic!("2 MiB fit into 1 MiB");
    };
    assert!(error.message.contains("No space left"), "{error:?}");
    let ls = agent::Execute {
        working_directory: dir.text("disk"),
        ..crate::util::agent::shell("ls -A")
    };
    let answer = talk.exec("ls", ls);
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "");
}

/// The asker was told that it came to nothing. Then the guest comes back with a new agent, which
/// proves that the request was never read: that is no reason to send it now.
#[test]
fn a_request_that_was_given_up_is_not_sent_again_to_a_restarted_agent() {
    let at = |seconds: u64| Time::from_micros(seconds * 1_000_000);
    let id = MessageId::parse("given-up").unwrap();
    let mut nonces = || [7; 16];
    let mut host = Host::new();
    host.handle_socket(at(0));
    host.handle_timeout(at(0), false);
    host.handle_connected(at(0), &mut nonces);
    let mut first = Guest::new(Identity::default());
    exchange(at(0), &mut host, &mut first);
    assert!(host.is_open());

    // The guest has been silent for long, so that a Ping goes in front; nobody reads either.
    let request = message(id.as_str(), Body::Execute(agent::Execute::default()));
    host.request(at(3), &id, encode(&request).unwrap()).unwrap();
    let unread = transmit_host(&mut host);
    assert!(!host.withdraw(&id), "it has been sent");
    host.tell(&id, Body::Cancel(agent::Cancel {})).unwrap();

    let mut second = Guest::new(Identity::default());
    hear(at(4), &mut second, &unread);
    let acted_on = exchange(at(4), &mut host, &mut second);
    assert!(host.is_open());
    assert_eq!(acted_on, 0);
}

/// The bytes of a Ping and of the request behind it come again. The guest has acted on the request;
/// the repetition ends its session, and the Ping in it must not open another: answered with a new
/// session, that Ping would tell the host that the request was never read.
#[test]
fn a_repeated_ping_does_not_bring_back_a_request_that_was_acted_on() {
    let at = |seconds: u64| Time::from_micros(seconds * 1_000_000);
    let id = MessageId::parse("once").unwrap();
    let mut nonces = 0..;
    let mut draw = || [nonces.next().unwrap(); 16];
    let mut host = Host::new();
    host.handle_socket(at(0));
    host.handle_timeout(at(0), false);
    host.handle_connected(at(0), &mut draw);
    let mut guest = Guest::new(Identity::default());
    exchange(at(0), &mut host, &mut guest);

    let request = message(id.as_str(), Body::Execute(agent::Execute::default()));
    host.request(at(3), &id, encode(&request).unwrap()).unwrap();
    let bytes = transmit_host(&mut host);
    hear(at(3), &mut guest, &bytes);
    let requested = |event| matches!(event, Event::Request(..));
    assert!(std::iter::from_fn(|| guest.poll_event()).any(requested));
    hear(at(3), &mut guest, &bytes);
    hear(at(3), &mut guest, &bytes);
    let acted_on_again = exchange(at(4), &mut host, &mut guest);
    assert!(host.is_open());
    assert_eq!(acted_on_again, 0);
}

/// Carries bytes both ways until there are none; how many requests the guest was asked to act on.
fn exchange(now: Time, host: &mut Host, guest: &mut Guest) -> usize {
    let mut requests = 0;
    loop {
        let down = transmit_host(host);
        hear(now, guest, &down);
        while let Some(event) = guest.poll_event() {
            requests += usize::from(matches!(event, Event::Request(..)));
        }
        let mut up = Vec::new();
        while let Some(bytes) = guest.poll_transmit() {
            up.extend_from_slice(bytes);
            let count = bytes.len();
            guest.on_written(count);
        }
        host.handle_bytes(now, &up, &mut || [8; 16]);
        while host.poll_event().is_some() {}
        if down.is_empty() && up.is_empty() {
            return requests;
        }
    }
}

fn transmit_host(host: &mut Host) -> Vec<u8> {
    let mut down = Vec::new();
    while let Some(bytes) = host.poll_transmit() {
        down.extend_from_slice(bytes);
        let count = bytes.len();
        host.on_written(count);
    }
    down
}

fn hear(now: Time, guest: &mut Guest, bytes: &[u8]) {
    let moment = Moment {
        now,
        ..Default::default()
    };
    let mut draws = now.micros();
    guest.handle_bytes(&moment, bytes, &mut || {
        draws += 1;
        draws
    });
}

#[test]
fn a_directory_of_sockets_in_the_place_of_another_is_watched_from_then_on() {
    let node = Node::start();
    let vms = node.dir.join("vms");
    // The daemon sees the moment without any now and then.
    for name in ["a", "b", "c", "d"] {
        let next = node.dir.join("next");
        fs::create_dir(&next).unwrap();
        fs::rename(&vms, node.dir.join(&format!("before-{name}"))).unwrap();
        fs::rename(&next, &vms).unwrap();
        let vm = node.vm(name);
        node.wait_state(name, "ready");
        fs::remove_file(node.socket(name)).unwrap();
        node.wait_state(name, "absent");
        drop(vm);
    }
}

#[test]
fn a_command_or_file_whose_end_nobody_takes_can_be_cancelled() {
    let (agent, mut talk) = Agent::ready();
    let file = agent.dir.file("file", [b'x'; 1000]);
    let command = agent::Execute {
        stream_output: true,
        ..shell("echo last words")
    };
    let read = read_file(&file);
    // Its process has ended. Its output stays where it is: there is no credit for it.
    for body in [Body::Execute(command), Body::ReadFile(read)] {
        talk.send("1", body);
        talk.assert_alive();
        until_so("its end", || workers(agent.process.pid()).is_empty());
        talk.send("1", Body::Cancel(agent::Cancel {}));
        assert_eq!(talk.refusal("1").0, "CANCELLED");
    }
    // So also one whose time was up.
    let command = agent::Execute {
        stream_output: true,
        timeout_seconds: 1,
        ..shell("echo last words; exec sleep 1000")
    };
    talk.send("2", Body::Execute(command));
    talk.assert_alive();
    until_so("its end", || workers(agent.process.pid()).is_empty());
    talk.send("2", Body::Cancel(agent::Cancel {}));
    assert_eq!(talk.refusal("2").0, "CANCELLED");
}

#[test]
fn a_signal_that_was_ignored_before_stays_so() {
    // As nohup(1) has it, and a shell that puts something into the background.
    let (node, _vm) = Node::with_vm("vm");
    let line = "trap '' HUP INT; exec \"$0\" exec -i vm -- 'echo ready; read x; echo $x'";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).arg(qx(&[]).get_program());
    command.env("QX_NODE_SOCK", node.control());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    signal(child.id(), "HUP");
    signal(child.id(), "INT");
    child.stdin.take().unwrap().write_all(b"well\n").unwrap();
    assert_eq!(lines.next().map(Result::ok), Some(Some("well".to_owned())));
    assert!(child.wait().unwrap().success());
}

#[test]
fn input_that_ends_inside_a_line_ends_on_a_terminal_too() {
    let (_agent, mut talk) = Agent::ready();
    let command = agent::Execute {
        stream_output: true,
        stream_input: true,
        terminal: Some(agent::Terminal::default()),
        timeout_seconds: 20,
        ..shell("stty -echo; echo ready; cat; echo over")
    };
    talk.send("1", Body::Execute(command));
    for stream in [Stream::Stdout, Stream::Stderr] {
        let (stream, bytes) = (stream.into(), 1 << 20);
        talk.send("1", Body::Credit(agent::Credit { stream, bytes }));
    }
    let mut shown = Vec::new();
    loop {
        match talk.answer("1") {
            Body::StreamChunk(chunk) => {
                let was_ready = !shown.is_empty();
                shown.extend(chunk.data);
                if !was_ready {
                    let chunk = agent::StreamChunk {
                        stream: Stream::Stdin.into(),
                        data: b"no line".to_vec(),
                        eof: true,
                        ..Default::default()
                    };
                    talk.send("1", Body::StreamChunk(chunk));
                }
            }
            Body::Credit(_) => {}
            Body::ExecuteResponse(answer) => {
                assert!(!answer.timed_out, "it waits for more");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let shown = String::from_utf8(shown).unwrap();
    assert_eq!(shown, "ready\r\nno lineover\r\n");
}
