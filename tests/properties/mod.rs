//! What holds for any input, with counter-examples that shrink. What guest and host keep to between
//! them is in `fuzz/operations`, which the fuzzer runs as well.

mod credit;
mod decoder;
mod outbox;
