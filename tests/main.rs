//! Tests of the whole: what crosses more than one module.

// The bytes of the protocol, in files for implementers.
mod wire;
// What the tests of the real binaries share.
mod util;
// The real agent on a socket, without a VM: sessions, requests, bad input.
mod agent;
