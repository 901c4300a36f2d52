//! The real agent on a socket instead of a port: how sessions begin and end, what it says of its
//! guest, how it is configured and stopped. Its requests are in the files below.

#![cfg(test)]

// `doctor`, on this machine.
mod doctor;
// Commands: everything that `Execute` can ask for.
mod exec;
// Commands whose streams, signals and terminal are alive.
#[path = "agent/keepers.rs"]
mod keepers;
mod live;
// Whose turn it is.
mod fairness;
// Files: reading and writing, and that nothing half-written stays.
mod files;
// What a host must not send.
mod frames;
// What is left when nothing is left.
mod exhaustion;
// What the guest forbids, and its record of what was asked.
mod policy;
// What an old kernel lacks.
mod kernels;
// Trees: what a host may send, and that nothing gets out of its target.
mod trees;

use std::io::Read;
use std::os::unix::net::UnixListener;

use quantix::message::agent::JobState;
use quantix::message::{Body, agent};

use crate::util::agent::{Agent, Talk, accept, frame, line, ping, spawn, spawn_by};
use crate::util::{Dir, pid_in, told, until, until_so};

const NONCE: &[u8; 16] = b"nonce-of-16-byte";

#[test]
fn it_is_silent_until_the_first_ping() {
    let mut agent = Agent::start();
    let mut talk = agent.accept();
    agent.process.wait_log("is open");
    // It has read this, dropped it, and said so; and still nothing has come from it.
    talk.send_raw(&[0xFF, 0, 0, 0, 1, b'x']);
    agent.process.wait_log("1 bad frames");
    talk.stream.set_nonblocking(true).unwrap();
    let error = talk.stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    agent.process.signal("TERM");
    assert!(agent.process.wait().success());
    talk.stream.set_nonblocking(false).unwrap();
    assert_eq!(talk.rest(), b"");
}

#[test]
fn a_ping_opens_a_session_and_agent_ready_comes_first() {
    let agent = Agent::start();
    let mut talk = agent.accept();
    let (pong, ready) = talk.open(NONCE);
    assert_eq!(pong.version, quantix::VERSION);
    let file = |path| std::fs::read_to_string(path).unwrap().trim().to_owned();
    assert_eq!(pong.boot_id, file("/proc/sys/kernel/random/boot_id"));
    assert_eq!(pong.max_frame, 128 * 1024);
    let uptime: f64 = file("/proc/uptime")
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(uptime - pong.uptime_seconds as f64 >= 0.0);
    assert!(uptime - (pong.uptime_seconds as f64) < 60.0);
    assert!(pong.time.unwrap().seconds > 1_700_000_000);
    assert_eq!(ready.version, quantix::VERSION);
    assert_eq!(ready.hostname, file("/proc/sys/kernel/hostname"));
    assert_eq!(ready.kernel_version, file("/proc/sys/kernel/osrelease"));
    assert_eq!(ready.architecture, std::env::consts::ARCH);
    assert!(!ready.os_name.is_empty());
    for request in ["execute", "read_file", "write_file"] {
        assert!(ready.capabilities.iter().any(|known| known == request));
    }
    assert!(
        ready
            .ip_addresses
            .iter()
            .all(|a| !a.contains('/') && a != "127.0.0.1" && a != "::1")
    );
}

#[test]
fn a_keep_alive_ping_is_answered_in_the_session() {
    let (_agent, mut talk) = Agent::ready();
    talk.send_raw(&frame(&ping(77, NONCE), None));
    let Some(Body::Pong(pong)) = talk.next().body else {
        panic!("no Pong");
    };
    assert_eq!((pong.sequence, &pong.nonce[..]), (77, &NONCE[..]));
    talk.assert_alive();
}

#[test]
fn telemetry_is_pushed_and_plausible() {
    let agent = Agent::with(&["--telemetry-interval", "1"]);
    let mut talk = agent.accept();
    talk.open(NONCE);
    let mut next = || match talk.next().body {
        Some(Body::Telemetry(telemetry)) => telemetry,
        other => panic!("{other:?}"),
    };
    let first = next();
    // Since boot, which is never nothing.
    assert!(first.cpu_usage_percent > 0.0);
    let second = next();
    for t in [&first, &second] {
        assert!(t.memory_total > 1 << 20 && t.memory_available <= t.memory_total);
        assert_eq!(t.memory_used, t.memory_total - t.memory_available);
        assert!(t.swap_used <= t.swap_total);
        assert!(t.process_count > 1);
        assert!(t.uptime_seconds > 0 && !t.hostname.is_empty());
        assert!(t.load_avg_1m >= 0.0 && t.load_avg_1m < 10_000.0);
        assert!((0.0..=100.0).contains(&t.cpu_usage_percent));
        assert!(t.stuck_mounts.is_empty(), "{:?}", t.stuck_mounts);
        let mut mounts: Vec<_> = t.disks.iter().map(|d| &d.mount_point).collect();
        mounts.dedup();
        assert_eq!(mounts.len(), t.disks.len(), "a disk twice");
        for disk in &t.disks {
            assert!(
                disk.total > 0 && disk.used + disk.available <= disk.total,
                "{disk:?}"
            );
            assert!((0.0..=100.0).contains(&disk.usage_percent), "{disk:?}");
            assert!(
                !["proc", "sysfs", "tmpfs", "devtmpfs", "cgroup2"].contains(&&*disk.filesystem)
            );
        }
        for interface in &t.interfaces {
            assert!(
                interface.ipv4.iter().all(|a| a.contains('/')),
                "{interface:?}"
            );
            assert!(
                interface.ipv6.iter().all(|a| a.contains('/')),
                "{interface:?}"
            );
            assert!(interface.mtu > 0, "{interface:?}");
        }
    }
    assert!(second.uptime_seconds >= first.uptime_seconds);
}

#[test]
fn another_nonce_opens_another_session_and_what_ran_for_the_old_one_ends() {
    let (agent, mut talk) = Agent::ready();
    let file = agent.dir.text("pid");
    talk.send("old", line(&format!("echo $$ > {file}; sleep 60 & wait")));
    let pid = pid_in(file.as_ref());
    let old = talk.session;
    talk.send_raw(&frame(&ping(1, b"another-nonce-16"), None));
    talk.opened(b"another-nonce-16");
    assert_ne!(talk.session, old);
    assert!(matches!(talk.next().body, Some(Body::AgentReady(_))));
    until_so("end of the command", || !crate::util::is_alive(pid));
    // Its answer never comes: the next one is this one's.
    talk.assert_alive();
}

#[test]
fn a_request_of_an_ended_session_is_not_run() {
    let (agent, mut talk) = Agent::ready();
    let file = agent.dir.text("ran");
    let late = talk.seal(&prost::Message::encode_to_vec(&quantix::message::message(
        "late",
        line(&format!("touch {file}")),
    )));
    talk.send_raw(&frame(&ping(1, b"another-nonce-16"), None));
    talk.opened(b"another-nonce-16");
    talk.next();
    talk.send_raw(&late);
    talk.assert_alive();
    assert!(!agent.dir.join("ran").exists());
    agent.process.wait_log("1 stale frames");
}

#[test]
fn an_id_in_use_is_refused_and_the_first_request_goes_on() {
    let (agent, mut talk) = Agent::ready();
    let gate = agent.dir.text("gate");
    let waits = format!("until [ -e {gate} ]; do sleep 0.05; done; echo first");
    talk.send("same", line(&waits));
    let (code, why) = talk.refused("same", line("echo second"));
    assert_eq!(code, "INVALID", "{why}");
    agent.dir.file("gate", "");
    let Body::ExecuteResponse(answer) = talk.answer("same") else {
        panic!("no answer");
    };
    assert_eq!(answer.stdout, b"first\n");
}

#[test]
fn more_than_32_requests_at_once_are_refused_as_busy() {
    let (agent, mut talk) = Agent::ready();
    let gate = agent.dir.text("gate");
    let waits = format!("until [ -e {gate} ]; do sleep 0.05; done");
    for n in 0..32 {
        talk.send(&format!("r{n}"), line(&waits));
    }
    let (code, why) = talk.refused("r32", line("true"));
    assert_eq!(code, "BUSY", "{why}");
    agent.dir.file("gate", "");
    let mut answered: Vec<String> = (0..32).map(|_| talk.next().message_id).collect();
    answered.sort();
    answered.dedup();
    assert_eq!(answered.len(), 32);
    talk.assert_alive();
}

#[test]
fn sigterm_tells_the_host_leaves_the_commands_and_exits_with_0() {
    let (mut agent, mut talk) = Agent::ready();
    let file = agent.dir.text("pid");
    talk.send("long", line(&format!("echo $$ > {file}; sleep 60 & wait")));
    let pid = pid_in(file.as_ref());
    agent.process.signal("TERM");
    assert!(agent.process.wait().success());
    let Some(Body::SessionEnded(ended)) = talk.next().body else {
        panic!("the host was not told");
    };
    assert!(ended.reason.contains("stopping"), "{}", ended.reason);
    assert!(talk.try_frame().is_none());
    // The next agent knows of it.
    assert!(crate::util::is_alive(pid));
    agent.process = spawn(&agent.dir, "port", &[]);
    let mut talk = agent.accept();
    talk.open(NONCE);
    let Body::JobList(list) = talk.ask("list", Body::ListJobs(Default::default())) else {
        panic!("no list");
    };
    let job = &list.jobs[0];
    assert!(job.adopted && job.pid == pid && job.state() == JobState::Running);
    let kill = agent::KillJob {
        job: job.job,
        signal: 0,
    };
    let Body::KillJobResponse(killed) = talk.ask("kill", Body::KillJob(kill)) else {
        panic!("not killed");
    };
    assert_eq!(killed.job.unwrap().exit_code, 143);
    assert!(!crate::util::is_alive(pid));
}

#[test]
fn sighup_reads_the_configuration_again() {
    let agent = Agent::start();
    let mut talk = agent.accept();
    talk.open(NONCE);
    agent
        .dir
        .file("agent.conf", "telemetry_interval = 3600\ncolour = red\n");
    agent.process.signal("HUP");
    assert!(matches!(talk.next().body, Some(Body::Telemetry(_))));
    agent.process.wait_log("line 2: colour = red: unknown key");
    std::fs::remove_file(agent.dir.join("agent.conf")).unwrap();
    agent.process.signal("HUP");
    agent
        .process
        .wait_log("configuration kept as it was: read ");
    talk.assert_alive();
}

#[test]
fn systemd_is_told_why_there_is_no_port_and_when_there_is() {
    let dir = Dir::new();
    let path = dir.join("notify");
    let next = told(&path);
    let mut env = std::process::Command::new("env");
    env.arg(format!("NOTIFY_SOCKET={}", path.display()));
    let mut agent = spawn_by(env, &dir, "port", &[]);
    // Whoever starts it is not to wait for what may never come.
    let said = next();
    assert!(said.starts_with("READY=1\nSTATUS=waiting: "), "{said}");
    let listener = UnixListener::bind(dir.join("port")).unwrap();
    let _talk = accept(&listener);
    let port = dir.text("port");
    let open = format!("READY=1\nSTATUS=port {port} is open");
    until("the port", || (next() == open).then_some(()));
    agent.signal("TERM");
    until("the end", || (next() == "STOPPING=1").then_some(()));
    assert!(agent.wait().success());
}

#[test]
fn a_bad_configuration_is_named_in_the_log_and_does_not_keep_it_from_serving() {
    let dir = Dir::new();
    let config = dir.file(
        "bad.conf",
        "telemetry_interval = often\nnonsense\n\nlog_level = loud\n",
    );
    let listener = UnixListener::bind(dir.join("port")).unwrap();
    let agent = spawn(
        &dir,
        "port",
        &["--config", &config, "--telemetry-interval", "0"],
    );
    let mut talk = Talk::new(accept(&listener));
    talk.open(NONCE);
    agent.wait_log("line 1: telemetry_interval = often: takes whole seconds");
    agent.wait_log("line 2: nonsense: is not of the form key = value");
    agent.wait_log("line 4: log_level = loud: takes error");
}

#[test]
fn wrong_options_end_it_with_2_and_help_and_version_are_printed() {
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quantix-kvm-agent"));
        crate::util::Running::start(command.args(words), b"").end()
    };
    for words in [
        &["--prot", "x"][..],
        &["x"],
        &["--log", "loud"],
        &["--telemetry-interval", "-1"],
    ] {
        assert!(run(words).trouble(2).contains("try --help"));
    }
    assert!(
        run(&["--version"])
            .fine()
            .starts_with(&format!("quantix-kvm-agent {}", quantix::VERSION))
    );
    let help = run(&["--help"]);
    for option in [
        "--port",
        "--config",
        "--telemetry-interval",
        "--log",
        "SIGHUP",
    ] {
        assert!(help.fine().contains(option), "{option}");
    }
}

#[test]
fn a_port_that_appears_later_is_found() {
    let dir = Dir::new();
    let agent = spawn(&dir, "port", &[]);
    agent.wait_log("waiting: open ");
    agent.wait_log("No such file or directory");
    let listener = UnixListener::bind(dir.join("port")).unwrap();
    Talk::new(accept(&listener)).open(NONCE);
}

#[test]
fn a_port_that_is_lost_is_opened_again_and_its_session_is_over() {
    let (agent, mut talk) = Agent::ready();
    let file = agent.dir.text("pid");
    talk.send("long", line(&format!("echo $$ > {file}; sleep 60 & wait")));
    let pid = pid_in(file.as_ref());
    talk.hang_up();
    let mut again = agent.accept();
    agent.process.wait_log("port lost");
    until_so("end of the command", || !crate::util::is_alive(pid));
    again.open(NONCE);
    again.assert_alive();
}

#[test]
fn a_frame_cut_by_the_loss_of_the_port_does_not_reach_into_the_next_connection() {
    let (agent, mut talk) = Agent::ready();
    let ran = agent.dir.text("ran");
    let request = quantix::message::message("cut", line(&format!("touch {ran}")));
    let bytes = talk.seal(&prost::Message::encode_to_vec(&request));
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    talk.send_raw(head);
    talk.hang_up();
    let mut again = agent.accept();
    again.send_raw(tail);
    again.send_raw(&[0xFF]);
    again.open(NONCE);
    again.assert_alive();
    assert!(!agent.dir.join("ran").exists());
}
