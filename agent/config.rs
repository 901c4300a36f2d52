//! `/etc/quantix-kvm/agent.conf`: `key = value`, `#` begins a comment. Every key has a default, so
//! the file need not exist; what is wrong in it is named and its default is used, because an agent
//! that refuses to start cannot be reached to be mended. What is wrong in what it says of the host's rights takes
//! them all, but for Ping and telemetry: see [`policy`](crate::policy).

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use quantix::error::{Failure, system_text};
use quantix::rt::conf::{self, Line};
use quantix::rt::log::Level;

use crate::policy::{self, Policy};

/// Where the file is looked for without `--config`.
pub const PATH: &str = "/etc/quantix-kvm/agent.conf";

/// What can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Between two reports, in whole seconds; zero: none are sent.
    pub telemetry_interval: Duration,
    /// Log lines that matter less are not written.
    pub log_level: Level,
    /// What the host may ask.
    pub policy: Policy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            telemetry_interval: Duration::from_secs(10),
            log_level: Level::Info,
            policy: Policy::new(PATH),
        }
    }
}

/// Reads the file. Beside the configuration: what is wrong, a line each.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> std::io::Result<(Config, Vec<String>)> {
    let text = std::fs::read(path)?;
    let file = path.to_string_lossy();
    Ok(parse(&String::from_utf8_lossy(&text), &file))
}

/// Reads the file, or without one the default one, which need not exist.
///
/// # Errors
/// One that was named cannot be read.
pub fn load(named: Option<&Path>) -> Result<(Config, Vec<String>), Failure> {
    let path = named.unwrap_or(Path::new(PATH));
    match read(path) {
        Ok(found) => Ok(found),
        Err(e) if named.is_none() && e.kind() == ErrorKind::NotFound => {
            Ok((Config::default(), Vec::new()))
        }
        Err(e) if named.is_some() => Err(Failure::system("read", &path.to_string_lossy(), &e)),
        // There is one, and what it forbids nobody knows.
        Err(e) => {
            let mut config = Config::default();
            let why = format!("cannot be read: {}", system_text(&e));
            config.policy.fault = Some(why.clone());
            Ok((config, vec![why]))
        }
    }
}

/// What the text of this file says, and what is wrong in it.
pub fn parse(text: &str, file: &str) -> (Config, Vec<String>) {
    let mut config = Config {
        policy: Policy::new(file),
        ..Config::default()
    };
    let mut harmless = Vec::new();
    let faults = conf::parse(text, |line| {
        let done = set(&mut config, line);
        if HARMLESS.contains(&line.key) {
            harmless.push(format!("line {}: ", line.number));
        }
        done
    });
    let closes = |fault: &&String| !harmless.iter().any(|line| fault.starts_with(line));
    config.policy.fault = faults.iter().find(closes).cloned();
    (config, faults)
}

/// Keys that say nothing of what is allowed. Of one that nobody knows this cannot be said.
const HARMLESS: [&str; 2] = ["telemetry_interval", "log_level"];

fn set(config: &mut Config, line: Line) -> Result<(), String> {
    match line.key {
        "telemetry_interval" => config.telemetry_interval = interval(line.value)?,
        "log_level" => {
            let level = Level::parse(line.value);
            config.log_level = level.ok_or("takes error, warning, info or debug")?;
        }
        key if policy::KEYS.contains(&key) => config.policy.set(line)?,
        _ => return Err("unknown key".to_owned()),
    }
    Ok(())
}

/// Whole seconds, 0 to a day.
pub fn interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 0..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("takes whole seconds from 0 (off) to 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_lines_count_and_bad_ones_are_named() {
        let text = "# comment\n\ntelemetry_interval = 30 # half a minute\nlog_level=loud\n\
            colour = red\nnonsense\ntelemetry_interval = -1\n";
        let (config, faults) = parse(text, PATH);
        assert_eq!(config.telemetry_interval, Duration::from_secs(30));
        assert_eq!(config.log_level, Level::Info);
        assert_eq!(faults.len(), 4);
        assert!(faults[0].starts_with("line 4: log_level=loud: takes error"));
        assert!(faults[1].contains("unknown key"));
    }

    #[test]
    fn the_file_that_comes_with_it_has_each_key_with_its_default() {
        let text = include_str!("agent.conf");
        assert_eq!(parse(text, PATH), (Config::default(), Vec::new()));
        let is_set = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
        let lines: Vec<_> = text.lines().filter(is_set).collect();
        let set = |key: &str| {
            let mut lines = lines.iter();
            lines.any(|line| line.starts_with(&format!("#{key} =")))
        };
        assert!(
            HARMLESS.into_iter().chain(policy::KEYS).all(set),
            "{lines:?}"
        );
        // Without its mark each makes sense, and those that are a default are it.
        let has_value = |line: &&&str| !line.ends_with('=');
        let keys: Vec<_> = lines.iter().filter(has_value).copied().collect();
        let keys = keys.join("\n").replace('#', "");
        let (config, faults) = parse(&keys, PATH);
        assert_eq!(faults, Vec::<String>::new());
        let defaults = Config {
            policy: config.policy.clone(),
            ..Config::default()
        };
        assert_eq!(config, defaults);
    }
}
