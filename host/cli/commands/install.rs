//! What puts another agent into a guest.

use super::common::{CONTROL, DIRECT, JSON};
use crate::cli::options::{Command, option};

pub const INSTALL: Command = Command {
    name: "install",
    usage: "VM",
    about: "put another agent into a guest; a bad one is undone",
    options: &[
        option("deb", "FILE", "its package, for dpkg"),
        option("rpm", "FILE", "its package, for rpm"),
        option(
            "binary",
            "FILE",
            "the program alone, in the place of the old one",
        ),
        option("sha256", "SUM", "what FILE has to have"),
        option(
            "deadline",
            "SECONDS",
            "in which it has to let us in (default: 60)",
        ),
        JSON,
        CONTROL,
        DIRECT,
    ],
};
