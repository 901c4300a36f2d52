//! The same port without agent and protocol: `tests/vm/probe.c` in the guest, a plain socket here.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::node::Daemon;
use crate::qmp::Qmp;
use crate::vm::Vm;
use crate::{Outcome, micros};

const PORT: &str = "org.quantix.agent.0";

/// As long as a Ping with its header.
const ECHO: [u8; 26] = [b'e'; 26];

/// What one call on the socket moves.
const BUFFER: usize = 64 * 1024;

/// The port, while the agent is not running.
pub struct Bare<'a> {
    vm: &'a Vm,
    stream: UnixStream,
    round: usize,
    bytes: usize,
    /// Holds of the port that had ended before.
    ended: usize,
}

impl<'a> Bare<'a> {
    /// Has the agent killed and the probe run in its place: echo, source and sink, and these two again with a
    /// file, in this order. The
    /// daemon must be gone before the agent is, or the probe would read what was meant for the agent.
    pub fn borrow_port(
        vm: &'a Vm,
        mut daemon: Daemon,
        round: usize,
        bytes: usize,
    ) -> Outcome<Self> {
        let ended = vm.count("qx-guest: hold ended");
        let agent = daemon.shell("cut -d' ' -f4 /proc/$PPID/stat")?;
        daemon.shell(&format!(
            "cat > /run/agent.hold.new <<'.'\n\
             set -e\n\
             for p in 'echo {PORT}' 'source {PORT} {bytes} 32768' 'sink {PORT} {bytes} 65536' \
             'source {PORT} {bytes} 32768 /tmp/data' 'sink {PORT} {bytes} 32768 /tmp/back'; do\n\
             echo \"bench: {round} $p\"\n\
             probe $p\n\
             rm -f /tmp/back\n\
             done\n\
             .\n\
             mv /run/agent.hold.new /run/agent.hold"
        ))?;
        daemon.spawn(&format!("sleep 1; kill {}", agent.trim()))?;
        daemon.stop();
        vm.wait_for(&format!("bench: {round} echo"), 1)?;
        let stream = UnixStream::connect(vm.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self {
            vm,
            stream,
            round,
            bytes,
            ended,
        })
    }

    /// A round trip in microseconds.
    pub fn echo(&mut self) -> Outcome<f64> {
        let mut back = [0; ECHO.len()];
        let begun = Instant::now();
        self.stream.write_all(&ECHO)?;
        self.stream.read_exact(&mut back)?;
        let took = micros(begun);
        if back == ECHO {
            Ok(took)
        } else {
            Err("the echo is not what was sent".into())
        }
    }

    /// A round trip right after the guest was put back to a snapshot: what of a revert is the
    /// hypervisor's own.
    pub fn echo_reverted(&mut self, qmp: &mut Qmp) -> Outcome<f64> {
        qmp.human("loadvm bare");
        self.echo()
    }

    /// From the guest, of its memory or of a file: the microseconds that all bytes took.
    pub fn source(&mut self, file: bool) -> Outcome<f64> {
        let (port, bytes) = (PORT, self.bytes);
        let file = if file { " /tmp/data" } else { "" };
        self.next(&format!("source {port} {bytes} 32768{file}"))?;
        let mut buffer = vec![0; BUFFER];
        let mut left = self.bytes;
        let begun = Instant::now();
        self.stream.write_all(b"s")?;
        while left > 0 {
            match self.stream.read(&mut buffer)? {
                0 => return Err("QEMU closed the connection".into()),
                n => left = left.checked_sub(n).ok_or("more bytes than there are")?,
            }
        }
        Ok(micros(begun))
    }

    /// Into the guest, into nothing or a file: the microseconds until all bytes were read there.
    pub fn sink(&mut self, file: bool) -> Outcome<f64> {
        let (port, bytes) = (PORT, self.bytes);
        let end = if file { "32768 /tmp/back" } else { "65536" };
        self.next(&format!("sink {port} {bytes} {end}"))?;
        let buffer = vec![b'q'; BUFFER];
        let mut left = self.bytes;
        let mut count = [0; 8];
        let begun = Instant::now();
        while left > 0 {
            let part = left.min(BUFFER);
            self.stream.write_all(&buffer[..part])?;
            left -= part;
        }
        self.stream.read_exact(&mut count)?;
        let took = micros(begun);
        if u64::from_le_bytes(count) == self.bytes as u64 {
            Ok(took)
        } else {
            Err("the guest read another number of bytes".into())
        }
    }

    /// Ends the last probe, and waits until the agent's turn has come.
    pub fn give_back(mut self, vm: &Vm) -> Outcome<()> {
        self.stream.write_all(b"QUIT")?;
        vm.wait_for("qx-guest: hold ended", self.ended + 1)?;
        Ok(())
    }

    /// Ends the running probe. The next one has opened the port when this returns.
    fn next(&mut self, probe: &str) -> Outcome<()> {
        self.stream.write_all(b"QUIT")?;
        let Self { vm, round, .. } = self;
        vm.wait_for(&format!("bench: {round} {probe}"), 1)?;
        sleep(Duration::from_millis(500));
        Ok(())
    }
}
