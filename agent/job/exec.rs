//! A command, as the loop sees it: pipes or a terminal, and its keeper's word on how it ended.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mio::{Registry, Token};
use quantix::credit::Fault;
use quantix::error::{Code, Failure};
use quantix::guest::Guest;
use quantix::ids::MessageId;
use quantix::limits::MAX_FRAME;
use quantix::message::{Body, Stream, agent};
use quantix::rt::sys::fd::pipe;
use quantix::rt::sys::process::{self, Keep, Pid};
use quantix::rt::sys::tty;
use quantix::time::Time;

use super::command::{Streams, check};
use super::keeper::{self, Order};
use super::pipe::{Inlet, Outlet};
use super::sink::Sink;
use super::source::Source;

/// A command that runs, or one that has not yet told whether it started.
#[derive(Debug)]
pub struct Exec {
    control: Control,
    stdin: Option<Sink>,
    /// The last byte for it did not end a line.
    inside_line: bool,
    output: Output,
    /// Our end of its terminal.
    terminal: Option<File>,
    started: Time,
    /// When its time is up.
    pub deadline: Option<Time>,
    detached: bool,
}

/// Where its output goes.
#[derive(Debug)]
enum Output {
    /// Into the answer, up to `limit` bytes together.
    Kept {
        stdout: Inlet,
        stderr: Inlet,
        limit: usize,
        answer: agent::ExecuteResponse,
    },
    /// To the host, as it comes: by the pipe's number, and the one that is next. A terminal has one.
    Sent(Vec<Source>, usize),
}

/// The line to the keeper.
#[derive(Debug)]
struct Control {
    inlet: Inlet,
    out: File,
    said: Vec<u8>,
    /// It runs: its process id.
    pid: Option<u32>,
    /// The keeper's last word.
    last: Option<Body>,
}

/// The loop's ends, by number.
const STDOUT: usize = 0;
const STDERR: usize = 1;
const STDIN: usize = 2;
const CONTROL: usize = 3;

/// stdout and stderr together; the rest of the frame is the answer's other fields.
const MAX_OUTPUT: usize = MAX_FRAME - 1024;

/// Bytes that a keeper may have to say.
const MAX_SAID: usize = 32 * 1024;

/// Both sides of what connects a command with the loop.
struct Wires {
    stdin: Option<Outlet>,
    output: Option<(Inlet, Inlet)>,
    terminal: Option<(Inlet, File)>,
    streams: Streams,
}

impl Exec {
    /// Starts the command.
    pub fn start(
        request: &agent::Execute,
        now: Time,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> Result<(Pid, Self), Failure> {
        check(request)?;
        let system = |e| Failure::system("start", &request.command, &e);
        let wires = Wires::new(request, registry, &token).map_err(system)?;
        let (control, child_control) = UnixStream::pair().map_err(system)?;
        let out = File::from(OwnedFd::from(control));
        let inlet = out.try_clone().map_err(system)?;
        let control = Control {
            inlet: Inlet::new(inlet, registry, token(CONTROL)).map_err(system)?,
            out,
            said: Vec::new(),
            pid: None,
            last: None,
        };
        let child_control = File::from(OwnedFd::from(child_control));
        let Wires {
            stdin,
            output,
            terminal,
            streams,
        } = wires;
        let master = terminal.as_ref().map(|(_, master)| master);
        let mut keep = streams.files();
        keep.push(&child_control);
        keep.extend(master);
        let keep = Keep::from(&keep[..]);
        let pid = process::spawn(keep, || {
            keeper::keep(request, streams, master, &child_control)
        })
        .map_err(system)?;
        let limit = usize::try_from(request.max_output_bytes).unwrap_or(MAX_OUTPUT);
        let timeout = u64::from(request.timeout_seconds);
        let (output, terminal) = match (output, terminal) {
            (_, Some((screen, master))) => {
                let screen = Source::new(screen, Stream::Stdout);
                (Output::Sent(vec![screen], 0), Some(master))
            }
            (Some((stdout, stderr)), None) if request.stream_output => {
                let stdout = Source::new(stdout, Stream::Stdout);
                let stderr = Source::new(stderr, Stream::Stderr);
                (Output::Sent(vec![stdout, stderr], 0), None)
            }
            (Some((stdout, stderr)), None) => {
                let kept = Output::Kept {
                    stdout,
                    stderr,
                    limit: if limit == 0 {
                        MAX_OUTPUT
                    } else {
                        limit.min(MAX_OUTPUT)
                    },
                    answer: agent::ExecuteResponse::default(),
                };
                (kept, None)
            }
            (None, None) => (Output::Sent(Vec::new(), 0), None),
        };
        let exec = Self {
            control,
            stdin: stdin.map(Sink::new),
            inside_line: false,
            output,
            terminal,
            started: now,
            deadline: (timeout > 0).then(|| now + Duration::from_secs(timeout)),
            detached: !request.wait_for_exit,
        };
        Ok((pid, exec))
    }

    /// An event came for one of the pipes.
    pub fn on_ready(&mut self, pipe: usize) {
        match (pipe, &mut self.output) {
            (CONTROL, _) => self.control.inlet.on_ready(),
            (STDIN, _) => {
                if let Some(stdin) = &mut self.stdin {
                    stdin.on_ready();
                }
            }
            (STDOUT, Output::Kept { stdout, .. }) => stdout.on_ready(),
            (_, Output::Kept { stderr, .. }) => stderr.on_ready(),
            (at, Output::Sent(sources, _)) => {
                if let Some(source) = sources.get_mut(at) {
                    source.on_ready();
                }
            }
        }
    }

    /// A chunk of its stdin.
    ///
    /// # Errors
    /// The host broke the stream's rules.
    pub fn receive(&mut self, chunk: &agent::StreamChunk) -> Result<(), Fault> {
        let stdin = self.stdin.as_mut().ok_or(Fault::Overspent)?;
        stdin.check(chunk)?;
        if let Some(last) = chunk.data.last() {
            self.inside_line = !matches!(last, b'\n' | b'\r' | 4);
        }
        stdin.push(chunk.data.clone(), chunk.data.len());
        if chunk.eof {
            if self.terminal.is_some() {
                // What ends the input on a terminal (VEOF, termios(3)); inside a line the first one
                // ends the line.
                let count = if self.inside_line { 2 } else { 1 };
                stdin.push(vec![4; count], 0);
            } else {
                stdin.end();
            }
        }
        Ok(())
    }

    /// The host takes more of a stream.
    pub fn allow(&mut self, stream: Stream, total: u64) {
        if let Output::Sent(sources, _) = &mut self.output {
            for source in sources {
                source.allow(stream, total);
            }
        }
    }

    /// A signal, or another size of its terminal.
    pub fn told(&mut self, what: &Body) {
        match what {
            Body::Signal(signal) => {
                if let Some(signal) = process::Signal::parse(signal.number) {
                    self.control.order(Order::Signal(signal));
                }
            }
            Body::Resize(size) => {
                if let Some(terminal) = &self.terminal {
                    // One that is gone has no size.
                    let _ = tty::set_size(terminal, size_of(size.rows, size.columns));
                }
            }
            _ => {}
        }
    }

    /// Has the command ended by its keeper.
    pub fn end(&mut self, hang_up: bool) {
        let order = if hang_up { Order::HangUp } else { Order::End };
        self.control.order(order);
    }

    /// Moves bytes. The new total that the host may send to its stdin, if it is worth saying.
    pub fn turn(&mut self) -> Option<u64> {
        self.control.gather();
        if let Output::Kept {
            stdout,
            stderr,
            limit,
            answer,
        } = &mut self.output
        {
            // What is over the limit is read and dropped, so that the command goes on.
            let room = limit.saturating_sub(answer.stderr.len());
            let lost = stdout.read_into(&mut answer.stdout, room);
            let room = limit.saturating_sub(answer.stdout.len());
            let lost = lost + stderr.read_into(&mut answer.stderr, room);
            answer.truncated |= lost > 0;
        }
        self.stdin.as_mut().and_then(Sink::turn)
    }

    /// More may be readable without another event.
    pub const fn has_more(&self) -> bool {
        match &self.output {
            Output::Kept { stdout, stderr, .. } => stdout.is_ready() || stderr.is_ready(),
            Output::Sent(..) => false,
        }
    }

    /// Sends a chunk if there is one and the host takes it. True: it did, or found an end.
    pub fn pull(&mut self, id: &MessageId, guest: &mut Guest, buffer: &mut Vec<u8>) -> bool {
        let Output::Sent(sources, next) = &mut self.output else {
            return false;
        };
        for _ in 0..sources.len() {
            *next = (*next + 1) % sources.len();
            if sources[*next].pull(id, guest, buffer) {
                return true;
            }
        }
        false
    }

    /// A detached command has started: its answer.
    pub fn poll_started(&self) -> Option<Body> {
        let pid = self.control.pid.filter(|_| self.detached)?;
        Some(Body::ExecuteResponse(agent::ExecuteResponse {
            pid,
            ..Default::default()
        }))
    }

    /// The keeper has ended, and so has the command: what it wrote until now is all of its output.
    pub fn finish(&mut self) {
        match &mut self.output {
            Output::Kept { stdout, stderr, .. } => {
                stdout.finish();
                stderr.finish();
            }
            Output::Sent(sources, _) => sources.iter_mut().for_each(Source::finish),
        }
        self.control.inlet.on_ready();
    }

    /// All of its output has been sent, or is in the answer.
    pub fn is_drained(&mut self) -> bool {
        match &mut self.output {
            Output::Kept { stdout, stderr, .. } => stdout.is_ended() && stderr.is_ended(),
            Output::Sent(sources, _) => sources.iter_mut().all(Source::is_drained),
        }
    }

    /// The answer, once all is drained.
    pub fn answer(&mut self, timed_out: bool, now: Time) -> Result<Body, Failure> {
        self.control.gather();
        let ended = match self.control.last.take() {
            Some(Body::ExecuteResponse(ended)) => ended,
            Some(Body::Error(error)) => return Err(Failure::from_wire(&error)),
            _ => {
                let why = "its keeper was killed; whether the command goes on is unknown";
                return Err(Failure::new(Code::Internal, why));
            }
        };
        let kept = match &mut self.output {
            Output::Kept { answer, .. } => std::mem::take(answer),
            Output::Sent(..) => agent::ExecuteResponse::default(),
        };
        Ok(Body::ExecuteResponse(agent::ExecuteResponse {
            exit_code: ended.exit_code,
            signal: ended.signal,
            timed_out,
            duration_ms: u64::try_from(now.since(self.started).as_millis()).unwrap_or(0),
            ..kept
        }))
    }
}

impl Control {
    /// An order that finds no room, or nobody, comes too late.
    fn order(&mut self, order: Order) {
        let _ = self.out.write(&order.bytes());
    }

    fn gather(&mut self) {
        if !self.inlet.is_ready() {
            return;
        }
        self.inlet.read_into(&mut self.said, MAX_SAID);
        while let Some(body) = keeper::take_frame(&mut self.said) {
            match body {
                Body::ExecuteResponse(started) if started.pid > 0 => self.pid = Some(started.pid),
                last => self.last = Some(last),
            }
        }
    }
}

impl Wires {
    fn new(
        request: &agent::Execute,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> std::io::Result<Self> {
        if let Some(wanted) = &request.terminal {
            let (master, slave) = tty::open_pair()?;
            tty::set_size(&master, size_of(wanted.rows, wanted.columns))?;
            let screen = Inlet::new(master.try_clone()?, registry, token(STDOUT))?;
            let keys = Outlet::new(master.try_clone()?, registry, token(STDIN))?;
            return Ok(Self {
                stdin: request.stream_input.then_some(keys),
                output: None,
                terminal: Some((screen, master)),
                streams: Streams::Terminal(slave),
            });
        }
        let (mut stdin, mut child_stdin) = (None, None);
        if request.stream_input {
            let (reader, writer) = pipe()?;
            stdin = Some(Outlet::new(writer, registry, token(STDIN))?);
            child_stdin = Some(reader);
        }
        let (mut output, mut child_output) = (None, None);
        if request.wait_for_exit {
            let (stdout, child_stdout) = pipe()?;
            let (stderr, child_stderr) = pipe()?;
            output = Some((
                Inlet::new(stdout, registry, token(STDOUT))?,
                Inlet::new(stderr, registry, token(STDERR))?,
            ));
            child_output = Some((child_stdout, child_stderr));
        }
        Ok(Self {
            stdin,
            output,
            terminal: None,
            streams: Streams::Pipes {
                stdin: child_stdin,
                output: child_output,
            },
        })
    }
}

fn size_of(rows: u32, columns: u32) -> tty::Size {
    let bounded = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    tty::Size {
        rows: bounded(rows),
        columns: bounded(columns),
    }
}
