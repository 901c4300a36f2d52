//! Requests that take time: each has a forked child, and this is the table of them.
//!
//! The loop never waits for a child. A child ends by itself, or is asked to, or is killed; then its
//! request is answered, once. [`Job::answer`] is the one door out.

mod answer;
mod ask;
mod bulk;
mod command;
mod descendants;
mod exec;
mod keeper;
mod kept;
mod lease;
mod line;
mod pipe;
mod read;
mod replay;
mod ring;
mod sink;
mod source;
mod standby;
mod tree;
mod worker;
mod write;

use answer::{Answer, report};
pub use command::PATH;
pub use keeper::NAME as KEEPER;
pub use pipe::Inlet;
pub use source::Source;
pub use worker::{Worker, confine};

use std::path::Path;
use std::time::Duration;

use mio::{Registry, Token};
use quantix::chunk::Chunk;
use quantix::credit::Fault;
use quantix::error::{Code, Failure};
use quantix::guest::Guest;
use quantix::ids::MessageId;
use quantix::message::{Body, Stream};
use quantix::rt::sys::process::{self, Ended, Pid, Signal};
use quantix::time::{Time, earliest};

use crate::ops;
use crate::policy::Policy;

/// Jobs at once. Each may hold an answer of a frame or a stream's window in memory.
pub const MAX_JOBS: usize = 32;

/// Tokens from this one on belong to jobs: `PIPES` for each.
const PIPES: usize = 4;

/// Room in a command's pipes, in bytes.
const PIPE_SIZE: i32 = 256 * 1024;

/// From the request to end to the signal that cannot be refused. A command's keeper kills it before.
const GRACE: Duration = keeper::GRACE.saturating_mul(2);

/// The table.
#[derive(Debug)]
pub struct Jobs {
    /// Where commands are kept that outlive the session.
    root: kept::Root,
    /// The next command's.
    keepers: standby::Next,
    slots: Vec<Option<Job>>,
    first_token: usize,
    /// Where the next chunk is looked for first, so that every stream gets its turn.
    next: usize,
    /// Memory of a chunk that comes out of a pipe.
    home: lease::Home,
}

#[derive(Debug)]
struct Job {
    id: MessageId,
    pid: Pid,
    work: Work,
    life: Life,
    /// When a command that has a time must have ended: its keeper ends it before, unless that hangs.
    overdue: Option<Time>,
}

#[derive(Debug)]
enum Work {
    Exec(Box<exec::Exec>),
    Incoming(bulk::Incoming),
    Outgoing(bulk::Outgoing),
    Ask(Worker),
}

/// How far the child is from its end.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// It works.
    Running,
    /// It was asked to end, and is killed at `until`.
    Ending { why: Why, until: Time },
    /// It was killed. One that is not gone at `until` hangs in the kernel: its request is answered
    /// without it.
    Killed { why: Why, until: Time },
    /// It is gone, or has said its last word; its last bytes may still be in the pipes.
    Ended { ended: Ended, why: Option<Why> },
}

/// Why a child has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Cancelled,
    /// The host sent a chunk out of order, or more than it was allowed.
    BrokenStream,
    /// Its time was up, and it did not end.
    Overdue,
    /// Nobody waits for the answer any more.
    SessionOver,
}

impl Why {
    /// Of two reasons, one behind the other, the one that is answered with: none for a session that is
    /// over.
    const fn or_then(self, later: Self) -> Self {
        match later {
            Self::SessionOver => later,
            _ => self,
        }
    }
}

impl Jobs {
    /// An empty table whose pipes have tokens from `first_token` on.
    /// Commands that outlive the session are kept below the directory `run`.
    pub fn new(first_token: usize, run: &Path) -> Self {
        Self {
            root: kept::Root::new(run),
            keepers: standby::Next::default(),
            slots: Vec::new(),
            first_token,
            next: 0,
            home: lease::Home::default(),
        }
    }

    /// Starts the child for a request that the policy allows, but for its paths.
    ///
    /// # Errors
    /// What the request is to be answered with instead.
    pub fn start(
        &mut self,
        now: Time,
        id: MessageId,
        request: &Body,
        policy: &Policy,
        registry: &Registry,
    ) -> Result<(), Failure> {
        if self.slots.iter().flatten().any(|job| job.id == id) {
            return Err(Failure::new(Code::Invalid, "this id is in use"));
        }
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.slots.len() < MAX_JOBS => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => {
                let why = format!("{MAX_JOBS} requests are running in this guest; try again later");
                return Err(Failure::new(Code::Busy, why));
            }
        };
        let share = bulk::share(self.slots.iter().flatten().map(Job::slots).sum());
        let first = self.first_token + slot * PIPES;
        let token = |pipe| Token(first + pipe);
        let (pid, work) = match request {
            Body::Execute(request) => {
                command::check(request)?;
                let system = |e| Failure::system("start", &request.command, &e);
                let keeper = self.keepers.take(now, &self.root).map_err(system)?;
                let started = exec::Exec::start(request, keeper, registry, token);
                let (pid, exec) = started.map_err(system)?;
                (pid, Work::Exec(Box::new(exec)))
            }
            Body::ReadFile(request) => {
                let (pid, worker) = read::start(request, policy, share, registry, &token)?;
                (pid, Work::Outgoing(worker))
            }
            Body::AttachJob(request) => {
                let (pid, worker) = replay::start(request, &self.root, registry, token)?;
                (pid, Work::Ask(worker))
            }
            Body::ListJobs(_) => {
                let (pid, worker) = ask::list(&self.root, registry, token)?;
                (pid, Work::Ask(worker))
            }
            Body::KillJob(request) => {
                let (pid, worker) = ask::kill(request, &self.root, registry, token)?;
                (pid, Work::Ask(worker))
            }
            Body::WriteFile(request) => {
                let (pid, worker) = write::start(request, &policy.writes, share, registry, &token)?;
                (pid, Work::Incoming(worker))
            }
            Body::ReadTree(request) => {
                let (pid, worker) = tree::read(request, &policy.reads, share, registry, &token)?;
                (pid, Work::Outgoing(worker))
            }
            Body::WriteTree(request) => {
                let (pid, worker) = tree::write(request, &policy.writes, share, registry, &token)?;
                (pid, Work::Incoming(worker))
            }
            _ => {
                let (pid, worker) = ops::start(request, registry, token)?;
                (pid, Work::Ask(worker))
            }
        };
        self.slots[slot] = Some(Job {
            id,
            pid,
            work,
            life: Life::Running,
            overdue: overdue(now, request),
        });
        Ok(())
    }

    /// An event came for this token.
    pub fn on_ready(&mut self, token: Token) {
        let Some(at) = token.0.checked_sub(self.first_token) else {
            return;
        };
        if let Some(Some(job)) = self.slots.get_mut(at / PIPES) {
            match &mut job.work {
                Work::Exec(exec) => exec.on_ready(at % PIPES),
                Work::Incoming(worker) => worker.on_ready(at % PIPES),
                Work::Outgoing(worker) => worker.on_ready(at % PIPES),
                Work::Ask(worker) => worker.on_ready(at % PIPES),
            }
        }
    }

    /// A child of this process has ended. One that is not in the table was left to itself, or has said
    /// its last word before.
    pub fn on_exit(&mut self, pid: Pid, ended: Ended) {
        self.keepers.on_exit(pid);
        let mut jobs = self.slots.iter_mut().flatten();
        if let Some(job) = jobs.find(|job| job.pid == pid && !job.life.is_ended()) {
            job.on_ended(ended);
        }
    }

    /// A chunk of a request's stream came.
    pub fn on_chunk(&mut self, now: Time, id: &MessageId, chunk: &Chunk) {
        // A chunk for a request that has just been answered is late, not wrong.
        let Some(job) = self.find(id) else { return };
        let received = match &mut job.work {
            Work::Exec(exec) => exec.receive(chunk),
            Work::Incoming(worker) => worker.receive(chunk),
            Work::Outgoing(_) | Work::Ask(_) => Err(Fault::Overspent),
        };
        if received.is_err() {
            job.end(now, Why::BrokenStream);
        }
    }

    /// The host takes more of a request's stream.
    pub fn on_credit(&mut self, id: &MessageId, stream: Stream, total: u64) {
        match self.find(id).map(|job| &mut job.work) {
            Some(Work::Exec(exec)) => exec.allow(stream, total),
            Some(Work::Ask(worker)) => worker.sources.allow(stream, total),
            Some(Work::Outgoing(worker)) => worker.allow(stream, total),
            Some(Work::Incoming(_)) | None => {}
        }
    }

    /// The host has something to say to a command. One that has just ended does not hear it.
    pub fn on_told(&mut self, id: &MessageId, what: &Body) {
        if let Some(Work::Exec(exec)) = self.find(id).map(|job| &mut job.work) {
            exec.told(what);
        }
    }

    /// The host takes a request back.
    pub fn on_cancel(&mut self, now: Time, id: &MessageId) {
        if let Some(job) = self.find(id) {
            job.end(now, Why::Cancelled);
        }
    }

    /// The agent is about to end. Commands are left to their keepers, but for those on a terminal: it
    /// may be one of them that has it end, to install another. All else ends.
    pub fn leave(&mut self) {
        self.keepers.dismiss();
        for slot in &mut self.slots {
            // Its keeper sees that nobody is at the other end.
            slot.take_if(|job| matches!(job.work, Work::Exec(_)));
        }
    }

    /// The session is over: what is waited for ends, and is not answered.
    pub fn on_session_over(&mut self, now: Time) {
        self.keepers.dismiss();
        for job in self.slots.iter_mut().flatten() {
            job.end(now, Why::SessionOver);
        }
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.slots
            .iter()
            .flatten()
            .fold(self.keepers.poll_timeout(), |at, job| {
                earliest(at, job.poll_timeout())
            })
    }

    /// Ends what has had its time, kills what did not end.
    pub fn on_timeout(&mut self, now: Time) {
        self.keepers.on_timeout(now);
        for job in self.slots.iter_mut().flatten() {
            if job.poll_timeout().is_some_and(|at| at <= now) {
                job.on_timeout(now);
            }
        }
    }

    /// Moves bytes and answers what is done. True: there is more to read without another event.
    pub fn turn(&mut self, guest: &mut Guest) -> bool {
        let mut more = false;
        for slot in &mut self.slots {
            let Some(job) = slot else { continue };
            match job.turn(guest) {
                Turn::Waits => {}
                Turn::HasMore => more = true,
                Turn::Done => {
                    if let Some(Work::Exec(exec)) = slot.take().map(|job| job.work)
                        && let Some(keeper) = exec.release()
                    {
                        self.keepers.put(keeper);
                    }
                }
            }
        }
        more
    }

    /// Takes one chunk from the next stream that has one. True: it did.
    pub fn pull(&mut self, guest: &mut Guest) -> bool {
        if !guest.wants_chunk() {
            return false;
        }
        let count = self.slots.len();
        for at in (0..count).map(|n| (self.next + n) % count) {
            if let Some(Some(job)) = self.slots.get_mut(at)
                && job.pull(guest, &self.home)
            {
                self.next = at + 1;
                return true;
            }
        }
        self.home.release();
        false
    }

    /// No request is being worked on.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    fn find(&mut self, id: &MessageId) -> Option<&mut Job> {
        self.slots.iter_mut().flatten().find(|job| job.id == *id)
    }
}

enum Turn {
    Waits,
    HasMore,
    Done,
}

impl Life {
    const fn why(self) -> Option<Why> {
        match self {
            Self::Running => None,
            Self::Ending { why, .. } | Self::Killed { why, .. } => Some(why),
            Self::Ended { why, .. } => why,
        }
    }

    const fn is_ended(self) -> bool {
        matches!(self, Self::Ended { .. })
    }
}

impl Job {
    /// Slots of memory for bulk data that it has.
    const fn slots(&self) -> usize {
        match &self.work {
            Work::Incoming(worker) => worker.slots,
            Work::Outgoing(worker) => worker.slots,
            Work::Exec(_) | Work::Ask(_) => 0,
        }
    }

    fn on_ended(&mut self, ended: Ended) {
        let why = self.life.why();
        self.life = Life::Ended { ended, why };
        match &mut self.work {
            Work::Exec(exec) => exec.finish(),
            Work::Ask(worker) => worker.sources.finish(),
            Work::Outgoing(worker) => worker.finish(),
            Work::Incoming(_) => {}
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        match self.life {
            Life::Running => self.overdue,
            Life::Ending { until, .. } | Life::Killed { until, .. } => Some(until),
            Life::Ended { .. } => None,
        }
    }

    fn on_timeout(&mut self, now: Time) {
        match self.life {
            Life::Running => self.kill(now, Why::Overdue),
            Life::Ending { why, .. } => self.kill(now, why),
            Life::Killed { why, .. } => {
                self.life = Life::Ended {
                    ended: Ended::Signalled(9),
                    why: Some(why),
                };
            }
            Life::Ended { .. } => {}
        }
    }

    fn kill(&mut self, now: Time, why: Why) {
        process::signal_group(self.pid, Signal::KILL);
        let until = now + GRACE;
        self.life = Life::Killed { why, until };
    }

    /// Asks the child to end.
    fn end(&mut self, now: Time, why: Why) {
        match &mut self.life {
            Life::Running => {}
            // Its answer, or the rest of its output, is no longer wanted, whyever it is being ended.
            Life::Ending { why: known, .. } | Life::Killed { why: known, .. } => {
                *known = known.or_then(why);
                return;
            }
            Life::Ended { why: known, .. } => {
                *known = Some(known.map_or(why, |known| known.or_then(why)));
                return;
            }
        }
        match &mut self.work {
            Work::Exec(exec) => exec.hang_up(),
            Work::Ask(_) | Work::Outgoing(_) => process::signal_group(self.pid, Signal::KILL),
            // It removes its temporary file and ends.
            Work::Incoming(worker) => worker.abandon(),
        }
        self.life = Life::Ending {
            why,
            until: now + GRACE,
        };
    }

    /// Sends a chunk if there is one. True: it did, or found an end.
    fn pull(&mut self, guest: &mut Guest, home: &lease::Home) -> bool {
        let why = self.life.why();
        match &mut self.work {
            Work::Exec(exec) if why.is_none() => exec.pull(&self.id, guest, home),
            Work::Ask(worker) if why.is_none() => worker.sources.pull(&self.id, guest, home),
            Work::Outgoing(worker) if why.is_none() => worker.pull(&self.id, guest),
            _ => false,
        }
    }

    fn turn(&mut self, guest: &mut Guest) -> Turn {
        match &mut self.work {
            Work::Exec(exec) => {
                if let Some(total) = exec.turn() {
                    guest.grant(&self.id, Stream::Stdin, total);
                }
                if let Some(started) = exec.poll_started() {
                    self.answer(guest, Ok(Body::ExecuteResponse(started)));
                    return Turn::Done;
                }
                if exec.is_over() && !self.life.is_ended() {
                    self.on_ended(Ended::Exited(0));
                }
            }
            Work::Ask(worker) => worker.result.gather(),
            Work::Outgoing(worker) => worker.result.gather(),
            Work::Incoming(worker) => {
                worker.result.gather();
                if let Some(total) = worker.turn() {
                    guest.grant(&self.id, Stream::Data, total);
                }
            }
        }
        let Life::Ended { ended, why } = self.life else {
            return match &self.work {
                Work::Exec(exec) if exec.has_more() => Turn::HasMore,
                _ => Turn::Waits,
            };
        };
        if why == Some(Why::SessionOver) {
            return Turn::Done;
        }
        let is_drained = match &mut self.work {
            Work::Exec(exec) if why.is_none() => {
                if exec.has_more() {
                    return Turn::HasMore;
                }
                exec.is_drained()
            }
            Work::Ask(worker) if why.is_none() => worker.is_drained(),
            Work::Outgoing(worker) if why.is_none() => worker.is_drained(),
            _ => true,
        };
        if !is_drained {
            return Turn::Waits;
        }
        if !guest.has_room(ANSWER_ROOM) {
            return Turn::Waits;
        }
        let answer = self.outcome(ended, why);
        self.answer(guest, answer);
        Turn::Done
    }

    /// What a child that has ended leaves to be answered.
    fn outcome(&mut self, ended: Ended, why: Option<Why>) -> Result<Body, Failure> {
        let cancelled = || match why {
            Some(Why::BrokenStream) => Failure::new(
                Code::Invalid,
                "a chunk was out of order, or larger than the credit",
            ),
            Some(Why::Overdue) => Failure::new(
                Code::TimedOut,
                "its time was up, and it could not be ended: a file system may hang",
            ),
            _ => Failure::new(Code::Cancelled, "cancelled"),
        };
        match &mut self.work {
            Work::Exec(exec) if why.is_none() => exec.answer(),
            Work::Exec(_) => Err(cancelled()),
            Work::Ask(_) | Work::Outgoing(_) if why.is_some() => Err(cancelled()),
            Work::Ask(worker) => worker.result.take(ended),
            Work::Outgoing(worker) => worker.result.take(ended),
            Work::Incoming(worker) => match worker.result.take(ended) {
                Err(_) if why.is_some() => Err(cancelled()),
                answer => answer,
            },
        }
    }

    /// The one door out: the request's only final answer.
    fn answer(&self, guest: &mut Guest, answer: Result<Body, Failure>) {
        match answer {
            Ok(body) => guest.answer(&self.id, body),
            Err(failure) => {
                guest.drop_stream(&self.id);
                guest.refuse(&self.id, &failure);
            }
        }
    }
}

/// See [`Job::overdue`].
fn overdue(now: Time, request: &Body) -> Option<Time> {
    let Body::Execute(request) = request else {
        return None;
    };
    let timeout = Duration::from_secs(request.timeout_seconds.into());
    (!timeout.is_zero()).then(|| now + timeout + GRACE)
}

/// An answer waits in its job until the control lane has room for the largest.
const ANSWER_ROOM: usize = quantix::limits::MAX_FRAME;

/// Names are absolute: the agent's own directory means nothing to the host.
fn absolute(path: &str) -> Result<(), Failure> {
    let why = if path.is_empty() {
        "the path is empty".to_owned()
    } else if !path.starts_with('/') {
        format!("{path}: not an absolute path in the guest")
    } else if path.contains('\0') {
        "the path has a NUL byte in it".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::new(Code::Invalid, why))
}
