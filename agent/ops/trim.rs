//! Free blocks, as fstrim(8) tells disks of them, which small images do not have.

use quantix::error::{Failure, system_text};
use quantix::message::agent::{Trim, TrimMount, TrimReport};
use quantix::rt::sys::filesystem;

use crate::telemetry::disk::{self, Mount};

/// Bytes of a file system that are told of at once: between two parts the request can be taken back.
const PART: u64 = 4 << 30;

/// Trims all that is asked for, one after the other.
pub fn trim(request: &Trim) -> Result<TrimReport, Failure> {
    let (_, chosen) = disk::wanted(&request.mount_points)?;
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
    if let Some(why) = mount.why_left_out() {
        why.clone_into(&mut report.reason);
        return report;
    }
    // Addresses of btrfs are its own, and have gaps.
    let part = match &*mount.filesystem {
        "btrfs" => u64::MAX,
        _ => PART,
    };
    let ended = mount.open().and_then(|file| {
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
            // The latter where the file system knows no trim at all.
            Some(libc::EOPNOTSUPP | libc::ENOTTY) => "its disk takes no discards".to_owned(),
            _ => system_text(&e),
        };
    }
    report
}
