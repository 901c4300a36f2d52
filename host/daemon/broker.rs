//! Who asked what of which VM: every request of every client from its arrival to its one final
//! answer. Pure: it decides where things go and moves nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quantix::action::Record;
use quantix::ids::{IdMaker, MessageId};
use quantix::message::node::NodeMessage;
use quantix::message::{Stream, agent};
use quantix::time::Time;

/// A client's connection; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientKey(pub u64);

/// A VM since its socket appeared; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmKey(pub u64);

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallKey(u64);

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Call {
    pub client: ClientKey,
    /// The client's own number for it.
    pub request: u64,
    pub vm: VmKey,
    pub kind: Kind,
    /// Where the audit has it.
    pub audited: Option<Record>,
    /// When it came.
    pub begun: Time,
    /// When it fails, however alive its guest is.
    limit: Option<Time>,
    /// When it is looked at next.
    look: Time,
}

/// What it waits for.
#[derive(Debug)]
pub enum Kind {
    /// The agent's answer to the message with this id.
    Agent {
        id: MessageId,
        /// Client to guest.
        upload: Relays,
        /// Guest to client.
        download: Relays,
    },
    /// The Pong with this sequence; `None`: the session is not open yet.
    Ping(Option<u64>),
    /// A report, or each one.
    Telemetry { follow: bool },
}

/// What the daemon knows of a stream that passes through it: enough to catch whichever side breaks
/// the rules before the other side has to pay for it.
#[derive(Debug, Default)]
struct Relay {
    granted: u64,
    passed: u64,
}

impl Relay {
    /// The receiver allows `total` bytes.
    const fn grant(&mut self, total: u64) {
        if total > self.granted {
            self.granted = total;
        }
    }

    /// Whether this chunk is the next one and within what was granted; notes it if so.
    fn pass(&mut self, chunk: &agent::StreamChunk) -> bool {
        let end = self.passed.checked_add(chunk.data.len() as u64);
        match end {
            Some(end) if chunk.offset == self.passed && end <= self.granted => {
                self.passed = end;
                true
            }
            _ => false,
        }
    }
}

/// The streams of a request in one direction, by their numbers.
#[derive(Debug, Default)]
pub struct Relays([Relay; STREAMS]);

/// The highest number of a stream, and one.
const STREAMS: usize = Stream::Data as usize + 1;

impl Relays {
    /// The receiver allows what this says. A stream that is not known is granted nothing.
    pub fn grant(&mut self, credit: &agent::Credit) {
        if let Some(relay) = self.of(credit.stream) {
            relay.grant(credit.bytes);
        }
    }

    /// Whether this chunk is its stream's next one and within what was granted; notes it if so.
    pub fn pass(&mut self, chunk: &agent::StreamChunk) -> bool {
        self.of(chunk.stream).is_some_and(|relay| relay.pass(chunk))
    }

    fn of(&mut self, stream: i32) -> Option<&mut Relay> {
        self.0.get_mut(usize::try_from(stream).ok()?)
    }
}

/// All requests.
#[derive(Debug)]
pub struct Broker {
    ids: IdMaker,
    next: u64,
    calls: BTreeMap<CallKey, Call>,
    by_message: BTreeMap<MessageId, CallKey>,
    /// The same by who asked, with the client's number, and by who is asked: none of the others' is looked at.
    by_client: BTreeSet<(ClientKey, u64, CallKey)>,
    by_vm: BTreeSet<(VmKey, CallKey)>,
    looks: BTreeSet<(Time, CallKey)>,
}

/// A request to a guest with an open session fails when no frame of it has come for so long; the
/// keep-alive brings one every 5 s.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A request to a VM without a session waits so long for one.
pub const WAIT_FOR_SESSION: Duration = Duration::from_secs(5);

/// A command's timeout is the guest's to keep; this much later the daemon keeps it.
pub const LATE: Duration = Duration::from_secs(10);

impl Broker {
    /// No requests yet. `prefix` is random: it makes this daemon's ids its own.
    pub const fn new(prefix: u64) -> Self {
        Self {
            ids: IdMaker::new(prefix),
            next: 0,
            calls: BTreeMap::new(),
            by_message: BTreeMap::new(),
            by_client: BTreeSet::new(),
            by_vm: BTreeSet::new(),
            looks: BTreeSet::new(),
        }
    }

    /// A new id for a message to a guest.
    pub fn make_id(&mut self) -> MessageId {
        self.ids.make()
    }

    /// Notes a request.
    pub fn begin(
        &mut self,
        now: Time,
        client: ClientKey,
        message: &NodeMessage,
        vm: VmKey,
        kind: Kind,
        limit: Option<Duration>,
    ) -> CallKey {
        self.next += 1;
        let key = CallKey(self.next);
        if let Kind::Agent { id, .. } = &kind {
            self.by_message.insert(id.clone(), key);
        }
        let look = now + WAIT_FOR_SESSION;
        self.looks.insert((look, key));
        self.by_client.insert((client, message.id, key));
        self.by_vm.insert((vm, key));
        self.calls.insert(
            key,
            Call {
                client,
                request: message.id,
                vm,
                kind,
                audited: None,
                begun: now,
                limit: limit.map(|limit| now + limit),
                look,
            },
        );
        key
    }

    /// The request is answered, or nobody waits any more.
    pub fn end(&mut self, key: CallKey) -> Option<Call> {
        let call = self.calls.remove(&key)?;
        self.looks.remove(&(call.look, key));
        self.by_client.remove(&(call.client, call.request, key));
        self.by_vm.remove(&(call.vm, key));
        if let Kind::Agent { id, .. } = &call.kind {
            self.by_message.remove(id);
        }
        Some(call)
    }

    /// The request.
    pub fn get(&mut self, key: CallKey) -> Option<&mut Call> {
        self.calls.get_mut(&key)
    }

    /// The request that a guest's message is for. A guest can only reach requests that were sent
    /// to it.
    pub fn by_message(&self, vm: VmKey, id: &str) -> Option<CallKey> {
        let key = *self.by_message.get(&MessageId::parse(id)?)?;
        self.calls.get(&key).filter(|call| call.vm == vm)?;
        Some(key)
    }

    /// The request that a client's message is for.
    pub fn by_client(&self, client: ClientKey, request: u64) -> Option<CallKey> {
        let first = (client, request, CallKey(0));
        let found = self.by_client.range(first..).next();
        found
            .filter(|(c, r, _)| (*c, *r) == (client, request))
            .map(|(_, _, key)| *key)
    }

    /// All requests of a client that are under way.
    pub fn of_client(&self, client: ClientKey) -> impl Iterator<Item = CallKey> {
        let first = (client, 0, CallKey(0));
        let found = self.by_client.range(first..);
        found
            .take_while(move |(c, ..)| *c == client)
            .map(|(.., key)| *key)
    }

    /// All requests to a VM.
    pub fn of_vm(&self, vm: VmKey) -> impl Iterator<Item = (CallKey, &Call)> {
        let found = self.by_vm.range((vm, CallKey(0))..);
        let found = found.take_while(move |(v, _)| *v == vm);
        found.filter_map(|(_, key)| Some((*key, self.calls.get(key)?)))
    }

    /// Those for which this holds.
    pub fn select(&self, vm: VmKey, which: impl Fn(&Kind) -> bool) -> Vec<CallKey> {
        let found = self.of_vm(vm).filter(|(_, call)| which(&call.kind));
        found.map(|(key, _)| key).collect()
    }

    /// Somebody waits for something of this VM.
    pub fn is_asked(&self, vm: VmKey) -> bool {
        self.of_vm(vm).next().is_some()
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// When the next request has to be looked at.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.looks.first().map(|(at, _)| *at)
    }

    /// The next request that has to be looked at now.
    pub fn poll_look(&mut self, now: Time) -> Option<CallKey> {
        let (at, key) = *self.looks.first()?;
        (at <= now).then_some(key)
    }

    /// Looks at a request whose guest was last heard of at `heard` in an open session (`None`: there
    /// is no session). True: it has had its time. False: it is looked at again later.
    pub fn has_had_its_time(&mut self, now: Time, key: CallKey, heard: Option<Time>) -> bool {
        let Some(call) = self.calls.get_mut(&key) else {
            return true;
        };
        let follows = matches!(call.kind, Kind::Telemetry { follow: true });
        let alive = match heard {
            Some(heard) => heard.max(call.begun) + PATIENCE,
            None => call.begun + WAIT_FOR_SESSION,
        };
        let until = call.limit.map_or(alive, |limit| limit.min(alive));
        if until <= now && !follows {
            return true;
        }
        self.looks.remove(&(call.look, key));
        call.look = until.max(now + Duration::from_secs(1));
        self.looks.insert((call.look, key));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientKey = ClientKey(1);
    const VM: VmKey = VmKey(9);

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    fn begin(broker: &mut Broker, limit: Option<Duration>) -> (CallKey, MessageId) {
        let id = broker.make_id();
        let kind = Kind::Agent {
            id: id.clone(),
            upload: Relays::default(),
            download: Relays::default(),
        };
        let message = NodeMessage {
            id: 5,
            ..Default::default()
        };
        (broker.begin(at(0), CLIENT, &message, VM, kind, limit), id)
    }

    #[test]
    fn a_guest_reaches_only_what_was_asked_of_it() {
        let mut broker = Broker::new(1);
        let (key, id) = begin(&mut broker, None);
        assert_eq!(broker.by_message(VM, id.as_str()), Some(key));
        assert_eq!(broker.by_message(VmKey(8), id.as_str()), None);
        assert_eq!(broker.by_client(CLIENT, 5), Some(key));
        assert_eq!(broker.by_client(ClientKey(2), 5), None);
        assert_eq!(broker.of_client(CLIENT).collect::<Vec<_>>(), [key]);
        assert_eq!(broker.select(VM, |_| true), [key]);
        assert!(broker.is_asked(VM) && !broker.is_asked(VmKey(8)));
        assert!(broker.end(key).is_some());
        assert_eq!(broker.of_client(CLIENT).count(), 0);
        assert_eq!(broker.by_client(CLIENT, 5), None);
        assert!(!broker.is_asked(VM));
        assert_eq!(broker.by_message(VM, id.as_str()), None);
        assert!(broker.end(key).is_none());
        assert_eq!(broker.poll_timeout(), None);
    }

    #[test]
    fn a_request_lives_as_long_as_its_guest_is_heard_of() {
        let mut broker = Broker::new(1);
        let (key, _) = begin(&mut broker, None);
        assert_eq!(broker.poll_timeout(), Some(at(5)));
        assert!(!broker.has_had_its_time(at(5), key, Some(at(4))));
        assert_eq!(broker.poll_timeout(), Some(at(14)));
        assert!(!broker.has_had_its_time(at(14), key, Some(at(13))));
        assert!(broker.has_had_its_time(at(23), key, Some(at(13))));
    }

    #[test]
    fn a_request_without_a_session_waits_a_little_and_one_with_a_limit_no_longer_than_that() {
        let mut broker = Broker::new(1);
        let (key, _) = begin(&mut broker, None);
        assert!(broker.has_had_its_time(at(5), key, None));
        let (key, _) = begin(&mut broker, Some(Duration::from_secs(12)));
        assert!(!broker.has_had_its_time(at(5), key, Some(at(5))));
        assert!(broker.has_had_its_time(at(12), key, Some(at(12))));
    }

    #[test]
    fn a_relay_passes_what_was_granted_in_order_and_nothing_else() {
        let chunk = |offset, bytes: usize| agent::StreamChunk {
            offset,
            data: vec![0; bytes],
            ..Default::default()
        };
        let mut relay = Relay::default();
        assert!(!relay.pass(&chunk(0, 1)));
        relay.grant(10);
        assert!(relay.pass(&chunk(0, 6)));
        assert!(!relay.pass(&chunk(0, 1)));
        assert!(!relay.pass(&chunk(6, 5)));
        assert!(relay.pass(&chunk(6, 4)));
    }

    #[test]
    fn streams_of_a_request_have_credit_of_their_own() {
        let chunk = |stream, bytes: usize| agent::StreamChunk {
            stream,
            data: vec![0; bytes],
            ..Default::default()
        };
        let mut relays = Relays::default();
        let (stdout, stderr) = (Stream::Stdout.into(), Stream::Stderr.into());
        relays.grant(&agent::Credit {
            stream: stdout,
            bytes: 10,
        });
        assert!(!relays.pass(&chunk(stderr, 1)));
        assert!(relays.pass(&chunk(stdout, 10)));
        for unknown in [-1, 5, i32::MAX] {
            relays.grant(&agent::Credit {
                stream: unknown,
                bytes: 10,
            });
            assert!(!relays.pass(&chunk(unknown, 1)));
        }
    }
}
