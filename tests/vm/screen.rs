//! A person at a terminal, by tmux(1): keys in, and what is on the screen.

use std::path::PathBuf;
use std::process::Command;

use super::harness::{Keeper, Node, PATIENCE, Place, program, wait_for, wait_until};
use crate::util::children;

/// A terminal with a shell. `$QX` there is the command line. It ends with this value.
pub struct Screen {
    socket: PathBuf,
    dir: PathBuf,
    _server: Keeper,
}

impl Screen {
    /// A terminal of 30 lines of 100 characters.
    #[track_caller]
    pub fn open(place: &Place, node: &Node, name: &str) -> Self {
        let dir = place.file(name);
        std::fs::create_dir(&dir).unwrap();
        let socket = dir.join("tmux");
        let mut server = Command::new("tmux");
        server.args(["-D", "-f", "/dev/null", "-S"]).arg(&socket);
        let screen = Self {
            _server: Keeper::run(&server, &dir.join("log")),
            socket,
            dir,
        };
        wait_until("tmux (tests/vm/install.sh installs it)", PATIENCE, || {
            screen.tmux(&["set", "-g", "status", "off"]).is_some()
        });
        let qx = format!("QX={}", program("qx-node").display());
        let control = format!("QX_NODE_SOCK={}", node.control.display());
        let dir = screen.dir.to_str().unwrap();
        let words = [
            &["new-session", "-d", "-x", "100", "-y", "30", "-c", dir][..],
            &["-e", &qx, "-e", &control, "-e", "ENV="],
            &["/bin/sh"],
        ];
        screen.tmux(&words.concat()).expect("no session of tmux");
        // Quotes keep what is typed from being what is waited for.
        screen.line("PS1='he''re> '");
        screen.shows("here>");
        screen
    }

    fn tmux(&self, words: &[&str]) -> Option<String> {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(words);
        let out = command.env_remove("TMUX").output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        out.status.success().then_some(text)
    }

    /// Types this.
    pub fn keys(&self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]).unwrap();
    }

    /// Presses a key by its name, as tmux has it.
    pub fn key(&self, name: &str) {
        self.tmux(&["send-keys", name]).unwrap();
    }

    /// Types a line.
    pub fn line(&self, text: &str) {
        self.keys(text);
        self.key("Enter");
    }

    pub fn resize(&self, columns: &str, rows: &str) {
        let words = ["resize-window", "-x", columns, "-y", rows];
        self.tmux(&words).unwrap();
    }

    /// What is to be seen.
    pub fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"]).unwrap_or_default()
    }

    /// Waits until this is to be seen.
    #[track_caller]
    pub fn shows(&self, words: &str) {
        wait_until(&format!("{words:?} on the screen"), PATIENCE, || {
            self.text().contains(words)
        });
    }

    /// The program that runs in front of the shell here.
    #[track_caller]
    pub fn front(&self) -> u32 {
        let shell = self.tmux(&["display", "-p", "#{pane_pid}"]).unwrap();
        let shell = shell.trim().parse().unwrap();
        wait_for("a program", PATIENCE, || children(shell).first().copied())
    }

    /// Runs a command line; [`left`](Self::left) tells how it ended.
    pub fn begin(&self, line: &str) {
        let _ = std::fs::remove_file(self.dir.join("status"));
        self.line(&format!(
            "clear; stty -g >before; {line}; echo $? >st; stty -g >after; mv st status"
        ));
    }

    /// Waits for its end: its status. The terminal has to be as it was.
    #[track_caller]
    pub fn left(&self) -> i32 {
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).ok();
        let status = wait_for("its end", PATIENCE, || read("status"));
        assert_eq!(read("before"), read("after"), "the terminal is another");
        status.trim().parse().unwrap()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- screen ---\n{}\n---", self.text());
        }
        let _ = self.tmux(&["kill-server"]);
    }
}
