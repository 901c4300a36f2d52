//! The real thing: the agent in a guest of QEMU, the daemon and the command line outside, the port
//! between them. Here is what only a real port and a real guest can show.
//!
//! `tests/vm/install.sh` brings what these tests need; without it they fail and say so. Where KVM does
//! not work QEMU emulates. `QX_TEST_RELEASE=1` takes the release build of both programs, which has
//! to be there.

#![cfg(test)]
// The tests live in real time and may wait.
#![allow(clippy::disallowed_methods)]

// What the tests stand on.
pub mod harness;
mod qmp;
pub mod screen;

// Requests to a guest that is well.
mod doctor;
mod exhaustion;
mod fairness;
mod files;
mod messages;
mod shell;
mod top;
mod trees;

// What an operator does to a guest, in one of its own.
mod ops;

// The same where it needs systemd: a Debian, with its own tools beside ours.
pub mod debian;

// Fleets: Ansible, by the collection that is ours.
mod ansible;

// What doctor says of each thing that can be wrong, with a real QEMU and a real libvirt.
mod diagnosis;
mod libvirt;

// Guests of all ages: old and new kernels, every processor.
mod kernels;

// How a channel comes about, each in a guest of its own.
mod channel;
mod states;

// What goes wrong with a channel, each in a guest of its own, and that it is well again by itself:
// `make soak-vm` runs these again and again.
mod faults;
