//! The port: its entry in sysfs, its node in /dev, and udev's link to that.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use quantix::error::system_text;
use quantix::rt::check::{Check, Status};

use super::{Guest, fine, found};
use crate::port::{self, ports};

const NAME: &str = "port";

const SYSFS: &str = "sys/class/virtio-ports";

/// Leaves the port's device in the guest. What is wanted is a port's name, or with a slash in it the
/// path of its node.
pub fn check(guest: &mut Guest) -> Check {
    let wanted = guest.options.port.as_deref().unwrap_or(port::NAME);
    let listed = ports(&guest.at(SYSFS));
    if wanted.contains('/') {
        let path = fs::canonicalize(wanted).unwrap_or_else(|_| wanted.into());
        let port = listed.iter().find(|port| path.ends_with(&port.node));
        return node(guest, path, port.map_or("", |port| &port.name));
    }
    let mut others = String::new();
    for port in &listed {
        if port.name == wanted {
            let path = guest.at("dev").join(&port.node);
            return node(guest, path, wanted);
        }
        others.push(' ');
        others += &port.name;
    }
    if others.is_empty() {
        others += " none";
    }
    found(
        NAME,
        Status::Fail,
        format_args!("ports that are there:{others}"),
        format_args!("the VM has no channel: no port is named {wanted}"),
        format_args!("on the host, give it what `qx-node channel VM` prints"),
    )
}

fn node(guest: &mut Guest, path: PathBuf, name: &str) -> Check {
    let shown = path.display();
    let why = match fs::metadata(&path).map(|found| found.file_type()) {
        Ok(kind) if kind.is_char_device() => return linked(guest, path, name),
        Ok(kind) if kind.is_socket() => return fine(NAME, format_args!("{shown} is a socket")),
        Ok(_) => "is no character device".to_owned(),
        Err(e) => system_text(&e),
    };
    // devtmpfs, or udev, should have made it.
    let node = path.file_name().unwrap_or_default().display();
    let numbers = guest.read(&format!("{SYSFS}/{node}/dev"));
    let remedy = match numbers.trim_ascii().split_once(':') {
        Some((major, minor)) => format!("rm -f {shown}; mknod {shown} c {major} {minor}"),
        None => format!("look for the port's name in /{SYSFS}/*/name"),
    };
    found(
        NAME,
        Status::Fail,
        format_args!("{name}"),
        format_args!("{shown}: {why}"),
        format_args!("{remedy}"),
    )
}

/// The link that udev makes to the node: systemd starts the agent by it, which itself does without.
fn linked(guest: &mut Guest, path: PathBuf, name: &str) -> Check {
    // Where there is no udev nobody makes the link, and nobody misses it.
    let is_missed = guest.has("run/udev") && !guest.has(&format!("dev/virtio-ports/{name}"));
    let path = guest.device.insert(path).display();
    let seen = format_args!("{name} is {path}");
    if name.is_empty() {
        return fine(NAME, format_args!("{path}, which is no virtio-serial port"));
    }
    if !is_missed {
        return fine(NAME, seen);
    }
    found(
        NAME,
        Status::Warn,
        seen,
        format_args!(
            "udev has not made /dev/virtio-ports/{name}, by which systemd starts the agent"
        ),
        format_args!("udevadm trigger"),
    )
}
