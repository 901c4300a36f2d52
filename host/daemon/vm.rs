//! One VM: its socket, its channel, and what is known of it.

use std::io::{ErrorKind, Read, Write};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use quantix::error::system_text;
use quantix::host::{Event, Host, Phase};
use quantix::message::agent::{AgentReady, Pong, Telemetry, Timestamp};
use quantix::message::node;
use quantix::rt::log::DropLog;
use quantix::rt::sys::fd::unread_by_peer;
use quantix::rt::sys::sock_diag::peer_inode;
use quantix::rt::{clock, random};
use quantix::time::Time;

use super::discover::Socket;

/// Reads of 64 KiB in one turn, so that one busy VM cannot keep the loop.
const READS_A_TURN: usize = 4;

/// A VM whose socket is there.
#[derive(Debug)]
pub struct Vm {
    pub name: String,
    pub socket: Socket,
    pub host: Host,
    token: Token,
    link: Link,
    shown: Shown,
    connects: u64,
    pub ready: Option<AgentReady>,
    pong: Option<Pong>,
    round_trip_us: u64,
    skew_ms: i64,
    pub telemetry: Option<(Telemetry, Time)>,
    coalesced: u64,
    /// The last session is of another boot than the one before.
    pub rebooted: bool,
    pub drops: DropLog,
}

#[derive(Debug)]
enum Link {
    /// The last connect's error, if there was one.
    Down { why: String },
    Up {
        stream: UnixStream,
        readable: bool,
        writable: bool,
    },
}

impl Link {
    fn down(why: &str) -> Self {
        Self::Down {
            why: why.to_owned(),
        }
    }
}

/// The state as people see it, with its time.
#[derive(Debug)]
struct Shown {
    phase: Phase,
    since: Time,
}

impl Vm {
    /// A VM whose socket has just been found. It connects at the first [`settle`](Self::settle).
    pub fn new(name: String, socket: Socket, token: Token, now: Time) -> Self {
        let mut host = Host::new();
        host.handle_socket(now);
        Self {
            name,
            socket,
            host,
            token,
            link: Link::down(""),
            shown: Shown {
                phase: Phase::Connecting,
                since: now,
            },
            connects: 0,
            ready: None,
            pong: None,
            round_trip_us: 0,
            skew_ms: 0,
            telemetry: None,
            coalesced: 0,
            rebooted: false,
            drops: DropLog::default(),
        }
    }

    /// Another socket has taken the place of this VM's: it was started again.
    pub fn on_new_socket(&mut self, socket: Socket, now: Time) {
        self.socket = socket;
        self.link = Link::down("");
        self.host.handle_socket(now);
    }

    /// The socket is gone.
    pub fn on_socket_gone(&mut self) {
        self.link = Link::down("");
        self.host.handle_socket_gone();
    }

    /// Its socket is gone, and so is it.
    pub const fn is_absent(&self) -> bool {
        matches!(self.shown.phase, Phase::Absent)
    }

    /// What its state is called.
    pub const fn word(&self) -> &'static str {
        super::word(self.shown.phase)
    }

    /// An event of the poll.
    pub fn on_ready(&mut self, can_read: bool, can_write: bool) {
        if let Link::Up {
            readable, writable, ..
        } = &mut self.link
        {
            *readable |= can_read;
            *writable |= can_write;
        }
    }

    /// There may be more to read without another event.
    pub const fn is_readable(&self) -> bool {
        matches!(self.link, Link::Up { readable: true, .. })
    }

    /// The deadline of the channel has come.
    pub fn on_timeout(&mut self, now: Time) {
        let taken = match &self.link {
            Link::Up { stream, .. } => unread_by_peer(stream).is_ok_and(|bytes| bytes == 0),
            Link::Down { .. } => false,
        };
        self.host.handle_timeout(now, taken);
    }

    /// Reads a turn's share.
    pub fn read(&mut self, now: Time, buffer: &mut [u8]) {
        for _ in 0..READS_A_TURN {
            let Link::Up {
                stream,
                readable: readable @ true,
                ..
            } = &mut self.link
            else {
                return;
            };
            match stream.read(buffer) {
                Ok(0) => return self.down(now, "QEMU closed the connection"),
                Ok(n) => self
                    .host
                    .handle_bytes(now, &buffer[..n], &mut random::bytes),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => *readable = false,
                Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                    return self.down(now, "QEMU closed the connection");
                }
                Err(e) => return self.down(now, &system_text(&e)),
            }
        }
    }

    /// Writes what the socket takes. True: the connection has ended over it.
    fn write(&mut self, now: Time) -> bool {
        while let Link::Up {
            stream,
            writable: writable @ true,
            ..
        } = &mut self.link
            && let Some(bytes) = self.host.poll_transmit()
        {
            match stream.write(bytes) {
                Ok(n) => self.host.on_written(n),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => *writable = false,
                Err(e) => {
                    self.down(now, &system_text(&e));
                    return true;
                }
            }
        }
        false
    }

    /// Brings everything into line with the channel's state: the connection, what is written, and
    /// what people are shown. Returns what the rest of the daemon has to act on.
    pub fn settle(&mut self, now: Time, registry: &Registry) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            match self.host.poll_event() {
                Some(Event::Connect) => self.connect(now, registry),
                Some(Event::Close(why)) => self.link = Link::down(why),
                Some(event) => {
                    self.note(now, &event);
                    events.push(event);
                }
                // A write may find that the connection has ended.
                None if self.write(now) => {}
                None => return events,
            }
        }
    }

    /// Whether what people are shown has changed: what it was, what it is.
    pub fn poll_phase(&mut self, now: Time) -> Option<(Phase, Phase)> {
        let (before, phase) = (self.shown.phase, self.host.phase(now));
        (before != phase).then(|| {
            self.shown = Shown { phase, since: now };
            (before, phase)
        })
    }

    fn connect(&mut self, now: Time, registry: &Registry) {
        let connected = UnixStream::connect(&self.socket.path).and_then(|mut stream| {
            let both = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut stream, self.token, both)?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => {
                self.connects += 1;
                self.link = Link::Up {
                    stream,
                    readable: true,
                    writable: true,
                };
                self.host.handle_connected(now, &mut random::bytes);
            }
            Err(e) => {
                let why = match e.kind() {
                    // The listener's queue of one is full: QEMU serves a single client.
                    ErrorKind::WouldBlock => "other clients are connected to the socket".to_owned(),
                    ErrorKind::ConnectionRefused => "nothing listens on the socket: QEMU has ended; start the VM, or remove the file"
                        .to_owned(),
                    _ => format!("connect: {}", system_text(&e)),
                };
                self.link = Link::Down { why };
                self.host.handle_connect_failed(now);
            }
        }
    }

    fn down(&mut self, now: Time, why: &str) {
        self.link = Link::down(why);
        self.host.handle_disconnected(now);
    }

    fn note(&mut self, now: Time, event: &Event) {
        match event {
            Event::Opened(pong) => {
                let before = self.pong.replace(pong.clone());
                self.rebooted = before.is_some_and(|before| before.boot_id != pong.boot_id);
            }
            Event::Pong {
                round_trip, pong, ..
            } => {
                self.round_trip_us = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
                self.skew_ms = skew_ms(pong.time.as_ref(), self.round_trip_us);
                self.pong = Some(pong.clone());
            }
            Event::Message(message) => match &message.body {
                Some(quantix::message::Body::AgentReady(ready)) => {
                    self.ready = Some(bounded(ready));
                }
                Some(quantix::message::Body::Telemetry(telemetry)) => {
                    self.coalesced = telemetry.coalesced;
                    self.telemetry = Some((telemetry.clone(), now));
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// Why it is in its state, and what to do about it.
    pub fn reason(&self) -> String {
        match (self.shown.phase, &self.link) {
            (Phase::Ready, _) => String::new(),
            (Phase::Absent, _) => format!("no socket {}", self.socket.path.display()),
            (Phase::Connecting, Link::Down { why }) => why.clone(),
            (Phase::Connecting, Link::Up { .. }) => String::new(),
            (Phase::Waiting, Link::Up { stream, .. }) if matches!(peer_inode(stream), Ok(None)) => {
                "our connection waits in QEMU's queue: another client is connected, or QEMU is \
                    still starting"
                    .to_owned()
            }
            (Phase::Waiting, _) => "nothing in the guest has taken our Ping: is \
                quantix-kvm-agent running there?"
                .to_owned(),
            (Phase::Stalled, _) if self.host.is_taken() == Some(false) => {
                "the guest no longer takes our bytes: is the VM paused, or the agent stopped?"
                    .to_owned()
            }
            (Phase::Stalled, _) => "the guest takes our bytes and does not answer".to_owned(),
        }
    }

    /// What clients are told.
    pub fn describe(&self, now: Time) -> node::Vm {
        let millis = |at: Time| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        let counters = self.host.counters();
        let state = match self.shown.phase {
            Phase::Absent => node::VmState::Absent,
            Phase::Connecting => node::VmState::Connecting,
            Phase::Waiting => node::VmState::Waiting,
            Phase::Ready => node::VmState::Ready,
            Phase::Stalled => node::VmState::Stalled,
        };
        node::Vm {
            name: self.name.clone(),
            state: state.into(),
            reason: self.reason(),
            since_ms: millis(self.shown.since),
            agent: self.ready.clone(),
            boot_id: self
                .pong
                .as_ref()
                .map(|p| p.boot_id.clone())
                .unwrap_or_default(),
            uptime_seconds: self
                .pong
                .as_ref()
                .map(|p| p.uptime_seconds)
                .unwrap_or_default(),
            counters: Some(node::Counters {
                sessions: counters.sessions,
                connects: self.connects,
                frames_in: counters.frames_in,
                frames_out: counters.frames_out,
                bytes_in: counters.bytes_in,
                bytes_out: counters.bytes_out,
                stale_frames: counters.stale_frames,
                bad_frames: counters.bad_frames,
                garbage_bytes: counters.garbage_bytes,
                coalesced: self.coalesced,
            }),
            rtt_us: self.round_trip_us,
            clock_skew_ms: self.skew_ms,
            socket: self.socket.path.display().to_string(),
            last_frame_ms: self.host.last_valid().map(millis).unwrap_or_default(),
        }
    }
}

/// What a guest says of itself, cut to what honest ones need: it is kept, and shown with that of all
/// other VMs.
fn bounded(ready: &AgentReady) -> AgentReady {
    let text = |text: &str| text.chars().take(128).collect::<String>();
    let list = |list: &[String]| list.iter().take(64).map(|item| text(item)).collect();
    AgentReady {
        version: text(&ready.version),
        os_name: text(&ready.os_name),
        os_version: text(&ready.os_version),
        kernel_version: text(&ready.kernel_version),
        architecture: text(&ready.architecture),
        hostname: text(&ready.hostname),
        ip_addresses: list(&ready.ip_addresses),
        capabilities: list(&ready.capabilities),
    }
}

/// The guest's clock minus ours. Its Pong was written about half a round trip ago.
fn skew_ms(guest: Option<&Timestamp>, round_trip_us: u64) -> i64 {
    let Some(guest) = guest else {
        return 0;
    };
    let millis = |t: &Timestamp| {
        t.seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(t.nanos / 1_000_000))
    };
    let half = i64::try_from(round_trip_us / 2000).unwrap_or(0);
    millis(guest)
        .saturating_add(half)
        .saturating_sub(millis(&clock::wall()))
}
