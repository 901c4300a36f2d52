//! The connection window: how much may be on its way, and when to acknowledge.
//!
//! Both totals count every byte behind the Pong (guest to host) or Ping (host to guest) that
//! opened the session, headers and idle bytes included.

use std::collections::VecDeque;

use crate::limits::{ACK_EVERY, GUEST_WINDOW, HOST_WINDOW, HOST_WRITES, MAX_WRITE, WRITE_COST};

/// Which side's rules bound the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Sends into the socket that QEMU writes: bytes and the kernel's cost of each write.
    Guest,
    /// Sends into the guest's receive ring: bytes and writes.
    Host,
}

/// What one side has sent and the other has not acknowledged.
#[derive(Clone, Debug)]
pub struct SendWindow {
    side: Side,
    sent: u64,
    acknowledged: u64,
    /// The total at the end of each write that is not wholly acknowledged.
    writes: VecDeque<u64>,
    /// Bytes of a flush that went ahead of the session and may still be in the pipe; forgotten at
    /// the first acknowledgement.
    ahead: u64,
}

/// The other side acknowledged more than was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overacknowledged;

impl SendWindow {
    /// An empty window; `ahead` bytes of flush were sent just before it.
    pub const fn new(side: Side, ahead: u64) -> Self {
        Self {
            side,
            sent: 0,
            acknowledged: 0,
            writes: VecDeque::new(),
            ahead,
        }
    }

    /// Whether `bytes` more, all of them, may be put on their way.
    pub fn fits(&self, bytes: usize) -> bool {
        let writes = bytes.div_ceil(MAX_WRITE);
        match self.side {
            Side::Guest => {
                self.in_flight() + bytes as u64 + writes as u64 * WRITE_COST <= GUEST_WINDOW
            }
            Side::Host => {
                self.in_flight() + bytes as u64 <= HOST_WINDOW
                    && self.writes.len() + writes <= HOST_WRITES
            }
        }
    }

    /// Notes one write of `bytes`. `continued`: it went on with one that was taken only in part, and
    /// counts as one with it; else many small parts of a frame could shut the window before the
    /// other side has a reason to acknowledge.
    pub fn on_sent(&mut self, bytes: usize, continued: bool) {
        self.sent += bytes as u64;
        if continued {
            self.writes.pop_back();
        }
        self.writes.push_back(self.sent);
    }

    /// The other side has read `total` bytes.
    ///
    /// # Errors
    /// It cannot have read more than was sent. An older total changes nothing.
    pub fn on_acknowledged(&mut self, total: u64) -> Result<(), Overacknowledged> {
        if total > self.sent {
            return Err(Overacknowledged);
        }
        self.ahead = 0;
        self.acknowledged = self.acknowledged.max(total);
        while self.writes.front().is_some_and(|end| *end <= total) {
            self.writes.pop_front();
        }
        Ok(())
    }

    /// The total that the other side has said it has read.
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Bytes that count against the window now, with each write's cost for a guest.
    pub fn in_flight(&self) -> u64 {
        let bytes = self.sent - self.acknowledged + self.ahead;
        match self.side {
            Side::Guest => bytes + self.writes.len() as u64 * WRITE_COST,
            Side::Host => bytes,
        }
    }

    /// Nothing is on its way: what was sent has been read to the last byte.
    pub const fn is_empty(&self) -> bool {
        self.sent == self.acknowledged && self.ahead == 0
    }
}

/// What one side has read, and when it owes an acknowledgement.
#[derive(Clone, Debug, Default)]
pub struct ReceiveWindow {
    received: u64,
    /// The total last acknowledged.
    acknowledged: u64,
    frames: u64,
}

impl ReceiveWindow {
    /// Notes bytes read, idle ones included.
    pub const fn on_bytes(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Notes a frame, which stands for at most one write more than its bytes tell.
    pub const fn on_frame(&mut self) {
        self.frames += 1;
    }

    /// The sender needs an acknowledgement soon.
    pub const fn is_due(&self) -> bool {
        self.received - self.acknowledged + self.frames * WRITE_COST >= ACK_EVERY
    }

    /// The total to acknowledge now.
    pub const fn acknowledge(&mut self) -> u64 {
        self.acknowledged = self.received;
        self.frames = 0;
        self.received
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{FLUSH, HEADER, MAX_FRAME};

    #[test]
    fn a_peer_that_acknowledges_too_much_is_caught() {
        let mut window = SendWindow::new(Side::Guest, 0);
        window.on_sent(100, false);
        assert_eq!(window.on_acknowledged(101), Err(Overacknowledged));
        assert_eq!(window.on_acknowledged(100), Ok(()));
        assert_eq!(window.on_acknowledged(50), Ok(()));
        assert!(window.is_empty());
    }

    #[test]
    fn a_flush_counts_until_the_first_acknowledgement() {
        let mut window = SendWindow::new(Side::Guest, FLUSH as u64);
        assert!(!window.fits(32 * 1024));
        assert!(window.fits(16 * 1024));
        assert!(!window.is_empty());
        window.on_acknowledged(0).unwrap();
        assert!(window.fits(MAX_FRAME + HEADER));
    }

    #[test]
    fn a_host_counts_its_writes() {
        let mut window = SendWindow::new(Side::Host, 0);
        for _ in 0..HOST_WRITES {
            assert!(window.fits(10));
            window.on_sent(10, false);
        }
        assert!(!window.fits(10));
        window.on_acknowledged(10).unwrap();
        assert!(window.fits(10));
    }

    #[test]
    fn a_write_in_many_parts_counts_once() {
        let mut window = SendWindow::new(Side::Host, 0);
        window.on_sent(1, false);
        for _ in 0..1000 {
            window.on_sent(1, true);
        }
        assert!(window.fits(10));
        assert_eq!(window.in_flight(), 1001);
    }

    proptest! {
        /// However frames are sized, the longest frame fits again once the receiver has read
        /// everything and acknowledged what its own rule told it to. So a window never stays shut.
        #[test]
        fn a_window_never_stays_shut(
            sizes in vec(prop_oneof![21usize..200, 21usize..(MAX_FRAME + HEADER)], 1..300),
            guest in any::<bool>(),
        ) {
            let side = if guest { Side::Guest } else { Side::Host };
            let mut sender = SendWindow::new(side, 0);
            let mut receiver = ReceiveWindow::default();
            for size in sizes {
                prop_assert!(sender.fits(size), "{size} with {} in flight", sender.in_flight());
                let mut left = size;
                while left > 0 {
                    let write = left.min(MAX_WRITE);
                    sender.on_sent(write, false);
                    receiver.on_bytes(write);
                    left -= write;
                }
                receiver.on_frame();
                prop_assert!(sender.in_flight() <= GUEST_WINDOW.max(HOST_WINDOW));
                if receiver.is_due() {
                    sender.on_acknowledged(receiver.acknowledge()).unwrap();
                }
            }
        }
    }
}
