//! The packages: what they hold, and what becomes of a system into which they are put, of which they are taken out, and
//! in which they are exchanged. The systems are directories with a busybox, as images are before their first boot:
//! nothing runs in them, and nothing may be started.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use crate::util::Dir;
use crate::util::packages::{self, Kind, run};

/// Both packages of a kind, in this version and in the next.
pub struct Built {
    dir: Dir,
    kind: Kind,
    pub next: String,
}

impl Built {
    fn new(kind: Kind) -> Self {
        let dir = Dir::new();
        // Another copy of the sources, elsewhere: what says where it was made shows.
        let sources = dir.join("elsewhere");
        packages::copy_sources(&sources);
        let changes = fs::File::open(sources.join("CHANGELOG.md")).unwrap();
        let once = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        changes.set_modified(once).unwrap();
        packages::build(kind, &sources, &dir.join("again"));
        let next = format!("{}.1", quantix::VERSION);
        packages::set_version(&sources, &next);
        // What is configured by default has changed, too.
        for conf in ["agent/agent.conf", "host/node.conf"] {
            let mut conf = fs::File::options()
                .append(true)
                .open(sources.join(conf))
                .unwrap();
            conf.write_all(b"# Of the next version.\n").unwrap();
        }
        packages::build(kind, &sources, &dir.join("next"));
        Self { dir, kind, next }
    }

    pub fn next(&self, name: &str) -> PathBuf {
        packages::find(&self.dir.join("next"), self.kind, name)
    }

    fn again(&self, name: &str) -> PathBuf {
        packages::find(&self.dir.join("again"), self.kind, name)
    }
}

pub static DEBS: LazyLock<Built> = LazyLock::new(|| Built::new(Kind::Deb));
pub static RPMS: LazyLock<Built> = LazyLock::new(|| Built::new(Kind::Rpm));

const NAMES: [&str; 2] = ["quantix-kvm-agent", "quantix-node"];

/// What any system has.
const DIRECTORIES: [&str; 24] = [
    "bin",
    "run",
    "tmp",
    "var/tmp",
    "var/log",
    "var/lib/dpkg/info",
    "usr/bin",
    "usr/sbin",
    "etc/init.d",
    "etc/logrotate.d",
    "lib/systemd/system",
    "lib/udev/rules.d",
    "usr/lib/systemd/system",
    "usr/lib/udev/rules.d",
    "usr/lib/tmpfiles.d",
    "usr/lib/sysusers.d",
    "usr/share/doc",
    "usr/share/licenses",
    "usr/share/man/man5",
    "usr/share/man/man8",
    "usr/share/bash-completion/completions",
    "usr/share/zsh/site-functions",
    "usr/share/fish/vendor_completions.d",
    "usr/share/lintian/overrides",
];

/// A system in a directory.
pub struct Root {
    pub dir: Dir,
    kind: Kind,
}

impl Root {
    pub fn new(kind: Kind) -> Self {
        let dir = Dir::new();
        // Each with something in it, as in any system: what is empty would go with the package.
        for name in DIRECTORIES {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("something"), "").unwrap();
        }
        let busybox = packages::busybox();
        fs::copy(busybox, dir.join("bin/busybox")).unwrap();
        let tools = "sh rm rmdir ls cat grep sed chmod mkdir ln mv tar";
        for tool in tools.split(' ') {
            symlink("busybox", dir.join("bin").join(tool)).unwrap();
        }
        // What busybox has no word for: who asks for a group gets one.
        for tool in ["getent", "groupadd", "groupdel"] {
            let path = dir.join("bin").join(tool);
            fs::write(
                &path,
                format!("#!/bin/sh\necho {tool} \"$@\" >>/var/groups\n[ {tool} != getent ]\n"),
            )
            .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
        fs::write(dir.join("var/lib/dpkg/status"), "").unwrap();
        let root = Self { dir, kind };
        if kind == Kind::Rpm {
            root.tool("rpm", &["--initdb"]);
        }
        root
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn tool(&self, tool: &str, words: &[&str]) -> String {
        let root = match tool {
            "rpm" => ["--root", self.path().to_str().unwrap()]
                .map(str::to_owned)
                .to_vec(),
            _ => vec![format!("--root={}", self.path().display())],
        };
        run(packages::as_root(tool).args(root).args(words))
    }

    fn install(&self, package: &Path) {
        let path = package.to_str().unwrap();
        match self.kind {
            // As whoever is not there to be asked has it.
            Kind::Deb => self.tool("dpkg", &["--force-confold", "--install", path]),
            // A shell is here, and no package that has it.
            Kind::Rpm => self.tool("rpm", &["-U", "--oldpackage", "--nodeps", path]),
        };
    }

    /// Takes it out, and what was configured with it.
    fn purge(&self, name: &str) {
        match self.kind {
            Kind::Deb => self.tool("dpkg", &["--purge", name]),
            Kind::Rpm => self.tool("rpm", &["-e", name]),
        };
    }

    pub fn version(&self, name: &str) -> String {
        match self.kind {
            Kind::Deb => run(Command::new("dpkg-query")
                .arg(format!("--admindir={}", self.dir.text("var/lib/dpkg")))
                .args(["--show", "--showformat", "${Version}", name])),
            Kind::Rpm => self.tool("rpm", &["-q", "--queryformat", "%{VERSION}", name]),
        }
    }

    /// All that is there, but for the database of packages: path, kind and mode.
    pub fn list(&self) -> BTreeMap<String, u32> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.path().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path
                    .strip_prefix(self.path())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                if [
                    "var/lib/dpkg",
                    "var/lib/rpm",
                    "var/log",
                    "var/groups",
                    "usr/lib/sysimage",
                ]
                .contains(&&*name)
                {
                    continue;
                }
                let meta = fs::symlink_metadata(&path).unwrap();
                if meta.is_dir() {
                    left.push(path);
                }
                found.insert(name, meta.mode());
            }
        }
        found
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap()
    }
}

fn go_in_and_out(kind: Kind, built: &Built) {
    let root = Root::new(kind);
    let before = root.list();
    for (name, conf) in NAMES.into_iter().zip(["agent.conf", "node.conf"]) {
        let conf = format!("etc/quantix-kvm/{conf}");
        root.install(&packages::ours(kind, name));
        let program = match name {
            "quantix-node" => "/usr/bin/qx-node",
            _ => "/usr/sbin/quantix-kvm-agent",
        };
        let said = run(packages::as_root("chroot")
            .arg(root.path())
            .args([program, "--version"]));
        assert!(said.contains(quantix::VERSION), "{said}");

        // Every key is there, and none counts.
        let text = root.read(&conf);
        assert!(
            text.lines()
                .all(|line| line.is_empty() || line.starts_with('#')),
            "{text}"
        );
        let ours = "telemetry_interval = 60\n";
        fs::write(root.dir.join(&conf), ours).unwrap();
        for (package, version) in [
            (built.next(name), &*built.next),
            (packages::ours(kind, name), quantix::VERSION),
        ] {
            root.install(&package);
            assert_eq!(root.version(name), version);
            assert_eq!(root.read(&conf), ours);
        }
        // The package's own lies beside it, for whoever wants it.
        let of_package = match kind {
            Kind::Deb => format!("{conf}.dpkg-dist"),
            Kind::Rpm => format!("{conf}.rpmnew"),
        };
        fs::remove_file(root.dir.join(&of_package)).unwrap();
        let list = root.list();
        let extra = |path: &&String| {
            path.starts_with("etc/") && (path.contains(".conf.") || path.contains(".dpkg"))
        };
        assert_eq!(list.keys().find(extra), None, "two of a configuration");
    }
    // What an agent would have left.
    for path in ["etc/quantix-kvm/network/previous", "run/quantix-kvm/jobs/1"] {
        fs::create_dir_all(root.dir.join(path)).unwrap();
    }
    for name in NAMES {
        root.purge(name);
    }
    // rpm keeps what was configured, under another name.
    for conf in ["agent.conf", "node.conf"] {
        let saved = root.dir.join(&format!("etc/quantix-kvm/{conf}.rpmsave"));
        assert_eq!(fs::remove_file(saved).is_ok(), kind == Kind::Rpm);
    }
    if kind == Kind::Rpm {
        fs::remove_dir(root.dir.join("etc/quantix-kvm")).unwrap();
    }
    let after = root.list();
    let left: Vec<_> = after
        .keys()
        .filter(|path| !before.contains_key(*path))
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(
        before.keys().all(|path| after.contains_key(path)),
        "taken away"
    );
}

#[test]
fn debs_go_into_a_system_and_out_of_it() {
    go_in_and_out(Kind::Deb, &DEBS);
}

#[test]
fn rpms_go_into_a_system_and_out_of_it() {
    go_in_and_out(Kind::Rpm, &RPMS);
}

#[test]
fn packages_are_the_same_wherever_they_are_made() {
    for (kind, built) in [(Kind::Deb, &*DEBS), (Kind::Rpm, &*RPMS)] {
        for name in NAMES {
            let first = packages::ours(kind, name);
            let (one, other) = (
                fs::read(&first).unwrap(),
                fs::read(built.again(name)).unwrap(),
            );
            assert!(one == other, "{} is another elsewhere", first.display());
        }
    }
}

#[test]
fn packages_are_small_and_need_nothing() {
    for kind in [Kind::Deb, Kind::Rpm] {
        let path = packages::ours(kind, "quantix-kvm-agent");
        let root = Root::new(kind);
        let before: u64 = sizes(root.path());
        let size = fs::metadata(&path).unwrap().len();
        root.install(&path);
        let installed = sizes(root.path()) - before;
        let needs = match kind {
            Kind::Deb => run(Command::new("dpkg-deb")
                .arg("--field")
                .arg(&path)
                .arg("Depends,Pre-Depends,Recommends")),
            Kind::Rpm => run(Command::new("rpm").args(["-qp", "--requires"]).arg(&path)),
        };
        // rpm's own words for what its format and the configuration need.
        let is_need = |line: &&str| {
            !["rpmlib(", "config(", "/bin/sh"]
                .iter()
                .any(|own| line.starts_with(own))
        };
        assert_eq!(
            needs.trim().lines().find(is_need),
            None,
            "{}",
            path.display()
        );
        if packages::is_release() {
            assert!(size <= 700_000, "{}: {size} bytes", path.display());
            assert!(
                installed <= 2_000_000,
                "{}: {installed} bytes installed",
                path.display()
            );
        }
    }
}

/// The terms of those whose work is in them.
#[test]
fn packages_say_whose_work_is_in_them_too() {
    for kind in [Kind::Deb, Kind::Rpm] {
        let root = Root::new(kind);
        for name in NAMES {
            root.install(&packages::ours(kind, name));
            let text = match kind {
                Kind::Deb => run(Command::new("zcat")
                    .arg(root.dir.join(&format!("usr/share/doc/{name}/NOTICES.gz")))),
                Kind::Rpm => root.read(&format!("usr/share/licenses/{name}/NOTICES")),
            };
            for crate_name in ["mio", "syslog"] {
                // It is in both, by no licence of ours, and so are its author's words.
                let (_, terms) = text.split_once(&format!("==== {crate_name}-")).unwrap();
                assert!(terms.contains("Permission is hereby granted"), "{text}");
            }
            let of_the_host = text.contains("ratatui");
            assert_eq!(of_the_host, name == "quantix-node", "{text}");
        }
    }
}

fn sizes(path: &Path) -> u64 {
    let skip = ["dpkg", "rpm", "sysimage"]
        .iter()
        .any(|name| path.ends_with(name));
    let meta = fs::symlink_metadata(path).unwrap();
    if meta.is_dir() && !skip {
        return fs::read_dir(path)
            .unwrap()
            .map(|entry| sizes(&entry.unwrap().path()))
            .sum();
    }
    if meta.is_file() { meta.len() } else { 0 }
}

#[test]
#[ignore = "issue 8: builds everything twice; `make check-deep` runs it"]
fn an_archive_builds_the_same_packages_without_a_network() {
    let dir = Dir::new();
    let (clone, home) = (dir.join("clone"), dir.join("home"));
    let root = env!("CARGO_MANIFEST_DIR");
    run(Command::new("git")
        .args(["clone", "--quiet", root])
        .arg(&clone));
    let tools = Path::new(root).join("target/tools/bin");
    let path = format!("{}:{}", std::env::var("PATH").unwrap(), tools.display());
    run(Command::new("make")
        .arg("dist")
        .current_dir(&clone)
        .env("PATH", path)
        .env_remove("CARGO_TARGET_DIR"));
    let made = clone.join("target/dist");
    run(Command::new("sha256sum")
        .args(["--check", "SHA256SUMS"])
        .current_dir(&made));

    // Elsewhere, with no crate at hand and no interface but one that is down.
    let line = "mkdir \"$1\" && cd \"$1\" && tar xJf \"$0\" && cd quantix-kvm-* && ! ip route | grep . && exec make deb rpm";
    let archive = made.join(format!("quantix-kvm-{}.tar.xz", quantix::VERSION));
    run(Command::new("unshare")
        .args(["--net", "sh", "-c", line])
        .args([&archive, &dir.join("elsewhere")])
        .env("CARGO_HOME", home)
        .env_remove("CARGO_TARGET_DIR"));
    let other = dir
        .join("elsewhere")
        .join(format!("quantix-kvm-{}", quantix::VERSION));
    for name in NAMES {
        for kind in [Kind::Deb, Kind::Rpm] {
            let word = kind.word();
            let packages =
                [&made, &other.join("target").join(word)].map(|at| packages::find(at, kind, name));
            let [one, other] = packages.map(|path| fs::read(path).unwrap());
            assert!(
                one == other,
                "{name} for {word} is another without a network"
            );
        }
    }

    // What the programs are made of, with what may be done with it.
    for program in ["quantix-kvm-agent", "qx-node"] {
        let text = fs::read(made.join(format!("{program}-{}.cdx.json", quantix::VERSION))).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let components = found["components"].as_array().unwrap();
        let names: Vec<_> = components
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert!(
            names.contains(&"prost") && components.iter().all(|one| !one["licenses"].is_null())
        );
        assert_eq!(names.contains(&"ratatui"), program == "qx-node");
    }
}

#[test]
fn no_file_of_a_package_gives_more_rights_than_its_caller_has() {
    for name in ["quantix-kvm-agent", "quantix-node"] {
        let mut list = Command::new("dpkg-deb");
        let listed = run(list.arg("--contents").arg(packages::ours(Kind::Deb, name)));
        // A link has the rights of what it leads to.
        for line in listed.lines().filter(|line| !line.starts_with('l')) {
            let (mode, rest) = line.split_at(10);
            assert!(!mode.contains(['s', 'S']), "set-id: {line}");
            assert_ne!(&mode[8..9], "w", "anybody may write it: {line}");
            assert!(rest.trim_start().starts_with("root/root "), "{line}");
        }
    }
}
