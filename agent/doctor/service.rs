//! The unit, where systemd keeps the agent: what `systemctl show` says of it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use quantix::rt::check::{Check, Status};
use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, pipe, wait};
use quantix::rt::sys::process::{self, Signal};
use quantix::rt::sys::program::Program;

const NAME: &str = "service";

const UNIT: &str = "quantix-kvm-agent.service";

const PROPERTIES: &str =
    "LoadState,ActiveState,SubState,NRestarts,ExecMainCode,ExecMainStatus,Result";

/// systemd answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// More than the properties can take.
const MAX_OUTPUT: u64 = 16 * 1024;

pub fn check(root: &Path) -> Check {
    if !super::has_systemd(root) {
        return Check::ok(NAME, "no systemd");
    }
    match ask(root) {
        Ok(text) => judge(&text),
        Err(e) => Check::unknown(NAME, format!("systemctl: {e}"), ""),
    }
}

/// Runs systemctl, and kills it if it does not end.
fn ask(root: &Path) -> io::Result<String> {
    let word = |word: &str| std::ffi::CString::new(word).unwrap_or_default();
    let path = format!("{0}usr/bin:{0}bin", root.display());
    let program = Program {
        paths: Program::candidates("systemctl", &path),
        args: ["systemctl", "show", "-p", PROPERTIES, UNIT]
            .map(word)
            .into(),
        environment: [word("LC_ALL=C")].into(),
        directories: [word("/")].into(),
        user: None,
        with_terminal: false,
    };
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let (reader, writer) = pipe()?;
    let pid = program
        .start([&null, &writer, &null])
        .map_err(|(_, error)| error)?;
    drop(writer);
    let mut text = Vec::new();
    let told = read(&reader, &mut text);
    process::signal_group(pid, Signal::KILL);
    process::wait(pid)?;
    told.map(|()| String::from_utf8_lossy(&text).into_owned())
}

/// Reads to the end, which has to come in time.
fn read(mut from: &File, into: &mut Vec<u8>) -> io::Result<()> {
    let deadline = clock::now() + PATIENCE;
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.since(clock::now());
        let mut waits = [Wait::read(from)];
        if wait(&mut waits, Some(left))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => into.extend(&buffer[..n]),
        }
        if into.len() as u64 > MAX_OUTPUT {
            return Ok(());
        }
    }
}

/// What the properties, `Name=value` a line, say of the agent.
fn judge(text: &str) -> Check {
    let get = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|line| line.0 == name).map_or("", |line| line.1)
    };
    let [load, active, sub] = ["LoadState", "ActiveState", "SubState"].map(get);
    let seen = format!("{UNIT} is {load}, {active} ({sub})");
    let log = "journalctl -u quantix-kvm-agent";
    let check =
        |status, cause: String, remedy: &str| Check::of(NAME, status, &*seen, cause, remedy);
    let end = || {
        // CLD_EXITED, CLD_KILLED and CLD_DUMPED of waitid(2).
        let how = match get("ExecMainCode") {
            "1" => "status",
            "2" | "3" => "signal",
            _ => "code",
        };
        format!("{}, {how} {}", get("Result"), get("ExecMainStatus"))
    };
    match (load, active, get("NRestarts")) {
        ("", ..) => Check::unknown(NAME, "systemctl has said nothing of the unit", ""),
        ("not-found", ..) => check(
            Status::Warn,
            format!("no unit {UNIT}"),
            "install agent/quantix-kvm-agent.service",
        ),
        ("masked", ..) => check(
            Status::Fail,
            "the unit is masked".to_owned(),
            "systemctl unmask quantix-kvm-agent",
        ),
        (_, "failed", _) => check(Status::Fail, format!("the unit has failed: {}", end()), log),
        _ if sub == "auto-restart" => check(
            Status::Fail,
            format!("the agent ends again and again: {}", end()),
            log,
        ),
        (_, "inactive", _) => check(
            Status::Warn,
            "the unit is not started".to_owned(),
            "systemctl start quantix-kvm-agent",
        ),
        (_, _, "" | "0") => Check::ok(NAME, seen),
        (_, _, count) => check(
            Status::Warn,
            format!("systemd has restarted the agent {count} times"),
            log,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &str) -> (Status, String) {
        let check = judge(&lines.replace(' ', "\n"));
        (check.status, check.cause)
    }

    #[test]
    fn a_unit_is_judged_by_its_properties() {
        let running = "Result=success NRestarts=0 ExecMainCode=0 ExecMainStatus=0 \
            LoadState=loaded ActiveState=active SubState=running";
        assert_eq!(judged(running), (Status::Ok, String::new()));
        let (status, cause) = judged(&running.replace("NRestarts=0", "NRestarts=3"));
        assert_eq!((status, cause.contains(" 3 times")), (Status::Warn, true));
        // Older than NRestarts, which came with version 235.
        assert_eq!(judged(&running.replace("NRestarts=0 ", "")).0, Status::Ok);

        let failed = "Result=exit-code NRestarts=5 ExecMainCode=1 ExecMainStatus=203 \
            LoadState=loaded ActiveState=failed SubState=failed";
        let (status, cause) = judged(failed);
        assert_eq!(status, Status::Fail);
        assert!(cause.ends_with("exit-code, status 203"), "{cause}");

        let looping = "Result=core-dump NRestarts=7 ExecMainCode=3 ExecMainStatus=4 \
            LoadState=loaded ActiveState=activating SubState=auto-restart";
        let (status, cause) = judged(looping);
        assert_eq!(status, Status::Fail);
        assert!(cause.ends_with("core-dump, signal 4"), "{cause}");
    }

    #[test]
    fn a_unit_that_is_not_there_or_not_started_is_a_warning() {
        let absent = "LoadState=not-found ActiveState=inactive SubState=dead NRestarts=0";
        let (status, cause) = judged(absent);
        assert_eq!(status, Status::Warn);
        assert!(cause.starts_with("no unit"), "{cause}");
        assert_eq!(
            judged(&absent.replace("not-found", "loaded")).0,
            Status::Warn
        );
        assert_eq!(
            judged(&absent.replace("not-found", "masked")).0,
            Status::Fail
        );
        assert_eq!(judged("").0, Status::Unknown);
    }
}
