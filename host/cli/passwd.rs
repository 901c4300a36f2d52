//! `qx-node passwd`: a user's password in the guest. It comes from stdin: what stands on a command line
//! everyone on this host can see.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use quantix::error::system_text;
use quantix::message::Body;
use quantix::message::agent::{PasswordAction, SetPassword};
use quantix::rt::sys::fd::{Wait, wait};
use serde_json::json;

use super::client::unexpected;
use super::options::Typed;
use super::render::plain;
use super::run::print_json;
use super::signals::Stop;
use super::terminal::Raw;
use super::{Trouble, client, print, utf8, vm};

/// `qx-node passwd`
pub fn passwd(typed: &Typed) -> Result<u8, Trouble> {
    let (name, words) = vm(typed, 1)?;
    let user = utf8("user", words.first().ok_or_else(unexpected)?)?;
    let (action, word) = match ["crypted", "lock", "unlock"].map(|long| typed.has(long)) {
        [_, false, false] => (PasswordAction::Set, "set"),
        [false, true, false] => (PasswordAction::Lock, "locked"),
        [false, false, true] => (PasswordAction::Unlock, "unlocked"),
        _ => {
            let why = "one of --crypted, --lock and --unlock";
            return Err(Trouble::Usage(why.to_owned()));
        }
    };
    let mut client = client(typed)?;
    let password = match action {
        PasswordAction::Set => read(user)?,
        _ => String::new(),
    };
    let request = SetPassword {
        username: user.to_owned(),
        password,
        crypted: typed.has("crypted"),
        action: action.into(),
    };
    let id = client.ask_agent(name, Body::SetPassword(request))?;
    let Body::SetPasswordResponse(done) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    if typed.has("json") {
        return print_json(&json!({
            "vm": name,
            "user": user,
            "action": word,
            "changed": done.changed,
            "file": done.file,
        }));
    }
    let (user, file) = (plain(user), plain(&done.file));
    print(&match done.changed {
        true => format!("{user}: password {word} in {file}\n"),
        false => format!("{user}: password is {word} already in {file}\n"),
    })
}

/// More than any password or hash has.
const MAX: usize = 4096;

/// The password: typed twice, or the one line that stdin has.
fn read(user: &str) -> Result<String, Trouble> {
    let stdin = io::stdin();
    let fd = stdin.as_fd().try_clone_to_owned();
    let input = File::from(fd.map_err(|e| trouble(&e))?);
    let line = if stdin.is_terminal() {
        let stop = Stop::catch()?;
        let hidden = Raw::hidden().map_err(Trouble::Local)?;
        let first = ask(&input, &stop, &format!("New password of {}: ", plain(user)))?;
        let again = ask(&input, &stop, "Once more: ")?;
        drop(hidden);
        if first != again {
            return wrong("that was not the same twice; nothing was changed");
        }
        first
    } else {
        let mut all = Vec::new();
        let read = input.take(MAX as u64 + 1).read_to_end(&mut all);
        read.map_err(|e| trouble(&e))?;
        all
    };
    one_line(line)
}

fn trouble(error: &io::Error) -> Trouble {
    Trouble::Local(format!("stdin: {}", system_text(error)))
}

fn wrong<T>(why: &str) -> Result<T, Trouble> {
    Err(Trouble::Local(why.to_owned()))
}

/// What is in it appears in no error.
fn one_line(mut line: Vec<u8>) -> Result<String, Trouble> {
    if line.len() > MAX {
        return wrong("stdin has more than a password");
    }
    if line.pop_if(|byte| *byte == b'\n').is_some() {
        line.pop_if(|byte| *byte == b'\r');
    }
    if line.is_empty() {
        return wrong("no password on stdin; nothing was changed");
    }
    if line.contains(&b'\n') {
        return wrong("stdin has more than one line; a password is one, without a newline in it");
    }
    String::from_utf8(line).or_else(|_| wrong("the password is not valid UTF-8"))
}

/// A line of the terminal; a signal gives it back as it was.
fn ask(mut terminal: &File, stop: &Stop, prompt: &str) -> Result<Vec<u8>, Trouble> {
    let mut stderr = io::stderr();
    let _ = stderr.write_all(prompt.as_bytes());
    let mut line = Vec::new();
    let mut buffer = [0; MAX];
    while line.last() != Some(&b'\n') && line.len() < MAX {
        wait(&mut [Wait::read(&terminal), Wait::read(stop)], None)?;
        if let Some(signal) = stop.came() {
            let _ = stderr.write_all(b"\n");
            return Err(Trouble::Interrupted(signal));
        }
        match terminal.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => line.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(trouble(&e)),
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line_and_never_repeated() {
        let line = |text: &str| one_line(text.as_bytes().to_vec());
        for text in ["hunter 2", "hunter 2\n", "hunter 2\r\n"] {
            assert_eq!(line(text).unwrap(), "hunter 2");
        }
        let long = "hunter".repeat(1000);
        for text in ["", "\n", "\r\n", "hunter\n2", "hunter2\n\n", &long] {
            let why = line(text).unwrap_err().to_string();
            assert!(!why.contains("hunter"), "{why}");
        }
        assert!(one_line(b"hunter\xFF".to_vec()).is_err());
    }
}
