//! `quantix-kvm-agent doctor`: looks at everything on the guest's side of the channel, and names the
//! cause of what is wrong and one thing to do. It changes nothing and needs no agent that runs.
//!
//! Every check looks at a guest below a root, which in tests is a directory with a few files. What can
//! hang is asked by children that are left behind.

mod agent;
mod clock;
mod crash;
mod driver;
mod filesystems;
mod host;
mod port;
mod service;
mod settings;
mod version;

#[cfg(test)]
mod tests;

use std::fmt::Arguments;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use quantix::rt::check::{self, Check, Status};

use crate::cli;

/// A guest, and what is known of it so far.
struct Guest<'a> {
    root: &'a Path,
    options: &'a cli::Doctor,
    /// The port's, if it is there.
    device: Option<PathBuf>,
    /// The agent, if it has the port open.
    agent: Option<u32>,
    /// Nobody has the port open.
    is_port_free: bool,
}

/// Places in [`CHECKS`].
const AGENT: usize = 2;
const CRASH: usize = 5;

/// In the order in which they are made. Each may leave in the guest what it has found, for those
/// behind it.
const CHECKS: [fn(&mut Guest) -> Check; 10] = [
    driver::check,
    port::check,
    agent::check,
    host::check,
    service::check,
    crash::check,
    filesystems::check,
    settings::check,
    version::check,
    clock::check,
];

/// Examines this guest: what to print, and the exit status.
pub fn run(options: &cli::Doctor) -> (String, u8) {
    let checks = Guest::new(Path::new("/"), options).examine();
    let text = match options.json {
        true => json(&checks),
        false => {
            let colour = std::io::stdout().is_terminal();
            check::text("guest", &checks, healthy(&checks), colour)
        }
    };
    (text, check::worst(&checks).exit())
}

/// What there is to say if nothing is wrong.
fn healthy(checks: &[Check]) -> &'static str {
    let serves = |check: &Check| check.name == agent::NAME && check.status == Status::Ok;
    match checks.iter().any(serves) {
        true => "the port is open and the agent serves it",
        false => "no fault was found, as far as can be seen",
    }
}

fn json(checks: &[Check]) -> String {
    format!(
        "{{\"version\":{},\"status\":{},\"checks\":{}}}\n",
        check::quoted(quantix::VERSION),
        check::quoted(check::worst(checks).word()),
        check::json(checks)
    )
}

/// All is well. Texts are made here and not by each check: less code.
fn fine(name: &'static str, evidence: Arguments) -> Check {
    found(
        name,
        Status::Ok,
        evidence,
        format_args!(""),
        format_args!(""),
    )
}

/// It could not be found out.
fn unknown(name: &'static str, evidence: Arguments, remedy: &str) -> Check {
    let none = format_args!("");
    found(
        name,
        Status::Unknown,
        evidence,
        none,
        format_args!("{remedy}"),
    )
}

fn found(
    name: &'static str,
    status: Status,
    evidence: Arguments,
    cause: Arguments,
    remedy: Arguments,
) -> Check {
    Check {
        name,
        status,
        evidence: evidence.to_string(),
        cause: cause.to_string(),
        remedy: remedy.to_string(),
    }
}

/// What stands behind this name and the separator, in the first of the lines that have it.
pub fn value<'a>(text: &'a str, name: &str, separator: char) -> Option<&'a str> {
    for line in text.split('\n') {
        if let Some((key, value)) = line.split_once(separator)
            && key.trim_ascii() == name
        {
            return Some(value.trim_ascii());
        }
    }
    None
}

impl<'a> Guest<'a> {
    const fn new(root: &'a Path, options: &'a cli::Doctor) -> Self {
        Self {
            root,
            options,
            device: None,
            agent: None,
            is_port_free: false,
        }
    }

    fn examine(mut self) -> Vec<Check> {
        let mut checks = CHECKS.map(|check| check(&mut self));
        // A crash explains why no agent runs, so it is told before that; how grave it is depends on whether
        // one does, so it is made behind it.
        checks[AGENT..=CRASH].rotate_right(1);
        checks.into()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A small file of /proc or /sys, with U+FFFD for what is not UTF-8; empty where it cannot be read.
    fn read(&self, path: &str) -> String {
        let text = fs::read(self.at(path)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// systemd is what runs services here (sd_booted(3)).
    fn has_systemd(&self) -> bool {
        self.has("run/systemd/system")
    }
}

const START: &str = "systemctl start quantix-kvm-agent";

/// Where the unit's log is.
const LOG: &str = "journalctl -u quantix-kvm-agent";

/// A span in the largest unit that fits.
fn span(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "s"),
        60..3600 => (seconds / 60, "min"),
        3600..86_400 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{count} {unit}")
}
