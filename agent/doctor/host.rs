//! The host: whether somebody has the other end of the port open, as far as the driver knows.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use quantix::error::system_text;
use quantix::rt::check::{Check, Status};
use quantix::rt::sys::fd::{Wait, wait};

use super::{Guest, fine, found, unknown, value};

const NAME: &str = "host";

/// Asks debugfs, which tells at any time, else the port itself, which tells who has it open.
pub fn check(guest: &mut Guest) -> Check {
    let Some(device) = &guest.device else {
        return unknown(NAME, format_args!("there is no device to ask"), "");
    };
    let node = device.file_name().unwrap_or_default().display();
    let debug = guest.read(&format!("sys/kernel/debug/virtio-ports/{node}"));
    let (is_connected, by) = match parse(&debug) {
        Some(is_connected) => (is_connected, "debugfs"),
        None if guest.is_port_free => match ask(device) {
            Ok(is_connected) => (is_connected, "the port"),
            Err(e) => {
                return unknown(
                    NAME,
                    format_args!("{}: {}", device.display(), system_text(&e)),
                    "",
                );
            }
        },
        None => {
            let seen = format_args!("neither debugfs nor the port, which is in use, can be asked");
            return unknown(
                NAME,
                seen,
                "as root: mount -t debugfs none /sys/kernel/debug",
            );
        }
    };
    match is_connected {
        true => fine(NAME, format_args!("connected, says {by}")),
        false => found(
            NAME,
            Status::Warn,
            format_args!("not connected, says {by}"),
            format_args!("no host is connected"),
            format_args!("on the host: qx-node doctor VM"),
        ),
    }
}

/// `host_connected: 1`, among others (drivers/char/virtio_console.c, `port_debugfs_show`).
fn parse(text: &str) -> Option<bool> {
    match value(text, "host_connected", ':') {
        Some("0") => Some(false),
        Some("1") => Some(true),
        _ => None,
    }
}

/// Opens the port for a moment. Nothing is read or written.
fn ask(device: &Path) -> std::io::Result<bool> {
    let port = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(device)?;
    let mut waits = [Wait::read(&port)];
    wait(&mut waits, Some(Duration::ZERO))?;
    Ok(!waits[0].is_hung_up())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debugfs_is_read_as_the_driver_writes_it() {
        let text = |host| {
            format!(
                "name: org.quantix.agent.0\nguest_connected: 1\nhost_connected: {host}\n\
                outvq_full: 0\nbytes_sent: 1\nbytes_received: 2\nbytes_discarded: 0\n\
                is_console: no\nconsole_vtermno: 0\n"
            )
        };
        assert_eq!(parse(&text("1")), Some(true));
        assert_eq!(parse(&text("0")), Some(false));
        assert_eq!(parse(&text("")), None);
        assert_eq!(parse("guest_connected: 1\n"), None);
    }
}
