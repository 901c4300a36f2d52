use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use quantix::limits::CHUNK;
use quantix::message::{Body, agent};

use crate::util::agent::{Agent, Talk, read_file, shell, write_file};
use crate::util::{is_confined, is_root, noise, until_so, workers};

/// The number of bytes written, of a write that has succeeded.
#[track_caller]
fn written(answer: Body) -> u64 {
    match answer {
        Body::WriteFileResponse(answer) => {
            assert!(answer.success);
            answer.bytes_written
        }
        other => panic!("{other:?}"),
    }
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn files_of_every_size_are_read_whole() {
    let (agent, mut talk) = Agent::ready();
    for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 256 * 1024, 3_000_000] {
        let bytes = noise(size);
        let path = agent.dir.file("file", &bytes);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
        let (found, answer) = talk.read("r", read_file(&path));
        assert!(found == bytes, "{size} bytes: others came");
        assert!(answer.success && answer.eof);
        assert_eq!(
            (answer.total_size, answer.offset),
            (size as u64, size as u64)
        );
        assert_eq!(answer.mode, 0o4751);
        let modified = fs::metadata(&path).unwrap().mtime();
        assert_eq!(answer.modified_at.unwrap().seconds, modified);
    }
}

#[test]
fn a_part_that_no_file_has_is_no_part_and_no_trouble() {
    let (agent, mut talk) = Agent::ready();
    let path = agent.dir.file("file", noise(1000));
    for (offset, length) in [
        (1000, u64::MAX),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (1 << 63, 1 << 63),
        (i64::MAX as u64, 2),
    ] {
        let request = agent::ReadFile {
            offset,
            length,
            chunk_size: u32::MAX,
            ..read_file(&path)
        };
        match talk.ask("r", Body::ReadFile(request)) {
            Body::ReadFileResponse(answer) => assert!(answer.eof && answer.data.is_empty()),
            Body::Error(error) => assert_eq!(error.code, "INVALID", "{error:?}"),
            other => panic!("{other:?}"),
        }
    }
    talk.assert_alive();
}

#[test]
fn a_part_of_a_file_is_read() {
    let (agent, mut talk) = Agent::ready();
    let bytes = noise(100_000);
    let path = agent.dir.file("file", &bytes);
    let mut part = |offset, length, chunk_size| {
        talk.read(
            "r",
            agent::ReadFile {
                offset,
                length,
                chunk_size,
                ..read_file(&path)
            },
        )
    };
    let (found, answer) = part(10, 50_000, 7000);
    assert!(found == bytes[10..50_010]);
    assert_eq!((answer.eof, answer.offset), (false, 50_010));
    let (found, answer) = part(99_990, 50, 0);
    assert!(found == bytes[99_990..]);
    assert_eq!((answer.eof, answer.offset), (true, 100_000));
    let (found, answer) = part(200_000, 0, 0);
    assert!(found.is_empty() && answer.eof);
}

#[test]
fn a_reader_sends_no_byte_more_than_its_credit() {
    let (agent, mut talk) = Agent::ready();
    let bytes = noise(400_000);
    let path = agent.dir.file("file", &bytes);
    talk.send(
        "r",
        Body::ReadFile(agent::ReadFile {
            chunk_size: 900,
            ..read_file(&path)
        }),
    );
    let mut found = Vec::new();
    // Without credit nothing comes: the next answer is another request's.
    talk.assert_alive();
    for credit in [1, 1000, 1001, 5000] {
        talk.credit("r", credit);
        while (found.len() as u64) < credit {
            let Body::StreamChunk(chunk) = talk.answer("r") else {
                panic!("no chunk");
            };
            assert!(chunk.data.len() <= 900);
            assert_eq!(chunk.offset, found.len() as u64);
            found.extend(chunk.data);
        }
        assert_eq!(found.len() as u64, credit);
        talk.assert_alive();
    }
    assert!(found == bytes[..5000]);
    talk.send("r", Body::Cancel(agent::Cancel {}));
    assert_eq!(talk.refusal("r").0, "CANCELLED");
}

#[test]
fn files_whose_size_the_kernel_does_not_know_are_read() {
    let (_agent, mut talk) = Agent::ready();
    let (found, answer) = talk.read("r", read_file("/proc/version"));
    assert_eq!(found, fs::read("/proc/version").unwrap());
    assert!(answer.eof);
    let (found, _) = talk.read(
        "r",
        read_file("/sys/kernel/mm/transparent_hugepage/enabled"),
    );
    assert!(!found.is_empty());
}

#[test]
fn what_is_no_readable_file_says_why() {
    let (agent, mut talk) = Agent::ready();
    let fifo = agent.dir.text("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    symlink("loop", agent.dir.join("loop")).unwrap();
    let name = "n".repeat(256);
    let cases = [
        (
            "NOT_FOUND",
            agent.dir.text("missing"),
            "missing: No such file or directory",
        ),
        ("INVALID", agent.dir.text(""), "a directory"),
        ("INVALID", fifo, "a FIFO"),
        ("INVALID", "/dev/zero".to_owned(), "a device"),
        ("INVALID", agent.dir.text("port"), ""),
        (
            "INVALID",
            "etc/hostname".to_owned(),
            "etc/hostname: not an absolute path",
        ),
        ("INVALID", String::new(), "empty"),
        ("INVALID", "/a\0b".to_owned(), "NUL"),
        ("INVALID", agent.dir.text("agent.conf/x"), "Not a directory"),
        ("INVALID", agent.dir.text(&name), "File name too long"),
        (
            "",
            agent.dir.text("loop"),
            "loop: Too many levels of symbolic links",
        ),
    ];
    for (n, (code, path, words)) in cases.into_iter().enumerate() {
        let (found, why) = talk.refused(&format!("r{n}"), Body::ReadFile(read_file(&path)));
        if path.ends_with("/port") {
            // The system's words for a socket: "No such device or address".
            assert!(why.contains(&path), "{why}");
            continue;
        }
        assert!(code.is_empty() || found == code, "{found}: {why}");
        assert!(why.contains(words), "{why}");
    }
    talk.assert_alive();
}

#[test]
fn a_new_file_has_the_bytes_and_the_mode_that_were_asked_for() {
    let (agent, mut talk) = Agent::ready();
    for (size, asked, found) in [
        (0, 0, 0o644),
        (1, 0o600, 0o600),
        (CHUNK, 0o4755, 0o4755),
        (2_000_000, 0, 0o644),
    ] {
        let path = agent.dir.text(&format!("new-{size}"));
        let bytes = noise(size);
        let request = agent::WriteFile {
            mode: asked,
            ..write_file(&path)
        };
        assert_eq!(written(talk.write("w", request, &bytes)), size as u64);
        assert!(fs::read(&path).unwrap() == bytes);
        assert_eq!(mode(&path), found);
    }
}

#[test]
fn bytes_may_be_in_the_request_itself() {
    let (agent, mut talk) = Agent::ready();
    let path = agent.dir.text("file");
    let request = agent::WriteFile {
        data: b"all".to_vec(),
        eof: true,
        ..write_file(&path)
    };
    assert_eq!(written(talk.ask("w", Body::WriteFile(request))), 3);
    assert_eq!(fs::read(&path).unwrap(), b"all");
}

#[test]
fn a_file_that_exists_keeps_mode_owner_and_the_link_to_it() {
    let (agent, mut talk) = Agent::ready();
    let path = agent.dir.file("file", "old");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    if is_root() {
        chown(&path, Some(1234), Some(4321)).unwrap();
    }
    let before = fs::metadata(&path).unwrap();
    symlink("file", agent.dir.join("link")).unwrap();
    symlink(agent.dir.join("link"), agent.dir.join("link-to-link")).unwrap();
    let request = agent::WriteFile {
        mode: 0o777,
        ..write_file(&agent.dir.text("link-to-link"))
    };
    written(talk.write("w", request, b"new"));
    let after = fs::metadata(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(after.mode(), before.mode());
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    assert!(
        fs::symlink_metadata(agent.dir.join("link"))
            .unwrap()
            .is_symlink()
    );
    assert!(
        fs::symlink_metadata(agent.dir.join("link-to-link"))
            .unwrap()
            .is_symlink()
    );
    // In one step: readers of the old file still have it whole.
    assert_ne!(after.ino(), before.ino());
}

#[test]
fn a_link_to_nothing_makes_the_file_that_it_names() {
    let (agent, mut talk) = Agent::ready();
    symlink("target", agent.dir.join("link")).unwrap();
    written(talk.write("w", write_file(&agent.dir.text("link")), b"new"));
    assert_eq!(fs::read(agent.dir.join("target")).unwrap(), b"new");
    assert!(
        fs::symlink_metadata(agent.dir.join("link"))
            .unwrap()
            .is_symlink()
    );
}

#[test]
fn bytes_are_appended_and_put_into_the_middle() {
    let (agent, mut talk) = Agent::ready();
    let path = agent.dir.file("file", "0123456789");
    let append = agent::WriteFile {
        append: true,
        offset: 3,
        ..write_file(&path)
    };
    written(talk.write("w1", append, b"abc"));
    assert_eq!(fs::read(&path).unwrap(), b"0123456789abc");
    let middle = agent::WriteFile {
        offset: 4,
        ..write_file(&path)
    };
    written(talk.write("w2", middle, b"xy"));
    assert_eq!(fs::read(&path).unwrap(), b"0123xy6789abc");
    let behind = agent::WriteFile {
        offset: 15,
        ..write_file(&path)
    };
    written(talk.write("w3", behind, b"z"));
    assert_eq!(fs::read(&path).unwrap(), b"0123xy6789abc\0\0z");
    let new = agent.dir.text("new");
    written(talk.write(
        "w4",
        agent::WriteFile {
            append: true,
            ..write_file(&new)
        },
        b"first",
    ));
    assert_eq!(fs::read(&new).unwrap(), b"first");
}

#[test]
fn missing_directories_are_made_only_on_request() {
    let (agent, mut talk) = Agent::ready();
    let path = agent.dir.text("a/b/c");
    let request = agent::WriteFile {
        data: b"x".to_vec(),
        eof: true,
        ..write_file(&path)
    };
    let (code, why) = talk.refused("w1", Body::WriteFile(request.clone()));
    assert_eq!(code, "NOT_FOUND");
    assert!(why.contains(&path) && why.contains("No such file"), "{why}");
    assert!(!agent.dir.join("a").exists());
    let request = agent::WriteFile {
        create_parents: true,
        ..request
    };
    written(talk.ask("w2", Body::WriteFile(request)));
    assert_eq!(fs::read(&path).unwrap(), b"x");
    assert_eq!(mode(agent.dir.join("a")), 0o755);
}

#[test]
fn what_cannot_be_written_says_why_and_leaves_nothing() {
    let (agent, mut talk) = Agent::ready();
    fs::create_dir(agent.dir.join("dir")).unwrap();
    let fifo = agent.dir.text("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    symlink("loop", agent.dir.join("loop")).unwrap();
    let before = agent.dir.list("");
    let long = agent.dir.text(&"n".repeat(256));
    let cases = [
        ("INVALID", agent.dir.text("dir"), "Is a directory"),
        ("INVALID", agent.dir.text("new/"), "Is a directory"),
        ("INVALID", fifo, "FIFO"),
        (
            "INVALID",
            "relative".to_owned(),
            "relative: not an absolute path",
        ),
        ("INVALID", String::new(), "empty"),
        ("INVALID", long, "File name too long"),
        ("INVALID", agent.dir.text("agent.conf/x"), "Not a directory"),
        ("", agent.dir.text("loop"), "Too many levels"),
    ];
    for (n, (code, path, words)) in cases.into_iter().enumerate() {
        let request = agent::WriteFile {
            data: b"x".to_vec(),
            eof: true,
            ..write_file(&path)
        };
        let (found, why) = talk.refused(&format!("w{n}"), Body::WriteFile(request));
        assert!(code.is_empty() || found == code, "{found}: {why}");
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(agent.dir.list(""), before);
    talk.assert_alive();
}

#[test]
fn the_longest_name_can_be_written_and_replaced() {
    let (agent, mut talk) = Agent::ready();
    let path = agent.dir.text(&"n".repeat(255));
    for content in [b"1", b"2"] {
        written(talk.write("w", write_file(&path), content));
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

/// A write under way, half of its bytes sent and taken.
fn half_a_write(agent: &Agent, talk: &mut Talk) -> String {
    let path = agent.dir.file("sub-file", "old");
    talk.begin_write("w", write_file(&path));
    talk.chunk("w", 0, &noise(100_000), false);
    // Served behind the chunk.
    talk.assert_alive();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    path
}

#[test]
fn a_cancelled_write_changes_nothing() {
    let (agent, mut talk) = Agent::ready();
    let before = agent.dir.list("").len();
    let path = half_a_write(&agent, &mut talk);
    talk.send("w", Body::Cancel(agent::Cancel {}));
    let (code, why) = talk.refusal("w");
    assert_eq!(code, "CANCELLED");
    assert!(why.contains("cancelled"), "{why}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(agent.dir.list("").len(), before + 1);
}

#[test]
fn a_write_whose_session_ends_changes_nothing() {
    let (agent, mut talk) = Agent::ready();
    let before = agent.dir.list("").len();
    let path = half_a_write(&agent, &mut talk);
    talk.hang_up();
    until_so("end of the worker", || {
        workers(agent.process.pid()).is_empty()
    });
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(agent.dir.list("").len(), before + 1);
}

#[test]
fn a_write_whose_agent_is_killed_changes_nothing() {
    let (mut agent, mut talk) = Agent::ready();
    let before = agent.dir.list("").len();
    let path = half_a_write(&agent, &mut talk);
    let found = workers(agent.process.pid());
    assert_eq!(found.len(), 1);
    agent.process.kill();
    until_so("end of the worker", || !crate::util::is_alive(found[0]));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(agent.dir.list("").len(), before + 1);
}

#[test]
fn a_chunk_out_of_order_is_refused_and_nothing_is_changed() {
    for (offset, bytes) in [(99_999, 1), (100_001, 1), (0, 10)] {
        let (agent, mut talk) = Agent::ready();
        let path = half_a_write(&agent, &mut talk);
        talk.chunk("w", offset, &noise(bytes), true);
        let (code, why) = talk.refusal("w");
        assert_eq!(code, "INVALID", "{why}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        talk.assert_alive();
    }
}

/// A file's worker may have so many bytes in memory.
const MOST_AHEAD: u64 = 512 * 1024;

#[test]
fn a_chunk_over_the_credit_is_refused_and_nothing_is_changed() {
    let (agent, mut talk) = Agent::ready();
    let path = agent.dir.file("file", "old");
    let allowed = talk.begin_write("w", write_file(&path));
    assert!(allowed <= MOST_AHEAD, "{allowed}");
    // The worker takes nothing, so that its pipe and then the window fill.
    for worker in workers(agent.process.pid()) {
        crate::util::signal(worker, "STOP");
    }
    let mut frames = Vec::new();
    let mut offset = 0u64;
    while offset < 4 * allowed {
        let chunk = agent::StreamChunk {
            stream: quantix::message::Stream::Data.into(),
            offset,
            data: noise(120_000),
            eof: false,
            ..Default::default()
        };
        offset += 120_000;
        let body = quantix::message::message("w", Body::StreamChunk(chunk));
        frames.extend(talk.seal(&prost::Message::encode_to_vec(&body)));
    }
    let mut stream = talk.stream.try_clone().unwrap();
    let sender = crate::util::beside(move || {
        use std::io::Write;
        stream.write_all(&frames)
    });
    let why = loop {
        match talk.answer("w") {
            Body::Credit(_) => {}
            Body::Error(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    sender.join().unwrap().unwrap();
    assert_eq!(why.code, "INVALID", "{why:?}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    talk.assert_alive();
}

#[test]
fn what_cannot_be_replaced_is_written_in_place() {
    let (agent, mut talk) = Agent::ready();
    assert_eq!(
        written(talk.write("w1", write_file("/dev/null"), &noise(50_000))),
        50_000
    );
    let meta = fs::symlink_metadata("/dev/null").unwrap();
    assert!(!meta.is_file(), "/dev/null was replaced");
    // The session that writes it is the worker's own: the value is gone with it.
    written(talk.write("w2", write_file("/proc/self/comm"), b"quantix-test"));
    let (code, _) = match talk.write("w3", write_file("/proc/version"), b"x") {
        Body::Error(error) => (error.code, error.message),
        other => panic!("{other:?}"),
    };
    assert_ne!(code, "");
    drop(agent);
}

/// A file system of 1 MiB, unmounted at the end.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(path: std::path::PathBuf) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
        let done = Command::new("mount").args(mount).arg(&path).output();
        done.is_ok_and(|out| out.status.success())
            .then_some(Self(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_is_named_and_nothing_stays_on_it() {
    let (agent, mut talk) = Agent::ready();
    let Some(disk) = Small::mount(agent.dir.join("disk")) else {
        eprintln!("skipped: mount is not permitted");
        return;
    };
    let path = agent.dir.file("disk/file", "old");
    let Body::Error(error) = talk.write("w", write_file(&path), &noise(2 << 20)) else {
        panic!("2 MiB fit into 1 MiB");
    };
    assert_eq!(error.code, "TOO_LARGE");
    assert!(error.message.contains(&path), "{error:?}");
    assert!(
        error.message.contains("No space left on device"),
        "{error:?}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(agent.dir.list("disk"), ["file"]);
    written(talk.write("again", write_file(&path), &noise(900_000)));
    drop(disk);
}

#[test]
fn a_file_that_is_mounted_over_is_written_in_place() {
    let (agent, mut talk) = Agent::ready();
    let path = agent.dir.file("file", "old and longer");
    let bound = Command::new("mount")
        .args(["--bind", &path, &path])
        .output();
    if !bound.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: mount is not permitted");
        return;
    }
    let unmount = Unmount(path.clone());
    written(talk.write("w", write_file(&path), b"new"));
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(
        agent
            .dir
            .list("")
            .iter()
            .filter(|name| name.ends_with(".tmp"))
            .count(),
        0
    );
    drop(unmount);
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).output();
    }
}

#[test]
fn a_worker_that_reads_or_writes_can_do_nothing_else() {
    let (agent, mut talk) = Agent::ready();
    let confined = |count: usize| {
        until_so("confined workers", || {
            let mut workers = workers(agent.process.pid());
            workers.retain(|pid| is_confined(*pid));
            workers.len() == count
        });
    };
    talk.begin_write("w", write_file(&agent.dir.text("file")));
    confined(1);
    // More than goes without credit.
    let large = agent.dir.file("large", "x".repeat(4 << 20));
    talk.send("r", Body::ReadFile(read_file(&large)));
    confined(2);
    // A command is not; what reads along with it is.
    let gate = agent.dir.gate("gate");
    let kept = agent::Execute {
        keep: true,
        ..shell(&gate)
    };
    let job = talk.exec("k", kept).job;
    let attach = agent::AttachJob {
        job,
        ..Default::default()
    };
    talk.send("a", Body::AttachJob(attach));
    confined(3);
    agent.dir.open("gate");
    let Body::ExecuteResponse(ended) = talk.answer("a") else {
        panic!("the command's end");
    };
    assert_eq!(ended.exit_code, 0);
    talk.send("r", Body::Cancel(agent::Cancel {}));
    assert_eq!(talk.refusal("r").0, "CANCELLED");
    talk.chunk("w", 0, b"whole", true);
    assert_eq!(written(talk.answer("w")), 5);
}
