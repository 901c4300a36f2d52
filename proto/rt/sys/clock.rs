//! The kernel's clocks, read once per turn of a loop and handed to the core.

use std::io;
use std::time::Duration;

use super::check;
use crate::message::agent::Timestamp;
use crate::time::Time;

/// CLOCK_MONOTONIC: for deadlines.
pub fn now() -> Time {
    let span = read(libc::CLOCK_MONOTONIC);
    Time::from_micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
}

/// CLOCK_REALTIME: the wall clock.
pub fn wall() -> Timestamp {
    let span = read(libc::CLOCK_REALTIME);
    Timestamp {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// CLOCK_BOOTTIME: seconds since boot, suspend included (kernel 2.6.39 and newer).
pub fn uptime_seconds() -> u64 {
    read(libc::CLOCK_BOOTTIME).as_secs()
}

/// Sets CLOCK_REALTIME.
///
/// # Errors
/// EPERM; EINVAL: before 1970, or so early that the boot would have been before that (clock_settime(2)).
pub fn set_wall(to: Timestamp) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: to.seconds,
        tv_nsec: to.nanos.into(),
    };
    // SAFETY: the call reads one timespec, which lives for its length.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) })?;
    Ok(())
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for one timespec for the length of the call.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if result != 0 {
        return Duration::ZERO;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
