//! What became of each request, as somebody knows who sees both sides.

use quantix::ids::MessageId;
use quantix::message::{AgentMessage, Body, Stream, agent, encode, message};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    Answered,
    /// The host was told that it is lost: it may have been acted on once, or never.
    Lost,
    /// Nobody waits for it, and it had been sent.
    GivenUp,
    /// It was never sent, and never will be.
    Withdrawn,
}

struct Request {
    id: MessageId,
    fate: Fate,
    size: usize,
    executed: bool,
    /// Of its stream to the host, what has come, and to the guest, what was sent in this session.
    received: u64,
    sent: u64,
}

#[derive(Default)]
pub struct Ledger {
    requests: Vec<Request>,
    reported: u32,
    received_report: u32,
    /// Bytes to the guest were repeated, and the guest has forgotten which Pings it had answered. To
    /// one of them it may then answer that it has not read what is behind it.
    pub may_act_twice: bool,
    /// Something has happened to bytes, to a connection or to a program.
    pub is_faulty: bool,
}

/// Why no session ends as long as nothing has happened to it.
const DAMAGE: [&str; 4] = [
    "lost, repeated or joined",
    "more was acknowledged",
    "did not decode",
    "no usable id",
];

impl Ledger {
    /// A request that is not yet anywhere, and its body.
    pub fn make(&mut self, size: usize) -> (MessageId, Vec<u8>) {
        let id = MessageId::parse(&format!("request-{}", self.requests.len())).unwrap();
        let write = agent::WriteFile {
            data: content(&id, size),
            ..Default::default()
        };
        let body = encode(&message(id.as_str(), Body::WriteFile(write))).unwrap();
        self.requests.push(Request {
            id: id.clone(),
            fate: Fate::Pending,
            size,
            executed: false,
            received: 0,
            sent: 0,
        });
        (id, body)
    }

    /// The host had no room for the last one, or took it back unsent.
    pub fn on_withdrawn(&mut self, id: &MessageId) {
        let request = self.find(id.as_str());
        assert!(
            !request.executed,
            "{id} is withdrawn though it was executed"
        );
        request.fate = Fate::Withdrawn;
    }

    pub fn on_given_up(&mut self, id: &MessageId) {
        self.find(id.as_str()).fate = Fate::GivenUp;
    }

    pub fn pending(&self) -> Vec<MessageId> {
        let pending = self.requests.iter().filter(|r| r.fate == Fate::Pending);
        pending.map(|r| r.id.clone()).collect()
    }

    pub fn is_answered(&self, id: &MessageId) -> bool {
        let found = self.requests.iter().find(|r| r.id == *id);
        found.is_some_and(|r| r.fate == Fate::Answered)
    }

    /// The next chunk of a request's stream to the guest.
    pub fn chunk_to_guest(&mut self, id: &MessageId, size: usize) -> agent::StreamChunk {
        let request = self.find(id.as_str());
        let chunk = chunk(request.sent, size);
        request.sent += size as u64;
        chunk
    }

    /// A session has ended, on either side.
    pub fn on_end(&self, why: &str) {
        let damaged = DAMAGE.iter().any(|damage| why.contains(damage));
        assert!(self.is_faulty || !damaged, "{why}, without a fault");
    }

    /// The guest acts on a request.
    pub fn on_executed(&mut self, id: &MessageId, write: &agent::WriteFile) {
        let twice = self.may_act_twice;
        let request = self.find(id.as_str());
        assert!(!request.executed || twice, "{id} is executed again");
        assert_ne!(request.fate, Fate::Withdrawn, "{id} is executed");
        assert!(write.data == content(id, request.size), "{id} is damaged");
        request.executed = true;
    }

    /// A final answer of so many bytes, behind so many of the stream.
    pub fn answer(id: &MessageId, size: usize, streamed: u64) -> Body {
        Body::ReadFileResponse(agent::ReadFileResponse {
            data: content(id, size),
            total_size: streamed,
            ..Default::default()
        })
    }

    pub fn make_report(&mut self, size: usize) -> agent::Telemetry {
        self.reported += 1;
        agent::Telemetry {
            process_count: self.reported,
            hostname: "h".repeat(size),
            ..Default::default()
        }
    }

    /// The host hears something of a session.
    pub fn on_message(&mut self, told: &AgentMessage) {
        let id = &told.message_id;
        match told.body.as_ref().unwrap() {
            Body::ReadFileResponse(answer) => {
                let request = self.final_answer(id);
                assert_eq!(
                    request.received, answer.total_size,
                    "{id}: before its stream"
                );
                assert!(answer.data == content(&request.id, answer.data.len()));
            }
            Body::Error(_) => drop(self.final_answer(id)),
            Body::StreamChunk(chunk) => {
                let request = self.find(id);
                assert!(matches!(request.fate, Fate::Pending | Fate::GivenUp));
                assert_eq!(chunk.offset, request.received, "{id}: a gap");
                request.received += chunk.data.len() as u64;
            }
            Body::Telemetry(report) => {
                let number = report.process_count;
                assert!(number > self.received_report && number <= self.reported);
                self.received_report = number;
            }
            Body::AgentReady(_) | Body::Credit(_) => {}
            other => panic!("nobody sends {other:?}"),
        }
    }

    fn final_answer(&mut self, id: &str) -> &mut Request {
        let request = self.find(id);
        assert!(request.executed, "{id} was never executed");
        assert!(
            matches!(request.fate, Fate::Pending | Fate::GivenUp),
            "{id}"
        );
        request.fate = Fate::Answered;
        request
    }

    /// The host lost its session; `kept` go into the next one, and were certainly not acted on.
    pub fn on_lost(&mut self, kept: &[MessageId]) {
        let twice = self.may_act_twice;
        for request in &mut self.requests {
            request.sent = 0;
            let kept = kept.iter().filter(|id| **id == request.id).count();
            match kept {
                0 if request.fate == Fate::Pending => request.fate = Fate::Lost,
                0 => {}
                _ => {
                    assert_eq!((kept, request.fate), (1, Fate::Pending), "{}", request.id);
                    let executed = request.executed && !twice;
                    assert!(!executed, "{} is kept though executed", request.id);
                    request.received = 0;
                }
            }
        }
    }

    fn find(&mut self, id: &str) -> &mut Request {
        let found = self.requests.iter_mut().find(|r| r.id.as_str() == id);
        found.unwrap_or_else(|| panic!("{id} was never asked for"))
    }
}

/// Bytes that belong to this request.
fn content(id: &MessageId, size: usize) -> Vec<u8> {
    id.as_str().bytes().rev().cycle().take(size).collect()
}

pub fn chunk(offset: u64, size: usize) -> agent::StreamChunk {
    agent::StreamChunk {
        stream: Stream::Data.into(),
        offset,
        data: vec![b'c'; size],
        ..Default::default()
    }
}
