//! `quantix-kvm-agent doctor` from the outside: what it finds depends on this machine, how it says it
//! does not.

use std::process::Command;

use quantix::rt::check::Status;

use crate::util::{Dir, Running, Said};

const NAMES: [&str; 10] = [
    "driver",
    "port",
    "crash",
    "agent",
    "host",
    "service",
    "filesystems",
    "config",
    "version",
    "clock",
];

fn doctor(words: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantix-kvm-agent"));
    Running::start(command.arg("doctor").args(words), b"").end()
}

/// What it says in JSON: the status of all, and the checks.
#[track_caller]
fn examine(words: &[&str]) -> (Status, Vec<serde_json::Value>) {
    let said = doctor(&[&["--json"], words].concat());
    assert_eq!(said.text().lines().count(), 1);
    let found = said.json();
    assert_eq!(found["version"], quantix::VERSION);
    let status = Status::parse(found["status"].as_str().unwrap()).unwrap();
    assert_eq!(said.status, i32::from(status.exit()));
    (status, found["checks"].as_array().unwrap().clone())
}

fn status(check: &serde_json::Value) -> Status {
    Status::parse(check["status"].as_str().unwrap()).unwrap()
}

#[test]
fn json_has_every_check_in_its_order_and_the_exit_status_is_of_the_gravest() {
    let (worst, checks) = examine(&[]);
    let names: Vec<&str> = checks.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, NAMES);
    let known = checks.iter().map(status).filter(|s| *s != Status::Unknown);
    assert_eq!(known.max(), Some(worst));
    for check in &checks {
        // What is wrong has a cause and something to do.
        let is_wrong = status(check) >= Status::Warn;
        assert_eq!(check["cause"].is_string(), is_wrong, "{check}");
        assert!(check["remedy"].is_string() || !is_wrong, "{check}");
        assert!(check["evidence"].is_string() || is_wrong, "{check}");
    }
}

#[test]
fn text_has_the_verdict_first_and_no_colour_in_a_pipe() {
    let said = doctor(&["--port", "no.such.port"]);
    assert_eq!((said.status, &*said.stderr), (2, ""));
    let first = said.text().lines().next().unwrap();
    assert!(first.starts_with("guest: fail, "), "{first}");
    assert!(!said.text().contains('\x1b'));
    for name in NAMES {
        assert!(said.text().contains(&format!("  {name} ")), "{name}");
    }
}

#[test]
fn a_port_and_a_configuration_can_be_named() {
    let dir = Dir::new();
    let config = dir.file("agent.conf", "log_level = info\ncolour = red\n");
    let (_, checks) = examine(&["--config", &config, "--port", "/no/such/port"]);
    assert_eq!(status(&checks[7]), Status::Fail);
    let cause = checks[7]["cause"].as_str().unwrap();
    assert!(cause.starts_with("line 2: colour = red: "), "{cause}");
    assert_eq!(
        checks[1]["cause"],
        "/no/such/port: No such file or directory"
    );
}

#[test]
fn what_is_typed_wrong_exits_with_2() {
    for words in [
        &["--no-such"][..],
        &["word"],
        &["--port"],
        &["--log", "stderr"],
    ] {
        doctor(words).trouble(2);
    }
    // Help is not an examination.
    assert!(doctor(&["--help"]).fine().contains("doctor"));
}
