//! A change of the network on disk: what was asked for, what was before, and every file as it was, so that whoever
//! comes next can undo it. It moves by rename, so that of two who would settle it one does.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use prost::Message;
use quantix::message::agent::{ConfigureNetwork, NetworkChange};
use quantix::rt::replace::{Replacement, parent};

use super::manager::{Change, MAX_FILE};
use crate::ops::read_regular;
use crate::telemetry::os;

/// Beside the agent's configuration: it has to outlive a boot as what it undoes does.
const STATE: &str = "etc/quantix-kvm/network";

/// Where records are.
#[derive(Debug)]
pub struct Home {
    root: PathBuf,
    state: PathBuf,
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Being put together; it changes nothing yet.
    New,
    /// To be confirmed.
    Pending,
    /// It was confirmed, and these are the files from before.
    Previous,
    Undoing,
    Undone,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Previous => "previous",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
        }
    }
}

/// What is known of a change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    pub request: ConfigureNetwork,
    pub change: NetworkChange,
    /// Of the process that waits for its confirm.
    pub guard: i32,
    /// What the kernel had before it has not gone with a boot.
    pub is_of_this_boot: bool,
}

impl Home {
    /// Below a root.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            state: root.join(STATE),
        }
    }

    /// The directory, to be locked.
    ///
    /// # Errors
    /// As mkdir(2) and open(2).
    pub fn open(&self) -> io::Result<File> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755).create(&self.state)?;
        File::open(&self.state)
    }

    /// For messages.
    pub fn shown(&self) -> String {
        self.state.to_string_lossy().into_owned()
    }

    fn at(&self, stage: Stage) -> PathBuf {
        self.state.join(stage.name())
    }

    /// A change was neither confirmed nor undone.
    pub fn left(&self) -> Option<Stage> {
        let stages = [Stage::Pending, Stage::Undoing].into_iter();
        let mut there = stages.filter(|stage| self.at(*stage).exists());
        there.next()
    }

    /// Keeps the files aside, and notes what is going to be done with them.
    ///
    /// # Errors
    /// With the path; nothing has changed then.
    pub fn begin(&self, record: &mut Record, files: &[Change]) -> Result<(), String> {
        let new = self.at(Stage::New);
        let failed = |path: &Path, e: &io::Error| failed("keep", path, e);
        let on_new = |e| failed(&new, &e);
        remove(&new).map_err(on_new)?;
        let mut builder = DirBuilder::new();
        builder.mode(0o700).create(&new).map_err(on_new)?;
        record.change.files.clear();
        for (at, file) in files.iter().enumerate() {
            let path = self.root.join(&file.path);
            // Whatever link leads to it stays.
            let path = fs::canonicalize(&path).unwrap_or(path);
            keep(&path, &new.join(at.to_string())).map_err(|e| failed(&path, &e))?;
            let path = path.to_string_lossy().into_owned();
            record.change.files.push(path);
        }
        write(&new, record).map_err(on_new)?;
        self.turn(Stage::New, Stage::Pending)
            .map_err(|e| failed(&self.state, &e))
    }

    /// Writes what the files become.
    ///
    /// # Errors
    /// With the path.
    pub fn write_files(&self, record: &Record, files: &[Change]) -> Result<(), String> {
        for (path, file) in record.change.files.iter().zip(files) {
            let Some(text) = &file.text else { continue };
            let path = Path::new(path);
            let before = fs::metadata(path).ok();
            replace(path, text.as_bytes(), before.as_ref(), file.mode)
                .map_err(|e| failed("write", path, &e))?;
        }
        Ok(())
    }

    /// Puts the files of a change that is being undone back. All that can be; the first fault is told.
    pub fn restore(&self, record: &Record) -> Option<String> {
        let from = self.at(Stage::Undoing);
        let mut fault = None;
        for (at, path) in record.change.files.iter().enumerate() {
            let path = Path::new(path);
            let kept = from.join(at.to_string());
            let done = match fs::symlink_metadata(&kept) {
                Ok(meta) => read(&kept).and_then(|text| replace(path, &text, Some(&meta), 0)),
                Err(e) if e.kind() == ErrorKind::NotFound => match fs::remove_file(path) {
                    Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                    _ => File::open(parent(path)).and_then(|directory| directory.sync_all()),
                },
                Err(e) => Err(e),
            };
            if let Err(e) = done {
                fault = fault.or(Some(failed("put back", path, &e)));
            }
        }
        fault
    }

    /// What is known of the change at this stage.
    pub fn read(&self, stage: Stage) -> Option<Record> {
        let bytes = read_regular(&self.at(stage).join("record"), MAX_FILE)?;
        let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
        let boot = parts.next()?;
        let guard = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let mut rest = parts.next()?;
        Some(Record {
            request: ConfigureNetwork::decode_length_delimited(&mut rest).ok()?,
            change: NetworkChange::decode_length_delimited(&mut rest).ok()?,
            guard,
            is_of_this_boot: boot == os::boot_id().as_bytes(),
        })
    }

    /// Moves a change on. NotFound: another has.
    ///
    /// # Errors
    /// As rename(2).
    pub fn turn(&self, from: Stage, to: Stage) -> io::Result<()> {
        let source = self.at(from);
        fs::symlink_metadata(&source)?;
        if matches!(to, Stage::Previous | Stage::Undone) {
            remove(&self.at(to))?;
        }
        fs::rename(source, self.at(to))?;
        File::open(&self.state)?.sync_all()
    }

    /// Notes what has become of a change that is being undone, and that it is.
    ///
    /// # Errors
    /// As open(2), write(2), rename(2).
    pub fn finish(&self, record: &Record) -> io::Result<()> {
        write(&self.at(Stage::Undoing), record)?;
        self.turn(Stage::Undoing, Stage::Undone)
    }
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> String {
    let text = quantix::error::system_text(error);
    format!("{doing} {}: {text}", path.display())
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = read_regular(path, MAX_FILE);
    bytes.ok_or_else(|| io::Error::other("it is no file of 256 KiB at most"))
}

/// A copy with owner and mode; none of what is not there.
fn keep(path: &Path, copy: &Path) -> io::Result<()> {
    let meta = match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    replace(copy, &read(path)?, None, meta.mode())?;
    chown(copy, Some(meta.uid()), Some(meta.gid()))
}

fn replace(path: &Path, text: &[u8], before: Option<&fs::Metadata>, mode: u32) -> io::Result<()> {
    let mut new = Replacement::new(path)?;
    new.file().write_all(text)?;
    new.place(before, mode)
}

/// Durably.
fn write(directory: &Path, record: &Record) -> io::Result<()> {
    let mut bytes = format!("{}\n{}\n", os::boot_id(), record.guard).into_bytes();
    bytes.extend(record.request.encode_length_delimited_to_vec());
    bytes.extend(record.change.encode_length_delimited_to_vec());
    replace(&directory.join("record"), &bytes, None, 0o600)
}
