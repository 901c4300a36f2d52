//! Who has a device open, as far as /proc tells.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::names;

/// A process that has it open.
#[derive(Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// At most 15 bytes of its name, as ps(1) shows it.
    pub name: String,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Holders {
    /// All but this process.
    pub found: Vec<Holder>,
    /// There is no process that may not be looked into.
    pub all_seen: bool,
}

/// Looks for the holders of this device, which is no link, in the /proc given.
pub fn of(proc: &Path, device: &Path) -> Holders {
    let mut holders = Holders {
        found: Vec::new(),
        // Where others' processes are hidden altogether (hidepid, proc(5)) the first one is.
        all_seen: proc.join("1").exists(),
    };
    for pid in others(proc) {
        let folder = file(proc, pid, "fd");
        match names::all(&folder) {
            Ok(fds) => {
                let leads_there =
                    |fd: &OsString| fs::read_link(folder.join(fd)).is_ok_and(|link| link == device);
                if fds.iter().any(leads_there) {
                    let name = name(proc, pid);
                    holders.found.push(Holder { pid, name });
                }
            }
            // It has ended meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(_) => holders.all_seen = false,
        }
    }
    holders
}

/// All processes but this one.
pub fn others(proc: &Path) -> Vec<u32> {
    let own = std::process::id();
    let mut pids = names::numbers(proc);
    pids.retain(|pid| *pid != own);
    pids
}

/// What the kernel calls a process.
pub fn name(proc: &Path, pid: u32) -> String {
    let name = fs::read(file(proc, pid, "comm")).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
}

/// What /proc has of a process under this name.
pub fn file(proc: &Path, pid: u32, name: &str) -> PathBuf {
    proc.join(format!("{pid}/{name}"))
}
