//! What QEMU says of a VM, where its monitor is beside its socket and has time for us: asked once.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{MONITOR_SUFFIX, is_open};

/// What it has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The VM runs; it is not paused.
    pub running: bool,
    /// Something in the guest has the port open; `None`: there is no such port.
    pub open: Option<bool>,
}

/// How long each answer may take. A monitor serves one client at a time, and the daemon is one.
const PATIENCE: Duration = Duration::from_millis(300);

/// Lines that are read until the answer comes: events stand between.
const MAX_LINES: usize = 64;

/// Bytes of all that it says.
const MAX_BYTES: u64 = 1 << 20;

/// Asks the monitor beside this socket. `None`: there is none, or it serves somebody else.
pub fn look(socket: &Path, name: &str) -> Option<Said> {
    let path = socket.with_file_name(format!("{name}{MONITOR_SUFFIX}"));
    let stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    // QEMU is trusted no more than its guest.
    let mut lines = BufReader::new((&stream).take(MAX_BYTES));
    let mut ask = |command: &str| {
        if !command.is_empty() {
            let line = format!("{{\"execute\":\"{command}\"}}\n");
            (&stream).write_all(line.as_bytes()).ok()?;
        }
        for _ in 0..MAX_LINES {
            let mut line = String::new();
            lines.read_line(&mut line).ok().filter(|n| *n > 0)?;
            let value: Value = serde_json::from_str(&line).ok()?;
            if value.get("event").is_none() {
                return Some(value);
            }
        }
        None
    };
    ask("")?.get("QMP")?;
    ask("qmp_capabilities")?.get("return")?;
    let status = ask("query-status")?;
    let chardevs = ask("query-chardev")?;
    Some(Said {
        running: status["return"]["running"].as_bool()?,
        open: is_open(&chardevs["return"], socket.file_name()?.to_str()?),
    })
}
