//! `qx-node`: on a KVM host, the daemon that keeps a channel to every VM's agent, and the command
//! line that uses it.
#![forbid(unsafe_code)]

mod access;
mod cli;
mod config;
mod confine;
mod daemon;
mod owners;
mod serve;
mod stream;

use std::process::ExitCode;

// Linked for its symbols, into what ships: a build without optimization needs more of glibc than is left.
#[cfg(not(any(test, debug_assertions)))]
use quantix_glibc as _;

#[global_allocator]
static ALLOCATOR: quantix::rt::sys::allocator::Wiping = quantix::rt::sys::allocator::Wiping;

fn main() -> ExitCode {
    cli::main()
}
