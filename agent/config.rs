//! `/etc/quantix-kvm/agent.conf`: `key = value`, `#` begins a comment. Every key has a default, so
//! the file need not exist; what is wrong in it is named and its default is used, because an agent
//! that refuses to start cannot be reached to be mended.

use std::path::Path;
use std::time::Duration;

use quantix::rt::conf;
use quantix::rt::log::Level;

/// Where the file is looked for without `--config`.
pub const PATH: &str = "/etc/quantix-kvm/agent.conf";

/// What can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Between two reports, in whole seconds; zero: none are sent.
    pub telemetry_interval: Duration,
    /// Log lines that matter less are not written.
    pub log_level: Level,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            telemetry_interval: Duration::from_secs(10),
            log_level: Level::Info,
        }
    }
}

/// Reads the file. Beside the configuration: what is wrong, a line each.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> std::io::Result<(Config, Vec<String>)> {
    let text = std::fs::read(path)?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

fn parse(text: &str) -> (Config, Vec<String>) {
    let mut config = Config::default();
    let faults = conf::parse(text, |key, value| set(&mut config, key, value));
    (config, faults)
}

fn set(config: &mut Config, key: &str, value: &str) -> Result<(), String> {
    match key {
        "telemetry_interval" => config.telemetry_interval = interval(value)?,
        "log_level" => {
            config.log_level = Level::parse(value).ok_or("takes error, warning, info or debug")?;
        }
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
        let (config, faults) = parse(text);
        assert_eq!(config.telemetry_interval, Duration::from_secs(30));
        assert_eq!(config.log_level, Level::Info);
        assert_eq!(faults.len(), 4);
        assert!(faults[0].starts_with("line 4: log_level=loud: takes error"));
        assert!(faults[1].contains("unknown key"));
    }

    #[test]
    fn the_file_that_comes_with_it_has_each_key_with_its_default() {
        let text = include_str!("agent.conf");
        assert_eq!(parse(text), (Config::default(), Vec::new()));
        let keys: String = text
            .lines()
            .filter(|line| !line.starts_with("# "))
            .collect::<Vec<_>>()
            .join("\n");
        // Set to something else, that each of them is one.
        let set = keys.replace("#telemetry_interval = 10", "telemetry_interval = 7");
        let set = set.replace("#log_level = info", "log_level = debug");
        assert!(!set.contains('#'), "{set}");
        let other = Config {
            telemetry_interval: Duration::from_secs(7),
            log_level: Level::Debug,
        };
        assert_eq!(parse(&set), (other, Vec::new()));
        // Without their marks they are what is so without them.
        assert_eq!(
            parse(&keys.replace('#', "")),
            (Config::default(), Vec::new())
        );
    }
}
