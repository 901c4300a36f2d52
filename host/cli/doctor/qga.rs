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
    let lives = &format!(
        "QEMU's guest agent answers: the guest lives{}",
        about(domain)
    );
    match doctor(domain) {
        Ok(Ended::Exited(127, _)) => {
            let why = "quantix-kvm-agent is not installed in the guest";
            let next = "install its package there";
            (Check::of("qga", Status::Fail, lives, why, next), None)
        }
        Ok(Ended::Killed(signal)) => {
            let (why, next) = match signal {
                4 => (
                    "quantix-kvm-agent ends there by an illegal instruction: it was built for a newer processor",
                    "install the package of quantix-kvm-agent, which is built for any x86-64",
                ),
                _ => (
                    "quantix-kvm-agent crashes in the guest",
                    "look at the guest's kernel log",
                ),
            };
            let seen = format!("{lives}; its doctor was ended by signal {signal}");
            (Check::of("qga", Status::Fail, seen, why, next), None)
        }
        Ok(Ended::Exited(_, text)) => {
            let findings = guest::parse(&text);
            let findings = findings.ok_or_else(|| guest::TOO_OLD.to_owned());
            (Check::ok("qga", lives), Some(findings))
        }
        Err(why) => (Check::ok("qga", format!("{lives}, but {why}")), None),
    }
}

/// What it says of the guest: `, Debian GNU/Linux 12, 192.0.2.7`.
fn about(domain: &str) -> String {
    let mut text = String::new();
    let ask = |command| call(domain, command, &json!({})).unwrap_or_default();
    let system = ask("guest-get-osinfo")["pretty-name"].take();
    let interfaces = ask("guest-network-get-interfaces");
    let interfaces = interfaces.as_array().into_iter().flatten();
    let addresses = interfaces
        .filter(|interface| interface["name"] != "lo")
        .flat_map(|interface| interface["ip-addresses"].as_array().into_iter().flatten())
        .map(|address| &address["ip-address"]);
    for word in [&system]
        .into_iter()
        .chain(addresses)
        .filter_map(Value::as_str)
    {
        text += ", ";
        text.extend(word.chars().take(MAX_WORD));
    }
    text.chars().take(MAX_ABOUT).collect()
}

/// Characters of a guest's words.
const MAX_WORD: usize = 100;
const MAX_ABOUT: usize = 400;

/// How the guest's doctor ended.
enum Ended {
    /// With this status, and this output.
    Exited(i64, Vec<u8>),
    /// By this signal.
    Killed(i64),
}

fn doctor(domain: &str) -> Result<Ended, String> {
    let ask = json!({ "path": "/bin/sh", "arg": ["-c", LINE], "capture-output": true });
    let begun = call(domain, "guest-exec", &ask)?;
    let end = clock::now() + PATIENCE;
    loop {
        let status = call(domain, "guest-exec-status", &json!({ "pid": begun["pid"] }))?;
        if let Some(signal) = status["signal"].as_i64() {
            return Ok(Ended::Killed(signal));
        }
        if status["exited"] == true {
            let text = status["out-data"].as_str().unwrap_or_default();
            let text = STANDARD.decode(text.trim()).unwrap_or_default();
            let code = status["exitcode"].as_i64().unwrap_or(-1);
            return Ok(Ended::Exited(code, text));
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
