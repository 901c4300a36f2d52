//! `qx-node serve`: the control socket, and one daemon behind it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
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
    /// Where metrics are served, and the file that they are written to.
    pub metrics: Option<SocketAddr>,
    pub textfile: Option<PathBuf>,
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
    let served = run(&options, listener, log);
    let _ = fs::remove_file(control);
    if let Some(file) = &options.textfile {
        // What it says would stand for ever.
        let _ = fs::remove_file(file);
    }
    served
}

fn run(options: &Options, listener: UnixListener, log: Log) -> Result<(), String> {
    let system = |e: io::Error| e.to_string();
    let source = Source::Directory(options.vms_dir.clone());
    let mut daemon = Daemon::new(source, Some(listener), log).map_err(system)?;
    daemon.time_sync = options.time_sync;
    daemon.watchdog = options.watchdog;
    daemon
        .export(options.metrics, options.textfile.clone())
        .map_err(|e| {
            let address = options.metrics.map(|address| address.to_string());
            Failure::system("serve metrics on", &address.unwrap_or_default(), &e).message
        })?;
    daemon.run().map_err(system)
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
