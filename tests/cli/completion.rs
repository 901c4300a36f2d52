//! What shells offer when Tab is pressed: each is a real one, at a terminal.
// A daemon takes its time.
#![allow(clippy::disallowed_methods)]

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use quantix::rt::sys::socket::set_backlog;

use crate::util::agent::accept;
use crate::util::node::{Node, run};
use crate::util::{Dir, beside};
use crate::vm::harness::{self, Place};
use crate::vm::screen::Screen;

/// A terminal with a shell that completes, in a directory with a few files, and a daemon with two VMs.
struct Shell {
    screen: Screen,
    _node: harness::Node,
    _place: Place,
}

impl Shell {
    /// The shell that this line starts, which sees our files as `$FILES`.
    fn start(name: &str, start: &str, set_up: &str) -> Self {
        let place = Place::new();
        for vm in ["web1", "db 1"] {
            drop(UnixListener::bind(place.socket(vm)).unwrap());
        }
        let mut node = harness::Node::new(&place);
        node.start();
        let screen = Screen::open(&place, &node, name);
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("host/completions");
        screen.line(&format!(
            "mkdir subdir; touch 'my file' subfile; export HOME=$PWD PATH=${{QX%/*}}:$PATH FILES={}",
            files.display()
        ));
        screen.line(start);
        screen.shows("ready>");
        screen.line(&format!("{set_up}; echo set''up"));
        screen.shows("setup");
        Self {
            screen,
            _node: node,
            _place: place,
        }
    }

    /// Types this, `\t` being the Tab key, and waits for what the line becomes.
    #[track_caller]
    fn becomes(&self, typed: &str, line: &str) {
        // What was typed before is no part of it.
        self.screen.key("C-u");
        self.screen.line("clear");
        self.screen.keys(typed);
        self.screen.shows(&format!("ready> {line}"));
    }

    /// What all three do alike. `quoted`: how the shell writes a name with a blank in it.
    fn completes(&self, quoted: impl Fn(&str) -> String) {
        self.becomes(
            "qx-node telem\twe\t--wa\t.",
            "qx-node telemetry web1 --watch .",
        );
        self.becomes("qx-node top --sort=tr\t.", "qx-node top --sort=traffic .");
        self.becomes(
            "qx-node cpus web1 --online=\t.",
            "qx-node cpus web1 --online=all .",
        );
        self.becomes(
            "qx-node info d\t.",
            &format!("qx-node info {} .", quoted("db 1")),
        );
        // A path follows at once. Of files here a blank does.
        self.becomes("qx-node cp we\t/etc/motd", "qx-node cp web1:/etc/motd");
        self.becomes(
            "qx-node cp web1:/x m\t.",
            &format!("qx-node cp web1:/x {} .", quoted("my file")),
        );
        self.becomes(
            "qx-node keys web1 u add subf\t.",
            "qx-node keys web1 u add subfile .",
        );
        self.becomes(
            "qx-node serve --vms-dir sub\t.",
            "qx-node serve --vms-dir subdir/.",
        );
        self.becomes(
            "qx-node serve --config=subf\t.",
            "qx-node serve --config=subfile .",
        );
        self.becomes(
            "qx-node exec web1 -- cat subf\t.",
            "qx-node exec web1 -- cat subfile .",
        );
        // Nothing is known there, so nothing comes: no file here, either.
        self.becomes("qx-node cat web1 subf\t.", "qx-node cat web1 subf.");
    }
}

fn backslash(name: &str) -> String {
    name.replace(' ', "\\ ")
}

#[test]
fn bash_completes() {
    let start = "PS1='rea''dy> ' HISTFILE= exec bash --noprofile --norc --rcfile /dev/null -i";
    let shell = Shell::start("bash", start, ". $FILES/qx-node.bash");
    shell.completes(backslash);
    // As some have it, so that other programs' words stay whole.
    shell.becomes("COMP_WORDBREAKS=${COMP_WORDBREAKS//[:=]/}", "COMP");
    shell.screen.key("Enter");
    shell.completes(backslash);
}

#[test]
fn zsh_completes_and_tells_what_each_is() {
    let set_up = "fpath=($FILES $fpath); autoload -Uz compinit; compinit -u -D";
    let shell = Shell::start("zsh", "PS1='rea''dy> ' exec zsh -f -i", set_up);
    shell.completes(backslash);
    shell.becomes("qx-node servic\t\t", "qx-node service");
    shell.screen.shows("-- list the guest's services");
    shell.becomes("qx-node exec \t", "qx-node exec");
    shell.screen.shows("-- connecting");
}

#[test]
fn fish_completes_and_tells_what_each_is() {
    let start =
        "exec fish --no-config --private -C 'function fish_prompt; echo -n rea''dy\\>\\ ; end' -i";
    // What it suggests is seen as what is typed.
    let set_up = "set -g fish_autosuggestion_enabled 0; source $FILES/qx-node.fish";
    let shell = Shell::start("fish", start, set_up);
    shell.completes(backslash);
    shell.becomes("qx-node servic\t", "qx-node service");
    shell.screen.shows("list the guest's services");
}

#[test]
fn a_shell_is_told_in_lines_and_never_of_trouble() {
    let node = Node::start();
    let _relay = node.relay("web1");
    node.wait_state("web1", "waiting for agent");
    assert_eq!(
        node.run(&["complete", "exec", "w"]).fine(),
        "web1\twaiting for agent\n"
    );
    let control = format!("--control={}", node.control().display());
    assert_eq!(
        run(&["complete", "exec", &control, ""]).fine(),
        "web1\twaiting for agent\n"
    );
    assert_eq!(run(&["complete", "exec", "--control=/none", ""]).fine(), "");
    assert_eq!(
        run(&["complete", "cp", "--control", "/none", ""]).fine(),
        ":files\n"
    );
    assert_eq!(run(&["complete"]).fine(), run(&["complete", ""]).fine());
    assert_eq!(run(&["complete", "no-such", ""]).fine(), "");
    assert!(!run(&["help"]).fine().contains("complete"));
}

#[test]
fn a_daemon_that_says_nothing_holds_no_key_up() {
    let dir = Dir::new();
    let silent = UnixListener::bind(dir.join("silent")).unwrap();
    // It takes one that is never accepted; the next would wait.
    let full = UnixListener::bind(dir.join("full")).unwrap();
    set_backlog(&full, 0).unwrap();
    let _first = UnixStream::connect(dir.join("full")).unwrap();
    let endless = UnixListener::bind(dir.join("endless")).unwrap();
    // Of a message that would be long enough a byte now and then: each wait is short, all of them are not.
    beside(move || {
        let mut stream = accept(&endless);
        // Its length.
        stream.write_all(&[0, 0, 16, 0]).unwrap();
        while stream.write_all(&[0]).is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    for name in ["silent", "full", "endless"] {
        let begun = Instant::now();
        let control = format!("--control={}", dir.text(name));
        assert_eq!(run(&["complete", "exec", &control, ""]).fine(), "");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{name}: {took:?}");
    }
    drop((silent, full));
}
