//! The recipes that take minutes, or tools that not every machine has: `make check-deep` runs them, and
//! `tests/images/install.sh` brings the tools. They need root, and this machine's mirror of packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{NAME, agent_in, boot, keeps_an_agent, package};
use crate::util::Dir;
use crate::util::packages::{self, Kind, run};
use crate::util::recipes::{follow, recipe};
use crate::vm::debian;
use crate::vm::harness::make;

/// Where this machine's apt has its packages from, and of which release.
fn mirror() -> (String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/mirror.sh");
    let said = run(&mut Command::new(script));
    let (mirror, release) = said.trim_end().split_once(' ').unwrap();
    (mirror.to_owned(), release.to_owned())
}

/// A shell line, in a mount namespace of its own, with these for `$0`, `$1` and on.
#[track_caller]
fn apart(line: &str, words: &[&Path]) -> String {
    run(Command::new("unshare")
        .args(["--mount", "sh", "-euc", line])
        .args(words))
}

#[test]
#[ignore = "issue 8: a minute: a Debian of nothing"]
fn debootstrap_makes_an_image_with_it() {
    let work = Dir::new();
    let image = work.join("image");
    let (mirror, release) = mirror();
    let variables: [(&str, &Path); 4] = [
        ("image", &image),
        ("deb", &package(Kind::Deb)),
        ("mirror", Path::new(&mirror)),
        ("release", Path::new(&release)),
    ];
    follow(&recipe("debootstrap"), work.path(), &variables);
    let root = |words: &[&str]| run(Command::new("chroot").arg(&image).args(words));
    let status = root(&["dpkg-query", "-W", "-f", "${Status}", NAME]);
    assert_eq!(status, "install ok installed");
    assert!(root(&["/usr/sbin/quantix-kvm-agent", "--version"]).contains(quantix::VERSION));
    let unit = "/lib/systemd/system/quantix-kvm-agent.service";
    root(&["systemd-analyze", "verify", "--man=no", unit]);
    assert_eq!(agent_in(&image), None, "it runs");

    // The same with sysvinit's process 1.
    let fetch = "apt-get download -q -o APT::Sandbox::User=root sysvinit-core && dpkg-deb -x sysvinit-core_*.deb sysvinit";
    follow(fetch, work.path(), &[]);
    fs::copy(work.join("sysvinit/sbin/init"), image.join("sbin/sysvinit")).unwrap();
    fs::write(image.join("etc/inittab"), "id:2:initdefault:\n").unwrap();
    follow(&recipe("sysvinit"), work.path(), &variables);
    let _init = boot(&image, "/sbin/sysvinit", work.join("log"));
    keeps_an_agent(&image);
}

#[test]
#[ignore = "issue 8: a minute: mkosi makes a Debian"]
fn mkosi_makes_an_image_with_it() {
    let work = Dir::new();
    follow(
        &recipe("mkosi"),
        work.path(),
        &[("deb", &package(Kind::Deb))],
    );
    let (mirror, release) = mirror();
    // systemd-nspawn, by which mkosi runs what it runs in the image, refuses a /run on a disk, and asks systemd for a unit.
    let line = "mount -t tmpfs tmpfs /run; cd \"$0\"
        mkosi --distribution debian --release \"$2\" --mirror \"$1\" --nspawn-keep-unit --format directory --package udev \
            --output image build";
    apart(
        line,
        &[work.path(), Path::new(&mirror), Path::new(&release)],
    );
    let image = work.join("image");
    assert!(image.join("lib").is_symlink(), "/lib is a directory");
    for path in [
        "systemd/system/quantix-kvm-agent.service",
        "udev/rules.d/99-quantix-kvm-agent.rules",
    ] {
        assert!(image.join("lib").join(path).exists(), "{path}");
    }
    let said = run(Command::new("chroot").arg(&image).args([NAME, "--version"]));
    assert!(said.contains(quantix::VERSION), "{said}");
    let unit = "/lib/systemd/system/quantix-kvm-agent.service";
    run(Command::new("chroot")
        .arg(&image)
        .args(["systemd-analyze", "verify", "--man=no", unit]));
}

#[test]
#[ignore = "issue 8: a minute: virt-customize boots a VM"]
fn virt_customize_puts_it_into_a_disk() {
    let work = Dir::new();
    let disk = work.join("disk");
    let kernel = debian::without_agent(&disk);
    let release = fs::read_dir(kernel.join("tree"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    // The tests' kernel, for machines that have none of their own to be read; libguestfs looks for modules' needs.
    let modules = work.join("lib/modules");
    fs::create_dir_all(&modules).unwrap();
    run(Command::new("cp")
        .arg("-R")
        .arg(kernel.join("tree").join(&release))
        .arg(&modules));
    run(Command::new("depmod")
        .arg("-b")
        .arg(work.path())
        .arg(&release));
    let vmlinuz = kernel.join("vmlinuz");
    let (tree, tmp) = (modules.join(&release), work.join("tmp"));
    fs::create_dir(&tmp).unwrap();
    let mut variables: Vec<(&str, &Path)> = vec![
        ("LIBGUESTFS_BACKEND", Path::new("direct")),
        ("SUPERMIN_KERNEL", &vmlinuz),
        ("SUPERMIN_KERNEL_VERSION", Path::new(&release)),
        ("SUPERMIN_MODULES", &tree),
        ("LIBGUESTFS_CACHEDIR", &tmp),
        ("TMPDIR", &tmp),
        ("disk", &disk),
    ];
    // It takes a /dev/kvm that opens for one that works.
    if make("accel.sh", &[]).trim_end() == "tcg" {
        variables.push(("LIBGUESTFS_BACKEND_SETTINGS", Path::new("force_tcg")));
    }
    let deb = package(Kind::Deb);
    variables.push(("deb", &deb));
    follow(&recipe("virt-customize"), work.path(), &variables);
    let there = work.join("there");
    fs::create_dir(&there).unwrap();
    let look = "mount -o loop,ro \"$0\" \"$1\"
        chroot \"$1\" dpkg-query -W -f '${Status}' quantix-kvm-agent; ls \"$1/srv\"";
    assert_eq!(apart(look, &[&disk, &there]), "install ok installed");
}

#[test]
#[ignore = "issue 8: lintian and rpmlint are large"]
fn packages_are_as_their_distributions_want_them() {
    assert!(
        packages::is_release(),
        "QX_TEST_RELEASE=1 looks at what ships"
    );
    let all = |kind: Kind| -> Vec<PathBuf> {
        ["quantix-kvm-agent", "quantix-node"]
            .map(|name| packages::ours(kind, name))
            .to_vec()
    };
    run(Command::new("lintian")
        .args(["--fail-on", "error,warning"])
        .args(all(Kind::Deb)));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("rpm");
    run(Command::new("rpmlint")
        .arg("-c")
        .arg(root.join("rpmlint.toml"))
        .args(all(Kind::Rpm))
        .arg(root.join("quantix-kvm.spec")));
}
