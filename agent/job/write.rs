//! A file on its way from the host: the loop feeds chunks into a pipe, a child writes them beside
//! the target and puts them in its place at the end.
//!
//! The pipe carries pieces of `length, bytes`; length 0 says that all of it was there. A child
//! whose pipe ends without that was cancelled, or its agent died: it leaves nothing behind.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mio::{Registry, Token};
use quantix::archive::is_name;
use quantix::credit::Fault;
use quantix::error::{Code, Failure};
use quantix::message::{AgentMessage, Body, agent};
use quantix::rt::replace::{Replacement, parent};
use quantix::rt::sys::fd::{grow_pipe, pipe};
use quantix::rt::sys::process::{self, Pid};

use super::pipe::{Inlet, Outlet};
use super::sink::Sink;
use super::{Answer, PIPE_SIZE, absolute};

/// A file being written.
#[derive(Debug)]
pub struct Write {
    /// Into the child, with prefixes.
    pub feed: Sink,
    /// The child's answer.
    pub result: Answer,
    framing: Framing,
}

/// What the child's pipe carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Pieces of `length, bytes`, and length 0 behind the last.
    Pieces,
    /// The bytes, which say themselves where they end.
    Raw,
}

/// The loop's ends, by number.
pub const FEED: usize = 0;
pub const RESULT: usize = 1;

const PREFIX: usize = 4;

impl Write {
    /// Starts writing the file. The request's own bytes are the first of it.
    pub fn start(
        request: &agent::WriteFile,
        registry: &Registry,
        token: &dyn Fn(usize) -> Token,
    ) -> Result<(Pid, Self), Failure> {
        let (pid, mut job) =
            Self::begin(&request.path, Framing::Pieces, registry, token, &|feed| {
                write_file(request, feed)
            })?;
        job.push(&request.data, request.eof, 0);
        Ok((pid, job))
    }

    /// Starts a child that reads from the pipe what the host sends.
    pub fn begin(
        path: &str,
        framing: Framing,
        registry: &Registry,
        token: &dyn Fn(usize) -> Token,
        work: &dyn Fn(&File) -> Result<AgentMessage, Failure>,
    ) -> Result<(Pid, Self), Failure> {
        absolute(path)?;
        let system = |e| Failure::system("write", path, &e);
        let (child_feed, feed) = pipe().map_err(system)?;
        let (result, child_result) = pipe().map_err(system)?;
        grow_pipe(&feed, PIPE_SIZE);
        let feed = Outlet::new(feed, registry, token(FEED)).map_err(system)?;
        let result = Inlet::new(result, registry, token(RESULT)).map_err(system)?;
        let pid = process::spawn(&[&child_feed, &child_result], || {
            process::become_batch();
            super::report(&child_result, work(&child_feed))
        })
        .map_err(system)?;
        let job = Self {
            feed: Sink::new(feed),
            result: Answer::new(result),
            framing,
        };
        Ok((pid, job))
    }

    /// An event came for one of the pipes.
    pub const fn on_ready(&mut self, pipe: usize) {
        match pipe {
            FEED => self.feed.on_ready(),
            _ => self.result.on_ready(),
        }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// The host broke the stream's rules.
    pub fn receive(&mut self, chunk: &agent::StreamChunk) -> Result<(), Fault> {
        self.feed.check(chunk)?;
        self.push(&chunk.data, chunk.eof, chunk.data.len());
        Ok(())
    }

    fn push(&mut self, bytes: &[u8], last: bool, credited: usize) {
        if self.framing == Framing::Raw {
            self.feed.push(bytes.to_vec(), credited);
            if last {
                self.feed.end();
            }
            return;
        }
        if !bytes.is_empty() {
            let mut piece = Vec::with_capacity(PREFIX + bytes.len());
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            piece.extend_from_slice(&length.to_be_bytes());
            piece.extend_from_slice(bytes);
            self.feed.push(piece, credited);
        }
        if last {
            self.feed.push(vec![0; PREFIX], 0);
            self.feed.end();
        }
    }
}

/// In the child.
fn write_file(request: &agent::WriteFile, mut feed: &File) -> Result<AgentMessage, Failure> {
    let system = |doing| {
        let path = &request.path;
        move |e: io::Error| Failure::system(doing, path, &e)
    };
    process::set_umask(0o022);
    let (path, before) = resolve(&request.path, &request.name)?;
    if request.create_parents {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent(&path))
            .map_err(system("create the directories of"))?;
    }
    let mut target = Target::open(&path, before.as_ref(), request).map_err(system("write"))?;
    let written = receive(&mut feed, &mut target).map_err(system("write"))?;
    let Some(bytes_written) = written else {
        return Err(Failure::new(
            Code::Cancelled,
            format!("write {}: cancelled, nothing was changed", request.path),
        ));
    };
    target
        .finish(before.as_ref(), request.mode)
        .map_err(system("write"))?;
    Ok(quantix::message::message(
        "",
        Body::WriteFileResponse(agent::WriteFileResponse {
            success: true,
            bytes_written,
            ..Default::default()
        }),
    ))
}

/// The file that a write is about, and what is there now. A directory gets the file under this name.
pub fn resolve(path: &str, name: &[u8]) -> Result<(PathBuf, Option<fs::Metadata>), Failure> {
    let look = |path: &Path| -> io::Result<_> {
        let path = follow(path)?;
        match fs::metadata(&path) {
            Ok(meta) => Ok((path, Some(meta))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok((path, None)),
            Err(e) => Err(e),
        }
    };
    let system = |e: io::Error| Failure::system("write", path, &e);
    let is_directory =
        |before: &Option<fs::Metadata>| before.as_ref().is_some_and(fs::Metadata::is_dir);
    let (mut file, mut before) = look(Path::new(path)).map_err(system)?;
    let mut named = !path.ends_with('/');
    if is_name(name) && (!named || is_directory(&before)) {
        let below = Path::new(path).join(OsStr::from_bytes(name));
        (file, before) = look(&below).map_err(system)?;
        named = true;
    }
    if !named || is_directory(&before) {
        return Err(system(io::Error::from_raw_os_error(libc::EISDIR)));
    }
    Ok((file, before))
}

/// Copies the pipe's pieces into the file. `None`: the pipe ended before its end.
fn receive(feed: &mut &File, target: &mut Target) -> io::Result<Option<u64>> {
    let mut piece = Vec::new();
    let mut total = 0;
    loop {
        let mut prefix = [0; PREFIX];
        match feed.read_exact(&mut prefix) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        let length = u32::from_be_bytes(prefix);
        if length == 0 {
            return Ok(Some(total));
        }
        piece.resize(usize::try_from(length).unwrap_or(0), 0);
        match feed.read_exact(&mut piece) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        // One write a piece: a value under /sys is taken whole or not at all.
        target.write(&piece)?;
        total += u64::from(length);
    }
}

/// Where the bytes go until the last has arrived.
enum Target {
    /// Beside the target, which has nothing but them.
    Fresh(Replacement),
    /// Beside the target, into what is there now.
    Beside(Replacement),
    /// The target itself: a device, or a file under /proc or /sys, which nothing can replace.
    InPlace(File),
}

impl Target {
    fn open(
        path: &Path,
        before: Option<&fs::Metadata>,
        request: &agent::WriteFile,
    ) -> io::Result<Self> {
        if before.is_some_and(|meta| !meta.is_file()) {
            return in_place(path, request);
        }
        if request.resume {
            return Replacement::resume(path, request.resume_from).map(Self::Fresh);
        }
        let mut new = match Replacement::new(path) {
            Ok(new) => new,
            // No file can be made in this directory, but this one is there: /proc and /sys.
            Err(e) if before.is_some() && cannot_create(&e) => return in_place(path, request),
            Err(e) => return Err(e),
        };
        if !request.append && request.offset == 0 {
            return Ok(Self::Fresh(new));
        }
        if before.is_some() {
            io::copy(&mut File::open(path)?, new.file())?;
        }
        if !request.append {
            new.file().seek(SeekFrom::Start(request.offset))?;
        }
        Ok(Self::Beside(new))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Fresh(new) => new.append(bytes),
            Self::Beside(new) => new.file().write_all(bytes),
            Self::InPlace(file) => file.write_all(bytes),
        }
    }

    /// Durable and in its place, or not at all.
    fn finish(self, before: Option<&fs::Metadata>, mode: u32) -> io::Result<()> {
        let mode = if mode == 0 { 0o644 } else { mode };
        match self {
            Self::Fresh(mut new) => {
                new.end()?;
                new.place(before, mode)
            }
            Self::Beside(new) => new.place(before, mode),
            Self::InPlace(file) => match file.sync_all() {
                // Devices and /proc have nothing to be made durable.
                Err(e) if !is_unsyncable(&e) => Err(e),
                _ => Ok(()),
            },
        }
    }
}

fn in_place(path: &Path, request: &agent::WriteFile) -> io::Result<Target> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_fifo() || kind.is_socket() {
        let why = "is a FIFO or a socket, not a file";
        return Err(io::Error::new(ErrorKind::InvalidInput, why));
    }
    let mut file = OpenOptions::new()
        .write(true)
        .append(request.append)
        .truncate(kind.is_file() && !request.append && request.offset == 0)
        .custom_flags(libc::O_NOCTTY)
        .open(path)?;
    if request.offset > 0 && !request.append {
        file.seek(SeekFrom::Start(request.offset))?;
    }
    Ok(Target::InPlace(file))
}

/// Follows symbolic links to the file they name, which need not exist.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => path = parent(&path).join(fs::read_link(&path)?),
            Ok(_) => return Ok(path),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(path),
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// The directory takes no new file, which says nothing about the files that it has.
fn cannot_create(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENOENT | libc::EINVAL | libc::ENOTSUP)
    )
}

fn is_unsyncable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EROFS | libc::ENOTSUP | libc::ENOTTY)
    )
}
