//! The guest's services and their logs, with tools of the test's own in place of systemd's and OpenRC's: what
//! they are asked, and what becomes of what they answer.

use serde_json::Value;

use crate::vm::harness::{Own, PATIENCE, wait_until};

/// Notes its arguments. A unit is a file in /run/units: its properties.
const SYSTEMCTL: &str = r#"#!/bin/sh
printf '%s\n' "$*" >>/run/asked
for name; do :; done
name=${name%.service}
unit=/run/units/$name
[ ! -e /run/hang ] || exec sleep 1000
set_state() { sed -i "s/^ActiveState=.*/ActiveState=$1/; s/^SubState=.*/SubState=$2/; s/^Result=.*/Result=$3/" "$unit"; }
case " $* " in
    *" list-units "*) cat /run/list-units ;;
    *" list-unit-files "*) cat /run/list-unit-files ;;
    *" show "*) cat "$unit" 2>/dev/null || printf 'Id=%s.service\nLoadState=not-found\nActiveState=inactive\n' "$name" ;;
    *" -- slow "*) exec sleep 1000 ;;
    *" start -- bad "*)
        set_state failed failed exit-code
        echo 'Job for bad.service failed because the control process exited with error code.' >&2
        echo 'See "systemctl status bad.service" and "journalctl -xeu bad.service" for details.' >&2
        exit 1 ;;
    *" start -- brief "*) set_state failed failed exit-code ;;
    *" start "* | *" restart "*) set_state active running success ;;
    *" stop "*) set_state inactive dead success ;;
    *" enable "*) sed -i 's/^UnitFileState=.*/UnitFileState=enabled/' "$unit" ;;
    *" disable "*) sed -i 's/^UnitFileState=.*/UnitFileState=disabled/' "$unit" ;;
    *) exit 9 ;;
esac
"#;

const LIST: &str = "\
bad.service loaded failed failed A bad \x1b[2J one
gone.service not-found inactive dead gone.service
good.service loaded inactive dead A good one
";

const FILES: &str =
    "bad.service enabled enabled\ngetty@.service enabled enabled\nidle.service disabled enabled\n";

const RC_STATUS: &str = r#"#!/bin/sh
echo "rc-status $*" >>/run/asked
for name in good bad; do printf ' %s    [  %s  ]\n' $name "$(cat /run/rc/$name)"; done
"#;

const RC_UPDATE: &str = r#"#!/bin/sh
echo "rc-update $*" >>/run/asked
case $1 in
    show) cat /run/rc/levels ;;
    add) echo "$2 | $3" >>/run/rc/levels ;;
    --all) sed -i "/^$3 /d" /run/rc/levels ;;
esac
"#;

const RC_SERVICE: &str = r#"#!/bin/sh
echo "rc-service $*" >>/run/asked
case "$*" in
    "good start") echo started >/run/rc/good ;;
    "good stop") echo stopped >/run/rc/good ;;
    *) echo ' * Starting bad ...' >&2; echo ' * ERROR: bad failed to start' >&2; exit 1 ;;
esac
"#;

struct Guest(Own);

impl Guest {
    /// Writes a file in the guest.
    fn put(&self, path: &str, content: &str) {
        let local = self.0.place.file("put");
        std::fs::write(&local, content).unwrap();
        let to = format!("db1:{path}");
        let words = [
            "cp",
            "--parents",
            "--mode",
            "755",
            local.to_str().unwrap(),
            &to,
        ];
        self.0.node.cli(&words).ok();
    }

    fn unit(&self, name: &str) {
        let text = format!(
            "Id={name}.service\nLoadState=loaded\nActiveState=inactive\nSubState=dead\nResult=success\n\
             ExecMainCode=1\nExecMainStatus=3\nUnitFileState=disabled\nDescription=The {name} one\n\
             MainPID=0\nMemoryCurrent=[not set]\n"
        );
        self.put(&format!("/run/units/{name}"), &text);
    }

    fn sh(&self, line: &str) -> String {
        self.0.node.sh("db1", line)
    }

    fn service(&self, words: &[&str]) -> crate::vm::harness::Outcome {
        self.0.node.cli(&[&["service", "db1"], words].concat())
    }

    fn services(&self, words: &[&str]) -> Vec<Value> {
        let all = self
            .0
            .node
            .cli(&[&["services", "db1", "--json"], words].concat());
        all.json().as_array().unwrap().clone()
    }

    /// What the tools were told since the last call.
    fn asked(&self) -> String {
        self.sh("cat /run/asked; rm -f /run/asked")
    }
}

#[test]
fn systemd_is_asked_over_its_tools() {
    let guest = Guest(Own::ready(&Default::default()));
    // Without any manager nothing is done.
    let neither = "this guest has neither systemd nor OpenRC";
    guest.service(&["good", "start"]).failed(1, &[neither]);
    guest.0.node.cli(&["services", "db1"]).failed(1, &[neither]);
    guest.sh("mkdir -p /run/systemd/system");
    guest
        .service(&["good", "start"])
        .failed(1, &["run systemctl: No such file"]);

    guest.put("/bin/systemctl", SYSTEMCTL);
    guest.put("/run/list-units", LIST);
    guest.put("/run/list-unit-files", FILES);
    for name in ["good", "bad", "brief", "slow"] {
        guest.unit(name);
    }
    let all = guest.services(&[]);
    let shown: Vec<String> = all
        .iter()
        .map(|one| {
            [&one["service"], &one["state"], &one["enabled"]]
                .map(|v| v.to_string())
                .join(" ")
        })
        .collect();
    let wanted = [
        r#""bad.service" "failed" "enabled""#,
        r#""good.service" "stopped" null"#,
        r#""idle.service" "stopped" "disabled""#,
    ];
    assert_eq!(shown, wanted);
    assert_eq!(all[0]["manager"], "systemd");
    assert_eq!(guest.services(&["--failed"]).len(), 1);
    let text = guest.0.node.cli(&["services", "db1"]).text();
    assert!(
        text.contains("failed (failed)  enabled   A bad \\x1b[2J one\n"),
        "{text}"
    );
    let asked = guest.asked();
    let units = "list-units --type=service --no-legend --no-pager --full --all --plain *.service\n";
    let files =
        "list-unit-files --type=service --no-legend --no-pager --full --all --plain *.service\n";
    assert!(asked.starts_with(&[units, files].concat()), "{asked}");

    // Each action, by the unit's name and as an argument of its own.
    assert_eq!(
        guest.service(&["good", "start"]).text(),
        "good.service: active (running)"
    );
    assert!(guest.asked().contains("--no-pager start -- good\n"));
    assert_eq!(
        guest.service(&["good.service", "stop"]).text(),
        "good.service: inactive (dead)"
    );
    let said = guest.service(&["good", "restart", "--json"]).json();
    assert_eq!(
        (&said["state"], &said["result"]),
        (&"started".into(), &Value::Null)
    );
    let text = guest.service(&["good", "enable"]).text();
    assert_eq!(text, "good.service: enabled; it is active (running)");
    assert_eq!(
        guest.service(&["good", "disable", "--json"]).json()["enabled"],
        "disabled"
    );
    let text = guest.service(&["good", "status"]).text();
    let wanted = "service:  good.service\nabout:    The good one\nstate:    active (running)\n\
        at boot:  disabled\nkept by:  systemd";
    assert_eq!(text, wanted);
    assert!(guest.asked().contains("--no-pager disable -- good\n"));

    // What does not work says why, and what to do.
    let none = "nosuch: systemd knows no such service; `qx-node services VM` lists them";
    guest.service(&["nosuch", "start"]).failed(1, &[none]);
    assert!(!guest.asked().contains(" start "));
    let why = "start bad.service: Job for bad.service failed because the control process exited with error \
        code; it is failed (failed), exit-code 3; `qx-node logs db1 bad` may say why";
    guest.service(&["bad", "start"]).failed(1, &[why]);
    // systemctl saw nothing of it.
    let why = "start brief.service: failed (failed), exit-code 3; `qx-node logs db1 brief`";
    guest.service(&["brief", "start"]).failed(1, &[why]);
    let why = "systemctl --no-pager start -- slow: it had not ended after 1 s, and was killed";
    guest
        .service(&["slow", "start", "--timeout", "1"])
        .failed(4, &[why]);
    assert_eq!(guest.0.node.processes("db1", "sleep 1000"), [""; 0]);
    guest
        .service(&["good", "stop", "--timeout", "3601"])
        .failed(1, &["3600 seconds at most"]);
    guest.sh("touch /run/hang");
    let why = "systemctl list-units --type=service";
    guest
        .0
        .node
        .cli(&["services", "db1"])
        .failed(4, &[why, "had not ended after 8 s"]);
    guest.sh("rm /run/hang");
}

#[test]
fn openrc_is_asked_over_its_tools() {
    let guest = Guest(Own::ready(&Default::default()));
    guest.sh("mkdir -p /run/openrc /run/rc; cd /run/rc; echo stopped >good; echo crashed >bad; echo 'bad | boot' >levels");
    guest.put("/bin/rc-status", RC_STATUS);
    guest.put("/bin/rc-update", RC_UPDATE);
    guest.put("/bin/rc-service", RC_SERVICE);
    let text = guest.0.node.cli(&["services", "db1"]).text();
    let wanted = "SERVICE  STATE    AT BOOT   DESCRIPTION\nbad      crashed  enabled\ngood     stopped  disabled";
    assert_eq!(text, wanted);
    assert_eq!(guest.services(&["--failed"]).len(), 1);

    assert_eq!(guest.service(&["good", "start"]).text(), "good: started");
    assert_eq!(
        guest.service(&["good", "stop", "--json"]).json()["state"],
        "stopped"
    );
    assert!(guest.asked().contains("rc-service good stop\n"));
    let text = guest.service(&["good", "enable"]).text();
    assert_eq!(text, "good: enabled; it is stopped");
    // It is already: its runlevel is not asked for a second time.
    guest.service(&["bad", "enable"]).ok();
    assert_eq!(guest.sh("cat /run/rc/levels"), "bad | boot\ngood | default");
    assert_eq!(
        guest.service(&["bad", "disable", "--json"]).json()["enabled"],
        "disabled"
    );
    assert_eq!(guest.sh("cat /run/rc/levels"), "good | default");
    let status = guest.service(&["good", "status"]).text();
    assert_eq!(
        status,
        "service:  good\nstate:    stopped\nat boot:  enabled\nkept by:  OpenRC"
    );

    let why =
        "start bad: ERROR: bad failed to start; it is crashed; `qx-node logs db1 bad` may say why";
    guest.service(&["bad", "start"]).failed(1, &[why]);
    guest
        .service(&["nosuch", "stop"])
        .failed(1, &["nosuch: OpenRC knows no such service"]);
}

#[test]
fn a_log_is_found_wherever_it_is() {
    let guest = Guest(Own::ready(&Default::default()));
    let logs = |words: &[&str]| guest.0.node.cli(&[&["logs", "db1"], words].concat());
    let none = "x has no log: neither in /var/log/x.log and /var/log/x/*.log nor a line in syslog";
    logs(&["x"]).failed(1, &[none]);
    logs(&["x", "--json"]).failed(1, &[none]);

    // What syslogd writes; of a name only whole words.
    guest.sh(
        "mkdir /var/log; cd /var/log; for n in 1 2 3; do echo \"Nov 1 h x[$n]: line $n\"; \
        echo \"Nov 1 h xx: no\"; echo \"Nov 1 h y: no x\"; done >messages",
    );
    assert_eq!(
        logs(&["x", "-n", "2"]).text(),
        "Nov 1 h x[2]: line 2\nNov 1 h x[3]: line 3"
    );
    let mut follower = guest.0.node.begin(&["logs", "db1", "x", "-n", "1", "-f"]);
    assert_eq!(follower.line().trim_end(), "Nov 1 h x[3]: line 3");
    guest.sh("cd /var/log; echo 'Nov 1 h z: no' >>messages; echo 'Nov 1 h x: more' >>messages");
    assert_eq!(follower.line().trim_end(), "Nov 1 h x: more");
    drop(follower);

    // Its own file, and what a terminal would take for orders.
    guest.sh("cd /var/log; seq 30 >x.log; printf 'a\\tb\\033[2J\\377\\n' >>x.log");
    let text = logs(&["x.service"]).text();
    assert_eq!(text.lines().count(), 20);
    assert!(text.ends_with("30\na\tb\\x1b[2J\\xff"), "{text}");
    let json = logs(&["x", "-n", "2", "--json"]).json();
    assert_eq!(
        json["lines"],
        serde_json::json!(["30", "a\tb\u{1b}[2J\u{fffd}"])
    );
    let mut follower = guest.0.node.begin(&["logs", "db1", "x", "-n", "1", "-f"]);
    assert!(follower.line().starts_with("a\tb\\x1b"));
    guest.sh("echo new >>/var/log/x.log");
    assert_eq!(follower.line().trim_end(), "new");
    drop(follower);
    wait_until("the end of what followed", PATIENCE, || {
        guest.0.node.processes("db1", "tail ").is_empty()
    });

    // The journal, where there is one and something in it.
    guest.sh("mkdir -p /run/systemd/system");
    guest.put(
        "/bin/journalctl",
        "#!/bin/sh\necho \"$*\" >>/run/asked\n[ \"${6%.service}\" = x ] || exit 0\necho \"journal $4\"\n",
    );
    assert_eq!(logs(&["x", "-n", "7"]).text(), "journal 7");
    assert!(guest.asked().ends_with("\n--no-pager -q -n 7 -u x"));
    logs(&["y.service"]).ok();
    let why = "q has no log: neither in the journal, /var/log/q.log";
    logs(&["q"]).failed(1, &[why]);
}
