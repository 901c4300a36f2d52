//! What is thrown at the core. Each target is a function of bytes that returns or panics: the fuzzer
//! calls it (`targets/`), and so do the ordinary tests, with each file of `corpus/` and with random
//! bytes, so that no target is dead where there is no fuzzer.

// Numbers here are small, or cut on purpose.
#![allow(clippy::cast_possible_truncation)]

pub mod frames;
pub mod messages;
pub mod operations;

mod naive;
#[cfg(test)]
mod replay;
