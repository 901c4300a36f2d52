//! `qx-node freeze`, `thaw`, `freeze-status`.

use quantix::error::{Code, Failure};
use quantix::limits::FREEZE_SECONDS;
use quantix::message::Body;
use quantix::message::agent::{
    Freeze, FreezeMount, FreezeOutcome, FreezeReport, FreezeState, GetFreezeStatus, Hook, Thaw,
};
use serde_json::{Value, json};

use super::client::unexpected;
use super::options::Typed;
use super::render::{given, plain, span, table};
use super::run::print_json;
use super::{Trouble, client, print, vm, vm_and_words};

/// `qx-node freeze`
pub fn freeze(typed: &Typed) -> Result<u8, Trouble> {
    let (name, mount_points) = vm_and_words(typed, "the mount point")?;
    let timeout = typed.positive("timeout").map_err(Trouble::Usage)?;
    let request = Freeze {
        mount_points,
        timeout_seconds: timeout.unwrap_or(FREEZE_SECONDS),
        skip_failed: typed.has("skip-failed"),
        skip_hooks: typed.has("no-hooks"),
        ..Default::default()
    };
    let mut client = client(typed)?;
    client.stop_on_signals()?;
    let id = client.ask_agent(name, Body::Freeze(request))?;
    let Body::FreezeResponse(report) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    if report.state() == FreezeState::Frozen {
        return show(typed, name, &report);
    }
    match typed.has("json") {
        true => print_json(&to_json(name, &report))?,
        false => print(&details(&report))?,
    };
    let why = format!("{name} is not frozen: {}", report.error);
    Err(Trouble::Failed(Failure::new(
        Code::parse(&report.code),
        why,
    )))
}

/// `qx-node thaw`
pub fn thaw(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let force = typed.has("force");
    let mut client = client(typed)?;
    let id = client.ask_agent(name, Body::Thaw(Thaw { force }))?;
    let Body::ThawResponse(report) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    show(typed, name, &report)?;
    match &*report.error {
        "" => Ok(0),
        why => Err(Trouble::Failed(Failure::new(Code::Internal, why))),
    }
}

/// `qx-node freeze-status`
pub fn status(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let mut client = client(typed)?;
    let id = client.ask_agent(name, Body::GetFreezeStatus(GetFreezeStatus {}))?;
    let Body::FreezeStatus(report) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    show(typed, name, &report)
}

fn show(typed: &Typed, name: &str, report: &FreezeReport) -> Result<u8, Trouble> {
    match typed.has("json") {
        true => print_json(&to_json(name, report)),
        false => print(&text(report)),
    }
}

fn text(report: &FreezeReport) -> String {
    let seconds = |ms: u64| span(ms / 1000);
    let mut text = match report.state() {
        FreezeState::Frozen => format!(
            "frozen for {}, thaws by itself in {}\n",
            seconds(report.frozen_ms),
            seconds(report.remaining_ms.saturating_add(999))
        ),
        FreezeState::Freezing => "freezing\n".to_owned(),
        FreezeState::Thawing => "thawing\n".to_owned(),
        _ if report.frozen_ms > 0 => format!("thawed, was frozen for {} ms\n", report.frozen_ms),
        _ => "thawed\n".to_owned(),
    };
    if !report.error.is_empty() {
        text += &format!("{}\n", plain(&report.error));
    }
    text + &details(report)
}

/// File systems and hooks.
fn details(report: &FreezeReport) -> String {
    let mut text = String::new();
    if !report.mounts.is_empty() {
        let head = ["MOUNT", "TYPE", "DEVICE", "STATE"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(report.mounts.iter().map(|mount| {
            let name =
                [&mount.mount_point, &mount.filesystem, &mount.device].map(|text| plain(text));
            let mut row = name.to_vec();
            row.push(outcome(mount));
            row
        }));
        text += &table(&rows);
    }
    for hook in &report.hooks {
        text += &hook_text(hook);
    }
    text
}

fn outcome(mount: &FreezeMount) -> String {
    let word = word(mount.outcome());
    match &*mount.reason {
        "" => word.to_owned(),
        reason => format!("{word}: {}", plain(reason)),
    }
}

const fn word(outcome: FreezeOutcome) -> &'static str {
    match outcome {
        FreezeOutcome::Frozen => "frozen",
        FreezeOutcome::Skipped => "skipped",
        FreezeOutcome::Failed => "failed",
        FreezeOutcome::Thawed => "thawed",
        FreezeOutcome::Freezing => "freezing",
        FreezeOutcome::Unspecified => "untouched",
    }
}

/// A line, and what it wrote, indented.
pub fn hook_text(hook: &Hook) -> String {
    let how = match (hook.timed_out, hook.exit_code) {
        (true, _) => "killed: did not end in time".to_owned(),
        (false, 0) => "ok".to_owned(),
        (false, status) => format!("failed with status {status}"),
    };
    let (name, argument) = (plain(&hook.name), plain(&hook.argument));
    let mut text = format!("hook {name} {argument}: {how}, {} ms\n", hook.duration_ms);
    for line in String::from_utf8_lossy(&hook.output).lines() {
        text += &format!("    {}\n", plain(line));
    }
    text
}

fn to_json(vm: &str, report: &FreezeReport) -> Value {
    let mounts = report.mounts.iter().map(|mount| {
        json!({
            "mount_point": mount.mount_point,
            "filesystem": mount.filesystem,
            "device": mount.device,
            "state": word(mount.outcome()),
            "reason": given(&mount.reason),
            "errno": Some(mount.errno).filter(|errno| *errno > 0),
        })
    });
    let hooks = report.hooks.iter().map(hook_json);
    json!({
        "vm": vm,
        "state": match report.state() {
            FreezeState::Frozen => "frozen",
            FreezeState::Freezing => "freezing",
            FreezeState::Thawing => "thawing",
            _ => "thawed",
        },
        "frozen_ms": report.frozen_ms,
        "remaining_ms": report.remaining_ms,
        "error": given(&report.error),
        "mounts": mounts.collect::<Vec<_>>(),
        "hooks": hooks.collect::<Vec<_>>(),
    })
}

/// A hook, for programs.
pub fn hook_json(hook: &Hook) -> Value {
    json!({
        "name": hook.name,
        "argument": hook.argument,
        "exit_code": hook.exit_code,
        "timed_out": hook.timed_out,
        "duration_ms": hook.duration_ms,
        "output": String::from_utf8_lossy(&hook.output),
    })
}
