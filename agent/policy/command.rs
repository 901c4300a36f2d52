//! The lines `command` of agent.conf: programs that may be run, and with which arguments. Pure.

use std::path::Path;

use quantix::message::agent;

use crate::job::PATH;

/// `/path/of/program word… [...]`: in a word `*` stands for any characters and `?` for one; `...` at the end for any
/// further arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub line: usize,
    pub text: String,
    program: String,
    arguments: Vec<String>,
    /// More arguments may follow.
    open: bool,
}

impl Command {
    /// Of the line's value.
    pub fn parse(line: usize, value: &str) -> Result<Self, String> {
        let mut words = value.split_whitespace();
        let program = words.next().unwrap_or_default();
        if !program.starts_with('/') || !program.chars().all(is_plain) {
            return Err(
                "takes the absolute path of a program, and patterns of arguments".to_owned(),
            );
        }
        let mut arguments: Vec<_> = words.map(str::to_owned).collect();
        let open = arguments.pop_if(|last| last == "...").is_some();
        Ok(Self {
            line,
            text: value.to_owned(),
            program: program.to_owned(),
            arguments,
            open,
        })
    }

    /// Whether it has this program with these arguments.
    pub fn matches(&self, words: &[String]) -> bool {
        let Some((name, arguments)) = words.split_first() else {
            return false;
        };
        let is_it = *name == self.program
            || !name.contains('/')
                && PATH
                    .split(':')
                    .any(|directory| Path::new(directory).join(name) == Path::new(&self.program));
        let count = self.arguments.len();
        let fits = match self.open {
            true => arguments.len() >= count,
            false => arguments.len() == count,
        };
        let mut pairs = self.arguments.iter().zip(arguments);
        is_it && fits && pairs.all(|(pattern, word)| glob(pattern.as_bytes(), word.as_bytes()))
    }

    /// Its file.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// It takes arguments that the line does not name.
    pub fn is_loose(&self) -> bool {
        self.open || self.arguments.iter().any(|word| word.contains('*'))
    }

    /// Has the request run this program with these arguments.
    pub fn put_into(&self, request: &mut agent::Execute, words: &[String]) {
        request.args = words.get(1..).unwrap_or_default().to_vec();
        request.command = match request.args.is_empty() {
            // Without arguments it is a line for the shell.
            true => format!("exec {}", self.program),
            false => self.program.clone(),
        };
    }
}

/// The program and its arguments. A line without anything that a shell sees more in than words is one, too. `None`: what
/// is run, nobody can tell.
pub fn words(request: &agent::Execute) -> Option<Vec<String>> {
    let line = &request.command;
    let is_words = line.chars().all(|c| is_plain(c) || c == ' ');
    match () {
        () if request.login_shell => None,
        () if !request.args.is_empty() => {
            let words = std::iter::once(line).chain(&request.args);
            Some(words.cloned().collect())
        }
        () if is_words => Some(line.split_whitespace().map(str::to_owned).collect()),
        () => Some(["/bin/sh", "-c", line].map(str::to_owned).into()),
    }
}

/// As it was asked for.
pub fn shown(request: &agent::Execute) -> String {
    let words = std::iter::once(&*request.command).chain(request.args.iter().map(String::as_str));
    words.collect::<Vec<_>>().join(" ")
}

/// No shell sees anything in it.
const fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(c, '/' | '.' | '-' | '_' | '+' | ',' | ':' | '=' | '@' | '%')
}

/// A variable that no program takes for what to load or to run.
pub fn is_harmless(name: &str) -> bool {
    ["TERM", "LANG"].contains(&name) || name.starts_with("LC_")
}

/// Whether all of the word is as the pattern says.
fn glob(pattern: &[u8], word: &[u8]) -> bool {
    let (mut at, mut in_word) = (0, 0);
    // Where the last `*` is, and how much of the word it may have.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(at), word.get(in_word)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                star = Some((at, in_word));
                at += 1;
            }
            (Some(one), Some(found)) if *one == b'?' || one == found => {
                at += 1;
                in_word += 1;
            }
            _ => match star {
                Some((star_at, eaten)) if eaten < word.len() => {
                    star = Some((star_at, eaten + 1));
                    (at, in_word) = (star_at + 1, eaten + 1);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_all_of_a_word() {
        for (pattern, word, fits) in [
            ("nginx*", "nginx.service", true),
            ("nginx*", "nginx", true),
            ("nginx", "nginx.service", false),
            ("*.log", "a.log.log", true),
            ("*.log", "a.log.1", false),
            ("a*b*c", "aXbYbc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*a", "b a\n;a", true),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), word.as_bytes()),
                fits,
                "{pattern} {word}"
            );
        }
    }

    #[test]
    fn a_pattern_that_is_made_to_take_long_takes_none() {
        let pattern = "a*".repeat(1000) + "b";
        assert!(!glob(pattern.as_bytes(), "a".repeat(5000).as_bytes()));
    }
}
