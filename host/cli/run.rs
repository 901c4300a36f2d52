//! The commands that ask and show.

use std::io::{self, IsTerminal, Write};

use quantix::error::{Code, Failure};
use quantix::message::agent::Telemetry;
use quantix::message::node::{self, node_message};

use super::client::{Client, unexpected};
use super::options::Typed;
use super::render::{escape_xml, plain};
use super::{Trouble, client, no_words, print, report, utf8, vm, vms_dir};
use crate::daemon::{MONITOR_SUFFIX, SUFFIX, vm_of};

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
    let list = list(&mut client)?;
    let found = list
        .iter()
        .find(|vm| vm.name == name || typed.has("direct"))
        .ok_or_else(|| {
            let why = format!("no VM is named {name:?}; `qx-node vms` lists them");
            Trouble::Failed(Failure::new(Code::NotFound, why))
        })?;
    if typed.has("json") {
        return print_json(&report::vm_json(found));
    }
    print(&report::vm_details(found))
}

/// `qx-node ping`
pub fn ping(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let count = typed.number("count").map_err(Trouble::Usage)?.unwrap_or(1);
    if count == 0 {
        return Err(Trouble::Usage("--count takes a number from 1".to_owned()));
    }
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

/// `qx-node channel`
pub fn channel(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    if name.contains('/') || vm_of(&format!("{name}{SUFFIX}")).is_none() {
        let why = "a VM's name has 1 to 128 bytes and no / or control characters in it";
        return Err(Trouble::Usage(why.to_owned()));
    }
    let path = vms_dir(typed).join(format!("{name}{SUFFIX}"));
    let socket = utf8("path", path.as_os_str())?;
    if socket.len() > MAX_SOCKET_PATH {
        let why = format!("{socket}: longer than a socket's path may be ({MAX_SOCKET_PATH} bytes)");
        return Err(Trouble::Local(why));
    }
    let xml = libvirt(socket);
    let arguments = qemu(socket);
    let monitor = monitor(socket);
    if typed.has("json") {
        let mut object = serde_json::Map::new();
        object.insert("vm".into(), name.into());
        object.insert("socket".into(), socket.into());
        object.insert("libvirt".into(), xml.into());
        object.insert("qemu".into(), arguments.into());
        object.insert("monitor".into(), monitor.into());
        return print_json(&serde_json::Value::Object(object));
    }
    let shell = |arguments: &[String]| {
        let lines = arguments.chunks(2).map(|pair| {
            let words: Vec<String> = pair.iter().map(|word| quote(word)).collect();
            format!("  {}", words.join(" "))
        });
        lines.collect::<Vec<_>>().join(" \\\n")
    };
    let (shell, optional) = (shell(&arguments), shell(&monitor));
    let comment = format!(
        "<!-- QEMU without libvirt:\n{shell}\nOptional, a monitor of its own, by which qx-node \
         sees a paused VM and a missing agent:\n{optional}\n-->\n"
    );
    // XML allows no two dashes in a comment; --json has the arguments of such a name too.
    let comment = if shell.contains("--") { "" } else { &comment };
    if io::stdout().is_terminal() {
        let name = plain(name);
        let _ = writeln!(
            io::stderr(),
            "# libvirt: put this inside <devices> with `virsh edit {name}`, or add it live:\n\
             #   qx-node channel {name} > channel.xml\n\
             #   virsh attach-device {name} channel.xml --live --config\n"
        );
    }
    print(&format!("{xml}\n{comment}"))
}

/// sun_path of unix(7), without its NUL.
const MAX_SOCKET_PATH: usize = 107;

/// A word for the shell.
fn quote(word: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_./,=:@%+".contains(c);
    if word.chars().all(fine) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn libvirt(socket: &str) -> String {
    format!(
        "<channel type='unix'>\n  <source mode='bind' path='{}'/>\n  \
         <target type='virtio' name='org.quantix.agent.0'/>\n</channel>",
        escape_xml(socket)
    )
}

fn qemu(socket: &str) -> Vec<String> {
    // A comma in a value is doubled (qemu(1)).
    let path = socket.replace(',', ",,");
    [
        "-device",
        "virtio-serial-pci,id=quantix-serial",
        "-chardev",
        &format!("socket,id=quantix-agent,path={path},server=on,wait=off"),
        "-device",
        "virtserialport,bus=quantix-serial.0,chardev=quantix-agent,name=org.quantix.agent.0,id=quantix-agent",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A monitor of our own, beside the VM's socket.
fn monitor(socket: &str) -> Vec<String> {
    let path = socket.strip_suffix(SUFFIX).unwrap_or(socket);
    let path = format!("{path}{MONITOR_SUFFIX}").replace(',', ",,");
    vec!["-qmp".to_owned(), format!("unix:{path},server=on,wait=off")]
}

/// All VMs that the daemon knows.
pub fn list(client: &mut Client) -> Result<Vec<node::Vm>, Trouble> {
    let id = client.ask("", node_message::Body::ListVms(node::ListVms {}))?;
    let mut vms = Vec::new();
    loop {
        let node_message::Body::VmList(mut list) = client.wait(id)? else {
            return Err(unexpected());
        };
        vms.append(&mut list.vms);
        if !list.more {
            return Ok(vms);
        }
    }
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
