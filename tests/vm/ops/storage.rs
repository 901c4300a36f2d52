//! The guest's disks.

use prost::Message as _;
use quantix::message::agent::{Credit, Trim, TrimMount};
use quantix::message::{Body, Stream};
use serde_json::Value;

use crate::vm::harness::{Client, Options, Own, PATIENCE, drive, make_disk, wait_for, wait_until};
use crate::vm::screen::Screen;

#[test]
fn disks_are_listed_and_trimmed_and_one_that_cannot_be_says_so() {
    let disks = ["a", "b"]
        .map(|name| std::env::temp_dir().join(format!("qx-storage-{}-{name}", std::process::id())));
    let (a, b) = (drive(&disks[0], 64), drive(&disks[1], 16));
    let a = format!("{a},discard=unmap");
    let b = b.replace("disk0", "disk1");
    let own = Own::ready(&Options {
        append: "qx.args=--telemetry-interval,1",
        qemu: &[
            "-drive",
            &a,
            "-device",
            "virtio-blk-pci,drive=disk0,serial=first,discard=on",
            "-drive",
            &b,
            "-device",
            "virtio-blk-pci,drive=disk1,discard=off",
        ],
    });
    std::fs::remove_file(&disks[1]).unwrap();
    let sh = |line: &str| own.node.sh("db1", line);
    let cli = |words: &[&str]| own.node.cli(words);
    sh("mkdir -p /srv/a /srv/b && mount -t ext4 /dev/vda /srv/a && mount -t ext4 /dev/vdb /srv/b");
    let found: Value = wait_for("a report with the disks", PATIENCE, || {
        let found = cli(&["disks", "db1", "--json"]).json();
        let mounts = found["filesystems"].to_string();
        mounts.contains("/srv/b").then_some(found)
    });
    let devices = found["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2, "{found}");
    assert_eq!(
        (&devices[0]["name"], &devices[0]["serial"]),
        (&"vda".into(), &"first".into())
    );
    assert_eq!(devices[0]["size"], 64 << 20);
    let address = sh("readlink -f /sys/block/vda")
        .rsplit('/')
        .nth(3)
        .unwrap()
        .to_owned();
    assert_eq!(devices[0]["address"], address.as_str());
    assert_eq!(
        (&devices[0]["discards"], &devices[1]["discards"]),
        (&true.into(), &false.into())
    );
    let filesystem = found["filesystems"].as_array().unwrap().iter();
    let mut filesystem = filesystem.filter(|filesystem| filesystem["mount_point"] == "/srv/a");
    let filesystem = filesystem.next().unwrap();
    let used = sh("df -Pi /srv/a | awk 'NR == 2 { print $3 }'");
    assert_eq!(filesystem["inodes_used"].to_string(), used);

    // What was written and removed is given back to the host.
    use std::os::unix::fs::MetadataExt;
    let blocks = || std::fs::metadata(&disks[0]).unwrap().blocks() * 512;
    sh(
        "dd if=/dev/urandom of=/srv/a/file bs=1M count=32 2>/dev/null && sync && rm /srv/a/file && sync",
    );
    assert!(blocks() > 32 << 20);
    let found = cli(&["trim", "db1", "/srv/a", "--json"]).json();
    assert!(
        found["mounts"][0]["trimmed"].as_u64().unwrap() >= 32 << 20,
        "{found}"
    );
    assert!(blocks() < 32 << 20);
    let all = cli(&["trim", "db1"]).text();
    let line = all.lines().find(|line| line.starts_with("/srv/b")).unwrap();
    assert!(line.ends_with("its disk takes no discards"), "{all}");
    let said = cli(&["trim", "db1", "/srv/b"]);
    assert_eq!(said.status, 1);
    assert!(
        said.stderr.contains("/srv/b: its disk takes no discards"),
        "{said:?}"
    );
    cli(&["trim", "db1", "/tmp"]).failed(1, &["/tmp: a tmpfs is on no disk"]);
    cli(&["trim", "db1", "/none"]).failed(1, &["/none: nothing is mounted there"]);
    std::fs::remove_file(&disks[0]).unwrap();
}

/// What a trim says that is watched, until this many have come or its answer.
fn watched(client: &mut Client, mount: &str, credit: u64) -> (Vec<TrimMount>, Body) {
    let request = Trim {
        mount_points: vec![mount.into()],
        progress: true,
        ..Default::default()
    };
    client.send("db1", Body::Trim(request));
    let stream = Stream::Data.into();
    let credit = Credit {
        stream,
        bytes: credit,
    };
    client.send("db1", Body::Credit(credit));
    let mut bytes = Vec::new();
    let answer = loop {
        match client.receive() {
            Body::StreamChunk(chunk) => bytes.extend(chunk.data),
            answer => break answer,
        }
    };
    let mut rest = &bytes[..];
    let mut records = Vec::new();
    while let Some((length, body)) = rest.split_first_chunk() {
        let (record, behind) = body.split_at(u32::from_be_bytes(*length) as usize);
        records.push(TrimMount::decode(record).unwrap());
        rest = behind;
    }
    assert!(rest.is_empty(), "records are whole");
    (records, answer)
}

#[test]
fn a_trim_says_how_far_it_is_and_ends_when_it_is_taken_back() {
    // Of 4 TiB, so that it has a thousand parts; hardly any of them is written.
    let disk = std::env::temp_dir().join(format!("qx-trim-{}", std::process::id()));
    make_disk(&disk, 4 << 20, &["mkfs.xfs", "-q", "-l", "size=64m"]);
    let drive = format!(
        "file={},format=raw,if=none,id=disk0,discard=unmap",
        disk.display()
    );
    let own = Own::ready(&Options {
        qemu: &["-drive", &drive, "-device", "virtio-blk-pci,drive=disk0"],
        ..Default::default()
    });
    std::fs::remove_file(&disk).unwrap();
    let sh = |line: &str| own.node.sh("db1", line);
    sh(
        "while read -r m; do insmod /lib/modules/$m.ko; done </lib/modules/fs.list
        mkdir -p /srv/a && mount -t xfs /dev/vda /srv/a",
    );

    let (records, answer) = watched(&mut Client::connect(&own.node), "/srv/a", 1 << 20);
    let Body::TrimResponse(report) = answer else {
        panic!("{answer:?}");
    };
    assert!(records.len() > 500, "{}", records.len());
    assert_eq!((records[0].done, &*records[0].mount_point), (0, "/srv/a"));
    assert!(records[0].size > 3 << 40);
    assert!(records.is_sorted_by_key(|record| (record.done, record.trimmed)));
    let last = records.last().unwrap();
    assert!(last.done > last.size / 2 && last.trimmed <= report.mounts[0].trimmed);

    // A person sees it, and has it ended.
    let screen = Screen::open(&own.place, &own.node, "screen");
    screen.begin("$QX trim db1 /srv/a");
    screen.shows("/srv/a: ");
    screen.shows(" trimmed ");
    screen.key("C-c");
    assert_eq!(screen.left(), 130);
    wait_until("the worker to be gone", PATIENCE, || {
        own.agents().len() == 1
    });

    // Nobody watches: nothing is said but the end.
    let said = own.node.cli(&["trim", "db1", "/srv/a"]);
    assert_eq!((said.status, &*said.stderr), (0, ""));
    assert!(said.stdout.starts_with(b"MOUNT "), "{said:?}");
}
