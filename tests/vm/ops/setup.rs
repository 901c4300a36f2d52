//! How an interface is configured by what manages it, here busybox's ifup: confirmed, or undone, whatever ends
//! meanwhile.

use serde_json::Value;

use crate::vm::harness::{Options, Own, PATIENCE, make_disk, wait_until};

/// A network with QEMU's own DHCP server, and one where nobody is.
const USER: &str = "user,id=net0,ipv6=off";
const NOBODY: &str = "hubport,id=net0,hubid=0";

fn guest(netdev: &str) -> Own {
    let own = Own::ready(&Options {
        qemu: &[
            "-netdev",
            netdev,
            "-device",
            "virtio-net-pci,netdev=net0,romfile=",
        ],
        ..Default::default()
    });
    prepare(&own);
    own
}

/// What ifup(8) and udhcpc(8) find on an Alpine; nobody has configured eth0 but by hand.
fn prepare(own: &Own) {
    own.node.sh(
        "db1",
        r#"mkdir -p /etc/udhcpc && cd /etc && for when in pre-up up down post-down; do
            mkdir -p network/if-$when.d
        done
        printf 'auto lo\niface lo inet loopback\n' >/etc/network/interfaces
        cat >/etc/udhcpc/default.script <<'.'
#!/bin/sh
case $1 in
    deconfig) ip addr flush dev $interface; ip link set $interface up ;;
    bound | renew)
        ip addr add $ip/$mask dev $interface
        [ -z "$router" ] || ip route add default via $router dev $interface
        ;;
esac
.
        chmod 755 /etc/udhcpc/default.script"#,
    );
}

fn set(own: &Own, words: &str) -> Value {
    let words: Vec<&str> = words.split(' ').collect();
    let words = [&["network", "db1", "set", "eth0", "--json"], &words[..]].concat();
    own.node.cli(&words).json()
}

/// The command has failed with these words, and shown what was changed and undone.
#[track_caller]
fn undone(own: &Own, words: &str, why: &[&str]) {
    let words: Vec<&str> = words.split(' ').collect();
    let said = own.node.cli(&[&words[..], &["--json"]].concat());
    assert_eq!(said.status, 1, "{said:?}");
    let found: Value = serde_json::from_slice(&said.stdout).unwrap();
    for why in why {
        assert!(said.stderr.contains(why), "no {why:?} in {said:?}");
        assert!(found["reason"].as_str().unwrap().contains(why), "{found}");
    }
    assert_eq!(
        (&found["outcome"], &found["problem"]),
        (&"undone".into(), &Value::Null)
    );
}

fn addresses(own: &Own) -> String {
    let line = "ip -4 -o addr show dev eth0 | awk '{ print $4 }' | tr '\\n' ' '";
    own.node.sh("db1", line).trim_end().to_owned()
}

fn interfaces(own: &Own) -> String {
    own.node.sh("db1", "cat /etc/network/interfaces")
}

const STATIC: &str = "--address 10.0.2.77/24 --gateway 10.0.2.2";

#[test]
fn an_interface_is_configured_and_what_does_not_work_is_undone() {
    let own = guest(USER);
    let cli = |words: &str| own.node.cli(&words.split(' ').collect::<Vec<_>>());
    let sh = |line: &str| own.node.sh("db1", line);
    let before = interfaces(&own);

    // What cannot be right is refused, and nothing is written.
    for (words, why) in [
        ("eth7 --dhcp", "eth7: no such interface"),
        ("lo --dhcp", "lo is the loopback"),
        (
            "eth0 --address 10.0.2.77/24 --gateway 10.0.3.1",
            "in the network of none",
        ),
        (
            "eth0 --address 10.0.2.77/24 --address 10.0.2.77/24",
            "given twice",
        ),
        (
            "eth0 --address 10.0.2.77",
            "no address with its prefix length",
        ),
        ("eth0 --dhcp --gateway 10.0.2.2", "not both"),
        ("eth0 --dhcp --confirm-within 4", "from 5 s to 3600 s"),
    ] {
        cli(&format!("network db1 set {words}")).failed(1, &[why]);
    }
    assert_eq!(interfaces(&own), before);
    assert_eq!(sh("ls /etc/quantix-kvm/network/ 2>/dev/null || true"), "");

    let found = set(&own, &format!("{STATIC} --dns 10.0.2.3 --mtu 1400"));
    assert_eq!(found["outcome"], "confirmed", "{found}");
    assert_eq!(
        (&found["manager"], &found["profile"]),
        (&"ifupdown".into(), &Value::Null)
    );
    assert_eq!(
        found["files"],
        serde_json::json!(["/etc/network/interfaces", "/etc/resolv.conf"])
    );
    let address = |found: &Value, when: &str| found[when]["addresses"][0]["address"].clone();
    assert_eq!(address(&found, "before"), "10.0.2.15/24");
    assert_eq!(address(&found, "after"), "10.0.2.77/24");
    assert_eq!(found["after"]["default_routes"][0]["gateway"], "10.0.2.2");
    assert_eq!(found["after"]["mtu"], 1400);
    assert_eq!(addresses(&own), "10.0.2.77/24");
    assert!(interfaces(&own).ends_with(
        "\nauto eth0\niface eth0 inet static\n    address 10.0.2.77\n    netmask 255.255.255.0\n    \
        gateway 10.0.2.2\n    pre-up ip link set dev eth0 mtu 1400\n    dns-nameservers 10.0.2.3"
    ));
    assert_eq!(sh("cat /etc/resolv.conf"), "nameserver 10.0.2.3");
    // The files of before are kept aside.
    assert_eq!(sh("cat /etc/quantix-kvm/network/previous/0"), before);
    // As at boot.
    sh("ifdown eth0; ifup eth0");
    assert_eq!(addresses(&own), "10.0.2.77/24");

    let found = set(&own, "--dhcp");
    assert_eq!(found["outcome"], "confirmed", "{found}");
    assert_eq!(found["profile"], "etc/network/interfaces");
    assert_eq!(addresses(&own), "10.0.2.15/24");
    assert!(interfaces(&own).ends_with("\nauto eth0\n\niface eth0 inet dhcp"));
    let shown = cli("network db1 --json").json();
    let all = shown["interfaces"].as_array().unwrap();
    let eth0 = all.iter().find(|one| one["name"] == "eth0").unwrap();
    assert_eq!(eth0["dhcp"], true);

    // A manager that fails: its words, and all is as before.
    sh(
        "printf '#!/bin/sh\\n! grep -q 2.77 /etc/network/interfaces\\n' >/bin/no && chmod 755 /bin/no",
    );
    sh("sed -i 's|inet dhcp|inet dhcp\\n    pre-up /bin/no|' /etc/network/interfaces");
    let before = interfaces(&own);
    undone(
        &own,
        &format!("network db1 set eth0 {STATIC}"),
        &["ifup eth0"],
    );
    assert_eq!(interfaces(&own), before);
}

#[test]
fn a_dhcp_server_that_does_not_answer_has_the_change_undone() {
    let own = guest(NOBODY);
    let before = interfaces(&own);
    undone(&own, "network db1 set eth0 --dhcp", &["ifup eth0", "lease"]);
    assert_eq!(interfaces(&own), before);
    // It had been given by hand.
    assert_eq!(addresses(&own), "10.0.2.15/24");
    let routes = own.node.sh("db1", "ip route | grep ^default || true");
    assert_eq!(routes, "");

    // A static one works here too, and is back when the next one does not.
    set(&own, STATIC);
    undone(&own, "network db1 set eth0 --dhcp", &["ifup eth0"]);
    assert_eq!(addresses(&own), "10.0.2.77/24");
    let routes = own.node.sh("db1", "ip route | grep ^default || true");
    assert!(routes.contains("via 10.0.2.2"), "{routes}");
    assert!(interfaces(&own).contains("address 10.0.2.77"));
}

#[test]
fn without_a_confirm_it_is_undone_whoever_has_ended() {
    let own = guest(NOBODY);
    let cli = |words: &str| own.node.cli(&words.split(' ').collect::<Vec<_>>());
    let sh = |line: &str| own.node.sh("db1", line);
    let before = interfaces(&own);
    let make = |more: &str| {
        let found = set(&own, &format!("{STATIC} --unconfirmed{more}"));
        assert_eq!(found["outcome"], "unconfirmed", "{found}");
        assert_eq!(addresses(&own), "10.0.2.77/24");
        found["change"].as_str().unwrap().to_owned()
    };
    let is_undone = || {
        wait_until("the old address", PATIENCE, || {
            addresses(&own) == "10.0.2.15/24"
        });
        assert_eq!(interfaces(&own), before);
    };
    let guards = || {
        let line = "grep -ls ^qx-network /proc/[0-9]*/comm | cut -d/ -f3; true";
        let all = sh(line);
        all.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let no_guard = || wait_until("no guard", PATIENCE, || guards().is_empty());

    // Nobody confirms it.
    let id = make(" --confirm-within 5");
    is_undone();
    no_guard();
    let late = format!("network db1 confirm {id}");
    undone(&own, &late, &["no confirm has come within 5 s"]);
    cli("network db1 confirm 7").failed(1, &["no change 7 is to be confirmed"]);

    // Another is refused meanwhile; this one is taken back.
    let id = make("");
    cli("network db1 set eth0 --dhcp").failed(1, &["a change of eth0 is to be confirmed", &id]);
    let found = cli(&format!("network db1 undo {id} --json")).json();
    assert_eq!(
        (&found["outcome"], &found["reason"]),
        (&"undone".into(), &"it was taken back".into())
    );
    is_undone();
    no_guard();

    // The agent is killed: the guard goes on, and the next agent takes the confirm.
    let id = make(" --confirm-within 3600");
    let agents = own.agents();
    sh(&format!("kill -KILL {}", agents[0]));
    wait_until("the next agent", PATIENCE, || {
        !own.agents().contains(&agents[0])
    });
    assert_eq!(guards().len(), 2);
    let found = cli(&format!("network db1 confirm {id} --json")).json();
    assert_eq!(found["outcome"], "confirmed", "{found}");
    no_guard();
    assert_eq!(addresses(&own), "10.0.2.77/24");
    let found = cli(&format!("network db1 confirm {id} --json")).json();
    assert_eq!(found["outcome"], "confirmed");
    let said = cli(&format!("network db1 undo {id}"));
    assert_eq!(said.status, 1);
    assert!(said.stderr.contains("it was confirmed before"), "{said:?}");

    // From here on this is what was before.
    let before = interfaces(&own);
    let other = "--address 10.0.2.88/24 --unconfirmed --confirm-within 3600";
    let is_undone = || {
        wait_until("the old address", PATIENCE, || {
            addresses(&own) == "10.0.2.77/24"
        });
        assert_eq!(interfaces(&own), before);
        no_guard();
    };
    // The guard is killed; its parent; both with the agent.
    for victims in ["tail -n 1", "head -n 1", "cat"] {
        set(&own, other);
        assert_eq!(addresses(&own), "10.0.2.88/24");
        let agent = match victims {
            "cat" => own.agents()[0].to_string(),
            _ => String::new(),
        };
        sh(&format!(
            "kill -KILL $(grep -ls ^qx-network /proc/[0-9]*/comm | cut -d/ -f3 | sort -n | {victims}) {agent}; true"
        ));
        if victims == "head -n 1" {
            assert_eq!(addresses(&own), "10.0.2.88/24");
            let id = sh("ls /etc/quantix-kvm/network");
            assert!(id.contains("pending"), "{id}");
            sh("kill -TERM $(grep -ls ^qx-network /proc/[0-9]*/comm | cut -d/ -f3)");
        }
        is_undone();
    }
}

#[test]
fn a_change_that_a_boot_interrupts_is_undone_by_the_next_agent() {
    let place = std::env::temp_dir().join(format!("qx-setup-{}", std::process::id()));
    let (disk, etc) = (place.join("disk"), place.join("etc"));
    std::fs::create_dir_all(etc.join("network")).unwrap();
    let old = "iface eth0 inet static\n    address 10.0.2.50\n    netmask 255.255.255.0\n";
    std::fs::write(etc.join("network/interfaces"), old).unwrap();
    std::fs::write(etc.join("passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    std::fs::write(etc.join("group"), "root:x:0:\n").unwrap();
    let tool = ["mke2fs", "-q", "-t", "ext4", "-d", etc.to_str().unwrap()];
    make_disk(&disk, 16, &tool);
    let drive = format!("file={},format=raw,if=none,id=disk0", disk.display());
    let mut own = Own::ready(&Options {
        append: "qx.hold=mount,-t,ext4,/dev/vda,/etc",
        qemu: &[
            "-netdev",
            NOBODY,
            "-device",
            "virtio-net-pci,netdev=net0,romfile=",
            "-drive",
            &drive,
            "-device",
            "virtio-blk-pci,drive=disk0",
        ],
    });
    own.node.sh("db1", "ifup eth0 2>/dev/null");
    // What is frozen takes no file.
    own.node.cli(&["freeze", "db1", "/etc"]).ok();
    own.node
        .cli(&["network", "db1", "set", "eth0", "--dhcp"])
        .failed(1, &["file systems are frozen"]);
    own.node.cli(&["thaw", "db1"]).ok();
    let found = set(
        &own,
        &format!("{STATIC} --unconfirmed --confirm-within 3600"),
    );
    assert_eq!(found["outcome"], "unconfirmed", "{found}");
    assert!(interfaces(&own).contains("10.0.2.77"));
    // As by a power cut.
    own.vm.kill();
    own.vm.start_again();
    own.node.wait_state("db1", "ready");
    wait_until("the old file", PATIENCE, || {
        interfaces(&own) == old.trim_end()
    });
    wait_until("the old address", PATIENCE, || {
        addresses(&own).contains("10.0.2.50/24")
    });
    let id = found["change"].as_str().unwrap();
    let why = "was started again before the change was confirmed";
    wait_until("what became of it", PATIENCE, || {
        // Not `ls`, which fails when a name that it has read is gone before it looks at it.
        own.node.sh("db1", "cd /etc/quantix-kvm/network; echo *") == "undone"
    });
    undone(&own, &format!("network db1 confirm {id}"), &[why]);
    std::fs::remove_dir_all(&place).unwrap();
}
