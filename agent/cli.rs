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

/// What `--help` prints.
pub const HELP: &str = "\
Usage: quantix-kvm-agent [OPTIONS]
       quantix-kvm-agent doctor [--json] [--port NAME_OR_PATH] [--config FILE]

Serves the host of this virtual machine over the virtio-serial port
org.quantix.agent.0: commands, files, telemetry. Waits for the port to appear,
and says nothing until the host speaks.

Options:
  --port PATH               character device to open, or Unix socket to connect
                            to (default: found in /sys/class/virtio-ports)
  --config FILE             configuration (default: /etc/quantix-kvm/agent.conf)
  --telemetry-interval S    seconds between two reports, 0 for none (default: 10)
  --run-dir DIR             for commands that are kept (default: /run/quantix-kvm)
  --log syslog|stderr       where log lines go (default: syslog)
  --version                 print the version
  --help                    print this

Signals: SIGTERM ends it, SIGHUP reads the configuration again.

doctor: checks the guest's side of the channel, names the cause of what is wrong
and what to do, and changes nothing. Exit status: 0 healthy, 1 warnings, 2 faults.
";

/// Reads the arguments.
pub fn parse() -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    if parser
        .raw_args()?
        .next_if(|word| word == "doctor")
        .is_some()
    {
        return doctor(&mut parser);
    }
    let mut options = Options {
        port: None,
        config: None,
        telemetry_interval: None,
        run_dir: PathBuf::from(RUN_DIR),
        log: Target::Syslog,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("port") => options.port = Some(parser.value()?.into()),
            Long("config") => options.config = Some(parser.value()?.into()),
            Long("telemetry-interval") => {
                options.telemetry_interval = Some(parser.value()?.parse_with(config::interval)?);
            }
            Long("run-dir") => options.run_dir = parser.value()?.into(),
            Long("log") => {
                options.log = parser
                    .value()?
                    .parse_with(|word| match Target::parse(word) {
                        // The guest's disks may be frozen.
                        None | Some(Target::File(_)) => Err("takes syslog or stderr"),
                        Some(target) => Ok(target),
                    })?;
            }
            Long("version") | Short('V') => return Ok(Command::Version),
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Run(options))
}

fn doctor(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut doctor = Doctor::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => doctor.json = true,
            Long("port") => doctor.port = Some(parser.value()?.string()?),
            Long("config") => doctor.config = Some(parser.value()?.into()),
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Doctor(doctor))
}
