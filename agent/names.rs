//! The names in a directory: once for all who ask, as each walk of their own is half a kilobyte of code.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

/// All of them.
///
/// # Errors
/// The directory cannot be opened.
pub fn all(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)?.flatten() {
        names.push(entry.file_name());
    }
    Ok(names)
}

/// Those that are numbers, as the processes in /proc.
pub fn numbers(directory: &Path) -> Vec<u32> {
    let mut numbers = Vec::new();
    for name in all(directory).unwrap_or_default() {
        if let Some(number) = name.to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers
}

/// All processes, with the kernel's names for them (proc_pid_comm(5)).
pub fn processes() -> Vec<(i32, String)> {
    let proc = Path::new("/proc");
    let named = numbers(proc).into_iter().filter_map(|pid| {
        let name = fs::read_to_string(proc.join(pid.to_string()).join("comm")).ok()?;
        Some((i32::try_from(pid).ok()?, name.trim_end().to_owned()))
    });
    named.collect()
}
