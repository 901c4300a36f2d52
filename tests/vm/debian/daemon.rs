//! The host's daemon, as systemd keeps it, in a machine that has one.

use super::Guest;
use crate::util::packages::{self, Kind};
use crate::vm::harness::{PATIENCE, wait_until};

pub fn is_a_service_that_systemd_keeps(guest: &Guest) {
    guest.copy(&packages::ours(Kind::Deb, "quantix-node"), "/srv/node.deb");
    let all = "find /etc /usr /lib /var/lib/systemd -xdev | sort";
    let before = guest.sh(all);
    guest.sh("dpkg --install /srv/node.deb 2>&1");
    // It is started when clients are taken, and not before.
    let list = "qx-node vms";
    assert!(guest.sh(list).starts_with("no VMs: "));
    // libvirt's QEMU is in that group.
    let directories = guest.sh("stat -c '%a %U:%G' /run/quantix-kvm /run/quantix-kvm/vms");
    assert_eq!(directories, "755 root:root\n1775 root:kvm");
    assert!(guest.sh("getent group quantix").starts_with("quantix:"));
    let make = |user: &str| {
        guest.says(&format!(
            "su -s /bin/sh {user} -c 'echo >/run/quantix-kvm/vms/{user}'"
        ))
    };
    guest.sh("useradd -M -G kvm qemu && useradd -M -G kvm other");
    assert_eq!(make("qemu"), "");
    assert!(make("nobody").contains("Permission denied"));
    // Nor may one of them take another's away.
    let take = "su -s /bin/sh other -c 'rm -f /run/quantix-kvm/vms/qemu'";
    assert!(guest.says(take).contains("Operation not permitted"));
    guest.sh("rm /run/quantix-kvm/vms/qemu");
    let conf = "/etc/quantix-kvm/node.conf";
    let show = |what: &str| guest.sh(&format!("systemctl show -P {what} quantix-node"));
    assert_eq!(show("Type"), "notify");
    let pid = show("MainPID");
    // Where it is nobody writes but where its log and its sockets are, and nobody asks init or the bus for anything.
    let within = |line: &str| guest.says(&format!("nsenter -t {pid} -m -- {line} 2>&1"));
    for place in ["/etc", "/usr/bin", "/root", "/var/spool", "/run/udev"] {
        let said = within(&format!("touch {place}/by-the-daemon"));
        assert!(said.contains("Read-only file system"), "{place}: {said}");
    }
    assert_eq!(
        within("touch /var/log/by-the-daemon /run/quantix-kvm/by-the-daemon"),
        ""
    );
    guest.sh("rm /var/log/by-the-daemon /run/quantix-kvm/by-the-daemon");
    let said = within("systemctl start --no-block rescue");
    assert!(said.contains("Failed to connect to bus"), "{said}");

    // What is wrong in its configuration is said, and hurts nobody.
    guest.sh(&format!("echo 'log_level = loud' >>{conf}"));
    guest.sh("systemctl reload quantix-node");
    let journal = "journalctl -u quantix-node -o cat --no-pager";
    let said = || guest.sh(journal);
    wait_until("the fault in the journal", PATIENCE, || {
        said().contains("log_level = loud: takes error, warning, info or debug")
    });
    assert_eq!(
        (show("MainPID"), show("ActiveState")),
        (pid.clone(), "active".to_owned())
    );

    // A log where it may not write is said where that is seen.
    guest.sh("mkdir /srv/full && mount -t tmpfs -o size=64k tmpfs /srv/full");
    guest.sh(&format!(
        "echo 'log = /srv/full/node.log' >{conf} && systemctl restart quantix-node"
    ));
    let why = "log /srv/full/node.log: Read-only file system; a service's unit may be why (ReadWritePaths=)";
    wait_until("the log's fault in the journal", PATIENCE, || {
        said().contains(why)
    });

    // A disk that is full, under its log and its file for node_exporter.
    let fence = "/run/systemd/system/quantix-node.service.d/full.conf";
    guest.put(fence, "[Service]\nReadWritePaths=/srv/full\n");
    guest.sh("systemctl daemon-reload");
    guest.says("cat /dev/zero >/srv/full/fill");
    let lines = "log = /srv/full/node.log\\ntextfile = /srv/full/quantix.prom\\n";
    guest.sh(&format!(
        "printf '{lines}' >{conf} && systemctl restart quantix-node"
    ));
    guest.sh(list);
    assert_eq!(guest.sh("find /srv/full -size +0 ! -name fill -type f"), "");
    guest.sh("rm /srv/full/fill");
    // Something to be logged.
    guest.sh("systemctl reload quantix-node");
    wait_until("a log that says what is lost of it", PATIENCE, || {
        guest
            .says("cat /srv/full/node.log")
            .contains("No space left on device")
    });
    wait_until("a file of metrics", PATIENCE, || {
        guest
            .says("cat /srv/full/quantix.prom")
            .contains("quantix_")
    });

    // One that stands still is killed and started again.
    let unit = "/run/systemd/system/quantix-node.service.d/soon.conf";
    guest.put(unit, "[Service]\nWatchdogSec=2\n");
    guest.sh("systemctl daemon-reload && systemctl restart quantix-node");
    let pid = show("MainPID");
    guest.sh(&format!("kill -STOP {pid}"));
    wait_until("another daemon", PATIENCE, || {
        show("ActiveState") == "active" && ![&pid, "0"].contains(&&*show("MainPID"))
    });
    guest.sh(list);
    wait_until("its status", PATIENCE, || {
        show("StatusText") == "0 of 0 VMs are ready"
    });
    assert!(said().contains("Watchdog timeout"), "{}", said());

    guest.sh("systemctl stop quantix-node");
    assert_eq!(show("Result"), "success");
    // Nothing is left that clients or node_exporter would take for a daemon's.
    let left = "ls -d /run/quantix-kvm/qx-node.sock /srv/full/quantix.prom 2>/dev/null";
    assert_eq!(guest.says(left), "");

    guest.sh("dpkg --purge quantix-node 2>&1 && rm -r /run/systemd/system/quantix-node.service.d");
    assert_eq!(guest.sh(all), before);
    assert_eq!(
        guest.says("ls /run/quantix-kvm/vms 2>&1 | grep -v 'No such'"),
        ""
    );
    assert_eq!(guest.says("getent group quantix || echo none"), "none");
}
