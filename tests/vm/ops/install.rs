//! Another agent in its guest, through the old one: a good one stays, and after one that lets nobody in the old one is
//! back.

use std::fs;

use super::super::harness::{Options, Own, PATIENCE, program, wait_until};

/// Looks like an agent as long as nobody asks anything of it.
pub const DEAF: &str = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'quantix-kvm-agent 8.0.0 (deaf)' && exit\nwhile :; do sleep 1; done\n";

/// Ends at once.
const FAILING: &str =
    "#!/bin/sh\n[ \"$1\" = --version ] && echo 'quantix-kvm-agent 8.0.0 (failing)'\n";

#[test]
fn an_agent_is_installed_through_the_one_before() {
    let own = Own::ready(&Options::default());
    let place = &own.place;
    let file = |name: &str, text: &str| {
        let path = place.file(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let install = |path: &str, words: &[&str]| {
        let words = [&["install", "db1", "--binary", path], words].concat();
        own.node.begin(&words).finish()
    };
    let sum = || own.node.sh("db1", "sha256sum </usr/sbin/quantix-kvm-agent");
    let before = sum();
    let line = "while [ ! -e /tmp/done ]; do sleep 0.2; done; echo done";
    let job = own
        .node
        .cli(&["exec", "db1", "--detach", "--", line])
        .text();

    for (name, text) in [("deaf", DEAF), ("failing", FAILING)] {
        let path = file(name, text);
        install(&path, &["--deadline", "4"]).failed(
            1,
            &["the new agent let nobody in within 4 s; the old agent is back"],
        );
        assert_eq!(sum(), before, "{name}");
    }
    let broken = file("broken", "#!/bin/sh\necho it needs more; exit 3\n");
    install(&broken, &[]).failed(
        1,
        &["it does not run in this guest: it needs more; nothing was changed"],
    );
    let agent = program("quantix-kvm-agent");
    let agent = agent.to_str().unwrap();
    install(agent, &["--sha256", "00"]).failed(1, &["its SHA-256 is ", ", and not 00"]);

    // One at a time. Of one that is killed only its number stays, which is in nobody's way then.
    let line = "cd /run/quantix-kvm/install; mkdir lock; echo $$ >lock/pid; : as qx-node install; sleep 600; :";
    let other = ["exec", "db1", "--detach", "--", line];
    let other = own.node.cli(&other).text();
    let lock = "cat /run/quantix-kvm/install/lock/pid 2>/dev/null; true";
    wait_until("another installation", PATIENCE, || {
        !own.node.sh("db1", lock).is_empty()
    });
    install(agent, &[]).failed(
        1,
        &["another installation is on its way; nothing was changed"],
    );
    own.node
        .cli(&["kill", "db1", &other, "--signal", "KILL"])
        .ok();

    // Another, by a byte behind its end.
    let mut bytes = fs::read(agent).unwrap();
    bytes.push(0);
    let next = place.file("next");
    fs::write(&next, bytes).unwrap();
    let sessions = || own.node.vm("db1")["counters"]["sessions"].clone();
    let first = sessions();
    let said = install(next.to_str().unwrap(), &["--json"]).json();
    assert_eq!(said["outcome"], "installed", "{said}");
    assert_eq!(said["version"], quantix::VERSION);
    assert_ne!(sum(), before);
    assert_ne!(sessions(), first);
    own.node.sh("db1", "touch /tmp/done");
    assert_eq!(own.node.cli(&["attach", "db1", &job]).text(), "done");
    let left = own.node.sh(
        "db1",
        "ls -d /run/quantix-kvm/install/lock /usr/sbin/*.new 2>/dev/null; ls /var/lib/quantix-kvm",
    );
    assert_eq!(left, "kept.sum\nold");
    wait_until("a daemon that agrees", PATIENCE, || {
        own.node.state("db1") == "ready"
    });
}
