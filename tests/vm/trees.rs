//! Trees into a guest that is well, and out of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::harness::{shared, wait_until};

#[test]
fn a_tree_goes_into_a_guest_and_comes_back() {
    let host = shared();
    let sh = |line: &str| host.node.sh("web1", line);
    let from = host.place.file("tree");
    fs::create_dir_all(from.join("deep/empty")).unwrap();
    fs::write(from.join("deep/file\n\x1b[31m"), vec![7; 100_000]).unwrap();
    fs::write(from.join("tool"), "x").unwrap();
    fs::set_permissions(from.join("tool"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("tool", from.join("link")).unwrap();
    sh("rm -rf /tmp/trees; mkdir /tmp/trees");
    let from = from.to_str().unwrap();
    host.node
        .cli(&["cp", "-r", from, "web1:/tmp/trees/new"])
        .ok();
    let said = sh("cd /tmp/trees/new; stat -c %a tool; readlink link; stat -c %s deep/file*");
    assert_eq!(said, "751\ntool\n100000");
    host.node
        .cli(&["cp", "-rp", from, "web1:/tmp/trees/exact"])
        .ok();
    assert_eq!(sh("stat -c %a /tmp/trees/exact/tool"), "4751");
    let back = host.place.file("tree-back");
    let words = ["cp", "-r", "web1:/tmp/trees/new", back.to_str().unwrap()];
    host.node.cli(&words).ok();
    let bytes = fs::read(back.join("deep/file\n\x1b[31m")).unwrap();
    assert!(bytes == [7; 100_000]);
    assert!(back.join("deep/empty").is_dir());
    sh("rm -rf /tmp/trees");
}

#[test]
fn a_full_disk_and_a_killed_client_leave_no_part_of_a_file() {
    let host = shared();
    let sh = |line: &str| host.node.sh("web1", line);
    let from = host.place.file("full");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("large"), vec![7; 8 << 20]).unwrap();
    let from = from.to_str().unwrap();
    sh("mkdir -p /mnt/tree; mount -t tmpfs -o size=1m tmpfs /mnt/tree");
    let out = host.node.cli(&["cp", "-r", from, "web1:/mnt/tree/t"]);
    out.failed(
        1,
        &["/mnt/tree/t/large", "No space left on device", "make room"],
    );
    assert_eq!(sh("ls -A /mnt/tree/t; umount /mnt/tree"), "");
    drop(host.node.begin(&["cp", "-r", from, "web1:/tmp/killed"]));
    wait_until("the writer to be gone", 20, || {
        sh("grep -ls ^quantix-kvm-age /proc/[0-9]*/comm | wc -l") == "1"
    });
    let left = sh("ls -A /tmp/killed 2>/dev/null | grep -v '^large$'; rm -rf /tmp/killed");
    assert_eq!(left, "");
}
