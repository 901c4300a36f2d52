//! `qx-node`: on a KVM host, the daemon that keeps a channel to every VM's agent, and the command
//! line that uses it.
#![forbid(unsafe_code)]

mod cli;
mod daemon;
mod owners;
mod serve;
mod stream;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
