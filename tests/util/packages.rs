//! The packages of the programs that are tested, each kind made once.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crate::vm::harness::program;

/// Who takes them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Deb,
    Rpm,
}

impl Kind {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }
}

/// As root, if only of what is made here (user_namespaces(7)).
pub fn as_root(program: &str) -> Command {
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", program]);
    command
}

/// Runs it to its end, which has to be a good one: what it wrote.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let out = command.stdin(Stdio::null()).output();
    let out = out.unwrap_or_else(|e| panic!("{command:?}: {e}: tests/vm/install.sh installs it"));
    let complaint = String::from_utf8_lossy(&out.stderr);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{command:?}: {said}{complaint}");
    said.into_owned()
}

/// Whether they are what ships, and not a debugger's.
pub fn is_release() -> bool {
    program("qx-node")
        .parent()
        .is_some_and(|parent| parent.ends_with("release"))
}

/// Where both programs are.
fn programs() -> PathBuf {
    program("qx-node")
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// Makes those of the sources there.
pub fn build(kind: Kind, sources: &Path, out: &Path) {
    build_of(programs(), kind, sources, out);
}

/// The same of other programs.
pub fn build_of(programs: PathBuf, kind: Kind, sources: &Path, out: &Path) {
    let script = sources.join(kind.word()).join("build");
    run(Command::new(script)
        .arg(out)
        .env("QX_BIN", programs)
        .env("SOURCE_DATE_EPOCH", "1767225600"));
}

/// The directory with those of these sources.
fn built(kind: Kind) -> &'static Path {
    static DEBS: LazyLock<PathBuf> = LazyLock::new(|| make(Kind::Deb));
    static RPMS: LazyLock<PathBuf> = LazyLock::new(|| make(Kind::Rpm));
    match kind {
        Kind::Deb => &DEBS,
        Kind::Rpm => &RPMS,
    }
}

fn make(kind: Kind) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("packages")
        .join(kind.word());
    build(kind, Path::new(env!("CARGO_MANIFEST_DIR")), &out);
    out
}

/// The package of this name, of these sources.
#[track_caller]
pub fn ours(kind: Kind, name: &str) -> PathBuf {
    find(built(kind), kind, name)
}

/// The package of this name.
#[track_caller]
pub fn find(directory: &Path, kind: Kind, name: &str) -> PathBuf {
    let files = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| {
        let file = path.file_name().unwrap().to_str().unwrap();
        let rest = file.strip_prefix(name).unwrap_or_default();
        rest.starts_with(['_', '-']) && path.extension().is_some_and(|end| end == kind.word())
    };
    let found: Vec<PathBuf> = files.filter(is_it).collect();
    assert_eq!(
        found.len(),
        1,
        "{name} in {}: {found:?}",
        directory.display()
    );
    found[0].clone()
}

/// What a clone has, without what was made in it.
pub fn copy_sources(to: &Path) {
    fs::create_dir(to).unwrap();
    let line = "tar c --exclude=./target --exclude=./.git . | tar x -C \"$0\"";
    run(Command::new("sh")
        .args(["-c", line])
        .arg(to)
        .current_dir(env!("CARGO_MANIFEST_DIR")));
}

/// As if they were of this version.
pub fn set_version(sources: &Path, version: &str) {
    let manifest = sources.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let [before, after] = [quantix::VERSION, version].map(|of| format!("\nversion = \"{of}\""));
    fs::write(&manifest, text.replacen(&before, &after, 1)).unwrap();
}

/// One that needs nothing of its system.
pub fn busybox() -> &'static str {
    let known = [
        "/usr/bin/busybox",
        "/bin/busybox.static",
        "/usr/sbin/busybox",
    ];
    known
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("tests/vm/install.sh installs a busybox")
}
