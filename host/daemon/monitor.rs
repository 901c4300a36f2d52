//! A VM's QEMU monitor (QMP), where the operator gives us one: `NAME.qmp.sock` beside the VM's
//! socket. It alone knows whether the guest has the port open, and whether the VM is paused. All
//! works without it. What it says is QEMU's, and no more trusted than the guest: bounded, parsed,
//! and dropped where it makes no sense.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::UnixStream;
use mio::{Registry, Token};
use quantix::time::Time;
use serde_json::Value;

use super::descriptors;
use super::state::{Open, Told};

/// What a VM's monitor is called behind its name.
pub const SUFFIX: &str = ".qmp.sock";

/// Bytes of the longest line. `query-chardev` of a VM with many devices has some KiB.
const MAX_LINE: usize = 64 * 1024;

/// Reads in one turn.
const READS_A_TURN: usize = 8;

/// An answer takes QEMU no longer than this; else it serves somebody else, or hangs.
const PATIENCE: Duration = Duration::from_secs(3);

/// First and longest pause between two connects.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// The connection to one VM's monitor.
#[derive(Debug)]
pub struct Monitor {
    path: PathBuf,
    /// File name of the VM's socket: its chardev is the one that we look at.
    agent: String,
    token: Token,
    link: Link,
    backoff: Duration,
    told: Told,
}

#[derive(Debug)]
enum Link {
    /// There is no such socket.
    None,
    /// Not connected. `at`: again.
    Retry { at: Time, file: File },
    /// Connected.
    Up(Box<Session>),
}

/// The socket's file: another inode is another QEMU.
type File = (u64, u64);

#[derive(Debug)]
struct Session {
    file: File,
    stream: UnixStream,
    readable: bool,
    writable: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    /// What has been asked, in its order: QEMU answers in the same.
    asked: VecDeque<Asked>,
    /// The next answer's deadline.
    deadline: Option<Time>,
    /// Something has happened since the last questions.
    stale: bool,
}

/// What QEMU owes us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Greeting,
    Capabilities,
    Status,
    Chardev,
}

impl Monitor {
    /// The monitor of the VM behind this socket. It is looked for by [`look`](Self::look).
    pub fn new(socket: &Path, name: &str, token: Token) -> Self {
        Self {
            path: socket.with_file_name(format!("{name}{SUFFIX}")),
            agent: socket
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default(),
            token,
            link: Link::None,
            backoff: BACKOFF[0],
            told: Told::default(),
        }
    }

    /// What is known by it now.
    pub const fn told(&self) -> Told {
        self.told
    }

    /// The VM is off.
    pub fn forget(&mut self) {
        self.link = Link::None;
        self.told = Told::default();
    }

    /// Looks whether there is such a socket, since the directory has changed. True: another than
    /// before, or none any more.
    pub fn look(&mut self, now: Time) -> bool {
        let meta = fs::metadata(&self.path).ok();
        let file = meta.filter(|meta| meta.file_type().is_socket());
        let file = file.map(|meta| (meta.dev(), meta.ino()));
        let known = match &self.link {
            Link::None => None,
            Link::Retry { file, .. } => Some(*file),
            Link::Up(session) => Some(session.file),
        };
        if file == known {
            return false;
        }
        self.told = Told::default();
        self.backoff = BACKOFF[0];
        self.link = file.map_or(Link::None, |file| Link::Retry { at: now, file });
        true
    }

    /// An event of the poll.
    pub fn on_ready(&mut self, read: bool, write: bool) {
        if let Link::Up(session) = &mut self.link {
            session.readable |= read;
            session.writable |= write;
        }
    }

    /// There may be more to read without another event.
    pub fn is_readable(&self) -> bool {
        matches!(&self.link, Link::Up(session) if session.readable)
    }

    /// When [`settle`](Self::settle) wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.link {
            Link::None => None,
            Link::Retry { at, .. } => Some(*at),
            Link::Up(session) => session.deadline,
        }
    }

    /// Connects, reads, asks. True: something has happened to the guest that its agent should be
    /// asked about.
    pub fn settle(&mut self, now: Time, registry: &Registry) -> bool {
        if let Link::Retry { at, file } = self.link
            && at <= now
        {
            self.connect(now, file, registry);
        }
        let Link::Up(session) = &mut self.link else {
            return false;
        };
        let mut news = false;
        let going = match session.read(now, &self.agent, &mut self.told, &mut news) {
            Some(answered) => {
                if answered {
                    self.backoff = BACKOFF[0];
                }
                session.ask(now);
                session.write() && session.deadline.is_none_or(|at| at > now)
            }
            None => false,
        };
        if !going {
            let file = session.file;
            self.retry_later(now, file);
        }
        news
    }

    fn connect(&mut self, now: Time, file: File, registry: &Registry) {
        match descriptors::connect(&self.path, self.token, registry) {
            Ok(stream) => {
                self.link = Link::Up(Box::new(Session {
                    file,
                    stream,
                    readable: true,
                    writable: true,
                    input: Vec::new(),
                    output: Vec::new(),
                    asked: VecDeque::from([Asked::Greeting]),
                    deadline: Some(now + PATIENCE),
                    stale: true,
                }));
            }
            Err(_) => self.retry_later(now, file),
        }
    }

    fn retry_later(&mut self, now: Time, file: File) {
        self.told = Told::default();
        let at = now + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF[1]);
        self.link = Link::Retry { at, file };
    }
}

impl Session {
    /// Reads a turn's share. `None`: the connection has ended, or makes no sense. `Some(true)`: it
    /// has answered our questions.
    fn read(&mut self, now: Time, agent: &str, told: &mut Told, news: &mut bool) -> Option<bool> {
        let mut answered = false;
        let mut buffer = [0; 8192];
        for _ in 0..READS_A_TURN {
            if !self.readable {
                break;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.input.extend(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => return None,
            }
            while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let line = serde_json::from_slice(&line).ok()?;
                answered |= self.on_line(now, &line, agent, told, news)?;
            }
            if self.input.len() > MAX_LINE {
                return None;
            }
        }
        Some(answered)
    }

    fn on_line(
        &mut self,
        now: Time,
        line: &Value,
        agent: &str,
        told: &mut Told,
        news: &mut bool,
    ) -> Option<bool> {
        if let Some(event) = line.get("event") {
            match event.as_str()? {
                "RESUME" | "RESET" | "VSERPORT_CHANGE" => {
                    *news = true;
                    self.stale = true;
                }
                "STOP" | "SHUTDOWN" | "MIGRATION" => self.stale = true,
                _ => {}
            }
            return Some(false);
        }
        // An answer to nothing that we asked.
        let asked = self.asked.pop_front()?;
        self.deadline = (!self.asked.is_empty()).then_some(now + PATIENCE);
        match asked {
            Asked::Greeting => {
                line.get("QMP")?;
                self.send(now, "qmp_capabilities", Asked::Capabilities);
            }
            Asked::Capabilities => {
                line.get("return")?;
            }
            // A QEMU that does not know the question has told nothing.
            Asked::Status => {
                let running = line.get("return").and_then(|status| status.get("running"));
                let running = running.and_then(Value::as_bool);
                let resumed = told.running == Some(false) && running == Some(true);
                told.running = running;
                if resumed && let Some(Open::Since(at)) = &mut told.open {
                    *at = now;
                }
                return Some(true);
            }
            Asked::Chardev => {
                let open = line.get("return").and_then(|all| is_open(all, agent));
                told.open = open.map(|open| match told.open {
                    Some(since @ Open::Since(_)) if open => since,
                    _ if open => Open::Since(now),
                    _ => Open::NotAt(now),
                });
                return Some(true);
            }
        }
        Some(false)
    }

    /// Asks again, if something has happened and nothing else is under way.
    fn ask(&mut self, now: Time) {
        if self.stale && self.asked.is_empty() {
            self.stale = false;
            self.send(now, "query-status", Asked::Status);
            self.send(now, "query-chardev", Asked::Chardev);
        }
    }

    fn send(&mut self, now: Time, command: &str, asked: Asked) {
        self.output
            .extend(format!("{{\"execute\":\"{command}\"}}\n").bytes());
        self.asked.push_back(asked);
        self.deadline = Some(now + PATIENCE);
    }

    /// False: the connection has ended.
    fn write(&mut self) -> bool {
        while self.writable && !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => {
                    self.output.drain(..n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(_) => return false,
            }
        }
        true
    }
}

/// Whether the guest has opened the port behind the VM's socket, by the answer to `query-chardev`.
pub fn is_open(chardevs: &Value, agent: &str) -> Option<bool> {
    let ours = |chardev: &&Value| {
        let filename = chardev.get("filename").and_then(Value::as_str);
        filename.and_then(socket_of) == Some(agent)
    };
    chardevs
        .as_array()?
        .iter()
        .find(ours)?
        .get("frontend-open")?
        .as_bool()
}

/// The file name in `unix:/run/vms/web1.agent.sock,server=on`, with `disconnected:` in front where
/// no client is connected. QEMU writes the path as it was bound, so only its end is compared.
fn socket_of(filename: &str) -> Option<&str> {
    let rest = filename.strip_prefix("disconnected:").unwrap_or(filename);
    let rest = rest.strip_prefix("unix:")?;
    let path = rest.split_once(",server").map_or(rest, |(path, _)| path);
    path.rsplit('/').next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_chardev_is_found_by_its_socket() {
        let name = "web1.agent.sock";
        for filename in [
            "unix:/run/vms/web1.agent.sock,server=on",
            "disconnected:unix:/run/vms/web1.agent.sock,server=on",
            "unix:web1.agent.sock,server",
            "unix:/a,b/web1.agent.sock,server=on",
        ] {
            assert_eq!(socket_of(filename), Some(name), "{filename}");
        }
        for filename in ["file", "pty:/dev/pts/1", "unix:/run/web2.agent.sock"] {
            assert_ne!(socket_of(filename), Some(name), "{filename}");
        }
        let chardev = |open: Value, name: &str| {
            let filename = format!("unix:/run/{name}.agent.sock,server=on");
            json!({ "frontend-open": open, "label": "a", "filename": filename })
        };
        let all = json!([chardev(json!(false), "web2"), chardev(json!(true), "web1")]);
        assert_eq!(is_open(&all, name), Some(true));
        assert_eq!(is_open(&json!([chardev(json!(1), "web1")]), name), None);
        let beside = json!([
            { "frontend-open": true, "filename": "unix:/x/web.qmp.sock,server=on" },
            { "frontend-open": false, "filename": "disconnected:unix:/run/x/web.agent.sock,server=on" },
        ]);
        assert_eq!(is_open(&beside, "web.agent.sock"), Some(false));
        assert_eq!(is_open(&beside, "db.agent.sock"), None);
        for odd in [json!(null), json!({}), json!([1, "x", {}]), json!([])] {
            assert_eq!(is_open(&odd, name), None);
        }
    }
}
