//! The process that freezes, and stays to thaw: when it is told to, at its deadline, and when its agent is
//! gone. FIFREEZE waits for a disk, and nothing can end that wait, so the agent does not do it itself.
//!
//! It tells its agent by a whole report, with its length in front, whenever something has changed, and is
//! told to thaw by a byte. It holds every file system that it has frozen open: what was opened before needs no
//! path to be thawed, and cannot be unmounted meanwhile.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use quantix::error::{Code, Failure, system_text};
use quantix::message::agent::{Freeze, FreezeMount, FreezeOutcome, FreezeReport, FreezeState};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, wait};
use quantix::rt::sys::filesystem::{freeze, thaw};
use quantix::rt::sys::process::{Watch, set_name};
use quantix::time::Time;

use super::plan::{Target, plan};
use super::record::Record;
use crate::hooks;
use crate::telemetry::disk;

/// What is to be done.
#[derive(Debug)]
pub enum Task<'a> {
    /// Freezes, and thaws at `end` at the latest.
    Freeze { request: &'a Freeze, end: Time },
    /// Thaws what this report says, of a freezer that was killed, or that hangs.
    Recover {
        report: &'a FreezeReport,
        with_hooks: bool,
    },
    /// Thaws every file system.
    Force,
}

/// A process that does it.
pub struct Freezer<'a> {
    orders: &'a File,
    words: &'a File,
    watch: Watch,
    record: &'a Record,
    report: FreezeReport,
    /// By their place in the report, in the order in which they were frozen.
    open: Vec<(usize, File)>,
    called: Vec<PathBuf>,
    frozen_at: Option<Time>,
    end: Time,
}

/// The order to thaw; any other byte, or the pipe's end, says that the agent ends.
pub const THAW: u8 = b't';
pub const LEAVE: u8 = b'l';

/// Why it thaws.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Asked,
    AgentGone,
    Terminated,
    Deadline,
}

impl Stop {
    /// For people. Nothing, where somebody wanted it.
    const fn why(self) -> &'static str {
        match self {
            Self::Asked => "",
            Self::AgentGone => "the agent ended",
            Self::Terminated => "its process was told to end",
            Self::Deadline => "its time was up, and nobody had asked for the thaw",
        }
    }
}

/// Runs in a child: `orders` and `words` are its ends of two pipes. Returns its exit status.
pub fn run(task: &Task, orders: &File, words: &File, record: &Record) -> i32 {
    set_name(c"qx-freezer");
    let Ok(watch) = Watch::new() else { return 1 };
    let mut freezer = Freezer {
        orders,
        words,
        watch,
        record,
        report: FreezeReport::default(),
        open: Vec::new(),
        called: Vec::new(),
        frozen_at: None,
        end: clock::now(),
    };
    match task {
        Task::Freeze { request, end } => {
            freezer.end = *end;
            freezer.go(request);
        }
        Task::Recover { report, with_hooks } => freezer.recover(report, *with_hooks),
        Task::Force => freezer.force(),
    }
    0
}

impl Freezer<'_> {
    fn go(&mut self, request: &Freeze) {
        match self.freeze(request) {
            Err(failure) => {
                self.report.code = failure.code.as_str().to_owned();
                self.report.error = failure.message;
            }
            Ok(()) => {
                self.frozen_at = Some(clock::now());
                self.tell(FreezeState::Frozen);
                let why = self.wait().why();
                if !why.is_empty() {
                    self.report.error = format!("thawed by itself: {why}");
                }
            }
        }
        self.thaw();
    }

    fn tell(&mut self, state: FreezeState) {
        self.report.state = state.into();
        // Without an agent nobody wants to know.
        let _ = (&mut &*self.words).write_all(&self.report.encode_length_delimited_to_vec());
    }

    /// What there is to stop for already.
    fn stop(&self) -> Option<Stop> {
        self.look(Duration::ZERO)
    }

    fn look(&self, limit: Duration) -> Option<Stop> {
        let mut waits = [Wait::read(self.orders), Wait::read(&self.watch)];
        let _ = wait(&mut waits, Some(limit));
        let [ordered, signalled] = waits.map(|wait| wait.is_ready());
        if ordered {
            let mut order = [0];
            return Some(match (&mut &*self.orders).read(&mut order) {
                Ok(1) if order == [THAW] => Stop::Asked,
                _ => Stop::AgentGone,
            });
        }
        if signalled && self.watch.take() {
            return Some(Stop::Terminated);
        }
        (self.end <= clock::now()).then_some(Stop::Deadline)
    }

    fn wait(&self) -> Stop {
        loop {
            let left = self.end.since(clock::now());
            if let Some(stop) = self.look(left) {
                return stop;
            }
        }
    }

    /// Goes on, unless there is something to stop for.
    fn go_on(&self) -> Result<(), Failure> {
        let (code, why) = match self.stop() {
            None => return Ok(()),
            Some(Stop::Deadline) => (Code::TimedOut, "its time was up before all was frozen"),
            Some(Stop::Asked) => (Code::Cancelled, "it was taken back"),
            Some(stop) => (Code::Cancelled, stop.why()),
        };
        Err(Failure::new(code, why))
    }

    /// If it fails, what is frozen by then has to be thawed.
    fn freeze(&mut self, request: &Freeze) -> Result<(), Failure> {
        let internal = |why: String| Failure::new(Code::Internal, why);
        let (all, chosen) = disk::wanted(&request.mount_points)?;
        let targets = plan(&all, chosen, Path::new("/sys"));
        self.report.mounts = targets.iter().map(Target::report).collect();
        if !request.skip_hooks {
            let found = hooks::find(Path::new(HOOKS));
            for hook in found.map_err(|why| Failure::new(Code::Permission, why))? {
                self.go_on()?;
                self.tell(FreezeState::Freezing);
                let called = hooks::call(&hook, "freeze", self.end);
                let failure = hooks::failure(&called);
                self.called.push(hook);
                self.report.hooks.push(called);
                failure.map_or(Ok(()), |why| Err(internal(why)))?;
            }
        }
        if self.report.encoded_len() > MAX_REPORT {
            let count = self.report.mounts.len();
            let why = format!("{count} file systems are too many for one answer: name some");
            return Err(Failure::new(Code::TooLarge, why));
        }
        self.report.state = FreezeState::Frozen.into();
        let written = self.record.write(&self.report);
        written.map_err(|e| Failure::system("note", "what is frozen", &e))?;
        for (at, target) in targets
            .iter()
            .enumerate()
            .filter(|(_, t)| t.skipped.is_none())
        {
            self.go_on()?;
            self.report.mounts[at].outcome = FreezeOutcome::Freezing.into();
            self.tell(FreezeState::Freezing);
            let frozen = open(target).and_then(|file| freeze(&file).map(|()| file));
            let entry = &mut self.report.mounts[at];
            match frozen {
                Ok(file) => {
                    entry.outcome = FreezeOutcome::Frozen.into();
                    self.open.push((at, file));
                }
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    entry.outcome = FreezeOutcome::Skipped.into();
                    entry.reason = "its driver cannot freeze it".to_owned();
                }
                Err(e) => {
                    fail(entry, &e);
                    if !request.skip_failed {
                        let FreezeMount {
                            mount_point,
                            reason,
                            ..
                        } = entry;
                        return Err(internal(format!("{mount_point}: {reason}")));
                    }
                }
            }
        }
        self.go_on()?;
        match self.open.is_empty() {
            true => {
                let why = "there is no file system that can be frozen";
                Err(Failure::new(Code::Invalid, why))
            }
            false => Ok(()),
        }
    }

    /// Thaws what was frozen, the last first, and calls the hooks that were called.
    fn thaw(&mut self) {
        if let Some(at) = self.frozen_at {
            let span = clock::now().since(at).as_millis();
            self.report.frozen_ms = u64::try_from(span).unwrap_or(u64::MAX);
        }
        for (at, file) in self.open.drain(..).rev() {
            let why = unfreeze(&file, &mut self.report.mounts[at]);
            if self.report.error.is_empty() {
                self.report.error = why.unwrap_or_default();
            }
        }
        self.thaw_hooks();
        self.finish();
    }

    fn thaw_hooks(&mut self) {
        self.end = clock::now() + HOOKS_PATIENCE;
        for hook in std::mem::take(&mut self.called).iter().rev() {
            self.tell(FreezeState::Thawing);
            let called = hooks::call(hook, "thaw", self.end);
            if let Some(failure) = hooks::failure(&called)
                && self.report.error.is_empty()
            {
                self.report.error = failure;
            }
            self.report.hooks.push(called);
        }
    }

    fn finish(&mut self) {
        self.report.state = FreezeState::Thawed.into();
        let _ = self.record.write(&self.report);
        self.tell(FreezeState::Thawed);
    }

    fn recover(&mut self, left: &FreezeReport, with_hooks: bool) {
        self.report = left.clone();
        // The freezer that hangs does so on the last one; all others first.
        for entry in self.report.mounts.iter_mut().rev() {
            let outcome = entry.outcome();
            if matches!(outcome, FreezeOutcome::Skipped | FreezeOutcome::Failed) {
                continue;
            }
            if outcome == FreezeOutcome::Freezing && !with_hooks {
                continue;
            }
            if let Ok(file) = disk::open(Path::new(&entry.mount_point)) {
                unfreeze(&file, entry);
                if entry.outcome() == FreezeOutcome::Thawed {
                    // It may not have come to be frozen.
                    entry.reason.clear();
                }
            }
        }
        if !with_hooks {
            return;
        }
        let called = self
            .report
            .hooks
            .iter()
            .filter(|hook| hook.argument == "freeze");
        let called = called.map(|hook| Path::new(HOOKS).join(&hook.name));
        self.called = called.collect();
        self.report.error = "thawed by itself: what held it was killed".to_owned();
        self.thaw_hooks();
        self.finish();
    }

    fn force(&mut self) {
        match disk::mountinfo().and_then(disk::all) {
            Ok((_, storage)) => {
                for mount in storage {
                    let target = Target {
                        mount,
                        skipped: None,
                    };
                    let mut entry = target.report();
                    let thawed = target.mount.open().is_ok_and(|file| {
                        (0..MAX_NESTED).take_while(|_| thaw(&file).is_ok()).count() > 0
                    });
                    if thawed {
                        entry.outcome = FreezeOutcome::Thawed.into();
                        self.report.mounts.push(entry);
                    }
                }
            }
            Err(e) => self.report.error = format!("/proc/self/mountinfo: {}", system_text(&e)),
        }
        self.finish();
    }
}

/// Told before a freeze, and in the reverse order after the thaw: databases that write out what they hold.
const HOOKS: &str = "/etc/quantix-kvm/freeze.d";

/// Below a frame, with what hooks have to say at the thaw.
const MAX_REPORT: usize = 64 * 1024;

/// Of all hooks together, at the thaw. Nothing is frozen any more.
const HOOKS_PATIENCE: Duration = Duration::from_secs(60);

/// How often a file system can be frozen: newer kernels count.
const MAX_NESTED: usize = 16;

fn open(target: &Target) -> std::io::Result<File> {
    let file = target.mount.open()?;
    let found = file.metadata()?.dev();
    let (major, minor) = target.mount.number;
    // Every subvolume of btrfs has a number of its own.
    if found != libc::makedev(major, minor) && target.mount.number.0 > 0 {
        // Something was mounted over it since.
        return Err(std::io::Error::from_raw_os_error(libc::ESTALE));
    }
    Ok(file)
}

fn fail(entry: &mut FreezeMount, error: &std::io::Error) {
    entry.outcome = FreezeOutcome::Failed.into();
    entry.errno = error.raw_os_error().unwrap_or(0).unsigned_abs();
    entry.reason = match error.raw_os_error() {
        Some(libc::EBUSY) => "somebody else has frozen it; `thaw --force` ends that".to_owned(),
        _ => system_text(error),
    };
}

/// Why it was not frozen any more, or still is.
fn unfreeze(file: &File, entry: &mut FreezeMount) -> Option<String> {
    let thawed = thaw(file);
    entry.outcome = FreezeOutcome::Thawed.into();
    let error = thawed.err()?;
    entry.errno = error.raw_os_error().unwrap_or(0).unsigned_abs();
    entry.reason = match error.raw_os_error() {
        Some(libc::EINVAL) => "somebody else had thawed it before".to_owned(),
        _ => {
            entry.outcome = FreezeOutcome::Frozen.into();
            format!("cannot be thawed: {}", system_text(&error))
        }
    };
    Some(format!("{}: {}", entry.mount_point, entry.reason))
}
