//! docs/images.md: each of its blocks is run, and what the text around them says is looked at. What takes long is in
//! [`deep`], and what needs a guest that runs in `vm::debian`.

#![cfg(test)]

mod deep;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use quantix::message::Body;

use crate::packages::{DEBS, RPMS, Root};
use crate::util::agent::{Talk, accept};
use crate::util::packages::{self, Kind, run};
use crate::util::recipes::{blocks, document, follow, recipe};
use crate::util::{Dir, Process, signal, until, until_so};
use crate::vm::harness::program;

const NAME: &str = "quantix-kvm-agent";
const CONF: &str = "etc/quantix-kvm/agent.conf";

fn package(kind: Kind) -> PathBuf {
    packages::ours(kind, NAME)
}

#[test]
fn each_recipe_is_run_by_a_test() {
    let mut sources = String::new();
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            sources += &fs::read_to_string(path).unwrap();
        }
    }
    let names: Vec<String> = blocks().into_iter().filter_map(|b| b.name).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in &names {
        let call = format!("recipe(\"{name}\")");
        assert!(sources.contains(&call), "nobody runs {name}");
        assert_eq!(names.iter().filter(|n| *n == name).count(), 1, "{name}");
    }
}

/// What nobody may call while an image is made: they note that they were. OpenRC's list of services is a file of the
/// image, which may be written.
fn watch(root: &Root) {
    for tool in [
        "systemctl",
        "udevadm",
        "rc-service",
        "invoke-rc.d",
        "rc-update",
    ] {
        let path = root.dir.join("bin").join(tool);
        let line = format!("#!/bin/sh\necho {tool} \"$@\" >>/var/log/called\n");
        fs::write(&path, line).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn called(root: &Root) -> String {
    fs::read_to_string(root.dir.join("var/log/called")).unwrap_or_default()
}

/// The document's table, as this kind of package has it.
fn listed(kind: Kind) -> BTreeSet<String> {
    let text = document();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `/"));
    rows.map(|row| {
        let (path, about) = row.split_once('`').unwrap();
        match kind {
            Kind::Deb if about.contains("in the DEB below `/lib`") => {
                path.strip_prefix("usr/").unwrap().to_owned()
            }
            Kind::Rpm => match about.split_once("in the RPM `/") {
                Some((_, other)) => other.split('`').next().unwrap().to_owned(),
                None => path.to_owned(),
            },
            Kind::Deb => path.to_owned(),
        }
    })
    .collect()
}

/// What is in there that was not: files, and directories with a `/` that were made empty.
fn added(root: &Root, before: &std::collections::BTreeMap<String, u32>) -> BTreeSet<String> {
    let now = root.list();
    let is_directory = |path: &String| root.dir.join(path).is_dir();
    let is_empty = |path: &String| {
        let inside = format!("{path}/");
        !now.keys().any(|other| other.starts_with(&inside))
    };
    let beside = [
        "usr/share/doc/",
        "usr/share/lintian/",
        "usr/share/licenses/",
    ];
    now.keys()
        .filter(|path| !before.contains_key(*path))
        .filter(|path| !beside.iter().any(|start| path.starts_with(start)))
        .filter(|path| !is_directory(path) || is_empty(path))
        .map(|path| match is_directory(path) {
            true => format!("{path}/"),
            false => path.clone(),
        })
        .collect()
}

#[test]
fn dpkg_puts_it_into_an_image() {
    let root = Root::new(Kind::Deb);
    watch(&root);
    let before = root.list();
    let (deb, next) = (package(Kind::Deb), DEBS.next(NAME));
    let go = |recipe: &str, deb: &Path| {
        follow(recipe, root.path(), &[("image", root.path()), ("deb", deb)])
    };
    go(&recipe("dpkg-root"), &deb);
    let enabled = format!("rc-update --quiet add {NAME} default\n");
    assert_eq!(called(&root), enabled);
    assert_eq!(added(&root, &before), listed(Kind::Deb));

    go(&recipe("configuration"), &deb);
    let ours = root.read(CONF);
    for (package, version) in [(&next, &*DEBS.next), (&deb, quantix::VERSION)] {
        go(&recipe("dpkg-again"), package);
        assert_eq!(
            (&*root.version(NAME), root.read(CONF)),
            (version, ours.clone())
        );
    }
    fs::remove_file(root.dir.join(&format!("{CONF}.dpkg-dist"))).unwrap();
    go(&recipe("dpkg-remove"), &deb);
    // What is in /etc, for dpkg that is all configuration.
    let script = "etc/init.d/quantix-kvm-agent";
    let stays = [CONF, script].map(str::to_owned);
    assert_eq!(added(&root, &before), BTreeSet::from(stays));
    go(&recipe("dpkg-purge"), &deb);
    assert_eq!(added(&root, &before), BTreeSet::new());
    let removed = format!("rc-update --quiet --all delete {NAME}\n");
    assert_eq!(
        called(&root),
        [&*enabled, &enabled, &enabled, &removed].concat()
    );
}

/// A package that has a shell, as in any system of rpm.
const SHELL: &str = "Name: shell\nVersion: 1\nRelease: 1\nSummary: One\nLicense: Any\nBuildArch: noarch\n\
    Provides: /bin/sh\n%description\nOne.\n%files\n";

#[test]
fn rpm_puts_it_into_an_image() {
    let root = Root::new(Kind::Rpm);
    watch(&root);
    let work = Dir::new();
    let shell = "rpmbuild -bb --define \"_topdir $PWD\" shell.spec && \
        rpm --root=\"$image\" -U --justdb RPMS/noarch/shell-1-1.noarch.rpm";
    work.file("shell.spec", SHELL);
    follow(shell, work.path(), &[("image", root.path())]);
    let before = root.list();
    let (rpm, next) = (package(Kind::Rpm), RPMS.next(NAME));
    let go = |recipe: &str, rpm: &Path| {
        follow(recipe, root.path(), &[("image", root.path()), ("rpm", rpm)])
    };
    go(&recipe("rpm-root"), &rpm);
    assert_eq!(added(&root, &before), listed(Kind::Rpm));

    go(&recipe("configuration"), &rpm);
    let ours = root.read(CONF);
    for (package, version) in [(&next, &*RPMS.next), (&rpm, quantix::VERSION)] {
        go(&recipe("rpm-again"), package);
        assert_eq!(
            (&*root.version(NAME), root.read(CONF)),
            (version, ours.clone())
        );
    }
    fs::remove_file(root.dir.join(&format!("{CONF}.rpmnew"))).unwrap();
    go(&recipe("rpm-erase"), &rpm);
    let saved = format!("{CONF}.rpmsave");
    assert_eq!(added(&root, &before), BTreeSet::from([saved.clone()]));
    assert_eq!(root.read(&saved), ours);
    assert_eq!(called(&root), "");
}

/// An image with a tree that was unpacked.
fn unpacked() -> Root {
    let root = Root::new(Kind::Deb);
    // The recipe unpacks into `tree`; here that is the image.
    std::os::unix::fs::symlink(".", root.dir.join("tree")).unwrap();
    let deb = package(Kind::Deb);
    follow(&recipe("deb-tree"), root.path(), &[("deb", &deb)]);
    root
}

#[test]
fn an_unpacked_package_is_all_of_it() {
    let work = Dir::new();
    for (name, text, kind) in [
        ("deb", recipe("deb-tree"), Kind::Deb),
        ("rpm", recipe("rpm-tree"), Kind::Rpm),
    ] {
        follow(&text, work.path(), &[(name, &package(kind))]);
        for path in listed(kind) {
            assert!(work.join("tree").join(&path).exists(), "{name}: {path}");
        }
        let agent = work.join("tree/usr/sbin/quantix-kvm-agent");
        assert!(run(Command::new(agent).arg("--version")).contains(quantix::VERSION));
        fs::remove_dir_all(work.join("tree")).unwrap();
    }
}

#[test]
fn busyboxs_script_keeps_the_agent_running() {
    let root = unpacked();
    follow(
        &recipe("busybox-script"),
        root.path(),
        &[("image", root.path())],
    );
    let script = root.dir.join(&format!("etc/init.d/S20{NAME}"));
    let listener = UnixListener::bind(root.dir.join("port")).unwrap();
    let agent = format!(
        "{} --log stderr --port {} --config {} --run-dir {}",
        program(NAME).display(),
        root.dir.text("port"),
        root.dir.text(CONF),
        root.dir.text("run/agent"),
    );
    let call = |word: &str| {
        let out = Command::new(packages::busybox())
            .arg("sh")
            .arg(&script)
            .arg(word)
            .env("AGENT", &agent)
            .env("RUN", root.dir.join("run"))
            .output()
            .unwrap();
        out.status.code()
    };
    // Whatever becomes of this test, nothing of it stays.
    struct Stop<F: Fn()>(F);
    impl<F: Fn()> Drop for Stop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    let _stop = Stop(|| {
        call("stop");
    });
    fs::write(root.dir.join(CONF), "telemetry_interval = 0\n").unwrap();
    assert_eq!(call("status"), Some(3));
    assert_eq!(call("start"), Some(0));
    let mut talk = accept_talk(&listener);
    talk.open(b"nonce-of-16-byte");
    assert_eq!(call("start"), Some(0), "a second time");
    assert_eq!(call("status"), Some(0));
    let keeper = fs::read_to_string(root.dir.join(&format!("run/{NAME}.keeper"))).unwrap();
    let keeper: u32 = keeper.trim().parse().unwrap();
    let agents = || {
        let mut all = crate::util::children(keeper);
        all.retain(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.starts_with("quantix"))
        });
        all
    };
    let first = agents();
    assert_eq!(first.len(), 1);

    // A reload is the agent's, which goes on, and reports at once.
    fs::write(root.dir.join(CONF), "telemetry_interval = 3600\n").unwrap();
    assert_eq!(call("reload"), Some(0));
    assert!(matches!(talk.next().body, Some(Body::Telemetry(_))));
    assert_eq!(agents(), first);

    signal(first[0], "KILL");
    let _talk = accept_talk(&listener);
    let second = agents();
    assert!(second.len() == 1 && second != first, "{second:?}");

    assert_eq!(call("restart"), Some(0));
    let _talk = accept_talk(&listener);
    assert_eq!(call("stop"), Some(0));
    assert_eq!(call("status"), Some(3));
    until_so("no agent", || {
        !crate::util::is_alive(second[0]) && agents().is_empty()
    });
    assert_eq!(call("nonsense"), Some(2));
}

fn accept_talk(listener: &UnixListener) -> Talk {
    Talk::new(accept(listener))
}

/// Has this be process 1 in the tree, in which it has processes of its own. All end with the value.
fn boot(tree: &Path, init: &str, log: PathBuf) -> Process {
    let line = "mkdir -p \"$0/proc\" && mount -t proc proc \"$0/proc\" && exec chroot \"$0\" $1";
    let mut command = Command::new("unshare");
    command
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--ipc",
            "sh",
            "-c",
            line,
        ])
        .arg(tree)
        .arg(init);
    Process::start(&mut command, log)
}

/// The agent that runs in the tree; not what it has forked.
fn agent_in(tree: &Path) -> Option<u32> {
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read_link(format!("/proc/{pid}/root")).is_ok_and(|root| root == tree)
                && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with(NAME))
        })
        .collect();
    found.sort_unstable();
    found.first().copied()
}

/// Process 1 there starts the agent, and another behind it.
#[track_caller]
fn keeps_an_agent(tree: &Path) {
    let first = until("an agent", || agent_in(tree));
    signal(first, "KILL");
    until("another agent", || {
        agent_in(tree).filter(|pid| *pid != first)
    });
}

#[test]
fn busyboxs_init_keeps_the_agent_running() {
    let root = unpacked();
    follow(
        &recipe("busybox-inittab"),
        root.path(),
        &[("image", root.path())],
    );
    let _init = boot(
        root.path(),
        "/bin/busybox init",
        root.dir.join("var/log/init"),
    );
    keeps_an_agent(root.path());
}

#[test]
fn the_module_for_selinux_compiles() {
    let root = unpacked();
    let place = root.dir.join("usr/share/quantix-kvm-agent/selinux");
    follow(&recipe("selinux"), &place, &[]);
    let made = fs::metadata(place.join("quantix_kvm_agent.pp")).unwrap();
    assert!(made.len() > 0);
}

#[test]
fn one_line_leaves_ping_and_telemetry() {
    let root = unpacked();
    follow(
        &recipe("allow-none"),
        root.path(),
        &[("image", root.path())],
    );
    let mut command = Command::new(root.dir.join("usr/sbin/quantix-kvm-agent"));
    command
        .arg("--check-config")
        .arg("--config")
        .arg(root.dir.join(CONF));
    let out = command.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let refused = text.matches(" no   line 1: allow = none").count();
    assert_eq!((out.status.code(), refused), (Some(0), 14), "{text}");
}

#[test]
fn the_drop_in_goes_where_systemd_looks() {
    let root = unpacked();
    follow(
        &recipe("monitor-only"),
        root.path(),
        &[("image", root.path())],
    );
    let text = root.read("etc/systemd/system/quantix-kvm-agent.service.d/monitor-only.conf");
    assert!(text.contains("ProtectSystem=strict"), "{text}");
}
