//! Who has connected to the control socket, as the kernel knows it (unix(7)).

use std::io;
use std::os::fd::AsFd;

use quantix::rt::sys::{process, socket};
use quantix::rt::users::Texts;

use crate::access::Caller;

/// Who is at the other end.
///
/// # Errors
/// As getsockopt(2).
pub fn of(stream: &impl AsFd) -> io::Result<Caller> {
    let peer = socket::peer(stream)?;
    let texts = Texts::read();
    let known = texts.databases();
    if peer.uid == 0 || peer.uid == process::effective_user() {
        let user = known.name(peer.uid).unwrap_or_else(|| peer.uid.to_string());
        return Ok(Caller::owner(peer.uid, peer.pid, user));
    }
    // A kernel before 4.13 does not tell, and /etc/group does.
    let groups = socket::peer_groups(stream);
    let listed = groups.is_err();
    let mut gids = groups.unwrap_or_default();
    gids.push(peer.gid);
    Ok(Caller::other(peer.uid, peer.pid, gids, listed, &known))
}

/// The daemon itself, for what it asks of its own accord.
pub fn daemon() -> Caller {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    Caller::owner(process::effective_user(), pid, "qx-node".to_owned())
}
