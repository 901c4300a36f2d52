//! What the tests of the real binaries share: directories that go away, processes that are ended,
//! conditions that are waited for. No test sleeps for a time; it waits for something to be so, and
//! fails where that takes longer than [`PATIENCE`].

#![cfg(test)]
#![allow(clippy::disallowed_methods)]

pub mod agent;
pub mod node;
pub mod packages;
pub mod qmp;
pub mod recipes;
pub mod relay;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quantix::rt::sys::sock_diag;

/// Far longer than anything takes on a busy machine; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again until there is something.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Looks again and again until it is so.
#[track_caller]
pub fn until_so(what: &str, mut look: impl FnMut() -> bool) {
    until(what, || look().then_some(()));
}

/// Whether somebody has accepted this connection, and has not closed it.
pub fn is_accepted(connection: &UnixStream) -> bool {
    !sock_diag::unaccepted()
        .unwrap()
        .contains(&sock_diag::inode(connection).unwrap())
}

/// What systemd would be told at this `$NOTIFY_SOCKET`, one by one.
pub fn told(path: &Path) -> impl Fn() -> String {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    move || {
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }
}

/// A directory of the test's own.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("qx-{}-{next}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A line for a shell that waits until [`open`](Self::open), or no longer than the directory is there.
    pub fn gate(&self, name: &str) -> String {
        let (dir, gate) = (self.path().display(), self.text(name));
        format!("while [ -d {dir} ] && ! [ -e {gate} ]; do sleep 0.05; done")
    }

    /// Ends the waits at this [`gate`](Self::gate).
    pub fn open(&self, name: &str) {
        self.file(name, "");
    }

    /// A path inside, as text.
    pub fn text(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// A file inside.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.join(name), content).unwrap();
        self.text(name)
    }

    /// The names of all files, hidden ones too, in their order.
    pub fn list(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.join(name)).unwrap();
        let name = |e: fs::DirEntry| e.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|e| name(e.unwrap())).collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that is killed at the end of the test.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says on stderr goes to the file `log`, behind what is there.
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::options().append(true).create(true).open(&log);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file.unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    #[track_caller]
    pub fn wait_log(&self, words: &str) {
        until_so(&format!("{words:?} in the log"), || {
            self.log().contains(words)
        });
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        until("end of a process", || self.child.try_wait().unwrap())
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- log of process {}:\n{}", self.pid(), self.log());
        }
    }
}

/// kill(1): the library's call would need `unsafe`.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("kill -{name} {pid}"))
        .status();
    assert!(sent.unwrap().success());
}

/// The process is there and no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|rest| !rest.starts_with('Z') && !rest.starts_with('X'))
}

/// The children of a process, those too that have ended and wait for it to take note.
pub fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        rest.split(' ').nth(1) == Some(&parent.to_string())
    };
    processes().filter(is_child).collect()
}

/// A socket that listens from the moment it can be seen: whoever finds one between bind(2) and listen(2) is
/// refused.
pub fn listen(path: &Path) -> UnixListener {
    // Its name is part of what the kernel shows, its directory is not.
    let name = path.file_name().unwrap();
    let unseen = path.with_extension("unseen");
    fs::create_dir(&unseen).unwrap();
    let listener = UnixListener::bind(unseen.join(name)).unwrap();
    fs::rename(unseen.join(name), path).unwrap();
    fs::remove_dir(&unseen).unwrap();
    listener
}

/// The children of an agent that have something to do: all but the keeper that waits for a command.
pub fn workers(agent: u32) -> Vec<u32> {
    let is_keeper = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == "quantix-keeper\n" && is_alive(*pid)
    };
    let mut all = children(agent);
    all.retain(|pid| !(is_keeper(pid) && children(*pid).is_empty()));
    all
}

/// The processes with these words in their environment, as everything has it that a command started
/// with them has started.
pub fn holders(words: &str) -> Vec<u32> {
    let holds = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(words)
    };
    processes().filter(holds).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Reads a number that a command in the guest writes into a file, once it is whole.
#[track_caller]
pub fn pid_in(path: &Path) -> u32 {
    until(&format!("a number in {}", path.display()), || {
        let text = fs::read_to_string(path).ok()?;
        text.ends_with('\n').then(|| text.trim().parse().ok())?
    })
}

/// How often these bytes are in the memory that a process may write to.
pub fn in_memory(pid: u32, bytes: &[u8]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let find = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let from = u64::from_str_radix(from, 16).ok()?;
        let size = u64::from_str_radix(to, 16).ok()? - from;
        let mut part = vec![0; usize::try_from(size).ok()?];
        if !rest.starts_with("rw") || memory.read_exact_at(&mut part, from).is_err() {
            return None;
        }
        Some(
            part.windows(bytes.len())
                .filter(|part| *part == bytes)
                .count(),
        )
    };
    maps.lines().filter_map(find).sum()
}

/// What a process can still do was bounded by itself: it has a filter, and no way to more rights (proc_pid_status(5)).
pub fn is_confined(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.contains("Seccomp:\t2\n") && status.contains("NoNewPrivs:\t1\n")
}

/// Memory that a process has, in KiB.
pub fn rss_kib(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What a program that has ended said.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Said {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Its output, of a program that has succeeded.
    #[track_caller]
    pub fn fine(&self) -> &str {
        assert_eq!(self.status, 0, "{self:?}");
        self.text()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.stderr, "", "{self:?}");
        serde_json::from_str(self.text()).unwrap()
    }

    /// Its one line of complaint, of a program that has failed with this status and printed nothing.
    #[track_caller]
    pub fn trouble(&self, status: i32) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.text(), "", "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        self.stderr.trim_end()
    }
}

/// A program that runs, with its output being gathered.
pub struct Running {
    child: Child,
    stdout: Option<thread::JoinHandle<Vec<u8>>>,
    stderr: Option<thread::JoinHandle<Vec<u8>>>,
    /// Bytes of stdout so far.
    written: Arc<AtomicUsize>,
}

impl Running {
    /// Starts it and gives it `input`.
    pub fn start(command: &mut Command, input: &[u8]) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // It may end without reading all of it.
        thread::spawn(move || stdin.write_all(&input));
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let written = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&written);
        Self {
            child,
            stdout: Some(thread::spawn(move || gather(stdout, &count))),
            stderr: Some(thread::spawn(|| gather(stderr, &AtomicUsize::new(0)))),
            written,
        }
    }

    /// Waits until it has written so many bytes to stdout.
    #[track_caller]
    pub fn wait_output(&mut self, bytes: usize) {
        until_so("output", || self.written.load(Ordering::SeqCst) >= bytes);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    #[track_caller]
    pub fn end(mut self) -> Said {
        let status = until("end of a command", || self.child.try_wait().unwrap());
        let take =
            |end: &mut Option<thread::JoinHandle<Vec<u8>>>| end.take().unwrap().join().unwrap();
        Said {
            status: status.code().unwrap_or(-1),
            stdout: take(&mut self.stdout),
            stderr: String::from_utf8(take(&mut self.stderr)).unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn gather(mut from: impl Read, count: &AtomicUsize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..n]);
        count.store(bytes.len(), Ordering::SeqCst);
    }
    bytes
}

/// Work beside the test, which ends by itself when the test's ends are closed.
pub fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::spawn(work)
}

/// Time since now.
pub fn stopwatch() -> impl Fn() -> Duration {
    let begun = Instant::now();
    move || begun.elapsed()
}

/// The tests run as root, which some of them need.
pub fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t0\t"))
}

/// Bytes that do not repeat in any short distance.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next)
        .take(length.div_ceil(8))
        .flatten()
        .collect();
    bytes.truncate(length);
    bytes
}
