//! The host's core on the VM's socket, and no daemon around it: what is timed here is the channel.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use quantix::chunk::{Head, Packed};
use quantix::credit::{ReceiveCredit, SendCredit};
use quantix::host::{Event, Host};
use quantix::ids::{IdMaker, MessageId};
use quantix::limits::{CHUNK, CLIENT_WINDOW};
use quantix::message::{Body, Stream, agent, encode, message};
use quantix::rt::sys::fd::unread_by_peer;
use quantix::rt::{clock, random};

use crate::{Outcome, micros};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(30);

/// A host with one connection.
pub struct Peer {
    socket: PathBuf,
    host: Host,
    stream: Option<UnixStream>,
    ids: IdMaker,
    transfers: Option<Transfers>,
    buffer: Vec<u8>,
}

/// One in each direction; neither ends.
struct Transfers {
    download: MessageId,
    received: ReceiveCredit,
    upload: MessageId,
    sent: SendCredit,
}

impl Peer {
    /// Connects. The session opens later.
    pub fn connect(socket: &Path) -> Outcome<Self> {
        let mut peer = Self {
            socket: socket.to_owned(),
            host: Host::new(),
            stream: None,
            ids: IdMaker::new(random::number()),
            transfers: None,
            buffer: vec![0; 65_536],
        };
        let now = clock::now();
        peer.host.handle_socket(now);
        peer.host.handle_timeout(now, false);
        // There is nothing but the wish to connect.
        peer.next_event()?;
        peer.settle()?;
        Ok(peer)
    }

    /// Connects, and opens a session: the microseconds that this took.
    pub fn open(socket: &Path) -> Outcome<(Self, f64)> {
        let begun = Instant::now();
        let mut peer = Self::connect(socket)?;
        peer.wait_opened()?;
        Ok((peer, micros(begun)))
    }

    /// Waits for a session.
    pub fn wait_opened(&mut self) -> Outcome<()> {
        self.wait("a session", |_, event| matches!(event, Event::Opened(_)))
    }

    /// Waits until the guest has said all that it says at the beginning.
    pub fn wait_report(&mut self) -> Outcome<()> {
        self.wait("a report", |_, event| match event {
            Event::Message(message) => matches!(message.body, Some(Body::Telemetry(_))),
            _ => false,
        })
    }

    /// Has the guest's shell begin something, and waits until it has.
    pub fn spawn(&mut self, line: &str) -> Outcome<()> {
        let execute = agent::Execute {
            command: line.to_owned(),
            ..Default::default()
        };
        self.request(Body::Execute(execute))?;
        self.wait("a process", |_, event| match event {
            Event::Message(message) => matches!(message.body, Some(Body::ExecuteResponse(_))),
            _ => false,
        })
    }

    /// Begins a transfer in each direction and waits until so many bytes have come.
    pub fn transfer(&mut self, bytes: u64) -> Outcome<()> {
        let download = self.request(Body::ReadFile(agent::ReadFile {
            path: "/tmp/endless".to_owned(),
            ..Default::default()
        }))?;
        let upload = self.request(Body::WriteFile(agent::WriteFile {
            path: "/dev/null".to_owned(),
            ..Default::default()
        }))?;
        self.transfers = Some(Transfers {
            download,
            received: ReceiveCredit::new(CLIENT_WINDOW),
            upload,
            sent: SendCredit::default(),
        });
        self.grant();
        self.receive(bytes)
    }

    /// Goes on with the transfers until so many more bytes have come.
    pub fn receive(&mut self, bytes: u64) -> Outcome<()> {
        let received = |peer: &Self| peer.transfers.as_ref().map(|t| t.received.received());
        let until = received(self).ok_or("no transfer")? + bytes;
        self.wait("bytes", |peer, _| {
            received(peer).is_some_and(|r| r >= until)
        })
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self) {
        self.host.ping(clock::now());
    }

    /// Ends the connection in the middle of a frame.
    pub fn break_off(mut self) -> Outcome<()> {
        if let Some(stream) = &mut self.stream {
            let mut half = 60_000_u32.to_be_bytes().to_vec();
            half.resize(1000, 0);
            stream.write_all(&half)?;
        }
        Ok(())
    }

    /// Goes on until there is such an event.
    fn wait(&mut self, what: &str, mut found: impl FnMut(&Self, &Event) -> bool) -> Outcome<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let Some(event) = self.step(PATIENCE)? else {
                continue;
            };
            if found(self, &event) {
                return Ok(());
            }
            if let Event::Message(message) = event
                && let Some(Body::Error(error)) = message.body
            {
                return Err(error.message.into());
            }
        }
        Err(format!("waited in vain for {what}").into())
    }

    /// Goes on until something is so; looks every few milliseconds. Whether a session was opened since.
    pub fn run_until(&mut self, mut so: impl FnMut() -> bool) -> Outcome<bool> {
        let (begun, mut opened) = (Instant::now(), false);
        while !so() {
            if begun.elapsed() > PATIENCE {
                return Err("waited in vain for the guest".into());
            }
            let event = self.step(Duration::from_millis(2))?;
            opened |= matches!(event, Some(Event::Opened(_)));
        }
        Ok(opened)
    }

    /// The next event, if there is one within this time.
    fn step(&mut self, patience: Duration) -> Outcome<Option<Event>> {
        if let Some(event) = self.next_event()? {
            return Ok(Some(event));
        }
        self.settle()?;
        let now = clock::now();
        let pause = self
            .host
            .poll_timeout()
            .map_or(patience, |at| at.since(now));
        let pause = pause.min(patience);
        if !pause.is_zero() {
            self.read(pause)?;
        }
        let taken = match &self.stream {
            Some(stream) => unread_by_peer(stream)? == 0,
            None => false,
        };
        self.host.handle_timeout(clock::now(), taken);
        let event = self.next_event()?;
        self.settle()?;
        Ok(event)
    }

    fn read(&mut self, pause: Duration) -> Outcome<()> {
        let Some(stream) = &mut self.stream else {
            sleep(pause);
            return Ok(());
        };
        stream.set_read_timeout(Some(pause))?;
        match stream.read(&mut self.buffer) {
            Ok(0) => {
                self.stream = None;
                self.host.handle_disconnected(clock::now());
            }
            Ok(n) => {
                let bytes = &self.buffer[..n];
                self.host
                    .handle_bytes(clock::now(), bytes, &mut random::bytes);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    fn next_event(&mut self) -> Outcome<Option<Event>> {
        while let Some(event) = self.host.poll_event() {
            match &event {
                Event::Connect => {
                    self.stream = Some(UnixStream::connect(&self.socket)?);
                    self.host.handle_connected(clock::now(), &mut random::bytes);
                    continue;
                }
                Event::Close(_) => {
                    self.stream = None;
                    continue;
                }
                Event::Lost { .. } => self.transfers = None,
                Event::Message(message) => self.on_message(&message.body),
                Event::Opened(_) | Event::Pong { .. } => {}
            }
            return Ok(Some(event));
        }
        Ok(None)
    }

    fn on_message(&mut self, body: &Option<Body>) {
        if let Some(transfers) = &mut self.transfers {
            match body {
                Some(Body::StreamChunk(chunk)) => {
                    let _ = transfers.received.receive(chunk.offset, chunk.data.len());
                    transfers.received.consume(chunk.data.len());
                    self.grant();
                }
                Some(Body::Credit(credit)) => {
                    transfers.sent.allow(credit.bytes);
                    while transfers.sent.available() >= CHUNK as u64 {
                        let head = Head {
                            stream: Stream::Data,
                            offset: transfers.sent.spend(CHUNK),
                            ..Head::default()
                        };
                        let (id, data) = (&transfers.upload, [b'q'; CHUNK]);
                        if let Some(chunk) = Packed::copy_of(id, head, &data) {
                            self.host.send_chunk(id, chunk);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn grant(&mut self) {
        if let Some(transfers) = &mut self.transfers
            && let Some(bytes) = transfers.received.grant()
        {
            let stream = Stream::Data.into();
            let credit = Body::Credit(agent::Credit { stream, bytes });
            // A lane that is full loses its session, which ends what waits for bytes.
            let _ = self.host.tell(&transfers.download, credit);
        }
    }

    fn request(&mut self, body: Body) -> Outcome<MessageId> {
        let id = self.ids.make();
        let body = encode(&message(id.as_str(), body)).map_err(|_| "a long request")?;
        let queued = self.host.request(clock::now(), &id, body);
        queued.map_err(|_| "the lane is full")?;
        Ok(id)
    }

    /// Writes what there is to write.
    fn settle(&mut self) -> Outcome<()> {
        while let Some(stream) = &mut self.stream
            && let Some(bytes) = self.host.poll_transmit()
        {
            let n = stream.write(bytes)?;
            self.host.on_written(n);
        }
        Ok(())
    }
}
