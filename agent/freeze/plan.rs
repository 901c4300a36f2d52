//! What is frozen, and in which order.
//!
//! Later mounts first, since a file system can be mounted on a file of an earlier one; and in front of each
//! whatever stands on a file in it (loop devices, also below LVM), in whichever order they were mounted:
//! once a file system is frozen, nothing that writes to it can be written out any more.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use quantix::message::agent::{FreezeMount, FreezeOutcome};

use crate::telemetry::disk::Mount;

/// A file system, and what is to become of it.
#[derive(Debug)]
pub struct Target {
    /// Where it is mounted.
    pub mount: Mount,
    /// Why it is left out. `None`: it is frozen.
    pub skipped: Option<&'static str>,
}

impl Target {
    /// As it is reported.
    pub fn report(&self) -> FreezeMount {
        FreezeMount {
            mount_point: self.mount.name(),
            filesystem: self.mount.filesystem.clone(),
            device: self.mount.device.clone(),
            outcome: match self.skipped {
                Some(_) => FreezeOutcome::Skipped.into(),
                None => FreezeOutcome::Unspecified.into(),
            },
            reason: self.skipped.unwrap_or_default().to_owned(),
            errno: 0,
        }
    }
}

/// These file systems in the order in which they are to be frozen. `all` are the mounts; `sys` is /sys.
pub fn plan(all: &[Mount], storage: Vec<Mount>, sys: &Path) -> Vec<Target> {
    let backings: Vec<Vec<(u32, u32)>> = storage
        .iter()
        .map(|mount| {
            let files = backing_files(sys, mount.number);
            files
                .iter()
                .filter_map(|file| file_system_of(file, all))
                .collect()
        })
        .collect();
    let mut order = Vec::new();
    let mut seen = vec![false; storage.len()];
    for at in (0..storage.len()).rev() {
        visit(at, &storage, &backings, &mut seen, &mut order);
    }
    let mut storage: Vec<Option<Mount>> = storage.into_iter().map(Some).collect();
    let taken = order
        .into_iter()
        .filter_map(|at| storage.get_mut(at)?.take());
    taken
        .map(|mount| Target {
            skipped: why_not(&mount),
            mount,
        })
        .collect()
}

fn why_not(mount: &Mount) -> Option<&'static str> {
    match &*mount.filesystem {
        "zfs" => Some("zfs cannot be frozen: use its snapshots"),
        _ => mount.why_left_out(),
    }
}

/// Puts this one into the order, behind all that write to it.
fn visit(
    at: usize,
    storage: &[Mount],
    backings: &[Vec<(u32, u32)>],
    seen: &mut [bool],
    order: &mut Vec<usize>,
) {
    // Also where, against all sense, each stands on the other.
    if std::mem::replace(&mut seen[at], true) {
        return;
    }
    for upper in (0..storage.len()).rev() {
        if backings[upper].contains(&storage[at].number) {
            visit(upper, storage, backings, seen, order);
        }
    }
    order.push(at);
}

/// Devices on devices on devices: nobody builds more than these.
const MAX_DEPTH: usize = 8;

/// The files that a block device stands on: its own, if it is a loop device, else those of the devices below
/// it (/sys/dev/block, Documentation/ABI/stable/sysfs-block).
fn backing_files(sys: &Path, number: (u32, u32)) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if number.0 > 0 {
        let device = sys.join(format!("dev/block/{}:{}", number.0, number.1));
        collect(&device, MAX_DEPTH, &mut files);
    }
    files
}

fn collect(device: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    if depth == 0 {
        return;
    }
    if let Ok(mut file) = fs::read(device.join("loop/backing_file")) {
        file.truncate(file.trim_ascii_end().len());
        files.push(OsString::from_vec(file).into());
        return;
    }
    // A partition is a directory in that of its disk.
    if device.join("partition").exists() {
        return collect(&device.join(".."), depth - 1, files);
    }
    for below in fs::read_dir(device.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
    {
        collect(&below.path(), depth - 1, files);
    }
}

/// The file system that a file is on, by the longest mount point above it.
fn file_system_of(file: &Path, all: &[Mount]) -> Option<(u32, u32)> {
    let above = all
        .iter()
        .filter(|mount| file.starts_with(&mount.mount_point));
    // Of several at one place the last is on top.
    let nearest = above.max_by_key(|mount| mount.mount_point.as_os_str().len());
    nearest.map(|mount| mount.number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::disk;
    use quantix::error::{Code, Failure};

    fn names(wanted: &[&str], text: &str, sys: &Path) -> Result<Vec<String>, Failure> {
        let (all, storage) = disk::all(text.as_bytes()).unwrap();
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let chosen = match &wanted[..] {
            [] => storage,
            wanted => disk::choose(wanted, &all, storage)?,
        };
        let targets = plan(&all, chosen, sys);
        let name = |target: &Target| match target.skipped {
            None => target.mount.name(),
            Some(why) => format!("{}: {why}", target.mount.name()),
        };
        Ok(targets.iter().map(name).collect())
    }

    const NO_SYS: &str = "/no/such/directory";

    const SERVER: &str = "\
23 28 0:21 / /proc rw - proc proc rw
26 28 0:23 / /run rw - tmpfs tmpfs rw
28 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw
95 28 252:2 / /boot rw - xfs /dev/vda2 rw
96 95 252:1 / /boot/efi rw - vfat /dev/vda1 ro
99 28 252:16 / /srv/my\\040data ro - ext4 /dev/vdb rw
100 28 253:0 /x /srv/bind rw - ext4 /dev/mapper/vg-root rw
101 28 0:44 / /pool rw - btrfs /dev/vdc rw
102 101 0:45 /sub /pool/sub rw - btrfs /dev/vdd rw
110 28 0:48 / /mnt/nfs rw - nfs4 10.0.0.1:/export rw
111 28 0:49 / /tank rw - zfs tank rw
";

    #[test]
    fn later_mounts_come_first_each_file_system_once_and_what_is_left_out_has_a_reason() {
        let found = names(&[], SERVER, Path::new(NO_SYS)).unwrap();
        let expected = [
            "/tank: zfs cannot be frozen: use its snapshots",
            "/mnt/nfs: a network file system: its server has the disk",
            "/pool/sub",
            "/pool",
            // That this mount is read-only says nothing of the others.
            "/srv/my data",
            "/boot/efi: read-only",
            "/boot",
            "/",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_asked_for_is_all_there_is() {
        let names = |wanted: &[&str]| names(wanted, SERVER, Path::new(NO_SYS));
        assert_eq!(names(&["/boot/", "/"]).unwrap(), ["/boot", "/"]);
        // A bind mount is its file system.
        assert_eq!(names(&["/srv/bind", "/", "/srv/bind"]).unwrap(), ["/"]);
        let none = names(&["/boot", "/boot/grub"]).unwrap_err();
        assert_eq!(
            (none.code, &*none.message),
            (Code::NotFound, "/boot/grub: nothing is mounted there")
        );
        for odd in ["", "boot", "/../boot"] {
            assert_eq!(names(&[odd]).unwrap_err().code, Code::NotFound, "{odd}");
        }
        let memory = names(&["/run"]).unwrap_err();
        assert_eq!(
            (memory.code, &*memory.message),
            (Code::Invalid, "/run: a tmpfs is on no disk")
        );
    }

    #[test]
    fn what_stands_on_a_file_is_frozen_before_the_file_system_of_that_file() {
        // /first is a loop device on a file in /later, which was mounted after it; /lvm a logical volume
        // on a partition of such a device.
        let text = "\
20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 7:0 / /first rw - ext4 /dev/loop0 rw
22 20 253:3 / /lvm rw - xfs /dev/mapper/vg-lv rw
23 20 8:2 / /later rw - ext4 /dev/sda2 rw
24 20 0:9 / /dev rw - devtmpfs udev rw
";
        let sys = std::env::temp_dir().join(format!("qx-plan-{}", std::process::id()));
        let block = |name: &str| sys.join("dev/block").join(name);
        fs::create_dir_all(block("7:0").join("loop")).unwrap();
        fs::write(
            block("7:0").join("loop/backing_file"),
            "/later/image file\n",
        )
        .unwrap();
        fs::create_dir_all(block("7:1").join("loop")).unwrap();
        fs::write(block("7:1").join("loop/backing_file"), "/later/disk\n").unwrap();
        fs::create_dir_all(block("7:1").join("loop1p1")).unwrap();
        fs::write(block("7:1").join("loop1p1/partition"), "1\n").unwrap();
        fs::create_dir_all(block("253:3").join("slaves")).unwrap();
        std::os::unix::fs::symlink(
            block("7:1").join("loop1p1"),
            block("253:3").join("slaves/loop1p1"),
        )
        .unwrap();
        let found = names(&[], text, &sys).unwrap();
        assert_eq!(found, ["/lvm", "/first", "/later", "/"]);
        // In a circle.
        fs::create_dir_all(block("8:2").join("loop")).unwrap();
        fs::write(block("8:2").join("loop/backing_file"), "/first/x\n").unwrap();
        assert_eq!(names(&[], text, &sys).unwrap().len(), 4);
        fs::remove_dir_all(&sys).unwrap();
    }
}
