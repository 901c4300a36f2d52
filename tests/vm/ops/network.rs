//! The guest's network as it changes, its name and its timezone.

use crate::vm::harness::{Options, Own, PATIENCE, wait_until};

const NIC: &[&str] = &[
    "-netdev",
    "hubport,id=net0,hubid=0",
    "-device",
    "virtio-net-pci,netdev=net0,romfile=",
];

#[test]
fn the_address_of_a_guest_is_known_as_it_changes() {
    let own = Own::ready(&Options {
        qemu: NIC,
        ..Default::default()
    });
    let sh = |line: &str| own.node.sh("db1", line);
    let ip = |words: &[&str]| own.node.cli(&[&["ip", "db1"], words].concat()).text();
    // A link that has just been switched on is up a moment later.
    wait_until("the link", PATIENCE, || {
        sh("cat /sys/class/net/eth0/operstate") == "up"
    });
    // Without a way out it is the device's.
    assert_eq!(ip(&[]), "10.0.2.15");
    let found = own.node.cli(&["network", "db1", "--json"]).json();
    let all = found["interfaces"].as_array().unwrap();
    let eth0 = all.iter().find(|one| one["name"] == "eth0").unwrap();
    assert_eq!(
        (&eth0["kind"], &eth0["primary"]),
        (&"physical".into(), &true.into())
    );
    assert_eq!(eth0["addresses"][0]["address"], "10.0.2.15/24");
    assert_eq!(eth0["mac"], sh("cat /sys/class/net/eth0/address").as_str());
    assert_eq!(found["default_routes"].as_array().unwrap().len(), 0);

    sh("ip route add default via 10.0.2.2; echo nameserver 10.0.2.3 >/etc/resolv.conf");
    let found = own.node.cli(&["network", "db1", "--json"]).json();
    assert_eq!(found["default_routes"][0]["gateway"], "10.0.2.2");
    assert_eq!(found["dns_servers"][0], "10.0.2.3");

    // With it goes the way out.
    sh("ip addr del 10.0.2.15/24 dev eth0; ip addr add 10.0.2.77/24 dev eth0");
    wait_until("the new address", PATIENCE, || {
        own.node.vm("db1")["agent"]["primary_address"] == "10.0.2.77"
    });
    assert_eq!(ip(&[]), "10.0.2.77");
    sh("ip link set eth0 down; ip addr flush dev eth0");
    own.node
        .cli(&["ip", "db1"])
        .failed(1, &["no global address by which it is known"]);
}

#[test]
fn a_guest_is_given_its_name_and_its_timezone() {
    let own = Own::ready(&Default::default());
    let sh = |line: &str| own.node.sh("db1", line);
    let hostname = |words: &[&str]| own.node.cli(&[&["hostname", "db1"], words].concat());
    let timezone = |words: &[&str]| own.node.cli(&[&["timezone", "db1"], words].concat());
    assert_eq!(hostname(&[]).text(), sh("hostname"));
    assert_eq!(hostname(&["web-7.example"]).text(), "web-7.example");
    assert_eq!(
        sh("hostname; cat /etc/hostname"),
        "web-7.example\nweb-7.example"
    );
    wait_until("the new name", PATIENCE, || {
        own.node.vm("db1")["agent"]["hostname"] == "web-7.example"
    });
    hostname(&["a_b"]).failed(1, &["a host name has"]);
    sh("hostname other");
    let text = hostname(&[]).text();
    assert_eq!(
        text,
        "other (until it boots: /etc/hostname says web-7.example)"
    );

    // The image has no zones.
    assert_eq!(timezone(&[]).text(), "unknown (UTC)");
    timezone(&["Europe/Berlin"]).failed(1, &["the guest has no timezones"]);
    assert_eq!(sh("ls /etc/localtime 2>/dev/null || echo none"), "none");
    let file = "TZif\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\
        \\0\\0\\0\\1\\0\\0\\0\\4\\0\\0\\016\\020\\0\\0ABC\\0";
    sh(&format!(
        "mkdir -p /usr/share/zoneinfo/Test; printf '{file}' >/usr/share/zoneinfo/Test/One"
    ));
    assert_eq!(timezone(&["Test/One"]).text(), "Test/One (UTC+1)");
    assert_eq!(
        sh("readlink /etc/localtime"),
        "../usr/share/zoneinfo/Test/One"
    );
    timezone(&["Test/Two"]).failed(1, &["knows no such timezone"]);
    assert_eq!(timezone(&[]).text(), "Test/One (UTC+1)");
}
