//! The guest's side: what a program does with a `Guest`, and what it may rely on.

use quantix::chunk::Packed;
use quantix::error::{Code, Failure};
use quantix::guest::{Event, Guest, Identity, Moment};
use quantix::ids::MessageId;
use quantix::limits::GUEST_WINDOW;
use quantix::message::{Body, agent};
use quantix::time::Time;

use super::ledger::{Ledger, chunk};
use super::pipe::Pipe;
use super::written::Written;

/// What no window holds back: Pongs and acknowledgements.
const URGENT: u64 = 16 * 1024;

/// A request that is being served.
struct Running {
    id: MessageId,
    streamed: u64,
    /// Of the stream from the host.
    heard: u64,
}

pub struct Agent {
    pub guest: Guest,
    running: Vec<Running>,
    written: Written,
    /// As the events tell.
    is_open: bool,
    /// Sessions that were opened.
    session: u64,
    draws: u64,
    continued: bool,
    /// Since the `Guest` was made.
    bytes_in: u64,
    bytes_out: u64,
}

impl Agent {
    pub fn new() -> Self {
        Self {
            guest: Guest::new(Identity::default()),
            running: Vec::new(),
            written: Written::new(true),
            is_open: false,
            session: 0,
            draws: 0,
            continued: false,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Another process in the same guest.
    pub fn restart(&mut self) {
        self.guest = Guest::new(Identity::default());
        self.is_open = false;
        self.running.clear();
        self.continued = false;
        (self.bytes_in, self.bytes_out) = (0, 0);
        self.is_silent();
    }

    pub fn host_gone(&mut self, ledger: &mut Ledger) {
        self.guest.handle_host_gone();
        self.on_events(ledger);
        self.is_silent();
    }

    pub fn reopen(&mut self, ledger: &mut Ledger) {
        self.guest.handle_port_reopened();
        self.on_events(ledger);
        self.is_silent();
    }

    pub fn tick(&mut self, now: Time, ledger: &mut Ledger) {
        let due = self.guest.poll_timeout().is_some_and(|at| at <= now);
        self.guest.handle_timeout(now);
        self.on_events(ledger);
        if due {
            assert_eq!(self.guest.poll_timeout(), None);
            self.is_silent();
        }
    }

    /// Until a Ping comes.
    fn is_silent(&mut self) {
        assert!(!self.guest.is_open());
        assert!(self.guest.poll_transmit().is_none(), "nobody has asked");
        assert_eq!(self.guest.poll_timeout(), None, "nothing wakes it up");
    }

    pub fn read(&mut self, now: Time, bytes: &[u8], ledger: &mut Ledger) {
        let moment = Moment {
            now,
            ..Default::default()
        };
        let draws = &mut self.draws;
        self.guest.handle_bytes(&moment, bytes, &mut || {
            *draws += 1;
            // Far apart, whatever they are mixed with.
            draws.wrapping_mul(0x9E37_79B9_7F4A_7C15)
        });
        self.bytes_in += bytes.len() as u64;
        self.on_events(ledger);
    }

    fn on_events(&mut self, ledger: &mut Ledger) {
        let mut cancelled = Vec::new();
        let mut opened = false;
        let mut first = true;
        while let Some(event) = self.guest.poll_event() {
            match event {
                Event::Opened => {
                    assert!(!self.is_open, "one session at a time");
                    // Whoever is asked again inside its goodbye has idle bytes fill it: to the host that is damage.
                    ledger.is_faulty |= first && self.continued;
                    self.is_open = true;
                    self.session += 1;
                    self.written.restart();
                    opened = true;
                }
                Event::Ended(why) => {
                    ledger.on_end(why);
                    assert!(first, "what was not acted on never will be");
                    self.is_open = false;
                    self.running.clear();
                }
                event => {
                    assert!(self.is_open, "{event:?} outside a session");
                    self.on_session_event(event, ledger, &mut cancelled);
                }
            }
            first = false;
        }
        assert_eq!(self.is_open, self.guest.is_open());
        for id in &cancelled {
            self.cancel(id, ledger);
        }
        if opened {
            self.announce(ledger);
        }
    }

    fn on_session_event(
        &mut self,
        event: Event,
        ledger: &mut Ledger,
        cancelled: &mut Vec<MessageId>,
    ) {
        match event {
            Event::Request(id, Body::WriteFile(write), _) => {
                ledger.on_executed(&id, &write);
                self.running.push(Running {
                    id,
                    streamed: 0,
                    heard: 0,
                });
            }
            Event::Chunk(id, chunk) => {
                if let Some(running) = self.running.iter_mut().find(|r| r.id == id) {
                    assert_eq!(chunk.head.offset, running.heard, "{id}: a gap");
                    running.heard += chunk.data().len() as u64;
                }
                self.guest.recycle(chunk);
            }
            Event::Cancel(id) => cancelled.push(id),
            Event::Credit(..) | Event::Answered(..) => {}
            other => panic!("nobody sends {other:?}"),
        }
    }

    fn cancel(&mut self, id: &MessageId, ledger: &mut Ledger) {
        if let Some(at) = self.running.iter().position(|r| r.id == *id) {
            self.running.remove(at);
            self.guest.drop_stream(id);
            self.guest
                .refuse(id, &Failure::new(Code::Cancelled, "cancelled"));
            self.on_events(ledger);
        }
    }

    pub fn announce(&mut self, ledger: &mut Ledger) {
        self.guest.announce(agent::AgentReady::default());
        self.on_events(ledger);
    }

    pub fn report(&mut self, size: usize, ledger: &mut Ledger) {
        self.guest.report(ledger.make_report(size));
        self.on_events(ledger);
    }

    pub fn close(&mut self, ledger: &mut Ledger) {
        self.guest.close("the agent ends");
        self.on_events(ledger);
        assert!(!self.guest.is_open());
    }

    /// Answers the request that stands there among those that run.
    pub fn answer(&mut self, at: usize, size: usize, ledger: &mut Ledger) {
        if !self.running.is_empty() {
            let Running { id, streamed, .. } = self.running.remove(at % self.running.len());
            self.guest.answer(&id, Ledger::answer(&id, size, streamed));
            self.on_events(ledger);
        }
    }

    /// False: there is nothing to answer.
    pub fn answer_all(&mut self, ledger: &mut Ledger) -> bool {
        let is_asked = !self.running.is_empty();
        while !self.running.is_empty() {
            self.answer(0, 10, ledger);
        }
        is_asked
    }

    pub fn stream(&mut self, at: usize, size: usize) {
        let count = self.running.len().max(1);
        if let Some(running) = self.running.get_mut(at % count) {
            let sent = chunk(running.streamed, size);
            let sent = Packed::of(&running.id, &sent).expect("a chunk fits");
            self.guest.send_chunk(&running.id, sent);
            assert!(!self.guest.wants_chunk());
            running.streamed += size as u64;
        }
    }

    pub fn drop_stream(&mut self, at: usize, ledger: &mut Ledger) {
        if let Some(running) = self.running.get(at % self.running.len().max(1)) {
            let id = running.id.clone();
            self.cancel(&id, ledger);
        }
    }

    pub fn grant(&mut self, at: usize, total: usize, ledger: &mut Ledger) {
        if let Some(running) = self.running.get(at % self.running.len().max(1)) {
            let id = running.id.clone();
            self.guest.grant(&id, agent::Stream::Data, total as u64);
            self.on_events(ledger);
        }
    }

    /// One write, or a part of one. False: there is nothing to write.
    pub fn write(&mut self, part: Option<usize>, up: &mut Pipe) -> bool {
        let Some(bytes) = self.guest.poll_transmit() else {
            assert!(self.written.is_whole() || !self.is_open);
            return false;
        };
        let count = part.map_or(bytes.len(), |part| 1 + part * 129 % bytes.len());
        let is_part = count < bytes.len();
        up.write(&bytes[..count], self.session, self.continued);
        self.written.write(&bytes[..count]);
        self.guest.on_written(count);
        self.continued = is_part;
        self.bytes_out += count as u64;
        let (bytes, writes) = up.in_flight(self.session);
        // The least that a write is charged for beside its bytes.
        let cost = bytes as u64 + writes as u64 * 31;
        assert!(
            cost <= GUEST_WINDOW + URGENT || up.has_won,
            "{bytes} bytes in {writes} writes are on their way"
        );
        true
    }

    pub fn check(&self, now: Time) {
        assert!(self.guest.poll_timeout().is_none_or(|at| at > now));
        assert_eq!(self.guest.poll_timeout().is_some(), self.is_open);
        let counters = self.guest.counters();
        assert_eq!(counters.bytes_in, self.bytes_in);
        assert_eq!(counters.bytes_out, self.bytes_out);
    }
}
