//! The guest's side of the channel: silent until a Ping arrives, and silent again without Pings.
//!
//! Inputs are `handle_*`, commands are verbs, outputs are `poll_*`. After any input or command the
//! caller drains [`poll_event`](Guest::poll_event), then writes what
//! [`poll_transmit`](Guest::poll_transmit) gives for as long as the port takes it, then sleeps until
//! [`poll_timeout`](Guest::poll_timeout) at the latest.

use std::collections::VecDeque;

use crate::action::Outcome;
use crate::chunk::{Chunk, Packed};
use crate::endpoint::{Counters, Endpoint, Incoming};
use crate::error::{Code, Failure};
use crate::ids::{MessageId, Nonce, SessionId};
use crate::limits::{HOST_SILENT, MAX_FRAME, MAX_PONGS};
use crate::loss::JOINED;
use crate::message::{AgentMessage, Body, Stream, agent, encode, message};
use crate::outbox::{About, Load};
use crate::time::Time;
use crate::window::Side;

/// What a Pong says that the core cannot know by itself.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// For deadlines.
    pub now: Time,
    /// The guest's wall clock.
    pub wall: agent::Timestamp,
    /// Of the guest's kernel.
    pub uptime_seconds: u64,
}

/// What does not change while the agent runs.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The agent's version.
    pub version: String,
    /// Of this boot of the guest.
    pub boot_id: String,
    /// Drawn when it starts: one that is put back to a snapshot has the same.
    pub instance: u64,
}

/// What the caller has to act on.
#[derive(Clone, Debug)]
pub enum Event {
    /// A session is open; nothing of an earlier one may be answered any more.
    Opened,
    /// The session is over: end what was begun for it.
    Ended(&'static str),
    /// Do this, on behalf of whoever the host names, and answer it exactly once.
    Request(MessageId, Body, Option<agent::Caller>),
    /// The request has its answer, which says this.
    Answered(MessageId, Outcome),
    /// A chunk of a stream of this request.
    Chunk(MessageId, Chunk),
    /// How much of the request's stream the host will take.
    Credit(MessageId, Stream, u64),
    /// Said to a command that runs: a signal, another size of its terminal.
    Told(MessageId, Body),
    /// End this request.
    Cancel(MessageId),
}

/// The guest's side of the channel.
#[derive(Clone, Debug)]
pub struct Guest {
    endpoint: Endpoint,
    identity: Identity,
    state: State,
    /// The newest Ping of this connection that was answered, in whichever session.
    answered: Option<(Nonce, u64)>,
    /// The pipe to the host holds no part of a frame.
    clean: bool,
    /// How often a session was forgotten for want of a host.
    silences: u32,
    events: VecDeque<Event>,
}

#[derive(Clone, Debug)]
enum State {
    /// No host has spoken, or it has gone. A Ping moves on to `Open`.
    Silent,
    /// The host named this nonce. Another nonce opens another session; no Ping for
    /// [`HOST_SILENT`] or a host that is gone moves back to `Silent`.
    Open { nonce: Nonce, pinged: Time },
}

impl Guest {
    /// A side that waits for its first Ping. What an earlier agent left in the pipe is unknown.
    pub fn new(identity: Identity) -> Self {
        Self {
            endpoint: Endpoint::new(Side::Guest),
            identity,
            state: State::Silent,
            answered: None,
            clean: false,
            silences: 0,
            events: VecDeque::new(),
        }
    }

    /// A session is open.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// The session that is open.
    pub fn session(&self) -> Option<SessionId> {
        self.endpoint.session()
    }

    /// Bytes that this side holds in memory: what waits to be sent, and an incomplete frame.
    pub fn held(&self) -> usize {
        self.endpoint.held()
    }

    /// What has happened so far.
    pub const fn counters(&self) -> &Counters {
        self.endpoint.counters()
    }

    /// Reports replaced before they could be sent.
    pub fn coalesced(&mut self) -> u64 {
        self.endpoint.outbox().coalesced()
    }

    /// Bytes that were read from the port. `random` fills a session's number when one opens.
    pub fn handle_bytes(
        &mut self,
        moment: &Moment,
        mut input: &[u8],
        random: &mut dyn FnMut() -> u64,
    ) {
        while let Some(incoming) = self.endpoint.next(&mut input) {
            self.on_incoming(moment, incoming, random);
        }
    }

    /// Where bytes that are read from the port may be put at once, instead of going through
    /// [`handle_bytes`](Self::handle_bytes): into the frame that they belong to. Then call
    /// [`handle_filled`](Self::handle_filled).
    pub fn space(&mut self) -> Option<&mut [u8]> {
        self.endpoint.space()
    }

    /// So many bytes were read from the port into [`space`](Self::space).
    pub fn handle_filled(
        &mut self,
        moment: &Moment,
        bytes: usize,
        random: &mut dyn FnMut() -> u64,
    ) {
        if let Some(incoming) = self.endpoint.filled(bytes) {
            self.on_incoming(moment, incoming, random);
        }
    }

    fn on_incoming(
        &mut self,
        moment: &Moment,
        incoming: Incoming,
        random: &mut dyn FnMut() -> u64,
    ) {
        match incoming {
            Incoming::Unsealed(AgentMessage {
                body: Some(Body::Ping(ping)),
                ..
            }) => self.on_ping(moment, &ping, random),
            Incoming::Sealed(AgentMessage {
                body: Some(Body::Ping(ping)),
                ..
            }) => self.on_ping(moment, &ping, random),
            Incoming::Sealed(message) => self.on_message(message),
            Incoming::Chunk(id, chunk) => self.events.push_back(Event::Chunk(id, chunk)),
            Incoming::Undecodable(Some(id)) => self.refuse(
                &id,
                &Failure::new(
                    Code::Invalid,
                    "the request does not decode: is every name valid UTF-8?",
                ),
            ),
            Incoming::Undecodable(None) => self.end("a message did not decode"),
            Incoming::Fault(why) => self.end(why),
            // A host in another session than ours, perhaps since our snapshot was restored. It
            // learns of ours by the seal of whatever we say.
            Incoming::Foreign(_) if self.endpoint.urgent_len() == 0 => {
                self.endpoint.push_acknowledgement();
            }
            Incoming::Unsealed(_) | Incoming::Foreign(_) => {}
        }
    }

    /// The port says that no host is connected: `read` returned 0 or the port is gone.
    pub fn handle_host_gone(&mut self) {
        self.fall_silent("the host has disconnected");
        // What the end of a session left to be written was for the host that has gone.
        self.endpoint.discard_unwritten();
        self.answered = None;
    }

    /// The port was closed and opened again: nothing of the old stream is left.
    pub fn handle_port_reopened(&mut self) {
        self.fall_silent("the port was closed");
        self.endpoint.reset_connection();
        self.answered = None;
        self.clean = false;
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.fall_silent("no Ping for 30 s");
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.state {
            State::Silent => None,
            State::Open { pinged, .. } => Some(pinged + HOST_SILENT),
        }
    }

    /// What to act on next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The bytes to write next, at most 32 KiB.
    pub fn poll_transmit(&mut self) -> Option<&[u8]> {
        self.endpoint.poll_transmit()
    }

    /// Notes that one write took this many of the bytes.
    pub fn on_written(&mut self, bytes: usize) {
        self.endpoint.on_written(bytes);
    }

    /// Says who this guest is, or that it has changed.
    pub fn announce(&mut self, ready: agent::AgentReady) {
        self.control(&message("", Body::AgentReady(ready)));
    }

    /// Reports. A report that was not yet begun is replaced.
    pub fn report(&mut self, telemetry: agent::Telemetry) {
        if self.is_open()
            && let Ok(body) = encode(&message("", Body::Telemetry(telemetry)))
        {
            self.endpoint.outbox().set_telemetry(body);
        }
    }

    /// The final answer to a request.
    pub fn answer(&mut self, id: &MessageId, body: Body) {
        let outcome = Outcome::of(&body);
        let body = match encode(&message(id.as_str(), body)) {
            Ok(body) => body,
            Err(size) => {
                let why = format!("the answer has {size} bytes, more than a frame holds");
                return self.refuse(id, &Failure::new(Code::TooLarge, why));
            }
        };
        if !self.is_open() {
            return;
        }
        match self.endpoint.outbox().push_final(id, body) {
            Ok(()) => self.events.push_back(Event::Answered(id.clone(), outcome)),
            Err(_) => self.end("the host asks and does not read"),
        }
    }

    /// The final answer to a request that failed.
    pub fn refuse(&mut self, id: &MessageId, failure: &Failure) {
        let mut failure = failure.clone();
        if failure.message.len() > MAX_WHY {
            failure.message = failure.message.chars().take(MAX_WHY / 4).collect();
        }
        self.answer(id, Body::Error(failure.to_wire()));
    }

    /// Whether an answer of this size would be queued now; else keep it until the port moves.
    pub fn has_room(&mut self, bytes: usize) -> bool {
        self.endpoint.outbox().has_control_room(bytes)
    }

    /// No chunk waits: the next may be pulled from its source.
    pub fn wants_chunk(&mut self) -> bool {
        self.is_open() && self.endpoint.outbox().wants_chunk()
    }

    /// Sends the next chunk of a request's stream.
    pub fn send_chunk(&mut self, id: &MessageId, chunk: Packed) {
        if self.is_open() {
            self.endpoint.outbox().push_chunk(id, Load::Packed(chunk));
        }
    }

    /// Takes back the memory of a chunk that came, for the next.
    pub fn recycle(&mut self, chunk: Chunk) {
        self.endpoint.recycle(chunk);
    }

    /// Lets the host send up to `total` bytes of a request's stream.
    pub fn grant(&mut self, id: &MessageId, stream: Stream, total: u64) {
        self.control(&message(
            id.as_str(),
            Body::Credit(agent::Credit {
                stream: stream.into(),
                bytes: total,
            }),
        ));
    }

    /// Drops the chunks of a request that ends early.
    pub fn drop_stream(&mut self, id: &MessageId) {
        self.endpoint.outbox().drop_stream(id);
    }

    /// Ends the session and tells the host why: the agent is about to end.
    pub fn close(&mut self, why: &'static str) {
        self.end(why);
    }

    fn control(&mut self, message: &AgentMessage) {
        if !self.is_open() {
            return;
        }
        if let Ok(body) = encode(message)
            && self
                .endpoint
                .outbox()
                .push_control(About::Nothing, body)
                .is_err()
        {
            self.end("the host asks and does not read");
        }
    }

    fn on_ping(&mut self, moment: &Moment, ping: &agent::Ping, random: &mut dyn FnMut() -> u64) {
        let Some(nonce) = Nonce::parse(&ping.nonce) else {
            return;
        };
        let newest = self.answered.filter(|(known, _)| *known == nonce);
        let repeated = newest.is_some_and(|(_, newest)| ping.sequence <= newest);
        match &mut self.state {
            State::Open {
                nonce: known,
                pinged,
            } if *known == nonce => {
                *pinged = moment.now;
                if self.endpoint.urgent_len() < MAX_PONGS
                    && let Some(session) = self.endpoint.session()
                {
                    let pong = self.pong(moment, ping, session);
                    // The acknowledgement in front tells an idle host that its bytes arrived.
                    self.endpoint.push_acknowledgement();
                    self.endpoint.push_sealed(&pong);
                }
            }
            // It is there twice, but was sent once. To answer it with another session would tell the
            // host that nothing behind it was acted on.
            State::Open { .. } | State::Silent if repeated => return,
            State::Open { .. } | State::Silent => {
                self.fall_silent("the host has opened another session");
                let session = SessionId::draw(random(), &nonce);
                let pong = self.pong(moment, ping, session);
                self.endpoint.open_with_pong(session, &pong, !self.clean);
                self.clean = false;
                self.state = State::Open {
                    nonce,
                    pinged: moment.now,
                };
                self.events.push_back(Event::Opened);
            }
        }
        if !repeated {
            self.answered = Some((nonce, ping.sequence));
        }
    }

    fn pong(&self, moment: &Moment, ping: &agent::Ping, session: SessionId) -> AgentMessage {
        message(
            "",
            Body::Pong(agent::Pong {
                sequence: ping.sequence,
                version: self.identity.version.clone(),
                uptime_seconds: moment.uptime_seconds,
                nonce: ping.nonce.clone(),
                session: session.get(),
                boot_id: self.identity.boot_id.clone(),
                time: Some(moment.wall),
                max_frame: u32::try_from(MAX_FRAME).unwrap_or(u32::MAX),
                features: Vec::new(),
                instance: self.identity.instance,
                silences: self.silences,
            }),
        )
    }

    fn on_message(&mut self, message: AgentMessage) {
        let Some(body) = message.body else {
            // A request newer than this agent leaves no body behind.
            if let Some(id) = MessageId::parse(&message.message_id) {
                let why = format!("agent {} does not know this request", self.identity.version);
                self.refuse(&id, &Failure::new(Code::Unsupported, why));
            }
            return;
        };
        let Some(id) = MessageId::parse(&message.message_id) else {
            return self.end("a message had no usable id");
        };
        let caller = message.caller;
        self.events.push_back(match body {
            Body::Cancel(_) => Event::Cancel(id),
            Body::StreamChunk(chunk) => Event::Chunk(id, chunk.into()),
            Body::Credit(credit) => Event::Credit(id, credit.stream(), credit.bytes),
            told @ (Body::Signal(_) | Body::Resize(_)) => Event::Told(id, told),
            request => Event::Request(id, request, caller),
        });
    }

    /// Ends the session because of a fault and says so to the host.
    fn end(&mut self, why: &'static str) {
        if !self.is_open() {
            return;
        }
        self.endpoint.end_session_with(&message(
            "",
            Body::SessionEnded(agent::SessionEnded {
                reason: why.to_owned(),
            }),
        ));
        self.clean = false;
        self.fall_silent(why);
    }

    fn fall_silent(&mut self, why: &'static str) {
        if let State::Open { .. } = self.state {
            self.clean = self.endpoint.end_session();
            self.state = State::Silent;
            // This one it has not forgotten by itself: it was put back.
            if why != JOINED {
                self.silences = self.silences.wrapping_add(1);
            }
            self.endpoint.outbox().clear();
            // What was not yet acted on never will be: its answer would go into the next session.
            self.events.clear();
            self.events.push_back(Event::Ended(why));
        }
    }
}

/// Bytes of an error's line; more is cut.
const MAX_WHY: usize = 4096;
