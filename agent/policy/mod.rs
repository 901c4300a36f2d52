//! What this guest lets its host do: `allow` and the keys behind it in agent.conf. Pure, but for [`paths`].
//!
//! Without such a line all is allowed. A line that makes no sense closes the guest, but for Ping and telemetry: what
//! was meant to keep somebody out must not let him in.

mod command;
pub mod explain;
pub mod paths;

use std::time::Duration;

use quantix::action::{Action, Group};
use quantix::error::{Code, Failure};
use quantix::message::{Body, agent};
use quantix::rate::Rate;
use quantix::rt::conf::Line;
use quantix::text::cut;
use quantix::time::Time;

use command::Command;
use paths::Paths;

/// The keys that are a policy's.
pub const KEYS: [&str; 6] = [
    "allow",
    "read_path",
    "write_path",
    "command",
    "run_as",
    "rate",
];

/// Lines of one key.
const MAX_LINES: usize = 64;

/// Bytes of a command line in a refusal: whoever asked knows the rest.
const MAX_SHOWN: usize = 80;

/// What the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where it is written.
    pub file: String,
    /// A line that makes no sense, and why: nothing is allowed.
    pub fault: Option<String>,
    allow: Option<Allow>,
    /// Where files may be read, and where they may be written.
    pub reads: Paths,
    pub writes: Paths,
    commands: Vec<Command>,
    run_as: Option<RunAs>,
    limits: Vec<Limit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Allow {
    line: usize,
    text: String,
    groups: Vec<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RunAs {
    line: usize,
    users: Vec<String>,
}

/// So many requests of a group in a time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    line: usize,
    text: String,
    group: Group,
    count: u32,
    time: Duration,
}

impl Policy {
    /// Of a configuration in this file that says nothing yet.
    pub fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            fault: None,
            allow: None,
            reads: Paths::new(file, "read"),
            writes: Paths::new(file, "write"),
            commands: Vec::new(),
            run_as: None,
            limits: Vec::new(),
        }
    }

    /// Takes one of [`KEYS`].
    ///
    /// # Errors
    /// What it takes.
    pub fn set(&mut self, line: Line) -> Result<(), String> {
        let twice = |set: bool| match set {
            true => Err("is there twice; which one counts?".to_owned()),
            false => Ok(()),
        };
        let (number, value) = (line.number, line.value);
        match line.key {
            "allow" => {
                twice(self.allow.is_some())?;
                self.allow = Some(Allow {
                    line: number,
                    text: value.to_owned(),
                    groups: groups(value)?,
                });
            }
            "read_path" => self.reads.add(number, value)?,
            "write_path" => self.writes.add(number, value)?,
            "command" => push(&mut self.commands, Command::parse(number, value)?)?,
            "run_as" => {
                twice(self.run_as.is_some())?;
                let users: Vec<_> = value.split_whitespace().map(str::to_owned).collect();
                if users.is_empty() {
                    return Err("takes users, with blanks between them".to_owned());
                }
                let line = number;
                self.run_as = Some(RunAs { line, users });
            }
            "rate" => push(&mut self.limits, Limit::parse(number, value)?)?,
            _ => return Err(format!("is no key of a policy: {}", KEYS.join(", "))),
        }
        Ok(())
    }

    /// Whether a group is allowed at all.
    fn allows(&self, group: Group) -> bool {
        let allow = self.allow.as_ref();
        self.fault.is_none() && allow.is_none_or(|allow| allow.groups.contains(&group))
    }

    /// What `doing` is told by which line of this file.
    fn denied(&self, doing: &str, line: usize, why: &str) -> Failure {
        let file = &self.file;
        let why = format!("{doing} is not allowed in this guest: {file} line {line}: {why}");
        Failure::new(Code::Policy, why)
    }

    /// A command may be run as whom, and which. What is run is what the line names: no name of the request's reaches
    /// the file system.
    fn judge_command(&self, request: &mut agent::Execute) -> Result<(), Failure> {
        if let Some(RunAs { line, users }) = &self.run_as {
            let user = match request.run_as_user.as_str() {
                "" => "root",
                user => user,
            };
            let group = &request.run_as_group;
            let list = users.join(" ");
            if !users.iter().any(|known| known == user) {
                let why = format!("run_as = {list}");
                return Err(self.denied(&format!("exec as {user:?}"), *line, &why));
            }
            if !group.is_empty() {
                let why = format!("run_as = {list}; with their own groups");
                return Err(self.denied(&format!("exec with group {group:?}"), *line, &why));
            }
        }
        let Some(first) = self.commands.first() else {
            return Ok(());
        };
        let words = command::words(request);
        let found = words.as_ref().and_then(|words| {
            let mut commands = self.commands.iter();
            commands.find(|command| command.matches(words))
        });
        let (Some(found), Some(words)) = (found, words) else {
            let what = match request.login_shell {
                true => "a login shell".to_owned(),
                false => {
                    let shown = command::shown(request);
                    let more = if shown.len() > MAX_SHOWN { "..." } else { "" };
                    format!("exec {:?}{more}", cut(&shown, MAX_SHOWN))
                }
            };
            let why = match self.commands.len() {
                1 => "the only command line does not have it".to_owned(),
                n => format!("none of the {n} command lines from there on has it"),
            };
            return Err(self.denied(&what, first.line, &why));
        };
        if let Some(name) = request
            .environment
            .keys()
            .find(|name| !command::is_harmless(name))
        {
            let why = "where commands are listed, requests set only TERM, LANG and LC_*";
            return Err(self.denied(&format!("exec with {name:?} set"), found.line, why));
        }
        if !request.working_directory.is_empty() {
            let why = "where commands are listed, requests choose no working directory";
            return Err(self.denied("exec in a directory", found.line, why));
        }
        found.put_into(request, &words);
        Ok(())
    }
}

/// The policy, and what has been asked so far.
#[derive(Debug)]
pub struct Judge {
    policy: Policy,
    /// Of each limit.
    rates: Vec<Rate>,
}

impl Judge {
    /// Nothing has been asked yet.
    pub fn new(policy: Policy) -> Self {
        let rate = |limit: &Limit| Rate::new(limit.count, limit.time / limit.count);
        Self {
            rates: policy.limits.iter().map(rate).collect(),
            policy,
        }
    }

    /// What it goes by.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether this may be done; the request is what may be done then. Paths are judged where they are opened.
    ///
    /// # Errors
    /// [`Code::Policy`]: it may not, and which line says so. [`Code::Busy`]: not now.
    pub fn judge(&mut self, now: Time, action: &Action, body: &mut Body) -> Result<(), Failure> {
        let policy = &self.policy;
        if let Some(fault) = &policy.fault {
            let (word, file) = (action.word, &policy.file);
            let why = format!(
                "{word} is not allowed in this guest: {file} {fault}; until that is mended it allows \
                 only Ping and telemetry: `quantix-kvm-agent --check-config`"
            );
            return Err(Failure::new(Code::Policy, why));
        }
        if let Some(Allow { line, text, .. }) = &policy.allow
            && !policy.allows(action.group)
        {
            let doing = match (action.word, action.group.word()) {
                (word, group) if word == group => word.to_owned(),
                (word, group) => format!("{word} (of {group})"),
            };
            return Err(policy.denied(&doing, *line, &format!("allow = {text}")));
        }
        if let Body::Execute(request) = body {
            policy.judge_command(request)?;
        }
        for (limit, rate) in policy.limits.iter().zip(&mut self.rates) {
            if limit.group == action.group && !rate.take(now) {
                let wait = rate.wait(now).as_secs() + 1;
                let why = format!("rate = {}; try again in {wait} s", limit.text);
                let denied = policy.denied(action.word, limit.line, &why);
                return Err(Failure {
                    code: Code::Busy,
                    ..denied
                });
            }
        }
        Ok(())
    }
}

fn push<T>(lines: &mut Vec<T>, line: T) -> Result<(), String> {
    if lines.len() >= MAX_LINES {
        return Err(format!("is the {}th of its kind", MAX_LINES + 1));
    }
    lines.push(line);
    Ok(())
}

fn groups(value: &str) -> Result<Vec<Group>, String> {
    let all = || Group::ALL.into_iter().map(|(group, ..)| group);
    match value {
        "all" => return Ok(all().collect()),
        "none" => return Ok(Vec::new()),
        _ => {}
    }
    let mut found = Vec::new();
    for word in value.split_whitespace() {
        let group = Group::parse(word);
        found.push(group.ok_or_else(|| format!("{word} is no group; {}", takes()))?);
    }
    match found.is_empty() {
        true => Err(takes()),
        false => Ok(found),
    }
}

fn takes() -> String {
    let words: Vec<_> = Group::ALL.into_iter().map(|(_, word, _)| word).collect();
    format!("takes all, none, or some of {}", words.join(" "))
}

impl Limit {
    fn parse(line: usize, value: &str) -> Result<Self, String> {
        let why = "takes a group and how often, as exec 10/minute (or /second, /hour)";
        let (group, often) = value.split_once(char::is_whitespace).ok_or(why)?;
        let (count, unit) = often.trim().split_once('/').ok_or(why)?;
        let time = match unit {
            "second" => 1,
            "minute" => 60,
            "hour" => 3600,
            _ => return Err(why.to_owned()),
        };
        let count = count.parse().ok().filter(|count| *count > 0).ok_or(why)?;
        Ok(Self {
            line,
            text: value.to_owned(),
            group: Group::parse(group).ok_or_else(|| format!("{group} is no group; {why}"))?,
            count,
            time: Duration::from_secs(time),
        })
    }
}

#[cfg(test)]
mod tests;
