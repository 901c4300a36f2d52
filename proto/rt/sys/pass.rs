//! Descriptors on their way from one process to another (SCM_RIGHTS, unix(7)).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// Descriptors in one message.
pub const MAX_FILES: usize = 8;

/// Room for their header and `MAX_FILES` of them, aligned as a cmsghdr has to be.
type Control = [u64; 8];

// SAFETY: CMSG_SPACE only calculates.
const _: () = assert!(size_of::<Control>() >= unsafe { libc::CMSG_SPACE(FILES_SIZE) } as usize);

#[expect(clippy::cast_possible_truncation, reason = "32 bytes")]
const FILES_SIZE: u32 = (MAX_FILES * size_of::<RawFd>()) as u32;

/// Writes bytes to a connected unix stream socket, and with the first of them descriptors, of which the
/// receiver gets copies. Returns how many bytes were taken.
///
/// # Errors
/// InvalidInput: no bytes, or more than [`MAX_FILES`]. As sendmsg(2).
pub fn send(socket: &impl AsFd, bytes: &[u8], files: &[BorrowedFd]) -> io::Result<usize> {
    if bytes.is_empty() || files.len() > MAX_FILES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control: Control = [0; 8];
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut message = message(&mut part, &mut control);
    if files.is_empty() {
        message.msg_controllen = 0;
    } else {
        let size = files.len() * size_of::<RawFd>();
        let size = u32::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: `control` has room for the header and MAX_FILES descriptors (asserted above), and is
        // aligned for it; CMSG_FIRSTHDR points at its begin and CMSG_DATA behind the header there.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            let mut place = libc::CMSG_DATA(header).cast::<RawFd>();
            for file in files {
                place.write_unaligned(file.as_raw_fd());
                place = place.add(1);
            }
        }
    }
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: sendmsg reads `message`, `part`, `bytes` and `control`, which live for the length of the call.
    let sent = unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Reads bytes, and what descriptors came with the first of them; they are closed on exec. 0 bytes: the
/// other end was closed.
///
/// # Errors
/// As recvmsg(2). InvalidData: more than [`MAX_FILES`] came, or this process may have no more; those
/// that came are closed.
pub fn receive(socket: &impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<File>)> {
    let mut control: Control = [0; 8];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut message = message(&mut part, &mut control);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: recvmsg writes into `message`, `bytes` and `control`, which live for the length of the call.
    let got = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let mut files = Vec::new();
    // SAFETY: the kernel has filled `control` up to msg_controllen with whole headers, each with its
    // length, so that the macros stay inside; an SCM_RIGHTS has descriptors behind its header that are
    // open and that nobody else owns.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let size = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let mut place = libc::CMSG_DATA(header).cast::<RawFd>();
                for _ in 0..size / size_of::<RawFd>() {
                    files.push(File::from(OwnedFd::from_raw_fd(place.read_unaligned())));
                    place = place.add(1);
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((got, files))
}

fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: a msghdr is pointers and numbers, for all of which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    message
}

/// A pair of connected unix stream sockets, both closed on exec.
///
/// # Errors
/// EMFILE, ENFILE (socketpair(2)).
pub fn pair() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` is a valid place for two descriptors for the length of the call.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    // SAFETY: socketpair succeeded, so both descriptors are open and nobody else owns them.
    let [one, other] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    Ok((one.into(), other.into()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::fd::pipe;
    use super::*;

    #[test]
    fn a_descriptor_arrives_with_the_first_byte() {
        let (ours, theirs) = pair().unwrap();
        let (mut reader, writer) = pipe().unwrap();
        send(&ours, b"take", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut bytes = [0; 2];
        let (n, files) = receive(&theirs, &mut bytes).unwrap();
        assert_eq!((n, &bytes, files.len()), (2, b"ta", 1));
        (&files[0]).write_all(b"through").unwrap();
        drop(files);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        let (n, files) = receive(&theirs, &mut bytes).unwrap();
        assert_eq!((n, &bytes, files.len()), (2, b"ke", 0));
    }

    #[test]
    fn nothing_is_sent_that_could_not_be_received() {
        let (ours, theirs) = pair().unwrap();
        let many = [ours.as_fd(); MAX_FILES + 1];
        assert!(send(&ours, b"x", &many).is_err());
        assert!(send(&ours, b"", &many[..1]).is_err());
        send(&ours, b"x", &many[..MAX_FILES]).unwrap();
        let (n, files) = receive(&theirs, &mut [0; 8]).unwrap();
        assert_eq!((n, files.len()), (1, MAX_FILES));
    }
}
