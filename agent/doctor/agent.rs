//! The agent: who has the port open, and since when.

use std::path::Path;

use quantix::rt::check::{Check, Status};
use quantix::rt::clock;
use quantix::rt::stat::Stat;

use super::{Guest, fine, found, unknown};
use crate::holder::{self, Holder};

pub const NAME: &str = "agent";

/// What the kernel calls the agent: the first 15 bytes of its name.
pub const COMM: &str = "quantix-kvm-age";

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
    let Stat { state, started } = Stat::parse(&stat).unwrap_or_default();
    let age = super::span(clock::uptime_seconds().saturating_sub(started.as_secs()));
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

/// There is an agent. One that has ended and waits to be reaped is none.
fn idle(proc: &Path) -> bool {
    holder::others(proc).into_iter().any(|pid| {
        let has_file = || holder::file(proc, pid, "exe").read_link().is_ok();
        holder::name(proc, pid) == COMM && has_file()
    })
}
