//! What a file has beside its mode and its bytes (xattr(7)).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// What SELinux knows a file by.
pub const LABEL: &CStr = c"security.selinux";

/// Has one file bear the same of another. True: it does; false: the other has none.
///
/// # Errors
/// As fsetxattr(2); it is larger than 4 KiB.
pub fn copy(from: &File, to: &File, name: &CStr) -> io::Result<bool> {
    let mut value = [0u8; 4096];
    let (room, size) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: `name` ends with NUL, and `room` is writable for `size` bytes; both live for the length of
    // the call.
    let n = unsafe { libc::fgetxattr(from.as_raw_fd(), name.as_ptr(), room, size) };
    let Ok(n) = usize::try_from(n) else {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENODATA | libc::EOPNOTSUPP | libc::ENOSYS) => Ok(false),
            _ => Err(error),
        };
    };
    let (to, value) = (to.as_raw_fd(), value.as_ptr().cast());
    // SAFETY: `name` ends with NUL, and `value` is readable for the `n` bytes that the call above has
    // written there; both live for the length of the call.
    check(unsafe { libc::fsetxattr(to, name.as_ptr(), value, n, 0) })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_file_bears_another_does_too() {
        let path = std::env::temp_dir().join(format!("qx-xattr-{:x}", crate::rt::random::number()));
        let [one, two] = ["1", "2"].map(|end| path.with_extension(end));
        let open = |path| {
            let mut new = File::options();
            new.read(true).write(true).create_new(true).open(path)
        };
        let (from, to) = (open(&one).unwrap(), open(&two).unwrap());
        let name = c"user.quantix";
        assert!(!copy(&from, &to, name).unwrap());
        let value = b"some";
        // SAFETY: as in `copy`.
        let set = check(unsafe {
            libc::fsetxattr(from.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), 4, 0)
        });
        // A file system may have none.
        if set.is_ok() {
            assert!(copy(&from, &to, name).unwrap());
            assert!(copy(&to, &from, name).unwrap());
        }
        std::fs::remove_file(one).unwrap();
        std::fs::remove_file(two).unwrap();
    }
}
