//! What glibc is not to bring into a static program. A symbol that is defined here is not looked for
//! in libc.a, nor what its definition there needs.

use std::ffi::{c_int, c_void};

/// Where the main thread's stack is. glibc reads it from /proc/self/maps by sscanf(3), which is 125 kB
/// with the numbers and alphabets of all countries. std asks it so that an overflow of the stack has a
/// message; without an answer (std/src/sys/pal/unix/stack_overflow.rs) it ends by SIGSEGV alone.
// SAFETY: no other definition is linked: nothing else is in its archive member. It touches no memory.
#[unsafe(no_mangle)]
const extern "C" fn pthread_getattr_np(_thread: usize, _attributes: *mut c_void) -> c_int {
    libc::ENOSYS
}
