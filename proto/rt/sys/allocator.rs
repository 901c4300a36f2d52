//! Memory that is given back has nothing in it: passwords pass through many buffers on their way, and none of these is
//! known to hold one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

/// The system's allocator, with each block overwritten by zeroes before it goes back. Both programs have it.
///
/// What stays: what is copied to the stack, and buffers that are used again, as long as nothing is written over it.
#[derive(Debug)]
pub struct Wiping;

// SAFETY: each call is passed on to the system's allocator with the layout that came with it; what was given out and has not
// been given back stays as it is.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the rules of `alloc`, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has `layout.size()` bytes and is the caller's, who gives it up.
        unsafe { block.write_bytes(0, layout.size()) };
        // Nobody reads them any more, for which the compiler would leave them out.
        black_box(block);
        // SAFETY: the block was given out by the same allocator with the same layout.
        unsafe { System.dealloc(block, layout) }
    }

    // `realloc` is the default one, which copies into a new block and gives back the old one here.
}
