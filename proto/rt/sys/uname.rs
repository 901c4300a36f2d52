//! uname(2): what the kernel calls itself and this machine.

use std::ffi::c_char;
use std::io;
use std::mem::MaybeUninit;

/// The fields of uname(2) that anybody here reads; each at most 64 bytes, as the kernel keeps
/// them, with U+FFFD for what is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uname {
    /// The host name, as sethostname(2) last set it: `uname -n`.
    pub nodename: String,
    /// The kernel's release: `uname -r`.
    pub release: String,
    /// The hardware's name: `uname -m`.
    pub machine: String,
}

/// Asks the kernel; never blocks. uname(2) lists no error that can happen here.
pub fn uname() -> io::Result<Uname> {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the pointer is to a whole utsname that lives through the call and is ours alone.
    if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so every field is written; and zero bytes, with which it began,
    // are valid for its arrays of integers.
    let name = unsafe { name.assume_init() };
    Ok(Uname {
        nodename: text(&name.nodename),
        release: text(&name.release),
        machine: text(&name.machine),
    })
}

/// Sets the host name, of at most 64 bytes.
///
/// # Errors
/// As sethostname(2).
pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: the call reads `name.len()` bytes of a string that lives for its length.
    super::check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })?;
    Ok(())
}

/// What stands before the first NUL, or everything.
fn text(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| c.to_ne_bytes()[0])
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_proc() {
        let name = uname().unwrap();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(name.release, release.trim_end());
        assert!(!name.machine.is_empty());
    }

    #[test]
    fn text_ends_at_nul_or_at_the_end() {
        let signed = |bytes: &[u8]| -> Vec<c_char> {
            bytes.iter().map(|b| c_char::from_ne_bytes([*b])).collect()
        };
        assert_eq!(text(&signed(b"vm\0rest")), "vm");
        assert_eq!(text(&signed(b"full")), "full");
        assert_eq!(text(&signed(b"v\xffm\0")), "v\u{fffd}m");
        assert_eq!(text(&[]), "");
    }
}
