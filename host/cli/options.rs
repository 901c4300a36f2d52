//! Every command and option, once: this table feeds the parser and the help.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use lexopt::Arg;

/// A command of `qx-node`.
pub struct Command {
    pub name: &'static str,
    /// What follows the name.
    pub usage: &'static str,
    pub about: &'static str,
    pub options: &'static [Opt],
}

/// An option of a command.
pub struct Opt {
    pub long: &'static str,
    pub short: Option<char>,
    /// What its value is called; `None`: it takes none.
    pub value: Option<&'static str>,
    pub about: &'static str,
}

const fn flag(long: &'static str, short: Option<char>, about: &'static str) -> Opt {
    Opt {
        long,
        short,
        value: None,
        about,
    }
}

const fn option(long: &'static str, value: &'static str, about: &'static str) -> Opt {
    Opt {
        long,
        short: None,
        value: Some(value),
        about,
    }
}

const JSON: Opt = flag("json", None, "print JSON, for programs");
const CONTROL: Opt = option("control", "SOCKET", "the daemon's socket ($QX_NODE_SOCK)");
const DIRECT: Opt = option(
    "direct",
    "SOCKET",
    "talk to this agent socket, without a daemon",
);
const VMS_DIR: Opt = option("vms-dir", "DIR", "where QEMU serves the VMs' sockets");

const WAIT: Opt = flag("wait", None, "follow it to its end");
const TIMEOUT: Opt = option(
    "timeout",
    "SECONDS",
    "with --wait: give up then (default: 120)",
);
const DELAY: Opt = option("delay", "SECONDS", "not before so many have passed");
const MESSAGE: Opt = option("message", "TEXT", "for whoever is logged in");
const FORCE: Opt = flag(
    "force",
    None,
    "at once, without a word to its init: for one that hangs",
);
const CANCEL: Opt = flag("cancel", None, "take back what --delay has put off");

/// All commands, in the order in which help shows them.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "vms",
        usage: "",
        about: "list the VMs and the state of each one's channel",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "ping",
        usage: "VM",
        about: "ask the agent for a sign of life, and time it",
        options: &[
            Opt {
                long: "count",
                short: Some('c'),
                value: Some("N"),
                about: "how often, a second apart (default: 1)",
            },
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "info",
        usage: "VM",
        about: "show what the VM is and how its channel does",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "telemetry",
        usage: "VM",
        about: "show CPU, memory, disks and network as the guest sees them",
        options: &[
            flag("watch", Some('w'), "go on with each new report"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "events",
        usage: "[VM]",
        about: "show what has happened to the VMs: states, sessions, boots",
        options: &[
            flag("follow", Some('f'), "go on with each new event"),
            JSON,
            CONTROL,
        ],
    },
    Command {
        name: "exec",
        usage: "VM -- COMMAND [ARG...]",
        about: "run a command and show what it writes; one word is a shell line",
        options: &[
            flag(
                "interactive",
                Some('i'),
                "pass our stdin to it (default: /dev/null)",
            ),
            flag(
                "tty",
                Some('t'),
                "give it a terminal, and our keys; Enter ~. leaves",
            ),
            option(
                "user",
                "USER",
                "run as this user, with its groups (default: root)",
            ),
            option("group", "GROUP", "with this primary group"),
            option("cwd", "DIR", "in this directory (default: the user's home)"),
            option("env", "KEY=VALUE", "with this variable; may be repeated"),
            option(
                "timeout",
                "SECONDS",
                "kill it after so many whole seconds (default: never)",
            ),
            flag(
                "detach",
                None,
                "keep it, whoever leaves: print its job number",
            ),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "shell",
        usage: "VM",
        about: "log in: a shell on a terminal; Enter ~. leaves it, as in ssh",
        options: &[
            option("user", "USER", "as this user (default: root)"),
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "jobs",
        usage: "VM",
        about: "list the commands that are kept: those of exec --detach, and ended",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "attach",
        usage: "VM JOB",
        about: "show what a kept command writes, until it ends; Ctrl-C leaves it",
        options: &[
            option(
                "from",
                "OUT[,ERR]",
                "from this byte of stdout, of stderr (default: 0,0)",
            ),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "kill",
        usage: "VM JOB",
        about: "end a kept command and all that it has started",
        options: &[
            option("signal", "SIGNAL", "only send it this signal: HUP, USR1, 9"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "cp",
        usage: "SOURCE... TARGET",
        about: "copy files and trees; one side is VM:PATH, - is stdin or stdout",
        options: &[
            flag(
                "recursive",
                Some('r'),
                "directories with all they hold, links as links",
            ),
            flag(
                "preserve",
                Some('p'),
                "keep owners by number, times and set-id bits",
            ),
            flag("parents", None, "make the target's missing directories"),
            flag(
                "resume",
                None,
                "keep what has come if interrupted, go on where it ended",
            ),
            flag(
                "device",
                None,
                "read a device, or a FIFO until its writers leave",
            ),
            option(
                "mode",
                "OCTAL",
                "permissions of a new file (default: the source's)",
            ),
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "cat",
        usage: "VM PATH",
        about: "print a file of the guest",
        options: &[CONTROL, DIRECT],
    },
    Command {
        name: "shutdown",
        usage: "VM",
        about: "have the guest end itself, and switch off",
        options: &[
            flag("halt", None, "stand still, switched on"),
            WAIT,
            TIMEOUT,
            DELAY,
            MESSAGE,
            FORCE,
            CANCEL,
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "reboot",
        usage: "VM",
        about: "have the guest end itself, and start again",
        options: &[
            WAIT, TIMEOUT, DELAY, MESSAGE, FORCE, CANCEL, JSON, CONTROL, DIRECT,
        ],
    },
    Command {
        name: "suspend",
        usage: "VM",
        about: "send the guest to sleep; its hypervisor wakes it up",
        options: &[
            flag("disk", None, "write its memory to its disk, and switch off"),
            DELAY,
            MESSAGE,
            CANCEL,
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "freeze",
        usage: "VM [MOUNT...]",
        about: "freeze the guest's file systems, as for a snapshot of its disks",
        options: &[
            option(
                "timeout",
                "SECONDS",
                "thaw by itself after so many, 3600 at most (default: 60)",
            ),
            flag("skip-failed", None, "leave out what cannot be frozen"),
            flag("no-hooks", None, "do not call the guest's freeze.d"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "thaw",
        usage: "VM",
        about: "thaw them; fails if they have thawed by themselves before",
        options: &[
            flag("force", None, "whatever is frozen, whoever froze it"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "freeze-status",
        usage: "VM",
        about: "show what is frozen, for how long, and what was last",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "time",
        usage: "VM",
        about: "show the guest's clocks beside ours, or set them",
        options: &[
            flag("sync", None, "step the guest's clock to this host's"),
            option("set", "TIME", "to this UTC time: 2026-11-25 20:27:37"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "network",
        usage: "VM",
        about: "show the guest's interfaces, addresses, gateways and DNS",
        options: &[
            flag("all", None, "those of containers too"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "ip",
        usage: "VM",
        about: "print the address by which the guest is known, in one word",
        options: &[
            flag("ipv6", Some('6'), "the one of IPv6"),
            flag("all", None, "all global ones, a line each, that one first"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "hostname",
        usage: "VM [NAME]",
        about: "show or set what the guest is called",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "timezone",
        usage: "VM [ZONE]",
        about: "show or set the guest's timezone, as Europe/Berlin",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "users",
        usage: "VM",
        about: "list who is logged in: terminal, from where, since when",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "passwd",
        usage: "VM USER",
        about: "set a user's password, which is read from stdin, or lock it",
        options: &[
            flag("crypted", None, "it is a hash already, as crypt(5) has it"),
            flag("lock", None, "let no password in; keys still do"),
            flag("unlock", None, "let the one from before in again"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "ps",
        usage: "VM",
        about: "list the guest's processes with CPU and memory",
        options: &[
            option("sort", "KEY", "by cpu, memory or pid (default: pid)"),
            option("user", "USER", "only those of this user, by name or number"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "keys",
        usage: "VM USER [list | add FILE|- | remove FILE|-|SHA256:...]",
        about: "show or change the SSH keys that may log in as a user",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "signal",
        usage: "VM PID",
        about: "send a signal to a process of the guest",
        options: &[
            option("signal", "SIGNAL", "HUP, USR1, 9 (default: TERM)"),
            option(
                "started",
                "MS",
                "only if it is the one that has this started_ms in ps --json",
            ),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "services",
        usage: "VM",
        about: "list the guest's services: those of systemd or OpenRC",
        options: &[
            flag("failed", None, "only those that have failed"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "service",
        usage: "VM NAME status|start|stop|restart|enable|disable",
        about: "show a service, or have it do something",
        options: &[
            option("timeout", "SECONDS", "how long it may take (default: 90)"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "logs",
        usage: "VM NAME",
        about: "show the last lines of a service's log",
        options: &[
            Opt {
                long: "lines",
                short: Some('n'),
                value: Some("N"),
                about: "how many (default: 20)",
            },
            flag("follow", Some('f'), "go on with each new line"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "channel",
        usage: "VM",
        about: "print what gives a VM its channel, for libvirt and for QEMU",
        options: &[
            flag("attach", None, "have libvirt add it to the VM"),
            JSON,
            VMS_DIR,
        ],
    },
    Command {
        name: "doctor",
        usage: "[VM...]",
        about: "find out what is wrong with a VM's channel, and what to do",
        options: &[
            flag(
                "probe",
                None,
                "send bytes to the guest and back, up to 1 MiB",
            ),
            flag("verbose", Some('v'), "all checks of each VM"),
            option(
                "bundle",
                "FILE.tar",
                "collect both sides' evidence for a support case",
            ),
            JSON,
            VMS_DIR,
            CONTROL,
            Opt {
                about: "look at this agent socket alone, without a daemon",
                ..DIRECT
            },
        ],
    },
    Command {
        name: "serve",
        usage: "",
        about: "be the daemon",
        options: &[
            VMS_DIR,
            CONTROL,
            option(
                "log",
                "syslog|stderr",
                "where log lines go (default: stderr)",
            ),
            option(
                "log-level",
                "LEVEL",
                "error, warning, info or debug (default: info)",
            ),
            option(
                "time-sync",
                "WHEN",
                "on-resume: step clocks of paused guests (default: never)",
            ),
        ],
    },
];

/// What help shows together, in this order; each command is in one of these.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "How VMs do",
        &["vms", "ping", "info", "telemetry", "events"],
    ),
    ("Commands", &["exec", "shell", "jobs", "attach", "kill"]),
    ("Files", &["cp", "cat"]),
    ("Snapshots", &["freeze", "thaw", "freeze-status"]),
    (
        "Power and time",
        &["shutdown", "reboot", "suspend", "time", "timezone"],
    ),
    ("Network", &["network", "ip", "hostname"]),
    (
        "What runs",
        &["ps", "signal", "services", "service", "logs"],
    ),
    ("Users", &["users", "passwd", "keys"]),
    ("The channel", &["channel", "doctor", "serve"]),
];

/// What was typed, checked against the table.
#[derive(Debug, Default)]
pub struct Typed {
    values: BTreeMap<&'static str, Vec<OsString>>,
    /// The words that are no options, up to `--`.
    pub words: Vec<OsString>,
    /// The words behind `--`, if there was one.
    pub rest: Option<Vec<OsString>>,
}

impl Typed {
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
            Arg::Long(long) => command.options.iter().find(|o| o.long == long),
            Arg::Short(short) => command.options.iter().find(|o| o.short == Some(short)),
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
    let width = command
        .options
        .iter()
        .map(|o| left(o).len())
        .max()
        .unwrap_or(0);
    for option in command.options {
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
            for (at, option) in command.options.iter().enumerate() {
                let rest = &command.options[..at];
                assert!(rest.iter().all(|other| other.long != option.long));
                assert!(option.about.len() <= 60, "{}", option.about);
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
