//! A list of operations on a guest and a host that are joined by a pipe which loses, repeats and
//! mixes bytes; after each the invariants, and at the end peace, in which the channel must heal.
//!
//! Four bytes are an operation: what is done, and three numbers for how. So each input means
//! something, and what is cut out of the middle leaves the rest as it was.

mod agent;
mod daemon;
mod ledger;
mod pipe;
mod world;
mod written;

use std::time::Duration;

use pipe::Fault;
use world::World;

/// More operations find nothing that fewer do not, and take longer.
const MOST: usize = 250;

pub fn run(data: &[u8]) {
    let mut world = World::new();
    for op in data.chunks_exact(4).take(MOST) {
        step(
            &mut world,
            op[0],
            op[1],
            usize::from(op[2]),
            usize::from(op[3]),
        );
        world.check();
    }
    world.heal();
}

/// How many kinds of operations there are.
pub const KINDS: u8 = 25;

/// Those that harm bytes, connections or programs.
#[cfg(test)]
pub const FAULTS: std::ops::Range<u8> = 19..23;

fn step(world: &mut World, kind: u8, flag: u8, a: usize, b: usize) {
    // As often short as long.
    let size = if flag & 1 == 0 { a } else { (a << 8 | b) * 2 };
    match kind % KINDS {
        0 | 1 => world.request(size % 131_000),
        2 => world.withdraw(a),
        3 => world.cancel(a),
        4 => world.ask_ping(),
        5 => world.probe(),
        6 => world.send_to_guest(a, size % 32_000),
        7 => world.credit_to_guest(a, b),
        8 | 9 => world.answer(a, size),
        10 => world.stream(b, size % 32_512),
        11 => world.report(size),
        12 => match flag % 4 {
            0 => world.announce(),
            1 => world.grant(a, b),
            2 => world.drop_stream(a),
            _ => world.close(),
        },
        13..17 => {
            let part = (flag & 2 != 0).then_some(b);
            match kind % KINDS {
                13 => world.host_writes(a % 40, part),
                14 => world.guest_writes(a % 40, part),
                15 => world.guest_reads(a % 40, part),
                _ => world.host_reads(a % 40, part),
            };
        }
        17 => world.wait(Duration::from_micros((a as u64) << (b % 18))),
        18 => world.wait_for_timeout(flag & 1 != 0),
        19 => world.fault_to_guest(Fault::from(flag), a, b),
        20 => world.fault_to_host(Fault::from(flag), a, b),
        21 => world.connection(flag, a, b),
        22 => world.port(flag),
        _ => {
            world.exchange(a % 8 + 1);
        }
    }
}
