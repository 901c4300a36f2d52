//! Free blocks, as fstrim(8) tells disks of them, which small images do not have.

use std::fs::File;
use std::io::Write as _;

use prost::Message as _;
use quantix::error::{Failure, system_text};
use quantix::message::agent::{Trim, TrimMount, TrimReport};
use quantix::rt::sys::fd::set_nonblocking;
use quantix::rt::sys::filesystem;

use crate::telemetry::disk::{self, Mount};

/// Bytes of a file system that are told of at once: between two parts the request can be taken back.
const PART: u64 = 4 << 30;

/// Trims all that is asked for, one after the other, and tells `watcher` how far it is.
pub fn trim(request: &Trim, watcher: Option<&File>) -> Result<TrimReport, Failure> {
    // A host that does not read keeps nothing waiting.
    let watcher = watcher.filter(|watcher| set_nonblocking(watcher).is_ok());
    let (_, chosen) = disk::wanted(&request.mount_points)?;
    let mounts = chosen
        .iter()
        .map(|mount| one(mount, request.minimum, watcher));
    Ok(TrimReport {
        mounts: mounts.collect(),
    })
}

fn one(mount: &Mount, minimum: u64, watcher: Option<&File>) -> TrimMount {
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
    let size = match watcher {
        Some(_) => mount.measure().map_or(0, |disk| disk.total),
        None => 0,
    };
    let ended = mount.open().and_then(|file| {
        let mut start = 0;
        loop {
            tell(watcher, &report, start, size);
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

/// How far it is: a record of the stream, in one write, so that it is there whole or not at all (PIPE_BUF, pipe(7)).
fn tell(watcher: Option<&File>, report: &TrimMount, done: u64, size: u64) {
    let Some(mut watcher) = watcher else { return };
    let now = TrimMount {
        done: done.min(size),
        size,
        ..report.clone()
    };
    let length = u32::try_from(now.encoded_len()).unwrap_or(u32::MAX);
    let record = [&length.to_be_bytes()[..], &now.encode_to_vec()].concat();
    if record.len() <= libc::PIPE_BUF {
        let _ = watcher.write(&record);
    }
}
