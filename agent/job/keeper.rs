//! A command's parent: a process of its own, so that a command has one however long the agent lives.
//!
//! It starts the command, signals it, ends it with all that it has started or when its time is up, and
//! says how it ended. Where it outlives the agent, or was asked to, it keeps the command's output. The
//! agent and its keeper talk over a pair of sockets: orders of two bytes one way, frames of a message
//! with a length in front the other way.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use quantix::error::{Code, Failure};
use quantix::message::agent::{Job, JobState};
use quantix::message::{AgentMessage, Body, agent, message};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, pipe, set_nonblocking, unread, wait};
use quantix::rt::sys::process::{self, Ended, Keep, Pid, Signal};
use quantix::rt::sys::shared::Shared;
use quantix::rt::sys::tty;
use quantix::time::{Time, earliest};

use super::command::{Streams, become_command};
use super::descendants;
use super::kept::{Kept, Root};
use super::ring::MAX_APPEND;

/// What the agent wants of a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Sends this signal to the command.
    Signal(Signal),
    /// Nobody waits for it any more: ends the command and all that it has started.
    HangUp,
}

/// From the request to end to the signal that cannot be refused.
pub const GRACE: Duration = Duration::from_secs(2);

/// The name that ps(1) shows.
const NAME: &std::ffi::CStr = c"quantix-keeper";

impl Order {
    /// On the wire.
    pub fn bytes(self) -> [u8; 2] {
        match self {
            Self::Signal(signal) => [b's', u8::try_from(signal.number()).unwrap_or(0)],
            Self::HangUp => *b"h\0",
        }
    }

    fn parse(bytes: [u8; 2]) -> Option<Self> {
        match bytes {
            [b's', number] => Signal::parse(number.into()).map(Self::Signal),
            [b'h', _] => Some(Self::HangUp),
            _ => None,
        }
    }
}

/// What a keeper is given.
pub struct Task<'a> {
    /// What to run.
    pub request: &'a agent::Execute,
    /// The command's ends.
    pub streams: Streams,
    /// Our ends of its stdout and stderr. The agent reads from them as long as it lives.
    pub outputs: Option<[File; 2]>,
    /// Our end of its terminal.
    pub master: Option<File>,
    /// To the agent.
    pub control: File,
    /// How much of each output the agent has read.
    pub progress: Rc<Shared>,
    /// Where it is kept if it outlives the agent.
    pub root: Root,
}

impl Task<'_> {
    /// All that the keeper's process needs.
    pub fn files(&self) -> Vec<&File> {
        let mut files = self.streams.files();
        files.extend(self.outputs.iter().flatten());
        files.extend(&self.master);
        files.push(&self.control);
        files
    }
}

/// A command while it runs.
struct Keeper {
    control: File,
    outputs: Option<[File; 2]>,
    master: Option<File>,
    progress: Rc<Shared>,
    root: Root,
    who: Who,
    leader: Pid,
    /// What others are told of it.
    job: Job,
    /// What the command's process says before it becomes the command; closed by that.
    start: Option<File>,
    failure: Vec<u8>,
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

/// In the keeper: runs the command to its end. Returns the exit status of the keeper itself.
pub fn keep(task: Task) -> i32 {
    let Ok(control) = task.control.try_clone() else {
        return process::WORKER_FAILED;
    };
    let answer = run(task).unwrap_or_else(|failure| Body::Error(failure.to_wire()));
    i32::from(tell(&control, answer).is_err())
}

fn run(task: Task) -> Result<Body, Failure> {
    let request = task.request;
    let system = |e: io::Error| Failure::system("start", &request.command, &e);
    process::set_name(NAME);
    process::adopt_orphans();
    let watch = process::Watch::new().map_err(system)?;
    let who = match (request.keep, request.wait_for_exit) {
        (true, _) => Who::Anyone(Box::new(task.root.create([0, 0])?), true),
        (false, true) => Who::Agent,
        (false, false) => Who::Nobody(true),
    };
    let (start, child_start) = pipe().map_err(system)?;
    set_nonblocking(&task.control).map_err(system)?;
    for output in task.outputs.iter().flatten() {
        set_nonblocking(output).map_err(system)?;
    }
    let mut keep = task.streams.files();
    keep.push(&child_start);
    let keep = Keep::from(&keep[..]);
    let begun = clock::now();
    // The command's ends are the command's alone: they go with it.
    let streams = task.streams;
    let leader = process::spawn(keep, move || {
        // Comes back only if there is no command to become.
        let failure = become_command(request, &streams);
        let _ = (&child_start).write_all(&failure.to_wire().encode_to_vec());
        process::WORKER_FAILED
    })
    .map_err(system)?;
    let timeout = Duration::from_secs(request.timeout_seconds.into());
    let mut keeper = Keeper {
        control: task.control,
        outputs: task.outputs,
        master: task.master,
        progress: task.progress,
        root: task.root,
        who,
        leader,
        job: describe(request, leader),
        start: Some(start),
        failure: Vec::new(),
        deadline: (!timeout.is_zero()).then(|| begun + timeout),
        ending: None,
        ended: [false; 2],
    };
    let ended = keeper.run(&watch).map_err(system)?;
    if keeper.ending.is_some() {
        descendants::kill();
    }
    keeper.read_start();
    let millis = clock::now().since(begun).as_millis();
    keeper.job.duration_ms = u64::try_from(millis).unwrap_or(u64::MAX);
    keeper.finish(ended)
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

impl Keeper {
    /// Until the leader has ended.
    fn run(&mut self, watch: &process::Watch) -> io::Result<Ended> {
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
                Wait::read_any(self.is_connected().then_some(&self.control)),
                Wait::read_any(self.start.as_ref()),
                Wait::read_any(output(0)),
                Wait::read_any(output(1)),
            ];
            wait(&mut waits, limit)?;
            let [_, ordered, started, out, err] = waits.map(|wait| wait.is_ready());
            if started {
                self.read_start();
            }
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
                match self.next_order() {
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

    /// The leader has ended, and all that was to end with it: the last word on it.
    fn finish(mut self, ended: Ended) -> Result<Body, Failure> {
        if !self.failure.is_empty() {
            if let Who::Anyone(kept, _) = self.who {
                kept.forget();
            }
            return Ok(Body::Error(decode_failure(&self.failure)));
        }
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
        let answer = outcome(&self.job);
        if let Who::Anyone(kept, _) = self.who {
            let _ = kept.end(self.job);
        }
        Ok(Body::ExecuteResponse(answer))
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

    /// The agent's next order; an error once the agent has gone.
    fn next_order(&self) -> io::Result<Option<Order>> {
        let mut bytes = [0; 2];
        let mut control = &self.control;
        match control.read(&mut bytes) {
            Ok(2) => Ok(Order::parse(bytes)),
            Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
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

    /// Reads what the command's process has to say before it is the command. Nothing: it is.
    fn read_start(&mut self) {
        let Some(start) = &mut self.start else { return };
        let _ = start.take(MAX_FAILURE).read_to_end(&mut self.failure);
        self.start = None;
        if self.failure.is_empty() {
            self.begin();
            let started = agent::ExecuteResponse {
                pid: self.job.pid,
                job: self.job.job,
                ..Default::default()
            };
            let _ = tell(&self.control, Body::ExecuteResponse(started));
        }
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

/// What a process wrote that did not become a command.
fn decode_failure(bytes: &[u8]) -> agent::Error {
    agent::Error::decode(bytes).unwrap_or_else(|_| {
        let why = "the command could not be started, nor why be said";
        Failure::new(Code::Internal, why).to_wire()
    })
}

/// Bytes of what a command's process may have to say.
const MAX_FAILURE: u64 = 8192;

/// Puts a frame onto the control socket, which has room for all that a keeper ever says.
fn tell(mut control: &File, body: Body) -> io::Result<()> {
    let body = message("", body).encode_to_vec();
    let length = u16::try_from(body.len()).map_err(|_| ErrorKind::InvalidData)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(body);
    control.write_all(&frame)
}

/// Takes the next whole frame out of what a keeper has said.
pub fn take_frame(said: &mut Vec<u8>) -> Option<Body> {
    let (length, rest) = said.split_first_chunk::<2>()?;
    let body = rest.get(..u16::from_be_bytes(*length).into())?;
    let found = AgentMessage::decode(body).ok().and_then(|found| found.body);
    said.drain(..2 + body.len());
    found
}
