//! The clocks: what the kernel tells the time by, and whether the wall clock was ever set.

use std::path::Path;

use quantix::rt::check::{Check, Status};
use quantix::rt::clock;

const NAME: &str = "clock";

/// 2024-01-01, before which there was no agent.
const PLAUSIBLE: i64 = 1_704_067_200;

pub fn check(root: &Path) -> Check {
    let source = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = super::read(&root.join(source)).unwrap_or_default();
    judge(source.trim(), clock::wall().seconds)
}

fn judge(source: &str, seconds: i64) -> Check {
    let source = if source.is_empty() { "unknown" } else { source };
    let seen = format!("source {source}; {seconds} s since 1970");
    match seconds < PLAUSIBLE {
        false => Check::ok(NAME, seen),
        true => Check::of(
            NAME,
            Status::Warn,
            seen,
            "the wall clock was never set",
            "hwclock --hctosys",
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
        assert!(judge("", 0).evidence.contains("unknown"));
    }
}
