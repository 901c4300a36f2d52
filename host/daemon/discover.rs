//! Which VMs there are: the sockets `<vm-id>.agent.sock` in one directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What a VM's socket is called behind its name.
pub const SUFFIX: &str = ".agent.sock";

/// A socket in the directory. Two that are equal are the same socket: QEMU makes a new one, with
/// another inode, at each start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub path: PathBuf,
    device: u64,
    pub inode: u64,
    changed: (i64, i64),
}

/// The VM that a file name stands for. Names with control characters are no VM's.
pub fn vm_of(file: &str) -> Option<&str> {
    let name = file.strip_suffix(SUFFIX)?;
    let fine = !name.is_empty() && name.len() <= 128 && !name.chars().any(char::is_control);
    fine.then_some(name)
}

/// All VMs with their sockets, and a line for each file that looks like one and is none.
///
/// # Errors
/// The directory cannot be read.
pub fn scan(directory: &Path) -> io::Result<(BTreeMap<String, Socket>, Vec<String>)> {
    let mut sockets: BTreeMap<String, Socket> = BTreeMap::new();
    let mut faults = Vec::new();
    for entry in fs::read_dir(directory)?.flatten() {
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(vm_of) else {
            continue;
        };
        match socket(&entry.path()) {
            Ok(Some(socket)) => {
                let same =
                    |other: &&Socket| (other.device, other.inode) == (socket.device, socket.inode);
                // A link to another VM's socket must not reach that VM under a second name.
                if let Some(twin) = sockets.values().find(same) {
                    let twin = twin.path.display();
                    faults.push(format!(
                        "{name}: its socket is the same as {twin}; left out"
                    ));
                } else {
                    sockets.insert(name.to_owned(), socket);
                }
            }
            Ok(None) => faults.push(format!(
                "{name}: {} is not a socket",
                entry.path().display()
            )),
            // Gone between the listing and the look.
            Err(_) => {}
        }
    }
    Ok((sockets, faults))
}

/// What tells a directory from another at the same path: device and inode.
pub fn identity(directory: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(directory).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// The socket at this path; `None`: something else is there.
///
/// # Errors
/// Nothing is there.
pub fn socket(path: &Path) -> io::Result<Option<Socket>> {
    let meta = fs::metadata(path)?;
    Ok(meta.file_type().is_socket().then(|| Socket {
        path: path.to_owned(),
        device: meta.dev(),
        inode: meta.ino(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_the_suffix_are_vms() {
        assert_eq!(vm_of("web1.agent.sock"), Some("web1"));
        assert_eq!(vm_of("a.b.agent.sock"), Some("a.b"));
        for other in [
            ".agent.sock",
            "web1.sock",
            "web1.agent.sock.tmp",
            "a\nb.agent.sock",
        ] {
            assert_eq!(vm_of(other), None, "{other:?}");
        }
    }
}
