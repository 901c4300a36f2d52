//! Random numbers from the kernel, for nonces, sessions and ids.

use std::fs::File;
use std::io::Read;

/// Fills an array, without ever waiting.
///
/// From /dev/urandom: early in the boot of a guest without a hardware source getrandom(2) waits
/// for a second or, on old kernels, for minutes, and the loop must not. What an agent draws that
/// early is mixed with the host's nonce. Only where the device is missing getrandom is asked; a
/// kernel that has neither cannot be served safely, so that is the end of the program.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_err()
        && let Err(error) = getrandom::fill(&mut bytes)
    {
        panic!("the kernel gives no random bytes: {error}");
    }
    bytes
}

/// A random number.
pub fn number() -> u64 {
    u64::from_ne_bytes(bytes())
}
