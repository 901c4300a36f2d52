//! The agent: who has the port open, and since when.

use std::path::Path;

use quantix::rt::check::{Check, Status};
use quantix::rt::clock;

use crate::holder::{self, Holder};

pub const NAME: &str = "agent";

/// What the kernel calls the agent: the first 15 bytes of its name.
const COMM: &str = "quantix-kvm-age";

/// Ticks of /proc in a second, on every kernel for x86-64.
const TICKS: u64 = 100;

/// What was found.
pub struct Found {
    pub check: Check,
    /// The agent, if it has the port open.
    pub pid: Option<u32>,
    /// Nobody has the port open.
    pub is_port_free: bool,
}

/// Looks for whoever has this device open.
pub fn check(root: &Path, device: Option<&Path>) -> Found {
    let found = |check, pid, is_port_free| Found {
        check,
        pid,
        is_port_free,
    };
    let Some(device) = device else {
        let check = Check::unknown(NAME, "there is no device that it could have open", "");
        return found(check, None, false);
    };
    let proc = root.join("proc");
    let holders = holder::of(&proc, device);
    // A command that was handed the port's descriptor does not make it another's.
    let is_agent = |holder: &&Holder| holder.name == COMM;
    let agent = holders.found.iter().find(is_agent);
    if let Some(Holder { pid, .. }) = agent {
        return found(running(&proc, *pid), Some(*pid), false);
    }
    if let Some(Holder { pid, name }) = holders.found.first() {
        let cause = format!("another program has the port open: {name}, pid {pid}");
        let check = Check::of(NAME, Status::Fail, "", cause, format!("kill {pid}"));
        return found(check, None, false);
    }
    if !holders.all_seen {
        let seen = "the processes of others cannot be looked into";
        return found(Check::unknown(NAME, seen, "run this as root"), None, false);
    }
    let check = match idle(&proc) {
        Some(pid) => Check::of(
            NAME,
            Status::Fail,
            format!("pid {pid}"),
            "the agent runs and does not have the port open",
            super::see_log(root),
        ),
        None => Check::of(
            NAME,
            Status::Fail,
            "nobody has the port open",
            "no agent runs",
            super::agent_by(root, "start"),
        ),
    };
    found(check, None, true)
}

fn running(proc: &Path, pid: u32) -> Check {
    let stat = super::read(&proc.join(format!("{pid}/stat"))).unwrap_or_default();
    let Some((state, started)) = parse(&stat) else {
        return Check::ok(NAME, format!("pid {pid} has the port open"));
    };
    let age = clock::uptime_seconds().saturating_sub(started);
    let seen = format!(
        "pid {pid} has the port open, started {} ago",
        super::span(age)
    );
    match state {
        "T" | "t" => Check::of(
            NAME,
            Status::Fail,
            seen,
            "the agent is stopped by a signal or a debugger",
            format!("kill -CONT {pid}"),
        ),
        _ => Check::ok(NAME, seen),
    }
}

/// The state of a process, and when it was started in seconds since boot: `pid (name) state ppid ...`,
/// where the name may have any bytes in it (proc_pid_stat(5)).
fn parse(stat: &str) -> Option<(&str, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let started: u64 = fields.nth(18)?.parse().ok()?;
    Some((state, started / TICKS))
}

/// An agent that does not have the port open. One that has ended and waits to be reaped is none.
fn idle(proc: &Path) -> Option<u32> {
    let own = std::process::id();
    let mut pids = holder::pids(proc).into_iter();
    pids.find(|pid| {
        let has_file = || proc.join(format!("{pid}/exe")).read_link().is_ok();
        *pid != own && holder::name(proc, *pid) == COMM && has_file()
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
