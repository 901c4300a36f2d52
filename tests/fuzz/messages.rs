//! Any bytes as a message with the right seal, so that they are decoded and acted on: by a guest and
//! by a host in the same session. Then what each must do with them is checked, and what the guest
//! answers goes to the host.

use prost::Message;

use quantix::action::Outcome;
use quantix::chunk;
use quantix::error::Code;
use quantix::frame::{Seal, write_frame};
use quantix::guest::{self, Guest, Identity, Moment};
use quantix::host::{self, Host};
use quantix::ids::{MessageId, Nonce, SessionId};
use quantix::limits::{HOST_SILENT, MAX_FRAME, SEAL};
use quantix::message::agent::{Cancel, Pong, StreamChunk};
use quantix::message::node::NodeMessage;
use quantix::message::{AgentMessage, Body, encode, message, peek_message_id};
use quantix::time::Time;

use super::naive::{Naive, seal};

pub fn run(data: &[u8]) {
    agent_message_round_trip(data);
    node_message_round_trip(data);
    if data.len() + SEAL <= MAX_FRAME {
        Session::open().guest_reads(data);
        Session::open().host_reads(data);
    }
}

/// What was decoded is written in one way only. Bytes are compared: a number that is none differs
/// from itself.
fn agent_message_round_trip(data: &[u8]) {
    if let Ok(found) = AgentMessage::decode(data) {
        let bytes = found.encode_to_vec();
        let again = AgentMessage::decode(&bytes[..]).expect("what was written is readable");
        assert_eq!(again.encode_to_vec(), bytes);
        let fits = bytes.len() + SEAL <= MAX_FRAME;
        assert_eq!(
            encode(&found),
            fits.then_some(bytes.clone()).ok_or(bytes.len())
        );
    }
}

fn node_message_round_trip(data: &[u8]) {
    if let Ok(found) = NodeMessage::decode(data) {
        let bytes = found.encode_to_vec();
        let again = NodeMessage::decode(&bytes[..]).expect("what was written is readable");
        assert_eq!(again.encode_to_vec(), bytes);
    }
}

const NOW: Time = Time::from_micros(1_000_000);
/// When the message comes.
const LATER: Time = Time::from_micros(2_000_000);
const NONCE: [u8; 16] = *b"sixteen bytes...";
const RANDOM: u64 = 0x5E55_1017;

/// A guest and a host in the same session, which has just begun.
struct Session {
    guest: Guest,
    host: Host,
    id: SessionId,
}

impl Session {
    fn open() -> Self {
        let session = SessionId::draw(RANDOM, &Nonce::new(NONCE));
        let mut host = Host::new();
        host.handle_socket(NOW);
        host.handle_timeout(NOW, false);
        host.handle_connected(NOW, &mut || NONCE);
        let ping = host_out(&mut host);
        let pong = Body::Pong(Pong {
            sequence: 1,
            nonce: NONCE.to_vec(),
            session: session.get(),
            ..Default::default()
        });
        let mut answer = Vec::new();
        write_frame(&mut answer, &message("", pong).encode_to_vec(), None);
        host.handle_bytes(NOW, &answer, &mut || NONCE);
        let events = [host.poll_event(), host.poll_event(), host.poll_event()];
        assert!(matches!(
            events,
            [
                Some(host::Event::Connect),
                Some(host::Event::Opened(_)),
                None
            ]
        ));

        let mut guest = Guest::new(Identity::default());
        hear(&mut guest, NOW, &ping);
        assert!(matches!(guest.poll_event(), Some(guest::Event::Opened)));
        // Its Pong is not read: it stands behind a flush, and this is done very often.
        while let Some(bytes) = guest.poll_transmit().map(<[u8]>::len) {
            guest.on_written(bytes);
        }
        hear(&mut guest, NOW, &host_out(&mut host));
        Self {
            guest,
            host,
            id: session,
        }
    }

    /// As the guest's first frame in the session.
    fn first_sealed(&self, body: &[u8]) -> Vec<u8> {
        let seal = Seal {
            session: self.id,
            number: 1,
        };
        let mut frame = Vec::new();
        write_frame(&mut frame, body, Some(seal));
        frame
    }

    fn guest_reads(mut self, data: &[u8]) {
        // Any bytes are a request to a host, so it is the host that seals and counts them.
        let any = MessageId::parse("any").unwrap();
        self.host.request(NOW, &any, data.to_vec()).unwrap();
        let frame = host_out(&mut self.host);
        let body = &frame[4..];
        hear(&mut self.guest, LATER, &frame);
        let events: Vec<_> = std::iter::from_fn(|| self.guest.poll_event()).collect();
        for event in &events {
            self.act(event);
        }
        let out = guest_out(&mut self.guest);
        let said = Said::parse(&out, self.id);

        let Ok(message) = AgentMessage::decode(body) else {
            return match peek_message_id(body) {
                Some(id) => said.is_refusal(&id, Code::Invalid, &events),
                None => self.has_ended(&said, &events),
            };
        };
        let id = MessageId::parse(&message.message_id);
        match (message.body, id) {
            (Some(Body::Ping(ping)), _) if ping.nonce == NONCE => {
                assert!(events.is_empty() && self.guest.is_open());
                assert_eq!(self.guest.poll_timeout(), Some(LATER + HOST_SILENT));
                let Some(Body::Pong(pong)) = said.sealed.last().and_then(|m| m.body.as_ref())
                else {
                    panic!("a Ping has its Pong");
                };
                assert_eq!(
                    (pong.sequence, pong.session),
                    (ping.sequence, self.id.get())
                );
                return self.host_understands(&out);
            }
            (Some(Body::Ping(ping)), _) if ping.nonce.len() == 16 => {
                assert!(matches!(
                    events[..],
                    [guest::Event::Ended(_), guest::Event::Opened]
                ));
                let [Body::Pong(pong)] = &said.unsealed[..] else {
                    panic!("another nonce opens another session");
                };
                assert!(pong.sequence == ping.sequence && pong.session != self.id.get());
                assert_eq!(pong.nonce, ping.nonce);
                return;
            }
            (Some(Body::Ping(_)), _) => assert!(events.is_empty() && said.is_nothing()),
            (Some(Body::Credit(credit)), None) if message.message_id.is_empty() => {
                // Nothing was sent in this session yet.
                if credit.bytes > 0 {
                    return self.has_ended(&said, &events);
                }
                assert!(events.is_empty() && said.is_nothing());
            }
            (None, Some(id)) => return said.is_refusal(&id, Code::Unsupported, &events),
            (None, None) => assert!(events.is_empty() && said.is_nothing()),
            (Some(_), None) => return self.has_ended(&said, &events),
            (Some(body), Some(id)) => self.has_told(body, &id, events, &said),
        }
        assert_eq!(self.guest.poll_timeout(), Some(NOW + HOST_SILENT));
        self.host_understands(&out);
    }

    /// A request is answered with what it said, but for what would end the session.
    fn act(&mut self, event: &guest::Event) {
        match event {
            guest::Event::Request(id, Body::SessionEnded(_), _) => {
                self.guest.answer(id, Body::Cancel(Cancel {}));
            }
            guest::Event::Request(id, body, _) => self.guest.answer(id, body.clone()),
            _ => {}
        }
    }

    fn has_told(&self, body: Body, id: &MessageId, events: Vec<guest::Event>, said: &Said) {
        let [event] = <[_; 1]>::try_from(events).expect("one event for a message");
        let same = |found: &MessageId| assert_eq!(found, id);
        match (event, body) {
            (guest::Event::Cancel(found), Body::Cancel(_)) => same(&found),
            (guest::Event::Chunk(found, chunk), Body::StreamChunk(sent)) => {
                same(&found);
                // An unknown stream is the first one to whoever reads it.
                let stream = sent.stream().into();
                assert_eq!(StreamChunk::from(chunk), StreamChunk { stream, ..sent });
            }
            (guest::Event::Credit(found, stream, bytes), Body::Credit(sent)) => {
                same(&found);
                assert_eq!((stream, bytes), (sent.stream(), sent.bytes));
            }
            (guest::Event::Request(found, request, _), sent) => {
                same(&found);
                assert_eq!(bytes_of(&request), bytes_of(&sent));
                let answers: Vec<_> = said.about(id).collect();
                assert_eq!(answers.len(), 1, "one answer");
                return;
            }
            (event, body) => panic!("{event:?} of {body:?}"),
        }
        assert_eq!(said.about(id).count(), 0, "nothing was asked");
    }

    fn has_ended(&self, said: &Said, events: &[guest::Event]) {
        assert!(matches!(events, [guest::Event::Ended(_)]), "{events:?}");
        assert!(!self.guest.is_open());
        let last = said.sealed.last().and_then(|m| m.body.as_ref());
        assert!(matches!(last, Some(Body::SessionEnded(_))), "{last:?}");
    }

    /// What the guest has written is a session's next frames.
    fn host_understands(&mut self, out: &[u8]) {
        self.host.handle_bytes(NOW, out, &mut || NONCE);
        assert!(
            self.host.is_open(),
            "the guest's own frames end the session"
        );
        assert_eq!(self.host.counters().bad_frames, 0);
    }

    fn host_reads(mut self, data: &[u8]) {
        let frame = self.first_sealed(data);
        let body = &frame[4..];
        self.host.handle_bytes(NOW, &frame, &mut || [1; 16]);
        let events: Vec<_> = std::iter::from_fn(|| self.host.poll_event()).collect();
        let Ok(message) = AgentMessage::decode(body) else {
            let id = peek_message_id(body);
            assert_eq!(events.len(), usize::from(id.is_some()));
            for event in events {
                let host::Event::Message(told) = event else {
                    panic!("{event:?}");
                };
                assert_eq!(
                    Some(told.message_id.as_str()),
                    id.as_ref().map(MessageId::as_str)
                );
                assert!(matches!(told.body, Some(Body::Error(_))));
            }
            return assert!(self.host.is_open());
        };
        let is_ours = message.message_id.is_empty();
        match message.body {
            Some(Body::SessionEnded(_)) => self.has_lost(&events),
            // Nothing but the first acknowledgement was sent.
            Some(Body::Credit(credit)) if is_ours && credit.bytes > FIRST => self.has_lost(&events),
            // The opening Ping was answered already.
            Some(Body::Credit(_)) if is_ours => assert!(events.is_empty()),
            Some(Body::Pong(_)) | None => assert!(events.is_empty(), "{events:?}"),
            Some(_) => {
                let [host::Event::Message(told)] = &events[..] else {
                    panic!("{events:?}");
                };
                assert_eq!(told.encode_to_vec(), message_of(body));
                assert!(self.host.is_open());
            }
        }
    }

    fn has_lost(&self, events: &[host::Event]) {
        assert!(matches!(events, [host::Event::Lost { kept, .. }] if kept.is_empty()));
        assert!(!self.host.is_open());
    }
}

/// Bytes that the host has sent since the Ping: its first acknowledgement, an empty one.
const FIRST: u64 = 4 + 3 + 20;

/// A message as it is told. Of a chunk in its plain form that is no more than what it says.
fn message_of(body: &[u8]) -> Vec<u8> {
    let mut message = AgentMessage::decode(body).unwrap();
    if let (Some(_), Some(Body::StreamChunk(chunk))) = (chunk::find(body), &mut message.body) {
        chunk.stream = chunk.stream().into();
        (message.session, message.number) = (0, 0);
    }
    message.encode_to_vec()
}

fn bytes_of(body: &Body) -> Vec<u8> {
    message("", body.clone()).encode_to_vec()
}

/// What a guest has written, each frame in its place.
struct Said {
    sealed: Vec<AgentMessage>,
    unsealed: Vec<Body>,
}

impl Said {
    fn parse(out: &[u8], session: SessionId) -> Self {
        let mut naive = Naive::default();
        naive.feed(out);
        let (mut sealed, mut unsealed) = (Vec::new(), Vec::new());
        while let Some(body) = naive.next() {
            let message = AgentMessage::decode(&body[..]).expect("a guest writes messages");
            match seal(&body) {
                Some(found) => {
                    let number = sealed.len() as u64 + 1;
                    assert_eq!(found, (session.get(), number), "numbered by one");
                    sealed.push(message);
                }
                None => unsealed.push(message.body.expect("a guest writes Pongs")),
            }
        }
        assert!(!naive.is_cut() && naive.garbage == 0, "whole frames");
        Self { sealed, unsealed }
    }

    fn about(&self, id: &MessageId) -> impl Iterator<Item = &Body> {
        let id = id.as_str().to_owned();
        let about = self.sealed.iter().filter(move |m| m.message_id == id);
        about.filter_map(|m| m.body.as_ref())
    }

    /// Nothing but that something was read.
    fn is_nothing(&self) -> bool {
        let credit = |m: &AgentMessage| matches!(m.body, Some(Body::Credit(_)));
        self.unsealed.is_empty() && self.sealed.iter().all(credit)
    }

    fn is_refusal(&self, id: &MessageId, code: Code, events: &[guest::Event]) {
        let [guest::Event::Answered(found, outcome)] = events else {
            panic!("nothing but its refusal, not {events:?}");
        };
        assert_eq!((found, *outcome), (id, Outcome::Failed(code)));
        let answers: Vec<_> = self.about(id).collect();
        let [Body::Error(error)] = answers[..] else {
            panic!("one refusal, not {answers:?}");
        };
        assert_eq!(error.code, code.as_str());
    }
}

fn hear(guest: &mut Guest, now: Time, bytes: &[u8]) {
    let moment = Moment {
        now,
        ..Default::default()
    };
    guest.handle_bytes(&moment, bytes, &mut || RANDOM);
}

fn guest_out(guest: &mut Guest) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(bytes) = guest.poll_transmit() {
        out.extend_from_slice(bytes);
        let count = bytes.len();
        guest.on_written(count);
    }
    out
}

fn host_out(host: &mut Host) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(bytes) = host.poll_transmit() {
        out.extend_from_slice(bytes);
        let count = bytes.len();
        host.on_written(count);
    }
    out
}
