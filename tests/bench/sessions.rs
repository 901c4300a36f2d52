//! How long until a session is open, after each of the things that end one. A core of the host without a
//! daemon around it asks for each; see [`host`](crate::host).

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::host::Peer;
use crate::vm::Vm;
use crate::{Outcome, Samples, micros};

/// For what has just happened to be over: this is not timed.
const PAUSE: Duration = Duration::from_millis(20);

/// What the agent prints when it has the port.
const OPEN: &str = "quantix-kvm-agent: port";

/// The figures, in microseconds.
#[derive(Default)]
pub struct Sessions {
    /// From connect(2): the host before has left in good order.
    clean: Samples,
    /// From connect(2): the agent is new, and no host has been there for it.
    guest_first: Samples,
    /// From connect(2), at once after the host before was gone: amid transfers in both directions, inside
    /// a frame of its own and one of the guest's.
    host_killed: Samples,
    /// From the Ping of a host that stays connected, sent when the next agent has the port: the one
    /// before was killed amid transfers.
    agent_killed: Samples,
    /// From the end of loadvm, when a host that stays connected sends a Ping: the guest was amid
    /// transfers in the snapshot, and again before it was reverted.
    reverted: Samples,
}

/// Opens sessions, so many in each way. No daemon may run.
pub fn measure(vm: &Vm, rounds: usize) -> Outcome<Sessions> {
    let mut sessions = Sessions::default();
    let mut peer = Peer::open(vm.socket())?.0;
    peer.spawn("truncate -s 8G /tmp/endless")?;
    peer.wait_report()?;
    eprintln!("sessions: clean");
    for _ in 0..rounds {
        drop(peer);
        sleep(PAUSE);
        let took;
        (peer, took) = Peer::open(vm.socket())?;
        sessions.clean.add(took);
        peer.wait_report()?;
    }
    eprintln!("sessions: guest first");
    for _ in 0..rounds {
        let before = vm.count(OPEN);
        peer.spawn("sleep 0.1; kill $(cut -d' ' -f4 /proc/$PPID/stat)")?;
        drop(peer);
        vm.wait_for(OPEN, before + 1)?;
        let took;
        (peer, took) = Peer::open(vm.socket())?;
        sessions.guest_first.add(took);
        peer.wait_report()?;
    }
    eprintln!("sessions: host killed");
    for round in 0..rounds {
        peer.transfer(moved(round))?;
        peer.break_off()?;
        let took;
        (peer, took) = Peer::open(vm.socket())?;
        sessions.host_killed.add(took);
        peer.wait_report()?;
    }
    eprintln!("sessions: agent killed");
    for round in 0..rounds {
        let before = vm.count(OPEN);
        peer.transfer(moved(round))?;
        peer.spawn("sleep 0.05; kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)")?;
        let opened = peer.run_until(|| vm.count(OPEN) > before)?;
        let begun = Instant::now();
        if !opened {
            peer.ping();
            peer.wait_opened()?;
        }
        sessions.agent_killed.add(micros(begun));
        peer.wait_report()?;
    }
    eprintln!("sessions: reverted");
    let mut qmp = vm.qmp();
    peer.transfer(moved(0))?;
    qmp.human("savevm bench");
    for round in 0..rounds {
        // Without this the guest of the first round would be what it was, and nothing would end.
        peer.receive(moved(round))?;
        qmp.human("loadvm bench");
        let begun = Instant::now();
        peer.ping();
        peer.wait_opened()
            .map_err(|e| format!("round {round}: {e}"))?;
        sessions.reverted.add(micros(begun));
        peer.wait_report()?;
        peer.transfer(moved(round))?;
    }
    Ok(sessions)
}

/// Where a round's transfers are cut: somewhere else in each.
const fn moved(round: usize) -> u64 {
    100_000 + (round as u64 * 618_034) % 2_000_000
}

impl Sessions {
    /// A table; beside each the port without us: a round trip, and one right after a revert.
    pub fn print(&self, bare: f64, bare_reverted: f64) {
        let rounds = self.clean.0.len();
        println!(
            "\n| Until a session is open, {rounds} times each | Median | Worst | Bare round trip | \
             Median : bare | Worst : bare |\n|---|---|---|---|---|---|"
        );
        let rows = [
            ("A host comes after one that has left", &self.clean, bare),
            ("The first host of a new agent", &self.guest_first, bare),
            (
                "After a host that was killed inside a frame",
                &self.host_killed,
                bare,
            ),
            (
                "After an agent that was killed inside a frame",
                &self.agent_killed,
                bare,
            ),
            (
                "After a revert into the middle of transfers",
                &self.reverted,
                bare_reverted,
            ),
        ];
        for (what, samples, bare) in rows {
            let (median, worst) = (samples.median(), samples.worst());
            println!(
                "| {what} | {:.2} ms | {:.2} ms | {:.2} ms | {:.1} | {:.1} |",
                median / 1e3,
                worst / 1e3,
                bare / 1e3,
                median / bare,
                worst / bare
            );
        }
    }
}
