use std::fs;

use serde_json::Value;

use crate::util::node::Node;
use crate::util::until;

#[test]
fn what_a_guest_has_reported_is_kept_also_when_it_is_off() {
    let node = Node::start();
    let relay = node.relay("vm");
    let agent = node.agent("vm", &["--telemetry-interval", "1"]);
    node.wait_state("vm", "ready");
    let since = ["telemetry", "vm", "--since", "30m"];
    let json = || node.run(&[&since[..], &["--json"]].concat()).json();
    let history = until("three samples", || {
        let history = json();
        let samples = history["samples"].as_array().unwrap();
        (samples.len() >= 3).then(|| samples.clone())
    });
    let of = history.last().unwrap();
    assert!(of["memory_used_bytes"].as_u64().unwrap() > 0);
    assert!(of["memory_used_bytes"].as_u64() < of["memory_total_bytes"].as_u64());
    assert!(of["cpu_percent"].as_f64().unwrap() <= 100.0);
    assert!(of["disk_read_bytes_per_second"].is_u64());
    assert_eq!(history[0]["disk_read_bytes_per_second"], Value::Null);
    let times: Vec<&str> = history
        .iter()
        .map(|of| of["time"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted(), "{times:?}");

    drop((agent, relay));
    fs::remove_file(node.socket("vm")).unwrap();
    node.wait_state("vm", "absent");
    let samples = json()["samples"].as_array().unwrap().len();
    let text = node.run(&since);
    assert_eq!(text.fine().lines().count(), samples + 1, "{text:?}");
    assert!(text.text().starts_with("TIME "));
    let csv = node.run(&[&since[..], &["--csv"]].concat());
    let mut lines = csv.fine().lines();
    let names = lines.next().unwrap().split(',').count();
    assert_eq!(names, of.as_object().unwrap().len());
    assert!(lines.all(|line| line.split(',').count() == names));

    for (words, why) in [
        (
            &["telemetry", "vm", "--since", "soon"][..],
            "--since takes 90s, 30m or 1h, not soon",
        ),
        (&["telemetry", "vm", "--since", "1m", "--watch"], "not both"),
        (&["telemetry", "vm", "--csv"], "--csv goes with --since"),
    ] {
        assert!(node.run(words).trouble(2).contains(why), "{words:?}");
    }
}
