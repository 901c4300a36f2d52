//! The host's program: as much of a daemon as the channel needs.

use std::collections::BTreeMap;
use std::time::Duration;

use quantix::chunk::Packed;
use quantix::credit::SendCredit;
use quantix::host::{Event, Host};
use quantix::ids::MessageId;
use quantix::limits::{BACKOFF_MAX, BACKOFF_MIN, CHUNK, MAX_WRITE};
use quantix::message::Body;
use quantix::time::Time;

use super::ledger::{Order, chunk};
use super::pair::World;
use super::port::RING;

#[derive(Clone)]
pub struct Daemon {
    pub host: Host,
    pub client: Option<u64>,
    /// Runs again then; not before.
    pub stalled: Time,
    /// A session is open.
    is_open: bool,
    /// Streams that go with requests: what is left of them, and what the guest takes.
    uploads: BTreeMap<String, (u64, SendCredit)>,
    /// Connects without a valid frame behind them: when the last was made, and how many.
    tried: Option<(Time, u32)>,
}

impl Daemon {
    pub fn new(now: Time) -> Self {
        let mut host = Host::new();
        host.handle_socket(now);
        Self {
            host,
            client: None,
            stalled: now,
            is_open: false,
            uploads: BTreeMap::new(),
            tried: None,
        }
    }

    /// Reads from the socket and acts on it, and on time. False: there was nothing to do.
    pub fn read(&mut self, world: &mut World) -> bool {
        if self.stalled > world.now {
            return false;
        }
        let now = world.host_now();
        let mut moved = false;
        while let Some(id) = self.client {
            let random = &mut world.random;
            match world.port.host_read(id, random.size(64 * 1024)) {
                Some(bytes) if bytes.is_empty() => break,
                Some(bytes) => {
                    let draw = &mut || random.bytes();
                    self.host.handle_bytes(now, &bytes, draw);
                }
                None => {
                    self.client = None;
                    self.host.handle_disconnected(now);
                }
            }
            moved = true;
            self.act(world);
            if random_pause(world) {
                break;
            }
        }
        if self.host.poll_timeout().is_some_and(|at| at <= now) {
            let taken = self.client.is_some_and(|id| world.port.is_taken(id));
            self.host.handle_timeout(now, taken);
            moved = true;
        }
        self.act(world);
        moved |= self.upload(world);
        world.check_held(self.host.held());
        moved
    }

    /// Sends what the guest takes. True: something was.
    fn upload(&mut self, world: &mut World) -> bool {
        let mut moved = false;
        for (id, (left, credit)) in &mut self.uploads {
            let id = MessageId::parse(id).unwrap();
            // A client sends as it has something.
            while *left > 0 && credit.available() > 0 && !world.random.percent(10) {
                let most = world.random.size(CHUNK) as u64;
                let bytes = most.min(*left).min(credit.available()) as usize;
                let sent = chunk(credit.spend(bytes), bytes);
                self.host.send_chunk(&id, Packed::of(&id, &sent).unwrap());
                *left -= bytes as u64;
                moved = true;
            }
        }
        moved
    }

    /// Writes what may be written. False: nothing moved.
    pub fn write(&mut self, world: &mut World) -> bool {
        if self.stalled > world.now {
            return false;
        }
        let mut moved = false;
        while let Some(bytes) = self.host.poll_transmit() {
            let Some(id) = self.client else {
                panic!("the host writes without a connection");
            };
            assert!(bytes.len() <= MAX_WRITE);
            // A socket may take less than it was offered.
            let part = if world.random.percent(10) {
                world.random.size(bytes.len())
            } else {
                bytes.len()
            };
            let written = world.port.host_write(id, &bytes[..part]);
            if written == 0 {
                break;
            }
            world.ledger.record(&bytes[..written]);
            self.host.on_written(written);
            moved = true;
        }
        moved
    }

    pub fn request(&mut self, world: &mut World, order: Order) -> MessageId {
        let (id, body) = world.ledger.make(order, &mut world.random);
        world.note(|| format!("host: request {id}, {order:?}"));
        if self.host.request(world.host_now(), &id, body).is_err() {
            world.ledger.on_refused(&id);
        } else if order.upload > 0 {
            let upload = (order.upload, SendCredit::default());
            self.uploads.insert(id.as_str().to_owned(), upload);
        }
        id
    }

    /// Asks the guest for a sign of life.
    pub fn ping(&mut self, world: &World) {
        self.host.ping(world.host_now());
    }

    /// The process is gone; its kernel closes the connection.
    pub fn kill(&mut self, world: &mut World) {
        if let Some(id) = self.client.take() {
            let reads = world.random.below(RING);
            world.port.close(id, reads);
        }
        world.ledger.on_host_killed();
        *self = Self::new(world.host_now());
    }

    pub fn next(&self, world: &World) -> Option<Time> {
        if self.stalled > world.now {
            return Some(self.stalled);
        }
        let own = self.host.poll_timeout()?;
        Some(world.host_clock.world(own))
    }

    fn act(&mut self, world: &mut World) {
        while let Some(event) = self.host.poll_event() {
            match event {
                Event::Connect => self.connect(world),
                Event::Close(why) => {
                    world.note(|| format!("host: closes, {why}"));
                    let id = self.client.take().expect("a connection to close");
                    let reads = world.random.below(RING);
                    world.port.close(id, reads);
                }
                Event::Opened(_) => {
                    world.note(|| "host: opened".to_owned());
                    world.ledger.sessions += 1;
                    assert!(!self.is_open, "two sessions at once");
                    self.is_open = true;
                }
                Event::Lost { why, kept } => {
                    world.note(|| format!("host: lost, kept {kept:?}, {why}"));
                    assert!(self.is_open, "no session to lose");
                    self.is_open = false;
                    self.uploads
                        .retain(|id, _| kept.iter().any(|kept| kept.as_str() == id));
                    world.ledger.on_lost(&kept);
                }
                Event::Message(message) => {
                    assert!(self.is_open, "a message without a session");
                    match &message.body {
                        // To nobody: the host was put back to before it asked.
                        Some(Body::Credit(credit)) => {
                            if let Some((_, own)) = self.uploads.get_mut(&message.message_id) {
                                own.allow(credit.bytes);
                            }
                        }
                        _ => world.ledger.on_message(&message),
                    }
                }
                Event::Pong { round_trip, .. } => {
                    world.pongs += 1;
                    world.longest_round_trip = world.longest_round_trip.max(round_trip);
                }
            }
        }
    }

    fn connect(&mut self, world: &mut World) {
        let now = world.host_now();
        match world.port.connect() {
            Some(id) => {
                world.note(|| format!("host: connects as {id}"));
                self.check_backoff(now);
                self.client = Some(id);
                let random = &mut world.random;
                self.host.handle_connected(now, &mut || random.bytes());
            }
            None if world.port.is_gone() => {
                world.note(|| "host: is refused".to_owned());
                self.host.handle_connect_failed(now);
            }
            None => {
                world.note(|| "host: finds others before it".to_owned());
                self.host.handle_busy(now);
            }
        }
    }

    /// The n-th connect in a row without any valid frame comes 0.2 s, 0.4 s ... 5 s after the last.
    fn check_backoff(&mut self, now: Time) {
        let (last, tries) = match (self.tried, self.host.last_valid()) {
            (Some((last, tries)), valid) if valid.is_none_or(|valid| valid < last) => (last, tries),
            _ => {
                self.tried = Some((now, 1));
                return;
            }
        };
        let pause = (BACKOFF_MIN * 2u32.pow((tries - 1).min(10))).min(BACKOFF_MAX);
        assert!(now.since(last) >= pause, "connect {tries} comes early");
        self.tried = Some((now, tries + 1));
    }

    /// The VM's socket is another one: its backoff begins anew.
    pub fn replace_socket(&mut self, world: &mut World) {
        self.tried = None;
        self.client = None;
        self.host.handle_socket(world.host_now());
        self.act(world);
    }
}

/// The loop has other work between two reads.
fn random_pause(world: &mut World) -> bool {
    world.random.percent(20)
}

/// How long a healthy connection may take to its session.
pub const OPENS_WITHIN: Duration = Duration::from_secs(2);
