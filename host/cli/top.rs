//! `qx-node top`: all VMs of the host on a terminal, as they do now. What is shown is a [`View`], [`draw`] shows it;
//! here are the terminal, its keys, and the daemon that is asked.

mod column;
mod draw;
mod keys;
mod past;
mod view;

use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;

use quantix::error::system_text;
use quantix::message::node::{self, node_message};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, wait};
use quantix::rt::sys::process::{self, Signal};
use quantix::time::Time;
use ratatui::Terminal;
use ratatui::backend::TermionBackend;
use ratatui::termion::{clear, cursor, screen};

use super::client::{Client, unexpected};
use super::options::Typed;
use super::signals::{Caught, Signals};
use super::terminal::Raw;
use super::{Trouble, client, history, run, utf8};
pub use column::By;

use draw::{Looks, Moment};
use view::{Act, View};

/// `qx-node top`
pub fn top(typed: &Typed) -> Result<u8, Trouble> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() || is_dumb() {
        let why = "top draws on a terminal; `qx-node vms --json` has the same for programs";
        return Err(Trouble::Local(why.to_owned()));
    }
    let interval = typed.positive("interval").map_err(Trouble::Usage)?;
    let interval = Duration::from_secs(interval.unwrap_or(INTERVAL).into());
    let mut view = view(typed)?;
    // Before the screen is another, so that one without a daemon reads why.
    let mut source = Source {
        daemon: Some(connect(typed)?),
    };
    source.refresh(typed, &mut view)?;
    let signals = Signals::catch()?;
    let mut screen = Screen::enter()?;
    let looks = Looks::of_environment();
    let mut due = clock::now() + interval;
    loop {
        let moment = Moment {
            now: clock::now(),
            wall: clock::wall().seconds,
        };
        screen.draw(|frame| draw::draw(frame, &mut view, &looks, moment))?;
        // What has come into sight has no past yet.
        if source.fill_past(&mut view).is_ok_and(|filled| filled) {
            continue;
        }
        let stdin = io::stdin();
        let mut waits = [Wait::read(&stdin), Wait::read(&signals.stream)];
        wait(&mut waits, Some(due.since(clock::now())))?;
        let is_typed = waits[0].is_ready();
        match signals.take().into_iter().find(|of| *of != Caught::Resize) {
            // Nobody is there to be told.
            Some(Caught::HangUp) => return Ok(0),
            Some(Caught::Other(number)) => {
                let number = u8::try_from(number).unwrap_or(u8::MAX);
                return Err(Trouble::Interrupted(number));
            }
            Some(Caught::Resize) | None => {}
        }
        let mut is_wanted = clock::now() >= due && !view.is_paused();
        if is_typed {
            for key in read_keys()? {
                match view.key(key) {
                    Act::None => {}
                    Act::Quit => return Ok(0),
                    Act::Stop => screen.suspend()?,
                    Act::Refresh => is_wanted = true,
                    Act::Redraw => screen.clear()?,
                }
            }
        }
        if is_wanted {
            let trouble = source.refresh(typed, &mut view).err();
            view.trouble = trouble.map(|trouble| trouble.to_string());
        }
        if is_wanted || clock::now() >= due {
            due = clock::now() + interval;
        }
    }
}

/// What is asked for.
fn view(typed: &Typed) -> Result<View, Trouble> {
    let by = match typed.value("sort") {
        None => By::Cpu,
        Some(word) => By::of(&word.to_string_lossy()).ok_or_else(|| {
            let all = By::ALL.map(By::word).join(", ");
            Trouble::Usage(format!("--sort takes one of {all}"))
        })?,
    };
    match typed.words.as_slice() {
        [] => Ok(View::new(by, String::new())),
        [filter] => Ok(View::new(by, utf8("the filter", filter)?.to_owned())),
        [_, word, ..] => {
            let word = word.to_string_lossy();
            Err(Trouble::Usage(format!("{word} is one word too many")))
        }
    }
}

/// Seconds between two looks, where nothing else is asked for.
const INTERVAL: u32 = 2;

/// A daemon that does not answer for so long is said not to; keys wait for it meanwhile.
const PATIENCE: Duration = Duration::from_secs(3);

/// A terminal of which nothing can be expected.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

fn connect(typed: &Typed) -> Result<Client, Trouble> {
    let mut client = client(typed)?;
    client.limit(PATIENCE)?;
    Ok(client)
}

/// The daemon, as long as it is there.
struct Source {
    daemon: Option<Client>,
}

impl Source {
    /// Asks for all that is new. A daemon that has gone is looked for at the next call.
    fn refresh(&mut self, typed: &Typed, view: &mut View) -> Result<(), Trouble> {
        let mut client = match self.daemon.take() {
            Some(client) => client,
            None => connect(typed)?,
        };
        view.take(run::list(&mut client)?);
        if let Some(name) = view.examined() {
            let report = report(&mut client, name);
            view.take_report(report.or_else(|trouble| match trouble {
                // It has not reported yet, or has just gone from the list.
                Trouble::Failed(_) => Ok(None),
                other => Err(other),
            })?);
        }
        self.daemon = Some(client);
        Ok(())
    }

    /// Asks for the past of what is in sight and has none that is young enough. True: something has come.
    fn fill_past(&mut self, view: &mut View) -> Result<bool, Trouble> {
        let now = clock::now();
        let wanted = view.without_past(now);
        let Some(mut client) = self.daemon.take_if(|_| !wanted.is_empty()) else {
            return Ok(false);
        };
        // All are asked for before the first answer.
        let mut asked = Vec::new();
        for (name, whole) in wanted {
            let seconds = if whole { 0 } else { past::RECENT_SECONDS };
            let body = node_message::Body::GetHistory(node::GetHistory { seconds });
            let id = client.ask(&name, body)?;
            asked.push((id, name));
        }
        for (id, name) in asked {
            match history::samples(&mut client, id) {
                Ok(samples) => view.take_past(name, samples, now),
                Err(Trouble::Failed(_)) => view.take_past(name, Vec::new(), now),
                Err(trouble) => return Err(trouble),
            }
        }
        self.daemon = Some(client);
        Ok(true)
    }
}

fn report(client: &mut Client, name: &str) -> Result<Option<node::TelemetryReport>, Trouble> {
    let asked = node_message::Body::GetTelemetry(node::GetTelemetry { follow: false });
    let id = client.ask(name, asked)?;
    match client.wait(id)? {
        node_message::Body::TelemetryReport(report) => Ok(Some(report)),
        _ => Err(unexpected()),
    }
}

/// The keys that are typed. A terminal that is gone types no more.
fn read_keys() -> Result<Vec<keys::Key>, Trouble> {
    let mut stdin = io::stdin().lock();
    let mut typed = Vec::new();
    let until = clock::now() + keys::SEQUENCE;
    loop {
        let mut buffer = [0; 256];
        match stdin.read(&mut buffer) {
            Ok(0) => return Err(Trouble::Local("the terminal is gone".to_owned())),
            Ok(n) => typed.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Trouble::Local(format!("terminal: {}", system_text(&e)))),
        }
        if !keys::may_go_on(&typed) || !more_until(until)? {
            return Ok(keys::parse(&typed));
        }
    }
}

fn more_until(until: Time) -> Result<bool, Trouble> {
    let stdin = io::stdin();
    let mut waits = [Wait::read(&stdin)];
    wait(&mut waits, Some(until.since(clock::now())))?;
    Ok(waits[0].is_ready())
}

/// The terminal while it is ours: its other screen, without a cursor. It is itself again when this is dropped.
struct Screen {
    terminal: Terminal<TermionBackend<io::Stdout>>,
    raw: Option<Raw>,
}

impl Screen {
    fn enter() -> Result<Self, Trouble> {
        let raw = Raw::enter().map_err(Trouble::Local)?;
        let mut out = io::stdout();
        write!(
            out,
            "{}{}{}",
            screen::ToAlternateScreen,
            cursor::Hide,
            clear::All
        )?;
        out.flush()?;
        let terminal = Terminal::new(TermionBackend::new(out))?;
        Ok(Self {
            terminal,
            raw: Some(raw),
        })
    }

    fn draw(&mut self, show: impl FnOnce(&mut ratatui::Frame)) -> Result<(), Trouble> {
        self.terminal.draw(show)?;
        Ok(())
    }

    /// All of it is drawn next time.
    fn clear(&mut self) -> Result<(), Trouble> {
        self.terminal.clear()?;
        Ok(())
    }

    /// To the background, until somebody has us go on.
    fn suspend(&mut self) -> Result<(), Trouble> {
        self.leave();
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        process::signal(own, Signal::SUSPEND);
        *self = Self::enter()?;
        Ok(())
    }

    fn leave(&mut self) {
        if self.raw.take().is_some() {
            let mut out = io::stdout();
            // One that is gone needs nothing.
            let _ = write!(out, "{}{}", screen::ToMainScreen, cursor::Show);
            let _ = out.flush();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}
