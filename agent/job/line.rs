//! What the loop and a keeper say to each other, over a pair of sockets: orders one way, words the other.
//!
//! An order is two bytes; behind those of a command are its request, with its length in front (4 bytes),
//! and its streams as descriptors. A word is a message with its length in front (2 bytes); without a
//! message it says that the keeper is free.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;

use prost::Message;
use quantix::limits::MAX_FRAME;
use quantix::message::{AgentMessage, Body, agent, message};
use quantix::rt::sys::fd::{Wait, wait};
use quantix::rt::sys::pass;
use quantix::rt::sys::process::Signal;

use super::command::Streams;

/// What the loop wants of a keeper that has a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Sends this signal to the command.
    Signal(Signal),
    /// Nobody waits for it any more: ends the command and all that it has started.
    HangUp,
}

/// Both ends of what a command is connected to, but for those of the loop.
#[derive(Debug)]
pub struct Wires {
    /// The command's.
    pub streams: Streams,
    /// Copies of the loop's, for a keeper that outlives it: where stdout and stderr come from.
    pub outputs: Option<[File; 2]>,
    /// The same, of a terminal.
    pub master: Option<File>,
}

/// What a keeper says of its command.
#[derive(Debug)]
pub enum Word {
    /// It has started; only where nobody waits for its end.
    Started(agent::ExecuteResponse),
    /// How it ended, or why there is none: nothing follows of it.
    Last(Body),
    /// The keeper takes another command.
    Free,
}

/// Somebody gets the command's output.
pub const fn has_output(request: &agent::Execute) -> bool {
    request.keep || request.wait_for_exit
}

/// Gives a keeper a command.
///
/// # Errors
/// EPIPE: it was killed. WouldBlock: the system's buffers are smaller than a frame; it ends when the line is
/// closed.
pub fn run(line: &File, request: &agent::Execute, wires: &Wires) -> io::Result<()> {
    let length = u32::try_from(request.encoded_len()).map_err(|_| ErrorKind::InvalidData)?;
    let mut order = b"r\0".to_vec();
    order.extend(length.to_be_bytes());
    request.encode_raw(&mut order);
    let files = wires.files();
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    match pass::send(line, &order, &files)? {
        n if n == order.len() => Ok(()),
        _ => Err(ErrorKind::WouldBlock.into()),
    }
}

/// Gives an order. One that finds no room, or nobody, comes too late.
pub fn order(mut line: &File, order: Order) {
    let _ = line.write(&match order {
        Order::Signal(signal) => [b's', u8::try_from(signal.number()).unwrap_or(0)],
        Order::HangUp => *b"h\0",
    });
}

/// In a keeper that has a command: the next order.
///
/// # Errors
/// The loop is gone.
pub fn next_order(mut line: &File) -> io::Result<Option<Order>> {
    let mut order = [0; 2];
    match line.read(&mut order) {
        Ok(2) => Ok(parse(order)),
        Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
        Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => Ok(None),
        Err(e) => Err(e),
    }
}

fn parse(order: [u8; 2]) -> Option<Order> {
    match order {
        [b's', number] => Signal::parse(number.into()).map(Order::Signal),
        [b'h', _] => Some(Order::HangUp),
        _ => None,
    }
}

/// In a keeper without a command, when the line can be read: its next one. None: what is there is an
/// order for the one before.
///
/// # Errors
/// UnexpectedEof: none is going to come.
pub fn next_command(line: &File) -> io::Result<Option<(agent::Execute, Wires)>> {
    let mut order = [0; 2];
    let (n, files) = pass::receive(line, &mut order)?;
    match (n, order) {
        (2, [b'r', _]) => {}
        (2, _) => return Ok(None),
        _ => return Err(ErrorKind::UnexpectedEof.into()),
    }
    let mut length = [0; 4];
    fill(line, &mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    fill(line, &mut body)?;
    let request = agent::Execute::decode(&body[..])?;
    let wires = Wires::take(&request, files).ok_or(ErrorKind::InvalidData)?;
    Ok(Some((request, wires)))
}

fn fill(mut line: &File, mut place: &mut [u8]) -> io::Result<()> {
    while !place.is_empty() {
        match line.read(place) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => place = &mut place[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                wait(&mut [Wait::read(line)], None)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Wires {
    fn files(&self) -> Vec<&File> {
        match &self.streams {
            Streams::Pipes { stdin, output } => {
                let output = output.iter().flat_map(|(out, err)| [out, err]);
                let outputs = self.outputs.iter().flatten();
                stdin.iter().chain(output).chain(outputs).collect()
            }
            Streams::Terminal(slave) => std::iter::once(slave).chain(&self.master).collect(),
        }
    }

    /// Of the files that came with this request, in the order of [`files`](Self::files).
    fn take(request: &agent::Execute, files: Vec<File>) -> Option<Self> {
        let mut files = files.into_iter();
        let mut next = || files.next();
        if request.terminal.is_some() {
            return Some(Self {
                streams: Streams::Terminal(next()?),
                outputs: None,
                master: Some(next()?),
            });
        }
        let stdin = match request.stream_input {
            true => Some(next()?),
            false => None,
        };
        let (output, outputs) = match has_output(request) {
            true => (Some((next()?, next()?)), Some([next()?, next()?])),
            false => (None, None),
        };
        Some(Self {
            streams: Streams::Pipes { stdin, output },
            outputs,
            master: None,
        })
    }
}

/// In a keeper: says something. The line has room for all that a keeper ever says of a command.
pub fn say(mut line: &File, words: impl IntoIterator<Item = Word>) -> io::Result<()> {
    let mut bytes = Vec::new();
    for word in words {
        let body = match word {
            Word::Started(started) => message("", Body::ExecuteResponse(started)).encode_to_vec(),
            Word::Last(last) => message("", last).encode_to_vec(),
            Word::Free => Vec::new(),
        };
        let length = u16::try_from(body.len()).map_err(|_| ErrorKind::InvalidData)?;
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
    }
    line.write_all(&bytes)
}

/// Takes the next whole word out of what a keeper has said.
pub fn take(said: &mut Vec<u8>) -> Option<Word> {
    let (length, rest) = said.split_first_chunk::<2>()?;
    let body = rest.get(..u16::from_be_bytes(*length).into())?;
    let found = AgentMessage::decode(body).ok().and_then(|found| found.body);
    said.drain(..2 + body.len());
    Some(match found {
        None => Word::Free,
        Some(Body::ExecuteResponse(started)) if started.pid > 0 => Word::Started(started),
        Some(last) => Word::Last(last),
    })
}
