//! Sides that are put back to what they were, and clocks that jump: the two no longer agree on what was
//! said, and neither is told.

use super::ledger::{Fate, Order};
use super::pair::Pair;
use super::scenarios::{answering, carrying, each_seed, millis, seconds};

/// The channel is good for something again.
fn works(pair: &mut Pair) {
    pair.run_until(seconds(2), Pair::is_done);
    let last = pair.request(carrying(100_000));
    pair.run_until(seconds(2), Pair::is_done);
    assert_eq!(pair.world.ledger.request(&last).fate, Fate::Answered);
}

#[test]
fn a_guest_put_back_within_its_session_opens_another() {
    each_seed(|pair| {
        pair.world.report_every = seconds(1000);
        pair.run(seconds(3));
        pair.save_guest();
        pair.request(carrying(10));
        pair.run_until(seconds(1), Pair::is_done);
        pair.revert_guest();
        pair.ping();
        pair.run_until(millis(500), |pair| {
            pair.world.ledger.sessions == 2 && pair.is_open()
        });
        works(pair);
        assert_eq!(pair.world.port.connects(), 1);
    });
}

/// It speaks of a session that the host has left behind, and so gives itself away.
#[test]
fn a_guest_put_back_to_an_older_session_is_found_by_what_it_says() {
    each_seed(|pair| {
        pair.run(millis(1500));
        pair.save_guest();
        pair.kill_daemon();
        pair.run_until(seconds(2), Pair::is_open);
        pair.run(millis(2500));
        pair.revert_guest();
        // The next report comes within a second; the next keep-alive could take five.
        pair.run_until(millis(1200), |pair| pair.world.ledger.sessions == 3);
        works(pair);
    });
}

/// The request is of a session that the guest does not know yet. It is lost, but told at once.
#[test]
fn a_request_to_a_guest_put_back_to_an_older_session_does_not_wait_for_a_keep_alive() {
    each_seed(|pair| {
        pair.save_guest();
        pair.kill_daemon();
        pair.run_until(seconds(2), Pair::is_open);
        pair.run(millis(800));
        pair.world.report_every = seconds(1000);
        pair.revert_guest();
        if let Some(agent) = &mut pair.agent {
            agent.report = pair.world.guest_now() + seconds(1000);
        }
        let id = pair.request(carrying(10));
        pair.run_until(millis(200), Pair::is_done);
        assert_ne!(pair.world.ledger.request(&id).fate, Fate::Pending);
        works(pair);
    });
}

#[test]
fn a_guest_put_back_in_the_middle_of_transfers_ends_them_cleanly() {
    each_seed(|pair| {
        for _ in 0..3 {
            pair.request(Order {
                content: 100_000,
                stream: 5_000_000,
                ..Order::default()
            });
        }
        pair.run(millis(10));
        pair.save_guest();
        pair.run(millis(20));
        pair.revert_guest();
        pair.run(millis(20));
        pair.revert_guest();
        works(pair);
    });
}

#[test]
fn a_host_put_back_in_the_middle_of_transfers_ends_them_cleanly() {
    each_seed(|pair| {
        pair.request(Order {
            stream: 5_000_000,
            ..Order::default()
        });
        pair.run(millis(10));
        pair.save_daemon();
        pair.request(answering(100_000));
        pair.run(millis(20));
        pair.revert_daemon();
        works(pair);
    });
}

/// Idle bytes bear no number, but a window counts them.
#[test]
fn flushes_that_a_guest_put_back_never_read_do_not_shut_the_window() {
    each_seed(|pair| {
        pair.world.report_every = seconds(1000);
        pair.run(seconds(3));
        for _ in 0..2 {
            pair.stall_agent(seconds(60));
            pair.ping();
            pair.run(millis(20));
            // What is behind the flush has a number; so a part of it is lost, and no more.
            pair.save_guest();
            pair.run_until(seconds(2), |pair| pair.world.port.is_carrying());
            pair.revert_guest();
            pair.run(seconds(2));
        }
        works(pair);
        assert_eq!(pair.world.port.connects(), 1);
    });
}

/// The flush that frees it has gone to the guest that is no more.
#[test]
fn a_guest_put_back_into_a_frame_while_it_is_asked_is_flushed_again() {
    each_seed(|pair| {
        pair.request(carrying(100_000));
        pair.run_until(seconds(1), |pair| pair.world.port.has_unread());
        pair.save_guest();
        pair.run_until(seconds(1), Pair::is_done);
        pair.stall_agent(seconds(60));
        pair.ping();
        pair.run(millis(1500));
        pair.revert_guest();
        pair.run_until(seconds(3), Pair::is_done);
        works(pair);
        assert_eq!(pair.world.port.connects(), 1);
    });
}

#[test]
fn clocks_that_jump_a_day_cost_a_session_at_most() {
    each_seed(|pair| {
        let day = seconds(86_400);
        pair.world.guest_clock.jump(day);
        pair.run_until(seconds(6), |pair| pair.world.ledger.sessions == 2);
        works(pair);
        pair.world.host_clock.jump(day);
        works(pair);
        assert_eq!(pair.world.ledger.sessions, 2);
    });
}
