//! Both programs, the port between them, and the time that passes for them.

use std::time::Duration;

use quantix::ids::MessageId;
use quantix::limits::{CONTROL_BYTES, FLUSH, HOST_WINDOW, MAX_FRAME, STREAM_WINDOW};
use quantix::time::{Time, earliest};

use super::agent::Agent;
use super::clock::Clock;
use super::daemon::Daemon;
use super::ledger::{GuestView, HostView, Ledger, Order};
use super::port::{BUFFER, Port, Rings};
use super::random::Random;

/// What both programs share: the port, the time, and chance.
pub struct World {
    pub now: Time,
    /// The guest's and the host's own.
    pub guest_clock: Clock,
    pub host_clock: Clock,
    pub random: Random,
    pub port: Port,
    pub ledger: Ledger,
    pub longest_round_trip: Duration,
    pub pongs: u32,
    pub report_every: Duration,
    /// Sessions that guests have opened.
    pub marks: u64,
    /// The most that was ever in flight to the host: of one session with the cost of its writes,
    /// and of all.
    pub most_in_session: usize,
    pub most_in_flight: usize,
    /// The most that either side held in memory.
    pub most_held: usize,
    /// From peace to a session.
    pub slowest: Duration,
    trace: bool,
}

/// What a guest may have in flight so that QEMU never throttles its port (docs/protocol.md), whatever
/// the code believes.
const WINDOW: usize = 168 * 1024;

/// A Pong, an acknowledgement: what no window holds back is short, and there is not much of it.
const URGENT: usize = 16 * 1024;

/// What a side holds at most: a full control lane, copies of what a window of requests may have to be
/// repeated, a flush, a frame in each direction, a chunk and the answer behind it; and what the guest has
/// allowed for the streams of the requests under way.
const HELD: usize = CONTROL_BYTES + HOST_WINDOW as usize + FLUSH + 4 * MAX_FRAME;

impl World {
    pub fn guest_now(&self) -> Time {
        self.guest_clock.read(self.now)
    }

    pub fn host_now(&self) -> Time {
        self.host_clock.read(self.now)
    }

    pub fn check_held(&mut self, bytes: usize) {
        let streams = self.ledger.pending() * STREAM_WINDOW as usize;
        assert!(bytes <= HELD + streams, "{bytes} bytes held");
        self.most_held = self.most_held.max(bytes);
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>12} {}", self.now.micros(), what());
        }
    }

    /// After each of the guest's writes: its session keeps to its window, its flush included.
    pub fn check_in_flight(&mut self, session: u64) {
        let (_, cost) = self.port.in_flight(Some(session));
        // What a port sends twice counts twice.
        if !self.port.doubled {
            self.most_in_session = self.most_in_session.max(cost);
            assert!(
                cost <= WINDOW + URGENT,
                "{cost} bytes in flight in one session"
            );
        }
        let (bytes, _) = self.port.in_flight(None);
        self.most_in_flight = self.most_in_flight.max(bytes);
    }
}

pub struct Pair {
    pub world: World,
    pub daemon: Daemon,
    pub agent: Option<Agent>,
    saved_guest: Option<SavedGuest>,
    saved_daemon: Option<SavedDaemon>,
    steps: u64,
}

#[derive(Clone)]
struct SavedGuest {
    agent: Option<Agent>,
    clock: Clock,
    rings: Rings,
    at: Time,
    view: GuestView,
}

#[derive(Clone)]
struct SavedDaemon {
    daemon: Daemon,
    clock: Clock,
    at: Time,
    view: HostView,
}

impl Pair {
    /// No agent yet, a daemon that has seen the VM's socket.
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let now = Time::from_micros(1_000_000);
        Self {
            world: World {
                now,
                guest_clock: Clock::default(),
                host_clock: Clock::default(),
                ledger: Ledger::new(random.next()),
                random,
                port: Port::new(),
                longest_round_trip: Duration::ZERO,
                pongs: 0,
                report_every: Duration::from_secs(1),
                marks: 0,
                most_in_session: 0,
                most_in_flight: 0,
                most_held: 0,
                slowest: Duration::ZERO,
                trace,
            },
            daemon: Daemon::new(now),
            agent: None,
            saved_guest: None,
            saved_daemon: None,
            steps: 0,
        }
    }

    pub fn start_agent(&mut self) {
        if self.agent.is_none() {
            self.world.note(|| "agent: starts".to_owned());
            self.world.port.open();
            self.agent = Some(Agent::new(self.world.guest_now()));
        }
    }

    pub fn kill_agent(&mut self) {
        if self.agent.take().is_some() {
            self.world.note(|| "agent: is killed".to_owned());
            self.world.port.close_port();
        }
    }

    pub fn restart_agent(&mut self) {
        self.kill_agent();
        self.start_agent();
    }

    pub fn kill_daemon(&mut self) {
        self.world.note(|| "host: is killed".to_owned());
        self.daemon.kill(&mut self.world);
    }

    /// Takes a snapshot of the VM.
    pub fn save_guest(&mut self) {
        self.world.note(|| "guest: is saved".to_owned());
        let World {
            port, ledger, now, ..
        } = &self.world;
        self.saved_guest = port.save().map(|rings| SavedGuest {
            agent: self.agent.clone(),
            clock: self.world.guest_clock,
            rings,
            at: *now,
            view: ledger.guest_view(),
        });
    }

    /// Puts the VM back to its snapshot, if there is one. Its host goes on.
    pub fn revert_guest(&mut self) {
        let Some(saved) = self.saved_guest.clone() else {
            return;
        };
        let world = &mut self.world;
        world.note(|| "guest: is put back".to_owned());
        self.agent = saved.agent;
        if let Some(agent) = &mut self.agent {
            agent.stalled = world.now;
        }
        world.guest_clock = saved.clock;
        world.guest_clock.go_back(saved.at, world.now);
        world.port.load(saved.rings);
        world.ledger.put_guest_back(&saved.view);
    }

    /// Takes a snapshot of the daemon's process.
    pub fn save_daemon(&mut self) {
        self.world.note(|| "host: is saved".to_owned());
        self.saved_daemon = Some(SavedDaemon {
            daemon: self.daemon.clone(),
            clock: self.world.host_clock,
            at: self.world.now,
            view: self.world.ledger.host_view(),
        });
    }

    /// Puts the daemon back to its snapshot, if there is one. The VM goes on, and so does the
    /// connection if it is still the same.
    pub fn revert_daemon(&mut self) {
        let Some(saved) = self.saved_daemon.clone() else {
            return;
        };
        let world = &mut self.world;
        world.note(|| "host: is put back".to_owned());
        if let Some(id) = self.daemon.client
            && saved.daemon.client != Some(id)
        {
            world.port.close(id, 0);
        }
        self.daemon = saved.daemon;
        self.daemon.stalled = world.now;
        world.host_clock = saved.clock;
        world.host_clock.go_back(saved.at, world.now);
        world.ledger.put_host_back(&saved.view);
    }

    pub fn stall_agent(&mut self, span: Duration) {
        if let Some(agent) = &mut self.agent {
            agent.stalled = self.world.now + span;
        }
    }

    pub fn stall_daemon(&mut self, span: Duration) {
        self.daemon.stalled = self.world.now + span;
    }

    pub fn request(&mut self, order: Order) -> MessageId {
        self.daemon.request(&mut self.world, order)
    }

    pub fn ping(&mut self) {
        self.daemon.ping(&self.world);
    }

    /// Both sides have the same session open.
    pub fn is_open(&self) -> bool {
        let guest = self.agent.as_ref().and_then(|a| a.guest.session());
        guest.is_some() && guest == self.daemon.host.session()
    }

    /// The agent has written a part of a frame.
    pub fn is_cut(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.is_mid_frame)
    }

    pub fn is_done(&self) -> bool {
        self.is_open() && self.world.ledger.pending() == 0
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.world.now + span;
        while self.world.now < end {
            self.step(end);
        }
    }

    /// Until `done`, which must be so before `span` has passed. How long it took.
    pub fn run_until(&mut self, span: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.world.now;
        while !done(self) {
            if self.world.now >= begin + span {
                self.world.note(|| format!("{:#?}", self.daemon.host));
                self.world
                    .note(|| format!("{:#?}", self.agent.as_ref().map(|a| &a.guest)));
                panic!("not within {span:?}");
            }
            self.step(begin + span);
        }
        self.world.now.since(begin)
    }

    /// Steps in which something was done: what a side costs.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    fn step(&mut self, end: Time) {
        let mut moved = false;
        let first = self.world.random.below(6);
        for turn in 0..6 {
            moved |= match (first + turn) % 6 {
                0 => self.carry_to_guest(),
                1 => self.carry_to_host(),
                2 => self.daemon.read(&mut self.world),
                3 => self.daemon.write(&mut self.world),
                4 => self.agent_reads(),
                _ => self.with_agent(Agent::write),
            };
        }
        if moved {
            self.steps += 1;
            let micros = 20 + self.world.random.below(300) as u64;
            self.world.now = self.world.now + Duration::from_micros(micros);
        } else {
            let soon = self.world.now + Duration::from_micros(1);
            let next = self.next().map_or(end, |next| next.max(soon));
            self.world.now = next.min(end);
        }
    }

    fn agent_reads(&mut self) -> bool {
        let moved = self.with_agent(Agent::read);
        if self.agent.as_ref().is_some_and(Agent::is_doomed) {
            self.kill_agent();
        }
        moved
    }

    fn with_agent(&mut self, run: impl Fn(&mut Agent, &mut World) -> bool) -> bool {
        match &mut self.agent {
            Some(agent) => run(agent, &mut self.world),
            None => false,
        }
    }

    fn carry_to_guest(&mut self) -> bool {
        let World { random, port, .. } = &mut self.world;
        let most = random.size(64);
        let news = port.has_news();
        if random.percent(30) {
            port.inform();
        }
        (0..most)
            .take_while(|_| port.carry_to_guest(BUFFER))
            .count()
            > 0
            || news
    }

    fn carry_to_host(&mut self) -> bool {
        let World { random, port, .. } = &mut self.world;
        let most = random.size(32);
        (0..most).take_while(|_| port.carry_to_host()).count() > 0
    }

    /// When one of the two wakes up by itself.
    fn next(&self) -> Option<Time> {
        let agent = self.agent.as_ref().filter(|_| self.world.port.is_running());
        let world = &self.world;
        earliest(
            self.daemon.next(world),
            agent.and_then(|agent| agent.next(world)),
        )
    }
}
