//! A random life of one channel: requests and faults in any order, and then peace.

use std::time::Duration;

use quantix::host::Phase;
use quantix::limits::{BACKOFF_MAX, KEEP_ALIVE, LOOK_EVERY, READY_PATIENCE};
use quantix::message::{Body, agent, encode, message};

use super::daemon::OPENS_WITHIN;
use super::ledger::{Fate, Order};
use super::pair::Pair;
use super::port::RING;

const ROUNDS: usize = 80;
const MOST_PENDING: usize = 48;

/// Once nothing fails any more and the host has a session, all requests are done after at most: a
/// keep-alive that finds out what a Ping alone does not (5 s), the time to open, and the requests'
/// own.
const DONE_WITHIN: Duration = Duration::from_secs(15);

struct Life {
    pair: Pair,
    /// Another program that has connected to the VM's socket.
    other: Option<u64>,
}

/// Lives through `seed`, and fails with an explanation.
pub fn live(seed: u64, trace: bool) -> Pair {
    let mut life = Life {
        pair: Pair::new(seed, trace),
        other: None,
    };
    // A guest that has less to say is more often asked whether it is still there.
    if life.pair.world.random.percent(50) {
        life.pair.world.report_every = Duration::from_secs(20);
    }
    for _ in 0..ROUNDS {
        if life.pair.world.random.percent(30) {
            life.mend();
        }
        match life.pair.world.random.below(10) {
            0..4 => life.ask(),
            4..9 => life.fail(),
            _ => {
                life.pair.ping();
            }
        }
        let random = &mut life.pair.world.random;
        let longest = [2, 2, 2, 50, 8_000, 8_000][random.below(6)];
        let span = random.span(Duration::from_millis(longest));
        life.pair.run(span);
    }
    life.heal();
    life.settle();
    life.pair
}

impl Life {
    fn ask(&mut self) {
        for _ in 0..self.pair.world.random.size(8) {
            if self.pair.world.ledger.pending() < MOST_PENDING {
                let order = self.order();
                self.pair.request(order);
            }
        }
    }

    fn order(&mut self) -> Order {
        let random = &mut self.pair.world.random;
        let stream = if random.percent(20) {
            random.size(600_000) as u64
        } else {
            0
        };
        let upload = if random.percent(20) {
            random.size(600_000) as u64
        } else {
            0
        };
        let takes = if random.percent(50) {
            random.span(Duration::from_secs(2))
        } else {
            Duration::ZERO
        };
        Order {
            content: random.size(100_000),
            answer: random.size(100_000),
            stream,
            upload,
            takes,
        }
    }

    /// What does not work is started again, but for an agent that is only slow.
    fn mend(&mut self) {
        if self.pair.world.port.is_gone() {
            self.replace();
        }
        self.pair.world.port.resume();
        self.pair.start_agent();
    }

    /// Something fails, or ends to fail.
    fn fail(&mut self) {
        let random = &mut self.pair.world.random;
        let span = random.span(Duration::from_secs(8));
        let reads = random.below(RING);
        let twice = random.percent(50);
        let buffer = random.size(8) - 1;
        let fault = random.below(28);
        self.pair.world.note(|| format!("fault {fault}"));
        let port = &mut self.pair.world.port;
        match fault {
            0..3 if self.pair.agent.is_none() => self.pair.start_agent(),
            0 | 1 => self.pair.restart_agent(),
            2 => self.pair.kill_agent(),
            3..6 if !port.is_running() => port.resume(),
            3 | 4 => port.pause(),
            5 => {
                self.pair.kill_agent();
                self.pair.world.port.reset();
            }
            6 => self.pair.kill_daemon(),
            7 => port.hang_up(),
            8 | 9 => self.pair.stall_agent(span),
            10 => self.pair.stall_daemon(span),
            11..14 => match self.other.take() {
                Some(id) => port.close(id, reads),
                None => {
                    self.other = port.connect();
                    self.babble();
                }
            },
            14 if port.is_gone() => self.replace(),
            14 => {
                port.quit();
                self.other = None;
                self.pair.kill_agent();
            }
            15 => port.lose_sight(),
            16 => port.lose_to_guest(buffer),
            17 => port.damage_to_host(buffer, twice),
            18 | 19 => {
                if let Some(agent) = &mut self.pair.agent {
                    agent.poisoned = true;
                }
            }
            20 | 21 if port.is_running() && !port.is_gone() => self.pair.save_guest(),
            22 if !port.is_gone() => self.pair.revert_guest(),
            23 | 24 => self.pair.save_daemon(),
            25 => self.pair.revert_daemon(),
            26 => self.pair.world.guest_clock.jump(span * 1000),
            _ => self.pair.world.host_clock.jump(span * 1000),
        }
    }

    /// What another program writes into a VM's channel.
    fn babble(&mut self) {
        let world = &mut self.pair.world;
        let bytes = match world.random.below(4) {
            0 => Vec::new(),
            1 => b"hello?\n".to_vec(),
            2 => {
                let from = world.random.below(world.ledger.former.len().max(1));
                let old = &world.ledger.former[from..];
                old[..old.len().min(100_000)].to_vec()
            }
            _ => {
                let ping = agent::Ping {
                    sequence: 1,
                    nonce: world.random.bytes().to_vec(),
                };
                let body = encode(&message("", Body::Ping(ping))).unwrap();
                let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
                bytes.extend(body);
                bytes
            }
        };
        if let Some(id) = self.other
            && !bytes.is_empty()
        {
            world.port.host_write(id, &bytes);
        }
    }

    /// QEMU starts again, and with it the guest.
    fn replace(&mut self) {
        self.pair.kill_agent();
        self.pair.world.port.restart();
        self.pair.daemon.replace_socket(&mut self.pair.world);
    }

    fn heal(&mut self) {
        self.pair.world.note(|| "peace".to_owned());
        if let Some(id) = self.other.take() {
            self.pair.world.port.close(id, 0);
        }
        self.mend();
        self.pair.stall_agent(Duration::ZERO);
        self.pair.stall_daemon(Duration::ZERO);
        if let Some(agent) = &mut self.pair.agent {
            agent.poisoned = false;
            agent.report = self.pair.world.guest_now();
        }
        self.pair.world.report_every = Duration::from_secs(1);
    }

    fn settle(&mut self) {
        let pair = &mut self.pair;
        pair.request(Order::default());
        let within = opens_within(pair);
        let before = signs(pair);
        pair.ping();
        let took = pair.run_until(within, |pair| pair.is_open() && signs(pair) > before);
        pair.world.note(|| format!("open in {took:?}"));
        pair.world.slowest = pair.world.slowest.max(took);
        pair.run_until(DONE_WITHIN, Pair::is_done);

        // Both believe that a session is open. The first request shows whether it is the same one.
        if ask(pair) != Fate::Answered {
            pair.run_until(DONE_WITHIN, Pair::is_done);
            assert_eq!(ask(pair), Fate::Answered);
        }
        let newest = |pair: &Pair| {
            let ledger = &pair.world.ledger;
            ledger.reported > 0 && ledger.received_report == ledger.reported
        };
        pair.run_until(DONE_WITHIN, |pair| Pair::is_done(pair) && newest(pair));

        // Some damage shows only when a Ping brings an acknowledgement.
        pair.run(Duration::from_secs(6));
        pair.run_until(DONE_WITHIN, Pair::is_done);

        // An idle channel is quiet: a report each second, a Ping and its Pong each five.
        let sessions = pair.world.ledger.sessions;
        let steps = pair.steps();
        pair.run(Duration::from_secs(20));
        assert_eq!(pair.world.ledger.sessions, sessions, "sessions come and go");
        assert!(pair.steps() - steps < 300, "an idle channel is busy");
        pair.run_until(Duration::from_secs(1), newest);
    }
}

/// How long the host may take to a session now that both sides are up and the port moves bytes: what
/// is left of its pause if it waits for its next connect or look, and its patience if only another
/// connect makes this port work again.
fn opens_within(pair: &Pair) -> Duration {
    let now = pair.world.host_now();
    let pause = match (pair.daemon.client, pair.daemon.host.poll_timeout()) {
        (None, Some(retry)) => retry.since(now),
        (Some(_), _) if pair.daemon.host.phase(now) == Phase::Stalled => LOOK_EVERY,
        _ => Duration::ZERO,
    };
    let cure = if pair.world.port.is_sick() {
        // The last answer may have left just before; and it looks only so often.
        KEEP_ALIVE + READY_PATIENCE.max(BACKOFF_MAX) + 2 * LOOK_EVERY
    } else {
        Duration::ZERO
    };
    OPENS_WITHIN + pause + cure
}

/// What the host has heard of a guest that is in the same session.
fn signs(pair: &Pair) -> u64 {
    pair.world.ledger.sessions + u64::from(pair.world.pongs)
}

fn ask(pair: &mut Pair) -> Fate {
    let id = pair.request(Order::default());
    let fate = |pair: &Pair| pair.world.ledger.request(&id).fate;
    pair.run_until(DONE_WITHIN, |pair| fate(pair) != Fate::Pending);
    fate(pair)
}
