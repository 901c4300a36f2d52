//! Free blocks, as fstrim(8) tells disks of them, which small images do not have.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

use quantix::error::{Failure, system_text};
use quantix::message::agent::{Trim, TrimMount, TrimReport};
use quantix::rt::sys::filesystem;

use crate::telemetry::disk::{self, Mount, is_network};

/// Bytes of a file system that are told of at once: between two parts the request can be taken back.
const PART: u64 = 4 << 30;

/// Trims all that is asked for, one after the other.
pub fn trim(request: &Trim) -> Result<TrimReport, Failure> {
    let (all, storage) = disk::mountinfo()
        .and_then(disk::all)
        .map_err(|e| Failure::system("read", "/proc/self/mountinfo", &e))?;
    let chosen = match &request.mount_points[..] {
        [] => storage,
        wanted => disk::choose(wanted, &all, storage)?,
    };
    let mounts = chosen.iter().map(|mount| one(mount, request.minimum));
    Ok(TrimReport {
        mounts: mounts.collect(),
    })
}

fn one(mount: &Mount, minimum: u64) -> TrimMount {
    let mut report = TrimMount {
        mount_point: mount.name(),
        ..Default::default()
    };
    report.reason = match mount {
        _ if is_network(&mount.filesystem) => "a network file system: its server has the disk",
        Mount { number: (0, _), .. } if mount.filesystem != "btrfs" => "on no disk of its own",
        Mount {
            is_file_system_writable: false,
            ..
        } => "read-only",
        _ => "",
    }
    .to_owned();
    if !report.reason.is_empty() {
        return report;
    }
    // Addresses of btrfs are its own, and have gaps.
    let part = match &*mount.filesystem {
        "btrfs" => u64::MAX,
        _ => PART,
    };
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = File::options()
        .read(true)
        .custom_flags(flags)
        .open(&mount.mount_point);
    let ended = opened.and_then(|file| {
        let mut start = 0;
        loop {
            match filesystem::trim(&file, start, part, minimum) {
                // Behind its end.
                Err(e) if start > 0 && e.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
                Err(e) => return Err(e),
                Ok(bytes) => report.trimmed += bytes,
            }
            match start.checked_add(part) {
                Some(next) => start = next,
                None => return Ok(()),
            }
        }
    });
    if let Err(e) = ended {
        report.errno = e.raw_os_error().unwrap_or(0).unsigned_abs();
        report.reason = match e.raw_os_error() {
            Some(libc::EOPNOTSUPP) => "its disk takes no discards".to_owned(),
            _ => system_text(&e),
        };
    }
    report
}
