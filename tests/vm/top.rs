//! A person who watches the VMs of a host on a terminal.

use std::os::unix::net::UnixListener;

use super::harness::{Node, PATIENCE, Place, shared, signal, wait_until};
use super::screen::Screen;

#[test]
fn what_guests_do_is_seen_and_keys_move_in_it() {
    let host = shared();
    let screen = Screen::open(&host.place, &host.node, "top");
    screen.begin("LC_ALL=C.UTF-8 $QX top --interval 1");
    // Numbers, and a past, as soon as there is a report.
    wait_until("a guest's line", PATIENCE, || {
        let text = screen.text();
        let of_web1 = text.lines().find(|line| line.starts_with("web1 "));
        of_web1.is_some_and(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            line.contains([
                '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2588}',
            ]) && words[1] == "ready"
                && words[2].parse::<f64>().is_ok_and(|cpu| cpu <= 100.0)
        })
    });
    screen.shows("1 VM: 1 ready");
    screen.shows("by cpu");
    screen.keys("n");
    screen.shows("by name");
    screen.keys("/web1");
    screen.shows("/web1    1 found");
    screen.key("Enter");
    screen.shows("only web1");
    screen.key("Enter");
    screen.shows("1 h peak");
    let details = screen.text();
    assert!(details.contains("\nweb1  ready, "), "{details}");
    for chart in ["CPU: ", "memory: ", "disks: ", "network: "] {
        assert!(details.contains(chart), "{chart} in {details}");
    }
    screen.resize("46", "12");
    wait_until("a smaller picture", PATIENCE, || {
        let text = screen.text();
        text.contains("STATE") && !text.contains("SENT/S") && text.contains("\nweb1  ready, ")
    });
    // What there is no room for at all.
    screen.resize("5", "2");
    screen.resize("120", "40");
    screen.shows("SENT/S");
    screen.keys("?");
    screen.shows("turn the order round");
    screen.key("Escape");
    screen.shows("1 h peak");
    screen.keys("q");
    assert_eq!(screen.left(), 0);
}

#[test]
fn whoever_ends_top_has_the_terminal_back() {
    let place = Place::new();
    let mut node = Node::new(&place);
    // A socket that nobody serves any more.
    drop(UnixListener::bind(place.socket("db1")).unwrap());
    node.start();
    let screen = Screen::open(&place, &node, "ends");
    let begin = |line: &str| {
        screen.begin(line);
        screen.shows("db1 ");
        screen.shows("connecting");
    };
    begin("$QX top");
    screen.key("C-c");
    assert_eq!(screen.left(), 0);
    begin("$QX top");
    signal(screen.front(), "TERM");
    assert_eq!(screen.left(), 143);
    screen.shows("interrupted");
    // In the background it is in nobody's way; and back.
    begin("$QX top");
    screen.key("C-z");
    screen.shows("here>");
    screen.line("clear; echo in 'the' shell");
    screen.shows("in the shell");
    screen.line("fg");
    screen.shows("connecting");

    // Its daemon is restarted, and it goes on.
    node.kill();
    screen.shows("no daemon on");
    node.start();
    screen.shows("1 VM: 1 connecting");
    screen.keys("q");
    screen.shows("here>");

    screen.line("clear; $QX top | cat");
    screen.shows("top draws on a terminal; `qx-node vms --json` has the same");
    screen.line("clear; TERM=dumb $QX top");
    screen.shows("top draws on a terminal");
    for (words, why) in [
        (
            "--sort size",
            "--sort takes one of name, state, cpu, memory",
        ),
        ("a b", "b is one word too many"),
        ("--interval 0", "--interval"),
    ] {
        screen.line(&format!("clear; $QX top {words}"));
        screen.shows(why);
    }
    node.kill();
    screen.line("clear; $QX top");
    screen.shows("no daemon on");
}
