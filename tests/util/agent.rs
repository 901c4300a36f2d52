//! An agent whose port is a socket of the test, and the host's side of the protocol by hand: what
//! a test sends is exactly what it says, so that it can also be wrong.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use prost::Message;
use quantix::frame::{Decoder, Seal, read_seal, write_frame};
use quantix::ids::SessionId;
use quantix::limits::{ACK_EVERY, HEADER, IDLE, MAX_FRAME};
use quantix::message::{AgentMessage, Body, Stream, agent, message};
use quantix::window::frame_cost;

use super::{Dir, PATIENCE, Process, until};

/// An agent, and the socket that it takes for its port.
pub struct Agent {
    pub process: Process,
    pub listener: UnixListener,
    pub dir: Dir,
}

impl Agent {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more options. Without any it sends no telemetry.
    pub fn with(options: &[&str]) -> Self {
        let dir = Dir::new();
        let listener = UnixListener::bind(dir.join("port")).unwrap();
        let process = spawn(&dir, "port", options);
        Self {
            process,
            listener,
            dir,
        }
    }

    /// The connection that the agent makes.
    pub fn accept(&self) -> Talk {
        Talk::new(accept(&self.listener))
    }

    /// An agent with an open session, the AgentReady read.
    pub fn ready() -> (Self, Talk) {
        let agent = Self::start();
        let mut talk = agent.accept();
        talk.open(b"nonce-of-16-byte");
        (agent, talk)
    }
}

/// Starts an agent whose port is the socket `port` in `dir`; log and configuration are there too.
/// `QX_TEST_KERNEL=3.10` has it run as on that kernel.
pub fn spawn(dir: &Dir, port: &str, options: &[&str]) -> Process {
    if std::env::var_os("QX_TEST_KERNEL").is_some_and(|kernel| kernel == "3.10") {
        return spawn_by(Command::new(old_kernel()), dir, port, options);
    }
    let command = Command::new(env!("CARGO_BIN_EXE_quantix-kvm-agent"));
    start(command, dir, port, options)
}

/// By a command that becomes what is behind its words.
pub fn spawn_by(mut command: Command, dir: &Dir, port: &str, options: &[&str]) -> Process {
    command.arg(env!("CARGO_BIN_EXE_quantix-kvm-agent"));
    start(command, dir, port, options)
}

/// A program that runs another as on a kernel 3.10; see its head.
pub fn old_kernel() -> &'static Path {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/util/old-kernel.c");
        let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("old-kernel");
        let mut compiler = Command::new("gcc");
        compiler.args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o"]);
        let out = compiler.arg(&made).arg(source).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}");
        made
    });
    &MADE
}

fn start(mut command: Command, dir: &Dir, port: &str, options: &[&str]) -> Process {
    command
        .args(["--log", "stderr", "--port"])
        .arg(dir.join(port))
        .arg("--run-dir")
        .arg(dir.join(&format!("{port}.run")));
    if !options.contains(&"--config") {
        let config = dir.file("agent.conf", "telemetry_interval = 0\nlog_level = debug\n");
        command.args(["--config", &config]);
    }
    Process::start(command.args(options), dir.join(&format!("{port}.log")))
}

/// The next connection.
#[track_caller]
pub fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = until("a connection", || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    stream
}

/// The host's end of a connection to an agent.
pub struct Talk {
    pub stream: UnixStream,
    input: VecDeque<u8>,
    pub session: Option<SessionId>,
    pub next_out: u64,
    next_in: u64,
    /// Bytes of the session read, and what the frames read since the last acknowledgement cost.
    received: u64,
    cost: u64,
    /// The last AgentReady of the session.
    announced: Option<agent::AgentReady>,
}

impl Talk {
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            input: VecDeque::new(),
            session: None,
            next_out: 1,
            next_in: 1,
            received: 0,
            cost: 0,
            announced: None,
        }
    }

    /// Opens a session; what comes first must be its Pong and then AgentReady.
    #[track_caller]
    pub fn open(&mut self, nonce: &[u8; 16]) -> (agent::Pong, agent::AgentReady) {
        self.send_raw(&frame(&ping(1, nonce), None));
        let pong = self.opened(nonce);
        let Body::AgentReady(ready) = self.next().body.unwrap() else {
            panic!("AgentReady is not the first message");
        };
        (pong, ready)
    }

    /// Waits for the Pong that opens the session; an earlier session's frames may come before it.
    #[track_caller]
    pub fn opened(&mut self, nonce: &[u8; 16]) -> agent::Pong {
        loop {
            let body = self.next_frame();
            if read_seal(&body).is_some() {
                assert!(self.session.is_some(), "a sealed frame before any session");
                continue;
            }
            let Some(Body::Pong(pong)) = AgentMessage::decode(&body[..]).unwrap().body else {
                panic!("only a Pong may come without a seal");
            };
            assert_eq!(pong.nonce, nonce);
            self.session = SessionId::parse(pong.session);
            assert!(self.session.is_some());
            (self.next_out, self.next_in) = (1, 1);
            self.received = 0;
            self.announced = None;
            // Tells the agent that its flush is out of the way.
            self.acknowledge();
            return pong;
        }
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// A sealed frame of the session.
    pub fn seal(&mut self, body: &[u8]) -> Vec<u8> {
        let seal = Seal {
            session: self.session.unwrap(),
            number: self.next_out,
        };
        self.next_out += 1;
        let mut out = Vec::new();
        write_frame(&mut out, body, Some(seal));
        out
    }

    pub fn send(&mut self, id: &str, body: Body) {
        let bytes = self.seal(&message(id, body).encode_to_vec());
        self.send_raw(&bytes);
    }

    /// The next message of the session. Left out are acknowledgements, and what the agent says of its guest again:
    /// it may whenever that has changed, and only then.
    #[track_caller]
    pub fn next(&mut self) -> AgentMessage {
        loop {
            let body = self.next_frame();
            let seal = read_seal(&body).expect("a frame without a seal in a session");
            assert_eq!(Some(seal.session), self.session);
            assert_eq!(seal.number, self.next_in, "numbers have a gap");
            self.next_in += 1;
            let message = AgentMessage::decode(&body[..]).unwrap();
            self.cost += frame_cost(HEADER + body.len());
            if self.cost >= ACK_EVERY {
                self.acknowledge();
            }
            match &message.body {
                Some(Body::Credit(_)) if message.message_id.is_empty() => {}
                Some(Body::AgentReady(ready)) => {
                    let before = self.announced.replace(ready.clone());
                    assert_ne!(before.as_ref(), Some(ready), "nothing has changed");
                    if before.is_none() {
                        return message;
                    }
                }
                _ => return message,
            }
        }
    }

    /// The next message about this request; there may be none about another.
    #[track_caller]
    pub fn answer(&mut self, id: &str) -> Body {
        let message = self.next();
        assert_eq!(message.message_id, id, "{message:?}");
        message.body.unwrap()
    }

    #[track_caller]
    pub fn ask(&mut self, id: &str, body: Body) -> Body {
        self.send(id, body);
        self.answer(id)
    }

    /// The code and line with which a request is refused.
    #[track_caller]
    pub fn refused(&mut self, id: &str, body: Body) -> (String, String) {
        self.send(id, body);
        self.refusal(id)
    }

    #[track_caller]
    pub fn refusal(&mut self, id: &str) -> (String, String) {
        match self.answer(id) {
            Body::Error(error) => (error.code, error.message),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[track_caller]
    pub fn exec(&mut self, id: &str, request: agent::Execute) -> agent::ExecuteResponse {
        match self.ask(id, Body::Execute(request)) {
            Body::ExecuteResponse(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Still served: a keep-alive Ping is answered in the session.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        self.send("alive", line("echo alive"));
        let Body::ExecuteResponse(answer) = self.answer("alive") else {
            panic!("no answer");
        };
        assert_eq!(answer.stdout, b"alive\n");
    }

    /// Reads a file with this much credit ahead; its bytes and the answer.
    #[track_caller]
    pub fn read(
        &mut self,
        id: &str,
        request: agent::ReadFile,
    ) -> (Vec<u8>, agent::ReadFileResponse) {
        self.send(id, Body::ReadFile(request));
        let mut bytes = Vec::new();
        loop {
            self.credit(id, bytes.len() as u64 + 256 * 1024);
            match self.answer(id) {
                Body::StreamChunk(chunk) => {
                    assert_eq!(chunk.offset, bytes.len() as u64);
                    assert_eq!(chunk.stream(), Stream::Data);
                    bytes.extend(chunk.data);
                }
                Body::ReadFileResponse(answer) => return (bytes, answer),
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn credit(&mut self, id: &str, bytes: u64) {
        let stream = Stream::Data.into();
        self.send(id, Body::Credit(agent::Credit { stream, bytes }));
    }

    pub fn chunk(&mut self, id: &str, offset: usize, data: &[u8], eof: bool) {
        self.send(
            id,
            Body::StreamChunk(agent::StreamChunk {
                stream: Stream::Data.into(),
                offset: offset as u64,
                data: data.to_vec(),
                eof,
                ..Default::default()
            }),
        );
    }

    /// Begins a write and waits for its first credit.
    #[track_caller]
    pub fn begin_write(&mut self, id: &str, request: agent::WriteFile) -> u64 {
        match self.ask(id, Body::WriteFile(request)) {
            Body::Credit(credit) => credit.bytes,
            other => panic!("{other:?}"),
        }
    }

    /// Writes a file in chunks of 10,000 bytes, as credit allows.
    #[track_caller]
    pub fn write(&mut self, id: &str, request: agent::WriteFile, bytes: &[u8]) -> Body {
        let mut allowed = self.begin_write(id, request);
        let mut at = 0;
        loop {
            let end = (at + 10_000).min(bytes.len());
            if end as u64 <= allowed {
                self.chunk(id, at, &bytes[at..end], end == bytes.len());
                at = end;
                if end == bytes.len() {
                    break;
                }
                continue;
            }
            match self.answer(id) {
                Body::Credit(credit) => allowed = credit.bytes,
                other => return other,
            }
        }
        loop {
            match self.answer(id) {
                Body::Credit(_) => {}
                other => return other,
            }
        }
    }

    /// Nothing has been sent to us so far and until the agent ends or hangs up.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.input.drain(..).collect();
        let _ = self.stream.read_to_end(&mut bytes);
        bytes
    }

    pub fn hang_up(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn acknowledge(&mut self) {
        self.cost = 0;
        let bytes = self.received;
        self.send("", Body::Credit(agent::Credit { stream: 0, bytes }));
    }

    /// The body of the next frame.
    #[track_caller]
    pub fn next_frame(&mut self) -> Vec<u8> {
        self.try_frame().expect("the agent has hung up")
    }

    /// The body of the next frame; `None` when the connection has ended.
    #[track_caller]
    pub fn try_frame(&mut self) -> Option<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 64 * 1024];
        loop {
            while self.input.front() == Some(&IDLE) {
                self.input.pop_front();
                self.received += 1;
            }
            if self.input.len() >= 4 {
                let header: Vec<u8> = self.input.iter().take(4).copied().collect();
                let length = u32::from_be_bytes(header.try_into().unwrap()) as usize;
                assert!((1..=MAX_FRAME).contains(&length), "length {length}");
                if self.input.len() >= 4 + length {
                    self.input.drain(..4);
                    self.received += 4 + length as u64;
                    return Some(self.input.drain(..length).collect());
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.input.extend(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(e) => assert!(
                    e.kind() == ErrorKind::Interrupted && Instant::now() < deadline,
                    "nothing came: {e}"
                ),
            }
        }
    }
}

pub fn ping(sequence: u64, nonce: &[u8]) -> AgentMessage {
    let nonce = nonce.to_vec();
    message("", Body::Ping(agent::Ping { sequence, nonce }))
}

pub fn frame(message: &AgentMessage, seal: Option<Seal>) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(&mut out, &message.encode_to_vec(), seal);
    out
}

/// A line for the shell.
pub fn shell(command: &str) -> agent::Execute {
    agent::Execute {
        command: command.to_owned(),
        wait_for_exit: true,
        ..Default::default()
    }
}

pub fn line(command: &str) -> Body {
    Body::Execute(shell(command))
}

pub fn read_file(path: &str) -> agent::ReadFile {
    agent::ReadFile {
        path: path.to_owned(),
        ..Default::default()
    }
}

pub fn write_file(path: &str) -> agent::WriteFile {
    agent::WriteFile {
        path: path.to_owned(),
        ..Default::default()
    }
}

/// An agent that says these words wherever a guest may say something of itself, for as long as its
/// host listens.
pub fn lie(listener: &UnixListener, words: &str) {
    let mut stream = accept(listener);
    let mut decoder = Decoder::new();
    let mut buffer = [0; 4096];
    let session = SessionId::parse(99).unwrap();
    let mut number = 0;
    // An opening Pong has to be short.
    let short: String = words.chars().take(100).collect();
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        let mut input = &buffer[..n];
        while let Some(body) = decoder.next(&mut input) {
            let Ok(AgentMessage {
                body: Some(asked),
                message_id,
                ..
            }) = AgentMessage::decode(body)
            else {
                continue;
            };
            let mut out = Vec::new();
            let mut say = |id: &str, body: Body| {
                number += 1;
                let seal = Seal { session, number };
                write_frame(&mut out, &message(id, body).encode_to_vec(), Some(seal));
            };
            match asked {
                Body::Ping(ping) => {
                    let pong = agent::Pong {
                        sequence: ping.sequence,
                        nonce: ping.nonce,
                        session: session.get(),
                        version: short.clone(),
                        boot_id: short.clone(),
                        ..Default::default()
                    };
                    if ping.sequence > 1 {
                        say("", Body::Pong(pong));
                    } else {
                        let opening = message("", Body::Pong(pong)).encode_to_vec();
                        write_frame(&mut out, &opening, None);
                        let seal = |number| Some(Seal { session, number });
                        let evil = || words.to_owned();
                        let ready = agent::AgentReady {
                            version: evil(),
                            os_name: evil(),
                            hostname: evil(),
                            kernel_version: evil(),
                            ip_addresses: vec![evil()],
                            capabilities: vec![evil()],
                            ..Default::default()
                        };
                        let telemetry = agent::Telemetry {
                            hostname: evil(),
                            disks: vec![agent::Disk {
                                mount_point: evil(),
                                device: evil(),
                                ..Default::default()
                            }],
                            interfaces: vec![agent::Interface {
                                name: evil(),
                                ipv4: vec![evil()],
                                ..Default::default()
                            }],
                            stuck_mounts: vec![evil()],
                            ..Default::default()
                        };
                        write_frame(
                            &mut out,
                            &message("", Body::AgentReady(ready)).encode_to_vec(),
                            seal(1),
                        );
                        write_frame(
                            &mut out,
                            &message("", Body::Telemetry(telemetry)).encode_to_vec(),
                            seal(2),
                        );
                        number = 2;
                    }
                }
                Body::Execute(_) | Body::ReadFile(_) => say(
                    &message_id,
                    Body::Error(agent::Error {
                        message: words.to_owned(),
                        ..Default::default()
                    }),
                ),
                _ => {}
            }
            stream.write_all(&out).unwrap();
        }
    }
}
