//! Which commands belong together: in the help, and for many VMs.

/// Commands that may be for many VMs: what they are told is the same for each, and nobody types into them.
pub const MANY: &[&str] = &[
    "ping",
    "info",
    "telemetry",
    "exec",
    "jobs",
    "cp",
    "cat",
    "shutdown",
    "reboot",
    "suspend",
    "freeze",
    "thaw",
    "freeze-status",
    "restored",
    "hardware",
    "cpus",
    "memory",
    "packages",
    "disks",
    "trim",
    "grow",
    "time",
    "network",
    "ip",
    "hostname",
    "timezone",
    "users",
    "ps",
    "services",
    "service",
    "logs",
    "install",
];

/// Commands that only ask, whatever their words are: to ask twice does no harm.
pub const AGAIN: &[&str] = &[
    "vms",
    "ping",
    "info",
    "telemetry",
    "jobs",
    "freeze-status",
    "hardware",
    "packages",
    "disks",
    "ip",
    "users",
    "ps",
    "services",
];

/// What help shows together, in this order; each command is in one of these.
pub const GROUPS: &[(&str, &[&str])] = &[
    (
        "How VMs do",
        &["vms", "top", "ping", "info", "telemetry", "events"],
    ),
    ("Commands", &["exec", "shell", "jobs", "attach", "kill"]),
    ("Files", &["cp", "cat"]),
    (
        "What runs",
        &["ps", "signal", "services", "service", "logs"],
    ),
    ("Network", &["network", "ip", "hostname"]),
    (
        "Hardware and software",
        &["hardware", "cpus", "memory", "packages"],
    ),
    ("Disks", &["disks", "trim", "grow"]),
    (
        "Snapshots",
        &["freeze", "thaw", "freeze-status", "restored"],
    ),
    (
        "Power and time",
        &["shutdown", "reboot", "suspend", "time", "timezone"],
    ),
    ("Users", &["users", "passwd", "keys"]),
    ("The channel", &["channel", "doctor", "install", "serve"]),
];
