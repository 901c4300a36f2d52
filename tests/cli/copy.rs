use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use crate::util::node::{Node, direct, run};
use crate::util::{Running, is_root, noise, signal, until_so};

#[test]
fn files_come_and_go_whole_and_with_their_mode() {
    let (node, _vm) = Node::with_vm("vm");
    for size in [0, 1, 1 << 20] {
        let bytes = noise(size);
        let source = node.dir.file("source", &bytes);
        fs::set_permissions(&source, fs::Permissions::from_mode(0o751)).unwrap();
        let (inside, back) = (
            node.dir.text(&format!("inside-{size}")),
            node.dir.text(&format!("back-{size}")),
        );
        node.run(&["cp", &source, &format!("vm:{inside}")]).fine();
        assert!(fs::read(&inside).unwrap() == bytes, "{size}");
        node.run(&["cp", &format!("vm:{inside}"), &back]).fine();
        assert!(fs::read(&back).unwrap() == bytes, "{size}");
        for path in [&inside, &back] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o751);
        }
        let said = node.run(&["cat", "vm", &inside]);
        assert!(said.stdout == bytes && said.stderr.is_empty());
    }
}

#[test]
fn a_dash_is_stdin_and_stdout() {
    let (node, _vm) = Node::with_vm("vm");
    let bytes = noise(300_000);
    let inside = node.dir.text("inside");
    let remote = format!("vm:{inside}");
    let mut command = node.command(&["cp", "--mode", "0600", "-", &remote]);
    Running::start(&mut command, &bytes).end().fine();
    assert!(fs::read(&inside).unwrap() == bytes);
    assert_eq!(fs::metadata(&inside).unwrap().mode() & 0o7777, 0o600);
    assert!(node.run(&["cp", &remote, "-"]).stdout == bytes);
    assert!(
        node.run(&["cp", "-", "vm:/tmp/"])
            .trouble(2)
            .contains("stdin has no name")
    );
}

#[test]
fn a_directory_gets_the_file_under_its_own_name() {
    let (node, _vm) = Node::with_vm("vm");
    let source = node.dir.file("name", "content");
    fs::create_dir(node.dir.join("into")).unwrap();
    let into = node.dir.text("into");
    node.run(&["cp", &source, &format!("vm:{into}/")]).fine();
    assert_eq!(fs::read(node.dir.join("into/name")).unwrap(), b"content");
    fs::remove_file(node.dir.join("into/name")).unwrap();
    node.run(&["cp", &format!("vm:{source}"), &into]).fine();
    assert_eq!(fs::read(node.dir.join("into/name")).unwrap(), b"content");
    fs::remove_file(node.dir.join("into/name")).unwrap();
    node.run(&["cp", &source, &format!("vm:{into}")]).fine();
    assert_eq!(fs::read(node.dir.join("into/name")).unwrap(), b"content");
    let said = node.run(&["cp", "-", &format!("vm:{into}")]);
    assert!(
        said.trouble(1)
            .contains("into: Is a directory; give the file a name")
    );
    let said = node.run(&["cp", &into, "vm:/tmp/x"]);
    assert!(said.trouble(1).ends_with("Is a directory; copy it with -r"));
    let deep = node.dir.text("deep/er/file");
    let said = node.run(&["cp", &source, &format!("vm:{deep}")]);
    assert!(
        said.trouble(1)
            .ends_with("No such file or directory; --parents makes missing directories")
    );
    node.run(&["cp", "--parents", &source, &format!("vm:{deep}")])
        .fine();
    assert_eq!(fs::read(&deep).unwrap(), b"content");
}

#[test]
fn local_names_need_not_be_utf8_and_names_in_the_guest_must() {
    let (node, _vm) = Node::with_vm("vm");
    let odd = node.dir.path().join(OsStr::from_bytes(b"odd-\xFF"));
    fs::write(&odd, "odd").unwrap();
    let inside = node.dir.text("inside");
    let mut command = node.command(&["cp"]);
    command.arg(&odd).arg(format!("vm:{inside}"));
    Running::start(&mut command, b"").end().fine();
    assert_eq!(fs::read(&inside).unwrap(), b"odd");
    let back = node.dir.path().join(OsStr::from_bytes(b"back-\xFE"));
    let mut command = node.command(&["cp", &format!("vm:{inside}")]);
    Running::start(command.arg(&back), b"").end().fine();
    assert_eq!(fs::read(&back).unwrap(), b"odd");
    let mut command = node.command(&["cat", "vm"]);
    let said = Running::start(command.arg(&odd), b"").end();
    assert!(said.trouble(1).contains("not valid UTF-8"));
    let mut command = node.command(&["cp"]);
    fs::create_dir(node.dir.join("into")).unwrap();
    command
        .arg(&odd)
        .arg(format!("vm:{}", node.dir.text("into")));
    Running::start(&mut command, b"").end().fine();
    let found = fs::read_dir(node.dir.join("into")).unwrap().next();
    assert_eq!(found.unwrap().unwrap().file_name().as_bytes(), b"odd-\xFF");
}

#[test]
fn a_colon_behind_a_slash_belongs_to_a_local_name() {
    let (node, _vm) = Node::with_vm("vm");
    let source = node.dir.file("vm:name", "local");
    let inside = node.dir.text("inside:with:colons");
    node.run(&["cp", &source, &format!("vm:{inside}")]).fine();
    assert_eq!(fs::read(inside).unwrap(), b"local");
    assert!(run(&["cp", "vm:/a", "vm:/b"]).status != 0);
}

#[test]
fn a_target_is_kept_when_the_copy_fails() {
    let (node, _vm) = Node::with_vm("vm");
    let kept = node.dir.file("kept", "kept");
    let before = node.dir.list("");
    let missing = node.dir.text("missing");
    let said = node.run(&["cp", &format!("vm:{missing}"), &kept]);
    assert!(
        said.trouble(1)
            .contains(&format!("open {missing}: No such file or directory"))
    );
    let said = node.run(&["cp", &missing, &format!("vm:{kept}")]);
    assert!(
        said.trouble(1)
            .contains("missing: No such file or directory")
    );
    // A source that fails while it is read: nothing has been sent yet, or some of it.
    let said = node.run(&["cp", "/proc/self/mem", &format!("vm:{kept}")]);
    assert!(said.trouble(1).contains("Input/output error"));
    let said = node.run(&["cp", "vm:/proc/self/mem", &kept]);
    assert!(said.trouble(1).contains("Input/output error"));
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    assert_eq!(node.dir.list(""), before);
}

#[test]
fn a_target_that_exists_keeps_its_mode_and_its_link() {
    let (node, _vm) = Node::with_vm("vm");
    let source = node.dir.file("source", "new");
    let target = node.dir.file("target", "old");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    symlink("target", node.dir.join("link")).unwrap();
    node.run(&["cp", &format!("vm:{source}"), &node.dir.text("link")])
        .fine();
    assert_eq!(fs::read(&target).unwrap(), b"new");
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o600);
    assert!(
        fs::symlink_metadata(node.dir.join("link"))
            .unwrap()
            .is_symlink()
    );
}

#[test]
fn copies_work_without_a_daemon() {
    let (mut node, _vm) = Node::with_vm("vm");
    node.process.kill();
    let socket = direct(&node.socket("vm"));
    let bytes = noise(1 << 20);
    let source = node.dir.file("source", &bytes);
    let inside = node.dir.text("inside");
    run(&["cp", &socket, &source, &format!("vm:{inside}")]).fine();
    assert!(fs::read(&inside).unwrap() == bytes);
    assert!(run(&["cat", &socket, &inside]).stdout == bytes);
}

#[test]
fn an_interrupted_download_leaves_no_file_where_it_needs_a_name() {
    if !is_root() {
        return;
    }
    let (node, _vm) = Node::with_vm("vm");
    fs::create_dir(node.dir.join("to")).unwrap();
    let target = node.dir.file("to/target", "old");
    let own = node.command(&["cp", "--device", "vm:/dev/zero", &target]);
    // Without /proc a file without a name could not be given one.
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "umount -l /proc; exec \"$@\"", "sh"]);
    command.arg(own.get_program()).args(own.get_args());
    for (key, value) in own.get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    for number in ["INT", "TERM", "HUP"] {
        let running = Running::start(&mut command, b"");
        until_so("its file", || node.dir.list("to").len() == 2);
        signal(running.pid(), number);
        let said = running.end();
        let status = match number {
            "INT" => 130,
            "TERM" => 143,
            _ => 129,
        };
        assert_eq!(said.trouble(status), "qx-node: interrupted");
        assert_eq!(node.dir.list("to").len(), 1);
        assert_eq!(fs::read(&target).unwrap(), b"old");
    }
}
