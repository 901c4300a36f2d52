//! A command, as the loop sees it: pipes or a terminal, and its keeper's word on how it ended.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use mio::{Registry, Token};
use quantix::chunk::Chunk;
use quantix::credit::Fault;
use quantix::error::{Code, Failure};
use quantix::guest::Guest;
use quantix::ids::MessageId;
use quantix::limits::MAX_FRAME;
use quantix::message::{Body, Stream, agent};
use quantix::rt::sys::fd::{grow_pipe, pipe};
use quantix::rt::sys::process::{self, Keep, Pid};
use quantix::rt::sys::shared::Shared;
use quantix::rt::sys::tty;

use super::PIPE_SIZE;
use super::command::{Streams, check};
use super::keeper::{self, Order, Task};
use super::kept::Root;
use super::lease::Home;
use super::pipe::{Inlet, Outlet};
use super::sink::Sink;
use super::source::{Source, Sources};

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
    /// It is answered when it has started.
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
    /// To the host, as it comes. A terminal has one stream.
    Sent(Sources),
}

/// The line to the keeper.
#[derive(Debug)]
struct Control {
    inlet: Inlet,
    out: File,
    said: Vec<u8>,
    /// It runs: its process id, and its number if it is kept.
    started: Option<agent::ExecuteResponse>,
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
    output: Output,
    terminal: Option<File>,
    /// The command's ends.
    streams: Streams,
    /// The keeper's own copies of our ends.
    kept: Option<[File; 2]>,
}

impl Exec {
    /// Starts the command. It is kept below `root` if it has to be.
    pub fn start(
        request: &agent::Execute,
        root: &Root,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> Result<(Pid, Self), Failure> {
        check(request)?;
        let system = |e| Failure::system("start", &request.command, &e);
        let progress = Rc::new(Shared::new().map_err(system)?);
        let wires = Wires::new(request, &progress, registry, &token).map_err(system)?;
        let (control, child_control) = UnixStream::pair().map_err(system)?;
        let out = File::from(OwnedFd::from(control));
        let inlet = out.try_clone().map_err(system)?;
        let control = Control {
            inlet: Inlet::new(inlet, registry, token(CONTROL)).map_err(system)?,
            out,
            said: Vec::new(),
            started: None,
            last: None,
        };
        let master = wires.terminal.as_ref().map(File::try_clone);
        let task = Task {
            request,
            streams: wires.streams,
            outputs: wires.kept,
            master: master.transpose().map_err(system)?,
            control: File::from(OwnedFd::from(child_control)),
            progress,
            root: root.clone(),
        };
        let keep = Keep::from(&task.files()[..]);
        let pid = process::spawn(keep, || keeper::keep(task)).map_err(system)?;
        let exec = Self {
            control,
            stdin: wires.stdin.map(Sink::new),
            inside_line: false,
            output: wires.output,
            terminal: wires.terminal,
            detached: request.keep || !request.wait_for_exit,
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
            (at, Output::Sent(sources)) => sources.on_ready(at),
        }
    }

    /// A chunk of its stdin.
    ///
    /// # Errors
    /// The host broke the stream's rules.
    pub fn receive(&mut self, chunk: &Chunk) -> Result<(), Fault> {
        let stdin = self.stdin.as_mut().ok_or(Fault::Overspent)?;
        stdin.check(chunk)?;
        if let Some(last) = chunk.data().last() {
            self.inside_line = !matches!(last, b'\n' | b'\r' | 4);
        }
        stdin.push(chunk.data().to_vec(), chunk.data().len());
        if chunk.head.eof {
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
        if let Output::Sent(sources) = &mut self.output {
            sources.allow(stream, total);
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

    /// Nobody waits for the command any more: its keeper ends it and all that it has started.
    pub fn hang_up(&mut self) {
        self.control.order(Order::HangUp);
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
    pub fn pull(&mut self, id: &MessageId, guest: &mut Guest, home: &Home) -> bool {
        match &mut self.output {
            Output::Sent(sources) => sources.pull(id, guest, home),
            Output::Kept { .. } => false,
        }
    }

    /// A detached command has started: its answer.
    pub const fn poll_started(&mut self) -> Option<agent::ExecuteResponse> {
        match self.detached {
            true => self.control.started.take(),
            false => None,
        }
    }

    /// The keeper has ended, and so has the command: what it wrote until now is all of its output.
    pub fn finish(&mut self) {
        match &mut self.output {
            Output::Kept { stdout, stderr, .. } => {
                stdout.finish();
                stderr.finish();
            }
            Output::Sent(sources) => sources.finish(),
        }
        self.control.inlet.on_ready();
    }

    /// All of its output has been sent, or is in the answer.
    pub fn is_drained(&mut self) -> bool {
        match &mut self.output {
            Output::Kept { stdout, stderr, .. } => stdout.is_ended() && stderr.is_ended(),
            Output::Sent(sources) => sources.is_drained(),
        }
    }

    /// The answer, once all is drained.
    pub fn answer(&mut self) -> Result<Body, Failure> {
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
            stdout: kept.stdout,
            stderr: kept.stderr,
            truncated: kept.truncated,
            ..ended
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
                Body::ExecuteResponse(started) if started.pid > 0 => self.started = Some(started),
                last => self.last = Some(last),
            }
        }
    }
}

impl Wires {
    fn new(
        request: &agent::Execute,
        progress: &Rc<Shared>,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<Self> {
        if let Some(wanted) = &request.terminal {
            let (master, slave) = tty::open_pair()?;
            tty::set_size(&master, size_of(wanted.rows, wanted.columns))?;
            let screen = Inlet::new(master.try_clone()?, registry, token(STDOUT))?;
            let keys = Outlet::new(master.try_clone()?, registry, token(STDIN))?;
            return Ok(Self {
                stdin: request.stream_input.then_some(keys),
                output: Output::Sent(Sources::new(vec![Source::new(screen, Stream::Stdout)])),
                terminal: Some(master),
                streams: Streams::Terminal(slave),
                kept: None,
            });
        }
        let (mut stdin, mut child_stdin) = (None, None);
        if request.stream_input {
            let (reader, writer) = pipe()?;
            grow_pipe(&writer, PIPE_SIZE);
            stdin = Some(Outlet::new(writer, registry, token(STDIN))?);
            child_stdin = Some(reader);
        }
        let mut wires = Self {
            stdin,
            output: Output::Sent(Sources::new(Vec::new())),
            terminal: None,
            streams: Streams::Pipes {
                stdin: child_stdin,
                output: None,
            },
            kept: None,
        };
        if request.keep || request.wait_for_exit {
            let (stdout, child_stdout) = pipe()?;
            let (stderr, child_stderr) = pipe()?;
            grow_pipe(&stdout, PIPE_SIZE);
            if !request.keep {
                let kept = [stdout.try_clone()?, stderr.try_clone()?];
                let stdout = Inlet::new(stdout, registry, token(STDOUT))?;
                let stderr = Inlet::new(stderr, registry, token(STDERR))?;
                wires.output = Output::new(request, stdout, stderr, progress);
                wires.kept = Some(kept);
            } else {
                wires.kept = Some([stdout, stderr]);
            }
            if let Streams::Pipes { output, .. } = &mut wires.streams {
                *output = Some((child_stdout, child_stderr));
            }
        }
        Ok(wires)
    }
}

impl Output {
    fn new(request: &agent::Execute, stdout: Inlet, stderr: Inlet, progress: &Rc<Shared>) -> Self {
        if request.stream_output {
            let stdout = Source::new(stdout, Stream::Stdout).counted(progress, STDOUT);
            let stderr = Source::new(stderr, Stream::Stderr).counted(progress, STDERR);
            return Self::Sent(Sources::new(vec![stdout, stderr]));
        }
        let limit = usize::try_from(request.max_output_bytes).unwrap_or(MAX_OUTPUT);
        Self::Kept {
            stdout,
            stderr,
            limit: if limit == 0 {
                MAX_OUTPUT
            } else {
                limit.min(MAX_OUTPUT)
            },
            answer: agent::ExecuteResponse::default(),
        }
    }
}

fn size_of(rows: u32, columns: u32) -> tty::Size {
    let bounded = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    tty::Size {
        rows: bounded(rows),
        columns: bounded(columns),
    }
}
