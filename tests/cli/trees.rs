use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::util::node::{Node, Vm};
use crate::util::{Running, is_root, noise, stopwatch, until_so};

fn node() -> (Node, Vm) {
    Node::with_vm("vm")
}

/// What find(1) sees in a tree: kind, mode, size, time and target of each entry.
fn shape(root: &Path) -> Vec<(String, u32, u64, i64, i64)> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut name = format!("{:?}", path.strip_prefix(root).unwrap());
        if meta.is_symlink() {
            name += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        }
        let size = if meta.is_dir() { 0 } else { meta.len() };
        found.push((name, meta.mode(), size, meta.mtime(), meta.mtime_nsec()));
        if meta.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    found.sort();
    found
}

fn plant(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("none"), "").unwrap();
    fs::write(root.join("deep/er/file"), noise(300_000)).unwrap();
    fs::write(root.join("line\n\x1b[31mred"), "odd").unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"latin-\xE9")), "odd").unwrap();
    symlink("/etc/shadow", root.join("absolute")).unwrap();
    symlink("no/such", root.join("dangling")).unwrap();
    fs::set_permissions(root.join("deep"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o500)).unwrap();
    let file = fs::File::options()
        .write(true)
        .open(root.join("none"))
        .unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    file.set_modified(old).unwrap();
    fs::set_permissions(root.join("none"), fs::Permissions::from_mode(0o400)).unwrap();
}

#[test]
fn a_tree_goes_in_and_comes_back_as_it_was() {
    let (node, _vm) = node();
    let from = node.dir.join("from");
    fs::create_dir(&from).unwrap();
    plant(&from);
    let (inside, back) = (node.dir.text("inside"), node.dir.text("back"));
    let from_text = node.dir.text("from");
    let said = node.run(&["cp", "-r", &from_text, &format!("vm:{inside}")]);
    assert_eq!((said.fine(), said.stderr.as_str()), ("", ""));
    assert_eq!(shape(Path::new(&inside)), shape(&from));
    node.run(&["cp", "-r", &format!("vm:{inside}"), &back])
        .fine();
    assert_eq!(shape(Path::new(&back)), shape(&from));
    // Into a directory that is there: under its own name, and over what is there, which keeps its
    // mode and time where it is a directory, unless both are asked for.
    for _ in 0..2 {
        let guest = format!("vm:{inside}");
        node.run(&["cp", "-rp", &from_text, &guest]).fine();
        node.run(&["cp", "-rp", &format!("{guest}/from"), &back])
            .fine();
    }
    assert_eq!(shape(&node.dir.join("inside/from")), shape(&from));
    assert_eq!(shape(&node.dir.join("back/from")), shape(&from));
    // What is in it, and not itself.
    let text = format!("{from_text}/.");
    node.run(&[
        "cp",
        "-r",
        &text,
        &format!("vm:{}", node.dir.text("content")),
    ])
    .fine();
    assert_eq!(shape(&node.dir.join("content")), shape(&from));
}

#[test]
fn several_sources_go_into_one_directory() {
    let (node, _vm) = node();
    let (a, b) = (node.dir.file("a", "a"), node.dir.file("b\n\x1b[31m", "b"));
    for name in ["in", "out"] {
        fs::create_dir(node.dir.join(name)).unwrap();
    }
    let (inside, out) = (node.dir.text("in"), node.dir.text("out"));
    let missing = node.dir.text("missing\x1b[2J");
    let said = node.run(&["cp", &a, &missing, &b, &format!("vm:{inside}")]);
    assert!(
        said.trouble(1)
            .ends_with(r"missing\x1b[2J: No such file or directory")
    );
    assert_eq!(node.dir.list("in"), ["a", "b\n\x1b[31m"]);
    let of = |path: &str| format!("vm:{path}");
    let said = node.run(&["cp", &of(&a), &of(&missing), &of(&b), &out]);
    assert!(
        said.trouble(1)
            .ends_with(r"missing\x1b[2J: No such file or directory")
    );
    assert_eq!(node.dir.list("out"), ["a", "b\n\x1b[31m"]);
    // Not into a file, and not into nothing.
    for target in [&a, &missing] {
        let into_guest = node.run(&["cp", &b, &b, &of(target)]);
        let from_guest = node.run(&["cp", &of(&b), &of(&b), target]);
        for said in [into_guest, from_guest] {
            let why = said.trouble(1);
            assert!(
                why.contains("Not a directory") || why.contains("No such file"),
                "{why}"
            );
        }
    }
}

#[test]
fn what_cannot_be_copied_is_named_and_the_rest_is_copied() {
    let (node, _vm) = node();
    fs::create_dir(node.dir.join("from")).unwrap();
    node.dir.file("from/fine", "fine");
    let fifo = node.dir.text("from/fi\x1bfo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let (from, inside, back) = (
        node.dir.text("from"),
        node.dir.text("in"),
        node.dir.text("back"),
    );
    let into_guest = node.run(&["cp", "-r", &from, &format!("vm:{inside}")]);
    let from_guest = node.run(&["cp", "-r", &format!("vm:{from}"), &back]);
    for said in [into_guest, from_guest] {
        assert!(
            said.trouble(1)
                .ends_with(r"from/fi\x1bfo: Is a FIFO, not a file; skipped")
        );
    }
    for name in ["in", "back"] {
        assert_eq!(node.dir.list(name), ["fine"]);
    }
    for words in [
        ["cp", &fifo, "vm:/tmp/x"],
        ["cp", &format!("vm:{fifo}"), "/tmp/x"],
    ] {
        let said = node.run(&words);
        let why = said.trouble(1);
        assert!(
            why.contains(r"fi\x1bfo: Is a FIFO, not a file; --device copies"),
            "{why}"
        );
    }
    // A directory is in a file's way, and a file in a directory's.
    fs::create_dir(node.dir.join("in/from")).unwrap();
    fs::create_dir(node.dir.join("in/from/fine")).unwrap();
    fs::remove_file(&fifo).unwrap();
    let said = node.run(&["cp", "-r", &from, &format!("vm:{inside}")]);
    assert!(
        said.trouble(1).contains("in/from/fine: Is a directory"),
        "{said:?}"
    );
    let said = node.run(&["cp", "-r", &from, &format!("vm:{inside}/fine")]);
    assert!(
        said.trouble(1).contains("in/fine: Not a directory"),
        "{said:?}"
    );
    let said = node.run(&["cp", "-r", &from, &format!("vm:{inside}/fine/x")]);
    assert!(
        said.trouble(1).contains("in/fine/x: Not a directory"),
        "{said:?}"
    );
}

#[test]
fn full_and_read_only_disks_say_what_to_do() {
    let (node, _vm) = node();
    if !is_root() {
        return;
    }
    fs::create_dir_all(node.dir.join("from")).unwrap();
    node.dir.file("from/large", vec![7; 4 << 20]);
    fs::create_dir(node.dir.join("small")).unwrap();
    let small = node.dir.text("small");
    let shell = |line: &str| {
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", line])
            .status();
        status.unwrap().success()
    };
    if !shell(&format!(
        "mount -t tmpfs -o size=1m none {small} 2>/dev/null"
    )) {
        return;
    }
    let from = node.dir.text("from");
    let both = || {
        let into_guest = node.run(&["cp", "-r", &from, &format!("vm:{small}/1")]);
        let from_guest = node.run(&["cp", "-r", &format!("vm:{from}"), &format!("{small}/2")]);
        [into_guest, from_guest]
    };
    let full = both();
    let left = [node.dir.list("small/1"), node.dir.list("small/2")];
    let mounted = shell(&format!("mount -o remount,ro {small}"));
    let read_only = both();
    assert!(shell(&format!("umount {small}")));
    for said in full {
        let why = said.trouble(1);
        assert!(
            why.contains("/large: No space left on device; make room there"),
            "{why}"
        );
    }
    assert!(left.iter().all(Vec::is_empty), "{left:?}");
    assert!(mounted);
    for said in read_only {
        assert_eq!(
            (
                said.status == 1 || said.status == 5,
                said.stderr.lines().count()
            ),
            (true, 1)
        );
        assert!(
            said.stderr
                .contains("Read-only file system; mount it writable"),
            "{said:?}"
        );
    }
}

#[test]
fn an_interrupted_copy_leaves_nothing_or_what_resume_goes_on_with() {
    let (node, _vm) = node();
    let bytes = noise(40 << 20);
    let source = node.dir.file("source", &bytes);
    fs::create_dir(node.dir.join("in")).unwrap();
    let inside = node.dir.text("in/file");
    let of = |path: &str| format!("vm:{path}");
    for (from, to) in [(source.clone(), of(&inside)), (of(&source), inside.clone())] {
        for options in [&["-p"][..], &[], &["--resume"]] {
            // A fifo holds the stream up in the middle: the copy is killed while it stands there.
            let words = [&["cp"], options, &[&from, &to]].concat();
            let mut copy = node.begin(&words);
            if options == ["--resume"] {
                until_so("some of it", || {
                    fs::metadata(node.dir.join("in/.file.qx-partial"))
                        .is_ok_and(|meta| meta.len() > 1 << 20)
                });
            }
            copy.kill();
            drop(copy);
            let kept: &[&str] = match options {
                ["--resume"] => &[".file.qx-partial"],
                _ => &[],
            };
            until_so("only what is kept", || {
                let found = node.dir.list("in");
                // It may have been quick enough.
                let _ = fs::remove_file(&inside);
                found == kept
            });
        }
        let partial = node.dir.join("in/.file.qx-partial");
        let had = fs::metadata(&partial).unwrap().ino();
        node.run(&["cp", "--resume", &from, &to]).fine();
        assert!(fs::read(&inside).unwrap() == bytes);
        assert_eq!(fs::metadata(&inside).unwrap().ino(), had);
        assert_eq!(node.dir.list("in"), ["file"]);
        fs::remove_file(&inside).unwrap();
        // What is there belongs to another source: it begins again.
        fs::write(
            &partial,
            noise(1000).iter().map(|b| b ^ 1).collect::<Vec<u8>>(),
        )
        .unwrap();
        node.run(&["cp", "--resume", &from, &to]).fine();
        assert!(fs::read(&inside).unwrap() == bytes);
        fs::remove_file(&inside).unwrap();
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let (node, _vm) = node();
    for words in [
        &["cp", "-r", "--resume", "a", "vm:/b"][..],
        &["cp", "-p", "--device", "a", "vm:/b"],
        &["cp", "--mode", "0600", "a", "b", "vm:/c"],
        &["cp", "-r", "-", "vm:/b"],
        &["cp", "-r", "vm:/a", "-"],
        &["cp", "--resume", "-", "vm:/a"],
        &["cp", "vm:/a", "vm:/b"],
        &["cp", "a", "vm:/a", "b"],
    ] {
        node.run(words).trouble(2);
    }
}

#[test]
fn zeros_become_holes_in_single_files_too() {
    let (node, _vm) = node();
    let source = node.dir.text("source");
    let file = fs::File::create(&source).unwrap();
    file.set_len(32 << 20).unwrap();
    let (inside, back) = (node.dir.text("inside"), node.dir.text("back"));
    node.run(&["cp", &source, &format!("vm:{inside}")]).fine();
    node.run(&["cp", &format!("vm:{inside}"), &back]).fine();
    for path in [&inside, &back] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!(meta.len(), 32 << 20);
        assert!(
            meta.blocks() * 512 < 1 << 20,
            "{path}: {} blocks",
            meta.blocks()
        );
    }
}

#[test]
fn ten_thousand_small_files_are_one_request() {
    let (node, _vm) = node();
    let count = std::env::var("QX_FILES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(10_000);
    for at in 0..count {
        if at % 1000 == 0 {
            fs::create_dir_all(node.dir.join(&format!("from/{}", at / 1000))).unwrap();
        }
        node.dir.file(&format!("from/{}/{at}", at / 1000), "small");
    }
    let (inside, back) = (node.dir.text("in"), node.dir.text("back"));
    let time = stopwatch();
    node.run(&["cp", "-r", &node.dir.text("from"), &format!("vm:{inside}")])
        .fine();
    let there = time();
    node.run(&["cp", "-r", &format!("vm:{inside}"), &back])
        .fine();
    eprintln!("{count} files: {there:?} in, {:?} out", time() - there);
    assert_eq!(
        shape(Path::new(&back)).len(),
        shape(&node.dir.join("from")).len()
    );
}

#[test]
fn the_bar_is_for_terminals_alone() {
    let (node, _vm) = node();
    let source = node.dir.file("sou\x1brce", noise(3 << 20));
    let remote = format!("vm:{}", node.dir.text("inside"));
    assert_eq!(node.run(&["cp", &source, &remote]).stderr, "");
    let mut command = std::process::Command::new("script");
    let line = format!(
        "'{}' cp '{source}' '{remote}'",
        env!("CARGO_BIN_EXE_qx-node")
    );
    command.args(["-qec", &line, "/dev/null"]);
    command
        .env("QX_NODE_SOCK", node.control())
        .env("TERM", "xterm");
    let Ok(_) = std::process::Command::new("script")
        .arg("--version")
        .output()
    else {
        return;
    };
    let said = Running::start(&mut command, b"").end();
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.text().contains(r"sou\x1brce"), "{said:?}");
    assert!(said.text().contains("MiB"), "{said:?}");
}
