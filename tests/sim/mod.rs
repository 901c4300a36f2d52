//! Guest and host joined by a model of the port, in simulated time.
//!
//! `QX_SIM_SEEDS=N` lives through N random seeds instead of the usual 2,000;
//! `QX_SIM_SEED=S` replays one and tells what happens.

// Numbers here are small, or cut on purpose to make a pattern.
#![allow(clippy::cast_possible_truncation)]

mod agent;
mod clock;
mod daemon;
mod hostile;
mod ledger;
mod life;
mod pair;
mod port;
mod queue;
pub mod random;
mod scenarios;
mod snapshots;

use std::env;
use std::time::Duration;

use ledger::Fate;

/// Says how to repeat a run that fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with QX_SIM_SEED={}", self.0);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

const SEEDS: u64 = 2000;

#[test]
fn random_lives() {
    if let Some(seed) = number("QX_SIM_SEED") {
        life::live(seed, true);
        return;
    }
    let (mut answered, mut lost, mut kept) = (0, 0, 0);
    let (mut in_session, mut in_flight, mut held, mut sessions) = (0, 0, 0, 0);
    let mut slowest = Duration::ZERO;
    for seed in 0..number("QX_SIM_SEEDS").unwrap_or(SEEDS) {
        let replay = Replay(seed);
        let pair = life::live(replay.0, false);
        let ledger = &pair.world.ledger;
        answered += ledger.count(Fate::Answered);
        lost += ledger.count(Fate::Lost);
        kept += ledger.kept();
        sessions += ledger.sessions;
        in_session = in_session.max(pair.world.most_in_session);
        in_flight = in_flight.max(pair.world.most_in_flight);
        held = held.max(pair.world.most_held);
        slowest = slowest.max(pair.world.slowest);
    }
    println!("answered {answered}, lost {lost}, kept {kept}, {sessions} sessions");
    println!("in flight: {in_session} in a session, {in_flight} in all; held: {held}");
    println!("slowest to a session: {slowest:?}");
}
