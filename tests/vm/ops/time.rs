//! The guest's clocks.

use serde_json::Value;

use crate::vm::harness::{Node, Own, PATIENCE, wait_until};

fn time(node: &Node, words: &[&str]) -> Value {
    node.cli(&[&["time", "db1", "--json"], words].concat())
        .json()
}

fn ahead(found: &Value) -> f64 {
    found["ahead_seconds"].as_f64().unwrap()
}

#[test]
fn the_clocks_are_read_set_and_stepped_to_the_hosts() {
    let own = Own::ready(&Default::default());
    let sh = |line: &str| own.node.sh("db1", line);
    // Both clocks, as the guest's own tools see them.
    let found = time(&own.node, &["--set", "2031-02-03 04:05:06"]);
    assert_eq!(found["rtc_problem"], Value::Null, "{found}");
    assert!(ahead(&found) > 1e8, "{found}");
    assert!(sh("date -u +%F_%H:%M").starts_with("2031-02-03_04:05"));
    assert!(
        sh("hwclock -u -r").contains("Feb  3 04:05"),
        "{}",
        sh("hwclock -u -r")
    );
    assert!(sh("cat /sys/class/rtc/rtc0/date").contains("2031-02-03"));
    let text = own.node.cli(&["time", "db1"]).text();
    assert!(text.starts_with("guest  2031-02-03 04:05:"), "{text}");
    assert!(text.contains(" ahead\n"), "{text}");

    // The session is not disturbed, and what is measured by the clock that cannot be set goes on.
    let sessions = own.node.vm("db1")["counters"]["sessions"].clone();
    let found = time(&own.node, &["--sync"]);
    assert!(ahead(&found).abs() < 1.0, "{found}");
    let host: f64 = sh("date +%s").parse().unwrap();
    assert!((host - found["host"].as_f64().unwrap()).abs() < 10.0);
    assert_eq!(own.node.vm("db1")["counters"]["sessions"], sessions);

    // What is no time to set changes nothing.
    for bad in ["1960-01-01", "2200-01-01"] {
        let said = own.node.cli(&["time", "db1", "--set", bad]);
        said.failed(1, &[bad, "a clock is set to a time from 1970 to 2199"]);
    }
    // The kernel's own word on a boot before 1970.
    let said = own.node.cli(&["time", "db1", "--set", "1970-01-01"]);
    said.failed(1, &["set the clock: Invalid argument"]);
    assert!(ahead(&time(&own.node, &[])).abs() < 1.0);

    // One that runs on local time is left alone, and the wall clock set all the same.
    sh("printf '0.0 0 0.0\\n0\\nLOCAL\\n' >/etc/adjtime");
    let found = time(&own.node, &["--set", "2030-01-01"]);
    let why = found["rtc_problem"].as_str().unwrap();
    assert!(
        why.contains("/etc/adjtime says that it runs on local time"),
        "{found}"
    );
    assert!(sh("date -u +%F").starts_with("2030-01-01"));
    assert!(!sh("cat /sys/class/rtc/rtc0/date").contains("2030"));
}

#[test]
fn a_guest_that_was_paused_has_its_clock_stepped_where_that_is_wanted() {
    let mut own = Own::ready(&Default::default());
    let pause = |own: &mut Own| {
        own.vm.qmp().run("stop", serde_json::json!({}));
        own.rest(5);
        own.vm.qmp().run("cont", serde_json::json!({}));
    };
    let events = |node: &Node, kind: &str| -> Vec<Value> {
        let text = node.cli(&["events", "db1", "--json"]).text();
        let events = text.lines().map(|line| serde_json::from_str(line).unwrap());
        events
            .filter(|event: &Value| event["event"] == kind)
            .collect()
    };
    pause(&mut own);
    wait_until("the resume", PATIENCE, || {
        events(&own.node, "guest_resumed").len() == 1
    });
    own.node.cli(&["ping", "db1"]).ok();
    assert!(ahead(&time(&own.node, &[])) < -3.0);
    assert!(events(&own.node, "clock_corrected").is_empty());

    own.node.options(&["--time-sync", "on-resume"]);
    own.node.start();
    own.node.wait_state("db1", "ready");
    // That it was off before is nobody's business.
    assert!(ahead(&time(&own.node, &[])) < -3.0);
    pause(&mut own);
    wait_until("the step", PATIENCE, || {
        events(&own.node, "clock_corrected").len() == 1
    });
    let why = events(&own.node, "clock_corrected")[0]["reason"].clone();
    assert!(why.as_str().unwrap().starts_with("by +"), "{why}");
    assert!(ahead(&time(&own.node, &[])).abs() < 0.5);
}
