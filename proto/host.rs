//! The host's side of one VM's channel: connect, open a session, keep it alive, and connect again
//! for as long as the VM exists.
//!
//! It outlives its connections. Inputs are `handle_*`, commands are verbs, outputs are `poll_*`.
//! After any input or command the caller drains [`poll_event`](Host::poll_event), then writes what
//! [`poll_transmit`](Host::poll_transmit) gives for as long as the socket takes it, then sleeps
//! until [`poll_timeout`](Host::poll_timeout) at the latest.

use std::collections::VecDeque;
use std::time::Duration;

use crate::chunk::Packed;
use crate::endpoint::{Counters, Endpoint, Incoming};
use crate::error::{Code, Failure};
use crate::ids::{MessageId, Nonce, SessionId};
use crate::limits::{KEEP_ALIVE, LOOK_AFTER, READY_PATIENCE, STALE_AFTER};
use crate::loss::Loss;
use crate::message::{AgentMessage, Body, agent, encode, message};
use crate::outbox::{About, Full, Load};
use crate::pace::Pace;
use crate::pings::{Pings, SentPing};
use crate::probe::{Asked, Probe};
use crate::time::Time;
use crate::window::Side;

/// What the caller has to act on.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "an event is moved once or twice; a box would be allocated for each message"
)]
pub enum Event {
    /// Connect to the VM's socket; then call `handle_connected` or `handle_connect_failed`.
    Connect,
    /// Close the connection; it has been forgotten here already.
    Close(&'static str),
    /// A session is open.
    Opened(agent::Pong),
    /// The session is over. Requests that were in flight may or may not have been acted on, but
    /// for these, which were certainly not and go into the next session by themselves.
    Lost {
        /// Why.
        why: Loss,
        /// Requests that stay queued.
        kept: Vec<MessageId>,
    },
    /// A Ping of this session was answered.
    Pong {
        /// The Ping's.
        sequence: u64,
        /// From the Ping's way into the outbox to the Pong's way out of the decoder, in a session
        /// that was open already.
        round_trip: Duration,
        /// What it said.
        pong: agent::Pong,
    },
    /// Anything else of the session.
    Message(AgentMessage),
}

/// Where the channel stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is no socket.
    Absent,
    /// There is a socket, and nothing serves it yet.
    Connecting,
    /// Connected; nothing has taken our Ping.
    Waiting,
    /// A session is open and answers.
    Ready,
    /// Our Ping was taken and not answered, even after a flush, or an open session's guest no longer
    /// takes it.
    Stalled,
}

/// The host's side of one VM's channel.
#[derive(Clone, Debug)]
pub struct Host {
    endpoint: Endpoint,
    state: State,
    events: VecDeque<Event>,
    sequence: u64,
    /// Pings of the present nonce, oldest first.
    pings: Pings,
    /// The first Ping behind which requests are guarded.
    guard: Option<u64>,
    last_valid: Option<Time>,
    /// When a nonce was last drawn: a guest cannot make us open sessions faster than `RENEW_PAUSE`.
    renewed: Option<Time>,
    pace: Pace,
}

#[derive(Clone, Debug)]
enum State {
    /// No socket. `handle_socket` moves on.
    Absent,
    /// No connection. At `retry`: `Connecting`.
    Detached { retry: Time },
    /// The caller is connecting.
    Connecting,
    /// Connected, the nonce not yet seen again. Its Pong moves on to `Ready`.
    Opening { nonce: Nonce, probe: Probe },
    /// A session is open.
    Ready { nonce: Nonce, probe: Probe },
}

impl Host {
    /// A VM whose socket has not been seen yet.
    pub fn new() -> Self {
        Self {
            endpoint: Endpoint::new(Side::Host),
            state: State::Absent,
            events: VecDeque::new(),
            sequence: 0,
            pings: Pings::default(),
            guard: None,
            last_valid: None,
            renewed: None,
            pace: Pace::default(),
        }
    }

    /// Where the channel stands.
    pub fn phase(&self, now: Time) -> Phase {
        match &self.state {
            State::Absent => Phase::Absent,
            State::Detached { .. } | State::Connecting => Phase::Connecting,
            // A guest that was left inside a frame needs a flush before it can answer.
            State::Opening { probe, .. } => match probe.taken_at() {
                Some(at) if now.since(at) >= LOOK_AFTER => Phase::Stalled,
                Some(_) | None => Phase::Waiting,
            },
            State::Ready { probe, .. } if probe.waits(now) >= STALLED_AFTER => Phase::Stalled,
            State::Ready { .. } => Phase::Ready,
        }
    }

    /// The session that is open.
    pub fn session(&self) -> Option<SessionId> {
        self.endpoint.session()
    }

    /// Bytes that this side holds in memory: what waits to be sent, and an incomplete frame.
    pub fn held(&self) -> usize {
        self.endpoint.held()
    }

    /// A session is open: requests may be sent.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// What has happened so far.
    pub const fn counters(&self) -> &Counters {
        self.endpoint.counters()
    }

    /// When the last valid frame of a session arrived.
    pub const fn last_valid(&self) -> Option<Time> {
        self.last_valid
    }

    /// Whether the last look showed that the guest's side took our Ping; `None` before a look.
    pub const fn is_taken(&self) -> Option<bool> {
        match &self.state {
            State::Opening { probe, .. } | State::Ready { probe, .. } => probe.is_taken(),
            State::Absent | State::Detached { .. } | State::Connecting => None,
        }
    }

    /// The VM's socket has appeared, or was replaced by another.
    pub fn handle_socket(&mut self, now: Time) {
        self.disconnect("the VM's socket was replaced");
        self.pace = Pace::default();
        self.state = State::Detached { retry: now };
    }

    /// The VM's socket is gone.
    pub fn handle_socket_gone(&mut self) {
        self.disconnect("the VM's socket is gone");
        self.state = State::Absent;
    }

    /// The connection that was asked for stands.
    pub fn handle_connected(&mut self, now: Time, random: &mut dyn FnMut() -> [u8; 16]) {
        self.endpoint.reset_connection();
        self.open(now, random);
    }

    /// The connection that was asked for could not be made.
    pub fn handle_connect_failed(&mut self, now: Time) {
        if matches!(self.state, State::Connecting) {
            self.detach(now, self.pace.next(now));
        }
    }

    /// The same because other clients fill the socket's queue.
    pub fn handle_busy(&mut self, now: Time) {
        if matches!(self.state, State::Connecting) {
            self.detach(now, self.pace.next_try(now));
        }
    }

    /// The connection has ended.
    pub fn handle_disconnected(&mut self, now: Time) {
        if !matches!(self.state, State::Absent) {
            self.disconnect("QEMU closed the connection");
            self.detach(now, self.pace.next(now));
        }
    }

    /// Bytes that were read from the socket.
    pub fn handle_bytes(
        &mut self,
        now: Time,
        mut input: &[u8],
        random: &mut dyn FnMut() -> [u8; 16],
    ) {
        while let Some(incoming) = self.endpoint.next(&mut input) {
            match incoming {
                Incoming::Unsealed(AgentMessage {
                    body: Some(Body::Pong(pong)),
                    ..
                }) => self.on_opening_pong(now, pong),
                Incoming::Foreign(Some(AgentMessage {
                    body: Some(Body::Pong(pong)),
                    ..
                })) if self
                    .nonce()
                    .is_some_and(|n| n.bytes()[..] == pong.nonce[..]) =>
                {
                    // The guest has opened a session whose first Pong never arrived whole.
                    self.renew(now, Loss::Forgotten, random);
                }
                // The guest is in another session than we, perhaps since a snapshot was restored.
                Incoming::Foreign(_) => self.probe(now),
                Incoming::Chunk(id, chunk) => {
                    self.on_valid(now);
                    let chunk = message(id.as_str(), Body::StreamChunk(chunk.into()));
                    self.on_message(now, chunk, random);
                }
                Incoming::Sealed(message) => {
                    self.on_valid(now);
                    self.on_message(now, message, random);
                }
                Incoming::Undecodable(id) => {
                    self.on_valid(now);
                    // Whoever asked is told now rather than by a deadline.
                    if let Some(id) = id {
                        let why = "the guest's answer does not decode";
                        let failure = Failure::new(Code::Internal, why);
                        let answer = message(id.as_str(), Body::Error(failure.to_wire()));
                        self.events.push_back(Event::Message(answer));
                    }
                }
                Incoming::Fault(why) => self.renew(now, Loss::Broken(why), random),
                Incoming::Unsealed(_) => {}
            }
        }
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come. `taken`: the socket holds no byte
    /// of ours any more (`SIOCOUTQ` is 0).
    pub fn handle_timeout(&mut self, now: Time, taken: bool) {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        let taken = taken && self.endpoint.is_written();
        match self.state {
            State::Absent | State::Connecting => {}
            State::Detached { .. } => self.connect(now),
            State::Opening { probe, .. } | State::Ready { probe, .. } => match probe {
                Probe::Quiet(_) => self.send_ping(now),
                Probe::Asked(asked) => self.look(now, asked, taken),
            },
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub const fn poll_timeout(&self) -> Option<Time> {
        match self.state {
            State::Absent | State::Connecting => None,
            State::Detached { retry } => Some(retry),
            State::Opening { probe, .. } | State::Ready { probe, .. } => Some(probe.deadline()),
        }
    }

    /// What to act on next.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() {
            // Of thousands of links few have something to say at a time, and an empty queue has memory too.
            self.events = VecDeque::new();
        }
        event
    }

    /// The bytes to write next, at most 32 KiB.
    pub fn poll_transmit(&mut self) -> Option<&[u8]> {
        self.endpoint.poll_transmit()
    }

    /// Notes that one write took this many of the bytes.
    pub fn on_written(&mut self, bytes: usize) {
        self.endpoint.on_written(bytes);
    }

    /// Sends a Ping of its own; its sequence comes back in [`Event::Pong`]. `None`: no session.
    pub fn ping(&mut self, now: Time) -> Option<u64> {
        self.is_open().then(|| {
            // A socket that takes nothing is not filled with Pings: the newest that waits will do.
            if !self.pings.is_full() {
                self.send_ping(now);
            }
            self.sequence
        })
    }

    /// Something has happened to the guest, as others tell: asks it now rather than at the next
    /// keep-alive.
    pub fn probe(&mut self, now: Time) {
        if let State::Ready {
            probe: Probe::Quiet(_),
            ..
        } = self.state
        {
            self.send_ping(now);
        }
    }

    /// Queues a request, an encoded body, for the open session or the next. With a guest not heard of
    /// lately a Ping goes in front.
    ///
    /// # Errors
    /// The control lane is full.
    pub fn request(&mut self, now: Time, id: &MessageId, body: Vec<u8>) -> Result<(), Full> {
        let about = About::Request(id.clone());
        self.endpoint.outbox().push_control(about, body)?;
        let silent = self.last_valid.is_none_or(|at| now.since(at) > STALE_AFTER);
        if silent && self.is_open() {
            if self.guard.is_none() {
                self.send_ping(now);
                self.guard = Some(self.sequence);
            }
            self.endpoint.guard();
        }
        Ok(())
    }

    /// Queues a chunk of a request's stream, whose size the guest's credit has allowed.
    pub fn send_chunk(&mut self, id: &MessageId, chunk: Packed) {
        if self.is_open() {
            self.endpoint.outbox().push_chunk(id, Load::Packed(chunk));
        }
    }

    /// Says something of a request: credit for its stream, or that it is taken back.
    ///
    /// # Errors
    /// The control lane is full.
    pub fn tell(&mut self, id: &MessageId, body: Body) -> Result<(), Full> {
        match encode(&message(id.as_str(), body)) {
            Ok(body) => self
                .endpoint
                .outbox()
                .push_control(About::Of(id.clone()), body),
            Err(_) => Ok(()),
        }
    }

    /// Drops the chunks of a request that ends early.
    pub fn drop_stream(&mut self, id: &MessageId) {
        self.endpoint.outbox().drop_stream(id);
    }

    /// Takes a request back: it is not sent, or not again. False: it was sent once.
    pub fn withdraw(&mut self, id: &MessageId) -> bool {
        self.endpoint.forget_guarded(id);
        self.endpoint.outbox().withdraw(id)
    }

    const fn nonce(&self) -> Option<Nonce> {
        match self.state {
            State::Opening { nonce, .. } | State::Ready { nonce, .. } => Some(nonce),
            _ => None,
        }
    }

    const fn probe_mut(&mut self) -> Option<&mut Probe> {
        match &mut self.state {
            State::Opening { probe, .. } | State::Ready { probe, .. } => Some(probe),
            _ => None,
        }
    }

    /// Draws a nonce and sends its first Ping.
    fn open(&mut self, now: Time, random: &mut dyn FnMut() -> [u8; 16]) {
        let soon = self.renewed.map_or(now, |at| (at + RENEW_PAUSE).max(now));
        self.renewed = Some(soon);
        self.pings.clear();
        self.state = State::Opening {
            nonce: Nonce::new(random()),
            probe: Probe::Quiet(soon),
        };
        if soon == now {
            self.send_ping(now);
        }
    }

    /// Ends the session, keeps the connection, and opens another session.
    fn renew(&mut self, now: Time, why: Loss, random: &mut dyn FnMut() -> [u8; 16]) {
        self.lose(why);
        self.open(now, random);
    }

    fn send_ping(&mut self, now: Time) {
        let Some(nonce) = self.nonce() else {
            return;
        };
        self.sequence += 1;
        self.endpoint.push_acknowledgement();
        self.endpoint.push_unsealed(&message(
            "",
            Body::Ping(agent::Ping {
                sequence: self.sequence,
                nonce: nonce.bytes().to_vec(),
            }),
        ));
        self.pings.push(SentPing {
            sequence: self.sequence,
            at: now,
            end: self.endpoint.queued(),
        });
        if let Some(probe) = self.probe_mut() {
            probe.on_sent(now);
        }
    }

    /// A Ping has waited for its answer: what is the matter?
    fn look(&mut self, now: Time, asked: Asked, taken: bool) {
        if taken {
            let before = asked.taken_at();
            if before.is_some_and(|at| self.is_given_up(now, at)) {
                let why = "the guest takes our bytes and answers nothing";
                self.disconnect(why);
                self.events.push_back(Event::Close(why));
                return self.detach(now, self.pace.next(now));
            }
            // All of an earlier flush has been taken, so that at most one is ever pending.
            if asked.wants_flush() {
                self.endpoint.push_flush();
            }
            self.send_ping(now);
        }
        if let Some(probe) = self.probe_mut() {
            *probe = Probe::Asked(asked.looked(now, taken));
        }
    }

    /// Another connection may do what a flush and another Ping have not done since `taken`.
    fn is_given_up(&self, now: Time, taken: Time) -> bool {
        match self.state {
            // It may well answer, but sends no idle bytes within a session.
            State::Ready { .. } if self.endpoint.is_lost() => self.pace.next(now) == now,
            State::Ready { .. } => {
                let heard = self.last_valid.map_or(taken, |at| at.max(taken));
                now.since(heard) >= READY_PATIENCE
            }
            _ => self.pace.next(now) == now,
        }
    }

    fn on_valid(&mut self, now: Time) {
        self.last_valid = Some(now);
    }

    fn on_opening_pong(&mut self, now: Time, pong: agent::Pong) {
        let (Some(nonce), Some(session)) = (self.nonce(), SessionId::parse(pong.session)) else {
            return;
        };
        if nonce.bytes()[..] != pong.nonce[..] || self.endpoint.session() == Some(session) {
            return;
        }
        let Some(ping) = self.pings.take(pong.sequence) else {
            return;
        };
        // Whoever answers this Ping had not yet read what is behind it, and drops it. The answer to
        // a later one proves nothing: that guest may be the next after the one that acted on them.
        if self.guard.is_some_and(|guard| pong.sequence <= guard) {
            self.endpoint.put_back_guarded();
        }
        self.lose(Loss::Forgotten);
        self.on_valid(now);
        self.pace.on_valid();
        self.endpoint.open_at(session, ping.end);
        // Tells the guest that its flush is out of the pipe.
        self.endpoint.push_acknowledgement();
        self.state = State::Ready {
            nonce,
            // The guest may have been restarted, or put back to a snapshot, while its Pong was on its
            // way; and people want to see a round trip. This one tells none: its Ping may have waited
            // long for a guest to be there.
            probe: Probe::Quiet(now + LOOK_AFTER),
        };
        self.events.push_back(Event::Opened(pong));
    }

    fn on_message(
        &mut self,
        now: Time,
        message: AgentMessage,
        random: &mut dyn FnMut() -> [u8; 16],
    ) {
        match message.body {
            Some(Body::Pong(pong)) => self.on_keep_alive_pong(now, pong, random),
            Some(Body::SessionEnded(ended)) => {
                self.renew(now, Loss::Ended(ended.reason), random);
            }
            Some(_) => self.events.push_back(Event::Message(message)),
            // From a newer agent. Nothing that we asked for can be among it.
            None => {}
        }
    }

    fn on_keep_alive_pong(
        &mut self,
        now: Time,
        pong: agent::Pong,
        random: &mut dyn FnMut() -> [u8; 16],
    ) {
        let Some(ping) = self.pings.take(pong.sequence) else {
            return;
        };
        // A guest acknowledges in front of a Pong. Idle bytes have no number that would be missed, but
        // they count: a window of which they were lost would never open again.
        if self.endpoint.has_lost(ping.end) {
            let why = Loss::Broken("bytes were lost on their way to the guest");
            return self.renew(now, why, random);
        }
        if self.guard.is_some_and(|guard| guard <= pong.sequence) {
            self.guard = None;
            self.endpoint.unguard();
        }
        if self.pings.is_empty()
            && let Some(probe) = self.probe_mut()
        {
            *probe = Probe::Quiet(now + KEEP_ALIVE);
        }
        self.events.push_back(Event::Pong {
            sequence: pong.sequence,
            round_trip: now.since(ping.at),
            pong,
        });
    }

    /// Ends the session if one is open, and tells what became of its requests.
    fn lose(&mut self, why: Loss) {
        self.guard = None;
        self.endpoint.unguard();
        if !self.is_open() {
            return;
        }
        self.endpoint.end_session();
        let kept = self.endpoint.outbox().keep_requests();
        self.events.push_back(Event::Lost { why, kept });
    }

    /// Connects again at `retry`.
    fn detach(&mut self, now: Time, retry: Time) {
        self.state = State::Detached { retry };
        if retry <= now {
            self.connect(now);
        }
    }

    fn connect(&mut self, now: Time) {
        self.pace.on_connect(now);
        self.state = State::Connecting;
        self.events.push_back(Event::Connect);
    }

    fn disconnect(&mut self, why: &'static str) {
        self.lose(Loss::Broken(why));
        self.endpoint.reset_connection();
        self.pings.clear();
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// Sessions are not opened faster than this on one connection, whatever the guest does.
const RENEW_PAUSE: Duration = Duration::from_millis(50);

/// A session whose Ping has waited this long is shown as stalled.
const STALLED_AFTER: Duration = Duration::from_secs(2);
