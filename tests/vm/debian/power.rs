//! Its end and its next start, by systemd, and what makes a clone another guest.

use super::Guest;
use crate::vm::harness::{PATIENCE, system, wait_until};

pub fn what_is_due_is_told_and_taken_back(guest: &Guest) {
    let said = guest.ask("shutdown", &["--delay", "3000", "--message", "good night"]);
    assert_eq!(said.text(), "db1: switches off in 50m 0s");
    // On the screen of who sits there, which is this wide.
    wait_until("the message", PATIENCE, || {
        guest
            .says("fold -w 80 /dev/vcs3")
            .contains("quantix-kvm-agent: poweroff in 3000 s: good night")
    });
    // systemd knows nothing of it, and the agent that it starts does.
    guest.own.until_next_agent(|| {
        guest
            .ask(
                "exec",
                &["--detach", "--", "systemctl restart quantix-kvm-agent"],
            )
            .ok();
    });
    guest
        .ask("reboot", &[])
        .failed(1, &["a poweroff is due in"]);
    assert_eq!(
        guest.ask("shutdown", &["--cancel"]).text(),
        "db1: taken back"
    );
    guest
        .ask("shutdown", &["--cancel"])
        .failed(1, &["nothing is due"]);
}

pub fn a_clone_has_its_own_identity(guest: &Guest) {
    // An emulated processor is at a large one for a minute.
    guest.sh("rm /etc/ssh/ssh_host_rsa_key*");
    let keys = "cd /etc/ssh; ls -l ssh_host_* | cut -d ' ' -f 1,3,4; ls ssh_host_*";
    let before = guest.sh(keys);
    let key = || guest.sh("cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub");
    let (old_key, old_id) = (key(), guest.sh("cat /etc/machine-id"));
    guest.ask("restored", &["--clone"]).ok();
    // Of the kinds that there were, with the same rights.
    assert_eq!(guest.sh(keys), before);
    assert_ne!(key(), old_key);
    let ids =
        guest.sh("cat /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup --print");
    let ids: Vec<&str> = ids.lines().collect();
    assert!(
        ids.iter().all(|id| *id == ids[0] && *id != old_id),
        "{ids:?}"
    );
    guest.ask("service", &["ssh", "restart"]).ok();
    let shown = guest.sh("ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null");
    assert!(shown.contains(&key()), "{shown}");
}

pub fn it_starts_again_and_switches_off_in_order(guest: &Guest) {
    let id = guest.sh("cat /etc/machine-id");
    let boot = guest.node().vm("db1")["boot_id"].clone();
    // As long as a machine that does other work needs to emulate one.
    let patience = ["--wait", "--timeout", "900"];
    // What it does not find in its next boot, it cannot do without.
    let line = "/dev/none /srv/none ext4 x-systemd.device-timeout=2s 0 0";
    guest.sh(&format!("echo '{line}' >>/etc/fstab"));
    let said = guest.ask("reboot", &patience).text();
    assert!(said.starts_with("db1: started again after "), "{said}");
    assert_ne!(guest.node().vm("db1")["boot_id"], boot);
    is_mended_where_it_does_not_boot(guest);
    // Nothing was left to be recovered.
    let said = guest.says(
        "dmesg | grep 'recovery complete'; last -x shutdown reboot | head -n 2 | cut -d ' ' -f 1",
    );
    assert_eq!(said, "reboot\nshutdown");
    assert_eq!(
        guest.sh("hostname; cat /etc/machine-id"),
        format!("web8\n{id}")
    );
    assert!(guest.sh("hostnamectl status").contains(&id));

    let said = guest.json("shutdown", &patience);
    assert_eq!(said["state"], "switched off");
    guest.own.vm.wait_end();
    let disk = guest.disk.to_str().unwrap();
    system(&[
        "sh",
        "-c",
        &format!("! dumpe2fs -h {disk} 2>&1 | grep needs_recovery"),
    ]);
    system(&["e2fsck", "-fn", disk]);
}

/// It waits for somebody at its console, who would need a password.
fn is_mended_where_it_does_not_boot(guest: &Guest) {
    wait_until("emergency mode", 3 * PATIENCE, || {
        guest.says("systemctl is-system-running") == "maintenance"
    });
    guest.sh("sed -i /none/d /etc/fstab && systemctl daemon-reload");
    let sessions = guest.node().vm("db1")["counters"]["sessions"].clone();
    guest.sh("systemctl --no-block default");
    wait_until("the rest of the boot", 3 * PATIENCE, || {
        guest.says("systemctl is-active multi-user.target") == "active"
    });
    assert_eq!(guest.node().vm("db1")["counters"]["sessions"], sessions);
}
