use std::collections::BTreeMap;

use quantix::message::{Body, agent};

use crate::util::agent::{Agent, line, shell};
use crate::util::{is_alive, is_root, pid_in, rss_kib, until_so};

pub fn argv(words: &[&str]) -> agent::Execute {
    agent::Execute {
        args: words[1..].iter().map(|word| (*word).to_owned()).collect(),
        ..shell(words[0])
    }
}

#[test]
fn a_line_goes_to_the_shell_and_words_do_not() {
    let (_agent, mut talk) = Agent::ready();
    let answer = talk.exec("1", shell("echo out; echo err >&2; exit 7"));
    assert_eq!(
        (&answer.stdout[..], &answer.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(answer.exit_code, 7);
    assert!(!answer.truncated && !answer.timed_out);
    let answer = talk.exec(
        "2",
        argv(&["printf", "%s|", "a b", "$HOME", "*", "", "\u{e9}"]),
    );
    assert_eq!(answer.stdout, "a b|$HOME|*||\u{e9}|".as_bytes());
}

#[test]
fn a_signal_is_told_as_a_shell_does() {
    let (_agent, mut talk) = Agent::ready();
    assert_eq!(talk.exec("1", shell("kill -9 $$")).exit_code, 137);
    assert_eq!(talk.exec("2", shell("kill -SEGV $$")).exit_code, 139);
}

#[test]
fn directory_and_environment_are_what_was_asked_for() {
    let (agent, mut talk) = Agent::ready();
    let mut request = shell("pwd; echo \"$A-$PATH-$HOME\"; env | wc -l");
    request.working_directory = agent.dir.text("");
    request.environment = [("A".to_owned(), "x y".to_owned())].into();
    let answer = talk.exec("1", request);
    let text = String::from_utf8(answer.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], agent.dir.path().to_str().unwrap());
    assert!(lines[1].starts_with("x y-/usr/local/sbin:"), "{text}");
    // Nothing of the agent's own environment.
    let env = String::from_utf8(talk.exec("2", argv(&["env", "--"])).stdout).unwrap();
    let names: BTreeMap<&str, &str> = env.lines().filter_map(|l| l.split_once('=')).collect();
    let known: Vec<&str> = names.keys().copied().collect();
    assert_eq!(known, ["HOME", "LOGNAME", "PATH", "SHELL", "USER"]);
}

#[test]
fn output_is_passed_on_byte_by_byte() {
    let (_agent, mut talk) = Agent::ready();
    let answer = talk.exec(
        "1",
        shell(r"printf '\000\377\n\200'; printf '\001\000' >&2"),
    );
    assert_eq!(answer.stdout, [0, 0xFF, b'\n', 0x80]);
    assert_eq!(answer.stderr, [1, 0]);
    assert!(
        talk.exec("2", shell("cat")).stdout.is_empty(),
        "stdin is not empty"
    );
}

#[test]
fn output_over_the_limit_is_dropped_and_the_command_goes_on() {
    let (agent, mut talk) = Agent::ready();
    let file = agent.dir.text("done");
    let request = |limit| agent::Execute {
        max_output_bytes: limit,
        ..shell(&format!(
            "head -c 3000000 /dev/zero; echo end >&2; echo yes > {file}"
        ))
    };
    let answer = talk.exec("1", request(1000));
    assert!(answer.truncated);
    assert_eq!(answer.stdout.len() + answer.stderr.len(), 1000);
    assert_eq!(std::fs::read(&file).unwrap(), b"yes\n");
    // As much as fits into a frame, however much is asked for.
    for limit in [0, u32::MAX] {
        let answer = talk.exec("2", request(limit));
        assert!(answer.truncated);
        let kept = answer.stdout.len() + answer.stderr.len();
        assert!((100 * 1024..128 * 1024).contains(&kept), "{kept}");
    }
    let answer = talk.exec(
        "3",
        agent::Execute {
            max_output_bytes: 5,
            ..shell("printf 12345")
        },
    );
    assert!(!answer.truncated && answer.stdout == b"12345");
}

#[test]
fn a_timeout_kills_the_whole_group() {
    let (agent, mut talk) = Agent::ready();
    let file = agent.dir.text("pid");
    // The grandchild takes no notice of SIGTERM.
    let command =
        format!("echo before; (trap '' TERM; sh -c 'echo $$' > {file}; sleep 60; sleep 60) & wait");
    let answer = talk.exec(
        "1",
        agent::Execute {
            timeout_seconds: 1,
            ..shell(&command)
        },
    );
    assert!(answer.timed_out);
    assert_eq!(answer.stdout, b"before\n");
    assert_eq!(answer.exit_code, 128 + 15);
    assert!(answer.duration_ms >= 1000);
    until_so("end of the group", || !holds(&file));
}

/// Some process still has this path in its command line.
fn holds(path: &str) -> bool {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = pids.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(path))
}

#[test]
fn a_command_that_refuses_to_end_is_killed() {
    let (_agent, mut talk) = Agent::ready();
    let answer = talk.exec(
        "1",
        agent::Execute {
            timeout_seconds: 1,
            ..shell("trap '' TERM; while :; do sleep 0.1; done")
        },
    );
    assert!(answer.timed_out);
    assert_eq!(answer.exit_code, 128 + 9);
}

#[test]
fn a_grandchild_that_holds_the_pipes_delays_no_answer_and_lives_on() {
    let (agent, mut talk) = Agent::ready();
    let (file, gate) = (agent.dir.text("pid"), agent.dir.text("gate"));
    let waits = format!("until [ -e {gate} ]; do sleep 0.05; done");
    let answer = talk.exec(
        "1",
        shell(&format!("({waits}) & echo $! > {file}; echo done")),
    );
    assert_eq!(answer.stdout, b"done\n");
    let pid = pid_in(file.as_ref());
    assert!(is_alive(pid), "it was killed, or waited for");
    agent.dir.file("gate", "");
    until_so("end of the grandchild", || !is_alive(pid));
}

#[test]
fn a_detached_command_is_answered_at_once_and_outlives_the_session() {
    let (agent, mut talk) = Agent::ready();
    let (out, gate) = (agent.dir.text("out"), agent.dir.text("gate"));
    let command = format!("echo $$ > {out}; until [ -e {gate} ]; do sleep 0.05; done; echo end");
    let answer = talk.exec(
        "1",
        agent::Execute {
            wait_for_exit: false,
            ..shell(&command)
        },
    );
    assert!(answer.pid > 0);
    assert_eq!(pid_in(out.as_ref()), answer.pid);
    talk.hang_up();
    agent.process.wait_log("port lost");
    let mut again = agent.accept();
    again.open(b"nonce-of-16-byte");
    again.assert_alive();
    assert!(is_alive(answer.pid));
    agent.dir.file("gate", "");
    until_so("end of the command", || !is_alive(answer.pid));
}

#[test]
fn many_short_detached_commands_each_tell_their_number() {
    let (_agent, mut talk) = Agent::ready();
    for n in 0..50 {
        let request = agent::Execute {
            wait_for_exit: false,
            ..argv(&["true", "x"])
        };
        let answer = talk.exec(&format!("d{n}"), request);
        assert!(answer.pid > 0, "round {n}");
    }
}

#[test]
fn what_cannot_be_run_says_why() {
    let (agent, mut talk) = Agent::ready();
    let file = agent.dir.file("not-executable", "");
    let with = |edit: &dyn Fn(&mut agent::Execute)| {
        let mut request = argv(&["true", "x"]);
        edit(&mut request);
        Body::Execute(request)
    };
    let cases: [(&str, &str, Body); 10] = [
        ("INVALID", "empty", line("")),
        ("INVALID", "empty", line(" \n")),
        ("INVALID", "NUL", line("a\0b")),
        (
            "NOT_FOUND",
            "/no/such/program",
            with(&|r| r.command = "/no/such/program".into()),
        ),
        (
            "PERMISSION",
            "not-executable: Permission denied",
            with(&|r| r.command = file.clone()),
        ),
        (
            "NOT_FOUND",
            "/no/such/dir: No such file",
            with(&|r| r.working_directory = "/no/such/dir".into()),
        ),
        (
            "INVALID",
            "not an absolute path",
            with(&|r| r.working_directory = "tmp".into()),
        ),
        (
            "NOT_FOUND",
            "user no-such-user",
            with(&|r| r.run_as_user = "no-such-user".into()),
        ),
        (
            "NOT_FOUND",
            "group no-such-group",
            with(&|r| r.run_as_group = "no-such-group".into()),
        ),
        (
            "INVALID",
            "not a variable's name",
            with(&|r| {
                r.environment.insert("A=B".into(), "c".into());
            }),
        ),
    ];
    for (n, (code, words, body)) in cases.into_iter().enumerate() {
        for wait in [true, false] {
            let mut body = body.clone();
            if let Body::Execute(request) = &mut body {
                request.wait_for_exit = wait;
            }
            let (found, why) = talk.refused(&format!("{n}{wait}"), body);
            assert_eq!(found, code, "{why}");
            assert!(why.contains(words), "{why}");
        }
    }
    talk.assert_alive();
}

#[test]
fn a_command_runs_as_who_was_asked_for() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let (_agent, mut talk) = Agent::ready();
    let mut id = |edit: &dyn Fn(&mut agent::Execute)| {
        let mut request = shell("id -u; id -g; id -G; echo $HOME $USER");
        edit(&mut request);
        let answer = talk.exec("id", request);
        assert_eq!(answer.exit_code, 0, "{answer:?}");
        String::from_utf8(answer.stdout).unwrap()
    };
    assert!(id(&|_| {}).starts_with("0\n0\n0\n"));
    assert_eq!(
        id(&|r| r.run_as_user = "54321".into()),
        "54321\n54321\n54321\n/ 54321\n"
    );
    let daemon = id(&|r| {
        r.run_as_user = "daemon".into();
        r.run_as_group = "4242".into();
    });
    assert!(daemon.starts_with("1\n4242\n4242\n"), "{daemon}");
    assert!(daemon.trim_end().ends_with(" daemon"), "{daemon}");
    let supplementary = id(&|r| {
        r.run_as_user = "daemon".into();
        r.include_supplementary_groups = true;
    });
    assert!(supplementary.starts_with("1\n1\n1"), "{supplementary}");
}

#[test]
fn the_command_inherits_none_of_the_agents_descriptors() {
    let (_agent, mut talk) = Agent::ready();
    let answer = talk.exec("1", shell("exec ls -l /proc/self/fd"));
    let text = String::from_utf8(answer.stdout).unwrap();
    let links: Vec<&str> = text.lines().filter(|l| l.contains("->")).collect();
    // 0, 1, 2 and the directory that ls reads.
    assert_eq!(links.len(), 4, "{text}");
    assert!(links[0].ends_with("/dev/null"), "{text}");
}

#[test]
fn a_cancelled_command_is_killed_and_answered_once() {
    let (agent, mut talk) = Agent::ready();
    let file = agent.dir.text("pid");
    talk.send("c", line(&format!("sleep 60 & echo $! > {file}; wait")));
    let grandchild = pid_in(file.as_ref());
    talk.send("c", Body::Cancel(agent::Cancel {}));
    let (code, why) = talk.refusal("c");
    assert_eq!(code, "CANCELLED", "{why}");
    until_so("end of the grandchild", || !is_alive(grandchild));
    // Late, and of no effect.
    talk.send("c", Body::Cancel(agent::Cancel {}));
    talk.assert_alive();
}

#[test]
fn a_command_that_never_stops_writing_hinders_nobody() {
    let (agent, mut talk) = Agent::ready();
    talk.send("flood", line("exec yes"));
    for _ in 0..5 {
        talk.assert_alive();
    }
    talk.send("flood", Body::Cancel(agent::Cancel {}));
    assert_eq!(talk.refusal("flood").0, "CANCELLED");
    talk.assert_alive();
    assert!(rss_kib(&agent.process) < 16 * 1024);
}
