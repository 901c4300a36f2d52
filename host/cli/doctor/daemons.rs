//! The daemons of this host: those that run, and what the one on the control socket says.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quantix::message::node;

use super::super::{Client, Trouble};

/// A daemon that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    pub pid: u32,
    /// Whose sockets it connects to.
    pub directory: PathBuf,
}

/// What there is to know of them.
#[derive(Debug)]
pub struct Daemons {
    /// Those that serve the directory.
    pub running: Vec<Daemon>,
    /// What the one on the control socket says of each VM, or why it does not.
    pub says: Result<BTreeMap<String, node::Vm>, String>,
}

/// A daemon that does not answer within this hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the one on this control socket, and looks for those that serve `directory`. Its default is
/// what a daemon serves that was not told another.
pub fn look(control: &Path, directory: &Path, default: &Path) -> Daemons {
    let same = |daemon: &Daemon| real(&daemon.directory) == real(directory);
    Daemons {
        running: running(default).into_iter().filter(same).collect(),
        says: ask(control).map_err(|trouble| trouble.to_string()),
    }
}

fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn running(default: &Path) -> Vec<Daemon> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let daemon = |process: fs::DirEntry| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let directory = serves(&line, default)?;
        Some(Daemon { pid, directory })
    };
    processes.filter_map(daemon).collect()
}

/// Whose sockets a process with this command line serves; `None` for one that is no daemon.
fn serves(line: &[u8], default: &Path) -> Option<PathBuf> {
    let mut words = line.split(|byte| *byte == 0);
    let program = Path::new(std::ffi::OsStr::from_bytes(words.next()?));
    if program.file_name()? != "qx-node" || words.next()? != b"serve" {
        return None;
    }
    let mut directory = default.to_owned();
    while let Some(word) = words.next() {
        let value = match word {
            b"--vms-dir" => words.next(),
            _ => word.strip_prefix(b"--vms-dir="),
        };
        if let Some(value) = value {
            directory = PathBuf::from(std::ffi::OsStr::from_bytes(value));
        }
    }
    Some(directory)
}

fn ask(control: &Path) -> Result<BTreeMap<String, node::Vm>, Trouble> {
    let mut client = Client::connect(control)?;
    client.limit(PATIENCE)?;
    let list = super::super::run::list(&mut client)?;
    Ok(list.into_iter().map(|vm| (vm.name.clone(), vm)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_told_by_its_command_line() {
        let of = |words: &[&str]| serves(words.join("\0").as_bytes(), Path::new("/vms"));
        assert_eq!(of(&["qx-node", "serve"]), Some("/vms".into()));
        let named = ["/usr/bin/qx-node", "serve", "--log", "x", "--vms-dir", "/a"];
        assert_eq!(of(&named), Some("/a".into()));
        assert_eq!(of(&["qx-node", "serve", "--vms-dir=/b"]), Some("/b".into()));
        assert_eq!(of(&["qx-node", "ping", "serve"]), None);
        assert_eq!(of(&["vi", "serve"]), None);
        assert_eq!(of(&[""]), None);
    }
}
