//! A command, as the loop sees it: pipes or a terminal, and its keeper's word on how it ended.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
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
use quantix::rt::sys::process::{self, Pid};
use quantix::rt::sys::shared::Shared;
use quantix::rt::sys::tty;

use super::PIPE_SIZE;
use super::command::Streams;
use super::lease::Home;
use super::line::{self, Order, Wires, Word};
use super::pipe::{Inlet, Outlet};
use super::sink::Sink;
use super::source::{Source, Sources};
use super::standby::Standby;

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

/// The keeper, and what it has said.
#[derive(Debug)]
struct Control {
    keeper: Standby,
    is_ready: bool,
    said: Vec<u8>,
    /// It runs: its process id, and its number if it is kept.
    started: Option<agent::ExecuteResponse>,
    /// How it ended.
    last: Option<Body>,
    /// The keeper takes another command.
    is_free: bool,
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

/// The loop's ends.
enum Ends {
    Pipes {
        stdin: Option<File>,
        output: Option<(File, File)>,
    },
    Terminal(File),
}

impl Exec {
    /// Has a keeper run the command.
    pub fn start(
        request: &agent::Execute,
        keeper: Standby,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<(Pid, Self)> {
        let (ends, wires) = wire(request)?;
        keeper.register(registry, token(CONTROL))?;
        let inlet = |file, at| Inlet::new(file, registry, token(at));
        let outlet = |file| Outlet::new(file, registry, token(STDIN)).map(Sink::new);
        let (stdin, output, terminal) = match ends {
            Ends::Terminal(master) => {
                let stdin = match request.stream_input {
                    true => Some(master.try_clone()?),
                    false => None,
                };
                let screen = Source::new(inlet(master.try_clone()?, STDOUT)?, Stream::Stdout);
                let output = Output::Sent(Sources::new(vec![screen]));
                (stdin, output, Some(master))
            }
            Ends::Pipes { stdin, output } => {
                let output = match output {
                    Some((out, err)) => {
                        let (out, err) = (inlet(out, STDOUT)?, inlet(err, STDERR)?);
                        Output::new(request, out, err, &keeper.progress)
                    }
                    None => Output::Sent(Sources::new(Vec::new())),
                };
                (stdin, output, None)
            }
        };
        let stdin = stdin.map(outlet).transpose()?;
        // Nothing fails behind this: what is refused must not run.
        line::run(&keeper.line, request, &wires)?;
        let exec = Self {
            stdin,
            inside_line: false,
            output,
            terminal,
            detached: request.keep || !request.wait_for_exit,
            control: Control {
                is_ready: true,
                said: Vec::new(),
                started: None,
                last: None,
                is_free: false,
                keeper,
            },
        };
        Ok((exec.control.keeper.pid, exec))
    }

    /// An event came for one of the pipes.
    pub fn on_ready(&mut self, pipe: usize) {
        match (pipe, &mut self.output) {
            (CONTROL, _) => self.control.is_ready = true,
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
                    line::order(&self.control.keeper.line, Order::Signal(signal));
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
        line::order(&self.control.keeper.line, Order::HangUp);
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

    /// The keeper has said its last word: the command has ended.
    pub const fn is_over(&self) -> bool {
        self.control.last.is_some()
    }

    /// The keeper, where it takes another command.
    pub fn release(self) -> Option<Standby> {
        Some(self.control.keeper).filter(|_| self.control.is_free)
    }

    /// The command has ended: what it wrote until now is all of its output.
    pub fn finish(&mut self) {
        match &mut self.output {
            Output::Kept { stdout, stderr, .. } => {
                stdout.finish();
                stderr.finish();
            }
            Output::Sent(sources) => sources.finish(),
        }
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
        self.control.is_ready = true;
        self.control.gather();
        let ended = match self.control.last.take() {
            Some(Body::ExecuteResponse(ended)) => ended,
            Some(Body::Error(error)) => return Err(Failure::from_wire(&error)),
            _ => {
                let why = "its keeper was killed, and the command with it; what that has started may go on";
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
    fn gather(&mut self) {
        let mut place = [0; 1024];
        while self.is_ready {
            match (&self.keeper.line).read(&mut place) {
                Ok(n @ 1..) if self.said.len() <= MAX_SAID => self.said.extend(&place[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                _ => self.is_ready = false,
            }
        }
        while let Some(word) = line::take(&mut self.said) {
            match word {
                Word::Started(started) => self.started = Some(started),
                Word::Last(last) => self.last = Some(last),
                Word::Free => self.is_free = true,
            }
        }
    }
}

/// Connects a command with the loop.
fn wire(request: &agent::Execute) -> io::Result<(Ends, Wires)> {
    if let Some(wanted) = &request.terminal {
        let (master, slave) = tty::open_pair()?;
        tty::set_size(&master, size_of(wanted.rows, wanted.columns))?;
        let wires = Wires {
            streams: Streams::Terminal(slave),
            outputs: None,
            master: Some(master.try_clone()?),
        };
        return Ok((Ends::Terminal(master), wires));
    }
    let (mut stdin, mut child_stdin) = (None, None);
    if request.stream_input {
        let (reader, writer) = pipe()?;
        grow_pipe(&writer, PIPE_SIZE);
        (stdin, child_stdin) = (Some(writer), Some(reader));
    }
    let (mut output, mut child_output, mut outputs) = (None, None, None);
    if line::has_output(request) {
        let (stdout, child_stdout) = pipe()?;
        let (stderr, child_stderr) = pipe()?;
        grow_pipe(&stdout, PIPE_SIZE);
        outputs = Some([stdout.try_clone()?, stderr.try_clone()?]);
        child_output = Some((child_stdout, child_stderr));
        // What is kept is the keeper's to read.
        output = Some((stdout, stderr)).filter(|_| !request.keep);
    }
    let wires = Wires {
        streams: Streams::Pipes {
            stdin: child_stdin,
            output: child_output,
        },
        outputs,
        master: None,
    };
    Ok((Ends::Pipes { stdin, output }, wires))
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
