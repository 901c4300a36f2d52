//! Switching the guest off, starting it again, sending it to sleep. The request is answered first; a child
//! does it then, after its delay, whatever becomes of the agent meanwhile.
//!
//! What is due is in a file below /run that the child has locked, so that a successor of the agent knows of
//! it, too.

mod init;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quantix::error::{Code, Failure, system_text};
use quantix::message::agent::{ListUsers, PowerAction, Shutdown, ShutdownResponse};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, pipe, try_lock, wait};
use quantix::rt::sys::power::{self, End};
use quantix::rt::sys::process::{self, Signal, Watch, set_name};
use quantix::rt::tool::Tool;
use quantix::text::plain;

use crate::{names, ops};
use init::Init;

/// The longest delay, in seconds: a day.
const MAX_DELAY: u32 = 86_400;

/// The answer is on its way by then.
const ANSWERED: Duration = Duration::from_secs(5);

/// A forced end waits no longer than this for the disks.
const SYNCED: Duration = Duration::from_secs(10);

/// Bytes of a message that is shown.
const MAX_MESSAGE: usize = 512;

/// What is due, if anything.
#[derive(Debug)]
pub struct Power {
    record: PathBuf,
    /// Closed when the answer has been written.
    gate: Option<File>,
}

/// What the child does.
enum Way {
    Init(Init, End),
    /// Nobody is told.
    Force(End),
    Sleep(Sleep),
}

#[derive(Clone, Copy)]
enum Sleep {
    Memory,
    Disk,
}

impl Power {
    /// Nothing that this agent has started is due.
    pub fn new(run: &Path) -> Self {
        Self {
            record: run.join("power"),
            gate: None,
        }
    }

    /// Has it done, or takes it back.
    ///
    /// # Errors
    /// UNSUPPORTED, INVALID; BUSY: something else is due.
    pub fn request(&mut self, request: &Shutdown) -> Result<ShutdownResponse, Failure> {
        if request.cancel {
            return self.cancel();
        }
        let way = way(request)?;
        if request.delay_seconds > MAX_DELAY {
            let why = format!("a delay has {MAX_DELAY} s at most");
            return Err(Failure::new(Code::Invalid, why));
        }
        let path = self.record.to_string_lossy().into_owned();
        let system = |e: io::Error| Failure::system("note what is due in", &path, &e);
        let record = self.lock(request.force).map_err(system)?;
        let Some(record) = record else {
            return Err(Failure::new(Code::Busy, self.due()));
        };
        let (gate, gate_end) = pipe().map_err(system)?;
        let delay = Duration::from_secs(request.delay_seconds.into());
        let name = name(request.r#type());
        let at = clock::uptime_seconds() + delay.as_secs();
        let pid = process::spawn(&[&record, &gate], || {
            set_name(c"qx-power");
            run(&way, &gate, delay, name, &request.message)
        })
        .map_err(|e| Failure::system("start", name, &e))?;
        // Here, since the next request may come before the child has begun.
        if let Err(e) = writeln!(&record, "{} {at} {name}", pid.get()) {
            process::signal_group(pid, Signal::KILL);
            return Err(system(e));
        }
        self.gate = Some(gate_end);
        Ok(ShutdownResponse {
            accepted: true,
            ..Default::default()
        })
    }

    /// All that was to be written has been.
    pub fn release(&mut self) {
        self.gate = None;
    }

    /// The record, locked; `None`: another is due. What is forced does not mind another that hangs.
    fn lock(&self, force: bool) -> io::Result<Option<File>> {
        let directory = self.record.parent().unwrap_or(&self.record);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)?;
        let mut options = File::options();
        options.read(true).write(true).create(true).mode(0o600);
        let record = options.open(&self.record)?;
        if !try_lock(&record)? && !force {
            return Ok(None);
        }
        record.set_len(0)?;
        Ok(Some(record))
    }

    /// In words: what is due, and what to do.
    fn due(&self) -> String {
        let text = fs::read_to_string(&self.record).unwrap_or_default();
        let mut words = text.split_whitespace().skip(1);
        let at: u64 = words.next().and_then(|at| at.parse().ok()).unwrap_or(0);
        let left = at.saturating_sub(clock::uptime_seconds());
        let name = words.next().unwrap_or("shutdown");
        match left {
            0 => format!("a {name} is under way; --force does not wait for it"),
            left => format!("a {name} is due in {left} s; --cancel takes it back"),
        }
    }

    fn cancel(&self) -> Result<ShutdownResponse, Failure> {
        let nothing = || Failure::new(Code::Invalid, "nothing is due");
        let mut record = File::open(&self.record).map_err(|_| nothing())?;
        if try_lock(&record).unwrap_or(true) {
            return Err(nothing());
        }
        let mut text = String::new();
        let read = record.read_to_string(&mut text);
        read.map_err(|e| Failure::system("read", &self.record.to_string_lossy(), &e))?;
        let pid = text
            .split_whitespace()
            .next()
            .and_then(|pid| pid.parse().ok());
        // It has the lock, so it has not ended.
        match pid {
            Some(pid) if process::signal(pid, Signal::TERMINATE) => Ok(ShutdownResponse {
                accepted: true,
                ..Default::default()
            }),
            _ => Err(nothing()),
        }
    }
}

const fn name(action: PowerAction) -> &'static str {
    match action {
        PowerAction::PowerOff => "poweroff",
        PowerAction::Reboot => "reboot",
        PowerAction::Halt => "halt",
        PowerAction::SuspendToRam => "suspend",
        PowerAction::SuspendToDisk => "hibernate",
    }
}

fn way(request: &Shutdown) -> Result<Way, Failure> {
    let Ok(action) = PowerAction::try_from(request.r#type) else {
        let why = "this agent does not know that end";
        return Err(Failure::new(Code::Unsupported, why));
    };
    let end = match action {
        PowerAction::PowerOff => End::PowerOff,
        PowerAction::Reboot => End::Reboot,
        PowerAction::Halt => End::Halt,
        PowerAction::SuspendToRam => return sleep(Sleep::Memory),
        PowerAction::SuspendToDisk => return sleep(Sleep::Disk),
    };
    Ok(match request.force {
        true => Way::Force(end),
        false => Way::Init(Init::find(Path::new("/")), end),
    })
}

/// The word for the kernel (Documentation/admin-guide/pm/sleep-states.rst).
const fn word(sleep: Sleep) -> &'static str {
    match sleep {
        Sleep::Memory => "mem",
        Sleep::Disk => "disk",
    }
}

const STATE: &str = "/sys/power/state";

fn sleep(sleep: Sleep) -> Result<Way, Failure> {
    let known = fs::read_to_string(STATE).unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if matches!(sleep, Sleep::Disk) && swaps.lines().nth(1).is_none() {
        let why = "this guest has no swap to write its memory to";
        return Err(Failure::new(Code::Unsupported, why));
    }
    if known.split_whitespace().any(|known| known == word(sleep)) {
        return Ok(Way::Sleep(sleep));
    }
    let known = match known.trim() {
        "" => "nothing",
        known => known,
    };
    let why = format!(
        "this guest cannot: {STATE} has {known}, not {}",
        word(sleep)
    );
    Err(Failure::new(Code::Unsupported, why))
}

/// In the child.
fn run(way: &Way, gate: &File, delay: Duration, name: &str, message: &str) -> i32 {
    let Ok(watch) = Watch::new() else { return 1 };
    let _ = wait(&mut [Wait::read(gate)], Some(ANSWERED));
    if !message.is_empty() || !delay.is_zero() {
        tell_users(name, delay, message);
    }
    let end = clock::now() + delay;
    loop {
        let left = end.since(clock::now());
        if left.is_zero() {
            break;
        }
        let _ = wait(&mut [Wait::read(&watch)], Some(left));
        if watch.take() {
            return 0;
        }
    }
    let done = match way {
        Way::Init(init, end) => init.tell(*end),
        Way::Force(end) => {
            sync();
            power::end(*end).map_err(|e| system_text(&e))
        }
        Way::Sleep(sleep) => fall_asleep(*sleep),
    };
    if let Err(why) = done {
        show(&format!("{name} failed: {why}"));
        return 1;
    }
    0
}

/// Writes out what can be in time.
fn sync() {
    let Ok((done, end)) = pipe() else { return };
    let started = process::spawn(&[&end], || {
        power::sync();
        0
    });
    drop(end);
    if started.is_ok() {
        let _ = wait(&mut [Wait::read(&done)], Some(SYNCED));
    }
}

/// Comes back when the guest has woken up.
fn fall_asleep(sleep: Sleep) -> Result<(), String> {
    if let Init::Systemd = Init::find(Path::new("/")) {
        let word = match sleep {
            Sleep::Memory => "suspend",
            Sleep::Disk => "hibernate",
        };
        let args = [word];
        let tool = Tool::new("systemctl", &args, Duration::from_secs(60));
        if let Ok(said) = tool.run()
            && said.is_success()
        {
            return Ok(());
        }
    }
    fs::write(STATE, word(sleep)).map_err(|e| format!("{STATE}: {}", system_text(&e)))
}

fn tell_users(name: &str, delay: Duration, message: &str) {
    let message: String = message.chars().take(MAX_MESSAGE).collect();
    let when = match delay.as_secs() {
        0 => "now".to_owned(),
        seconds => format!("in {seconds} s"),
    };
    let colon = if message.is_empty() { "" } else { ": " };
    show(&format!("{name} {when}{colon}{}", plain(&message)));
}

/// On the console and on all terminals, as wall(1) does it.
fn show(line: &str) {
    let line = format!("\r\nquantix-kvm-agent: {line}\r\n");
    let mut paths = vec![PathBuf::from("/dev/console")];
    for name in names::all(Path::new("/dev/pts")).unwrap_or_default() {
        paths.push(Path::new("/dev/pts").join(name));
    }
    // Whoever sits at one of these; that they are open says nothing.
    let consoles = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    for user in ops::who::list(&ListUsers::default()).users {
        let name = &*user.terminal;
        let is_console = consoles.split_whitespace().any(|console| console == name);
        if name.starts_with("tty") && !name.contains('/') && !is_console {
            paths.push(Path::new("/dev").join(name));
        }
    }
    for path in paths {
        // One that nobody reads is full.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let terminal = File::options().write(true).custom_flags(flags).open(path);
        if let Ok(mut terminal) = terminal {
            let _ = terminal.write_all(line.as_bytes());
        }
    }
}
