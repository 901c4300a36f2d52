//! How often something may happen: so many times at once, and once more after each pause. Pure.

use std::time::Duration;

use crate::time::Time;

/// What may still happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    burst: u32,
    refill: Duration,
    tokens: u32,
    refilled: Time,
}

impl Rate {
    /// `burst` at once, and one more after each `refill`.
    pub const fn new(burst: u32, refill: Duration) -> Self {
        Self {
            burst,
            refill,
            tokens: burst,
            refilled: Time::from_micros(0),
        }
    }

    /// Whether one more may come now.
    pub fn take(&mut self, now: Time) -> bool {
        let pause = self.refill.as_micros().max(1);
        let gained = now.since(self.refilled).as_micros() / pause;
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(self.burst);
            self.tokens = self.tokens.saturating_add(gained).min(self.burst);
            self.refilled = now;
        }
        let taken = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        taken
    }

    /// How long after `now` the next may come, where none may.
    pub fn wait(&self, now: Time) -> Duration {
        self.refill.saturating_sub(now.since(self.refilled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_one_more_after_each_pause() {
        let at = |millis: u64| Time::from_micros(3_600_000_000 + millis * 1000);
        let mut rate = Rate::new(2, Duration::from_secs(1));
        let taken: Vec<bool> = [0, 1, 2, 999, 1000, 1001]
            .map(|millis| rate.take(at(millis)))
            .into();
        assert_eq!(taken, [true, true, false, false, true, false]);
        assert_eq!(rate.wait(at(1250)), Duration::from_millis(750));
        // However long nothing has come, no more than so many may.
        let taken: Vec<bool> = [60_000, 60_000, 60_000]
            .map(|millis| rate.take(at(millis)))
            .into();
        assert_eq!(taken, [true, true, false]);
    }
}
