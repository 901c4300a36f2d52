//! The port to the host: found, opened, lost and opened again, for as long as the agent runs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use quantix::error::system_text;
use quantix::time::Time;

use crate::holder::{self, Holder};
use crate::names;

/// The port's name, as QEMU's `virtserialport,name=` gives it.
pub const NAME: &str = "org.quantix.agent.0";

/// Where the kernel lists ports: one directory each, with the port's name in the file `name`.
const SYSFS: &str = "/sys/class/virtio-ports";

/// First and longest pause between two tries to open the port.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// While there is no port the kernel's events tell when one comes. This is for those that get lost.
const RETRY_ABSENT: Duration = Duration::from_secs(60);

/// A write that was refused is tried again after this, because the driver does not always tell
/// when there is room (a port whose host it believes gone).
const RETRY_WRITE: Duration = Duration::from_secs(1);

/// The port.
#[derive(Debug)]
pub struct Port {
    /// As given on the command line; else it is looked for.
    path: Option<PathBuf>,
    token: Token,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Not open. Tried again at `retry`.
    Closed {
        retry: Time,
        pause: Duration,
        why: String,
    },
    Open {
        file: File,
        is_socket: bool,
        readable: bool,
        /// A write was refused; it is tried again at an event, or at this time.
        blocked: Option<Time>,
    },
}

/// What a read or write came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Moved {
    /// This many bytes.
    Bytes(usize),
    /// Nothing can be moved now.
    Blocked,
    /// The port says that no host is connected.
    NoHost,
    /// The port is gone, and closed here.
    Lost(String),
}

/// What a try to open the port came to.
#[derive(Debug)]
pub enum Opened {
    /// It is open: this path.
    Yes(PathBuf),
    /// It is not; the reason, if it is another than the last time.
    No(Option<String>),
}

impl Port {
    /// A port that is opened at the first [`handle_timeout`](Self::handle_timeout).
    pub const fn new(path: Option<PathBuf>, token: Token) -> Self {
        Self {
            path,
            token,
            state: State::Closed {
                retry: Time::from_micros(0),
                pause: RETRY_MIN,
                why: String::new(),
            },
        }
    }

    /// When something has to be tried again.
    pub fn poll_timeout(&self, has_output: bool) -> Option<Time> {
        match &self.state {
            State::Closed { retry, .. } => Some(*retry),
            State::Open { blocked, .. } if has_output => *blocked,
            State::Open { .. } => None,
        }
    }

    /// Tries to open the port where it is time to. `None`: it is open, or it is not yet time.
    pub fn handle_timeout(&mut self, now: Time, registry: &Registry) -> Option<Opened> {
        match &mut self.state {
            State::Closed { retry, .. } if *retry <= now => Some(self.open(now, registry)),
            State::Closed { .. } => None,
            State::Open { blocked, .. } => {
                if blocked.is_some_and(|at| at <= now) {
                    *blocked = None;
                }
                None
            }
        }
    }

    /// The kernel told of a port that came, changed or went.
    pub const fn handle_device_event(&mut self) {
        if let State::Closed { retry, .. } = &mut self.state {
            *retry = Time::from_micros(0);
        }
    }

    /// An event of the poll for the port.
    pub fn on_ready(&mut self, can_read: bool, can_write: bool, registry: &Registry) {
        let token = self.token;
        if let State::Open {
            file,
            readable,
            blocked,
            ..
        } = &mut self.state
        {
            *readable |= can_read;
            if can_write && blocked.take().is_some() {
                // Every completed write raises an event while this interest stands.
                let _ = registry.reregister(
                    &mut SourceFd(&file.as_raw_fd()),
                    token,
                    Interest::READABLE,
                );
            }
        }
    }

    /// There may be something to read.
    pub const fn is_readable(&self) -> bool {
        matches!(self.state, State::Open { readable: true, .. })
    }

    /// The port is open and its last write was not refused.
    pub const fn is_writable(&self) -> bool {
        matches!(self.state, State::Open { blocked: None, .. })
    }

    /// Reads once. A short read does not mean that there is no more: the driver gives at most one
    /// buffer of 4 KiB.
    pub fn read(&mut self, now: Time, buffer: &mut [u8]) -> Moved {
        let State::Open {
            file,
            is_socket,
            readable,
            ..
        } = &mut self.state
        else {
            return Moved::Blocked;
        };
        match file.read(buffer) {
            Ok(0) if *is_socket => self.lose(now, "the socket's other end has closed it"),
            Ok(0) => {
                *readable = false;
                Moved::NoHost
            }
            Ok(n) => Moved::Bytes(n),
            Err(e) if e.kind() == ErrorKind::Interrupted => Moved::Bytes(0),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                *readable = false;
                Moved::Blocked
            }
            Err(e) => self.lose(now, &system_text(&e)),
        }
    }

    /// Writes once. At most 32 KiB are taken.
    pub fn write(&mut self, now: Time, bytes: &[u8], registry: &Registry) -> Moved {
        let token = self.token;
        let State::Open { file, blocked, .. } = &mut self.state else {
            return Moved::Blocked;
        };
        match file.write(bytes) {
            Ok(n) if n > 0 => Moved::Bytes(n),
            Err(e) if e.kind() == ErrorKind::Interrupted => Moved::Bytes(0),
            Err(e) if e.kind() != ErrorKind::WouldBlock => self.lose(now, &system_text(&e)),
            // The driver also answers 0 when its ring has no room for the descriptors.
            Ok(_) | Err(_) => {
                *blocked = Some(now + RETRY_WRITE);
                let both = Interest::READABLE | Interest::WRITABLE;
                let _ = registry.reregister(&mut SourceFd(&file.as_raw_fd()), token, both);
                Moved::Blocked
            }
        }
    }

    fn lose(&mut self, now: Time, why: &str) -> Moved {
        self.state = State::Closed {
            retry: now + RETRY_MIN,
            pause: RETRY_MIN,
            why: why.to_owned(),
        };
        Moved::Lost(why.to_owned())
    }

    fn open(&mut self, now: Time, registry: &Registry) -> Opened {
        let found = match &self.path {
            Some(path) => Ok(path.clone()),
            None => find(Path::new(SYSFS)),
        };
        let tried = found.and_then(|path| {
            let (file, is_socket) = open(&path)?;
            registry
                .register(
                    &mut SourceFd(&file.as_raw_fd()),
                    self.token,
                    Interest::READABLE,
                )
                .map_err(|e| Failed::at(&path, &e))?;
            Ok((path, file, is_socket))
        });
        match tried {
            Ok((path, file, is_socket)) => {
                self.state = State::Open {
                    file,
                    is_socket,
                    // The first event may have been before the registration.
                    readable: true,
                    blocked: None,
                };
                Opened::Yes(path)
            }
            Err(failed) => self.failed(now, failed),
        }
    }

    fn failed(&mut self, now: Time, failed: Failed) -> Opened {
        let State::Closed { pause, why, .. } = &self.state else {
            return Opened::No(None);
        };
        let next = if failed.absent {
            RETRY_ABSENT
        } else {
            (*pause * 2).min(RETRY_MAX)
        };
        let news = (*why != failed.why).then(|| failed.why.clone());
        self.state = State::Closed {
            retry: now + next,
            pause: next.min(RETRY_MAX),
            why: failed.why,
        };
        Opened::No(news)
    }
}

#[derive(Debug)]
struct Failed {
    /// There is no such port in this guest; the kernel tells when one comes.
    absent: bool,
    why: String,
}

impl Failed {
    fn at(path: &Path, error: &io::Error) -> Self {
        Self {
            absent: false,
            why: format!("open {}: {}", path.display(), system_text(error)),
        }
    }
}

/// A port of this guest, whichever.
#[derive(Debug)]
pub struct Listed {
    /// As QEMU was given it.
    pub name: String,
    /// Its node in /dev, and its directory in sysfs.
    pub node: OsString,
}

/// The ports that the kernel lists in this directory.
pub fn ports(sysfs: &Path) -> Vec<Listed> {
    let listed = |node: OsString| {
        let name = fs::read(sysfs.join(&node).join("name")).unwrap_or_default();
        let name = String::from_utf8_lossy(name.trim_ascii_end()).into_owned();
        Listed { name, node }
    };
    let nodes = names::all(sysfs).unwrap_or_default();
    nodes.into_iter().map(listed).collect()
}

/// Looks for the port by its name. Needs no udev: `/dev/virtio-ports/` may not exist.
fn find(sysfs: &Path) -> Result<PathBuf, Failed> {
    if let Some(port) = ports(sysfs).into_iter().find(|port| port.name == NAME) {
        return Ok(Path::new("/dev").join(port.node));
    }
    let why = if sysfs.exists() {
        format!("no port named {NAME} in {SYSFS}: the VM has no such channel yet")
    } else {
        format!("no {SYSFS}: the kernel module virtio_console is not loaded")
    };
    Err(Failed { absent: true, why })
}

fn open(path: &Path) -> Result<(File, bool), Failed> {
    let meta = fs::metadata(path).map_err(|e| Failed::at(path, &e))?;
    if meta.file_type().is_socket() {
        let socket = mio::net::UnixStream::connect(path).map_err(|e| Failed::at(path, &e))?;
        return Ok((File::from(OwnedFd::from(socket)), true));
    }
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    match opened {
        Ok(file) => Ok((file, false)),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            let mut failed = Failed::at(path, &e);
            let device = fs::canonicalize(path).unwrap_or_default();
            match holder::of(Path::new("/proc"), &device).found.first() {
                Some(Holder { pid, name }) => {
                    failed.why += &format!(": held by {name}, pid {pid}");
                }
                None => failed.why += ": held by another process",
            }
            Err(failed)
        }
        Err(e) => Err(Failed::at(path, &e)),
    }
}
