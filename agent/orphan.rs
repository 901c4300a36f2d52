//! Whether process 1 does its work: it takes every process that has died without a parent. One that hangs does not,
//! and in the end no process can be started. A child makes such an orphan, and looks whether it goes.
//!
//! There is one at a time: where process 1 does not take it, it is waited for until it does.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::time::Duration;

use mio::{Registry, Token};
use quantix::rt::sys::fd::{Wait, pipe, wait};
use quantix::rt::sys::process::{self, WORKER_FAILED, set_name};
use quantix::time::Time;

use crate::probe::Probe;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(60);

/// Process 1 takes an orphan within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of process 1.
#[derive(Debug)]
pub struct Orphan {
    token: Token,
    next: Time,
    looking: Option<Probe>,
}

impl Orphan {
    /// Nothing is known; the first look may be at `now`.
    pub const fn new(now: Time, token: Token) -> Self {
        Self {
            token,
            next: now,
            looking: None,
        }
    }

    /// Looks, if it is time for that.
    pub fn begin(&mut self, now: Time, registry: &Registry) {
        if self.looking.is_none() && now >= self.next {
            self.next = now + INTERVAL;
            self.looking = Probe::start(now, PATIENCE, registry, self.token, look).ok();
        }
    }

    /// An event came for the child's pipe.
    pub fn on_ready(&mut self) {
        self.looking.take_if(|probe| probe.on_ready(0));
    }

    /// Process 1 has had its time, and has not taken what has died.
    pub fn is_left(&self, now: Time) -> bool {
        let probe = self.looking.as_ref();
        probe.is_some_and(|probe| probe.deadline <= now)
    }
}

/// In the child: until the orphan is gone, or the agent. Where none can be made there is nothing to say.
fn look(agent: &File) -> i32 {
    // Not to be taken for the agent: they may stay for long.
    set_name(c"qx-orphan");
    match orphan() {
        Some(pid) => {
            let mut pause = Duration::from_millis(20);
            while is_left(pid) && wait(&mut [Wait::read(agent)], Some(pause)).is_ok_and(|n| n == 0)
            {
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            0
        }
        None => WORKER_FAILED,
    }
}

/// A process whose parent has died, and which dies at once.
fn orphan() -> Option<i32> {
    let (mut reader, writer) = pipe().ok()?;
    let parent = process::spawn(&[&writer], || {
        let written =
            process::spawn(&[], || 0).and_then(|pid| (&writer).write_all(&pid.get().to_ne_bytes()));
        if written.is_ok() { 0 } else { WORKER_FAILED }
    });
    let parent = parent.ok()?;
    drop(writer);
    let mut pid = [0; 4];
    let read = reader.read_exact(&mut pid);
    process::wait(parent).ok()?;
    read.ok().map(|()| i32::from_ne_bytes(pid))
}

/// Process 1 has it, dead or about to die. It is ours by its name: another may get its number.
fn is_left(pid: i32) -> bool {
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let read = || {
        let (own, its) = (stat("self")?, stat(&pid.to_string())?);
        let (own, its) = (name_and_parent(&own)?, name_and_parent(&its)?);
        Some(its == (own.0, "1"))
    };
    read().unwrap_or(false)
}

/// Of a line as "12 (a name) S 1 ..." (proc_pid_stat(5)).
fn name_and_parent(stat: &str) -> Option<(&str, &str)> {
    let (name, behind) = stat.rsplit_once(')')?;
    Some((name.split_once('(')?.1, behind.split(' ').nth(2)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lives_is_not_left() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_left(own) && !is_left(i32::MAX));
        assert_eq!(
            name_and_parent("12 (a) (b) c) Z 1 7"),
            Some(("a) (b) c", "1"))
        );
        assert_eq!(name_and_parent("12 (a"), None);
    }
}
