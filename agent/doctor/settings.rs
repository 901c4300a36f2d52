//! The configuration file, as the agent would read it.

use std::io::ErrorKind;

use quantix::error::system_text;
use quantix::rt::check::{Check, Status};

use super::{Guest, fine, found};
use crate::config;

const NAME: &str = "config";

/// Reads the one that was named, or the default one, which need not exist.
pub fn check(guest: &mut Guest) -> Check {
    let given = &guest.options.config;
    let default = || guest.at(config::PATH.trim_start_matches('/'));
    let path = given.clone().unwrap_or_else(default);
    let shown = path.display();
    match config::read(&path) {
        Ok((config, faults)) => match faults.first() {
            Some(fault) if config.policy.fault.is_some() => found(
                NAME,
                Status::Fail,
                format_args!(
                    "{shown}: {} faults; only Ping and telemetry are allowed",
                    faults.len()
                ),
                format_args!("{}", config.policy.fault.as_ref().unwrap_or(fault)),
                format_args!("mend {shown}, then see --check-config"),
            ),
            None => fine(NAME, format_args!("{shown} is in order")),
            Some(fault) => found(
                NAME,
                Status::Warn,
                format_args!(
                    "{shown}: {} faults, of which the defaults hold",
                    faults.len()
                ),
                format_args!("{fault}"),
                format_args!("mend {shown}"),
            ),
        },
        Err(e) if e.kind() == ErrorKind::NotFound && given.is_none() => {
            fine(NAME, format_args!("no {shown}: defaults"))
        }
        Err(e) => found(
            NAME,
            Status::Fail,
            format_args!(""),
            format_args!("{shown}: {}", system_text(&e)),
            format_args!("make {shown} a file that root can read"),
        ),
    }
}
