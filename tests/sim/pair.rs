//! Both programs, the port between them, and the time that passes for them.

use std::time::Duration;

use quantix::ids::MessageId;
use quantix::limits::GUEST_WINDOW;
use quantix::time::{Time, earliest};

use super::agent::Agent;
use super::daemon::Daemon;
use super::ledger::{Ledger, Order};
use super::port::{BUFFER, Port};
use super::random::Random;

/// What both programs share: the port, the time, and chance.
pub struct World {
    pub now: Time,
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
    trace: bool,
}

/// A Pong, an acknowledgement: what no window holds back is short, and there is not much of it.
const URGENT: usize = 16 * 1024;

impl World {
    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>12} {}", self.now.micros(), what());
        }
    }

    /// After each of the guest's writes: its session keeps to its window, its flush included.
    pub fn check_in_flight(&mut self, session: u64) {
        let (_, cost) = self.port.in_flight(Some(session));
        self.most_in_session = self.most_in_session.max(cost);
        assert!(
            cost <= GUEST_WINDOW as usize + URGENT || self.port.doubled,
            "{cost} bytes in flight in one session"
        );
        let (bytes, _) = self.port.in_flight(None);
        self.most_in_flight = self.most_in_flight.max(bytes);
    }
}

pub struct Pair {
    pub world: World,
    pub daemon: Daemon,
    pub agent: Option<Agent>,
    steps: u64,
}

impl Pair {
    /// No agent yet, a daemon that has seen the VM's socket.
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let now = Time::from_micros(1_000_000);
        Self {
            world: World {
                now,
                ledger: Ledger::new(random.next()),
                random,
                port: Port::new(),
                longest_round_trip: Duration::ZERO,
                pongs: 0,
                report_every: Duration::from_secs(1),
                marks: 0,
                most_in_session: 0,
                most_in_flight: 0,
                trace,
            },
            daemon: Daemon::new(now),
            agent: None,
            steps: 0,
        }
    }

    pub fn start_agent(&mut self) {
        if self.agent.is_none() {
            self.world.note(|| "agent: starts".to_owned());
            self.world.port.open();
            self.agent = Some(Agent::new(self.world.now));
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

    /// Both sides have the same session open.
    pub fn is_open(&self) -> bool {
        self.daemon.host.is_open() && self.agent.as_ref().is_some_and(|a| a.guest.is_open())
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
            assert!(self.world.now < begin + span, "not within {span:?}");
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
        let now = self.world.now;
        earliest(self.daemon.next(now), agent.and_then(|a| a.next(now)))
    }
}
