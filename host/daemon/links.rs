//! The daemon's side towards the VMs: found, read, settled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use quantix::error::{Code, Failure};
use quantix::host::Event;
use quantix::message::node::{self, node_message};
use quantix::message::{AgentMessage, Body};
use quantix::rt::clock;
use quantix::rt::log::Level;
use quantix::rt::sys::inotify::Watch;
use quantix::time::{Time, earliest};

use super::broker::{Call, Kind, VmKey};
use super::clocks;
use super::descriptors::NO_DESCRIPTOR;
use super::discover::Socket;
use super::state::{Line, State};
use super::vm::Vm;
use super::{
    ABSENT_FOR, Daemon, MAX_ABSENT, MONITOR, MONITOR_SUFFIX, RESCAN, SCAN_PAUSE, SHORT_PAUSE,
    Source, WATCH, direct_name, discover, history, journal, token,
};

impl Daemon {
    /// The directory has changed: looks at the VMs whose files have, or at all if it is not known which.
    pub(super) fn on_directory(&mut self, now: Time) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        let mut names = BTreeSet::new();
        let known = watch.changes(|file| {
            let monitors = || file.strip_suffix(MONITOR_SUFFIX);
            if let Some(name) = discover::vm_of(file).or_else(monitors) {
                names.insert(name.to_owned());
            }
        });
        let Source::Directory(directory) = &self.source else {
            return;
        };
        // While some files are no VM's, a change of one can make another of them one.
        if !known || !self.faults.is_empty() {
            return self.rescan_soon(now);
        }
        let directory = directory.clone();
        for name in names {
            match discover::look(&directory, &name) {
                Ok(socket) => self.on_found(now, &name, socket),
                Err(discover::WholeDirectory) => return self.rescan_soon(now),
            }
        }
    }

    /// A directory where something always changes is looked at now and then.
    fn rescan_soon(&mut self, now: Time) {
        let next = self.scanned.map_or(now, |at| now.max(at + SCAN_PAUSE));
        self.rescan_at = earliest(self.rescan_at, Some(next));
    }

    pub(super) fn rescan(&mut self, now: Time) {
        self.rescan_at = None;
        self.scanned = Some(now);
        let found = match &self.source {
            Source::Socket(path) => discover::socket(path).map(|socket| {
                let name = direct_name(path);
                (socket.map(|s| (name, s)).into_iter().collect(), Vec::new())
            }),
            Source::Directory(directory) => {
                // One that was put in the place of the other has to be watched anew.
                let there = discover::identity(directory);
                if self.watch.is_none() || self.watched != there {
                    self.watch = watch(directory, self.poll.registry());
                    self.watched = there;
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

        for name in self.names.keys().cloned().collect::<Vec<_>>() {
            let socket = found.remove(&name);
            self.on_found(now, &name, socket);
        }
        for (name, socket) in found {
            self.on_found(now, &name, Some(socket));
        }
    }

    /// Somebody has looked for a VM's socket.
    fn on_found(&mut self, now: Time, name: &str, socket: Option<Socket>) {
        let Some(key) = self.names.get(name).copied() else {
            if let Some(socket) = socket {
                self.add(now, name, socket);
            }
            return;
        };
        let Some(vm) = self.vms.get_mut(&key) else {
            return;
        };
        match socket {
            Some(socket) if socket == vm.socket && !vm.is_absent() => {
                if !vm.monitor.look(now) {
                    return;
                }
            }
            Some(socket) => {
                if vm.is_absent() {
                    self.absent.remove(&(vm.since(), key));
                }
                vm.on_new_socket(socket, now);
                vm.monitor.look(now);
            }
            None if vm.is_absent() => return,
            None => vm.on_socket_gone(),
        }
        self.settle(now, key);
        if let Some(vm) = self.vms.get(&key).filter(|vm| vm.is_absent()) {
            self.absent.insert((vm.since(), key));
            self.fail_calls_of(key);
            // Of VMs that are off only so many are remembered: those that were there last.
            if self.absent.len() > MAX_ABSENT
                && let Some((_, oldest)) = self.absent.pop_first()
            {
                self.forget(oldest);
            }
        }
    }

    fn add(&mut self, now: Time, name: &str, socket: Socket) {
        let key = VmKey(self.make_key());
        let path = socket.path.display().to_string();
        let (at, monitor) = (token(key.0), token(key.0 + MONITOR));
        let mut vm = Vm::new(name.to_owned(), socket, at, monitor, now);
        vm.monitor.look(now);
        let line = format_args!("{name}: found {path}");
        self.log.about(&mut vm.said, Level::Info, line);
        let event = journal::change(None, vm.state(), format!("found {path}"));
        self.names.insert(name.to_owned(), key);
        self.vms.insert(key, Box::new(vm));
        self.deadlines.set(key, Some(now));
        self.record(name, event);
    }

    /// The VM has been off for so long that nobody asks for it any more.
    fn forget(&mut self, key: VmKey) {
        if let Some(mut vm) = self.vms.remove(&key) {
            let line = format_args!("{}: forgotten", vm.name);
            self.log.about(&mut vm.said, Level::Info, line);
            self.names.remove(&vm.name);
            self.absent.remove(&(vm.since(), key));
        }
        self.deadlines.set(key, None);
        self.queues.forget(key);
    }

    /// A VM's deadline has come.
    pub(super) fn on_vm_timeout(&mut self, now: Time, key: VmKey) {
        let Some(vm) = self.vms.get_mut(&key) else {
            return;
        };
        if vm.is_absent() && vm.since() + ABSENT_FOR <= now {
            return self.forget(key);
        }
        vm.on_timeout(now, &mut self.peers);
        self.settle(now, key);
    }

    /// Notes what has happened to a VM, and tells those who follow.
    pub(super) fn record(&mut self, vm: &str, event: node::Event) {
        let (event, followers) = self.journal.push(clock::wall(), vm, event);
        for follower in followers {
            if !self.may_see(follower.client, vm) {
                continue;
            }
            let list = node::EventList {
                events: vec![event.clone()],
                more: true,
            };
            let body = node_message::Body::EventList(list);
            self.send(follower.client, follower.request, vm, body);
        }
    }

    /// Starts to look for who is ahead of the VMs that wait.
    pub(super) fn look_at_queues(&mut self, now: Time) {
        let found = self.queues.on_timeout(now);
        self.on_lines(now, found);
        let vms = &self.vms;
        let ask = |key| vms.get(&key).and_then(|vm| vm.ask_line());
        let unasked = self.queues.begin(now, self.poll.registry(), ask);
        let unknown = unasked.into_iter().map(|key| (key, Line::Unknown));
        self.on_lines(now, unknown.collect());
    }

    /// Somebody has looked.
    pub(super) fn on_lines(&mut self, now: Time, found: Vec<(VmKey, Line)>) {
        // Once for all of them, and only if one is asked about.
        self.peers.forget();
        for (key, line) in found {
            if let Some(vm) = self.vms.get_mut(&key) {
                vm.on_line(now, line, &mut self.peers);
                self.settle(now, key);
            }
        }
    }

    pub(super) fn on_monitor_ready(&mut self, key: VmKey, read: bool, write: bool) {
        if let Some(vm) = self.vms.get_mut(&key) {
            vm.monitor.on_ready(read, write);
            self.is_ready(key);
        }
    }

    pub(super) fn on_vm_ready(&mut self, key: VmKey, read: bool, write: bool) {
        if let Some(vm) = self.vms.get_mut(&key) {
            vm.on_ready(read, write);
            self.is_ready(key);
        }
    }

    /// The VM is to be read from: before others if somebody waits for what it says.
    fn is_ready(&mut self, key: VmKey) {
        match self.broker.is_asked(key) {
            true => self.ready_asked.push(key),
            false => self.ready_vms.push(key),
        }
    }

    /// Reads a turn's share of the VM.
    pub(super) fn read_vm(&mut self, now: Time, key: VmKey) {
        if let Some(vm) = self.vms.get_mut(&key) {
            vm.read(now, &mut self.buffer);
            self.settle(now, key);
        }
    }

    /// The one door: after every change of a VM this brings its connection, its deadline, its
    /// requests and what people are told of it into line with it.
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
        let mut is_short = false;
        let changed = vm.poll_state(now).map(|before| {
            let (name, state, why) = (&vm.name, vm.state(), vm.reason());
            let colon = if why.is_empty() { "" } else { ": " };
            let line = format!("{name}: {state} (was {before}){colon}{why}");
            let level = match state {
                State::Stalled { .. } => Some(Level::Warning),
                // It is told of once for all.
                State::Connecting { why } if why == NO_DESCRIPTOR => {
                    is_short = true;
                    None
                }
                _ => Some(Level::Info),
            };
            let event = journal::change(Some(&before), state, why);
            if let Some(level) = level {
                self.log.about(&mut vm.said, level, format_args!("{line}"));
            }
            (vm.name.clone(), event)
        });
        if let Some(line) = vm.drops.news(now, vm.host.counters()) {
            let line = format_args!("{}: {line}", vm.name);
            self.log.about(&mut vm.said, Level::Warning, line);
        }
        let at = match vm.is_absent() {
            true => Some(vm.since() + ABSENT_FOR),
            false => vm.poll_timeout(),
        };
        self.deadlines.set(key, at);
        match vm.is_in_line() {
            Some(in_queue) => self.queues.want(now, key, in_queue, vm.has_holder_ended()),
            None => self.queues.forget(key),
        }
        if vm.is_readable() || vm.monitor.is_readable() {
            self.is_ready(key);
        }
        if let Some((name, event)) = changed {
            self.record(&name, event);
        }
        if is_short {
            self.warn_of_descriptors(now);
        }
    }

    /// There are none left: one line for all that wait for one.
    pub(super) fn warn_of_descriptors(&mut self, now: Time) {
        if self.short_at.is_none_or(|at| now.since(at) >= SHORT_PAUSE) {
            self.short_at = Some(now);
            self.log.warning(format_args!(
                "{NO_DESCRIPTOR}; until then VMs and clients that are connected are served, and others wait"
            ));
        }
    }

    pub(super) fn on_vm_event(&mut self, now: Time, key: VmKey, event: Event) {
        if let Some(vm) = self.vms.get_mut(&key)
            && let Some((kind, why)) = vm.guest.on_event(now, &event)
        {
            vm.away = clocks::Away::of(kind).or(vm.away);
            let name = vm.name.clone();
            let line = format_args!("{name}: {}: {why}", journal::text(kind));
            self.log.about(&mut vm.said, Level::Info, line);
            self.record(&name, journal::notice(kind, why));
        }
        match event {
            Event::Opened(_) => {
                for call in self.calls_of(key) {
                    self.ask_pending(now, call);
                }
            }
            Event::Lost { why, kept } => {
                let why = why.to_string();
                for call in self.calls_of(key) {
                    self.on_session_lost(call, &why, &kept);
                }
            }
            Event::Pong {
                sequence,
                round_trip,
                pong,
            } => {
                self.correct_clock(now, key);
                // Answers come in order, so a later one answers all before it.
                let asked = |kind: &Kind| matches!(kind, Kind::Ping(Some(s)) if *s <= sequence);
                for call in self.broker.select(key, asked) {
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
            Some(Body::Telemetry(report)) => {
                let share = history::share(self.vms.len());
                if let Some(vm) = self.vms.get_mut(&key) {
                    vm.history.push(now, report, share);
                }
                let asked = |kind: &Kind| matches!(kind, Kind::Telemetry { .. });
                for call in self.broker.select(key, asked) {
                    self.report(now, call);
                }
                self.watch(now, key);
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
            client,
            kind: Kind::Agent {
                upload, download, ..
            },
            ..
        }) = self.broker.get(call)
        else {
            return;
        };
        let is_own = *client == clocks::OWN;
        match &message.body {
            Some(Body::StreamChunk(chunk)) if !download.pass(chunk) => {
                self.cancel_in_guest(call);
                let why = "the guest sent bytes out of order, or more than it was allowed";
                self.fail(call, &Failure::new(Code::Internal, why));
            }
            Some(Body::StreamChunk(_)) => self.pass_on(call, message),
            Some(Body::Credit(credit)) => {
                upload.grant(credit);
                self.pass_on(call, message);
            }
            Some(body) if is_own => {
                let body = body.clone();
                self.broker.end(call);
                self.on_corrected(key, &body);
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
