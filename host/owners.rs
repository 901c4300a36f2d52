//! The processes behind sockets, found by a walk through /proc.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use quantix::rt::stat::Stat;

/// A process that has a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub pid: u32,
    /// Its name as the kernel has it, of up to 15 bytes, which it chooses itself.
    pub command: String,
    /// The socket's descriptor there.
    pub fd: u32,
    /// When it began, since boot.
    pub begun: Duration,
}

/// The owners of some sockets.
#[derive(Debug, Default)]
pub struct Owners {
    /// By the socket's inode.
    pub found: BTreeMap<u32, Owner>,
    /// Processes of other users are not shown to us.
    pub denied: bool,
}

impl Owners {
    /// Walks through all processes.
    pub fn find(wanted: &BTreeSet<u32>) -> Self {
        let mut owners = Self::default();
        if wanted.is_empty() {
            return owners;
        }
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let descriptors = match fs::read_dir(process.path().join("fd")) {
                Ok(descriptors) => descriptors,
                Err(e) => {
                    owners.denied |= e.kind() == ErrorKind::PermissionDenied;
                    continue;
                }
            };
            for descriptor in descriptors.flatten() {
                let target = fs::read_link(descriptor.path()).unwrap_or_default();
                if let Some(inode) = socket_of(&target.to_string_lossy())
                    && wanted.contains(&inode)
                {
                    let fd = descriptor.file_name().to_str().and_then(|n| n.parse().ok());
                    let read = |name| fs::read(process.path().join(name)).unwrap_or_default();
                    let stat = String::from_utf8_lossy(&read("stat")).into_owned();
                    // One without has just ended.
                    if let Some(stat) = Stat::parse(&stat) {
                        let owner = Owner {
                            pid,
                            command: command_of(&read("comm")),
                            fd: fd.unwrap_or(0),
                            begun: stat.started,
                        };
                        owners.note(inode, owner);
                    }
                }
            }
        }
        owners
    }

    /// Of several that have a socket it is the oldest: the others are children that inherited it, as one
    /// between its fork and its exec.
    fn note(&mut self, inode: u32, owner: Owner) {
        match self.found.entry(inode) {
            Entry::Vacant(entry) => {
                entry.insert(owner);
            }
            Entry::Occupied(mut entry) if owner.begun < entry.get().begun => {
                entry.insert(owner);
            }
            Entry::Occupied(_) => {}
        }
    }
}

/// `socket:[1234]`
fn socket_of(target: &str) -> Option<u32> {
    let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

/// What is in /proc/PID/comm.
pub fn command_of(comm: &[u8]) -> String {
    let comm = comm.strip_suffix(b"\n").unwrap_or(comm);
    String::from_utf8_lossy(comm).chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_owners_it_is_the_oldest() {
        let owner = |pid, begun| Owner {
            pid,
            command: String::new(),
            fd: 3,
            begun: Duration::from_millis(begun),
        };
        // The numbers of processes begin again.
        for (first, second) in [((3146, 510), (26011, 500)), ((26011, 500), (3146, 510))] {
            let mut owners = Owners::default();
            owners.note(9, owner(first.0, first.1));
            owners.note(9, owner(second.0, second.1));
            assert_eq!(owners.found[&9].pid, 26011);
        }
    }

    #[test]
    fn names_are_bounded() {
        assert_eq!(command_of(b"socat\n"), "socat");
        assert_eq!(command_of(&[b'x'; 400]).len(), 16);
        assert_eq!(socket_of("socket:[12]"), Some(12));
        assert_eq!(socket_of("pipe:[12]"), None);
        assert_eq!(socket_of("socket:[x]"), None);
    }
}
