//! `quantix-kvm-agent doctor`: looks at everything on the guest's side of the channel, and names the
//! cause of what is wrong and one thing to do. It changes nothing and needs no agent that runs.
//!
//! Every check takes the root of the system that it looks at, which in tests is a directory with a
//! few files. What can hang is asked by children that are left behind.

mod agent;
mod clock;
mod crash;
mod filesystems;
mod host;
mod port;
mod service;
mod settings;
mod version;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::IsTerminal;
use std::path::Path;

use quantix::rt::check::{self, Check, Status};

use crate::cli;

/// Examines this guest: what to print, and the exit status.
pub fn run(options: &cli::Doctor) -> (String, u8) {
    let checks = examine(Path::new("/"), options);
    let worst = check::worst(&checks);
    let text = match options.json {
        true => json(&checks),
        false => {
            let colour = std::io::stdout().is_terminal();
            check::text("guest", &checks, healthy(&checks), colour)
        }
    };
    (text, worst.exit())
}

/// All checks. Each stands behind those that it depends on.
fn examine(root: &Path, options: &cli::Doctor) -> Vec<Check> {
    let wanted = options.port.as_deref().unwrap_or(crate::port::NAME);
    let driver = port::driver(root);
    let (port, device) = port::check(root, wanted);
    let agent = agent::check(root, device.as_deref());
    let host = host::check(root, device.as_deref(), agent.is_port_free);
    vec![
        driver,
        port,
        agent.check,
        host,
        service::check(root),
        crash::check(root, agent.pid.is_some()),
        filesystems::check(root),
        settings::check(root, options.config.as_deref()),
        version::check(root, agent.pid),
        clock::check(root),
    ]
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

/// A small file of /proc or /sys, with U+FFFD for what is not UTF-8; None where it cannot be read.
fn read(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// systemd is what runs services here (sd_booted(3)).
fn has_systemd(root: &Path) -> bool {
    root.join("run/systemd/system").is_dir()
}

/// How to have the agent begin, or begin anew.
fn agent_by(root: &Path, verb: &str) -> String {
    match has_systemd(root) {
        true => format!("systemctl {verb} quantix-kvm-agent"),
        false => format!("{verb} quantix-kvm-agent as root, and have init keep it running"),
    }
}

/// How to learn what the agent has said.
fn see_log(root: &Path) -> &'static str {
    match has_systemd(root) {
        true => "journalctl -u quantix-kvm-agent",
        false => "see what it has written to syslog",
    }
}

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
