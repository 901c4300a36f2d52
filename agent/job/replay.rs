//! A kept command's output on its way to the host, from any byte that is still there: a child reads
//! along with the keeper.
//!
//! The child writes records into a pipe for each stream: how many bytes were lost (8 bytes), how many
//! follow (4 bytes), both big-endian, and these.

use std::fs::File;
use std::io::{self, ErrorKind, Write};

use mio::{Registry, Token};
use quantix::error::{Code, Failure};
use quantix::limits::CHUNK;
use quantix::message::agent::{self, JobState};
use quantix::message::{AgentMessage, Body, Stream, message};
use quantix::rt::sys::fd::{Wait, set_nonblocking, wait};
use quantix::rt::sys::inotify::Watch;
use quantix::rt::sys::process::Pid;
use quantix::rt::sys::seccomp::ALL_BUT_FILES;

use super::keeper::outcome;
use super::kept::{Found, Root};
use super::ring::Reader;
use super::source::Source;
use super::worker::Worker;

/// Starts to send.
pub fn start(
    request: &agent::AttachJob,
    root: &Root,
    registry: &Registry,
    token: impl Fn(usize) -> Token,
) -> Result<(Pid, Worker), Failure> {
    let streams: [&dyn Fn(_) -> Source; 2] = [
        &|inlet| Source::new(inlet, Stream::Stdout).in_records(),
        &|inlet| Source::new(inlet, Stream::Stderr).in_records(),
    ];
    let reader = ("start", "a reader");
    Worker::start(reader, streams, ALL_BUT_FILES, registry, token, |ends| {
        replay(request, root, ends)
    })
}

/// In the child.
fn replay(
    request: &agent::AttachJob,
    root: &Root,
    ends: [File; 2],
) -> Result<AgentMessage, Failure> {
    let mut found = root.find(request.job, &request.token)?;
    let path = found.directory.to_string_lossy().into_owned();
    let system = |e: io::Error| Failure::system("read", &path, &e);
    let mut watch = Watch::contents(&found.directory).map_err(system)?;
    let from = [request.stdout_from, request.stderr_from];
    let readers = found.readers(from).map_err(system)?;
    let mut lanes = Vec::new();
    for (end, reader) in ends.into_iter().zip(readers) {
        set_nonblocking(&end).map_err(system)?;
        lanes.push(Lane {
            end,
            reader,
            record: Vec::new(),
            at: 0,
        });
    }
    loop {
        watch.drain();
        // In this order: what a keeper has written before its end is there to be read.
        found = Found::look(found.directory).map_err(system)?;
        for lane in &mut lanes {
            lane.turn().map_err(system)?;
        }
        let has_ended = found.job.state() != JobState::Running;
        if has_ended && lanes.iter().all(|lane| lane.record.is_empty()) {
            break;
        }
        let mut waits = vec![Wait::read(&watch)];
        let full = lanes.iter().filter(|lane| !lane.record.is_empty());
        waits.extend(full.map(|lane| Wait::write(&lane.end)));
        wait(&mut waits, None).map_err(system)?;
    }
    if found.job.state() == JobState::Lost {
        let why = format!(
            "the keeper of job {} was killed; whether the command goes on is unknown",
            found.job.job
        );
        return Err(Failure::new(Code::Internal, why));
    }
    Ok(message("", Body::ExecuteResponse(outcome(&found.job))))
}

/// One stream.
struct Lane {
    end: File,
    reader: Reader,
    /// What the pipe has not taken; `at` bytes of it have gone.
    record: Vec<u8>,
    at: usize,
}

impl Lane {
    /// Moves as much as the pipe takes. Afterwards a record that is left waits for room.
    fn turn(&mut self) -> io::Result<()> {
        loop {
            if self.record.is_empty() {
                let Some(piece) = self.reader.read(CHUNK)? else {
                    return Ok(());
                };
                let length = u32::try_from(piece.bytes.len()).unwrap_or(0);
                self.record.extend(piece.skipped.to_be_bytes());
                self.record.extend(length.to_be_bytes());
                self.record.extend(piece.bytes);
                self.at = 0;
            }
            match (&self.end).write(&self.record[self.at..]) {
                Ok(n) => self.at += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
            if self.at == self.record.len() {
                self.record.clear();
            }
        }
    }
}
