//! Random numbers from the kernel (getrandom(2)), for nonces, sessions and ids.

/// Fills an array. A kernel that cannot give random bytes cannot be served safely, so that is the
/// end of the program.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        panic!("the kernel gives no random bytes: {error}");
    }
    bytes
}

/// A random number.
pub fn number() -> u64 {
    u64::from_ne_bytes(bytes())
}
