//! Whom a guest has its interface from, by its files, and that a record brings these back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use quantix::message::agent::{DefaultRoute, NetworkAddress, NetworkState};
use quantix::rt::random;

use super::super::manager::{Change, Edit, Manager, Site, words};
use super::super::plan::Plan;
use super::super::record::{Home, Record, Stage};
use super::super::{state, todo};
use super::{dhcp, link, network, plan, request};

/// A guest's files.
struct Root(PathBuf);

impl Root {
    fn new(all: &[(&str, &str)]) -> Self {
        let root = Self(std::env::temp_dir().join(format!("qx-setup-{:x}", random::number())));
        fs::create_dir(&root.0).unwrap();
        for (path, text) in all {
            root.put(path, text);
        }
        root
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.0.join(path)).ok()
    }

    /// The manager, what it calls the interface, and what is to be done.
    fn edit(
        &self,
        running: &[&str],
        nmcli: &str,
        plan: &Plan,
    ) -> Result<(&str, String, Edit), String> {
        let running: Vec<String> = running.iter().map(|name| (*name).to_owned()).collect();
        let site = Site {
            root: &self.0,
            link: &link(2, "eth0"),
            running: &running,
            ask: &|name, args| {
                assert_eq!((name, args.last()), ("nmcli", Some(&"eth0")));
                Some(nmcli.to_owned()).filter(|text| !text.is_empty())
            },
        };
        let found = Manager::find(&site).map_err(|failure| failure.message)?;
        let (manager, profile) = found;
        let edit = manager.edit(&site, plan, &profile);
        let edit = edit.map_err(|failure| failure.message)?;
        Ok((manager.name, profile, edit))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const LINK: &str = "run/systemd/netif/links/2";
const NETWORKD: &[&str] = &["systemd-network"];
const NM: &[&str] = &["NetworkManager"];
const IFUP: &[(&str, &str)] = &[("sbin/ifup", ""), ("sbin/ifdown", "")];

fn paths(edit: &Edit) -> Vec<&str> {
    let files = edit.files.iter();
    files.map(|file| file.path.to_str().unwrap()).collect()
}

#[test]
fn who_manages_an_interface_is_found_by_what_runs() {
    let plan = plan(&dhcp());
    let root = Root::new(&[]);
    let why = root.edit(&[], "", &plan).unwrap_err();
    assert!(
        why.contains("nothing in this guest configures eth0"),
        "{why}"
    );
    assert!(why.contains("netplan") && why.contains("/etc/network/interfaces"));

    // systemd-networkd by its own word, as long as it runs.
    root.put(
        LINK,
        "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/20-lan.network\n",
    );
    root.put("etc/systemd/network/20-lan.network", "[Network]\nVLAN=v5\n");
    assert!(root.edit(&[], "", &plan).is_err());
    let (name, profile, edit) = root.edit(NETWORKD, "", &plan).unwrap();
    assert_eq!(
        (name, &*profile),
        ("systemd-networkd", "/etc/systemd/network/20-lan.network")
    );
    assert_eq!(
        paths(&edit),
        ["etc/systemd/network/00-quantix-eth0.network"]
    );
    assert!(
        edit.files[0]
            .text
            .as_ref()
            .unwrap()
            .ends_with("DHCP=yes\nVLAN=v5\n")
    );
    root.put(
        LINK,
        "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/00-a.network\n",
    );
    assert!(
        root.edit(NETWORKD, "", &plan)
            .unwrap_err()
            .contains("would be read before")
    );

    // netplan behind it, or behind NetworkManager.
    root.put("etc/netplan/50-cloud-init.yaml", "network: {}\n");
    root.put("etc/netplan/notes.txt", "");
    root.put(
        LINK,
        "ADMIN_STATE=configured\nNETWORK_FILE=/run/systemd/network/10-netplan-lan.5.network\n",
    );
    let (name, profile, edit) = root.edit(NETWORKD, "", &plan).unwrap();
    assert_eq!((name, &*profile), ("netplan", "lan.5"));
    assert_eq!(
        paths(&edit),
        [
            "etc/netplan/50-cloud-init.yaml",
            "etc/netplan/70-netplan-set.yaml"
        ]
    );
    assert!(edit.files.iter().all(|file| file.text.is_none()));
    assert_eq!(
        edit.commands[0],
        ["netplan", "set", "ethernets.lan\\.5.addresses=NULL"]
    );
    let (name, profile, _) = root
        .edit(NM, "100 (connected)\nnetplan-eth0\n", &plan)
        .unwrap();
    assert_eq!((name, &*profile), ("netplan", "eth0"));

    // NetworkManager alone; what it leaves alone it does not have.
    let (name, profile, edit) = root
        .edit(NM, "100 (connected)\nWired connection 1\n", &plan)
        .unwrap();
    assert_eq!((name, &*profile), ("NetworkManager", "Wired connection 1"));
    let path = "etc/NetworkManager/system-connections/quantix-eth0.nmconnection";
    assert_eq!(paths(&edit), [path]);
    assert_eq!(edit.files[0].mode, 0o600);
    let (_, profile, _) = root.edit(NM, "30 (disconnected)\n\n", &plan).unwrap();
    assert_eq!(profile, "");
    assert!(root.edit(NM, "10 (unmanaged)\n\n", &plan).is_err());

    // What another has configured it watches; it takes it where there is no other.
    let watched = "100 (connected (externally))\neth0\n";
    let both: Vec<&str> = [NM, NETWORKD].concat();
    root.put(
        LINK,
        "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/20-lan.network\n",
    );
    let (name, profile, _) = root.edit(&both, watched, &plan).unwrap();
    assert_eq!(
        (name, &*profile),
        ("systemd-networkd", "/etc/systemd/network/20-lan.network")
    );
    let (name, profile, _) = root.edit(NM, watched, &plan).unwrap();
    assert_eq!((name, &*profile), ("NetworkManager", ""));

    // Who runs and has it goes before who only could.
    root.put(
        LINK,
        "ADMIN_STATE=unmanaged\nNETWORK_FILE=/etc/systemd/network/20-lan.network\n",
    );
    root.put("usr/sbin/netplan", "");
    assert_eq!(root.edit(NETWORKD, "", &plan).unwrap().0, "netplan");
    for (path, text) in IFUP {
        root.put(path, text);
    }
    root.put("etc/network/interfaces", "iface eth0 inet manual\n");
    let (name, profile, _) = root.edit(NETWORKD, "", &plan).unwrap();
    assert_eq!((name, &*profile), ("ifupdown", "etc/network/interfaces"));
    root.put("etc/network/interfaces", "iface eth1 inet manual\n");
    fs::remove_file(root.0.join("usr/sbin/netplan")).unwrap();
    let (name, profile, _) = root.edit(NETWORKD, "", &plan).unwrap();
    assert_eq!((name, &*profile), ("systemd-networkd", ""));
    let (name, profile, edit) = root.edit(&[], "", &plan).unwrap();
    assert_eq!((name, &*profile), ("ifupdown", ""));
    let text = edit.files[0].text.as_ref().unwrap();
    assert_eq!(
        text,
        "iface eth1 inet manual\n\nauto eth0\niface eth0 inet dhcp\n"
    );
}

#[test]
fn ifupdown_s_files_are_found_where_they_are_named() {
    let root = Root::new(IFUP);
    root.put("etc/network/interfaces", "source interfaces.d/*.cfg\nsource-directory /etc/network/more\nsource /etc/network/interfaces\n");
    root.put(
        "etc/network/interfaces.d/50-cloud-init.cfg",
        "auto eth0\niface eth0 inet dhcp\n",
    );
    root.put(
        "etc/network/interfaces.d/50.bak",
        "iface eth0 inet manual\n",
    );
    root.put(
        "etc/network/more/a",
        "iface eth0 inet6 auto\niface eth1 inet dhcp\n",
    );
    root.put("etc/network/more/a.dpkg-old", "iface eth0 inet6 auto\n");
    root.put("etc/resolv.conf", "nameserver 10.0.0.9\n");
    let plan = plan(&request("10.0.0.5/24", "", "10.0.0.3"));
    let (_, profile, edit) = root.edit(&[], "", &plan).unwrap();
    let cloud = "etc/network/interfaces.d/50-cloud-init.cfg";
    assert_eq!(profile, cloud);
    assert_eq!(
        paths(&edit),
        [cloud, "etc/network/more/a", "etc/resolv.conf"]
    );
    let text = |at: usize| edit.files[at].text.as_deref().unwrap();
    let stanza = "iface eth0 inet static\n    address 10.0.0.5\n    netmask 255.255.255.0\n    dns-nameservers 10.0.0.3\n";
    assert_eq!(text(0), ["auto eth0\n\n", stanza].concat());
    assert_eq!(text(1), "iface eth1 inet dhcp\n");
    assert_eq!(text(2), "nameserver 10.0.0.3\n");
    // Or it is lost when that writes it again.
    root.put(
        "etc/resolv.conf",
        "# Generated by NetworkManager\nnameserver 10.0.0.9\n",
    );
    let why = root.edit(NM, "", &plan).unwrap_err();
    assert!(
        why.contains("NetworkManager writes /etc/resolv.conf, and ifupdown has eth0"),
        "{why}"
    );
    assert_eq!(root.edit(&[], "", &plan).unwrap().2.files.len(), 3);
    // Who writes that file by itself is left to it.
    root.put("sbin/resolvconf", "");
    let (_, _, edit) = root.edit(&[], "", &plan).unwrap();
    assert_eq!(edit.files.len(), 2);
}

#[test]
fn names_go_into_commands_as_one_word() {
    let of = |command, profile| words(command, "eth0", profile).unwrap_or_default();
    let line = "nmcli connection up id PROFILE ifname IFACE";
    let wanted = [
        "nmcli",
        "connection",
        "up",
        "id",
        "a b IFACE",
        "ifname",
        "eth0",
    ];
    assert_eq!(of(line, "a b IFACE"), wanted);
    assert_eq!(words(line, "eth0", ""), None);
    assert_eq!(of("up id quantix-IFACE", ""), ["up", "id", "quantix-eth0"]);
}

#[test]
fn a_record_brings_files_back_as_they_were() {
    let root = Root::new(&[("etc/a", "old a\n"), ("etc/real", "old b\n")]);
    std::os::unix::fs::symlink("real", root.0.join("etc/b")).unwrap();
    let mode = fs::Permissions::from_mode(0o640);
    fs::set_permissions(root.0.join("etc/a"), mode).unwrap();
    let change = |path: &str, text: Option<&str>| Change {
        path: PathBuf::from(path),
        text: text.map(str::to_owned),
        mode: 0o600,
    };
    let files = [
        change("etc/a", Some("new a\n")),
        change("etc/b", Some("new b\n")),
        change("etc/c", Some("new c\n")),
        change("etc/d", None),
    ];
    let home = Home::new(&root.0);
    drop(home.open().unwrap());
    assert_eq!(home.left(), None);
    let mut record = Record {
        request: dhcp(),
        guard: 77,
        ..Default::default()
    };
    record.change.change = 5;
    home.begin(&mut record, &files).unwrap();
    assert_eq!(home.left(), Some(Stage::Pending));
    assert_eq!(root.text("etc/a").unwrap(), "old a\n");
    home.write_files(&record, &files).unwrap();
    root.put("etc/d", "by its manager");
    assert_eq!(root.text("etc/b").unwrap(), "new b\n");
    assert!(root.0.join("etc/b").is_symlink());
    let meta = |name: &str| {
        fs::metadata(root.0.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((meta("etc/a"), meta("etc/c")), (0o640, 0o600));
    let read = home.read(Stage::Pending).unwrap();
    assert!(read.is_of_this_boot && read.guard == 77);
    assert_eq!(
        (&read.request, &read.change),
        (&record.request, &record.change)
    );

    // Whoever comes second has nothing to settle.
    home.turn(Stage::Pending, Stage::Undoing).unwrap();
    let late = home.turn(Stage::Pending, Stage::Previous).unwrap_err();
    assert_eq!(late.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(home.left(), Some(Stage::Undoing));
    assert_eq!(home.restore(&record), None);
    assert_eq!(root.text("etc/a").unwrap(), "old a\n");
    assert_eq!(root.text("etc/real").unwrap(), "old b\n");
    assert!(root.0.join("etc/b").is_symlink());
    assert_eq!((root.text("etc/c"), root.text("etc/d")), (None, None));
    assert_eq!(meta("etc/a"), 0o640);
    record.change.reason = "why".to_owned();
    home.finish(&record).unwrap();
    assert_eq!(home.left(), None);
    assert_eq!(home.read(Stage::Undone).unwrap().change.reason, "why");

    // What is spoilt is no record; what cannot be kept is not begun.
    root.put("etc/quantix-kvm/network/undone/record", "boot\n77\n\u{ff}");
    assert_eq!(home.read(Stage::Undone), None);
    fs::create_dir(root.0.join("etc/dir")).unwrap();
    let why = home
        .begin(&mut record, &[change("etc/dir", None)])
        .unwrap_err();
    assert!(why.contains("etc/dir"), "{why}");
    assert_eq!(home.left(), None);
}

#[test]
fn what_was_given_by_hand_is_given_again() {
    let network = network();
    let of = |address: &str, dynamic| NetworkAddress {
        address: address.to_owned(),
        dynamic,
        ..Default::default()
    };
    let before = NetworkState {
        addresses: vec![of("10.0.2.16/24", false), of("10.0.2.17/24", true)],
        routes: vec![DefaultRoute {
            gateway: "10.0.2.2".to_owned(),
            metric: 7,
            ..Default::default()
        }],
        mtu: 1400,
    };
    let plan = plan(&request("10.0.2.15/24", "", ""));
    let lines = |plan| {
        let todo = todo(&network, "eth0", &before, plan);
        todo.iter().map(|line| line.join(" ")).collect::<Vec<_>>()
    };
    let wanted = [
        "ip addr del 10.0.2.15/24 dev eth0",
        "ip link set mtu 1400 dev eth0",
        "ip addr add 10.0.2.16/24 dev eth0",
        "ip -4 route append default via 10.0.2.2 metric 7 dev eth0",
    ];
    assert_eq!(lines(Some(&plan)), wanted);
    assert_eq!(lines(None), wanted[1..]);
    let now = state(&network, &network.links[1]);
    assert!(todo(&network, "eth0", &now, None).is_empty());
}
