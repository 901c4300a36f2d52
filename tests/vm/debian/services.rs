//! Services by the real systemctl(1), logs by the real journalctl(1).

use super::Guest;
use crate::vm::harness::{PATIENCE, wait_until};

const UNITS: [(&str, &str); 5] = [
    (
        "good",
        "ExecStart=/bin/sh -c 'echo good says hello; exec sleep 1000000'",
    ),
    (
        "bad",
        "Type=oneshot\nExecStart=/bin/sh -c 'echo bad says why >&2; exit 3'",
    ),
    ("hangs", "Type=oneshot\nExecStart=/bin/sleep 1000000"),
    ("broken", "Type=nonsense"),
    (
        "stops",
        "ExecStart=/bin/sleep 1000000\nExecStop=/bin/sleep 1000000",
    ),
];

pub fn are_told_what_to_do(guest: &Guest) {
    for (name, service) in UNITS {
        let text = format!(
            "[Unit]\nDescription=The {name} one\n[Service]\n{service}\n[Install]\nWantedBy=multi-user.target\n"
        );
        guest.put(&format!("/etc/systemd/system/{name}.service"), &text);
    }
    guest.sh("systemctl daemon-reload");
    let service = |words: &[&str]| guest.ask("service", words);

    let running = "good.service: active (running)";
    assert_eq!(service(&["good", "start"]).text(), running);
    assert_eq!(guest.sh("systemctl is-active good"), "active");
    let main_pid = || guest.sh("systemctl show -P MainPID good");
    let before = main_pid();
    let status = service(&["good", "status"]).text();
    for part in ["about:    The good one", &format!("process:  {before}")] {
        assert!(status.contains(part), "no {part:?} in {status}");
    }
    assert_eq!(service(&["good.service", "restart"]).text(), running);
    assert_ne!(main_pid(), before);
    assert_eq!(
        guest.json("service", &["good", "enable"])["enabled"],
        "enabled"
    );
    assert_eq!(guest.sh("systemctl is-enabled good"), "enabled");
    service(&["good", "disable"]).ok();
    assert_eq!(guest.says("systemctl is-enabled good"), "disabled");
    let stopped = "good.service: inactive (dead)";
    assert_eq!(service(&["good", "stop"]).text(), stopped);
    assert_eq!(guest.says("systemctl is-active good"), "inactive");

    let why = "start bad.service: Job for bad.service failed because the control process exited with error code; \
        it is failed (failed), exit-code 3; `qx-node logs db1 bad` may say why";
    service(&["bad", "start"]).failed(1, &[why]);
    let why = "Unit broken.service has a bad unit file setting";
    service(&["broken", "start"]).failed(1, &[why]);
    for verb in ["start", "status", "stop", "enable"] {
        let why = "nosuch: systemd knows no such service";
        service(&["nosuch", verb]).failed(1, &[why]);
    }
    let why = "Unit fstrim.timer is masked";
    service(&["fstrim.timer", "start"]).failed(1, &[why]);

    // One that does not come to an end is waited for as long as was said, and goes on.
    for (name, verb, state) in [
        ("hangs", "start", "starting"),
        ("stops", "stop", "stopping"),
    ] {
        if verb == "stop" {
            service(&[name, "start"]).ok();
        }
        let why = format!("systemctl --no-pager {verb} -- {name}: it had not ended after 2 s");
        service(&[name, verb, "--timeout", "2"]).failed(4, &[&why]);
        assert_eq!(guest.json("service", &[name, "status"])["state"], state);
        guest.sh(&format!("systemctl kill -s KILL {name}"));
    }

    wait_until("the failures", PATIENCE, || {
        let failed = guest.json("services", &["--failed"]);
        let failed = failed.as_array().unwrap().iter();
        let names: Vec<&str> = failed.map(|one| one["service"].as_str().unwrap()).collect();
        names == ["bad.service", "hangs.service", "stops.service"]
    });
    let all = guest.json("services", &[]);
    let find = |name: &str| {
        let found = all
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["service"] == name);
        let found = found.unwrap_or_else(|| panic!("no {name} in {all}"));
        (found["state"].clone(), found["enabled"].clone())
    };
    assert_eq!(find("quantix-kvm-agent.service").0, "started");
    assert_eq!(find("ssh.service"), ("stopped".into(), "disabled".into()));
    assert_eq!(find("good.service"), ("stopped".into(), "disabled".into()));
    guest.sh("systemctl reset-failed");
}

pub fn logs_are_the_journals(guest: &Guest) {
    let logs = |words: &[&str]| guest.ask("logs", words);
    // What a service has said is not with the journal yet when it has ended.
    wait_until("the last line of the journal", PATIENCE, || {
        logs(&["bad"])
            .text()
            .contains("Failed to start bad.service")
    });
    let text = logs(&["bad", "-n", "4"]).text();
    assert!(text.contains("bad says why"), "{text}");
    assert_eq!(text, guest.sh("journalctl --no-pager -q -n 4 -u bad"));
    let lines = guest.json("logs", &["bad", "-n", "4"])["lines"].clone();
    let lines: Vec<&str> = lines
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|line| line.as_str())
        .collect();
    assert_eq!(lines.join("\n"), text);
    logs(&["nosuch"]).failed(1, &["nosuch has no log: neither in the journal, "]);

    let mut follower = guest
        .node()
        .begin(&["logs", "db1", "good", "-n", "1", "-f"]);
    follower.line();
    guest.ask("service", &["good", "start"]).ok();
    while !follower.line().contains("good says hello") {}
    drop(follower);
    wait_until("the end of what followed", PATIENCE, || {
        guest.node().processes("db1", "journalctl ").is_empty()
    });
}
