//! `quantix-kvm-agent`: serves the host of a virtual machine over one virtio-serial port.
#![forbid(unsafe_code)]

mod agent;
mod audit;
mod changes;
mod cli;
mod config;
mod disks;
mod doctor;
mod freeze;
mod holder;
mod hooks;
mod job;
mod links;
#[cfg(test)]
mod man;
mod names;
mod network;
mod ops;
mod orphan;
mod policy;
mod port;
mod power;
mod probe;
mod telemetry;

use std::io::Write;
use std::process::ExitCode;

// Linked for its symbols, into what ships: a build without optimization needs more of glibc than is left.
#[cfg(not(any(test, debug_assertions)))]
use quantix_glibc as _;

#[global_allocator]
static ALLOCATOR: quantix::rt::sys::allocator::Wiping = quantix::rt::sys::allocator::Wiping;

fn main() -> ExitCode {
    let options = match cli::parse() {
        Ok(cli::Command::Run(options)) => options,
        Ok(cli::Command::Doctor(options)) => {
            let (text, status) = doctor::run(&options);
            return match print(&text) {
                ExitCode::SUCCESS => ExitCode::from(status),
                failed => failed,
            };
        }
        Ok(cli::Command::Check(options)) => return check(&options),
        Ok(cli::Command::Help) => return print(&cli::help()),
        Ok(cli::Command::Version) => {
            let (version, revision) = (quantix::VERSION, quantix::REVISION);
            return print(&format!("quantix-kvm-agent {version} ({revision})\n"));
        }
        Err(error) => return fail(2, &format!("{error}; try --help")),
    };
    quantix::rt::sys::process::become_prompt();
    match agent::Agent::new(options).and_then(agent::Agent::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error.to_string()),
    }
}

/// `--check-config`.
fn check(options: &cli::Options) -> ExitCode {
    match policy::explain::check(options.config.as_deref()) {
        Ok((text, true)) => print(&text),
        Ok((text, false)) => {
            print(&text);
            ExitCode::FAILURE
        }
        Err(error) => fail(1, &error.to_string()),
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(status: u8, why: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "quantix-kvm-agent: {why}");
    ExitCode::from(status)
}
