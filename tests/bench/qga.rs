//! qemu-ga in the same VM, on a port of its own: what its clients get. Each of its calls is one line of
//! JSON, files go through it in base64.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::node::Daemon;
use crate::{Outcome, micros, rate};

/// What one call of its usual clients moves, and what one may.
pub const PIECE: usize = 64 << 10;
pub const LARGE: usize = 1 << 20;

/// As it is after a call that moves nothing: how long the next waits that asks whether a command has
/// ended. virsh and others wait longer.
const POLL: Duration = Duration::from_micros(200);

/// A connection to it.
pub struct Qga {
    lines: BufReader<UnixStream>,
}

/// Appends it to an initramfs. False: there is none to be had here.
pub fn add_to(initrd: &Path) -> Outcome<bool> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/qemu-ga.sh");
    let archive = initrd.with_extension("qga");
    if !Command::new(script).arg(&archive).status()?.success() {
        return Ok(false);
    }
    let mut image = std::fs::File::options().append(true).open(initrd)?;
    // The kernel wants each archive to begin at a multiple of four bytes.
    let pad = image.metadata()?.len().wrapping_neg() % 4;
    image.write_all(&[0; 4][..usize::try_from(pad)?])?;
    std::io::copy(&mut std::fs::File::open(archive)?, &mut image)?;
    Ok(true)
}

impl Qga {
    /// Starts it in the guest, and connects.
    pub fn start(daemon: &mut Daemon, socket: &Path) -> Outcome<Self> {
        daemon.spawn("exec qemu-ga -m virtio-serial -p /dev/vport*p2 -t /run")?;
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut qga = Self {
            lines: BufReader::new(stream),
        };
        qga.ask("guest-sync", json!({ "id": 4711 }))?;
        Ok(qga)
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Outcome<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.send(&line)
    }

    fn send(&mut self, line: &str) -> Outcome<Value> {
        writeln!(self.lines.get_mut(), "{line}")?;
        let mut answer = String::new();
        self.lines.read_line(&mut answer)?;
        let mut answer: Value = serde_json::from_str(&answer)?;
        match answer.get_mut("return") {
            Some(result) => Ok(result.take()),
            None => Err(format!("qemu-ga: {answer}").into()),
        }
    }

    fn open(&mut self, path: &str, mode: &str) -> Outcome<Value> {
        self.ask("guest-file-open", json!({ "path": path, "mode": mode }))
    }

    /// MB/s of a file's first bytes.
    pub fn read(&mut self, path: &str, bytes: usize, piece: usize) -> Outcome<f64> {
        let handle = self.open(path, "r")?;
        let begun = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let ask = json!({ "handle": handle, "count": left.min(piece) });
            let part = self.ask("guest-file-read", ask)?;
            let count = part["count"].as_u64().ok_or("no count")?;
            left = left
                .checked_sub(usize::try_from(count)?)
                .ok_or("too many bytes")?;
        }
        let rate = rate(bytes, micros(begun));
        self.ask("guest-file-close", json!({ "handle": handle }))?;
        Ok(rate)
    }

    /// MB/s into a file.
    pub fn write(&mut self, path: &str, bytes: usize, piece: usize) -> Outcome<f64> {
        let handle = self.open(path, "w")?;
        // The base64 of zeros; the client's own work is not what is measured.
        let text = "A".repeat(piece / 3 * 4);
        let piece = piece / 3 * 3;
        let ask = json!({ "handle": handle, "buf-b64": text });
        let line = json!({ "execute": "guest-file-write", "arguments": ask }).to_string();
        let begun = Instant::now();
        let pieces = bytes.div_ceil(piece);
        for _ in 0..pieces {
            self.send(&line)?;
        }
        let rate = rate(pieces * piece, micros(begun));
        self.ask("guest-file-close", json!({ "handle": handle }))?;
        Ok(rate)
    }

    /// The microseconds of `true` in the guest's shell, from the call to the answer that it has ended.
    pub fn exec(&mut self) -> Outcome<f64> {
        let begun = Instant::now();
        let ask = json!({ "path": "/bin/sh", "arg": ["-c", "true"], "capture-output": true });
        let pid = self.ask("guest-exec", ask)?["pid"].take();
        while !self.ask("guest-exec-status", json!({ "pid": pid }))?["exited"]
            .as_bool()
            .unwrap_or_default()
        {
            std::thread::sleep(POLL);
        }
        Ok(micros(begun))
    }
}
