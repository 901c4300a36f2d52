//! `qx-node time`, as far as no clock is set: the agent shares ours.

use crate::util::node::Node;

#[test]
fn a_guest_whose_clock_is_ours_is_neither_ahead_nor_behind() {
    let (node, _vm) = Node::with_vm("vm");
    let found = node.run(&["time", "vm", "--json"]).json();
    let seconds = |key: &str| found[key].as_f64().unwrap();
    assert!(
        seconds("ahead_seconds").abs() <= seconds("uncertainty_seconds"),
        "{found}"
    );
    let said = node.run(&["time", "vm"]);
    let lines: Vec<&str> = said.fine().lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[0].ends_with(')') && lines[0].contains(" UTC  the same"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("host   20") && lines[2].starts_with("rtc    "),
        "{lines:?}"
    );
}

#[test]
fn what_is_no_time_is_not_sent() {
    let (node, _vm) = Node::with_vm("vm");
    for word in ["", "now", "2026-02-30", "12:00", "-5"] {
        let said = node.run(&["time", "vm", &format!("--set={word}")]);
        assert!(
            said.trouble(2).contains("--set takes a time in UTC"),
            "{word}"
        );
    }
    let said = node.run(&["time", "vm", "--sync", "--set", "2026-01-01"]);
    assert!(said.trouble(2).contains("either --set or --sync"));
}
