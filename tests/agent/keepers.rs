//! The process behind a command: one keeper after the other, or one for several commands.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use quantix::message::{Body, agent};

use super::exec::argv;
use crate::util::agent::{Agent, Talk, shell, write_file};
use crate::util::{Process, children, is_alive, is_root, noise, pid_in, signal, until, until_so};

/// The process id of the keeper that runs the command.
fn keeper_of_next(talk: &mut Talk, id: &str) -> u32 {
    let answer = talk.exec(id, shell("echo $PPID"));
    let text = String::from_utf8(answer.stdout).unwrap();
    text.trim().parse().unwrap()
}

fn cancel(talk: &mut Talk, id: &str) {
    talk.send(id, Body::Cancel(agent::Cancel {}));
    assert_eq!(talk.refusal(id).0, "CANCELLED");
}

#[test]
fn one_keeper_serves_one_command_after_the_other() {
    let (agent, mut talk) = Agent::ready();
    let first = keeper_of_next(&mut talk, "1");
    assert_eq!(keeper_of_next(&mut talk, "2"), first);
    // What failed to start has left nothing either.
    let (code, _) = talk.refused("3", Body::Execute(argv(&["/no/such/program", "x"])));
    assert_eq!(code, "NOT_FOUND");
    assert_eq!(keeper_of_next(&mut talk, "4"), first);
    assert_eq!(children(agent.process.pid()), [first]);
}

#[test]
fn what_a_command_has_left_to_itself_is_not_ended_with_the_next() {
    let (agent, mut talk) = Agent::ready();
    let file = agent.dir.join("pid");
    let line = format!(
        "sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > {}",
        file.display()
    );
    talk.exec("1", shell(&line));
    let left = pid_in(&file);
    talk.send("2", Body::Execute(shell("exec sleep 1000")));
    talk.assert_alive();
    cancel(&mut talk, "2");
    assert!(is_alive(left));
    signal(left, "KILL");
}

#[test]
fn a_keeper_that_was_killed_while_it_waited_is_replaced() {
    let (_agent, mut talk) = Agent::ready();
    let first = keeper_of_next(&mut talk, "1");
    signal(first, "KILL");
    until_so("its end", || !is_alive(first));
    assert_ne!(keeper_of_next(&mut talk, "2"), first);
}

/// In a guest that had been up for longer than commands are kept it was forgotten at once.
#[test]
fn a_command_whose_keeper_was_killed_stays_listed_as_lost() {
    let (_agent, mut talk) = Agent::ready();
    let kept = agent::Execute {
        keep: true,
        ..shell("exec sleep 1000")
    };
    let job = talk.exec("kept", kept).job;
    let mut listed = |id: &str| match talk.ask(id, Body::ListJobs(agent::ListJobs {})) {
        Body::JobList(mut list) => list.jobs.remove(0),
        other => panic!("{other:?}"),
    };
    let found = listed("1");
    assert_eq!((found.job, found.state()), (job, agent::JobState::Running));
    signal(found.keeper, "KILL");
    until_so("its end", || !is_alive(found.keeper));
    signal(found.pid, "KILL");
    for id in ["2", "3"] {
        let found = listed(id);
        assert_eq!((found.job, found.state()), (job, agent::JobState::Lost));
    }
    let attach = agent::AttachJob {
        job,
        ..Default::default()
    };
    let (_, why) = talk.refused("4", Body::AttachJob(attach));
    assert!(
        why.contains("was killed; whether the command goes on is unknown"),
        "{why}"
    );
}

#[test]
fn no_keeper_waits_without_a_session() {
    let (agent, mut talk) = Agent::ready();
    keeper_of_next(&mut talk, "1");
    assert_eq!(children(agent.process.pid()).len(), 1);
    drop(talk);
    until_so("no child", || children(agent.process.pid()).is_empty());
}

#[test]
fn commands_at_the_same_time_have_a_keeper_each_and_one_stays() {
    let (agent, mut talk) = Agent::ready();
    let gate = agent.dir.gate("gate");
    let ids = ["1", "2", "3"];
    for id in ids {
        talk.send(id, Body::Execute(shell(&format!("echo $PPID; {gate}"))));
    }
    until_so("three keepers", || children(agent.process.pid()).len() == 3);
    agent.dir.open("gate");
    let mut keepers = Vec::new();
    for _ in ids {
        match talk.next().body {
            Some(Body::ExecuteResponse(answer)) => keepers.push(answer.stdout),
            other => panic!("{other:?}"),
        }
    }
    keepers.sort();
    keepers.dedup();
    assert_eq!(keepers.len(), 3);
    until_so("one keeper", || children(agent.process.pid()).len() == 1);
    talk.assert_alive();
}

#[test]
fn a_keeper_that_waits_holds_no_memory_of_a_transfer() {
    let (_agent, mut talk) = Agent::ready();
    let dir = crate::util::Dir::new();
    talk.begin_write("w", write_file(&dir.file("file", "old")));
    talk.chunk("w", 0, &noise(10_000), false);
    let keeper = keeper_of_next(&mut talk, "1");
    let maps = fs::read_to_string(format!("/proc/{keeper}/maps")).unwrap();
    let shared = maps.lines().filter(|map| map.contains("/dev/zero"));
    // Its own counters, which are a page.
    let sizes: Vec<u64> = shared.map(size).collect();
    assert_eq!(sizes, [4096]);
    cancel(&mut talk, "w");
}

/// The bytes of a line of /proc/PID/maps.
fn size(map: &str) -> u64 {
    let (from, to) = map.split(' ').next().unwrap().split_once('-').unwrap();
    let number = |hex| u64::from_str_radix(hex, 16).unwrap();
    number(to) - number(from)
}

#[test]
fn a_program_is_looked_for_as_a_shell_does() {
    let (agent, mut talk) = Agent::ready();
    let dir = &agent.dir;
    for (path, mode) in [
        ("a/tool", 0o644),
        ("b/tool", 0o755),
        ("c/only", 0o644),
        ("script", 0o755),
    ] {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        // Without `#!`, as execvp(3) gives it to the shell.
        fs::write(dir.join(path), "echo script $0 $#").unwrap();
        fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let here = dir.text("");
    let with_path = |words: &[&str]| agent::Execute {
        environment: [(
            "PATH".to_owned(),
            format!("{here}/none:{here}/a:{here}/b:{here}/c:/bin"),
        )]
        .into(),
        ..argv(words)
    };
    // One that may not be run is passed over.
    let out = talk.exec("1", with_path(&["tool", "x", "y"])).stdout;
    let b = format!("script {}/b/tool 2\n", here.trim_end_matches('/'));
    assert_eq!(String::from_utf8(out).unwrap().replace("//", "/"), b);
    let (code, why) = talk.refused("2", Body::Execute(with_path(&["only", "x"])));
    assert_eq!(code, "PERMISSION", "{why}");
    let (code, why) = talk.refused("3", Body::Execute(with_path(&["nowhere", "x"])));
    assert_eq!(code, "NOT_FOUND");
    assert!(why.contains("nowhere: No such file"), "{why}");
    let relative = agent::Execute {
        working_directory: here,
        ..argv(&["./script", "x"])
    };
    let out = talk.exec("4", relative).stdout;
    assert_eq!(out, b"script ./script 1\n");
}

#[test]
fn neither_keeper_nor_command_leaves_a_descriptor_to_the_next() {
    let (agent, mut talk) = Agent::ready();
    let count = |talk: &mut Talk, id: &str, keeper: u32| {
        let ours = fs::read_dir(format!("/proc/{keeper}/fd")).unwrap().count();
        let line = "ls -l /proc/self/fd | grep -c pipe:";
        let theirs = String::from_utf8(talk.exec(id, shell(line)).stdout).unwrap();
        let all = fs::read_dir(format!("/proc/{}/fd", agent.process.pid()));
        (ours, theirs, all.unwrap().count())
    };
    let keeper = keeper_of_next(&mut talk, "1");
    let first = count(&mut talk, "2", keeper);
    for _ in 0..20 {
        talk.exec("3", shell("cat; echo x"));
    }
    assert_eq!(keeper_of_next(&mut talk, "4"), keeper);
    assert_eq!(count(&mut talk, "5", keeper), first);
}

/// A file system that never answers, until its server is killed.
fn dead_file_system(agent: &Agent) -> Option<(Process, String)> {
    if !is_root() || !fs::exists("/dev/fuse").unwrap_or(false) {
        return None;
    }
    fs::create_dir(agent.dir.join("dead")).unwrap();
    let dead = agent.dir.text("dead");
    let options = "fd=3,rootmode=40000,user_id=0,group_id=0";
    let line = format!(
        "exec 3<>/dev/fuse; mount -i -t fuse -o {options} dead {dead} && echo mounted >&2; exec sleep 1000"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]);
    let server = Process::start(&mut shell, agent.dir.join("fuse.log"));
    let said = until("mount", || Some(server.log()).filter(|log| !log.is_empty()));
    // Not everyone who is root may mount.
    said.contains("mounted").then_some((server, dead))
}

#[test]
fn a_command_on_a_file_system_that_hangs_is_answered() {
    let (agent, mut talk) = Agent::ready();
    let Some((mut server, dead)) = dead_file_system(&agent) else {
        return;
    };
    let program = format!("{dead}/program");
    let inside = agent::Execute {
        working_directory: dead.clone(),
        timeout_seconds: 1,
        ..shell("true")
    };
    talk.send("1", Body::Execute(argv(&[&program, "x"])));
    let keeper = until("keeper", || children(agent.process.pid()).first().copied());
    let hangs = until("process", || children(keeper).first().copied());
    talk.assert_alive();
    cancel(&mut talk, "1");
    until_so("its end", || !is_alive(hangs));
    let (code, why) = talk.refused("2", Body::Execute(inside));
    assert_eq!(code, "TIMED_OUT");
    assert!(why.contains("hang"), "{why}");
    server.kill();
    let _ = Command::new("umount").args(["-l", &dead]).status();
    talk.assert_alive();
}

/// The nice value of a process (field 19 of proc_pid_stat(5)).
fn nice(pid: u32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(16).unwrap().parse().unwrap()
}

#[test]
fn the_loop_goes_first_and_nothing_that_it_starts_does() {
    if !is_root() {
        return;
    }
    let (agent, mut talk) = Agent::ready();
    talk.begin_write("w", write_file(&agent.dir.file("file", "old")));
    talk.send("1", Body::Execute(shell("exec sleep 1000")));
    let pid = agent.process.pid();
    until_so("a worker and a keeper", || children(pid).len() == 2);
    assert_eq!(nice(pid), -3);
    for child in children(pid) {
        until_so("it to step back", || nice(child) == 0);
    }
    assert_eq!(talk.exec("2", shell("nice")).stdout, b"0\n");
}
