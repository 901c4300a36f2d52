//! What a tree is after the way through an archive, and what hostile archives cannot do.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::super::random;
use super::super::sys::tree as sys;
use super::pack::pack;
use super::unpack::{Order, Unpack};
use crate::archive::{self, Decoder, MAX_DEPTH, PIECE};
use crate::error::Failure;
use crate::message::agent::{Timestamp, TreeKind, TreeRecord};

/// A directory that goes away.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("qx-tree-{:x}", random::number()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn list(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.0, &self.0, &mut found);
        found.sort();
        found
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn walk(root: &Path, at: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
        let path = entry.path();
        found.push(path.strip_prefix(root).unwrap().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, found);
        }
    }
}

fn packed(source: &Path, recursive: bool) -> Vec<TreeRecord> {
    let mut records = Vec::new();
    pack(source, recursive, &|_| Ok(()), &mut |record| {
        // Through bytes, as on the way.
        let mut bytes = Vec::new();
        assert!(archive::encode(&record, &mut bytes));
        let mut decoder = Decoder::default();
        decoder.extend(&bytes);
        records.push(decoder.take().unwrap().unwrap());
        Ok(())
    })
    .unwrap();
    records
}

fn order(target: &Path) -> Order {
    Order {
        target: target.to_owned(),
        into: false,
        root: None,
        preserve: false,
        parents: false,
    }
}

/// What could not be made, of an archive that was unpacked to its end.
fn unpacked(order: Order, records: &[TreeRecord]) -> Result<Vec<String>, Failure> {
    let mut problems = Vec::new();
    let mut report = |failure: Failure| problems.push(failure.message);
    let mut unpack = Unpack::new(order, &mut report)?;
    for record in records {
        unpack.apply(record.clone())?;
    }
    unpack.apply(archive::end())?;
    unpack.finish()?;
    drop(unpack);
    Ok(problems)
}

fn entry(kind: TreeKind, path: &str, data: &str) -> TreeRecord {
    TreeRecord {
        kind: kind.into(),
        path: path.into(),
        mode: 0o755,
        data: data.into(),
        size: data.len() as u64,
        last: kind == TreeKind::File,
        ..Default::default()
    }
}

const DIRECTORY: TreeKind = TreeKind::Directory;
const FILE: TreeKind = TreeKind::File;
const LINK: TreeKind = TreeKind::Symlink;

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let dir = Dir::new();
    let from = dir.0.join("from");
    fs::create_dir_all(from.join("empty")).unwrap();
    fs::create_dir_all(from.join("read-only/deep")).unwrap();
    fs::write(from.join("none"), "").unwrap();
    fs::write(from.join("line\n\x1b[31m"), "text").unwrap();
    fs::write(from.join("read-only/deep/large"), vec![7; 3 * PIECE + 1]).unwrap();
    fs::set_permissions(from.join("none"), Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(from.join("read-only"), Permissions::from_mode(0o555)).unwrap();
    symlink("../no/such", from.join("link")).unwrap();
    let file = fs::File::open(from.join("none")).unwrap();
    sys::set_modified(&file, 1_000_000, 5).unwrap();
    let empty = fs::File::open(from.join("empty")).unwrap();
    sys::set_modified(&empty, 2_000_000, 6).unwrap();
    let deep = fs::File::open(from.join("read-only/deep")).unwrap();
    sys::set_modified(&deep, 3_000_000, 7).unwrap();
    drop(file);
    let records = packed(&from, true);
    let to = dir.0.join("to");
    assert!(unpacked(order(&to), &records).unwrap().is_empty());

    let of = |name: &str| fs::symlink_metadata(to.join(name)).unwrap();
    assert_eq!(of("none").mode() & 0o7777, 0o751);
    assert_eq!(
        (of("none").mtime(), of("none").mtime_nsec()),
        (1_000_000, 5)
    );
    assert_eq!(
        (of("empty").mtime(), of("empty").mtime_nsec()),
        (2_000_000, 6)
    );
    assert_eq!(
        (
            of("read-only/deep").mtime(),
            of("read-only/deep").mtime_nsec()
        ),
        (3_000_000, 7)
    );
    assert_eq!(of("read-only").mode() & 0o7777, 0o555);
    assert_eq!(
        fs::read(to.join("read-only/deep/large")).unwrap(),
        [7; 3 * PIECE + 1]
    );
    assert_eq!(fs::read(to.join("line\n\x1b[31m")).unwrap(), b"text");
    assert_eq!(
        fs::read_link(to.join("link")).unwrap(),
        Path::new("../no/such")
    );
    // Again, into the directory that is there now: under the source's own name.
    assert!(unpacked(order(&to), &records).unwrap().is_empty());
    assert_eq!(fs::read(to.join("from/line\n\x1b[31m")).unwrap(), b"text");
    let exact = Order {
        preserve: true,
        ..order(&dir.0.join("exact"))
    };
    assert!(unpacked(exact, &records).unwrap().is_empty());
    let mode = fs::metadata(dir.0.join("exact/none")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o4751);
}

#[test]
fn a_source_without_a_name_gives_its_content() {
    let dir = Dir::new();
    fs::create_dir(dir.0.join("from")).unwrap();
    fs::write(dir.0.join("from/a"), "a").unwrap();
    let records = packed(&dir.0.join("from/."), true);
    let to = dir.0.join("to");
    for _ in 0..2 {
        assert!(unpacked(order(&to), &records).unwrap().is_empty());
    }
    assert_eq!(dir.list(), ["from", "from/a", "to", "to/a"]);
}

#[test]
fn holes_stay_holes() {
    let dir = Dir::new();
    let (from, to) = (dir.0.join("from"), dir.0.join("to"));
    let file = fs::File::create(&from).unwrap();
    file.write_all_at(b"needle", 700 << 20).unwrap();
    file.set_len(1 << 30).unwrap();
    let records = packed(&from, false);
    let bytes: usize = records.iter().map(|record| record.data.len()).sum();
    assert!(bytes <= 1 << 20, "{bytes} bytes for a needle");
    assert!(unpacked(order(&to), &records).unwrap().is_empty());
    let meta = fs::metadata(&to).unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() * 512 <= 1 << 20);
    let mut needle = [0; 8];
    fs::File::open(&to)
        .unwrap()
        .read_exact_at(&mut needle, (700 << 20) - 1)
        .unwrap();
    assert_eq!(&needle, b"\0needle\0");
}

#[test]
fn no_archive_writes_outside_of_its_target() {
    let dir = Dir::new();
    fs::create_dir_all(dir.0.join("outside/inner")).unwrap();
    fs::create_dir(dir.0.join("to")).unwrap();
    let before = dir.list();
    for path in [
        "../evil",
        "/tmp/evil",
        "a/../../evil",
        "..",
        ".",
        "a//b",
        "a\0",
        "a/",
    ] {
        for kind in [DIRECTORY, FILE, LINK] {
            let records = [entry(DIRECTORY, "a", ""), entry(kind, path, "x")];
            assert!(
                unpacked(order(&dir.0.join("to")), &records).is_err(),
                "{path:?}"
            );
        }
    }
    fs::remove_dir(dir.0.join("to/a")).unwrap();
    assert_eq!(dir.list(), before);

    // Through links that the archive itself has made, to a directory and to a file.
    fs::write(dir.0.join("outside/file"), "kept").unwrap();
    let outside = dir.0.join("outside");
    let through = [
        entry(LINK, "door", outside.to_str().unwrap()),
        entry(DIRECTORY, "door", ""),
        entry(FILE, "door/evil", "evil"),
        entry(DIRECTORY, "door/inner", ""),
        entry(FILE, "door/inner/evil", "evil"),
        entry(LINK, "file", "../outside/file"),
        entry(FILE, "file", "evil"),
    ];
    let problems = unpacked(order(&dir.0.join("to")), &through).unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].ends_with("to/door: Not a directory"),
        "{problems:?}"
    );
    // Without the record that would have opened it.
    let skipped = [through[0].clone(), through[2].clone()];
    assert!(unpacked(order(&dir.0.join("to")), &skipped).is_err());
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"kept");
    assert_eq!(fs::read(dir.0.join("to/file")).unwrap(), b"evil");
    assert_eq!(
        dir.list(),
        [
            "outside",
            "outside/file",
            "outside/inner",
            "to",
            "to/door",
            "to/file"
        ]
    );
}

#[test]
fn a_root_has_the_name_that_was_asked_for() {
    let dir = Dir::new();
    let asked = Order {
        root: Some(b"asked".to_vec()),
        ..order(&dir.0)
    };
    for records in [
        &[entry(FILE, "other", "x")][..],
        &[entry(DIRECTORY, "", "")],
        &[entry(DIRECTORY, "asked", ""), entry(FILE, "other", "x")],
    ] {
        assert!(unpacked(asked.clone(), records).is_err());
    }
    assert_eq!(dir.list(), ["asked"]);
    let fine = [
        entry(DIRECTORY, "asked", ""),
        entry(FILE, "asked/other", "x"),
    ];
    assert!(unpacked(asked, &fine).unwrap().is_empty());
}

#[test]
fn records_in_no_order_are_no_archive() {
    let dir = Dir::new();
    let half = TreeRecord {
        last: false,
        ..entry(FILE, "half", "x")
    };
    let data = TreeRecord {
        path: Vec::new(),
        ..entry(TreeKind::Data, "", "x")
    };
    for records in [
        &[entry(FILE, "a/b", "x")][..],
        std::slice::from_ref(&data),
        std::slice::from_ref(&half),
        &[half.clone(), entry(FILE, "other", "x")],
        &[archive::end(), entry(FILE, "late", "x")],
        &[TreeRecord::default()],
    ] {
        assert!(unpacked(order(&dir.0), records).is_err());
    }
    assert!(dir.list().is_empty(), "{:?}", dir.list());
    // A file that is not whole is not there, and the rest is.
    let problem = entry(TreeKind::Problem, "half", "");
    let records = [half, problem, entry(FILE, "whole", "x")];
    assert!(unpacked(order(&dir.0), &records).unwrap().is_empty());
    assert_eq!(dir.list(), ["whole"]);
    let deep = vec!["d"; MAX_DEPTH + 1].join("/");
    assert!(unpacked(order(&dir.0), &[entry(DIRECTORY, &deep, "")]).is_err());
}

#[test]
fn no_temporary_name_stays_where_files_need_one() {
    let dir = Dir::new();
    fs::write(dir.0.join("old"), "old").unwrap();
    let half = |path| TreeRecord {
        last: false,
        ..entry(FILE, path, "x")
    };
    let mut report = |failure: Failure| panic!("{failure}");
    let named = Unpack::new(order(&dir.0), &mut report).unwrap();
    let mut unpack = named.with_names();
    unpack.apply(entry(FILE, "old", "new")).unwrap();
    unpack.apply(half("given-up")).unwrap();
    assert_eq!(dir.list().len(), 2, "it has a name while it is written");
    unpack
        .apply(entry(TreeKind::Problem, "given-up", ""))
        .unwrap();
    assert_eq!(dir.list(), ["old"]);
    unpack.apply(half("cut-off")).unwrap();
    drop(unpack);
    assert_eq!(dir.list(), ["old"]);
    assert_eq!(fs::read(dir.0.join("old")).unwrap(), b"new");
}

#[test]
fn what_cannot_be_made_is_named_and_the_rest_is_made() {
    let dir = Dir::new();
    fs::create_dir_all(dir.0.join("to/tree/is-directory")).unwrap();
    fs::write(dir.0.join("to/tree/is-file"), "kept").unwrap();
    let records = [
        entry(DIRECTORY, "tree", ""),
        entry(FILE, "tree/is-directory", "x"),
        entry(DIRECTORY, "tree/is-file", ""),
        entry(FILE, "tree/is-file/below", "x"),
        TreeRecord {
            last: false,
            ..entry(FILE, &format!("tree/{}", "n".repeat(256)), "x")
        },
        TreeRecord {
            last: true,
            ..entry(TreeKind::Data, "", "")
        },
        entry(FILE, "tree/rest", "x"),
    ];
    let problems = unpacked(order(&dir.0.join("to")), &records).unwrap();
    assert!(
        problems[0].ends_with("to/tree/is-directory: Is a directory"),
        "{problems:?}"
    );
    assert!(
        problems[1].ends_with("to/tree/is-file: Not a directory"),
        "{problems:?}"
    );
    assert!(
        problems[2].ends_with("nnn: File name too long"),
        "{problems:?}"
    );
    assert_eq!(problems.len(), 3);
    assert_eq!(
        dir.list(),
        [
            "to",
            "to/tree",
            "to/tree/is-directory",
            "to/tree/is-file",
            "to/tree/rest"
        ]
    );
    assert_eq!(fs::read(dir.0.join("to/tree/is-file")).unwrap(), b"kept");
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_packed() {
    let dir = Dir::new();
    let from = dir.0.join("from");
    fs::create_dir(&from).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    fs::write(from.join("file"), "x").unwrap();
    let records = packed(&from, true);
    let problem = records
        .iter()
        .find(|r| r.kind() == TreeKind::Problem)
        .unwrap();
    assert!(
        problem
            .message
            .ends_with("/from/socket: Is a socket, not a file; skipped")
    );
    assert_eq!(records.len(), 3);
    let message = |path: &Path, recursive| packed(path, recursive)[0].message.clone();
    assert!(message(&from, false).ends_with("/from: Is a directory; copy it with -r"));
    assert!(message(&dir.0.join("none"), true).ends_with("/none: No such file or directory"));
    assert!(message(&from.join("file/x"), true).ends_with("/file/x: Not a directory"));
}

#[test]
fn a_file_that_changes_under_the_reader_is_told_of() {
    let dir = Dir::new();
    let from = dir.0.join("file");
    fs::write(&from, vec![1; 4 * PIECE]).unwrap();
    let mut records = Vec::new();
    let mut shrink = |record: TreeRecord| {
        if records.is_empty() {
            fs::File::options()
                .write(true)
                .open(&from)
                .unwrap()
                .set_len(10)?;
        }
        records.push(record);
        io::Result::Ok(())
    };
    pack(&from, false, &|_| Ok(()), &mut shrink).unwrap();
    assert!(records.iter().all(|record| !record.last));
    let last = records.last().unwrap();
    assert!(
        last.message
            .ends_with("shrank while it was read; copy it again"),
        "{last:?}"
    );

    fs::write(&from, vec![1; 2 * PIECE]).unwrap();
    let mut records = Vec::new();
    let mut grow = |record: TreeRecord| {
        if records.is_empty() {
            fs::File::options()
                .write(true)
                .open(&from)
                .unwrap()
                .set_len(1 << 20)?;
        }
        records.push(record);
        io::Result::Ok(())
    };
    pack(&from, false, &|_| Ok(()), &mut grow).unwrap();
    let [.., last, problem] = &records[..] else {
        panic!("{records:?}")
    };
    assert!(last.last && last.size == 2 * PIECE as u64);
    assert!(problem.message.contains("changed while it was read"));
}

#[test]
fn a_file_under_sys_ends_before_its_size_and_proc_has_none() {
    for path in [
        "/proc/version",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ] {
        let records = packed(Path::new(path), false);
        let found: Vec<u8> = records
            .iter()
            .flat_map(|record| record.data.clone())
            .collect();
        assert_eq!(found, fs::read(path).unwrap(), "{path}");
        assert!(
            records
                .iter()
                .any(|record| record.last && record.size == found.len() as u64)
        );
    }
}

#[test]
fn times_before_1970_are_times() {
    let dir = Dir::new();
    let old = Some(Timestamp {
        seconds: -1,
        nanos: 7,
    });
    let records = [TreeRecord {
        modified_at: old,
        ..entry(FILE, "old", "x")
    }];
    assert!(unpacked(order(&dir.0), &records).unwrap().is_empty());
    let meta = fs::metadata(dir.0.join("old")).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-1, 7));
}
