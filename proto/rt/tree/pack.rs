//! From a tree to an archive. What cannot be read becomes a PROBLEM record, and the walk goes on.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::super::sys::tree::{Names, data_from, open_at, read_link};
use crate::archive::{MAX_DEPTH, PIECE, root_name};
use crate::error::Failure;
use crate::message::agent::{Timestamp, TreeKind, TreeRecord};

/// Where records go. An error ends the walk: nobody wants the rest.
pub type Emit<'a> = dyn FnMut(TreeRecord) -> io::Result<()> + 'a;

/// Whether a source may be read, as often as it is opened: by what is open.
pub type Judge<'a> = dyn Fn(&File) -> io::Result<()> + 'a;

/// Makes records of a source; with `recursive` of all that is in it, and of a symbolic link itself.
///
/// # Errors
/// That of `emit` alone.
pub fn pack(source: &Path, recursive: bool, judge: &Judge, emit: &mut Emit) -> io::Result<()> {
    let name = root_name(source.as_os_str().as_bytes());
    Walk {
        source,
        root: name.len(),
        path: name.to_vec(),
        levels: Vec::new(),
        buffer: vec![0; PIECE],
        emit,
    }
    .run(recursive, judge)
}

/// Bytes in the files of a source, without holes, as far as they can be seen: what [`pack`] is about to
/// read.
pub fn size_of(source: &Path) -> u64 {
    let of = |meta: &Metadata| meta.len().min(meta.blocks().saturating_mul(512));
    let mut bytes = 0;
    let mut waiting = vec![source.to_owned()];
    while let Some(path) = waiting.pop() {
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                waiting.extend(entries.map(|entry| entry.path()));
            }
            Ok(meta) if meta.is_file() => bytes += of(&meta),
            _ => {}
        }
    }
    bytes
}

/// A file's kind, for messages.
pub fn kind_name(kind: FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "something else",
    }
}

struct Walk<'a, 'e> {
    source: &'a Path,
    /// The path, in the archive, of what is looked at; its first `root` bytes are the root's name.
    path: Vec<u8>,
    root: usize,
    /// The directories that it is in.
    levels: Vec<Level>,
    buffer: Vec<u8>,
    emit: &'a mut Emit<'e>,
}

/// A directory that is being read.
struct Level {
    dir: File,
    names: Names,
    /// The length of its path.
    path: usize,
}

/// Opens what is looked at once more, with these flags.
type Reopen<'a> = dyn Fn(libc::c_int) -> io::Result<File> + 'a;

impl Walk<'_, '_> {
    fn run(mut self, recursive: bool, judge: &Judge) -> io::Result<()> {
        let follow = if recursive { libc::O_NOFOLLOW } else { 0 };
        let source = self.source;
        let open = |flags| {
            let mut options = OpenOptions::new();
            let options = options.read(true).custom_flags(flags | follow);
            let file = options.open(source)?;
            judge(&file)?;
            Ok(file)
        };
        match open(libc::O_PATH) {
            Ok(probe) if !recursive && probe.metadata().is_ok_and(|meta| meta.is_dir()) => {
                return self.say("Is a directory; copy it with -r");
            }
            probe => {
                let level = self.entry(probe, &open)?;
                self.levels.extend(level);
            }
        }
        while let Some(mut level) = self.levels.pop() {
            self.path.truncate(level.path);
            let name = match level.names.next(&level.dir) {
                Ok(Some(name)) => name,
                Ok(None) => continue,
                Err(e) => {
                    self.problem(&e)?;
                    continue;
                }
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend(name.to_bytes());
            let open = |flags| open_at(&level.dir, &name, flags);
            let inner = self.entry(open(libc::O_PATH), &open)?;
            self.levels.push(level);
            self.levels.extend(inner);
        }
        Ok(())
    }

    /// Makes the records of one entry. A directory's own entries are still to come.
    fn entry(&mut self, probe: io::Result<File>, open: &Reopen) -> io::Result<Option<Level>> {
        let found = probe.and_then(|probe| Ok((probe.metadata()?, probe)));
        let done = match found {
            Err(e) => Err(e),
            // The other side would not take it.
            Ok(_) if self.path.len() >= 4096 || self.levels.len() + 3 > MAX_DEPTH => {
                Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
            }
            Ok((meta, probe)) if meta.is_dir() => {
                match open_at(&probe, c".", libc::O_RDONLY | libc::O_DIRECTORY) {
                    Ok(dir) => {
                        let record = self.record(TreeKind::Directory, &meta);
                        (self.emit)(record)?;
                        let (names, path) = (Names::default(), self.path.len());
                        return Ok(Some(Level { dir, names, path }));
                    }
                    Err(e) => Err(e),
                }
            }
            Ok((meta, probe)) if meta.is_symlink() => read_link(&probe).map(|data| {
                let link = self.record(TreeKind::Symlink, &meta);
                (self.emit)(TreeRecord { data, ..link })
            }),
            Ok((meta, _)) if meta.is_file() => {
                open(libc::O_NONBLOCK | libc::O_NOCTTY).map(|file| self.file(&file))
            }
            Ok((meta, _)) => {
                let kind = kind_name(meta.file_type());
                Ok(self.say(&format!("Is {kind}, not a file; skipped")))
            }
        };
        match done {
            Ok(emitted) => emitted?,
            Err(e) => self.problem(&e)?,
        }
        Ok(None)
    }

    /// The records of a regular file: what it has up to the size with which it was opened, or all where
    /// the system does not know the size (/proc).
    fn file(&mut self, file: &File) -> io::Result<()> {
        let meta = match file.metadata() {
            Ok(meta) if meta.is_file() => meta,
            _ => return self.say("became another while it was opened; copy it again"),
        };
        let size = if meta.len() == 0 {
            u64::MAX
        } else {
            meta.len()
        };
        let is_sparse = meta.blocks().saturating_mul(512) < meta.len();
        let mut record = self.record(TreeKind::File, &meta);
        // Where we are, and where the next hole is.
        let (mut at, mut hole) = (0, if is_sparse { 0 } else { size });
        loop {
            if at == hole && at < size {
                (at, hole) = data_from(file, at).map_or((size, size), |(from, to)| {
                    (from.min(size), to.clamp(from.min(size), size))
                });
            }
            let room = usize::try_from(hole - at).unwrap_or(PIECE).min(PIECE);
            let n = match file.read_at(&mut self.buffer[..room], at) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return self.problem(&e),
            };
            let now = file.metadata();
            let now = now.as_ref().unwrap_or(&meta);
            // Files under /sys have less in them than they say, and go on saying it.
            if n == 0 && at < size && now.len() < meta.len() {
                return self.say("shrank while it was read; copy it again");
            }
            record.offset = at;
            record.data = self.buffer[..n].to_vec();
            at += n as u64;
            record.last = at == size || n == 0;
            if record.last {
                record.size = at;
                (self.emit)(record)?;
                let same = (now.len(), now.mtime(), now.mtime_nsec())
                    == (meta.len(), meta.mtime(), meta.mtime_nsec());
                return match same {
                    true => Ok(()),
                    false => self.say("changed while it was read; copy it again to be sure"),
                };
            }
            (self.emit)(record)?;
            record = TreeRecord {
                kind: TreeKind::Data.into(),
                ..Default::default()
            };
        }
    }

    fn record(&self, kind: TreeKind, meta: &Metadata) -> TreeRecord {
        TreeRecord {
            kind: kind.into(),
            path: self.path.clone(),
            mode: meta.mode() & 0o7777,
            modified_at: Some(Timestamp {
                seconds: meta.mtime(),
                nanos: i32::try_from(meta.mtime_nsec()).unwrap_or(0),
            }),
            uid: meta.uid(),
            gid: meta.gid(),
            size: meta.len(),
            ..Default::default()
        }
    }

    fn problem(&mut self, error: &io::Error) -> io::Result<()> {
        let message = Failure::system("read", &self.shown(), error).message;
        self.send_problem(message)
    }

    fn say(&mut self, what: &str) -> io::Result<()> {
        let message = format!("read {}: {what}", self.shown());
        self.send_problem(message)
    }

    fn send_problem(&mut self, message: String) -> io::Result<()> {
        (self.emit)(TreeRecord {
            kind: TreeKind::Problem.into(),
            path: self.path.iter().copied().take(4096).collect(),
            message,
            ..Default::default()
        })
    }

    /// The path as whoever asked would write it.
    fn shown(&self) -> String {
        let mut source = self.source.as_os_str().as_bytes();
        let below = &self.path[self.root..];
        while let ([rest @ .., b'/'], false) = (source, below.is_empty()) {
            source = rest;
        }
        let slash: &[u8] = match below.first() {
            None | Some(b'/') => b"",
            Some(_) => b"/",
        };
        String::from_utf8_lossy(&[source, slash, below].concat()).into_owned()
    }
}
