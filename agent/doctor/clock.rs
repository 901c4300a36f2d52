//! The clocks: what the kernel tells the time by, and whether the wall clock was ever set.

use quantix::rt::check::{Check, Status};
use quantix::rt::clock;

use super::{Guest, fine, found};

const NAME: &str = "clock";

/// 2024-01-01, before which there was no agent.
const PLAUSIBLE: i64 = 1_704_067_200;

pub fn check(guest: &mut Guest) -> Check {
    let source = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = guest.read(source);
    judge(source.trim_ascii(), clock::wall().seconds)
}

fn judge(source: &str, seconds: i64) -> Check {
    let seen = format_args!("source {source}; {} s since 1970", seconds.unsigned_abs());
    match seconds < PLAUSIBLE {
        false => fine(NAME, seen),
        true => found(
            NAME,
            Status::Warn,
            seen,
            format_args!("the wall clock was never set"),
            format_args!("hwclock --hctosys"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_before_the_first_agent_was_never_set() {
        assert_eq!(judge("kvm-clock", PLAUSIBLE).status, Status::Ok);
        assert_eq!(judge("kvm-clock", PLAUSIBLE - 1).status, Status::Warn);
        assert!(judge("tsc", 0).evidence.contains("tsc; 0 s"));
    }
}
