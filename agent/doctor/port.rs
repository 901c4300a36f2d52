//! The way to the port: its driver, its entry in sysfs, its node in /dev, and udev's link to that.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use quantix::error::system_text;
use quantix::rt::check::{Check, Status};

use crate::port::ports;

/// The driver of virtio-serial ports is there.
pub fn driver(root: &Path) -> Check {
    let name = "driver";
    // A driver that is built in and has no parameters is in the second place alone.
    let places = [
        "sys/module/virtio_console",
        "sys/bus/virtio/drivers/virtio_console",
    ];
    match places.iter().find(|place| root.join(place).exists()) {
        Some(place) => Check::ok(name, format!("virtio_console is in /{place}")),
        None => Check::of(
            name,
            Status::Fail,
            "virtio_console is not in /sys/module",
            "the kernel has no driver for the port",
            "modprobe virtio_console",
        ),
    }
}

/// The port has a node, which is returned if it is a device. `wanted` is its name, or with a slash in
/// it the path of its node.
pub fn check(root: &Path, wanted: &str) -> (Check, Option<PathBuf>) {
    let listed = ports(&root.join("sys/class/virtio-ports"));
    if wanted.contains('/') {
        let path = fs::canonicalize(wanted).unwrap_or_else(|_| wanted.into());
        let port = listed.iter().find(|port| path.ends_with(&port.node));
        return node(root, path, port.map_or("", |port| &port.name));
    }
    match listed.iter().find(|port| port.name == wanted) {
        Some(port) => node(root, root.join("dev").join(&port.node), wanted),
        None => {
            let names: Vec<&str> = listed.iter().map(|port| &*port.name).collect();
            let seen = match names.is_empty() {
                true => "there are no virtio-serial ports".to_owned(),
                false => format!("there are only {}", names.join(", ")),
            };
            let cause = format!("the VM has no channel: no port is named {wanted}");
            let remedy = "on the host, give it what `qx-node channel VM` prints";
            (fail(seen, cause, remedy), None)
        }
    }
}

const NAME: &str = "port";

fn fail(evidence: impl Into<String>, cause: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check::of(NAME, Status::Fail, evidence, cause, remedy)
}

fn node(root: &Path, path: PathBuf, name: &str) -> (Check, Option<PathBuf>) {
    let shown = path.display();
    let found = match fs::metadata(&path) {
        Ok(found) => found.file_type(),
        Err(e) => {
            let cause = format!("{shown}: {}", system_text(&e));
            return (fail(name, cause, make(root, &path)), None);
        }
    };
    if found.is_socket() {
        return (Check::ok(NAME, format!("{shown} is a socket")), None);
    }
    if !found.is_char_device() {
        let cause = format!("{shown} is no character device");
        return (fail(name, cause, make(root, &path)), None);
    }
    if name.is_empty() {
        let seen = format!("{shown}, which is no virtio-serial port");
        return (Check::ok(NAME, seen), Some(path));
    }
    let seen = format!("{name} is {shown}");
    let link = root.join("dev/virtio-ports").join(name);
    // Where there is no udev nobody makes the link, and nobody misses it.
    let check = match link.symlink_metadata() {
        Err(_) if root.join("run/udev").exists() => Check::of(
            NAME,
            Status::Warn,
            seen,
            format!(
                "udev has not made /dev/virtio-ports/{name}, by which systemd starts the agent"
            ),
            "udevadm trigger",
        ),
        _ => Check::ok(NAME, seen),
    };
    (check, Some(path))
}

/// How to make the node, which is what devtmpfs or udev should have done.
fn make(root: &Path, path: &Path) -> String {
    let entry = root
        .join("sys/class/virtio-ports")
        .join(path.file_name().unwrap_or_default());
    let numbers = super::read(&entry.join("dev")).unwrap_or_default();
    match numbers.trim().split_once(':') {
        Some((major, minor)) => {
            let path = path.display();
            format!("rm -f {path}; mknod {path} c {major} {minor}")
        }
        None => "look for the port's name in /sys/class/virtio-ports/*/name".to_owned(),
    }
}
