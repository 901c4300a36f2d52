//! The bytes of one request, either way: as they come, and as the other side takes them.

use std::io::{self, Write};

use quantix::credit::{ReceiveCredit, SendCredit};
use quantix::limits::{CHUNK, CLIENT_WINDOW};
use quantix::message::{Body, Stream, agent};

use super::super::Trouble;
use super::super::client::{Client, unexpected};

/// Gives a request's bytes to `sink` as they come; returns the answer, and how many they were.
pub fn download(
    client: &mut Client,
    vm: &str,
    request: Body,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Trouble>,
) -> Result<(Body, u64), Trouble> {
    let id = client.ask_agent(vm, request)?;
    let mut credit = ReceiveCredit::new(CLIENT_WINDOW);
    loop {
        if let Some(bytes) = credit.grant() {
            let stream = Stream::Data.into();
            client.tell_agent(id, vm, Body::Credit(agent::Credit { stream, bytes }))?;
        }
        match client.wait_agent(id)? {
            Body::StreamChunk(chunk) => {
                if credit.receive(chunk.offset, chunk.data.len()).is_err() {
                    return Err(unexpected());
                }
                sink(&chunk.data)?;
                credit.consume(chunk.data.len());
            }
            answer => return Ok((answer, credit.received())),
        }
    }
}

/// A request's bytes on their way to the guest. A write waits until the guest takes it.
pub struct Upload<'a> {
    client: &'a mut Client,
    vm: &'a str,
    id: u64,
    credit: SendCredit,
    buffer: Vec<u8>,
    /// It came before all was sent: the guest wants no more.
    answer: Option<Result<Body, Trouble>>,
}

impl<'a> Upload<'a> {
    /// Makes the request.
    pub fn begin(client: &'a mut Client, vm: &'a str, request: Body) -> Result<Self, Trouble> {
        let id = client.ask_agent(vm, request)?;
        Ok(Self {
            client,
            vm,
            id,
            credit: SendCredit::default(),
            buffer: Vec::with_capacity(CHUNK),
            answer: None,
        })
    }

    /// The guest has answered: it takes no more.
    pub const fn is_over(&self) -> bool {
        self.answer.is_some()
    }

    /// Sends the rest and the end, and waits for the answer.
    pub fn finish(mut self) -> Result<Body, Trouble> {
        if !self.is_over() && self.send(true).is_ok() {
            while !self.is_over() {
                self.wait();
            }
        }
        self.answer.unwrap_or_else(|| Err(unexpected()))
    }

    /// Sends what there is, as credit comes.
    fn send(&mut self, eof: bool) -> io::Result<()> {
        loop {
            let room = usize::try_from(self.credit.available()).unwrap_or(CHUNK);
            let n = room.min(self.buffer.len());
            let rest = self.buffer.split_off(n);
            let data = std::mem::replace(&mut self.buffer, rest);
            let is_last = self.buffer.is_empty();
            if n > 0 || (is_last && eof) {
                let chunk = agent::StreamChunk {
                    stream: Stream::Data.into(),
                    offset: self.credit.spend(n),
                    data,
                    eof: is_last && eof,
                    ..Default::default()
                };
                let told = Body::StreamChunk(chunk);
                if let Err(trouble) = self.client.tell_agent(self.id, self.vm, told) {
                    self.answer = Some(Err(trouble));
                }
            }
            if self.is_over() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if is_last {
                return Ok(());
            }
            self.wait();
        }
    }

    fn wait(&mut self) {
        match self.client.wait_agent(self.id) {
            Ok(Body::Credit(more)) => self.credit.allow(more.bytes),
            answer => self.answer = Some(answer),
        }
    }
}

impl Write for Upload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_over() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == CHUNK {
            self.send(false)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
