//! The daemon: one loop over all VMs and all clients.
//!
//! Whatever changes a VM ends in [`Daemon::settle`], whatever goes to a client passes
//! [`Daemon::send`]. Requests are routed by [`broker`]; sockets are found by [`discover`].

mod broker;
mod client;
mod deadlines;
mod discover;
mod vm;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::{UnixListener, UnixStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use quantix::error::{Code, Failure};
use quantix::host::{Event, Phase};
use quantix::limits::MAX_REQUESTS;
use quantix::message::node::{self, NodeMessage, node_message};
use quantix::message::{AgentMessage, Body, agent, encode, message};
use quantix::rt::log::Log;
use quantix::rt::signal::{Signal, Signals};
use quantix::rt::sys::inotify::Watch;
use quantix::rt::{clock, random};
use quantix::time::{Time, earliest};

use broker::{Broker, Call, CallKey, ClientKey, Kind, LATE, Relay, VmKey};
use client::Client;
use deadlines::Deadlines;
use vm::Vm;

pub use discover::{SUFFIX, vm_of};

const LISTENER: Token = Token(0);
const WATCH: Token = Token(1);
const TERMINATE: Token = Token(2);
const RELOAD: Token = Token(3);

/// Keys begin here and are never reused, so that a late event cannot hit another's object. Even
/// ones are VMs, odd ones clients.
const FIRST_KEY: u64 = 16;

/// Clients at once; one more is disconnected.
const MAX_CLIENTS: usize = 1024;

/// Requests of one client at once; one more is answered `BUSY`.
const MAX_CLIENT_REQUESTS: usize = 1024;

/// Where the directory of sockets cannot be watched it is looked at this often.
const RESCAN: Duration = Duration::from_secs(2);

/// Where VMs come from.
#[derive(Debug)]
pub enum Source {
    /// All sockets in a directory.
    Directory(PathBuf),
    /// One socket, without a daemon for all.
    Socket(PathBuf),
}

/// The daemon.
pub struct Daemon {
    poll: Poll,
    log: Log,
    source: Source,
    listener: Option<UnixListener>,
    signals: [Signals; 2],
    watch: Option<Watch>,
    rescan_at: Option<Time>,
    faults: Vec<String>,
    next_key: u64,
    vms: BTreeMap<VmKey, Vm>,
    names: BTreeMap<String, VmKey>,
    clients: BTreeMap<ClientKey, Client>,
    broker: Broker,
    deadlines: Deadlines<VmKey>,
    /// What may have more to read without another event.
    ready_vms: BTreeSet<VmKey>,
    ready_clients: BTreeSet<ClientKey>,
    /// Clients that something waits for.
    to_write: BTreeSet<ClientKey>,
    buffer: Vec<u8>,
    /// A private daemon ends with its client.
    private: bool,
}

impl Daemon {
    /// A daemon for `source`. Clients come through `listener`.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new(source: Source, listener: Option<UnixListener>, log: Log) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut signals = [
            Signals::new(Signal::Terminate)?,
            Signals::new(Signal::Reload)?,
        ];
        let registry = poll.registry();
        for (signal, token) in signals.iter_mut().zip([TERMINATE, RELOAD]) {
            registry.register(&mut signal.stream, token, Interest::READABLE)?;
        }
        let mut listener = listener;
        if let Some(listener) = &mut listener {
            registry.register(listener, LISTENER, Interest::READABLE)?;
        }
        Ok(Self {
            poll,
            log,
            source,
            private: listener.is_none(),
            listener,
            signals,
            watch: None,
            rescan_at: Some(Time::from_micros(0)),
            faults: Vec::new(),
            next_key: FIRST_KEY,
            vms: BTreeMap::new(),
            names: BTreeMap::new(),
            clients: BTreeMap::new(),
            broker: Broker::new(random::number()),
            deadlines: Deadlines::new(),
            ready_vms: BTreeSet::new(),
            ready_clients: BTreeSet::new(),
            to_write: BTreeSet::new(),
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Adds a client that is already connected.
    ///
    /// # Errors
    /// epoll_ctl(2) refuses it.
    pub fn add_client(&mut self, mut stream: UnixStream) -> io::Result<()> {
        let key = ClientKey(self.make_key() + 1);
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, token(key.0), both)?;
        self.clients.insert(key, Client::new(stream));
        self.ready_clients.insert(key);
        Ok(())
    }

    /// Serves until SIGTERM, or until the only client has left.
    ///
    /// # Errors
    /// epoll_wait(2) fails, which it does not.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            match self.poll.poll(&mut events, self.timeout()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(()) => {}
            }
            let now = clock::now();
            for event in &events {
                let read = event.is_readable() || event.is_read_closed() || event.is_error();
                let write = event.is_writable() || event.is_write_closed();
                match event.token() {
                    LISTENER => self.accept(),
                    WATCH => {
                        if let Some(watch) = &mut self.watch {
                            watch.drain();
                        }
                        self.rescan_at = Some(now);
                    }
                    TERMINATE | RELOAD => {
                        let at = event.token().0 - TERMINATE.0;
                        match self.signals[at].take() {
                            Some(Signal::Terminate) => {
                                self.log.info(format_args!("stopping"));
                                return Ok(());
                            }
                            Some(_) => self.rescan_at = Some(now),
                            None => {}
                        }
                    }
                    Token(key) if key % 2 == 0 => self.on_vm_ready(VmKey(key as u64), read, write),
                    Token(key) => self.on_client_ready(ClientKey(key as u64), read, write),
                }
            }
            self.turn(now);
            if self.private && self.clients.is_empty() {
                return Ok(());
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.ready_vms.is_empty() || !self.ready_clients.is_empty() {
            return Some(Duration::ZERO);
        }
        let at = earliest(self.deadlines.next(), self.broker.poll_timeout());
        let at = earliest(at, self.rescan_at)?;
        // Rounded up: a deadline that has not come yet would be looked at again and again.
        Some(at.since(clock::now()) + Duration::from_micros(999))
    }

    fn turn(&mut self, now: Time) {
        if self.rescan_at.is_some_and(|at| at <= now) {
            self.rescan(now);
        }
        for key in std::mem::take(&mut self.ready_vms) {
            if let Some(vm) = self.vms.get_mut(&key) {
                vm.read(now, &mut self.buffer);
                self.settle(now, key);
            }
        }
        for key in std::mem::take(&mut self.ready_clients) {
            self.read_client(now, key);
        }
        while let Some(key) = self.deadlines.take_due(now) {
            if let Some(vm) = self.vms.get_mut(&key) {
                vm.on_timeout(now);
                self.settle(now, key);
            }
        }
        while let Some(key) = self.broker.poll_look(now) {
            self.look_at_call(now, key);
        }
        for key in std::mem::take(&mut self.to_write) {
            if let Some(client) = self.clients.get_mut(&key)
                && let Err(why) = client.write()
            {
                self.drop_client(now, key, &why);
            }
        }
    }

    const fn make_key(&mut self) -> u64 {
        let key = self.next_key;
        self.next_key += 2;
        key
    }
}

/// VMs: found, read, settled.
impl Daemon {
    fn rescan(&mut self, now: Time) {
        self.rescan_at = None;
        let found = match &self.source {
            Source::Socket(path) => discover::socket(path).map(|socket| {
                let name = direct_name(path);
                (socket.map(|s| (name, s)).into_iter().collect(), Vec::new())
            }),
            Source::Directory(directory) => {
                if self.watch.is_none() {
                    self.watch = watch(directory, self.poll.registry());
                }
                discover::scan(directory)
            }
        };
        let (mut found, faults) = match found {
            Ok(found) => found,
            Err(e) => {
                // A directory that comes back is another one, and has to be watched anew.
                self.watch = None;
                let path = match &self.source {
                    Source::Directory(path) | Source::Socket(path) => path,
                };
                let why = Failure::system("look at", &path.to_string_lossy(), &e).message;
                (BTreeMap::new(), vec![why])
            }
        };
        if self.watch.is_none() {
            self.rescan_at = Some(now + RESCAN);
        }
        for fault in faults.iter().filter(|fault| !self.faults.contains(fault)) {
            self.log.warning(format_args!("{fault}"));
        }
        self.faults = faults;

        for (name, key) in self.names.clone() {
            let Some(vm) = self.vms.get_mut(&key) else {
                continue;
            };
            match found.remove(&name) {
                Some(socket) if socket == vm.socket => continue,
                Some(socket) => vm.on_new_socket(socket, now),
                None => vm.on_socket_gone(),
            }
            self.settle(now, key);
            if self.vms.get(&key).is_some_and(Vm::is_absent) {
                self.log.info(format_args!("{name}: socket gone"));
                self.fail_calls_of(key);
                self.vms.remove(&key);
                self.names.remove(&name);
                self.deadlines.set(key, None);
            }
        }
        for (name, socket) in found {
            let key = VmKey(self.make_key());
            self.log
                .info(format_args!("{name}: found {}", socket.path.display()));
            let vm = Vm::new(name.clone(), socket, token(key.0), now);
            self.names.insert(name, key);
            self.vms.insert(key, vm);
            self.deadlines.set(key, Some(now));
        }
    }

    fn on_vm_ready(&mut self, key: VmKey, read: bool, write: bool) {
        if let Some(vm) = self.vms.get_mut(&key) {
            vm.on_ready(read, write);
            self.ready_vms.insert(key);
        }
    }

    /// The one door: after every change of a VM this brings its connection, its deadline, its
    /// requests and its log line into line with it.
    fn settle(&mut self, now: Time, key: VmKey) {
        loop {
            let Some(vm) = self.vms.get_mut(&key) else {
                return;
            };
            let events = vm.settle(now, self.poll.registry());
            if events.is_empty() {
                break;
            }
            for event in events {
                self.on_vm_event(now, key, event);
            }
        }
        let Some(vm) = self.vms.get_mut(&key) else {
            return;
        };
        if let Some((before, phase)) = vm.poll_phase(now) {
            let (name, reason) = (&vm.name, vm.reason());
            let colon = if reason.is_empty() { "" } else { ": " };
            let line = format_args!(
                "{name}: {} (was {}){colon}{reason}",
                word(phase),
                word(before)
            );
            match phase {
                Phase::Stalled => self.log.warning(line),
                _ => self.log.info(line),
            }
        }
        if let Some(line) = vm.drops.news(now, vm.host.counters()) {
            self.log.warning(format_args!("{}: {line}", vm.name));
        }
        self.deadlines.set(key, vm.host.poll_timeout());
        if vm.is_readable() {
            self.ready_vms.insert(key);
        }
    }

    fn on_vm_event(&mut self, now: Time, key: VmKey, event: Event) {
        match event {
            Event::Opened(_) => {
                if let Some(vm) = self.vms.get(&key).filter(|vm| vm.rebooted) {
                    let name = &vm.name;
                    self.log
                        .info(format_args!("{name}: the guest has booted anew"));
                }
                for call in self.calls_of(key) {
                    self.ask_pending(now, call);
                }
            }
            Event::Lost { reason, kept } => {
                if let Some(vm) = self.vms.get(&key) {
                    self.log
                        .info(format_args!("{}: session lost: {reason}", vm.name));
                }
                for call in self.calls_of(key) {
                    self.on_session_lost(call, &reason, &kept);
                }
            }
            Event::Pong {
                sequence,
                round_trip,
                pong,
            } => {
                let asked = |call: &Call| {
                    call.vm == key && matches!(call.kind, Kind::Ping(Some(s)) if s == sequence)
                };
                for call in self.broker.select(asked) {
                    let result = node::PingResult {
                        rtt_us: u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX),
                        version: pong.version.clone(),
                        uptime_seconds: pong.uptime_seconds,
                        sequence,
                    };
                    self.finish(call, node_message::Body::PingResult(result));
                }
            }
            Event::Message(message) => self.on_agent_message(now, key, message),
            // The VM has dealt with its connection itself.
            Event::Connect | Event::Close(_) => {}
        }
    }

    fn on_agent_message(&mut self, now: Time, key: VmKey, message: AgentMessage) {
        match &message.body {
            Some(Body::Telemetry(_)) => {
                let asked =
                    |call: &Call| call.vm == key && matches!(call.kind, Kind::Telemetry { .. });
                for call in self.broker.select(asked) {
                    self.report(now, call);
                }
                return;
            }
            Some(Body::AgentReady(_)) | None => return,
            _ => {}
        }
        // A late answer to a request that was given up finds nobody.
        let Some(call) = self.broker.by_message(key, &message.message_id) else {
            return;
        };
        let Some(Call {
            kind: Kind::Agent {
                upload, download, ..
            },
            ..
        }) = self.broker.get(call)
        else {
            return;
        };
        match &message.body {
            Some(Body::StreamChunk(chunk)) if !download.pass(chunk) => {
                self.cancel_in_guest(call);
                let why = "the guest sent bytes out of order, or more than it was allowed";
                self.fail(call, &Failure::new(Code::Internal, why));
            }
            Some(Body::StreamChunk(_)) => self.pass_on(call, message),
            Some(Body::Credit(credit)) => {
                upload.grant(credit.bytes);
                self.pass_on(call, message);
            }
            _ => self.finish(call, node_message::Body::Agent(message)),
        }
    }
}

/// Requests.
impl Daemon {
    fn on_request(&mut self, now: Time, client: ClientKey, request: NodeMessage) {
        let Some(body) = &request.body else {
            return self.refuse(client, &request, &unknown_request());
        };
        if let node_message::Body::Agent(message) = body
            && let Some(call) = self.broker.by_client(client, request.id)
        {
            return self.on_follow_up(now, client, call, message);
        }
        if request.id == 0 || self.broker.by_client(client, request.id).is_some() {
            let why = "a request needs a number of its own, greater than 0";
            return self.refuse(client, &request, &Failure::new(Code::Invalid, why));
        }
        if let node_message::Body::ListVms(_) = body {
            let vms = self.names.values().filter_map(|key| self.vms.get(key));
            let vms = vms.map(|vm| vm.describe(now)).collect();
            let list = node_message::Body::VmList(node::VmList { vms });
            return self.send(client, request.id, &request.vm, list);
        }
        let Some(key) = self.find(&request.vm) else {
            return self.refuse(client, &request, &self.no_such_vm(&request.vm));
        };
        if self.broker.count(|call| call.client == client) >= MAX_CLIENT_REQUESTS {
            let why = format!("{MAX_CLIENT_REQUESTS} requests of this client are under way");
            return self.refuse(client, &request, &Failure::new(Code::Busy, why));
        }
        match body {
            node_message::Body::PingVm(_) => {
                let ping = Kind::Ping(None);
                let call = self.broker.begin(now, client, &request, key, ping, None);
                self.ask_pending(now, call);
                self.settle(now, key);
            }
            node_message::Body::GetTelemetry(wanted) => {
                let follow = wanted.follow;
                let kind = Kind::Telemetry { follow };
                let call = self.broker.begin(now, client, &request, key, kind, None);
                if self.vms.get(&key).is_some_and(|vm| vm.telemetry.is_some()) {
                    self.report(now, call);
                }
            }
            node_message::Body::Agent(message) => {
                self.on_agent_request(now, client, key, &request, message);
            }
            _ => self.refuse(client, &request, &unknown_request()),
        }
    }

    fn on_agent_request(
        &mut self,
        now: Time,
        client: ClientKey,
        key: VmKey,
        request: &NodeMessage,
        asked: &AgentMessage,
    ) {
        let limit = match &asked.body {
            Some(Body::Execute(execute)) if execute.timeout_seconds > 0 => {
                Some(Duration::from_secs(execute.timeout_seconds.into()) + LATE)
            }
            Some(Body::Execute(_) | Body::ReadFile(_) | Body::WriteFile(_)) => None,
            // What belongs to a request that has just ended comes too late, and is no fault.
            Some(Body::StreamChunk(_) | Body::Credit(_) | Body::Cancel(_)) => return,
            _ => return self.refuse(client, request, &unknown_request()),
        };
        let in_flight = self
            .broker
            .count(|call| call.vm == key && matches!(call.kind, Kind::Agent { .. }));
        if in_flight >= MAX_REQUESTS {
            let why = format!("{MAX_REQUESTS} requests to this VM are under way; try again later");
            return self.refuse(client, request, &Failure::new(Code::Busy, why));
        }
        let id = self.broker.make_id();
        let mut asked = asked.clone();
        asked.message_id = id.as_str().to_owned();
        let body = match encode(&asked) {
            Ok(body) => body,
            Err(size) => {
                let why = format!("the request has {size} bytes, more than a frame holds");
                return self.refuse(client, request, &Failure::new(Code::TooLarge, why));
            }
        };
        let kind = Kind::Agent {
            id: id.clone(),
            upload: Relay::default(),
            download: Relay::default(),
        };
        let call = self.broker.begin(now, client, request, key, kind, limit);
        if let Some(vm) = self.vms.get_mut(&key)
            && vm.host.request(now, &id, body).is_err()
        {
            let why = "too much is queued for this VM; try again later";
            self.fail(call, &Failure::new(Code::Busy, why));
        }
        self.settle(now, key);
    }

    /// A chunk, credit or cancel for a request that is under way.
    fn on_follow_up(&mut self, now: Time, client: ClientKey, key: CallKey, message: &AgentMessage) {
        let Some(call) = self.broker.get(key) else {
            return;
        };
        let vm_key = call.vm;
        let Kind::Agent {
            id,
            upload,
            download,
        } = &mut call.kind
        else {
            // A Ping or a watch is simply forgotten.
            if let Some(Body::Cancel(_)) = message.body {
                self.fail(key, &Failure::new(Code::Cancelled, "cancelled"));
            }
            return;
        };
        let Some(vm) = self.vms.get_mut(&vm_key) else {
            return;
        };
        let told = match &message.body {
            Some(Body::StreamChunk(chunk)) if upload.pass(chunk) => {
                vm.host.send_chunk(id, chunk.clone());
                Ok(())
            }
            Some(Body::Credit(credit)) => {
                download.grant(credit.bytes);
                vm.host.tell(id, Body::Credit(*credit))
            }
            Some(Body::Cancel(_)) => {
                if vm.host.withdraw(id) {
                    return self.fail(key, &Failure::new(Code::Cancelled, "cancelled"));
                }
                vm.host.drop_stream(id);
                vm.host.tell(id, Body::Cancel(agent::Cancel {}))
            }
            _ => {
                let why = "sent bytes out of order, or more than it was allowed";
                return self.drop_client(now, client, why);
            }
        };
        if told.is_err() {
            let why = "too much is queued for this VM";
            self.fail(key, &Failure::new(Code::Busy, why));
        }
        self.settle(now, vm_key);
    }

    /// Sends what had to wait for a session.
    fn ask_pending(&mut self, now: Time, key: CallKey) {
        if let Some(call) = self.broker.get(key)
            && let Kind::Ping(sequence @ None) = &mut call.kind
            && let Some(vm) = self.vms.get_mut(&call.vm)
        {
            *sequence = vm.host.ping(now);
        }
    }

    fn on_session_lost(&mut self, key: CallKey, reason: &str, kept: &[quantix::ids::MessageId]) {
        let Some(call) = self.broker.get(key) else {
            return;
        };
        match &mut call.kind {
            // Harmless to ask again.
            Kind::Ping(sequence) => *sequence = None,
            Kind::Telemetry { .. } => {}
            Kind::Agent { id, .. } if kept.contains(id) => {}
            Kind::Agent { .. } => {
                let why = format!(
                    "the channel was lost before the answer ({reason}); \
                     whether the guest acted on the request is unknown"
                );
                self.fail(key, &Failure::new(Code::Disconnected, why));
            }
        }
    }

    /// A request has waited for long: it fails, or is looked at again later.
    fn look_at_call(&mut self, now: Time, key: CallKey) {
        let Some(vm) = self.broker.get(key).map(|call| call.vm) else {
            return;
        };
        let vm = self.vms.get(&vm);
        let open = vm.is_some_and(|vm| vm.host.is_open());
        let heard = vm
            .filter(|vm| vm.host.is_open())
            .and_then(|vm| vm.host.last_valid());
        if !self.broker.has_had_its_time(now, key, heard) {
            return;
        }
        let why = vm.map(Vm::reason).unwrap_or_default();
        let what = match (open, vm) {
            (true, _) if why.is_empty() => "the guest has not answered in time".to_owned(),
            (true, _) => format!("the guest has not answered in time: {why}"),
            (false, Some(vm)) => format!("{} is {}: {why}", vm.name, vm.word()),
            (false, None) => "the VM is gone".to_owned(),
        };
        self.cancel_in_guest(key);
        self.fail(key, &Failure::new(Code::TimedOut, what));
    }

    /// The VM is gone, and so is what was asked of it.
    fn fail_calls_of(&mut self, key: VmKey) {
        for call in self.calls_of(key) {
            let why = "the VM's socket is gone: the VM was stopped";
            self.fail(call, &Failure::new(Code::Disconnected, why));
        }
    }

    /// Takes a request back from the guest, whatever became of it there.
    fn cancel_in_guest(&mut self, key: CallKey) {
        if let Some(Call {
            vm,
            kind: Kind::Agent { id, .. },
            ..
        }) = self.broker.get(key)
            && let Some(vm) = self.vms.get_mut(vm)
            && !vm.host.withdraw(id)
        {
            vm.host.drop_stream(id);
            // Where not even this fits, the session is about to end.
            let _ = vm.host.tell(id, Body::Cancel(agent::Cancel {}));
        }
    }

    fn report(&mut self, now: Time, key: CallKey) {
        let Some(call) = self.broker.get(key) else {
            return;
        };
        let follow = matches!(call.kind, Kind::Telemetry { follow: true });
        let (client, request, vm) = (call.client, call.request, call.vm);
        let Some(vm) = self.vms.get(&vm) else {
            return;
        };
        let Some((telemetry, at)) = &vm.telemetry else {
            return;
        };
        let report = node_message::Body::TelemetryReport(node::TelemetryReport {
            telemetry: Some(telemetry.clone()),
            age_ms: u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX),
        });
        if follow {
            let name = vm.name.clone();
            self.send(client, request, &name, report);
        } else {
            self.finish(key, report);
        }
    }

    fn calls_of(&self, key: VmKey) -> Vec<CallKey> {
        self.broker.select(|call| call.vm == key)
    }

    /// The VM with this name; a private daemon has only one, whatever it is called.
    fn find(&self, name: &str) -> Option<VmKey> {
        let named = self.names.get(name);
        let only = || self.names.values().next().filter(|_| self.private);
        named.or_else(only).copied()
    }

    fn no_such_vm(&self, name: &str) -> Failure {
        let some: Vec<&str> = self.names.keys().take(5).map(String::as_str).collect();
        let there = match (some.len(), self.names.len()) {
            (0, _) => "there is none yet".to_owned(),
            (shown, all) if shown == all => format!("there are: {}", some.join(", ")),
            (_, all) => format!("there are {all}, among them {}", some.join(", ")),
        };
        let why = format!("no VM is named {name:?}; {there}; `qx-node vms` lists them");
        Failure::new(Code::NotFound, why)
    }
}

/// Clients and answers.
impl Daemon {
    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                // Dropping it here disconnects it.
                Ok(_) if self.clients.len() >= MAX_CLIENTS => {
                    self.log
                        .warning(format_args!("{MAX_CLIENTS} clients are connected"));
                }
                Ok((stream, _)) => {
                    if let Err(e) = self.add_client(stream) {
                        self.log.warning(format_args!("client not taken: {e}"));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    self.log.warning(format_args!("accept: {e}"));
                    return;
                }
            }
        }
    }

    fn on_client_ready(&mut self, key: ClientKey, read: bool, write: bool) {
        if let Some(client) = self.clients.get_mut(&key) {
            client.on_ready(read, write);
            if read {
                self.ready_clients.insert(key);
            }
            if write {
                self.to_write.insert(key);
            }
        }
    }

    fn read_client(&mut self, now: Time, key: ClientKey) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        match client.read() {
            Ok(messages) => {
                if client.is_readable() {
                    self.ready_clients.insert(key);
                }
                for message in messages {
                    self.on_request(now, key, message);
                }
            }
            Err(why) => self.drop_client(now, key, &why),
        }
    }

    /// A client has left: what it asked for is taken back.
    fn drop_client(&mut self, now: Time, key: ClientKey, why: &str) {
        self.clients.remove(&key);
        self.ready_clients.remove(&key);
        self.to_write.remove(&key);
        if why != "left" {
            self.log.warning(format_args!("client disconnected: {why}"));
        }
        for call in self.broker.select(|call| call.client == key) {
            self.cancel_in_guest(call);
            if let Some(call) = self.broker.end(call) {
                self.settle(now, call.vm);
            }
        }
    }

    fn refuse(&mut self, client: ClientKey, request: &NodeMessage, failure: &Failure) {
        let error = message("", Body::Error(failure.to_wire()));
        let body = node_message::Body::Agent(error);
        self.send(client, request.id, &request.vm, body);
    }

    fn fail(&mut self, key: CallKey, failure: &Failure) {
        let error = message("", Body::Error(failure.to_wire()));
        self.finish(key, node_message::Body::Agent(error));
    }

    /// The request's only final answer.
    fn finish(&mut self, key: CallKey, body: node_message::Body) {
        if let Some(call) = self.broker.end(key) {
            let name = self.vms.get(&call.vm).map(|vm| vm.name.clone());
            self.send(call.client, call.request, &name.unwrap_or_default(), body);
        }
    }

    fn pass_on(&mut self, key: CallKey, message: AgentMessage) {
        if let Some(call) = self.broker.get(key) {
            let (client, request) = (call.client, call.request);
            self.send(client, request, "", node_message::Body::Agent(message));
        }
    }

    fn send(&mut self, key: ClientKey, id: u64, vm: &str, body: node_message::Body) {
        if let Some(client) = self.clients.get_mut(&key) {
            client.push(&NodeMessage {
                id,
                vm: vm.to_owned(),
                body: Some(body),
            });
            self.to_write.insert(key);
        }
    }
}

/// What a state is called.
pub const fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Absent => "absent",
        Phase::Connecting => "connecting",
        Phase::Waiting => "waiting for agent",
        Phase::Ready => "ready",
        Phase::Stalled => "stalled",
    }
}

/// The name of the VM behind a socket that was given by its path.
pub fn direct_name(path: &Path) -> String {
    let file = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    vm_of(&file).unwrap_or(&file).to_owned()
}

fn watch(directory: &Path, registry: &mio::Registry) -> Option<Watch> {
    use std::os::fd::AsRawFd;
    let watch = Watch::new(directory).ok()?;
    let fd = watch.as_raw_fd();
    registry
        .register(&mut SourceFd(&fd), WATCH, Interest::READABLE)
        .ok()?;
    Some(watch)
}

fn token(key: u64) -> Token {
    Token(usize::try_from(key).unwrap_or(usize::MAX))
}

fn unknown_request() -> Failure {
    let version = quantix::VERSION;
    let why = format!("qx-node {version} does not know this request");
    Failure::new(Code::Unsupported, why)
}
