//! Numbers that a process and its forked child both see.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::check;

/// So much memory that stays shared across fork(2), zeroed, at the begin of a page.
pub(super) fn map(size: usize) -> io::Result<NonNull<libc::c_void>> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at a place of the kernel's choice touches no memory that exists.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size, access, kind, -1, 0) };
    if at == libc::MAP_FAILED {
        check(-1)?;
    }
    NonNull::new(at).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Counters in memory that stays shared across fork(2).
#[derive(Debug)]
pub struct Shared(NonNull<[AtomicU64; COUNT]>);

/// How many counters there are.
const COUNT: usize = 2;

impl Shared {
    /// All of them 0.
    ///
    /// # Errors
    /// ENOMEM (mmap(2)).
    pub fn new() -> io::Result<Self> {
        Ok(Self(map(SIZE)?.cast()))
    }

    fn counters(&self) -> &[AtomicU64; COUNT] {
        // SAFETY: the mapping is aligned to a page, `SIZE` bytes long, zeroed by the kernel, and lives
        // until `self` is dropped. Both processes access it only through atomics.
        unsafe { self.0.as_ref() }
    }

    /// Sets a counter. One that does not exist is left out.
    pub fn set(&self, at: usize, value: u64) {
        if let Some(counter) = self.counters().get(at) {
            counter.store(value, Ordering::Release);
        }
    }

    /// Makes all of them 0 again.
    pub fn reset(&self) {
        (0..COUNT).for_each(|at| self.set(at, 0));
    }

    /// A counter; 0 for one that does not exist.
    pub fn get(&self, at: usize) -> u64 {
        let counter = self.counters().get(at);
        counter.map_or(0, |counter| counter.load(Ordering::Acquire))
    }
}

const SIZE: usize = size_of::<[AtomicU64; COUNT]>();

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size, and nobody else has its address. A
        // forked child has a mapping of its own.
        unsafe { libc::munmap(self.0.as_ptr().cast(), SIZE) };
    }
}
