//! Bytes that mean nothing, from either side.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use crate::vm::harness::{Options, Own, Vm, count, wait_until};

/// Nothing comes within the client's time.
#[track_caller]
pub fn silent(client: &mut UnixStream) {
    let mut byte = [0];
    let read = client.read(&mut byte);
    let kind = read.as_ref().map_err(std::io::Error::kind);
    assert_eq!(kind, Err(ErrorKind::WouldBlock), "{byte:?}");
}

/// Random bytes, always the same.
struct Noise(u64);

impl Noise {
    const fn new() -> Self {
        Self(88_172_645_463_325_252)
    }

    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn garbage_gets_no_answer_and_the_next_host_a_session() {
    let mut own = Own::boot(&Options::default());
    own.vm.wait_agent();
    let mut client = own.place.raw_client("db1");
    silent(&mut client);
    // Lengths that are legal and never filled, lengths that are not, text, and idle bytes between.
    let mut garbage = Vec::with_capacity(1 << 20);
    let mut noise = Noise::new();
    while garbage.len() < 1 << 20 {
        let state = noise.next();
        let bytes = state.to_le_bytes();
        match state >> 60 {
            0 => garbage.extend_from_slice(&[0xFF; 7]),
            1 => garbage.extend_from_slice(&[0, 1, bytes[0], bytes[1]]),
            2 => garbage.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n"),
            _ => garbage.extend_from_slice(&bytes),
        }
    }
    client.write_all(&garbage).unwrap();
    silent(&mut client);
    // It has read it all: the socket's buffer and the port's hold less.
    own.vm.wait_console("bytes of garbage");
    drop(client);
    own.node.start();
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    assert_eq!(own.vm.console().matches("started").count(), 1);
}

const MANY: usize = 100_000_000;

#[test]
fn an_agent_that_is_pushed_100_mb_of_noise_serves_the_next_host() {
    let mut own = Own::ready(&Options::default());
    let memory = "grep VmHWM /proc/$(cut -d' ' -f4 /proc/$PPID/stat)/status";
    let before = kib(&own.node.sh("db1", memory));
    own.node.kill();
    // Or it would tell the next host that its session has ended.
    own.vm.wait_console("session ended");
    let mut client = own.place.raw_client("db1");
    // It has to read on whatever comes: nobody else would take these.
    client.set_write_timeout(None).unwrap();
    let mut noise = Noise::new();
    let mut bytes = Vec::new();
    for _ in 0..MANY / 65_536 {
        bytes.clear();
        bytes.extend((0..65_536 / 8).flat_map(|_| noise.next().to_le_bytes()));
        client.write_all(&bytes).unwrap();
    }
    silent(&mut client);
    drop(client);
    own.node.start();
    own.node.cli(&["ping", "db1"]).ok();
    own.node.wait_usable("db1");
    assert_eq!(own.vm.console().matches("started").count(), 1);
    let after = kib(&own.node.sh("db1", memory));
    assert!(after < before + 512, "{before} KiB, then {after} KiB");
}

#[test]
fn a_daemon_that_is_pushed_100_mb_of_noise_serves_that_guest_and_all_others() {
    let own = Own::ready(&Options::default());
    let _other = Vm::start(&own.place, "db2", &Options::default());
    own.node.wait_state("db2", "ready");
    own.node.wait_usable("db2");
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{}/status", own.node.pid())).unwrap();
        kib(status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap())
    };
    let (before, of_db2) = (memory(), own.node.vm("db2"));
    let line = format!(
        "echo 'echo noise; probe noise org.quantix.agent.0 {MANY}' >/run/agent.new; \
         mv /run/agent.new /run/agent.hold; kill $(cut -d' ' -f4 /proc/$PPID/stat)"
    );
    own.node.cli(&["exec", "db1", "--detach", "--", &line]);
    own.vm.wait_console("noise");
    // The other guest is served meanwhile.
    let mut served = 0;
    wait_until("the noise to end", 60, || {
        own.node.sh("db2", "true");
        served += 1;
        own.vm.console().contains("hold ended 0")
    });
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    let now = own.node.vm("db1");
    // What was under way when the daemon connected anew has not come.
    assert!(count(&now, "bytes_in") > MANY as u64 / 2, "{now}");
    let after = memory();
    assert!(after < before + 4096, "{before} KiB, then {after} KiB");
    let now = own.node.vm("db2");
    for counter in ["connects", "sessions", "garbage_bytes", "bad_frames"] {
        assert_eq!(count(&now, counter), count(&of_db2, counter), "{now}");
    }
    assert!(served > 3, "{served}");
}

/// The number in a line of /proc/PID/status.
fn kib(line: &str) -> u64 {
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
