//! The daemon that is measured, a client of its control socket, and the command line.

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use quantix::message::node::{PingVm, node_message};
use quantix::message::{Body, agent, message};

use crate::vm::NAME;
use crate::{Outcome, control, micros};

/// The program.
pub const QX_NODE: &str = env!("CARGO_BIN_EXE_qx-node");

const CONTROL: &str = "qx-node.sock";

/// How long the VM may take to answer the first time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with one client, both of which end with this value.
pub struct Daemon {
    process: Child,
    stream: UnixStream,
    last_id: u64,
}

impl Daemon {
    /// Starts it, and waits until the VM's agent answers.
    pub fn start(dir: &Path) -> Outcome<Self> {
        let control = dir.join(CONTROL);
        let process = Command::new(QX_NODE)
            .args(["serve", "--log-level", "error", "--control"])
            .arg(&control)
            .arg("--vms-dir")
            .arg(dir.join("vms"))
            .stdin(Stdio::null())
            .spawn()?;
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(&control) {
                Ok(stream) => break stream,
                Err(e) if begun.elapsed() > PATIENCE => return Err(e.into()),
                Err(_) => sleep(Duration::from_millis(20)),
            }
        };
        let mut daemon = Self {
            process,
            stream,
            last_id: 0,
        };
        loop {
            match daemon.ping() {
                Ok(_) => return Ok(daemon),
                Err(e) if begun.elapsed() > PATIENCE => return Err(e),
                Err(_) => sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it, and with that its connection to the VM.
    pub fn stop(self) {}

    /// A round trip in microseconds: by our clock, and by the daemon's.
    pub fn ping(&mut self) -> Outcome<(f64, f64)> {
        let begun = Instant::now();
        let answer = self.ask(node_message::Body::PingVm(PingVm {}))?;
        let ours = micros(begun);
        match answer {
            node_message::Body::PingResult(result) => Ok((ours, result.rtt_us as f64)),
            other => Err(format!("{other:?}").into()),
        }
    }

    /// What a line for the guest's shell prints.
    pub fn shell(&mut self, line: &str) -> Outcome<String> {
        let answer = self.execute(line, true)?;
        if answer.exit_code != 0 {
            let stderr = String::from_utf8_lossy(&answer.stderr);
            return Err(format!("{line}: status {}: {stderr}", answer.exit_code).into());
        }
        Ok(String::from_utf8(answer.stdout)?)
    }

    /// Starts a line in the guest's shell that nobody waits for.
    pub fn spawn(&mut self, line: &str) -> Outcome<()> {
        self.execute(line, false).map(|_| ())
    }

    fn execute(&mut self, line: &str, wait_for_exit: bool) -> Outcome<agent::ExecuteResponse> {
        let execute = agent::Execute {
            command: line.to_owned(),
            wait_for_exit,
            ..Default::default()
        };
        let asked = message("", Body::Execute(execute));
        match self.ask(node_message::Body::Agent(asked))? {
            node_message::Body::Agent(answer) => match answer.body {
                Some(Body::ExecuteResponse(answer)) => Ok(answer),
                other => Err(format!("{line}: {other:?}").into()),
            },
            other => Err(format!("{line}: {other:?}").into()),
        }
    }

    fn ask(&mut self, body: node_message::Body) -> Outcome<node_message::Body> {
        self.last_id += 1;
        control::send(&mut self.stream, self.last_id, NAME, body)?;
        control::next(&mut self.stream)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command line, its output thrown away.
pub fn command(dir: &Path, words: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(QX_NODE);
    command
        .args(words)
        .env("QX_NODE_SOCK", dir.join(CONTROL))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// The same, to its end.
pub fn run(dir: &Path, words: &[&str]) -> Outcome<()> {
    let status = command(dir, words).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("qx-node {}: {status}", words.join(" ")).into())
    }
}
