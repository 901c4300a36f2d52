//! Both ends of the VMs' sockets: who listens, who is served, who waits, and what nobody has read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quantix::rt::sys::sock_diag::{self, Socket};

use crate::owners::{Owner, Owners};

/// One end of a connection, or a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// 0: it was closed.
    pub inode: u32,
    /// `None`: no process that we see has it.
    pub owner: Option<Owner>,
    /// Seconds since its process began, where that is known.
    pub age: Option<u64>,
    /// Bytes that have come here and were not read.
    pub unread: u32,
}

/// A connection that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    pub server: End,
    pub client: End,
}

/// What the kernel shows of one VM's socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub listener: Option<End>,
    pub served: Vec<Pair>,
    /// Connected, and not accepted; in their order.
    pub waiting: Vec<End>,
}

/// The ends of all sockets that were asked for.
#[derive(Debug, Default)]
pub struct Seen {
    pub ends: Vec<Ends>,
    /// Processes of other users are not shown to us.
    pub denied: bool,
}

/// A socket's path, and its file's inode.
pub type File = (PathBuf, u64);

/// Looks at the ends of these sockets.
///
/// # Errors
/// The kernel does not show sockets (CONFIG_UNIX_DIAG).
pub fn look(files: &[File]) -> io::Result<Seen> {
    let sockets = dump()?;
    let mut seen = Seen {
        ends: files.iter().map(|file| of(file, &sockets)).collect(),
        denied: false,
    };
    let mut wanted = BTreeSet::new();
    for end in seen.ends.iter_mut().flat_map(Ends::all) {
        wanted.insert(end.inode);
    }
    wanted.remove(&0);
    let owners = Owners::find(wanted);
    seen.denied = owners.denied;
    let now = uptime();
    for end in seen.ends.iter_mut().flat_map(Ends::all) {
        end.owner = owners.found.get(&end.inode).cloned();
        let begun = end.owner.as_ref().and_then(|owner| begun(owner.pid));
        end.age = begun.map(|begun| now.saturating_sub(begun));
    }
    Ok(seen)
}

/// Unread bytes of all sockets that have some.
///
/// # Errors
/// As [`look`].
pub fn unread() -> io::Result<BTreeMap<u32, u32>> {
    let mut unread = BTreeMap::new();
    sock_diag::all(|socket| {
        if socket.unread > 0 && !socket.listens {
            unread.insert(socket.inode, socket.unread);
        }
    })?;
    Ok(unread)
}

fn dump() -> io::Result<BTreeMap<u32, Socket>> {
    let mut sockets = BTreeMap::new();
    sock_diag::all(|socket| {
        sockets.insert(socket.inode, socket);
    })?;
    Ok(sockets)
}

impl Ends {
    fn all(&mut self) -> impl Iterator<Item = &mut End> {
        let pairs = self.served.iter_mut();
        let pairs = pairs.flat_map(|pair| [&mut pair.server, &mut pair.client]);
        self.listener
            .iter_mut()
            .chain(pairs)
            .chain(&mut self.waiting)
    }
}

/// The ends of one socket.
fn of((path, file): &File, sockets: &BTreeMap<u32, Socket>) -> Ends {
    let file = sock_diag::low(*file);
    let name = path.file_name();
    let is_name = |s: &&Socket| Path::new(bytes(&s.path)).file_name() == name;
    let is_file = |s: &&Socket| s.file == Some(file) && is_name(s);
    // On a file system that shows other numbers than the kernel has: its path.
    let is_path = |s: &&Socket| bytes(&s.path) == path.as_os_str();
    let mut ours: Vec<&Socket> = sockets.values().filter(is_file).collect();
    if ours.is_empty() {
        ours = sockets.values().filter(is_path).collect();
    }
    let end = |inode: u32| End {
        inode,
        unread: sockets.get(&inode).map_or(0, |socket| socket.unread),
        ..End::default()
    };
    let listener = ours.iter().find(|socket| socket.listens);
    Ends {
        listener: listener.map(|socket| End {
            unread: 0,
            ..end(socket.inode)
        }),
        served: ours
            .iter()
            .filter(|socket| !socket.listens)
            .map(|socket| Pair {
                server: end(socket.inode),
                client: end(socket.peer),
            })
            .collect(),
        waiting: listener
            .into_iter()
            .flat_map(|socket| socket.waiting.iter().map(|inode| end(*inode)))
            .collect(),
    }
}

fn bytes(path: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(path)
}

/// Seconds from the boot to now.
fn uptime() -> u64 {
    quantix::rt::clock::uptime_seconds()
}

/// Seconds from the boot to the begin of a process: field 22 of proc_pid_stat(5), in units of 1/100 s on
/// every system that this runs on.
fn begun(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: u64 = rest.split(' ').nth(19)?.parse().ok()?;
    Some(ticks / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(inode: u32, path: &str, file: u32) -> Socket {
        Socket {
            inode,
            path: path.as_bytes().to_vec(),
            file: Some(file),
            ..Socket::default()
        }
    }

    #[test]
    fn the_ends_of_a_socket_are_found_by_its_file() {
        let listener = Socket {
            listens: true,
            waiting: vec![30, 0],
            unread: 2,
            ..socket(10, "/run/a.sock", 5)
        };
        let accepted = Socket {
            peer: 20,
            unread: 7,
            ..socket(11, "/run/a.sock", 5)
        };
        let client = Socket {
            peer: 11,
            unread: 9,
            inode: 20,
            ..Socket::default()
        };
        // Another directory's, and another socket with the same number.
        let others = [socket(12, "/x/a.sock", 6), socket(13, "/run/b.sock", 5)];
        let all = [listener, accepted, client].into_iter().chain(others);
        let all: BTreeMap<u32, Socket> = all.map(|socket| (socket.inode, socket)).collect();
        let ends = of(&("/var/run/a.sock".into(), 9 << 32 | 5), &all);
        assert_eq!(ends.listener.unwrap().inode, 10);
        assert_eq!(ends.served.len(), 1);
        let pair = &ends.served[0];
        assert_eq!((pair.server.inode, pair.server.unread), (11, 7));
        assert_eq!((pair.client.inode, pair.client.unread), (20, 9));
        let waiting: Vec<u32> = ends.waiting.iter().map(|end| end.inode).collect();
        assert_eq!(waiting, [30, 0]);
        assert_eq!(of(&("/run/c.sock".into(), 5), &all), Ends::default());
        // Numbers that are others': the path decides.
        assert_eq!(of(&("/run/a.sock".into(), 77), &all).served.len(), 1);
    }
}
