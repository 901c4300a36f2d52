//! `qx-node ps` and `qx-node signal`: the guest's processes.

use quantix::message::Body;
use quantix::message::agent::{KillProcess, ListProcesses, Process, ProcessList};
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::jobs::{signal_name, signal_number};
use super::options::Typed;
use super::pages::Pages;
use super::render::{bytes, plain, plain_bytes, span, table};
use super::run::print_json;
use super::{Trouble, client, print, utf8, vm};

/// `qx-node ps`
pub fn ps(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let order = order(typed)?;
    let user = match typed.value("user") {
        Some(word) => Some(utf8("--user", word)?),
        None => None,
    };
    let mut list = list(&mut client(typed)?, name)?;
    if let Some(user) = user {
        let uid = user.parse().ok();
        list.processes
            .retain(|one| one.user == user || Some(one.uid) == uid);
    }
    list.processes
        .sort_by(|one, other| order(one, other).then_with(|| one.pid.cmp(&other.pid)));
    if typed.has("json") {
        let all = list.processes.iter().map(|one| to_json(name, &list, one));
        return print_json(&all.collect());
    }
    match user {
        Some(user) if list.processes.is_empty() => {
            print(&format!("no processes of {}\n", plain(user)))
        }
        _ => print(&text(&list)),
    }
}

/// `qx-node signal`
pub fn signal(typed: &Typed) -> Result<u8, Trouble> {
    let (name, words) = vm(typed, 1)?;
    let pid = words.first().and_then(|word| word.to_str()?.parse().ok());
    let pid = pid.ok_or_else(|| {
        let why = "a process is named by its number; `qx-node ps VM` lists them";
        Trouble::Usage(why.to_owned())
    })?;
    let signal = match typed.value("signal") {
        None => 15,
        Some(word) => signal_number(utf8("--signal", word)?)?,
    };
    let started = match typed
        .value("started")
        .map(|word| word.to_str()?.parse().ok())
    {
        None => 0,
        Some(Some(started)) if started > 0 => started,
        Some(_) => {
            let why = "--started takes the started_ms that `qx-node ps VM --json` has";
            return Err(Trouble::Usage(why.to_owned()));
        }
    };
    let request = KillProcess {
        pid,
        signal,
        started,
    };
    let mut client = client(typed)?;
    let id = client.ask_agent(name, Body::KillProcess(request))?;
    let Body::KillProcessResponse(answer) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    let process = answer.process.ok_or_else(unexpected)?;
    let sent = signal_name(signal);
    if typed.has("json") {
        return print_json(&json!({
            "vm": name,
            "pid": process.pid,
            "name": String::from_utf8_lossy(&process.name),
            "signal": signal,
        }));
    }
    let what = plain_bytes(&process.name);
    print(&format!("process {pid} ({what}): sent {sent}\n"))
}

/// What `ps --sort` takes.
pub const ORDERS: [&str; 3] = ["cpu", "memory", "pid"];

type Order = fn(&Process, &Process) -> std::cmp::Ordering;

fn order(typed: &Typed) -> Result<Order, Trouble> {
    match typed
        .value("sort")
        .map(|word| word.to_str().unwrap_or_default())
    {
        None | Some("pid") => Ok(|_, _| std::cmp::Ordering::Equal),
        Some("cpu") => Ok(|one, other| other.cpu_percent.total_cmp(&one.cpu_percent)),
        Some("memory") => Ok(|one, other| other.rss_bytes.cmp(&one.rss_bytes)),
        Some(_) => Err(Trouble::Usage("--sort takes cpu, memory or pid".to_owned())),
    }
}

/// All of them, in as many answers as it takes.
fn list(client: &mut Client, name: &str) -> Result<ProcessList, Trouble> {
    let mut all = ProcessList::default();
    let mut pages = Pages::of("processes");
    let mut after = 0;
    loop {
        let request = Body::ListProcesses(ListProcesses { after });
        let id = client.ask_agent(name, request)?;
        let Body::ProcessList(part) = client.wait_agent(id)? else {
            return Err(unexpected());
        };
        if part.more {
            pages.more(&part, part.last > after)?;
        }
        after = part.last;
        all.uptime_seconds = part.uptime_seconds;
        all.now = part.now;
        all.processes.extend(part.processes);
        if !part.more {
            return Ok(all);
        }
    }
}

fn state(letter: &str) -> &'static str {
    match letter {
        "R" => "running",
        "S" => "sleeping",
        "D" => "in disk wait",
        "T" => "stopped",
        "t" => "traced",
        "Z" => "zombie",
        "I" => "idle",
        _ => "unknown",
    }
}

/// What it is called: its arguments, or in brackets what the kernel calls it.
fn command(of: &Process) -> String {
    if of.command.is_empty() {
        return format!("[{}]", plain_bytes(&of.name));
    }
    let more = if of.command_cut { "..." } else { "" };
    plain_bytes(&of.command) + more
}

fn user(of: &Process) -> String {
    match &*of.user {
        "" => of.uid.to_string(),
        name => plain(name),
    }
}

fn text(list: &ProcessList) -> String {
    let head = [
        "PID", "PARENT", "USER", "STATE", "CPU", "MEMORY", "THREADS", "AGE", "COMMAND",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in &list.processes {
        rows.push(vec![
            one.pid.to_string(),
            one.parent.to_string(),
            user(one),
            state(&one.state).to_owned(),
            format!("{:.0}%", one.cpu_percent),
            bytes(one.rss_bytes),
            one.threads.to_string(),
            span(list.uptime_seconds.saturating_sub(one.started_ms / 1000)),
            command(one),
        ]);
    }
    table(&rows)
}

fn to_json(vm: &str, list: &ProcessList, of: &Process) -> Value {
    let age = list.uptime_seconds.saturating_sub(of.started_ms / 1000);
    let now = list.now.map_or(0, |now| now.seconds);
    json!({
        "vm": vm,
        "pid": of.pid,
        "parent": of.parent,
        "uid": of.uid,
        "user": Some(&of.user).filter(|user| !user.is_empty()),
        "state": state(&of.state),
        "cpu_percent": of.cpu_percent,
        "memory_bytes": of.rss_bytes,
        "threads": of.threads,
        "started": now.saturating_sub(i64::try_from(age).unwrap_or(0)),
        "started_ms": of.started_ms,
        "age_seconds": age,
        "name": String::from_utf8_lossy(&of.name),
        "command": String::from_utf8_lossy(&of.command),
        "command_cut": of.command_cut,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_calls_its_processes_is_escaped() {
        let process = Process {
            pid: 7,
            name: b"\x1b[2J\xff".to_vec(),
            command: b"sh \x1b]0;x\x07".to_vec(),
            command_cut: true,
            uid: 1000,
            state: "\x1b".to_owned(),
            cpu_percent: 99.6,
            rss_bytes: 1536,
            threads: 2,
            started_ms: 1000,
            ..Default::default()
        };
        let kernel = Process {
            command: Vec::new(),
            user: "ro\not".to_owned(),
            // Later than the list.
            started_ms: u64::MAX,
            ..process.clone()
        };
        let list = ProcessList {
            processes: vec![process, kernel],
            uptime_seconds: 62,
            ..Default::default()
        };
        let shown = text(&list);
        let mut lines = shown.lines().skip(1);
        let line = lines.next().unwrap();
        let words: Vec<&str> = line.split("  ").filter(|word| !word.is_empty()).collect();
        let wanted = [
            "7",
            "0",
            "1000",
            "unknown",
            "100%",
            "1.5 KiB",
            "2",
            "1m 1s",
            "sh \\x1b]0;x\\x07...",
        ];
        assert_eq!(
            words.iter().map(|word| word.trim()).collect::<Vec<_>>(),
            wanted
        );
        let line = lines.next().unwrap();
        assert!(
            line.contains("ro\\x0aot") && line.ends_with("  [\\x1b[2J\\xff]"),
            "{line}"
        );
        assert!(!shown.contains('\x1b'));
    }
}
