//! Who is ahead of us where QEMU serves another client. Finding the process behind a socket means
//! to walk through /proc, which takes long on a large host; a forked child does it, for all VMs
//! that ask, and answers over a pipe. There is never more than one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use prost::Message;
use quantix::message::node::Behind;
use quantix::rt::sys::fd;
use quantix::rt::sys::process::{self, Pid, Signal};
use quantix::rt::sys::seccomp::{self, Reach};
use quantix::rt::sys::sock_diag::{self, Socket};
use quantix::time::Time;

use super::broker::VmKey;
use super::deadlines::Deadlines;
use super::state::Line;
use crate::owners::Owners;

/// How long a child may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// From one look to the next, while a VM stays queued: who is ahead can change.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// VMs that one child looks at; others wait for the next.
const MAX_ASKED: usize = 1024;

/// Bytes of a child's answer: what `MAX_ASKED` can come to.
const MAX_ANSWER: usize = 128 * 1024;

/// What is asked of one VM.
#[derive(Clone, Debug)]
pub struct Ask {
    pub path: PathBuf,
    /// The inode of the socket's file.
    pub file: u64,
    /// Our own socket; `None` where its connect found the queue full.
    pub ours: Option<u32>,
}

/// All look-ups of the daemon.
#[derive(Debug)]
pub struct Queues {
    token: Token,
    waiting: BTreeMap<VmKey, Waiting>,
    due: Deadlines<VmKey>,
    child: Option<Child>,
}

/// A VM for which somebody is to be looked for.
#[derive(Debug)]
struct Waiting {
    in_queue: bool,
    /// The holder that was found had ended when this was looked at last.
    ended: bool,
    looks: usize,
}

#[derive(Debug)]
enum Child {
    Looking {
        pid: Pid,
        pipe: File,
        bytes: Vec<u8>,
        asked: Vec<VmKey>,
        deadline: Time,
    },
    /// It has answered, or was killed, and has not yet ended. One that hangs in the kernel may not do
    /// so for long; from then on nothing can be found out.
    Ending { pid: Pid, hangs_from: Time },
}

impl Queues {
    /// Nobody asks yet. The children's pipes are registered with `token`.
    pub const fn new(token: Token) -> Self {
        Self {
            token,
            waiting: BTreeMap::new(),
            due: Deadlines::new(),
            child: None,
        }
    }

    /// A VM's connection waits in the queue, or found no room there. It is looked for now if this, or
    /// that its holder has `ended`, is news; else at its time.
    pub fn want(&mut self, now: Time, key: VmKey, in_queue: bool, ended: bool) {
        let news = match self.waiting.get(&key) {
            Some(waiting) => waiting.in_queue != in_queue || (ended && !waiting.ended),
            None => true,
        };
        let looks = self.waiting.get(&key).map_or(0, |waiting| waiting.looks);
        let waiting = Waiting {
            in_queue,
            ended,
            looks: if news { 0 } else { looks },
        };
        self.waiting.insert(key, waiting);
        if news {
            self.due.set(key, Some(now));
        }
    }

    /// Nothing has to be known of this VM any more.
    pub fn forget(&mut self, key: VmKey) {
        if self.waiting.remove(&key).is_some() {
            self.due.set(key, None);
        }
    }

    /// When something has to be done: [`on_timeout`](Self::on_timeout), then
    /// [`begin`](Self::begin).
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.child {
            None => self.due.next(),
            Some(Child::Looking { deadline, .. }) => Some(*deadline),
            Some(Child::Ending { hangs_from, .. }) => {
                self.due.next().map(|due| due.max(*hangs_from))
            }
        }
    }

    /// Starts a child for all VMs whose time has come. It is one after the other: a child that hangs
    /// in the kernel has no company.
    ///
    /// Returns the VMs for which none could be started.
    pub fn begin(
        &mut self,
        now: Time,
        registry: &Registry,
        ask: impl Fn(VmKey) -> Option<Ask>,
    ) -> Vec<VmKey> {
        let may_begin = match &self.child {
            None => true,
            Some(Child::Ending { hangs_from, .. }) => *hangs_from <= now,
            Some(Child::Looking { .. }) => false,
        };
        if !may_begin {
            return Vec::new();
        }
        let mut asked = Vec::new();
        let mut asks = Vec::new();
        while asks.len() < MAX_ASKED
            && let Some(key) = self.due.take_due(now)
        {
            if let Some(waiting) = self.waiting.get_mut(&key)
                && let Some(ask) = ask(key)
            {
                let pause = PAUSES.get(waiting.looks).unwrap_or(&PAUSES[3]);
                waiting.looks += 1;
                self.due.set(key, Some(now + *pause));
                asked.push(key);
                asks.push((key, ask));
            }
        }
        if asks.is_empty() || self.child.is_some() {
            return asked;
        }
        match start(&asks, registry, self.token) {
            Ok((pid, pipe)) => {
                self.child = Some(Child::Looking {
                    pid,
                    pipe,
                    bytes: Vec::new(),
                    asked,
                    deadline: now + PATIENCE,
                });
                Vec::new()
            }
            Err(_) => asked,
        }
    }

    /// An event came for the pipe. What was found, once it is complete.
    pub fn on_ready(&mut self, now: Time) -> Vec<(VmKey, Line)> {
        let Some(Child::Looking { pipe, bytes, .. }) = &mut self.child else {
            return Vec::new();
        };
        let mut buffer = [0; 8192];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => return self.end(now),
                Ok(n) if bytes.len() + n <= MAX_ANSWER => bytes.extend(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Vec::new(),
                Ok(_) | Err(_) => return self.end(now),
            }
        }
    }

    /// What is known at a child's deadline.
    pub fn on_timeout(&mut self, now: Time) -> Vec<(VmKey, Line)> {
        match &self.child {
            Some(Child::Looking { deadline, .. }) if *deadline <= now => self.end(now),
            _ => Vec::new(),
        }
    }

    /// A child of the daemon has ended.
    pub fn on_exit(&mut self, now: Time, ended: Pid) -> Vec<(VmKey, Line)> {
        match self.child {
            Some(Child::Ending { pid, .. }) if pid == ended => self.child = None,
            // Its answer is in the pipe.
            Some(Child::Looking { pid, .. }) if pid == ended => {
                let found = self.on_ready(now);
                self.child = None;
                return found;
            }
            _ => {}
        }
        Vec::new()
    }

    fn end(&mut self, now: Time) -> Vec<(VmKey, Line)> {
        let Some(Child::Looking {
            pid, bytes, asked, ..
        }) = self.child.take()
        else {
            return Vec::new();
        };
        process::signal_group(pid, Signal::KILL);
        let hangs_from = now + PATIENCE;
        self.child = Some(Child::Ending { pid, hangs_from });
        let mut found = decode(&bytes);
        asked
            .into_iter()
            // One that has been served meanwhile asks no more.
            .filter(|key| self.waiting.contains_key(key))
            .map(|key| (key, found.remove(&key).unwrap_or(Line::Unknown)))
            .collect()
    }
}

fn start(asks: &[(VmKey, Ask)], registry: &Registry, token: Token) -> io::Result<(Pid, File)> {
    let (reader, writer) = fd::pipe()?;
    fd::set_nonblocking(&reader)?;
    registry.register(
        &mut SourceFd(&reader.as_raw_fd()),
        token,
        Interest::READABLE,
    )?;
    let pid = process::spawn(&[&writer], || {
        let _ = seccomp::give_up(&[
            Reach::Children,
            Reach::Sockets,
            Reach::Writes,
            Reach::Signals,
        ]);
        i32::from(look(asks, &writer).is_err())
    })?;
    Ok((pid, reader))
}

/// A child's answer for one VM.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(uint64, tag = "1")]
    vm: u64,
    #[prost(enumeration = "Verdict", tag = "2")]
    verdict: i32,
    #[prost(message, optional, tag = "3")]
    behind: Option<Behind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Verdict {
    Nobody = 0,
    Named = 1,
    /// It has closed its end, and QEMU does not know yet.
    Left = 2,
    /// Processes of other users are not shown to us.
    Denied = 3,
    /// No process that we see has it.
    Hidden = 4,
}

impl Verdict {
    const fn why(self) -> &'static str {
        match self {
            Self::Nobody => "",
            Self::Named => {
                "QEMU serves one client at a time: end that one, or wait until it leaves"
            }
            Self::Left => "it has left, and QEMU has not noticed: is the VM paused?",
            Self::Denied => {
                "QEMU serves one client at a time; only root can see which: run the daemon as root"
            }
            Self::Hidden => {
                "QEMU serves one client at a time; no process here has it: look in containers"
            }
        }
    }
}

fn decode(mut bytes: &[u8]) -> BTreeMap<VmKey, Line> {
    let mut found = BTreeMap::new();
    while let Ok(answer) = Answer::decode_length_delimited(&mut bytes) {
        let why = answer.verdict().why();
        let line = match answer.behind {
            Some(behind) => Line::Ahead { behind, why },
            None => Line::Nobody,
        };
        found.insert(VmKey(answer.vm), line);
    }
    found
}

/// In the child: one answer for each VM whose listener the kernel shows.
fn look(asks: &[(VmKey, Ask)], mut pipe: &File) -> io::Result<()> {
    let names: BTreeSet<&OsStr> = asks
        .iter()
        .filter_map(|(_, a)| a.path.file_name())
        .collect();
    let mut sockets = Vec::new();
    sock_diag::all(|socket| {
        if file_name(&socket).is_some_and(|name| names.contains(name)) {
            sockets.push(socket);
        }
    })?;
    let places: Vec<(VmKey, Place)> = asks
        .iter()
        .filter_map(|(key, ask)| Some((*key, place(ask, &sockets)?)))
        .collect();
    let wanted = places.iter().filter_map(|(_, place)| place.holder);
    let owners = Owners::find(&wanted.filter(|inode| *inode != 0).collect());
    for (key, place) in places {
        let (verdict, behind) = name(&owners, &place);
        let answer = Answer {
            vm: key.0,
            verdict: verdict.into(),
            behind,
        };
        pipe.write_all(&answer.encode_length_delimited_to_vec())?;
    }
    Ok(())
}

/// Our place in the queue of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// The first of those ahead of us; 0: it has closed its end. `None`: nobody is ahead.
    holder: Option<u32>,
    position: u32,
    of: u32,
}

/// `None`: there is no such listener here.
fn place(ask: &Ask, sockets: &[Socket]) -> Option<Place> {
    let ours = sock_diag::bound(sockets, &ask.path, ask.file);
    let waiting = &ours.iter().find(|s| s.listens)?.waiting;
    let served = ours.iter().filter(|s| !s.listens).map(|s| s.peer);
    let at = ask.ours.map(|ours| waiting.iter().position(|w| *w == ours));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (ahead, position) = match at {
        None => (waiting.len(), 0),
        Some(Some(at)) => (at, count(at + 1)),
        // Accepted meanwhile.
        Some(None) => {
            return Some(Place {
                holder: None,
                position: 0,
                of: 0,
            });
        }
    };
    Some(Place {
        holder: served.chain(waiting[..ahead].iter().copied()).next(),
        position,
        of: count(waiting.len()),
    })
}

fn file_name(socket: &Socket) -> Option<&OsStr> {
    Path::new(OsStr::from_bytes(&socket.path)).file_name()
}

/// Who is ahead, and why it has no name where it has none.
fn name(owners: &Owners, place: &Place) -> (Verdict, Option<Behind>) {
    let Some(holder) = place.holder else {
        return (Verdict::Nobody, None);
    };
    let mut behind = Behind {
        position: place.position,
        of: place.of,
        ..Behind::default()
    };
    let verdict = match owners.found.get(&holder) {
        Some(owner) => {
            behind.pid = owner.pid;
            behind.command.clone_from(&owner.command);
            Verdict::Named
        }
        None if holder == 0 => Verdict::Left,
        None if owners.denied => Verdict::Denied,
        None => Verdict::Hidden,
    };
    (verdict, Some(behind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owners::Owner;

    const FILE: u64 = 77 << 32 | 5;

    fn ask(ours: Option<u32>) -> Ask {
        Ask {
            path: "/var/run/x/vm.agent.sock".into(),
            file: FILE,
            ours,
        }
    }

    fn socket(listens: bool, file: u32, peer: u32, waiting: &[u32]) -> Socket {
        Socket {
            inode: 1,
            listens,
            path: b"/run/x/vm.agent.sock".to_vec(),
            file: Some(file),
            peer,
            waiting: waiting.to_vec(),
            unread: 0,
        }
    }

    #[test]
    fn our_place_is_found_by_the_sockets_file() {
        let other = [socket(true, 6, 0, &[40]), socket(false, 6, 41, &[])];
        assert_eq!(place(&ask(Some(20)), &other), None);
        let mut all = vec![socket(true, 5, 0, &[10, 20]), socket(false, 5, 9, &[])];
        all.extend(other);
        let of = |ours| place(&ask(ours), &all).unwrap();
        let expected = |holder, position, of| Place {
            holder,
            position,
            of,
        };
        assert_eq!(of(Some(10)), expected(Some(9), 1, 2));
        assert_eq!(of(Some(20)), expected(Some(9), 2, 2));
        assert_eq!(of(None), expected(Some(9), 0, 2));
        assert_eq!(of(Some(30)), expected(None, 0, 0));
        // Nobody is served: QEMU has only begun.
        all.remove(1);
        let of = |ours| place(&ask(ours), &all).unwrap();
        assert_eq!(of(Some(10)), expected(None, 1, 2));
        assert_eq!(of(Some(20)), expected(Some(10), 2, 2));
    }

    #[test]
    fn a_holder_without_a_name_has_a_reason() {
        let mut owners = Owners::default();
        let owner = Owner {
            pid: 1234,
            command: "socat".to_owned(),
            fd: 3,
            begun: Duration::ZERO,
        };
        owners.found.insert(9, owner);
        let mut place = Place {
            holder: Some(9),
            position: 1,
            of: 1,
        };
        let (verdict, behind) = name(&owners, &place);
        assert_eq!(verdict, Verdict::Named);
        assert_eq!(behind.unwrap().command, "socat");
        place.holder = Some(0);
        assert_eq!(name(&owners, &place).0, Verdict::Left);
        place.holder = Some(8);
        assert_eq!(name(&owners, &place).0, Verdict::Hidden);
        owners.denied = true;
        assert_eq!(name(&owners, &place).0, Verdict::Denied);
        place.holder = None;
        assert_eq!(name(&owners, &place), (Verdict::Nobody, None));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let answer = Answer {
            vm: 16,
            verdict: Verdict::Named.into(),
            behind: Some(Behind::default()),
        };
        let mut bytes = answer.encode_length_delimited_to_vec();
        assert_eq!(decode(&bytes).len(), 1);
        bytes.extend([200, 1, 2]);
        assert_eq!(decode(&bytes).len(), 1);
        assert!(decode(&[0xFF; 20]).is_empty());
    }
}
