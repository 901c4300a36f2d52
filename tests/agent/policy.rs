use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use quantix::archive;
use quantix::message::agent::{Caller, TreeKind, TreeRecord};
use quantix::message::{Body, agent, message};

use crate::util::agent::{Agent, Talk, line, read_file, shell, write_file};
use crate::util::{Dir, beside, is_root, until_so};

/// An agent with this policy, in which DIR is its directory, with an open session.
fn with(policy: &str) -> (Agent, Talk) {
    let agent = Agent::start();
    agent.process.wait_log("started");
    reload(&agent, policy);
    let mut talk = agent.accept();
    talk.open(b"nonce-of-16-byte");
    (agent, talk)
}

/// Has it read another policy.
fn reload(agent: &Agent, policy: &str) {
    let count = || {
        agent
            .process
            .log()
            .matches("configuration read again")
            .count()
    };
    let before = count();
    agent.dir.file("agent.conf", text(&agent.dir, policy));
    agent.process.signal("HUP");
    until_so("the other policy", || count() > before);
}

fn text(dir: &Dir, policy: &str) -> String {
    let policy = policy.replace("DIR", dir.path().to_str().unwrap());
    format!("telemetry_interval = 0\nlog_level = debug\n{policy}\n")
}

#[track_caller]
fn denied(refusal: (String, String), why: &str) {
    assert_eq!(refusal.0, "POLICY", "{refusal:?}");
    assert!(refusal.1.contains(why), "{refusal:?}");
}

fn whole(path: &str, data: &[u8]) -> agent::WriteFile {
    agent::WriteFile {
        data: data.to_vec(),
        eof: true,
        ..write_file(path)
    }
}

#[track_caller]
fn done(answer: Body) {
    let is_done = matches!(
        answer,
        Body::WriteFileResponse(_) | Body::WriteTreeResponse(_)
    );
    assert!(is_done, "{answer:?}");
}

/// `open` and `in` may be read and written, `out` may not; links lead from each to the other.
fn place() -> (Agent, Talk) {
    let (agent, talk) = with("read_path = DIR/open\nwrite_path = DIR/in");
    for name in ["open", "in", "out"] {
        fs::create_dir(agent.dir.join(name)).unwrap();
    }
    agent.dir.file("out/secret", "secret");
    agent.dir.file("open/known", "known");
    for (to, at) in [
        ("out/secret", "open/link"),
        ("out", "open/dir"),
        ("open/known", "out/back"),
        ("out/secret", "in/link"),
        ("out", "in/dir"),
        ("out/none", "in/dangling"),
        ("in", "out/in"),
    ] {
        symlink(agent.dir.join(to), agent.dir.join(at)).unwrap();
    }
    (agent, talk)
}

#[test]
fn files_are_read_where_they_are_and_not_where_they_are_called() {
    let (agent, mut talk) = place();
    let path = |name: &str| agent.dir.text(name);
    for name in ["open/known", "out/back", "open/../open/known"] {
        let (bytes, _) = talk.read("r", read_file(&path(name)));
        assert_eq!(bytes, b"known", "{name}");
    }
    let secret = path("out/secret");
    let line = format!("agent.conf line 3: read_path = {}", path("open"));
    for name in [
        "out/secret",
        "open/link",
        "open/dir/secret",
        "open/../out/secret",
    ] {
        let refusal = talk.refused("r", Body::ReadFile(read_file(&path(name))));
        assert!(refusal.1.contains(&secret), "{refusal:?}");
        denied(refusal, &line);
    }
    // Nor is it told whether there is one.
    for name in ["out/none", "open/dir/none/none"] {
        denied(
            talk.refused("r", Body::ReadFile(read_file(&path(name)))),
            &line,
        );
    }
    let (code, _) = talk.refused("r", Body::ReadFile(read_file(&path("open/none"))));
    assert_eq!(code, "NOT_FOUND");
    // Nobody waits at a FIFO that may not be read.
    let made = Command::new("mkfifo")
        .arg(path("out/fifo"))
        .status()
        .unwrap();
    assert!(made.success());
    let fifo = agent::ReadFile {
        special: true,
        ..read_file(&path("out/fifo"))
    };
    denied(talk.refused("r", Body::ReadFile(fifo)), &line);
}

#[test]
fn files_are_written_where_they_may_be_whatever_links_lead_there() {
    let (agent, mut talk) = place();
    let path = |name: &str| agent.dir.text(name);
    for name in ["in/new", "out/in/other", "in/a/b/c"] {
        let request = agent::WriteFile {
            create_parents: true,
            ..whole(&path(name), b"new")
        };
        done(talk.ask("w", Body::WriteFile(request)));
    }
    assert_eq!(fs::read(path("in/a/b/c")).unwrap(), b"new");
    assert_eq!(fs::read(path("in/other")).unwrap(), b"new");
    let appended = agent::WriteFile {
        append: true,
        ..whole(&path("in/new"), b"er")
    };
    done(talk.ask("w", Body::WriteFile(appended)));
    assert_eq!(fs::read(path("in/new")).unwrap(), b"newer");
    let resumed = agent::WriteFile {
        resume: true,
        ..write_file(&path("in/resumed"))
    };
    done(talk.write("w", resumed, b"resumed"));
    let named = agent::WriteFile {
        name: b"named".to_vec(),
        ..whole(&path("in"), b"named")
    };
    done(talk.ask("w", Body::WriteFile(named)));
    assert_eq!(fs::read(path("in/named")).unwrap(), b"named");

    let line = format!("agent.conf line 4: write_path = {}", path("in"));
    for (name, below) in [
        ("out/new", ""),
        ("in/link", ""),
        ("in/dir/new", ""),
        ("in/dir/secret", ""),
        ("in/dir", "named"),
        ("in/dir/deep/er", ""),
        ("in/../out/new", ""),
        ("open/known", ""),
        ("in/dangling", ""),
    ] {
        for (append, resume) in [(false, false), (true, false), (false, true)] {
            let request = agent::WriteFile {
                create_parents: true,
                name: below.as_bytes().to_vec(),
                append,
                resume,
                ..whole(&path(name), b"evil")
            };
            denied(talk.refused("w", Body::WriteFile(request)), &line);
        }
    }
    let (_, why) = talk.refused("w", Body::WriteFile(whole(&path("in/dir/new"), b"x")));
    assert!(
        why.contains(&format!("(that is {})", path("out/new"))),
        "{why}"
    );
    assert_eq!(agent.dir.list("out"), ["back", "in", "secret"]);
    assert_eq!(fs::read(path("out/secret")).unwrap(), b"secret");
    assert_eq!(fs::read(path("open/known")).unwrap(), b"known");
    // What is there of a partial file, only who may write may know.
    let partial = |name: &str| {
        Body::ReadFile(agent::ReadFile {
            partial: true,
            checksum: true,
            ..read_file(&path(name))
        })
    };
    denied(talk.refused("r", partial("out/secret")), &line);
    denied(talk.refused("r", partial("in/link")), &line);
    assert_eq!(talk.refused("r", partial("in/new")).0, "NOT_FOUND");
}

#[test]
fn a_link_that_changes_while_files_are_written_leads_nowhere_else() {
    let (agent, mut talk) = place();
    fs::create_dir(agent.dir.join("in/real")).unwrap();
    let (dir, stop) = (
        agent.dir.path().to_owned(),
        Arc::new(AtomicBool::new(false)),
    );
    let is_over = stop.clone();
    symlink(dir.join("in/real"), dir.join("in/turns")).unwrap();
    let turner = beside(move || {
        while !is_over.load(Ordering::Relaxed) {
            for to in ["out", "in/real"] {
                symlink(dir.join(to), dir.join("in/next")).unwrap();
                fs::rename(dir.join("in/next"), dir.join("in/turns")).unwrap();
            }
        }
    });
    let path = agent.dir.text("in/turns/file");
    let mut written = 0;
    for _ in 0..300 {
        match talk.ask("w", Body::WriteFile(whole(&path, b"x"))) {
            Body::WriteFileResponse(_) => written += 1,
            Body::Error(_) => {}
            other => panic!("{other:?}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    turner.join().unwrap();
    assert!(written > 0);
    assert_eq!(agent.dir.list("out"), ["back", "in", "secret"]);
}

/// What of a tree came, or with what it was refused.
fn pack(talk: &mut Talk, path: &str) -> Result<Vec<TreeRecord>, (String, String)> {
    talk.send(
        "t",
        Body::ReadTree(agent::Tree {
            path: path.as_bytes().to_vec(),
            recursive: true,
            measure: true,
            ..Default::default()
        }),
    );
    talk.credit("t", 1 << 20);
    let (mut decoder, mut records) = (archive::Decoder::default(), Vec::new());
    loop {
        match talk.answer("t") {
            Body::StreamChunk(chunk) => {
                decoder.extend(&chunk.data);
                records.extend(std::iter::from_fn(|| decoder.take().unwrap()));
            }
            Body::ReadTreeResponse(_) => return Ok(records),
            Body::Error(error) => return Err((error.code, error.message)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn trees_are_read_and_written_where_they_may_be() {
    let (agent, mut talk) = place();
    let path = |name: &str| agent.dir.text(name);
    let records = pack(&mut talk, &path("open")).unwrap();
    let links = records
        .iter()
        .filter(|record| record.kind() == TreeKind::Symlink);
    assert_eq!(links.count(), 2, "links travel as links");
    assert!(records.iter().all(|record| record.data != b"secret"));
    for name in ["out", "open/dir", "open/link", "open/../out"] {
        let refusal = pack(&mut talk, &path(name)).unwrap_err();
        denied(refusal, "agent.conf line 3: read_path");
    }

    let mut bytes = Vec::new();
    for record in [
        TreeRecord {
            kind: TreeKind::File.into(),
            path: b"made".to_vec(),
            data: b"made".to_vec(),
            size: 4,
            mode: 0o644,
            last: true,
            ..Default::default()
        },
        archive::end(),
    ] {
        assert!(archive::encode(&record, &mut bytes));
    }
    let mut unpack = |name: &str, parents: bool| {
        let tree = agent::Tree {
            path: path(name).into_bytes(),
            create_parents: parents,
            ..Default::default()
        };
        match talk.ask("t", Body::WriteTree(tree)) {
            Body::Credit(_) => {}
            Body::Error(error) => return Err((error.code, error.message)),
            other => panic!("{other:?}"),
        }
        talk.chunk("t", 0, &bytes, true);
        loop {
            match talk.answer("t") {
                Body::Credit(_) => {}
                Body::Error(error) => return Err((error.code, error.message)),
                other => {
                    done(other);
                    return Ok(());
                }
            }
        }
    };
    for (name, parents) in [
        ("in", false),
        ("in/renamed", false),
        ("in/x/y/", true),
        ("out/in", false),
    ] {
        unpack(name, parents).unwrap();
    }
    for name in ["in/made", "in/renamed", "in/x/y/made"] {
        assert_eq!(fs::read(path(name)).unwrap(), b"made", "{name}");
    }
    for name in [
        "out",
        "out/new",
        "in/dir",
        "in/dir/new",
        "in/dir/x/y/",
        "in/../out",
    ] {
        denied(
            unpack(name, true).unwrap_err(),
            "agent.conf line 4: write_path",
        );
    }
    assert_eq!(agent.dir.list("out"), ["back", "in", "secret"]);
}

#[test]
fn a_guest_that_allows_nothing_answers_pings_and_reports() {
    let (agent, mut talk) = with("allow = none");
    let why = "is not allowed in this guest: ";
    denied(talk.refused("1", line("true")), why);
    denied(
        talk.refused("2", Body::Freeze(agent::Freeze::default())),
        why,
    );
    denied(
        talk.refused("3", Body::GetHardware(agent::GetHardware::default())),
        why,
    );
    agent
        .dir
        .file("agent.conf", "telemetry_interval = 1\nallow = none\n");
    agent.process.signal("HUP");
    assert!(matches!(talk.next().body, Some(Body::Telemetry(_))));
    talk.send(
        "",
        Body::Ping(agent::Ping {
            sequence: 2,
            nonce: b"nonce-of-16-byte".to_vec(),
        }),
    );
    while !matches!(talk.next().body, Some(Body::Pong(_))) {}
}

#[test]
fn a_listed_command_runs_and_what_it_brings_along_does_not() {
    let (_agent, mut talk) = with("command = /bin/echo hello *\ncommand = /bin/pwd");
    let echo = |words: &[&str]| agent::Execute {
        args: words.iter().map(|word| (*word).to_owned()).collect(),
        ..shell("echo")
    };
    let said = talk.exec("1", echo(&["hello", "$(id); id"]));
    assert_eq!(said.stdout, b"hello $(id); id\n");
    assert_eq!(
        talk.exec("2", shell("echo hello you")).stdout,
        b"hello you\n"
    );
    // One without arguments is run without a shell's help, too.
    assert_eq!(talk.exec("3", shell("pwd")).exit_code, 0);
    let why = "agent.conf line 3: none of the 2 command lines";
    denied(talk.refused("4", Body::Execute(echo(&["bye", "x"]))), why);
    denied(talk.refused("5", line("echo hello you; id")), why);
    denied(talk.refused("6", line("/tmp/echo hello you")), why);
    let brought = agent::Execute {
        environment: [("LD_PRELOAD".to_owned(), "/tmp/x.so".to_owned())].into(),
        ..shell("echo hello you")
    };
    denied(
        talk.refused("7", Body::Execute(brought)),
        "requests set only TERM",
    );
}

#[test]
fn a_policy_that_makes_no_sense_is_not_taken_and_one_that_does_is() {
    let (agent, mut talk) = with("allow = exec");
    talk.assert_alive();
    agent
        .dir
        .file("agent.conf", text(&agent.dir, "allow = nothing"));
    agent.process.signal("HUP");
    agent
        .process
        .wait_log("what is allowed is as it was before");
    talk.assert_alive();
    reload(&agent, "allow = info");
    denied(talk.refused("1", line("true")), "allow = info");
    // At the start there is none before it.
    let dir = Dir::new();
    let config = dir.file("agent.conf", "telemetry_interval = 0\nallow = nothing\n");
    let agent = Agent::with(&["--config", &config]);
    let mut talk = agent.accept();
    talk.open(b"nonce-of-16-byte");
    denied(
        talk.refused("1", line("true")),
        "line 2: allow = nothing: nothing is no group",
    );
}

#[test]
fn commands_run_as_whom_they_may_and_as_often() {
    if !is_root() {
        return;
    }
    let (_agent, mut talk) = with("run_as = nobody\nrate = exec 3/hour");
    let nobody = |command: &str| agent::Execute {
        run_as_user: "nobody".to_owned(),
        ..shell(command)
    };
    assert_eq!(talk.exec("1", nobody("id -un")).stdout, b"nobody\n");
    denied(talk.refused("2", line("id")), "line 3: run_as = nobody");
    // What is refused is not counted.
    talk.exec("3", nobody("true"));
    talk.exec("4", nobody("true"));
    let (code, why) = talk.refused("5", Body::Execute(nobody("true")));
    assert_eq!(code, "BUSY");
    assert!(
        why.contains("line 4: rate = exec 3/hour; try again in 1"),
        "{why}"
    );
}

#[test]
fn the_guests_audit_names_who_asked_and_what_came_of_it() {
    let (agent, mut talk) = with("allow = exec info users\ncommand = /bin/echo *");
    let mut ask = |id: &str, body: Body| {
        let asked = quantix::message::AgentMessage {
            caller: Some(Caller {
                uid: 4003,
                user: "alice\n".to_owned(),
            }),
            ..message(id, body)
        };
        let bytes = talk.seal(&asked.encode_to_vec());
        talk.send_raw(&bytes);
        talk.answer(id)
    };
    ask("r1", line("echo hello"));
    ask("r2", line("id"));
    ask("r3", Body::GetHardware(agent::GetHardware::default()));
    ask(
        "r4",
        Body::SetPassword(agent::SetPassword {
            username: "no-such-user".to_owned(),
            password: "hush-hush".to_owned(),
            ..Default::default()
        }),
    );
    ask("r5", Body::Thaw(agent::Thaw::default()));
    let who = "audit: uid=4003 user=\"alice\\n\" ";
    for end in [
        "action=exec request=\"r1\" result=begun what=\"echo hello\"",
        "action=exec request=\"r1\" result=exit:0 what=\"echo hello\"",
        "action=exec request=\"r2\" result=POLICY what=\"id\"",
        "action=passwd request=\"r4\" result=begun what=\"no-such-user\"",
        "action=passwd request=\"r4\" result=NOT_FOUND what=\"no-such-user\"",
        "action=thaw request=\"r5\" result=POLICY what=\"\"",
    ] {
        agent.process.wait_log(&format!("{who}{end}\n"));
    }
    // One that the session does not see the end of.
    talk.send("r6", line("echo; exec /bin/echo 1"));
    assert_eq!(talk.refusal("r6").0, "POLICY");
    let log = agent.process.log();
    assert!(
        log.contains("audit: uid=? user=? action=exec request=\"r6\""),
        "{log}"
    );
    assert!(
        !log.contains("hush-hush") && !log.contains("\"r3\""),
        "{log}"
    );
}

#[test]
fn what_is_under_way_when_the_session_ends_is_in_the_audit_as_such() {
    let (agent, mut talk) = Agent::ready();
    let gate = agent.dir.gate("gate");
    talk.send("r1", line(&gate));
    agent.process.wait_log("action=exec request=\"r1\"");
    talk.hang_up();
    agent
        .process
        .wait_log(&format!("result=DISCONNECTED what={gate:?}"));
}

/// `quantix-kvm-agent --check-config`: its status and what it prints.
fn check(config: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantix-kvm-agent"));
    let out = command
        .arg("--check-config")
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn check_config_says_what_a_policy_comes_to() {
    let dir = Dir::new();
    let config = dir.file("agent.conf", "allow = exec info\nrate = exec 5/minute\n");
    let (status, text) = check(Path::new(&config));
    assert_eq!(status, Some(0), "{text}");
    for words in [
        "exec       yes  line 2: at most 5/minute\n",
        "write      no   line 1: allow = exec info\n",
        "exec is allowed without `command` lines",
    ] {
        assert!(text.contains(words), "{text}");
    }
    fs::write(&config, "allow = exce\n").unwrap();
    let (status, text) = check(Path::new(&config));
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains("wrong: line 1: allow = exce: exce is no group"),
        "{text}"
    );
    assert!(
        text.contains("info       no   until the file is mended\n"),
        "{text}"
    );
    let (status, text) = check(&dir.join("none"));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("No such file or directory"), "{text}");
}
