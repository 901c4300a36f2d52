//! The agent's package in a system that runs: by whom it is started, what may happen to it, and how another takes its
//! place.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::Guest;
use crate::util::packages::{self, Kind};
use crate::vm::harness::{PATIENCE, wait_until};
use crate::vm::ops::install::DEAF;

pub fn is_a_service_that_udev_starts(guest: &Guest) {
    let show = |what: &str| guest.sh(&format!("systemctl show -P {what} quantix-kvm-agent"));
    assert_eq!(
        ["ActiveState", "Type", "UnitFileState", "NRestarts"].map(show),
        ["active", "notify", "static", "0"]
    );
    assert!(show("StatusText").starts_with("port /dev/vport"));
    assert_eq!(
        guest.sh("systemctl is-system-running; systemctl --failed --no-legend | cat"),
        "running"
    );
}

/// Whatever is killed of what it runs, it stays.
pub fn outlives_what_eats_all_memory(guest: &Guest) {
    let pid = || guest.sh("systemctl show -P MainPID quantix-kvm-agent");
    let before = pid();
    let score = "cat /proc/self/oom_score_adj";
    assert_eq!(guest.sh(score), "0");
    let limit = |most: &str| {
        guest.sh(&format!(
            "systemctl set-property --runtime quantix-kvm-agent MemoryMax={most}"
        ))
    };
    // All of the guest's would do as well, and take minutes.
    limit("64M");
    let hog = guest.ask("exec", &["--", "tail", "/dev/zero"]);
    assert_eq!(hog.status, 137, "{hog:?}");
    limit("infinity");
    assert_eq!(pid(), before);
    assert_eq!(
        guest.sh("systemctl show -P Result quantix-kvm-agent"),
        "success"
    );
}

/// Another version, the old one again, and none: by commands that the agent runs itself.
pub fn is_exchanged_under_what_it_runs(guest: &Guest) {
    let place = &guest.own.place;
    let sources = place.file("sources");
    packages::copy_sources(&sources);
    packages::set_version(&sources, "9.0.0");
    packages::build(Kind::Deb, &sources, &place.file("next"));
    let old = packages::ours(Kind::Deb, "quantix-kvm-agent");
    let next = packages::find(&place.file("next"), Kind::Deb, "quantix-kvm-agent");
    guest.copy(&next, "/srv/next.deb");
    guest.copy(&old, "/srv/agent.deb");

    let ours = "telemetry_interval = 3";
    guest.sh(&format!("echo '{ours}' >/etc/quantix-kvm/agent.conf"));
    let job = guest
        .ask(
            "exec",
            &[
                "--detach",
                "--",
                "while [ ! -e /srv/enough ]; do sleep 0.2; done; echo enough",
            ],
        )
        .text();
    let installed = || guest.sh("dpkg-query -W -f '${Version}' quantix-kvm-agent");
    let conf = || guest.sh("cat /etc/quantix-kvm/agent.conf");
    guest.own.until_next_agent(|| {
        let line = "dpkg --install /srv/next.deb 2>&1 && echo all of it";
        let said = guest.ask("exec", &["--", line]).text();
        assert!(said.ends_with("all of it"), "{said}");
    });
    assert_eq!((installed(), conf()), ("9.0.0".to_owned(), ours.to_owned()));
    let said = guest.json("install", &["--deb", old.to_str().unwrap()]);
    assert_eq!(said["outcome"], "installed", "{said}");
    assert_eq!(
        (installed(), conf()),
        (quantix::VERSION.to_owned(), ours.to_owned())
    );
    guest
        .ask("install", &["--deb", "/dev/null"])
        .failed(1, &["no agent has 0 bytes"]);
    // Another package, whose agent lets nobody in: the one before it comes back, as a package.
    let programs = place.file("programs");
    fs::create_dir(&programs).unwrap();
    for name in ["quantix-kvm-agent", "qx-node"] {
        let path = programs.join(name);
        fs::write(&path, DEAF).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(programs.join(format!("{name}.notices")), "").unwrap();
    }
    packages::build_of(programs, Kind::Deb, &sources, &place.file("deaf"));
    let deaf = packages::find(&place.file("deaf"), Kind::Deb, "quantix-kvm-agent");
    guest
        .ask(
            "install",
            &["--deb", deaf.to_str().unwrap(), "--deadline", "5"],
        )
        .failed(1, &["let nobody in within 5 s; the old agent is back"]);
    assert_eq!(
        (installed(), conf()),
        (quantix::VERSION.to_owned(), ours.to_owned())
    );
    let text = place.file("text");
    fs::write(&text, "no package").unwrap();
    guest
        .ask("install", &["--deb", text.to_str().unwrap()])
        .failed(1, &["dpkg-deb: error: ", "nothing was changed"]);
    guest.sh("touch /srv/enough");
    assert_eq!(guest.ask("attach", &[&job]).text(), "enough");

    // Out, and in again: udev starts it, though its port has been there for long.
    guest.own.until_next_agent(|| {
        let line = "dpkg --purge quantix-kvm-agent; find / -xdev -iname '*quantix*' ! -path '/srv/*' ! -path '/var/cache/*' \
            >/srv/left; ls -d /etc/quantix-kvm /run/quantix-kvm >>/srv/left; dpkg --install /srv/agent.deb";
        guest.ask("exec", &["--detach", "--", line]).ok();
    });
    assert_eq!(guest.sh("cat /srv/left"), "");
    wait_until("the unit", PATIENCE, || {
        guest.sh("systemctl is-active quantix-kvm-agent") == "active"
    });
}
