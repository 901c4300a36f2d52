//! The host's side: what a program does with a `Host`, and what it may rely on.

use quantix::chunk::Packed;
use quantix::host::{Event, Host, Phase};
use quantix::ids::MessageId;
use quantix::limits::{FLUSH, HOST_WINDOW, HOST_WRITES};
use quantix::message::{Body, Stream, agent};
use quantix::time::Time;

use super::ledger::Ledger;
use super::pipe::Pipe;
use super::written::Written;

/// What no window holds back: Pings and acknowledgements, and the flushes of a host that is not answered.
const URGENT: usize = 16 * 1024 + 3 * FLUSH;
const URGENT_WRITES: usize = 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// No socket to connect to.
    Absent,
    Down,
    /// A connect is under way.
    Asked,
    Up,
}

pub struct Daemon {
    pub host: Host,
    link: Link,
    written: Written,
    /// As the events tell.
    is_open: bool,
    /// Sessions that were opened.
    session: u64,
    draws: u64,
    last_pong: u64,
    continued: bool,
    /// Since the `Host` was made.
    bytes_in: u64,
    bytes_out: u64,
}

impl Daemon {
    pub fn new(now: Time) -> Self {
        let mut daemon = Self {
            host: Host::new(),
            link: Link::Absent,
            written: Written::new(false),
            is_open: false,
            session: 0,
            draws: 0,
            last_pong: 0,
            continued: false,
            bytes_in: 0,
            bytes_out: 0,
        };
        daemon.socket(now, &mut Ledger::default());
        daemon
    }

    /// Another process on the same host; true: a connection has ended with it.
    pub fn restart(&mut self, now: Time, ledger: &mut Ledger) -> bool {
        let was_up = self.link == Link::Up;
        ledger.on_lost(&[]);
        self.host = Host::new();
        self.is_open = false;
        self.last_pong = 0;
        (self.bytes_in, self.bytes_out) = (0, 0);
        self.socket(now, ledger);
        was_up
    }

    /// The VM's socket is there, or another one.
    pub fn socket(&mut self, now: Time, ledger: &mut Ledger) {
        self.link = Link::Down;
        self.host.handle_socket(now);
        self.on_events(ledger);
    }

    pub fn socket_gone(&mut self, ledger: &mut Ledger) {
        self.link = Link::Absent;
        self.host.handle_socket_gone();
        self.on_events(ledger);
        assert_eq!(self.host.poll_timeout(), None, "nothing wakes it up");
    }

    pub fn is_absent(&self) -> bool {
        self.link == Link::Absent
    }

    pub fn is_connecting(&self) -> bool {
        self.link == Link::Asked
    }

    pub fn is_up(&self) -> bool {
        self.link == Link::Up
    }

    /// Where a connect is under way, it comes to something or not.
    pub fn connect(&mut self, now: Time, well: bool, ledger: &mut Ledger) {
        if self.link != Link::Asked {
            return;
        }
        if well {
            self.link = Link::Up;
            self.written.reset();
            self.continued = false;
            let draws = &mut self.draws;
            self.host.handle_connected(now, &mut || draw(draws));
        } else {
            self.link = Link::Down;
            self.host.handle_connect_failed(now);
        }
        self.on_events(ledger);
    }

    pub fn hang_up(&mut self, now: Time, ledger: &mut Ledger) {
        self.link = Link::Down;
        self.host.handle_disconnected(now);
        self.on_events(ledger);
    }

    /// `taken`: the socket is empty.
    pub fn tick(&mut self, now: Time, taken: bool, ledger: &mut Ledger) {
        let due = self.host.poll_timeout().is_some_and(|at| at <= now);
        self.host.handle_timeout(now, taken);
        self.on_events(ledger);
        if due {
            assert!(
                self.host.poll_timeout().is_none_or(|at| at > now),
                "it spins"
            );
        }
    }

    pub fn read(&mut self, now: Time, bytes: &[u8], ledger: &mut Ledger) {
        let draws = &mut self.draws;
        self.host.handle_bytes(now, bytes, &mut || draw(draws));
        self.bytes_in += bytes.len() as u64;
        self.on_events(ledger);
    }

    fn on_events(&mut self, ledger: &mut Ledger) {
        while let Some(event) = self.host.poll_event() {
            match event {
                Event::Connect => {
                    assert_eq!(self.link, Link::Down, "one connection at a time");
                    self.link = Link::Asked;
                }
                Event::Close(_) => {
                    assert_eq!(self.link, Link::Up, "there is nothing to close");
                    self.link = Link::Down;
                }
                Event::Opened(pong) => {
                    assert!(self.link == Link::Up && !self.is_open);
                    self.is_open = true;
                    self.session += 1;
                    self.written.open(pong.session);
                }
                Event::Lost { why, kept } => {
                    assert!(self.is_open, "no session is lost twice");
                    ledger.on_end(&why.to_string());
                    self.is_open = false;
                    ledger.on_lost(&kept);
                }
                Event::Pong { sequence, .. } => {
                    assert!(self.is_open);
                    assert!(sequence > self.last_pong, "a Pong counts once");
                    self.last_pong = sequence;
                }
                Event::Message(told) => {
                    assert!(self.is_open, "{told:?} outside a session");
                    ledger.on_message(&told);
                }
            }
        }
        assert_eq!(self.is_open, self.host.is_open());
    }

    pub fn request(&mut self, now: Time, size: usize, ledger: &mut Ledger) -> MessageId {
        let (id, body) = ledger.make(size);
        if self.host.request(now, &id, body).is_err() {
            ledger.on_withdrawn(&id);
        }
        id
    }

    /// As the daemon does when a request's time is up: it is taken back, or else cancelled.
    pub fn withdraw(&mut self, at: usize, ledger: &mut Ledger) {
        let Some(id) = nth_pending(at, ledger) else {
            return;
        };
        self.host.drop_stream(&id);
        if self.host.withdraw(&id) {
            ledger.on_withdrawn(&id);
        } else {
            ledger.on_given_up(&id);
            let _ = self.host.tell(&id, Body::Cancel(agent::Cancel {}));
        }
    }

    pub fn cancel(&mut self, at: usize, ledger: &Ledger) {
        if let Some(id) = nth_pending(at, ledger) {
            let _ = self.host.tell(&id, Body::Cancel(agent::Cancel {}));
        }
    }

    pub fn credit(&mut self, at: usize, bytes: usize, ledger: &Ledger) {
        if let Some(id) = nth_pending(at, ledger) {
            let credit = agent::Credit {
                stream: Stream::Data.into(),
                bytes: bytes as u64,
            };
            let _ = self.host.tell(&id, Body::Credit(credit));
        }
    }

    pub fn stream(&mut self, at: usize, size: usize, ledger: &mut Ledger) {
        if let Some(id) = nth_pending(at, ledger).filter(|_| self.is_open) {
            let chunk = ledger.chunk_to_guest(&id, size);
            let chunk = Packed::of(&id, &chunk).expect("a chunk fits");
            self.host.send_chunk(&id, chunk);
        }
    }

    pub fn ping(&mut self, now: Time) {
        assert_eq!(self.host.ping(now).is_some(), self.is_open);
    }

    /// One write, or a part of one. False: there is nothing to write.
    pub fn write(&mut self, part: Option<usize>, down: &mut Pipe) -> bool {
        let Some(bytes) = self.host.poll_transmit() else {
            assert!(self.written.is_whole() || !self.is_up());
            return false;
        };
        assert_eq!(self.link, Link::Up, "there is nobody to write to");
        let count = part.map_or(bytes.len(), |part| 1 + part * 129 % bytes.len());
        let is_part = count < bytes.len();
        let session = if self.is_open { self.session } else { 0 };
        down.write(&bytes[..count], session, self.continued);
        self.written.write(&bytes[..count]);
        self.host.on_written(count);
        self.continued = is_part;
        self.bytes_out += count as u64;
        let (bytes, writes) = down.in_flight(self.session);
        let fits = bytes <= HOST_WINDOW as usize + URGENT && writes <= HOST_WRITES + URGENT_WRITES;
        assert!(
            fits || down.has_won,
            "{bytes} bytes in {writes} writes are on their way"
        );
        true
    }

    pub fn check(&self, now: Time) {
        let host = &self.host;
        let phase = host.phase(now);
        let fits = match self.link {
            Link::Absent => phase == Phase::Absent,
            Link::Down | Link::Asked => phase == Phase::Connecting,
            Link::Up if self.is_open => matches!(phase, Phase::Ready | Phase::Stalled),
            Link::Up => matches!(phase, Phase::Waiting | Phase::Stalled),
        };
        assert!(fits, "{phase:?} where the link is {:?}", self.link);
        // Whatever is being waited for, either the caller or the clock brings it on.
        let waits = matches!(self.link, Link::Absent | Link::Asked);
        assert_eq!(host.poll_timeout().is_none(), waits);
        assert!(host.is_taken().is_none() || self.link == Link::Up);
        let counters = host.counters();
        assert_eq!(counters.bytes_in, self.bytes_in);
        assert_eq!(counters.bytes_out, self.bytes_out);
    }
}

fn nth_pending(at: usize, ledger: &Ledger) -> Option<MessageId> {
    let pending = ledger.pending();
    (!pending.is_empty()).then(|| pending[at % pending.len()].clone())
}

/// A nonce like no other.
fn draw(draws: &mut u64) -> [u8; 16] {
    *draws += 1;
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&draws.to_be_bytes());
    nonce
}
