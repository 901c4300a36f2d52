//! A file on its way from the host: the loop puts chunks into slots, a child writes them beside the
//! target and puts them in its place at the end. A child that is left before that was cancelled, or its
//! agent died: it leaves nothing behind.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mio::{Registry, Token};
use quantix::archive::is_name;
use quantix::error::{Code, Failure};
use quantix::message::{AgentMessage, Body, agent};
use quantix::rt::replace::{Replacement, parent};
use quantix::rt::sys::process::{self, Pid};
use quantix::rt::sys::slots::{Consumer, Taken};

use super::bulk::Incoming;
use crate::policy::paths::Paths;

/// Starts writing the file. The request's own bytes are the first of it.
pub fn start(
    request: &agent::WriteFile,
    writes: &Paths,
    slots: usize,
    registry: &Registry,
    token: &dyn Fn(usize) -> Token,
) -> Result<(Pid, Incoming), Failure> {
    let (pid, mut job) = Incoming::start(&request.path, slots, registry, token, &|feed| {
        write_file(request, writes, feed)
    })?;
    job.begin(&request.data, request.eof);
    Ok((pid, job))
}

/// In the child.
fn write_file(
    request: &agent::WriteFile,
    writes: &Paths,
    mut feed: Consumer,
) -> Result<AgentMessage, Failure> {
    let system = |doing| {
        let path = &request.path;
        move |e: io::Error| Failure::system(doing, path, &e)
    };
    process::set_umask(0o022);
    let asked = Path::new(&request.path);
    writes.judge_path(asked)?;
    let (path, before) = resolve(&request.path, &request.name)?;
    if request.create_parents {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent(&path))
            .map_err(system("create the directories of"))?;
    }
    let place = writes.hold_name(asked, &path)?;
    let mut target =
        Target::open(&place.path, before.as_ref(), request).map_err(system("write"))?;
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

/// Copies what comes into the file. `None`: nobody sends any more, and it was not all.
fn receive(feed: &mut Consumer, target: &mut Target) -> io::Result<Option<u64>> {
    let mut total = 0;
    loop {
        match feed.wait() {
            // One write a piece: a value under /sys is taken whole or not at all.
            Ok(Taken::Slot(slot)) => {
                target.write(slot.data())?;
                total += slot.data().len() as u64;
            }
            Ok(Taken::End) => return Ok(Some(total)),
            Err(_) => return Ok(None),
        }
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
            let mut options = File::options();
            let mut old = options
                .read(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)?;
            io::copy(&mut old, new.file())?;
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
        .custom_flags(libc::O_NOCTTY | libc::O_NOFOLLOW)
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
