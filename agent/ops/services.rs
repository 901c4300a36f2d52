//! The guest's services, by the programs of what manages them: systemd, or OpenRC. Their lists and words are
//! read in a file each.

mod openrc;
mod systemd;

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use quantix::error::{Code, Failure, system_text};
use quantix::message::agent::{
    ListServices, Service, ServiceAction, ServiceControl, ServiceList, ServiceReport, ServiceState,
};
use quantix::rt::tool::{Said, Tool};
use quantix::rt::unit;

/// For a question, of which a request has two at most; one may take long, where systemd has to look into
/// hundreds of files.
const PATIENCE: Duration = Duration::from_secs(8);
const LONG_PATIENCE: Duration = Duration::from_secs(20);

/// For what a service is told to do, in seconds.
const USUAL: u32 = 90;
const LONGEST: u32 = 3600;

/// Bytes of a tool's answer.
const MAX_OUTPUT: usize = 1024 * 1024;

/// Bytes of ours: with the last service, of 1 KiB at most, well below a frame.
const FULL: usize = 88 * 1024;

/// Characters of a service's description, and of another word of its manager.
const MAX_ABOUT: usize = 120;

#[derive(Clone, Copy)]
enum Manager {
    Systemd,
    OpenRc,
}

/// Lists a part of them.
pub fn list(request: &ListServices) -> Result<ServiceList, Failure> {
    let manager = Manager::find()?;
    let all = match manager {
        Manager::Systemd => systemd::all()?,
        Manager::OpenRc => openrc::all()?,
    };
    Ok(part(manager.name(), all, &request.after))
}

/// Those behind `after`, as many as fit. There are hundreds at most: a sort costs more bytes than it saves time.
fn part(manager: &str, mut all: Vec<Service>, after: &str) -> ServiceList {
    let mut list = ServiceList {
        manager: manager.to_owned(),
        ..Default::default()
    };
    all.retain(|service| *service.name > *after);
    let mut bytes = 0;
    while bytes < FULL {
        let mut first = 0;
        for at in 1..all.len() {
            if all[at].name < all[first].name {
                first = at;
            }
        }
        if all.is_empty() {
            return list;
        }
        let service = all.swap_remove(first);
        bytes += service.encoded_len() + 4;
        list.services.push(service);
    }
    list.more = !all.is_empty();
    list
}

/// Tells one what to do.
pub fn control(request: &ServiceControl) -> Result<ServiceReport, Failure> {
    let name = &*request.name;
    if !unit::is_name(name) {
        return Err(Failure::new(Code::Invalid, unit::RULE));
    }
    let seconds = match request.timeout_seconds {
        0 => USUAL,
        seconds => seconds,
    };
    if seconds > LONGEST {
        let why = "a service's timeout is 3600 seconds at most";
        return Err(Failure::new(Code::Invalid, why));
    }
    let verb = match request.action() {
        ServiceAction::Unspecified => {
            let why = "this agent does not know what the service is to do";
            return Err(Failure::new(Code::Unsupported, why));
        }
        ServiceAction::Status => "",
        ServiceAction::Start => "start",
        ServiceAction::Stop => "stop",
        ServiceAction::Restart => "restart",
        ServiceAction::Enable => "enable",
        ServiceAction::Disable => "disable",
    };
    let manager = Manager::find()?;
    let mut report = manager.look(name)?;
    if !verb.is_empty() {
        let patience = Duration::from_secs(seconds.into());
        let said = match manager {
            Manager::Systemd => systemd::tell(verb, name, patience)?,
            Manager::OpenRc => openrc::tell(verb, &report, patience)?,
        };
        report = manager.look(name)?;
        let service = report.service.get_or_insert_default();
        let is_start = matches!(verb, "start" | "restart");
        let has_failed = is_start && service.state() == ServiceState::Failed;
        let line = said.and_then(|said| fault(&said));
        if line.is_some() || has_failed {
            let line = line.unwrap_or_default();
            return Err(Failure::new(Code::Internal, came_to(verb, &report, &line)));
        }
    }
    manager.name().clone_into(&mut report.manager);
    Ok(report)
}

impl Manager {
    /// The one that runs.
    fn find() -> Result<Self, Failure> {
        // As sd_booted(3) does.
        if Path::new("/run/systemd/system").exists() {
            Ok(Self::Systemd)
        } else if Path::new("/run/openrc").exists() {
            Ok(Self::OpenRc)
        } else {
            let why = "this guest has neither systemd nor OpenRC";
            Err(Failure::new(Code::Unsupported, why))
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::OpenRc => "OpenRC",
        }
    }

    fn look(self, name: &str) -> Result<ServiceReport, Failure> {
        let found = match self {
            Self::Systemd => systemd::look(name)?,
            Self::OpenRc => openrc::look(name)?,
        };
        found.ok_or_else(|| {
            let manager = self.name();
            let why = format!(
                "{name}: {manager} knows no such service; `qx-node services VM` lists them"
            );
            Failure::new(Code::NotFound, why)
        })
    }
}

/// What a tool answers to a question.
fn ask(tool: &str, args: &[&str], patience: Duration) -> Result<String, Failure> {
    let said = run(tool, args, patience)?;
    match fault(&said) {
        Some(why) => Err(Failure::new(Code::Internal, format!("{tool}: {why}"))),
        None => Ok(String::from_utf8_lossy(&said.output).into_owned()),
    }
}

/// Runs a tool, which has to be there and to end.
fn run(tool: &str, args: &[&str], patience: Duration) -> Result<Said, Failure> {
    let mut asked = Tool::new(tool, args, patience);
    asked.limit = MAX_OUTPUT;
    let said = asked.run().map_err(|e| {
        let code = match e.kind() {
            ErrorKind::NotFound => Code::Unsupported,
            _ => Code::Internal,
        };
        Failure::new(code, format!("run {tool}: {}", system_text(&e)))
    })?;
    if said.ended.is_none() {
        let (words, seconds) = (args.join(" "), patience.as_secs());
        let why = format!(
            "{tool} {words}: it had not ended after {seconds} s, and was killed; \
            what it was told may still be under way"
        );
        return Err(Failure::new(Code::TimedOut, why));
    }
    Ok(said)
}

/// Why a tool has failed, if it has: the line that says most. Behind it systemctl says where to read on, and
/// OpenRC's tools have theirs last.
fn fault(said: &Said) -> Option<String> {
    if said.is_success() {
        return None;
    }
    let text = String::from_utf8_lossy(&said.complaint);
    for line in text.split('\n') {
        let line = line.strip_prefix(" * ").unwrap_or(line);
        for word in ["Job for ", "Failed to ", "ERROR: "] {
            if line.starts_with(word) {
                return Some(line.to_owned());
            }
        }
    }
    Some(said.why())
}

/// What an action came to, for people.
fn came_to(verb: &str, report: &ServiceReport, line: &str) -> String {
    let Some(service) = &report.service else {
        return String::new();
    };
    let mut text = [verb, " ", &service.name, ": "].concat();
    if !line.is_empty() {
        text += line.trim_end_matches('.');
        text += "; it is ";
    }
    text += &service.detail;
    if !report.result.is_empty() {
        let status = report.exit_status.to_string();
        text += &[", ", &report.result, " ", &status].concat();
    }
    text
}

/// The first characters of a word or line from elsewhere.
fn cut(text: &str) -> String {
    text.chars().take(MAX_ABOUT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quantix::rt::sys::process::Ended;

    fn service(name: &str) -> Service {
        Service {
            name: name.to_owned(),
            description: "x".repeat(MAX_ABOUT),
            ..Default::default()
        }
    }

    #[test]
    fn a_long_list_comes_in_parts_and_is_whole() {
        let all: Vec<Service> = (0..3000)
            .map(|n| service(&format!("{n:04}.service")))
            .collect();
        let mut found: Vec<Service> = Vec::new();
        let mut parts = 0;
        loop {
            let after = found.last().map_or(String::new(), |last| last.name.clone());
            let mixed = all.iter().rev().cloned().collect();
            let list = part("systemd", mixed, &after);
            assert!(list.encoded_len() < 96 * 1024);
            found.extend(list.services);
            parts += 1;
            if !list.more {
                break;
            }
        }
        assert!(found == all && parts > 1);
        assert!(part("OpenRC", all, "z").services.is_empty());
    }

    #[test]
    fn the_line_that_says_why_is_found() {
        let of = |complaint: &str, status| {
            let (output, complaint) = (b"said\n".to_vec(), complaint.into());
            let ended = Some(Ended::Exited(status));
            fault(&Said {
                ended,
                output,
                complaint,
            })
        };
        let job = "Job for nginx.service failed because the control process exited with error code.\n\
            See \"systemctl status nginx.service\" and \"journalctl -xeu nginx.service\" for details.\n";
        assert_eq!(of(job, 0), None);
        assert_eq!(
            of(job, 1).unwrap(),
            "Job for nginx.service failed because the control process exited with error code."
        );
        let masked = "Failed to start ssh.service: Unit ssh.service is masked.\n";
        assert_eq!(of(masked, 1).unwrap(), masked.trim_end());
        let openrc = " * /etc/init.d/x: line 3: oops: not found\n * ERROR: x failed to start\n";
        assert_eq!(of(openrc, 1).unwrap(), "ERROR: x failed to start");
        assert_eq!(of("", 1).unwrap(), "said");
        assert_eq!(of("one\nlast\n", 1).unwrap(), "last");
    }

    #[test]
    fn a_failed_start_is_told_with_what_the_unit_came_to() {
        let report = ServiceReport {
            service: Some(Service {
                detail: "failed (failed)".to_owned(),
                ..service("x.service")
            }),
            result: "exit-code".to_owned(),
            exit_status: 3,
            ..Default::default()
        };
        let text = came_to("start", &report, "Job for x.service failed.");
        let wanted =
            "start x.service: Job for x.service failed; it is failed (failed), exit-code 3";
        assert_eq!(text, wanted);
        let text = came_to("restart", &report, "");
        assert_eq!(text, "restart x.service: failed (failed), exit-code 3");
    }

    #[test]
    fn what_is_no_name_and_no_action_reaches_no_tool() {
        let control = |name: &str, action: i32, timeout_seconds| {
            let name = name.to_owned();
            control(&ServiceControl {
                name,
                action,
                timeout_seconds,
            })
            .unwrap_err()
        };
        let start = ServiceAction::Start.into();
        for bad in ["", "-H", "../x", "a b", "*"] {
            assert_eq!(control(bad, start, 0).code, Code::Invalid, "{bad}");
        }
        assert_eq!(control("x", start, 3601).code, Code::Invalid);
        for action in [0, 77] {
            let failure = control("x", action, 0);
            assert_eq!(failure.code, Code::Unsupported);
            assert!(failure.message.contains("does not know what"), "{failure}");
        }
    }
}
