//! A file that takes another's place when it is complete. When it is not, it leaves nothing behind, or
//! what it has for a later try, where that was asked for.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::random;
use super::sys::fd::{name_unnamed, try_lock};
use super::sys::process::effective_user;
use super::sys::xattr;
use crate::archive;

/// New content for `target`, in a file beside it.
#[derive(Debug)]
pub struct Replacement {
    file: File,
    target: PathBuf,
    /// Its name, which dropping it removes. `None`: it has none yet (O_TMPFILE), so that not even a
    /// process that is killed leaves anything.
    temporary: Option<PathBuf>,
    /// It stays if it is not complete.
    is_kept: bool,
}

impl Replacement {
    /// An empty file in the target's directory.
    ///
    /// # Errors
    /// As open(2) of a new file there.
    pub fn new(target: &Path) -> io::Result<Self> {
        let unnamed = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_TMPFILE)
            .open(parent(target))
            // Without /proc it could not be given its name at the end.
            .and_then(|file| fs::metadata("/proc/self/fd").map(|_| file));
        let (file, temporary) = match unnamed {
            Ok(file) => (file, None),
            Err(_) => {
                let name = temporary(target);
                let mut new = OpenOptions::new();
                new.read(true).write(true).create_new(true).mode(0o600);
                (new.open(&name)?, Some(name))
            }
        };
        Ok(Self {
            file,
            target: target.to_owned(),
            temporary,
            is_kept: false,
        })
    }

    /// The target's partial file, cut to its first `length` bytes and to be written behind them. It stays
    /// there until it is complete.
    ///
    /// # Errors
    /// As open(2) of a new file there; it is somebody else's, in use, or shorter.
    pub fn resume(target: &Path, length: u64) -> io::Result<Self> {
        let name = partial(target);
        // Its name can be foreseen, so another could have put something there.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&name)?;
        let meta = file.metadata()?;
        let is_ours = meta.is_file() && meta.nlink() == 1 && meta.uid() == effective_user();
        if !is_ours || meta.len() < length {
            return Err(io::Error::other("its partial file is not what it was"));
        }
        if !try_lock(&file)? {
            return Err(io::Error::other("another copy fills its partial file"));
        }
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        Ok(Self {
            file,
            target: target.to_owned(),
            temporary: Some(name),
            is_kept: true,
        })
    }

    /// Appends bytes, of which none may stand behind the end already. Zeros become a hole.
    ///
    /// # Errors
    /// As write(2).
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.iter().any(|byte| *byte != 0) {
            return self.file.write_all(bytes);
        }
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        self.file.seek(SeekFrom::Current(length))?;
        Ok(())
    }

    /// Has the file end behind what was appended.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn end(&mut self) -> io::Result<()> {
        let end = self.file.stream_position()?;
        self.file.set_len(end)
    }

    /// To be written.
    pub const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Has the file bear the label that its target has (SELinux).
    ///
    /// # Errors
    /// As fsetxattr(2): this process may not. It bears that of a new file in the same directory.
    pub fn keep_label(&self) -> io::Result<()> {
        let target = File::open(&self.target)?;
        xattr::copy(&target, &self.file, xattr::LABEL).map(|_| ())
    }

    /// Puts the file in its target's place, durably. A target that is there (`before`) passes its
    /// owner and permissions on; a new one gets `mode`.
    ///
    /// # Errors
    /// The target is as it was.
    pub fn place(mut self, before: Option<&fs::Metadata>, mode: u32) -> io::Result<()> {
        if let Some(before) = before {
            fchown(&self.file, Some(before.uid()), Some(before.gid()))?;
            // As far as we may.
            let _ = self.keep_label();
        }
        let mode = before.map_or(mode, MetadataExt::mode) & 0o7777;
        self.file.set_permissions(Permissions::from_mode(mode))?;
        self.file.sync_all()?;
        if self.temporary.is_none() {
            let name = temporary(&self.target);
            name_unnamed(&self.file, &name)?;
            self.temporary = Some(name);
        }
        if let Some(name) = &self.temporary {
            match fs::rename(name, &self.target) {
                Ok(()) => self.temporary = None,
                // A file that is mounted over, as /etc/resolv.conf in containers, cannot be replaced.
                Err(e) if e.kind() == ErrorKind::ResourceBusy && before.is_some() => {
                    let mut target = File::options()
                        .write(true)
                        .truncate(true)
                        .open(&self.target)?;
                    io::copy(&mut File::open(name)?, &mut target)?;
                    return target.sync_all();
                }
                Err(e) => return Err(e),
            }
        }
        File::open(parent(&self.target))?.sync_all()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(name) = self.temporary.as_ref().filter(|_| !self.is_kept) {
            let _ = fs::remove_file(name);
        }
    }
}

/// Where an interrupted write of this file keeps what it has.
pub fn partial(target: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".qx-partial");
    parent(target).join(name)
}

/// The checksum of a file's next bytes, `length` at most, and how many they are.
///
/// # Errors
/// As read(2).
pub fn checksum(file: &File, length: u64) -> io::Result<(u64, u64)> {
    let mut buffer = vec![0; 64 * 1024];
    let (mut sum, mut count) = (archive::CHECKSUM, 0);
    let mut file = file.take(length);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((sum, count)),
            Ok(n) => {
                sum = archive::checksum(sum, &buffer[..n]);
                count += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The directory that a file is in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        None => Path::new("/"),
        Some(here) if here.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    }
}

/// A name beside the target that nobody else has. Its length does not depend on the target's, which
/// may be as long as names can be.
fn temporary(target: &Path) -> PathBuf {
    parent(target).join(format!(".qx-{:016x}.tmp", random::number()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("{name}-{:x}", random::number()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_file_changes_in_one_step_or_not_at_all() {
        let directory = directory("qx-replace");
        let target = directory.join("file");
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
        let mut new = Replacement::new(&target).unwrap();
        new.file().write_all(b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        let before = fs::metadata(&target).unwrap();
        new.place(Some(&before), 0o777).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o640);

        drop(Replacement::new(&target).unwrap());
        Replacement::new(&directory.join("other"))
            .unwrap()
            .place(None, 0o600)
            .unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_named_file_is_removed_when_it_is_given_up() {
        let directory = directory("qx-named");
        let name = directory.join(".qx-1.tmp");
        drop(Replacement {
            file: File::create(&name).unwrap(),
            target: directory.join("file"),
            temporary: Some(name),
            is_kept: false,
        });
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_partial_file_stays_until_it_is_complete() {
        let directory = directory("qx-partial");
        let target = directory.join("file");
        let mut new = Replacement::resume(&target, 0).unwrap();
        new.append(b"some").unwrap();
        let busy = Replacement::resume(&target, 0).unwrap_err();
        assert!(busy.to_string().contains("another copy"), "{busy}");
        drop(new);
        assert_eq!(fs::read(partial(&target)).unwrap(), b"some");
        assert!(Replacement::resume(&target, 5).is_err());
        let mut new = Replacement::resume(&target, 3).unwrap();
        new.append(&[0; 5]).unwrap();
        new.end().unwrap();
        new.place(None, 0o640).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"som\0\0\0\0\0");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        // Not through a link that somebody has put there.
        std::os::unix::fs::symlink("file", partial(&target)).unwrap();
        assert!(Replacement::resume(&target, 0).is_err());
        assert_eq!(fs::read(&target).unwrap().len(), 8);
        fs::remove_dir_all(directory).unwrap();
    }
}
