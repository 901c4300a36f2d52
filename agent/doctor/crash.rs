//! The kernel log: whether it tells of an agent that it had to kill (dev-kmsg in the kernel's ABI
//! documentation).

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use quantix::error::system_text;
use quantix::rt::check::{Check, Status};
use quantix::rt::clock;

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

/// Looks for the last crash. One that an agent outlived is history, but for what comes next.
pub fn check(root: &Path, agent_runs: bool) -> Check {
    let mut last = None;
    let read = read(&root.join("dev/kmsg"), |record| {
        last = parse(record).or(last.take());
    });
    let crash = match (last, read) {
        (Some(crash), _) => crash,
        (None, Ok(())) => return Check::ok(NAME, "the kernel log tells of none"),
        (None, Err(e)) => {
            let seen = format!("/dev/kmsg: {}", system_text(&e));
            return Check::unknown(NAME, seen, "run this as root");
        }
    };
    let now = clock::now().micros() / 1_000_000;
    let ago = super::span(now.saturating_sub(crash.at));
    let seen = format!("{ago} ago: {}", crash.text);
    let (status, cause, remedy) = match crash.kind {
        Kind::InvalidOpcode => (
            if agent_runs {
                Status::Warn
            } else {
                Status::Fail
            },
            format!(
                "the agent was built for a newer processor than this: {}",
                processor(root)
            ),
            "install the distribution's package of quantix-kvm-agent, built for any x86-64",
        ),
        Kind::Fault => (
            Status::Warn,
            "the agent has crashed".to_owned(),
            "report it with this line and the agent's log",
        ),
        Kind::OutOfMemory => (
            Status::Warn,
            "the kernel has killed the agent: memory ran out".to_owned(),
            "give the VM more memory, or find what takes it: dmesg",
        ),
    };
    Check::of(NAME, status, seen, cause, remedy)
}

/// Gives each line of the log to `take`.
fn read(path: &Path, mut take: impl FnMut(&str)) -> io::Result<()> {
    let mut log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut buffer = vec![0; MAX_RECORD];
    for _ in 0..MAX_RECORDS {
        match log.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => String::from_utf8_lossy(&buffer[..n])
                .lines()
                .for_each(&mut take),
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            // What was to be read has been overwritten: the next is the oldest that is there.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`. Only the kernel's own: it is facility 0, and whatever
/// a process writes there is not.
fn parse(record: &str) -> Option<Crash> {
    let (head, text) = record.split_once(';')?;
    let mut head = head.split(',');
    let priority: u32 = head.next()?.parse().ok()?;
    let micros: u64 = head.nth(1)?.parse().ok()?;
    let kind = kind(text).filter(|_| priority < 8)?;
    Some(Crash {
        at: micros / 1_000_000,
        kind,
        text: text.to_owned(),
    })
}

fn kind(text: &str) -> Option<Kind> {
    if let Some((_, victim)) = text.split_once("Killed process ") {
        return victim
            .contains(" (quantix-kvm-age")
            .then_some(Kind::OutOfMemory);
    }
    let trap = text.strip_prefix("traps: ").unwrap_or(text);
    let (pid, what) = trap.strip_prefix("quantix-kvm-age[")?.split_once(']')?;
    pid.parse::<u32>().ok()?;
    if what.starts_with(" trap invalid opcode") {
        return Some(Kind::InvalidOpcode);
    }
    let faults = [" general protection", ": segfault at", " trap "];
    faults
        .iter()
        .any(|fault| what.starts_with(fault))
        .then_some(Kind::Fault)
}

/// What the processor calls itself.
fn processor(root: &Path) -> String {
    let text = super::read(&root.join("proc/cpuinfo")).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let model = lines.find(|(key, _)| key.trim() == "model name");
    model
        .map_or("of unknown model", |(_, model)| model.trim())
        .to_owned()
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
            "systemd[1]: quantix-kvm-age[123]: segfault at 0",
            "quantix-kvm-age[x]: segfault at 0",
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
