//! From an archive to a tree. Each file gets its name when it is complete, in one step; what cannot be
//! made is reported, and the rest goes on, but for a full or broken disk.
//!
//! A thousand files a second leave no time to wait for the disk at each: it is asked once, at the end,
//! to hold all of them.

use std::ffi::{CStr, CString};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::super::random;
use super::super::replace::parent;
use super::super::sys::tree as sys;
use crate::archive::{components, root_name};
use crate::error::{Code, Failure};
use crate::message::agent::{TreeKind, TreeRecord};

/// What to make of an archive.
#[derive(Clone, Debug)]
pub struct Order {
    /// A directory, which gets the roots under their own names; else the name of the one root.
    pub target: PathBuf,
    /// It has to be a directory.
    pub into: bool,
    /// The only name that a root may have. `None`: any.
    pub root: Option<Vec<u8>>,
    /// Owners and set-id bits.
    pub preserve: bool,
    /// Make the directories that the target needs.
    pub parents: bool,
}

/// A tree that is being made.
pub struct Unpack<'a> {
    order: Order,
    base: File,
    /// The name of the one root in `base`, if that is not its own.
    name: Option<CString>,
    /// The target ends with a slash: the root is a directory.
    is_directory: bool,
    /// What the base is to get at the end, if it was made for a source that has no name.
    record: Option<TreeRecord>,
    /// The directories that the next entry may be in, each in the one before.
    levels: Vec<Level>,
    /// The file that is being filled, in the last of them.
    file: Option<Filling>,
    /// What could not be made: nothing in it is tried.
    lost: Option<Vec<u8>>,
    is_complete: bool,
    /// This file system has no unnamed files, or nothing can name them.
    no_unnamed: bool,
    report: &'a mut dyn FnMut(Failure),
    /// Entries that are there.
    pub entries: u64,
    /// Bytes of their files, holes aside.
    pub bytes: u64,
}

struct Level {
    name: Vec<u8>,
    dir: File,
    /// What it is to get when it is full.
    record: Option<TreeRecord>,
}

struct Filling {
    file: File,
    record: TreeRecord,
    /// `None`: it has no name yet (O_TMPFILE), so that not even a process that is killed leaves it.
    temporary: Option<CString>,
}

impl<'a> Unpack<'a> {
    /// Opens the target. What later could not be made is given to `report`.
    ///
    /// # Errors
    /// There is no place for it.
    pub fn new(order: Order, report: &'a mut dyn FnMut(Failure)) -> Result<Self, Failure> {
        let target = &order.target;
        let system = |e: &io::Error| failure("write", target, e);
        let ends_with_slash = target.as_os_str().as_bytes().ends_with(b"/");
        let is_dir = fs::metadata(target).is_ok_and(|meta| meta.is_dir());
        let own = root_name(target.as_os_str().as_bytes());
        let into = is_dir || order.into || (ends_with_slash && order.parents) || own.is_empty();
        if order.parents {
            let needed = if into { target } else { parent(target) };
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o755).create(needed);
            made.map_err(|e| system(&e))?;
        }
        let directory = if into { target } else { parent(target) };
        let base = File::open(directory).map_err(|e| system(&e))?;
        if !base.metadata().is_ok_and(|meta| meta.is_dir()) {
            return Err(system(&io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        let name = match into {
            true => None,
            false => Some(sys::name(own).map_err(|e| system(&e))?),
        };
        Ok(Self {
            order,
            base,
            name,
            is_directory: ends_with_slash,
            record: None,
            levels: Vec::new(),
            file: None,
            lost: None,
            is_complete: false,
            no_unnamed: fs::metadata("/proc/self/fd").is_err(),
            report,
            entries: 0,
            bytes: 0,
        })
    }

    /// The directory that everything goes into, and the name of the one root in it; none if it has its own.
    pub fn base(&self) -> (&File, &[u8]) {
        let name = self.name.as_ref().map(|name| name.as_bytes());
        (&self.base, name.unwrap_or_default())
    }

    /// Acts on the next record.
    ///
    /// # Errors
    /// There is no way on: the archive is none, or the disk takes no more.
    pub fn apply(&mut self, record: TreeRecord) -> Result<(), Failure> {
        let kind = record.kind();
        let continues = matches!(kind, TreeKind::Data | TreeKind::Problem);
        if self.is_complete || (self.file.is_some() && !continues) {
            return Err(malformed());
        }
        match kind {
            TreeKind::Data => self.fill(&record),
            TreeKind::Problem => {
                // If it is about the file that has begun: that one is not made.
                self.drop_file();
                Ok(())
            }
            TreeKind::End => {
                self.is_complete = true;
                self.leave(0)?;
                match self.record.take() {
                    Some(record) => self
                        .attributes(&self.base, &record)
                        .map_err(|e| failure("change", &self.order.target, &e)),
                    None => Ok(()),
                }
            }
            TreeKind::Directory | TreeKind::File | TreeKind::Symlink => self.entry(record),
            TreeKind::Total => Ok(()),
            TreeKind::Unspecified => Err(malformed()),
        }
    }

    /// As on a file system without unnamed files.
    #[cfg(test)]
    pub(super) const fn with_names(mut self) -> Self {
        self.no_unnamed = true;
        self
    }

    /// Has the disk hold all of it.
    ///
    /// # Errors
    /// The archive is not complete, or the disk does not hold it.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if !self.is_complete {
            return Err(malformed());
        }
        sys::sync_all_of(&self.base).map_err(|e| failure("write", &self.order.target, &e))
    }

    fn entry(&mut self, record: TreeRecord) -> Result<(), Failure> {
        let path = record.path.clone();
        let names = components(&path).map_err(|_| malformed())?;
        let Some((own, above)) = names.split_last() else {
            return self.base_itself(record);
        };
        let root = self.order.root.as_deref();
        if root.is_some_and(|root| names.first() != Some(&root)) {
            return Err(malformed());
        }
        let is_lost = |lost: &Vec<u8>| {
            path.strip_prefix(&lost[..])
                .is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        if self.lost.as_ref().is_some_and(is_lost) {
            return Ok(());
        }
        self.lost = None;
        let open = self.levels.iter().zip(above);
        let common = open
            .take_while(|(level, name)| level.name == **name)
            .count();
        if common < above.len() {
            return Err(malformed());
        }
        self.leave(common)?;
        let made = match self.name_here(own) {
            Ok(name) => self.make(&name, own, record),
            Err(e) => Err(e),
        };
        match made {
            Ok(()) => Ok(()),
            Err(e) => {
                self.drop_file();
                let settled = self.settle("write", &path, &e);
                self.lost = Some(path);
                settled
            }
        }
    }

    fn make(&mut self, name: &CStr, own: &[u8], record: TreeRecord) -> io::Result<()> {
        match record.kind() {
            TreeKind::File | TreeKind::Symlink
                if self.is_directory && self.name.is_some() && self.levels.is_empty() =>
            {
                return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
            }
            TreeKind::Directory => {
                let (dir, is_new) = enter(self.here(), name)?;
                let record = Some(record).filter(|_| is_new || self.order.preserve);
                let name = own.to_vec();
                self.levels.push(Level { name, dir, record });
                self.entries += 1;
            }
            TreeKind::Symlink => {
                self.link(name, &record)?;
                self.entries += 1;
            }
            _ => {
                let mut filling = self.create()?;
                let mut record = record;
                let first = TreeRecord {
                    data: std::mem::take(&mut record.data),
                    ..record.clone()
                };
                filling.record = record;
                self.file = Some(filling);
                self.write(&first)?;
            }
        }
        Ok(())
    }

    /// The source has no name of its own: its entries are the target's.
    fn base_itself(&mut self, record: TreeRecord) -> Result<(), Failure> {
        if record.kind() != TreeKind::Directory || self.order.root.is_some() {
            return Err(malformed());
        }
        self.leave(0)?;
        let Some(name) = self.name.take() else {
            return Ok(());
        };
        let (base, is_new) =
            enter(&self.base, &name).map_err(|e| failure("write", &self.order.target, &e))?;
        self.base = base;
        self.record = Some(record).filter(|_| is_new);
        Ok(())
    }

    /// The directory that entries go into now.
    fn here(&self) -> &File {
        self.levels.last().map_or(&self.base, |level| &level.dir)
    }

    fn name_here(&self, own: &[u8]) -> io::Result<CString> {
        match &self.name {
            Some(name) if self.levels.is_empty() => Ok(name.clone()),
            _ => sys::name(own),
        }
    }

    /// Leaves directories until only `depth` are open. Their time is set now, as what is put into one
    /// changes it, and their mode, as it may forbid to.
    fn leave(&mut self, depth: usize) -> Result<(), Failure> {
        while self.levels.len() > depth {
            let Some(level) = self.levels.pop() else {
                break;
            };
            if let Some(record) = &level.record
                && let Err(e) = self.attributes(&level.dir, record)
            {
                self.settle("change", &record.path, &e)?;
            }
        }
        Ok(())
    }

    fn fill(&mut self, record: &TreeRecord) -> Result<(), Failure> {
        let Some(file) = &self.file else {
            // Of a file that could not be made.
            return match self.lost {
                Some(_) => Ok(()),
                None => Err(malformed()),
            };
        };
        let path = file.record.path.clone();
        self.write(record).or_else(|e| {
            self.drop_file();
            let settled = self.settle("write", &path, &e);
            self.lost = Some(path);
            settled
        })
    }

    /// Writes a record's bytes, and puts the file in its place behind the last ones.
    fn write(&mut self, record: &TreeRecord) -> io::Result<()> {
        let Some(filling) = &self.file else {
            return Ok(());
        };
        filling.file.write_all_at(&record.data, record.offset)?;
        self.bytes += record.data.len() as u64;
        if !record.last {
            return Ok(());
        }
        // A hole at the end has no bytes that would make the file so long.
        if record.offset > 0 || record.size != record.data.len() as u64 {
            filling.file.set_len(record.size)?;
        }
        let Some(mut filling) = self.file.take() else {
            return Ok(());
        };
        let placed = self.place(&mut filling);
        if let (Err(_), Some(name)) = (&placed, &filling.temporary) {
            let _ = sys::remove_at(self.here(), name);
        }
        self.entries += u64::from(placed.is_ok());
        placed
    }

    fn create(&mut self) -> io::Result<Filling> {
        let record = TreeRecord::default();
        let here = self.here();
        if !self.no_unnamed {
            let flags = libc::O_TMPFILE | libc::O_RDWR;
            if let Ok(file) = sys::open_at(here, c".", flags) {
                let temporary = None;
                return Ok(Filling {
                    file,
                    record,
                    temporary,
                });
            }
        }
        let name = temporary();
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
        let file = sys::open_at(here, &name, flags)?;
        self.no_unnamed = true;
        let temporary = Some(name);
        Ok(Filling {
            file,
            record,
            temporary,
        })
    }

    fn place(&self, filling: &mut Filling) -> io::Result<()> {
        let here = self.here();
        let own = filling.record.path.rsplit(|byte| *byte == b'/').next();
        let name = self.name_here(own.unwrap_or_default())?;
        let before = sys::open_at(here, &name, libc::O_PATH).and_then(|file| file.metadata());
        if let Some(before) = before.ok().filter(|_| !self.order.preserve) {
            // What is replaced stays its owner's, as far as we may.
            let _ = fchown(&filling.file, Some(before.uid()), Some(before.gid()));
        }
        self.attributes(&filling.file, &filling.record)?;
        if filling.temporary.is_none() {
            match sys::name_at(&filling.file, here, &name) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                named => return named,
            }
            let temporary = temporary();
            sys::name_at(&filling.file, here, &temporary)?;
            filling.temporary = Some(temporary);
        }
        match &filling.temporary {
            Some(temporary) => sys::rename_at(here, temporary, &name),
            None => Ok(()),
        }
    }

    fn link(&self, name: &CStr, record: &TreeRecord) -> io::Result<()> {
        let here = self.here();
        let to = sys::name(&record.data)?;
        let temporary = temporary();
        sys::make_link_at(&to, here, &temporary)?;
        let own = || {
            if self.order.preserve {
                permitted(sys::chown_at(here, &temporary, record.uid, record.gid))?;
            }
            if let Some(time) = record.modified_at {
                sys::set_modified_at(here, &temporary, time.seconds, time.nanos)?;
            }
            sys::rename_at(here, &temporary, name)
        };
        own().inspect_err(|_| {
            let _ = sys::remove_at(here, &temporary);
        })
    }

    /// Owner, mode and time of an open file or directory.
    fn attributes(&self, file: &File, record: &TreeRecord) -> io::Result<()> {
        let mut mode = record.mode & 0o1777;
        if self.order.preserve && permitted(fchown(file, Some(record.uid), Some(record.gid)))? {
            mode = record.mode & 0o7777;
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        match record.modified_at {
            Some(time) => sys::set_modified(file, time.seconds, time.nanos),
            None => Ok(()),
        }
    }

    fn drop_file(&mut self) {
        if let Some(name) = self.file.take().and_then(|filling| filling.temporary) {
            let _ = sys::remove_at(self.here(), &name);
        }
    }

    /// Reports an entry that could not be made, or gives up where none would fare better.
    fn settle(&mut self, doing: &str, path: &[u8], error: &io::Error) -> Result<(), Failure> {
        let failure = failure(doing, &self.place_of(path), error);
        let is_all = self.name.is_some() && !path.contains(&b'/');
        let is_fatal = matches!(
            error.raw_os_error(),
            Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS | libc::EIO)
        );
        if is_all || is_fatal {
            return Err(failure);
        }
        (self.report)(failure);
        Ok(())
    }

    /// Where an entry is, for people.
    fn place_of(&self, path: &[u8]) -> PathBuf {
        let below = match (&self.name, path.iter().position(|byte| *byte == b'/')) {
            (None, _) => path,
            (Some(_), None) => b"",
            (Some(_), Some(slash)) => &path[slash + 1..],
        };
        match below {
            b"" => self.order.target.clone(),
            below => self.order.target.join(std::ffi::OsStr::from_bytes(below)),
        }
    }
}

impl Drop for Unpack<'_> {
    fn drop(&mut self) {
        self.drop_file();
    }
}

/// Opens a directory, which is made if there is none. True: it was.
fn enter(here: &File, name: &CStr) -> io::Result<(File, bool)> {
    let is_new = match sys::make_directory_at(here, name) {
        Ok(()) => true,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
        Err(e) => return Err(e),
    };
    let dir = sys::open_at(here, name, libc::O_RDONLY | libc::O_DIRECTORY)?;
    Ok((dir, is_new))
}

/// False where only root may give files away, and this is not root: then they stay the copier's own.
fn permitted(given: io::Result<()>) -> io::Result<bool> {
    match given {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(false),
        Err(e) => Err(e),
    }
}

/// A name that nothing has.
fn temporary() -> CString {
    let name = format!(".qx-{:016x}.tmp", random::number());
    CString::new(name).unwrap_or_default()
}

fn failure(doing: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::system(doing, &path.to_string_lossy(), error)
}

fn malformed() -> Failure {
    let why = "what came is no archive of this source, or not all of it; nothing more was written";
    Failure::new(Code::Invalid, why)
}
