//! Tests of the whole: what crosses more than one module.

// The bytes of the protocol, in files for implementers.
mod wire;
