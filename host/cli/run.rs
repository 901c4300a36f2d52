//! The commands that ask and show.

use quantix::error::{Code, Failure};
use quantix::message::agent::Telemetry;
use quantix::message::node::{self, node_message};

use super::client::{Client, unexpected};
use super::options::Typed;
use super::{Trouble, client, no_words, print, report, vm};

/// `qx-node vms`
pub fn vms(typed: &Typed) -> Result<u8, Trouble> {
    no_words(typed)?;
    let mut client = client(typed)?;
    if typed.has("direct") {
        // The private daemon has only just begun to connect; whether that works is what is shown.
        let _ = ping_once(&mut client, "");
    }
    let list = list(&mut client)?;
    if typed.has("json") {
        let all = list.iter().map(report::vm_json).collect();
        return print_json(&serde_json::Value::Array(all));
    }
    print(&report::vm_table(&list))
}

/// `qx-node info`
pub fn info(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let mut client = client(typed)?;
    if typed.has("direct") {
        // The private daemon has only just begun to connect.
        ping_once(&mut client, name)?;
    }
    let found = look(&mut client, name, typed.has("direct"))?;
    if typed.has("json") {
        return print_json(&report::vm_json(&found));
    }
    print(&report::vm_details(&found))
}

/// `qx-node ping`
pub fn ping(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let count = typed.positive("count").map_err(Trouble::Usage)?;
    let count = count.unwrap_or(1);
    let mut client = client(typed)?;
    let mut times = Vec::new();
    for sequence in 1..=count {
        if sequence > 1 {
            pause();
        }
        let result = ping_once(&mut client, name)?;
        times.push(result.rtt_us);
        if typed.has("json") {
            print_json(&report::ping_json(name, sequence, &result))?;
        } else {
            print(&report::ping_line(name, sequence, &result))?;
        }
    }
    if count > 1 && !typed.has("json") {
        print(&report::ping_summary(&times))?;
    }
    Ok(0)
}

/// `qx-node telemetry`
pub fn telemetry(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    if typed.has("csv") {
        return Err(Trouble::Usage("--csv goes with --since".to_owned()));
    }
    let mut client = client(typed)?;
    let follow = typed.has("watch");
    let asked = node_message::Body::GetTelemetry(node::GetTelemetry { follow });
    let id = client.ask(name, asked)?;
    loop {
        let node_message::Body::TelemetryReport(found) = client.wait(id)? else {
            return Err(unexpected());
        };
        let telemetry: &Telemetry = found.telemetry.as_ref().ok_or_else(unexpected)?;
        if typed.has("json") {
            print_json(&report::telemetry_json(name, telemetry, found.age_ms))?;
        } else {
            print(&report::telemetry_text(telemetry, found.age_ms))?;
        }
        if !follow {
            return Ok(0);
        }
        if !typed.has("json") {
            print("\n")?;
        }
    }
}

/// What the daemon knows of one; of the only one there is, if it is `private`.
pub fn look(client: &mut Client, name: &str, private: bool) -> Result<node::Vm, Trouble> {
    let mut vms = list(client)?.into_iter();
    vms.find(|vm| vm.name == name || private).ok_or_else(|| {
        let why = format!("no VM is named {name:?}; `qx-node vms` lists them");
        Trouble::Failed(Failure::new(Code::NotFound, why))
    })
}

/// All VMs that the daemon knows.
pub fn list(client: &mut Client) -> Result<Vec<node::Vm>, Trouble> {
    let id = client.ask("", node_message::Body::ListVms(node::ListVms {}))?;
    let mut vms = Vec::new();
    client.gather(id, |body| {
        let node_message::Body::VmList(mut list) = body else {
            return Err(unexpected());
        };
        vms.append(&mut list.vms);
        Ok(list.more)
    })?;
    Ok(vms)
}

fn ping_once(client: &mut Client, name: &str) -> Result<node::PingResult, Trouble> {
    let id = client.ask(name, node_message::Body::PingVm(node::PingVm {}))?;
    match client.wait(id)? {
        node_message::Body::PingResult(result) => Ok(result),
        _ => Err(unexpected()),
    }
}

/// A value on a line of its own.
pub fn print_json(value: &serde_json::Value) -> Result<u8, Trouble> {
    print(&format!("{value}\n"))
}

/// A second between two pings, as ping(8) has it.
#[allow(clippy::disallowed_methods)]
fn pause() {
    std::thread::sleep(std::time::Duration::from_secs(1));
}
