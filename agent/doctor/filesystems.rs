//! File systems that are frozen, or whose disk or server does not answer: a command that writes there
//! hangs, and the agent waits with it.
//!
//! Each is asked for a file without a name (O_TMPFILE, open(2)), which is gone when it is closed. A
//! frozen one has that wait in the kernel, so it is a child that asks, and one that hangs is left.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use quantix::rt::check::{Check, Status};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, pipe, wait};
use quantix::rt::sys::process::{self, Pid, Signal};

use crate::telemetry::disk::{self, Mount};

const NAME: &str = "filesystems";

/// For all of them together.
const PATIENCE: Duration = Duration::from_secs(1);

pub fn check(root: &Path) -> Check {
    let mounts = File::open(root.join("proc/self/mountinfo"));
    let mounts = mounts.and_then(|file| disk::mounts(BufReader::new(file)));
    let mut mounts = match mounts {
        Ok(mounts) => mounts,
        Err(_) => return Check::unknown(NAME, "/proc/self/mountinfo cannot be read", ""),
    };
    mounts.retain(|mount| mount.is_writable);
    judge(&mounts, &hanging(&mounts))
}

/// A child that asks one file system, and the pipe that ends with it.
struct Probe {
    pid: Pid,
    end: File,
}

/// Which of these do not answer, in their order.
fn hanging(mounts: &[Mount]) -> Vec<&Mount> {
    let probe = |mount| Some((mount, probe(mount).ok()?));
    let mut probes: Vec<(&Mount, Probe)> = mounts.iter().filter_map(probe).collect();
    let deadline = clock::now() + PATIENCE;
    while !probes.is_empty() {
        let mut waits: Vec<Wait> = probes.iter().map(|(_, p)| Wait::read(&p.end)).collect();
        let left = deadline.since(clock::now());
        if wait(&mut waits, Some(left)).is_ok_and(|ready| ready > 0) {
            let ended: Vec<bool> = waits.iter().map(Wait::is_ready).collect();
            let mut ended = ended.into_iter();
            probes.retain(|_| ended.next() == Some(false));
        } else if left.is_zero() {
            break;
        }
    }
    for (_, probe) in &probes {
        process::signal_group(probe.pid, Signal::KILL);
    }
    probes.into_iter().map(|(mount, _)| mount).collect()
}

fn probe(mount: &Mount) -> std::io::Result<Probe> {
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
    Ok(Probe { pid, end })
}

fn judge(mounts: &[Mount], hanging: &[&Mount]) -> Check {
    let names = |mounts: &[&Mount]| {
        let names: Vec<String> = mounts.iter().map(|mount| mount.name()).collect();
        names.join(", ")
    };
    let Some(first) = hanging.first() else {
        let all: Vec<&Mount> = mounts.iter().collect();
        let seen = match all.is_empty() {
            true => "there is none to write to".to_owned(),
            false => format!("they answer: {}", names(&all)),
        };
        return Check::ok(NAME, seen);
    };
    let seen = format!("these do not answer: {}", names(hanging));
    let name = first.name();
    let (cause, remedy) = match first.device.starts_with("/dev/") {
        true => (
            format!("{name} is frozen or hangs"),
            format!("fsfreeze -u {name}"),
        ),
        false => (
            format!("{name} hangs"),
            format!("look after {}, or umount -l {name}", first.device),
        ),
    };
    Check::of(NAME, Status::Fail, seen, cause, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_hangs_is_named_with_its_remedy() {
        let text = "28 1 8:1 / / rw - ext4 /dev/sda1 rw\n29 28 8:2 / /srv rw - xfs /dev/sdb rw\n\
            30 28 0:9 / /mnt rw - nfs4 10.0.0.1:/x rw\n";
        let mounts = disk::mounts(text.as_bytes()).unwrap();
        let fine = judge(&mounts, &[]);
        assert_eq!(fine, Check::ok(NAME, "they answer: /, /srv, /mnt"));
        let frozen = judge(&mounts, &[&mounts[1], &mounts[2]]);
        assert_eq!(frozen.status, Status::Fail);
        assert_eq!(frozen.evidence, "these do not answer: /srv, /mnt");
        assert_eq!(frozen.remedy, "fsfreeze -u /srv");
        let dead = judge(&mounts, &[&mounts[2]]);
        assert_eq!(dead.remedy, "look after 10.0.0.1:/x, or umount -l /mnt");
    }
}
