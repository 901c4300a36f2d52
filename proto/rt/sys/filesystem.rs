//! What is done to a file system as a whole: FIFREEZE, FITHAW (fsfreeze(8)), FITRIM (fstrim(8); linux/fs.h), and
//! to what it grows by: EXT4_IOC_RESIZE_FS, XFS_IOC_FSGROWFSDATA, BTRFS_IOC_RESIZE (linux/btrfs.h), BLKPG
//! (linux/blkpg.h).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::check;

/// `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`.
const FIFREEZE: libc::c_ulong = 0xC004_5877;
const FITHAW: libc::c_ulong = 0xC004_5878;

/// Writes out the file system that `file` is on, and has whoever writes to it wait from then on.
/// **Waits for its disk**, and nothing but that ends the wait.
///
/// # Errors
/// EBUSY: it is frozen. EOPNOTSUPP: it cannot be. EPERM.
pub fn freeze(file: &File) -> io::Result<()> {
    ioctl(file, FIFREEZE)
}

/// Ends that. Waits for a [`freeze`] that is under way.
///
/// # Errors
/// EINVAL: it is not frozen. EPERM.
pub fn thaw(file: &File) -> io::Result<()> {
    ioctl(file, FITHAW)
}

fn ioctl(file: &File, request: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the kernel takes no notice of the argument of either, and touches no memory.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, 0) })?;
    Ok(())
}

/// `struct fstrim_range`, in bytes.
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
    minimum: u64,
}

/// `_IOWR('X', 121, struct fstrim_range)`.
const FITRIM: libc::c_ulong = 0xC018_5879;

/// Tells the disk of the file system that `file` is on which blocks are free, of `len` bytes from `start`
/// on, and in pieces of at least `minimum`. Returns how many bytes that were. Waits for the disk; a signal
/// that kills ends it.
///
/// # Errors
/// EINVAL: the file system is not so long. EOPNOTSUPP: the disk takes no discards. EPERM, EROFS.
pub fn trim(file: &File, start: u64, len: u64, minimum: u64) -> io::Result<u64> {
    let mut range = Range {
        start,
        len,
        minimum,
    };
    // SAFETY: the call reads and writes one Range, which lives for its length.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FITRIM, &raw mut range) })?;
    Ok(range.len)
}

/// `_IOW('f', 16, __u64)` (Documentation/admin-guide/ext4.rst).
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// Has the ext4 that `file` is on reach to this number of blocks, online. One that has them is left as it is. The
/// kernel leaves out a last group of blocks that would hold nothing.
///
/// # Errors
/// EPERM: there are errors in the file system. EBUSY: it is being resized. EINVAL, EROFS, ENOSPC; EOPNOTSUPP and
/// ENOTTY: it cannot be.
pub fn resize_ext4(file: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the call reads one u64, which lives for its length.
    check(unsafe { libc::ioctl(file.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) })?;
    Ok(())
}

/// What of `struct xfs_fsop_geom_v1` counts (xfs_fs.h).
#[repr(C)]
#[derive(Debug, Default)]
pub struct Xfs {
    /// Bytes of a block.
    pub block: u32,
    other: [u32; 6],
    percent: u32,
    /// Of its data.
    pub blocks: u64,
    rest: [u64; 9],
}

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsData {
    blocks: u64,
    percent: u32,
}

/// `_IOR('X', 100, struct xfs_fsop_geom_v1)` and `_IOW('X', 110, struct xfs_growfs_data)`.
const XFS_IOC_FSGEOMETRY_V1: libc::c_ulong = 0x8070_5864;
const XFS_IOC_FSGROWFSDATA: libc::c_ulong = 0x4010_586E;

/// How large the xfs is that `file` is on.
///
/// # Errors
/// ENOTTY: it is on none.
pub fn xfs(file: &File) -> io::Result<Xfs> {
    let mut xfs = Xfs::default();
    // SAFETY: the call writes one struct of the size that is in its number, and it lives for its length.
    check(unsafe { libc::ioctl(file.as_raw_fd(), XFS_IOC_FSGEOMETRY_V1, &raw mut xfs) })?;
    Ok(xfs)
}

const _: () = assert!(size_of::<Xfs>() == 0x70 && size_of::<XfsData>() == 0x10);

/// Has the xfs that `file` is on, and of which [`xfs`] has told, reach to this number of blocks, online.
///
/// # Errors
/// EWOULDBLOCK: it is being grown. EPERM, EROFS, EINVAL, EIO.
pub fn resize_xfs(file: &File, xfs: &Xfs, blocks: u64) -> io::Result<()> {
    let data = XfsData {
        blocks,
        percent: xfs.percent,
    };
    // SAFETY: the call reads one XfsData, which lives for its length.
    check(unsafe { libc::ioctl(file.as_raw_fd(), XFS_IOC_FSGROWFSDATA, &raw const data) })?;
    Ok(())
}

/// What of `struct btrfs_ioctl_fs_info_args` counts.
#[repr(C)]
#[derive(Debug)]
pub struct Btrfs {
    /// The largest number of one of its devices.
    pub last: u64,
    /// Of devices.
    pub count: u64,
    /// Its own name.
    pub id: [u8; 16],
    node: u32,
    /// Bytes of a block.
    pub block: u32,
    rest: [u8; 984],
}

/// What of `struct btrfs_ioctl_dev_info_args` counts.
#[repr(C)]
struct BtrfsDevice {
    number: u64,
    id: [u8; 16],
    used: u64,
    bytes: u64,
    rest: [u64; 379],
    path: [u8; 1024],
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct BtrfsName {
    fd: i64,
    name: [u8; 4088],
}

/// `_IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)`, `_IOWR(0x94, 30, struct btrfs_ioctl_dev_info_args)` and
/// `_IOW(0x94, 3, struct btrfs_ioctl_vol_args)`.
const BTRFS_IOC_FS_INFO: libc::c_ulong = 0x8400_941F;
const BTRFS_IOC_DEV_INFO: libc::c_ulong = 0xD000_941E;
const BTRFS_IOC_RESIZE: libc::c_ulong = 0x5000_9403;

const _: () = assert!(size_of::<Btrfs>() == 1024 && size_of::<BtrfsName>() == 4096);
const _: () = assert!(size_of::<BtrfsDevice>() == 4096);

/// What the btrfs is that `file` is on.
///
/// # Errors
/// ENOTTY: it is on none.
pub fn btrfs(file: &File) -> io::Result<Btrfs> {
    let mut btrfs = Btrfs {
        last: 0,
        count: 0,
        id: [0; 16],
        node: 0,
        block: 0,
        rest: [0; 984],
    };
    // SAFETY: the call reads and writes one struct of the size that is in its number, and it lives for its length.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BTRFS_IOC_FS_INFO, &raw mut btrfs) })?;
    Ok(btrfs)
}

/// Of the btrfs that `file` is on its device with this number: how many bytes of it are the file system's, and the
/// path that it was mounted by.
///
/// # Errors
/// ENODEV: it has none with that number.
pub fn btrfs_device(file: &File, number: u64) -> io::Result<(u64, PathBuf)> {
    let mut device = BtrfsDevice {
        number,
        id: [0; 16],
        used: 0,
        bytes: 0,
        rest: [0; 379],
        path: [0; 1024],
    };
    // SAFETY: the call reads and writes one struct of the size that is in its number, and it lives for its length.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BTRFS_IOC_DEV_INFO, &raw mut device) })?;
    let path = device.path.split(|byte| *byte == 0).next();
    let path = OsStr::from_bytes(path.unwrap_or_default());
    Ok((device.bytes, PathBuf::from(path)))
}

/// Has a device of the btrfs that `file` is on be its own up to this many bytes, online.
///
/// # Errors
/// EBUSY: it is being balanced, or changed in another way. EFBIG: the device is not so long. EPERM, EROFS.
pub fn resize_btrfs(file: &File, number: u64, bytes: u64) -> io::Result<()> {
    let mut request = BtrfsName {
        fd: 0,
        name: [0; 4088],
    };
    write!(&mut request.name[..], "{number}:{bytes}")?;
    // SAFETY: the call reads one struct of the size that is in its number, and it lives for its length.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), BTRFS_IOC_RESIZE, &raw const request) };
    match check(code)? {
        0 => Ok(()),
        // `enum btrfs_err_code`: only this of them has to do with it.
        _ => Err(io::Error::from_raw_os_error(libc::EBUSY)),
    }
}

/// `struct blkpg_ioctl_arg` and `struct blkpg_partition`.
#[repr(C)]
struct Blkpg {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    partition: *const Partition,
}

#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

/// `_IO(0x12, 105)`, and which of its operations.
const BLKPG: libc::c_ulong = 0x1269;
const BLKPG_RESIZE_PARTITION: libc::c_int = 3;

const PARTITION_BYTES: libc::c_int = 152;
const _: () = assert!(size_of::<Partition>() == 152);

/// Tells the kernel that a partition of `disk` has another length, in bytes, also while it is in use. What is on
/// the disk is not looked at.
///
/// # Errors
/// EBUSY: another would be overlapped. ENXIO: there is no such partition. EINVAL: it begins elsewhere, or ends in
/// a block's middle or behind the disk. EACCES.
pub fn resize_partition(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    let wrong = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let partition = Partition {
        start: start.try_into().map_err(wrong)?,
        length: length.try_into().map_err(wrong)?,
        number: number.try_into().map_err(wrong)?,
        names: [0; 128],
    };
    let request = Blkpg {
        operation: BLKPG_RESIZE_PARTITION,
        flags: 0,
        length: PARTITION_BYTES,
        partition: &raw const partition,
    };
    // SAFETY: the call reads both structs, which live for its length.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const request) })?;
    Ok(())
}
