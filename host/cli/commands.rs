//! Every command and option of `qx-node`, once: this table feeds the parser and the help.

use super::options::{Command, Opt, flag, option};

const JSON: Opt = flag("json", None, "print JSON, for programs");
const CONTROL: Opt = option("control", "SOCKET", "the daemon's socket ($QX_NODE_SOCK)");
const DIRECT: Opt = option(
    "direct",
    "SOCKET",
    "talk to this agent socket, without a daemon",
);
const VMS_DIR: Opt = option("vms-dir", "DIR", "where QEMU serves the VMs' sockets");

const ONLINE: Opt = option("online", "NUMBERS", "take these online, as 1,3-5, or all");
const OFFLINE: Opt = option("offline", "NUMBERS", "take these offline");

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
            option("since", "SPAN", "what it was: 90s, 30m, up to 1h back"),
            flag("csv", None, "with --since: print CSV, for spreadsheets"),
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
            option(
                "outcome",
                "WORD",
                "end stderr with a line: WORD exit N, signal N or timeout",
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
        name: "restored",
        usage: "VM",
        about: "tell a guest that it was put back or cloned: clock, random numbers",
        options: &[
            flag("clone", None, "it is another machine: as the next two"),
            flag("machine-id", None, "give it a machine-id of its own"),
            flag("ssh-host-keys", None, "give it SSH host keys of its own"),
            flag("no-hooks", None, "do not call the guest's restore.d"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "hardware",
        usage: "VM",
        about: "show what the guest runs on: machine, CPUs, memory, disks, cards",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "cpus",
        usage: "VM",
        about: "list the guest's CPUs, or take some online or offline",
        options: &[ONLINE, OFFLINE, JSON, CONTROL, DIRECT],
    },
    Command {
        name: "memory",
        usage: "VM",
        about: "list the guest's blocks of memory, or take some online or offline",
        options: &[ONLINE, OFFLINE, JSON, CONTROL, DIRECT],
    },
    Command {
        name: "packages",
        usage: "VM [WORD...]",
        about: "list what is installed in the guest, or what a word names",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "disks",
        usage: "VM",
        about: "list the guest's disks, and its file systems with what is free",
        options: &[JSON, CONTROL, DIRECT],
    },
    Command {
        name: "trim",
        usage: "VM [MOUNT...]",
        about: "tell the guest's disks which of their blocks are free",
        options: &[
            option("minimum", "BYTES", "leave free space alone that is smaller"),
            JSON,
            CONTROL,
            DIRECT,
        ],
    },
    Command {
        name: "grow",
        usage: "VM MOUNT",
        about: "grow the partition and its file system after a disk has grown",
        options: &[
            flag("dry-run", None, "say what would be done"),
            JSON,
            CONTROL,
            DIRECT,
        ],
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
        usage: "VM [set IFACE | confirm CHANGE | undo CHANGE]",
        about: "show the guest's interfaces, addresses and DNS, or set one's",
        options: &[
            flag("all", None, "show those of containers too"),
            flag("dhcp", None, "set: by DHCP"),
            option("address", "CIDR", "set: 10.0.0.5/24; may be repeated"),
            option("gateway", "IP", "set: one of each family"),
            option("dns", "IP", "set: may be repeated"),
            option(
                "mtu",
                "BYTES",
                "set: largest packet (default: its manager's)",
            ),
            option(
                "confirm-within",
                "SECONDS",
                "set: the guest undoes it without a confirm (default: 60)",
            ),
            flag(
                "unconfirmed",
                None,
                "set: leave it to `network VM confirm CHANGE`",
            ),
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
                "config",
                "FILE",
                "its keys are these options (default: node.conf)",
            ),
            flag(
                "check",
                None,
                "say what is configured, and what of it is wrong",
            ),
            option(
                "log",
                "TARGET",
                "stderr (default), syslog, or a file: /var/log/...",
            ),
            option(
                "log-level",
                "LEVEL",
                "error, warning, info or debug (default: info)",
            ),
            option(
                "time-sync",
                "WHEN",
                "on-resume, restored (default: never): see the README",
            ),
            option(
                "metrics",
                "ADDRESS",
                "serve /metrics for Prometheus there: 127.0.0.1:9912",
            ),
            option(
                "textfile",
                "FILE.prom",
                "write them there, for node_exporter, every 15 s",
            ),
            flag(
                "watchdog",
                None,
                "an event for a guest whose disk or init does not answer",
            ),
        ],
    },
];
