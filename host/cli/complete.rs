//! `qx-node complete WORD...`: what may stand in the place of the last word, for the shells (`host/completions`). The words
//! are those behind `qx-node`, the last one is being typed. A line is a word, a tab, and what the word is. `:files` and
//! `:dirs` have the shell offer its own, too. What is not known is not offered, and trouble is not told of.

use std::ffi::OsString;
use std::time::Duration;

use quantix::rt::log::Level;

use super::client::Client;
use super::commands::COMMANDS;
use super::jobs::SIGNALS;
use super::options::{Command, Opt};
use super::top::By;
use super::{Trouble, control_at, find, print, processes, render, run};
use crate::daemon::{TimeSync, state_word};

/// A word, and what it is.
type Offer = (String, String);

/// What there is to choose from.
#[derive(Debug, Default, PartialEq, Eq)]
struct Offers {
    words: Vec<Offer>,
    /// What the shell offers by itself.
    paths: Option<Paths>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paths {
    Files,
    Directories,
}

/// Lists the VMs of the daemon on this control socket; `None`: where it always is.
type Vms<'a> = &'a mut dyn FnMut(Option<&str>) -> Vec<Offer>;

/// So long the daemon may take in all: somebody waits for the key.
const PATIENCE: Duration = Duration::from_millis(400);

/// The whole command.
pub fn complete(words: impl Iterator<Item = OsString>) -> Result<u8, Trouble> {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into()).collect();
    print(&offers(&words, &mut vms).text())
}

fn vms(control: Option<&str>) -> Vec<Offer> {
    let control = control_at(control.map(OsString::from));
    let found =
        Client::connect_for(&control, PATIENCE).and_then(|mut client| run::list(&mut client));
    let found = found.unwrap_or_default();
    let mut vms: Vec<Offer> = found
        .into_iter()
        .filter(|vm| is_typed_as_it_is(&vm.name))
        .map(|vm| (vm.name.clone(), state_word(vm.state()).to_owned()))
        .collect();
    vms.sort();
    vms
}

/// Nothing in it is for a terminal, and it is taken for no option, nor for a word of ours.
fn is_typed_as_it_is(name: &str) -> bool {
    render::plain(name) == name && !name.is_empty() && !name.starts_with(['-', ':'])
}

impl Offers {
    /// Those that begin as what was typed, behind `head`, which stays.
    fn of(words: impl IntoIterator<Item = Offer>, head: &str, typed: &str) -> Self {
        let words = words
            .into_iter()
            .filter(|(word, _)| word.starts_with(typed));
        Self {
            words: words
                .map(|(word, about)| (format!("{head}{word}"), about))
                .collect(),
            paths: None,
        }
    }

    fn paths(paths: Paths) -> Self {
        Self {
            words: Vec::new(),
            paths: Some(paths),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (word, about) in &self.words {
            text += &format!("{word}\t{about}\n");
        }
        text += match self.paths {
            None => "",
            Some(Paths::Files) => ":files\n",
            Some(Paths::Directories) => ":dirs\n",
        };
        text
    }
}

fn offers(words: &[String], vms: Vms) -> Offers {
    let (typed, before) = match words {
        [] => ("", &[][..]),
        [before @ .., typed] => (typed.as_str(), before),
    };
    match before {
        [] => Offers::of(commands(), "", typed),
        [help] if help == "help" => Offers::of(commands(), "", typed),
        [name, before @ ..] => match find(name.as_ref()) {
            Some(command) => Line::read(command, before).offers(typed, vms),
            None => Offers::default(),
        },
    }
}

fn commands() -> impl Iterator<Item = Offer> {
    let own = [
        ("help", "show all commands, or one"),
        ("version", "show the version"),
    ];
    let all = COMMANDS.iter().map(|command| (command.name, command.about));
    all.chain(own)
        .map(|(name, about)| (name.to_owned(), about.to_owned()))
}

/// What stands in front of the word.
struct Line<'a> {
    command: &'static Command,
    words: Vec<&'a str>,
    given: Vec<(&'static Opt, Option<&'a str>)>,
    /// The word is the value of this one.
    awaits: Option<&'static Opt>,
    /// Behind `--` nothing is ours.
    is_over: bool,
}

impl<'a> Line<'a> {
    /// As `options::parse` has it, but that nothing is wrong.
    fn read(command: &'static Command, before: &'a [String]) -> Self {
        let mut line = Self {
            command,
            words: Vec::new(),
            given: Vec::new(),
            awaits: None,
            is_over: before.iter().any(|word| word == "--"),
        };
        for word in before {
            if let Some(option) = line.awaits.take() {
                line.given.push((option, Some(word)));
            } else if let Some(long) = word.strip_prefix("--") {
                line.long(long);
            } else if let Some(letters) =
                word.strip_prefix('-').filter(|letters| !letters.is_empty())
            {
                line.short(letters);
            } else {
                line.words.push(word);
            }
        }
        line
    }

    fn long(&mut self, word: &'a str) {
        let (long, value) = match word.split_once('=') {
            Some((long, value)) => (long, Some(value)),
            None => (word, None),
        };
        // As `many::separate` has it.
        let long = if long.starts_with("all:") {
            "all"
        } else {
            long
        };
        let Some(option) = self.option(long) else {
            return;
        };
        match (option.value, value) {
            (Some(_), None) => self.awaits = Some(option),
            _ => self.given.push((option, value)),
        }
    }

    /// `-n5` is `-n 5`, `-fv` is `-f -v`.
    fn short(&mut self, letters: &'a str) {
        for (at, letter) in letters.char_indices() {
            let found = self
                .command
                .all_options()
                .find(|option| option.short == Some(letter));
            let Some(option) = found else { continue };
            let behind = &letters[at + letter.len_utf8()..];
            match (option.value, behind) {
                (None, _) => self.given.push((option, None)),
                (Some(_), "") => self.awaits = Some(option),
                (Some(_), value) => {
                    self.given.push((option, Some(value)));
                    return;
                }
            }
        }
    }

    fn option(&self, long: &str) -> Option<&'static Opt> {
        self.command
            .all_options()
            .find(|option| option.long == long)
    }

    fn is_given(&self, long: &str) -> bool {
        self.given.iter().any(|(option, _)| option.long == long)
    }

    fn offers(&self, typed: &str, vms: Vms) -> Offers {
        if self.is_over {
            return Offers::paths(Paths::Files);
        }
        if let Some(option) = self.awaits {
            return self.values("", option, typed, vms);
        }
        if let Some((long, value)) = typed
            .strip_prefix("--")
            .and_then(|word| word.split_once('='))
        {
            let head = format!("--{long}=");
            let option = self.option(long).filter(|option| option.value.is_some());
            return option.map_or_else(Offers::default, |option| {
                self.values(&head, option, value, vms)
            });
        }
        if typed.starts_with('-') {
            return self.options(typed);
        }
        match self.command.name {
            "cp" => self.ends(typed, vms),
            _ => self.word(typed, vms),
        }
    }

    /// Those that have not been given, or may be once more.
    fn options(&self, typed: &str) -> Offers {
        let all = self.command.all_options();
        let all = all.filter(|option| option.repeats || !self.is_given(option.long));
        let all = all.map(|option| (option.long, option.about));
        let all = all.chain([("help", "show these options")]);
        Offers::of(
            all.map(|(long, about)| (format!("--{long}"), about.to_owned())),
            "",
            typed,
        )
    }

    fn values(&self, head: &str, option: &Opt, typed: &str, vms: Vms) -> Offers {
        let known = values(option).map(|value| (value.to_owned(), String::new()));
        let mut offers = Offers::of(known, head, typed);
        if option.long == "match" {
            offers = Offers::of(self.vms(vms), head, typed);
        }
        offers.paths = match option.value {
            Some("SOCKET" | "TARGET") => Some(Paths::Files),
            Some(name) if name.starts_with("FILE") => Some(Paths::Files),
            // Another DIR is one of the guest.
            Some("DIR") if option.long == "vms-dir" => Some(Paths::Directories),
            _ => None,
        };
        offers
    }

    /// With `--direct` there is no daemon.
    fn vms(&self, vms: Vms) -> Vec<Offer> {
        if self.is_given("direct") {
            return Vec::new();
        }
        let mut given = self.given.iter().rev();
        let control = given.find(|(option, _)| option.long == "control");
        vms(control.and_then(|(_, socket)| *socket))
    }

    /// The VM is named by an option.
    fn has_no_vm(&self) -> bool {
        let chooses = ["all", "match", "direct"];
        let is_own = |long: &str| self.command.options.iter().any(|own| own.long == long);
        chooses
            .iter()
            .any(|long| self.is_given(long) && (*long == "direct" || !is_own(long)))
    }

    /// The ends of a copy: what is in a guest is not known.
    fn ends(&self, typed: &str, vms: Vms) -> Offers {
        // As `copy` has it: a colon behind a slash belongs to a local name.
        if typed
            .split('/')
            .next()
            .is_some_and(|first| first.contains(':'))
        {
            return Offers::default();
        }
        let mut offers = Offers::default();
        if !typed.contains('/') && !self.has_no_vm() {
            let vms = self.vms(vms).into_iter();
            offers = Offers::of(vms.map(|(name, state)| (name + ":", state)), "", typed);
        }
        offers.paths = Some(Paths::Files);
        offers
    }

    /// What the usage has in the place of this word.
    fn word(&self, typed: &str, vms: Vms) -> Offers {
        let slots = slots(self.command.usage);
        let shift = usize::from(self.has_no_vm() && slots.first() == Some(&"VM"));
        let at = self.words.len() + shift;
        // `[VM...]`, and not `[list | remove FILE...]`.
        let repeated = slots
            .last()
            .filter(|last| last.ends_with("...]") && !last.contains(' '));
        match slots.get(at).copied().or(repeated.copied()) {
            Some("VM" | "[VM]" | "[VM...]") => {
                let mut found = self.vms(vms);
                found.retain(|(name, _)| !self.words.contains(&name.as_str()));
                Offers::of(found, "", typed)
            }
            Some("--") => Offers::of(
                [("--".to_owned(), "the command is behind it".to_owned())],
                "",
                typed,
            ),
            Some(slot) => {
                let firsts = alternatives(slot).filter_map(|words| words.split(' ').next());
                let literal = firsts.filter(|word| word.bytes().all(|b| b.is_ascii_lowercase()));
                Offers::of(
                    literal.map(|word| (word.to_owned(), String::new())),
                    "",
                    typed,
                )
            }
            None => self
                .behind_a_choice(&slots, at)
                .unwrap_or_else(|| self.options(typed)),
        }
    }

    /// Behind `add` of `[add FILE | remove FILE]`; `None`: nothing more is taken.
    fn behind_a_choice(&self, slots: &[&str], at: usize) -> Option<Offers> {
        let last = slots.len().checked_sub(1)?;
        let back = self.words.len().checked_sub(at - last)?;
        let chosen = self.words.get(back)?;
        let mut all = alternatives(slots.get(last)?).map(|words| words.split(' '));
        let mut words = all.find(|words| words.clone().next() == Some(chosen))?;
        let word = words.nth(at - last)?;
        Some(match word.starts_with("FILE") {
            true => Offers::paths(Paths::Files),
            false => Offers::default(),
        })
    }
}

/// The words of a usage; what is in brackets is one.
fn slots(usage: &str) -> Vec<&str> {
    let mut depth = 0;
    let is_between = move |c: char| {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        c == ' ' && depth == 0
    };
    usage
        .split(is_between)
        .filter(|slot| !slot.is_empty())
        .collect()
}

/// `[list | add FILE|-]` are `list` and `add FILE|-`, `start|stop` are these.
fn alternatives(slot: &str) -> impl Iterator<Item = &str> {
    let inside = slot.trim_start_matches('[').trim_end_matches(']');
    let between = if inside.contains(" | ") { " | " } else { "|" };
    inside.split(between)
}

/// The values of an option, where they are known.
pub fn values(option: &Opt) -> impl Iterator<Item = &'static str> + use<> {
    let known: Vec<&str> = match (option.long, option.value) {
        (_, Some("SIGNAL")) => SIGNALS.iter().map(|(name, _)| *name).collect(),
        (_, Some("COLUMN")) => By::ALL.into_iter().map(By::word).collect(),
        ("sort", Some("KEY")) => processes::ORDERS.to_vec(),
        (_, Some("LEVEL")) => Level::ALL.into_iter().map(Level::word).collect(),
        (_, Some("WHEN")) => TimeSync::ALL.into_iter().map(TimeSync::word).collect(),
        (_, Some("TARGET")) => vec!["stderr", "syslog"],
        ("online", _) => vec!["all"],
        _ => Vec::new(),
    };
    known.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Offers {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let vms = ["db1", "web1", "web2"].map(|name| (name.to_owned(), "ready".to_owned()));
        offers(&words, &mut |control| match control {
            Some("/none") => Vec::new(),
            _ => vms.to_vec(),
        })
    }

    /// The words that are offered, and `:files` or `:dirs`.
    fn words(line: &str) -> String {
        let text = of(line).text();
        let words: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split('\t').next())
            .collect();
        words.join(" ")
    }

    #[test]
    fn commands_and_help_of_them() {
        assert_eq!(words("ex"), "exec");
        assert_eq!(
            of("ex").text(),
            format!("exec\t{}\n", find("exec".as_ref()).unwrap().about)
        );
        assert_eq!(words("he"), "help");
        assert_eq!(words("help serv"), "services service serve");
        assert_eq!(words("").split(' ').count(), COMMANDS.len() + 2);
        assert_eq!(offers(&[], &mut |_| Vec::new()), of(""));
        // This one is for shells alone.
        assert_eq!(words("comp"), "");
        for nothing in ["no-such ", "no-such --", "version ", "help exec "] {
            assert_eq!(words(nothing), "", "{nothing}");
        }
    }

    #[test]
    fn options_once_but_for_those_that_repeat() {
        assert_eq!(words("logs web1 --li"), "--lines");
        assert_eq!(words("logs web1 -n 5 --li"), "");
        assert_eq!(words("logs web1 -n5 --li"), "");
        assert_eq!(words("logs web1 --lines=5 --li"), "");
        assert_eq!(words("logs web1 -fn 5 --f"), "");
        assert_eq!(words("exec web1 --env A=1 --en"), "--env");
        assert_eq!(words("exec web1 --tty --tt"), "");
        assert_eq!(words("vms -"), "--json --control --direct --help");
        // Of commands for many VMs those too; of the others not.
        assert_eq!(words("ping --ma"), "--match");
        assert_eq!(words("shell --ma"), "");
        // Where no word is taken they are what there is.
        assert_eq!(words("vms "), words("vms -"));
        assert_eq!(words("shell web1 "), words("shell web1 -"));
    }

    #[test]
    fn values_that_are_known() {
        for (line, wanted) in [
            ("top --sort n", "name"),
            ("top --sort=t", "--sort=traffic"),
            ("ps web1 --sort ", "cpu memory pid"),
            ("kill web1 1 --signal US", "USR1 USR2"),
            ("signal web1 1 --signal=T", "--signal=TERM --signal=TSTP"),
            ("serve --log-level ", "error warning info debug"),
            ("serve --time-sync ", "never on-resume restored"),
            ("serve --log s", "stderr syslog :files"),
            ("serve --config ", ":files"),
            ("serve --config=x", ":files"),
            ("serve --vms-dir ", ":dirs"),
            ("doctor --bundle ", ":files"),
            ("vms --control ", ":files"),
            ("exec web1 --cwd ", ""),
            ("exec web1 --user ", ""),
            ("logs web1 nginx -n ", ""),
            ("vms --json=", ""),
            ("vms --no-such=", ""),
            ("ping --match we", "web1 web2"),
            ("ping --match=d", "--match=db1"),
        ] {
            assert_eq!(words(line), wanted, "{line}");
        }
    }

    #[test]
    fn values_are_those_that_the_commands_take() {
        use super::super::jobs::signal_number;
        for command in COMMANDS {
            for option in command.all_options() {
                for value in values(option) {
                    let fine = match option.value {
                        Some("SIGNAL") => signal_number(value).is_ok(),
                        Some("LEVEL" | "WHEN" | "TARGET") => {
                            let key = option.long.replace('-', "_");
                            crate::config::Config::default().set(&key, value).is_ok()
                        }
                        Some("COLUMN") => By::of(value).is_some(),
                        // Said in the table, and looked for there by the commands.
                        _ => option.about.contains(value),
                    };
                    assert!(fine, "{} --{} {value}", command.name, option.long);
                }
            }
        }
    }

    #[test]
    fn vms_where_the_usage_has_one() {
        for (line, wanted) in [
            ("exec w", "web1 web2"),
            ("ping d", "db1"),
            ("ping -c 3 d", "db1"),
            ("events ", "db1 web1 web2"),
            ("doctor web1 ", "db1 web2"),
            ("doctor web1 db1 w", "web2"),
            ("vms w", ""),
            ("top w", ""),
            ("attach web1 ", ""),
            ("shell --control=/none ", ""),
            ("shell --control /none ", ""),
            // It is named by an option.
            ("cat --match web* ", ""),
            ("service --all nginx st", "status start stop"),
            ("network --direct=/x ", "set confirm undo"),
        ] {
            assert_eq!(words(line), wanted, "{line}");
        }
        assert_eq!(of("exec d").text(), "db1\tready\n");
    }

    #[test]
    fn further_words_of_a_usage() {
        for (line, wanted) in [
            ("exec web1 ", "--"),
            ("exec web1 -- ", ":files"),
            ("exec web1 -- ls --", ":files"),
            (
                "service web1 nginx ",
                "status start stop restart enable disable",
            ),
            ("service web1 ", ""),
            ("network web1 ", "set confirm undo"),
            ("network web1 set ", ""),
            // What it does for many VMs is not what its own option does.
            ("network web1 --all ", "set confirm undo"),
            ("keys web1 alice ", "list add remove"),
            ("keys web1 alice add ", ":files"),
            ("keys web1 alice remove ", ":files"),
            ("freeze web1 / ", ""),
            ("packages web1 ", ""),
        ] {
            assert_eq!(words(line), wanted, "{line}");
        }
        assert_eq!(words("keys web1 alice list "), words("keys web1 -"));
    }

    #[test]
    fn ends_of_copies_are_files_here_and_in_vms() {
        for (line, wanted) in [
            ("cp w", "web1: web2: :files"),
            ("cp here ", "db1: web1: web2: :files"),
            ("cp ./w", ":files"),
            ("cp here web1:/e", ""),
            ("cp here ./web1:", ":files"),
            ("cp --all here ", ":files"),
            ("cp here --all:/x ", ":files"),
            ("cp -r --direct /x w", ":files"),
        ] {
            assert_eq!(words(line), wanted, "{line}");
        }
    }

    #[test]
    fn no_name_is_taken_for_something_else() {
        for name in ["web1", "a b", "\u{fc}", "a:b", "~"] {
            assert!(is_typed_as_it_is(name), "{name:?}");
        }
        for name in ["", "-x", ":files", "a\tb", "a\nb", "\x1b[2J", "\u{9b}31m"] {
            assert!(!is_typed_as_it_is(name), "{name:?}");
        }
    }

    #[test]
    fn every_line_of_an_answer_is_a_word_and_what_it_is() {
        for command in COMMANDS {
            for line in [format!("{} ", command.name), format!("{} -", command.name)] {
                for (word, about) in of(&line).words {
                    assert!(!word.is_empty() && !word.starts_with(':'), "{word}");
                    assert!(
                        !format!("{word}{about}").chars().any(char::is_control),
                        "{word}"
                    );
                }
            }
        }
    }
}
