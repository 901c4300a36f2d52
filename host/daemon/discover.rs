//! Which VMs there are: the sockets `<vm-id>.agent.sock` in one directory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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
    /// Found under more than one name: only a look at the whole directory tells which of them counts.
    has_twins: bool,
}

/// Lines about files that look like sockets and are none; further ones are only counted.
const MAX_FAULTS: usize = 16;

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
    // Of each socket its first name.
    let mut first: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut faults = Vec::new();
    for entry in fs::read_dir(directory)?.flatten() {
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(vm_of) else {
            continue;
        };
        match socket(&entry.path()) {
            Ok(Some(socket)) => match first.entry((socket.device, socket.inode)) {
                // A link to another VM's socket must not reach that VM under a second name.
                Entry::Occupied(twin) => {
                    let twin = twin.get().display();
                    faults.push(format!(
                        "{name}: its socket is the same as {twin}; left out"
                    ));
                }
                Entry::Vacant(entry) => {
                    entry.insert(socket.path.clone());
                    sockets.insert(name.to_owned(), socket);
                }
            },
            Ok(None) => faults.push(format!(
                "{name}: {} is not a socket",
                entry.path().display()
            )),
            // Gone between the listing and the look.
            Err(_) => {}
        }
    }
    if faults.len() > MAX_FAULTS {
        let more = faults.len() - MAX_FAULTS;
        faults.sort_unstable();
        faults.truncate(MAX_FAULTS);
        let directory = directory.display();
        faults.push(format!("{directory}: {more} more files are no VM's socket"));
    }
    Ok((sockets, faults))
}

/// One VM's socket; `None`: there is none. `Err`: that cannot be told without a look at all of the directory.
pub fn look(directory: &Path, name: &str) -> Result<Option<Socket>, WholeDirectory> {
    match socket(&directory.join(format!("{name}{SUFFIX}"))) {
        Ok(Some(socket)) if socket.has_twins => Err(WholeDirectory),
        Ok(Some(socket)) => Ok(Some(socket)),
        // It has to be told of.
        Ok(None) => Err(WholeDirectory),
        Err(_) => Ok(None),
    }
}

/// [`scan`] has to look.
#[derive(Debug, PartialEq, Eq)]
pub struct WholeDirectory;

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
    let entry = fs::symlink_metadata(path)?;
    let is_link = entry.file_type().is_symlink();
    let meta = match is_link {
        true => fs::metadata(path)?,
        false => entry,
    };
    Ok(meta.file_type().is_socket().then(|| Socket {
        path: path.to_owned(),
        device: meta.dev(),
        inode: meta.ino(),
        changed: (meta.ctime(), meta.ctime_nsec()),
        has_twins: is_link || meta.nlink() > 1,
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

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

    #[test]
    fn one_is_found_as_among_all_unless_it_has_more_than_one_name() {
        let dir = std::env::temp_dir().join(format!("qx-discover-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(format!("{name}{SUFFIX}"));
        let _listeners = ["a", "b"].map(|name| UnixListener::bind(path(name)).unwrap());
        symlink(path("b"), path("c")).unwrap();
        fs::write(path("d"), "").unwrap();
        let (all, faults) = scan(&dir).unwrap();
        assert_eq!(look(&dir, "a").unwrap().as_ref(), all.get("a"));
        assert_eq!(look(&dir, "e"), Ok(None));
        for name in ["c", "d"] {
            assert_eq!(look(&dir, name), Err(WholeDirectory));
        }
        assert_eq!((all.len(), faults.len()), (2, 2), "{faults:?}");
        fs::hard_link(path("a"), path("f")).unwrap();
        assert_eq!(look(&dir, "a"), Err(WholeDirectory));
        for n in 0..1000 {
            fs::write(path(&n.to_string()), "").unwrap();
        }
        let faults = scan(&dir).unwrap().1;
        assert_eq!(faults.len(), MAX_FAULTS + 1);
        assert!(faults[MAX_FAULTS].ends_with("987 more files are no VM's socket"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
