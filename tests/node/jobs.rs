use serde_json::Value;

use crate::util::agent::spawn;
use crate::util::node::{Node, Vm, serve};
use crate::util::{is_alive, pid_in, until_so};

/// Numbers from 1 to `last`, and a wait in the middle.
fn counter(gate: &str, last: u32) -> String {
    let half = last / 2;
    format!(
        "seq 1 {half}; echo half >&2; {gate}; \
         seq {} {last}; echo end >&2; exit 7",
        half + 1
    )
}

fn numbers(last: u32) -> String {
    (1..=last).map(|n| format!("{n}\n")).collect()
}

fn jobs(node: &Node) -> Vec<Value> {
    let list = node.run(&["jobs", "vm", "--json"]).json();
    list.as_array().unwrap().clone()
}

fn detach(node: &Node, line: &str) -> String {
    let said = node.run(&["exec", "vm", "--detach", "--", line]);
    said.fine().trim().to_owned()
}

#[test]
fn a_detached_command_is_listed_followed_and_its_result_kept() {
    let (node, _vm) = Node::with_vm("vm");
    let said = node.run(&["jobs", "vm"]);
    assert!(said.fine().starts_with("no jobs: "), "{}", said.text());
    let gate = node.dir.gate("gate");
    let job = detach(&node, &counter(&gate, 1000));
    assert_eq!(job, "1");
    let found = &jobs(&node)[0];
    assert_eq!(
        (&found["job"], &found["state"]),
        (&1.into(), &"running".into())
    );
    assert!(found["exit_code"].is_null());
    let follower = node.begin(&["attach", "vm", "1"]);
    node.dir.open("gate");
    let said = follower.end();
    assert_eq!((said.status, said.text()), (7, &*numbers(1000)));
    assert_eq!(said.stderr, "half\nend\n");
    // All of it again, and its end.
    let said = node.run(&["attach", "vm", "1"]);
    assert_eq!((said.status, said.text()), (7, &*numbers(1000)));
    let from = numbers(990).len().to_string();
    let said = node.run(&["attach", "vm", "1", "--from", &format!("{from},5")]);
    let rest: String = (991..=1000).map(|n| format!("{n}\n")).collect();
    assert_eq!((said.text(), &*said.stderr), (&*rest, "end\n"));
    let found = &jobs(&node)[0];
    assert_eq!(
        (&found["state"], &found["exit_code"]),
        (&"ended".into(), &7.into())
    );
    let table = node.run(&["jobs", "vm"]);
    assert!(
        table.fine().contains("1    ended, status 7"),
        "{}",
        table.text()
    );
    let said = node.run(&["kill", "vm", "1"]);
    assert!(said.trouble(1).contains("job 1 has ended"));
    let said = node.run(&["attach", "vm", "9"]);
    assert!(said.trouble(125).contains("no job 9 in this guest"));
}

#[test]
fn a_detached_command_that_cannot_start_says_so_and_is_no_job() {
    let (node, _vm) = Node::with_vm("vm");
    let said = node.run(&["exec", "vm", "--detach", "--", "/no/such/program", "x"]);
    assert!(said.trouble(125).contains("/no/such/program: No such file"));
    assert!(jobs(&node).is_empty());
    let said = node.run(&["exec", "vm", "--detach", "-i", "--", "cat"]);
    said.trouble(2);
}

#[test]
fn a_killed_job_is_gone_with_all_that_it_has_started() {
    let (node, _vm) = Node::with_vm("vm");
    let (leader, orphan) = (node.dir.text("leader"), node.dir.text("orphan"));
    let line = format!(
        "trap '' HUP; (setsid sh -c 'trap \"\" TERM HUP; echo $$ > {orphan}; sleep 60; sleep 60' &) ; \
         echo $$ > {leader}; sleep 60; sleep 60"
    );
    let job = detach(&node, &line);
    let (leader, orphan) = (pid_in(leader.as_ref()), pid_in(orphan.as_ref()));
    let said = node.run(&["kill", "vm", &job]);
    assert_eq!(said.fine(), "job 1: ended by signal 15\n");
    assert!(!is_alive(leader) && !is_alive(orphan));
    // A signal alone is the command's to act on.
    let job = detach(
        &node,
        "trap 'echo usr; exit 3' USR1; echo ready; while :; do sleep 0.02; done",
    );
    until_so("its trap", || node_output(&node, &job) == "6");
    let said = node.run(&["kill", "vm", &job, "--signal", "USR1"]);
    assert_eq!(said.fine(), "job 2: running\n");
    let said = node.run(&["attach", "vm", &job]);
    assert_eq!((said.status, said.text()), (3, "ready\nusr\n"));
}

fn node_output(node: &Node, job: &str) -> String {
    let all = jobs(node);
    let found = all
        .iter()
        .find(|found| found["job"].as_u64() == job.parse().ok());
    found.unwrap()["stdout_bytes"].to_string()
}

#[test]
fn a_timeout_is_kept_by_the_keeper_of_a_detached_command() {
    let (node, mut vm) = Node::with_vm("vm");
    let said = node.run(&["exec", "vm", "--detach", "--timeout", "1", "--", "sleep 60"]);
    said.fine();
    node.restart_agent(&mut vm);
    let said = node.run(&["attach", "vm", "1"]);
    assert_eq!(said.status, 124);
    assert_eq!(jobs(&node)[0]["timed_out"], true);
}

#[test]
fn a_follower_goes_on_at_its_byte_when_the_daemon_or_the_agent_has_been_killed() {
    let (mut node, mut vm) = Node::with_vm("vm");
    let gate = node.dir.gate("gate");
    let job = detach(&node, &counter(&gate, 20_000));
    let mut follower = node.begin(&["attach", "vm", &job]);
    follower.wait_output(numbers(10_000).len());
    node.process.kill();
    node.process = serve(&node.dir);
    node.wait_control();
    node.wait_state("vm", "ready");
    node.restart_agent(&mut vm);
    node.wait_state("vm", "ready");
    node.dir.open("gate");
    let said = follower.end();
    assert_eq!(said.status, 7, "{}", said.stderr);
    assert!(
        said.text() == numbers(20_000),
        "bytes were lost or repeated"
    );
}

/// The agent's own package is installed by a command that the agent runs.
#[test]
fn a_command_that_restarts_its_agent_is_followed_to_its_end() {
    for how in ["TERM", "KILL"] {
        let (node, mut vm) = Node::with_vm("vm");
        let gate = node.dir.gate("gate");
        let line = format!(
            "seq 1 10000; {}; kill -{how} {}; {}",
            node.dir.gate("seen"),
            vm.agent.pid(),
            counter(&gate, 0)
        );
        let mut exec = node.begin(&["exec", "vm", "--", &line]);
        exec.wait_output(1);
        node.dir.open("seen");
        restart_when_gone(&node, &mut vm);
        node.wait_state("vm", "ready");
        // The first to ask may find that the agent is another.
        until_so("it is a job", || {
            let said = node.run(&["jobs", "vm", "--json"]);
            said.status == 0 && said.json()[0]["adopted"] == true
        });
        node.dir.open("gate");
        let said = exec.end();
        assert_eq!(said.status, 7, "{how}: {}", said.stderr);
        assert!(
            said.text().starts_with(&numbers(10_000)),
            "bytes were lost or repeated"
        );
        assert!(said.stderr.contains("half\nend\n"), "{}", said.stderr);
    }
}

fn restart_when_gone(node: &Node, vm: &mut Vm) {
    vm.agent.wait();
    vm.agent = spawn(&node.dir, "vm.port", &[]);
}

#[test]
fn who_comes_too_late_is_told_how_much_was_overwritten() {
    let (node, _vm) = Node::with_vm("vm");
    let job = detach(&node, "seq 1 200000");
    until_so("its end", || jobs(&node)[0]["state"] == "ended");
    let all = numbers(200_000);
    let kept = 256 * 1024;
    let said = node.run(&["attach", "vm", &job]);
    assert_eq!(said.status, 0);
    assert!(said.text() == &all[all.len() - kept..]);
    let lost = all.len() - kept;
    assert_eq!(
        said.stderr,
        format!("qx-node: {lost} bytes of stdout are lost: overwritten before they were read\n")
    );
}

#[test]
fn an_outcome_tells_that_output_was_lost_with_an_agent() {
    let (node, mut vm) = Node::with_vm("vm");
    let (seen, written) = (node.dir.gate("seen"), node.dir.join("written"));
    let line = format!(
        "echo begun; {seen}; kill -KILL {}; seq 1 200000; echo > {}; exit 3",
        vm.agent.pid(),
        written.display()
    );
    let mut exec = node.begin(&["exec", "vm", "--outcome", "W", "--", &line]);
    exec.wait_output(1);
    node.dir.open("seen");
    vm.agent.wait();
    until_so("all of its output", || written.exists());
    vm.agent = spawn(&node.dir, "vm.port", &[]);
    let said = exec.end();
    assert_eq!(said.status, 3, "{}", said.stderr);
    assert!(said.stderr.contains("are lost"), "{}", said.stderr);
    let outcome = "\nW exit 3 incomplete\n";
    assert!(said.stderr.ends_with(outcome), "{}", said.stderr);
}

#[test]
fn only_so_many_run_and_only_so_many_results_are_kept() {
    let (node, _vm) = Node::with_vm("vm");
    for n in 1..=20 {
        assert_eq!(detach(&node, "true"), n.to_string());
    }
    until_so("sixteen results", || {
        let all = jobs(&node);
        all.len() == 16 && all.iter().all(|job| job["state"] == "ended")
    });
    assert_eq!(jobs(&node)[0]["job"], 5);
    let gate = node.dir.gate("gate");
    for _ in 0..32 {
        detach(&node, &gate);
    }
    let said = node.run(&["exec", "vm", "--detach", "--", "true"]);
    assert!(
        said.trouble(125)
            .contains("32 kept commands run in this guest")
    );
    node.dir.open("gate");
}
