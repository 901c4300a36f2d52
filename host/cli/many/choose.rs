//! Which VMs are meant, and what the command is for one of them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use quantix::error::{Code, Failure, system_text};
use quantix::message::node::{self, VmState};

use super::super::Trouble;
use super::super::options::{Command, Typed};

/// The VMs that are meant.
pub struct Chosen {
    pub names: Vec<String>,
    /// So many more are off, and left out.
    pub off: usize,
}

/// What cannot be meant for many is said once.
pub fn check(command: &Command, typed: &Typed) -> Result<(), Trouble> {
    let usage = |why: String| Err(Trouble::Usage(why));
    // What `network VM --all` means is its own.
    let all = command.many_options().any(|o| o.long == "all") && typed.has("all");
    if !all && !typed.has("match") {
        return usage("in which VMs? --match PATTERN".to_owned());
    }
    if all && typed.has("match") {
        return usage("--all or --match, not both".to_owned());
    }
    for alone in ["interactive", "tty", "follow", "watch", "direct"] {
        if typed.has(alone) {
            return usage(format!("--{alone} is for one VM"));
        }
    }
    if let ("VM" | "VM -- COMMAND [ARG...]", Some(word)) = (command.usage, typed.words.first()) {
        let word = word.to_string_lossy();
        return usage(format!(
            "{word} is one word too many: the VMs are chosen by option"
        ));
    }
    if command.name == "exec" && typed.rest.as_ref().is_none_or(Vec::is_empty) {
        return usage("no command: put -- in front of it".to_owned());
    }
    if command.name == "cp" {
        let mut words = typed.words.iter().chain(typed.rest.iter().flatten());
        if words.clone().any(|word| word == "-") {
            return usage("- is for one VM".to_owned());
        }
        if !words.any(|word| is_in_each(word)) {
            return usage("one side is in each VM: :PATH, or --all:PATH".to_owned());
        }
    }
    Ok(())
}

/// Of these, in the order of their names.
pub fn choose(typed: &Typed, vms: Vec<node::Vm>) -> Result<Chosen, Trouble> {
    let mut patterns = Vec::new();
    for pattern in typed.values("match") {
        let why = || Trouble::Usage("--match takes UTF-8".to_owned());
        patterns.push(pattern.to_str().ok_or_else(why)?);
    }
    let is_meant = |name: &str| patterns.is_empty() || patterns.iter().any(|p| matches(p, name));
    let (off, on): (Vec<_>, Vec<_>) = vms
        .into_iter()
        .filter(|vm| is_meant(&vm.name))
        .partition(|vm| vm.state == VmState::Absent as i32);
    let mut names: Vec<String> = on.into_iter().map(|vm| vm.name).collect();
    names.sort();
    if names.is_empty() {
        let why = match (off.len(), patterns.is_empty()) {
            (0, true) => "there is no VM".to_owned(),
            (0, false) => format!("no VM is named {}", patterns.join(" or ")),
            (off, _) => format!("all {off} VMs that are meant are off"),
        };
        let why = format!("{why}; `qx-node vms` lists them");
        return Err(Trouble::Failed(Failure::new(Code::NotFound, why)));
    }
    let off = off.len();
    Ok(Chosen { names, off })
}

/// What this program is called with for one of them, behind the command's name.
pub fn words_for(command: &Command, typed: &Typed, name: &str) -> Result<Vec<OsString>, Trouble> {
    let mut one = typed.clone();
    for option in command.many_options() {
        one.remove(option.long);
    }
    if command.name != "cp" {
        one.words.insert(0, name.into());
        return Ok(one.to_words());
    }
    let mut words: Vec<&mut OsString> = one.words.iter_mut().collect();
    words.extend(one.rest.iter_mut().flatten());
    if let Some(target) = words.last_mut().filter(|target| !is_in_each(target)) {
        **target = own_directory(target, name)?.into_os_string();
    }
    for word in words {
        if is_in_each(word) {
            let mut path = OsString::from(name);
            path.push(&*word);
            *word = path;
        }
    }
    Ok(one.to_words())
}

/// What comes from a VM goes into a directory that is named as it is.
fn own_directory(target: &OsStr, name: &str) -> Result<std::path::PathBuf, Trouble> {
    let trouble = |why: String| Trouble::Local(why);
    if [".", ".."].contains(&name) {
        return Err(trouble(format!(
            "a VM named {name} can have no directory of its own"
        )));
    }
    let path = Path::new(target).join(name);
    fs::create_dir_all(&path)
        .map_err(|e| trouble(format!("make {}: {}", path.display(), system_text(&e))))?;
    Ok(path)
}

fn is_in_each(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b":")
}

/// As a shell matches names: `*`, `?`, `[a-f]`, `{web,db}`.
pub fn matches(pattern: &str, name: &str) -> bool {
    fast_glob::glob_match(pattern, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_a_shell_does() {
        for (pattern, name) in [
            ("web*", "web1"),
            ("web*", "web"),
            ("*", ""),
            ("w?b1", "wob1"),
            ("*-db-*", "a-db-db-b"),
            ("*b", "abab"),
            ("{web,db}[0-4]", "db3"),
            ("web1", "web1"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("web", "web1"),
            ("?", ""),
            ("*-db", "x-db1"),
            ("W*", "web"),
            ("{web,db}[0-4]", "db5"),
            ("web[", "web"),
            ("", "x"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        // Many stars and no match: it does not try all ways.
        assert!(!matches(&"*a".repeat(60), &"a".repeat(59)));
    }
}
