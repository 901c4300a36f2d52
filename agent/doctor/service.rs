//! The unit, where systemd keeps the agent: what `systemctl show` says of it.

use std::io;
use std::time::Duration;

use quantix::error::system_text;
use quantix::rt::check::{Check, Status};
use quantix::rt::tool::Tool;

use super::{Guest, fine, found, unknown, value};

const NAME: &str = "service";

const UNIT: &str = "quantix-kvm-agent.service";

const PROPERTIES: &str =
    "LoadState,ActiveState,SubState,NRestarts,ExecMainCode,ExecMainStatus,Result";

/// systemd answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn check(guest: &mut Guest) -> Check {
    if !guest.has_systemd() {
        return fine(NAME, format_args!("no systemd"));
    }
    match ask() {
        Ok(text) => judge(&String::from_utf8_lossy(&text)),
        Err(e) => unknown(NAME, format_args!("systemctl: {}", system_text(&e)), ""),
    }
}

/// What systemctl says.
fn ask() -> io::Result<Vec<u8>> {
    let args = ["show", "-p", PROPERTIES, UNIT];
    let said = Tool::new("systemctl", &args, PATIENCE).run()?;
    match said.ended {
        Some(_) => Ok(said.output),
        None => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What the properties, `Name=value` a line, say of the agent.
fn judge(text: &str) -> Check {
    let get = |name: &str| value(text, name, '=').unwrap_or_default();
    let [load, active, sub] = ["LoadState", "ActiveState", "SubState"].map(get);
    let [result, code, status] = ["Result", "ExecMainCode", "ExecMainStatus"].map(get);
    let restarts = get("NRestarts");
    // CLD_EXITED of waitid(2), or CLD_KILLED and CLD_DUMPED.
    let what = if code == "1" { "status" } else { "signal" };
    let ended = format!("the agent does not stay: {result}, {what} {status}");
    let restarted = format!("systemd has restarted the agent {restarts} times");
    let (status, cause, remedy) = match (load, active, sub) {
        ("", ..) => {
            let seen = format_args!("systemctl has said nothing of the unit");
            return unknown(NAME, seen, "");
        }
        ("not-found", ..) => {
            let remedy = "install the package of the agent";
            (Status::Warn, "there is no such unit", remedy)
        }
        ("masked", ..) => {
            let remedy = "systemctl unmask quantix-kvm-agent";
            (Status::Fail, "the unit is masked", remedy)
        }
        (_, "failed", _) | (_, _, "auto-restart") => (Status::Fail, &*ended, super::LOG),
        (_, "inactive", _) => (Status::Warn, "the unit is not started", super::START),
        _ if matches!(restarts, "" | "0") => (Status::Ok, "", ""),
        _ => (Status::Warn, &*restarted, super::LOG),
    };
    found(
        NAME,
        status,
        format_args!("quantix-kvm-agent.service is {load}, {active} ({sub})"),
        format_args!("{cause}"),
        format_args!("{remedy}"),
    )
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
        assert!(cause.contains("no such unit"), "{cause}");
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
