//! The other way into a guest: QEMU's own agent, which libvirt passes our questions to. It tells a guest
//! that is dead from one whose agent is.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quantix::rt::check::{Check, Status};
use quantix::rt::clock;
use quantix::rt::sys::fd::rest;
use serde_json::{Value, json};

use super::super::tool;
use super::guest;

/// Its port's name in the guest.
pub const PORT: &str = "org.qemu.guest_agent.0";

/// How long the guest's doctor may take this way, and the pause between two looks whether it is done.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// What the shell in the guest is given: status 127 where our agent is not installed.
const LINE: &str =
    "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; exec quantix-kvm-agent doctor --json";

/// Asks it how our agent is: what is known by that, and the findings of the guest's doctor.
pub fn ask(domain: &str) -> (Check, Option<Result<Vec<Check>, String>>) {
    if let Err(why) = call(domain, "guest-ping", &json!({})) {
        let check = Check::unknown("qga", format!("QEMU's guest agent: {why}"), "");
        return (check, None);
    }
    let lives = "QEMU's guest agent answers: the guest lives";
    match doctor(domain) {
        Ok((127, _)) => {
            let check = Check::of(
                "qga",
                Status::Fail,
                lives,
                "quantix-kvm-agent is not installed in the guest",
                "install its package there",
            );
            (check, None)
        }
        Ok((_, text)) => {
            let findings = guest::parse(&text);
            let findings = findings.ok_or_else(|| guest::TOO_OLD.to_owned());
            (Check::ok("qga", lives), Some(findings))
        }
        Err(why) => (Check::ok("qga", format!("{lives}, but {why}")), None),
    }
}

/// The exit status and the output of the guest's doctor.
fn doctor(domain: &str) -> Result<(i64, Vec<u8>), String> {
    let ask = json!({ "path": "/bin/sh", "arg": ["-c", LINE], "capture-output": true });
    let begun = call(domain, "guest-exec", &ask)?;
    let end = clock::now() + PATIENCE;
    loop {
        let status = call(domain, "guest-exec-status", &json!({ "pid": begun["pid"] }))?;
        if status["exited"] == true {
            let text = status["out-data"].as_str().unwrap_or_default();
            let text = STANDARD.decode(text.trim()).unwrap_or_default();
            return Ok((status["exitcode"].as_i64().unwrap_or(-1), text));
        }
        if clock::now() >= end {
            return Err("the guest's doctor does not end".to_owned());
        }
        rest(PAUSE);
    }
}

fn call(domain: &str, command: &str, arguments: &Value) -> Result<Value, String> {
    let line = json!({ "execute": command, "arguments": arguments }).to_string();
    let said = tool::virsh(
        &["qemu-agent-command", domain, &line, "--timeout", "1"],
        b"",
    )?;
    let said: Value = serde_json::from_str(&said).map_err(|_| "it answers nonsense".to_owned())?;
    Ok(said["return"].clone())
}
