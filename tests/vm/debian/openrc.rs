//! The scripts for OpenRC, by the real rc-service(8). It is not process 1 here: systemd is.

use super::Guest;
use crate::util::recipes::recipe;
use crate::vm::harness::{PATIENCE, wait_until};

pub fn keeps_both_programs(guest: &Guest) {
    // As the image was made, with dpkg and no init that runs.
    let enabled = "ls /etc/runlevels/default/quantix-kvm-agent";
    guest.sh(&format!(
        "{enabled} && rc-update del quantix-kvm-agent default && ! {enabled} 2>&1"
    ));
    guest.sh(&format!("image=/\n{}", recipe("openrc")));
    guest.sh(enabled);
    // What OpenRC makes when it boots.
    guest.sh(
        "mkdir -p /etc/conf.d /run/openrc && cd /run/openrc && touch softlevel && mkdir -p starting started stopping \
         inactive wasinactive failed hotplugged scheduled exclusive daemons options tmp",
    );
    let rc = |name: &str, word: &str| guest.sh(&format!("rc-service {name} {word} 2>&1"));

    // Another agent, since systemd's has the port.
    let ours = "agent_args='--port /srv/none --run-dir /srv/run --config /srv/agent.conf'";
    guest.sh(&format!("echo \"{ours}\" >/etc/conf.d/quantix-kvm-agent"));
    let agents = || {
        guest.sh("pgrep -f -- '--port /srv/[n]one' | xargs -rn1 sh -c 'test $(cat /proc/$0/comm) != supervise-daemo && echo $0'; true")
    };
    guest.sh(": >/srv/agent.conf");
    rc("quantix-kvm-agent", "start");
    assert!(rc("quantix-kvm-agent", "status").contains("status: started"));
    wait_until("an agent", PATIENCE, || !agents().is_empty());
    let first = agents();
    assert_eq!(
        guest.sh(&format!(
            "cat /proc/{}/oom_score_adj",
            first.lines().next().unwrap()
        )),
        "-900"
    );
    guest.sh("echo 'colour = red' >/srv/agent.conf");
    rc("quantix-kvm-agent", "reload");
    let reads = "journalctl -o cat --no-pager -t quantix-kvm-agent | grep 'colour = red'";
    wait_until("the agent to read its file", PATIENCE, || {
        !guest.says(reads).is_empty()
    });
    assert_eq!(agents(), first);
    guest.sh(&format!("kill -KILL {}", first.replace('\n', " ")));
    wait_until("another agent", PATIENCE, || {
        !["", &first].contains(&&*agents())
    });
    rc("quantix-kvm-agent", "stop");
    assert_eq!(agents(), "");
    guest.sh("rm -rf /srv/agent.conf /srv/run /etc/conf.d/quantix-kvm-agent");

    guest.sh("dpkg --install /srv/node.deb 2>&1 && systemctl stop quantix-node");
    let conf = "/etc/quantix-kvm/node.conf";
    let pid = || guest.sh("pgrep -x qx-node; true");
    let words = || guest.sh("pgrep -ax qx-node");
    let list = || guest.sh("qx-node vms");
    rc("quantix-node", "start");
    let serves = || guest.says("qx-node vms").starts_with("no VMs: ");
    wait_until("a daemon", PATIENCE, serves);
    assert!(words().ends_with("serve --log syslog"), "{}", words());
    assert!(rc("quantix-node", "status").contains("status: started"));
    let directories = guest.sh("stat -c '%a %U:%G' /run/quantix-kvm /run/quantix-kvm/vms");
    assert_eq!(directories, "755 root:root\n1775 root:kvm");

    // What the file says of the log counts.
    guest.sh(&format!("echo 'log = /srv/node.log' >{conf}"));
    let before = pid();
    rc("quantix-node", "restart");
    wait_until("another daemon", PATIENCE, || serves() && pid() != before);
    assert!(words().ends_with(" serve"), "{}", words());
    let before = pid();
    guest.sh(&format!("echo 'log_level = loud' >>{conf}"));
    rc("quantix-node", "reload");
    wait_until("the fault in its log", PATIENCE, || {
        guest
            .says("cat /srv/node.log")
            .contains("log_level = loud: takes error")
    });
    assert_eq!(pid(), before);
    guest.sh(&format!("kill -KILL {before}"));
    wait_until("another daemon", PATIENCE, || serves() && pid() != before);
    list();
    rc("quantix-node", "stop");
    assert_eq!(pid(), "");
    assert!(
        guest
            .says("rc-service quantix-node status")
            .contains("status: stopped")
    );
    guest.sh("dpkg --purge quantix-node 2>&1 && rm -r /run/openrc /srv/node.log");
}
