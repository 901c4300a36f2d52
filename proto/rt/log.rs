//! Log lines to syslog, stderr or a file: bounded, rate-limited, and never waited for.
//!
//! A line that the other end cannot take at once is counted and dropped; so is one over the rate,
//! because a guest or a client can cause lines and must not be able to flood a log. The next line
//! that passes tells how many are missing.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

use super::civil::Civil;
use super::clock;
use super::logfile::LogFile;
use super::sys::fd::is_writable_now;
use crate::endpoint::Counters;
use crate::rate::Rate;
use crate::text::push_plain;
use crate::time::Time;

/// How much a line matters. Smaller is worse; the numbers are syslog's (RFC 3164).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something that should work does not.
    Error = 3,
    /// Something odd that was dealt with.
    Warning = 4,
    /// What an operator wants to see in the log of a quiet day.
    Info = 6,
    /// What a developer wants to see.
    Debug = 7,
}

impl Level {
    /// As [`parse`](Self::parse) takes it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// Those that matter most first.
    pub const ALL: [Self; 4] = [Self::Error, Self::Warning, Self::Info, Self::Debug];

    /// `error`, `warning`, `info` or `debug`.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.word() == word)
    }
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/dev/log`; stderr while that does not exist.
    Syslog,
    /// Standard error, with `<N>` in front where systemd reads it (sd-daemon(3)).
    Stderr,
    /// A file, with the time in front.
    File(PathBuf),
}

impl Target {
    /// `syslog`, `stderr`, or the path of a file.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "syslog" => Some(Self::Syslog),
            "stderr" => Some(Self::Stderr),
            path if path.starts_with('/') => Some(Self::File(PathBuf::from(path))),
            _ => None,
        }
    }
}

/// The one log of a program.
pub struct Log {
    name: &'static str,
    target: Target,
    level: Level,
    syslog: Option<Logger<LoggerBackend, Formatter3164>>,
    /// systemd reads our stderr.
    journal: bool,
    file: Option<LogFile>,
    line: String,
    rate: Rate,
    dropped: u64,
    /// `Some`: lines are kept and not written.
    held: Option<Vec<(Level, String)>>,
}

/// Lines that are held; of more the first are kept, which tell how it began.
const MAX_HELD: usize = 64;

impl Log {
    /// A log for the program `name`.
    pub fn new(name: &'static str, target: Target, level: Level) -> Self {
        let file = match &target {
            Target::File(path) => Some(LogFile::new(path.clone())),
            Target::Syslog | Target::Stderr => None,
        };
        Self {
            name,
            target,
            level,
            syslog: None,
            file,
            journal: std::env::var_os("JOURNAL_STREAM").is_some(),
            line: String::new(),
            rate: Rate::new(BURST, REFILL),
            dropped: 0,
            held: None,
        }
    }

    /// A log of which no line is to be missed: only those who may do so can have them written.
    pub fn of_all(name: &'static str, target: Target) -> Self {
        Self {
            rate: Rate::new(u32::MAX, Duration::from_micros(1)),
            ..Self::new(name, target, Level::Info)
        }
    }

    /// How many lines may come. 40 at once and 2 a second where nothing else is said.
    pub const fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    /// Writes a line about one of many, who may have so many lines: what it causes is not at the cost of the others.
    pub fn about(&mut self, share: &mut Share, level: Level, line: fmt::Arguments) {
        if level > self.level {
            return;
        }
        if !share.rate.take(clock::now()) {
            share.dropped += 1;
            return;
        }
        match std::mem::take(&mut share.dropped) {
            0 => self.write(level, line),
            dropped => self.write(
                level,
                format_args!("{line} ({dropped} of its lines dropped before)"),
            ),
        }
    }

    /// Keeps lines in memory from now on, or writes those that were kept. Whoever writes them to a disk may
    /// not come back before it is thawed.
    pub fn hold(&mut self, hold: bool) {
        match (hold, self.held.take()) {
            (true, held) => self.held = Some(held.unwrap_or_default()),
            (false, held) => {
                for (level, line) in held.into_iter().flatten() {
                    self.line = line;
                    self.put(level);
                }
            }
        }
    }

    /// Lines that matter less are not written from now on.
    pub const fn set_level(&mut self, level: Level) {
        self.level = level;
    }

    /// Writes a line at `Error`.
    pub fn error(&mut self, line: fmt::Arguments) {
        self.write(Level::Error, line);
    }

    /// Writes a line at `Warning`.
    pub fn warning(&mut self, line: fmt::Arguments) {
        self.write(Level::Warning, line);
    }

    /// Writes a line at `Info`.
    pub fn info(&mut self, line: fmt::Arguments) {
        self.write(Level::Info, line);
    }

    /// Writes a line at `Debug`.
    pub fn debug(&mut self, line: fmt::Arguments) {
        self.write(Level::Debug, line);
    }

    fn write(&mut self, level: Level, text: fmt::Arguments) {
        if level > self.level {
            return;
        }
        if !self.rate.take(clock::now()) {
            self.dropped += 1;
            return;
        }
        self.line.clear();
        let _ = write!(Escaped(&mut self.line), "{text}");
        match &mut self.held {
            Some(held) if held.len() < MAX_HELD => held.push((level, self.line.clone())),
            Some(_) => self.dropped += 1,
            None => self.put(level),
        }
    }

    /// Writes the line.
    fn put(&mut self, level: Level) {
        if self.dropped > 0 {
            let _ = write!(self.line, " ({} lines dropped before)", self.dropped);
        }
        let written = match &self.target {
            Target::Syslog => self.write_syslog(level) || self.write_stderr(level),
            Target::Stderr => self.write_stderr(level),
            Target::File(_) => {
                let time = Civil::of(clock::wall().seconds);
                let line = format!("{time:#} {} {}\n", level.word(), self.line);
                let file = self.file.as_mut();
                file.is_some_and(|file| file.write(line.as_bytes()))
            }
        };
        if written {
            self.dropped = 0;
        } else {
            self.dropped += 1;
        }
    }

    fn write_syslog(&mut self, level: Level) -> bool {
        if self.syslog.is_none() {
            self.syslog = connect(self.name);
        }
        let Some(logger) = &mut self.syslog else {
            return false;
        };
        let written = match level {
            Level::Error => logger.err(&self.line),
            Level::Warning => logger.warning(&self.line),
            Level::Info => logger.info(&self.line),
            Level::Debug => logger.debug(&self.line),
        };
        match written {
            Ok(()) => true,
            // The daemon has gone, or its queue is full: look again with the next line.
            Err(_) => {
                self.syslog = None;
                false
            }
        }
    }

    fn write_stderr(&mut self, level: Level) -> bool {
        let stderr = std::io::stderr();
        if !is_writable_now(&stderr) {
            return false;
        }
        let prefix = if self.journal {
            format!("<{}>", level as u8)
        } else {
            format!("{}: ", self.name)
        };
        self.line.insert_str(0, &prefix);
        self.line.push('\n');
        stderr.lock().write_all(self.line.as_bytes()).is_ok()
    }
}

/// The lines that are about one of many.
#[derive(Clone, Debug)]
pub struct Share {
    rate: Rate,
    dropped: u32,
}

impl Share {
    /// So many lines at once, and one more after each `refill`.
    pub const fn new(burst: u32, refill: Duration) -> Self {
        Self {
            rate: Rate::new(burst, refill),
            dropped: 0,
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Log({}, {:?})", self.name, self.target)
    }
}

/// When to say what a channel has dropped: not for every frame of a flood.
#[derive(Debug, Default)]
pub struct DropLog {
    /// Stale frames, bad frames and bytes of garbage, as they were last said.
    said: (u64, u64, u64),
    at: Option<Time>,
}

impl DropLog {
    /// A line, if more has been dropped and the last line is old enough.
    pub fn news(&mut self, now: Time, counters: &Counters) -> Option<String> {
        let seen = (
            counters.stale_frames,
            counters.bad_frames,
            counters.garbage_bytes,
        );
        let early = self.at.is_some_and(|at| now.since(at) < DROPS_EVERY);
        if seen == self.said || early {
            return None;
        }
        self.said = seen;
        self.at = Some(now);
        let (stale, bad, garbage) = seen;
        Some(format!(
            "dropped so far: {stale} stale frames, {bad} bad frames, {garbage} bytes of garbage"
        ))
    }
}

fn connect(name: &str) -> Option<Logger<LoggerBackend, Formatter3164>> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect("/dev/log").ok()?;
    let formatter = Formatter3164 {
        facility: Facility::LOG_DAEMON,
        hostname: None,
        process: name.to_owned(),
        pid: std::process::id(),
    };
    Some(Logger::new(LoggerBackend::Unix(socket), formatter))
}

/// Cuts a line to its bound and shows what is hidden: names come from guests.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.len() >= MAX_LINE {
                return Err(fmt::Error);
            }
            push_plain(self.0, c);
        }
        Ok(())
    }
}

/// Bytes; RFC 3164 allows 1024 with the header.
const MAX_LINE: usize = 900;

/// Between two lines on what was dropped.
const DROPS_EVERY: Duration = Duration::from_secs(10);

/// Lines that may come at once, and the pause after which one more may.
const BURST: u32 = 40;
const REFILL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_escaped() {
        let mut line = String::new();
        let _ = write!(Escaped(&mut line), "a\n\x1b[31m{}", "x".repeat(5000));
        assert!(line.starts_with("a\\x0a\\x1b[31mxxx"));
        assert!(line.len() <= MAX_LINE);
    }

    #[test]
    fn a_flood_of_garbage_is_one_line_in_ten_seconds() {
        let at = |seconds: u64| Time::from_micros(seconds * 1_000_000);
        let mut drops = DropLog::default();
        let mut counters = Counters::default();
        assert_eq!(drops.news(at(1), &counters), None);
        let mut lines = 0;
        for second in 1..31 {
            counters.garbage_bytes += 1000;
            lines += usize::from(drops.news(at(second), &counters).is_some());
        }
        assert_eq!(lines, 3);
    }

    #[test]
    fn a_flood_is_cut_to_its_rate() {
        let at = |millis: u64| clock::now() + Duration::from_millis(millis);
        let mut rate = Rate::new(40, Duration::from_millis(500));
        let passed = (0..1000).filter(|_| rate.take(at(0))).count();
        assert_eq!(passed, 40);
        let later = (0..1000).filter(|_| rate.take(at(1_100))).count();
        assert_eq!(later, 2);
        let much_later = (0..1000).filter(|_| rate.take(at(1_000_000))).count();
        assert_eq!(much_later, 40);
    }
}
