//! `quantix-kvm-agent doctor` where there is a port: in a guest that is well, and in one whose disk is
//! frozen.

use serde_json::Value;

use super::harness::{Node, Options, Own, drive, shared};

/// What it finds in a guest: its exit status, and the JSON.
#[track_caller]
fn examine(node: &Node, vm: &str) -> (i32, Value) {
    let out = node.cli(&["exec", vm, "--", "quantix-kvm-agent", "doctor", "--json"]);
    assert_eq!(out.stderr, "");
    let found = serde_json::from_slice(&out.stdout).unwrap();
    (out.status, found)
}

#[track_caller]
fn check<'a>(found: &'a Value, name: &str) -> &'a Value {
    let checks = found["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap()
}

#[test]
fn in_a_guest_that_is_well_the_port_is_open_and_the_agent_serves_it() {
    let host = shared();
    let (status, found) = examine(&host.node, "web1");
    assert_eq!(status, 0, "{found}");
    for name in [
        "driver",
        "port",
        "agent",
        "filesystems",
        "config",
        "version",
        "clock",
    ] {
        assert_eq!(check(&found, name)["status"], "ok", "{found}");
    }
    // In use, and no debugfs.
    assert_eq!(check(&found, "host")["status"], "unknown", "{found}");
    // What the driver calls the host's side is read as this kernel writes it.
    let line = "mount -t debugfs none /sys/kernel/debug && quantix-kvm-agent doctor; status=$?; \
        umount /sys/kernel/debug; exit $status";
    let text = host.node.sh("web1", line);
    assert!(
        text.starts_with("guest: ok, the port is open and the agent serves it\n"),
        "{text}"
    );
    assert!(text.contains("connected, says debugfs"), "{text}");
}

#[test]
fn a_frozen_file_system_is_named_and_who_asked_does_not_wait_for_it() {
    let disk = std::env::temp_dir().join(format!("qx-frozen-{}", std::process::id()));
    let drive = drive(&disk, 16);
    let own = Own::ready(&Options {
        qemu: &["-drive", &drive, "-device", "virtio-blk-pci,drive=disk0"],
        ..Default::default()
    });
    // QEMU has it open.
    std::fs::remove_file(&disk).unwrap();
    let sh = |line: &str| own.node.sh("db1", line);
    sh("mkdir /mnt; mkdir /mnt/disk && mount /dev/vda /mnt/disk && fsfreeze --freeze /mnt/disk");
    let (status, found) = examine(&own.node, "db1");
    assert_eq!((status, &found["status"]), (2, &Value::from("fail")));
    let frozen = check(&found, "filesystems");
    assert_eq!(frozen["evidence"], "these do not answer: /mnt/disk");
    // The child that hangs does not keep who reads the output.
    let text = sh("quantix-kvm-agent doctor | cat");
    let verdict = "guest: fail, /mnt/disk is frozen or hangs\n";
    assert!(text.starts_with(verdict), "{text}");
    // As it says.
    sh(frozen["remedy"].as_str().unwrap());
    let (status, found) = examine(&own.node, "db1");
    assert_eq!(status, 0, "{found}");
    assert_eq!(
        check(&found, "filesystems")["evidence"],
        "these answer: / /mnt/disk"
    );
    assert_eq!(sh("ls /mnt/disk"), "lost+found");
}
