use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use quantix::archive::{self, Decoder};
use quantix::limits::{CHUNK, STREAM_WINDOW};
use quantix::message::agent::{Tree, TreeKind, TreeRecord, TreeResponse};
use quantix::message::{Body, agent};

use crate::util::agent::{Agent, Talk, read_file, write_file};
use crate::util::{is_root, noise, until_so};

fn tree(path: &str) -> Tree {
    Tree {
        path: path.into(),
        recursive: true,
        ..Default::default()
    }
}

fn entry(kind: TreeKind, path: &str, data: &[u8]) -> TreeRecord {
    TreeRecord {
        kind: kind.into(),
        path: path.into(),
        mode: 0o755,
        data: data.to_vec(),
        size: data.len() as u64,
        last: kind == TreeKind::File,
        ..Default::default()
    }
}

/// Unpacks these records and an end; the agent's last word.
fn unpack(talk: &mut Talk, request: Tree, records: &[TreeRecord]) -> Body {
    let mut bytes = Vec::new();
    for record in records.iter().chain([&archive::end()]) {
        assert!(archive::encode(record, &mut bytes));
    }
    let mut answer = talk.ask("w", Body::WriteTree(request));
    let (mut at, mut allowed) = (0, 0);
    while let Body::Credit(credit) = answer {
        allowed = allowed.max(usize::try_from(credit.bytes).unwrap());
        while at < bytes.len() && at < allowed {
            let end = bytes.len().min(allowed).min(at + CHUNK);
            talk.chunk("w", at, &bytes[at..end], end == bytes.len());
            at = end;
        }
        answer = talk.answer("w");
    }
    answer
}

#[track_caller]
fn made(answer: Body) -> TreeResponse {
    match answer {
        Body::WriteTreeResponse(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn pack(talk: &mut Talk, request: Tree) -> (Vec<TreeRecord>, TreeResponse) {
    talk.send("r", Body::ReadTree(request));
    let (mut decoder, mut records, mut came) = (Decoder::default(), Vec::new(), 0);
    loop {
        talk.credit("r", came + STREAM_WINDOW);
        match talk.answer("r") {
            Body::StreamChunk(chunk) => {
                assert_eq!(chunk.offset, came);
                came += chunk.data.len() as u64;
                decoder.extend(&chunk.data);
                while let Some(record) = decoder.take().unwrap() {
                    records.push(record);
                }
            }
            Body::ReadTreeResponse(answer) => return (records, answer),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn who_watches_is_told_how_much_is_to_come() {
    let (agent, mut talk) = Agent::ready();
    fs::create_dir_all(agent.dir.join("from/deep")).unwrap();
    agent.dir.file("from/one", noise(100_000));
    agent.dir.file("from/deep/two", noise(23_456));
    // A hole is not sent.
    let sparse = fs::File::create(agent.dir.join("from/sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    symlink("one", agent.dir.join("from/link")).unwrap();
    let watched = Tree {
        measure: true,
        ..tree(&agent.dir.text("from"))
    };
    let (records, answer) = pack(&mut talk, watched);
    assert_eq!(
        (records[0].kind(), records[0].size),
        (TreeKind::Total, 123_456)
    );
    assert_eq!((answer.entries, answer.bytes), (6, 123_456));
    let (records, answer) = pack(&mut talk, tree(&agent.dir.text("from")));
    assert_eq!(records[0].kind(), TreeKind::Directory);
    assert_eq!(answer.entries, 6);
}

#[test]
fn a_tree_goes_out_and_comes_back() {
    let (agent, mut talk) = Agent::ready();
    let bytes = noise(1_000_000);
    fs::create_dir_all(agent.dir.join("from/empty")).unwrap();
    agent.dir.file("from/large", &bytes);
    agent.dir.file("from/none", "");
    symlink("large", agent.dir.join("from/link")).unwrap();
    fs::set_permissions(
        agent.dir.join("from/none"),
        fs::Permissions::from_mode(0o4711),
    )
    .unwrap();
    let (mut records, answer) = pack(&mut talk, tree(&agent.dir.text("from")));
    assert_eq!(
        (answer.entries, answer.bytes, answer.problems),
        (5, 1_000_000, 0)
    );
    assert_eq!(records.pop().unwrap().kind(), TreeKind::End);
    let answer = made(unpack(&mut talk, tree(&agent.dir.text("to")), &records));
    assert_eq!(
        (answer.entries, answer.bytes, answer.problems),
        (5, 1_000_000, 0)
    );
    assert!(fs::read(agent.dir.join("to/large")).unwrap() == bytes);
    let mode = fs::metadata(agent.dir.join("to/none")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o711);
    assert_eq!(agent.dir.list("to"), ["empty", "large", "link", "none"]);
    talk.assert_alive();
}

#[test]
fn an_owner_is_kept_where_that_is_asked_for() {
    let (agent, mut talk) = Agent::ready();
    if !is_root() {
        return;
    }
    let alice = TreeRecord {
        uid: 4242,
        gid: 4343,
        mode: 0o6755,
        ..entry(TreeKind::File, "a", b"x")
    };
    let to = |name: &str, preserve| Tree {
        preserve,
        ..tree(&agent.dir.text(name))
    };
    made(unpack(
        &mut talk,
        to("exact", true),
        std::slice::from_ref(&alice),
    ));
    made(unpack(
        &mut talk,
        to("plain", false),
        std::slice::from_ref(&alice),
    ));
    let of = |name: &str| {
        let meta = fs::metadata(agent.dir.join(name)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!(of("exact"), (4242, 4343, 0o6755));
    assert_eq!(of("plain"), (0, 0, 0o755));
    // What is replaced stays its owner's.
    let plain = entry(TreeKind::File, "a", b"y");
    made(unpack(&mut talk, to("exact", false), &[plain]));
    assert_eq!(of("exact"), (4242, 4343, 0o755));
}

#[test]
fn an_archive_cannot_leave_its_target() {
    let (agent, mut talk) = Agent::ready();
    fs::create_dir(agent.dir.join("to")).unwrap();
    let kept = agent.dir.file("kept", "kept");
    let before = agent.dir.list("");
    for path in ["../evil", "/tmp/qx-evil", "a/../../evil", "a//b", ".."] {
        let records = [
            entry(TreeKind::Directory, "a", b""),
            entry(TreeKind::File, path, b"evil"),
        ];
        match unpack(&mut talk, tree(&agent.dir.text("to")), &records) {
            Body::Error(error) => assert_eq!(error.code, "INVALID"),
            other => panic!("{path}: {other:?}"),
        }
    }
    let records = [
        entry(TreeKind::Symlink, "up", b".."),
        entry(TreeKind::Directory, "up", b""),
        entry(TreeKind::File, "up/evil", b"evil"),
        entry(TreeKind::Symlink, "file", kept.as_bytes()),
        entry(TreeKind::File, "file", b"evil"),
    ];
    let answer = made(unpack(&mut talk, tree(&agent.dir.text("to")), &records));
    assert_eq!((answer.problems, answer.entries), (1, 3));
    assert!(answer.lines[0].ends_with("to/up: Not a directory"));
    assert_eq!(agent.dir.list("").len(), before.len());
    assert_eq!(fs::read(kept).unwrap(), b"kept");
    talk.assert_alive();
}

#[test]
fn a_tree_that_is_broken_off_leaves_no_part_of_a_file() {
    let (agent, mut talk) = Agent::ready();
    fs::create_dir(agent.dir.join("to")).unwrap();
    let begin = |talk: &mut Talk, id: &str| {
        let request = tree(&agent.dir.text("to"));
        assert!(matches!(
            talk.ask(id, Body::WriteTree(request)),
            Body::Credit(_)
        ));
        let mut bytes = Vec::new();
        let half = TreeRecord {
            last: false,
            ..entry(TreeKind::File, "half", &[7; 20_000])
        };
        let whole = entry(TreeKind::File, "whole", b"x");
        assert!(archive::encode(&whole, &mut bytes) && archive::encode(&half, &mut bytes));
        talk.chunk(id, 0, &bytes, false);
        // An old kernel has the half one under another name beside it.
        until_so("the first file", || {
            agent.dir.list("to").iter().any(|name| name == "whole")
        });
    };
    begin(&mut talk, "c");
    talk.send("c", Body::Cancel(agent::Cancel {}));
    assert_eq!(talk.refusal("c").0, "CANCELLED");
    assert_eq!(agent.dir.list("to"), ["whole"]);
    // An archive that only ends.
    begin(&mut talk, "e");
    talk.chunk("e", 20_000, b"", true);
    assert_eq!(talk.refusal("e").0, "INVALID");
    assert_eq!(agent.dir.list("to"), ["whole"]);
    // The agent itself.
    begin(&mut talk, "k");
    agent.process.signal("KILL");
    until_so("no writer", || agent.dir.list("to") == ["whole"]);
}

#[test]
fn a_partial_file_is_summed_and_gone_on_with() {
    let (agent, mut talk) = Agent::ready();
    let bytes = noise(100_000);
    fs::create_dir(agent.dir.join("to")).unwrap();
    let target = agent.dir.text("to/file");
    let partial = |name: &str| agent::ReadFile {
        checksum: true,
        partial: true,
        name: name.into(),
        ..read_file(&agent.dir.text("to"))
    };
    let (code, _) = talk.refused("r", Body::ReadFile(partial("file")));
    assert_eq!(code, "NOT_FOUND");
    let resume = |from| agent::WriteFile {
        resume: true,
        resume_from: from,
        ..write_file(&target)
    };
    talk.begin_write("w", resume(0));
    talk.chunk("w", 0, &bytes[..30_000], false);
    until_so("what was sent", || {
        fs::metadata(agent.dir.join("to/.file.qx-partial")).is_ok_and(|meta| meta.len() == 30_000)
    });
    talk.send("w", Body::Cancel(agent::Cancel {}));
    assert_eq!(talk.refusal("w").0, "CANCELLED");
    assert_eq!(agent.dir.list("to"), [".file.qx-partial"]);
    let (none, answer) = talk.read("r", partial("file"));
    assert!(none.is_empty());
    let sum = archive::checksum(archive::CHECKSUM, &bytes[..30_000]);
    assert_eq!((answer.total_size, answer.checksum), (30_000, sum));
    assert!(matches!(
        talk.write("w", resume(30_000), &bytes[30_000..]),
        Body::WriteFileResponse(_)
    ));
    assert!(fs::read(&target).unwrap() == bytes);
    assert_eq!(agent.dir.list("to"), ["file"]);
}

#[test]
fn a_device_and_a_fifo_are_read_only_if_they_are_meant() {
    let (agent, mut talk) = Agent::ready();
    let fifo = agent.dir.text("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    assert_eq!(
        talk.refused("r", Body::ReadFile(read_file(&fifo))).0,
        "INVALID"
    );
    let special = |path: &str| agent::ReadFile {
        special: true,
        length: 5000,
        ..read_file(path)
    };
    let (bytes, _) = talk.read("d", special("/dev/zero"));
    assert!(bytes == [0; 5000]);
    let writer = {
        let fifo = fifo.clone();
        crate::util::beside(move || fs::write(fifo, "from the writer").unwrap())
    };
    let (bytes, answer) = talk.read("f", special(&fifo));
    writer.join().unwrap();
    assert_eq!(bytes, b"from the writer");
    assert!(!answer.changed);
    // One that nobody writes to blocks nobody, and is let go.
    talk.send("b", Body::ReadFile(special(&fifo)));
    talk.assert_alive();
    talk.send("b", Body::Cancel(agent::Cancel {}));
    assert_eq!(talk.refusal("b").0, "CANCELLED");
}
