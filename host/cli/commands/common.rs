//! Options that several commands take.

use crate::cli::options::{Opt, flag, option};

pub const JSON: Opt = flag("json", None, "print JSON, for programs");
pub const CONTROL: Opt = option("control", "SOCKET", "the daemon's socket ($QX_NODE_SOCK)");
pub const DIRECT: Opt = option(
    "direct",
    "SOCKET",
    "talk to this agent socket, without a daemon",
);
pub const VMS_DIR: Opt = option("vms-dir", "DIR", "where QEMU serves the VMs' sockets");

pub const ONLINE: Opt = option("online", "NUMBERS", "take these online, as 1,3-5, or all");
pub const OFFLINE: Opt = option("offline", "NUMBERS", "take these offline");

pub const WAIT: Opt = flag("wait", None, "follow it to its end");
pub const TIMEOUT: Opt = option(
    "timeout",
    "SECONDS",
    "with --wait: give up then (default: 120)",
);
pub const DELAY: Opt = option("delay", "SECONDS", "not before so many have passed");
pub const MESSAGE: Opt = option("message", "TEXT", "for whoever is logged in");
pub const FORCE: Opt = flag(
    "force",
    None,
    "at once, without a word to its init: for one that hangs",
);
pub const CANCEL: Opt = flag("cancel", None, "take back what --delay has put off");
