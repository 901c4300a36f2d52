//! A child that sends what it has as streams, and then its answer.

use std::fs::File;

use mio::{Registry, Token};
use quantix::error::Failure;
use quantix::message::AgentMessage;
use quantix::rt::sys::fd::{grow_pipe, pipe};
use quantix::rt::sys::process::{self, Keep, Pid};
use quantix::rt::sys::seccomp::{self, Reach};

use super::pipe::Inlet;
use super::source::{Source, Sources};
use super::{Answer, PIPE_SIZE};

/// In a child, before it begins: it gives up what it can do without.
pub fn confine(without: &[Reach]) {
    if !without.is_empty() {
        // On a kernel that knows no such thing it begins all the same.
        let _ = seccomp::give_up(without);
    }
}

/// The loop's side of it.
#[derive(Debug)]
pub struct Worker {
    pub sources: Sources,
    /// The answer that goes behind the last chunk.
    pub result: Answer,
}

/// The loop's end of the answer, by number; the streams' are those before it.
const RESULT: usize = 2;

impl Worker {
    /// Starts `work` with one pipe for each of `streams`, of which there are two at most, and an
    /// answer that it returns; it does `without` some of what it could reach. `doing` and `what` are for the
    /// message if that fails.
    pub fn start<const N: usize>(
        (doing, what): (&str, &str),
        streams: [&dyn Fn(Inlet) -> Source; N],
        without: &[Reach],
        registry: &Registry,
        token: impl Fn(usize) -> Token,
        work: impl FnOnce([File; N]) -> Result<AgentMessage, Failure>,
    ) -> Result<(Pid, Self), Failure> {
        let system = |e| Failure::system(doing, what, &e);
        let mut sources = Vec::new();
        let mut ends = Vec::new();
        for (at, source) in streams.into_iter().enumerate() {
            let (data, end) = pipe().map_err(system)?;
            grow_pipe(&data, PIPE_SIZE);
            let data = Inlet::new(data, registry, token(at)).map_err(system)?;
            sources.push(source(data));
            ends.push(end);
        }
        let (result, end) = pipe().map_err(system)?;
        let result = Inlet::new(result, registry, token(RESULT)).map_err(system)?;
        let mut keep: Vec<&File> = ends.iter().collect();
        keep.push(&end);
        let keep = Keep::from(&keep[..]);
        let pid = process::spawn(keep, || match ends.try_into() {
            Ok(ends) => {
                confine(without);
                super::report(&end, work(ends))
            }
            Err(_) => process::WORKER_FAILED,
        })
        .map_err(system)?;
        let worker = Self {
            sources: Sources::new(sources),
            result: Answer::new(result),
        };
        Ok((pid, worker))
    }

    /// An event came for one of the pipes.
    pub fn on_ready(&mut self, pipe: usize) {
        match pipe {
            RESULT => self.result.on_ready(),
            at => self.sources.on_ready(at),
        }
    }

    /// The child is gone. Every byte has been sent, so that the answer may follow; a failure does
    /// not wait for that.
    pub fn is_drained(&mut self) -> bool {
        self.sources.is_drained() || self.result.is_failure()
    }
}
