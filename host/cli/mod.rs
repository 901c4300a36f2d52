//! The command line: what was typed, what it means, and what is printed.

mod channel;
mod client;
mod commands;
mod complete;
mod copy;
mod doctor;
mod events;
mod exec;
mod freeze;
mod groups;
mod hardware;
mod history;
mod install;
mod jobs;
mod keys;
mod live;
mod logs;
#[cfg(test)]
mod man;
mod many;
mod names;
mod network;
mod options;
mod packages;
mod pages;
mod passwd;
mod power;
mod processes;
mod render;
mod report;
mod restored;
mod run;
mod services;
mod setup;
mod show;
mod signals;
mod storage;
mod terminal;
mod time;
mod tool;
mod top;
mod users;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quantix::error::{Code, Failure};
use quantix::rt::clock;
use quantix::rt::sys::fd::rest;

use client::Client;
use commands::COMMANDS;
use options::{Command, Typed};

use crate::config::{self, Config, VMS_DIR};
use crate::daemon::{SUFFIX, vm_of};
use crate::serve;

/// Why a command came to nothing.
#[derive(Debug)]
pub enum Trouble {
    /// It was typed wrong.
    Usage(String),
    /// The daemon cannot be reached.
    NoDaemon(String),
    /// It was reached, and has gone: it is restarted, perhaps.
    Gone(String),
    /// The request was made and failed.
    Failed(Failure),
    /// Something on this side: a local file, stdout.
    Local(String),
    /// This signal ended it.
    Interrupted(u8),
    /// Whoever read our output wants no more of it: no fault.
    OutputClosed,
}

impl Trouble {
    /// The exit status. `exec` has its own.
    const fn status(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Usage(_) => 2,
            Self::NoDaemon(_) | Self::Gone(_) => 3,
            Self::Failed(failure) => match failure.code {
                Code::TimedOut | Code::Disconnected => 4,
                Code::Permission | Code::Policy => 5,
                _ => 1,
            },
            Self::Local(_) => 1,
            Self::Interrupted(signal) => 128 + *signal,
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Usage(why) | Self::NoDaemon(why) | Self::Gone(why) | Self::Local(why) => {
                f.write_str(why)
            }
            Self::Failed(failure) => f.write_str(&render::plain(&failure.message)),
            Self::Interrupted(_) => f.write_str("interrupted"),
            Self::OutputClosed => Ok(()),
        }
    }
}

impl From<io::Error> for Trouble {
    /// Of writing to stdout.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Local(format!("stdout: {}", quantix::error::system_text(&error))),
        }
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(name) = words.next() else {
        return finish("qx-node", Err(Trouble::Usage("which command?".to_owned())));
    };
    match name.to_str() {
        Some("help" | "--help" | "-h") => {
            let text = match words.next().as_deref().and_then(find) {
                Some(command) => options::help_of(command),
                None => options::help(),
            };
            return finish("qx-node", print(&text));
        }
        Some("version" | "--version" | "-V") => {
            let (version, revision) = (quantix::VERSION, quantix::REVISION);
            return finish(
                "qx-node",
                print(&format!("qx-node {version} ({revision})\n")),
            );
        }
        // For shells, so not in the help.
        Some("complete") => return finish("complete", complete::complete(words)),
        _ => {}
    }
    let Some(command) = find(&name) else {
        let why = format!("no command {}", name.to_string_lossy());
        return finish("qx-node", Err(Trouble::Usage(why)));
    };
    let typed = match options::parse(command, many::separate(words)) {
        Ok(Some(typed)) => typed,
        Ok(None) => return finish(command.name, print(&options::help_of(command))),
        Err(why) => return finish(command.name, Err(Trouble::Usage(why))),
    };
    finish(command.name, dispatch_again(command, &typed))
}

fn find(name: &OsStr) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| name == command.name)
}

/// A command that only asks, and has shown nothing yet, asks again when its daemon has gone: a restart loses nothing.
fn dispatch_again(command: &Command, typed: &Typed) -> Result<u8, Trouble> {
    let mut outcome = dispatch(command, typed);
    let until = clock::now() + RESTART;
    let mut is_gone = matches!(outcome, Err(Trouble::Gone(_)));
    while is_gone
        && groups::AGAIN.contains(&command.name)
        && !PRINTED.load(Ordering::Relaxed)
        && clock::now() < until
    {
        rest(LOOK);
        outcome = dispatch(command, typed);
        is_gone = matches!(outcome, Err(Trouble::Gone(_) | Trouble::NoDaemon(_)));
    }
    outcome
}

/// So long a daemon may take to be there again, and so often it is looked for.
const RESTART: Duration = Duration::from_secs(10);
/// See [`RESTART`].
const LOOK: Duration = Duration::from_millis(100);

/// Something has been shown.
static PRINTED: AtomicBool = AtomicBool::new(false);

fn dispatch(command: &Command, typed: &Typed) -> Result<u8, Trouble> {
    if many::is_meant(command, typed) {
        return many::run(command, typed);
    }
    match command.name {
        "vms" => run::vms(typed),
        "ping" => run::ping(typed),
        "top" => top::top(typed),
        "info" => run::info(typed),
        "telemetry" if typed.has("since") => history::history(typed),
        "telemetry" => run::telemetry(typed),
        "events" => events::events(typed),
        "exec" => exec::exec(typed),
        "shell" => exec::shell(typed),
        "jobs" => jobs::jobs(typed),
        "attach" => jobs::attach(typed),
        "kill" => jobs::kill(typed),
        "cp" => copy::cp(typed),
        "cat" => copy::cat(typed),
        "shutdown" => power::shutdown(typed),
        "reboot" => power::reboot(typed),
        "suspend" => power::suspend(typed),
        "freeze" => freeze::freeze(typed),
        "thaw" => freeze::thaw(typed),
        "freeze-status" => freeze::status(typed),
        "restored" => restored::restored(typed),
        "hardware" => hardware::hardware(typed),
        "cpus" => hardware::cpus(typed),
        "memory" => hardware::memory(typed),
        "packages" => packages::packages(typed),
        "disks" => storage::disks(typed),
        "trim" => storage::trim(typed),
        "grow" => storage::grow(typed),
        "install" => install::install(typed),
        "time" => time::time(typed),
        "network" => network::network(typed),
        "ip" => network::ip(typed),
        "hostname" => names::hostname(typed),
        "timezone" => names::timezone(typed),
        "users" => users::users(typed),
        "passwd" => passwd::passwd(typed),
        "keys" => keys::keys(typed),
        "ps" => processes::ps(typed),
        "signal" => processes::signal(typed),
        "services" => services::services(typed),
        "service" => services::service(typed),
        "logs" => logs::logs(typed),
        "channel" => channel::channel(typed),
        "doctor" => doctor::doctor(typed),
        _ => serve(typed),
    }
}

fn serve(typed: &Typed) -> Result<u8, Trouble> {
    no_words(typed)?;
    let source = config_source(typed)?;
    if typed.has("check") {
        let (config, faults) = source.read();
        print(&config.text())?;
        return match faults.is_empty() {
            true => Ok(0),
            false => Err(Trouble::Local(faults.join("\nqx-node: "))),
        };
    }
    // What was typed wrong is not left at its default.
    if let Some(why) = source.apply_typed(&mut Config::default()).pop() {
        return Err(Trouble::Usage(why));
    }
    serve::serve(source).map(|()| 0).map_err(Trouble::Local)
}

/// The file, and what was typed in the place of its keys.
fn config_source(typed: &Typed) -> Result<config::Source, Trouble> {
    let absolute = |path: &OsStr| {
        let path = std::path::absolute(path);
        path.map_err(|e| Trouble::Local(quantix::error::system_text(&e)))
    };
    let mut pairs = Vec::new();
    for key in config::KEYS {
        let long = key.replace('_', "-");
        if !typed.has(&long) {
            continue;
        }
        // A flag has no value.
        let value = match typed.value(&long) {
            None => "yes".to_owned(),
            // Here a path may be one from where we are.
            Some(path) if ["vms_dir", "control", "textfile"].contains(&key) => {
                utf8("path", absolute(path)?.as_os_str())?.to_owned()
            }
            Some(value) => utf8("value", value)?.to_owned(),
        };
        pairs.push((key, value));
    }
    Ok(config::Source {
        file: typed.value("config").map(absolute).transpose()?,
        typed: pairs,
    })
}

/// Says what went wrong, in one line, and how to go on.
fn finish(name: &str, outcome: Result<u8, Trouble>) -> ExitCode {
    let trouble = match outcome {
        Ok(status) => return ExitCode::from(status),
        Err(trouble) => trouble,
    };
    let status = match (&trouble, name) {
        (Trouble::Usage(_) | Trouble::OutputClosed, _) | (_, "serve") => trouble.status(),
        (_, "exec" | "shell" | "attach") => 125,
        _ => trouble.status(),
    };
    let next = match &trouble {
        Trouble::OutputClosed => return ExitCode::SUCCESS,
        Trouble::Usage(_) if name == "qx-node" => " (try `qx-node help`)".to_owned(),
        Trouble::Usage(_) => format!(" (try `qx-node {name} --help`)"),
        _ => String::new(),
    };
    let _ = writeln!(io::stderr(), "qx-node: {trouble}{next}");
    ExitCode::from(status)
}

fn print(text: &str) -> Result<u8, Trouble> {
    PRINTED.store(true, Ordering::Relaxed);
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(0)
}

fn control(typed: &Typed) -> PathBuf {
    control_at(typed.value("control").map(OsString::from))
}

/// The daemon's socket, which may have been `named`.
fn control_at(named: Option<OsString>) -> PathBuf {
    let set = || std::env::var_os("QX_NODE_SOCK").filter(|set| !set.is_empty());
    let named = named.or_else(set);
    named.map_or_else(|| configured().control, PathBuf::from)
}

fn vms_dir(typed: &Typed) -> PathBuf {
    typed
        .value("vms-dir")
        .map_or_else(|| configured().vms_dir, PathBuf::from)
}

/// What the daemon of this host is configured to, as far as that can be read.
fn configured() -> Config {
    let source = config::Source {
        file: None,
        typed: Vec::new(),
    };
    source.read().0
}

/// The daemon, or one of our own with `--direct`.
fn client(typed: &Typed) -> Result<Client, Trouble> {
    match typed.value("direct") {
        Some(socket) => Client::direct(PathBuf::from(socket)),
        None => Client::connect(&control(typed)),
    }
}

/// The VM, which `--direct` leaves to be said or not, and the words behind it.
fn vm(typed: &Typed, behind: usize) -> Result<(&str, &[OsString]), Trouble> {
    let words = &typed.words;
    let direct = typed.has("direct");
    let name = match words.len() {
        n if n == behind + 1 => words.first().map(OsString::as_os_str),
        n if n == behind && direct => None,
        n if n <= behind => return Err(Trouble::Usage(missing(typed, behind))),
        _ => {
            let extra = words[behind + 1].to_string_lossy();
            return Err(Trouble::Usage(format!("{extra} is one word too many")));
        }
    };
    let rest = &words[words.len() - behind..];
    match name.map(OsStr::to_str) {
        Some(None) => Err(Trouble::Usage("a VM's name is valid UTF-8".to_owned())),
        Some(Some(name)) => Ok((name, rest)),
        None => Ok(("", rest)),
    }
}

/// The VM, and the words behind it, if any, each of which is `what`.
fn vm_and_words<'a>(typed: &'a Typed, what: &str) -> Result<(&'a str, Vec<String>), Trouble> {
    let [name, words @ ..] = &typed.words[..] else {
        return Err(Trouble::Usage("which VM?".to_owned()));
    };
    let words = words.iter();
    let words = words.map(|word| utf8(what, word).map(str::to_owned));
    Ok((
        utf8("the VM's name", name)?,
        words.collect::<Result<_, _>>()?,
    ))
}

/// Whether a socket in the directory can be that of a VM with this name.
fn check_name(name: &str) -> Result<(), Trouble> {
    if name.contains('/') || vm_of(&format!("{name}{SUFFIX}")).is_none() {
        let why = "a VM's name has 1 to 128 bytes and no / or control characters in it";
        return Err(Trouble::Usage(why.to_owned()));
    }
    Ok(())
}

/// Which word is missing.
fn missing(typed: &Typed, behind: usize) -> String {
    match (typed.words.len(), behind) {
        (0, _) => "which VM?".to_owned(),
        _ => "a word is missing behind the VM".to_owned(),
    }
}

fn no_words(typed: &Typed) -> Result<(), Trouble> {
    match typed.words.first() {
        Some(word) => {
            let word = word.to_string_lossy();
            Err(Trouble::Usage(format!("{word} is one word too many")))
        }
        None => Ok(()),
    }
}

/// Names go over the channel as UTF-8.
fn utf8<'a>(what: &str, text: &'a OsStr) -> Result<&'a str, Trouble> {
    text.to_str().ok_or_else(|| {
        let shown = render::plain(&text.to_string_lossy());
        Trouble::Local(format!(
            "{what} {shown}: not valid UTF-8, which the channel needs"
        ))
    })
}
