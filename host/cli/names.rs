//! `qx-node hostname` and `qx-node timezone`: what the guest is called, and which time it shows.

use quantix::message::Body;
use quantix::message::agent::{NameReport, SetName};
use serde_json::{Value, json};

use super::client::unexpected;
use super::options::Typed;
use super::render::plain;
use super::run::print_json;
use super::{Trouble, client, print, utf8, vm};

/// `qx-node hostname`
pub fn hostname(typed: &Typed) -> Result<u8, Trouble> {
    let (vm, word) = words(typed, "the host name")?;
    let request = SetName {
        hostname: word.to_owned(),
        ..Default::default()
    };
    let found = ask(typed, vm, request)?;
    if typed.has("json") {
        return print_json(&to_json(vm, &found));
    }
    let name = plain(&found.hostname);
    let kept = plain(&found.static_hostname);
    print(&match &*kept {
        kept if kept == name => format!("{name}\n"),
        "" => format!("{name} (until it boots: it has no /etc/hostname)\n"),
        kept => format!("{name} (until it boots: /etc/hostname says {kept})\n"),
    })
}

/// `qx-node timezone`
pub fn timezone(typed: &Typed) -> Result<u8, Trouble> {
    let (vm, word) = words(typed, "the timezone")?;
    let request = SetName {
        timezone: word.to_owned(),
        ..Default::default()
    };
    let found = ask(typed, vm, request)?;
    if typed.has("json") {
        return print_json(&to_json(vm, &found));
    }
    let zone = match &*found.timezone {
        "" => "unknown".to_owned(),
        zone => plain(zone),
    };
    print(&format!("{zone} ({})\n", ahead(found.utc_offset_seconds)))
}

/// The VM, and what is to be set.
fn words<'a>(typed: &'a Typed, what: &str) -> Result<(&'a str, &'a str), Trouble> {
    if typed.rest.is_some() {
        return Err(Trouble::Usage(format!("{what} has nothing behind --")));
    }
    // The first word is the VM, also where it need not be said.
    let (vm, rest) = vm(typed, usize::from(typed.words.len() > 1))?;
    match rest.first() {
        None => Ok((vm, "")),
        Some(word) if word.is_empty() => Err(Trouble::Usage(format!("{what} cannot be empty"))),
        Some(word) => Ok((vm, utf8(what, word)?)),
    }
}

fn ask(typed: &Typed, vm: &str, request: SetName) -> Result<NameReport, Trouble> {
    let mut client = client(typed)?;
    let id = client.ask_agent(vm, Body::SetName(request))?;
    match client.wait_agent(id)? {
        Body::NameReport(found) => Ok(found),
        _ => Err(unexpected()),
    }
}

/// `UTC+5:30`
fn ahead(seconds: i32) -> String {
    let sign = if seconds < 0 { '-' } else { '+' };
    let minutes = seconds.unsigned_abs() / 60;
    match (minutes / 60, minutes % 60) {
        (0, 0) => "UTC".to_owned(),
        (hours, 0) => format!("UTC{sign}{hours}"),
        (hours, minutes) => format!("UTC{sign}{hours}:{minutes:02}"),
    }
}

fn to_json(vm: &str, found: &NameReport) -> Value {
    let known = |text: &str| match text {
        "" => Value::Null,
        text => json!(text),
    };
    json!({
        "vm": vm,
        "hostname": found.hostname,
        "static_hostname": known(&found.static_hostname),
        "timezone": known(&found.timezone),
        "utc_offset_seconds": found.utc_offset_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::ahead;

    #[test]
    fn offsets_are_readable() {
        assert_eq!(ahead(0), "UTC");
        assert_eq!(ahead(7200), "UTC+2");
        assert_eq!(ahead(-12_600), "UTC-3:30");
        assert_eq!(ahead(i32::MIN), "UTC-596523:14");
    }
}
