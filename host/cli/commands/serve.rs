//! The daemon's: as many options as its configuration has keys.

use super::common::{CONTROL, VMS_DIR};
use crate::cli::options::{Command, flag, option};

pub const SERVE: Command = Command {
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
            "stderr (default), syslog, or the path of a file",
        ),
        option(
            "log-level",
            "LEVEL",
            "error, warning, info or debug (default: info)",
        ),
        option(
            "time-sync",
            "WHEN",
            "on-resume, restored (default: never): set guests' clocks",
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
        option(
            "view",
            "WHO",
            "who may list, ping and watch: see node.conf(5)",
        ),
        option(
            "operate",
            "WHO",
            "and freeze, shut down, restart (default: @quantix)",
        ),
        option("admin", "WHO", "and run commands and move files"),
        option(
            "audit",
            "TARGET",
            "where it goes, if not with the log: as --log",
        ),
        flag(
            "watchdog",
            None,
            "an event for a guest whose disk or init does not answer",
        ),
    ],
};
