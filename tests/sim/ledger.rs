//! What both sides may and must do with a request, seen from above: the one place that knows the
//! truth, and that fails the test when a side departs from it.
//!
//! To the channel one message is as good as another. Here a request is a `WriteFile`, which carries
//! bytes, and its answer a `ReadFileResponse`, which carries others.

use std::collections::BTreeMap;
use std::time::Duration;

use quantix::ids::{IdMaker, MessageId};
use quantix::message::{AgentMessage, Body, Stream, agent, encode, message};

use super::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The host waits for its answer.
    Pending,
    Answered,
    /// The host was told that it is lost: it may have been executed once, or never.
    Lost,
    Refused,
}

pub struct Request {
    pub fate: Fate,
    pub executed: u32,
    /// How often a session ended that surely had not brought it to the guest.
    pub kept: u32,
    /// What the guest does with it.
    pub order: Order,
    content: Vec<u8>,
    /// Of its stream, as far as the host has it.
    received: u64,
    /// How often a side was put back to before it had done with it. Each time it may be executed
    /// once more, or be answered by what was done before.
    repeated: u32,
}

/// What a guest knew when its snapshot was taken.
#[derive(Clone)]
pub struct GuestView {
    executed: BTreeMap<String, u32>,
}

/// What a host knew.
#[derive(Clone)]
pub struct HostView {
    known: BTreeMap<String, (Fate, u64)>,
    received_report: u32,
}

/// How a request is served.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    /// Bytes that the request carries.
    pub content: usize,
    /// Bytes of the answer.
    pub answer: usize,
    /// Bytes that go ahead of the answer as a stream.
    pub stream: u64,
    /// Bytes that follow the request as a stream, before it is answered.
    pub upload: u64,
    /// From reading the request to answering it.
    pub takes: Duration,
}

pub struct Ledger {
    ids: IdMaker,
    requests: BTreeMap<String, Request>,
    /// What the host has written in this session, and in former ones: requests carry the latter, as
    /// a file may that somebody has recorded.
    recording: Vec<u8>,
    pub former: Vec<u8>,
    /// The guest's reports: last made, and last received.
    pub reported: u32,
    pub received_report: u32,
    /// How many were received.
    pub reports: u32,
    /// Sessions that the host opened.
    pub sessions: u64,
}

impl Ledger {
    pub fn new(prefix: u64) -> Self {
        Self {
            ids: IdMaker::new(prefix),
            requests: BTreeMap::new(),
            recording: Vec::new(),
            former: Vec::new(),
            reported: 0,
            received_report: 0,
            reports: 0,
            sessions: 0,
        }
    }

    pub fn request(&self, id: &MessageId) -> &Request {
        &self.requests[id.as_str()]
    }

    pub fn pending(&self) -> usize {
        self.requests
            .values()
            .filter(|r| r.fate == Fate::Pending)
            .count()
    }

    pub fn count(&self, fate: Fate) -> usize {
        self.requests.values().filter(|r| r.fate == fate).count()
    }

    pub fn executed(&self) -> u32 {
        self.requests.values().map(|r| r.executed).sum()
    }

    pub fn kept(&self) -> u32 {
        self.requests.values().map(|r| r.kept).sum()
    }

    /// A new request and its body.
    pub fn make(&mut self, order: Order, random: &mut Random) -> (MessageId, Vec<u8>) {
        let id = self.ids.make();
        let content = self.content(order.content, random);
        let write = agent::WriteFile {
            data: content.clone(),
            ..Default::default()
        };
        let request = Request {
            fate: Fate::Pending,
            executed: 0,
            kept: 0,
            order,
            content,
            received: 0,
            repeated: 0,
        };
        self.requests.insert(id.as_str().to_owned(), request);
        let body = encode(&message(id.as_str(), Body::WriteFile(write))).unwrap();
        (id, body)
    }

    /// What a request carries: the worst that a receiver could begin to read in the middle of.
    fn content(&self, bytes: usize, random: &mut Random) -> Vec<u8> {
        let mut content = match random.below(4) {
            0 => vec![0xFF; bytes],
            1 => vec![0; bytes],
            2 => (0..bytes).map(|_| random.next() as u8).collect(),
            _ => {
                let from = random.below(self.former.len().max(1));
                let old = self.former[from..].iter().copied();
                old.take(bytes).collect()
            }
        };
        content.resize(bytes, 0);
        content
    }

    /// The guest acts on a request.
    pub fn on_executed(&mut self, id: &MessageId, write: &agent::WriteFile) -> Order {
        let request = self.requests.get_mut(id.as_str());
        let request = request.unwrap_or_else(|| panic!("{id} was never asked for"));
        request.executed += 1;
        let most = 1 + request.repeated;
        assert!(request.executed <= most, "{id} is executed again");
        assert!(request.content == write.data, "{id} arrived damaged");
        assert!(
            matches!(request.fate, Fate::Pending | Fate::Lost) || request.repeated > 0,
            "{id} is {:?} and executed",
            request.fate
        );
        request.order
    }

    /// The host receives something of a session.
    pub fn on_message(&mut self, message: &AgentMessage) {
        let id = &message.message_id;
        // A host that was put back finds nobody who waits for what it has forgotten.
        let known = self.requests.get(id);
        if known.is_some_and(|r| r.repeated > 0 && r.fate != Fate::Pending) {
            return;
        }
        match message.body.as_ref().unwrap() {
            Body::ReadFileResponse(response) => {
                let request = self.requests.get_mut(id);
                let request = request.unwrap_or_else(|| panic!("{id} was never asked for"));
                assert_eq!(request.fate, Fate::Pending, "{id} is answered");
                assert!(
                    request.executed == 1 || request.repeated > 0,
                    "{id} is answered"
                );
                assert!(response.data == answer(id, request.order.answer));
                assert_eq!(request.received, request.order.stream, "{id}'s stream");
                request.fate = Fate::Answered;
            }
            Body::StreamChunk(chunk) => {
                let request = self.requests.get_mut(id);
                let request = request.unwrap_or_else(|| panic!("{id} was never asked for"));
                assert_eq!(request.fate, Fate::Pending, "{id} streams");
                assert_eq!(chunk.offset, request.received, "{id}'s stream has a gap");
                assert!(chunk.data.iter().all(|b| *b == chunk.offset as u8));
                request.received += chunk.data.len() as u64;
            }
            Body::Telemetry(report) => {
                let number = report.process_count;
                assert!(number > self.received_report, "report {number} is old");
                assert!(number <= self.reported);
                self.received_report = number;
                self.reports += 1;
            }
            Body::AgentReady(_) => {}
            other => panic!("nobody sends {other:?}"),
        }
    }

    /// The host has no room for it: it must not be heard of again.
    pub fn on_refused(&mut self, id: &MessageId) {
        let request = self.requests.get_mut(id.as_str()).unwrap();
        request.fate = Fate::Refused;
    }

    pub fn record(&mut self, bytes: &[u8]) {
        if self.recording.len() < MOST_RECORDED {
            self.recording.extend_from_slice(bytes);
        }
    }

    /// The host lost its session; `kept` go into the next one.
    pub fn on_lost(&mut self, kept: &[MessageId]) {
        self.former = std::mem::take(&mut self.recording);
        for (id, request) in &mut self.requests {
            if request.fate != Fate::Pending {
                continue;
            }
            if kept.iter().any(|k| k.as_str() == id) {
                assert!(
                    request.executed == 0 || request.repeated > 0,
                    "{id} is kept though it was executed"
                );
                request.kept += 1;
            } else {
                request.fate = Fate::Lost;
            }
        }
        for id in kept {
            assert_eq!(self.request(id).fate, Fate::Pending, "{id} is kept");
        }
    }

    pub fn guest_view(&self) -> GuestView {
        let executed = self.requests.iter();
        GuestView {
            executed: executed.map(|(id, r)| (id.clone(), r.executed)).collect(),
        }
    }

    /// The guest knows no more than it did then.
    pub fn put_guest_back(&mut self, view: &GuestView) {
        for (id, request) in &mut self.requests {
            request.executed = view.executed.get(id).copied().unwrap_or(0);
            request.repeated += 1;
        }
    }

    pub fn host_view(&self) -> HostView {
        let known = self.requests.iter();
        HostView {
            known: known
                .map(|(id, r)| (id.clone(), (r.fate, r.received)))
                .collect(),
            received_report: self.received_report,
        }
    }

    /// The host knows no more than it did then: nobody waits for what was asked since.
    pub fn put_host_back(&mut self, view: &HostView) {
        self.received_report = view.received_report;
        for (id, request) in &mut self.requests {
            request.repeated += 1;
            match view.known.get(id) {
                Some((fate, received)) => {
                    request.fate = *fate;
                    request.received = *received;
                }
                None if request.fate == Fate::Pending => request.fate = Fate::Lost,
                None => {}
            }
        }
    }

    /// The host's process is gone, and with it whatever it waited for.
    pub fn on_host_killed(&mut self) {
        self.on_lost(&[]);
    }
}

const MOST_RECORDED: usize = 256 * 1024;

/// The answer that belongs to a request and to no other.
pub fn answer(id: &str, bytes: usize) -> Vec<u8> {
    id.bytes().cycle().take(bytes).collect()
}

/// A chunk of a request's stream: its bytes tell its place.
pub fn chunk(offset: u64, bytes: usize) -> agent::StreamChunk {
    agent::StreamChunk {
        stream: Stream::Data.into(),
        offset,
        data: vec![offset as u8; bytes],
        ..Default::default()
    }
}
