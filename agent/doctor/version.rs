//! Whether the agent that runs is the program that is installed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use quantix::rt::check::{Check, Status};

use super::{Guest, fine, found, unknown};

const NAME: &str = "version";

/// Compares the agent's file with that of this process.
pub fn check(guest: &mut Guest) -> Check {
    let this = format_args!("this file is {} ({})", quantix::VERSION, quantix::REVISION);
    let Some(pid) = guest.agent else {
        return fine(NAME, format_args!("{this}; no agent to compare it with"));
    };
    let its = guest.at(&format!("proc/{pid}/exe"));
    let Ok(path) = fs::read_link(&its) else {
        let seen = format_args!("{this}; that of pid {pid} cannot be seen");
        return unknown(NAME, seen, "run this as root");
    };
    // One that was replaced is still that which it was, under a name that ends with " (deleted)".
    if file(&its) == file(&guest.at("proc/self/exe")) {
        return fine(NAME, format_args!("{this}, which is what pid {pid} runs"));
    }
    let remedy = match guest.has_systemd() {
        true => "systemctl restart quantix-kvm-agent".to_owned(),
        false => format!("kill {pid}, and have init start the agent again"),
    };
    found(
        NAME,
        Status::Warn,
        format_args!("{this}; pid {pid} runs {}", path.display()),
        format_args!("the running agent is another build than this file"),
        format_args!("{remedy}"),
    )
}

fn file(exe: &Path) -> Option<(u64, u64)> {
    let file = fs::metadata(exe).ok()?;
    Some((file.dev(), file.ino()))
}
