//! The configuration file, as the agent would read it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use quantix::error::system_text;
use quantix::rt::check::{Check, Status};

use crate::config;

const NAME: &str = "config";

/// Reads `given`, or the default one, which need not exist.
pub fn check(root: &Path, given: Option<&Path>) -> Check {
    let default = || root.join(config::PATH.trim_start_matches('/'));
    let path = given.map_or_else(default, PathBuf::from);
    let shown = path.display();
    match config::read(&path) {
        Ok((_, faults)) => match faults.first() {
            None => Check::ok(NAME, format!("{shown} is in order")),
            Some(fault) => Check::of(
                NAME,
                Status::Warn,
                format!(
                    "{shown}: {} faults, of which the defaults hold",
                    faults.len()
                ),
                fault,
                format!("mend {shown}"),
            ),
        },
        Err(e) if e.kind() == ErrorKind::NotFound && given.is_none() => {
            Check::ok(NAME, format!("no {shown}: defaults"))
        }
        Err(e) => Check::of(
            NAME,
            Status::Fail,
            "",
            format!("{shown}: {}", system_text(&e)),
            format!("make {shown} a file that root can read"),
        ),
    }
}
