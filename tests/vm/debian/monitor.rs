//! monitor-only.conf: what an agent that may only be asked still answers, and what it cannot do.

use super::Guest;
use crate::util::recipes::recipe;

/// Takes the fence away from outside, when a file inside asks for it.
const BACK: &str = "systemd-run --quiet --unit=back sh -c 'while [ ! -e /run/quantix-kvm/back ]; do sleep 0.2; done; \
    rm -r /etc/systemd/system/quantix-kvm-agent.service.d /run/quantix-kvm/back; systemctl daemon-reload; \
    systemctl restart quantix-kvm-agent'";

pub fn it_is_asked_and_changes_nothing(guest: &Guest) {
    guest.sh(&format!("image=''\n{}", recipe("monitor-only")));
    guest.sh(BACK);
    let home = guest.sh("echo ~");
    guest.own.until_next_agent(|| {
        let line = "systemctl daemon-reload && systemctl --no-block restart quantix-kvm-agent";
        guest.ask("exec", &["--detach", "--", line]).ok();
    });
    for command in [
        "telemetry",
        "hardware",
        "disks",
        "users",
        "memory",
        "network",
    ] {
        guest.ask(command, &[]).ok();
    }
    guest.ask("ping", &["-c", "2"]).ok();
    let processes = guest.ask("ps", &[]).text();
    assert!(processes.contains("systemd-journal"), "{processes}");
    let local = guest.own.place.file("put");
    std::fs::write(&local, "x").unwrap();
    let copy = |to: &str| {
        let words = ["cp", local.to_str().unwrap(), &format!("db1:{to}")];
        guest.node().cli(&words)
    };
    let read_only = "Read-only file system";
    copy("/etc/x").failed(5, &[read_only]);
    copy(&format!("{home}/x")).failed(5, &[read_only]);
    copy("/proc/1/cwd/etc/x").failed(5, &["Permission denied"]);
    let not_permitted = "Operation not permitted";
    let command = guest.ask("exec", &["--", "touch", "/etc/x"]);
    command.failed(125, &["become user root", not_permitted]);
    for (command, words, why) in [
        ("freeze", &[][..], not_permitted),
        ("passwd", &["root", "--lock"], read_only),
        ("hostname", &["other"], not_permitted),
        ("time", &["--set", "2030-01-01 00:00:00"], not_permitted),
        ("service", &["dbus", "restart"], "Failed to connect to bus"),
    ] {
        let outcome = guest.ask(command, words);
        let is_refused = [1, 5].contains(&outcome.status) && outcome.stderr.contains(why);
        assert!(is_refused, "{command}: {outcome:?}");
    }
    assert_eq!(guest.node().state("db1"), "ready");

    guest.own.until_next_agent(|| {
        copy("/run/quantix-kvm/back").ok();
    });
    guest.sh("touch /etc/x && rm /etc/x");
}
