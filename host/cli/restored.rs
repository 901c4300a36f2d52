//! `qx-node restored`: what a guest has to learn after a restore, a revert, or as a clone.

use quantix::error::{Code, Failure};
use quantix::message::Body;
use quantix::message::agent::{Restored, RestoredReport, SyncTime};
use quantix::rt::random;
use serde_json::{Value, json};

use super::client::unexpected;
use super::freeze::{hook_json, hook_text};
use super::options::Typed;
use super::render::{plain, table};
use super::run::print_json;
use super::{Trouble, client, print, time, vm};

/// `qx-node restored`
pub fn restored(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let mut client = client(typed)?;
    let clock = time::read(&mut client, name, SyncTime::default())?;
    let request = Restored {
        step_ns: i64::try_from(-clock.ahead_ns).unwrap_or(0),
        entropy: random::bytes::<64>().to_vec(),
        new_machine_id: typed.has("clone") || typed.has("machine-id"),
        new_ssh_host_keys: typed.has("clone") || typed.has("ssh-host-keys"),
        skip_hooks: typed.has("no-hooks"),
    };
    let id = client.ask_agent(name, Body::Restored(request))?;
    let Body::RestoredResponse(report) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    match typed.has("json") {
        true => print_json(&to_json(name, &report))?,
        false => print(&text(&report))?,
    };
    match report.steps.iter().find(|step| step.failed) {
        None => Ok(0),
        Some(step) => {
            let why = format!("{}: {}", step.name, step.detail);
            Err(Trouble::Failed(Failure::new(Code::Internal, why)))
        }
    }
}

fn text(report: &RestoredReport) -> String {
    let head = ["STEP", "RESULT", "DETAIL"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.steps.iter().map(|step| {
        let result = if step.failed { "failed" } else { "ok" };
        vec![plain(&step.name), result.to_owned(), plain(&step.detail)]
    }));
    let hooks = report.hooks.iter().map(hook_text);
    table(&rows) + &hooks.collect::<String>()
}

fn to_json(vm: &str, report: &RestoredReport) -> Value {
    let steps = report.steps.iter();
    let steps = steps
        .map(|step| json!({ "name": step.name, "failed": step.failed, "detail": step.detail }));
    json!({
        "vm": vm,
        "steps": steps.collect::<Vec<_>>(),
        "hooks": report.hooks.iter().map(hook_json).collect::<Vec<_>>(),
    })
}
