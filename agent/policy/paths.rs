//! The lines `read_path` and `write_path` of agent.conf: where files may be read, and written. They are judged in the
//! child that opens them, by what is open and not by what it was called: whatever links led there have been followed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use quantix::error::{Code, Failure};
use quantix::rt::replace::parent;

use super::MAX_LINES;

/// Directories, and files; all that is below them. None: everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    file: String,
    /// Its key begins with this.
    doing: &'static str,
    lines: Vec<(usize, PathBuf)>,
}

/// A path to what was judged, which leads nowhere else for as long as this is there.
#[derive(Debug)]
pub struct Held {
    pub path: PathBuf,
    _handle: Option<File>,
}

impl Paths {
    /// Everything. `doing`: read, or write.
    pub fn new(file: &str, doing: &'static str) -> Self {
        Self {
            file: file.to_owned(),
            doing,
            lines: Vec::new(),
        }
    }

    /// Adds a line.
    pub fn add(&mut self, line: usize, value: &str) -> Result<(), String> {
        let path = PathBuf::from(value);
        let is_up = |part| part == Component::ParentDir;
        if !path.is_absolute() || path.components().any(is_up) {
            return Err("takes an absolute path, and no .. in it".to_owned());
        }
        if self.lines.len() >= MAX_LINES {
            return Err(format!("is the {}th of its kind", MAX_LINES + 1));
        }
        self.lines.push((line, path));
        Ok(())
    }

    /// What may be touched, a line each.
    pub fn lines(&self) -> &[(usize, PathBuf)] {
        &self.lines
    }

    /// Judges a path that need not exist: by the nearest directory that does.
    ///
    /// # Errors
    /// It may not be touched, or cannot be looked at.
    pub fn judge_path(&self, asked: &Path) -> Result<(), Failure> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let (mut dir, mut below) = (asked, PathBuf::new());
        loop {
            let error = match open(dir, 0) {
                Ok(dir) => return self.judge(asked, &dir, &below),
                Err(error) => error,
            };
            match (dir.file_name(), dir.parent()) {
                (Some(name), Some(above)) if error.kind() == ErrorKind::NotFound => {
                    // An empty one would put a slash behind it.
                    below = match below.as_os_str().is_empty() {
                        true => name.into(),
                        false => Path::new(name).join(below),
                    };
                    dir = above;
                }
                _ => return Err(self.system(asked, &error)),
            }
        }
    }

    /// Judges what is open, or what is `below` it.
    ///
    /// # Errors
    /// It may not be touched.
    pub fn judge(&self, asked: &Path, opened: &File, below: &Path) -> Result<(), Failure> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let real = real(opened).map_err(|e| self.system(asked, &e))?;
        let found = match below.as_os_str().is_empty() {
            true => real,
            false => real.join(below),
        };
        let has = |(_, line): &(usize, PathBuf)| {
            // It may have links in it, too.
            let line = fs::canonicalize(line).unwrap_or_else(|_| line.clone());
            found.starts_with(line)
        };
        match self.lines.iter().any(has) {
            true => Ok(()),
            false => Err(self.denied(asked, &found)),
        }
    }

    /// A file that is there, followed to where it is.
    ///
    /// # Errors
    /// As open(2); it may not be touched.
    pub fn hold(&self, asked: &Path) -> Result<Held, Failure> {
        if self.lines.is_empty() {
            return Ok(Held::none(asked));
        }
        match open(asked, 0) {
            Ok(file) => {
                self.judge(asked, &file, Path::new(""))?;
                Ok(Held::of(file, None))
            }
            // Where it may not be looked, nobody is told that nothing is there.
            Err(e) => {
                self.judge_path(asked)?;
                Err(self.system(asked, &e))
            }
        }
    }

    /// A name in a directory, whether there is such a file or not: the name is not followed.
    ///
    /// # Errors
    /// As open(2) of the directory; it may not be touched.
    pub fn hold_name(&self, asked: &Path, path: &Path) -> Result<Held, Failure> {
        let Some(name) = path.file_name().filter(|_| !self.lines.is_empty()) else {
            return Ok(Held::none(path));
        };
        let dir = open(parent(path), libc::O_DIRECTORY).map_err(|e| self.system(asked, &e))?;
        self.judge(asked, &dir, Path::new(name))?;
        Ok(Held::of(dir, Some(name)))
    }

    fn system(&self, asked: &Path, error: &io::Error) -> Failure {
        Failure::system(self.doing, &asked.to_string_lossy(), error)
    }

    fn denied(&self, asked: &Path, found: &Path) -> Failure {
        let Self { file, doing, lines } = self;
        let leads = match asked == found {
            true => String::new(),
            false => format!(" (that is {})", found.display()),
        };
        let some: Vec<_> = lines.iter().take(3).collect();
        let shown = some
            .iter()
            .map(|(line, path)| format!("line {line}: {doing}_path = {}", path.display()));
        let shown = shown.collect::<Vec<_>>().join(", ");
        let more = match lines.len() - some.len() {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let asked = asked.display();
        let why = format!(
            "{doing} {asked}{leads} is not allowed in this guest: not below any of {file} {shown}{more}"
        );
        Failure::new(Code::Policy, why)
    }
}

impl Held {
    fn none(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _handle: None,
        }
    }

    fn of(handle: File, name: Option<&OsStr>) -> Self {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
        path.extend(name);
        Self {
            path,
            _handle: Some(handle),
        }
    }
}

/// A handle that opens nothing yet: no device notices it, no FIFO waits.
fn open(path: &Path, flags: libc::c_int) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_PATH | flags)
        .open(path)
}

/// Where an open file is, without any link on the way (proc_pid_fd(5)).
fn real(file: &File) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
