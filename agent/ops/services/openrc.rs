//! OpenRC, over rc-status(8), rc-service(8) and rc-update(8), which print for people.

use std::time::Duration;

use quantix::error::Failure;
use quantix::message::agent::{Service, ServiceReport, ServiceState};
use quantix::rt::tool::Said;

use super::{PATIENCE, ask, cut, run};

/// Where services are that start at boot.
const RUNLEVEL: &str = "default";

const ENABLED: &str = "enabled";

/// All services that there is a script of.
pub fn all() -> Result<Vec<Service>, Failure> {
    let mut services = states(&ask("rc-status", &["--servicelist"], PATIENCE)?);
    runlevels(&ask("rc-update", &["show"], PATIENCE)?, &mut services);
    Ok(services)
}

/// Has a service do something. `None`: there was no need to ask.
pub fn tell(
    verb: &str,
    report: &ServiceReport,
    patience: Duration,
) -> Result<Option<Said>, Failure> {
    let Some(service) = &report.service else {
        return Ok(None);
    };
    let is_enabled = service.enabled == ENABLED;
    let name = &*service.name;
    match verb {
        "enable" if is_enabled => return Ok(None),
        "disable" if !is_enabled => return Ok(None),
        "enable" => run("rc-update", &["add", name, RUNLEVEL], patience),
        // It may be in several.
        "disable" => run("rc-update", &["--all", "del", name], patience),
        _ => run("rc-service", &[name, verb], patience),
    }
    .map(Some)
}

/// How a service is.
pub fn look(name: &str) -> Result<Option<ServiceReport>, Failure> {
    let found = all()?.into_iter().find(|service| service.name == name);
    Ok(found.map(|service| ServiceReport {
        service: Some(service),
        ..Default::default()
    }))
}

/// ` NAME     [  started 01:02:03 (0)  ]`
fn states(text: &str) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for line in text.split('\n') {
        let Some((name, rest)) = line.rsplit_once('[') else {
            continue;
        };
        let (name, word) = (name.trim(), rest.trim().trim_end_matches(']').trim());
        if name.is_empty() || name.contains(' ') {
            continue;
        }
        services.push(Service {
            name: name.to_owned(),
            state: state(word.split_once(' ').map_or(word, |(word, _)| word)).into(),
            detail: cut(word),
            enabled: "disabled".to_owned(),
            description: String::new(),
        });
    }
    services
}

/// ` NAME | default boot`
fn runlevels(text: &str, services: &mut [Service]) {
    for line in text.split('\n') {
        if let Some((name, levels)) = line.split_once('|')
            && !levels.trim().is_empty()
            && let Some(known) = services.iter_mut().find(|known| known.name == name.trim())
        {
            ENABLED.clone_into(&mut known.enabled);
        }
    }
}

fn state(word: &str) -> ServiceState {
    match word {
        "started" => ServiceState::Started,
        // Scheduled: as soon as another has started.
        "starting" | "scheduled" | "inactive" => ServiceState::Starting,
        "stopped" => ServiceState::Stopped,
        "stopping" => ServiceState::Stopping,
        "crashed" | "failed" => ServiceState::Failed,
        _ => ServiceState::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of OpenRC 0.55 on Alpine, without colours, as to a pipe.
    const STATES: &str = "\
 acpid                                                             [  started  ]
 crond                                                             [  started 02:10:44 (0)  ]
 nginx                                                             [  crashed  ]
 net.eth0                                                          [  stopped  ]
 ntpd                                                              [  starting  ]
 swclock                                                           [ stopped ]
";

    const RUNLEVELS: &str = "\
                acpid | default
              swclock | boot
                nginx |
             killprocs | shutdown
";

    #[test]
    fn states_and_runlevels_make_one_list() {
        let mut found = states(STATES);
        runlevels(RUNLEVELS, &mut found);
        let lines: Vec<String> = found
            .iter()
            .map(|s| {
                let state = s.state().as_str_name().trim_start_matches("SERVICE_STATE_");
                [&s.name, state, &s.detail, &s.enabled].join("|")
            })
            .collect();
        let wanted = [
            "acpid|STARTED|started|enabled",
            "crond|STARTED|started 02:10:44 (0)|disabled",
            "nginx|FAILED|crashed|disabled",
            "net.eth0|STOPPED|stopped|disabled",
            "ntpd|STARTING|starting|disabled",
            "swclock|STOPPED|stopped|enabled",
        ];
        assert_eq!(lines, wanted);
        assert!(states("").is_empty() && states("Runlevel: default\n [ x ]\n").is_empty());
    }
}
