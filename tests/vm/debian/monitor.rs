//! monitor-only.conf: what an agent that may only be asked still answers, and what it cannot do.

use super::Guest;
use crate::util::recipes::recipe;
use crate::vm::harness::count;

/// Takes the fence away from outside, when somebody inside asks for it.
const BACK: &str = "systemd-run --quiet --unit=back sh -c 'while [ ! -e /run/quantix-kvm/back ]; do sleep 0.2; done; \
    rm -r /etc/systemd/system/quantix-kvm-agent.service.d /run/quantix-kvm/back; systemctl daemon-reload; \
    systemctl restart quantix-kvm-agent'";

pub fn it_is_asked_and_changes_nothing(guest: &Guest) {
    guest.sh(&format!("image=''\n{}", recipe("monitor-only")));
    guest.sh(BACK);
    guest.own.until_next_agent(|| {
        guest.sh("systemctl daemon-reload && systemctl --no-block restart quantix-kvm-agent");
    });

    for command in [
        "telemetry",
        "hardware",
        "disks",
        "ps",
        "users",
        "memory",
        "cpus",
        "network",
    ] {
        guest.ask(command, &[]).ok();
    }
    guest.ask("ping", &["-c", "2"]).ok();
    let processes = guest.ask("ps", &[]).text();
    assert!(processes.contains("systemd-journal"), "{processes}");
    let doctor = guest.ask("exec", &["--", "quantix-kvm-agent", "doctor"]);
    assert!(doctor.stdout.starts_with(b"guest: "), "{doctor:?}");
    assert!(guest.sh("dmesg | head -n 1").contains("Linux version"));

    let read_only = "Read-only file system";
    for (line, why) in [
        ("touch /etc/x", read_only),
        ("touch /root/x /home/x", read_only),
        ("touch /proc/1/root/etc/x", "Permission denied"),
        ("mount -o remount,rw /", "permission denied"),
        ("systemd-run touch /etc/x", "Failed to"),
        ("head -c 512 /dev/zero >/dev/vda", "Operation not permitted"),
        ("echo 1 >/proc/sys/kernel/panic", read_only),
        ("reboot -f", ""),
    ] {
        let outcome = guest.ask("exec", &["--", line]);
        assert!(
            outcome.status != 0 && outcome.stderr.contains(why),
            "{line}: {outcome:?}"
        );
    }
    let local = guest.own.place.file("put");
    std::fs::write(&local, "x").unwrap();
    let copied = guest
        .node()
        .cli(&["cp", local.to_str().unwrap(), "db1:/etc/x"]);
    copied.failed(1, &[read_only]);
    for (command, words, why) in [
        ("freeze", &[][..], "not permitted"),
        ("passwd", &["root", "--lock"], read_only),
        ("hostname", &["other"], ""),
        ("time", &["--set", "2030-01-01 00:00:00"], "not permitted"),
        ("reboot", &[], ""),
    ] {
        let outcome = guest.ask(command, words);
        assert!(
            outcome.status == 1 && outcome.stderr.contains(why),
            "{command}: {outcome:?}"
        );
        println!("{command}: {}", outcome.stderr);
    }
    // The agent is the one that was there.
    assert_eq!(guest.node().state("db1"), "ready");
    let sessions = count(&guest.node().vm("db1"), "sessions");
    guest.own.until_next_agent(|| {
        guest.sh("touch /run/quantix-kvm/back");
    });
    assert_eq!(count(&guest.node().vm("db1"), "sessions"), sessions + 1);
    guest.sh("touch /etc/x && rm /etc/x");
    assert!(
        !guest
            .says("ls -d /etc/systemd/system/quantix-kvm-agent.service.d")
            .starts_with('/')
    );
}
