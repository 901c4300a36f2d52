//! The agent's command line.

use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;
use quantix::rt::log::Target;

use crate::config;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    Run(Options),
    Doctor(Doctor),
    /// Explains the configuration.
    Check(Options),
    Help,
    Version,
}

/// How to run.
#[derive(Debug)]
pub struct Options {
    /// A character device, or a Unix socket to connect to; else the port is looked for.
    pub port: Option<PathBuf>,
    /// `None`: the default one, if it exists.
    pub config: Option<PathBuf>,
    /// Over what the file says.
    pub telemetry_interval: Option<Duration>,
    /// For what does not outlive a boot: the commands that are kept.
    pub run_dir: PathBuf,
    pub log: Target,
    /// Only says what the configuration comes to.
    pub check: bool,
}

/// What to look into, and how to say it.
#[derive(Debug, Default)]
pub struct Doctor {
    pub json: bool,
    /// A port's name, or with a slash in it the path of its node; else that of the agent.
    pub port: Option<String>,
    /// `None`: the default one, if it exists.
    pub config: Option<PathBuf>,
}

/// Where `run_dir` is, if not said otherwise.
const RUN_DIR: &str = "/run/quantix-kvm";

/// An option, and what it does to what is asked for: neither is there without the other.
pub struct Opt<T> {
    pub long: &'static str,
    pub short: Option<char>,
    /// What its value is called; empty: it takes none.
    pub value: &'static str,
    pub about: &'static str,
    take: Take<T>,
}

/// Sets what an option is for; `Some`: that is all that is done.
type Take<T> = fn(&mut T, &mut lexopt::Parser) -> Result<Option<Command>, lexopt::Error>;

const fn option<T>(
    long: &'static str,
    value: &'static str,
    about: &'static str,
    take: Take<T>,
) -> Opt<T> {
    Opt {
        long,
        short: None,
        value,
        about,
        take,
    }
}

const fn flag<T>(
    long: &'static str,
    short: Option<char>,
    about: &'static str,
    take: Take<T>,
) -> Opt<T> {
    Opt {
        long,
        short,
        value: "",
        about,
        take,
    }
}

/// All options of the agent, in the order in which help shows them.
pub const OPTIONS: &[Opt<Options>] = &[
    option(
        "port",
        "PATH",
        "character device to open, or Unix socket to connect to\n\
         (default: found in /sys/class/virtio-ports)",
        |options, parser| {
            options.port = Some(parser.value()?.into());
            Ok(None)
        },
    ),
    option(
        "config",
        "FILE",
        "configuration (default: /etc/quantix-kvm/agent.conf)",
        |options, parser| {
            options.config = Some(parser.value()?.into());
            Ok(None)
        },
    ),
    option(
        "telemetry-interval",
        "S",
        "seconds between two reports, 0 for none (default: 10)",
        |options, parser| {
            options.telemetry_interval = Some(parser.value()?.parse_with(config::interval)?);
            Ok(None)
        },
    ),
    option(
        "run-dir",
        "DIR",
        "for commands that are kept (default: /run/quantix-kvm)",
        |options, parser| {
            options.run_dir = parser.value()?.into();
            Ok(None)
        },
    ),
    option(
        "log",
        "syslog|stderr",
        "where log lines go (default: syslog)",
        |options, parser| {
            options.log = parser.value()?.parse_with(target)?;
            Ok(None)
        },
    ),
    flag(
        "check-config",
        None,
        "say what the configuration comes to, and end",
        |options, _| {
            options.check = true;
            Ok(None)
        },
    ),
    flag("version", Some('V'), "print the version", |_, _| {
        Ok(Some(Command::Version))
    }),
    flag("help", Some('h'), "print this help", |_, _| {
        Ok(Some(Command::Help))
    }),
];

/// All options of `doctor`.
pub const DOCTOR: &[Opt<Doctor>] = &[
    flag("json", None, "print JSON, for programs", |doctor, _| {
        doctor.json = true;
        Ok(None)
    }),
    option(
        "port",
        "NAME_OR_PATH",
        "the port to look at (default: org.quantix.agent.0)",
        |doctor, parser| {
            doctor.port = Some(parser.value()?.string()?);
            Ok(None)
        },
    ),
    option(
        "config",
        "FILE",
        "the configuration to look at (default: as above)",
        |doctor, parser| {
            doctor.config = Some(parser.value()?.into());
            Ok(None)
        },
    ),
    flag("help", Some('h'), "print this help", |_, _| {
        Ok(Some(Command::Help))
    }),
];

fn target(word: &str) -> Result<Target, &'static str> {
    match Target::parse(word) {
        // The guest's disks may be frozen.
        None | Some(Target::File(_)) => Err("takes syslog or stderr"),
        Some(target) => Ok(target),
    }
}

/// What `--help` prints.
pub fn help() -> String {
    let mut text = String::from(
        "\
Usage: quantix-kvm-agent [OPTIONS]
       quantix-kvm-agent doctor [OPTIONS OF DOCTOR]

Serves the host of this virtual machine over the virtio-serial port
org.quantix.agent.0: commands, files, telemetry. Waits for the port to appear,
and says nothing until the host speaks.

Options:
",
    );
    list(OPTIONS, &mut text);
    text += "
Signals: SIGTERM ends it, SIGHUP reads the configuration again.

doctor: checks the guest's side of the channel, names the cause of what is wrong
and what to do, and changes nothing. Exit status: 0 healthy, 1 warnings, 2 faults.

Options of doctor:
";
    list(DOCTOR, &mut text);
    text
}

fn list<T>(options: &[Opt<T>], text: &mut String) {
    for option in options {
        let mut left = String::from(option.long);
        if !option.value.is_empty() {
            left += " ";
            left += option.value;
        }
        for line in option.about.lines() {
            let dashes = if left.is_empty() { "  " } else { "--" };
            *text += &format!("  {dashes}{left:24}{line}\n");
            left.clear();
        }
    }
}

/// Reads the arguments.
pub fn parse() -> Result<Command, lexopt::Error> {
    parse_from(lexopt::Parser::from_env())
}

fn parse_from(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    if parser
        .raw_args()?
        .next_if(|word| word == "doctor")
        .is_some()
    {
        let mut doctor = Doctor::default();
        let other = read(DOCTOR, &mut doctor, &mut parser)?;
        return Ok(other.unwrap_or(Command::Doctor(doctor)));
    }
    let mut options = Options {
        port: None,
        config: None,
        telemetry_interval: None,
        run_dir: PathBuf::from(RUN_DIR),
        log: Target::Syslog,
        check: false,
    };
    let other = read(OPTIONS, &mut options, &mut parser)?;
    Ok(match other {
        Some(other) => other,
        None if options.check => Command::Check(options),
        None => Command::Run(options),
    })
}

fn read<T>(
    table: &[Opt<T>],
    into: &mut T,
    parser: &mut lexopt::Parser,
) -> Result<Option<Command>, lexopt::Error> {
    while let Some(argument) = parser.next()? {
        let found = table.iter().find(|option| match argument {
            Long(long) => long == option.long,
            Short(short) => Some(short) == option.short,
            Value(_) => false,
        });
        let Some(option) = found else {
            return Err(argument.unexpected());
        };
        if let Some(other) = (option.take)(into, parser)? {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &[&str]) -> Result<Command, lexopt::Error> {
        parse_from(lexopt::Parser::from_args(words))
    }

    /// A value that each option takes.
    fn some_value(value: &str) -> &str {
        match value {
            "S" => "7",
            "syslog|stderr" => "stderr",
            _ => "some",
        }
    }

    fn assert_each_is_as_the_table_says<T>(table: &[Opt<T>], before: &[&str]) {
        for (at, option) in table.iter().enumerate() {
            assert!(table[..at].iter().all(|other| other.long != option.long));
            let long = format!("--{}", option.long);
            let assigned = format!("{long}={}", some_value(option.value));
            let alone = read_words(&[before, &[&*long]].concat());
            // Another word behind it: a flag that has taken it for its value would not be asked about it.
            let with = read_words(&[before, &[&*assigned]].concat());
            match (option.value, &alone) {
                ("", Ok(Command::Help | Command::Version)) => {}
                ("", _) => assert!(alone.is_ok() && with.is_err(), "{long}"),
                (_, _) => assert!(alone.is_err() && with.is_ok(), "{long}: {with:?}"),
            }
            if let Some(short) = option.short {
                let short = read_words(&[before, &[&*format!("-{short}")]].concat());
                assert_eq!(format!("{short:?}"), format!("{alone:?}"));
            }
        }
    }

    #[test]
    fn each_option_takes_a_value_where_the_table_says_so() {
        assert_each_is_as_the_table_says(OPTIONS, &[]);
        assert_each_is_as_the_table_says(DOCTOR, &["doctor"]);
        assert!(read_words(&["--no-such"]).is_err());
        assert!(read_words(&["word"]).is_err());
        assert!(read_words(&["--log=/var/log/x"]).is_err());
    }

    #[test]
    fn each_option_sets_what_it_is_named_after() {
        let words = [
            "--port=a",
            "--config=b",
            "--telemetry-interval=7",
            "--run-dir=d",
            "--log=stderr",
        ];
        let Ok(Command::Run(options)) = read_words(&words) else {
            panic!("it does not run");
        };
        assert_eq!(options.port, Some("a".into()));
        assert_eq!(options.config, Some("b".into()));
        assert_eq!(options.telemetry_interval, Some(Duration::from_secs(7)));
        assert_eq!(options.run_dir, PathBuf::from("d"));
        assert_eq!(options.log, Target::Stderr);
        let Ok(Command::Check(options)) = read_words(&["--check-config", "--config=b"]) else {
            panic!("it does not check");
        };
        assert_eq!(options.config, Some("b".into()));
        let words = ["doctor", "--json", "--port=a", "--config=b"];
        let Ok(Command::Doctor(doctor)) = read_words(&words) else {
            panic!("it does not examine");
        };
        assert!(doctor.json);
        assert_eq!(
            (doctor.port, doctor.config),
            (Some("a".into()), Some("b".into()))
        );
    }

    #[test]
    fn help_has_each_option_and_fits_a_terminal() {
        let help = help();
        for option in OPTIONS {
            let words = format!("  --{} {}", option.long, option.value);
            assert!(help.contains(words.trim_end()), "{words}");
        }
        for option in DOCTOR {
            let words = format!("  --{} {}", option.long, option.value);
            assert!(help.contains(words.trim_end()), "{words}");
        }
        assert!(help.lines().all(|line| line.len() <= 82), "{help}");
        assert!(help.contains("(default: /run/quantix-kvm)") && RUN_DIR == "/run/quantix-kvm");
        assert!(help.contains(&format!("(default: {})", config::PATH)));
    }
}
