//! What of root's rights a process keeps (capabilities(7)).

use std::io;

use super::check;

/// A right, by its number (linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// To read, write and connect to whatever its mode is.
    DacOverride = 1,
    /// To listen on ports below 1024.
    NetBindService = 10,
    /// To see what others' processes have open.
    SysPtrace = 19,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words for each set.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up all but these, for good, of those that this process has.
///
/// # Errors
/// EPERM: something else forbids it.
pub fn keep_only(kept: &[Capability]) -> io::Result<()> {
    // All that are named here are in the first word.
    let masks = [
        kept.iter().fold(0, |mask, one| mask | 1_u32 << *one as u8),
        0,
    ];
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut words = [Word::default(); 2];
    call(libc::SYS_capget, &header, &mut words)?;
    for (word, mask) in words.iter_mut().zip(masks) {
        *word = Word {
            effective: word.effective & mask,
            permitted: word.permitted & mask,
            inheritable: 0,
        };
    }
    call(libc::SYS_capset, &header, &mut words)
}

fn call(number: libc::c_long, header: &Header, words: &mut [Word; 2]) -> io::Result<()> {
    let (header, words) = (std::ptr::from_ref(header), words.as_mut_ptr());
    // SAFETY: with this version capget writes, and capset reads, two words; both live for the length of the call. The
    // header is written to only where its version is not known, and this one is known since Linux 2.6.26.
    let done = unsafe { libc::syscall(number, header, words) };
    check(libc::c_int::try_from(done).unwrap_or(-1)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::super::process::{Ended, effective_user, spawn_for_test, wait};
    use super::*;

    #[test]
    fn what_is_not_kept_is_gone_for_good() {
        if effective_user() != 0 {
            return;
        }
        let path = std::env::temp_dir().join(format!("qx-capabilities-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let child = spawn_for_test(|| {
            let steps = [
                chown(&path, Some(12), None).is_ok(),
                keep_only(&[Capability::DacOverride, Capability::SysPtrace]).is_ok(),
                chown(&path, Some(13), None).is_err(),
                keep_only(&[Capability::DacOverride, Capability::NetBindService]).is_ok(),
                std::fs::read_to_string("/proc/self/status")
                    .is_ok_and(|status| status.contains("\nCapPrm:\t0000000000000002\n")),
            ];
            i32::from(steps.contains(&false))
        });
        assert_eq!(wait(child.unwrap()).unwrap(), Ended::Exited(0));
        std::fs::remove_file(&path).unwrap();
    }
}
