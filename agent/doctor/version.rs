//! Whether the agent that runs is the program that is installed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use quantix::rt::check::{Check, Status};

const NAME: &str = "version";

/// Compares the file that `agent` runs with that of this process.
pub fn check(root: &Path, agent: Option<u32>) -> Check {
    let this = format!("{} ({})", quantix::VERSION, quantix::REVISION);
    let Some(pid) = agent else {
        return Check::ok(
            NAME,
            format!("this file is {this}; no agent to compare it with"),
        );
    };
    let proc = root.join("proc");
    let its = proc.join(format!("{pid}/exe"));
    let Ok(path) = fs::read_link(&its) else {
        let seen = format!("this file is {this}; that of pid {pid} cannot be seen");
        return Check::unknown(NAME, seen, "run this as root");
    };
    let file = |exe: &Path| fs::metadata(exe).map(|file| (file.dev(), file.ino())).ok();
    let is_replaced = path.as_os_str().as_encoded_bytes().ends_with(b" (deleted)");
    if !is_replaced && file(&its) == file(&proc.join("self/exe")) {
        return Check::ok(NAME, format!("{this}, which is what runs"));
    }
    Check::of(
        NAME,
        Status::Warn,
        format!("this file is {this}; pid {pid} runs {}", path.display()),
        "the running agent is another build than this file",
        super::agent_by(root, "restart"),
    )
}
