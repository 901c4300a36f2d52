//! A command's parent: a process of its own, so that a command has one however long the agent lives.
//!
//! It starts the command, signals it, ends it with all that it has started or when its time is up, and
//! says how it ended. Where it outlives the agent, or was asked to, it keeps the command's output. One
//! of which nothing is left takes the next command.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use quantix::error::Failure;
use quantix::message::agent::{Job, JobState};
use quantix::message::{Body, agent};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, set_nonblocking, unread, wait};
use quantix::rt::sys::process::{self, Ended, Pid, Signal, Watch};
use quantix::rt::sys::shared::Shared;
use quantix::rt::sys::tty;
use quantix::time::{Time, earliest};

use super::kept::{Kept, Root};
use super::line::{self, Order, Wires, Word};
use super::ring::MAX_APPEND;
use super::{command, descendants};

/// From the request to end to the signal that cannot be refused.
pub const GRACE: Duration = Duration::from_secs(2);

/// The name that ps(1) shows.
pub const NAME: &std::ffi::CStr = c"quantix-keeper";

/// A command while it runs.
struct Keeper<'a> {
    line: &'a File,
    progress: &'a Shared,
    root: &'a Root,
    outputs: Option<[File; 2]>,
    master: Option<File>,
    who: Who,
    leader: Pid,
    /// What others are told of it.
    job: Job,
    /// When its time is up.
    deadline: Option<Time>,
    /// The leader is to end: when everything is killed.
    ending: Option<Time>,
    /// Which of its outputs have ended.
    ended: [bool; 2],
}

/// Who has to do with the command beside its keeper.
enum Who {
    /// The agent reads its output. It ends with the session.
    Agent,
    /// Whoever looks for it: its output is kept here. The agent may be there too.
    Anyone(Box<Kept>, Connected),
    /// The agent was told that it has started, and no more.
    Nobody(Connected),
}

/// Whether the agent is there.
type Connected = bool;

/// In the keeper: runs the commands that come over `line` to their ends, kept below `root` where they
/// outlive the agent, of whose outputs it has read what `progress` says. Returns the exit status of the
/// keeper itself.
pub fn keep(line: &File, progress: &Shared, root: &Root) -> i32 {
    process::set_name(NAME);
    process::adopt_orphans();
    // What a command inherits. The agent is hard to kill when memory runs out; what it starts must not be,
    // and it is larger than this.
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    process::become_ordinary();
    process::set_umask(0o022);
    let Ok(watch) = Watch::new() else {
        return process::WORKER_FAILED;
    };
    loop {
        let (request, wires) = match next_command(line, &watch) {
            Ok(Some(next)) => next,
            Ok(None) => continue,
            Err(_) => return 0,
        };
        let place = (line, progress, root);
        let (last, is_free) = run(place, &watch, &request, wires)
            .unwrap_or_else(|failure| (Body::Error(failure.to_wire()), true));
        let last = [Word::Last(last), Word::Free].into_iter();
        let count = if is_free { 2 } else { 1 };
        if line::say(line, last.take(count)).is_err() || !is_free {
            return 0;
        }
    }
}

/// The last word on the command, and whether nothing is left of it.
fn run(
    (line, progress, root): (&File, &Shared, &Root),
    watch: &Watch,
    request: &agent::Execute,
    wires: Wires,
) -> Result<(Body, bool), Failure> {
    let system = |e: io::Error| Failure::system("start", &request.command, &e);
    for output in wires.outputs.iter().flatten() {
        set_nonblocking(output).map_err(system)?;
    }
    let who = match (request.keep, request.wait_for_exit) {
        (true, _) => Who::Anyone(Box::new(root.create([0, 0])?), true),
        (false, true) => Who::Agent,
        (false, false) => Who::Nobody(true),
    };
    let begun = clock::now();
    // The command's ends are the command's alone: here they go with the end of this.
    let leader = match command::start(request, &{ wires.streams }) {
        Ok(leader) => leader,
        Err(failure) => {
            if let Who::Anyone(kept, _) = who {
                kept.forget();
            }
            return Err(failure);
        }
    };
    let timeout = Duration::from_secs(request.timeout_seconds.into());
    let mut keeper = Keeper {
        line,
        progress,
        root,
        outputs: wires.outputs,
        master: wires.master,
        who,
        leader,
        job: describe(request, leader),
        deadline: (!timeout.is_zero()).then(|| begun + timeout),
        ending: None,
        ended: [false; 2],
    };
    keeper.announce();
    let ended = keeper.run(watch).map_err(system)?;
    if keeper.ending.is_some() {
        descendants::kill();
    }
    let millis = clock::now().since(begun).as_millis();
    keeper.job.duration_ms = u64::try_from(millis).unwrap_or(u64::MAX);
    Ok(keeper.finish(ended))
}

/// Waits for it.
fn next_command(line: &File, watch: &Watch) -> io::Result<Option<(agent::Execute, Wires)>> {
    let mut waits = [Wait::read(line), Wait::read(watch)];
    wait(&mut waits, None)?;
    if watch.take() {
        return Err(ErrorKind::Interrupted.into());
    }
    match waits[0].is_ready() {
        true => line::next_command(line),
        false => Ok(None),
    }
}

fn describe(request: &agent::Execute, leader: Pid) -> Job {
    let number = |pid: i32| u32::try_from(pid).unwrap_or(0);
    let words = std::iter::once(&request.command).chain(&request.args);
    let words: Vec<&str> = words.map(String::as_str).collect();
    let command: String = words.join(" ").chars().take(MAX_SHOWN / 4).collect();
    Job {
        command,
        user: request.run_as_user.chars().take(MAX_SHOWN / 4).collect(),
        pid: number(leader.get()),
        keeper: std::process::id(),
        started: Some(clock::wall()),
        state: JobState::Running.into(),
        token: request.token.clone(),
        ..Default::default()
    }
}

/// Bytes of a command that are shown in a list.
const MAX_SHOWN: usize = 512;

impl Keeper<'_> {
    /// Says that the command has started, where nobody waits for its end.
    fn announce(&mut self) {
        if let Who::Agent = self.who {
            return;
        }
        self.begin();
        let started = agent::ExecuteResponse {
            pid: self.job.pid,
            job: self.job.job,
            ..Default::default()
        };
        let _ = line::say(self.line, [Word::Started(started)]);
    }

    /// Until the leader has ended.
    fn run(&mut self, watch: &Watch) -> io::Result<Ended> {
        loop {
            let now = clock::now();
            if self.ending.is_some_and(|at| at <= now) {
                descendants::signal(&[Signal::KILL]);
                self.ending = Some(now + GRACE);
            }
            if self.deadline.is_some_and(|at| at <= now) {
                self.deadline = None;
                self.job.timed_out = true;
                self.end(&[Signal::TERMINATE]);
            }
            let limit = earliest(self.ending, self.deadline).map(|at| at.since(now));
            let kept = matches!(self.who, Who::Anyone(..));
            // One that has ended would be ready for ever.
            let output = |at: usize| {
                let outputs = self.outputs.as_ref().filter(|_| kept && !self.ended[at]);
                outputs.map(|outputs| &outputs[at])
            };
            let mut waits = [
                Wait::read(watch),
                Wait::read_any(self.is_connected().then_some(self.line)),
                Wait::read_any(output(0)),
                Wait::read_any(output(1)),
            ];
            wait(&mut waits, limit)?;
            let [_, ordered, out, err] = waits.map(|wait| wait.is_ready());
            if watch.take() {
                self.end(&[Signal::TERMINATE]);
            }
            if let Some(ended) = self.reap() {
                return Ok(ended);
            }
            for (at, ready) in [out, err].into_iter().enumerate() {
                self.ended[at] |= ready && !self.gather(at, MAX_APPEND);
            }
            while ordered && self.is_connected() {
                match line::next_order(self.line) {
                    Ok(Some(order)) => self.obey(order),
                    Ok(None) => break,
                    Err(_) => self.on_agent_gone(),
                }
            }
        }
    }

    const fn is_connected(&self) -> bool {
        match self.who {
            Who::Agent => true,
            Who::Anyone(_, connected) | Who::Nobody(connected) => connected,
        }
    }

    /// The agent has ended, or wants no more of this command.
    fn on_agent_gone(&mut self) {
        match &mut self.who {
            Who::Anyone(_, connected) | Who::Nobody(connected) => *connected = false,
            // Whoever sat at the terminal is gone with the session.
            Who::Agent if self.master.is_some() => {
                self.who = Who::Nobody(false);
                self.obey(Order::HangUp);
            }
            Who::Agent => {
                let read = [self.progress.get(0), self.progress.get(1)];
                self.job.adopted = true;
                self.who = match self.root.create(read) {
                    Ok(kept) => Who::Anyone(Box::new(kept), false),
                    // Its output has nowhere to go, but it need not end for that.
                    Err(_) => Who::Nobody(false),
                };
                self.begin();
            }
        }
    }

    /// Others may see it now.
    fn begin(&mut self) {
        if let Who::Anyone(kept, _) = &mut self.who {
            self.job.job = kept.job;
            // Where this fails it runs unseen; nobody is left to be told.
            let _ = kept.begin(&self.job);
        }
    }

    /// Moves up to `most` bytes of an output to where it is kept. False: it has ended.
    fn gather(&mut self, at: usize, most: usize) -> bool {
        let (Some(outputs), Who::Anyone(kept, _)) = (&self.outputs, &mut self.who) else {
            return true;
        };
        let mut buffer = vec![0; most.min(MAX_APPEND)];
        match (&outputs[at]).read(&mut buffer) {
            Ok(0) if most > 0 => false,
            Ok(n) => {
                // A full /run costs the output, not the command.
                let _ = kept.append(at, &buffer[..n]);
                true
            }
            Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// The leader has ended, and all that was to end with it: the last word on it, and whether nothing is
    /// left of it.
    fn finish(mut self, ended: Ended) -> (Body, bool) {
        for at in 0..2 {
            // What is there now is all that the command itself has written.
            let mut left = self
                .outputs
                .as_ref()
                .map_or(0, |outputs| unread(&outputs[at]));
            while left > 0 {
                let before = left;
                left = left.saturating_sub(MAX_APPEND);
                self.gather(at, before - left);
            }
        }
        self.job.exit_code = ended.shell_status();
        if let Ended::Signalled(signal) = ended {
            self.job.signal = u32::try_from(signal).unwrap_or(0);
        }
        let answer = Body::ExecuteResponse(outcome(&self.job));
        let is_free = match self.who {
            // What it has left to itself would be taken for the next command's.
            Who::Agent => self.ending.is_none() && !process::has_children(),
            Who::Anyone(kept, _) => {
                let _ = kept.end(self.job);
                false
            }
            Who::Nobody(_) => false,
        };
        (answer, is_free)
    }

    /// Takes note of all children that have ended: orphans of the command, or the leader.
    fn reap(&self) -> Option<Ended> {
        let mut found = None;
        while let Some((pid, ended)) = process::reap() {
            if pid == self.leader {
                found = Some(ended);
            }
        }
        found
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Signal(signal) => {
                let foreground = self.master.as_ref().and_then(tty::foreground);
                process::signal(-foreground.unwrap_or(self.leader.get()), signal);
            }
            Order::HangUp => self.end(&[Signal::HANGUP, Signal::TERMINATE]),
        }
    }

    /// Asks the command and all that it has started to end; what does not is killed.
    fn end(&mut self, signals: &[Signal]) {
        descendants::signal(signals);
        // One that is stopped takes no notice before it goes on.
        descendants::signal(&[Signal::CONTINUE]);
        let at = clock::now() + GRACE;
        self.ending.get_or_insert(at);
    }
}

/// What an Execute is answered with when its command has ended.
pub fn outcome(job: &Job) -> agent::ExecuteResponse {
    agent::ExecuteResponse {
        exit_code: job.exit_code,
        signal: job.signal,
        timed_out: job.timed_out,
        duration_ms: job.duration_ms,
        job: job.job,
        ..Default::default()
    }
}
