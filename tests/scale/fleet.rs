//! Many guests in one process: each has a socket as QEMU makes it, and behind it the guest's own core.
//! They answer Pings and commands, and report as agents do. Some are only a pipe to a real agent.

use std::collections::BTreeSet;
use std::io::{BufRead as _, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mio::net::{UnixListener, UnixStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use quantix::guest::{Event, Guest, Identity, Moment};
use quantix::message::{Body, agent};
use quantix::rt::clock;
use quantix::time::Time;

use crate::Outcome;

/// From one report of a guest to the next, as the agent's default.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// A guest's tokens are its number times this, and what they are for.
const KINDS: usize = 4;
const HOST_LISTENER: usize = 0;
const HOST: usize = 1;
const AGENT_LISTENER: usize = 2;
const AGENT: usize = 3;

const STDIN: Token = Token(usize::MAX - 1);

/// The name of one.
pub fn name(at: usize) -> String {
    format!("vm{at:05}")
}

/// A VM: its socket, and who is behind it.
struct Vm {
    listener: UnixListener,
    host: Option<UnixStream>,
    behind: Behind,
}

enum Behind {
    /// The core, and when it reports.
    Core { guest: Box<Guest>, report: Time },
    /// A process, which takes this socket for its port.
    Agent {
        listener: UnixListener,
        port: Option<UnixStream>,
        process: Child,
    },
}

/// Serves so many VMs below `dir` until stdin ends; the first `agents` are real agents. A line on stdin has
/// the other guests report at once, so often. Prints a line when all sockets are there.
pub fn serve(dir: &Path, count: usize, agents: usize, program: &str) -> Outcome<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(4096);
    let begun = clock::now();
    let mut vms = Vec::with_capacity(count);
    for at in 0..count {
        vms.push(Vm::new(dir, at, at < agents, program, begun, &poll)?);
    }
    poll.registry()
        .register(&mut SourceFd(&0), STDIN, Interest::READABLE)?;
    println!("there");
    let mut due: BTreeSet<(Time, usize)> = (agents..count)
        .map(|at| (vms[at].report_at(), at))
        .collect();
    loop {
        let wait = due.first().map(|(at, _)| at.since(clock::now()));
        match poll.poll(&mut events, wait) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == STDIN {
                let mut line = String::new();
                if std::io::stdin().lock().read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let times = line.trim().parse::<usize>()?;
                for _ in 0..times {
                    for vm in &mut vms[agents..] {
                        vm.report();
                    }
                }
                println!("reported");
                continue;
            }
            let (at, kind) = (event.token().0 / KINDS, event.token().0 % KINDS);
            vms[at].on_ready(at, kind, &poll)?;
        }
        let now = clock::now();
        while let Some((when, at)) = due.first().copied().filter(|(when, _)| *when <= now) {
            due.remove(&(when, at));
            due.insert((when + REPORT_EVERY, at));
            vms[at].report();
        }
    }
}

impl Vm {
    fn new(
        dir: &Path,
        at: usize,
        is_agent: bool,
        program: &str,
        begun: Time,
        poll: &Poll,
    ) -> Outcome<Self> {
        let path = dir.join("vms").join(format!("{}.agent.sock", name(at)));
        let listen = |path: PathBuf, kind: usize| -> Outcome<UnixListener> {
            let mut listener = UnixListener::bind(path)?;
            let token = Token(at * KINDS + kind);
            poll.registry()
                .register(&mut listener, token, Interest::READABLE)?;
            Ok(listener)
        };
        let listener = listen(path, HOST_LISTENER)?;
        let behind = if is_agent {
            let port = dir.join(format!("{at}.port"));
            let listener = listen(port.clone(), AGENT_LISTENER)?;
            let process = Command::new(program)
                .args(["--log", "stderr", "--port"])
                .arg(port)
                .arg("--run-dir")
                .arg(dir.join(format!("{at}.run")))
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            Behind::Agent {
                listener,
                port: None,
                process,
            }
        } else {
            // Evenly over the time between two reports, as guests that were not started together.
            let phase = REPORT_EVERY.mul_f64((at % 1000) as f64 / 1000.0);
            Behind::Core {
                guest: Box::new(Guest::new(Identity {
                    version: "0.1.0".to_owned(),
                    boot_id: format!("6accb0bc-0f03-4ae0-9f46-4d13026f{at:04x}"),
                    instance: at as u64 + 1,
                })),
                report: begun + phase,
            }
        };
        Ok(Self {
            listener,
            host: None,
            behind,
        })
    }

    fn report_at(&self) -> Time {
        match &self.behind {
            Behind::Core { report, .. } => *report,
            Behind::Agent { .. } => Time::default(),
        }
    }

    fn report(&mut self) {
        if let Behind::Core { guest, .. } = &mut self.behind
            && guest.is_open()
        {
            guest.report(telemetry());
            self.write();
        }
    }

    fn on_ready(&mut self, at: usize, kind: usize, poll: &Poll) -> Outcome<()> {
        let take = |listener: &UnixListener, kind: usize| -> Outcome<Option<UnixStream>> {
            let Ok((mut stream, _)) = listener.accept() else {
                return Ok(None);
            };
            let both = Interest::READABLE | Interest::WRITABLE;
            let token = Token(at * KINDS + kind);
            poll.registry().register(&mut stream, token, both)?;
            Ok(Some(stream))
        };
        match kind {
            HOST_LISTENER if self.host.is_none() => {
                self.host = take(&self.listener, HOST)?;
            }
            AGENT_LISTENER => {
                if let Behind::Agent { listener, port, .. } = &mut self.behind {
                    *port = take(listener, AGENT)?;
                }
            }
            _ => {}
        }
        self.read(at)?;
        self.write();
        // One client at a time, as QEMU.
        if kind == HOST && self.host.is_none() {
            self.host = take(&self.listener, HOST)?;
        }
        Ok(())
    }

    fn read(&mut self, at: usize) -> Outcome<()> {
        let mut buffer = [0; 16 * 1024];
        match &mut self.behind {
            Behind::Core { guest, .. } => {
                // Until there is nothing more: readiness is told once.
                while let Some(host) = &mut self.host {
                    match host.read(&mut buffer) {
                        Ok(n) if n > 0 => {
                            let moment = Moment {
                                now: clock::now(),
                                wall: clock::wall(),
                                uptime_seconds: clock::uptime_seconds(),
                            };
                            guest.handle_bytes(&moment, &buffer[..n], &mut || at as u64 + 7);
                        }
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        _ => {
                            self.host = None;
                            guest.handle_host_gone();
                        }
                    }
                }
                while let Some(event) = guest.poll_event() {
                    match event {
                        Event::Opened => {
                            guest.announce(ready(at));
                            guest.report(telemetry());
                        }
                        Event::Request(id, Body::Execute(_), _) => {
                            let answer = agent::ExecuteResponse::default();
                            guest.answer(&id, Body::ExecuteResponse(answer));
                        }
                        _ => {}
                    }
                }
            }
            Behind::Agent { port, .. } => {
                let (Some(host), Some(port)) = (&mut self.host, port) else {
                    return Ok(());
                };
                let goes_on = pass(host, port, &mut buffer);
                pass(port, host, &mut buffer);
                if !goes_on {
                    self.host = None;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self) {
        if let (Behind::Core { guest, .. }, Some(host)) = (&mut self.behind, &mut self.host) {
            while let Some(bytes) = guest.poll_transmit() {
                match host.write(bytes) {
                    Ok(n) => guest.on_written(n),
                    Err(_) => break,
                }
            }
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Behind::Agent { process, .. } = &mut self.behind {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What agents say fits into the sockets' buffers. False: there will be no more.
fn pass(from: &mut UnixStream, to: &mut UnixStream, buffer: &mut [u8]) -> bool {
    loop {
        match from.read(buffer) {
            Ok(0) => return false,
            Ok(n) => {
                let _ = to.write_all(&buffer[..n]);
            }
            Err(e) => return e.kind() == ErrorKind::WouldBlock,
        }
    }
}

fn ready(at: usize) -> agent::AgentReady {
    let capabilities = "execute read_file write_file jobs freeze shutdown time users keys network storage \
                        processes services hardware packages names restored trees";
    agent::AgentReady {
        version: "0.1.0".to_owned(),
        os_name: "debian".to_owned(),
        os_version: "12".to_owned(),
        kernel_version: "6.1.0-28-cloud-amd64".to_owned(),
        architecture: "x86_64".to_owned(),
        hostname: name(at),
        ip_addresses: vec![format!("10.0.{}.{}", at / 250, at % 250 + 1)],
        primary_address: format!("10.0.{}.{}", at / 250, at % 250 + 1),
        capabilities: capabilities.split_whitespace().map(str::to_owned).collect(),
        ..Default::default()
    }
}

/// As of a server with three file systems and two interfaces.
fn telemetry() -> agent::Telemetry {
    let disk = |mount: &str, device: &str| agent::Disk {
        mount_point: mount.to_owned(),
        filesystem: "ext4".to_owned(),
        device: device.to_owned(),
        total: 40 << 30,
        used: 17 << 30,
        available: 21 << 30,
        usage_percent: 44.7,
        inodes_total: 2_621_440,
        inodes_used: 204_811,
        ..Default::default()
    };
    let interface = |name: &str, mac: &str| agent::Interface {
        name: name.to_owned(),
        mac: mac.to_owned(),
        ipv4: vec!["10.0.7.9/16".to_owned()],
        ipv6: vec!["fe80::5054:ff:fe12:3456/64".to_owned()],
        mtu: 1500,
        rx_bytes: 918_273_645_546,
        tx_bytes: 91_827_364_554,
        rx_packets: 912_837_465,
        tx_packets: 812_733_645,
        ..Default::default()
    };
    let pressure = |resource: &str| agent::Pressure {
        resource: resource.to_owned(),
        some_10: 0.13,
        some_60: 0.4,
        some_us: 918_273_645,
        ..Default::default()
    };
    agent::Telemetry {
        cpu_usage_percent: 12.5,
        memory_total: 8 << 30,
        memory_used: 3 << 30,
        memory_available: 5 << 30,
        disks: vec![
            disk("/", "/dev/vda1"),
            disk("/var", "/dev/vda2"),
            disk("/srv", "/dev/vdb1"),
        ],
        interfaces: vec![
            interface("eth0", "52:54:00:12:34:56"),
            interface("eth1", "52:54:00:12:34:57"),
        ],
        load_avg_1m: 0.42,
        load_avg_5m: 0.4,
        load_avg_15m: 0.38,
        process_count: 143,
        uptime_seconds: 1000,
        hostname: "server".to_owned(),
        pressures: ["cpu", "memory", "io"].map(pressure).to_vec(),
        ..Default::default()
    }
}
