//! `qx-node serve`: the control socket, and one daemon behind it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::UnixListener;
use quantix::error::{system_text, write_text};
use quantix::rate::Rate;
use quantix::rt::log::Log;
use quantix::rt::sys::{fd, process};

use crate::config::{self, Config};
use crate::confine::confine;
use crate::daemon::{Daemon, Source};

/// Serves until SIGTERM.
///
/// # Errors
/// A line for the operator: another daemon serves, or the socket cannot be made.
pub fn serve(source: config::Source) -> Result<(), String> {
    let system = |doing: &str, path: &Path, e: io::Error| {
        format!("{doing} {}: {}", path.display(), write_text(&e))
    };
    let (config, faults) = source.read();
    let control = &config.control;
    for directory in [control.parent(), Some(&*config.vms_dir)]
        .into_iter()
        .flatten()
    {
        fs::create_dir_all(directory).map_err(|e| system("create", directory, e))?;
    }
    // Held until the end of the process, however it ends.
    let _lock = lock(control)?;
    // Before anything is forked that would not be.
    let confined = confine();
    let mut log = Log::new("qx-node", config.log.clone(), config.log_level);
    log.set_rate(Rate::new(LINES, PAUSE));
    if let Err(e) = confined {
        log.warning(format_args!("not confined: {}", system_text(&e)));
    }
    for fault in faults {
        log.warning(format_args!("{fault}; it does not count"));
    }
    // One VM needs two; a policy that forbids it leaves us what we have.
    let _ = fd::raise_limit();
    let listener =
        listen(control, config.access.is_closed()).map_err(|e| system("listen on", control, e))?;
    let (version, revision) = (quantix::VERSION, quantix::REVISION);
    log.info(format_args!(
        "version {version} ({revision}) serves {} on {}",
        config.vms_dir.display(),
        control.display()
    ));
    let control = control.clone();
    let served = run(config, source, listener, log);
    let _ = fs::remove_file(control);
    served
}

fn run(
    config: Config,
    source: config::Source,
    listener: UnixListener,
    log: Log,
) -> Result<(), String> {
    let vms = Source::Directory(config.vms_dir.clone());
    let mut daemon = Daemon::new(vms, Some(listener), log).map_err(|e| e.to_string())?;
    daemon.configure(config, source)?;
    daemon.run().map_err(|e| e.to_string())
}

/// Log lines of all VMs together: so many at once, and another after each pause. Each VM has a rate of its own.
const LINES: u32 = 1000;
/// See [`LINES`].
const PAUSE: Duration = Duration::from_millis(20);

/// Only one daemon may have a control socket, or clients and VMs would see half of each. The lock is
/// on a file beside it: unlike the socket it tells a living owner from one that was killed.
fn lock(control: &Path) -> Result<File, String> {
    let mut path = control.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let system = |doing: &str, e| format!("{doing} {}: {}", path.display(), write_text(&e));
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

/// Whoever has no role is told so by the daemon; where nobody has one nobody can connect.
fn listen(control: &Path, is_closed: bool) -> io::Result<UnixListener> {
    match fs::symlink_metadata(control) {
        // We have the lock, so nobody serves it: it was left by a daemon that was killed.
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(control)?,
        Ok(_) => return Err(io::Error::other("it is there and is not a socket")),
        Err(_) => {}
    }
    let before = process::set_umask(if is_closed { 0o177 } else { 0o111 });
    let listener = UnixListener::bind(control);
    process::set_umask(before);
    listener
}
