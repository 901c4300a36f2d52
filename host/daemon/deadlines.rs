//! When each VM wants to be looked at: the loop sleeps to the nearest and touches no other.

use std::collections::{BTreeMap, BTreeSet};

use quantix::time::Time;

/// At most one deadline a key.
#[derive(Debug)]
pub struct Deadlines<K> {
    order: BTreeSet<(Time, K)>,
    of: BTreeMap<K, Time>,
}

impl<K: Copy + Ord> Deadlines<K> {
    /// No deadlines.
    pub const fn new() -> Self {
        Self {
            order: BTreeSet::new(),
            of: BTreeMap::new(),
        }
    }

    /// Sets, moves or (`None`) removes a key's deadline.
    pub fn set(&mut self, key: K, at: Option<Time>) {
        if self.of.get(&key) == at.as_ref() {
            return;
        }
        if let Some(before) = self.of.remove(&key) {
            self.order.remove(&(before, key));
        }
        if let Some(at) = at {
            self.order.insert((at, key));
            self.of.insert(key, at);
        }
    }

    /// The nearest.
    pub fn next(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Removes and returns a key whose deadline has come.
    pub fn take_due(&mut self, now: Time) -> Option<K> {
        let (at, key) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.set(key, None);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_due_in_order_and_once() {
        let at = Time::from_micros;
        let mut deadlines = Deadlines::new();
        deadlines.set(1, Some(at(30)));
        deadlines.set(2, Some(at(10)));
        deadlines.set(1, Some(at(20)));
        deadlines.set(3, Some(at(5)));
        deadlines.set(3, None);
        assert_eq!(deadlines.next(), Some(at(10)));
        assert_eq!(deadlines.take_due(at(9)), None);
        assert_eq!(deadlines.take_due(at(25)), Some(2));
        assert_eq!(deadlines.take_due(at(25)), Some(1));
        assert_eq!(deadlines.take_due(at(99)), None);
    }
}
