//! Freezing file systems, as the loop sees it: one freezer at a time, a child that answers by reports.
//!
//! From the request to the last report nothing is done that could touch a disk: see [`may_pass`]. However
//! the freezer ends, what it had frozen is thawed: at its deadline and without its agent by itself, and if it
//! is killed by another that reads the last report. Where it hangs, since a disk does not answer, another thaws
//! the rest.

mod freezer;
mod plan;
mod record;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use mio::{Registry, Token};
use prost::Message;
use quantix::error::{Code, Failure};
use quantix::guest::Guest;
use quantix::ids::MessageId;
use quantix::limits::{FREEZE_SECONDS, MAX_FRAME};
use quantix::message::Body;
use quantix::message::agent::{Freeze, FreezeOutcome, FreezeReport, FreezeState, Thaw};
use quantix::rt::sys::fd::pipe;
use quantix::rt::sys::process;
use quantix::time::Time;

use crate::job::Inlet;
use freezer::Task;
use record::Record;

/// Seconds until it thaws by itself, at most.
const MAX_SECONDS: u32 = 3600;

/// A freezer that should have thawed and has not hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// Requests that wait for one thaw.
const MAX_THAWERS: usize = 32;

/// Bytes of a report with its length.
const MAX_REPORT: usize = 2 * MAX_FRAME;

/// All of it.
#[derive(Debug)]
pub struct Freezing {
    token: Token,
    record: Record,
    state: State,
    /// What waits for room in the outbox. No more than there are requests.
    answers: Vec<(MessageId, Result<Body, Failure>)>,
}

#[derive(Debug)]
enum State {
    /// What was frozen last.
    Thawed(FreezeReport),
    Active(Box<Active>),
}

/// A freezer at work.
#[derive(Debug)]
struct Active {
    orders: File,
    words: Inlet,
    bytes: Vec<u8>,
    report: FreezeReport,
    /// Who asked for it and has no answer yet.
    asker: Option<Asker>,
    /// Who waits for the thaw.
    thawers: Vec<MessageId>,
    /// It was frozen from then on.
    frozen_at: Option<Time>,
    /// It thaws by itself then.
    end: Time,
    /// It was told to thaw.
    told: bool,
    /// If it has not thawed by then, it hangs. `None`: that was seen to.
    overdue: Option<Time>,
}

#[derive(Debug)]
enum Asker {
    Waits(MessageId),
    HasCancelled(MessageId),
}

/// What is answered while something is frozen: whatever touches no disk.
pub const fn may_pass(request: &Body) -> bool {
    matches!(
        request,
        Body::ListJobs(_) | Body::AttachJob(_) | Body::KillJob(_) | Body::SyncTime(_)
    )
}

impl Freezing {
    /// Nothing is frozen, or what a killed agent has left so is thawed now.
    pub fn new(now: Time, token: Token, run: &Path, registry: &Registry) -> Self {
        let mut freezing = Self {
            token,
            record: Record::new(run),
            state: State::Thawed(FreezeReport {
                state: FreezeState::Thawed.into(),
                ..Default::default()
            }),
            answers: Vec::new(),
        };
        match freezing.record.read() {
            Some(left) if Record::is_left(&left) => freezing.recover(now, &left, registry),
            Some(last) => freezing.state = State::Thawed(last),
            None => {}
        }
        freezing
    }

    /// Something is frozen, or is about to be, or is being thawed.
    pub const fn is_active(&self) -> bool {
        matches!(self.state, State::Active(_))
    }

    /// For whoever has to wait for it.
    pub fn refusal(&self, now: Time) -> Failure {
        let left = match &self.state {
            State::Active(active) => active.end.since(now).as_secs(),
            State::Thawed(_) => 0,
        };
        let why = format!(
            "file systems are frozen, for {left} s at most: `qx-node freeze-status` shows them, \
             `qx-node thaw` ends it"
        );
        Failure::new(Code::Frozen, why)
    }

    /// Starts to freeze.
    ///
    /// # Errors
    /// What the request is to be answered with instead.
    pub fn freeze(
        &mut self,
        now: Time,
        id: MessageId,
        request: &Freeze,
        registry: &Registry,
    ) -> Result<(), Failure> {
        if self.is_active() {
            return Err(self.refusal(now));
        }
        let seconds = match request.timeout_seconds {
            0 => FREEZE_SECONDS,
            seconds @ ..=MAX_SECONDS => seconds,
            _ => {
                let why = format!("file systems are frozen for {MAX_SECONDS} s at most");
                return Err(Failure::new(Code::Invalid, why));
            }
        };
        let end = now + Duration::from_secs(seconds.into());
        let task = Task::Freeze { request, end };
        let mut active = self.start(&task, end, registry)?;
        active.asker = Some(Asker::Waits(id));
        self.state = State::Active(Box::new(active));
        Ok(())
    }

    /// Ends it. Answered when all is thawed.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze): INVALID where nothing is frozen.
    pub fn thaw(
        &mut self,
        now: Time,
        id: MessageId,
        request: &Thaw,
        registry: &Registry,
    ) -> Result<(), Failure> {
        let last = match &mut self.state {
            State::Active(active) if active.thawers.len() >= MAX_THAWERS => {
                let why = "too many wait for the thaw already";
                return Err(Failure::new(Code::Busy, why));
            }
            State::Active(active) => {
                active.order(now, freezer::THAW);
                active.thawers.push(id);
                return Ok(());
            }
            State::Thawed(last) => last,
        };
        if !request.force {
            let why = match &*last.error {
                "" => "nothing is frozen".to_owned(),
                why => format!("nothing is frozen any more: {why}"),
            };
            return Err(Failure::new(Code::Invalid, why));
        }
        let mut active = self.start(&Task::Force, now + PATIENCE, registry)?;
        active.thawers.push(id);
        self.state = State::Active(Box::new(active));
        Ok(())
    }

    /// What is frozen, or was frozen last.
    pub fn report(&self, now: Time) -> FreezeReport {
        match &self.state {
            State::Thawed(last) => last.clone(),
            State::Active(active) => active.report(now),
        }
    }

    fn start(&self, task: &Task, end: Time, registry: &Registry) -> Result<Active, Failure> {
        let system = |e| Failure::system("start", "a freezer", &e);
        let (orders_end, orders) = pipe().map_err(system)?;
        let (words, words_end) = pipe().map_err(system)?;
        let words = Inlet::new(words, registry, self.token).map_err(system)?;
        process::spawn(&[&orders_end, &words_end], || {
            freezer::run(task, &orders_end, &words_end, &self.record)
        })
        .map_err(system)?;
        Ok(Active {
            orders,
            words,
            bytes: Vec::new(),
            report: FreezeReport {
                state: FreezeState::Freezing.into(),
                ..Default::default()
            },
            asker: None,
            thawers: Vec::new(),
            frozen_at: None,
            end,
            told: false,
            overdue: Some(end + PATIENCE),
        })
    }

    /// Another freezer thaws what one has left.
    fn recover(&mut self, now: Time, left: &FreezeReport, registry: &Registry) {
        let task = Task::Recover {
            report: left,
            with_hooks: true,
        };
        match self.start(&task, now, registry) {
            Ok(mut active) => {
                active.report = left.clone();
                active.report.state = FreezeState::Thawing.into();
                self.state = State::Active(Box::new(active));
            }
            // Out of processes or memory. The record stays, for the next start.
            Err(failure) => {
                self.state = State::Thawed(FreezeReport {
                    error: failure.message,
                    ..left.clone()
                })
            }
        }
    }

    /// An event came for the token.
    pub fn on_ready(&mut self) {
        if let State::Active(active) = &mut self.state {
            active.words.on_ready();
        }
    }

    /// The host takes a request back. Only a freeze that has no answer yet can be.
    pub fn on_cancel(&mut self, now: Time, id: &MessageId) {
        if let State::Active(active) = &mut self.state
            && let Some(Asker::Waits(asker)) = &active.asker
            && asker == id
        {
            active.asker = Some(Asker::HasCancelled(id.clone()));
            active.order(now, freezer::THAW);
        }
    }

    /// Nobody waits any more. What is frozen stays so until its deadline, for a host that comes again;
    /// what is not yet, does not become it.
    pub fn on_session_over(&mut self, now: Time) {
        self.answers.clear();
        if let State::Active(active) = &mut self.state {
            active.thawers.clear();
            if active.asker.take().is_some() {
                active.order(now, freezer::THAW);
            }
        }
    }

    /// The agent is about to end.
    pub fn leave(&mut self, now: Time) {
        if let State::Active(active) = &mut self.state {
            active.order(now, freezer::LEAVE);
        }
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.state {
            State::Active(active) => active.overdue,
            State::Thawed(_) => None,
        }
    }

    /// The freezer hangs on one file system: another process thaws the others.
    pub fn on_timeout(&mut self, now: Time, registry: &Registry) {
        let State::Active(active) = &mut self.state else {
            return;
        };
        if active.overdue.take_if(|at| *at <= now).is_none() {
            return;
        }
        let report = active.report(now);
        if report.state() == FreezeState::Thawing {
            // All is thawed, and a hook takes its time.
            return;
        }
        let mut mounts = report.mounts.iter();
        let hanging = mounts.find(|mount| mount.outcome() == FreezeOutcome::Freezing);
        let name = hanging.map_or("a hook", |mount| &mount.mount_point);
        let why = format!("{name} does not come to an end; all else is thawed");
        if let Some(asker) = active.asker.take() {
            let failure = Failure::new(Code::TimedOut, why);
            self.answers.push((asker.id(), Err(failure)));
        }
        let task = Task::Recover {
            report: &report,
            with_hooks: false,
        };
        // Its words and its end are nobody's business: the freezer has the last word.
        drop(self.start(&task, now, registry));
    }

    /// Moves what there is to be moved. True: the guest has become frozen, or is not any more.
    pub fn turn(&mut self, now: Time, guest: &mut Guest, registry: &Registry) -> bool {
        let changed = self.listen(now, registry);
        while let Some((id, answer)) = self.answers.pop_if(|_| guest.has_room(MAX_FRAME)) {
            match answer {
                Ok(body) => guest.answer(&id, body),
                Err(failure) => guest.refuse(&id, &failure),
            }
        }
        changed
    }

    fn listen(&mut self, now: Time, registry: &Registry) -> bool {
        let State::Active(active) = &mut self.state else {
            return false;
        };
        if !active.words.is_ready() {
            return false;
        }
        active.words.read_into(&mut active.bytes, MAX_REPORT);
        let mut changed = false;
        while let Some(report) = take(&mut active.bytes) {
            active.report = report;
            match active.report.state() {
                FreezeState::Frozen => {
                    changed = true;
                    active.frozen_at = Some(now);
                    if let Some(asker) = active.asker.take() {
                        let body = Body::FreezeResponse(active.report(now));
                        self.answers.push((asker.id(), Ok(body)));
                    }
                }
                FreezeState::Thawed => {
                    let last = std::mem::take(&mut active.report);
                    let answer = match &active.asker {
                        Some(Asker::HasCancelled(_)) => Err(Failure::new(
                            Code::Cancelled,
                            "cancelled; nothing is frozen",
                        )),
                        _ => Ok(Body::FreezeResponse(last.clone())),
                    };
                    if let Some(asker) = active.asker.take() {
                        self.answers.push((asker.id(), answer));
                    }
                    for id in std::mem::take(&mut active.thawers) {
                        self.answers
                            .push((id, Ok(Body::ThawResponse(last.clone()))));
                    }
                    self.state = State::Thawed(last);
                    return true;
                }
                _ => {}
            }
        }
        if active.words.is_ended() || active.bytes.len() >= MAX_REPORT {
            // It was killed. Whoever waits for it waits for its successor.
            let (left, asker) = (active.report.clone(), active.asker.take());
            let thawers = std::mem::take(&mut active.thawers);
            self.recover(now, &left, registry);
            match &mut self.state {
                State::Active(active) => (active.asker, active.thawers) = (asker, thawers),
                State::Thawed(last) => {
                    let failure = Failure::new(Code::Internal, &*last.error);
                    let all = asker.map(Asker::id).into_iter().chain(thawers);
                    self.answers
                        .extend(all.map(|id| (id, Err(failure.clone()))));
                }
            }
            return true;
        }
        changed
    }
}

impl Asker {
    fn id(self) -> MessageId {
        match self {
            Self::Waits(id) | Self::HasCancelled(id) => id,
        }
    }
}

impl Active {
    /// Tells the freezer to thaw.
    fn order(&mut self, now: Time, order: u8) {
        // Once: a pipe that nobody empties would have the loop wait.
        if !std::mem::replace(&mut self.told, true) {
            let _ = self.orders.write_all(&[order]);
        }
        self.overdue = self.overdue.map(|at| at.min(now + PATIENCE));
    }

    fn report(&self, now: Time) -> FreezeReport {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let mut report = self.report.clone();
        if report.state() == FreezeState::Frozen {
            report.frozen_ms = self.frozen_at.map_or(0, |at| millis(now.since(at)));
        }
        report.remaining_ms = millis(self.end.since(now));
        report
    }
}

/// The first report of these bytes, if it is complete.
fn take(bytes: &mut Vec<u8>) -> Option<FreezeReport> {
    let mut rest = &bytes[..];
    let report = FreezeReport::decode_length_delimited(&mut rest).ok()?;
    let used = bytes.len() - rest.len();
    bytes.drain(..used);
    Some(report)
}
