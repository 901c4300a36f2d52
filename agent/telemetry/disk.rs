//! Disks: which mounts are storage (/proc/self/mountinfo, proc_pid_mountinfo(5)), and how full
//! one of them is (statvfs(3)).
//!
//! Choosing reads nothing but /proc. Measuring asks the file system itself, and a dead server or
//! disk never answers: [`Mount::measure`] is for a forked child that can be left behind.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use quantix::error::{Code, Failure};
use quantix::message::wire::Disk;
use quantix::rt::sys::statvfs::{Blocks, statvfs};

use super::{next_line, number};

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute, at most 1024 bytes.
    pub mount_point: PathBuf,
    /// The type, as in /proc/filesystems; a FUSE type with its subtype (`fuse.sshfs`).
    pub filesystem: String,
    /// What is mounted: a block device, a share, or any word; at most 256 bytes of it.
    pub device: String,
    /// Neither this mount nor the file system is read-only.
    pub is_writable: bool,
    /// The file system is not read-only, whatever this mount is.
    pub is_file_system_writable: bool,
    /// `st_dev` of the superblock: the same for all mounts of one file system. Major 0: there is no
    /// block device.
    pub number: (u32, u32),
    /// Of this mount and of the one that it is mounted in.
    id: u32,
    parent: u32,
}

impl Mount {
    /// The mount point for messages, with U+FFFD for what is not UTF-8.
    pub fn name(&self) -> String {
        self.mount_point.to_string_lossy().into_owned()
    }

    /// Why nothing is done to the file system as a whole, if it is one of those.
    pub fn why_left_out(&self) -> Option<&'static str> {
        let filesystem = &*self.filesystem;
        if is_network(filesystem) {
            Some("a network file system: its server has the disk")
        } else if self.number.0 == 0 && !ON_SEVERAL.contains(&filesystem) {
            Some("on no disk of its own")
        } else {
            (!self.is_file_system_writable).then_some("read-only")
        }
    }

    /// What is at its mount point now, for what is done to a file system as a whole.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(&self) -> io::Result<File> {
        open(&self.mount_point)
    }

    /// Asks the file system how full it is. **May block without end.** Errors: those of statvfs(3).
    pub fn measure(&self) -> io::Result<Disk> {
        let blocks = statvfs(&self.mount_point)?;
        Ok(Disk {
            mount_point: self.name(),
            filesystem: self.filesystem.clone(),
            device: self.device.clone(),
            ..sizes(blocks)
        })
    }

    /// Reads the first block of its disk, past all that is kept in memory. **May block without end.** A disk that
    /// cannot be found is taken for well.
    ///
    /// # Errors
    /// As read(2): EIO.
    pub fn read_block(&self) -> io::Result<()> {
        let Some(disk) = block_device(self.number) else {
            return Ok(());
        };
        // O_DIRECT wants it to begin where a block can (open(2)).
        let mut memory = vec![0; 2 * BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        let place = memory.get_mut(start..start.saturating_add(BLOCK));
        match place.map(|place| disk.read_at(place, 0)) {
            // Larger blocks, or none that are read in this way.
            Some(Err(e)) if e.raw_os_error() != Some(libc::EINVAL) => Err(e),
            _ => Ok(()),
        }
    }

    /// Reads one line of mountinfo; None for what is no such line or too long to be reported.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b' ');
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let mut device_number = fields.next()?.splitn(2, |b| *b == b':');
        let major = number(device_number.next()?)?;
        let minor = number(device_number.next()?)?;
        let _root = fields.next()?;
        let mount_point = unescape(fields.next()?);
        if mount_point.first() != Some(&b'/') || mount_point.len() > MAX_MOUNT_POINT {
            return None;
        }
        // Behind the options stand any number of other fields, and then a hyphen.
        let options = fields.next()?;
        fields.find(|field| *field == b"-")?;
        let filesystem = unescape(fields.next()?);
        let mut device = unescape(fields.next().unwrap_or_default());
        device.truncate(MAX_DEVICE);
        // Of both lists of options this is the first word.
        let may_write = |options: &[u8]| options.split(|b| *b == b',').next() == Some(b"rw");
        let is_file_system_writable = fields.next().is_some_and(may_write);
        Some(Self {
            mount_point: OsString::from_vec(mount_point).into(),
            filesystem: String::from_utf8_lossy(&filesystem).into_owned(),
            device: String::from_utf8_lossy(&device).into_owned(),
            is_writable: may_write(options) && is_file_system_writable,
            is_file_system_writable,
            id,
            parent,
            number: (major, minor),
        })
    }

    /// Whether an operator would call it storage. Whatever is mounted at / is.
    fn is_storage(&self) -> bool {
        let filesystem = self.filesystem.as_str();
        if self.mount_point == Path::new("/") {
            true
        } else if self.number.0 == 0 {
            WITHOUT_BLOCK_DEVICE.contains(&filesystem)
        } else {
            !ALWAYS_FULL.contains(&filesystem)
        }
    }

    /// Mounted at the root of `other`, so that nobody sees that one any more.
    fn stands_on(&self, other: &Self) -> bool {
        self.parent == other.id && self.mount_point == other.mount_point
    }

    /// Mounted across the way to `other`: on a directory above it, in the same mount. The first
    /// mount of all is its own parent, and blocks nothing.
    fn blocks_way_to(&self, other: &Self) -> bool {
        self.parent == other.parent
            && self.parent != self.id
            && self.mount_point != other.mount_point
            && other.mount_point.starts_with(&self.mount_point)
    }
}

/// A disk by its number, to be read past the kernel's memory. Its name is the kernel's (sysfs), below /dev.
fn block_device((major, minor): (u32, u32)) -> Option<File> {
    let about = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
    let name = about
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    let mut options = File::options();
    let flags = libc::O_DIRECT | libc::O_NONBLOCK;
    let disk = options
        .read(true)
        .custom_flags(flags)
        .open(Path::new("/dev").join(name))
        .ok()?;
    (disk.metadata().ok()?.rdev() == libc::makedev(major, minor)).then_some(disk)
}

/// The mounts of this process, by [`mounts`]. Errors: /proc is not mounted.
pub fn read() -> io::Result<Vec<Mount>> {
    mounts(mountinfo()?)
}

/// The text of which they are read. Errors: /proc is not mounted.
pub fn mountinfo() -> io::Result<impl BufRead> {
    Ok(BufReader::new(File::open("/proc/self/mountinfo")?))
}

/// The mounts worth measuring, at most 64, in the order of the text, of which at most 1 MiB is read.
/// It goes line by line, because a node full of containers has thousands. Errors: the reader's.
pub fn mounts(mountinfo: impl BufRead) -> io::Result<Vec<Mount>> {
    let mut kept = Vec::new();
    each(mountinfo, |mount| consider(mount, MAX_MOUNTS, &mut kept))?;
    Ok(kept)
}

/// All mounts, in the order of the text, and those of them that are storage that can be seen, each file
/// system once; at most 4096 and 256. Errors: the reader's.
pub fn all(mountinfo: impl BufRead) -> io::Result<(Vec<Mount>, Vec<Mount>)> {
    let (mut all, mut storage) = (Vec::new(), Vec::new());
    each(mountinfo, |mount| {
        if all.len() < 4096 {
            all.push(mount.clone());
        }
        consider(mount, 256, &mut storage);
    })?;
    Ok((all, storage))
}

/// All mounts, and the file systems that are asked for; with none asked for all that are storage.
///
/// # Errors
/// As [`choose`]; /proc is not mounted.
pub fn wanted(names: &[String]) -> Result<(Vec<Mount>, Vec<Mount>), Failure> {
    let (all, storage) = mountinfo()
        .and_then(self::all)
        .map_err(|e| Failure::system("read", "/proc/self/mountinfo", &e))?;
    let chosen = match names {
        [] => storage,
        names => choose(names, &all, storage)?,
    };
    Ok((all, chosen))
}

/// Those of `storage`, the file systems of [`all`], that are mounted at these mount points, each once.
///
/// # Errors
/// NOT_FOUND, INVALID: there is none at one of them.
pub fn choose(
    wanted: &[String],
    all: &[Mount],
    storage: Vec<Mount>,
) -> Result<Vec<Mount>, Failure> {
    let mut numbers = Vec::new();
    for name in wanted {
        let path = match name.trim_end_matches('/') {
            "" if name.starts_with('/') => "/",
            path => path,
        };
        // Of several at one place the last is on top.
        let on_top = all
            .iter()
            .rfind(|mount| mount.mount_point == Path::new(path));
        let Some(mount) = on_top else {
            let why = format!("{name}: nothing is mounted there");
            return Err(Failure::new(Code::NotFound, why));
        };
        if !storage.iter().any(|known| known.number == mount.number) {
            let why = format!("{name}: a {} is on no disk", mount.filesystem);
            return Err(Failure::new(Code::Invalid, why));
        }
        numbers.push(mount.number);
    }
    let chosen = storage
        .into_iter()
        .filter(|mount| numbers.contains(&mount.number));
    Ok(chosen.collect())
}

fn each(mountinfo: impl BufRead, mut take: impl FnMut(Mount)) -> io::Result<()> {
    let mut mountinfo = mountinfo.take(MAX_MOUNTINFO);
    let mut line = Vec::new();
    // What is wanted stands in front of the options that make lines long.
    while next_line(&mut mountinfo, MAX_LINE, &mut line)? {
        if let Some(mount) = Mount::parse(&line) {
            take(mount);
        }
    }
    Ok(())
}

/// Takes in the next mount, so that `kept` holds what can be seen, is storage, and each file system
/// once, with its shortest mount point (of several, the first).
///
/// Lines come in the order of mounting. A mount hides an earlier one at the same place, storage
/// or not, unless the earlier has been moved there since.
fn consider(mount: Mount, max: usize, kept: &mut Vec<Mount>) {
    if kept
        .iter()
        .any(|other| other.stands_on(&mount) || other.blocks_way_to(&mount))
    {
        return;
    }
    kept.retain(|other| other.mount_point != mount.mount_point && !mount.blocks_way_to(other));
    if !mount.is_storage() {
        return;
    }
    let length = |mount: &Mount| mount.mount_point.as_os_str().len();
    let room = kept.len() < max;
    match kept.iter_mut().find(|other| other.number == mount.number) {
        Some(same) if length(&mount) < length(same) => *same = mount,
        None if room => kept.push(mount),
        _ => {}
    }
}

/// The three sizes in bytes and the percentage of df(1), which leaves the blocks out that are
/// reserved for root; nothing overflows, and 0 % for a file system without blocks.
fn sizes(blocks: Blocks) -> Disk {
    let bytes = |count: u64| count.saturating_mul(blocks.unit);
    // Some servers report a deficit, as a negative number.
    let available = if i64::try_from(blocks.available).is_ok() {
        blocks.available
    } else {
        0
    };
    let used = blocks.total.saturating_sub(blocks.free);
    let whole = used as f64 + available as f64;
    Disk {
        total: bytes(blocks.total),
        used: bytes(used),
        available: bytes(available),
        inodes_total: blocks.inodes,
        inodes_used: blocks.inodes.saturating_sub(blocks.free_inodes),
        usage_percent: if whole > 0.0 {
            used as f64 / whole * 100.0
        } else {
            0.0
        },
        ..Disk::default()
    }
}

/// Undoes the kernel's `mangle_path`: three octal digits behind a backslash. Any other backslash
/// stands for itself.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        if let [
            b'\\',
            a @ b'0'..=b'3',
            b @ b'0'..=b'7',
            c @ b'0'..=b'7',
            tail @ ..,
        ] = rest
        {
            text.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            text.push(*byte);
            rest = tail;
        }
    }
    text
}

const MAX_MOUNTS: usize = 64;

/// Longer ones are not reported, so that 64 mounts stay far below a frame.
const MAX_MOUNT_POINT: usize = 1024;

/// In bytes; the rest of the name is cut off.
const MAX_DEVICE: usize = 256;

const MAX_MOUNTINFO: u64 = 1 << 20;

/// Of which is kept. The fields in front of the options are shorter, or not reported.
const MAX_LINE: u64 = 8 << 10;

/// Real storage of which the kernel knows no single block device: on several or on none, on raw
/// flash, or in the network. All other types with major 0 are views of the kernel (proc, cgroup),
/// memory (tmpfs) or show another file system again (overlay, most of FUSE).
#[rustfmt::skip]
const WITHOUT_BLOCK_DEVICE: [&str; 23] = [
    "btrfs", "zfs", "bcachefs", "ubifs",
    // From here on it is another machine that has the disks.
    "9p", "virtiofs",
    "nfs", "nfs4", "cifs", "smb3", "ceph", "afs", "lustre", "beegfs", "gpfs", "orangefs",
    "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.mergerfs",
    "fuse.juicefs",
];

const FIRST_NETWORK: usize = 4;

/// On disks of this machine, though the kernel knows no single one.
const ON_SEVERAL: [&str; 3] = ["btrfs", "bcachefs", "ubifs"];

/// What is at a mount point, whatever it is: nothing is waited for.
///
/// # Errors
/// As open(2).
pub fn open(mount_point: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    File::options()
        .read(true)
        .custom_flags(flags)
        .open(mount_point)
}

/// A file system of another machine.
fn is_network(filesystem: &str) -> bool {
    WITHOUT_BLOCK_DEVICE[FIRST_NETWORK..].contains(&filesystem)
}

/// Images that have no free block from the day they are made: snaps, installation media.
const ALWAYS_FULL: [&str; 6] = ["squashfs", "iso9660", "udf", "erofs", "cramfs", "romfs"];

/// No disk has larger blocks, of those that file systems are on.
const BLOCK: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(mountinfo: impl AsRef<[u8]>) -> Vec<Mount> {
        super::mounts(mountinfo.as_ref()).unwrap()
    }

    fn points(mountinfo: &str) -> Vec<String> {
        mounts(mountinfo).iter().map(Mount::name).collect()
    }

    const SERVER: &str = "\
22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
23 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:14 - proc proc rw
24 28 0:5 / /dev rw,nosuid,relatime shared:2 - devtmpfs udev rw,size=4030240k
26 28 0:23 / /run rw,nosuid,nodev,noexec,relatime shared:5 - tmpfs tmpfs rw,size=813168k
28 1 253:0 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw,errors=remount-ro
31 22 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw
40 23 0:33 / /proc/sys/fs/binfmt_misc rw shared:13 - autofs systemd-1 rw,fd=29
90 28 7:1 / /snap/core20/1405 ro,nodev,relatime shared:44 - squashfs /dev/loop1 ro
91 28 11:0 / /media/cdrom ro,relatime shared:45 - iso9660 /dev/sr0 ro
95 28 252:2 / /boot rw,relatime shared:46 - xfs /dev/vda2 rw
96 95 252:1 / /boot/efi rw,relatime - vfat /dev/vda1 rw
99 28 252:16 / /srv/my\\040data rw shared:50 master:3 propagate_from:2 - ext4 /dev/vdb rw
100 28 252:16 /web /var/www rw,relatime shared:50 - ext4 /dev/vdb rw
101 28 253:0 /var/lib/x /srv/bind rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw
110 28 0:48 / /mnt/nfs rw,relatime shared:60 - nfs4 10.0.0.1:/export rw,vers=4.2
111 28 0:49 / /mnt/ssh rw,relatime shared:61 - fuse.sshfs user@host: rw
112 26 0:50 / /run/user/1000/gvfs rw - fuse.gvfsd-fuse gvfsd-fuse rw
113 28 0:51 / /var/lib/docker/overlay2/ab/merged rw - overlay overlay rw,lowerdir=/a:/b
114 28 0:52 / /mnt/host rw - virtiofs share rw
";

    #[test]
    fn a_server() {
        let kept = mounts(SERVER);
        let names: Vec<_> = kept.iter().map(Mount::name).collect();
        let expected = [
            "/",
            "/boot",
            "/boot/efi",
            "/var/www",
            "/mnt/nfs",
            "/mnt/ssh",
            "/mnt/host",
        ];
        assert_eq!(names, expected);
        assert_eq!(kept[0].device, "/dev/mapper/vg-root");
        assert_eq!(kept[4].filesystem, "nfs4");
        assert_eq!(kept[4].device, "10.0.0.1:/export");
        assert!(kept.iter().all(|mount| mount.is_writable));
    }

    #[test]
    fn a_mount_is_writable_where_both_it_and_its_file_system_are() {
        let writable = |line: &str| mounts(line)[0].is_writable;
        assert!(writable(
            "28 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw,discard"
        ));
        assert!(!writable("28 1 8:1 / / ro,relatime - ext4 /dev/sda1 rw"));
        assert!(!writable(
            "28 1 8:1 / / rw - ext4 /dev/sda1 ro,errors=remount-ro"
        ));
        assert!(!writable("28 1 8:1 / / rw - ext4 /dev/sda1"));
    }

    #[test]
    fn btrfs_subvolumes_are_one_file_system() {
        let text = "29 1 0:25 /@ / rw - btrfs /dev/vda2 rw,subvol=/@\n\
            40 29 0:25 /@home /home rw - btrfs /dev/vda2 rw,subvol=/@home\n\
            41 29 0:40 / /tank rw - zfs tank rw\n42 41 0:41 / /tank/db rw - zfs tank/db rw\n";
        assert_eq!(points(text), ["/", "/tank", "/tank/db"]);
    }

    #[test]
    fn something_is_always_at_the_root() {
        assert_eq!(points("1 1 0:2 / / rw - rootfs rootfs rw\n"), ["/"]);
        assert_eq!(
            points("20 1 0:30 / / rw - overlay overlay rw,lowerdir=/x\n"),
            ["/"]
        );
        assert_eq!(points("20 1 7:0 / / ro - squashfs /dev/loop0 ro\n"), ["/"]);
        // The first root of all, as in an initramfs, does not hide what is mounted in it.
        let inside = "1 1 0:2 / / rw - rootfs rootfs rw\n20 1 8:1 / /data rw - ext4 /dev/sda1 rw\n";
        assert_eq!(points(inside), ["/", "/data"]);
        // The real root over the first one.
        let kept =
            mounts(b"1 1 0:2 / / rw - rootfs rootfs rw\n20 1 8:1 / / rw - ext4 /dev/sda1 rw");
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].filesystem, "ext4");
    }

    #[test]
    fn only_the_top_of_a_stack_is_seen() {
        let root = "28 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let stack =
            "30 28 8:2 / /data rw - ext4 /dev/sdb1 rw\n31 30 8:3 / /data rw - xfs /dev/sdc1 rw\n";
        let kept = mounts(format!("{root}{stack}"));
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[1].device, "/dev/sdc1");
        // Memory on top: the disk is not seen.
        let hidden =
            "30 28 8:2 / /data rw - ext4 /dev/sdb1 rw\n31 30 0:9 / /data rw - tmpfs none rw\n";
        assert_eq!(points(&format!("{root}{hidden}")), ["/"]);
        // An automount point below its file system.
        let auto = "30 28 0:9 / /nfs rw - autofs auto rw\n31 30 0:44 / /nfs rw - nfs4 h:/x rw\n";
        assert_eq!(points(&format!("{root}{auto}")), ["/", "/nfs"]);
        // The same device twice at one place.
        let twice =
            "30 28 8:2 / /data rw - ext4 /dev/sdb1 rw\n31 30 8:2 / /data rw - ext4 /dev/sdb1 rw\n";
        assert_eq!(points(&format!("{root}{twice}")), ["/", "/data"]);
        // Moved onto a younger mount.
        let moved =
            "30 31 8:2 / /data rw - ext4 /dev/sdb1 rw\n31 28 8:3 / /data rw - xfs /dev/sdc1 rw\n";
        assert_eq!(mounts(format!("{root}{moved}"))[1].device, "/dev/sdb1");
    }

    #[test]
    fn a_mount_on_a_directory_above_hides() {
        let root = "28 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let above =
            "30 28 8:2 / /mnt/usb rw - ext4 /dev/sdb1 rw\n31 28 8:3 / /mnt rw - xfs /dev/sdc1 rw\n";
        assert_eq!(points(&format!("{root}{above}")), ["/", "/mnt"]);
        // Names that only begin alike, and mounts inside it, do not.
        let beside = "30 28 8:2 / /mnt2 rw - ext4 /dev/sdb1 rw\n31 28 8:3 / /mnt rw - xfs /dev/sdc1 rw\n\
            32 31 8:4 / /mnt/in rw - xfs /dev/sdd1 rw\n";
        assert_eq!(
            points(&format!("{root}{beside}")),
            ["/", "/mnt2", "/mnt", "/mnt/in"]
        );
        // The root may be younger than what was moved into it.
        let switched =
            "22 27 8:2 / /usr rw - ext4 /dev/sdb1 rw\n27 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
        assert_eq!(points(switched), ["/usr", "/"]);
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(br"a\040b\011c\012d\134e"), b"a b\tc\nd\\e");
        assert_eq!(unescape(br"\\040\04"), b"\\ \\04");
        assert_eq!(unescape(br"\777\400\089\"), br"\777\400\089\");
        assert_eq!(unescape(br"\377"), b"\xff");
        let kept = mounts(b"30 28 8:2 / /mnt/\xff\\040x rw - ext4 /dev/\\134x rw");
        assert_eq!(
            kept[0].mount_point.as_os_str().as_encoded_bytes(),
            b"/mnt/\xff x"
        );
        assert_eq!(kept[0].name(), "/mnt/\u{fffd} x");
        assert_eq!(kept[0].device, "/dev/\\x");
    }

    #[test]
    fn hostile_lines_are_passed_over() {
        let lines = [
            "",
            " ",
            "-",
            "30",
            "30 28 8:2 / /x",
            "30 28 8:2 / /x rw",
            "30 28 8:2 / /x rw ext4 dev rw",
            "30 28 8:2 / /x rw -",
            "a b c:d / /x rw - ext4 dev rw",
            "30 28 8 / /x rw - ext4 dev rw",
            "30 28 8: / /x rw - ext4 dev rw",
            "30 28 -8:2 / /x rw - ext4 dev rw",
            "99999999999 28 8:2 / /x rw - ext4 dev rw",
            "30 28 8:2 / x rw - ext4 dev rw",
            "30 28 8:2 /  rw - ext4 dev rw",
        ];
        for line in lines {
            assert_eq!(points(line), [""; 0], "{line:?}");
        }
        // An empty or missing device is allowed.
        assert_eq!(points("30 28 8:2 / /x rw - ext4  rw"), ["/x"]);
        assert_eq!(points("30 28 8:2 / /x rw - ext4"), ["/x"]);
    }

    #[test]
    fn everything_is_bounded() {
        let many: String = (0..500)
            .map(|n| format!("{n} 28 8:{n} / /mnt/{n} rw - ext4 /dev/x{n} rw\n"))
            .collect();
        assert_eq!(mounts(many).len(), MAX_MOUNTS);
        let long = "x".repeat(5000);
        assert_eq!(
            points(&format!("30 28 8:2 / /{long} rw - ext4 /dev/x rw")),
            [""; 0]
        );
        let options = "o".repeat(100_000);
        let two = format!(
            "30 28 8:2 / /a rw - ext4 /dev/x {options}\n31 28 8:3 / /b rw - ext4 /dev/y rw"
        );
        assert_eq!(points(&two), ["/a", "/b"]);
        let endless = "x".repeat(3 << 20) + "\n30 28 8:2 / /x rw - ext4 /dev/x rw";
        assert_eq!(points(&endless), [""; 0]);
        let kept = mounts(format!("30 28 8:2 / /x rw - ext4 {long} rw"));
        assert_eq!(kept[0].device.len(), MAX_DEVICE);
    }

    #[test]
    fn sizes_as_df() {
        let disk = sizes(Blocks {
            unit: 4096,
            total: 1000,
            free: 400,
            available: 350,
            ..Blocks::default()
        });
        assert_eq!(
            (disk.total, disk.used, disk.available),
            (4_096_000, 2_457_600, 1_433_600)
        );
        assert!((disk.usage_percent - 63.157).abs() < 0.001);
    }

    #[test]
    fn odd_sizes() {
        let empty = sizes(Blocks {
            unit: 4096,
            total: 0,
            free: 0,
            available: 0,
            ..Blocks::default()
        });
        assert_eq!(empty, Disk::default());
        let deficit = sizes(Blocks {
            unit: 512,
            total: 10,
            free: 0,
            available: u64::MAX - 4,
            ..Blocks::default()
        });
        assert_eq!(
            (deficit.used, deficit.available, deficit.usage_percent),
            (5120, 0, 100.0)
        );
        let backwards = sizes(Blocks {
            unit: 1,
            total: 1,
            free: 2,
            available: 2,
            ..Blocks::default()
        });
        assert_eq!((backwards.used, backwards.usage_percent), (0, 0.0));
        let max = u64::MAX;
        let huge = sizes(Blocks {
            unit: max,
            total: max,
            free: 0,
            available: max / 2,
            ..Blocks::default()
        });
        assert_eq!((huge.total, huge.used, huge.available), (max, max, max));
        assert!((66.0..67.0).contains(&huge.usage_percent));
    }

    #[test]
    fn this_machine() {
        let kept = read().unwrap();
        let root = kept
            .iter()
            .find(|mount| mount.mount_point == Path::new("/"))
            .unwrap();
        let disk = root.measure().unwrap();
        assert_eq!(disk.mount_point, "/");
        assert!((0.0..=100.0).contains(&disk.usage_percent));
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        assert_eq!(mounts(&text), kept);
    }
}
