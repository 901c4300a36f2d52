//! The guest's processes, from /proc, and a signal to one. Whose number is another's meanwhile gets none.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use quantix::error::{Code, Failure};
use quantix::message::agent::{
    KillProcess, KillProcessResponse, ListProcesses, Process, ProcessList,
};
use quantix::rt::clock;
use quantix::rt::sys::fd::rest;
use quantix::rt::sys::process::{Held, Signal, effective_user, page_size};
use quantix::rt::users::Databases;
use quantix::time::Time;

use crate::holder;
use crate::job::KEEPER;

/// How long CPU time is counted for.
const WINDOW: Duration = Duration::from_millis(200);

/// Processes that are looked at for one answer.
const AT_ONCE: usize = 512;

/// Bytes of an answer: with its last process, of 700 bytes at most, well below a frame.
const FULL: usize = 88 * 1024;

/// Of a process's arguments.
const MAX_COMMAND: usize = 256;

/// A larger /etc/passwd is read so far.
const MAX_PASSWD: u64 = 1024 * 1024;

/// See `Process.user`.
const MAX_USER: usize = 64;

/// A tick of the kernel's statistics (USER_HZ), in ms.
const TICK_MS: u64 = 10;

/// PF_KTHREAD of linux/sched.h.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Lists a part of them.
pub fn list(request: &ListProcesses) -> Result<ProcessList, Failure> {
    let proc = Path::new("/proc");
    let mut pids = holder::others(proc);
    pids.retain(|pid| *pid > request.after);
    pids.sort_unstable();
    let mut more = pids.len() > AT_ONCE;
    pids.truncate(AT_ONCE);
    let mut last = pids.last().copied().unwrap_or(0);
    let mut before = Vec::new();
    for pid in pids {
        // One that has ended meanwhile is left out, here and below.
        if let Some(stat) = Stat::read(pid) {
            before.push((stat, clock::now()));
        }
    }
    rest(WINDOW);
    let mut users = Users::read();
    let mut processes = Vec::new();
    let mut bytes = 0;
    let mut looked = 0;
    for (before, at) in before {
        if bytes >= FULL {
            more = true;
            last = looked;
            break;
        }
        looked = before.pid;
        let Some(stat) = Stat::read(before.pid).filter(|stat| stat.started == before.started)
        else {
            continue;
        };
        let mut process = describe(&stat, &mut users);
        process.cpu_percent = percent(&before, &stat, at, clock::now());
        bytes += process.encoded_len() + 4;
        processes.push(process);
    }
    Ok(ProcessList {
        processes,
        more,
        uptime_seconds: clock::uptime_seconds(),
        now: Some(clock::wall()),
        last,
    })
}

/// Sends a signal to one.
pub fn kill(request: &KillProcess) -> Result<KillProcessResponse, Failure> {
    let pid = request.pid;
    let refuse = |code, why: &str| Err(Failure::new(code, format!("process {pid} {why}")));
    let signal = match request.signal {
        0 => Some(Signal::TERMINATE),
        number => Signal::parse(number),
    };
    let Some(signal) = signal else {
        let why = "a signal is a number from 1 to 31";
        return Err(Failure::new(Code::Invalid, why));
    };
    let number = match i32::try_from(pid) {
        Ok(1) => {
            return refuse(
                Code::Permission,
                "is the guest's init; none is sent to that",
            );
        }
        Ok(number) if number > 1 => number,
        _ => return refuse(Code::Invalid, "is none: a process has a number from 2"),
    };
    // From here on the number is this process's, whatever becomes of it.
    let held = match Held::new(number) {
        Ok(held) => held,
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return refuse(Code::NotFound, GONE),
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
            return refuse(Code::NotFound, "is a thread of another; name that one");
        }
        Err(e) => return Err(Failure::system("find process", &pid.to_string(), &e)),
    };
    let Some(stat) = Stat::read(pid) else {
        return refuse(Code::NotFound, GONE);
    };
    if request.started > 0 && stat.started_ms() != request.started {
        return refuse(
            Code::NotFound,
            "has ended; its number belongs to another now",
        );
    }
    if stat.state == b'Z' {
        return refuse(Code::NotFound, "has ended, and its parent has not looked");
    }
    if stat.flags & KERNEL_THREAD != 0 {
        return refuse(Code::Permission, "is the kernel's own and takes no signals");
    }
    if let Some(why) = ours(&stat) {
        return refuse(Code::Permission, why);
    }
    let process = describe(&stat, &mut Users::read());
    match held.signal(signal) {
        Ok(()) => Ok(KillProcessResponse {
            process: Some(process),
        }),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => refuse(Code::NotFound, GONE),
        Err(e) => Err(Failure::system("signal process", &pid.to_string(), &e)),
    }
}

const GONE: &str = "is not there, or has ended; `qx-node ps VM` lists those that are";

/// It is one of the agent's, without which nobody is answered: what it is.
fn ours(stat: &Stat) -> Option<&'static str> {
    if stat.pid == parent_id() {
        return Some("is the agent that answers this; have its service restart it");
    }
    let file = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    let proc = Path::new("/proc");
    // Any user may run the agent's program, or give a process the name of a keeper.
    if owner(stat.pid) != Some(effective_user()) {
        return None;
    }
    // The keeper may have outlived the agent's file. The inode of our own is not another's as long as we run.
    if stat.name == KEEPER.to_bytes() {
        return Some(
            "keeps a command; `qx-node kill VM JOB` ends that, `qx-node jobs VM` lists it",
        );
    }
    let own = file(Path::new("/proc/self/exe"));
    let is_ours = own.is_some() && own == file(&holder::file(proc, stat.pid, "exe"));
    is_ours.then_some("works for the agent")
}

/// Its effective user: that of its directory, whatever else is root's in there (proc(5)).
fn owner(pid: u32) -> Option<u32> {
    let found = fs::metadata(holder::file(Path::new("/proc"), pid, ""));
    found.ok().map(|found| found.uid())
}

fn describe(stat: &Stat, users: &mut Users) -> Process {
    let (command, command_cut) = match stat.flags & KERNEL_THREAD {
        0 => command(stat.pid),
        _ => Default::default(),
    };
    let uid = owner(stat.pid).unwrap_or_default();
    Process {
        pid: stat.pid,
        parent: stat.parent,
        name: stat.name.clone(),
        command,
        command_cut,
        uid,
        user: users.name(uid),
        state: char::from(stat.state).to_string(),
        rss_bytes: stat.pages.saturating_mul(page_size()),
        threads: stat.threads,
        started_ms: stat.started_ms(),
        ..Default::default()
    }
}

/// Its arguments, and whether there are more. It may change them as it likes.
fn command(pid: u32) -> (Vec<u8>, bool) {
    let path = holder::file(Path::new("/proc"), pid, "cmdline");
    words(read(&path, MAX_COMMAND as u64 + 1))
}

fn words(mut line: Vec<u8>) -> (Vec<u8>, bool) {
    let is_cut = line.len() > MAX_COMMAND;
    line.truncate(MAX_COMMAND);
    for byte in &mut line {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    line.truncate(line.trim_ascii_end().len());
    (line, is_cut)
}

/// Of the file's first bytes, as far as there are any.
fn read(path: &Path, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // What fails half-way is that the process has ended.
        let _ = file.take(limit).read_to_end(&mut bytes);
    }
    bytes
}

/// Of one CPU; a process has no more than its threads can use.
fn percent(before: &Stat, after: &Stat, from: Time, to: Time) -> f64 {
    let ticks = after.ticks.saturating_sub(before.ticks);
    let used = Duration::from_millis(ticks.saturating_mul(TICK_MS));
    let share = used.as_secs_f64() / to.since(from).as_secs_f64().max(0.001);
    (share * 100.0).min(f64::from(after.threads.max(1)) * 100.0)
}

/// Names of users, each looked for once.
struct Users {
    passwd: String,
    known: Vec<(u32, String)>,
}

impl Users {
    fn read() -> Self {
        let passwd = read(Path::new("/etc/passwd"), MAX_PASSWD);
        Self {
            passwd: String::from_utf8_lossy(&passwd).into_owned(),
            known: Vec::new(),
        }
    }

    fn name(&mut self, uid: u32) -> String {
        if let Some((_, name)) = self.known.iter().find(|(known, _)| *known == uid) {
            return name.clone();
        }
        let (passwd, group) = (&*self.passwd, "");
        let mut name = Databases { passwd, group }.name(uid).unwrap_or_default();
        name = name.chars().take(MAX_USER).collect();
        self.known.push((uid, name.clone()));
        name
    }
}

/// What /proc/PID/stat says (proc_pid_stat(5)).
#[derive(Debug, Default, PartialEq, Eq)]
struct Stat {
    pid: u32,
    name: Vec<u8>,
    state: u8,
    parent: u32,
    flags: u64,
    /// Of CPU time, in user mode and in the kernel.
    ticks: u64,
    threads: u32,
    /// In ticks since boot.
    started: u64,
    /// In memory.
    pages: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let path = holder::file(Path::new("/proc"), pid, "stat");
        Self::parse(pid, &read(&path, 4096))
    }

    /// `pid (name) state ppid ...`, where the name may have any bytes in it.
    fn parse(pid: u32, stat: &[u8]) -> Option<Self> {
        let open = stat.iter().position(|byte| *byte == b'(')?;
        let close = stat.iter().rposition(|byte| *byte == b')')?;
        let name = stat.get(open + 1..close)?.to_vec();
        let mut fields = str::from_utf8(stat.get(close + 1..)?)
            .ok()?
            .split_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        // From the parent on; those that can be negative are of no interest here.
        let mut numbers = [0; 21];
        for number in &mut numbers {
            *number = fields.next()?.parse().unwrap_or(0);
        }
        let [parent, _, _, _, _, flags, _, _, _, _, user, system, ..] = numbers;
        let [.., threads, _, started, _, pages] = numbers;
        Some(Self {
            pid,
            name,
            state,
            parent: u32::try_from(parent).unwrap_or(0),
            flags,
            ticks: user + system,
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            started,
            pages,
        })
    }

    const fn started_ms(&self) -> u64 {
        self.started.saturating_mul(TICK_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: &[u8] =
        b"812 (a) R 9 (\xff\n) R 7 812 812 0 -1 4194560 226 0 0 0 150 25 0 0 20 0 3 0 \
        456789 2621440 220 18446744073709551615 1 2\n";

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let stat = Stat::parse(812, BUSY).unwrap();
        let wanted = Stat {
            pid: 812,
            name: b"a) R 9 (\xff\n".to_vec(),
            state: b'R',
            parent: 7,
            flags: 4_194_560,
            ticks: 175,
            threads: 3,
            started: 456_789,
            pages: 220,
        };
        assert_eq!(stat, wanted);
        assert_eq!(stat.started_ms(), 4_567_890);
        for bad in ["", "1", "1 (a", "1 )a(", "1 (a)", "1 (a) S 1 2 3"] {
            assert_eq!(Stat::parse(1, bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn cpu_time_is_of_one_cpu_and_of_no_more_than_the_threads_can_use() {
        let stat = |ticks, threads| Stat {
            ticks,
            threads,
            ..Default::default()
        };
        let share = |ticks: u64, threads| {
            let (from, to) = (Time::from_micros(1000), Time::from_micros(201_000));
            percent(&stat(100, threads), &stat(100 + ticks, threads), from, to).round()
        };
        let near = |found: f64, wanted: f64| (found - wanted).abs() < 0.5;
        assert!(near(share(0, 1), 0.0));
        assert!(near(share(10, 1), 50.0));
        assert!(near(share(22, 1), 100.0));
        assert!(near(share(40, 2), 200.0));
        // The clock of a guest that was paused, or a number that was used again.
        let at = Time::from_micros(5);
        assert!(percent(&stat(9, 1), &stat(3, 1), at, at) < 0.1);
        assert!(near(percent(&stat(0, 1), &stat(9, 1), at, at), 100.0));
    }

    #[test]
    fn arguments_are_words_and_are_cut() {
        let of = |line: &[u8]| words(line.to_vec());
        assert_eq!(of(b"sh\0-c\0sleep 1\0"), (b"sh -c sleep 1".to_vec(), false));
        assert_eq!(of(b""), (Vec::new(), false));
        assert_eq!(of(b"\0\0"), (Vec::new(), false));
        let long = [b'x'; MAX_COMMAND + 1];
        assert_eq!(of(&long), (vec![b'x'; MAX_COMMAND], true));
        assert_eq!(of(&long[1..]), (vec![b'x'; MAX_COMMAND], false));
    }

    #[test]
    fn those_of_this_machine_are_all_there_and_in_order() {
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let list = list(&ListProcesses { after }).unwrap();
            assert!(list.encoded_len() < 96 * 1024);
            found.extend(list.processes);
            after = found.last().map_or(0, |process| process.pid);
            if !list.more {
                break;
            }
        }
        assert!(found.windows(2).all(|two| two[0].pid < two[1].pid));
        let init = &found[0];
        assert_eq!((init.pid, init.parent, init.uid), (1, 0, 0));
        // It has made the list.
        let own = std::process::id();
        assert!(found.iter().all(|process| process.pid != own));
        let list = list(&ListProcesses { after: u32::MAX }).unwrap();
        assert!(list.processes.is_empty() && !list.more);
    }

    #[test]
    fn who_takes_no_signal_is_refused() {
        // One that does nothing, should it be sent all the same.
        const URG: u32 = 23;
        let kill = |pid, signal| {
            let started = 0;
            kill(&KillProcess {
                pid,
                signal,
                started,
            })
            .unwrap_err()
        };
        assert_eq!(kill(0, URG).code, Code::Invalid);
        // What a negative number becomes.
        assert_eq!(kill(u32::MAX, URG).code, Code::Invalid);
        assert_eq!(kill(1, URG).code, Code::Permission);
        assert_eq!(kill(std::process::id(), 32).code, Code::Invalid);
        assert_eq!(kill(i32::MAX.unsigned_abs(), URG).code, Code::NotFound);
        let own = kill(std::process::id(), URG);
        assert_eq!(own.code, Code::Permission);
        assert!(own.message.ends_with("works for the agent"), "{own}");
        let agent = kill(parent_id(), URG);
        assert!(agent.message.contains("the agent that answers"), "{agent}");
        let reused = KillProcess {
            pid: parent_id(),
            signal: URG,
            started: 1,
        };
        let reused = super::kill(&reused).unwrap_err();
        assert_eq!(reused.code, Code::NotFound);
        assert!(reused.message.contains("belongs to another now"));
    }
}
