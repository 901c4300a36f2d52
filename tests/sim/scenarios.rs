//! What went wrong, or nearly did, one by one. Each runs under a few seeds, which move every read,
//! write and step of time.

use std::time::Duration;

use super::daemon::OPENS_WITHIN;
use super::ledger::{Fate, Order};
use super::pair::Pair;
use super::{Replay, number};

pub const fn millis(span: u64) -> Duration {
    Duration::from_millis(span)
}

pub const fn seconds(span: u64) -> Duration {
    Duration::from_secs(span)
}

/// A request of this size, which is answered at once.
pub fn carrying(content: usize) -> Order {
    Order {
        content,
        ..Order::default()
    }
}

pub fn answering(answer: usize) -> Order {
    Order {
        answer,
        ..Order::default()
    }
}

pub fn each_seed(run: impl Fn(&mut Pair)) {
    each_seed_from_nothing(|pair| {
        pair.start_agent();
        pair.run_until(seconds(1), Pair::is_open);
        run(pair);
    });
}

fn each_seed_from_nothing(run: impl Fn(&mut Pair)) {
    let replayed = number("QX_SIM_SEED");
    for seed in replayed.map_or(0..20, |seed| seed..seed + 1) {
        let replay = Replay(seed);
        run(&mut Pair::new(replay.0, replayed.is_some()));
    }
}

/// A guest that reports seldom, so that a request finds it silent and is sent behind a Ping.
fn fall_quiet(pair: &mut Pair) {
    pair.world.report_every = seconds(1000);
    pair.run(millis(2500));
}

/// Stops where the agent has written a part of a frame, and some of that has left the guest.
fn cut_a_frame(pair: &mut Pair) {
    pair.agent.as_mut().unwrap().is_busy = true;
    pair.request(answering(100_000));
    pair.run_until(seconds(1), Pair::is_cut);
    pair.world.port.carry_to_host();
}

#[test]
fn guest_first_then_host() {
    each_seed_from_nothing(|pair| {
        pair.world.port.quit();
        pair.run(seconds(1));
        // QEMU listens again; the daemon finds out in a while, and the agent says nothing till then.
        pair.world.port.restart();
        pair.start_agent();
        pair.run_until(seconds(6), Pair::is_open);
    });
}

#[test]
fn host_first_then_guest() {
    each_seed_from_nothing(|pair| {
        pair.run(seconds(60));
        assert_eq!(pair.world.ledger.sessions, 0);
        let id = pair.request(carrying(1000));
        pair.start_agent();
        // The first thing that it reads is the Ping that has waited for it.
        pair.run_until(millis(50), Pair::is_done);
        assert_eq!(pair.world.ledger.request(&id).fate, Fate::Answered);
        assert_eq!(pair.world.port.connects(), 1);
    });
}

#[test]
fn host_killed_mid_frame() {
    each_seed(|pair| {
        let id = pair.request(carrying(100_000));
        pair.run_until(seconds(1), |pair| pair.world.port.has_unread());
        pair.kill_daemon();
        let next = pair.request(carrying(100));
        pair.run_until(OPENS_WITHIN, |pair| {
            pair.world.ledger.request(&next).fate == Fate::Answered
        });
        assert_eq!(pair.world.ledger.request(&id).fate, Fate::Lost);
    });
}

#[test]
fn agent_killed_mid_frame_in_both_directions() {
    each_seed(|pair| {
        cut_a_frame(pair);
        let id = pair.request(carrying(100_000));
        pair.daemon.write(&mut pair.world);
        pair.world.port.carry_to_guest(usize::MAX);
        pair.restart_agent();
        // The keep-alive finds out, and the flushes clear both ways: no need to connect again.
        pair.run_until(seconds(6), |pair| pair.world.ledger.sessions == 2);
        assert_eq!(pair.world.ledger.request(&id).fate, Fate::Lost);
        let last = pair.request(Order::default());
        pair.run_until(seconds(1), Pair::is_done);
        assert_eq!(pair.world.ledger.request(&last).fate, Fate::Answered);
        assert_eq!(pair.world.port.connects(), 1);
    });
}

/// The new client gets the tail of a frame whose head the old one had.
#[test]
fn a_reconnect_that_the_guest_never_saw_opens_a_session() {
    each_seed(|pair| {
        cut_a_frame(pair);
        pair.stall_agent(millis(100));
        for _ in 0..3 {
            pair.kill_daemon();
            pair.run(millis(10));
        }
        pair.run_until(OPENS_WITHIN, Pair::is_open);
        assert_eq!(pair.world.port.connects(), 4);
    });
}

#[test]
fn request_behind_a_ping_to_a_restarted_agent_is_sent_again_once() {
    each_seed(|pair| {
        fall_quiet(pair);
        pair.kill_agent();
        let ids = [carrying(10), carrying(90_000), carrying(20)].map(|order| pair.request(order));
        pair.run(seconds(1));
        pair.start_agent();
        pair.run_until(OPENS_WITHIN, Pair::is_done);
        for id in &ids {
            let request = pair.world.ledger.request(id);
            assert_eq!((request.fate, request.kept), (Fate::Answered, 1));
        }
    });
}

/// The keep-alive that waits in front of both is answered, not the Ping right before the request.
#[test]
fn request_behind_two_pings_to_a_restarted_agent_is_sent_again_once() {
    each_seed(|pair| {
        pair.kill_agent();
        pair.run(seconds(6));
        let id = pair.request(carrying(10));
        pair.start_agent();
        pair.run_until(OPENS_WITHIN, Pair::is_done);
        let request = pair.world.ledger.request(&id);
        assert_eq!((request.fate, request.kept), (Fate::Answered, 1));
    });
}

/// Its Ping was read, but died with the agent; a later one is answered by the next agent.
#[test]
fn request_that_killed_the_agent_is_not_sent_again() {
    each_seed(|pair| {
        fall_quiet(pair);
        pair.agent.as_mut().unwrap().poisoned = true;
        let id = pair.request(carrying(10));
        pair.run_until(seconds(1), |pair| pair.agent.is_none());
        pair.start_agent();
        pair.run_until(seconds(8), |pair| pair.world.ledger.sessions == 2);
        let request = pair.world.ledger.request(&id);
        assert_eq!((request.fate, request.executed), (Fate::Lost, 1));
    });
}

#[test]
fn two_full_windows_do_not_block_each_other() {
    each_seed(|pair| {
        for _ in 0..5 {
            pair.request(answering(100_000));
        }
        pair.run_until(seconds(1), |pair| pair.world.port.in_flight(None).0 > 0);
        pair.stall_daemon(millis(500));
        pair.run(millis(499));
        // The guest's window is full. Now the host's gets full, whose answers must wait.
        pair.stall_agent(seconds(1));
        for _ in 0..5 {
            pair.request(Order {
                content: 100_000,
                answer: 100_000,
                ..Order::default()
            });
        }
        pair.run(millis(900));
        let answered = pair.world.ledger.count(Fate::Answered);
        assert!(answered < 10, "{answered} answered, no window was full");
        pair.run_until(seconds(1), Pair::is_done);
        assert_eq!(pair.world.ledger.count(Fate::Answered), 10);
        assert_eq!(pair.world.ledger.sessions, 1);
    });
}

#[test]
fn a_stalled_reader_gets_the_newest_telemetry_only() {
    each_seed(|pair| {
        for _ in 0..4 {
            pair.request(answering(100_000));
        }
        pair.run_until(seconds(1), |pair| pair.world.ledger.executed() == 4);
        pair.stall_daemon(seconds(20));
        pair.run(seconds(20));
        let before = pair.world.ledger.reports;
        pair.run(millis(500));
        let ledger = &pair.world.ledger;
        assert_eq!(ledger.received_report, ledger.reported);
        assert!(ledger.reports - before <= 2, "old reports were kept");
        assert!(pair.agent.as_mut().unwrap().guest.coalesced() >= 17);
        assert_eq!(ledger.sessions, 1);
    });
}

/// Nothing else fills its window: reports alone must not.
#[test]
fn a_host_that_stops_reading_finds_few_old_reports() {
    each_seed(|pair| {
        pair.run(millis(100));
        let before = pair.world.ledger.reports;
        pair.stall_daemon(seconds(29));
        pair.run(seconds(29));
        pair.run(millis(500));
        let ledger = &pair.world.ledger;
        assert_eq!(ledger.received_report, ledger.reported);
        let found = ledger.reports - before;
        assert!((2..=10).contains(&found), "{found} reports");
        assert!(pair.agent.as_mut().unwrap().guest.coalesced() >= 15);
    });
}

#[test]
fn a_ping_passes_streams_by() {
    each_seed(|pair| {
        for _ in 0..3 {
            pair.request(Order {
                stream: 10_000_000,
                ..Order::default()
            });
        }
        for _ in 0..20 {
            pair.run(millis(5));
            pair.ping();
        }
        assert!(
            pair.world.ledger.pending() > 0,
            "the streams ended too soon"
        );
        pair.run_until(seconds(20), Pair::is_done);
        assert!(pair.world.longest_round_trip < millis(50));
        assert!(pair.world.pongs >= 20, "{} Pongs", pair.world.pongs);
    });
}

/// Four streams, two each way; one of the guest's readers takes nothing for a second.
#[test]
fn a_slow_reader_slows_no_other_stream() {
    each_seed(|pair| {
        let order = |stream, upload, takes| Order {
            stream,
            upload,
            takes,
            ..Order::default()
        };
        let slow = pair.request(order(0, 2_000_000, seconds(1)));
        for (stream, upload) in [(2_000_000, 0), (2_000_000, 0), (0, 2_000_000)] {
            pair.request(order(stream, upload, Duration::ZERO));
        }
        pair.run(millis(900));
        let ledger = &pair.world.ledger;
        assert_eq!(ledger.count(Fate::Answered), 3);
        assert_eq!(ledger.request(&slow).fate, Fate::Pending);
        pair.run_until(seconds(20), Pair::is_done);
        assert_eq!(pair.world.ledger.count(Fate::Answered), 4);
    });
}

#[test]
fn a_paused_guest_keeps_its_session() {
    each_seed(|pair| {
        pair.request(Order {
            stream: 1_000_000,
            ..Order::default()
        });
        pair.run(millis(3));
        pair.world.port.pause();
        pair.run(seconds(20));
        assert_eq!(pair.world.port.connects(), 1);
        pair.world.port.resume();
        pair.run_until(OPENS_WITHIN, Pair::is_done);
        assert_eq!(pair.world.ledger.count(Fate::Answered), 1);
        assert_eq!(pair.world.ledger.sessions, 1);
    });
}

/// A client that leaves during a pause leaves a port behind that no longer sends.
#[test]
fn a_mute_port_is_cured_by_another_connect() {
    each_seed(|pair| {
        pair.world.port.pause();
        pair.run(millis(10));
        let id = pair.daemon.client.unwrap();
        pair.world.port.close(id, 0);
        pair.daemon.stalled = pair.world.now + seconds(3);
        pair.world.port.resume();
        pair.run(seconds(3));
        pair.run_until(OPENS_WITHIN, Pair::is_done);
        pair.request(Order::default());
        pair.run_until(OPENS_WITHIN, Pair::is_done);
        assert_eq!(pair.world.port.connects(), 3);
    });
}

/// The guest believes that nobody is there though it reads our bytes.
#[test]
fn a_port_that_lost_sight_is_cured_by_another_connect() {
    each_seed_from_nothing(|pair| {
        pair.run(millis(100));
        pair.world.port.lose_sight();
        pair.start_agent();
        pair.run_until(OPENS_WITHIN, Pair::is_open);
        assert_eq!(pair.world.port.connects(), 2);
    });
}

#[test]
fn behind_another_client_the_host_waits_in_the_queue() {
    each_seed_from_nothing(|pair| {
        let other = pair.world.port.connect().unwrap();
        pair.start_agent();
        pair.run(seconds(60));
        assert_eq!(pair.world.ledger.sessions, 0);
        assert_eq!(pair.world.port.connects(), 2);
        pair.world.port.close(other, 0);
        pair.run_until(millis(300), Pair::is_open);
    });
}

/// The host's one flush goes to an agent that hangs. Then another client leaves the guest inside of
/// something that is no frame: it takes one more flush.
#[test]
fn what_another_client_wrote_does_not_shut_the_host_out() {
    each_seed(|pair| {
        pair.stall_agent(seconds(30));
        let other = pair.world.port.connect().unwrap();
        pair.world.port.host_write(other, b"hello?\n");
        pair.request(carrying(10));
        pair.run_until(seconds(20), |pair| pair.world.port.serves(other));
        pair.run(millis(5));
        pair.world.port.close(other, 9);
        pair.stall_agent(Duration::ZERO);
        pair.run_until(seconds(5) + OPENS_WITHIN, Pair::is_done);
    });
}

/// The end of a session that could not be written any more is not the next host's business.
#[test]
fn a_guest_says_nothing_to_a_host_that_it_has_not_heard() {
    each_seed(|pair| {
        pair.run(millis(100));
        let Pair {
            world,
            daemon,
            agent,
            ..
        } = pair;
        let agent = agent.as_mut().unwrap();
        for _ in 0..2 {
            daemon.request(world, carrying(10));
            while daemon.write(world) {}
            world.port.carry_to_guest(usize::MAX);
        }
        world.port.lose_to_guest(0);
        while agent.read(world) {}
        world.port.hang_up();
        world.port.inform();
        while agent.read(world) {}
        agent.write(world);
        assert!(!agent.guest.is_open());
        pair.run_until(OPENS_WITHIN, Pair::is_open);
    });
}

#[test]
fn a_socket_that_refuses_is_tried_ever_less_often() {
    each_seed_from_nothing(|pair| {
        pair.world.port.quit();
        pair.run(seconds(60));
        assert!(pair.steps() < 20, "{} steps", pair.steps());
    });
}
