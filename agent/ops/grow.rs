//! A partition and its file system, grown while they are in use, after their disk grew. All is looked at before
//! anything is written; what stands in between and is not known to this file (LVM, LUKS, RAID) is left alone.
//!
//! It may be ended between any two steps: asked for again, it goes on from there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use quantix::error::{Code, Failure};
use quantix::message::agent::{Grow, GrowReport};
use quantix::rt::partitions::{self, Place};
use quantix::rt::sys::fd::try_lock;
use quantix::rt::sys::filesystem;
use quantix::rt::sys::process::page_size;

use super::storage::{SECTOR, number, word};
use super::take_lock;
use crate::telemetry::disk;

/// Does it, or says what would be done.
pub fn grow(request: &Grow) -> Result<GrowReport, Failure> {
    let name = &request.mount_point;
    let refused = |why: &str| Failure::new(Code::Invalid, format!("{name}: {why}"));
    let (_, chosen) = disk::wanted(std::slice::from_ref(name))?;
    let mount = chosen
        .first()
        .ok_or_else(|| refused("nothing is mounted there"))?;
    let kind = match &*mount.filesystem {
        "ext4" => Kind::Ext4,
        "xfs" => Kind::Xfs,
        "btrfs" => Kind::Btrfs,
        other => {
            return Err(refused(&format!(
                "{other} cannot be grown here, ext4, xfs and btrfs can"
            )));
        }
    };
    if !mount.is_writable {
        return Err(refused("mounted read-only"));
    }
    let system = |doing: &'static str| move |e: io::Error| Failure::system(doing, name, &e);
    let file = mount.open().map_err(system("open"))?;
    let number = match kind {
        Kind::Btrfs => {
            Btrfs::find(&file)
                .map_err(system("find the disk of"))?
                .map_err(|why| refused(&why))?
                .disk
        }
        _ => {
            let (major, minor) = mount.number;
            let meta = file.metadata().map_err(system("stat"))?;
            if meta.dev() != libc::makedev(major, minor) {
                return Err(refused("another file system lies over it"));
            }
            mount.number
        }
    };
    let device = Device::find(Path::new("/sys"), number).map_err(system("find the disk of"))?;
    let parent = device.parent();
    let disk = parent.as_ref().unwrap_or(&device);
    if let Some(why) = disk.why_not() {
        return Err(refused(&format!("{} is {why}", disk.name)));
    }
    let size = kind.size(&file, &device).map_err(system("measure"))?;
    let mut report = GrowReport {
        filesystem: mount.filesystem.clone(),
        device: device.name.clone(),
        disk_size: disk.size(),
        device_before: device.size(),
        device_after: device.size(),
        filesystem_before: size.bytes(),
        ..Default::default()
    };
    // Others that change the table of a disk hold this as well (systemd's BLOCK_DEVICE_LOCKING).
    let node = disk.open(parent.is_some() && !request.dry_run)?;
    take_lock(&disk.node(), &|| try_lock(&node))?;
    if parent.is_some() {
        disk.name.clone_into(&mut report.disk);
        let place = device.place(disk);
        let read = |at: u64, blocks: u64| read(disk, &node, &place, at, blocks);
        let plan = partitions::grow(&place, &read)
            .map_err(|failure| Failure::new(failure.code, format!("{}: {failure}", device.name)))?;
        plan.table.clone_into(&mut report.table);
        // Sizes in /sys fit into 64 bits in bytes as well.
        report.device_after = (plan.end - place.first).saturating_mul(place.block);
        if !request.dry_run {
            let system = |doing| move |e: io::Error| Failure::system(doing, &disk.node(), &e);
            for write in &plan.writes {
                let written = node.write_all_at(&write.bytes, write.at);
                let written = written.and_then(|()| node.sync_all());
                written.map_err(system("write the partition table of"))?;
            }
            if report.device_after > report.device_before {
                let start = place.first.saturating_mul(place.block);
                let end = report.device_after;
                filesystem::resize_partition(&node, place.number, start, end)
                    .map_err(system("tell the kernel of the new partition table of"))?;
            }
        }
    }
    let blocks = report.device_after / size.block;
    report.filesystem_after = report
        .filesystem_before
        .max(blocks.saturating_mul(size.block));
    if !request.dry_run && report.filesystem_after > report.filesystem_before {
        kind.grow(&file, blocks).map_err(|e| {
            let mut failure = Failure::system("grow", name, &e);
            if report.device_after > report.device_before {
                failure.message += &format!("; {} has grown", device.name);
            }
            failure
        })?;
        let size = kind.size(&file, &device).map_err(system("measure"))?;
        report.filesystem_after = size.bytes();
    }
    Ok(report)
}

fn read(
    disk: &Device,
    node: &File,
    place: &Place,
    at: u64,
    blocks: u64,
) -> Result<Vec<u8>, Failure> {
    let bytes = blocks.saturating_mul(place.block);
    let mut bytes = vec![0; usize::try_from(bytes).unwrap_or(0)];
    let at = at.saturating_mul(place.block);
    node.read_exact_at(&mut bytes, at)
        .map_err(|e| Failure::system("read", &disk.node(), &e))?;
    Ok(bytes)
}

/// A file system's, in its blocks.
struct Size {
    block: u64,
    blocks: u64,
}

impl Size {
    const fn bytes(&self) -> u64 {
        self.block.saturating_mul(self.blocks)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    fn size(self, file: &File, device: &Device) -> io::Result<Size> {
        let size = match self {
            Self::Ext4 => {
                // statvfs(3) leaves out what it needs for itself.
                let mut superblock = [0; 1024];
                let node = device.open(false).map_err(io::Error::other)?;
                node.read_exact_at(&mut superblock, 1024)?;
                ext4(&superblock)
            }
            Self::Xfs => filesystem::xfs(file).map(|xfs| Size {
                block: xfs.block.into(),
                blocks: xfs.blocks,
            })?,
            Self::Btrfs => {
                let of = Btrfs::find(file)?.map_err(io::Error::other)?;
                let mut id = [0; 16];
                let node = device.open(false).map_err(io::Error::other)?;
                node.read_exact_at(&mut id, BTRFS_ID)?;
                if id != of.id {
                    return Err(io::Error::other("its disk has another's superblock"));
                }
                of.size
            }
        };
        if size.block == 0 {
            return Err(io::Error::other("its superblock is broken"));
        }
        Ok(size)
    }

    fn grow(self, file: &File, blocks: u64) -> io::Result<()> {
        match self {
            Self::Ext4 => filesystem::resize_ext4(file, blocks),
            Self::Xfs => filesystem::resize_xfs(file, &filesystem::xfs(file)?, blocks),
            Self::Btrfs => {
                let of = Btrfs::find(file)?.map_err(io::Error::other)?;
                let bytes = blocks.saturating_mul(of.size.block);
                filesystem::resize_btrfs(file, of.number, bytes)
            }
        }
    }
}

/// Where on its disk a btrfs keeps its name (`struct btrfs_super_block`).
const BTRFS_ID: u64 = 0x1_0000 + 0x20;

/// Numbers of devices that are tried.
const MAX_DEVICES: u64 = 1024;

/// A btrfs on one device. Its mounts tell of no device's number, and its subvolumes have numbers of their own.
struct Btrfs {
    id: [u8; 16],
    disk: (u32, u32),
    /// What it calls that.
    number: u64,
    size: Size,
}

impl Btrfs {
    /// Or why it is left alone.
    fn find(file: &File) -> io::Result<Result<Self, String>> {
        let of = filesystem::btrfs(file)?;
        if of.count != 1 {
            return Ok(Err(format!(
                "a btrfs on {} disks: grow each by hand with btrfs filesystem resize NUMBER:max, the numbers are in \
                btrfs filesystem show",
                of.count
            )));
        }
        // Those that were taken away have left gaps.
        for number in 0..=of.last.min(MAX_DEVICES) {
            let (bytes, path) = match filesystem::btrfs_device(file, number) {
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => continue,
                other => other?,
            };
            let node = fs::metadata(&path)?.rdev();
            let block = btrfs_block(of.block);
            return Ok(Ok(Self {
                id: of.id,
                disk: (libc::major(node), libc::minor(node)),
                number,
                size: Size {
                    block,
                    blocks: bytes.checked_div(block).unwrap_or(0),
                },
            }));
        }
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }
}

/// Bytes of a btrfs's block. Before 3.16 the kernel does not tell, and mounts none whose blocks are other than a page.
fn btrfs_block(told: u32) -> u64 {
    match told {
        0 => page_size(),
        told => told.into(),
    }
}

/// Of `struct ext4_super_block` (fs/ext4/ext4.h). A block of 0 bytes: it is none.
fn ext4(superblock: &[u8; 1024]) -> Size {
    let number = |at: usize, length: usize| {
        let field = superblock[at..at + length].iter();
        field.rfold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    const HAS_64_BITS: u64 = 0x80;
    let shift = number(0x18, 4);
    let high = match number(0x60, 4) & HAS_64_BITS {
        0 => 0,
        _ => number(0x150, 4),
    };
    Size {
        // At most 64 KiB.
        block: match (number(0x38, 2), shift) {
            (0xEF53, 0..=6) => 1024 << shift,
            _ => 0,
        },
        blocks: high << 32 | number(0x4, 4),
    }
}

/// Of one device, those below it that are named.
const MAX_BELOW: usize = 8;

/// A block device, by its directory in /sys.
struct Device {
    path: PathBuf,
    name: String,
}

impl Device {
    fn find(sys: &Path, (major, minor): (u32, u32)) -> io::Result<Self> {
        let path = fs::canonicalize(sys.join(format!("dev/block/{major}:{minor}")))?;
        Ok(Self::at(path))
    }

    fn at(path: PathBuf) -> Self {
        let name = path.file_name().unwrap_or_default();
        // The kernel writes a ! for a / in the middle of a name.
        let name = name.to_string_lossy().replace('!', "/");
        Self { path, name }
    }

    /// The disk that it is a partition of.
    fn parent(&self) -> Option<Self> {
        self.path.join("partition").exists().then_some(())?;
        self.path.parent().map(|path| Self::at(path.to_owned()))
    }

    /// In bytes.
    fn size(&self) -> u64 {
        number(&self.path, "size").saturating_mul(SECTOR)
    }

    /// What stands between it and what was grown, and what to do about that.
    fn why_not(&self) -> Option<String> {
        let has = |name: &str| self.path.join(name).exists();
        let why = if has("dm") {
            let kind = word(&self.path, "dm/uuid");
            let mapped = word(&self.path, "dm/name");
            match kind.split('-').next() {
                Some("LVM") => format!(
                    "a logical volume: grow it by hand with pvresize {}, then lvextend -r -l +100%FREE \
                    /dev/mapper/{mapped}",
                    self.below()
                ),
                Some("CRYPT") => format!(
                    "encrypted: grow it by hand with cryptsetup resize {mapped}, then what is in it"
                ),
                _ => {
                    "made by the device mapper: grow what it stands on by hand, then it".to_owned()
                }
            }
        } else if has("md") {
            let node = self.node();
            format!(
                "a RAID: grow it by hand with mdadm --grow {node} --size=max, then what is on it"
            )
        } else if has("loop") {
            let node = self.node();
            format!("a loop device: grow its file by hand, then it with losetup -c {node}")
        } else if has("bcache") {
            "a bcache: grow what it stands on by hand".to_owned()
        } else {
            return (number(&self.path, "ro") > 0).then(|| "read-only".to_owned());
        };
        Some(why)
    }

    /// What it is made of, below /dev.
    fn below(&self) -> String {
        let mut names: Vec<String> = fs::read_dir(self.path.join("slaves"))
            .into_iter()
            .flatten()
            .flatten()
            .take(MAX_BELOW)
            .map(|entry| Self::at(entry.path()).node())
            .collect();
        names.sort_unstable();
        names.join(" ")
    }

    fn node(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// What is below /dev under its name, if that is it.
    fn open(&self, write: bool) -> Result<File, Failure> {
        let path = self.node();
        let file = File::options()
            .read(true)
            .write(write)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&path)
            .map_err(|e| Failure::system("open", &path, &e))?;
        let number = word(&self.path, "dev");
        let is_own = file.metadata().is_ok_and(|meta| {
            let number = number.split_once(':');
            let number = number.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            number.is_some_and(|(major, minor)| meta.rdev() == libc::makedev(major, minor))
        });
        if !is_own {
            let why = format!("{path} is not the disk that the kernel calls so ({number})");
            return Err(Failure::new(Code::Internal, why));
        }
        Ok(file)
    }

    /// Where on its disk it is.
    fn place(&self, disk: &Self) -> Place {
        let block = number(&disk.path, "queue/logical_block_size");
        let count = |bytes: u64| bytes.checked_div(block).unwrap_or(0);
        let start = number(&self.path, "start").saturating_mul(SECTOR);
        Place {
            block,
            blocks: count(disk.size()),
            number: u32::try_from(number(&self.path, "partition")).unwrap_or(0),
            first: count(start),
            end: count(start.saturating_add(self.size())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A /sys with this disk, as 254:0, and its second partition, as 254:2.
    fn sys(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let sys = std::env::temp_dir().join(format!("qx-grow-{name}-{}", std::process::id()));
        let disk = sys.join("devices/block/vda");
        let usual = [
            ("size", "204800"),
            ("ro", "0"),
            ("queue/logical_block_size", "512"),
            ("vda2/size", "8192"),
            ("vda2/start", "4096"),
            ("vda2/partition", "2"),
        ];
        for (name, text) in usual.iter().chain(files) {
            let path = disk.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(sys.join("dev/block")).unwrap();
        symlink(&disk, sys.join("dev/block/254:0")).unwrap();
        symlink(disk.join("vda2"), sys.join("dev/block/254:2")).unwrap();
        sys
    }

    #[test]
    fn a_partition_knows_its_disk_and_its_place_there() {
        let sys = sys("place", &[("queue/logical_block_size", "4096")]);
        let part = Device::find(&sys, (254, 2)).unwrap();
        let disk = part.parent().unwrap();
        assert_eq!(
            (part.node(), disk.node()),
            ("/dev/vda2".into(), "/dev/vda".into())
        );
        assert!(disk.parent().is_none() && disk.why_not().is_none());
        let place = part.place(&disk);
        assert_eq!((place.block, place.blocks, place.number), (4096, 25600, 2));
        assert_eq!((place.first, place.end), (512, 1536));
        assert!(Device::find(&sys, (254, 1)).is_err());
        fs::remove_dir_all(&sys).unwrap();
    }

    #[test]
    fn what_stands_in_between_is_named_with_what_to_do() {
        for (name, text, words) in [
            (
                "dm/uuid",
                "LVM-abc",
                "a logical volume: grow it by hand with pvresize /dev/vdb /dev/vdc3, then lvextend -r -l +100%FREE \
                /dev/mapper/data-logs",
            ),
            ("dm/uuid", "CRYPT-LUKS2-abc", "cryptsetup resize data-logs,"),
            ("dm/uuid", "", "the device mapper"),
            ("md/level", "raid1", "mdadm --grow /dev/vda --size"),
            ("loop/backing_file", "/image", "losetup -c /dev/vda"),
            ("bcache/state", "clean", "a bcache"),
            ("ro", "1", "read-only"),
        ] {
            let mut files = vec![(name, text)];
            if name == "dm/uuid" {
                let more = ["dm/name", "slaves/vdc3/size", "slaves/vdb/size"];
                files.extend(more.map(|name| (name, "data-logs")));
            }
            let sys = sys(&format!("between-{}", words.len()), &files);
            let part = Device::find(&sys, (254, 2)).unwrap();
            let why = part.parent().unwrap().why_not().unwrap();
            assert!(why.contains(words), "{why}");
            fs::remove_dir_all(&sys).unwrap();
        }
    }

    #[test]
    fn a_btrfs_of_an_old_kernel_has_blocks_too() {
        assert_eq!(btrfs_block(16_384), 16_384);
        assert_eq!(btrfs_block(0), page_size());
    }

    #[test]
    fn the_size_of_an_ext4_is_what_its_superblock_says() {
        let mut superblock = [0; 1024];
        superblock[0x38..0x3A].copy_from_slice(&[0x53, 0xEF]);
        superblock[0x18] = 2;
        superblock[4..8].copy_from_slice(&[1, 2, 0, 0]);
        superblock[0x150] = 1;
        let size = |superblock| {
            let size = ext4(&superblock);
            (size.block, size.blocks)
        };
        assert_eq!(size(superblock), (4096, 513));
        superblock[0x60] = 0x80;
        assert_eq!(size(superblock), (4096, (1 << 32) + 513));
        superblock[0x18] = 64;
        assert_eq!(size(superblock).0, 0);
        superblock[0x18] = 2;
        superblock[0x39] = 0;
        assert_eq!(size(superblock).0, 0);
    }
}
