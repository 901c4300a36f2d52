//! Bytes on their way to the host: the loop cuts what a child writes into a pipe, or shows on its
//! terminal, into chunks, as far as the host's credit goes. What is not read stays in the pipe, and
//! stops the child.

use std::rc::Rc;

use quantix::chunk::{DATA, Head, Packed, Parcel as _};
use quantix::credit::SendCredit;
use quantix::guest::Guest;
use quantix::ids::MessageId;
use quantix::limits::CHUNK;
use quantix::message::Stream;
use quantix::rt::sys::shared::Shared;

use super::lease::Home;
use super::pipe::{Got, Inlet};

/// One stream of a request, from its child to the host.
#[derive(Debug)]
pub struct Source {
    inlet: Inlet,
    stream: Stream,
    credit: SendCredit,
    /// Where a keeper sees how much was read, and in which place.
    progress: Option<(Rc<Shared>, usize)>,
    framing: Framing,
}

/// What is in the pipe.
#[derive(Debug)]
enum Framing {
    /// The stream's bytes.
    Bytes,
    /// Records, as [`replay`](super::replay) has them: of the present one so many bytes are left, and
    /// so many were lost in front of what is next.
    Records { left: usize, skipped: u64 },
}

impl Source {
    /// A stream of which the host takes nothing yet.
    pub fn new(inlet: Inlet, stream: Stream) -> Self {
        Self {
            inlet,
            stream,
            credit: SendCredit::default(),
            progress: None,
            framing: Framing::Bytes,
        }
    }

    /// From a child that writes records.
    pub fn in_records(mut self) -> Self {
        self.framing = Framing::Records {
            left: 0,
            skipped: 0,
        };
        self
    }

    /// Tells a keeper how much was read.
    pub fn counted(mut self, progress: &Rc<Shared>, at: usize) -> Self {
        self.progress = Some((Rc::clone(progress), at));
        self
    }

    /// An event said that there may be something.
    pub const fn on_ready(&mut self) {
        self.inlet.on_ready();
    }

    /// The host takes `total` bytes of this stream in all.
    pub fn allow(&mut self, stream: Stream, total: u64) {
        if stream == self.stream {
            self.credit.allow(total);
        }
    }

    /// Sends a chunk if there is one and the host takes it. True: it did, or found the end.
    pub fn pull(&mut self, id: &MessageId, guest: &mut Guest, home: &Home) -> bool {
        let room = usize::try_from(self.credit.available()).unwrap_or(CHUNK);
        let mut room = room.min(CHUNK);
        if !self.inlet.is_ready() || room == 0 {
            return false;
        }
        let mut skipped = 0;
        if let Framing::Records {
            left,
            skipped: lost,
        } = &mut self.framing
        {
            if *left == 0 {
                let mut header = [0; 12];
                match self.inlet.read(&mut header) {
                    Got::Nothing => return false,
                    // One write of the child's, so that it is there whole (PIPE_BUF, pipe(7)).
                    Got::Bytes(_) => (*lost, *left) = record(&header),
                    Got::End => return true,
                }
            }
            skipped = std::mem::take(lost);
            room = room.min(*left);
        }
        let mut lease = home.lend();
        let place = lease.bytes_mut().get_mut(DATA..DATA + room);
        let n = match self.inlet.read(place.unwrap_or(&mut [])) {
            Got::Bytes(n) => n,
            Got::Nothing if skipped == 0 => return false,
            Got::Nothing => 0,
            Got::End => return true,
        };
        if let Framing::Records { left, .. } = &mut self.framing {
            *left -= n;
        }
        let head = Head {
            stream: self.stream,
            offset: self.credit.spend(n),
            eof: false,
            skipped,
        };
        if let Some((progress, at)) = &self.progress {
            progress.set(*at, self.credit.sent());
        }
        if let Some(chunk) = Packed::new(Box::new(lease), id, head, n) {
            guest.send_chunk(id, chunk);
        }
        true
    }

    /// The child has ended. What is in its pipe now is all that it wrote; whoever else holds the
    /// other end is not waited for.
    pub fn finish(&mut self) {
        self.inlet.finish();
    }

    /// All of it has been sent.
    pub fn is_drained(&mut self) -> bool {
        self.inlet.end_if_empty();
        self.inlet.is_ended()
    }
}

/// How many bytes were lost, and how many follow.
fn record(header: &[u8; 12]) -> (u64, usize) {
    let (skipped, length) = header.split_at(8);
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    (
        number(skipped),
        usize::try_from(number(length)).unwrap_or(0),
    )
}

/// The streams of one child, by the numbers of its pipes. Each has its turn.
#[derive(Debug)]
pub struct Sources {
    all: Vec<Source>,
    next: usize,
}

impl Sources {
    /// These.
    pub const fn new(all: Vec<Source>) -> Self {
        Self { all, next: 0 }
    }

    /// As [`Source::on_ready`], for one of them.
    pub fn on_ready(&mut self, at: usize) {
        if let Some(source) = self.all.get_mut(at) {
            source.on_ready();
        }
    }

    /// As [`Source::allow`].
    pub fn allow(&mut self, stream: Stream, total: u64) {
        for source in &mut self.all {
            source.allow(stream, total);
        }
    }

    /// As [`Source::pull`], of the next that has something.
    pub fn pull(&mut self, id: &MessageId, guest: &mut Guest, home: &Home) -> bool {
        for _ in 0..self.all.len() {
            self.next = (self.next + 1) % self.all.len();
            if self.all[self.next].pull(id, guest, home) {
                return true;
            }
        }
        false
    }

    /// As [`Source::finish`].
    pub fn finish(&mut self) {
        self.all.iter_mut().for_each(Source::finish);
    }

    /// As [`Source::is_drained`], of all.
    pub fn is_drained(&mut self) -> bool {
        self.all.iter_mut().all(Source::is_drained)
    }
}
