//! Both ends of the VMs' sockets: who listens, who is served, who waits, and what nobody has read.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use quantix::rt::clock::uptime_seconds;
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

/// A socket's path, and its file's inode.
pub type File = (PathBuf, u64);

/// Looks at the ends of these sockets.
///
/// # Errors
/// The kernel does not show sockets (CONFIG_UNIX_DIAG).
pub fn look(files: &[File]) -> io::Result<Vec<Ends>> {
    let sockets = dump()?;
    let mut seen: Vec<Ends> = files.iter().map(|file| of(file, &sockets)).collect();
    let wanted = seen.iter_mut().flat_map(Ends::all).map(|end| end.inode);
    let owners = Owners::find(&wanted.filter(|inode| *inode != 0).collect());
    let now = uptime_seconds();
    for end in seen.iter_mut().flat_map(Ends::all) {
        end.owner = owners.found.get(&end.inode).cloned();
        let begun = end.owner.as_ref().map(|owner| owner.begun.as_secs());
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
    let ours = sock_diag::bound(sockets.values(), path, *file);
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
