//! Credit of one stream: how far a sender may run ahead of its receiver, in bytes.

/// The sender's end.
#[derive(Clone, Debug, Default)]
pub struct SendCredit {
    sent: u64,
    allowed: u64,
}

impl SendCredit {
    /// Bytes that may be sent now.
    pub const fn available(&self) -> u64 {
        self.allowed.saturating_sub(self.sent)
    }

    /// The receiver allows `total` bytes in all; a smaller total than before changes nothing.
    pub const fn allow(&mut self, total: u64) {
        if total > self.allowed {
            self.allowed = total;
        }
    }

    /// Notes bytes put on their way; returns the offset of the first of them.
    pub const fn spend(&mut self, bytes: usize) -> u64 {
        let offset = self.sent;
        self.sent += bytes as u64;
        offset
    }

    /// Bytes sent so far.
    pub const fn sent(&self) -> u64 {
        self.sent
    }
}

/// The receiver's end.
#[derive(Clone, Debug)]
pub struct ReceiveCredit {
    received: u64,
    consumed: u64,
    granted: u64,
    window: u64,
}

/// The sender broke the stream's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The chunk does not follow the last one.
    Gap,
    /// More than the credit allowed.
    Overspent,
}

impl ReceiveCredit {
    /// Nothing granted yet; the sender may be `window` bytes ahead of what was consumed.
    pub const fn new(window: u64) -> Self {
        Self {
            received: 0,
            consumed: 0,
            granted: 0,
            window,
        }
    }

    /// Checks a chunk before anything is done with it, and notes it.
    ///
    /// # Errors
    /// The chunk is not the next one, or larger than the credit.
    pub fn receive(&mut self, offset: u64, bytes: usize) -> Result<(), Fault> {
        if offset != self.received {
            return Err(Fault::Gap);
        }
        let end = offset.checked_add(bytes as u64).ok_or(Fault::Overspent)?;
        if end > self.granted {
            return Err(Fault::Overspent);
        }
        self.received = end;
        Ok(())
    }

    /// Notes bytes that have left this side's memory.
    pub const fn consume(&mut self, bytes: usize) {
        self.consumed += bytes as u64;
    }

    /// The new total to grant, once it is worth a message: half a window has been consumed.
    pub fn grant(&mut self) -> Option<u64> {
        let total = self.consumed + self.window;
        if total < self.granted + self.window / 2 {
            return None;
        }
        self.granted = total;
        Some(total)
    }

    /// Bytes that have to be consumed until another grant is worth a message.
    pub const fn lacks(&self) -> u64 {
        (self.granted + self.window / 2).saturating_sub(self.consumed + self.window)
    }

    /// Bytes received so far.
    pub const fn received(&self) -> u64 {
        self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_stops_at_its_credit_and_goes_on_with_more() {
        let mut sender = SendCredit::default();
        assert_eq!(sender.available(), 0);
        sender.allow(100);
        assert_eq!(sender.spend(60), 0);
        assert_eq!(sender.spend(40), 60);
        assert_eq!(sender.available(), 0);
        sender.allow(50);
        assert_eq!(sender.available(), 0);
        sender.allow(150);
        assert_eq!(sender.available(), 50);
    }

    #[test]
    fn overspending_and_gaps_are_refused_before_anything_changes() {
        let mut receiver = ReceiveCredit::new(100);
        assert_eq!(receiver.receive(0, 1), Err(Fault::Overspent));
        assert_eq!(receiver.grant(), Some(100));
        assert_eq!(receiver.receive(0, 60), Ok(()));
        assert_eq!(receiver.receive(0, 10), Err(Fault::Gap));
        assert_eq!(receiver.receive(60, 41), Err(Fault::Overspent));
        assert_eq!(receiver.receive(60, usize::MAX), Err(Fault::Overspent));
        assert_eq!(receiver.receive(60, 40), Ok(()));
        assert_eq!(receiver.received(), 100);
    }

    #[test]
    fn credit_is_granted_by_half_windows() {
        let mut receiver = ReceiveCredit::new(100);
        assert_eq!(receiver.grant(), Some(100));
        receiver.consume(49);
        assert_eq!((receiver.grant(), receiver.lacks()), (None, 1));
        receiver.consume(1);
        assert_eq!(receiver.grant(), Some(150));
    }
}
