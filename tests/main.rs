//! Tests of the whole: what crosses more than one module.

// The bytes of the protocol, in files for implementers.
mod wire;
// What the tests of the real binaries share.
mod util;
// The real agent on a socket, without a VM: sessions, requests, bad input.
mod agent;
// The real daemon, with real agents behind relays: discovery, routing, deadlines, many clients.
mod node;
// Guest and host joined by a model of the port, in simulated time: faults, and their order.
#[cfg(test)]
mod sim;
// What holds for any input: the decoder from any state, the outbox beside a model of it.
#[cfg(test)]
mod properties;
// What the fuzzer runs, with the inputs that it has found, as ordinary tests.
#[cfg(test)]
mod fuzz;
// `qx-node` from the outside: words in, words and an exit status out.
mod cli;
// A test for each bug that was found, named after it.
mod regression;
// What the sources must keep to, read from the sources.
mod fence;
// The packages, put into systems that do not run.
mod packages;
// What docs/images.md says of images, done as it says.
mod images;
// The agent in a real VM, the daemon and the command line outside.
mod vm;
