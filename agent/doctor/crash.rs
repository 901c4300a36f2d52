//! The kernel log: whether it tells of an agent that it had to kill (dev-kmsg in the kernel's ABI
//! documentation).

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use quantix::error::system_text;
use quantix::rt::check::{Check, Status};
use quantix::rt::clock;

use super::agent::COMM;
use super::{Guest, fine, found, unknown, value};

const NAME: &str = "crash";

/// A record has at most 8 KiB, and is read whole or not at all.
const MAX_RECORD: usize = 16 * 1024;

/// More than a log buffer of 16 MiB holds.
const MAX_RECORDS: usize = 1 << 18;

/// How the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    InvalidOpcode,
    Fault,
    OutOfMemory,
}

/// What a record tells.
#[derive(Debug, PartialEq, Eq)]
struct Crash {
    /// Since boot, in seconds.
    at: u64,
    kind: Kind,
    text: String,
}

/// Looks for the last crash.
pub fn check(guest: &mut Guest) -> Check {
    let crash = match last(&guest.at("dev/kmsg")) {
        Ok(Some(crash)) => crash,
        Ok(None) => return fine(NAME, format_args!("the kernel log tells of none")),
        Err(e) => {
            return unknown(
                NAME,
                format_args!("/dev/kmsg: {}", system_text(&e)),
                "run this as root",
            );
        }
    };
    let now = clock::now().micros() / 1_000_000;
    let ago = super::span(now.saturating_sub(crash.at));
    let cpuinfo = guest.read("proc/cpuinfo");
    let processor = value(&cpuinfo, "model name", ':').unwrap_or("of unknown model");
    let newer = format!("the agent was built for a newer processor than this: {processor}");
    let (status, cause, remedy) = match crash.kind {
        Kind::InvalidOpcode => (
            // One that runs is another build.
            match guest.agent {
                Some(_) => Status::Warn,
                None => Status::Fail,
            },
            &*newer,
            "install the distribution's package of quantix-kvm-agent, built for any x86-64",
        ),
        Kind::Fault => (
            Status::Warn,
            "the agent has crashed",
            "report it with this line and the agent's log",
        ),
        Kind::OutOfMemory => (
            Status::Warn,
            "the kernel has killed the agent: memory ran out",
            "give the VM more memory, or find what takes it: dmesg",
        ),
    };
    found(
        NAME,
        status,
        format_args!("{ago} ago: {}", crash.text),
        format_args!("{cause}"),
        format_args!("{remedy}"),
    )
}

/// The last that the log tells of.
fn last(path: &Path) -> io::Result<Option<Crash>> {
    let mut log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut last = None;
    let mut buffer = vec![0; MAX_RECORD];
    for _ in 0..MAX_RECORDS {
        match log.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                // Behind the first line of a record are others, that begin with a space.
                for line in String::from_utf8_lossy(&buffer[..n]).split('\n') {
                    last = parse(line).or(last);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            // What was to be read has been overwritten: the next is the oldest that is there.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(last)
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`. Only the kernel's own, whose priority has one digit: what
/// a process writes there is of another facility.
fn parse(record: &str) -> Option<Crash> {
    let (head, text) = record.split_once(';')?;
    let kind = kind(text)?;
    let mut head = head.split(',');
    if head.next()?.len() > 1 {
        return None;
    }
    let micros: u64 = head.nth(1)?.parse().ok()?;
    Some(Crash {
        at: micros / 1_000_000,
        kind,
        text: text.to_owned(),
    })
}

fn kind(text: &str) -> Option<Kind> {
    if let Some((head, victim)) = text.split_once('(')
        && victim.starts_with(COMM)
    {
        let head = head
            .trim_ascii_end()
            .trim_end_matches(|c: char| c.is_ascii_digit());
        return head
            .ends_with("Killed process ")
            .then_some(Kind::OutOfMemory);
    }
    let trap = text.strip_prefix("traps: ").unwrap_or(text);
    let (_, what) = trap.strip_prefix(COMM)?.split_once(']')?;
    if what.starts_with(" trap invalid opcode") {
        Some(Kind::InvalidOpcode)
    } else if what.starts_with(" trap ")
        || what.starts_with(" general protection")
        || what.starts_with(": segfault at")
    {
        Some(Kind::Fault)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Kind> {
        let crash = parse(&format!("6,1234,5678901,-;{text}"))?;
        assert_eq!((crash.at, &*crash.text), (5, text));
        Some(crash.kind)
    }

    #[test]
    fn records_of_the_agents_end_are_known() {
        let trap = "traps: quantix-kvm-age[123] trap invalid opcode ip:7f09bb sp:7ffe50 error:0 \
            in quantix-kvm-agent[2bb,7f09bb+1000]";
        assert_eq!(of(trap), Some(Kind::InvalidOpcode));
        assert_eq!(
            of("traps: quantix-kvm-age[123] general protection fault ip:55 sp:7f error:0"),
            Some(Kind::Fault)
        );
        assert_eq!(
            of("quantix-kvm-age[123]: segfault at 0 ip 0000 sp 0000 error 4 in quantix-kvm-agent"),
            Some(Kind::Fault)
        );
        assert_eq!(
            of("traps: quantix-kvm-age[9] trap divide error ip:55 sp:7f error:0"),
            Some(Kind::Fault)
        );
        let killed = "Out of memory: Killed process 123 (quantix-kvm-age) total-vm:1kB";
        assert_eq!(of(killed), Some(Kind::OutOfMemory));
        assert_eq!(
            of(&format!("Memory cgroup o{}", &killed[1..])),
            Some(Kind::OutOfMemory)
        );
    }

    #[test]
    fn what_others_have_met_or_written_is_not_the_agents_end() {
        for text in [
            "traps: other[123] trap invalid opcode ip:7f09bb",
            "Out of memory: Killed process 123 (mysqld) total-vm:1kB",
            "oom_reaper: reaped process 123 (quantix-kvm-age), now anon-rss:0kB",
            "systemd[1]: quantix-kvm-age[123]: segfault at 0",
            "quantix-kvm-age: segfault at 0",
            "quantix-kvm-age[123]: port /dev/vport0p1 is open",
            "",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        let segfault = "quantix-kvm-age[123]: segfault at 0";
        // Facility 1: a process has written it.
        assert_eq!(parse(&format!("14,1234,5678901,-;{segfault}")), None);
        assert_eq!(parse(segfault), None);
        assert_eq!(parse(&format!("6,1234;{segfault}")), None);
        assert_eq!(parse(&format!(" SUBSYSTEM=x;{segfault}")), None);
    }
}
