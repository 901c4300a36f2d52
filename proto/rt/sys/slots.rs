//! A ring of slots in memory that stays shared across fork(2): one process fills them, the other
//! empties them, and no byte is copied between the two.
//!
//! Each side first looks, then says that it waits, then looks again, and only then sleeps; so the other
//! side, which looks for that word behind each change, cannot miss it. It wakes who waits by a byte on a
//! socket, and not for each slot: a switch of processes costs more than the bytes of one. A side that is
//! gone is the end of that socket.

use std::cell::Cell;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::shared::map;
use crate::chunk::{DATA, Parcel};
use crate::limits::{CHUNK, MAX_WRITE};

/// Most slots that a ring can have.
pub const MAX_SLOTS: usize = 64;

/// The end that fills slots.
#[derive(Debug)]
pub struct Producer(Rc<End>);

/// The end that empties them.
#[derive(Debug)]
pub struct Consumer {
    end: Rc<End>,
    /// The slot that is taken next, counted from the ring's begin.
    next: u32,
}

/// A filled slot. It goes back when it is dropped, behind those before it.
#[derive(Debug)]
pub struct Slot {
    end: Rc<End>,
    at: u32,
    length: usize,
}

/// One process's end: the memory, and its socket to the other.
#[derive(Debug)]
struct End {
    memory: Rc<Memory>,
    bell: UnixStream,
    /// A slot was dropped before those in front of it: what came is no longer wanted.
    is_broken: Cell<bool>,
}

/// The mapping: a page with the counters, then the slots.
#[derive(Debug)]
struct Memory {
    at: NonNull<u8>,
    slots: usize,
}

#[derive(Debug, Default)]
#[repr(C)]
struct Counters {
    /// Slots ever filled, and ever given back.
    filled: AtomicU32,
    emptied: AtomicU32,
    /// One of them waits to be woken; the producer until so many slots were ever given back.
    producer_waits: AtomicU32,
    producer_until: AtomicU32,
    consumer_waits: AtomicU32,
    /// Bytes of the slots that were given back.
    consumed: AtomicU64,
    lengths: Lengths,
}

#[derive(Debug)]
struct Lengths([AtomicU32; MAX_SLOTS]);

impl Default for Lengths {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; MAX_SLOTS])
    }
}

/// In the place of a length: nothing follows.
const END: u32 = u32::MAX;

const PAGE: usize = 4096;
const _: () = assert!(size_of::<Counters>() <= PAGE);

/// A ring of so many slots, of [`CHUNK`] bytes each, 64 at most. Before it forks a process decides which
/// end the child uses; afterwards it drops that one.
///
/// # Errors
/// ENOMEM (mmap(2)), EMFILE.
pub fn ring(slots: usize) -> io::Result<(Producer, Consumer)> {
    let memory = Rc::new(Memory::new(slots.clamp(1, MAX_SLOTS))?);
    let (one, other) = UnixStream::pair()?;
    let end = |bell| {
        Rc::new(End {
            memory: Rc::clone(&memory),
            bell,
            is_broken: Cell::new(false),
        })
    };
    let consumer = Consumer {
        end: end(other),
        next: 0,
    };
    Ok((Producer(end(one)), consumer))
}

impl Memory {
    fn new(slots: usize) -> io::Result<Self> {
        let at = map(PAGE + slots * MAX_WRITE)?.cast();
        Ok(Self { at, slots })
    }

    fn counters(&self) -> &Counters {
        // SAFETY: the mapping begins with a page for them, aligned to a page; zeros, which the kernel
        // gives, are a value of all of them; both processes access them only as atomics; and it lives
        // until `self` is dropped.
        unsafe { self.at.cast().as_ref() }
    }

    /// The bytes of a slot, whatever its number.
    fn slot(&self, at: u32) -> *mut [u8] {
        let at = at as usize % self.slots;
        // SAFETY: `at` is one of the slots, all of which lie in the mapping behind its first page.
        let start = unsafe { self.at.as_ptr().add(PAGE + at * MAX_WRITE) };
        std::ptr::slice_from_raw_parts_mut(start, MAX_WRITE)
    }

    fn length(&self, at: u32) -> &AtomicU32 {
        &self.counters().lengths.0[at as usize % self.slots]
    }

    /// Slots that are filled and not given back. The other process may have written nonsense.
    fn used(&self) -> usize {
        let counters = self.counters();
        let emptied = counters.emptied.load(Ordering::Acquire);
        let filled = counters.filled.load(Ordering::Acquire);
        (filled.wrapping_sub(emptied) as usize).min(self.slots)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size, and no slot outlives it. A forked child
        // has a mapping of its own.
        unsafe { libc::munmap(self.at.as_ptr().cast(), PAGE + self.slots * MAX_WRITE) };
    }
}

impl End {
    /// See [`Producer::hide`].
    fn hide(&self) {
        let memory = &self.memory;
        let size = PAGE + memory.slots * MAX_WRITE;
        // SAFETY: the mapping was made with this size and lives as long as `memory`; what is changed is
        // what fork(2) does with it.
        unsafe { libc::madvise(memory.at.as_ptr().cast(), size, libc::MADV_DONTFORK) };
    }

    /// Wakes the other side if it has said that it waits.
    fn ring_for(&self, waits: &AtomicU32) {
        fence(Ordering::SeqCst);
        if waits.load(Ordering::Relaxed) == 1 && waits.swap(0, Ordering::SeqCst) == 1 {
            // Each byte answers a word, so they never fill the socket; one that is gone is not woken.
            let _ = (&self.bell).write(&[0]);
        }
    }

    /// Sleeps until the other side rings, or is gone.
    fn sleep(&self) -> io::Result<()> {
        loop {
            match (&self.bell).read(&mut [0; 16]) {
                Ok(0) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done.map(|_| ()),
            }
        }
    }

    /// Forgets that it was rung. False: the other side is gone.
    fn hush(&self) -> bool {
        loop {
            match (&self.bell).read(&mut [0; 16]) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}

impl Producer {
    /// Children that this process forks from now on do not get the memory: with them it would outlive its
    /// use here.
    pub fn hide(&self) {
        self.0.hide();
    }

    /// The next slot, to be filled from its begin: [`CHUNK`] bytes. `None`: all are full.
    pub fn space(&mut self) -> Option<&mut [u8]> {
        let memory = &self.0.memory;
        if memory.used() >= memory.slots {
            return None;
        }
        let at = memory.counters().filled.load(Ordering::Relaxed);
        // SAFETY: a slot that is not filled is touched by nobody but the producer, of which there is one
        // (`&mut self`), and the bytes live as long as the memory that `self` holds.
        let slot = unsafe { &mut *memory.slot(at) };
        slot.get_mut(DATA..DATA + CHUNK)
    }

    /// Hands over the slot that [`space`](Self::space) gave, with so many bytes.
    pub fn fill(&mut self, bytes: usize) {
        self.hand_over(u32::try_from(bytes.min(CHUNK)).unwrap_or(0));
    }

    /// Says that nothing follows. Like [`fill`](Self::fill), where there is space.
    pub fn end(&mut self) {
        self.hand_over(END);
    }

    fn hand_over(&mut self, length: u32) {
        let memory = &self.0.memory;
        let counters = memory.counters();
        let at = counters.filled.load(Ordering::Relaxed);
        memory.length(at).store(length, Ordering::Relaxed);
        counters.filled.store(at.wrapping_add(1), Ordering::Release);
    }

    /// Wakes the consumer if it waits, and at least so many slots are full.
    pub fn wake(&self, slots: usize) {
        if self.0.memory.used() >= slots {
            self.0.ring_for(&self.0.memory.counters().consumer_waits);
        }
    }

    /// Half of the slots: what is worth a wake-up.
    pub fn half(&self) -> usize {
        self.0.memory.slots.div_ceil(2)
    }

    /// As many bytes as the slots hold.
    pub fn capacity(&self) -> u64 {
        (self.0.memory.slots * CHUNK) as u64
    }

    /// Waits for space.
    ///
    /// # Errors
    /// EPIPE: nobody empties them any more.
    pub fn wait(&mut self) -> io::Result<()> {
        while self.space().is_none() {
            self.wake(1);
            self.listen(self.half());
            if self.space().is_none() {
                self.0.sleep()?;
            }
        }
        Ok(())
    }

    /// Has the consumer ring when so many slots, or all that are full now, have been given back.
    pub fn listen(&self, slots: usize) {
        let counters = self.0.memory.counters();
        let emptied = counters.emptied.load(Ordering::Acquire);
        let slots = slots.min(self.0.memory.used()).max(1);
        let until = emptied.wrapping_add(u32::try_from(slots).unwrap_or(1));
        counters.producer_until.store(until, Ordering::Relaxed);
        counters.producer_waits.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Forgets that the consumer has rung. False: it is gone.
    pub fn hush(&self) -> bool {
        self.0.hush()
    }

    /// Bytes that were emptied.
    pub fn consumed(&self) -> u64 {
        let consumed = &self.0.memory.counters().consumed;
        consumed.load(Ordering::Acquire)
    }

    /// This end's calls do not wait; [`AsFd`] becomes readable instead.
    ///
    /// # Errors
    /// As fcntl(2).
    pub fn set_nonblocking(&self) -> io::Result<()> {
        self.0.bell.set_nonblocking(true)
    }
}

impl Consumer {
    /// As [`Producer::hide`].
    pub fn hide(&self) {
        self.end.hide();
    }

    /// The next full slot. `None`: there is none now.
    pub fn take(&mut self) -> Option<Taken> {
        let memory = &self.end.memory;
        let filled = memory.counters().filled.load(Ordering::Acquire);
        let ahead = filled.wrapping_sub(self.next) as usize;
        if ahead == 0 || ahead > memory.slots {
            return None;
        }
        let at = self.next;
        self.next = at.wrapping_add(1);
        let length = memory.length(at).load(Ordering::Relaxed);
        let slot = Slot {
            end: Rc::clone(&self.end),
            at,
            length: (length as usize).min(CHUNK),
        };
        match length {
            END => Some(Taken::End),
            _ => Some(Taken::Slot(slot)),
        }
    }

    /// Has the producer ring when it has filled a slot. True: there is none still.
    pub fn listen(&mut self) -> bool {
        let counters = self.end.memory.counters();
        counters.consumer_waits.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        counters.filled.load(Ordering::Acquire) == self.next
    }

    /// Waits for a full slot.
    ///
    /// # Errors
    /// EPIPE: nobody fills them any more.
    pub fn wait(&mut self) -> io::Result<Taken> {
        loop {
            if let Some(taken) = self.take() {
                return Ok(taken);
            }
            if self.listen() {
                self.end.sleep()?;
            }
        }
    }

    /// Forgets that the producer has rung. False: it is gone.
    pub fn hush(&self) -> bool {
        self.end.hush()
    }

    /// As [`Producer::set_nonblocking`].
    ///
    /// # Errors
    /// As fcntl(2).
    pub fn set_nonblocking(&self) -> io::Result<()> {
        self.end.bell.set_nonblocking(true)
    }
}

/// What is next in a ring.
#[derive(Debug)]
pub enum Taken {
    /// Bytes.
    Slot(Slot),
    /// Nothing follows.
    End,
}

impl AsFd for Producer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

impl AsFd for Consumer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.bell.as_fd()
    }
}

impl Slot {
    /// Its bytes.
    pub fn data(&self) -> &[u8] {
        self.bytes().get(DATA..DATA + self.length).unwrap_or(&[])
    }
}

impl Parcel for Slot {
    fn bytes(&self) -> &[u8] {
        // SAFETY: a slot that is filled and not given back is touched by nobody but the consumer, which
        // gives each out once; and the bytes live as long as the memory that `self` holds.
        unsafe { &*self.end.memory.slot(self.at) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and nobody else has this slot (`&mut self`).
        unsafe { &mut *self.end.memory.slot(self.at) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let memory = &self.end.memory;
        let counters = memory.counters();
        // Only a request that is given up drops what waits behind what is being written. Its slots stay
        // as they are: the producer must not write into one that is in use.
        if self.end.is_broken.get() || counters.emptied.load(Ordering::Relaxed) != self.at {
            self.end.is_broken.set(true);
            return;
        }
        let consumed = counters.consumed.load(Ordering::Relaxed) + self.length as u64;
        counters.consumed.store(consumed, Ordering::Release);
        let emptied = self.at.wrapping_add(1);
        counters.emptied.store(emptied, Ordering::Release);
        let until = counters.producer_until.load(Ordering::Acquire);
        if emptied.wrapping_sub(until) <= u32::MAX / 2 {
            self.end.ring_for(&counters.producer_waits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(producer: &mut Producer, bytes: &[u8]) {
        producer.space().unwrap()[..bytes.len()].copy_from_slice(bytes);
        producer.fill(bytes.len());
    }

    fn slot(consumer: &mut Consumer) -> Slot {
        match consumer.take() {
            Some(Taken::Slot(slot)) => slot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn slots_go_round_in_their_order_and_no_further_than_there_are() {
        let (mut producer, mut consumer) = ring(3).unwrap();
        for turn in 0..5u8 {
            for n in 0..3 {
                put(&mut producer, &[turn, n]);
            }
            assert!(producer.space().is_none());
            let taken: Vec<Slot> = (0..3).map(|_| slot(&mut consumer)).collect();
            assert!(consumer.take().is_none());
            for (n, slot) in taken.into_iter().enumerate() {
                assert_eq!(slot.data(), [turn, u8::try_from(n).unwrap()]);
            }
        }
        assert_eq!(producer.consumed(), 5 * 3 * 2);
        producer.end();
        assert!(matches!(consumer.take(), Some(Taken::End)));
    }

    #[test]
    fn a_slot_given_back_out_of_its_turn_frees_none() {
        let (mut producer, mut consumer) = ring(2).unwrap();
        put(&mut producer, b"a");
        put(&mut producer, b"b");
        let (first, second) = (slot(&mut consumer), slot(&mut consumer));
        drop(second);
        drop(first);
        assert!(producer.space().is_none());
    }

    #[test]
    fn who_waits_is_woken_and_who_does_not_is_left_alone() {
        let (mut producer, mut consumer) = ring(4).unwrap();
        producer.set_nonblocking().unwrap();
        consumer.set_nonblocking().unwrap();
        put(&mut producer, b"a");
        producer.wake(1);
        assert!(consumer.end.sleep().is_err());
        assert!(!consumer.listen());
        drop(slot(&mut consumer));
        assert!(consumer.listen());
        put(&mut producer, b"b");
        producer.wake(2);
        assert!(consumer.end.sleep().is_err());
        producer.wake(1);
        consumer.end.sleep().unwrap();

        for _ in 0..3 {
            put(&mut producer, b"c");
        }
        producer.listen(2);
        drop(slot(&mut consumer));
        assert!(producer.0.sleep().is_err());
        drop(slot(&mut consumer));
        producer.0.sleep().unwrap();
    }
}
