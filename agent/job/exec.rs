//! A command: what its child does before exec, and what the loop gathers from it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use mio::{Registry, Token};
use prost::Message;
use quantix::error::{Code, Failure};
use quantix::limits::MAX_FRAME;
use quantix::message::{Body, agent};
use quantix::rt::sys::fd::pipe;
use quantix::rt::sys::process::{self, Ended, Pid};
use quantix::time::Time;

use super::pipe::Inlet;
use super::worker_failure;
use crate::users::Databases;

/// A command that runs and is waited for, or one that has not yet told whether it started.
#[derive(Debug)]
pub struct Exec {
    stdout: Inlet,
    stderr: Inlet,
    /// What went wrong before exec; closed by exec.
    report: Inlet,
    failure: Vec<u8>,
    answer: agent::ExecuteResponse,
    limit: usize,
    started: Time,
    /// When its time is up.
    pub deadline: Option<Time>,
    detached: bool,
}

/// The loop's ends, by number.
pub const STDOUT: usize = 0;
pub const STDERR: usize = 1;
pub const REPORT: usize = 2;

/// stdout and stderr together; the rest of the frame is the answer's other fields.
const MAX_OUTPUT: usize = MAX_FRAME - 1024;

/// The C library's and every distribution's default for root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Exec {
    /// Starts the command.
    pub fn start(
        request: &agent::Execute,
        now: Time,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> Result<(Pid, Self), Failure> {
        check(request)?;
        let system = |e| Failure::system("start", &request.command, &e);
        let (stdout, child_stdout) = pipe().map_err(system)?;
        let (stderr, child_stderr) = pipe().map_err(system)?;
        let (report, child_report) = pipe().map_err(system)?;
        let stdout = Inlet::new(stdout, registry, token(STDOUT)).map_err(system)?;
        let stderr = Inlet::new(stderr, registry, token(STDERR)).map_err(system)?;
        let report = Inlet::new(report, registry, token(REPORT)).map_err(system)?;
        let keep = [&child_stdout, &child_stderr, &child_report];
        let pid = process::spawn(&keep, || {
            let outputs = request
                .wait_for_exit
                .then_some((&child_stdout, &child_stderr));
            // Comes back only if there is no command to become.
            let failure = become_command(request, outputs);
            let _ = (&child_report).write_all(&failure.to_wire().encode_to_vec());
            process::WORKER_FAILED
        })
        .map_err(system)?;
        let limit = usize::try_from(request.max_output_bytes).unwrap_or(MAX_OUTPUT);
        let timeout = u64::from(request.timeout_seconds);
        Ok((
            pid,
            Self {
                stdout,
                stderr,
                report,
                failure: Vec::new(),
                answer: agent::ExecuteResponse::default(),
                limit: if limit == 0 {
                    MAX_OUTPUT
                } else {
                    limit.min(MAX_OUTPUT)
                },
                started: now,
                deadline: (timeout > 0).then(|| now + Duration::from_secs(timeout)),
                detached: !request.wait_for_exit,
            },
        ))
    }

    /// An event came for one of the pipes.
    pub fn on_ready(&mut self, pipe: usize) {
        match pipe {
            STDOUT => self.stdout.on_ready(),
            STDERR => self.stderr.on_ready(),
            _ => self.report.on_ready(),
        }
        self.gather();
    }

    /// Reads what there is. What is over the limit is read and dropped, so that the command goes on.
    fn gather(&mut self) {
        let room = self.limit.saturating_sub(self.answer.stderr.len());
        let lost = self.stdout.read_into(&mut self.answer.stdout, room);
        let room = self.limit.saturating_sub(self.answer.stdout.len());
        let lost = lost + self.stderr.read_into(&mut self.answer.stderr, room);
        self.answer.truncated |= lost > 0;
        self.report.read_into(&mut self.failure, 8192);
    }

    /// A detached command has started: its answer.
    pub fn poll_started(&self, pid: Pid) -> Option<Body> {
        let started = self.detached && self.report.is_ended() && self.failure.is_empty();
        started.then(|| {
            Body::ExecuteResponse(agent::ExecuteResponse {
                pid: u32::try_from(pid.get()).unwrap_or(0),
                ..Default::default()
            })
        })
    }

    /// More may be readable without another event.
    pub const fn is_ready(&self) -> bool {
        self.stdout.is_ready() || self.stderr.is_ready()
    }

    /// Goes on reading what one turn left.
    pub fn on_turn(&mut self) {
        if self.is_ready() {
            self.gather();
        }
    }

    /// The leader has ended: the answer. What a grandchild that still holds the pipes may write
    /// later is not waited for.
    pub fn finish(&mut self, ended: Ended, timed_out: bool, now: Time) -> Result<Body, Failure> {
        self.stdout.on_ready();
        self.stderr.on_ready();
        self.report.on_ready();
        self.gather();
        if !self.failure.is_empty() {
            return Err(worker_failure(&self.failure));
        }
        let mut answer = std::mem::take(&mut self.answer);
        answer.exit_code = ended.shell_status();
        answer.timed_out = timed_out;
        answer.duration_ms = u64::try_from(now.since(self.started).as_millis()).unwrap_or(0);
        Ok(Body::ExecuteResponse(answer))
    }
}

/// What can be refused without a child.
fn check(request: &agent::Execute) -> Result<(), Failure> {
    let invalid = |why: String| Err(Failure::new(Code::Invalid, why));
    let nul = |text: &String| text.contains('\0');
    let (key, value) = (request.environment.keys(), request.environment.values());
    if request.command.trim().is_empty() {
        return invalid("the command is empty".to_owned());
    }
    if nul(&request.command) || request.args.iter().any(nul) || key.clone().chain(value).any(nul) {
        return invalid("the command or its environment has a NUL byte in it".to_owned());
    }
    if let Some(bad) = key.clone().find(|key| key.is_empty() || key.contains('=')) {
        return invalid(format!("environment: {bad:?} is not a variable's name"));
    }
    let cwd = &request.working_directory;
    if !cwd.is_empty() && !cwd.starts_with('/') {
        return invalid(format!(
            "working directory {cwd}: not an absolute path in the guest"
        ));
    }
    Ok(())
}

/// The child's last mile. Returns why it could not be gone.
fn become_command(request: &agent::Execute, outputs: Option<(&File, &File)>) -> Failure {
    match prepare(request, outputs) {
        Ok(mut command) => {
            let error = command.exec();
            Failure::system("run", &command.get_program().to_string_lossy(), &error)
        }
        Err(failure) => failure,
    }
}

fn prepare(request: &agent::Execute, outputs: Option<(&File, &File)>) -> Result<Command, Failure> {
    let read = |path: &str| fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
    let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
    let files = Databases {
        passwd: passwd.as_deref().unwrap_or_default(),
        group: group.as_deref().unwrap_or_default(),
    };
    let me = process::effective_user().to_string();
    let wanted = match request.run_as_user.as_str() {
        "" => me.as_str(),
        name => name,
    };
    let user = files.user(wanted)?;
    let gid = match request.run_as_group.as_str() {
        "" => user.gid,
        group => files.group(group)?,
    };
    let mut groups = vec![gid];
    if request.include_supplementary_groups {
        groups.extend(files.supplementary(&user.name));
        groups.dedup();
    }

    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Failure::system("open", "/dev/null", &e))?;
    let (stdout, stderr) = outputs.unwrap_or((&null, &null));
    for (file, fd) in [(&null, 0), (stdout, 1), (stderr, 2)] {
        process::redirect(file, fd).map_err(|e| Failure::system("redirect", "a stream", &e))?;
    }
    process::set_umask(0o022);
    // The agent is hard to kill when memory runs out; what it starts must not be.
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    if process::effective_user() == 0 {
        process::become_user(user.uid, gid, &groups)
            .map_err(|e| Failure::system("become user", &user.name, &e))?;
    } else if user.uid != process::effective_user() {
        let why = format!("become user {}: the agent does not run as root", user.name);
        return Err(Failure::new(Code::Permission, why));
    }
    enter(&request.working_directory, &user.home)?;

    let mut command = if request.args.is_empty() {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(&request.command);
        shell
    } else {
        let mut program = Command::new(&request.command);
        program.args(&request.args);
        program
    };
    command
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", &user.home)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .env("SHELL", &user.shell)
        .envs(&request.environment);
    Ok(command)
}

/// The directory that was asked for, or the user's home, or `/`.
fn enter(wanted: &str, home: &str) -> Result<(), Failure> {
    if !wanted.is_empty() {
        return std::env::set_current_dir(wanted)
            .map_err(|e| Failure::system("working directory", wanted, &e));
    }
    if std::env::set_current_dir(home).is_err() {
        let _ = std::env::set_current_dir("/");
    }
    Ok(())
}
