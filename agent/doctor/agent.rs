//! The agent: who has the port open, and since when.

use std::path::Path;

use quantix::rt::check::{Check, Status};
use quantix::rt::clock;

use super::{Guest, fine, found, unknown};
use crate::holder::{self, Holder};

pub const NAME: &str = "agent";

/// What the kernel calls the agent: the first 15 bytes of its name.
pub const COMM: &str = "quantix-kvm-age";

/// Ticks of /proc in a second, on every kernel for x86-64.
const TICKS: u64 = 100;

/// Leaves in the guest who the agent is, and whether the port is free.
pub fn check(guest: &mut Guest) -> Check {
    let Some(device) = &guest.device else {
        return unknown(
            NAME,
            format_args!("there is no device that it could have open"),
            "",
        );
    };
    let proc = guest.at("proc");
    let holders = holder::of(&proc, device);
    // A command that was handed the port's descriptor does not make it another's.
    let agent = holders.found.iter().find(|holder| holder.name == COMM);
    guest.agent = agent.map(|agent| agent.pid);
    if let Some(pid) = guest.agent {
        return running(guest, pid);
    }
    if let Some(Holder { pid, name }) = holders.found.first() {
        return found(
            NAME,
            Status::Fail,
            format_args!("pid {pid} has the port open"),
            format_args!("another program has the port open: {name}, pid {pid}"),
            format_args!("kill {pid}"),
        );
    }
    if !holders.all_seen {
        let seen = format_args!("the processes of others cannot be looked into");
        return unknown(NAME, seen, "run this as root");
    }
    guest.is_port_free = true;
    absent(guest, &proc)
}

fn running(guest: &Guest, pid: u32) -> Check {
    let stat = guest.read(&format!("proc/{pid}/stat"));
    let (state, started) = parse(&stat).unwrap_or_default();
    let age = super::span(clock::uptime_seconds().saturating_sub(started));
    let seen = format_args!("pid {pid} has the port open, started {age} ago");
    match state {
        "T" | "t" => found(
            NAME,
            Status::Fail,
            seen,
            format_args!("the agent is stopped by a signal or a debugger"),
            format_args!("kill -CONT {pid}"),
        ),
        _ => fine(NAME, seen),
    }
}

/// Nobody has the port open.
fn absent(guest: &Guest, proc: &Path) -> Check {
    let (cause, with_systemd, without) = match idle(proc) {
        true => (
            "the agent runs and does not have the port open",
            super::LOG,
            "see what it has written to syslog",
        ),
        false => (
            "no agent runs",
            super::START,
            "start quantix-kvm-agent as root, and have init keep it running",
        ),
    };
    let remedy = if guest.has_systemd() {
        with_systemd
    } else {
        without
    };
    found(
        NAME,
        Status::Fail,
        format_args!("nobody has the port open"),
        format_args!("{cause}"),
        format_args!("{remedy}"),
    )
}

/// The state of a process, and when it was started in seconds since boot: `pid (name) state ppid ...`,
/// where the name may have any bytes in it (proc_pid_stat(5)).
fn parse(stat: &str) -> Option<(&str, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.trim_ascii_start().split(' ');
    let state = fields.next()?;
    let started: u64 = fields.nth(18)?.parse().ok()?;
    Some((state, started / TICKS))
}

/// There is an agent. One that has ended and waits to be reaped is none.
fn idle(proc: &Path) -> bool {
    holder::others(proc).into_iter().any(|pid| {
        let has_file = || holder::file(proc, pid, "exe").read_link().is_ok();
        holder::name(proc, pid) == COMM && has_file()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_behind_any_name() {
        let stat = "123 (a) R 9 (b) S 1 123 123 0 -1 4194560 226 0 0 0 0 0 0 0 17 -3 1 0 \
            456789 1 2";
        assert_eq!(parse(stat), Some(("S", 4567)));
        assert_eq!(parse("123 (a) S 1 2"), None);
        assert_eq!(parse(""), None);
    }
}
