//! A side's own clock: it can stand elsewhere than the world's, jump ahead, and go back when its side
//! is put back to what it was.

use std::time::Duration;

use quantix::time::Time;

#[derive(Clone, Copy, Default)]
pub struct Clock {
    /// Microseconds before the world's.
    ahead: i64,
}

impl Clock {
    /// What this clock shows when the world's shows `world`.
    pub fn read(self, world: Time) -> Time {
        shift(world, self.ahead)
    }

    /// When the world's clock will show, or showed, what this one calls `own`.
    pub fn world(self, own: Time) -> Time {
        shift(own, -self.ahead)
    }

    pub fn jump(&mut self, span: Duration) {
        self.ahead += i64::try_from(span.as_micros()).unwrap();
    }

    /// Its side goes on from where it was at `then`.
    pub fn go_back(&mut self, then: Time, now: Time) {
        self.ahead -= i64::try_from(now.since(then).as_micros()).unwrap();
    }
}

fn shift(time: Time, by: i64) -> Time {
    Time::from_micros(time.micros().checked_add_signed(by).unwrap())
}
