//! All processes that a command has started, its orphans too: a keeper is the reaper of its
//! descendants (PR_SET_CHILD_SUBREAPER), so that none can get out of its tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use quantix::rt::sys::fd::rest;
use quantix::rt::sys::process::{self, Signal};

use crate::holder;

/// A process that forks as fast as it is killed is followed for so many rounds.
const ROUNDS: usize = 200;

/// Between two rounds: time for what was killed to go.
const PAUSE: Duration = Duration::from_millis(5);

/// Sends signals to every descendant of this process.
pub fn signal(signals: &[Signal]) {
    for pid in descendants() {
        for signal in signals {
            process::signal(pid, *signal);
        }
    }
}

/// Kills every descendant of this process, until none is left.
pub fn kill() {
    for _ in 0..ROUNDS {
        while process::reap().is_some() {}
        let left = descendants();
        if left.is_empty() {
            return;
        }
        for pid in left {
            process::signal(pid, Signal::KILL);
        }
        rest(PAUSE);
    }
}

/// The descendants of this process that still run.
fn descendants() -> BTreeSet<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let proc = Path::new("/proc");
    let pids = holder::others(proc).into_iter();
    let stats = pids.filter_map(|pid| fs::read(holder::file(proc, pid, "stat")).ok());
    tree(
        own,
        &stats.filter_map(|stat| parse(&stat)).collect::<Vec<_>>(),
    )
}

/// A process, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    /// It has ended and waits for its parent to take note.
    is_zombie: bool,
}

/// `pid (name) state ppid ...`, where the name may have any bytes in it (proc(5)).
fn parse(stat: &[u8]) -> Option<Process> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let number = |bytes: &[u8]| std::str::from_utf8(bytes.trim_ascii()).ok()?.parse().ok();
    let pid = number(stat.get(..open)?)?;
    let mut fields = stat
        .get(end + 1..)?
        .trim_ascii()
        .split(|byte| *byte == b' ');
    let state = fields.next()?;
    Some(Process {
        pid,
        parent: number(fields.next()?)?,
        is_zombie: matches!(state, b"Z" | b"X"),
    })
}

fn tree(root: i32, all: &[Process]) -> BTreeSet<i32> {
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        let children = all.iter().filter(|process| found.contains(&process.parent));
        let children: Vec<i32> = children.map(|process| process.pid).collect();
        found.extend(children);
        if found.len() == before {
            break;
        }
    }
    let runs = |pid: &i32| {
        !all.iter()
            .any(|process| process.pid == *pid && process.is_zombie)
    };
    found
        .into_iter()
        .filter(|pid| *pid != root && runs(pid))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_fields_behind_it() {
        let process = parse(b"42 (a) Z 1 (x) S 7 42 42 0 -1\n").unwrap();
        assert_eq!(
            (process.pid, process.parent, process.is_zombie),
            (42, 7, false)
        );
        let process = parse(b"43 (\xff \n) Z 42 1\n").unwrap();
        assert_eq!(
            (process.pid, process.parent, process.is_zombie),
            (43, 42, true)
        );
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"42 )("), None);
    }

    #[test]
    fn a_tree_is_whole_whatever_the_order_and_leaves_others_alone() {
        let process = |pid, parent, is_zombie| Process {
            pid,
            parent,
            is_zombie,
        };
        let all = [
            process(30, 20, false),
            process(20, 10, true),
            process(10, 1, false),
            process(11, 1, false),
            process(31, 30, false),
        ];
        assert_eq!(tree(10, &all), BTreeSet::from([30, 31]));
        assert_eq!(tree(31, &all), BTreeSet::new());
    }
}
