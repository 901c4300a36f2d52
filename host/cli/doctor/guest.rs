//! What the guest's own doctor finds, asked over the channel, and whether bytes make it there and back.

use std::time::Duration;

use quantix::message::{Body, agent};
use quantix::rt::check::{Check, Status};
use quantix::rt::clock;
use serde_json::Value;

use super::super::render::{bytes, millis};
use super::super::{Client, Trouble, tool};

/// How long the guest's doctor may take: it needs 0.7 s where a file system hangs.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What the guest's doctor looks at, and what it is called here.
const NAMES: [(&str, &str); 10] = [
    ("driver", "guest.driver"),
    ("port", "guest.port"),
    ("agent", "guest.agent"),
    ("host", "guest.host"),
    ("service", "guest.service"),
    ("crash", "guest.crash"),
    ("filesystems", "guest.filesystems"),
    ("config", "guest.config"),
    ("version", "guest.version"),
    ("clock", "guest.clock"),
];

/// Bytes of one text of a guest that are shown.
const MAX_TEXT: usize = 1000;

/// Sizes of a probe's round trips.
const SIZES: [usize; 4] = [1, 1 << 10, 32 << 10, 1 << 20];

/// How long each of them may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// Where what comes is no findings.
pub const TOO_OLD: &str = "the agent there has no doctor; install the present one";

/// Has the guest's agent run its doctor.
pub fn ask(client: &mut Client, vm: &str) -> Result<Vec<Check>, String> {
    let request = agent::Execute {
        command: "quantix-kvm-agent".to_owned(),
        args: vec!["doctor".to_owned(), "--json".to_owned()],
        wait_for_exit: true,
        timeout_seconds: 2,
        ..Default::default()
    };
    let answer = |client: &mut Client| {
        client.limit(PATIENCE)?;
        let id = client.ask_agent(vm, Body::Execute(request))?;
        client.wait_agent(id)
    };
    let answer = answer(client).map_err(|trouble| match trouble {
        // The daemon was there a moment ago.
        Trouble::NoDaemon(_) | Trouble::Gone(_) => "no answer from the guest in time".to_owned(),
        other => other.to_string(),
    });
    match answer? {
        Body::ExecuteResponse(answer) => parse(&answer.stdout).ok_or_else(|| TOO_OLD.to_owned()),
        _ => Err("the agent gave another answer than was asked for".to_owned()),
    }
}

/// The checks in what the guest's doctor prints. Its words are a stranger's: bounded here, and escaped where
/// they are shown.
pub fn parse(text: &[u8]) -> Option<Vec<Check>> {
    let said: Value = serde_json::from_slice(text).ok()?;
    let mut checks = Vec::new();
    for check in said["checks"].as_array()? {
        let field = |name: &str| {
            let text = check[name].as_str().unwrap_or_default();
            text.chars().take(MAX_TEXT).collect::<String>()
        };
        let name = NAMES.iter().find(|(theirs, _)| *theirs == field("name"));
        if let (Some((_, name)), Some(status)) = (name, Status::parse(&field("status"))) {
            let [seen, why, next] = ["evidence", "cause", "remedy"].map(field);
            checks.push(Check::of(name, status, seen, why, next));
        }
    }
    Some(checks)
}

/// Sends bytes to the guest and has them sent back; `options` say by which daemon or socket.
pub fn probe(vm: &str, options: &[String]) -> Check {
    let mut seen = Vec::new();
    for size in SIZES {
        let sent: Vec<u8> = (0..=250).cycle().take(size).collect();
        let begun = clock::now();
        let mut command = tool::own();
        command.arg("exec").arg("-i").args(options);
        command.args(
            [vm, "--", "cat"]
                .into_iter()
                .filter(|word| !word.is_empty()),
        );
        let shown = bytes(size as u64);
        let failed = |why: &str, text: String| {
            let next = format!("qx-node exec -i {vm} -- cat");
            Check::of("probe", Status::Fail, format!("{shown}: {text}"), why, next)
        };
        match tool::run(&mut command, &sent, PROBE_PATIENCE) {
            Ok(back) if back == sent => {
                let micros =
                    u64::try_from(clock::now().since(begun).as_micros()).unwrap_or(u64::MAX);
                seen.push(format!("{shown} in {}", millis(micros)));
            }
            Ok(back) => {
                let text = format!("{} came back", bytes(back.len() as u64));
                return failed("other bytes came back than were sent", text);
            }
            Err(e) => {
                let text = e.to_string();
                return failed("bytes do not make it to the guest and back", text);
            }
        }
    }
    Check::ok("probe", seen.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_findings_are_taken_by_their_known_names() {
        let long = "x".repeat(5000);
        let text = format!(
            "{{\"version\":\"1\",\"checks\":[\
             {{\"name\":\"port\",\"status\":\"fail\",\"cause\":\"no \\u001b port\"}},\
             {{\"name\":\"invented\",\"status\":\"fail\"}},\
             {{\"name\":\"clock\",\"status\":\"odd\"}},\
             {{\"name\":\"agent\",\"status\":\"ok\",\"evidence\":\"{long}\"}}]}}\n"
        );
        let checks = parse(text.as_bytes()).unwrap();
        let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names, ["guest.port", "guest.agent"]);
        assert_eq!(checks[0].status, Status::Fail);
        assert_eq!(checks[1].evidence.len(), MAX_TEXT);
        assert!(parse(b"quantix-kvm-agent: invalid option").is_none());
        assert!(parse(b"{}").is_none());
    }
}
