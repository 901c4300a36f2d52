//! Questions about kept commands: which there are, and the end of one.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};
use quantix::error::{Code, Failure};
use quantix::message::agent::{self, Job, JobState};
use quantix::message::{Body, message};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, wait};
use quantix::rt::sys::inotify::Watch;
use quantix::rt::sys::process::{self, Pid, Signal};
use quantix::rt::sys::seccomp::{ALL_BUT_FILES, Reach};

use super::keeper::GRACE;
use super::kept::{Found, Root};
use super::worker::Worker;

/// Lists them all.
pub fn list(
    root: &Root,
    registry: &Registry,
    token: impl Fn(usize) -> Token,
) -> Result<(Pid, Worker), Failure> {
    let reader = ("start", "a reader");
    Worker::start(reader, [], ALL_BUT_FILES, registry, token, |[]| {
        let jobs = root.tidy().into_iter().map(|found| public(found.job));
        let jobs = jobs.collect();
        Ok(message("", Body::JobList(agent::JobList { jobs })))
    })
}

/// Ends one, or sends it a signal.
pub fn kill(
    request: &agent::KillJob,
    root: &Root,
    registry: &Registry,
    token: impl Fn(usize) -> Token,
) -> Result<(Pid, Worker), Failure> {
    let without = &[
        Reach::Programs,
        Reach::Children,
        Reach::Sockets,
        Reach::Netlink,
        Reach::System,
    ];
    Worker::start(("start", "a signal"), [], without, registry, token, |[]| {
        let job = Some(public(end(request, root)?));
        let answer = agent::KillJobResponse { job };
        Ok(message("", Body::KillJobResponse(answer)))
    })
}

fn end(request: &agent::KillJob, root: &Root) -> Result<Job, Failure> {
    if request.job == 0 {
        return Err(Failure::new(Code::Invalid, "jobs count from 1"));
    }
    let mut found = root.find(request.job, "")?;
    let path = found.directory.to_string_lossy().into_owned();
    let system = |e: io::Error| Failure::system("read", &path, &e);
    let mut watch = Watch::contents(&found.directory).map_err(system)?;
    // Now that its end cannot be missed.
    found = Found::look(found.directory).map_err(system)?;
    let running = |job: &Job| job.state() == JobState::Running;
    if !running(&found.job) {
        let why = format!("job {} has ended", request.job);
        return Err(Failure::new(Code::NotFound, why));
    }
    let number = |pid: u32| i32::try_from(pid).unwrap_or(0);
    if request.signal > 0 {
        let signal = Signal::parse(request.signal)
            .ok_or_else(|| Failure::new(Code::Invalid, "signals are numbered 1 to 31"))?;
        // Its keeper lives, so that the command has not been reaped, or only just.
        process::signal(-number(found.job.pid), signal);
        return Ok(found.job);
    }
    process::signal(number(found.job.keeper), Signal::TERMINATE);
    let until = clock::now() + GRACE + LATE;
    while running(&found.job) {
        let left = until.since(clock::now());
        if left.is_zero() {
            let why = format!("job {} does not end: it hangs in the kernel", request.job);
            return Err(Failure::new(Code::TimedOut, why));
        }
        wait(&mut [Wait::read(&watch)], Some(left)).map_err(system)?;
        watch.drain();
        found = Found::look(found.directory).map_err(system)?;
    }
    Ok(found.job)
}

/// What was killed needs a moment to go.
const LATE: Duration = Duration::from_secs(3);

/// Without what is the agent's own.
fn public(job: Job) -> Job {
    Job {
        token: String::new(),
        ended_at: 0,
        ..job
    }
}
