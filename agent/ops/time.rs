//! The guest's clocks, without hwclock(8), which small images do not have: the wall clock by
//! clock_settime(2), the battery-backed one by ioctl(2).

use std::fs::{self, File};
use std::io::{self, ErrorKind};

use quantix::error::{Code, Failure, system_text};
use quantix::message::agent::{SyncTime, TimeReport, Timestamp};
use quantix::rt::civil::Civil;
use quantix::rt::clock;
use quantix::rt::sys::rtc;

/// Where a battery-backed clock is, the one that the kernel itself uses first.
const RTCS: [&str; 3] = ["/dev/rtc0", "/dev/rtc", "/dev/misc/rtc"];

/// Seconds from 1970 to 2200: what is later is a mistake, and no clock of a PC shows it.
const LATEST: i64 = 7_258_118_400;

const BILLION: i128 = 1_000_000_000;

/// Reads the clocks, and sets them if that is asked for.
pub fn sync(request: &SyncTime) -> Result<TimeReport, Failure> {
    let before = clock::wall();
    let to = match (&request.set_time, request.step_ns) {
        (Some(_), step) if step != 0 => {
            let why = "a clock is set or stepped, not both";
            return Err(Failure::new(Code::Invalid, why));
        }
        (Some(to), _) => Some(*to),
        (None, 0) => None,
        (None, step) => Some(later(before, step)),
    };
    let rtc = match to {
        None => read_rtc(),
        Some(to) => {
            check(to)?;
            clock::set_wall(to).map_err(|e| Failure::system("set", "the clock", &e))?;
            set_rtc(to).and_then(|()| read_rtc())
        }
    };
    let (rtc, problem) = match rtc {
        Ok(rtc) => (Some(rtc), String::new()),
        Err(problem) => (None, problem),
    };
    Ok(TimeReport {
        before: Some(before),
        now: Some(clock::wall()),
        rtc,
        rtc_problem: problem,
    })
}

/// So many nanoseconds behind this time; no time that can be set if that is none.
fn later(from: Timestamp, step: i64) -> Timestamp {
    let nanos = i128::from(from.seconds) * BILLION + i128::from(from.nanos) + i128::from(step);
    Timestamp {
        seconds: i64::try_from(nanos.div_euclid(BILLION)).unwrap_or(-1),
        nanos: i32::try_from(nanos.rem_euclid(BILLION)).unwrap_or(0),
    }
}

fn check(to: Timestamp) -> Result<(), Failure> {
    if (0..LATEST).contains(&to.seconds) && (0..1_000_000_000).contains(&to.nanos) {
        return Ok(());
    }
    let date = Civil::of(to.seconds);
    let why = format!("{date}: a clock is set to a time from 1970 to 2199");
    Err(Failure::new(Code::Invalid, why))
}

/// Errors are for people.
fn set_rtc(to: Timestamp) -> Result<(), String> {
    // Windows beside it wants that, and only whoever keeps the offset knows by how much.
    let adjust = fs::read_to_string("/etc/adjtime").unwrap_or_default();
    if adjust
        .lines()
        .nth(2)
        .is_some_and(|line| line.trim() == "LOCAL")
    {
        return Err("not set: /etc/adjtime says that it runs on local time".to_owned());
    }
    let (path, rtc) = open()?;
    rtc::set(&rtc, Civil::of(to.seconds)).map_err(|e| format!("{path}: {}", system_text(&e)))
}

fn read_rtc() -> Result<Timestamp, String> {
    let (path, rtc) = open()?;
    let shown = rtc::read(&rtc).map_err(|e| format!("{path}: {}", system_text(&e)))?;
    let seconds = shown.seconds();
    let seconds = seconds.ok_or_else(|| format!("{path}: shows no time that there is"))?;
    Ok(Timestamp { seconds, nanos: 0 })
}

fn open() -> Result<(&'static str, File), String> {
    let mut why = io::Error::from(ErrorKind::NotFound);
    for path in RTCS {
        match File::open(path) {
            Ok(rtc) => return Ok((path, rtc)),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => why = e,
        }
    }
    Err(match why.kind() {
        ErrorKind::NotFound => "this guest has none".to_owned(),
        _ => format!("{}: {}", RTCS[0], system_text(&why)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_carries_over_the_second() {
        let from = Timestamp {
            seconds: 100,
            nanos: 900_000_000,
        };
        let at = |step| {
            let to = later(from, step);
            (to.seconds, to.nanos)
        };
        assert_eq!(at(200_000_000), (101, 100_000_000));
        assert_eq!(at(-1_000_000_000), (99, 900_000_000));
        assert_eq!(at(-901_000_000), (99, 999_000_000));
        assert!(check(later(from, i64::MIN)).is_err());
    }

    #[test]
    fn only_times_that_can_be_meant_are_set() {
        let check = |seconds| {
            let to = Timestamp { seconds, nanos: 0 };
            super::check(to)
        };
        assert!(check(1_700_000_000).is_ok());
        let year_1960 = check(-315_619_200).unwrap_err();
        assert_eq!(year_1960.code, Code::Invalid);
        assert!(
            year_1960
                .message
                .starts_with("1960-01-01 00:00:00: a clock")
        );
        assert!(check(LATEST).is_err());
        assert!(check(i64::MAX).is_err());
        assert!(check(i64::MIN).is_err());
    }
}
