//! Bulk data between the loop and a worker: a file's bytes, an archive. They travel in slots of memory
//! that both see, to the host as frames that are made around them where they are.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use quantix::chunk::{Chunk, Head, Packed};
use quantix::credit::{Fault, ReceiveCredit, SendCredit};
use quantix::error::Failure;
use quantix::guest::Guest;
use quantix::ids::MessageId;
use quantix::limits::CHUNK;
use quantix::message::{AgentMessage, Stream};
use quantix::rt::sys::fd::pipe;
use quantix::rt::sys::process::{self, Keep, Pid};
use quantix::rt::sys::seccomp::{self, Reach};
use quantix::rt::sys::slots::{Consumer, Producer, Slot, Taken, ring};

use super::pipe::Inlet;
use super::{Answer, absolute};

/// Slots of all workers together: the agent's memory for bulk data, but that each has two at least.
const SLOTS: usize = 28;

/// How many slots the next worker gets where others have so many: half of what is left, so that one
/// alone is quick and others find room.
pub const fn share(in_use: usize) -> usize {
    let share = SLOTS.saturating_sub(in_use) / 2;
    if share < 2 { 2 } else { share }
}

/// A worker whose bytes go to the host, and its answer behind them.
#[derive(Debug)]
pub struct Outgoing {
    consumer: Consumer,
    /// A slot of which so many bytes have gone, where the host's credit ended inside it.
    current: Option<(Slot, usize)>,
    credit: SendCredit,
    /// It has ended.
    is_finished: bool,
    pub slots: usize,
    pub result: Answer,
}

/// A worker whose bytes come from the host.
#[derive(Debug)]
pub struct Incoming {
    /// `None`: what still comes is of no use.
    producer: Option<Producer>,
    /// What found no slot. The credit is as much as the slots hold, so that only small chunks get here,
    /// and are joined.
    waiting: VecDeque<Vec<u8>>,
    input: Input,
    credit: ReceiveCredit,
    /// Bytes that came with the request, without credit.
    gratis: u64,
    /// Bytes of which the credit was given back.
    consumed: u64,
    pub slots: usize,
    pub result: Answer,
}

/// How far what the host sends is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// More may come.
    Open,
    /// The last byte has come, and the worker is not told yet.
    Whole,
    /// It is told.
    Ended,
}

/// The loop's ends, by number.
const DATA: usize = 0;
const RESULT: usize = 1;

/// Starts `work` in a child that gets `end` of the ring and does without some of what it could reach.
fn spawn<E: AsFd>(
    end: E,
    without: &[Reach],
    registry: &Registry,
    token: Token,
    work: &dyn Fn(E) -> Result<AgentMessage, Failure>,
) -> io::Result<(Pid, Answer)> {
    let (result, child_result) = pipe()?;
    let result = Inlet::new(result, registry, token)?;
    let keep = Keep::from(&[end.as_fd(), child_result.as_fd()][..]);
    let pid = process::spawn(keep, || {
        process::become_batch();
        super::confine(without);
        super::report(&child_result, work(end))
    })?;
    Ok((pid, Answer::new(result)))
}

fn register(end: &impl AsFd, registry: &Registry, token: Token) -> io::Result<()> {
    let fd = end.as_fd().as_raw_fd();
    registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
}

impl Outgoing {
    /// Starts `work`, which reads `path` and fills slots.
    pub fn start(
        path: &str,
        slots: usize,
        registry: &Registry,
        token: &dyn Fn(usize) -> Token,
        work: &dyn Fn(Filler) -> Result<AgentMessage, Failure>,
    ) -> Result<(Pid, Self), Failure> {
        absolute(path)?;
        let begin = || {
            let (producer, consumer) = ring(slots)?;
            consumer.set_nonblocking()?;
            register(&consumer, registry, token(DATA))?;
            let (pid, result) = spawn(
                producer,
                seccomp::ALL_BUT_READS,
                registry,
                token(RESULT),
                &|producer| work(Filler { producer, used: 0 }),
            )?;
            consumer.hide();
            let worker = Self {
                consumer,
                current: None,
                credit: SendCredit::default(),
                is_finished: false,
                slots,
                result,
            };
            Ok((pid, worker))
        };
        begin().map_err(|e| Failure::system("read", path, &e))
    }

    /// An event came for one of its ends.
    pub fn on_ready(&mut self, end: usize) {
        match end {
            RESULT => self.result.on_ready(),
            // Its end comes by its process.
            _ => drop(self.consumer.hush()),
        }
    }

    /// The host takes `total` bytes in all.
    pub fn allow(&mut self, stream: Stream, total: u64) {
        if stream == Stream::Data {
            self.credit.allow(total);
        }
    }

    /// Sends a chunk if there is one and the host takes it. True: it did.
    pub fn pull(&mut self, id: &MessageId, guest: &mut Guest) -> bool {
        let room = usize::try_from(self.credit.available()).unwrap_or(CHUNK);
        if room == 0 || !self.look() {
            return false;
        }
        let Some((slot, at)) = self.current.take() else {
            return false;
        };
        let (length, head) = (slot.data().len(), self.head());
        let packed = if at == 0 && length <= room {
            self.credit.spend(length);
            Packed::new(Box::new(slot), id, head, length)
        } else {
            let end = length.min(at + room);
            self.credit.spend(end - at);
            let part = Packed::copy_of(id, head, slot.data().get(at..end).unwrap_or(&[]));
            self.current = (end < length).then_some((slot, end));
            part
        };
        if let Some(packed) = packed {
            guest.send_chunk(id, packed);
        }
        true
    }

    fn head(&self) -> Head {
        Head {
            stream: Stream::Data,
            offset: self.credit.sent(),
            ..Head::default()
        }
    }

    /// Whether there is a slot to send.
    fn look(&mut self) -> bool {
        while self.current.is_none() {
            match self.consumer.take() {
                Some(Taken::Slot(slot)) => self.current = Some((slot, 0)),
                Some(Taken::End) => {}
                None if self.consumer.listen() => return false,
                None => {}
            }
        }
        true
    }

    /// The child has ended.
    pub const fn finish(&mut self) {
        self.is_finished = true;
    }

    /// Every byte has been sent, so that the answer may follow; a failure does not wait for that.
    pub fn is_drained(&mut self) -> bool {
        (self.is_finished && !self.look()) || self.result.is_failure()
    }
}

impl Incoming {
    /// Starts `work`, which empties slots and writes `path`.
    pub fn start(
        path: &str,
        slots: usize,
        registry: &Registry,
        token: &dyn Fn(usize) -> Token,
        work: &dyn Fn(Consumer) -> Result<AgentMessage, Failure>,
    ) -> Result<(Pid, Self), Failure> {
        absolute(path)?;
        let begin = || {
            let (producer, consumer) = ring(slots)?;
            producer.set_nonblocking()?;
            register(&producer, registry, token(DATA))?;
            let (pid, result) = spawn(
                consumer,
                seccomp::ALL_BUT_FILES,
                registry,
                token(RESULT),
                work,
            )?;
            producer.hide();
            let worker = Self {
                credit: ReceiveCredit::new(producer.capacity()),
                producer: Some(producer),
                waiting: VecDeque::new(),
                input: Input::Open,
                gratis: 0,
                consumed: 0,
                slots,
                result,
            };
            Ok((pid, worker))
        };
        begin().map_err(|e| Failure::system("write", path, &e))
    }

    /// An event came for one of its ends.
    pub fn on_ready(&mut self, end: usize) {
        match end {
            RESULT => self.result.on_ready(),
            _ if self.producer.as_ref().is_some_and(|ring| !ring.hush()) => self.abandon(),
            _ => {}
        }
    }

    /// What came with the request.
    pub fn begin(&mut self, bytes: &[u8], is_all: bool) {
        self.gratis = bytes.len() as u64;
        bytes.chunks(CHUNK).for_each(|piece| self.push(piece));
        if is_all {
            self.input = Input::Whole;
        }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// The host broke the stream's rules.
    pub fn receive(&mut self, chunk: &Chunk) -> Result<(), Fault> {
        let data = chunk.data();
        if self.input != Input::Open {
            return Err(Fault::Gap);
        }
        self.credit.receive(chunk.head.offset, data.len())?;
        data.chunks(CHUNK).for_each(|piece| self.push(piece));
        if chunk.head.eof {
            self.input = Input::Whole;
        }
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) {
        let Some(producer) = &mut self.producer else {
            return;
        };
        if bytes.is_empty() || (self.waiting.is_empty() && put(producer, bytes)) {
            return;
        }
        match self.waiting.back_mut() {
            Some(last) if last.len() + bytes.len() <= CHUNK => last.extend_from_slice(bytes),
            _ => self.waiting.push_back(bytes.to_vec()),
        }
    }

    /// Moves bytes. The new total that the host may send, if it is worth saying.
    pub fn turn(&mut self) -> Option<u64> {
        let producer = self.producer.as_mut()?;
        while let Some(bytes) = self.waiting.front()
            && put(producer, bytes)
        {
            self.waiting.pop_front();
        }
        if self.input == Input::Whole && self.waiting.is_empty() && producer.space().is_some() {
            producer.end();
            self.input = Input::Ended;
        }
        producer.wake(1);
        let total = self.grant();
        let has_more = !self.waiting.is_empty() || self.input == Input::Whole;
        let lacks = usize::try_from(self.credit.lacks()).unwrap_or(0);
        let worth_a_bell = if has_more { 1 } else { lacks.div_ceil(CHUNK) };
        self.producer.as_ref()?.listen(worth_a_bell);
        // What was taken before it knew of that.
        self.grant().or(total)
    }

    /// Gives back the credit of what the worker has taken.
    fn grant(&mut self) -> Option<u64> {
        let consumed = self.producer.as_ref()?.consumed();
        let consumed = consumed.saturating_sub(self.gratis);
        let more = usize::try_from(consumed - self.consumed).unwrap_or(0);
        self.consumed = consumed;
        self.credit.consume(more);
        // Nobody needs credit who has sent all.
        match self.input {
            Input::Open => self.credit.grant(),
            Input::Whole | Input::Ended => None,
        }
    }

    /// Ends the worker's input here, whatever still waits: it leaves nothing behind.
    pub fn abandon(&mut self) {
        self.producer = None;
        self.waiting.clear();
    }
}

fn put(producer: &mut Producer, bytes: &[u8]) -> bool {
    let place = producer
        .space()
        .and_then(|slot| slot.get_mut(..bytes.len()));
    let Some(place) = place else {
        return false;
    };
    place.copy_from_slice(bytes);
    producer.fill(bytes.len());
    true
}

/// The child's end of a ring that the loop empties.
pub struct Filler {
    producer: Producer,
    /// Bytes of the present slot.
    used: usize,
}

impl Filler {
    /// Reads from a file, where it stands, up to `limit` bytes, and sends them in chunks of at most `chunk`.
    /// The loop is told when half of the slots are full, or with `live` of each. Returns how many they
    /// were; fewer only at the file's end.
    ///
    /// # Errors
    /// As read(2); EPIPE where nobody wants them any more.
    pub fn copy(&mut self, file: &File, limit: u64, chunk: usize, live: bool) -> io::Result<u64> {
        let enough = if live { 1 } else { self.producer.half() };
        let mut sent = 0;
        while sent < limit {
            self.producer.wait()?;
            let left = usize::try_from(limit - sent).unwrap_or(usize::MAX);
            let space = self.producer.space().unwrap_or(&mut []);
            let most = space.len().min(chunk).min(left);
            let place = &mut space[..most];
            match { file }.read(place) {
                Ok(0) => break,
                Ok(n) => {
                    self.producer.fill(n);
                    self.producer.wake(enough);
                    sent += n as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(sent)
    }
}

impl Write for Filler {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.producer.wait()?;
        let space = self.producer.space().unwrap_or(&mut []);
        let place = space.get_mut(self.used..).unwrap_or(&mut []);
        let n = place.len().min(bytes.len());
        let is_full = n == place.len();
        place[..n].copy_from_slice(&bytes[..n]);
        self.used += n;
        if is_full {
            self.producer.fill(self.used);
            self.producer.wake(self.producer.half());
            self.used = 0;
        }
        Ok(n)
    }

    /// Sends what there is.
    fn flush(&mut self) -> io::Result<()> {
        if self.used > 0 {
            self.producer.fill(std::mem::take(&mut self.used));
        }
        self.producer.wake(1);
        Ok(())
    }
}
