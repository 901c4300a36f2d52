//! `qx-node keys`: who may log in to the guest as a user, by SSH keys.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use quantix::error::system_text;
use quantix::message::Body;
use quantix::message::agent::{AuthorizedKeys, AuthorizedKeysResponse, KeysAction};
use quantix::rt::authorized::{Key, MAX_FILE, is_clean, is_comment};
use quantix::rt::sha2::sha256;
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::options::Typed;
use super::render::{plain, plain_bytes, table};
use super::run::print_json;
use super::{Trouble, client, print, utf8, vm};

/// `qx-node keys`
pub fn keys(typed: &Typed) -> Result<u8, Trouble> {
    let behind = behind(&typed.words, typed.has("direct"));
    let (name, words) = vm(typed, behind)?;
    let user = utf8("user", words.first().ok_or_else(unexpected)?)?;
    if let Some(extra) = words.get(3) {
        let extra = plain(&extra.to_string_lossy());
        return Err(Trouble::Usage(format!("{extra} is one word too many")));
    }
    let action = words.get(1).map_or(Some("list"), |word| word.to_str());
    let from = words.get(2).map(|word| word.as_os_str());
    let action = match (action, from) {
        (Some("list"), None) => KeysAction::List,
        (Some("add"), Some(_)) => KeysAction::Add,
        (Some("remove"), Some(_)) => KeysAction::Remove,
        (Some("add" | "remove"), None) => {
            let why = "which keys? A file with them, or - for stdin";
            return Err(Trouble::Usage(why.to_owned()));
        }
        _ => {
            let why = "behind the user: list, add FILE or remove FILE";
            return Err(Trouble::Usage(why.to_owned()));
        }
    };
    let mut asked = AuthorizedKeys {
        user: user.to_owned(),
        action: action.into(),
        ..Default::default()
    };
    let print_of = from
        .and_then(OsStr::to_str)
        .filter(|word| word.starts_with(SHA256));
    match (from, print_of) {
        (Some(file), None) => asked.keys = read(file, action)?,
        (Some(_), Some(_)) if action == KeysAction::Add => {
            let why = "a fingerprint is no key; add takes a file";
            return Err(Trouble::Usage(why.to_owned()));
        }
        _ => {}
    }
    let mut client = client(typed)?;
    if let Some(wanted) = print_of {
        let all = list(&mut client, name, user)?;
        let is_meant =
            |line: &&[u8]| Key::parse(line).is_some_and(|key| fingerprint(&key) == wanted);
        let found = lines(&all.text).map(|(_, line)| line).filter(is_meant);
        asked.keys = found.map(|line| line.trim_ascii().to_vec()).collect();
        if asked.keys.is_empty() {
            let (user, wanted) = (plain(user), plain(wanted));
            return Err(Trouble::Local(format!("{user} has no key {wanted}")));
        }
    }
    let sent = asked.keys.len();
    let answer = match action {
        KeysAction::List => list(&mut client, name, user)?,
        _ => ask(&mut client, name, asked)?,
    };
    if typed.has("json") {
        return print_json(&to_json(name, user, action, sent, &answer));
    }
    if !answer.warning.is_empty() {
        let _ = writeln!(io::stderr(), "qx-node: {}", plain(&answer.warning));
    }
    print(&text(user, action, sent, &answer))
}

/// How many words stand behind the VM: one of them is the user, who may be called `list`.
fn behind(words: &[std::ffi::OsString], direct: bool) -> usize {
    let first = if direct { 1 } else { 2 };
    let mut actions = words.iter().enumerate().skip(first);
    let action = actions.find(|(_, word)| *word == "list" || *word == "add" || *word == "remove");
    match action {
        Some((at, _)) => words.len() - at + 1,
        None => words.len().saturating_sub(1).max(1),
    }
}

fn ask(
    client: &mut Client,
    vm: &str,
    asked: AuthorizedKeys,
) -> Result<AuthorizedKeysResponse, Trouble> {
    let id = client.ask_agent(vm, Body::AuthorizedKeys(asked))?;
    match client.wait_agent(id)? {
        Body::AuthorizedKeysResponse(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}

/// All pages.
fn list(client: &mut Client, vm: &str, user: &str) -> Result<AuthorizedKeysResponse, Trouble> {
    let mut text = Vec::new();
    loop {
        let asked = AuthorizedKeys {
            user: user.to_owned(),
            after: text.len() as u64,
            ..Default::default()
        };
        let mut page = ask(client, vm, asked)?;
        text.extend_from_slice(&page.text);
        // A guest that goes on for ever is not believed.
        if !page.more || page.text.is_empty() || text.len() > MAX_FILE {
            page.text = text;
            return Ok(page);
        }
    }
}

/// Lines with their numbers, but empty ones and comments.
fn lines(text: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let lines = (1..).zip(text.split(|byte| *byte == b'\n'));
    lines.filter(|(_, line)| !is_comment(line))
}

/// The lines of a file on this host that are to be sent.
fn read(file: &OsStr, action: KeysAction) -> Result<Vec<Vec<u8>>, Trouble> {
    let shown = match file.to_str() {
        Some("-") => "stdin".to_owned(),
        _ => plain(&file.to_string_lossy()),
    };
    let mut text = Vec::new();
    let limit = MAX_FILE as u64 + 1;
    let read = match file.to_str() {
        Some("-") => io::stdin().take(limit).read_to_end(&mut text),
        _ => File::open(file).and_then(|file| file.take(limit).read_to_end(&mut text)),
    };
    read.map_err(|e| Trouble::Local(format!("{shown}: {}", system_text(&e))))?;
    parse(&shown, &text, action)
}

fn parse(shown: &str, text: &[u8], action: KeysAction) -> Result<Vec<Vec<u8>>, Trouble> {
    let wrong = |why: String| Err(Trouble::Local(why));
    if text.len() > MAX_FILE {
        return wrong(format!("{shown} has more than 1 MiB"));
    }
    let mut keys = Vec::new();
    for (number, line) in lines(text) {
        let line = line.trim_ascii();
        // It must not leave this host.
        if line.starts_with(b"-----BEGIN") || line.starts_with(b"PuTTY-User-Key-File") {
            return wrong(format!("{shown} is a private key; its .pub file is meant"));
        }
        let is_key = is_clean(line) && Key::parse(line).is_some();
        if action == KeysAction::Add && !is_key {
            let form = "[options] type base64 [comment]";
            return wrong(format!("{shown}, line {number}: no whole key: {form}"));
        }
        keys.push(line.to_vec());
    }
    match keys.is_empty() {
        true => wrong(format!("{shown} has no key in it")),
        false => Ok(keys),
    }
}

const SHA256: &str = "SHA256:";

/// As `ssh-keygen -l` shows it.
fn fingerprint(key: &Key) -> String {
    SHA256.to_owned() + &STANDARD_NO_PAD.encode(sha256(&key.blob))
}

fn to_json(
    vm: &str,
    user: &str,
    action: KeysAction,
    sent: usize,
    answer: &AuthorizedKeysResponse,
) -> Value {
    let mut json = json!({
        "vm": vm,
        "user": user,
        "file": answer.file,
        "warning": Some(&answer.warning).filter(|warning| !warning.is_empty()),
    });
    match action {
        KeysAction::List => json["keys"] = lines(&answer.text).map(key_json).collect(),
        KeysAction::Add => {
            json["added"] = answer.added.into();
            json["present"] = present(sent, answer).into();
        }
        KeysAction::Remove => json["removed"] = answer.removed.into(),
    }
    json
}

fn present(sent: usize, answer: &AuthorizedKeysResponse) -> usize {
    sent.saturating_sub(usize::try_from(answer.added).unwrap_or(usize::MAX))
}

fn key_json((number, line): (u32, &[u8])) -> Value {
    let key = Key::parse(line);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let some = |bytes: &[u8]| Some(text(bytes)).filter(|text| !text.is_empty());
    json!({
        "line": number,
        "type": key.as_ref().map(|key| text(key.kind)),
        "fingerprint": key.as_ref().map(fingerprint),
        "comment": key.as_ref().and_then(|key| some(key.comment)),
        "options": key.as_ref().and_then(|key| some(key.options)),
        "text": text(line.trim_ascii()),
    })
}

fn text(user: &str, action: KeysAction, sent: usize, answer: &AuthorizedKeysResponse) -> String {
    let user = plain(user);
    let count = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    match action {
        KeysAction::List if lines(&answer.text).next().is_none() => {
            format!("{user}: no keys in {}\n", plain(&answer.file))
        }
        KeysAction::List => key_table(&answer.text),
        KeysAction::Add => {
            let added = count(number(answer.added), "key");
            match present(sent, answer) {
                0 => format!("{user}: {added} added\n"),
                present => format!("{user}: {added} added, {present} there already\n"),
            }
        }
        KeysAction::Remove => match answer.removed {
            0 => format!("{user}: nothing to remove, no such key\n"),
            removed => format!("{user}: {} removed\n", count(number(removed), "key")),
        },
    }
}

fn key_table(text: &[u8]) -> String {
    let head = ["LINE", "TYPE", "FINGERPRINT", "COMMENT", "OPTIONS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (number, line) in lines(text) {
        let mut row = vec![number.to_string()];
        match Key::parse(line) {
            Some(key) => row.extend([
                short(key.kind),
                fingerprint(&key),
                short(key.comment),
                short(key.options),
            ]),
            None => row.extend(["no key".to_owned(), short(line)]),
        }
        rows.push(row);
    }
    table(&rows)
}

/// As much as a fingerprint has.
fn short(bytes: &[u8]) -> String {
    let shown = plain_bytes(bytes);
    match shown.char_indices().nth(47) {
        Some((at, _)) if shown.chars().count() > 50 => format!("{}...", &shown[..at]),
        _ if shown.is_empty() => "-".to_owned(),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqb7a7ED5lJq0oHvXUdc0e6sQ0C1Xq0eC3sY8m6mI5d";

    #[test]
    fn a_user_may_be_called_as_an_action() {
        for (line, direct, found) in [
            ("vm alice", false, 1),
            ("vm alice list", false, 2),
            ("vm alice add f", false, 3),
            ("vm list", false, 1),
            ("vm list list", false, 2),
            ("vm add remove -", false, 3),
            ("alice list", true, 2),
            ("alice", true, 1),
            ("vm", false, 1),
        ] {
            let words: Vec<_> = line.split(' ').map(std::ffi::OsString::from).collect();
            assert_eq!(behind(&words, direct), found, "{line}");
        }
    }

    #[test]
    fn a_file_has_keys_and_no_secrets() {
        let parse = |text: &str| parse("f", text.as_bytes(), KeysAction::Add);
        let two = format!("# mine\r\n\n{KEY} a\r\n  no-pty {KEY}");
        let keys = [format!("{KEY} a"), format!("no-pty {KEY}")];
        assert_eq!(parse(&two).unwrap(), keys.map(String::into_bytes));
        for (text, why) in [
            ("", "f has no key in it"),
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n",
                "f is a private key",
            ),
            (&format!("{KEY}\nsecret"), "f, line 2: no whole key"),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.starts_with(why) && !said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn fingerprints_are_those_of_ssh_keygen() {
        let key = Key::parse(KEY.as_bytes()).unwrap();
        assert_eq!(
            fingerprint(&key),
            "SHA256:fxmtUNLIHcyquUwqXjh+hFc0GJUmkhzJCh6UVHM2Hpg"
        );
    }

    #[test]
    fn lines_that_are_no_keys_are_shown_without_harm() {
        let odd = "\x1b[2J".to_owned() + &"x".repeat(100);
        let text = format!("no-pty {KEY} a\x1b[2J\n#\n{KEY} me@here\n\n{odd}\n");
        let shown = key_table(text.as_bytes());
        assert!(!shown.contains('\x1b'), "{shown}");
        assert!(
            shown.lines().nth(2).unwrap().ends_with("me@here   -"),
            "{shown}"
        );
        assert!(shown.contains("  a\\x1b[2J  no-pty\n"), "{shown}");
        assert!(shown.contains("\n5     no key"), "{shown}");
        let json: Vec<Value> = lines(text.as_bytes()).map(key_json).collect();
        assert_eq!(json[1]["comment"], "me@here");
        assert_eq!(json[2]["type"], Value::Null);
    }
}
