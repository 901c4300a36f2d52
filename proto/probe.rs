//! Whether one of the host's Pings waits for its answer, and when to look what became of it.

use std::time::Duration;

use crate::limits::{LOOK_AFTER, LOOK_EVERY};
use crate::time::Time;

/// The state of asking.
#[derive(Clone, Copy, Debug)]
pub enum Probe {
    /// No Ping waits. One is sent at this time.
    Quiet(Time),
    /// One does, or several.
    Asked(Asked),
}

/// A Ping that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    since: Time,
    look: Time,
    pause: Duration,
    taken: Taken,
}

/// What the last look showed.
#[derive(Clone, Copy, Debug)]
enum Taken {
    /// There was none yet.
    Unknown,
    /// Bytes of ours wait in the socket: the guest's port is closed, the VM is paused, or we stand in
    /// a queue.
    No,
    /// The guest's side has taken all, and had at this time; so many looks have shown it.
    Since(Time, u32),
}

impl Probe {
    /// When there is something to do.
    pub const fn deadline(&self) -> Time {
        match self {
            Self::Quiet(next) => *next,
            Self::Asked(asked) => asked.look,
        }
    }

    /// Notes that a Ping was sent; the first of several is the one that counts.
    pub fn on_sent(&mut self, now: Time) {
        if let Self::Quiet(_) = self {
            *self = Self::Asked(Asked {
                since: now,
                look: now + LOOK_AFTER,
                pause: LOOK_AFTER,
                taken: Taken::Unknown,
            });
        }
    }

    /// How long a Ping has waited.
    pub fn waits(&self, now: Time) -> Duration {
        match self {
            Self::Quiet(_) => Duration::ZERO,
            Self::Asked(asked) => now.since(asked.since),
        }
    }

    /// When a look first showed that the guest's side had taken it, if the last one did.
    pub const fn taken_at(&self) -> Option<Time> {
        match self {
            Self::Quiet(_) => None,
            Self::Asked(asked) => asked.taken_at(),
        }
    }

    /// Whether the last look showed that the guest's side had taken it; `None` before a look.
    pub const fn is_taken(&self) -> Option<bool> {
        match self {
            Self::Asked(Asked {
                taken: Taken::Since(..),
                ..
            }) => Some(true),
            Self::Asked(Asked {
                taken: Taken::No, ..
            }) => Some(false),
            Self::Asked(_) | Self::Quiet(_) => None,
        }
    }
}

impl Asked {
    /// When a look first showed that the guest's side had taken everything, if the last one did.
    pub const fn taken_at(&self) -> Option<Time> {
        match self.taken {
            Taken::Since(at, _) => Some(at),
            Taken::Unknown | Taken::No => None,
        }
    }

    /// Whether it is time for a flush, all that was sent being taken: at the first such look, and,
    /// if this goes on, at every other. As many as fit into a host's patience fit into the guest's
    /// ring beside what else is in it.
    pub const fn wants_flush(&self) -> bool {
        match self.taken {
            Taken::Since(_, looks) => looks % 2 == 0,
            Taken::Unknown | Taken::No => true,
        }
    }

    /// The same Ping after another look. Looks come ever less often, but soon after the first that
    /// showed it taken.
    pub fn looked(self, now: Time, taken: bool) -> Self {
        let (taken, pause) = match (taken, self.taken) {
            (true, Taken::Since(at, looks)) => (Taken::Since(at, looks + 1), self.pause * 2),
            (true, Taken::Unknown | Taken::No) => (Taken::Since(now, 1), LOOK_AFTER),
            (false, _) => (Taken::No, self.pause * 2),
        };
        let pause = pause.min(LOOK_EVERY);
        Self {
            since: self.since,
            look: now + pause,
            pause,
            taken,
        }
    }
}
