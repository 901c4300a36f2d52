//! `channel`: what gives a VM its channel.

use std::io::{self, IsTerminal, Write};

use quantix::error::{Code, Failure};

use super::options::Typed;
use super::render::{escape_xml, plain};
use super::run::print_json;
use super::{Trouble, check_name, print, tool, utf8, vm, vms_dir};
use crate::daemon::{MONITOR_SUFFIX, SUFFIX};

/// The port's name in the guest.
pub const PORT: &str = "org.quantix.agent.0";

/// `qx-node channel`
pub fn channel(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    check_name(name)?;
    let path = vms_dir(typed).join(format!("{name}{SUFFIX}"));
    let socket = utf8("path", path.as_os_str())?;
    if socket.len() > MAX_SOCKET_PATH {
        let why = format!("{socket}: longer than a socket's path may be ({MAX_SOCKET_PATH} bytes)");
        return Err(Trouble::Local(why));
    }
    let xml = libvirt(socket);
    if typed.has("attach") {
        return attach(name, &xml);
    }
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
            "# libvirt: put this inside <devices> with `virsh edit {name}`, or add it to a VM that runs:\n\
             #   qx-node channel {name} --attach\n"
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
         <target type='virtio' name='{PORT}'/>\n</channel>",
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
        &format!(
            "virtserialport,bus=quantix-serial.0,chardev=quantix-agent,name={PORT},id=quantix-agent"
        ),
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

/// Has libvirt add the channel: to the VM that runs, to what it is started with, or to both.
fn attach(name: &str, xml: &str) -> Result<u8, Trouble> {
    let failed = |why: String| {
        let why = format!("add the channel to {name}: {why}");
        Trouble::Failed(Failure::new(Code::Internal, why))
    };
    let info = tool::virsh(&["dominfo", name], b"").map_err(&failed)?;
    let is = |what: &str, value: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(what));
        line.is_some_and(|rest| rest.trim() == value)
    };
    let (is_off, is_kept) = (is("State:", "shut off"), is("Persistent:", "yes"));
    let mut words = vec!["attach-device", name, "/dev/stdin"];
    if !is_off {
        words.push("--live");
    }
    if is_kept {
        words.push("--config");
    }
    tool::virsh(&words, xml.as_bytes()).map_err(failed)?;
    print(match (is_off, is_kept) {
        (true, _) => "added; the VM has it when it is started\n",
        (false, true) => "added, now and for every start\n",
        (false, false) => "added, until the VM ends: libvirt keeps nothing of it\n",
    })
}
