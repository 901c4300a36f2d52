//! `/etc/quantix-kvm/node.conf`: `key = value`, `#` begins a comment. Each key is an option of `qx-node serve` too,
//! and what is typed goes before what is written. The file need not exist.
//!
//! At the start what is wrong is named and left at its default: a daemon that does not start helps nobody, and
//! `qx-node serve --check` tells before. A file that is wrong when it is read again changes nothing.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use quantix::action::Role;
use quantix::error::Failure;
use quantix::rt::conf;
use quantix::rt::log::{Level, Target};
use quantix::rt::users::Texts;

use crate::access::Access;
use crate::daemon::TimeSync;

/// Where the file is looked for without `--config`.
pub const PATH: &str = "/etc/quantix-kvm/node.conf";

/// Where clients come.
pub const CONTROL: &str = "/run/quantix-kvm/qx-node.sock";

/// Where QEMU serves the VMs' sockets.
pub const VMS_DIR: &str = "/var/run/quantix-kvm/vms";

/// What can be configured: the options of `serve`, with `_` for `-`.
pub const KEYS: [&str; 12] = [
    "vms_dir",
    "control",
    "log",
    "log_level",
    "time_sync",
    "watchdog",
    "metrics",
    "textfile",
    "view",
    "operate",
    "admin",
    "audit",
];

/// How the daemon serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub vms_dir: PathBuf,
    pub control: PathBuf,
    pub log: Target,
    pub log_level: Level,
    /// When guests' clocks are set.
    pub time_sync: TimeSync,
    /// A guest whose disk or init does not answer is an event.
    pub watchdog: bool,
    /// Where metrics are served, and the file that they are written to.
    pub metrics: Option<SocketAddr>,
    pub textfile: Option<PathBuf>,
    /// Who may do what.
    pub access: Access,
    /// Where the audit goes, if not with the log.
    pub audit: Option<Target>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vms_dir: PathBuf::from(VMS_DIR),
            control: PathBuf::from(CONTROL),
            log: Target::Stderr,
            log_level: Level::Info,
            time_sync: TimeSync::default(),
            watchdog: false,
            metrics: None,
            textfile: None,
            access: Access::default(),
            audit: None,
        }
    }
}

impl Config {
    /// Sets a key. The error names what it takes.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "vms_dir" => self.vms_dir = path(value)?,
            "control" => self.control = path(value)?,
            "log" => {
                self.log = target(value)?;
            }
            "log_level" => {
                let level = Level::parse(value);
                self.log_level = level.ok_or("takes error, warning, info or debug")?;
            }
            "time_sync" => {
                let when = TimeSync::parse(value);
                self.time_sync = when.ok_or("takes never, on-resume or restored")?;
            }
            "watchdog" => {
                self.watchdog = match value {
                    "yes" => true,
                    "no" => false,
                    _ => return Err("takes yes or no".to_owned()),
                }
            }
            "metrics" if value.is_empty() => self.metrics = None,
            "metrics" => {
                let address = value.parse().ok();
                let why = "takes an address and a port, as 127.0.0.1:9912 or [::]:9912";
                self.metrics = Some(address.ok_or(why)?);
            }
            "textfile" if value.is_empty() => self.textfile = None,
            "textfile" => self.textfile = Some(path(value)?),
            "view" => self.access.set(Role::View, value)?,
            "operate" => self.access.set(Role::Operate, value)?,
            "admin" => self.access.set(Role::Admin, value)?,
            "audit" if value.is_empty() => self.audit = None,
            "audit" => self.audit = Some(target(value)?),
            _ => return Err(format!("is no key; there are {}", KEYS.join(", "))),
        }
        Ok(())
    }

    /// What counts from the start of the daemon to its end.
    pub const fn of_start(&self) -> (&PathBuf, &PathBuf, &Target, &Option<Target>) {
        (&self.vms_dir, &self.control, &self.log, &self.audit)
    }

    /// As the file has it, a line a key.
    pub fn text(&self) -> String {
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let values = [
            self.vms_dir.display().to_string(),
            self.control.display().to_string(),
            word(&self.log),
            self.log_level.word().to_owned(),
            self.time_sync.word().to_owned(),
            if self.watchdog { "yes" } else { "no" }.to_owned(),
            self.metrics
                .map(|address| address.to_string())
                .unwrap_or_default(),
            file(&self.textfile).unwrap_or_default(),
            self.access.text(Role::View),
            self.access.text(Role::Operate),
            self.access.text(Role::Admin),
            self.audit.as_ref().map(word).unwrap_or_default(),
        ];
        let mut text = String::new();
        for (key, value) in KEYS.iter().zip(values) {
            let _ = writeln!(text, "{}", format!("{key:9} = {value}").trim_end());
        }
        text
    }
}

fn target(value: &str) -> Result<Target, &'static str> {
    Target::parse(value).ok_or("takes syslog, stderr or the path of a file")
}

/// As [`target`] takes it.
fn word(target: &Target) -> String {
    match target {
        Target::Syslog => "syslog".to_owned(),
        Target::Stderr => "stderr".to_owned(),
        Target::File(path) => path.display().to_string(),
    }
}

fn path(value: &str) -> Result<PathBuf, String> {
    // After a reload it would be another place than at the start.
    match Path::new(value).is_absolute() {
        true => Ok(PathBuf::from(value)),
        false => Err("takes an absolute path".to_owned()),
    }
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// `None`: [`PATH`], which need not be there.
    pub file: Option<PathBuf>,
    /// What was typed, by its key.
    pub typed: Vec<(&'static str, String)>,
}

impl Source {
    /// The file that is read.
    pub fn path(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(PATH))
    }

    /// Reads it. What is wrong, a line each, is left at its default.
    pub fn read(&self) -> (Config, Vec<String>) {
        let mut config = Config::default();
        let mut faults = Vec::new();
        match std::fs::read(self.path()) {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                let found = conf::parse(&text, |line| config.set(line.key, line.value));
                let path = self.path().display();
                faults.extend(found.into_iter().map(|why| format!("{path}: {why}")));
            }
            Err(e) if e.kind() == ErrorKind::NotFound && self.file.is_none() => {}
            Err(e) => {
                let path = self.path().to_string_lossy();
                faults.push(Failure::system("read", &path, &e).message);
            }
        }
        faults.extend(self.apply_typed(&mut config));
        for who in config.access.unknown(&Texts::read().databases()) {
            faults.push(format!(
                "{who} is not in this machine's passwd(5) or group(5); one of a directory service goes by its number"
            ));
        }
        (config, faults)
    }

    /// Sets what was typed. What is wrong, a line each, is left as it is.
    pub fn apply_typed(&self, config: &mut Config) -> Vec<String> {
        let mut faults = Vec::new();
        for (key, value) in &self.typed {
            if let Err(why) = config.set(key, value) {
                let option = key.replace('_', "-");
                faults.push(format!("--{option} {why}, not {value}"));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_lines_count_and_bad_ones_are_named() {
        let mut config = Config::default();
        let text = "# comment\nmetrics = 127.0.0.1:9912 # here\nwatchdog=maybe\nlog = /var/log/quantix-node.log\n\
            colour = red\nnonsense\ntextfile = here.prom\n";
        let faults = conf::parse(text, |line| config.set(line.key, line.value));
        assert_eq!(config.metrics, Some("127.0.0.1:9912".parse().unwrap()));
        assert_eq!(config.log, Target::File("/var/log/quantix-node.log".into()));
        assert_eq!((config.watchdog, &config.textfile), (false, &None));
        let starts = [
            "line 3: watchdog=maybe: takes yes or no",
            "line 5: colour = red: is no key; there are vms_dir,",
        ];
        assert!(
            faults[0].starts_with(starts[0]) && faults[1].starts_with(starts[1]),
            "{faults:?}"
        );
        assert_eq!(faults.len(), 4);
    }

    #[test]
    fn what_is_shown_can_be_written_into_the_file() {
        let mut config = Config::default();
        for (key, value) in [
            ("metrics", "[::1]:9912"),
            ("log", "syslog"),
            ("watchdog", "yes"),
            ("time_sync", "restored"),
        ] {
            config.set(key, value).unwrap();
        }
        let mut again = Config::default();
        let faults = conf::parse(&config.text(), |line| again.set(line.key, line.value));
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(again, config);
        assert_eq!(Config::default().text().lines().count(), KEYS.len());
    }
}
