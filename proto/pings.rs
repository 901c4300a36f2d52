//! The host's Pings that have not been answered yet, each with its time and its place in the stream.

use std::collections::VecDeque;

use crate::limits::MAX_PINGS;
use crate::time::Time;

/// A Ping on its way, or waiting in the socket for a guest to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentPing {
    /// Its number.
    pub sequence: u64,
    /// When it was put on its way.
    pub at: Time,
    /// The connection's byte count at its end, where the host's count of a session begins that it
    /// opens.
    pub end: u64,
}

/// Unanswered Pings of one nonce, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Pings {
    waiting: VecDeque<SentPing>,
}

impl Pings {
    /// One more would be one too many: the answer to the newest answers them all.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_PINGS
    }

    /// Notes a Ping; forgets the oldest where there are too many.
    pub fn push(&mut self, ping: SentPing) {
        if self.is_full() {
            self.waiting.pop_front();
        }
        self.waiting.push_back(ping);
    }

    /// The Ping that this sequence answers. It and those before it can be answered no more: answers
    /// come in order.
    pub fn take(&mut self, sequence: u64) -> Option<SentPing> {
        let found = self
            .waiting
            .iter()
            .find(|p| p.sequence == sequence)
            .copied()?;
        self.waiting.retain(|ping| ping.sequence > sequence);
        Some(found)
    }

    /// None waits for its answer.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// They were of a nonce that is no longer ours.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_answers_all_before_it_and_counts_once() {
        let mut pings = Pings::default();
        for sequence in 1..=20 {
            let at = Time::from_micros(sequence);
            let end = 100 * sequence;
            pings.push(SentPing { sequence, at, end });
        }
        assert_eq!(pings.take(4), None);
        assert_eq!(pings.take(18).map(|p| p.end), Some(1800));
        assert_eq!(pings.take(17), None);
        assert_eq!(pings.take(18), None);
        assert!(pings.take(20).is_some() && pings.is_empty());
    }
}
