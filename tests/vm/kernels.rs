//! Guests of all ages: the oldest and the newest kernel that Debian's archive still offers, a kernel that passes for a
//! 3.10, and each kind of processor that QEMU can be. `make check-deep` runs these; they fetch kernels.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::harness::{Options, Own, PATIENCE, drive, program, script, system, wait_for};
use super::screen::Screen;
use crate::util::agent::old_kernel;
use crate::util::noise;

/// vmlinuz and initrd of this kernel, with the agent.
fn image(kernel: &str) -> PathBuf {
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("vm-{kernel}"));
    let script = script("image.sh");
    let words = ["env", &format!("QX_VM_KERNEL={kernel}"), "sh"].map(str::to_owned);
    let paths = [&script, &program("quantix-kvm-agent"), &image];
    let paths = paths.map(|path| path.to_str().unwrap().to_owned());
    let words: Vec<&str> = words.iter().chain(&paths).map(String::as_str).collect();
    system(&words);
    image
}

/// A guest with this kernel, and with a disk.
fn guest(kernel: &str) -> Own {
    let image = image(kernel);
    let file = |name: &str| image.join(name).to_str().unwrap().to_owned();
    let (vmlinuz, initrd) = (file("vmlinuz"), file("initrd"));
    let disk = std::env::temp_dir().join(format!("qx-{kernel}-{}", std::process::id()));
    let drive = drive(&disk, 32);
    let own = Own::ready(&Options {
        qemu: &[
            "-kernel",
            &vmlinuz,
            "-initrd",
            &initrd,
            "-m",
            "384",
            "-drive",
            &drive,
            "-device",
            "virtio-blk-pci,drive=disk0",
        ],
        ..Default::default()
    });
    // QEMU has it open.
    fs::remove_file(&disk).unwrap();
    let release = own.node.sh("db1", "uname -r");
    println!("{kernel}: {release}");
    let info = own.node.cli(&["info", "db1"]).text();
    assert!(info.contains(&release), "{info}");
    own
}

/// Everything basic, and what depends on the kernel more than the rest.
fn serves(own: &Own, reseeds: bool) {
    let node = &own.node;
    let sh = |line: &str| node.sh("db1", line);
    let json = |words: &[&str]| node.cli(&[words, &["--json"]].concat()).json();
    let path = |name: &str| own.place.file(name).to_str().unwrap().to_owned();

    let said = node.cli(&["ping", "db1", "-c", "2"]).text();
    assert!(said.contains("2 answered"), "{said}");
    let found = json(&["telemetry", "db1"]);
    assert!(
        found["memory"]["total"].as_u64() > Some(100 << 20),
        "{found}"
    );
    assert!(found["process_count"].as_u64() > Some(1), "{found}");
    let pressure = found["pressures"].as_array().map_or(0, Vec::len);
    let counts = sh("[ -e /proc/pressure/cpu ] && echo yes || echo no") == "yes";
    assert_eq!(pressure > 0, counts, "{found}");

    let out = node.cli(&["exec", "db1", "--", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (out.status, &out.stdout[..], &*out.stderr),
        (7, &b"out\n"[..], "err\n")
    );

    let bytes = noise(5_000_000);
    fs::write(path("to"), &bytes).unwrap();
    node.cli(&["cp", &path("to"), "db1:/tmp/file"]).ok();
    node.cli(&["cp", "db1:/tmp/file", &path("back")]).ok();
    assert!(fs::read(path("back")).unwrap() == bytes);
    let deep = own.place.file("tree/deep");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), &bytes[..100_000]).unwrap();
    node.cli(&["cp", "-r", &path("tree"), "db1:/tmp/tree"]).ok();
    let back = ["cp", "-r", "db1:/tmp/tree", &path("tree-back")];
    node.cli(&back).ok();
    let found = fs::read(own.place.file("tree-back/deep/file")).unwrap();
    assert!(found == bytes[..100_000]);
    // Nothing half-written is left, whether files without a name were to be had or not.
    assert_eq!(
        sh("ls -A /tmp/tree /tmp/tree/deep | grep -c '^\\.'; :"),
        "0"
    );

    let screen = Screen::open(&own.place, node, "screen");
    screen.begin("$QX shell db1");
    screen.shows("~ #");
    screen.line("tty; stty size");
    screen.shows("/dev/pts/0\n30 100\n");
    screen.line("exit 3");
    assert_eq!(screen.left(), 3);
    drop(screen);

    let line = "echo kept; while ! [ -e /tmp/go ]; do sleep 0.1; done; echo ended; exit 5";
    let job = node.cli(&["exec", "db1", "--detach", "--", line]).text();
    let mut attached = node.begin(&["attach", "db1", &job]);
    assert_eq!(attached.line(), "kept\n");
    sh("touch /tmp/go");
    let out = attached.finish();
    assert_eq!((out.status, &out.stdout[..]), (5, &b"ended\n"[..]));

    sh("mkdir -p /srv && mount -t ext4 /dev/vda /srv && echo before >/srv/file");
    let found = json(&["freeze", "db1"]);
    assert!(found.to_string().contains("/srv"), "{found}");
    let found = json(&["freeze-status", "db1"]);
    assert!(found.to_string().contains("/srv"), "{found}");
    node.cli(&["thaw", "db1"]).ok();
    sh("echo after >>/srv/file && sync && umount /srv");

    let mut running = node.begin(&["passwd", "db1", "alice"]);
    running.write(b"secret\n");
    let said = running.finish().text();
    assert_eq!(said, "alice: password set in /etc/passwd");
    let key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f one";
    let mut running = node.begin(&["keys", "db1", "alice", "add", "-"]);
    running.write(key.as_bytes());
    running.finish().text();
    assert_eq!(sh("cat /home/alice/.ssh/authorized_keys"), key);
    assert_eq!(sh("ls -A /home/alice/.ssh"), "authorized_keys");

    let found = json(&["hardware", "db1"]);
    assert_eq!(found["cpus"].as_array().unwrap().len(), 1, "{found}");
    let found = json(&["disks", "db1"]);
    assert!(found.to_string().contains("vda"), "{found}");
    let found = json(&["ps", "db1"]);
    assert!(found.as_array().unwrap().len() > 10, "{found}");
    let pid = sh("sleep 1000 >/dev/null 2>&1 & echo $!");
    node.cli(&["signal", "db1", &pid, "--signal", "9"]).ok();
    wait_for("a signal to come", PATIENCE, || {
        (sh(&format!("[ -e /proc/{pid} ] && echo there || echo gone")) == "gone").then_some(())
    });
    let found = json(&["time", "db1"]);
    assert!(found["ahead_seconds"].as_f64().unwrap().abs() < 5.0);
    let found = json(&["network", "db1"]);
    assert!(found.to_string().contains("\"lo\""), "{found}");

    let report = json(&["restored", "db1"]);
    let steps = report["steps"].as_array().unwrap();
    let random = steps.iter().find(|step| step["name"] == "random").unwrap();
    let word = match reseeds {
        true => "reseeded with 64 bytes of the host",
        false => {
            "64 bytes of the host added; this kernel, one before 4.17, takes them up within minutes"
        }
    };
    assert_eq!(random["detail"], word, "{report}");

    let out = node.cli(&["exec", "db1", "--", "quantix-kvm-agent", "doctor", "--json"]);
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status, &*out.stderr), (0, ""), "{found}");

    kill_agent(own);
    assert_eq!(sh("echo again"), "again");
    let console = own.vm.console();
    assert!(!console.contains("panicked"), "{console}");
}

/// Kills it and all that it has forked, and waits for the next.
fn kill_agent(own: &Own) {
    own.until_next_agent(|| {
        let line = "kill -9 $(grep -ls ^quantix-kvm-age /proc/[0-9]*/comm | cut -d/ -f3)";
        own.node.cli(&["exec", "db1", "--", line]);
    });
}

#[test]
#[ignore = "issue 8: fetches a kernel: make check-deep"]
fn the_oldest_kernel_is_served() {
    serves(&guest("oldest"), true);
}

#[test]
#[ignore = "issue 8: fetches a kernel: make check-deep"]
fn the_newest_kernel_is_served() {
    serves(&guest("newest"), true);
}

#[test]
#[ignore = "issue 8: fetches a kernel: make check-deep"]
fn what_passes_for_a_3_10_is_served() {
    let own = guest("oldest");
    let filter = old_kernel().to_str().unwrap();
    own.node.cli(&["cp", filter, "db1:/bin/old-kernel"]).ok();
    // In the place of the agent, again and again.
    let line = "chmod 755 /bin/old-kernel; mv /usr/sbin/quantix-kvm-agent /usr/sbin/real; \
        printf '#!/bin/sh\\nexec old-kernel /usr/sbin/quantix-kvm-agent.real \"$@\"\\n' \
            >/usr/sbin/quantix-kvm-agent; \
        mv /usr/sbin/real /usr/sbin/quantix-kvm-agent.real; chmod 755 /usr/sbin/quantix-kvm-agent";
    own.node.sh("db1", line);
    kill_agent(&own);
    let seccomp = own.node.sh("db1", "grep ^Seccomp: /proc/self/status");
    assert_eq!(seccomp.split_whitespace().last(), Some("2"));
    serves(&own, false);
}

/// QEMU's processors that its emulation can be, by their age. Left out are those that are others with one flag more or
/// less, those of 32 bits (which no x86-64 kernel boots on), and `host` and `base`, which are none.
/// With Opteron_G5, emulated, the kernel of Debian 12 prints nothing at all: it does not get to the agent.
const PROCESSORS: [&str; 21] = [
    "qemu64",
    "kvm64",
    "phenom",
    "core2duo",
    "Conroe",
    "Penryn",
    "Nehalem",
    "Westmere",
    "SandyBridge",
    "IvyBridge",
    "Haswell",
    "Broadwell",
    "Skylake-Client",
    "Skylake-Server",
    "Cascadelake-Server",
    "Icelake-Server",
    "Opteron_G1",
    "Opteron_G3",
    "EPYC",
    "EPYC-Milan",
    "max",
];

#[test]
#[ignore = "issue 8: boots many guests: make check-deep"]
fn every_processor_is_served() {
    for processor in PROCESSORS {
        let own = Own::ready(&Options {
            qemu: &["-cpu", processor],
            ..Default::default()
        });
        own.node.cli(&["ping", "db1"]).ok();
        own.node.cli(&["exec", "db1", "--", "true"]).ok();
        let model = own
            .node
            .sh("db1", "sed -n 's/^model name.*: //p' /proc/cpuinfo");
        println!("{processor}: {model}");
    }
}
