//! systemd, over systemctl(1): its tables without heads, and `Name=value` lines.

use std::time::Duration;

use quantix::error::Failure;
use quantix::message::agent::{Service, ServiceReport, ServiceState};
use quantix::rt::clock;
use quantix::rt::tool::Said;

use super::{LONG_PATIENCE, PATIENCE, ask, cut, run};
use crate::doctor::value;

const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,SubState,UnitFileState,Description,\
    MainPID,Result,ExecMainCode,ExecMainStatus,NRestarts,MemoryCurrent,StateChangeTimestampMonotonic";

/// All services that are loaded or that there is a file of.
pub fn all() -> Result<Vec<Service>, Failure> {
    let list = |what, patience| {
        let args = [
            what,
            "--type=service",
            "--no-legend",
            "--no-pager",
            "--full",
            "--all",
            "--plain",
            // With the type alone systemd looks into the files of all other units, too, which takes it seconds
            // in a slow guest.
            "*.service",
        ];
        ask("systemctl", &args, patience)
    };
    let mut services = units(&list("list-units", PATIENCE)?);
    files(&list("list-unit-files", LONG_PATIENCE)?, &mut services);
    Ok(services)
}

/// Has a service do something. `None`: there was no need to ask.
pub fn tell(verb: &str, name: &str, patience: Duration) -> Result<Option<Said>, Failure> {
    run("systemctl", &["--no-pager", verb, "--", name], patience).map(Some)
}

/// How a service is.
pub fn look(name: &str) -> Result<Option<ServiceReport>, Failure> {
    let text = ask(
        "systemctl",
        &["--no-pager", PROPERTIES, "show", "--", name],
        PATIENCE,
    )?;
    let now_us = clock::now().since(Default::default()).as_micros();
    Ok(report(&text, u64::try_from(now_us).unwrap_or(0)))
}

/// `UNIT LOAD ACTIVE SUB DESCRIPTION`, with a mark in front where a unit has failed, in old versions.
fn units(text: &str) -> Vec<Service> {
    let mut services = Vec::new();
    for line in text.split('\n') {
        let mut rest = line;
        let mut name = word(&mut rest);
        if !name.contains('.') {
            name = word(&mut rest);
        }
        let [load, active, sub] = [(); 3].map(|()| word(&mut rest));
        // What others want and nobody has is no service.
        if sub.is_empty() || load == "not-found" && active == "inactive" {
            continue;
        }
        services.push(Service {
            name: cut_name(name),
            state: state(active).into(),
            detail: detail(active, sub),
            enabled: String::new(),
            description: cut(rest.trim()),
        });
    }
    services
}

/// `UNIT STATE [PRESET]`
fn files(text: &str, services: &mut Vec<Service>) {
    for line in text.split('\n') {
        let mut rest = line;
        let [name, enabled] = [(); 2].map(|()| word(&mut rest));
        // A template is none itself, an alias another's name.
        if enabled.is_empty() || name.ends_with("@.service") || enabled == "alias" {
            continue;
        }
        if let Some(known) = services.iter_mut().find(|known| known.name == name) {
            known.enabled = cut(enabled);
            continue;
        }
        services.push(Service {
            name: cut_name(name),
            state: ServiceState::Stopped.into(),
            detail: detail("inactive", "dead"),
            enabled: cut(enabled),
            description: String::new(),
        });
    }
}

fn word<'a>(line: &mut &'a str) -> &'a str {
    let text = line.trim_ascii_start();
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    *line = rest;
    word
}

fn state(active: &str) -> ServiceState {
    match active {
        "active" | "reloading" | "refreshing" => ServiceState::Started,
        "inactive" => ServiceState::Stopped,
        "activating" => ServiceState::Starting,
        "deactivating" => ServiceState::Stopping,
        "failed" | "maintenance" => ServiceState::Failed,
        _ => ServiceState::Unspecified,
    }
}

fn detail(active: &str, sub: &str) -> String {
    cut(&[active, " (", sub, ")"].concat())
}

/// `None`: there is none. `now_us` is on the clock that systemd's times are on.
fn report(text: &str, now_us: u64) -> Option<ServiceReport> {
    let get = |name| value(text, name, '=').unwrap_or_default();
    // What is not set is text, or the largest number.
    let number = |name| {
        get(name)
            .parse()
            .ok()
            .filter(|n| *n < u64::MAX)
            .unwrap_or(0)
    };
    let small = |name| u32::try_from(number(name)).unwrap_or(0);
    let (load, active) = (get("LoadState"), get("ActiveState"));
    if matches!(load, "not-found" | "") && matches!(active, "inactive" | "") {
        return None;
    }
    let result = match get("Result") {
        "success" => "",
        result => result,
    };
    Some(ServiceReport {
        service: Some(Service {
            name: cut_name(get("Id")),
            state: state(active).into(),
            detail: detail(active, get("SubState")),
            enabled: cut(get("UnitFileState")),
            description: cut(get("Description")),
        }),
        pid: small("MainPID"),
        result: cut(result),
        exit_status: match result {
            "" => 0,
            _ => small("ExecMainStatus"),
        },
        restarts: small("NRestarts"),
        memory_bytes: number("MemoryCurrent"),
        state_ms: match number("StateChangeTimestampMonotonic") {
            0 => 0,
            at => now_us.saturating_sub(at) / 1000,
        },
        ..Default::default()
    })
}

fn cut_name(name: &str) -> String {
    name.chars().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of systemd 252, and a failed one as 219 marks it.
    const UNITS: &str = "\
apparmor.service                     not-found inactive dead    apparmor.service
cron.service                         loaded    active   running Regular background program processing daemon
dbus.service                         loaded    active   running D-Bus System Message Bus
\u{25cf} nginx.service                loaded    failed   failed  A high performance web server
emergency.service                    loaded    inactive dead    Emergency Shell
gone.service                         not-found failed   failed  gone.service
systemd-fsck@dev-disk-by\\x2duuid.service loaded active exited File System Check on /dev/disk
slow.service                         loaded    activating start Slow one

";

    const FILES: &str = "\
apt-daily.service                          static          -
autovt@.service                            alias           -
cron.service                               enabled         enabled
dbus-org.freedesktop.login1.service        alias           -
getty@.service                             enabled         enabled
nginx.service                              disabled        enabled
sudo.service                               masked          enabled
";

    #[test]
    fn both_tables_make_one_list() {
        let mut found = units(UNITS);
        files(FILES, &mut found);
        let lines: Vec<String> = found
            .iter()
            .map(|s| {
                let state = s.state().as_str_name().trim_start_matches("SERVICE_STATE_");
                [&s.name, state, &s.detail, &s.enabled, &s.description].join("|")
            })
            .collect();
        let wanted = [
            "cron.service|STARTED|active (running)|enabled|Regular background program processing daemon",
            "dbus.service|STARTED|active (running)||D-Bus System Message Bus",
            "nginx.service|FAILED|failed (failed)|disabled|A high performance web server",
            "emergency.service|STOPPED|inactive (dead)||Emergency Shell",
            "gone.service|FAILED|failed (failed)||gone.service",
            "systemd-fsck@dev-disk-by\\x2duuid.service|STARTED|active (exited)||File System Check on /dev/disk",
            "slow.service|STARTING|activating (start)||Slow one",
            "apt-daily.service|STOPPED|inactive (dead)|static|",
            "sudo.service|STOPPED|inactive (dead)|masked|",
        ];
        assert_eq!(lines, wanted);
        assert!(units("").is_empty() && units("garbage\n\n \n").is_empty());
    }

    const FAILED: &str = "\
Type=simple
MainPID=0
Result=exit-code
NRestarts=5
ExecMainCode=1
ExecMainStatus=203
MemoryCurrent=[not set]
Id=nginx.service
Description=A high performance web server
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=enabled
StateChangeTimestampMonotonic=2000000
";

    #[test]
    fn a_unit_is_read_from_its_properties() {
        let report = |text: &str| report(text, 62_000_500);
        let found = report(FAILED).unwrap();
        let service = found.service.as_ref().unwrap();
        assert_eq!(service.name, "nginx.service");
        assert_eq!(service.state(), ServiceState::Failed);
        assert_eq!((&*found.result, found.exit_status), ("exit-code", 203));
        assert_eq!((found.pid, found.restarts, found.memory_bytes), (0, 5, 0));
        assert_eq!(found.state_ms, 60_000);

        let running = "Id=x.service\nLoadState=loaded\nActiveState=active\nSubState=running\nMainPID=812\n\
            Result=success\nExecMainStatus=9\nMemoryCurrent=12345678\nStateChangeTimestampMonotonic=0\n";
        let found = report(running).unwrap();
        assert_eq!((found.pid, found.memory_bytes), (812, 12_345_678));
        assert_eq!(
            (&*found.result, found.exit_status, found.state_ms),
            ("", 0, 0)
        );
        let unset = running.replace("12345678", "18446744073709551615");
        assert_eq!(report(&unset).unwrap().memory_bytes, 0);

        // One that is gone and still runs is there.
        let gone = "Id=x.service\nLoadState=not-found\nActiveState=";
        assert!(report(&[gone, "active\n"].concat()).is_some());
        assert_eq!(report(&[gone, "inactive\n"].concat()), None);
        assert_eq!(report(""), None);
    }
}
