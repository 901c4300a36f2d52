//! How often the host connects: the pauses between connects that bring no valid frame get longer.
//!
//! They count from one connect to the next, not from the end of a connection: a guest that does not
//! answer finds our Ping in its port whenever it comes back, instead of a host that waits outside.

use std::time::Duration;

use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, LOOK_EVERY};
use crate::time::Time;

/// When the next connect may come.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    last: Option<Time>,
    /// What has to pass after the last connect; `None`: it brought a valid frame.
    pause: Option<Duration>,
}

impl Pace {
    /// Notes a connect, or a try.
    pub fn on_connect(&mut self, now: Time) {
        self.last = Some(now);
        self.pause = Some(
            self.pause
                .map_or(BACKOFF_MIN, |pause| (pause * 2).min(BACKOFF_MAX)),
        );
    }

    /// The connection is good for something: the next pause is the shortest again.
    pub const fn on_valid(&mut self) {
        self.pause = None;
    }

    /// When the next connect may come: at once, if the last was long ago.
    pub fn next(&self, now: Time) -> Time {
        self.after(now, self.pause.unwrap_or(BACKOFF_MIN))
    }

    /// The same where other clients stand before us: a try costs nobody anything.
    pub fn next_try(&self, now: Time) -> Time {
        self.after(now, self.pause.unwrap_or(BACKOFF_MIN).min(LOOK_EVERY))
    }

    fn after(&self, now: Time, pause: Duration) -> Time {
        self.last.map_or(now, |last| now.max(last + pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    #[test]
    fn pauses_double_from_connect_to_connect_until_a_frame_comes() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(at(7)), at(7));
        let mut now = at(1000);
        for pause in [200, 400, 800, 1600, 3200, 5000, 5000] {
            pace.on_connect(now);
            assert_eq!(pace.next(now), now + Duration::from_millis(pause));
            assert_eq!(
                pace.next_try(now),
                now + Duration::from_millis(pause.min(1000))
            );
            now = pace.next(now);
        }
        pace.on_valid();
        assert_eq!(pace.next(now), now);
        pace.on_connect(now);
        assert_eq!(pace.next(now), now + Duration::from_millis(200));
    }
}
