//! Who may have more to read: each once, and in turns, so that one which always has does not keep the others.

use std::collections::{BTreeSet, VecDeque};

/// A queue in which each has at most one place.
#[derive(Debug)]
pub struct Ready<K> {
    order: VecDeque<K>,
    members: BTreeSet<K>,
}

impl<K: Copy + Ord> Ready<K> {
    /// Nobody.
    pub const fn new() -> Self {
        Self {
            order: VecDeque::new(),
            members: BTreeSet::new(),
        }
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Puts it behind the others, if it is not among them.
    pub fn push(&mut self, key: K) {
        if self.members.insert(key) {
            self.order.push_back(key);
        }
    }

    /// Takes out the first ones, at most so many.
    pub fn take(&mut self, most: usize) -> Vec<K> {
        let taken: Vec<K> = self.order.drain(..most.min(self.order.len())).collect();
        for key in &taken {
            self.members.remove(key);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_always_comes_back_does_not_keep_the_others() {
        let mut ready = Ready::new();
        for key in [1, 2, 3, 2, 1] {
            ready.push(key);
        }
        assert_eq!(ready.take(2), [1, 2]);
        ready.push(1);
        ready.push(1);
        assert_eq!(ready.take(9), [3, 1]);
        assert!(ready.is_empty());
    }
}
