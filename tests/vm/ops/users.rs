//! Passwords, keys, and who is logged in.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::vm::harness::{Node, Outcome, Own};
use crate::vm::screen::Screen;

fn passwd(node: &Node, password: &str, words: &[&str]) -> Outcome {
    let mut running = node.begin(&[&["passwd", "db1"], words].concat());
    running.write(password.as_bytes());
    running.finish()
}

/// busybox's mkpasswd makes the same hash of the password and the salt that is in it.
#[track_caller]
fn is_hash_of(node: &Node, hash: &str, password: &str) {
    let mut parts = hash.split('$').skip(1);
    assert_eq!(parts.next(), Some("6"), "{hash}");
    let salt = parts.next().unwrap();
    let line = format!("mkpasswd -m sha512 -S '{salt}' '{password}'");
    assert_eq!(node.sh("db1", &line), hash);
}

#[test]
fn a_password_is_set_where_the_guest_keeps_them() {
    let own = Own::ready(&Default::default());
    let node = &own.node;
    let sh = |line: &str| node.sh("db1", line);
    let field = |file: &str, user: &str| {
        let text = sh(&format!("grep '^{user}:' {file}"));
        text.split(':').nth(1).unwrap().to_owned()
    };

    // A guest without a shadow.
    let said = passwd(node, "pass wort\n", &["alice"]);
    assert_eq!(said.text(), "alice: password set in /etc/passwd");
    is_hash_of(node, &field("/etc/passwd", "alice"), "pass wort");
    let mode = "stat -c '%a %u:%g' /etc/shadow";
    sh(
        "sed -i 's/^alice:[^:]*/alice:x/' /etc/passwd; chgrp 6 /etc/group; \
        printf 'root:*:1:0:9:7:::\\nalice:*:1:0:9:7:::\\n' >/etc/shadow; \
        chgrp 6 /etc/shadow; chmod 640 /etc/shadow",
    );

    // One with it: other lines, fields, mode and owner stay.
    let done = passwd(node, "secret", &["alice", "--json"]).json();
    assert_eq!(done["file"], "/etc/shadow", "{done}");
    assert_eq!(
        (&done["action"], &done["changed"]),
        (&"set".into(), &true.into())
    );
    let hash = field("/etc/shadow", "alice");
    is_hash_of(node, &hash, "secret");
    let day = sh("echo $(($(date +%s) / 86400))");
    assert_eq!(
        sh("cat /etc/shadow"),
        format!("root:*:1:0:9:7:::\nalice:{hash}:{day}:0:9:7:::")
    );
    assert_eq!(sh(mode), "640 0:6");
    assert_eq!(field("/etc/passwd", "alice"), "x");

    // Crypted, and for one who has no line yet.
    let hash = sh("mkpasswd -m sha512 -S abcdefgh other");
    passwd(node, &hash, &["nobody", "--crypted"]).text();
    assert_eq!(field("/etc/shadow", "nobody"), hash);

    // Locked and unlocked.
    let said = passwd(node, "", &["nobody", "--lock"]).text();
    assert_eq!(said, "nobody: password locked in /etc/shadow");
    assert_eq!(field("/etc/shadow", "nobody"), format!("!{hash}"));
    let said = passwd(node, "", &["nobody", "--lock"]).text();
    assert_eq!(said, "nobody: password is locked already in /etc/shadow");
    passwd(node, "", &["nobody", "--unlock"]).text();
    assert_eq!(field("/etc/shadow", "nobody"), hash);
    let said = passwd(node, "", &["root", "--unlock"]);
    said.failed(1, &["user root has no password that could be unlocked"]);

    // What cannot be changes nothing.
    let files = "cat /etc/passwd /etc/shadow | md5sum";
    let before = sh(files);
    for (password, user, words) in [
        ("a\nb", "alice", "more than one line"),
        ("a:b", "alice", "colon"),
        ("", "alice", "no password on stdin"),
        ("a", "bob", "user bob: not in the guest's /etc/passwd"),
        ("a", "a:b", "a user's name has"),
        ("a", "alice\nroot", "a user's name has"),
    ] {
        passwd(node, password, &[user]).failed(1, &[words]);
    }
    passwd(node, "secret", &["alice", "--crypted"]).failed(1, &["crypt(5)"]);
    assert_eq!(sh(files), before);
    // Nothing is left of the files that took another's place.
    assert_eq!(sh("ls -A /etc | grep '^\\.'"), ".pwd.lock");
    // Command lines of this test's own have it, and the audit has those.
    let of_exec = |line: &&str| line.contains("action=exec");
    let said = own.vm.console() + &node.log();
    let said: Vec<&str> = said.lines().filter(|line| !of_exec(line)).collect();
    let has = |word: &str| said.iter().any(|line| line.contains(word));
    let is_in_both =
        |line: &&&str| line.contains("action=passwd") && line.ends_with("result=ok what=\"alice\"");
    assert_eq!(said.iter().filter(is_in_both).count(), 4, "{said:#?}");
    assert!(!has("secret") && !has("wort"), "{said:#?}");
}

#[test]
fn passwords_that_are_set_at_once_are_all_set() {
    let own = Own::ready(&Default::default());
    let node = &own.node;
    let users: Vec<String> = (0..12).map(|n| format!("u{n}")).collect();
    for user in &users {
        let line = format!(
            "echo '{user}:x:2000:2000::/:/bin/sh' >>/etc/passwd; echo '{user}:*:1::::::' >>/etc/shadow"
        );
        node.sh("db1", &line);
    }
    let running: Vec<_> = users
        .iter()
        .map(|user| {
            let mut running = node.begin(&["passwd", "db1", user]);
            running.write(user.as_bytes());
            drop(running.child.stdin.take());
            running
        })
        .collect();
    for running in running {
        running.finish().text();
    }
    let shadow = node.sh("db1", "cat /etc/shadow");
    for (line, user) in shadow.lines().zip(&users) {
        assert!(line.starts_with(&format!("{user}:$6$")), "{shadow}");
    }
}

fn key(number: u8, comment: &str) -> String {
    let parts = [b"ssh-ed25519".to_vec(), vec![number; 32]];
    let mut blob = Vec::new();
    for part in parts {
        blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend(part);
    }
    format!("ssh-ed25519 {} {comment}", STANDARD.encode(blob))
}

fn file(own: &Own, name: &str, text: &str) -> String {
    let path: PathBuf = own.place.file(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn keys(node: &Node, words: &[&str]) -> Outcome {
    node.cli(&[&["keys", "db1"], words].concat())
}

#[test]
fn keys_are_added_listed_and_removed_as_their_user() {
    let own = Own::ready(&Default::default());
    let node = &own.node;
    let sh = |line: &str| node.sh("db1", line);
    const FILE: &str = "/home/alice/.ssh/authorized_keys";
    let one = file(&own, "one.pub", &(key(1, "one@host") + "\n"));
    let two = file(
        &own,
        "two.pub",
        &format!("# two\n{}\n{}", key(1, "again"), key(2, "two")),
    );

    // Nothing is there.
    assert_eq!(
        keys(node, &["alice"]).text(),
        format!("alice: no keys in {FILE}")
    );
    assert_eq!(
        keys(node, &["alice", "remove", &one]).text(),
        "alice: nothing to remove, no such key"
    );
    assert_eq!(sh("ls -A /home/alice"), "");

    // The first key makes all that it needs, alice's own; the next leave it as it is.
    assert_eq!(
        keys(node, &["alice", "add", &one]).text(),
        "alice: 1 key added"
    );
    let modes = "stat -c '%a %u:%g %F' /home/alice/.ssh /home/alice/.ssh/*; ls -A /home/alice/.ssh";
    let whole = "700 1000:1000 directory\n600 1000:1000 regular file\nauthorized_keys";
    assert_eq!(sh(modes), whole);
    assert_eq!(
        keys(node, &["alice", "add", &two]).text(),
        "alice: 1 key added, 1 there already"
    );
    assert_eq!(
        sh(&format!("cat {FILE}")),
        format!("{}\n{}", key(1, "one@host"), key(2, "two"))
    );
    assert_eq!(sh(modes), whole);

    // What is no key stays.
    sh(&format!(
        "echo '# mine' >>{FILE}; echo 'odd  line' >>{FILE}; chmod 644 {FILE}"
    ));
    let list = keys(node, &["alice", "list", "--json"]).json();
    assert_eq!(list["warning"], Value::Null);
    let all = list["keys"].as_array().unwrap();
    assert_eq!(all.len(), 3, "{list}");
    assert_eq!(
        (&all[0]["line"], &all[0]["comment"]),
        (&1.into(), &"one@host".into())
    );
    assert_eq!(
        (&all[2]["line"], &all[2]["type"]),
        (&4.into(), &Value::Null)
    );
    let print = Command::new("ssh-keygen").args(["-lf", &one]).output();
    if let Ok(print) = print {
        let print = String::from_utf8(print.stdout).unwrap();
        let print = print.split(' ').nth(1).unwrap();
        assert_eq!(all[0]["fingerprint"], print);
    }
    let text = keys(node, &["alice"]).text();
    assert!(text.contains("ssh-ed25519  SHA256:"), "{text}");

    let again = file(&own, "other.pub", &format!("no-pty {}", key(1, "x")));
    assert_eq!(
        keys(node, &["alice", "remove", &again]).text(),
        "alice: 1 key removed"
    );
    let print = all[1]["fingerprint"].as_str().unwrap();
    assert_eq!(
        keys(node, &["alice", "remove", print]).text(),
        "alice: 1 key removed"
    );
    assert_eq!(sh(&format!("cat {FILE}")), "# mine\nodd  line");
    assert_eq!(sh(modes), whole);
    keys(node, &["alice", "remove", print]).failed(1, &["alice has no key SHA256:"]);

    // At once.
    let running: Vec<_> = (10..22)
        .map(|number| {
            let mut running = node.begin(&["keys", "db1", "alice", "add", "-"]);
            running.write(key(number, "at once").as_bytes());
            drop(running.child.stdin.take());
            running
        })
        .collect();
    for running in running {
        assert_eq!(running.finish().text(), "alice: 1 key added");
    }
    assert_eq!(sh(&format!("grep -c 'at once' {FILE}")), "12");
    assert_eq!(sh(modes), whole);

    // Those who have no home, or are nobody.
    keys(node, &["nobody", "add", &one]).failed(1, &["/nonexistent: No such file"]);
    keys(node, &["bob"]).failed(1, &["user bob: not in the guest's /etc/passwd"]);
    let bad = file(&own, "bad.pub", "ssh-ed25519 AAAA");
    keys(node, &["alice", "add", &bad]).failed(1, &["bad.pub, line 1: no whole key"]);
    // By number, and root's, whose home is its own.
    keys(node, &["1000"]).text();
    assert_eq!(
        keys(node, &["root", "add", &one]).text(),
        "root: 1 key added"
    );
    assert_eq!(
        sh("cd ~root/.ssh && stat -c '%a %u:%g' authorized_keys"),
        "600 0:0"
    );
}

#[test]
fn keys_lead_nowhere_else() {
    let own = Own::ready(&Default::default());
    let node = &own.node;
    let sh = |line: &str| node.sh("db1", line);
    const FILE: &str = "/home/alice/.ssh/authorized_keys";
    let one = file(&own, "one.pub", &key(1, "one"));
    sh(
        "echo 'root:$6$secret$hash:1::::::' >/etc/shadow; chmod 644 /etc/shadow; \
        mkdir -p /home/alice/.ssh /srv/alice; chown 1000:1000 /home/alice/.ssh /srv/alice; \
        chmod 700 /home/alice/.ssh",
    );
    let shadow = "stat -c '%a %u:%g %Y %s' /etc/shadow; ls -A /home/alice/.ssh /srv/alice";
    let refused = |words: &[&str], status: i32| {
        let before = sh(shadow);
        for action in [&["list"][..], &["add", &one], &["remove", &one]] {
            let said = keys(node, &[&["alice"], action].concat());
            assert!(!said.stderr.contains("$6$"), "{said:?}");
            said.failed(status, words);
        }
        assert_eq!(sh(shadow), before);
    };
    // To a file that everybody may read here, and to nothing.
    sh(&format!("ln -s /etc/shadow {FILE}"));
    refused(&[FILE, "is a symbolic link, which is not followed"], 5);
    sh(&format!("ln -sf /srv/alice/new {FILE}"));
    refused(&[FILE, "is a symbolic link, which is not followed"], 5);
    // What would have others wait.
    sh(&format!("rm {FILE}; mkfifo {FILE}; chown 1000 {FILE}"));
    refused(&[FILE, "is not a regular file"], 5);
    sh(&format!("rm {FILE}; mkdir {FILE}"));
    refused(&[FILE, "is not a regular file"], 5);
    // What root could read, and alice cannot.
    sh(&format!(
        "rmdir {FILE}; echo secret >{FILE}; chmod 600 {FILE}"
    ));
    refused(&[FILE, "Permission denied"], 5);
    sh(&format!(
        "rm {FILE}; truncate -s 1048577 {FILE}; chown 1000 {FILE}"
    ));
    refused(&[FILE, "File too large"], 1);
    // A directory elsewhere, though alice's.
    sh("rm -r /home/alice/.ssh; ln -s /srv/alice /home/alice/.ssh");
    refused(
        &["/home/alice/.ssh is a symbolic link, which is not followed"],
        5,
    );
    sh("rm /home/alice/.ssh; touch /home/alice/.ssh");
    let said = keys(node, &["alice", "add", &one]);
    said.failed(1, &["open /home/alice/.ssh: Not a directory"]);
    sh("rm /home/alice/.ssh");
    // Root's directory: alice may make nothing there.
    sh("chown 0:0 /home/alice; chmod 755 /home/alice");
    let said = keys(node, &["alice", "add", &one]);
    said.failed(5, &["make /home/alice/.ssh: Permission denied"]);

    // Where sshd would take no notice of them none are added; those there can be removed.
    sh(&format!(
        "mkdir /home/alice/.ssh; echo '{}' >{FILE}; chown -R 1000:1000 /home/alice; \
         chmod 700 /home/alice/.ssh",
        key(2, "two")
    ));
    for (line, path, why) in [
        (
            "chown 65534 /home/alice",
            "/home/alice",
            "belongs to another user",
        ),
        (
            "chown 1000 /home/alice; chmod 777 /home/alice",
            "/home/alice",
            "can be written by everyone",
        ),
        (
            "chmod 755 /home/alice; chmod 777 /home/alice/.ssh",
            "/home/alice/.ssh",
            "can be written by everyone",
        ),
        (
            "chmod 755 /home/alice/.ssh; chmod 666 /home/alice/.ssh/*",
            FILE,
            "can be written by everyone",
        ),
    ] {
        sh(line);
        let why = format!("{path} {why}: sshd takes no keys from there (StrictModes)");
        keys(node, &["alice", "add", &one]).failed(5, &[&why]);
        let list = keys(node, &["alice", "--json"]).json();
        assert_eq!(list["warning"], why, "{list}");
        assert_eq!(list["keys"][0]["comment"], "two", "{list}");
    }
    // By its group it may be, on some systems.
    sh(&format!("chmod 775 /home/alice; chmod 600 {FILE}"));
    let said = keys(node, &["alice", "add", &one]);
    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(said.stdout, b"alice: 1 key added\n");
    let why = "qx-node: /home/alice can be written by its group: sshd takes no keys from there";
    assert!(said.stderr.starts_with(why), "{said:?}");
}

#[test]
fn who_is_logged_in_is_told_by_utmp_and_by_logind() {
    let own = Own::ready(&Default::default());
    let node = &own.node;
    let users = || node.cli(&["users", "db1"]).text();
    assert_eq!(users(), "nobody is logged in");
    let mut utmp = Vec::new();
    for (kind, pid, line, user, host) in [
        (2i16, 0i32, "~", "reboot", "6.1"),
        (7, 1, "pts/0", "alice", "10.0.0.1"),
        (7, 99_999, "pts/1", "gone", "10.0.0.2"),
        (8, 1, "pts/2", "dead", ""),
        (7, 1, "tty1", "a\x1b[2J", ""),
    ] {
        let mut record = vec![0; 384];
        let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &kind.to_ne_bytes());
        put(4, &pid.to_ne_bytes());
        put(8, line.as_bytes());
        put(44, user.as_bytes());
        put(76, host.as_bytes());
        put(340, &1_800_000_000u32.to_ne_bytes());
        utmp.extend(record);
    }
    let path = own.place.file("utmp");
    fs::write(&path, utmp).unwrap();
    node.cli(&["cp", path.to_str().unwrap(), "db1:/run/utmp"])
        .ok();
    let head = "USER      TERMINAL  FROM      SINCE                 PID\n";
    let alice = "alice     pts/0     10.0.0.1  2027-01-15T08:00:00Z  1\n";
    let other = "a\\x1b[2J  tty1      -         2027-01-15T08:00:00Z  1";
    assert_eq!(users(), [head, alice, other].concat());

    // The same one again, one whose process is gone, and one that utmp does not know.
    let session = |name: &str, user: &str, more: &str| {
        let line = format!(
            "mkdir -p /run/systemd/sessions; printf 'USER={user}\\nCLASS=user\\n{more}' \
             >/run/systemd/sessions/{name}"
        );
        node.sh("db1", &line);
    };
    session(
        "1",
        "alice",
        "TTY=pts/0\\nLEADER=2\\nREALTIME=1800000000000000\\n",
    );
    session("2", "gone", "LEADER=99999\\nREALTIME=1800000000000000\\n");
    session(
        "3",
        "root",
        "REMOTE_HOST=::1\\nLEADER=1\\nREALTIME=1700000000999999\\n",
    );
    session("4", "broken", "LEADER=-\\n");
    node.sh("db1", "mkfifo /run/systemd/sessions/3.ref");
    let all = node.cli(&["users", "db1", "--json"]).json();
    let names: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|user| &user["user"])
        .collect();
    assert_eq!(names, ["root", "alice", "a\x1b[2J"]);
    assert_eq!(
        all[0],
        serde_json::json!({
            "vm": "db1", "user": "root", "terminal": null, "from": "::1", "since": 1_700_000_000,
            "pid": 1,
        })
    );
    // What is no such file is none.
    node.sh("db1", "rm /run/utmp; mkfifo /run/utmp; rm -r /run/systemd");
    assert_eq!(users(), "nobody is logged in");
}

#[test]
fn a_password_is_typed_twice_and_not_shown() {
    let own = Own::ready(&Default::default());
    let screen = Screen::open(&own.place, &own.node, "typed");
    let field = |user: &str| {
        let line = format!("grep '^{user}:' /etc/passwd | cut -d: -f2");
        own.node.sh("db1", &line)
    };
    let typed = |user: &str, second: &str| {
        screen.begin(&format!("$QX passwd db1 {user}"));
        screen.shows(&format!("New password of {user}:"));
        screen.line("hunter2");
        screen.shows("Once more:");
        screen.keys(second);
        // The terminal is as it was.
        let status = screen.left();
        assert!(!screen.text().contains("hunter"), "{}", screen.text());
        status
    };
    assert_eq!(typed("alice", "hunter3\r"), 1);
    screen.shows("that was not the same twice; nothing was changed");
    assert_eq!(field("alice"), "x");
    assert_eq!(typed("nobody", "hunter2\r"), 0);
    screen.shows("nobody: password set in /etc/passwd");
    is_hash_of(&own.node, &field("nobody"), "hunter2");
    assert_eq!(typed("root", "hunter2\x03"), 130);
    screen.shows("qx-node: interrupted");
    assert_eq!(field("root"), "x");
}
