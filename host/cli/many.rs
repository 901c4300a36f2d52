//! One command in many VMs: `--all` and `--match`. Each is an ordinary run of this program, so many at once, and
//! what it prints is told apart by the VM's name. What a command does to one VM it does to each, and as well.

mod child;
mod choose;
mod show;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::time::Duration;

use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, wait};

use super::copy::progress::Progress;
use super::options::{Command, Opt, Typed, flag, option};
use super::signals::{Caught, Signals};
use super::{Trouble, client, run};

pub use choose::matches;

use child::{Child, Ended};
use show::{Show, Style};

/// What these commands take in the place of a VM.
pub const OPTIONS: &[Opt] = &[
    flag("all", None, "in every VM that is on, instead of VM"),
    option(
        "match",
        "PATTERN",
        "in those named so, as web*; may be repeated",
    )
    .repeated(),
    option("parallel", "N", "of these, so many at once (default: 32)"),
    flag(
        "collect",
        None,
        "show what each has written when it has ended",
    ),
];

/// VMs at once where nothing else is said.
const PARALLEL: u32 = 32;

/// And at most: each has two descriptors here and a connection to the daemon.
const MAX_PARALLEL: u32 = 256;

/// The command is meant for many.
pub fn is_meant(command: &Command, typed: &Typed) -> bool {
    command.many_options().any(|option| typed.has(option.long))
}

/// `cp FILE --all:/PATH` is `cp --all FILE :/PATH`.
pub fn separate(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut separated = Vec::new();
    for word in words {
        match word.to_str().and_then(|word| word.strip_prefix("--all:")) {
            Some(path) => separated.extend(["--all".into(), format!(":{path}").into()]),
            None => separated.push(word),
        }
    }
    separated
}

/// Runs it in all of them. The worst of their statuses is ours.
pub fn run(command: &Command, typed: &Typed) -> Result<u8, Trouble> {
    choose::check(command, typed)?;
    let parallel = typed.positive("parallel").map_err(Trouble::Usage)?;
    let parallel = parallel.unwrap_or(PARALLEL).min(MAX_PARALLEL) as usize;
    let chosen = choose::choose(typed, run::list(&mut client(typed)?)?)?;
    let style = match (typed.has("json"), typed.has("collect")) {
        (true, _) => Style::Json,
        (false, true) => Style::Collected,
        (false, false) => Style::Lines,
    };
    let names: Vec<&str> = chosen.names.iter().map(String::as_str).collect();
    let mut show = Show::new(style, &names);
    let signals = Signals::catch()?;
    let progress = Progress::of_many(names.len());
    let begun = clock::now();
    let done = each(&names, parallel, &signals, &progress, &mut show, |name| {
        let words = choose::words_for(command, typed, name)?;
        Child::start(name, command.name, &words)
    });
    drop(progress);
    let interrupted = done?;
    let took = clock::now().since(begun);
    show.sum_up(chosen.off, took, io::stderr().is_terminal());
    Ok(interrupted.map_or(show.worst(), |signal| 128 + signal))
}

/// Starts the children, so many at once, and shows what they say. A signal goes to those that run, and no other
/// is started then: it is returned.
fn each(
    names: &[&str],
    parallel: usize,
    signals: &Signals,
    progress: &Progress,
    show: &mut Show,
    start: impl Fn(&str) -> Result<Child, Trouble>,
) -> Result<Option<u8>, Trouble> {
    let mut waiting = names.iter();
    let mut running: Vec<Child> = Vec::new();
    let mut interrupted = None;
    loop {
        while running.len() < parallel
            && interrupted.is_none()
            && let Some(name) = waiting.next()
        {
            match start(name) {
                Ok(child) => running.push(child),
                Err(trouble) => show.end(progress, Ended::not_started(name, &trouble))?,
            }
        }
        progress.count(show.done(), show.failed(), running.len());
        if running.is_empty() {
            return Ok(interrupted);
        }
        let mut waits = vec![Wait::read(&signals.stream)];
        for child in &running {
            waits.extend(child.waits());
        }
        wait(&mut waits, Some(LOOK))?;
        for caught in signals.take() {
            let signal = match caught {
                Caught::Resize => continue,
                Caught::HangUp => 1,
                Caught::Other(number) => number,
            };
            interrupted = interrupted.or(u8::try_from(signal).ok());
            running.iter().for_each(|child| child.signal(signal));
        }
        let mut still = Vec::new();
        for mut child in running {
            // Where nobody reads us they end as their pipes do.
            child.read(|name, stream, bytes| show.say(progress, name, stream, bytes))?;
            match child.end()? {
                Ok(ended) => show.end(progress, ended)?,
                Err(child) => still.push(child),
            }
        }
        running = still;
    }
}

/// The bar goes on though nobody says anything.
const LOOK: Duration = Duration::from_secs(1);
