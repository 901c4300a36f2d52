//! What is known of one VM's channel before anybody judges.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use quantix::error::system_text;
use quantix::message::node;
use quantix::rt::check::Check;

use super::daemons::Daemons;
use super::ends::Ends;
use super::libvirt::{Domain, Libvirt};
use super::monitor::Said;
use super::qga;

/// Everything.
#[derive(Debug)]
pub struct Facts<'a> {
    pub name: &'a str,
    /// We are root, and are shown all processes.
    pub is_root: bool,
    pub directory: &'a File,
    pub socket: File,
    /// Where the kernel tells.
    pub ends: Option<&'a Ends>,
    pub stuck: Stuck,
    pub libvirt: &'a Libvirt,
    /// `None`: there is no need of one, as with `--direct`.
    pub daemons: Option<&'a Daemons>,
    pub monitor: Option<Said>,
    /// What the guest's own doctor says, or why it does not; `None`: it was not asked.
    pub guest: Option<Result<Vec<Check>, String>>,
    /// What QEMU's guest agent says, where our own does not.
    pub other: Option<Check>,
    pub probe: Option<Check>,
}

/// A file, as we see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: PathBuf,
    pub kind: Kind,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory {
        mode: u32,
    },
    Socket {
        inode: u64,
        mode: u32,
        refused: Option<String>,
    },
    Other,
    Missing,
    /// We may not look.
    Hidden(String),
}

/// Bytes that nobody takes, of those that had come before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// On their way to the host, unread by the client.
    pub to_host: u32,
    /// On their way to the guest, unread by QEMU.
    pub to_guest: u32,
}

impl File {
    /// Looks at a path.
    pub fn look(path: &Path) -> Self {
        let kind = match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Kind::Directory {
                mode: meta.mode() & 0o7777,
            },
            Ok(meta) if meta.file_type().is_socket() => Kind::Socket {
                inode: meta.ino(),
                mode: meta.mode() & 0o7777,
                refused: refused(path),
            },
            Ok(_) => Kind::Other,
            Err(e) if e.kind() == ErrorKind::NotFound => Kind::Missing,
            Err(e) => Kind::Hidden(system_text(&e)),
        };
        Self {
            path: path.to_owned(),
            kind,
        }
    }

    /// The socket's number.
    pub const fn inode(&self) -> Option<u64> {
        match self.kind {
            Kind::Socket { inode, .. } => Some(inode),
            _ => None,
        }
    }
}

/// Why we could not connect to a socket: who connects may write to it (unix(7)).
fn refused(path: &Path) -> Option<String> {
    let may = quantix::rt::sys::fd::may_write(path);
    may.err().map(|e| system_text(&e))
}

impl Facts<'_> {
    /// What libvirt knows of the VM.
    pub fn domain(&self) -> Option<&Domain> {
        self.libvirt.as_ref().ok()?.get(self.name)
    }

    /// The VM runs, and QEMU's own guest agent has its port open.
    pub fn may_ask_qemus(&self) -> bool {
        self.domain().is_some_and(|domain| {
            let channel = domain.channel(qga::PORT);
            domain.state == "running" && channel.is_some_and(|channel| channel.open == Some(true))
        })
    }

    /// What the daemon says of the VM.
    pub fn told(&self) -> Option<&node::Vm> {
        self.daemons?.says.as_ref().ok()?.get(self.name)
    }
}
