//! One side's end of the channel: what guest and host do alike.
//!
//! It checks the seal of what comes in before anything else is decoded, seals and numbers what goes
//! out, keeps both windows, and fills each write from the outbox. When a session opens and ends is
//! decided by [`guest`](crate::guest) and [`host`](crate::host).

use std::collections::VecDeque;

use prost::Message;

use crate::chunk::{self, Chunk, Found};
use crate::frame::{Decoder, Seal, read_seal, sealed_len, write_frame};
use crate::ids::{MessageId, SessionId};
use crate::limits::{FLUSH, IDLE, MAX_REPORTS, MAX_UNSEALED, MAX_WRITE};
use crate::loss::JOINED;
use crate::message::{AgentMessage, Body, agent, message, peek_message_id};
use crate::out::Out;
use crate::outbox::{About, Item, Load, Next, Outbox, Taken};
use crate::window::{ReceiveWindow, SendWindow, Side};

/// What happened on this end, since it was made. Every dropped byte is in one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions opened.
    pub sessions: u64,
    /// Frames accepted.
    pub frames_in: u64,
    /// Frames put on their way.
    pub frames_out: u64,
    /// All bytes read.
    pub bytes_in: u64,
    /// All bytes written.
    pub bytes_out: u64,
    /// Frames of another session, dropped unread.
    pub stale_frames: u64,
    /// Frames that did not decode, bore no seal where they needed one, or had a wrong number.
    pub bad_frames: u64,
    /// Bytes outside any frame.
    pub garbage_bytes: u64,
}

/// One side's end of the channel.
#[derive(Clone, Debug)]
pub struct Endpoint {
    side: Side,
    decoder: Decoder,
    session: Option<Session>,
    outbox: Outbox,
    /// Frames that no window holds back: Ping, Pong, a flush.
    urgent: VecDeque<Urgent>,
    out: Out,
    /// Memory for the body of the next chunk.
    spare: Vec<u8>,
    /// Bytes ever put into `out`, and ever written, on this connection.
    queued: u64,
    written: u64,
    /// The last write took less than it was given: the next goes on with it.
    partial: bool,
    /// Control bodies taken since a Ping that is not yet answered. See [`Endpoint::guard`].
    guarded: Option<Vec<Item>>,
    counters: Counters,
}

#[derive(Clone, Debug)]
struct Session {
    id: SessionId,
    /// Where in the bytes written the session's count begins.
    start: u64,
    next_out: u64,
    next_in: u64,
    sending: SendWindow,
    receiving: ReceiveWindow,
    /// The number of the frame that last acknowledged something.
    acknowledged_in: u64,
    /// Where in this side's count each report ends that is not acknowledged.
    reports: VecDeque<u64>,
}

impl Session {
    fn next_seal(&mut self) -> Seal {
        let number = self.next_out;
        self.next_out += 1;
        let session = self.id;
        Seal { session, number }
    }

    /// A host that reads nothing is not sent one report after the other, which it would find old.
    fn takes_report(&mut self) -> bool {
        let acknowledged = self.sending.acknowledged();
        while self.reports.front().is_some_and(|end| *end <= acknowledged) {
            self.reports.pop_front();
        }
        self.reports.len() < MAX_REPORTS
    }
}

#[derive(Clone, Debug)]
enum Urgent {
    Sealed(Vec<u8>),
    Unsealed(Vec<u8>),
    Flush,
}

/// What a frame turned out to be.
#[derive(Debug)]
pub enum Incoming {
    /// Of this session and in its place.
    Sealed(AgentMessage),
    /// Short and without any seal: may be a Ping or a Pong, and nothing else.
    Unsealed(AgentMessage),
    /// Of a session that is not open here: dropped, but for a Ping or a Pong if it is one and short.
    Foreign(Option<AgentMessage>),
    /// A chunk of a request's stream, of this session and in its place.
    Chunk(MessageId, Chunk),
    /// Of this session and in its place, but not a message; its id where that could be read.
    Undecodable(Option<MessageId>),
    /// The stream was damaged, or the peer broke the rules: the session must end.
    Fault(&'static str),
}

impl Endpoint {
    /// An end without a session.
    pub fn new(side: Side) -> Self {
        Self {
            side,
            decoder: Decoder::new(),
            session: None,
            outbox: Outbox::default(),
            urgent: VecDeque::new(),
            out: Out::default(),
            spare: Vec::new(),
            queued: 0,
            written: 0,
            partial: false,
            guarded: None,
            counters: Counters::default(),
        }
    }

    /// The lanes, to be filled.
    pub const fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// What has happened so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The session that is open.
    pub fn session(&self) -> Option<SessionId> {
        self.session.as_ref().map(|s| s.id)
    }

    /// Where bytes that are read may be put at once instead of being input: into the body of the frame
    /// that they belong to. Then call [`filled`](Self::filled).
    pub fn space(&mut self) -> Option<&mut [u8]> {
        self.decoder.space()
    }

    /// So many bytes have been put into [`space`](Self::space). What the frame means that they complete.
    pub fn filled(&mut self, bytes: usize) -> Option<Incoming> {
        count(&mut self.session, &mut self.counters, bytes);
        let body = self.decoder.filled(bytes)?;
        let found = judge(&mut self.session, &mut self.counters, body)?;
        Some(self.resolve(found, &[]))
    }

    /// The next frame in `input` that means something; `None` when all of `input` was taken.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Incoming> {
        loop {
            let before = *input;
            let body = self.decoder.next(input);
            let size = body.map(<[u8]>::len);
            let found = match body {
                Some(body) => {
                    let taken = before.len() - input.len();
                    count(&mut self.session, &mut self.counters, taken);
                    judge(&mut self.session, &mut self.counters, body)
                }
                None => {
                    let taken = before.len() - input.len();
                    count(&mut self.session, &mut self.counters, taken);
                    self.counters.garbage_bytes += self.decoder.take_garbage();
                    if self.decoder.relax() {
                        self.spare = Vec::new();
                    }
                    return None;
                }
            };
            if let Some(found) = found {
                let taken = &before[..before.len() - input.len()];
                let body = &taken[taken.len().saturating_sub(size.unwrap_or(0))..];
                return Some(self.resolve(found, body));
            }
        }
    }

    /// The bytes of a chunk go with it: in the decoder's memory, or copied from the input.
    fn resolve(&mut self, found: Judged, input: &[u8]) -> Incoming {
        match found {
            Judged::Chunk(found) => {
                let body = match self.decoder.exchange(&mut self.spare) {
                    true => std::mem::take(&mut self.spare),
                    false => input.to_vec(),
                };
                let (id, chunk) = Chunk::new(found, body);
                Incoming::Chunk(id, chunk)
            }
            Judged::Other(incoming) => incoming,
        }
    }

    /// Takes back the memory of a chunk that was dealt with, for the next.
    pub fn recycle(&mut self, chunk: Chunk) {
        self.spare = chunk.into_body();
    }

    /// Opens a session that this side, the guest, has drawn, and answers with its Pong. Everything
    /// that still waited belonged to an earlier one and is dropped.
    pub fn open_with_pong(&mut self, id: SessionId, pong: &AgentMessage, flush: bool) {
        self.outbox.clear();
        self.urgent.clear();
        self.discard_out();
        if flush {
            self.append(|out| out.resize(FLUSH, IDLE));
        }
        let body = pong.encode_to_vec();
        self.append(|out| write_frame(out, &body, None));
        self.counters.frames_out += 1;
        self.start_session(id, self.queued, if flush { FLUSH } else { 0 });
    }

    /// Opens a session that the guest has drawn. This side's count begins at `start`, the end of
    /// the Ping that the guest answered, as [`queued`](Self::queued) was behind it.
    pub fn open_at(&mut self, id: SessionId, start: u64) {
        self.start_session(id, start, 0);
    }

    fn start_session(&mut self, id: SessionId, start: u64, ahead: usize) {
        let mut sending = SendWindow::new(self.side, ahead);
        if self.written > start {
            let since = usize::try_from(self.written - start).unwrap_or(usize::MAX);
            sending.on_sent(since, false);
        }
        self.counters.sessions += 1;
        self.session = Some(Session {
            id,
            start,
            next_out: 1,
            next_in: 1,
            sending,
            receiving: ReceiveWindow::default(),
            acknowledged_in: 0,
            reports: VecDeque::new(),
        });
    }

    /// Ends the session. True: the other side has read all that was sent in it, so that the pipe
    /// holds no part of a frame.
    pub fn end_session(&mut self) -> bool {
        let Some(session) = self.session.take() else {
            return false;
        };
        let clean = session.sending.is_empty() && self.out.is_empty();
        if self.side == Side::Guest {
            self.discard_unwritten();
        }
        clean
    }

    /// Appends a last sealed frame, ends the session, and drops what else was waiting.
    pub fn end_session_with(&mut self, last: &AgentMessage) {
        self.urgent.clear();
        self.outbox.clear();
        let body = last.encode_to_vec();
        self.append_sealed(&body);
        self.session = None;
    }

    /// Drops what was begun or waits to be written outside any session.
    pub fn discard_unwritten(&mut self) {
        self.urgent.clear();
        self.discard_out();
    }

    /// Forgets the connection: nothing of it can come or go any more.
    pub fn reset_connection(&mut self) {
        self.decoder = Decoder::new();
        self.session = None;
        self.guarded = None;
        self.urgent.clear();
        self.discard_out();
        self.queued = 0;
        self.written = 0;
    }

    /// Sends a Ping, without a seal, ahead of all lanes.
    pub fn push_unsealed(&mut self, message: &AgentMessage) {
        self.urgent
            .push_back(Urgent::Unsealed(message.encode_to_vec()));
    }

    /// Sends a Pong of the session ahead of all lanes.
    pub fn push_sealed(&mut self, message: &AgentMessage) {
        self.urgent
            .push_back(Urgent::Sealed(message.encode_to_vec()));
    }

    /// Sends a flush ahead of all lanes.
    pub fn push_flush(&mut self) {
        self.urgent.push_back(Urgent::Flush);
    }

    /// Bytes held in memory: what waits to be sent, copies of what may have to be sent again, and a
    /// frame that has not come whole.
    pub fn held(&self) -> usize {
        let urgent = self.urgent.iter().map(|urgent| match urgent {
            Urgent::Sealed(body) | Urgent::Unsealed(body) => body.len(),
            Urgent::Flush => FLUSH,
        });
        let copies = self.guarded.iter().flatten().map(|item| item.body.len());
        self.decoder.buffered()
            + self.outbox.bytes()
            + self.out.len()
            + urgent.sum::<usize>()
            + copies.sum::<usize>()
    }

    /// What the other side sends is not understood until it sends an idle byte.
    pub const fn is_lost(&self) -> bool {
        self.decoder.is_lost()
    }

    /// Urgent frames that wait.
    pub fn urgent_len(&self) -> usize {
        self.urgent.len()
    }

    /// Bytes ever put on their way on this connection, once all urgent frames are in the buffer.
    pub fn queued(&mut self) -> u64 {
        self.fill_urgent();
        self.queued
    }

    /// Acknowledges what was read, ahead of all lanes. Even where nothing was, its number tells the
    /// other side whether it has all that went before.
    pub fn push_acknowledgement(&mut self) {
        if let Some(session) = &mut self.session {
            let credit = acknowledgement(&mut session.receiving);
            self.urgent.push_back(Urgent::Sealed(credit));
        }
    }

    /// Whether the other side has read less than what ends here, by [`queued`](Self::queued), though
    /// it has answered what stands behind it: it acknowledged right in front of its answer.
    pub fn has_lost(&self, end: u64) -> bool {
        self.session.as_ref().is_some_and(|session| {
            session.acknowledged_in + 2 == session.next_in
                && session.start + session.sending.acknowledged() < end
        })
    }

    /// From now on keeps a copy of each control body that is sent: a Ping went ahead of them, and
    /// only its answer tells whether the guest that read them knew their session.
    pub fn guard(&mut self) {
        self.guarded.get_or_insert_default();
    }

    /// The Ping was answered in the same session: the copies are not needed.
    pub fn unguard(&mut self) {
        self.guarded = None;
    }

    /// Nobody waits for this request any more: it is not to be sent again.
    pub fn forget_guarded(&mut self, request: &MessageId) {
        let asked = About::Request(request.clone());
        if let Some(items) = &mut self.guarded {
            items.retain(|item| item.about != asked);
        }
    }

    /// The Ping was answered with another session: what was sent behind it was dropped unread and
    /// goes back to the front of the control lane.
    pub fn put_back_guarded(&mut self) {
        if let Some(bodies) = self.guarded.take() {
            self.outbox.put_back(bodies);
        }
    }

    /// The bytes to write next, at most one write's worth. `None`: nothing may be sent now.
    pub fn poll_transmit(&mut self) -> Option<&[u8]> {
        if self.out.is_empty() {
            self.discard_out();
            self.fill_urgent();
            self.fill_lanes();
        }
        self.out.relax();
        let next = self.out.next();
        (!next.is_empty()).then_some(next)
    }

    /// Notes that one write took this many of the bytes.
    pub fn on_written(&mut self, bytes: usize) {
        let offered = self.out.next().len();
        let continued = std::mem::replace(&mut self.partial, bytes < offered);
        self.out.written(bytes);
        self.counters.bytes_out += bytes as u64;
        let before = self.written;
        self.written += bytes as u64;
        if let Some(session) = &mut self.session
            && self.written > session.start
        {
            let counted = self.written - before.max(session.start);
            session
                .sending
                .on_sent(usize::try_from(counted).unwrap_or(bytes), continued);
        }
    }

    /// Nothing of what was begun is left to write.
    pub fn is_written(&self) -> bool {
        self.out.is_empty() && self.urgent.is_empty()
    }

    fn fill_urgent(&mut self) {
        while let Some(urgent) = self.urgent.pop_front() {
            match urgent {
                Urgent::Sealed(body) => self.append_sealed(&body),
                Urgent::Unsealed(body) => {
                    self.append(|out| write_frame(out, &body, None));
                    self.counters.frames_out += 1;
                }
                Urgent::Flush => self.append(|out| out.resize(out.len() + FLUSH, IDLE)),
            }
        }
    }

    fn fill_lanes(&mut self) {
        while let Some(session) = &mut self.session {
            if session.receiving.is_due() {
                let credit = acknowledgement(&mut session.receiving);
                self.append_sealed(&credit);
                continue;
            }
            let size = match self.outbox.peek() {
                Some(Next::Message(body)) => sealed_len(body),
                Some(Next::Report(body)) if session.takes_report() => sealed_len(body),
                _ => return,
            };
            // A frame begins only where it also ends: none ever stands half written before a
            // window that the other side can open only by what waits behind its own.
            let whole = self.out.len() + size;
            if (whole > MAX_WRITE && !self.out.is_empty()) || !session.sending.fits(whole) {
                return;
            }
            let taken = match self.outbox.take() {
                // Bulk data goes as it is. What is small may share its write with others.
                Some(Taken::Stream(Load::Packed(mut chunk)))
                    if self.out.is_empty() && size >= ALONE_FROM =>
                {
                    chunk.seal(session.next_seal());
                    self.queued += chunk.bytes().len() as u64;
                    self.counters.frames_out += 1;
                    self.out.put(chunk);
                    return;
                }
                Some(taken) => taken,
                None => return,
            };
            self.append_sealed(taken.body());
            match (taken, &mut self.guarded, &mut self.session) {
                (Taken::Control(item), Some(copies), _) => copies.push(item),
                (Taken::Report(_), _, Some(session)) => {
                    session.reports.push_back(self.queued - session.start);
                }
                _ => {}
            }
        }
    }

    fn append_sealed(&mut self, body: &[u8]) {
        let Some(session) = &mut self.session else {
            return;
        };
        let seal = session.next_seal();
        self.append(|out| write_frame(out, body, Some(seal)));
        self.counters.frames_out += 1;
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.queued += self.out.append(write) as u64;
    }

    fn discard_out(&mut self) {
        self.queued -= self.out.len() as u64;
        self.out.clear();
    }
}

/// A frame with a chunk of at least so many bytes is written from where its data is, and by itself.
const ALONE_FROM: usize = 8 * 1024;

/// What a body turned out to be, apart from its bytes.
#[allow(clippy::large_enum_variant)] // It lives for a few lines.
enum Judged {
    Chunk(Found),
    Other(Incoming),
}

fn count(session: &mut Option<Session>, counters: &mut Counters, bytes: usize) {
    counters.bytes_in += bytes as u64;
    if let Some(session) = session {
        session.receiving.on_bytes(bytes);
    }
}

/// The seal first: what it does not vouch for is not decoded, but for short frames without one.
fn judge(session: &mut Option<Session>, counters: &mut Counters, body: &[u8]) -> Option<Judged> {
    let seal = read_seal(body);
    let other = match (seal, session) {
        (Some(seal), Some(session)) if seal.session == session.id => {
            session.receiving.on_frame(body.len());
            if seal.number != session.next_in {
                counters.bad_frames += 1;
                return Some(Judged::Other(Incoming::Fault(JOINED)));
            }
            session.next_in += 1;
            counters.frames_in += 1;
            if let Some(found) = chunk::find(body) {
                return Some(Judged::Chunk(found));
            }
            let Ok(message) = AgentMessage::decode(body) else {
                counters.bad_frames += 1;
                let id = peek_message_id(body);
                return Some(Judged::Other(Incoming::Undecodable(id)));
            };
            match &message.body {
                Some(Body::Credit(credit)) if message.message_id.is_empty() => {
                    session.acknowledged_in = seal.number;
                    match session.sending.on_acknowledged(credit.bytes) {
                        Ok(()) => None,
                        Err(_) => Some(Incoming::Fault("more was acknowledged than was sent")),
                    }
                }
                _ => Some(Incoming::Sealed(message)),
            }
        }
        (Some(_), _) => {
            counters.stale_frames += 1;
            Some(Incoming::Foreign(short(body)))
        }
        (None, session) => {
            if let Some(session) = session {
                session.receiving.on_frame(body.len());
            }
            match short(body) {
                Some(message) => {
                    counters.frames_in += 1;
                    Some(Incoming::Unsealed(message))
                }
                None => {
                    counters.bad_frames += 1;
                    None
                }
            }
        }
    };
    other.map(Judged::Other)
}

fn short(body: &[u8]) -> Option<AgentMessage> {
    if body.len() > MAX_UNSEALED {
        return None;
    }
    let message = AgentMessage::decode(body).ok()?;
    matches!(message.body, Some(Body::Ping(_) | Body::Pong(_))).then_some(message)
}

fn acknowledgement(window: &mut ReceiveWindow) -> Vec<u8> {
    let credit = agent::Credit {
        bytes: window.acknowledge(),
        ..Default::default()
    };
    message("", Body::Credit(credit)).encode_to_vec()
}
