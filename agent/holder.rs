//! Who has a device open, as far as /proc tells.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

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
    let own = std::process::id();
    let mut holders = Holders {
        found: Vec::new(),
        // Where others' processes are hidden altogether (hidepid, proc(5)) the first one is.
        all_seen: proc.join("1").exists(),
    };
    for pid in pids(proc).into_iter().filter(|pid| *pid != own) {
        match fs::read_dir(proc.join(format!("{pid}/fd"))) {
            Ok(fds) => {
                let mut links = fds.flatten().map(|fd| fs::read_link(fd.path()));
                if links.any(|link| link.is_ok_and(|link| link == device)) {
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

/// All processes.
pub fn pids(proc: &Path) -> Vec<u32> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.collect()
}

/// What the kernel calls a process.
pub fn name(proc: &Path, pid: u32) -> String {
    let name = fs::read(proc.join(format!("{pid}/comm"))).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
}
