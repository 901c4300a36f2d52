//! A command while it runs: its streams to and from ours, signals, the terminal.
//!
//! One loop over the daemon's socket, stdin, stdout, stderr and signals. It writes only what is taken
//! at once and reads only what may be sent on, so that neither a reader of ours that has stopped nor a
//! command that takes no input holds up anything else. What is in memory is bounded by the credit.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use quantix::credit::SendCredit;
use quantix::error::{Code, Failure};
use quantix::limits::CHUNK;
use quantix::message::{Body, Stream, agent};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, rest, wait};
use quantix::time::Time;

use super::Trouble;
use super::client::{Client, unexpected};
use super::show::Show;
use super::signals::{Caught, Signals};
use super::terminal::{self, Escape, Keys};

/// What a command's input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nothing.
    None,
    /// Our stdin.
    Stdin,
    /// Our terminal, key by key.
    Terminal,
}

/// What becomes of a command's output.
#[derive(Debug)]
pub enum Output {
    /// It goes to our stdout and stderr as it comes.
    Shown,
    /// The same, but for control characters, which are shown as `\x1b`: it is lines of text.
    Escaped,
    /// It is kept, up to [`MAX_KEPT`] bytes together.
    Kept,
}

/// For programs that want it in one piece; what is over it is dropped, and said to be.
pub const MAX_KEPT: usize = 16 * 1024 * 1024;

/// POLLOUT says no more than that a pipe takes this much at once (PIPE_BUF, pipe(7)).
pub const AT_ONCE: usize = 4096;

/// Set for one that runs beside others: whoever types Ctrl-C sees none of them.
pub const ONE_OF_MANY: &str = "QX_NODE_ONE_OF_MANY";

/// This many times Ctrl-C is the command's to act on; once more, and it is ended.
const INTERRUPTS: u32 = 2;

/// What becomes of a command when nobody here waits for it any more, and how it is found again.
#[derive(Clone, Debug)]
pub enum Life {
    /// It is hung up; there is no second chance.
    Tied,
    /// It is hung up when we leave, but may outlive its agent: by this token it is found again.
    Found(String),
    /// It is kept, under this number. Ctrl-C only leaves it.
    Kept(u32),
}

/// What is asked, and how it is shown.
pub struct Asked<'a> {
    pub vm: &'a str,
    pub request: Body,
    pub input: Input,
    pub output: Output,
    pub life: Life,
    /// The first byte wanted of stdout and stderr.
    pub from: [u64; 2],
}

/// How long a command is looked for whose channel, agent or daemon was lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs or follows a command to its end; what it wrote is in the answer if it was to be kept.
pub fn run(
    connect: &dyn Fn() -> Result<Client, Trouble>,
    asked: Asked,
) -> Result<agent::ExecuteResponse, Trouble> {
    let signals = Signals::catch().map_err(|e| Trouble::Local(format!("signals: {e}")))?;
    // Without the standard library's buffers, which would hold back what poll(2) looks for.
    let ours = Ours {
        stdin: own(&io::stdin())?,
        stdout: own(&io::stdout())?,
        stderr: own(&io::stderr())?,
    };
    let mut client = connect()?;
    let mut live = Live {
        vm: asked.vm,
        id: client.ask_agent(asked.vm, asked.request)?,
        client,
        input: Feed::new(asked.input),
        streams: [
            Show::new(Stream::Stdout, asked.from[0], &asked.output),
            Show::new(Stream::Stderr, asked.from[1], &asked.output),
        ],
        follows: matches!(asked.life, Life::Kept(_)),
        life: asked.life,
        answer: None,
        interrupts: 0,
    };
    let raw = match asked.input {
        Input::Terminal => Some(terminal::Raw::enter().map_err(Trouble::Local)?),
        _ => None,
    };
    let mut away: Option<Away> = None;
    let done = loop {
        let trouble = match live.run(&ours, &signals) {
            Ok(answer) => break Ok(answer),
            Err(trouble) => trouble,
        };
        let now = clock::now();
        away = match away.filter(|_| !live.moved()) {
            None if live.may_come_back(&trouble) => Some(Away::new(now, trouble)),
            None => break Err(trouble),
            Some(away) => match away.again(now, &trouble) {
                Ok(away) => Some(away),
                Err(first) => break Err(first),
            },
        };
        rest(PAUSE);
        if let Ok(client) = connect() {
            live.look_again(client)?;
        }
    };
    // The terminal is itself again before anything else is said.
    drop(raw);
    done
}

/// A command that was lost and is looked for.
struct Away {
    until: Time,
    looks: u32,
    /// How often nothing was there to be asked: once more than a few times, and the VM is off.
    refused: u32,
    /// What has happened.
    first: Trouble,
}

/// See [`Away`].
const REFUSED: u32 = 3;

impl Away {
    fn new(now: Time, first: Trouble) -> Self {
        Self {
            until: now + PATIENCE,
            looks: 0,
            refused: 0,
            first,
        }
    }

    /// It was looked for in vain. An error: it will not be found, and why it was lost at first.
    fn again(mut self, now: Time, trouble: &Trouble) -> Result<Self, Trouble> {
        self.looks += u32::from(is_away(trouble));
        self.refused += u32::from(is_lost(trouble));
        let may_come = is_lost(trouble) || is_away(trouble);
        if !may_come || self.refused > REFUSED || self.until <= now {
            return Err(self.first);
        }
        // Most often it is back at once, and nothing need be said.
        if self.looks == 1 {
            let first = &self.first;
            let _ = writeln!(
                io::stderr(),
                "qx-node: {first}; waiting for the guest to come back, Ctrl-C leaves"
            );
        }
        Ok(self)
    }
}

/// The channel, or the agent, was lost.
const fn is_lost(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Failed(failure) if matches!(failure.code, Code::Disconnected))
}

/// The agent or the daemon is not yet back.
const fn is_away(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::NoDaemon(_) | Trouble::Gone(_) => true,
        Trouble::Failed(failure) => matches!(failure.code, Code::TimedOut),
        _ => false,
    }
}

/// Our own streams.
struct Ours {
    stdin: File,
    stdout: File,
    stderr: File,
}

struct Live<'a> {
    client: Client,
    vm: &'a str,
    id: u64,
    life: Life,
    /// We only look at the command, and it goes on without us.
    follows: bool,
    input: Feed,
    streams: [Show; 2],
    answer: Option<agent::ExecuteResponse>,
    interrupts: u32,
}

impl Live<'_> {
    /// Whether this trouble is one that the command may have outlived.
    fn may_come_back(&self, trouble: &Trouble) -> bool {
        match &self.life {
            Life::Tied => false,
            // A daemon that is lost hangs it up.
            Life::Found(_) => is_lost(trouble),
            Life::Kept(_) => {
                is_lost(trouble) || matches!(trouble, Trouble::NoDaemon(_) | Trouble::Gone(_))
            }
        }
    }

    /// Asks for the rest, in a session of its own.
    fn look_again(&mut self, client: Client) -> Result<(), Trouble> {
        let [stdout, stderr] = &mut self.streams;
        let mut request = agent::AttachJob {
            stdout_from: stdout.again(),
            stderr_from: stderr.again(),
            ..Default::default()
        };
        match &self.life {
            Life::Tied => {}
            Life::Found(token) => request.token.clone_from(token),
            Life::Kept(job) => request.job = *job,
        }
        self.follows = true;
        self.client = client;
        self.id = self.client.ask_agent(self.vm, Body::AttachJob(request))?;
        Ok(())
    }

    /// Something has come since the last look.
    fn moved(&self) -> bool {
        self.streams.iter().any(|show| show.credit.received() > 0)
    }

    fn run(&mut self, ours: &Ours, signals: &Signals) -> Result<agent::ExecuteResponse, Trouble> {
        loop {
            self.listen()?;
            self.grant()?;
            if self.answer.is_some() {
                self.streams.iter_mut().for_each(Show::end);
            }
            if let Some(answer) = &mut self.answer
                && self.streams.iter().all(Show::is_empty)
            {
                let [stdout, stderr] = &mut self.streams;
                answer.truncated |= stdout.lost || stderr.lost;
                // One of an agent that cannot stream bears all that there is.
                if !stdout.kept.is_empty() || !stderr.kept.is_empty() {
                    answer.stdout = std::mem::take(&mut stdout.kept);
                    answer.stderr = std::mem::take(&mut stderr.kept);
                }
                return Ok(std::mem::take(answer));
            }
            let [out, err] = &self.streams;
            let running = self.answer.is_none();
            let mut waits = [
                Wait::read_any(running.then_some(&self.client)),
                Wait::read(&signals.stream),
                Wait::read_any((running && self.input.wants()).then_some(&ours.stdin)),
                Wait::write_any((!out.is_empty()).then_some(&ours.stdout)),
                Wait::write_any((!err.is_empty()).then_some(&ours.stderr)),
            ];
            wait(&mut waits, None).map_err(|e| Trouble::Local(format!("poll: {e}")))?;
            let [heard, signalled, typed, out, err] = waits.map(|wait| wait.is_ready());
            if heard {
                self.client.fill()?;
            }
            if signalled {
                for caught in signals.take() {
                    self.on_signal(caught)?;
                }
            }
            if typed {
                self.feed(&ours.stdin)?;
            }
            let [stdout, stderr] = &mut self.streams;
            if out {
                stdout.write(&ours.stdout)?;
            }
            // Whoever does not want to see errors still wants the output.
            if err && stderr.write(&ours.stderr).is_err() {
                stderr.drop_all();
            }
        }
    }

    /// Takes what the daemon has said.
    fn listen(&mut self) -> Result<(), Trouble> {
        while self.answer.is_none()
            && let Some(body) = self.client.take_agent(self.id)?
        {
            match body {
                Body::StreamChunk(chunk) => {
                    let show = self
                        .streams
                        .iter_mut()
                        .find(|show| show.stream == chunk.stream())
                        .ok_or_else(unexpected)?;
                    show.push(chunk)?;
                }
                Body::Credit(credit) if credit.stream() == Stream::Stdin => {
                    self.input.credit.allow(credit.bytes);
                }
                Body::ExecuteResponse(answer) => self.answer = Some(answer),
                _ => return Err(unexpected()),
            }
        }
        Ok(())
    }

    /// Lets the guest send as much more as has been written here.
    fn grant(&mut self) -> Result<(), Trouble> {
        for at in 0..self.streams.len() {
            let show = &mut self.streams[at];
            if self.answer.is_none()
                && let Some(bytes) = show.credit.grant()
            {
                let stream = show.stream.into();
                self.tell(Body::Credit(agent::Credit { stream, bytes }))?;
            }
        }
        Ok(())
    }

    /// Sends on what stdin has.
    fn feed(&mut self, stdin: &File) -> Result<(), Trouble> {
        let (read, left) = self.input.read(stdin)?;
        match read {
            Some(chunk) => self.tell(Body::StreamChunk(chunk))?,
            None if left => {}
            None => return Ok(()),
        }
        if left {
            let why = "left; the command was hung up";
            return Err(Trouble::Failed(Failure::new(Code::Cancelled, why)));
        }
        Ok(())
    }

    fn on_signal(&mut self, caught: Caught) -> Result<(), Trouble> {
        if self.follows && caught != Caught::Resize {
            let why = format!("left; it goes on, `qx-node jobs {}` lists it", self.vm);
            return Err(Trouble::Failed(Failure::new(Code::Cancelled, why)));
        }
        match caught {
            Caught::Resize => {
                if self.input.is_terminal()
                    && let Some(size) = terminal::size()
                {
                    let (rows, columns) = (size.rows.into(), size.columns.into());
                    self.tell(Body::Resize(agent::Resize { rows, columns }))?;
                }
            }
            Caught::HangUp => {
                let why = "the terminal is gone; the command was hung up";
                return Err(Trouble::Failed(Failure::new(Code::Cancelled, why)));
            }
            Caught::Other(number) => {
                if number == Signals::INTERRUPT {
                    self.interrupts += 1;
                }
                if self.interrupts > INTERRUPTS {
                    self.tell(Body::Cancel(agent::Cancel {}))?;
                } else {
                    self.tell(Body::Signal(agent::Signal { number }))?;
                }
                if self.interrupts == INTERRUPTS && std::env::var_os(ONE_OF_MANY).is_none() {
                    let _ = writeln!(io::stderr(), "\nqx-node: once more ends the command");
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, body: Body) -> Result<(), Trouble> {
        self.client.tell_agent(self.id, self.vm, body)
    }
}

/// Our stdin on its way to the command.
struct Feed {
    kind: Input,
    credit: SendCredit,
    ended: bool,
    keys: Keys,
}

impl Feed {
    fn new(kind: Input) -> Self {
        Self {
            kind,
            credit: SendCredit::default(),
            ended: kind == Input::None,
            keys: Keys::default(),
        }
    }

    const fn is_terminal(&self) -> bool {
        matches!(self.kind, Input::Terminal)
    }

    const fn wants(&self) -> bool {
        !self.ended && self.room() > 0
    }

    /// Bytes that may be read: a key that is held back may have to go with them.
    const fn room(&self) -> u64 {
        let held = self.keys.holds_one() as u64;
        self.credit.available().saturating_sub(held)
    }

    /// Reads once: the chunk to send, and whether whoever types wants to leave.
    fn read(&mut self, mut stdin: &File) -> Result<(Option<agent::StreamChunk>, bool), Trouble> {
        let room = usize::try_from(self.room()).unwrap_or(CHUNK);
        let mut data = vec![0; room.min(CHUNK - 1)];
        let read = stdin.read(&mut data);
        let read = match read {
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok((None, false)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok((None, false)),
            // The terminal is gone.
            Err(_) if self.is_terminal() => 0,
            Err(e) => {
                let why = quantix::error::system_text(&e);
                return Err(Trouble::Local(format!("stdin: {why}")));
            }
            Ok(read) => read,
        };
        data.truncate(read);
        self.ended = read == 0;
        let leave = self.is_terminal() && self.keys.filter(&mut data) == Escape::Leave;
        let chunk = agent::StreamChunk {
            stream: Stream::Stdin.into(),
            offset: self.credit.spend(data.len()),
            eof: self.ended,
            data,
            ..Default::default()
        };
        let empty = chunk.data.is_empty() && !chunk.eof;
        Ok(((!empty).then_some(chunk), leave))
    }
}

/// What only has to be tried again is no trouble.
pub fn passing(e: io::Error) -> Result<(), Trouble> {
    match e.kind() {
        ErrorKind::Interrupted | ErrorKind::WouldBlock => Ok(()),
        _ => Err(Trouble::from(e)),
    }
}

fn own(stream: &impl AsFd) -> Result<File, Trouble> {
    let own = stream.as_fd().try_clone_to_owned();
    own.map(File::from).map_err(Trouble::from)
}

/// Whether both ends of a conversation are a person's terminal.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quantix::rt::sys::fd::pipe;

    #[test]
    fn a_key_that_was_held_back_goes_within_the_credit() {
        let (reader, mut writer) = pipe().unwrap();
        let mut feed = Feed::new(Input::Terminal);
        feed.credit.allow(4);
        writer.write_all(b"~").unwrap();
        assert_eq!(feed.read(&reader).unwrap(), (None, false));
        writer.write_all(b"abcdef").unwrap();
        let (chunk, _) = feed.read(&reader).unwrap();
        assert_eq!(chunk.unwrap().data, b"~abc");
        assert!(!feed.wants());
        feed.credit.allow(5);
        let (chunk, _) = feed.read(&reader).unwrap();
        assert_eq!(chunk.unwrap().data, b"d");
        // For a key and the one that is held there is no room.
        let mut feed = Feed::new(Input::Terminal);
        feed.credit.allow(1);
        writer.write_all(b"~").unwrap();
        feed.keys = Keys::Tilde;
        assert!(!feed.wants());
    }
}
