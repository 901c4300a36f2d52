//! A command's parent: a process of its own, so that a command has one however long the agent lives.
//!
//! It starts the command, signals it, ends it with all that it has started, and says how it ended. The
//! agent and its keeper talk over a pair of sockets: orders of two bytes one way, frames of a message
//! with a length in front the other way.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use prost::Message;
use quantix::error::Failure;
use quantix::message::{AgentMessage, Body, agent, message};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, pipe, set_nonblocking, wait};
use quantix::rt::sys::process::{self, Ended, Keep, Pid, Signal};
use quantix::rt::sys::tty;
use quantix::time::Time;

use super::command::{Streams, become_command};
use super::descendants;

/// What the agent wants of a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Sends this signal to the command.
    Signal(Signal),
    /// Ends the command and all that it has started.
    End,
    /// The same, for one that nobody waits for any more: with SIGHUP in front.
    HangUp,
}

/// From the request to end to the signal that cannot be refused.
pub const GRACE: Duration = Duration::from_secs(2);

/// The name that ps(1) shows.
const NAME: &std::ffi::CStr = c"quantix-keeper";

impl Order {
    /// On the wire.
    pub fn bytes(self) -> [u8; 2] {
        match self {
            Self::Signal(signal) => [b's', u8::try_from(signal.number()).unwrap_or(0)],
            Self::End => *b"e\0",
            Self::HangUp => *b"h\0",
        }
    }

    fn parse(bytes: [u8; 2]) -> Option<Self> {
        match bytes {
            [b's', number] => Signal::parse(number.into()).map(Self::Signal),
            [b'e', _] => Some(Self::End),
            [b'h', _] => Some(Self::HangUp),
            _ => None,
        }
    }
}

/// A command while it runs.
struct Keeper<'a> {
    control: &'a File,
    /// The keeper's end of the command's terminal.
    master: Option<&'a File>,
    leader: Pid,
    /// It does not end with the agent.
    is_detached: bool,
    /// What the command's process says before it becomes the command; closed by that.
    start: Option<File>,
    failure: Vec<u8>,
    /// The leader is to end: when everything is killed.
    ending: Option<Time>,
}

/// In the keeper: runs the command to its end. Returns the exit status of the keeper itself.
pub fn keep(
    request: &agent::Execute,
    streams: Streams,
    master: Option<&File>,
    control: &File,
) -> i32 {
    match run(request, streams, master, control) {
        Ok(answer) => i32::from(tell(control, answer).is_err()),
        Err(e) => {
            let failure = Failure::system("start", &request.command, &e);
            i32::from(tell(control, Body::Error(failure.to_wire())).is_err())
        }
    }
}

fn run(
    request: &agent::Execute,
    streams: Streams,
    master: Option<&File>,
    control: &File,
) -> io::Result<Body> {
    process::set_name(NAME);
    process::adopt_orphans();
    let children = process::watch_children()?;
    let (start, child_start) = pipe()?;
    set_nonblocking(control)?;
    let mut keep = streams.files();
    keep.push(&child_start);
    let keep = Keep::from(&keep[..]);
    // The command's ends are the command's alone: they go with it.
    let leader = process::spawn(keep, move || {
        // Comes back only if there is no command to become.
        let failure = become_command(request, &streams);
        let _ = (&child_start).write_all(&failure.to_wire().encode_to_vec());
        process::WORKER_FAILED
    })?;
    let mut keeper = Keeper {
        control,
        master,
        leader,
        is_detached: !request.wait_for_exit,
        start: Some(start),
        failure: Vec::new(),
        ending: None,
    };
    let ended = keeper.run(&children)?;
    if keeper.ending.is_some() {
        descendants::kill();
    }
    keeper.read_start();
    if let Ok(error) = agent::Error::decode(&keeper.failure[..])
        && !keeper.failure.is_empty()
    {
        return Ok(Body::Error(error));
    }
    let signal = match ended {
        Ended::Signalled(signal) => u32::try_from(signal).unwrap_or(0),
        Ended::Exited(_) => 0,
    };
    Ok(Body::ExecuteResponse(agent::ExecuteResponse {
        exit_code: ended.shell_status(),
        signal,
        ..Default::default()
    }))
}

impl Keeper<'_> {
    /// Until the leader has ended.
    fn run(&mut self, children: &File) -> io::Result<Ended> {
        let mut connected = true;
        loop {
            let now = clock::now();
            if self.ending.is_some_and(|at| at <= now) {
                descendants::signal(&[Signal::KILL]);
                self.ending = Some(now + GRACE);
            }
            let limit = self.ending.map(|at| at.since(now));
            let mut waits = [
                Wait::read(children),
                Wait::read_any(connected.then_some(self.control)),
                Wait::read_any(self.start.as_ref()),
            ];
            wait(&mut waits, limit)?;
            if waits[2].is_ready() {
                self.read_start();
            }
            process::drain(children);
            if let Some(ended) = self.reap() {
                return Ok(ended);
            }
            while connected {
                match self.next_order() {
                    Ok(Some(order)) => self.obey(order),
                    Ok(None) => break,
                    Err(_) => {
                        connected = false;
                        if !self.is_detached {
                            self.obey(Order::HangUp);
                        }
                    }
                }
            }
        }
    }

    /// Takes note of all children that have ended: orphans of the command, or the leader.
    fn reap(&self) -> Option<Ended> {
        let mut found = None;
        while let Some((pid, ended)) = process::reap() {
            if pid == self.leader {
                found = Some(ended);
            }
        }
        found
    }

    /// The agent's next order; an error once the agent has gone.
    fn next_order(&self) -> io::Result<Option<Order>> {
        let mut bytes = [0; 2];
        let mut control = self.control;
        match control.read(&mut bytes) {
            Ok(2) => Ok(Order::parse(bytes)),
            Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Signal(signal) => {
                let foreground = self.master.and_then(tty::foreground);
                process::signal(-foreground.unwrap_or(self.leader.get()), signal);
            }
            Order::End | Order::HangUp => {
                let hang_up = [Signal::HANGUP, Signal::TERMINATE, Signal::CONTINUE];
                // One that is stopped takes no notice before it goes on.
                descendants::signal(match order {
                    Order::HangUp => &hang_up,
                    _ => &hang_up[1..],
                });
                let at = clock::now() + GRACE;
                self.ending.get_or_insert(at);
            }
        }
    }

    /// Reads what the command's process has to say before it is the command. Nothing: it is.
    fn read_start(&mut self) {
        let Some(start) = &mut self.start else { return };
        let _ = start.take(MAX_FAILURE).read_to_end(&mut self.failure);
        self.start = None;
        if self.failure.is_empty() {
            let pid = u32::try_from(self.leader.get()).unwrap_or(0);
            let started = agent::ExecuteResponse {
                pid,
                ..Default::default()
            };
            let _ = tell(self.control, Body::ExecuteResponse(started));
        }
    }
}

/// Bytes of what a command's process may have to say.
const MAX_FAILURE: u64 = 8192;

/// Puts a frame onto the control socket, which has room for all that a keeper ever says.
fn tell(mut control: &File, body: Body) -> io::Result<()> {
    let body = message("", body).encode_to_vec();
    let length = u16::try_from(body.len()).map_err(|_| ErrorKind::InvalidData)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(body);
    control.write_all(&frame)
}

/// Takes the next whole frame out of what a keeper has said.
pub fn take_frame(said: &mut Vec<u8>) -> Option<Body> {
    let (length, rest) = said.split_first_chunk::<2>()?;
    let body = rest.get(..u16::from_be_bytes(*length).into())?;
    let found = AgentMessage::decode(body).ok().and_then(|found| found.body);
    said.drain(..2 + body.len());
    found
}
