//! Disks that grow while their file systems are in use.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::vm::harness::{Options, Own, PATIENCE, make_disk, system, wait_until};

const MIB: u64 = 1 << 20;

/// A disk of so many MiB with a table that sfdisk(8) makes of this, and a file system in its last partition,
/// which begins at 2 MiB.
fn partitioned(disk: &Path, mib: u64, label: &str, make: &[&str]) {
    let part = disk.with_extension("part");
    // The last MiB is the GPT's backup's.
    let own = mib - if label == "gpt" { 3 } else { 2 };
    make_disk(&part, own, make);
    File::create(disk).unwrap().set_len(mib * MIB).unwrap();
    let table = disk.with_extension("table");
    let size = own * 2048;
    let text = format!("label: {label}\nstart=2048, size=2048\nstart=4096, size={size}\n");
    fs::write(&table, text).unwrap();
    let (table, name) = (table.to_str().unwrap(), disk.to_str().unwrap());
    system(&["sh", "-c", r#"sfdisk -q "$1" <"$2""#, "sh", name, table]);
    let [from, to] = [&part, disk].map(|path| path.to_str().unwrap());
    system(&[
        "dd",
        &format!("if={from}"),
        &format!("of={to}"),
        "bs=1M",
        "seek=2",
        "conv=notrunc,sparse",
    ]);
    fs::remove_file(table).unwrap();
    fs::remove_file(part).unwrap();
}

/// The file system of such a disk, in a file of its own.
fn cut_out(disk: &Path, from: u64, bytes: u64) -> PathBuf {
    let path = disk.with_extension("cut");
    let (from_file, to) = (File::open(disk).unwrap(), File::create(&path).unwrap());
    to.set_len(bytes).unwrap();
    let mut piece = vec![0; 1 << 20];
    for at in (0..bytes).step_by(1 << 20) {
        from_file.read_exact_at(&mut piece, from + at).unwrap();
        if piece.iter().any(|byte| *byte > 0) {
            to.write_all_at(&piece, at).unwrap();
        }
    }
    path
}

fn place(name: &str) -> PathBuf {
    let name = format!("qx-grow-{}-{name}", std::process::id());
    std::env::temp_dir().join(name)
}

#[test]
fn partitions_and_file_systems_grow_with_their_disks() {
    let disks = ["gpt", "mbr", "whole", "full", "btrfs", "one", "two"].map(place);
    let [gpt, mbr, whole, full, btrfs, one, two] = &disks;
    partitioned(gpt, 64, "gpt", &["mke2fs", "-q", "-t", "ext4"]);
    partitioned(mbr, 322, "dos", &["mkfs.xfs", "-q"]);
    make_disk(whole, 32, &["mke2fs", "-q", "-t", "ext4"]);
    // Its first partition is the one with the file system.
    partitioned(full, 16, "gpt", &["mke2fs", "-q", "-t", "ext4"]);
    system(&["sgdisk", "-n3:0:0", full.to_str().unwrap()]);
    partitioned(btrfs, 160, "gpt", &["mkfs.btrfs", "-q"]);
    File::create(one).unwrap().set_len(128 * MIB).unwrap();
    let first = one.to_str().unwrap();
    make_disk(two, 128, &["mkfs.btrfs", "-q", "-m", "single", first]);
    let mut qemu = Vec::new();
    for (at, disk) in disks.iter().enumerate() {
        let path = disk.display();
        qemu.push("-drive".to_owned());
        qemu.push(format!("file={path},format=raw,if=none,id=disk{at}"));
        qemu.push("-device".to_owned());
        qemu.push(format!("virtio-blk-pci,drive=disk{at}"));
    }
    let own = Own::ready(&Options {
        qemu: &qemu.iter().map(String::as_str).collect::<Vec<_>>(),
        ..Default::default()
    });
    let sh = |line: &str| {
        let said = own.node.cli(&["exec", "db1", "--", line]);
        assert_eq!(said.status, 0, "{line}: {said:?}");
        String::from_utf8(said.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    };
    let cli = |words: &[&str]| own.node.cli(words);
    let grow = |mount: &str, words: &[&str]| -> Value {
        let words = [&["grow", "db1", mount, "--json"], words].concat();
        cli(&words).json()
    };
    sh("for m in $(cat /lib/modules/fs.list); do insmod /lib/modules/$m.ko; done");
    sh(
        "mkdir -p /srv/a /srv/b /srv/c /srv/d /srv/e /srv/f /srv/loop && mount /dev/vda2 /srv/a && mount /dev/vdb2 /srv/b \
        && mount /dev/vdc /srv/c && mount /dev/vdd2 /srv/d \
        && mount -t btrfs /dev/vde2 /srv/e && mount -t btrfs -o device=/dev/vdf,device=/dev/vdg /dev/vdf /srv/f",
    );
    sh(
        "for d in a b c e; do head -c 3000000 /dev/urandom >/srv/$d/file; done; sha256sum /srv/*/file >/tmp/sums",
    );

    // Nothing has grown.
    for mount in ["/srv/a", "/srv/b", "/srv/c", "/srv/e"] {
        let said = grow(mount, &[]);
        assert_eq!(said["grown"], false, "{said}");
        assert_eq!(
            said["filesystem"]["before"], said["filesystem"]["after"],
            "{said}"
        );
    }
    assert!(
        cli(&["grow", "db1", "/srv/a"])
            .text()
            .ends_with("nothing to grow")
    );

    let mut qmp = own.vm.qmp();
    let mut resize = |at: usize, mib: u64| {
        let size = mib * MIB;
        qmp.run(
            "block_resize",
            json!({ "device": format!("disk{at}"), "size": size }),
        );
        let disk = ["vda", "vdb", "vdc", "vdd", "vde"][at];
        let line = format!(
            "until [ $(cat /sys/block/{disk}/size) = {} ]; do sleep 0.05; done",
            size / 512
        );
        sh(&line);
    };
    for (at, mib) in [(0, 200), (1, 500), (2, 100), (3, 64), (4, 300)] {
        resize(at, mib);
    }

    // Said, and not done.
    let table = || fs::read(gpt).unwrap()[..34 * 512].to_vec();
    let before = table();
    let said = grow("/srv/a", &["--dry-run"]);
    sh("sync");
    assert_eq!(table(), before);
    assert_eq!(
        (&said["grown"], &said["dry_run"]),
        (&false.into(), &true.into())
    );
    assert_eq!(said["partition"]["after"], 197 * MIB, "{said}");
    let text = cli(&["grow", "db1", "/srv/a", "--dry-run"]).text();
    assert!(
        text.ends_with("nothing was written: this is what would be"),
        "{text}"
    );
    assert_eq!(
        sh("cat /sys/class/block/vda2/size"),
        ((61 * MIB) / 512).to_string()
    );

    // While somebody writes.
    let busy = "echo $$ >/tmp/busy; while :; do head -c 100000 /dev/urandom >/srv/a/busy; done";
    cli(&["exec", "db1", "--detach", "--", busy]).ok();
    for (mount, kind, part, table, after) in [
        ("/srv/a", "ext4", "vda2", "GPT", 197),
        ("/srv/b", "xfs", "vdb2", "MBR", 498),
        ("/srv/e", "btrfs", "vde2", "GPT", 297),
    ] {
        let said = grow(mount, &[]);
        assert_eq!(said["grown"], true, "{said}");
        assert_eq!(said["filesystem"]["type"], kind);
        assert_eq!(said["filesystem"]["after"], after * MIB, "{said}");
        let partition = &said["partition"];
        assert_eq!(
            (&partition["name"], &partition["table"]),
            (&part.into(), &table.into())
        );
        assert_eq!(partition["after"], after * MIB, "{said}");
        let size = sh(&format!("cat /sys/class/block/{part}/size"));
        assert_eq!(size, (after * MIB / 512).to_string());
        // In blocks of 1024; what the file system needs for itself is not in it.
        let seen: u64 = sh(&format!("df -k {mount} | awk 'END {{ print $2 }}'"))
            .parse()
            .unwrap();
        assert!(seen > after * 1024 * 8 / 10, "{seen}");
        assert_eq!(grow(mount, &[])["grown"], false);
    }
    sh("kill $(cat /tmp/busy)");
    let said = grow("/srv/c", &[]);
    assert_eq!(
        (&said["partition"], &said["grown"]),
        (&Value::Null, &true.into())
    );
    assert_eq!(
        (&said["disk"]["name"], &said["filesystem"]["after"]),
        (&"vdc".into(), &(100 * MIB).into())
    );

    // What cannot be.
    let refused = |mount: &str, why: &str| cli(&["grow", "db1", mount]).failed(1, &[why]);
    refused("/srv/d", "vdd2: partition 3 lies behind it");
    let why =
        "/srv/f: a btrfs on 2 disks: grow each by hand with btrfs filesystem resize NUMBER:max";
    refused("/srv/f", why);
    refused("/tmp", "/tmp: a tmpfs is on no disk");
    refused("/none", "/none: nothing is mounted there");
    sh(
        "truncate -s 8M /srv/a/image && mke2fs -F /srv/a/image >/dev/null 2>&1 \
        && losetup /dev/loop0 /srv/a/image && mount -t ext4 /dev/loop0 /srv/loop",
    );
    refused("/srv/loop", "loop0 is a loop device: grow its file by hand");
    sh("umount /srv/loop && losetup -d /dev/loop0 && mount -o remount,ro /srv/c");
    refused("/srv/c", "/srv/c: mounted read-only");
    sh("mount -o remount,rw /srv/c");
    cli(&["freeze", "db1", "/srv/b"]).ok();
    refused("/srv/a", "frozen");
    cli(&["thaw", "db1"]).ok();
    cli(&["grow", "db1"]).failed(2, &["which file system?"]);

    // Broken by hand: refused, and as it was.
    sh("printf x | dd of=/dev/vda bs=1 seek=532 conv=notrunc 2>/dev/null; sync");
    resize(0, 300);
    refused(
        "/srv/a",
        "vda2: the GPT in block 1 of its disk is broken: its header's checksum",
    );
    sh("printf '\\0' | dd of=/dev/vda bs=1 seek=532 conv=notrunc 2>/dev/null; sync");
    assert_eq!(grow("/srv/a", &[])["filesystem"]["after"], 297 * MIB);

    // What was there is there, also for those who look at the disk later.
    sh("sha256sum -c /tmp/sums >/dev/null && umount /srv/[a-f]");
    sh(
        "mount /dev/vda2 /srv/a && mount /dev/vdb2 /srv/b && mount /dev/vdc /srv/c \
        && mount -t btrfs /dev/vde2 /srv/e && sha256sum -c /tmp/sums >/dev/null \
        && umount /srv/[abce] && sync",
    );
    drop(own);
    for (disk, part) in [(gpt, 297), (mbr, 498), (btrfs, 297)] {
        let name = disk.to_str().unwrap();
        system(&[
            "sh",
            "-c",
            r#"sfdisk --verify "$1" 2>&1 | grep -q "^No errors""#,
            "sh",
            name,
        ]);
        let cut = cut_out(disk, 2 * MIB, part * MIB);
        let name = cut.to_str().unwrap();
        match disk {
            _ if disk == gpt => system(&["e2fsck", "-fn", name]),
            _ if disk == mbr => system(&["xfs_repair", "-n", name]),
            _ => system(&["btrfs", "check", "--readonly", name]),
        }
        fs::remove_file(cut).unwrap();
    }
    let verify = r#"sgdisk -v "$1" | grep "^No problems""#;
    system(&["sh", "-c", verify, "sh", gpt.to_str().unwrap()]);
    system(&["e2fsck", "-fn", whole.to_str().unwrap()]);
    for disk in &disks {
        fs::remove_file(disk).unwrap();
    }
}

/// The GPT of a disk of so many bytes has a copy at its very end; the one at its front tells of that.
fn has_copy(disk: &File, bytes: u64) -> bool {
    let mut sector = [0; 512];
    disk.read_exact_at(&mut sector, bytes - 512).unwrap();
    sector.starts_with(b"EFI PART")
}

fn has_front(disk: &File, bytes: u64) -> bool {
    let mut number = [0; 8];
    disk.read_exact_at(&mut number, 512 + 32).unwrap();
    u64::from_le_bytes(number) == bytes / 512 - 1
}

/// Between the copies of the table, behind them, and while the file system grows: the next grow goes on from there, and
/// nothing is lost.
#[test]
fn a_grow_that_the_guest_s_end_or_the_agent_s_cuts_off_is_ended_by_the_next() {
    let disk = place("cut-off");
    partitioned(&disk, 64, "gpt", &["mke2fs", "-q", "-t", "ext4"]);
    let drive = format!("file={},format=raw,if=none,id=disk0", disk.display());
    let mut own = Own::ready(&Options {
        qemu: &["-drive", &drive, "-device", "virtio-blk-pci,drive=disk0"],
        ..Default::default()
    });
    let mount = "mkdir -p /srv/a && mount /dev/vda2 /srv/a";
    own.node.sh("db1", mount);
    let make =
        "head -c 9000000 /dev/urandom >/srv/a/file && cd /srv/a && sha256sum file >sum && sync";
    own.node.sh("db1", make);
    let image = File::open(&disk).unwrap();
    let sees: [fn(&File, u64) -> bool; 2] = [has_copy, has_front];
    for (mib, sees) in [512, 768, 1024]
        .into_iter()
        .zip(sees.into_iter().map(Some).chain([None]))
    {
        let bytes = mib * MIB;
        let size = json!({ "device": "disk0", "size": bytes });
        own.vm.qmp().run("block_resize", size);
        let sectors = bytes / 512;
        let line = format!("until [ $(cat /sys/block/vda/size) = {sectors} ]; do sleep 0.05; done");
        own.node.sh("db1", &line);
        if let Some(sees) = sees {
            let grow = own.node.begin(&["grow", "db1", "/srv/a"]);
            wait_until("the table", PATIENCE, || sees(&image, bytes));
            own.vm.kill();
            drop(grow);
            own.vm.start_again();
            own.node.wait_usable("db1");
            own.node.sh("db1", mount);
        } else {
            // The agent and its worker, as soon as the kernel has the new partition.
            let line = "old=$(cat /sys/class/block/vda2/size); echo waits >/tmp/waits; \
                while [ $(cat /sys/class/block/vda2/size) = $old ]; do :; done; \
                kill -KILL $(grep -ls ^quantix-kvm-age /proc/[0-9]*/comm | cut -d/ -f3)";
            own.node.cli(&["exec", "db1", "--detach", "--", line]).ok();
            own.node
                .sh("db1", "until [ -e /tmp/waits ]; do sleep 0.05; done");
            own.until_next_agent(|| {
                // On a busy machine it may have had its answer before the agent's end.
                own.node.cli(&["grow", "db1", "/srv/a"]);
            });
        }
        own.node
            .sh("db1", "cd /srv/a && sha256sum -c sum >/dev/null");
        let said = own.node.cli(&["grow", "db1", "/srv/a", "--json"]).json();
        assert_eq!(said["partition"]["after"], (mib - 3) * MIB, "{said}");
        assert_eq!(said["filesystem"]["after"], (mib - 3) * MIB, "{said}");
    }
    own.node.sh(
        "db1",
        "cd /srv/a && sha256sum -c sum >/dev/null && cd / && umount /srv/a && sync",
    );
    drop(own);
    let name = disk.to_str().unwrap();
    let verify = r#"sgdisk -v "$1" | grep "^No problems""#;
    system(&["sh", "-c", verify, "sh", name]);
    let cut = cut_out(&disk, 2 * MIB, 1021 * MIB);
    system(&["e2fsck", "-fn", cut.to_str().unwrap()]);
    fs::remove_file(cut).unwrap();
    fs::remove_file(disk).unwrap();
}
