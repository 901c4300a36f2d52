//! `qx-node serve`: the control socket, and one daemon behind it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mio::net::UnixListener;
use quantix::error::Failure;
use quantix::rt::log::{Level, Log, Target};
use quantix::rt::sys::{fd, process};

use crate::daemon::{Daemon, Source, TimeSync};

/// How to serve.
#[derive(Debug)]
pub struct Options {
    pub vms_dir: PathBuf,
    pub control: PathBuf,
    pub log: Target,
    pub level: Level,
    pub time_sync: TimeSync,
    pub watchdog: bool,
}

/// Serves until SIGTERM.
///
/// # Errors
/// A line for the operator: another daemon serves, or the socket cannot be made.
pub fn serve(options: Options) -> Result<(), String> {
    let system = |doing, path: &Path, e: io::Error| {
        Failure::system(doing, &path.to_string_lossy(), &e).message
    };
    let control = &options.control;
    for directory in [control.parent(), Some(&*options.vms_dir)]
        .into_iter()
        .flatten()
    {
        fs::create_dir_all(directory).map_err(|e| system("create", directory, e))?;
    }
    // Held until the end of the process, however it ends.
    let _lock = lock(control)?;
    let mut log = Log::new("qx-node", options.log, options.level);
    // One VM needs two; a policy that forbids it leaves us what we have.
    let _ = fd::raise_limit();
    let listener = listen(control).map_err(|e| system("listen on", control, e))?;
    let (version, revision) = (quantix::VERSION, quantix::REVISION);
    log.info(format_args!(
        "version {version} ({revision}) serves {} on {}",
        options.vms_dir.display(),
        control.display()
    ));
    let served = Daemon::new(
        Source::Directory(options.vms_dir.clone()),
        Some(listener),
        log,
    )
    .and_then(|mut daemon| {
        daemon.time_sync = options.time_sync;
        daemon.watchdog = options.watchdog;
        daemon.run()
    })
    .map_err(|e| e.to_string());
    let _ = fs::remove_file(control);
    served
}

/// Only one daemon may have a control socket, or clients and VMs would see half of each. The lock is
/// on a file beside it: unlike the socket it tells a living owner from one that was killed.
fn lock(control: &Path) -> Result<File, String> {
    let mut path = control.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let system = |doing, e| Failure::system(doing, &path.to_string_lossy(), &e).message;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| system("open", e))?;
    if fd::try_lock(&file).map_err(|e| system("lock", e))? {
        let pid = std::process::id();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{pid}"))
            .map_err(|e| system("write", e))?;
        return Ok(file);
    }
    let mut pid = String::new();
    let _ = file.read_to_string(&mut pid);
    let pid = pid.trim();
    let pid = if pid.is_empty() { "unknown" } else { pid };
    Err(format!(
        "another qx-node (pid {pid}) serves {} already; stop it, or choose another --control",
        control.display()
    ))
}

fn listen(control: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(control) {
        // We have the lock, so nobody serves it: it was left by a daemon that was killed.
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(control)?,
        Ok(_) => return Err(io::Error::other("it is there and is not a socket")),
        Err(_) => {}
    }
    // The socket is a root shell in every VM: nobody else may connect.
    let before = process::set_umask(0o177);
    let listener = UnixListener::bind(control);
    process::set_umask(before);
    listener
}
