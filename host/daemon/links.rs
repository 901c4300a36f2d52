//! The daemon's side towards the VMs: found, read, settled.

use std::collections::BTreeMap;
use std::path::Path;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use quantix::error::{Code, Failure};
use quantix::host::{Event, Phase};
use quantix::message::node::{self, node_message};
use quantix::message::{AgentMessage, Body};
use quantix::rt::sys::inotify::Watch;
use quantix::time::Time;

use super::broker::{Call, Kind, VmKey};
use super::vm::Vm;
use super::{Daemon, RESCAN, Source, WATCH, direct_name, discover, token, word};

impl Daemon {
    pub(super) fn rescan(&mut self, now: Time) {
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

    pub(super) fn on_vm_ready(&mut self, key: VmKey, read: bool, write: bool) {
        if let Some(vm) = self.vms.get_mut(&key) {
            vm.on_ready(read, write);
            self.ready_vms.insert(key);
        }
    }

    /// The one door: after every change of a VM this brings its connection, its deadline, its
    /// requests and its log line into line with it.
    pub(super) fn settle(&mut self, now: Time, key: VmKey) {
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

    pub(super) fn on_vm_event(&mut self, now: Time, key: VmKey, event: Event) {
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
                // Answers come in order, so a later one answers all before it.
                let asked = |call: &Call| {
                    call.vm == key && matches!(call.kind, Kind::Ping(Some(s)) if s <= sequence)
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

    pub(super) fn on_agent_message(&mut self, now: Time, key: VmKey, message: AgentMessage) {
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

fn watch(directory: &Path, registry: &Registry) -> Option<Watch> {
    use std::os::fd::AsRawFd;
    let watch = Watch::new(directory).ok()?;
    let fd = watch.as_raw_fd();
    registry
        .register(&mut SourceFd(&fd), WATCH, Interest::READABLE)
        .ok()?;
    Some(watch)
}
