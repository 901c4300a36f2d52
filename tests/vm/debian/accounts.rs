//! Passwords as PAM takes them, keys as sshd does, and sessions of login and sshd.

use std::fs;

use super::Guest;
use crate::vm::harness::{PATIENCE, wait_until};

pub fn passwords_let_in_and_keep_out(guest: &Guest) {
    let set = |password: &str, words: &[&str]| {
        let mut running = guest
            .node()
            .begin(&[&["passwd", "db1", "alice"], words].concat());
        running.write(password.as_bytes());
        running.finish()
    };
    // Who is not root is asked for it.
    let lets_in = |password: &str| {
        let line = format!("echo '{password}' | su alice -c 'id -un'");
        let said = guest.ask("exec", &["--user", "nobody", "--", &line]);
        said.stdout == b"alice\n"
    };
    let before = guest.sh("stat -c '%a %U:%G' /etc/shadow; grep -v ^alice: /etc/shadow");
    let checked = guest.says("pwck -r");
    assert!(!lets_in("pass wort"));
    set("pass wort", &[]).ok();
    assert!(lets_in("pass wort") && !lets_in("pass"));
    assert!(guest.sh("passwd -S alice").starts_with("alice P "));
    set("", &["--lock"]).ok();
    assert!(guest.sh("passwd -S alice").starts_with("alice L "));
    assert!(!lets_in("pass wort"));
    set("", &["--unlock"]).ok();
    assert!(lets_in("pass wort"));
    let crypted = guest.sh("perl -e 'print crypt(\"other\", \"\\$y\\$j9T\\$abcdefgh\")'");
    set(&crypted, &["--crypted"]).ok();
    assert!(lets_in("other"));
    let after = guest.sh("stat -c '%a %U:%G' /etc/shadow; grep -v ^alice: /etc/shadow");
    assert_eq!(after, before);
    assert_eq!(guest.says("pwck -r"), checked);
}

pub fn keys_and_sessions_are_sshs_and_logins(guest: &Guest) {
    guest.sh("ssh-keygen -q -t ed25519 -N '' -C alice -f /run/key");
    let key = guest.own.place.file("key.pub");
    fs::write(&key, guest.sh("cat /run/key.pub")).unwrap();
    let keys = |verb: &str| guest.ask("keys", &["alice", verb, key.to_str().unwrap()]);
    let ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -i /run/key alice@127.0.0.1";
    assert_eq!(keys("add").text(), "alice: 1 key added");
    guest.ask("service", &["ssh", "start"]).ok();
    assert!(guest.says(&format!("{ssh} id -un")).ends_with("alice"));

    // One comes by the network and one by a terminal, and each is known to login's file and to logind.
    wait_until("that session's end", PATIENCE, || {
        guest.ask("users", &[]).text() == "nobody is logged in"
    });
    let far = guest
        .node()
        .begin(&["exec", "db1", "--", &format!("{ssh} -tt sleep 1000000")]);
    let auto =
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin alice --noclear %I linux\n";
    guest.put("/etc/systemd/system/getty@tty3.service.d/auto.conf", auto);
    guest.sh("systemctl daemon-reload");
    guest.ask("service", &["getty@tty3", "start"]).ok();
    let who = || {
        let users = guest.json("users", &[]);
        let users = users.as_array().unwrap().iter();
        let mut users: Vec<String> = users
            .map(|user| {
                [&user["user"], &user["terminal"], &user["from"]]
                    .map(|word| word.to_string())
                    .join(" ")
            })
            .collect();
        users.sort();
        users
    };
    let both = [r#""alice" "pts/0" "127.0.0.1""#, r#""alice" "tty3" null"#];
    wait_until("both", PATIENCE, || who() == both);
    let sessions = || guest.sh("loginctl --no-legend | wc -l");
    wait_until("their sessions", PATIENCE, || sessions() == "2");
    assert_eq!(who(), both);
    // They go as they came.
    drop(far);
    wait_until("one to go", PATIENCE, || who() == both[1..]);

    assert_eq!(keys("remove").text(), "alice: 1 key removed");
    let said = guest.says(&format!("{ssh} id -un"));
    assert!(said.contains("Permission denied"), "{said}");
}
