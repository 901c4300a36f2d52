//! What was typed, checked against the table of commands, and the help that is made of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use lexopt::Arg;

use super::commands::COMMANDS;
use super::groups::{GROUPS, MANY};
use super::many;

/// A command of `qx-node`.
pub struct Command {
    pub name: &'static str,
    /// What follows the name.
    pub usage: &'static str,
    pub about: &'static str,
    pub options: &'static [Opt],
}

impl Command {
    /// Its own, and those by which it is for many VMs.
    pub fn all_options(&self) -> impl Iterator<Item = &'static Opt> {
        self.options.iter().chain(self.many_options())
    }

    /// Those by which it is for many VMs, if it may be; its own go first where they are named alike.
    pub fn many_options(&self) -> impl Iterator<Item = &'static Opt> {
        let is_own = |long| self.options.iter().any(|own| own.long == long);
        let options = if MANY.contains(&self.name) {
            many::OPTIONS
        } else {
            &[]
        };
        options.iter().filter(move |option| !is_own(option.long))
    }
}

/// An option of a command.
pub struct Opt {
    pub long: &'static str,
    pub short: Option<char>,
    /// What its value is called; `None`: it takes none.
    pub value: Option<&'static str>,
    pub about: &'static str,
    /// It may be given more than once, and each counts.
    pub repeats: bool,
}

impl Opt {
    /// As this one, but it may be given more than once.
    pub const fn repeated(self) -> Self {
        Self {
            repeats: true,
            ..self
        }
    }
}

/// An option without a value.
pub const fn flag(long: &'static str, short: Option<char>, about: &'static str) -> Opt {
    Opt {
        long,
        short,
        value: None,
        about,
        repeats: false,
    }
}

/// An option with a value.
pub const fn option(long: &'static str, value: &'static str, about: &'static str) -> Opt {
    Opt {
        long,
        short: None,
        value: Some(value),
        about,
        repeats: false,
    }
}

/// What was typed, checked against the table.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    values: BTreeMap<&'static str, Vec<OsString>>,
    /// The words that are no options, up to `--`.
    pub words: Vec<OsString>,
    /// The words behind `--`, if there was one.
    pub rest: Option<Vec<OsString>>,
}

impl Typed {
    /// What would have to be typed for this, behind the command's name.
    pub fn to_words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        for (long, values) in &self.values {
            let name = OsString::from(format!("--{long}"));
            if values.is_empty() {
                words.push(name);
                continue;
            }
            for value in values {
                let mut word = name.clone();
                word.push("=");
                word.push(value);
                words.push(word);
            }
        }
        words.extend_from_slice(&self.words);
        if let Some(rest) = &self.rest {
            words.push("--".into());
            words.extend_from_slice(rest);
        }
        words
    }

    /// As if it had not been given.
    pub fn remove(&mut self, long: &str) {
        self.values.remove(long);
    }

    /// The flag was given.
    pub fn has(&self, long: &str) -> bool {
        self.values.contains_key(long)
    }

    /// The option's last value.
    pub fn value(&self, long: &str) -> Option<&OsStr> {
        self.values.get(long)?.last().map(OsString::as_os_str)
    }

    /// All values of an option that may be repeated.
    pub fn values(&self, long: &str) -> impl Iterator<Item = &OsStr> {
        self.values
            .get(long)
            .into_iter()
            .flatten()
            .map(OsString::as_os_str)
    }

    /// The option's value as a number.
    pub fn number(&self, long: &str) -> Result<Option<u32>, String> {
        let Some(value) = self.value(long) else {
            return Ok(None);
        };
        let number = value.to_str().and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| {
            format!(
                "--{long} takes a whole number, not {}",
                value.to_string_lossy()
            )
        })
    }

    /// As [`number`](Self::number), of those above 0.
    pub fn positive(&self, long: &str) -> Result<Option<u32>, String> {
        match self.number(long)? {
            Some(0) => Err(format!("--{long} takes a number from 1")),
            number => Ok(number),
        }
    }
}

/// Reads the words behind a command's name. `Ok(None)`: help was asked for.
pub fn parse(
    command: &'static Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Option<Typed>, String> {
    let mut before: Vec<OsString> = words.into_iter().collect();
    let mut typed = Typed::default();
    if let Some(at) = before.iter().position(|word| word == "--") {
        typed.rest = Some(before.split_off(at + 1));
        before.pop();
    }
    let mut parser = lexopt::Parser::from_args(before);
    while let Some(arg) = parser.next().map_err(|e| e.to_string())? {
        let found = match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Value(word) => {
                typed.words.push(word);
                continue;
            }
            Arg::Long(long) => command.all_options().find(|o| o.long == long),
            Arg::Short(short) => command.all_options().find(|o| o.short == Some(short)),
        };
        let Some(option) = found else {
            let mut why = arg.unexpected().to_string();
            if command.name == "exec" {
                why += "; put -- in front of the command";
            }
            return Err(why);
        };
        let values = typed.values.entry(option.long).or_default();
        if option.value.is_some() {
            values.push(parser.value().map_err(|e| e.to_string())?);
        }
    }
    Ok(Some(typed))
}

/// The help of all commands.
pub fn help() -> String {
    let mut text = String::from(
        "Usage: qx-node COMMAND [OPTIONS]\n\n\
         Runs commands in the virtual machines of this host, copies files in and out,\n\
         and shows how they do, over the channel to their quantix-kvm-agent.\n",
    );
    let width = COMMANDS.iter().map(|c| c.name.len()).max().unwrap_or(0);
    for (about, names) in GROUPS {
        text += &format!("\n{about}:\n");
        for command in COMMANDS.iter().filter(|c| names.contains(&c.name)) {
            text += &format!("  {:width$}  {}\n", command.name, command.about);
        }
    }
    text += "\n`qx-node COMMAND --help` shows a command's options.\n\n\
        Exit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon, 4 the guest cannot be\n\
        reached, 5 not permitted. Of exec and shell: the command's own, 128 + n where signal n\n\
        ended it, 124 timed out, 125 not run, or lost with the channel.\n";
    text
}

/// The help of one command.
pub fn help_of(command: &Command) -> String {
    let mut text = format!(
        "Usage: qx-node {} [OPTIONS] {}",
        command.name, command.usage
    );
    text.truncate(text.trim_end().len());
    let mut about = command.about.to_owned();
    if let Some(first) = about.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text += &format!("\n\n{about}.\n\nOptions:\n");
    let left = |option: &Opt| {
        let short = option
            .short
            .map_or("    ".to_owned(), |c| format!("-{c}, "));
        let value = option.value.map_or(String::new(), |v| format!(" {v}"));
        format!("  {short}--{}{value}", option.long)
    };
    let widths = command.all_options().map(|o| left(o).len());
    let width = widths.max().unwrap_or(0);
    for option in command.all_options() {
        text += &format!("{:width$}  {}\n", left(option), option.about);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group_of_the_help() {
        let mut named: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        let mut known: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known);
    }

    #[test]
    fn the_table_is_consistent() {
        for (at, command) in COMMANDS.iter().enumerate() {
            assert!(
                COMMANDS[..at]
                    .iter()
                    .all(|other| other.name != command.name)
            );
            assert!(command.about.len() <= 66, "{}", command.about);
            for (at, option) in command.all_options().enumerate() {
                let mut before = command.all_options().take(at);
                assert!(before.all(|other| other.long != option.long));
                assert!(option.about.len() <= 60, "{}", option.about);
                let is_said = ["may be repeated", "one of each"];
                let is_said = is_said.iter().any(|words| option.about.contains(words));
                assert_eq!(option.repeats, is_said, "{}", option.about);
            }
            assert!(help_of(command).lines().all(|line| line.len() <= 100));
        }
    }

    #[test]
    fn words_behind_two_dashes_are_left_alone() {
        let exec = COMMANDS.iter().find(|c| c.name == "exec").unwrap();
        let words = [
            "--env",
            "A=1",
            "web1",
            "--env=B=2",
            "--",
            "ls",
            "-l",
            "--",
            "x",
        ];
        let typed = parse(exec, words.map(OsString::from)).unwrap().unwrap();
        assert_eq!(typed.words, ["web1"]);
        assert_eq!(typed.rest.as_ref().unwrap(), &["ls", "-l", "--", "x"]);
        assert_eq!(typed.values("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        let why = parse(exec, ["web1", "ls", "-l"].map(OsString::from)).unwrap_err();
        assert!(why.contains("put -- in front"), "{why}");
        assert!(parse(exec, ["-h"].map(OsString::from)).unwrap().is_none());
    }
}
