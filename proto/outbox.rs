//! What is sent next: control before streams before telemetry, and never two frames mixed.
//!
//! The lanes hold encoded bodies without seal. A frame gets its seal and its number when it is
//! taken for the wire, because only then is the order known.

use std::collections::VecDeque;

use crate::chunk::Packed;
use crate::ids::MessageId;
use crate::limits::{CONTROL_BYTES, CONTROL_FRAMES};

/// One side's three lanes.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    control: VecDeque<Item>,
    control_bytes: usize,
    /// One queue a request, served in turn. Bounded by the credit that the other side gave.
    streams: VecDeque<StreamQueue>,
    telemetry: Option<Vec<u8>>,
    coalesced: u64,
}

/// A body of the control lane.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is to the request that it names.
    pub about: About,
    /// Encoded, without a seal.
    pub body: Vec<u8>,
}

/// What a control body is to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// It is the request.
    Request(MessageId),
    /// It says something of the request: credit, cancel.
    Of(MessageId),
    /// It belongs to none that would outlive a session.
    Nothing,
}

#[derive(Clone, Debug)]
struct StreamQueue {
    request: MessageId,
    bodies: VecDeque<Load>,
}

/// A body of a stream's lane, without a seal.
#[derive(Clone, Debug)]
pub enum Load {
    /// A chunk in memory that becomes its frame.
    Packed(Packed),
    /// Anything encoded.
    Encoded(Vec<u8>),
}

impl Load {
    /// The encoded body.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Packed(packed) => packed.bytes(),
            Self::Encoded(body) => body,
        }
    }
}

/// The control lane is full: the other side asks and does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What was taken for the wire, by its lane.
#[derive(Debug)]
pub enum Taken {
    /// An answer, an error or a request.
    Control(Item),
    /// A chunk, or an answer that stayed behind its chunks.
    Stream(Load),
    /// The newest report.
    Report(Vec<u8>),
}

/// What would be taken: how long its body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Of control or a stream.
    Message(usize),
    /// The newest report.
    Report(usize),
}

impl Taken {
    /// The encoded body.
    pub fn body(&self) -> &[u8] {
        match self {
            Self::Control(item) => &item.body,
            Self::Stream(load) => load.bytes(),
            Self::Report(body) => body,
        }
    }
}

impl Outbox {
    /// Queues an answer, an error or a request.
    ///
    /// # Errors
    /// The lane has reached its bound; nothing was queued.
    pub fn push_control(&mut self, about: About, body: Vec<u8>) -> Result<(), Full> {
        if !self.has_control_room(body.len()) {
            return Err(Full);
        }
        self.control_bytes += body.len();
        self.control.push_back(Item { about, body });
        Ok(())
    }

    /// Whether a control body of this size would be taken now.
    pub fn has_control_room(&self, bytes: usize) -> bool {
        self.control.len() < CONTROL_FRAMES && self.control_bytes + bytes <= CONTROL_BYTES
    }

    /// Queues a chunk behind the request's others.
    pub fn push_chunk(&mut self, request: &MessageId, chunk: Load) {
        match self.streams.iter_mut().find(|s| s.request == *request) {
            Some(stream) => stream.bodies.push_back(chunk),
            None => self.streams.push_back(StreamQueue {
                request: request.clone(),
                bodies: VecDeque::from([chunk]),
            }),
        }
    }

    /// Queues a request's last message: behind its chunks where it has some.
    ///
    /// # Errors
    /// As [`push_control`](Self::push_control).
    pub fn push_final(&mut self, request: &MessageId, body: Vec<u8>) -> Result<(), Full> {
        if self.streams.iter().any(|s| s.request == *request) {
            self.push_chunk(request, Load::Encoded(body));
            return Ok(());
        }
        self.push_control(About::Nothing, body)
    }

    /// Drops what a cancelled request still had to send.
    pub fn drop_stream(&mut self, request: &MessageId) {
        self.streams.retain(|s| s.request != *request);
    }

    /// Puts the newest report into the one slot; an older one still there is counted and gone.
    pub fn set_telemetry(&mut self, body: Vec<u8>) {
        if self.telemetry.replace(body).is_some() {
            self.coalesced += 1;
        }
    }

    /// Reports replaced before they were sent, since the start.
    pub const fn coalesced(&self) -> u64 {
        self.coalesced
    }

    /// No chunk waits: the next one may be pulled from its source.
    pub fn wants_chunk(&self) -> bool {
        self.streams.is_empty()
    }

    /// Bytes that wait in all lanes.
    pub fn bytes(&self) -> usize {
        let chunks = self.streams.iter().flat_map(|stream| &stream.bodies);
        self.control_bytes
            + chunks.map(|chunk| chunk.bytes().len()).sum::<usize>()
            + self.telemetry.as_ref().map_or(0, Vec::len)
    }

    /// Nothing waits in any lane.
    pub fn is_empty(&self) -> bool {
        self.peek().is_none()
    }

    /// What [`take`](Self::take) would return.
    pub fn peek(&self) -> Option<Next> {
        let chunk = || self.streams.front()?.bodies.front();
        self.control
            .front()
            .map(|item| item.body.len())
            .or_else(|| chunk().map(|chunk| chunk.bytes().len()))
            .map(Next::Message)
            .or_else(|| self.telemetry.as_ref().map(|body| Next::Report(body.len())))
    }

    /// The body to send next.
    pub fn take(&mut self) -> Option<Taken> {
        if let Some(item) = self.control.pop_front() {
            self.control_bytes -= item.body.len();
            return Some(Taken::Control(item));
        }
        if let Some(mut stream) = self.streams.pop_front() {
            let body = stream.bodies.pop_front();
            if !stream.bodies.is_empty() {
                self.streams.push_back(stream);
            }
            return body.map(Taken::Stream);
        }
        self.telemetry.take().map(Taken::Report)
    }

    /// Puts control bodies back in front, in their order: they were taken, but never acted on.
    pub fn put_back(&mut self, items: Vec<Item>) {
        for item in items.into_iter().rev() {
            self.control_bytes += item.body.len();
            self.control.push_front(item);
        }
    }

    /// Empties all lanes: the session they belonged to is over. Replaced reports stay counted.
    pub fn clear(&mut self) {
        *self = Self {
            coalesced: self.coalesced,
            ..Self::default()
        };
    }

    /// The session is over: of what was not begun only requests, and what is said of them, keep
    /// their place. The requests' ids.
    pub fn keep_requests(&mut self) -> Vec<MessageId> {
        self.streams.clear();
        self.telemetry = None;
        let mut kept = Vec::new();
        self.control.retain(|item| match &item.about {
            About::Request(id) => {
                kept.push(id.clone());
                true
            }
            About::Of(id) => kept.contains(id),
            About::Nothing => false,
        });
        self.count_control();
        kept
    }

    /// Takes a request back that has not been begun. False: it is not here.
    pub fn withdraw(&mut self, request: &MessageId) -> bool {
        let asked = About::Request(request.clone());
        if !self.control.iter().any(|item| item.about == asked) {
            return false;
        }
        let said = About::Of(request.clone());
        self.control
            .retain(|item| item.about != asked && item.about != said);
        self.count_control();
        true
    }

    fn count_control(&mut self) {
        self.control_bytes = self.control.iter().map(|item| item.body.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MessageId {
        MessageId::parse(text).unwrap()
    }

    fn drain(outbox: &mut Outbox) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| outbox.take().map(|taken| taken.body().to_vec())).collect()
    }

    #[test]
    fn control_goes_before_streams_before_telemetry() {
        let mut outbox = Outbox::default();
        outbox.set_telemetry(b"t".to_vec());
        outbox.push_chunk(&id("a"), Load::Encoded(b"a1".to_vec()));
        outbox.push_chunk(&id("a"), Load::Encoded(b"a2".to_vec()));
        outbox.push_chunk(&id("b"), Load::Encoded(b"b1".to_vec()));
        outbox.push_control(About::Nothing, b"c".to_vec()).unwrap();
        assert!(!outbox.wants_chunk());
        let order = drain(&mut outbox);
        assert_eq!(order, [&b"c"[..], b"a1", b"b1", b"a2", b"t"]);
        assert!(outbox.is_empty() && outbox.wants_chunk());
    }

    #[test]
    fn an_answer_stays_behind_its_own_chunks_only() {
        let mut outbox = Outbox::default();
        outbox.push_chunk(&id("a"), Load::Encoded(b"a1".to_vec()));
        outbox.push_final(&id("a"), b"a-end".to_vec()).unwrap();
        outbox.push_final(&id("b"), b"b-end".to_vec()).unwrap();
        assert_eq!(drain(&mut outbox), [&b"b-end"[..], b"a1", b"a-end"]);
    }

    #[test]
    fn a_newer_report_replaces_an_older_one_and_counts_it() {
        let mut outbox = Outbox::default();
        for n in 0..5u8 {
            outbox.set_telemetry(vec![n]);
        }
        assert_eq!(outbox.coalesced(), 4);
        assert_eq!(drain(&mut outbox), [[4u8]]);
    }

    #[test]
    fn the_control_lane_has_a_bound() {
        let mut outbox = Outbox::default();
        for _ in 0..CONTROL_FRAMES {
            outbox.push_control(About::Nothing, vec![0; 10]).unwrap();
        }
        assert_eq!(outbox.push_control(About::Nothing, vec![0; 10]), Err(Full));
        outbox.clear();
        let half = CONTROL_BYTES / 2;
        outbox.push_control(About::Nothing, vec![0; half]).unwrap();
        outbox.push_control(About::Nothing, vec![0; half]).unwrap();
        assert_eq!(outbox.push_control(About::Nothing, vec![0; 1]), Err(Full));
        outbox.take();
        assert_eq!(outbox.push_control(About::Nothing, vec![0; 1]), Ok(()));
    }

    #[test]
    fn a_kept_request_keeps_what_was_said_of_it() {
        let mut outbox = Outbox::default();
        let mut push = |about, body: &[u8]| outbox.push_control(about, body.to_vec()).unwrap();
        push(About::Of(id("lost")), b"credit of one that was sent before");
        push(About::Request(id("kept")), b"request");
        push(About::Of(id("kept")), b"its credit");
        push(About::Nothing, b"an answer");
        assert_eq!(outbox.keep_requests(), [id("kept")]);
        assert!(!outbox.withdraw(&id("lost")));
        assert_eq!(drain(&mut outbox), [&b"request"[..], b"its credit"]);
    }

    #[test]
    fn a_withdrawn_request_leaves_nothing() {
        let mut outbox = Outbox::default();
        outbox
            .push_control(About::Request(id("a")), vec![0; 9])
            .unwrap();
        outbox.push_control(About::Of(id("a")), vec![0; 9]).unwrap();
        assert!(outbox.withdraw(&id("a")));
        assert!(outbox.is_empty() && outbox.control_bytes == 0);
    }
}
