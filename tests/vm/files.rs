//! Files into a guest that is well, and out of it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use quantix::message::{Body, Stream, agent};

use super::harness::{Client, Outcome, Use, shared, wait_until};

/// A local file with bytes that do not repeat.
fn local(host: &Use, name: &str, bytes: usize) -> PathBuf {
    let path = host.place.file(name);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ bytes as u64;
    let words = (0..bytes.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let content: Vec<u8> = words.take(bytes).collect();
    fs::write(&path, content).unwrap();
    path
}

fn sha256(path: &std::path::Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(out.stdout).unwrap()[..64].to_owned()
}

fn put(host: &Use, options: &[&str], content: &[u8], to: &str) -> Outcome {
    let file = host.place.file(&format!("in{}", to.replace('/', "-")));
    fs::write(&file, content).unwrap();
    let target = format!("web1:{to}");
    let words = [&["cp"], options, &["-", &target]].concat();
    host.node.cli_with(&words, File::open(file).unwrap())
}

#[test]
fn files_of_all_sizes_go_in_and_come_back() {
    let host = shared();
    for (at, bytes) in [0, 1, 4095, 4096, 32_512, 262_145, 20_000_000]
        .into_iter()
        .enumerate()
    {
        let source = local(&host, &format!("size{at}"), bytes);
        let back = host.place.file(&format!("back{at}"));
        let remote = format!("/tmp/size{at}");
        let there = format!("web1:{remote}");
        let copied = host.node.cli(&["cp", source.to_str().unwrap(), &there]);
        assert_eq!(copied.text(), "");
        let sum = host.node.sh("web1", &format!("sha256sum {remote}"));
        assert_eq!(sum[..64], sha256(&source), "{bytes} bytes in");
        let copied = host.node.cli(&["cp", &there, back.to_str().unwrap()]);
        assert_eq!(copied.text(), "");
        assert_eq!(sha256(&back), sha256(&source), "{bytes} bytes out");
        if bytes < 1_000_000 {
            let cat = host.node.cli(&["cat", "web1", &remote]).ok();
            assert_eq!(cat, fs::read(&source).unwrap(), "{bytes} bytes");
        }
        host.node.sh("web1", &format!("rm {remote}"));
    }
}

#[test]
fn a_new_file_gets_the_mode_and_an_old_one_keeps_all_but_its_content() {
    let host = shared();
    let sh = |line: &str| host.node.sh("web1", line);
    let source = local(&host, "tool", 100);
    fs::set_permissions(&source, fs::Permissions::from_mode(0o751)).unwrap();
    sh("rm -rf /tmp/modes; mkdir /tmp/modes");
    let source = source.to_str().unwrap();
    // Into a directory, under its own name.
    host.node.cli(&["cp", source, "web1:/tmp/modes/"]).ok();
    assert_eq!(sh("stat -c '%a %U %s' /tmp/modes/tool"), "751 root 100");
    host.node
        .cli(&["cp", "--mode", "0600", source, "web1:/tmp/modes/b"])
        .ok();
    assert_eq!(sh("stat -c %a /tmp/modes/b"), "600");
    put(&host, &[], b"x", "/tmp/modes/c").ok();
    assert_eq!(sh("stat -c %a /tmp/modes/c"), "644");

    sh("cd /tmp/modes; chmod 4640 b; chown alice:disk b; chmod 4640 b; ln -s ../modes/b link");
    put(&host, &["--mode", "0777"], b"new", "/tmp/modes/link").ok();
    assert_eq!(
        sh("stat -c '%a %U:%G %s' /tmp/modes/b"),
        "4640 alice:disk 3"
    );
    assert_eq!(
        sh("readlink /tmp/modes/link; cat /tmp/modes/b"),
        "../modes/b\nnew"
    );
    // A link that leads nowhere names the file that is made.
    sh("ln -s /tmp/modes/later /tmp/modes/dangling");
    put(&host, &[], b"made", "/tmp/modes/dangling").ok();
    assert_eq!(
        sh("cat /tmp/modes/later; readlink /tmp/modes/dangling"),
        "made/tmp/modes/later"
    );

    let back = host.place.file("b");
    host.node
        .cli(&["cp", "web1:/tmp/modes/tool", back.to_str().unwrap()])
        .ok();
    let mode = fs::metadata(&back).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o751);
    assert_eq!(
        sh("ls -A /tmp/modes | tr '\\n' ' '"),
        "b c dangling later link tool "
    );
}

#[test]
fn directories_are_made_where_that_is_asked_for() {
    let host = shared();
    host.node.sh("web1", "rm -rf /tmp/deep");
    let out = put(&host, &[], b"x", "/tmp/deep/er/file");
    out.failed(1, &["/tmp/deep/er/file", "No such file or directory"]);
    put(&host, &["--parents"], b"x", "/tmp/deep/er/file").ok();
    let said = host.node.sh(
        "web1",
        "stat -c %a /tmp/deep /tmp/deep/er; cat /tmp/deep/er/file",
    );
    assert_eq!(said, "755\n755\nx");
}

#[test]
fn what_is_no_regular_file_system_is_read_and_written_in_place() {
    let host = shared();
    // Its size is said to be 0.
    let version = host.node.cli(&["cat", "web1", "/proc/version"]).text();
    assert_eq!(version, host.node.sh("web1", "cat /proc/version"));
    put(&host, &[], b"37\n", "/proc/sys/vm/swappiness").ok();
    assert_eq!(
        host.node
            .cli(&["cat", "web1", "/proc/sys/vm/swappiness"])
            .text(),
        "37"
    );
    put(&host, &[], b"1\n", "/sys/module/printk/parameters/time").ok();
    assert_eq!(
        host.node
            .sh("web1", "cat /sys/module/printk/parameters/time"),
        "Y"
    );
    put(&host, &[], &[7; 100_000], "/dev/null").ok();
    assert_eq!(
        host.node.sh("web1", "stat -c %F /dev/null"),
        "character special file"
    );
    // The kernel's own refusal.
    let out = put(&host, &[], b"nonsense", "/proc/sys/vm/swappiness");
    out.failed(1, &["/proc/sys/vm/swappiness", "Invalid argument"]);
}

#[test]
fn bad_files_fail_with_the_reason() {
    let host = shared();
    let cat = |path: &str| host.node.cli(&["cat", "web1", path]);
    cat("/no/such").failed(1, &["/no/such", "No such file or directory"]);
    cat("/etc").failed(1, &["/etc", "directory"]);
    cat("etc/passwd").failed(1, &["etc/passwd", "absolute"]);
    host.node.sh("web1", "rm -f /tmp/fifo; mkfifo /tmp/fifo");
    cat("/tmp/fifo").failed(1, &["/tmp/fifo", "not a file"]);
    cat("/dev/zero").failed(1, &["/dev/zero", "not a file"]);
    put(&host, &[], b"x", "/etc").failed(1, &["/etc", "directory"]);
    put(&host, &[], b"x", "tmp/x").failed(1, &["tmp/x", "absolute"]);
    put(&host, &[], b"x", "/tmp/fifo").failed(1, &["/tmp/fifo", "FIFO"]);
    put(&host, &[], b"x", "/etc/passwd/x").failed(1, &["/etc/passwd/x", "Not a directory"]);
}

#[test]
fn a_part_beyond_4_gib_is_read_at_its_place() {
    let host = shared();
    let line = "truncate -s 5G /tmp/sparse && printf needle | \
                dd of=/tmp/sparse bs=1 seek=5368709000 conv=notrunc 2>/dev/null; \
                stat -c %s /tmp/sparse";
    assert_eq!(host.node.sh("web1", line), "5368709120");
    let mut client = Client::connect(&host.node);
    client.send(
        "web1",
        Body::ReadFile(agent::ReadFile {
            path: "/tmp/sparse".into(),
            offset: 5_368_708_990,
            length: 20,
            ..Default::default()
        }),
    );
    let (stream, bytes) = (Stream::Data.into(), 1 << 16);
    client.send("web1", Body::Credit(agent::Credit { stream, bytes }));
    let mut found = Vec::new();
    let answer = loop {
        match client.receive() {
            Body::StreamChunk(chunk) => found.extend(chunk.data),
            Body::ReadFileResponse(answer) => break answer,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(found, b"\0\0\0\0\0\0\0\0\0\0needle\0\0\0\0");
    assert_eq!(answer.total_size, 5_368_709_120);
    host.node.sh("web1", "rm /tmp/sparse");
}

#[test]
fn a_full_disk_fails_the_copy_and_leaves_nothing() {
    let host = shared();
    let sh = |line: &str| host.node.sh("web1", line);
    sh("mkdir -p /mnt/small; umount /mnt/small 2>/dev/null; \
        mount -t tmpfs -o size=1m tmpfs /mnt/small; echo old >/mnt/small/kept");
    let source = local(&host, "large", 3_000_000);
    let source = source.to_str().unwrap();
    for name in ["kept", "new"] {
        let target = format!("web1:/mnt/small/{name}");
        let out = host.node.cli(&["cp", source, &target]);
        out.failed(1, &["/mnt/small", "No space left on device"]);
    }
    assert_eq!(sh("ls -A /mnt/small; cat /mnt/small/kept"), "kept\nold");
    let used = sh("df -k /mnt/small | awk 'NR == 2 { print $3 }'");
    assert!(used.parse::<u32>().unwrap() <= 8, "{used} KiB stay used");
    sh("umount /mnt/small");
}

#[test]
fn a_full_target_on_this_side_is_reported_too() {
    let host = shared();
    host.node.sh("web1", "truncate -s 3M /tmp/for-full");
    let out = host.node.cli(&["cp", "web1:/tmp/for-full", "/dev/full"]);
    out.failed(1, &["/dev/full", "No space left on device"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let out = host.node.begin_to(&["cat", "web1", "/tmp/for-full"], full);
    out.finish()
        .failed(1, &["stdout", "No space left on device"]);
}

#[test]
fn an_upload_that_is_broken_off_leaves_nothing() {
    let host = shared();
    host.node.sh(
        "web1",
        "rm -rf /tmp/broken; mkdir /tmp/broken; echo old >/tmp/broken/kept",
    );
    for name in ["kept", "new"] {
        let target = format!("web1:/tmp/broken/{name}");
        let mut upload = host.node.begin(&["cp", "-", &target]);
        upload.write(&[b'n'; 1_000_000]);
        // Not visible before its end.
        let seen = host
            .node
            .sh("web1", "ls -A /tmp/broken; cat /tmp/broken/kept");
        assert!(seen.ends_with("kept\nold"), "{seen}");
        drop(upload);
    }
    wait_until("nothing to be left", 20, || {
        host.node
            .sh("web1", "ls -A /tmp/broken; cat /tmp/broken/kept")
            == "kept\nold"
    });
    wait_until("the writers to be gone", 20, || {
        // The keeper of this very command has the agent's name for pidof.
        let line = "grep -ls ^quantix-kvm-age /proc/[0-9]*/comm | wc -l";
        host.node.sh("web1", line) == "1"
    });
}

#[test]
fn a_copy_goes_through_pipes_in_both_directions() {
    let host = shared();
    let source = local(&host, "piped", 700_000);
    let words = ["cp", "-", "web1:/tmp/piped"];
    let mut cat = Command::new("cat")
        .arg(&source)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    host.node.cli_with(&words, cat.stdout.take().unwrap()).ok();
    cat.wait().unwrap();
    let back = host.node.cli(&["cp", "web1:/tmp/piped", "-"]).ok();
    assert!(back == fs::read(&source).unwrap());
    // A reader that has enough ends the copy without a word.
    let mut partly = host.node.begin(&["cat", "web1", "/tmp/piped"]);
    assert_eq!(partly.read(10), back[..10]);
    partly.close_output();
    let out = partly.finish();
    assert_eq!((out.status, &out.stderr[..]), (0, ""));
}

#[test]
fn names_with_blanks_and_other_alphabets_are_names() {
    let host = shared();
    let path = "/tmp/a b:c'd\"ø日本 \n$x";
    put(&host, &[], b"here", path).ok();
    assert_eq!(host.node.cli(&["cat", "web1", path]).text(), "here");
    host.node.cli(&["exec", "web1", "--", "rm", path]).ok();
}
