//! A guest that Ansible works in, over the channel alone: it has no network.

use std::fs;

use super::Guest;
use crate::util::noise;
use crate::vm::ansible::Ansible;
use crate::vm::harness::program;

/// Longer than what is on its way at once anywhere.
const BYTES: usize = 3_000_001;

pub fn is_what_a_playbook_says(guest: &Guest) {
    let ansible = Ansible::new(&guest.own.place, Some(guest.node()));
    let hosts = ansible.file("fleet.qx_node.yml", "plugin: quantix.kvm.qx_node\n");
    let bytes = ansible.file("bytes", noise(BYTES));
    let more = format!("bytes={bytes}");
    guest.sh("echo \"alice:a pass'word\" | chpasswd");
    guest.put("/etc/sudoers.d/alice", "alice ALL=(ALL) ALL\n");

    let handler = "RUNNING HANDLER [greeter restarts]";
    let played = ansible.play(&hosts, "site.yml", &["-e", &more]);
    // Unit, configuration, service, handler, bytes there and back, what was begun, script.
    played.fine("db1", 8);
    assert!(played.said.contains(handler), "{}", played.said);
    let same = |name: &str| fs::read(&bytes).unwrap() == fs::read(ansible.dir.join(name)).unwrap();
    assert!(same("bytes.back"));
    assert_eq!(guest.sh("systemctl is-enabled greeter"), "enabled");
    assert_eq!(guest.sh("cat /srv/script"), "root");
    assert_eq!(guest.sh("stat -c %a /srv/it*"), "600");
    let pid = || guest.sh("systemctl show -P MainPID greeter");
    let before = pid();

    let played = ansible.play(&hosts, "site.yml", &["-e", &more]);
    played.fine("db1", 0);
    assert!(!played.said.contains(handler), "{}", played.said);
    assert_eq!(pid(), before);

    let played = ansible.play(&hosts, "site.yml", &["-e", &more, "--user", "nobody-here"]);
    assert_eq!(played.count("db1", "unreachable"), 1, "{}", played.said);

    through_ssh(guest, &ansible, &bytes);
}

/// The guest takes the part of a KVM host that is elsewhere: its sshd is reached by the channel, and finds the
/// daemon's socket where ssh has put it. So ssh, its quoting and its shell are real.
fn through_ssh(guest: &Guest, ansible: &Ansible, bytes: &str) {
    let key = ansible.dir.join("key");
    let key = key.to_str().unwrap();
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", key])
        .status();
    assert!(made.unwrap().success(), "ssh-keygen");
    let words = ["keys", "db1", "root", "add", &format!("{key}.pub")];
    guest.node().cli(&words).ok();
    guest.put(
        "/etc/ssh/sshd_config.d/here.conf",
        "StreamLocalBindUnlink yes\n",
    );
    guest.sh("mkdir -p /run/sshd; ssh-keygen -A");
    let here = program("qx-node");
    let here = here.to_str().unwrap();
    let words = ["cp", "--mode", "755", here, "db1:/usr/local/bin/qx-node"];
    guest.node().cli(&words).ok();

    let known = ansible.dir.join("known_hosts");
    let master = ansible.dir.join("cp-%C");
    let control = &guest.node().control;
    let (known, master, control) = (known.display(), master.display(), control.display());
    let inventory = format!(
        "plugin: quantix.kvm.qx_node\n\
         kvm_hosts: [root@kvm1]\n\
         executable: nice -n 1 /usr/local/bin/qx-node\n\
         control: /run/far.sock\n\
         ssh_args: >-\n  \
           -F none -i {key} -o UserKnownHostsFile={known} -o StrictHostKeyChecking=accept-new\n  \
           -o 'ProxyCommand={here} exec -i db1 -- /usr/sbin/sshd -i' -R /run/far.sock:{control}\n  \
           -o ControlMaster=auto -o ControlPersist=yes -o ControlPath={master}\n"
    );
    let hosts = ansible.file("far.qx_node.yml", inventory);
    let played = ansible.play(&hosts, "far.yml", &["-e", &format!("bytes={bytes}")]);
    played.fine("db1", 3);
    let back = fs::read(ansible.dir.join("bytes.far")).unwrap();
    assert!(fs::read(bytes).unwrap() == back);
    assert_eq!(guest.sh("stat -c %a /srv/far"), "604");

    let mut left = fs::read_dir(&ansible.dir).unwrap();
    let is_master = |name: &str| name.starts_with("cp-");
    let left = left.find(|entry| is_master(entry.as_ref().unwrap().file_name().to_str().unwrap()));
    assert!(left.is_none(), "a connection is kept: {left:?}");
}
