//! The processes behind sockets, found by a walk through /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;

/// A process that has a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub pid: u32,
    /// Its name as the kernel has it, of up to 15 bytes, which it chooses itself.
    pub command: String,
    /// The socket's descriptor there.
    pub fd: u32,
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
    /// Walks until an owner of each has been found.
    pub fn find(mut wanted: BTreeSet<u32>) -> Self {
        let mut owners = Self::default();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            if wanted.is_empty() {
                break;
            }
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
                    && wanted.remove(&inode)
                {
                    let fd = descriptor.file_name().to_str().and_then(|n| n.parse().ok());
                    let command = fs::read(process.path().join("comm")).unwrap_or_default();
                    let owner = Owner {
                        pid,
                        command: command_of(&command),
                        fd: fd.unwrap_or(0),
                    };
                    owners.found.insert(inode, owner);
                }
            }
        }
        owners
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
    fn names_are_bounded() {
        assert_eq!(command_of(b"socat\n"), "socat");
        assert_eq!(command_of(&[b'x'; 400]).len(), 16);
        assert_eq!(socket_of("socket:[12]"), Some(12));
        assert_eq!(socket_of("pipe:[12]"), None);
        assert_eq!(socket_of("socket:[x]"), None);
    }
}
