//! File systems that are frozen, or whose disk or server does not answer: a command that writes there
//! hangs too.
//!
//! Each is asked for a file without a name (O_TMPFILE, open(2)), which is gone when it is closed. A
//! frozen one has that wait in the kernel, so it is a child that asks, and one that hangs is left.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use quantix::error::system_text;
use quantix::rt::check::{Check, Status};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, pipe, wait};
use quantix::rt::sys::process::{self, Pid, Signal};

use super::{Guest, fine, found, unknown};
use crate::telemetry::disk::{self, Mount};

const NAME: &str = "filesystems";

/// For all of them together: who asks has an answer within a second.
const PATIENCE: Duration = Duration::from_millis(700);

pub fn check(guest: &mut Guest) -> Check {
    let mounts = File::open(guest.at("proc/self/mountinfo"));
    match mounts.and_then(|file| writable(BufReader::new(file))) {
        Ok(mounts) => judge(&mounts, &hanging(&mounts)),
        Err(e) => unknown(
            NAME,
            format_args!("/proc/self/mountinfo: {}", system_text(&e)),
            "",
        ),
    }
}

fn writable(mountinfo: impl BufRead) -> io::Result<Vec<Mount>> {
    let mut mounts = disk::mounts(mountinfo)?;
    mounts.retain(|mount| mount.is_writable);
    Ok(mounts)
}

/// Which of these do not answer, in their order.
fn hanging(mounts: &[Mount]) -> Vec<&Mount> {
    let mut probes = Vec::new();
    for mount in mounts {
        if let Ok((pid, end)) = probe(mount) {
            probes.push((mount, pid, end));
        }
    }
    let deadline = clock::now() + PATIENCE;
    let mut hanging = Vec::new();
    for (mount, pid, end) in probes {
        let left = deadline.since(clock::now());
        if !matches!(wait(&mut [Wait::read(&end)], Some(left)), Ok(1..)) {
            process::signal_group(pid, Signal::KILL);
            hanging.push(mount);
        }
    }
    hanging
}

/// A child that asks this file system, and a pipe that ends with it.
fn probe(mount: &Mount) -> io::Result<(Pid, File)> {
    let (end, writer) = pipe()?;
    let pid = process::spawn(&[&writer], || {
        // Who reads the doctor's output would wait for this child, too.
        process::close_streams();
        // Where there are no such files the answer is an error: that is one.
        let _ = File::options()
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(&mount.mount_point);
        0
    })?;
    Ok((pid, end))
}

fn judge(mounts: &[Mount], hanging: &[&Mount]) -> Check {
    let mut names = String::new();
    for mount in mounts {
        if hanging.is_empty() || hanging.contains(&mount) {
            names.push(' ');
            names += &mount.mount_point.to_string_lossy();
        }
    }
    let Some(Mount {
        mount_point,
        device,
        ..
    }) = hanging.first()
    else {
        return fine(NAME, format_args!("these answer:{names}"));
    };
    let name = mount_point.display();
    let remedy = match device.starts_with("/dev/") {
        true => format!("fsfreeze --unfreeze {name}"),
        false => format!("look after {device}, or umount -l {name}"),
    };
    found(
        NAME,
        Status::Fail,
        format_args!("these do not answer:{names}"),
        format_args!("{name} is frozen or hangs"),
        format_args!("{remedy}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_hangs_is_named_with_its_remedy() {
        let text = "28 1 8:1 / / rw - ext4 /dev/sda1 rw\n29 28 8:2 / /srv rw - xfs /dev/sdb rw\n\
            30 28 0:9 / /mnt rw - nfs4 10.0.0.1:/x rw\n31 28 8:3 / /ro ro - ext4 /dev/sdc ro\n";
        let mounts = writable(text.as_bytes()).unwrap();
        let fine = judge(&mounts, &[]);
        assert_eq!(fine, Check::ok(NAME, "these answer: / /srv /mnt"));
        let frozen = judge(&mounts, &[&mounts[1], &mounts[2]]);
        assert_eq!(frozen.status, Status::Fail);
        assert_eq!(frozen.evidence, "these do not answer: /srv /mnt");
        assert_eq!(frozen.remedy, "fsfreeze --unfreeze /srv");
        let dead = judge(&mounts, &[&mounts[2]]);
        assert_eq!(dead.remedy, "look after 10.0.0.1:/x, or umount -l /mnt");
    }
}
