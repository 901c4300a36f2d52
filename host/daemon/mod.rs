//! The daemon: one loop over all VMs and all clients.
//!
//! Whatever changes a VM ends in `settle` ([`links`]), whatever goes to a client passes `send`
//! ([`clients`]). Requests ([`requests`]) are kept by [`broker`]; sockets are found by [`discover`].
//! A VM's state is judged by [`state`] from what [`vm`], [`queue`] and [`monitor`] see of it; what
//! happens is kept by [`journal`], who had it done by [`audit`], what guests report by [`history`];
//! [`exporter`] tells Prometheus. [`watchdog`] tells of guests whose agent is well and whose disks are not.
//! What all of it does without is in [`confine`](crate::confine).

mod actions;
mod audit;
mod broker;
mod callers;
mod client;
mod clients;
mod clocks;
mod deadlines;
mod descriptors;
mod discover;
mod exporter;
mod guest;
mod history;
mod journal;
mod links;
mod lists;
mod monitor;
mod own;
mod peers;
mod queue;
mod ready;
mod reload;
mod report;
mod requests;
mod state;
mod vm;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::UnixListener;
use mio::{Events, Interest, Poll, Token};
use quantix::rt::log::{Log, Share};
use quantix::rt::notify::Notify;
use quantix::rt::signal::{Signal, Signals};
use quantix::rt::sys::inotify::Watch;
use quantix::rt::sys::process;
use quantix::rt::{clock, random};
use quantix::time::{Time, earliest};

use audit::Audit;
use broker::{Broker, ClientKey, VmKey};
use client::Client;
use deadlines::Deadlines;
use exporter::Exporter;
use journal::Journal;
use peers::Peers;
use queue::Queues;
use ready::Ready;
use vm::Vm;

use crate::config::{self, Config};

pub use clocks::TimeSync;
pub use discover::{SUFFIX, vm_of};
pub use journal::text as event_text;
pub use monitor::{SUFFIX as MONITOR_SUFFIX, is_open};
pub use own::mount as is_own_mount;
pub use state::{text as state_text, word as state_word};

const LISTENER: Token = Token(0);
const WATCH: Token = Token(1);
const TERMINATE: Token = Token(2);
const RELOAD: Token = Token(3);
const CHILD: Token = Token(4);
const QUEUES: Token = Token(5);
const METRICS: Token = Token(6);

/// Keys begin here and are never reused, so that a late event cannot hit another's object. The lowest
/// two bits tell what a token is for: a VM's socket, its monitor, a client, or whoever asks for metrics.
const FIRST_KEY: u64 = 16;
const KEYS: u64 = 4;
const CLIENT: u64 = 1;
const MONITOR: u64 = 2;
const SCRAPE: u64 = 3;

/// A VM that is off is remembered for this long, and at most so many are.
const ABSENT_FOR: Duration = Duration::from_secs(24 * 3600);
/// See [`ABSENT_FOR`].
const MAX_ABSENT: usize = 1000;

/// Clients at once; one more is disconnected.
const MAX_CLIENTS: usize = 1024;

/// Of one user that is not the owner; all such users together have half of the places.
const MAX_OF_ONE: usize = 64;

/// Requests of one client at once; one more is answered `BUSY`.
const MAX_CLIENT_REQUESTS: usize = 1024;

/// Connections that are taken in one turn.
const ACCEPTS_A_TURN: usize = 32;

/// A client that could not be taken (no descriptor was left) is taken up after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// Where the directory of sockets cannot be watched it is looked at this often.
const RESCAN: Duration = Duration::from_secs(2);

/// From one look at the whole directory to the next, where its changes ask for one.
const SCAN_PAUSE: Duration = Duration::from_millis(200);

/// That descriptors are short is said so often.
const SHORT_PAUSE: Duration = Duration::from_secs(3600);

/// Log lines about clients: so many at once, and another after each pause.
const LINES: u32 = 20;
/// See [`LINES`].
const LINE_EVERY: Duration = Duration::from_secs(1);

/// VMs that are read from in one turn, and VMs whose time has come: so many that a client never waits for long. Those
/// that somebody waits for come first, and all of them.
const VMS_A_TURN: usize = 32;

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
    signals: [Signals; 3],
    /// When to accept again although the listener says nothing.
    accept_at: Option<Time>,
    watch: Option<Watch>,
    /// The directory that is watched, whatever is at its path by now.
    watched: Option<(u64, u64)>,
    rescan_at: Option<Time>,
    /// When all of the directory was looked at last.
    scanned: Option<Time>,
    faults: Vec<String>,
    /// When it was last said that there are no descriptors left.
    short_at: Option<Time>,
    next_key: u64,
    vms: BTreeMap<VmKey, Box<Vm>>,
    names: BTreeMap<String, VmKey>,
    /// VMs that are off, in the order in which they went.
    absent: BTreeSet<(Time, VmKey)>,
    clients: BTreeMap<ClientKey, Client>,
    /// Log lines about clients.
    said_of_clients: Share,
    broker: Broker,
    deadlines: Deadlines<VmKey>,
    queues: Queues,
    exporter: Exporter,
    peers: Peers,
    journal: Journal,
    /// What may have more to read without another event: VMs that somebody waits for, and others.
    ready_asked: Ready<VmKey>,
    ready_vms: Ready<VmKey>,
    ready_clients: BTreeSet<ClientKey>,
    /// Clients that something waits for.
    to_write: BTreeSet<ClientKey>,
    buffer: Vec<u8>,
    /// A private daemon ends with its client.
    private: bool,
    config: Config,
    audit: Audit,
    /// Where that came from; a private daemon has its defaults.
    configured_by: Option<config::Source>,
    notify: Notify,
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
            Signals::new(Signal::Child)?,
        ];
        let registry = poll.registry();
        for (signal, token) in signals.iter_mut().zip([TERMINATE, RELOAD, CHILD]) {
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
            accept_at: None,
            watch: None,
            watched: None,
            rescan_at: Some(Time::from_micros(0)),
            scanned: None,
            faults: Vec::new(),
            short_at: None,
            next_key: FIRST_KEY,
            vms: BTreeMap::new(),
            names: BTreeMap::new(),
            absent: BTreeSet::new(),
            clients: BTreeMap::new(),
            said_of_clients: Share::new(LINES, LINE_EVERY),
            broker: Broker::new(random::number()),
            deadlines: Deadlines::new(),
            queues: Queues::new(QUEUES),
            exporter: Exporter::default(),
            peers: Peers::default(),
            journal: Journal::default(),
            ready_asked: Ready::new(),
            ready_vms: Ready::new(),
            ready_clients: BTreeSet::new(),
            to_write: BTreeSet::new(),
            buffer: vec![0; 64 * 1024],
            config: Config::default(),
            audit: Audit::none(),
            configured_by: None,
            notify: Notify::default(),
        })
    }

    /// Serves until SIGTERM, or until the only client has left.
    ///
    /// # Errors
    /// epoll_wait(2) fails, which it does not.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        self.notify.ready(clock::now(), &self.how());
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
                    LISTENER => self.accept_at = Some(now),
                    WATCH => self.on_directory(now),
                    METRICS => self.exporter.on_listener(now),
                    QUEUES => {
                        let found = self.queues.on_ready(now);
                        self.on_lines(now, found);
                    }
                    TERMINATE | RELOAD | CHILD => {
                        let at = event.token().0 - TERMINATE.0;
                        match self.signals[at].take() {
                            Some(Signal::Terminate) => {
                                self.log.info(format_args!("stopping"));
                                self.notify.stopping();
                                self.exporter.remove_file();
                                return Ok(());
                            }
                            Some(Signal::Reload) => self.reload(now),
                            Some(Signal::Child) => self.reap(now),
                            None => {}
                        }
                    }
                    Token(key) => self.on_ready(now, key as u64, read, write),
                }
            }
            self.turn(now);
            if self.private && self.clients.is_empty() {
                return Ok(());
            }
        }
    }

    fn on_ready(&mut self, now: Time, key: u64, read: bool, write: bool) {
        match key % KEYS {
            SCRAPE => self.on_scrape_ready(now, key),
            CLIENT => self.on_client_ready(ClientKey(key), read, write),
            MONITOR => self.on_monitor_ready(VmKey(key - MONITOR), read, write),
            _ => self.on_vm_ready(VmKey(key), read, write),
        }
    }

    fn reap(&mut self, now: Time) {
        while let Some((pid, ended)) = process::reap() {
            if let Some(news) = self.exporter.on_exit(pid, ended) {
                self.log.warning(format_args!("{news}"));
            }
            let found = self.queues.on_exit(now, pid);
            self.on_lines(now, found);
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let is_ready = !self.ready_vms.is_empty() || !self.ready_asked.is_empty();
        if is_ready || !self.ready_clients.is_empty() || !self.to_write.is_empty() {
            return Some(Duration::ZERO);
        }
        let at = earliest(self.deadlines.next(), self.broker.poll_timeout());
        let at = earliest(at, self.queues.poll_timeout());
        let at = earliest(at, self.exporter.poll_timeout());
        let at = earliest(at, self.notify.poll_timeout());
        let at = earliest(at, self.accept_at);
        let at = earliest(at, self.rescan_at)?;
        // Rounded up: a deadline that has not come yet would be looked at again and again.
        match at.since(clock::now()) {
            Duration::ZERO => Some(Duration::ZERO),
            wait => Some(wait + Duration::from_micros(999)),
        }
    }

    fn turn(&mut self, now: Time) {
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept(now);
        }
        if self.rescan_at.is_some_and(|at| at <= now) {
            self.rescan(now);
        }
        for key in self.ready_asked.take(usize::MAX) {
            self.read_vm(now, key);
        }
        for key in std::mem::take(&mut self.ready_clients) {
            self.read_client(now, key);
        }
        for key in self.ready_vms.take(VMS_A_TURN) {
            self.read_vm(now, key);
        }
        for _ in 0..VMS_A_TURN {
            let Some(key) = self.deadlines.take_due(now) else {
                break;
            };
            self.on_vm_timeout(now, key);
        }
        self.look_at_exporter(now);
        self.tell_systemd(now);
        self.look_at_queues(now);
        while let Some(key) = self.broker.poll_look(now) {
            self.look_at_call(now, key);
        }
        for key in std::mem::take(&mut self.to_write) {
            self.write_client(now, key);
        }
    }

    const fn make_key(&mut self) -> u64 {
        let key = self.next_key;
        self.next_key += KEYS;
        key
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

fn token(key: u64) -> Token {
    Token(usize::try_from(key).unwrap_or(usize::MAX))
}
