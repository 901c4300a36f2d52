//! `qx-node install`: another agent in a guest, through the channel that the old one keeps. What is done there is done by
//! `install.sh`, which goes back by itself where the new agent lets nobody in; here it is brought there, watched, and
//! told that somebody was let in.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use quantix::error::{Code, Failure, system_text};
use quantix::message::{Body, agent};
use quantix::rt::sha2::sha256;
use quantix::rt::sys::fd::rest;
use quantix::rt::{clock, random};
use serde_json::{Value, json};

use super::client::unexpected;
use super::copy::{self, stream::Upload};
use super::options::Typed;
use super::render::plain;
use super::run::print_json;
use super::{Trouble, client, print, utf8, vm};

const SCRIPT: &str = include_str!("install.sh");

/// In the guest: what outlives a boot, and how far an installation is.
const HOME: &str = "/var/lib/quantix-kvm";
const RUN: &str = "/run/quantix-kvm/install";

/// No package of an agent comes near.
const MOST: u64 = 64 * 1024 * 1024;

/// Seconds that the new agent has to let us in.
const DEADLINE: u32 = 60;

/// So long its package may take to be unpacked, and the old agent to come back.
const PATIENCE: Duration = Duration::from_secs(600);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// How far it is.
enum State {
    Going,
    /// For us, through the new agent.
    Waiting,
    /// It has ended: the word, and what is said of it.
    Ended(String, String),
}

/// `qx-node install`
pub fn install(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let kinds = ["deb", "rpm", "binary"];
    let given: Vec<_> = kinds.into_iter().filter(|kind| typed.has(kind)).collect();
    let [kind] = given[..] else {
        return Err(Trouble::Usage(
            "takes one of --deb, --rpm and --binary".to_owned(),
        ));
    };
    let path = Path::new(typed.value(kind).unwrap_or_default());
    let deadline = typed
        .positive("deadline")
        .map_err(Trouble::Usage)?
        .unwrap_or(DEADLINE);
    let bytes = read(path)?;
    let sum = hex(&sha256(&bytes));
    if let Some(wanted) = typed.value("sha256") {
        let wanted = utf8("--sha256", wanted)?.to_lowercase();
        if wanted != sum {
            let why = format!(
                "{}: its SHA-256 is {sum}, and not {wanted}",
                plain(&path.to_string_lossy())
            );
            return Err(Trouble::Local(why));
        }
    }
    let token = format!("{:016x}", random::number());
    let there = format!("{HOME}/{token}.{kind}");
    let mut connection = client(typed)?;
    put(&mut connection, name, &there, &bytes)?;
    let words = [
        "-c",
        SCRIPT,
        "install",
        kind,
        &there,
        &sum,
        &deadline.to_string(),
        &token,
    ];
    let request = agent::Execute {
        command: "sh".to_owned(),
        args: words.map(str::to_owned).to_vec(),
        keep: true,
        wait_for_exit: true,
        ..Default::default()
    };
    let id = connection.ask_agent(name, Body::Execute(request))?;
    let Body::ExecuteResponse(_) = connection.wait_agent(id)? else {
        return Err(unexpected());
    };
    let (word, text) = watch(typed, name, &token, deadline)?;
    show(typed, name, &word, &text)
}

/// Looks until it has ended.
fn watch(
    typed: &Typed,
    name: &str,
    token: &str,
    deadline: u32,
) -> Result<(String, String), Trouble> {
    let until = clock::now() + PATIENCE + Duration::from_secs(deadline.into());
    let mut is_confirmed = false;
    loop {
        // While agents change there is none, and a daemon may be restarted as well.
        match look(typed, name, token) {
            Ok(State::Ended(word, text)) => return Ok((word, text)),
            Ok(State::Waiting) if !is_confirmed => {
                let path = format!("{RUN}/confirmed");
                is_confirmed = put(&mut client(typed)?, name, &path, token.as_bytes()).is_ok();
            }
            Ok(_) | Err(Trouble::Failed(_) | Trouble::NoDaemon(_) | Trouble::Gone(_)) => {}
            Err(trouble) => return Err(trouble),
        }
        if clock::now() > until {
            let why = format!("the guest says nothing of it any more: look at {RUN}/{token} there");
            return Err(Trouble::Failed(Failure::new(Code::TimedOut, why)));
        }
        rest(PAUSE);
    }
}

fn look(typed: &Typed, name: &str, token: &str) -> Result<State, Trouble> {
    let request = agent::ReadFile {
        path: format!("{RUN}/{token}"),
        ..Default::default()
    };
    let mut said = Vec::new();
    copy::read(&mut client(typed)?, name, request, &mut |bytes| {
        // A line; a guest may send what it likes.
        if said.len() < 4096 {
            said.extend_from_slice(bytes);
        }
        Ok(())
    })?;
    Ok(State::parse(&String::from_utf8_lossy(&said)))
}

impl State {
    fn parse(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" | "going" => Self::Going,
            "waiting" => Self::Waiting,
            word => Self::Ended(word.to_owned(), rest.trim().chars().take(500).collect()),
        }
    }
}

fn show(typed: &Typed, name: &str, word: &str, text: &str) -> Result<u8, Trouble> {
    let is_done = word == "installed";
    let now = version(typed, name).unwrap_or_default();
    if typed.has("json") {
        let before = Some(text).filter(|_| is_done);
        let error = Some(text).filter(|_| !is_done);
        let value: Value = json!({
            "vm": name, "outcome": word, "version_before": before, "version": now, "error": error,
        });
        print_json(&value)?;
        return Ok(u8::from(!is_done));
    }
    if is_done {
        return print(&format!("{name}: {} -> {}\n", plain(text), plain(&now)));
    }
    let what = match word {
        "refused" => "nothing was changed",
        "undone" => "the old agent is back",
        _ => "look into the guest by its console",
    };
    Err(Trouble::Failed(Failure::new(
        Code::Internal,
        format!("{text}; {what}"),
    )))
}

/// Of the agent that is there now.
fn version(typed: &Typed, name: &str) -> Option<String> {
    let found = super::run::look(&mut client(typed).ok()?, name, typed.has("direct")).ok()?;
    Some(found.agent?.version)
}

fn put(
    connection: &mut super::client::Client,
    name: &str,
    path: &str,
    bytes: &[u8],
) -> Result<(), Trouble> {
    let request = agent::WriteFile {
        path: path.to_owned(),
        mode: 0o600,
        create_parents: true,
        ..Default::default()
    };
    let mut upload = Upload::begin(connection, name, Body::WriteFile(request))?;
    // The guest's answer says why it takes no more.
    let _ = std::io::Write::write_all(&mut upload, bytes);
    match upload.finish()? {
        Body::WriteFileResponse(_) => Ok(()),
        _ => Err(unexpected()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Trouble> {
    let shown = plain(&path.to_string_lossy());
    let trouble = |e: std::io::Error| Trouble::Local(format!("read {shown}: {}", system_text(&e)));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(trouble)?;
    file.take(MOST + 1)
        .read_to_end(&mut bytes)
        .map_err(trouble)?;
    if bytes.is_empty() || bytes.len() as u64 > MOST {
        return Err(Trouble::Local(format!(
            "{shown}: no agent has {} bytes",
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_of_it_is_one_short_line() {
        let parse = |text: &str| match State::parse(text) {
            State::Going => "going".to_owned(),
            State::Waiting => "waiting".to_owned(),
            State::Ended(word, text) => format!("{word}|{text}"),
        };
        assert_eq!(parse(""), "going");
        assert_eq!(parse("waiting\n"), "waiting");
        assert_eq!(parse("undone it was not \nmore"), "undone|it was not");
        assert_eq!(parse(&format!("undone {}", "x".repeat(5000))).len(), 507);
    }
}
