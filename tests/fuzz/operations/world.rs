//! Both programs, the pipe between them in either direction, and the time.

use std::time::Duration;

use quantix::time::{Time, earliest};

use super::agent::Agent;
use super::daemon::Daemon;
use super::ledger::Ledger;
use super::pipe::{Fault, Pipe};

/// All that is asked in peace is answered within: a keep-alive that finds out, the patience with a
/// guest that takes and does not answer, the longest pause before a connect, and some to spare.
const HEALS_WITHIN: Duration = Duration::from_secs(20);

/// Turns in which all that waits on both sides is carried over, before a keep-alive is due.
const PLENTY: usize = 5000;

pub struct World {
    now: Time,
    agent: Agent,
    daemon: Daemon,
    to_guest: Pipe,
    to_host: Pipe,
    ledger: Ledger,
    /// The guest no longer knows which Pings it has answered, or it was spoken to by another host.
    has_forgotten: bool,
}

impl World {
    pub fn new() -> Self {
        let now = Time::from_micros(1_000_000);
        Self {
            now,
            agent: Agent::new(),
            daemon: Daemon::new(now),
            to_guest: Pipe::default(),
            to_host: Pipe::default(),
            ledger: Ledger::default(),
            has_forgotten: false,
        }
    }

    pub fn check(&self) {
        self.agent.check(self.now);
        self.daemon.check(self.now);
    }

    pub fn request(&mut self, size: usize) {
        self.daemon.request(self.now, size, &mut self.ledger);
    }

    pub fn withdraw(&mut self, at: usize) {
        self.daemon.withdraw(at, &mut self.ledger);
    }

    pub fn cancel(&mut self, at: usize) {
        self.daemon.cancel(at, &self.ledger);
    }

    pub fn ask_ping(&mut self) {
        self.daemon.ping(self.now);
    }

    pub fn probe(&mut self) {
        self.daemon.host.probe(self.now);
    }

    pub fn send_to_guest(&mut self, at: usize, size: usize) {
        self.daemon.stream(at, size, &mut self.ledger);
    }

    pub fn credit_to_guest(&mut self, at: usize, bytes: usize) {
        self.daemon.credit(at, bytes, &self.ledger);
    }

    pub fn answer(&mut self, at: usize, size: usize) {
        self.agent.answer(at, size, &mut self.ledger);
    }

    pub fn stream(&mut self, at: usize, size: usize) {
        self.agent.stream(at, size);
    }

    pub fn report(&mut self, size: usize) {
        self.agent.report(size, &mut self.ledger);
    }

    pub fn announce(&mut self) {
        self.agent.announce(&mut self.ledger);
    }

    pub fn grant(&mut self, at: usize, total: usize) {
        self.agent.grant(at, total, &mut self.ledger);
    }

    pub fn drop_stream(&mut self, at: usize) {
        self.agent.drop_stream(at, &mut self.ledger);
    }

    pub fn close(&mut self) {
        self.agent.close(&mut self.ledger);
    }

    /// So many writes, all but the last in whole. False: there was nothing to write.
    pub fn host_writes(&mut self, count: usize, part: Option<usize>) -> bool {
        let whole = (0..count).take_while(|_| self.daemon.write(None, &mut self.to_guest));
        let moved = whole.count() > 0;
        part.is_some_and(|_| self.daemon.write(part, &mut self.to_guest)) || moved
    }

    pub fn guest_writes(&mut self, count: usize, part: Option<usize>) -> bool {
        let whole = (0..count).take_while(|_| self.agent.write(None, &mut self.to_host));
        let moved = whole.count() > 0;
        part.is_some_and(|_| self.agent.write(part, &mut self.to_host)) || moved
    }

    /// So many writes are read, and `part` bytes of one more.
    pub fn guest_reads(&mut self, count: usize, part: Option<usize>) -> bool {
        let whole = std::iter::repeat_n(usize::MAX, count);
        let mut moved = false;
        for most in whole.chain(part.map(|part| part * part + 1)) {
            let Some(bytes) = self.to_guest.read(most) else {
                break;
            };
            self.agent.read(self.now, &bytes, &mut self.ledger);
            moved = true;
        }
        moved
    }

    pub fn host_reads(&mut self, count: usize, part: Option<usize>) -> bool {
        let whole = std::iter::repeat_n(usize::MAX, count);
        let mut moved = false;
        for most in whole.chain(part.map(|part| part * part + 1)) {
            if !self.daemon.is_up() {
                break;
            }
            let Some(bytes) = self.to_host.read(most) else {
                break;
            };
            self.daemon.read(self.now, &bytes, &mut self.ledger);
            moved = true;
        }
        moved
    }

    pub fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
        self.tick(self.to_guest.is_empty());
    }

    /// `read`: what was written has left the socket, even if the guest has not read it.
    pub fn wait_for_timeout(&mut self, read: bool) {
        let (host, guest) = (&self.daemon.host, &self.agent.guest);
        if let Some(next) = earliest(host.poll_timeout(), guest.poll_timeout()) {
            self.now = self.now.max(next);
        }
        self.tick(read || self.to_guest.is_empty());
    }

    fn tick(&mut self, taken: bool) {
        let was_up = self.daemon.is_up();
        self.daemon.tick(self.now, taken, &mut self.ledger);
        self.agent.tick(self.now, &mut self.ledger);
        if was_up && !self.daemon.is_up() {
            self.connection_ends(usize::MAX - 1, 0);
        }
    }

    pub fn fault_to_guest(&mut self, fault: Fault, a: usize, b: usize) {
        self.ledger.is_faulty = true;
        self.has_forgotten |= matches!(fault, Fault::Junk);
        self.to_guest.fail(fault, a, b);
        self.ledger.may_act_twice |= self.has_forgotten && self.to_guest.has_won;
    }

    pub fn fault_to_host(&mut self, fault: Fault, a: usize, b: usize) {
        self.ledger.is_faulty = true;
        self.to_host.fail(fault, a, b);
    }

    pub fn connection(&mut self, flag: u8, a: usize, b: usize) {
        self.ledger.is_faulty |= flag % 8 > 2;
        let (now, ledger) = (self.now, &mut self.ledger);
        match flag % 8 {
            0 | 1 => return self.daemon.connect(now, true, ledger),
            2 => return self.daemon.connect(now, false, ledger),
            3 | 4 if !self.daemon.is_up() => return,
            3 | 4 => self.daemon.hang_up(now, ledger),
            5 => self.daemon.socket_gone(ledger),
            6 => self.daemon.socket(now, ledger),
            _ => {
                if !self.daemon.restart(now, ledger) {
                    return;
                }
            }
        }
        self.connection_ends(a, b * b);
        if flag & 8 != 0 {
            self.has_forgotten = true;
            self.ledger.may_act_twice |= self.to_guest.has_won;
            self.agent.host_gone(&mut self.ledger);
        }
    }

    fn connection_ends(&mut self, writes: usize, bytes: usize) {
        self.to_guest.end(writes, bytes);
        self.to_host.end(writes, bytes);
    }

    /// Something happens to the guest's end.
    pub fn port(&mut self, flag: u8) {
        self.ledger.is_faulty = true;
        self.has_forgotten = true;
        self.ledger.may_act_twice |= self.to_guest.has_won;
        match flag % 3 {
            0 => self.agent.host_gone(&mut self.ledger),
            1 => self.agent.reopen(&mut self.ledger),
            _ => self.agent.restart(),
        }
    }

    /// All that is written arrives, so many times to and fro.
    pub fn exchange(&mut self, times: usize) -> bool {
        let mut moved = false;
        for _ in 0..times {
            self.daemon.connect(self.now, true, &mut self.ledger);
            let mut turn = self.host_writes(usize::MAX, None);
            turn |= self.guest_reads(usize::MAX, None);
            turn |= self.guest_writes(usize::MAX, None);
            turn |= self.host_reads(usize::MAX, None);
            self.now = self.now + Duration::from_micros(100);
            self.tick(self.to_guest.is_empty());
            turn |= self.daemon.is_connecting();
            moved |= turn;
            if !turn {
                break;
            }
        }
        moved
    }

    /// Nothing fails any more: soon both have the same session, and what is asked is answered.
    pub fn heal(mut self) {
        if self.daemon.is_absent() {
            self.daemon.socket(self.now, &mut self.ledger);
        }
        // What can go on does so at once, and not when a clock brings the next Ping.
        while self.exchange(PLENTY) | self.agent.answer_all(&mut self.ledger) {}
        let both = self.daemon.host.is_open() && self.agent.guest.is_open();
        assert!(!both || self.ledger.is_faulty || self.ledger.pending().is_empty());
        self.settle();
        // Both may believe in a session that is not the same one: a request finds that out.
        if !self.is_answered() && !self.is_answered() {
            assert!(self.is_answered(), "the channel does not heal");
        }
        let pending = self.ledger.pending();
        assert!(
            pending.is_empty(),
            "nobody tells what became of {pending:?}"
        );
        self.check();
    }

    fn is_answered(&mut self) -> bool {
        let id = self.daemon.request(self.now, 1, &mut self.ledger);
        self.settle();
        self.ledger.is_answered(&id)
    }

    /// Until nothing is asked any more, or not soon.
    fn settle(&mut self) {
        let end = self.now + HEALS_WITHIN;
        while self.now < end && !self.ledger.pending().is_empty() {
            let moved = self.exchange(1);
            self.agent.answer_all(&mut self.ledger);
            if !moved {
                self.wait_for_timeout(false);
            }
        }
    }
}
