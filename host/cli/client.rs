//! The command line's end of the control socket. It may wait: it has nothing else to do.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quantix::error::{Code, Failure, system_text};
use quantix::message::node::{NodeMessage, node_message};
use quantix::message::{Body, message};
use quantix::rt::clock;
use quantix::rt::log::{Level, Log, Target};
use quantix::rt::sys::fd::{Wait, wait};
use quantix::rt::sys::process::{self, Pid};
use quantix::time::Time;

use super::Trouble;
use super::signals::Stop;
use crate::access::Caller;
use crate::confine::confine;
use crate::daemon::{Daemon, Source};
use crate::stream::{Inbox, encode};

/// A connection to the daemon.
pub struct Client {
    stream: UnixStream,
    inbox: Inbox,
    last_id: u64,
    /// Where a wait is ended by a signal.
    stop: Option<Stop>,
    /// Nothing is waited for after this.
    until: Option<Time>,
    /// Our own daemon, which ends with this connection.
    child: Option<Pid>,
}

impl AsFd for Client {
    /// Readable when the daemon has said something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(child) = self.child {
            let _ = self.stream.shutdown(Shutdown::Both);
            let _ = process::wait(child);
        }
    }
}

impl Client {
    /// Connects to the daemon.
    pub fn connect(control: &Path) -> Result<Self, Trouble> {
        let stream = UnixStream::connect(control).map_err(|e| {
            let next = match e.kind() {
                ErrorKind::PermissionDenied => {
                    "Only root may connect to it, until node.conf says who else"
                }
                _ => "Start it with `qx-node serve`, or use --direct SOCKET",
            };
            let control = control.display();
            Trouble::NoDaemon(format!(
                "no daemon on {control}: {}. {next}",
                system_text(&e)
            ))
        })?;
        Ok(Self::new(stream, None))
    }

    /// As [`connect`](Self::connect), for one who asks in passing: what takes longer than this, all in all, fails.
    pub fn connect_for(control: &Path, patience: Duration) -> Result<Self, Trouble> {
        let trouble = |e: io::Error| Trouble::NoDaemon(system_text(&e));
        // Unlike that of `std` it does not wait for a daemon that takes nobody in.
        let stream = mio::net::UnixStream::connect(control).map_err(trouble)?;
        let stream = UnixStream::from(OwnedFd::from(stream));
        stream.set_nonblocking(false).map_err(trouble)?;
        let mut client = Self::new(stream, None);
        client.limit(patience)?;
        client.until = Some(clock::now() + patience);
        Ok(client)
    }

    /// Starts a daemon of our own for one agent socket. It ends with this connection.
    pub fn direct(socket: PathBuf) -> Result<Self, Trouble> {
        let trouble = |e: io::Error| Trouble::NoDaemon(format!("start: {}", system_text(&e)));
        std::fs::metadata(&socket).map_err(|e| {
            let path = socket.display();
            Trouble::NoDaemon(format!("no agent socket {path}: {}", system_text(&e)))
        })?;
        let (ours, theirs) = UnixStream::pair().map_err(trouble)?;
        let theirs = File::from(OwnedFd::from(theirs));
        let child = process::spawn(&[&theirs], || {
            i32::from(
                theirs
                    .try_clone()
                    .and_then(|end| private(socket, end))
                    .is_err(),
            )
        })
        .map_err(trouble)?;
        Ok(Self::new(ours, Some(child)))
    }

    fn new(stream: UnixStream, child: Option<Pid>) -> Self {
        Self {
            stream,
            inbox: Inbox::default(),
            last_id: 0,
            stop: None,
            until: None,
            child,
        }
    }

    /// From now on signals end waits here, not this program, so that what has begun can be removed.
    pub fn stop_on_signals(&mut self) -> Result<(), Trouble> {
        self.stop = Some(Stop::catch()?);
        Ok(())
    }

    /// From now on a wait of more than this fails.
    pub fn limit(&mut self, patience: Duration) -> Result<(), Trouble> {
        let set = self.stream.set_read_timeout(Some(patience));
        set.and_then(|()| self.stream.set_write_timeout(Some(patience)))
            .map_err(|e| gone(&system_text(&e)))
    }

    /// Sends a request; returns its number.
    pub fn ask(&mut self, vm: &str, body: node_message::Body) -> Result<u64, Trouble> {
        self.last_id += 1;
        self.send(self.last_id, vm, body)?;
        Ok(self.last_id)
    }

    /// Sends a request to the VM's agent; returns its number.
    pub fn ask_agent(&mut self, vm: &str, body: Body) -> Result<u64, Trouble> {
        self.ask(vm, node_message::Body::Agent(message("", body)))
    }

    /// Sends what belongs to a request that is under way.
    pub fn tell_agent(&mut self, id: u64, vm: &str, body: Body) -> Result<(), Trouble> {
        self.send(id, vm, node_message::Body::Agent(message("", body)))
    }

    /// Waits for the next message about this request. A failure is a `Trouble`.
    pub fn wait(&mut self, id: u64) -> Result<node_message::Body, Trouble> {
        loop {
            if let Some(body) = self.take(id)? {
                return Ok(body);
            }
            self.fill()?;
        }
    }

    /// The next message about this request, of those that have been read.
    fn take(&mut self, id: u64) -> Result<Option<node_message::Body>, Trouble> {
        let garbled = |_| Trouble::NoDaemon("the daemon speaks another protocol".to_owned());
        while let Some(message) = self.inbox.next().map_err(garbled)? {
            // Number 0: we are not let in.
            if [id, 0].contains(&message.id)
                && let Some(body) = message.body
            {
                return match failure(&body) {
                    Some(failure) => Err(Trouble::Failed(failure)),
                    None => Ok(Some(body)),
                };
            }
        }
        Ok(None)
    }

    /// As [`wait_agent`](Self::wait_agent), of what has been read.
    pub fn take_agent(&mut self, id: u64) -> Result<Option<Body>, Trouble> {
        match self.take(id)? {
            Some(node_message::Body::Agent(message)) => {
                message.body.map(Some).ok_or_else(unexpected)
            }
            Some(_) => Err(unexpected()),
            None => Ok(None),
        }
    }

    /// Waits for all parts of the answer to this request: `part` takes one, and says whether another follows.
    pub fn gather(
        &mut self,
        id: u64,
        mut part: impl FnMut(node_message::Body) -> Result<bool, Trouble>,
    ) -> Result<(), Trouble> {
        while part(self.wait(id)?)? {}
        Ok(())
    }

    /// Reads once, and waits if nothing is there.
    pub fn fill(&mut self) -> Result<(), Trouble> {
        if let Some(stop) = &self.stop {
            wait(&mut [Wait::read(&self.stream), Wait::read(stop)], None)?;
            if let Some(signal) = stop.came() {
                return Err(Trouble::Interrupted(signal));
            }
        }
        if let Some(until) = self.until {
            let left = until.since(clock::now());
            if left.is_zero() || wait(&mut [Wait::read(&self.stream)], Some(left))? == 0 {
                return Err(Trouble::NoDaemon("the daemon does not answer".to_owned()));
            }
        }
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(gone("it closed the connection")),
            Ok(n) => {
                self.inbox.extend(&buffer[..n]);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(()),
            // See `limit`.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                Err(Trouble::NoDaemon("the daemon does not answer".to_owned()))
            }
            Err(e) => Err(gone(&system_text(&e))),
        }
    }

    /// Waits for the next message of the VM's agent about this request.
    pub fn wait_agent(&mut self, id: u64) -> Result<Body, Trouble> {
        match self.wait(id)? {
            node_message::Body::Agent(message) => message.body.ok_or_else(unexpected),
            _ => Err(unexpected()),
        }
    }

    fn send(&mut self, id: u64, vm: &str, body: node_message::Body) -> Result<(), Trouble> {
        let mut out = Vec::new();
        let message = NodeMessage {
            id,
            vm: vm.to_owned(),
            body: Some(body),
        };
        encode(&message, &mut out);
        let Err(e) = self.stream.write_all(&out) else {
            return Ok(());
        };
        // Perhaps it has said why before it left.
        if self.fill().is_ok() {
            self.take(id)?;
        }
        Err(gone(&system_text(&e)))
    }
}

/// An answer of a kind that was not asked for: a daemon of another version.
pub fn unexpected() -> Trouble {
    let why = "the answer is of a kind that this qx-node does not know";
    Trouble::Failed(Failure::new(Code::Internal, why))
}

fn gone(why: &str) -> Trouble {
    Trouble::Gone(format!("the daemon is gone: {why}"))
}

fn failure(body: &node_message::Body) -> Option<Failure> {
    match body {
        node_message::Body::Agent(message) => match &message.body {
            Some(Body::Error(error)) => Some(Failure::from_wire(error)),
            _ => None,
        },
        _ => None,
    }
}

/// In the child: a daemon for one socket and one client.
fn private(socket: PathBuf, end: File) -> io::Result<()> {
    let stream = UnixStream::from(OwnedFd::from(end));
    stream.set_nonblocking(true)?;
    // It serves one command, which is as it is where that cannot be.
    let _ = confine();
    let log = Log::new("qx-node", Target::Stderr, Level::Error);
    let mut daemon = Daemon::new(Source::Socket(socket), None, log)?;
    let stream = mio::net::UnixStream::from_std(stream);
    let caller = Caller::owner(0, 0, String::new());
    daemon.add_client(stream, caller)?;
    daemon.run()
}
