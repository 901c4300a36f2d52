//! The host: whether somebody has the other end of the port open, as far as the driver knows.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use quantix::error::system_text;
use quantix::rt::check::{Check, Status};
use quantix::rt::sys::fd::{Wait, wait};

const NAME: &str = "host";

/// Asks debugfs, which tells at any time, else the port itself, which tells who has it open.
pub fn check(root: &Path, device: Option<&Path>, is_free: bool) -> Check {
    let Some(device) = device else {
        return Check::unknown(NAME, "there is no device to ask", "");
    };
    let debug = root.join("sys/kernel/debug");
    let file = debug.join("virtio-ports");
    let file = file.join(device.file_name().unwrap_or_default());
    if let Some(is_connected) = super::read(&file).as_deref().and_then(parse) {
        return found(is_connected, "debugfs");
    }
    if !is_free {
        let seen = "only who has the port open could tell, or debugfs, which cannot be read";
        return Check::unknown(NAME, seen, "mount -t debugfs none /sys/kernel/debug");
    }
    match ask(device) {
        Ok(is_connected) => found(is_connected, "the port"),
        Err(e) => {
            let seen = format!("open {}: {}", device.display(), system_text(&e));
            Check::unknown(NAME, seen, "")
        }
    }
}

fn found(is_connected: bool, by: &str) -> Check {
    match is_connected {
        true => Check::ok(NAME, format!("connected, says {by}")),
        false => Check::of(
            NAME,
            Status::Warn,
            format!("not connected, says {by}"),
            "no host is connected",
            "on the host: qx-node doctor VM",
        ),
    }
}

/// `host_connected: 1`, among others (drivers/char/virtio_console.c, `port_debugfs_show`).
fn parse(text: &str) -> Option<bool> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix("host_connected:"))?;
    match value.trim() {
        "0" => Some(false),
        "1" => Some(true),
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
