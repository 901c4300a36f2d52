//! What /proc/PID/stat says of a process (proc_pid_stat(5)).

use std::time::Duration;

/// As far as anybody needs it here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat<'a> {
    /// A letter, as `T` for one that is stopped.
    pub state: &'a str,
    /// When it began, since boot.
    pub started: Duration,
}

/// What the kernel counts in, a USER_HZ, on every system that this runs on.
const TICK_MS: u64 = 10;

impl<'a> Stat<'a> {
    /// Of the file's text: `pid (name) state ppid ...`, where the name may have any characters in it.
    pub fn parse(stat: &'a str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.trim_ascii_start().split(' ');
        let state = fields.next()?;
        let started: u64 = fields.nth(18)?.parse().ok()?;
        Some(Self {
            state,
            started: Duration::from_millis(started.saturating_mul(TICK_MS)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_behind_any_name() {
        let stat = "123 (a) R 9 (b) S 1 123 123 0 -1 4194560 226 0 0 0 0 0 0 0 17 -3 1 0 \
            456789 1 2";
        let found = Stat {
            state: "S",
            started: Duration::from_millis(4_567_890),
        };
        assert_eq!(Stat::parse(stat), Some(found));
        assert_eq!(Stat::parse("123 (a) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
