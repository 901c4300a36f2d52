//! What the kernel knows of Unix sockets (sock_diag(7)): whether a connection of ours has been
//! accepted, and who else is connected or waits to be.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::netlink::{self, DONE, DUMP, REQUEST, half, message, odd, word};

/// A socket that listens or is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// As in `/proc/PID/fd`: `socket:[INODE]`.
    pub inode: u32,
    /// It listens; otherwise it is connected.
    pub listens: bool,
    /// The path as its owner bound it, at most 108 bytes; not always the path by which others find
    /// it. One that was accepted has that of the one that listened. An abstract name begins with a NUL.
    /// Empty: it has no name.
    pub path: Vec<u8>,
    /// The inode of its file, its lower 32 bits. `None` for an abstract name.
    pub file: Option<u32>,
    /// The socket at the other end; 0 where that was closed.
    pub peer: u32,
    /// Of one that listens: the sockets that have connected and were not yet accepted, in their
    /// order; 0 for one that was closed meanwhile.
    pub waiting: Vec<u32>,
    /// Bytes that have come and were not read; of one that listens: how many wait.
    pub unread: u32,
}

/// A socket's inode.
///
/// # Errors
/// As stat(2); /proc is not mounted.
pub fn inode(socket: &impl AsFd) -> io::Result<u32> {
    let path = format!("/proc/self/fd/{}", socket.as_fd().as_raw_fd());
    Ok(low(fs::metadata(path)?.ino()))
}

/// The part of a file's inode number that [`Socket::file`] has.
pub fn low(inode: u64) -> u32 {
    u32::try_from(inode & u64::from(u32::MAX)).unwrap_or(0)
}

/// Shows every socket of this network namespace that listens or is connected. On a host with very many
/// sockets this takes a while.
///
/// # Errors
/// The kernel does not answer, or not what it should.
pub fn all(mut each: impl FnMut(Socket)) -> io::Result<()> {
    const NAME: u32 = 1;
    const VFS: u32 = 2;
    const ICONS: u32 = 8;
    const QUEUES: u32 = 16;
    let states = 1 << ESTABLISHED | 1 << LISTEN;
    let show = NAME | VFS | SHOW_PEER | ICONS | QUEUES;
    dump(states, show, |body| {
        each(parse(body)?);
        Ok(())
    })
}

/// The connections whose other end is not there: it waits in the listener's queue, where connect(2) succeeds
/// too and nobody reads what is written (net/unix/diag.c, sk_diag_dump_peer), or it was closed.
///
/// # Errors
/// The kernel does not answer, as without CONFIG_UNIX_DIAG.
pub fn unaccepted() -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    dump(1 << ESTABLISHED, SHOW_PEER, |body| {
        let socket = parse(body)?;
        if socket.peer == 0 {
            found.insert(socket.inode);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Shows what the kernel says of each socket in one of these states.
fn dump(states: u32, show: u32, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut netlink = open()?;
    netlink.write_all(&request(states, show))?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let have = netlink.read(&mut buffer)?;
        let mut rest = &buffer[..have];
        if rest.is_empty() {
            return Err(odd());
        }
        while !rest.is_empty() {
            let found = message(rest)?;
            match found.kind {
                DONE => return Ok(()),
                BY_FAMILY => each(found.body)?,
                _ => return Err(odd()),
            }
            rest = found.rest;
        }
    }
}

/// Those of these that belong to the socket at this path: the one that listens, and those that it has
/// accepted. They are told by the inode of its file, whatever it is called in our view or in theirs; on a
/// file system that shows other numbers than the kernel has, by the path.
pub fn bound<'a>(
    sockets: impl IntoIterator<Item = &'a Socket> + Clone,
    path: &Path,
    file: u64,
) -> Vec<&'a Socket> {
    let file = low(file);
    let of = |socket: &'a Socket| Path::new(OsStr::from_bytes(&socket.path));
    let is_file = |s: &&'a Socket| s.file == Some(file) && of(s).file_name() == path.file_name();
    let ours: Vec<&Socket> = sockets.clone().into_iter().filter(is_file).collect();
    match ours.is_empty() {
        true => sockets.into_iter().filter(|s| of(s) == path).collect(),
        false => ours,
    }
}

fn open() -> io::Result<File> {
    netlink::open(libc::NETLINK_SOCK_DIAG, 0)
}

/// SOCK_DIAG_BY_FAMILY of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// UDIAG_SHOW_PEER of linux/unix_diag.h.
const SHOW_PEER: u32 = 4;
/// TCP_ESTABLISHED and TCP_LISTEN of net/tcp_states.h, which Unix sockets have too.
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;
/// A struct unix_diag_msg.
const MESSAGE: usize = 16;

/// A nlmsghdr and a unix_diag_req. The kernel answers such a request
/// while it is sent or read, so that nothing has to be waited for.
fn request(states: u32, show: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend(40u32.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend((REQUEST | DUMP).to_ne_bytes());
    bytes.extend([0; 8]);
    // sdiag_family, sdiag_protocol, pad.
    bytes.extend([1, 0, 0, 0]);
    // udiag_states; udiag_ino: none; udiag_show; udiag_cookie: any.
    bytes.extend(states.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(show.to_ne_bytes());
    bytes.extend([0xFF; 8]);
    bytes
}

/// A unix_diag_msg and its attributes. One of NLMSG_ERROR is too short for it.
fn parse(body: &[u8]) -> io::Result<Socket> {
    let state = *body.get(2).ok_or_else(odd)?;
    let mut found = Socket {
        inode: word(body, 4)?,
        listens: state == LISTEN,
        ..Socket::default()
    };
    let mut at = MESSAGE;
    if body.len() < at {
        return Err(odd());
    }
    while at + 4 <= body.len() {
        // An attribute without a length would never end.
        let length = usize::from(half(body, at)?).max(4);
        let value = body.get(at + 4..at + length).ok_or_else(odd)?;
        // UNIX_DIAG_NAME, _VFS, _PEER, _ICONS, _RQLEN.
        match half(body, at + 2)? {
            0 => {
                let end = value.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
                found.path = value[..end].to_vec();
            }
            1 => found.file = Some(word(value, 0)?),
            2 => found.peer = word(value, 0)?,
            3 => found.waiting = value.chunks_exact(4).flat_map(|b| word(b, 0)).collect(),
            4 => found.unread = word(value, 0)?,
            _ => {}
        }
        at += length.next_multiple_of(4);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_connection_that_waits_in_the_queue_is_told_from_one_that_was_accepted() {
        let path = std::env::temp_dir().join(format!("qx-diag-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let file = low(fs::metadata(&path).unwrap().ino());
        let client = UnixStream::connect(&path).unwrap();
        match unaccepted() {
            // A kernel without it, as in some containers.
            Err(_) => return,
            Ok(found) => assert!(found.contains(&inode(&client).unwrap())),
        }
        let (server, _) = listener.accept().unwrap();
        (&client).write_all(b"unread").unwrap();
        let second = UnixStream::connect(&path).unwrap();
        let waiting = unaccepted().unwrap();
        assert!(waiting.contains(&inode(&second).unwrap()));
        for accepted in [inode(&client).unwrap(), inode(&server).unwrap()] {
            assert!(!waiting.contains(&accepted));
        }

        let mut found = Vec::new();
        let ours = |socket: &Socket| socket.path == path.as_os_str().as_bytes();
        all(|socket| found.extend(Some(socket).filter(ours))).unwrap();
        fs::remove_file(&path).unwrap();
        found.sort_by_key(|socket| !socket.listens);
        let [listening, accepted] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(listening.inode, inode(&listener).unwrap());
        assert_eq!(listening.waiting, [inode(&second).unwrap()]);
        assert_eq!(accepted.peer, inode(&client).unwrap());
        assert_eq!((accepted.unread, listening.unread), (6, 1));
        assert_eq!([listening.file, accepted.file], [Some(file); 2]);
        // Whoever waits has no socket of the server's yet, and one that is closed no number.
        drop((client, second));
        let after = || {
            let mut after = (u32::MAX, Vec::new());
            all(|socket| match socket.inode {
                inode if inode == listening.inode => after.1 = socket.waiting,
                inode if inode == accepted.inode => after.0 = socket.peer,
                _ => {}
            })
            .unwrap();
            after
        };
        let gone = (0, vec![0]);
        // What another test forks holds them until it calls exec, which closes the one a moment after
        // the other.
        (&server).read_to_end(&mut Vec::new()).unwrap();
        for _ in 0..1000 {
            if after() == gone {
                break;
            }
        }
        assert_eq!(after(), gone);
    }

    #[test]
    fn odd_answers_are_no_answers() {
        assert!(parse(&[0; 4]).is_err());
        let mut body = vec![0; 28];
        assert_eq!(parse(&body).unwrap().peer, 0);
        // An attribute that is longer than the message.
        body[16] = 200;
        assert!(parse(&body).is_err());
        // A list whose last number is cut.
        body[16] = 10;
        body[18] = 3;
        body[20] = 7;
        assert_eq!(parse(&body).unwrap().waiting, [7]);
    }
}
