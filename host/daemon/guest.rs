//! What a guest's Pongs tell of its life: booted anew, reverted to a snapshot, its agent restarted.
//! Pure. What a guest says is cut before it is kept.

use quantix::host::Event;
use quantix::loss::Loss;
use quantix::message::agent::{Pong, Timestamp};
use quantix::message::node::EventKind;
use quantix::time::Time;

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
    /// Of the agent's process; 0 where it does not tell.
    instance: u64,
    silences: u32,
    /// On our own clock.
    seen: Time,
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
    pub fn on_event(&mut self, now: Time, event: &Event) -> Option<(EventKind, String)> {
        match event {
            Event::Lost { why, .. } => {
                self.lost = Some(why.clone());
                Some((EventKind::SessionLost, why.to_string()))
            }
            Event::Opened(pong) => {
                let lost = self.lost.take();
                let may_be_revert = lost.as_ref().is_some_and(Loss::may_be_revert);
                let restarted = lost.is_some_and(|why| why == Loss::Forgotten || why.is_goodbye());
                let (before, now) = self.replace(now, pong)?;
                if before.boot_id != now.boot_id {
                    let why = format!("its boot id is {} now", now.boot_id);
                    return Some((EventKind::GuestBooted, why));
                }
                went_back(&before, &now)
                    .or_else(|| stood_still(&before, &now))
                    .or_else(|| was_put_back(&before, &now).filter(|_| may_be_revert))
                    .or_else(|| {
                        let why = "it has forgotten the session, in the same boot".to_owned();
                        restarted.then_some((EventKind::AgentRestarted, why))
                    })
            }
            Event::Pong { pong, .. } => {
                let (before, now) = self.replace(now, pong)?;
                went_back(&before, &now).or_else(|| stood_still(&before, &now))
            }
            _ => None,
        }
    }

    /// Notes a Pong: what was known before it, what is known now.
    fn replace(&mut self, now: Time, pong: &Pong) -> Option<(Last, Last)> {
        let millis = |t: &Timestamp| {
            t.seconds
                .saturating_mul(1000)
                .saturating_add(i64::from(t.nanos / 1_000_000))
        };
        let now = Last {
            boot_id: pong.boot_id.chars().take(64).collect(),
            uptime_seconds: pong.uptime_seconds,
            wall_ms: pong.time.as_ref().map(millis),
            instance: pong.instance,
            silences: pong.silences,
            seen: now,
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

/// Its agent is the one that had the session, and knows nothing of it. Not every hypervisor puts the clock
/// back with the rest: QEMU's emulation does not.
fn was_put_back(before: &Last, now: &Last) -> Option<(EventKind, String)> {
    let is_same = before.boot_id == now.boot_id && before.instance == now.instance;
    // Else it has forgotten the session as it should.
    let remembers = now.silences <= before.silences;
    (is_same && remembers && now.instance != 0).then(|| {
        let why = "its agent, which still runs, has another past".to_owned();
        (EventKind::GuestReverted, why)
    })
}

/// Its uptime, which nobody can set, has grown by less than our own clock.
fn stood_still(before: &Last, now: &Last) -> Option<(EventKind, String)> {
    let passed = now.seen.since(before.seen).as_secs();
    let grown = now.uptime_seconds.saturating_sub(before.uptime_seconds);
    let missed = passed.saturating_sub(grown);
    let is_same = before.boot_id == now.boot_id;
    (is_same && missed > UPTIME_SLACK).then(|| {
        let why = format!("its clocks stood still for {missed} s");
        (EventKind::GuestResumed, why)
    })
}

/// Seconds: uptimes come whole, and a Pong can be late.
const UPTIME_SLACK: u64 = 2;

/// Milliseconds that a clock is set back without anybody noticing.
const CLOCK_SLACK_MS: i64 = 1000;

#[cfg(test)]
mod tests {
    use quantix::loss::{GOODBYE, JOINED};

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
        at(guest, 0, event)
    }

    /// So many seconds after our own clock's begin.
    fn at(guest: &mut Guest, seconds: u64, event: Event) -> Option<EventKind> {
        let now = Time::from_micros(seconds * 1_000_000);
        guest.on_event(now, &event).map(|(kind, _)| kind)
    }

    #[test]
    fn a_guest_that_stood_still_has_missed_what_we_have_not() {
        let mut guest = Guest::default();
        at(&mut guest, 1000, opened("a", 100, 1000));
        assert_eq!(at(&mut guest, 1007, again("a", 105, 1005)), None);
        let resumed = Some(EventKind::GuestResumed);
        assert_eq!(at(&mut guest, 1100, again("a", 110, 1010)), resumed);
        assert_eq!(at(&mut guest, 1105, again("a", 115, 1015)), None);
        // Its clock was set right meanwhile: it stood still all the same. A session later, too.
        assert_eq!(at(&mut guest, 1200, opened("a", 120, 1200)), resumed);
        // It was off.
        let booted = Some(EventKind::GuestBooted);
        assert_eq!(at(&mut guest, 1300, opened("b", 1, 1300)), booted);
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
    fn an_agent_that_lives_and_does_not_know_its_session_was_put_back() {
        let by = |instance: u64, silences: u32| {
            Event::Opened(Pong {
                instance,
                silences,
                ..pong("a", 100, 1000)
            })
        };
        let reverted = Some(EventKind::GuestReverted);
        let restarted = Some(EventKind::AgentRestarted);
        for (why, before, now, expected) in [
            (Loss::Forgotten, (7, 2), (7, 2), reverted),
            (Loss::Forgotten, (7, 2), (7, 1), reverted),
            (Loss::Broken(JOINED), (7, 2), (7, 2), reverted),
            (Loss::Ended(JOINED.to_owned()), (7, 2), (7, 2), reverted),
            // No Ping had come for long.
            (Loss::Forgotten, (7, 2), (7, 3), restarted),
            (Loss::Forgotten, (7, 2), (8, 0), restarted),
            // One that does not tell.
            (Loss::Forgotten, (0, 0), (0, 0), restarted),
            (Loss::Broken("closed"), (7, 2), (7, 2), None),
            (Loss::Ended("it says so".to_owned()), (7, 2), (7, 2), None),
        ] {
            let mut guest = Guest::default();
            kind(&mut guest, by(before.0, before.1));
            kind(&mut guest, lost(why.clone()));
            assert_eq!(kind(&mut guest, by(now.0, now.1)), expected, "{why}");
        }
    }

    #[test]
    fn what_a_guest_says_is_cut() {
        let mut guest = Guest::default();
        kind(&mut guest, opened(&"x".repeat(100_000), 1, 1));
        assert_eq!(guest.boot_id().len(), 64);
    }
}
