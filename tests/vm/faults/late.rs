//! A host that comes late.

use std::time::{Duration, Instant};

use super::noise::silent;
use crate::vm::harness::{Options, Own, PATIENCE, count, wait_until};

#[test]
fn an_agent_without_a_host_sleeps_and_then_serves_at_once() {
    // The hold script starts the measurement, which goes on beside the agent.
    let append = "qx.args=--telemetry-interval,1 \
        qx.hold=(sleep,3;probe,wakeups,$(pidof,quantix-kvm-agent),30)>/dev/console&";
    let mut own = Own::boot(&Options {
        append,
        ..Default::default()
    });
    own.vm.wait_agent();
    own.rest(30);
    own.vm.wait_console("writes ");
    let console = own.vm.console();
    let line = console.lines().find(|line| line.contains("switches "));
    let line = line.unwrap();
    let number = |name: &str| -> u64 {
        let mut words = line.split(' ').skip_while(|word| *word != name);
        words.nth(1).unwrap().parse().unwrap()
    };
    assert!(number("voluntary") <= 1, "{line}");
    assert!(number("switches") <= 2, "{line}");
    assert_eq!(number("writes"), 0, "{line}");
    // Nor does it speak to a host that does not. Whatever it had kept for one would come now.
    silent(&mut own.place.raw_client("db1"));
    assert!(!own.vm.console().contains("session"));

    let begun = Instant::now();
    own.node.start();
    own.node.cli(&["ping", "db1"]).ok();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let vm = own.node.vm("db1");
    assert_eq!(count(&vm, "connects"), 1, "{vm}");
    assert_eq!(count(&vm, "sessions"), 1, "{vm}");
    assert_eq!(own.vm.console().matches("started").count(), 1);

    // The same after its host has left: 30 s later it has given the session up, at the latest.
    let agent = own.agents()[0];
    let line = format!("(sleep 1; probe wakeups {agent} 10) >/tmp/wakeups");
    own.node.cli(&["exec", "db1", "--detach", "--", &line]).ok();
    own.node.kill();
    own.rest(13);
    own.node.start();
    let mut said = String::new();
    wait_until("the measurement", PATIENCE, || {
        said = own.node.sh("db1", "cat /tmp/wakeups");
        said.contains("switches")
    });
    let voluntary = said.split(' ').nth(3).unwrap();
    assert!(voluntary.parse::<u32>().unwrap() <= 2, "{said}");
}
