use std::time::Duration;

use quantix::message::{Body, message};

use crate::util::agent::{frame, spawn};
use crate::util::node::Node;
use crate::util::relay::Mode;
use crate::util::{pid_in, stopwatch, until, until_so};

/// What the daemon promises for a guest that does not answer, with room for a busy machine.
const PROMISED: Duration = Duration::from_secs(25);

#[test]
fn a_dead_guest_hangs_no_client() {
    let (node, vm) = Node::with_vm("dead");
    let elapsed = stopwatch();
    vm.relay.set(Mode::Hold, Mode::Hold);
    let clients = [
        node.begin(&["ping", "dead"]),
        node.begin(&["exec", "dead", "--", "true"]),
        node.begin(&["cat", "dead", "/proc/version"]),
        node.begin(&["telemetry", "dead"]),
    ];
    let [ping, exec, cat, telemetry] = clients.map(|client| client.end());
    assert!(elapsed() < PROMISED);
    let cause = "dead is stalled: the guest no longer takes our bytes";
    for (said, status) in [(ping, 4), (exec, 125), (cat, 4), (telemetry, 4)] {
        let why = said.trouble(status);
        assert!(
            why.contains(cause) || why.contains("dead has not answered in time"),
            "{why}"
        );
        assert!(
            why.contains("is the VM paused") || why.contains("does not answer"),
            "{why}"
        );
    }
    // Alive again, it serves as before, in the same connection.
    vm.relay.set(Mode::Pass, Mode::Pass);
    node.wait_state("dead", "ready");
    node.run(&["ping", "dead"]).fine();
}

#[test]
fn a_guest_that_takes_bytes_and_says_nothing_is_found_out() {
    let (node, vm) = Node::with_vm("mute");
    vm.relay.set(Mode::Swallow, Mode::Swallow);
    let said = node.run(&["ping", "mute"]);
    let why = said.trouble(4);
    assert!(why.contains("mute") || why.contains("not answer"), "{why}");
    vm.relay.set(Mode::Pass, Mode::Pass);
    node.wait_state("mute", "ready");
    node.run(&["ping", "mute"]).fine();
}

#[test]
fn a_vm_without_an_agent_is_waited_for_and_then_named() {
    let node = Node::start();
    let relay = node.relay("empty");
    let clients = [
        node.begin(&["ping", "empty"]),
        node.begin(&["exec", "empty", "--", "true"]),
    ];
    let [ping, exec] = clients.map(|client| client.end());
    assert!(ping.trouble(4).contains("empty is waiting for agent: "));
    assert!(
        exec.trouble(125)
            .contains("is quantix-kvm-agent running there?")
    );
    let mut early = node.begin(&["exec", "empty", "--", "echo", "served"]);
    let agent = node.agent("empty", &[]);
    until_so("the request is served", || early.has_ended());
    assert_eq!(early.end().fine(), "served\n");
    drop((relay, agent));
}

#[test]
fn a_socket_that_nobody_serves_is_named() {
    let node = Node::start();
    drop(std::os::unix::net::UnixListener::bind(node.socket("off")).unwrap());
    until_so("the reason is known", || {
        let vm = node.wait_state("off", "connecting");
        vm["reason"]
            .as_str()
            .unwrap_or_default()
            .starts_with("nothing listens on the socket")
    });
    let why = node.run(&["ping", "off"]);
    assert!(why.trouble(4).contains("nothing listens on the socket"));
}

#[test]
fn an_agent_restarted_in_the_middle_of_a_request_leaves_it_undecided() {
    let (node, mut vm) = Node::with_vm("vm");
    let (pid, gate) = (node.dir.text("pid"), node.dir.gate("gate"));
    let line = format!("echo $$ >> {pid}; {gate}");
    // With an input, that the agent's end has cut off.
    let exec = node.begin(&["exec", "-i", "vm", "--", &line]);
    pid_in(pid.as_ref());
    node.restart_agent(&mut vm);
    // The Ping of another client brings the news.
    node.run(&["ping", "vm"]).fine();
    let said = exec.end();
    let why = said.trouble(125);
    assert!(
        why.contains("the channel was lost before the answer"),
        "{why}"
    );
    assert!(
        why.contains("whether the guest acted on the request is unknown"),
        "{why}"
    );
    node.dir.open("gate");
    let ran = std::fs::read_to_string(&pid).unwrap();
    assert_eq!(ran.lines().count(), 1, "it ran again");
}

#[test]
fn a_request_to_a_guest_not_heard_of_lately_runs_exactly_once_whoever_answers() {
    let (node, mut vm) = Node::with_vm("vm");
    let file = node.dir.text("ran");
    for round in 1..=2 {
        node.restart_agent(&mut vm);
        until("a second of silence", || {
            let ms = node.look("vm")?["last_frame_ms"].as_u64()?;
            (1100..4500).contains(&ms).then_some(())
        });
        node.exec("vm", &format!("echo once >> {file}")).fine();
        let ran = std::fs::read_to_string(&file).unwrap();
        assert_eq!(ran.lines().count(), round);
        node.wait_state("vm", "ready");
    }
}

#[test]
fn a_connection_that_is_cut_comes_back_by_itself() {
    let (node, vm) = Node::with_vm("vm");
    let sessions = |node: &Node| {
        node.look("vm").unwrap()["counters"]["sessions"]
            .as_u64()
            .unwrap()
    };
    let before = sessions(&node);
    vm.relay.cut_host();
    until_so("another session", || sessions(&node) > before);
    node.run(&["ping", "vm"]).fine();
    vm.relay.cut_guest();
    // The agent comes back to the same relay and is found by the next Ping.
    node.run(&["ping", "vm"]).fine();
}

#[test]
fn garbage_between_the_agents_frames_is_dropped_and_counted() {
    let (node, vm) = Node::with_vm("vm");
    let bare = frame(&message("x", Body::Telemetry(Default::default())), None);
    let garbage = [&bare[..], b"\0\0\0\0 anything \xFF"].concat();
    vm.relay.inject_to_host(&garbage);
    until_so("it is counted", || {
        let counters = node.look("vm").unwrap()["counters"].clone();
        counters["bad_frames"] == 1 && counters["garbage_bytes"] == 14
    });
    node.run(&["ping", "vm"]).fine();
}

#[test]
fn the_answer_of_a_stopped_agent_is_that_it_stops() {
    let (node, mut vm) = Node::with_vm("vm");
    let pid = node.dir.text("pid");
    let exec = node.begin(&[
        "exec",
        "-i",
        "vm",
        "--",
        &format!("echo $$ > {pid}; sleep 60 & wait"),
    ]);
    let command = pid_in(pid.as_ref());
    vm.agent.signal("TERM");
    assert!(vm.agent.wait().success());
    let said = exec.end();
    assert!(said.trouble(125).contains("the agent is stopping"));
    // It may be what has the agent stop, to install another.
    assert!(crate::util::is_alive(command));
    vm.agent = spawn(&node.dir, "vm.port", &[]);
    node.run(&["kill", "vm", "1"]).fine();
    assert!(!crate::util::is_alive(command));
}
