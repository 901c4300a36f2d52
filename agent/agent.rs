//! The actor: it joins the port, the guest's side of the protocol, the jobs and telemetry in one
//! loop that sleeps until something happens.

mod reports;
mod requests;

use std::io;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use quantix::guest::{Event, Guest, Identity, Moment};
use quantix::loss::GOODBYE;
use quantix::message::agent;
use quantix::rt::log::{DropLog, Log};
use quantix::rt::notify::Notify;
use quantix::rt::signal::{Signal, Signals};
use quantix::rt::sys::{netlink::Listener, process};
use quantix::rt::{clock, random};
use quantix::time::{Time, earliest};
use quantix::wipe::wipe;

use crate::audit::Audit;
use crate::changes::Changes;
use crate::cli::Options;
use crate::config;
use crate::disks::Disks;
use crate::freeze::Freezing;
use crate::job::Jobs;
use crate::links::Links;
use crate::ops::setup;
use crate::orphan::Orphan;
use crate::policy::Judge;
use crate::port::{Moved, Opened, Port};
use crate::power::Power;
use crate::telemetry::{Sampler, os};

/// Requests that this agent answers.
const CAPABILITIES: &[&str] = &[
    "execute",
    "read_file",
    "write_file",
    "read_tree",
    "write_tree",
    "list_jobs",
    "attach_job",
    "kill_job",
    "shutdown",
    "freeze",
    "thaw",
    "get_freeze_status",
    "sync_time",
    "get_storage",
    "trim",
    "grow",
    "restored",
    "set_password",
    "list_users",
    "authorized_keys",
    "get_network",
    "set_name",
    "configure_network",
    "list_processes",
    "kill_process",
    "list_services",
    "service_control",
    "get_hardware",
    "set_online",
    "list_packages",
];

const PORT: Token = Token(0);
const UEVENTS: Token = Token(1);
const TERMINATE: Token = Token(2);
const RELOAD: Token = Token(3);
const CHILD: Token = Token(4);
const DISKS: Token = Token(5);
const FREEZER: Token = Token(6);
const CHANGES: Token = Token(7);
const LINKS: Token = Token(8);
const ORPHAN: Token = Token(9);
const FIRST_JOB: usize = 16;

/// Reads from the port in one turn, each of at most 4 KiB: nothing else waits longer than that.
const READS_A_TURN: usize = 64;

/// The agent.
pub struct Agent {
    poll: Poll,
    log: Log,
    audit: Audit,
    options: Options,
    /// What the configuration says, unless the command line does.
    telemetry_interval: Duration,
    /// What the host may ask.
    judge: Judge,
    port: Port,
    uevents: Option<Listener>,
    signals: [Signals; 3],
    guest: Guest,
    jobs: Jobs,
    freezing: Freezing,
    power: Power,
    sampler: Sampler,
    disks: Disks,
    links: Links,
    orphan: Orphan,
    changes: Changes,
    ready: agent::AgentReady,
    /// When the next report is due; `None` without a session.
    report_at: Option<Time>,
    /// A report waits for the disks, or the links.
    reporting: bool,
    /// SIGTERM has come.
    stopping: bool,
    drops: DropLog,
    notify: Notify,
}

impl Agent {
    /// Sets everything up. The port is opened by [`run`](Self::run).
    ///
    /// # Errors
    /// A configuration file that was named cannot be read; no descriptors are left.
    pub fn new(options: Options) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        let mut signals = [
            Signals::new(Signal::Terminate)?,
            Signals::new(Signal::Reload)?,
            Signals::new(Signal::Child)?,
        ];
        for (signal, token) in signals.iter_mut().zip([TERMINATE, RELOAD, CHILD]) {
            registry.register(&mut signal.stream, token, Interest::READABLE)?;
        }
        let uevents = Listener::ports().ok();
        if let Some(uevents) = &uevents {
            use std::os::fd::AsRawFd;
            let fd = uevents.as_raw_fd();
            registry.register(&mut SourceFd(&fd), UEVENTS, Interest::READABLE)?;
        }
        let (config, faults) = config::load(options.config.as_deref()).map_err(io::Error::other)?;
        let mut log = Log::new("quantix-kvm-agent", options.log.clone(), config.log_level);
        for fault in faults {
            log.warning(format_args!("configuration: {fault}"));
        }
        if setup::is_left() {
            log.warning(format_args!(
                "a change of the network was not confirmed, and is being undone"
            ));
            // What it comes to is in its record; if it cannot even begin, the next request does it.
            let _ = process::spawn(&[], setup::recover);
        }
        let identity = Identity {
            version: quantix::VERSION.to_owned(),
            boot_id: os::boot_id(),
            instance: random::number(),
        };
        let now = clock::now();
        let freezing = Freezing::new(now, FREEZER, &options.run_dir, poll.registry());
        Ok(Self {
            poll,
            log,
            port: Port::new(options.port.clone(), PORT),
            jobs: Jobs::new(FIRST_JOB, &options.run_dir),
            freezing,
            power: Power::new(&options.run_dir),
            audit: Audit::new(options.log.clone()),
            options,
            judge: Judge::new(config.policy),
            telemetry_interval: config.telemetry_interval,
            uevents,
            signals,
            guest: Guest::new(identity),
            sampler: Sampler::new(),
            disks: Disks::new(DISKS),
            links: Links::new(LINKS),
            orphan: Orphan::new(clock::now(), ORPHAN),
            changes: Changes::new(CHANGES),
            ready: os::ready(quantix::VERSION, CAPABILITIES),
            report_at: None,
            reporting: false,
            stopping: false,
            drops: DropLog::default(),
            notify: Notify::from_environment(),
        })
    }

    /// Serves until SIGTERM.
    ///
    /// # Errors
    /// epoll_wait(2) fails, which it does not.
    pub fn run(mut self) -> io::Result<()> {
        let (version, revision) = (quantix::VERSION, quantix::REVISION);
        self.log
            .info(format_args!("version {version} ({revision}) started"));
        // So that the first session finds it done.
        self.links.begin(clock::now(), self.poll.registry());
        let mut events = Events::with_capacity(64);
        let mut again = true;
        loop {
            let timeout = if again {
                Some(Duration::ZERO)
            } else {
                self.timeout()
            };
            match self.poll.poll(&mut events, timeout) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(()) => {}
            }
            let now = clock::now();
            for event in &events {
                match event.token() {
                    PORT => {
                        let read = event.is_readable() || event.is_read_closed();
                        let write = event.is_writable() || event.is_error();
                        self.port.on_ready(read, write, self.poll.registry());
                    }
                    UEVENTS => self.on_uevents(),
                    DISKS => self.on_disks(),
                    LINKS => self.on_links(now),
                    ORPHAN => self.orphan.on_ready(),
                    FREEZER => self.freezing.on_ready(),
                    CHANGES => self.changes.on_ready(now, self.poll.registry()),
                    TERMINATE | RELOAD | CHILD => {
                        let at = event.token().0 - TERMINATE.0;
                        match self.signals[at].take() {
                            // A second one does not wait for commands that do not end.
                            Some(Signal::Terminate) if self.stopping => return Ok(()),
                            Some(Signal::Terminate) => self.stop(now),
                            Some(Signal::Reload) => self.reload(),
                            Some(Signal::Child) => self.reap(),
                            None => {}
                        }
                    }
                    job => self.jobs.on_ready(job),
                }
            }
            self.on_timeouts(now);
            again = self.turn(now);
            if self.stopping && self.jobs.is_empty() && !self.freezing.is_active() {
                return Ok(());
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let at = [
            self.guest.poll_timeout(),
            self.jobs.poll_timeout(),
            self.disks.poll_timeout(),
            self.links.poll_timeout(),
            self.changes.poll_timeout(),
            self.freezing.poll_timeout(),
            self.report_at,
            self.notify.poll_timeout(),
            self.port.poll_timeout(self.guest.is_open()),
        ]
        .into_iter()
        .fold(None, earliest)?;
        // Rounded up: a deadline that has not come yet would be looked at again and again.
        let span = at.since(clock::now());
        Some(span + Duration::from_micros(999))
    }

    fn on_timeouts(&mut self, now: Time) {
        self.guest.handle_timeout(now);
        self.jobs.on_timeout(now);
        self.freezing.on_timeout(now, self.poll.registry());
        if self.disks.on_timeout(now) | self.links.on_timeout(now) {
            self.report();
        }
        if self.changes.on_timeout(now, self.poll.registry()) {
            self.links.on_change(now, self.poll.registry());
            // The host name needs no look.
            self.announce_changes();
        }
        self.notify.on_timeout(now);
        match self.port.handle_timeout(now, self.poll.registry()) {
            Some(Opened::Yes(path)) => {
                let line = format!("port {} is open", path.display());
                self.log.info(format_args!("{line}"));
                self.notify.ready(now, &line);
                self.guest.handle_port_reopened();
            }
            Some(Opened::No(Some(why))) => {
                self.log.warning(format_args!("waiting: {why}"));
                // Whoever starts us is not to wait for what may take for ever.
                self.notify.ready(now, &format!("waiting: {why}"));
            }
            Some(Opened::No(None)) | None => {}
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.begin_report(now);
        }
    }

    /// Moves bytes. True: there is more to do without waiting.
    fn turn(&mut self, now: Time) -> bool {
        let mut again = self.read(now);
        self.act(now);
        if self
            .freezing
            .turn(now, &mut self.guest, self.poll.registry())
        {
            self.on_frozen(now);
        }
        loop {
            again |= self.jobs.turn(&mut self.guest);
            self.act(now);
            let pulled = self.jobs.pull(&mut self.guest);
            if !self.write(now) && !pulled {
                break;
            }
        }
        if self.port.is_writable() {
            self.power.release();
        }
        if let Some(line) = self.drops.news(now, self.guest.counters()) {
            self.log.warning(format_args!("{line}"));
        }
        again
    }

    /// Reads a turn's share. True: there may be more.
    fn read(&mut self, now: Time) -> bool {
        if !self.port.is_readable() {
            return false;
        }
        let moment = Moment {
            now,
            wall: clock::wall(),
            uptime_seconds: clock::uptime_seconds(),
        };
        let mut buffer = [0; 4096];
        for _ in 0..READS_A_TURN {
            if !self.port.is_readable() {
                return false;
            }
            let (place, is_in_place) = match self.guest.space() {
                Some(space) => (space, true),
                None => (&mut buffer[..], false),
            };
            match self.port.read(now, place) {
                Moved::Bytes(n) => {
                    let random = &mut random::number;
                    if is_in_place {
                        self.guest.handle_filled(&moment, n, random);
                    } else {
                        self.guest.handle_bytes(&moment, &buffer[..n], random);
                        wipe(&mut buffer[..n]);
                    }
                    self.act(now);
                }
                Moved::Blocked => return false,
                Moved::NoHost => self.guest.handle_host_gone(),
                Moved::Lost(why) => self.lost(&why),
            }
        }
        true
    }

    /// Writes what the port takes. True: something was written.
    fn write(&mut self, now: Time) -> bool {
        let mut wrote = false;
        while self.port.is_writable() {
            let Some(bytes) = self.guest.poll_transmit() else {
                break;
            };
            match self.port.write(now, bytes, self.poll.registry()) {
                Moved::Bytes(n) => {
                    self.guest.on_written(n);
                    wrote = true;
                }
                Moved::Blocked | Moved::NoHost => break,
                Moved::Lost(why) => self.lost(&why),
            }
        }
        wrote
    }

    fn lost(&mut self, why: &str) {
        self.log.warning(format_args!("port lost: {why}"));
        self.guest.handle_port_reopened();
    }

    /// Acts on what the protocol has found.
    fn act(&mut self, now: Time) {
        while let Some(event) = self.guest.poll_event() {
            match event {
                Event::Opened => self.on_opened(now),
                Event::Ended(why) => {
                    self.log.info(format_args!("session ended: {why}"));
                    self.audit.session_over();
                    self.jobs.on_session_over(now);
                    self.freezing.on_session_over(now);
                    self.report_at = None;
                    self.changes.close(self.poll.registry());
                }
                Event::Request(id, body, caller) => {
                    self.on_request(now, &id, body, caller.as_ref());
                }
                Event::Answered(id, outcome) => self.audit.ended(&id, &outcome),
                Event::Chunk(id, chunk) => {
                    self.jobs.on_chunk(now, &id, &chunk);
                    self.guest.recycle(chunk);
                }
                Event::Credit(id, stream, total) => self.jobs.on_credit(&id, stream, total),
                Event::Told(id, what) => self.jobs.on_told(&id, &what),
                Event::Cancel(id) => {
                    self.jobs.on_cancel(now, &id);
                    self.freezing.on_cancel(now, &id);
                }
            }
        }
    }

    fn on_opened(&mut self, now: Time) {
        if self.stopping {
            return self.guest.close(GOODBYE);
        }
        self.log.info(format_args!("session opened by the host"));
        // Before that is looked at which may change.
        self.changes.open(now, self.poll.registry());
        self.refresh_ready();
        self.guest.announce(self.ready.clone());
        self.links.begin(now, self.poll.registry());
        self.schedule_reports(now);
    }

    fn on_uevents(&mut self) {
        if self.uevents.as_mut().is_some_and(Listener::drain) {
            self.port.handle_device_event();
        }
    }

    fn reap(&mut self) {
        while let Some((pid, ended)) = process::reap() {
            self.disks.on_exit(pid);
            self.jobs.on_exit(pid, ended);
        }
    }

    fn reload(&mut self) {
        match config::load(self.options.config.as_deref()) {
            Ok((config, faults)) => {
                for fault in faults {
                    self.log.warning(format_args!("configuration: {fault}"));
                }
                match &config.policy.fault {
                    Some(_) => self.log.error(format_args!(
                        "configuration: what is allowed is as it was before"
                    )),
                    // What was asked so far counts no more.
                    None => self.judge = Judge::new(config.policy),
                }
                self.telemetry_interval = config.telemetry_interval;
                self.log.set_level(config.log_level);
                self.log.info(format_args!("configuration read again"));
                self.schedule_reports(clock::now());
            }
            Err(why) => self
                .log
                .error(format_args!("configuration kept as it was: {why}")),
        }
    }

    /// Tells the host and ends what is waited for, but for commands; when that is gone the agent ends.
    fn stop(&mut self, now: Time) {
        self.log.info(format_args!("stopping"));
        self.notify.stopping();
        self.stopping = true;
        self.jobs.leave();
        self.freezing.leave(now);
        self.guest.close(GOODBYE);
        self.act(now);
        self.write(now);
    }
}
