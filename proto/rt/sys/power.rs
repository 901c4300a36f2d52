//! The end of a system: a word to process 1, or reboot(2) where there is nobody to be told.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// What becomes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is switched off.
    PowerOff,
    /// It starts again.
    Reboot,
    /// It stands still, switched on.
    Halt,
}

/// Sends process 1 a signal.
///
/// # Errors
/// EPERM, ESRCH.
pub fn signal_init(signal: InitSignal) -> io::Result<()> {
    let number = match signal {
        InitSignal::Standard(number) => number,
        InitSignal::RealTime(behind) => libc::SIGRTMIN() + behind,
    };
    // SAFETY: kill reads and writes no memory.
    check(unsafe { libc::kill(1, number) }).map(|_| ())
}

/// A signal to process 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitSignal {
    /// As signal(7) numbers it.
    Standard(i32),
    /// SIGRTMIN and so many.
    RealTime(i32),
}

/// Sends SIGTERM, or SIGKILL, to every process but this one and process 1.
pub fn signal_all(kill: bool) {
    let signal = if kill { libc::SIGKILL } else { libc::SIGTERM };
    // SAFETY: kill reads and writes no memory.
    unsafe { libc::kill(-1, signal) };
}

/// Writes out what is in memory of all file systems. **Waits for their disks.**
pub fn sync() {
    // SAFETY: touches no memory of this process.
    unsafe { libc::sync() };
}

/// Has a mounted file system take no more changes, and writes it out.
///
/// # Errors
/// EBUSY: files are open for writing (mount(2)).
pub fn make_read_only(mount_point: &Path) -> io::Result<()> {
    let path = CString::new(mount_point.as_os_str().as_bytes())?;
    let none = std::ptr::null();
    let flags = libc::MS_REMOUNT | libc::MS_RDONLY;
    // SAFETY: the path ends with NUL and lives for the length of the call; a remount takes no notice of
    // the other strings, which may be null.
    check(unsafe { libc::mount(none, path.as_ptr(), none, flags, none.cast()) })?;
    Ok(())
}

/// Ends the system at once (reboot(2)): no process is told, nothing is written out.
///
/// # Errors
/// EPERM.
pub fn end(how: End) -> io::Result<()> {
    let command = match how {
        End::PowerOff => libc::RB_POWER_OFF,
        End::Reboot => libc::RB_AUTOBOOT,
        End::Halt => libc::RB_HALT_SYSTEM,
    };
    // SAFETY: takes its argument by value and touches no memory.
    check(unsafe { libc::reboot(command) })?;
    Ok(())
}
