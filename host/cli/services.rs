//! `qx-node services` and `qx-node service`: the guest's services.

use std::ffi::OsStr;

use quantix::error::{Code, Failure};
use quantix::message::Body;
use quantix::message::agent::{
    ListServices, Service, ServiceAction, ServiceControl, ServiceReport, ServiceState,
};
use quantix::rt::unit;
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::options::Typed;
use super::pages::Pages;
use super::render::{bytes, given, or_dash, pairs, plain, span, table};
use super::run::print_json;
use super::{Trouble, client, print, utf8, vm};

const ACTIONS: [(&str, ServiceAction); 6] = [
    ("status", ServiceAction::Status),
    ("start", ServiceAction::Start),
    ("stop", ServiceAction::Stop),
    ("restart", ServiceAction::Restart),
    ("enable", ServiceAction::Enable),
    ("disable", ServiceAction::Disable),
];

/// `qx-node services`
pub fn services(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let (manager, mut all) = list(&mut client(typed)?, name)?;
    let failed = typed.has("failed");
    all.retain(|one| !failed || one.state() == ServiceState::Failed);
    if typed.has("json") {
        let all = all.iter().map(|one| to_json(name, &manager, one)).collect();
        return print_json(&Value::Array(all));
    }
    if all.is_empty() {
        let which = if failed {
            "failed services"
        } else {
            "services"
        };
        return print(&format!("no {which}\n"));
    }
    print(&text(&all))
}

/// `qx-node service`
pub fn service(typed: &Typed) -> Result<u8, Trouble> {
    let (name, words) = vm(typed, 2)?;
    let [service, word] = words else {
        return Err(unexpected());
    };
    let service = checked(service)?;
    let known = ACTIONS.iter().find(|(known, _)| word == known);
    let Some((word, action)) = known else {
        let known = ACTIONS.map(|(known, _)| known).join(", ");
        let given = plain(&word.to_string_lossy());
        return Err(Trouble::Usage(format!("{given} is none of {known}")));
    };
    let seconds = typed.positive("timeout").map_err(Trouble::Usage)?;
    let mut client = client(typed)?;
    let request = ServiceControl {
        name: service.to_owned(),
        action: (*action).into(),
        timeout_seconds: seconds.unwrap_or(0),
    };
    let id = client.ask_agent(name, Body::ServiceControl(request))?;
    let report = match client.wait_agent(id) {
        Ok(Body::ServiceControlResponse(report)) => report,
        Ok(_) => return Err(unexpected()),
        Err(trouble) => return Err(with_next(trouble, name, service, *action)),
    };
    let found = report.service.clone().unwrap_or_default();
    if typed.has("json") {
        let mut value = to_json(name, &report.manager, &found);
        more_json(&mut value, &report);
        return print_json(&value);
    }
    let (shown, detail) = (plain(&found.name), plain(&found.detail));
    match word {
        &"status" => print(&details(&found, &report)),
        &"enable" | &"disable" => {
            let enabled = plain(&found.enabled);
            print(&format!("{shown}: {enabled}; it is {detail}\n"))
        }
        _ => print(&format!("{shown}: {detail}\n")),
    }
}

/// A name of a service that was typed.
pub fn checked(word: &OsStr) -> Result<&str, Trouble> {
    let name = utf8("the service", word)?;
    match unit::is_name(name) {
        true => Ok(name),
        false => Err(Trouble::Usage(unit::RULE.to_owned())),
    }
}

/// What a service says of its failure is in its log.
fn with_next(trouble: Trouble, vm: &str, service: &str, action: ServiceAction) -> Trouble {
    let vm = if vm.is_empty() { "VM" } else { vm };
    let next = match (&trouble, action) {
        (
            Trouble::Failed(Failure {
                code: Code::Internal,
                ..
            }),
            ServiceAction::Start | ServiceAction::Stop | ServiceAction::Restart,
        ) => format!("; `qx-node logs {vm} {service}` may say why"),
        _ => return trouble,
    };
    match trouble {
        Trouble::Failed(Failure { code, message }) => {
            Trouble::Failed(Failure::new(code, message + &next))
        }
        other => other,
    }
}

/// The manager, and all of them, in as many answers as it takes.
fn list(client: &mut Client, name: &str) -> Result<(String, Vec<Service>), Trouble> {
    let mut all: Vec<Service> = Vec::new();
    let mut pages = Pages::of("services");
    let mut after = String::new();
    loop {
        let request = ListServices {
            after: after.clone(),
        };
        let id = client.ask_agent(name, Body::ListServices(request))?;
        let Body::ServiceList(part) = client.wait_agent(id)? else {
            return Err(unexpected());
        };
        let last = part.services.last();
        let last = last.map(|last| last.name.clone()).unwrap_or_default();
        if part.more {
            pages.more(&part, last > after)?;
        }
        after = last;
        all.extend(part.services);
        if !part.more {
            return Ok((part.manager, all));
        }
    }
}

fn text(all: &[Service]) -> String {
    let head = ["SERVICE", "STATE", "AT BOOT", "DESCRIPTION"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in all {
        rows.push(vec![
            plain(&one.name),
            plain(&one.detail),
            or_dash(&one.enabled),
            plain(&one.description),
        ]);
    }
    table(&rows)
}

fn details(of: &Service, report: &ServiceReport) -> String {
    let or_nothing = |is: bool, text: String| if is { text } else { String::new() };
    let since = or_nothing(
        report.state_ms > 0,
        format!(" for {}", span(report.state_ms / 1000)),
    );
    let result = match report.exit_status {
        0 => plain(&report.result),
        status => format!("{} {status}", plain(&report.result)),
    };
    pairs(&[
        ("service", plain(&of.name)),
        ("about", plain(&of.description)),
        ("state", plain(&of.detail) + &since),
        ("at boot", plain(&of.enabled)),
        (
            "process",
            or_nothing(report.pid > 0, report.pid.to_string()),
        ),
        (
            "memory",
            or_nothing(report.memory_bytes > 0, bytes(report.memory_bytes)),
        ),
        (
            "restarts",
            or_nothing(report.restarts > 0, report.restarts.to_string()),
        ),
        ("ended", result),
        ("kept by", plain(&report.manager)),
    ])
}

fn to_json(vm: &str, manager: &str, of: &Service) -> Value {
    json!({
        "vm": vm,
        "manager": manager,
        "service": of.name,
        "state": match of.state() {
            ServiceState::Stopped => "stopped",
            ServiceState::Starting => "starting",
            ServiceState::Started => "started",
            ServiceState::Stopping => "stopping",
            ServiceState::Failed => "failed",
            ServiceState::Unspecified => "unknown",
        },
        "detail": of.detail,
        "enabled": given(&of.enabled),
        "description": given(&of.description),
    })
}

fn more_json(value: &mut Value, report: &ServiceReport) {
    let known = |number: u64| Some(number).filter(|number| *number > 0);
    let has_result = !report.result.is_empty();
    value["pid"] = json!(known(report.pid.into()));
    value["result"] = json!(has_result.then_some(&report.result));
    value["exit_status"] = json!(has_result.then_some(report.exit_status));
    value["restarts"] = json!(report.restarts);
    value["memory_bytes"] = json!(known(report.memory_bytes));
    value["state_seconds"] = json!(known(report.state_ms).map(|ms| ms / 1000));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_shown_with_what_is_known_of_it() {
        let service = Service {
            name: "nginx.service".to_owned(),
            detail: "failed (failed)".to_owned(),
            description: "web\x1b[2J".to_owned(),
            ..Default::default()
        };
        let mut report = ServiceReport {
            manager: "systemd".to_owned(),
            result: "exit-code".to_owned(),
            exit_status: 3,
            state_ms: 61_000,
            ..Default::default()
        };
        let wanted = "\
service:  nginx.service
about:    web\\x1b[2J
state:    failed (failed) for 1m 1s
ended:    exit-code 3
kept by:  systemd
";
        assert_eq!(details(&service, &report), wanted);
        report.pid = 812;
        report.memory_bytes = 1536;
        assert!(details(&service, &report).contains("process:  812\nmemory:   1.5 KiB\n"));
        let wanted = "\
SERVICE        STATE            AT BOOT  DESCRIPTION
nginx.service  failed (failed)  -        web\\x1b[2J
";
        assert_eq!(text(&[service]), wanted);
    }

    #[test]
    fn only_a_service_that_fails_has_its_log_named() {
        let of = |code, action| {
            let failed = Trouble::Failed(Failure::new(code, "oops"));
            with_next(failed, "web1", "nginx", action).to_string()
        };
        let start = ServiceAction::Start;
        let wanted = "oops; `qx-node logs web1 nginx` may say why";
        assert_eq!(of(Code::Internal, start), wanted);
        assert_eq!(of(Code::NotFound, start), "oops");
        assert_eq!(of(Code::Internal, ServiceAction::Enable), "oops");
    }
}
