//! What has happened to the VMs, for those who ask later or follow. It knows no client's socket and
//! no clock.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use quantix::message::agent::Timestamp;
use quantix::message::node::{Event, EventKind};
use quantix::text::cut;

use super::broker::ClientKey;
use super::state::State;

/// Events that are kept.
const KEPT: usize = 1000;

/// Of one VM, so that a guest that makes many cannot drive out the others'.
const KEPT_OF_ONE: usize = 200;

/// Bytes of a reason, which may hold a guest's text.
const MAX_REASON: usize = 512;

/// Requests of one client that follow.
const MAX_FOLLOWED: usize = 16;

/// A client's request for all that happens from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Follower {
    pub client: ClientKey,
    /// The client's own number for it.
    pub request: u64,
}

/// The events, and who follows them.
#[derive(Debug, Default)]
pub struct Journal {
    last: u64,
    kept: VecDeque<Event>,
    /// How many of each VM.
    counts: BTreeMap<String, usize>,
    /// The VM that is followed, or all.
    followers: BTreeMap<Follower, Option<String>>,
}

/// What a VM's state has changed from and to.
pub fn change(from: Option<&State>, to: &State, reason: String) -> Event {
    Event {
        kind: EventKind::State.into(),
        from: from.map(State::wire).unwrap_or_default().into(),
        to: to.wire().into(),
        behind: to.behind().cloned(),
        reason,
        ..Event::default()
    }
}

/// Something else that has happened.
pub fn notice(kind: EventKind, reason: String) -> Event {
    Event {
        kind: kind.into(),
        reason,
        ..Event::default()
    }
}

/// What has happened, in words.
pub const fn text(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Unspecified => "something new",
        EventKind::State => "state",
        EventKind::SessionLost => "session lost",
        EventKind::GuestBooted => "the guest has booted anew",
        EventKind::GuestReverted => "the guest was reverted",
        EventKind::ClockSetBack => "the guest's clock was set back",
        EventKind::GuestResumed => "the guest was paused, and goes on",
        EventKind::ClockCorrected => "the guest's clock was stepped to ours",
        EventKind::GuestSick => "the agent answers, but not all of the guest",
        EventKind::GuestWell => "all of the guest answers again",
        EventKind::AgentRestarted => "the agent was restarted",
    }
}

impl Journal {
    /// Notes an event. Returns it as it is told, and to whom.
    pub fn push(&mut self, time: Timestamp, vm: &str, mut event: Event) -> (Event, Vec<Follower>) {
        self.last += 1;
        event.number = self.last;
        event.time = Some(time);
        vm.clone_into(&mut event.vm);
        event.reason = cut(&event.reason, MAX_REASON).to_owned();
        let of_vm = self.counts.get(vm).copied().unwrap_or_default();
        let oldest = match of_vm >= KEPT_OF_ONE {
            true => self.kept.iter().position(|event| event.vm == vm),
            false => (self.kept.len() >= KEPT).then_some(0),
        };
        if let Some(dropped) = oldest.and_then(|at| self.kept.remove(at))
            && let Entry::Occupied(mut count) = self.counts.entry(dropped.vm)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.kept.push_back(event.clone());
        *self.counts.entry(vm.to_owned()).or_default() += 1;
        let wants = |what: &Option<String>| what.as_deref().is_none_or(|name| name == vm);
        let followers = self.followers.iter().filter(|(_, what)| wants(what));
        let followers = followers.map(|(follower, _)| *follower).collect();
        (event, followers)
    }

    /// All that is kept of a VM, or of all, oldest first.
    pub fn kept(&self, vm: Option<&str>) -> impl Iterator<Item = &Event> {
        let wants = move |event: &&Event| vm.is_none_or(|name| name == event.vm);
        self.kept.iter().filter(wants)
    }

    /// Tells this request of what happens from now on. False: the client has too many such requests.
    pub fn follow(&mut self, follower: Follower, vm: Option<String>) -> bool {
        let same = |other: &&Follower| other.client == follower.client;
        let room = self.followers.keys().filter(same).count() < MAX_FOLLOWED;
        if room {
            self.followers.insert(follower, vm);
        }
        room
    }

    /// Whether this request follows.
    pub fn is_followed(&self, follower: Follower) -> bool {
        self.followers.contains_key(&follower)
    }

    /// The request is taken back.
    pub fn unfollow(&mut self, follower: Follower) {
        self.followers.remove(&follower);
    }

    /// The client has left.
    pub fn forget(&mut self, client: ClientKey) {
        self.followers
            .retain(|follower, _| follower.client != client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(journal: &mut Journal, vm: &str, reason: &str) -> Vec<Follower> {
        let event = notice(EventKind::SessionLost, reason.to_owned());
        journal.push(Timestamp::default(), vm, event).1
    }

    #[test]
    fn a_noisy_vm_drives_out_only_its_own_events() {
        let mut journal = Journal::default();
        push(&mut journal, "quiet", "first");
        for _ in 0..5000 {
            push(&mut journal, "noisy", &"\u{e9}".repeat(5000));
        }
        assert_eq!(journal.kept(Some("quiet")).count(), 1);
        assert_eq!(journal.kept(Some("noisy")).count(), KEPT_OF_ONE);
        assert!(journal.kept(None).all(|e| e.reason.len() <= MAX_REASON));
        assert_eq!(journal.kept(None).last().map(|e| e.number), Some(5001));
        for n in 0..2000 {
            push(&mut journal, &n.to_string(), "");
        }
        assert_eq!(journal.kept(None).count(), KEPT);
        assert_eq!(journal.counts.values().sum::<usize>(), KEPT);
        assert!(!journal.counts.contains_key("noisy"));
    }

    #[test]
    fn followers_are_told_of_what_they_asked_for() {
        let mut journal = Journal::default();
        let follower = |client, request| Follower {
            client: ClientKey(client),
            request,
        };
        assert!(journal.follow(follower(1, 1), None));
        assert!(journal.follow(follower(1, 2), Some("a".to_owned())));
        assert_eq!(push(&mut journal, "a", "").len(), 2);
        assert_eq!(push(&mut journal, "b", ""), [follower(1, 1)]);
        for request in 3..=16 {
            assert!(journal.follow(follower(1, request), None));
        }
        assert!(!journal.follow(follower(1, 17), None));
        assert!(journal.follow(follower(3, 1), None));
        journal.unfollow(follower(1, 1));
        assert!(!journal.is_followed(follower(1, 1)));
        journal.forget(ClientKey(1));
        assert_eq!(push(&mut journal, "a", ""), [follower(3, 1)]);
    }
}
