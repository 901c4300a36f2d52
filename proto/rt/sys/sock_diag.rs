//! Whether our connection to a Unix socket has been accepted, asked of the kernel (sock_diag(7)).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;

use super::check;

/// The other end's inode, or `None` while the connection only waits in the listener's queue:
/// connect(2) succeeds there too, and nobody reads what is written (net/unix/diag.c,
/// sk_diag_dump_peer).
///
/// # Errors
/// The kernel does not answer, as without CONFIG_UNIX_DIAG.
pub fn peer_inode(socket: &impl AsFd) -> io::Result<Option<u32>> {
    let path = format!("/proc/self/fd/{}", socket.as_fd().as_raw_fd());
    let inode = u32::try_from(fs::metadata(path)?.ino()).unwrap_or(0);
    let mut netlink = open()?;
    netlink.write_all(&request(inode))?;
    let mut answer = [0; 512];
    let have = netlink.read(&mut answer)?;
    parse(&answer[..have])
}

fn open() -> io::Result<File> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket touches no memory of ours.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) })?;
    // SAFETY: the call succeeded, so the descriptor is open and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// SOCK_DIAG_BY_FAMILY of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// UDIAG_SHOW_PEER and UNIX_DIAG_PEER of linux/unix_diag.h.
const SHOW_PEER: u32 = 4;
const PEER: u16 = 2;
/// A struct nlmsghdr, and the struct unix_diag_msg behind it.
const HEADER: usize = 16;
const MESSAGE: usize = 16;

/// A nlmsghdr and a unix_diag_req for one inode. The kernel answers such a request while it is sent,
/// so that the answer can be read without waiting.
fn request(inode: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend(40u32.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    // NLM_F_REQUEST.
    bytes.extend(1u16.to_ne_bytes());
    bytes.extend([0; 8]);
    // sdiag_family, sdiag_protocol, pad.
    bytes.extend([1, 0, 0, 0]);
    // udiag_states: all; udiag_ino; udiag_show; udiag_cookie: any.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(inode.to_ne_bytes());
    bytes.extend(SHOW_PEER.to_ne_bytes());
    bytes.extend([0xFF; 8]);
    bytes
}

fn parse(answer: &[u8]) -> io::Result<Option<u32>> {
    let odd = || io::Error::from(io::ErrorKind::InvalidData);
    let word = |at: usize| -> io::Result<u16> {
        let bytes = answer.get(at..at + 2).ok_or_else(odd)?;
        Ok(u16::from_ne_bytes([bytes[0], bytes[1]]))
    };
    // Anything else is NLMSG_ERROR.
    if word(4)? != BY_FAMILY {
        return Err(odd());
    }
    let mut at = HEADER + MESSAGE;
    while at + 4 <= answer.len() {
        let (length, kind) = (usize::from(word(at)?), word(at + 2)?);
        if kind == PEER {
            let inode = answer.get(at + 4..at + 8).ok_or_else(odd)?;
            let inode = u32::from_ne_bytes(inode.try_into().map_err(|_| odd())?);
            return Ok((inode != 0).then_some(inode));
        }
        // Attributes are padded to 4 bytes; one without a length would never end.
        at += length.max(4).next_multiple_of(4);
    }
    Ok(None)
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
        let client = UnixStream::connect(&path).unwrap();
        fs::remove_file(&path).unwrap();
        match peer_inode(&client) {
            // A kernel without it, as in some containers.
            Err(_) => return,
            Ok(peer) => assert_eq!(peer, None),
        }
        let (server, _) = listener.accept().unwrap();
        assert!(peer_inode(&client).unwrap().is_some());
        assert!(peer_inode(&server).unwrap().is_some());
    }

    #[test]
    fn odd_answers_are_no_answers() {
        assert!(parse(&[]).is_err());
        assert!(parse(&[0; 36]).is_err());
        let mut answer = vec![0; 44];
        answer[4] = 20;
        assert_eq!(parse(&answer).unwrap(), None);
    }
}
