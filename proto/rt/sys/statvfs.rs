//! statvfs(3): how large a file system is and how full.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The sizes that statvfs(3) reports, as the file system gives them: nothing is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Blocks {
    /// `f_frsize`: the unit of the other three, in bytes.
    pub unit: u64,
    /// `f_blocks`: all of them.
    pub total: u64,
    /// `f_bfree`: free, those reserved for root included.
    pub free: u64,
    /// `f_bavail`: free to an ordinary user.
    pub available: u64,
    /// `f_files`: all inodes; 0 where they are made as they are needed.
    pub inodes: u64,
    /// `f_ffree`: free ones.
    pub free_inodes: u64,
}

/// Asks the file system that holds `path`. **May block without end** and cannot be interrupted
/// where the server or the disk behind it is dead.
///
/// Errors: those of statvfs(3); `InvalidInput` for a path with a NUL.
pub fn statvfs(path: &Path) -> io::Result<Blocks> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    loop {
        // SAFETY: `path` ends in a NUL, `stat` is a whole statvfs; both live through the call.
        if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: the call succeeded, so every field is written; and zero bytes, with which it began,
    // are valid for its integers.
    let stat = unsafe { stat.assume_init() };
    Ok(Blocks {
        unit: stat.f_frsize,
        total: stat.f_blocks,
        free: stat.f_bfree,
        available: stat.f_bavail,
        inodes: stat.f_files,
        free_inodes: stat.f_ffree,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_blocks() {
        let blocks = statvfs(Path::new("/")).unwrap();
        assert!(blocks.unit > 0);
        assert!(blocks.free <= blocks.total);
    }

    #[test]
    fn errors_are_reported() {
        let missing = statvfs(Path::new("/no/such/place")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let nul = statvfs(Path::new("/a\0b")).unwrap_err();
        assert_eq!(nul.kind(), io::ErrorKind::InvalidInput);
    }
}
