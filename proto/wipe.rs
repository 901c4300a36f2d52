//! What a buffer has held is gone once it is of no more use: a password may have been among it.
//!
//! Buffers that are given back are overwritten by the programs' allocator ([`rt::sys::allocator`](crate::rt::sys::allocator)); these
//! here are those that are kept.

use std::hint::black_box;

/// Overwrites what is in a buffer that is kept.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // Nobody reads them any more, for which the compiler might leave it out.
    black_box(bytes);
}
