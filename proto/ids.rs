//! A type for each kind of id, so that one cannot stand in for another.

use std::fmt;
use std::num::NonZeroU64;

/// What the host draws for each session that it opens; the guest's Pong echoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// A nonce of 16 random bytes.
    pub const fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// `None` unless there are exactly 16 bytes.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes on the wire.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// What a guest draws for each session. Every frame of the session ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(NonZeroU64);

impl SessionId {
    /// A fresh session from a random number and the host's nonce. The nonce is mixed in because a
    /// guest that was reverted to a snapshot may draw the same "random" number twice, and the host
    /// never draws the same nonce twice.
    pub fn draw(random: u64, nonce: &Nonce) -> Self {
        let (low, high) = nonce.0.split_at(8);
        let fold = |half: &[u8]| half.iter().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
        let mixed = random ^ fold(low) ^ fold(high).rotate_left(32);
        Self(NonZeroU64::new(mixed).unwrap_or(NonZeroU64::MIN))
    }

    /// `None` for 0, which no guest draws.
    pub fn parse(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number on the wire.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Names a request for ever: a random prefix and a counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageId(String);

impl MessageId {
    /// Ids longer than this are refused, so that an envelope has a known size.
    pub const MAX: usize = 64;

    /// `None` for an empty id or one of more than 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && text.len() <= Self::MAX).then(|| Self(text.to_owned()))
    }

    /// The text on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes message ids that no other maker repeats.
#[derive(Debug)]
pub struct IdMaker {
    prefix: u64,
    next: u64,
}

impl IdMaker {
    /// `prefix` is random, drawn once when the program starts.
    pub const fn new(prefix: u64) -> Self {
        Self { prefix, next: 0 }
    }

    /// The next id.
    pub fn make(&mut self) -> MessageId {
        self.next += 1;
        MessageId(format!("{:016x}-{:x}", self.prefix, self.next))
    }
}
