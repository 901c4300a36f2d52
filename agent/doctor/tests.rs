//! The doctor in guests that are a few files in a directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use quantix::rt::random;

use super::*;

/// A guest's root.
struct Fake(PathBuf);

const PORT: &str = "org.quantix.agent.0";

impl Fake {
    /// With nothing in it but process 1.
    fn empty() -> Self {
        let guest = Self(std::env::temp_dir().join(format!("qx-guest-{:x}", random::number())));
        guest.file("proc/1/comm", "init\n");
        fs::create_dir(guest.0.join("proc/1/fd")).unwrap();
        guest
    }

    /// In which all is well: the agent is process 20.
    fn healthy() -> Self {
        let guest = Self::empty();
        guest.file("sys/module/virtio_console/refcnt", "1\n");
        guest.port("vport2p1", "org.qemu.guest_agent.0");
        guest.port("vport2p2", PORT);
        guest.file("run/udev/control", "");
        guest.file("dev/kmsg", "6,1,1000000,-;Linux version\n");
        guest.debugfs("1");
        guest.process(20, "quantix-kvm-age", "S");
        guest.opens(20);
        guest
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn link(&self, path: &str, to: impl AsRef<Path>) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(to, path).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.0.join(path);
        fs::remove_file(&path)
            .or_else(|_| fs::remove_dir_all(&path))
            .unwrap();
    }

    fn port(&self, node: &str, name: &str) {
        self.file(
            &format!("sys/class/virtio-ports/{node}/name"),
            &format!("{name}\n"),
        );
        self.file(&format!("sys/class/virtio-ports/{node}/dev"), "243:2\n");
        // A character device that is on every system.
        self.link(&format!("dev/{node}"), "/dev/null");
        self.link(&format!("dev/virtio-ports/{name}"), format!("../{node}"));
    }

    fn debugfs(&self, host_connected: &str) {
        let text = format!("guest_connected: 1\nhost_connected: {host_connected}\n");
        self.file("sys/kernel/debug/virtio-ports/vport2p2", &text);
    }

    fn process(&self, pid: u32, comm: &str, state: &str) {
        self.file(&format!("proc/{pid}/comm"), &format!("{comm}\n"));
        let zeros = "0 ".repeat(18);
        self.file(
            &format!("proc/{pid}/stat"),
            &format!("{pid} ({comm}) {state} {zeros}100 0\n"),
        );
        self.link(&format!("proc/{pid}/exe"), self.0.join("agent"));
        self.file("agent", "");
        self.link("proc/self/exe", self.0.join("agent"));
        fs::create_dir_all(self.0.join(format!("proc/{pid}/fd"))).unwrap();
    }

    /// The process has the agent's port open.
    fn opens(&self, pid: u32) {
        self.link(&format!("proc/{pid}/fd/7"), self.0.join("dev/vport2p2"));
    }

    fn examine(&self) -> Vec<Check> {
        self.examine_with(&cli::Doctor::default())
    }

    fn examine_with(&self, options: &cli::Doctor) -> Vec<Check> {
        // No file systems: their children cannot be forked beside the threads of other tests.
        self.file("proc/self/mountinfo", "");
        Guest::new(&self.0, options).examine()
    }

    #[track_caller]
    fn finds(&self, name: &str, status: Status, words: &str) -> Check {
        let checks = self.examine();
        let check = checks.into_iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.status, status, "{check:?}");
        let texts = [&check.evidence, &check.cause, &check.remedy];
        assert!(
            texts.iter().any(|text| text.contains(words)),
            "no {words:?}: {check:?}"
        );
        check
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

use Status::{Fail, Ok, Unknown, Warn};

#[test]
fn a_guest_that_is_well_has_ten_checks_that_are_well() {
    let checks = Fake::healthy().examine();
    let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
    let expected = [
        "driver",
        "port",
        "crash",
        "agent",
        "host",
        "service",
        "filesystems",
        "config",
        "version",
        "clock",
    ];
    assert_eq!(names, expected);
    for check in &checks {
        assert_eq!(check.status, Ok, "{check:?}");
    }
    let text = check::text("guest", &checks, healthy(&checks), false);
    assert!(text.starts_with("guest: ok, the port is open and the agent serves it\n"));
    assert!(json(&checks).starts_with("{\"version\":\"0.1.0\",\"status\":\"ok\",\"checks\":[{"));
}

#[test]
fn without_a_driver_that_is_the_verdict() {
    let guest = Fake::empty();
    let checks = guest.examine();
    let verdict = check::verdict(&checks).unwrap();
    assert_eq!(
        (verdict.name, &*verdict.remedy),
        ("driver", "modprobe virtio_console")
    );
    guest.file("sys/bus/virtio/drivers/virtio_console/bind", "");
    guest.finds("driver", Ok, "drivers/virtio_console");
    guest.finds("port", Fail, "there: none");
}

#[test]
fn without_a_port_those_that_are_there_are_named() {
    let guest = Fake::healthy();
    guest.remove("sys/class/virtio-ports/vport2p2");
    guest.finds("port", Fail, "the VM has no channel");
    guest.finds("port", Fail, "there: org.qemu.guest_agent.0");
    guest.finds("agent", Unknown, "no device");
    guest.finds("host", Unknown, "no device");
}

#[test]
fn a_node_that_is_missing_or_wrong_is_made_again() {
    let guest = Fake::healthy();
    guest.remove("dev/vport2p2");
    let check = guest.finds("port", Fail, "No such file or directory");
    assert!(check.remedy.ends_with("/dev/vport2p2 c 243 2"), "{check:?}");
    guest.file("dev/vport2p2", "");
    guest.finds("port", Fail, "no character device");
}

#[test]
fn a_link_is_missed_where_there_is_udev() {
    let guest = Fake::healthy();
    guest.remove(&format!("dev/virtio-ports/{PORT}"));
    guest.finds("port", Warn, "udevadm trigger");
    guest.remove("run/udev");
    guest.finds("port", Ok, "vport2p2");
}

#[test]
fn a_port_can_be_given_by_its_name_or_by_its_path() {
    let guest = Fake::healthy();
    let port = |port: &str| {
        let options = cli::Doctor {
            port: Some(port.to_owned()),
            ..Default::default()
        };
        let mut guest = Guest::new(&guest.0, &options);
        (port::check(&mut guest).status, guest.device)
    };
    let other = guest.0.join("dev/vport2p1");
    assert_eq!(port("org.qemu.guest_agent.0"), (Ok, Some(other)));
    assert_eq!(port("/dev/null"), (Ok, Some("/dev/null".into())));
    assert_eq!(port("/no/such/port"), (Fail, None));
}

#[test]
fn whoever_has_the_port_open_is_named() {
    let guest = Fake::healthy();
    guest.finds("agent", Ok, "pid 20 has the port open, started ");
    guest.process(20, "quantix-kvm-age", "T");
    guest.finds("agent", Fail, "kill -CONT 20");
    // Another beside the agent was handed its descriptor.
    guest.process(20, "quantix-kvm-age", "S");
    guest.process(10, "cat", "S");
    guest.opens(10);
    guest.finds("agent", Ok, "pid 20");
    guest.remove("proc/20");
    guest.finds("agent", Fail, "cat, pid 10");
    guest.remove("proc/10");
    guest.finds("agent", Fail, "no agent runs");
}

#[test]
fn an_agent_without_the_port_is_told_from_none() {
    let guest = Fake::healthy();
    guest.remove("proc/20/fd/7");
    guest.finds("agent", Fail, "does not have the port open");
    // It has ended, and nobody has taken note.
    guest.remove("proc/20/exe");
    guest.finds("agent", Fail, "no agent runs");
    guest.file("run/systemd/system/x", "");
    guest.finds("agent", Fail, "systemctl start quantix-kvm-agent");
}

#[test]
fn what_must_not_be_looked_into_is_unknown() {
    let guest = Fake::healthy();
    guest.remove("proc/20");
    // No directory: it cannot be listed, as those of others without root.
    guest.remove("proc/1/fd");
    guest.file("proc/1/fd", "");
    guest.finds("agent", Unknown, "root");
    let said = healthy(&guest.examine());
    assert_eq!(said, "no fault was found, as far as can be seen");
    // All others are hidden.
    guest.remove("proc/1");
    guest.finds("agent", Unknown, "root");
}

#[test]
fn the_host_is_asked_for_in_debugfs_and_at_a_free_port() {
    let guest = Fake::healthy();
    guest.debugfs("0");
    guest.finds("host", Warn, "no host is connected");
    guest.remove("sys/kernel/debug");
    guest.finds("host", Unknown, "debugfs");
    guest.remove("proc/20");
    // /dev/null, which never hangs up.
    guest.finds("host", Ok, "says the port");
}

#[test]
fn a_crash_fails_where_no_agent_has_come_after_it() {
    let guest = Fake::healthy();
    guest.file(
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: Old One\nflags\t: fpu\n",
    );
    let trap = "traps: quantix-kvm-age[9] trap invalid opcode ip:1";
    let log = format!("6,1,1000000,-;Linux\n6,2,2000000,-;{trap}\n SUBSYSTEM=x\n6,3,3,-;more\n");
    guest.file("dev/kmsg", &log);
    guest.finds("crash", Warn, "than this: Old One");
    guest.remove("proc/20");
    guest.finds("crash", Fail, trap);
    // It explains that none runs.
    let checks = guest.examine();
    assert_eq!(
        check::verdict(&checks).map(|check| check.name),
        Some("crash")
    );
    guest.file(
        "dev/kmsg",
        "6,2,2000000,-;quantix-kvm-age[9]: segfault at 0\n",
    );
    guest.finds("crash", Warn, "has crashed");
    guest.remove("dev/kmsg");
    guest.finds("crash", Unknown, "No such file");
}

#[test]
fn a_configuration_is_absent_wrong_or_not_to_be_read() {
    let guest = Fake::healthy();
    guest.finds("config", Ok, "defaults");
    guest.file("etc/quantix-kvm/agent.conf", "log_level = info\n");
    guest.finds("config", Ok, "in order");
    guest.file(
        "etc/quantix-kvm/agent.conf",
        "\nlog_level = loud\ntelemetry_interval = x\n",
    );
    guest.finds("config", Warn, "line 2: log_level = loud: takes");
    guest.file(
        "etc/quantix-kvm/agent.conf",
        "\nlog_level = loud\nalow = none\n",
    );
    guest.finds("config", Fail, "line 3: alow = none: unknown key");
    guest.remove("etc/quantix-kvm/agent.conf");
    guest.file("etc/quantix-kvm/agent.conf/directory", "");
    guest.finds("config", Fail, "Is a directory");
    let options = cli::Doctor {
        config: Some("/no/such/file".into()),
        ..Default::default()
    };
    assert_eq!(guest.examine_with(&options)[7].status, Fail);
}

#[test]
fn an_agent_of_another_file_is_another_build() {
    let guest = Fake::healthy();
    guest.file("other", "");
    guest.link("proc/20/exe", guest.0.join("other"));
    guest.finds("version", Warn, "another build");
    guest.link("proc/20/exe", guest.0.join("agent (deleted)"));
    guest.finds("version", Warn, "(deleted)");
    guest.remove("proc/20");
    guest.finds("version", Ok, "no agent to compare");
}

#[test]
fn spans_are_in_the_largest_unit_that_fits() {
    let spans = [0, 59, 60, 3599, 3600, 86_399, 86_400, 259_200].map(span);
    assert_eq!(
        spans,
        [
            "0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "3 d"
        ]
    );
}
