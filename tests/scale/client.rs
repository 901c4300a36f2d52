//! The daemon that is measured, as a client of its control socket sees it, and as the kernel does.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use quantix::message::node::{ListVms, PingVm, VmState, node_message};
use quantix::message::{Body, agent, message};

use crate::{Outcome, PATIENCE, control};

/// The program.
pub const QX_NODE: &str = env!("CARGO_BIN_EXE_qx-node");

/// A daemon, which ends with this value.
pub struct Daemon {
    process: Child,
    /// When it was started.
    pub begun: Instant,
}

impl Daemon {
    /// Starts it on what is below `dir`.
    pub fn start(dir: &Path) -> Outcome<Self> {
        let begun = Instant::now();
        let process = Command::new(QX_NODE)
            .args(["serve", "--log-level", "error", "--control"])
            .arg(dir.join("control"))
            .arg("--vms-dir")
            .arg(dir.join("vms"))
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Self { process, begun })
    }

    /// Its resident memory in KiB.
    pub fn rss_kib(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let word = line.and_then(|line| line.split_whitespace().next());
        Ok(word.ok_or("no VmRSS")?.parse()?)
    }

    /// Processor time that it has had.
    pub fn cpu(&self) -> Outcome<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.process.id()))?;
        let word = text.split_whitespace().next().ok_or("no schedstat")?;
        Ok(Duration::from_nanos(word.parse()?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client.
pub struct Client {
    stream: UnixStream,
    last_id: u64,
}

impl Client {
    /// Waits until the daemon takes clients.
    pub fn connect(dir: &Path) -> Outcome<Self> {
        let begun = Instant::now();
        loop {
            match UnixStream::connect(dir.join("control")) {
                Ok(stream) => return Ok(Self { stream, last_id: 0 }),
                Err(e) if begun.elapsed() > PATIENCE => return Err(e.into()),
                Err(_) => sleep(Duration::from_millis(2)),
            }
        }
    }

    /// How many VMs are ready.
    pub fn count_ready(&mut self) -> Outcome<usize> {
        self.send("", node_message::Body::ListVms(ListVms {}))?;
        let mut count = 0;
        loop {
            let body = self.next()?;
            let node_message::Body::VmList(list) = body else {
                return Err(format!("{body:?}").into());
            };
            let ready = |state: i32| state == VmState::Ready as i32;
            count += list.vms.iter().filter(|vm| ready(vm.state)).count();
            if !list.more {
                return Ok(count);
            }
        }
    }

    /// Waits until so many are.
    pub fn wait_ready(&mut self, all: usize) -> Outcome<()> {
        let begun = Instant::now();
        loop {
            let ready = self.count_ready()?;
            if ready == all {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{ready} of {all} VMs are ready").into());
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// A round trip through the daemon.
    pub fn ping(&mut self, vm: &str) -> Outcome<Duration> {
        let begun = Instant::now();
        self.send(vm, node_message::Body::PingVm(PingVm {}))?;
        match self.next()? {
            node_message::Body::PingResult(_) => Ok(begun.elapsed()),
            other => Err(format!("{other:?}").into()),
        }
    }

    /// A command in each of these, so many at once.
    pub fn fan_out(&mut self, vms: &[String], at_once: usize) -> Outcome<Duration> {
        let begun = Instant::now();
        let execute = agent::Execute {
            command: "true".to_owned(),
            wait_for_exit: true,
            ..Default::default()
        };
        let ask = || node_message::Body::Agent(message("", Body::Execute(execute.clone())));
        let mut waiting = vms.iter();
        for vm in waiting.by_ref().take(at_once) {
            self.send(vm, ask())?;
        }
        for _ in vms {
            match self.next()? {
                node_message::Body::Agent(answer) => match answer.body {
                    Some(Body::ExecuteResponse(_)) => {}
                    other => return Err(format!("{other:?}").into()),
                },
                other => return Err(format!("{other:?}").into()),
            }
            if let Some(vm) = waiting.next() {
                self.send(vm, ask())?;
            }
        }
        Ok(begun.elapsed())
    }

    fn send(&mut self, vm: &str, body: node_message::Body) -> Outcome<()> {
        self.last_id += 1;
        control::send(&mut self.stream, self.last_id, vm, body)
    }

    fn next(&mut self) -> Outcome<node_message::Body> {
        control::next(&mut self.stream)
    }
}
