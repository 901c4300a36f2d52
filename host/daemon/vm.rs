//! One VM: its socket, its channel, and what is known of it.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;

use mio::net::UnixStream;
use mio::{Registry, Token};
use quantix::error::system_text;
use quantix::host::{Event, Host};
use quantix::message::agent::{AgentReady, Timestamp};
use quantix::message::{Body, node};
use quantix::rt::log::{DropLog, Share};
use quantix::rt::sys::fd::unread_by_peer;
use quantix::rt::sys::sock_diag::inode;
use quantix::rt::{clock, random};
use quantix::time::{Time, earliest};

use super::clocks::Away;
use super::descriptors::{NO_DESCRIPTOR, connect, is_short};
use super::discover::Socket;
use super::guest::Guest;
use super::history::History;
use super::monitor::Monitor;
use super::peers::Peers;
use super::queue::Ask;
use super::report::Report;
use super::state::{Evidence, Line, Seen, State, judge};
use super::watchdog::Watch;

/// Reads of 64 KiB in one turn, so that one busy VM cannot keep the loop.
const READS_A_TURN: usize = 4;

/// A VM whose socket is there, or was.
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
    /// What the guest's Pongs have told of it.
    pub guest: Guest,
    pub round_trip_us: u64,
    /// As of its last Pong.
    pub skew_ms: i64,
    /// It was, and nobody has looked at its clock since.
    pub away: Option<Away>,
    /// Its last hour.
    pub history: History,
    /// Its last.
    pub telemetry: Option<Report>,
    /// What its reports say of its disks and its process 1.
    pub watch: Watch,
    coalesced: u64,
    pub monitor: Monitor,
    /// Who is ahead of us, as it was last found.
    line: Option<Line>,
    /// The last connection was given up for a guest that takes and does not answer.
    mute: bool,
    pub drops: DropLog,
    /// Log lines about it.
    pub said: Share,
}

/// Log lines about one VM: so many at once, and another after each pause.
const LINES: u32 = 20;
/// See [`LINES`].
const LINE_EVERY: Duration = Duration::from_secs(15);

#[derive(Debug)]
enum Link {
    /// Why, if there was a connection or an attempt.
    Down { why: String },
    /// The socket's queue had no room for us.
    Full,
    Up {
        stream: UnixStream,
        readable: bool,
        writable: bool,
        served: Served,
    },
}

/// Whether QEMU serves our connection. Once it does it does until the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    NotYet,
    Yes,
    /// And since then it was looked whether our Ping is taken.
    Looked,
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
    state: State,
    since: Time,
}

impl Vm {
    /// A VM whose socket has just been found. It connects at the first [`settle`](Self::settle).
    pub fn new(name: String, socket: Socket, token: Token, monitor: Token, now: Time) -> Self {
        let mut host = Host::new();
        host.handle_socket(now);
        let monitor = Monitor::new(&socket.path, &name, monitor);
        Self {
            name,
            socket,
            host,
            token,
            link: Link::down(""),
            shown: Shown {
                state: State::Connecting { why: String::new() },
                since: now,
            },
            connects: 0,
            ready: None,
            guest: Guest::default(),
            round_trip_us: 0,
            skew_ms: 0,
            away: None,
            history: History::default(),
            telemetry: None,
            watch: Watch::default(),
            coalesced: 0,
            monitor,
            line: None,
            mute: false,
            drops: DropLog::default(),
            said: Share::new(LINES, LINE_EVERY),
        }
    }

    /// The VM's socket is there again, or another has taken its place: it was started again.
    pub fn on_new_socket(&mut self, socket: Socket, now: Time) {
        self.socket = socket;
        self.forget_connection();
        self.host.handle_socket(now);
    }

    /// The socket is gone. What the guest said of itself is kept no longer: nobody is there.
    pub fn on_socket_gone(&mut self) {
        self.forget_connection();
        self.host.handle_socket_gone();
        self.monitor.forget();
        self.ready = None;
        self.telemetry = None;
    }

    fn forget_connection(&mut self) {
        self.link = Link::down("");
        self.line = None;
        self.mute = false;
    }

    /// Its socket is gone.
    pub const fn is_absent(&self) -> bool {
        matches!(self.shown.state, State::Absent)
    }

    /// Its state.
    pub const fn state(&self) -> &State {
        &self.shown.state
    }

    /// Since when it has been in this state.
    pub const fn since(&self) -> Time {
        self.shown.since
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

    /// When [`on_timeout`](Self::on_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        earliest(self.host.poll_timeout(), self.monitor.poll_timeout())
    }

    /// The deadline of the channel, or of the monitor, has come.
    pub fn on_timeout(&mut self, now: Time, peers: &mut Peers) {
        let looks = self.host.poll_timeout().is_some_and(|at| at <= now);
        let taken = match &mut self.link {
            Link::Up { stream, served, .. } => {
                let taken = unread_by_peer(stream).is_ok_and(|bytes| bytes == 0);
                *served = match *served {
                    Served::NotYet if looks && (taken || peers.has_accepted(now, stream)) => {
                        Served::Yes
                    }
                    Served::Yes if looks => Served::Looked,
                    served => served,
                };
                taken
            }
            Link::Down { .. } | Link::Full => false,
        };
        self.host.handle_timeout(now, taken);
    }

    /// Reads a turn's share.
    pub fn read(&mut self, now: Time, buffer: &mut [u8]) {
        for _ in 0..READS_A_TURN {
            let Link::Up {
                stream,
                readable: readable @ true,
                served,
                ..
            } = &mut self.link
            else {
                return;
            };
            match stream.read(buffer) {
                Ok(0) => return self.down(now, "QEMU closed the connection"),
                Ok(n) => {
                    if *served == Served::NotYet {
                        *served = Served::Yes;
                    }
                    self.host
                        .handle_bytes(now, &buffer[..n], &mut random::bytes);
                }
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

    /// Brings everything into line with the channel's state: the connection, and what is written.
    /// Returns what the rest of the daemon has to act on.
    pub fn settle(&mut self, now: Time, registry: &Registry) -> Vec<Event> {
        let mut events = Vec::new();
        if self.monitor.settle(now, registry) {
            self.host.probe(now);
        }
        loop {
            match self.host.poll_event() {
                Some(Event::Connect) => self.connect(now, registry),
                Some(Event::Close(why)) => {
                    self.link = Link::down(why);
                    self.mute = true;
                }
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

    /// Whether what people are shown has changed: what it was.
    pub fn poll_state(&mut self, now: Time) -> Option<State> {
        let (seen, looked) = match &self.link {
            Link::Down { why } => (Seen::Down(why), false),
            Link::Full => (Seen::Full, false),
            Link::Up { served, .. } => match served {
                Served::NotYet => (Seen::Unaccepted, false),
                Served::Yes => (Seen::Accepted, false),
                Served::Looked => (Seen::Accepted, true),
            },
        };
        if matches!(seen, Seen::Accepted) {
            self.line = None;
        }
        let taken = self.host.is_taken().filter(|_| looked);
        if self.host.is_open() || taken == Some(false) {
            self.mute = false;
        }
        let evidence = Evidence {
            now,
            phase: self.host.phase(now),
            seen,
            line: self.line.as_ref(),
            taken,
            mute: self.mute,
            heard: self.host.last_valid(),
            told: self.monitor.told(),
        };
        let state = judge(&evidence, &self.shown.state);
        if state == self.shown.state {
            return None;
        }
        if state.wire() != self.shown.state.wire() {
            self.shown.since = now;
        }
        Some(std::mem::replace(&mut self.shown.state, state))
    }

    /// Whether it should be found out who is ahead of us, and whether we have a place in the queue.
    pub fn is_in_line(&self) -> Option<bool> {
        match &self.link {
            Link::Full => Some(false),
            // QEMU has had its time to accept us.
            Link::Up {
                served: Served::NotYet,
                ..
            } if self.host.is_taken() == Some(false) => Some(true),
            _ => None,
        }
    }

    /// Whether the process that we are behind has ended. One look at /proc, unlike the search for it.
    pub fn has_holder_ended(&self) -> bool {
        let pid = self.shown.state.behind().map_or(0, |behind| behind.pid);
        pid > 0 && !Path::new(&format!("/proc/{pid}")).exists()
    }

    /// What has to be known to find out who is ahead of us.
    pub fn ask_line(&self) -> Option<Ask> {
        let ours = match &self.link {
            Link::Up { stream, .. } => Some(inode(stream).ok()?),
            _ => None,
        };
        self.is_in_line().map(|_| Ask {
            path: self.socket.path.clone(),
            file: self.socket.inode,
            ours,
        })
    }

    /// Somebody has looked who is ahead of us. What was found before outlasts a look that failed. That nobody is
    /// may be because it is our turn: that is no news, but what comes of it will be.
    pub fn on_line(&mut self, now: Time, line: Line, peers: &mut Peers) {
        if let Link::Up {
            stream,
            served: served @ Served::NotYet,
            ..
        } = &mut self.link
            && peers.has_accepted(now, stream)
        {
            *served = Served::Yes;
        }
        if self.line.is_none() || line != Line::Unknown {
            self.line = Some(line);
        }
    }

    fn connect(&mut self, now: Time, registry: &Registry) {
        match connect(&self.socket.path, self.token, registry) {
            Ok(stream) => {
                self.connects += 1;
                self.link = Link::Up {
                    stream,
                    readable: true,
                    writable: true,
                    served: Served::NotYet,
                };
                self.host.handle_connected(now, &mut random::bytes);
            }
            // QEMU serves a single client, and its listener's queue is full.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.link = Link::Full;
                self.host.handle_busy(now);
            }
            Err(e) => {
                let why = match e.kind() {
                    ErrorKind::ConnectionRefused => "nothing listens on the socket: QEMU has ended; start the VM, or remove the file"
                        .to_owned(),
                    _ if is_short(&e) => NO_DESCRIPTOR.to_owned(),
                    _ => format!("connect: {}", system_text(&e)),
                };
                self.link = Link::Down { why };
                self.mute = false;
                self.host.handle_connect_failed(now);
            }
        }
    }

    fn down(&mut self, now: Time, why: &str) {
        self.link = Link::down(why);
        self.mute = false;
        self.host.handle_disconnected(now);
    }

    /// What it says of itself stays here; that it has said so goes on.
    fn note(&mut self, now: Time, event: &Event) {
        match event {
            Event::Pong {
                round_trip, pong, ..
            } => {
                self.round_trip_us = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
                self.skew_ms = skew_ms(pong.time.as_ref(), self.round_trip_us);
            }
            Event::Message(message) => match &message.body {
                Some(Body::AgentReady(ready)) => {
                    self.ready = Some(bounded(ready));
                }
                Some(Body::Telemetry(telemetry)) => {
                    self.coalesced = telemetry.coalesced;
                    self.watch.on_report(telemetry);
                    self.telemetry = Some(Report::new(telemetry, now));
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// Why it is in its state, and what to do about it.
    pub fn reason(&self) -> String {
        match &self.shown.state {
            State::Absent => format!(
                "no socket {}: the VM is off, or was undefined",
                self.socket.path.display()
            ),
            state => state.why().to_owned(),
        }
    }

    /// What clients are told.
    pub fn describe(&self, now: Time) -> node::Vm {
        let millis = |at: Time| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        let counters = self.host.counters();
        node::Vm {
            name: self.name.clone(),
            state: self.shown.state.wire().into(),
            behind: self.shown.state.behind().cloned(),
            reason: self.reason(),
            ills: self.watch.ills(),
            since_ms: millis(self.shown.since),
            agent: self.ready.clone(),
            boot_id: self.guest.boot_id().to_owned(),
            uptime_seconds: self.guest.uptime_seconds(),
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
            held_bytes: self.host.held() as u64,
            latest: self.history.latest(now),
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
        primary_address: text(&ready.primary_address),
        capabilities: list(&ready.capabilities),
        frozen: ready.frozen,
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use mio::Poll;
    use quantix::message::node::{Behind, VmState};
    use quantix::rt::sys::sock_diag;

    use super::super::discover;
    use super::*;

    #[test]
    fn whoever_was_ahead_and_has_left_leaves_us_no_further_from_our_turn() {
        if sock_diag::unaccepted().is_err() {
            return; // A kernel that does not tell, as in some containers.
        }
        let path = std::env::temp_dir().join(format!("qx-vm-{}.agent.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let socket = discover::socket(&path).unwrap().unwrap();
        let poll = Poll::new().unwrap();
        let now = clock::now();
        let mut vm = Vm::new("vm".to_owned(), socket, Token(0), Token(1), now);
        let mut peers = Peers::default();
        vm.on_timeout(now, &mut peers);
        vm.settle(now, poll.registry());
        let mut see = |vm: &mut Vm, line| {
            vm.on_line(now, line, &mut peers);
            vm.poll_state(now);
            peers.forget();
            vm.state().wire()
        };
        let behind = Behind::default();
        let ahead = Line::Ahead { behind, why: "" };
        assert_eq!(see(&mut vm, ahead), VmState::Queued);
        let served = listener.accept().unwrap();
        assert_eq!(see(&mut vm, Line::Nobody), VmState::Queued);
        drop(served);
        std::fs::remove_file(path).unwrap();
    }
}
