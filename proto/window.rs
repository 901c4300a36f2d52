//! The connection window: how much may be on its way, and when to acknowledge.
//!
//! Both totals count every byte behind the Pong (guest to host) or Ping (host to guest) that
//! opened the session, headers and idle bytes included.

use std::collections::VecDeque;

use crate::limits::{ACK_EVERY, GUEST_WINDOW, HEADER, HOST_WINDOW, HOST_WRITES, MAX_WRITE};

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
    /// Each write that is not wholly acknowledged: the total at its end, and its bytes.
    writes: VecDeque<(u64, usize)>,
    /// What the socket is charged for those beside their bytes.
    overhead: u64,
    /// What is charged for a flush that went ahead of the session and may still be in the pipe;
    /// forgotten at the first acknowledgement.
    ahead: u64,
}

/// The other side acknowledged more than was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overacknowledged;

impl SendWindow {
    /// An empty window; a flush of `ahead` bytes was sent just before it.
    pub const fn new(side: Side, ahead: usize) -> Self {
        Self {
            side,
            sent: 0,
            acknowledged: 0,
            writes: VecDeque::new(),
            overhead: 0,
            ahead: if ahead > 0 { charge(ahead) } else { 0 },
        }
    }

    /// Whether `bytes` more, all of them, may be put on their way.
    pub fn fits(&self, bytes: usize) -> bool {
        match self.side {
            Side::Guest => self.in_flight() + charge(bytes) <= GUEST_WINDOW,
            Side::Host => {
                self.in_flight() + bytes as u64 <= HOST_WINDOW
                    && self.writes.len() + bytes.div_ceil(MAX_WRITE) <= HOST_WRITES
            }
        }
    }

    /// Notes one write of `bytes`. `continued`: it went on with one that was taken only in part, and
    /// counts as one with it; else many small parts of a frame could shut the window before the
    /// other side has a reason to acknowledge.
    pub fn on_sent(&mut self, bytes: usize, continued: bool) {
        self.sent += bytes as u64;
        let before = match continued {
            true => self.writes.pop_back().map_or(0, |write| write.1),
            false => 0,
        };
        let whole = before + bytes;
        if before > 0 {
            self.overhead -= overhead(before);
        }
        self.overhead += overhead(whole);
        self.writes.push_back((self.sent, whole));
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
        while let Some((end, bytes)) = self.writes.front()
            && *end <= total
        {
            self.overhead -= overhead(*bytes);
            self.writes.pop_front();
        }
        Ok(())
    }

    /// The total that the other side has said it has read.
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Bytes that count against the window now, with what is charged beside them for a guest.
    pub const fn in_flight(&self) -> u64 {
        let bytes = self.sent - self.acknowledged;
        match self.side {
            Side::Guest => bytes + self.overhead + self.ahead,
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
    /// What the frames read since then cost beside their bytes.
    overhead: u64,
}

impl ReceiveWindow {
    /// Notes bytes read, idle ones included.
    pub const fn on_bytes(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Notes a frame whose body has so many bytes.
    pub const fn on_frame(&mut self, body: usize) {
        let whole = HEADER + body;
        self.overhead += frame_cost(whole) - whole as u64;
    }

    /// The sender needs an acknowledgement soon.
    pub const fn is_due(&self) -> bool {
        self.received - self.acknowledged + self.overhead >= ACK_EVERY
    }

    /// The total to acknowledge now.
    pub const fn acknowledge(&mut self) -> u64 {
        self.acknowledged = self.received;
        self.overhead = 0;
        self.received
    }
}

/// What writes of so many bytes, the last of less than [`MAX_WRITE`], are charged against the sending
/// socket's buffer: each up to 3776 bytes is one block of memory, a power of two, with 320 bytes for
/// `skb_shared_info` in it and 256 for the `sk_buff` beside it; longer ones have whole pages for all but
/// what is over (`unix_stream_sendmsg`, net/unix/af_unix.c; `__alloc_skb`, net/core/skbuff.c).
pub const fn charge(bytes: usize) -> u64 {
    const PAGE: usize = 4096;
    const BLOCK: usize = PAGE - 320;
    let last = bytes % MAX_WRITE;
    let mut sum = bytes / MAX_WRITE * (MAX_WRITE + 768);
    if last > 0 {
        let over = last.saturating_sub(BLOCK).div_ceil(PAGE) * PAGE;
        let paged = if over < last { over } else { last };
        sum += paged.div_ceil(PAGE) * PAGE + (last - paged + 320).next_power_of_two() + 256;
    }
    sum as u64
}

/// At most what is charged for a frame of so many bytes, header included, however it is joined with
/// others to writes: two that share a write can cost 1280 more than alone.
pub const fn frame_cost(bytes: usize) -> u64 {
    charge(bytes) + 640
}

const fn overhead(bytes: usize) -> u64 {
    charge(bytes) - bytes as u64
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{FLUSH, HEADER, MAX_FRAME};

    /// A socket takes a write for as long as what it holds is less than its buffer, so the count of
    /// those that it takes tells what each is charged.
    #[test]
    fn a_write_is_charged_what_this_kernel_charges_for_it() {
        use std::io::{ErrorKind, Write};
        use std::os::unix::net::UnixStream;
        let default = std::fs::read_to_string("/proc/sys/net/core/wmem_default").unwrap();
        let buffer: u64 = default.trim().parse().unwrap();
        let edges = [1, 192, 193, 704, 705, 1728, 1729, 3776, 3777, 4096, 8192];
        for size in edges
            .into_iter()
            .chain((30..MAX_WRITE).step_by(997))
            .chain([MAX_WRITE])
        {
            let (mut near, _far) = UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            let mut taken = 0;
            loop {
                match near.write(&vec![0; size]) {
                    Ok(n) => taken += u64::from(n == size),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => panic!("{e}"),
                }
            }
            let charge = charge(size);
            assert!(
                (taken - 1) * charge < buffer && buffer <= taken * charge,
                "{taken} writes of {size} bytes fit into {buffer}, at {charge} each"
            );
        }
    }

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
        let mut window = SendWindow::new(Side::Guest, FLUSH);
        assert!(!window.fits(40 * 1024));
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
        /// The receiver counts frames, the sender writes.
        #[test]
        fn frames_cost_at_least_what_their_writes_are_charged(
            sizes in vec(prop_oneof![21usize..200, 21usize..2000, 21usize..40_000], 1..40),
        ) {
            let (mut writes, mut open, mut frames) = (0, 0, 0);
            for size in sizes {
                frames += frame_cost(size);
                if open + size > MAX_WRITE {
                    writes += charge(open);
                    open = 0;
                }
                open += size;
                prop_assert!(writes + charge(open) <= frames);
            }
        }

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
                receiver.on_frame(size - HEADER);
                prop_assert!(sender.in_flight() <= GUEST_WINDOW.max(HOST_WINDOW));
                if receiver.is_due() {
                    sender.on_acknowledged(receiver.acknowledge()).unwrap();
                }
            }
        }
    }
}
