//! What the manual page says that no table knows.

/// What the program is.
pub const DESCRIPTION: &[&str] = &[
    "`qx-node` speaks to the virtual machines of a KVM host without a network and without ssh: through a virtio-serial \
     port, to the program quantix-kvm-agent(8) in each of them.",
    "`qx-node serve` is the daemon. It finds the VMs' sockets as they come and go, and keeps a channel to every agent. \
     All other commands ask the daemon, but for those with `--direct`, which need none. The channel recovers by itself \
     when the agent, the daemon, the VM or QEMU restarts, and a guest that hangs makes nobody else wait.",
    "A VM is named as its socket is: that of `web1` is web1.agent.sock. `qx-node channel VM` prints what gives a VM its \
     channel, for libvirt and for QEMU.",
];

/// Above all commands.
pub const COMMANDS: &str = "Options stand before or behind the words of a command. What is behind `--` is none. Options \
     that most commands take are described once, below.";

/// `{}` becomes the commands.
pub const MANY: &str = "These options go in the place of the VM. They are taken by {}. Each line then begins with the \
     VM's name, `--json` is an object a VM, what has failed is listed at the end, and the worst exit status is that of \
     `qx-node`. In `cp` a path that begins with `:` is in each VM, and `--all:PATH` is short for `--all` and `:PATH`. \
     What is copied from many VMs goes into a directory for each.";

/// Beyond their line in the table. Paragraphs are lines.
pub const NOTES: &[(&str, &str)] = &[
    ("vms", "See STATES OF A VM below."),
    (
        "top",
        "With `FILTER` only those VMs whose name, hostname or state has it in it, or whose name is as a pattern says. Enter \
         looks at one closely, `/` finds, a letter puts in another order, `q` leaves.",
    ),
    (
        "telemetry",
        "The agent reports every 10 s if it is not configured otherwise, and the daemon keeps the last hour of each VM, \
         also of one that is off.",
    ),
    (
        "exec",
        "One word is a line for the guest's shell. Several are a program and its arguments, and no shell sees them. What it \
         writes appears as it is written, and the exit status is its own. Ctrl-C and other signals reach the command; a \
         third Ctrl-C ends it. When we leave, or are killed, it is hung up with all that it has started, but for \
         `--detach`.",
    ),
    (
        "jobs",
        "Of each the last 256 KiB of stdout and of stderr are kept, and its result for 10 minutes.",
    ),
    (
        "attach",
        "It goes on where it was when the channel, the daemon or the agent was lost. The exit status is the command's.",
    ),
    (
        "cp",
        "A file appears under its name when all of it is there and on the disk, or not at all. A target that is a directory \
         gets each source under its own name, and `DIR/.` is what `DIR` holds. `--resume`, `--device` and `--mode` are for \
         one file.",
    ),
    (
        "freeze",
        "All file systems, or those that are named, are written out, and whoever writes waits until `thaw`. They thaw by \
         themselves after `--timeout`, and when the agent ends. Programs in the guest's /etc/quantix-kvm/freeze.d are \
         called with `freeze` before and with `thaw` after.",
    ),
    (
        "thaw",
        "Where it fails a snapshot that was made meanwhile is not what it seems.",
    ),
    (
        "restored",
        "The guest's clock is stepped to the host's, its random numbers are reseeded, leases are renewed, and programs in \
         its /etc/quantix-kvm/restore.d are called with `restore`.",
    ),
    (
        "shutdown",
        "It is answered first and done then, by whatever is process 1 in the guest.",
    ),
    (
        "grow",
        "The partition of `MOUNT` and its ext4, xfs or btrfs reach to the end of the disk then, and are in use meanwhile. It needs no \
         program in the guest. LVM, LUKS and RAID are left to their own tools.",
    ),
    (
        "network",
        "`set` goes through what manages the interface in the guest: netplan, NetworkManager, systemd-networkd or ifupdown. \
         It confirms the change if the guest still answers, and the guest undoes what nobody has confirmed.",
    ),
    (
        "keys",
        "Without an action they are listed. `add` and `remove` take keys from a file of this host, or from stdin.",
    ),
    (
        "passwd",
        "From a terminal it is read twice and unseen, from a pipe it is one line.",
    ),
    ("signal", "For commands that `jobs` lists there is `kill`."),
    ("services", "`service` shows one, and has it do something."),
    ("logs", "Those of the journal, or what is below /var/log."),
    (
        "channel",
        "The output is XML for `virsh attach-device VM FILE --live --config`, with QEMU's arguments in a comment.",
    ),
    (
        "doctor",
        "It looks at everything between this host and the agent, says first what is wrong and the one thing to do, and \
         changes nothing. It needs no daemon. As root it sees most. Without `VM` it looks at all of them. The exit status \
         is 1 where there are warnings and 2 where something is wrong.",
    ),
    (
        "serve",
        "It stays in the foreground. SIGTERM ends it, SIGHUP has it read its configuration again. VMs and their agents do \
         not mind either. Its options are the keys of quantix-node.conf(5), and go before what is written there.\n\
         With `--time-sync on-resume` it steps the clocks of guests that were paused or put back, where they are off by \
         more than half a second. With `restored` it does for those that were put back all that `qx-node restored` does.",
    ),
];

/// As `vms` shows them.
pub const STATES: &[(&str, &str)] = &[
    ("ready", "A session with the agent is open."),
    (
        "connecting",
        "There is a socket, and nothing has accepted our connection: QEMU is starting, has died, or hangs.",
    ),
    (
        "queued behind NAME, pid N",
        "QEMU serves one client at a time, and that is another. We are served when it has left.",
    ),
    (
        "waiting for agent",
        "QEMU serves us, and nothing in the guest has opened the port or read from it.",
    ),
    (
        "stalled",
        "The guest has stopped reading, or reads and does not answer. It recovers by itself when the guest does.",
    ),
    (
        "absent",
        "The VM had a socket and has none now: it is off. It is remembered for 24 hours.",
    ),
];

pub const STATUSES: &[(&str, &str)] = &[
    ("0", "Done."),
    ("1", "The request failed."),
    ("2", "Wrong usage."),
    ("3", "No daemon."),
    (
        "4",
        "The guest cannot be reached, or did not answer in time.",
    ),
    ("5", "Not permitted."),
];

pub const RAN: &str = "Those of `exec`, `shell` and `attach` are:";

pub const RAN_STATUSES: &[(&str, &str)] = &[
    (
        "0 to 255",
        "The command's own; 128 + n if signal n ended it.",
    ),
    ("2", "Wrong usage."),
    ("124", "Killed by `--timeout`."),
    (
        "125",
        "Not run, or lost with its channel. The line on stderr says why.",
    ),
];

/// Everything of the environment that is read.
pub const ENVIRONMENT: &[(&[&str], &str)] = &[
    (
        &["QX_NODE_SOCK"],
        "The daemon's socket, where `--control` is not given.",
    ),
    (&["NO_COLOR"], "Where it is not empty `top` has no colours."),
    (
        &["LC_ALL", "LC_CTYPE", "LANG"],
        "Whether `top` draws its bars with UTF-8.",
    ),
    (
        &["TERM"],
        "The terminal, for `top`, and for what `shell` and `exec --tty` run in the guest.",
    ),
    (
        &["LIBVIRT_DEFAULT_URI"],
        "The libvirt that `doctor` and `channel --attach` ask, in the place of qemu:///system.",
    ),
    (
        &[
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
            "JOURNAL_STREAM",
        ],
        "Set by systemd(1), for `serve`.",
    ),
];

pub const EXAMPLES: &[(&str, &str)] = &[
    (
        "Which VMs there are, and whether they can be reached:",
        "qx-node vms",
    ),
    (
        "A program, a line for the guest's shell, a shell on a terminal:",
        "qx-node exec web1 -- uname -r\n\
         qx-node exec web1 -- 'cd /srv && du -sh *'\n\
         qx-node shell web1 --user alice",
    ),
    (
        "Files and trees, and what comes through a pipe:",
        "qx-node cp motd web1:/etc/motd\n\
         qx-node cp -r web1:/var/log .\n\
         tar c /etc/ssl | qx-node exec -i web1 -- tar x -C /srv",
    ),
    (
        "The same in many VMs:",
        "qx-node exec --match 'web*' -- systemctl is-active nginx\n\
         qx-node cp motd --all:/etc/motd",
    ),
    (
        "A snapshot of disks that are at rest:",
        "qx-node freeze web1 --timeout 30\n\
         virsh snapshot-create-as web1 --disk-only --atomic\n\
         qx-node thaw web1",
    ),
    (
        "A command that outlives whoever has started it; 1 is the number that is printed:",
        "qx-node exec web1 --detach -- /usr/local/sbin/backup\n\
         qx-node attach web1 1",
    ),
    ("What is wrong with a VM's channel:", "qx-node doctor web1"),
];
