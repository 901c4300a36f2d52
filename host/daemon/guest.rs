//! What a guest's Pongs tell of its life: booted anew, reverted to a snapshot, its agent restarted.
//! Pure. What a guest says is cut before it is kept.

use quantix::host::Event;
use quantix::loss::Loss;
use quantix::message::agent::{Pong, Timestamp};
use quantix::message::node::EventKind;

/// What is known of the guest behind a channel, over all its sessions.
#[derive(Debug, Default)]
pub struct Guest {
    last: Option<Last>,
    /// Why its last session was lost; taken when the next opens.
    lost: Option<Loss>,
}

#[derive(Clone, Debug, Default)]
struct Last {
    boot_id: String,
    uptime_seconds: u64,
    wall_ms: Option<i64>,
}

impl Guest {
    /// Of the last Pong; empty before.
    pub fn boot_id(&self) -> &str {
        self.last.as_ref().map_or("", |last| &last.boot_id)
    }

    /// Of the last Pong; 0 before.
    pub fn uptime_seconds(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.uptime_seconds)
    }

    /// What an event of the session says, if that is for people to know.
    pub fn on_event(&mut self, event: &Event) -> Option<(EventKind, String)> {
        match event {
            Event::Lost { why, .. } => {
                self.lost = Some(why.clone());
                Some((EventKind::SessionLost, why.to_string()))
            }
            Event::Opened(pong) => {
                let lost = self.lost.take();
                let restarted = lost.is_some_and(|why| why == Loss::Forgotten || why.is_goodbye());
                let (before, now) = self.replace(pong)?;
                if before.boot_id != now.boot_id {
                    let why = format!("its boot id is {} now", now.boot_id);
                    return Some((EventKind::GuestBooted, why));
                }
                went_back(&before, &now).or_else(|| {
                    let why = "it has forgotten the session, in the same boot".to_owned();
                    restarted.then_some((EventKind::AgentRestarted, why))
                })
            }
            Event::Pong { pong, .. } => {
                let (before, now) = self.replace(pong)?;
                went_back(&before, &now)
            }
            _ => None,
        }
    }

    /// Notes a Pong: what was known before it, what is known now.
    fn replace(&mut self, pong: &Pong) -> Option<(Last, Last)> {
        let millis = |t: &Timestamp| {
            t.seconds
                .saturating_mul(1000)
                .saturating_add(i64::from(t.nanos / 1_000_000))
        };
        let now = Last {
            boot_id: pong.boot_id.chars().take(64).collect(),
            uptime_seconds: pong.uptime_seconds,
            wall_ms: pong.time.as_ref().map(millis),
        };
        let before = self.last.replace(now.clone())?;
        Some((before, now))
    }
}

/// In one boot the uptime only grows, whatever is done to the clock; a VM that was paused has merely
/// missed some of it.
fn went_back(before: &Last, now: &Last) -> Option<(EventKind, String)> {
    if before.boot_id != now.boot_id {
        return None;
    }
    if now.uptime_seconds < before.uptime_seconds {
        let (was, is) = (before.uptime_seconds, now.uptime_seconds);
        let why = format!("its uptime went back from {was} s to {is} s in the same boot");
        return Some((EventKind::GuestReverted, why));
    }
    let back = before.wall_ms?.saturating_sub(now.wall_ms?);
    (back > CLOCK_SLACK_MS).then(|| {
        let why = format!("its clock went back by {} s", back / 1000);
        (EventKind::ClockSetBack, why)
    })
}

/// Milliseconds that a clock is set back without anybody noticing.
const CLOCK_SLACK_MS: i64 = 1000;

#[cfg(test)]
mod tests {
    use quantix::loss::GOODBYE;

    use super::*;

    fn pong(boot: &str, uptime: u64, wall: i64) -> Pong {
        Pong {
            boot_id: boot.to_owned(),
            uptime_seconds: uptime,
            time: Some(Timestamp {
                seconds: wall,
                nanos: 0,
            }),
            ..Pong::default()
        }
    }

    fn opened(boot: &str, uptime: u64, wall: i64) -> Event {
        Event::Opened(pong(boot, uptime, wall))
    }

    fn again(boot: &str, uptime: u64, wall: i64) -> Event {
        Event::Pong {
            sequence: 1,
            round_trip: std::time::Duration::ZERO,
            pong: pong(boot, uptime, wall),
        }
    }

    fn lost(why: Loss) -> Event {
        Event::Lost {
            why,
            kept: Vec::new(),
        }
    }

    fn kind(guest: &mut Guest, event: Event) -> Option<EventKind> {
        guest.on_event(&event).map(|(kind, _)| kind)
    }

    #[test]
    fn a_life_is_told_by_its_pongs() {
        let mut guest = Guest::default();
        assert_eq!(kind(&mut guest, opened("a", 100, 1000)), None);
        assert_eq!(kind(&mut guest, again("a", 105, 1005)), None);
        // Paused for an hour: nothing has gone back.
        assert_eq!(kind(&mut guest, again("a", 105, 1005)), None);
        let reverted = Some(EventKind::GuestReverted);
        assert_eq!(kind(&mut guest, again("a", 50, 950)), reverted);
        let set_back = Some(EventKind::ClockSetBack);
        assert_eq!(kind(&mut guest, again("a", 55, 900)), set_back);
        let booted = Some(EventKind::GuestBooted);
        assert_eq!(kind(&mut guest, opened("b", 3, 2000)), booted);
    }

    #[test]
    fn a_restarted_agent_is_told_from_our_own_reconnect() {
        let mut guest = Guest::default();
        let is_lost = Some(EventKind::SessionLost);
        let restarted = Some(EventKind::AgentRestarted);
        kind(&mut guest, opened("a", 1, 1));
        // The guest answers in another session, which nobody asked it for.
        assert_eq!(kind(&mut guest, lost(Loss::Forgotten)), is_lost);
        assert_eq!(kind(&mut guest, opened("a", 2, 2)), restarted);
        // The connection was lost, and later there is another.
        assert_eq!(kind(&mut guest, lost(Loss::Broken("closed"))), is_lost);
        assert_eq!(kind(&mut guest, opened("a", 3, 3)), None);
        // It has said so.
        let goodbye = Loss::Ended(GOODBYE.to_owned());
        assert_eq!(kind(&mut guest, lost(goodbye)), is_lost);
        assert_eq!(kind(&mut guest, opened("a", 4, 4)), restarted);
    }

    #[test]
    fn what_a_guest_says_is_cut() {
        let mut guest = Guest::default();
        kind(&mut guest, opened(&"x".repeat(100_000), 1, 1));
        assert_eq!(guest.boot_id().len(), 64);
    }
}
