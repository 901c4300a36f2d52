//! A file of log lines. Whoever writes a line waits for no disk: a child reads them from a pipe and appends them,
//! and opens the file anew when it was rotated away (logrotate(8) needs neither a signal nor `copytruncate`).
//!
//! Lines that the disk does not take are lost, and counted: the next that it takes tells how many bytes they were.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::clock;
use super::sys::fd::{pipe, set_nonblocking};
use super::sys::process::{self, Keep};
use crate::error::{system_text, write_text};
use crate::time::Time;

/// The pipe to the child.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    pipe: Option<File>,
    /// When the child was started last.
    begun: Option<Time>,
}

impl LogFile {
    /// A file that is opened with the first line. Its child is there from now on: one that is forked later has a copy of
    /// what its parent is at.
    pub fn new(path: PathBuf) -> Self {
        Self {
            pipe: start(&path).ok(),
            path,
            begun: Some(clock::now()),
        }
    }

    /// Passes on a line with its end, of at most 4096 bytes (PIPE_BUF: it goes as a whole or not at all). False: it
    /// was not taken.
    pub fn write(&mut self, line: &[u8]) -> bool {
        if self.pipe.is_none() {
            let now = clock::now();
            let early = self.begun.is_some_and(|at| now.since(at) < AGAIN);
            if early {
                return false;
            }
            self.begun = Some(now);
            self.pipe = start(&self.path).ok();
        }
        let Some(pipe) = &mut self.pipe else {
            return false;
        };
        match pipe.write(line) {
            Ok(written) => written == line.len(),
            Err(e) => {
                // A pipe that is full has a child that waits for its disk; else it has ended.
                if e.kind() != ErrorKind::WouldBlock {
                    self.pipe = None;
                }
                false
            }
        }
    }
}

/// Another child is not started sooner.
const AGAIN: Duration = Duration::from_secs(10);

fn start(path: &Path) -> io::Result<File> {
    let (lines, pipe) = pipe()?;
    set_nonblocking(&pipe)?;
    let keep = Keep::from(&[&lines]);
    process::spawn(keep, || {
        process::set_name(c"quantix-log");
        // It ends when its lines do: the last one tells why the others' end came.
        let ignored = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            let _ = signal_hook::flag::register(signal, ignored.clone());
        }
        append(path, lines);
        0
    })?;
    Ok(pipe)
}

fn append(path: &Path, mut lines: File) {
    let mut writer = Writer::new(path);
    let mut buffer = [0; 16 * 1024];
    loop {
        match lines.read(&mut buffer) {
            Ok(n) if n > 0 => writer.take(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Writes lines, and knows what was lost of them.
struct Writer<'a> {
    file: Rotated<'a>,
    /// Bytes since something was written last, and why.
    lost: Option<(usize, String)>,
}

impl<'a> Writer<'a> {
    const fn new(path: &'a Path) -> Self {
        let file = Rotated::new(path);
        Self { file, lost: None }
    }

    fn take(&mut self, lines: &[u8]) {
        let mut text = Vec::new();
        if let Some((bytes, why)) = &self.lost {
            text = format!("{bytes} bytes of this log could not be written: {why}\n").into_bytes();
        }
        text.extend_from_slice(lines);
        self.lost = match self.file.append(&text) {
            Ok(()) => None,
            Err(e) => {
                if self.lost.is_none() {
                    // There is nowhere else.
                    let (path, why) = (self.file.path.display(), write_text(&e));
                    let _ = writeln!(io::stderr(), "log {path}: {why}");
                }
                let before = self.lost.take().map_or(0, |(bytes, _)| bytes);
                Some((before + lines.len(), system_text(&e)))
            }
        };
    }
}

/// The file that is at a path.
struct Rotated<'a> {
    path: &'a Path,
    file: Option<File>,
}

impl<'a> Rotated<'a> {
    const fn new(path: &'a Path) -> Self {
        Self { path, file: None }
    }

    /// Appends all of it, or nothing.
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let there = std::fs::metadata(self.path)
            .ok()
            .map(|meta| (meta.dev(), meta.ino()));
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        let file = match &mut self.file {
            Some(file) if open.map(|meta| (meta.dev(), meta.ino())) == there => file,
            file => {
                let mut options = OpenOptions::new();
                options.append(true).create(true).mode(0o640);
                // What may have been put there is not waited for.
                options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
                file.insert(options.open(self.path)?)
            }
        };
        let before = file.metadata()?.len();
        let written = file.write_all(text);
        if written.is_err() {
            // Half a line is not left behind. A pipe or a device has no length.
            let _ = file.set_len(before);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn directory() -> PathBuf {
        let path = std::env::temp_dir().join(format!("qx-log-{:x}", crate::rt::random::number()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_file_that_is_rotated_away_is_opened_anew() {
        let dir = directory();
        let path = dir.join("log");
        let mut file = Rotated::new(&path);
        file.append(b"one\n").unwrap();
        file.append(b"two\n").unwrap();
        fs::rename(&path, dir.join("log.1")).unwrap();
        file.append(b"three\n").unwrap();
        assert_eq!(fs::read(dir.join("log.1")).unwrap(), b"one\ntwo\n");
        assert_eq!(fs::read(&path).unwrap(), b"three\n");
        fs::remove_file(&path).unwrap();
        file.append(b"four\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"four\n");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_the_disk_does_not_take_is_counted() {
        let dir = directory();
        let path = dir.join("missing/log");
        let mut writer = Writer::new(&path);
        writer.take(b"lost\n");
        writer.take(b"too\n");
        fs::create_dir(dir.join("missing")).unwrap();
        writer.take(b"kept\n");
        writer.take(b"and this\n");
        let why = "9 bytes of this log could not be written: No such file or directory";
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{why}\nkept\nand this\n"));
        fs::remove_dir_all(dir).unwrap();
    }
}
