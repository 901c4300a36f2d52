//! What clients ask: refused, answered, or on its way to a guest and back.

use std::time::Duration;

use prost::Message;
use quantix::action::Action;
use quantix::chunk::Packed;
use quantix::error::{Code, Failure};
use quantix::ids::MessageId;
use quantix::limits::{FREEZE_SECONDS, MAX_REQUESTS};
use quantix::message::node::{self, NodeMessage, node_message};
use quantix::message::{AgentMessage, Body, agent, encode};
use quantix::time::Time;

use super::broker::{Call, CallKey, ClientKey, Kind, LATE, PATIENCE, Relays, VmKey};
use super::journal::Follower;
use super::lists::LIST_PART;
use super::vm::Vm;
use super::{Daemon, MAX_CLIENT_REQUESTS, actions, callers, history};

impl Daemon {
    pub(super) fn on_request(&mut self, now: Time, client: ClientKey, request: NodeMessage) {
        let Some(body) = &request.body else {
            return self.refuse(client, &request, &unknown_request());
        };
        if let node_message::Body::Agent(message) = body
            && let Some(call) = self.broker.by_client(client, request.id)
        {
            return self.on_follow_up(now, client, call, message);
        }
        let follower = Follower {
            client,
            request: request.id,
        };
        match body {
            node_message::Body::Agent(message) if self.journal.is_followed(follower) => {
                if let Some(Body::Cancel(_)) = message.body {
                    self.journal.unfollow(follower);
                    self.refuse(client, &request, &cancelled());
                }
                return;
            }
            // What belongs to a request that has just ended comes too late, and is no fault.
            node_message::Body::Agent(message) if is_part(message) => return,
            _ => {}
        }
        let known = self.broker.by_client(client, request.id).is_some();
        if request.id == 0 || known || self.journal.is_followed(follower) {
            let why = "a request needs a number of its own, greater than 0";
            return self.refuse(client, &request, &Failure::new(Code::Invalid, why));
        }
        if let node_message::Body::ListVms(_) = body {
            return self.list_vms(client, &request);
        }
        let action = actions::action(body);
        // Events of all are those of VMs that the client may see.
        if !(matches!(body, node_message::Body::GetEvents(_)) && request.vm.is_empty())
            && let Err(failure) = self.allow(client, &request.vm, &action)
        {
            return self.refuse(client, &request, &failure);
        }
        if let node_message::Body::GetEvents(wanted) = body {
            return self.list_events(follower, &request, wanted.follow);
        }
        let Some(key) = self.find(&request.vm) else {
            return self.refuse(client, &request, &self.no_such_vm(client, &request.vm));
        };
        if let node_message::Body::GetHistory(wanted) = body {
            return self.list_history(now, client, &request, key, wanted.seconds);
        }
        if let Some(vm) = self.vms.get(&key).filter(|vm| vm.is_absent()) {
            return self.refuse(client, &request, &is_absent(vm));
        }
        if self.broker.of_client(client).count() >= MAX_CLIENT_REQUESTS {
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
                let limit = (!follow).then_some(PATIENCE);
                let call = self.broker.begin(now, client, &request, key, kind, limit);
                if self.vms.get(&key).is_some_and(|vm| vm.telemetry.is_some()) {
                    self.report(now, call);
                }
            }
            node_message::Body::Agent(message) => {
                self.on_agent_request(now, client, key, &request, message, Some(&action));
            }
            _ => self.refuse(client, &request, &unknown_request()),
        }
    }

    /// In as many messages as it takes.
    fn list_history(
        &mut self,
        now: Time,
        client: ClientKey,
        request: &NodeMessage,
        key: VmKey,
        seconds: u32,
    ) {
        let since = match seconds {
            0 => history::SPAN,
            seconds => Duration::from_secs(seconds.into()),
        };
        let vm = self.vms.get(&key);
        let found = vm.map(|vm| vm.history.samples(now, since));
        let found = found.unwrap_or_default();
        let mut parts = found.chunks(SAMPLES_PART).peekable();
        loop {
            let samples = parts.next().unwrap_or_default().to_vec();
            let more = parts.peek().is_some();
            let part = node_message::Body::History(node::History { samples, more });
            self.send(client, request.id, &request.vm, part);
            if !more {
                return;
            }
        }
    }

    /// What is kept, in as many messages as it takes, and with `follow` what happens from now on.
    fn list_events(&mut self, follower: Follower, request: &NodeMessage, follow: bool) {
        let vm = Some(&request.vm).filter(|vm| !vm.is_empty());
        let mut lists = Vec::new();
        let mut events = Vec::new();
        let mut bytes = 0;
        for event in self.journal.kept(vm.map(String::as_str)) {
            if !self.may_see(follower.client, &event.vm) {
                continue;
            }
            bytes += event.encoded_len();
            events.push(event.clone());
            if bytes >= LIST_PART {
                bytes = 0;
                lists.push(std::mem::take(&mut events));
            }
        }
        if lists.is_empty()
            && events.is_empty()
            && let Some(name) = vm
            && self.find(name).is_none()
        {
            return self.refuse(
                follower.client,
                request,
                &self.no_such_vm(follower.client, name),
            );
        }
        if follow && !self.journal.follow(follower, vm.cloned()) {
            let why = "this client follows too much already";
            return self.refuse(follower.client, request, &Failure::new(Code::Busy, why));
        }
        lists.push(events);
        let last = lists.len() - 1;
        for (at, events) in lists.into_iter().enumerate() {
            let more = follow || at < last;
            let list = node::EventList { events, more };
            let body = node_message::Body::EventList(list);
            self.send(follower.client, follower.request, &request.vm, body);
        }
    }

    /// `action`: of a client's, for the audit.
    pub(super) fn on_agent_request(
        &mut self,
        now: Time,
        client: ClientKey,
        key: VmKey,
        request: &NodeMessage,
        asked: &AgentMessage,
        action: Option<&Action>,
    ) {
        let limit = match &asked.body {
            Some(Body::Execute(execute)) if execute.timeout_seconds > 0 => {
                Some(Duration::from_secs(execute.timeout_seconds.into()) + LATE)
            }
            Some(
                Body::Execute(_)
                | Body::AttachJob(_)
                | Body::ReadFile(_)
                | Body::WriteFile(_)
                | Body::ReadTree(_)
                | Body::WriteTree(_)
                | Body::Trim(_)
                | Body::SetOnline(_)
                | Body::Grow(_),
            ) => None,
            Some(Body::ServiceControl(control)) => {
                let asked = match control.timeout_seconds {
                    0 => SERVICE,
                    seconds => Duration::from_secs(seconds.into()),
                };
                // It looks at the service before and behind that.
                Some(asked + QUESTION + LATE)
            }
            Some(
                Body::ListJobs(_)
                | Body::KillJob(_)
                | Body::SyncTime(_)
                | Body::Shutdown(_)
                | Body::GetFreezeStatus(_)
                | Body::SetPassword(_)
                | Body::ListUsers(_)
                | Body::AuthorizedKeys(_)
                | Body::GetNetwork(_)
                | Body::SetName(_)
                | Body::ListProcesses(_)
                | Body::KillProcess(_)
                | Body::GetStorage(_)
                | Body::GetHardware(_)
                | Body::ListPackages(_),
            ) => Some(QUESTION),
            // Two questions to the guest's systemd, one of which takes long in a slow guest.
            Some(Body::ListServices(_)) => Some(QUESTION + LATE),
            Some(Body::Freeze(freeze)) => {
                let seconds = match freeze.timeout_seconds {
                    0 => FREEZE_SECONDS,
                    seconds => seconds,
                };
                // Hooks that were called are called again where it fails.
                Some(Duration::from_secs(seconds.into()) + THAW)
            }
            Some(Body::Thaw(_)) => Some(THAW),
            Some(Body::Restored(_)) => Some(RESTORED),
            Some(Body::ConfigureNetwork(_)) => Some(CONFIGURED),
            _ => return self.refuse(client, request, &unknown_request()),
        };
        let is_agents = |kind: &Kind| matches!(kind, Kind::Agent { .. });
        if self.broker.select(key, is_agents).len() >= MAX_REQUESTS {
            let why = format!("{MAX_REQUESTS} requests to this VM are under way; try again later");
            return self.refuse(client, request, &Failure::new(Code::Busy, why));
        }
        let id = self.broker.make_id();
        let mut asked = asked.clone();
        asked.message_id = id.as_str().to_owned();
        // Whatever the client says of itself.
        asked.caller = Some(match self.clients.get(&client) {
            Some(client) => client.caller.to_wire(),
            None => callers::daemon().to_wire(),
        });
        let body = match encode(&asked) {
            Ok(body) => body,
            Err(size) => {
                let why = format!("the request has {size} bytes, more than a frame holds");
                return self.refuse(client, request, &Failure::new(Code::TooLarge, why));
            }
        };
        let kind = Kind::Agent {
            id: id.clone(),
            upload: Relays::default(),
            download: Relays::default(),
        };
        let call = self.broker.begin(now, client, request, key, kind, limit);
        if let Some(action) = action.filter(|action| action.counts)
            && let Some(client) = self.clients.get(&client)
            && let Some(call) = self.broker.get(call)
        {
            let begun = self
                .audit
                .begun(&client.caller, &request.vm, action, id.as_str());
            call.audited = Some(begun);
        }
        if let Some(vm) = self.vms.get_mut(&key)
            && vm.host.request(now, &id, body).is_err()
        {
            let why = "too much is queued for this VM; try again later";
            self.fail(call, &Failure::new(Code::Busy, why));
        }
        self.settle(now, key);
    }

    /// A chunk, credit or cancel for a request that is under way.
    pub(super) fn on_follow_up(
        &mut self,
        now: Time,
        client: ClientKey,
        key: CallKey,
        message: &AgentMessage,
    ) {
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
                self.fail(key, &cancelled());
            }
            return;
        };
        let Some(vm) = self.vms.get_mut(&vm_key) else {
            return;
        };
        let told = match &message.body {
            Some(Body::StreamChunk(chunk)) if upload.pass(chunk) => {
                match Packed::of(id, chunk) {
                    Some(chunk) => vm.host.send_chunk(id, chunk),
                    None => return self.drop_client(now, client, "sent a chunk that is too long"),
                }
                Ok(())
            }
            Some(Body::Credit(credit)) => {
                download.grant(credit);
                vm.host.tell(id, Body::Credit(*credit))
            }
            Some(told @ (Body::Signal(_) | Body::Resize(_))) => vm.host.tell(id, told.clone()),
            Some(Body::Cancel(_)) => {
                if vm.host.withdraw(id) {
                    return self.fail(key, &cancelled());
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
    pub(super) fn ask_pending(&mut self, now: Time, key: CallKey) {
        if let Some(call) = self.broker.get(key)
            && let Kind::Ping(sequence @ None) = &mut call.kind
            && let Some(vm) = self.vms.get_mut(&call.vm)
        {
            *sequence = vm.host.ping(now);
        }
    }

    pub(super) fn on_session_lost(&mut self, key: CallKey, reason: &str, kept: &[MessageId]) {
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
    pub(super) fn look_at_call(&mut self, now: Time, key: CallKey) {
        let Some(call) = self.broker.get(key) else {
            return;
        };
        let reports = matches!(call.kind, Kind::Telemetry { .. });
        let vm = self.vms.get(&call.vm);
        let open = vm.is_some_and(|vm| vm.host.is_open());
        let heard = vm
            .filter(|vm| vm.host.is_open())
            .and_then(|vm| vm.host.last_valid());
        if !self.broker.has_had_its_time(now, key, heard) {
            return;
        }
        let why = vm.map(|vm| vm.reason()).unwrap_or_default();
        let name = vm.map(|vm| vm.name.as_str()).unwrap_or_default();
        let what = match vm {
            None => "the VM is gone".to_owned(),
            Some(vm) if !open => format!("{name} is {}: {why}", vm.state()),
            Some(_) if !why.is_empty() => format!("{name} has not answered in time: {why}"),
            Some(_) if reports => format!(
                "{name} sends no telemetry: is telemetry_interval 0 in the guest's agent.conf?"
            ),
            Some(_) => format!("{name} has not answered in time"),
        };
        self.cancel_in_guest(key);
        self.fail(key, &Failure::new(Code::TimedOut, what));
    }

    /// The VM is gone, and so is what was asked of it.
    pub(super) fn fail_calls_of(&mut self, key: VmKey) {
        for call in self.calls_of(key) {
            let why = "the VM's socket is gone: the VM was stopped";
            self.fail(call, &Failure::new(Code::Disconnected, why));
        }
    }

    /// Takes a request back from the guest, whatever became of it there.
    pub(super) fn cancel_in_guest(&mut self, key: CallKey) {
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

    pub(super) fn report(&mut self, now: Time, key: CallKey) {
        let Some(call) = self.broker.get(key) else {
            return;
        };
        let follow = matches!(call.kind, Kind::Telemetry { follow: true });
        let (client, request, vm) = (call.client, call.request, call.vm);
        let Some(vm) = self.vms.get(&vm) else {
            return;
        };
        let Some(last) = &vm.telemetry else {
            return;
        };
        let report = node_message::Body::TelemetryReport(node::TelemetryReport {
            telemetry: Some(last.telemetry()),
            age_ms: u64::try_from(now.since(last.at).as_millis()).unwrap_or(u64::MAX),
        });
        if follow {
            let name = vm.name.clone();
            self.send(client, request, &name, report);
        } else {
            self.finish(key, report);
        }
    }

    pub(super) fn calls_of(&self, key: VmKey) -> Vec<CallKey> {
        self.broker.select(key, |_| true)
    }

    /// The VM with this name; a private daemon has only one, whatever it is called.
    pub(super) fn find(&self, name: &str) -> Option<VmKey> {
        let named = self.names.get(name);
        let only = || self.names.values().next().filter(|_| self.private);
        named.or_else(only).copied()
    }

    fn no_such_vm(&self, client: ClientKey, name: &str) -> Failure {
        let is_there = |key: &VmKey| self.vms.get(key).is_some_and(|vm| !vm.is_absent());
        let there = self.names.iter().filter(|(_, key)| is_there(key));
        let there = there.filter(|(name, _)| self.may_see(client, name));
        let all: Vec<&str> = there.map(|(name, _)| name.as_str()).collect();
        let some = &all[..all.len().min(5)];
        let there = match (some.len(), all.len()) {
            (0, _) => "there is none yet".to_owned(),
            (shown, all) if shown == all => format!("there are: {}", some.join(", ")),
            (_, all) => format!("there are {all}, among them {}", some.join(", ")),
        };
        let why = format!("no VM is named {name:?}; {there}; `qx-node vms` lists them");
        Failure::new(Code::NotFound, why)
    }
}

/// A guest that is alive answers a question about its jobs by then; the end of one takes 5 s at most.
const QUESTION: Duration = Duration::from_secs(20);

/// File systems thaw at once; the hooks behind that have a minute.
const THAW: Duration = Duration::from_secs(80);

/// Host keys have 90 s, hooks a minute, and who has leases some time, too.
const RESTORED: Duration = Duration::from_secs(240);

/// A manager has minutes to bring an interface up, and if it does not as many to bring it back.
const CONFIGURED: Duration = Duration::from_secs(400);

/// What the agent gives a service that is told to do something, unless it is told otherwise.
const SERVICE: Duration = Duration::from_secs(90);

/// Samples in one message: 110 KiB of the 192 that it may have.
const SAMPLES_PART: usize = 1000;

/// It belongs to a request that is under way.
const fn is_part(message: &AgentMessage) -> bool {
    matches!(
        message.body,
        Some(
            Body::StreamChunk(_)
                | Body::Credit(_)
                | Body::Cancel(_)
                | Body::Signal(_)
                | Body::Resize(_)
        )
    )
}

fn is_absent(vm: &Vm) -> Failure {
    let (name, why) = (&vm.name, vm.reason());
    let why = format!("{name} is absent: {why}; start it, or see `qx-node channel {name}`");
    Failure::new(Code::Disconnected, why)
}

fn cancelled() -> Failure {
    Failure::new(Code::Cancelled, "cancelled")
}

fn unknown_request() -> Failure {
    let version = quantix::VERSION;
    let why = format!("qx-node {version} does not know this request");
    Failure::new(Code::Unsupported, why)
}
