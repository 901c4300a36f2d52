//! A person at a terminal, with a shell in a guest.

use super::harness::{Options, Own, PATIENCE, shared, signal, wait_until};
use super::screen::Screen;

/// Without the space behind it, which tmux does not show.
const PROMPT: &str = "~ #";

#[test]
fn a_shell_is_a_terminal_from_end_to_end() {
    let host = shared();
    let screen = Screen::open(&host.place, &host.node, "screen");
    screen.begin("$QX shell web1");
    screen.shows(PROMPT);
    screen.line("stty size; tty; echo $TERM $0");
    screen.shows("\n30 100\n/dev/pts/");
    screen.shows(" -sh\n");
    // The quotes: what is typed is shown too.
    screen.line("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo is 'now' larger");
    screen.resize("120", "40");
    screen.shows("is now larger");

    screen.line("vi /tmp/story");
    screen.shows("- /tmp/story");
    screen.keys("ihello from vi");
    screen.shows("hello from vi");
    screen.key("Escape");
    screen.shows("- /tmp/story [Modified]");
    screen.line(":wq");
    screen.shows(PROMPT);
    let saved = || host.node.sh("web1", "cat /tmp/story 2>/dev/null || true");
    wait_until("the file", PATIENCE, || saved() == "hello from vi");

    screen.line("clear; top");
    screen.shows("PID  PPID USER");
    screen.shows("Mem:");
    screen.keys("q");
    screen.line("clear; echo be'hind' top");
    screen.shows("behind top");

    screen.line("sleep 3081");
    let sleeps = || host.node.processes("web1", "sleep 3081").len();
    wait_until("a command in front", PATIENCE, || sleeps() == 1);
    screen.key("C-c");
    screen.line("echo status $?");
    screen.shows("status 130");
    assert_eq!(sleeps(), 0);
    screen.line("exit 3");
    assert_eq!(screen.left(), 3);
}

#[test]
fn who_leaves_a_shell_has_the_terminal_back_and_leaves_nothing_behind() {
    let host = shared();
    let screen = Screen::open(&host.place, &host.node, "leaving");
    for (n, how) in ["~.", "HUP", "KILL"].into_iter().enumerate() {
        screen.begin("$QX shell web1");
        screen.shows(PROMPT);
        let sleep = format!("sleep 309{n}");
        screen.line(&sleep);
        let sleeps = || host.node.processes("web1", &sleep).len();
        wait_until("a command in front", PATIENCE, || sleeps() == 1);
        match how {
            // Behind an Enter, which the sleep does not read.
            "~." => screen.keys("~."),
            _ => signal(screen.front(), how),
        }
        // Who is killed cannot put anything back.
        if how != "KILL" {
            assert_eq!(screen.left(), 125, "{how}");
        }
        wait_until("nothing in the guest", PATIENCE, || sleeps() == 0);
    }
}

#[test]
fn a_command_on_a_terminal_has_its_own_status() {
    let host = shared();
    let screen = Screen::open(&host.place, &host.node, "command");
    screen.begin("$QX exec -t web1 --user alice -- 'id -un; stty size; read x; exit $x'");
    screen.shows("alice\n30 100\n");
    screen.line("42");
    assert_eq!(screen.left(), 42);
    screen.begin("$QX exec -t web1 -- 'echo re\"\"ady; exec sleep 3095'");
    screen.shows("ready");
    signal(screen.front(), "TERM");
    assert_eq!(screen.left(), 143);
    screen.begin("$QX exec -t web1 -- no-such-program");
    assert_eq!(screen.left(), 127);
    screen.begin("$QX exec -t no-such-vm -- true");
    assert_eq!(screen.left(), 125);
    // In the background it does not take the keys.
    screen.line("clear; $QX exec web1 -- 'sleep 1; echo be\"\"hind' &");
    screen.line("echo in fr''ont");
    screen.shows("in front");
    screen.shows("behind");
}

#[test]
fn a_shell_whose_daemon_or_vm_is_gone_says_so_and_gives_the_terminal_back() {
    let mut own = Own::ready(&Options::default());
    let screen = Screen::open(&own.place, &own.node, "screen");
    screen.begin("$QX shell db1");
    screen.shows(PROMPT);
    screen.line("sleep 3096");
    wait_until("a command in front", PATIENCE, || {
        own.node.processes("db1", "sleep 3096").len() == 1
    });
    own.node.kill();
    assert_eq!(screen.left(), 125);
    screen.shows("the daemon is gone");
    own.node.start();
    own.node.wait_usable("db1");
    wait_until("nothing in the guest", PATIENCE, || {
        own.node.processes("db1", "sleep 3096").is_empty()
    });
    screen.begin("$QX shell db1");
    screen.shows(PROMPT);
    own.vm.kill();
    assert_eq!(screen.left(), 125);
    screen.shows("qx-node: ");
}
