//! `qx-node disks`, `trim`.

use quantix::error::{Code, Failure};
use quantix::message::Body;
use quantix::message::agent::{BlockDevice, Disk, GetStorage, Trim};
use quantix::message::node::{self, node_message};
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::options::Typed;
use super::render::{bytes, given, or_dash, plain, table};
use super::report::{disk_json, disk_table};
use super::run::print_json;
use super::{Trouble, client, print, vm, vm_and_words};

/// `qx-node disks`
pub fn disks(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let mut client = client(typed)?;
    let id = client.ask_agent(name, Body::GetStorage(GetStorage {}))?;
    let Body::Storage(storage) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    let filesystems = filesystems(&mut client, name)?;
    if typed.has("json") {
        let devices = storage.devices.iter().map(device_json);
        let filesystems = filesystems.iter().map(disk_json);
        return print_json(&json!({
            "vm": name,
            "devices": devices.collect::<Vec<_>>(),
            "filesystems": filesystems.collect::<Vec<_>>(),
        }));
    }
    let mut text = device_table(&storage.devices);
    if !filesystems.is_empty() {
        text += "\n";
        text += &disk_table(&filesystems);
    }
    print(&text)
}

/// Of the guest's last report.
fn filesystems(client: &mut Client, name: &str) -> Result<Vec<Disk>, Trouble> {
    let wanted = node::GetTelemetry { follow: false };
    let id = client.ask(name, node_message::Body::GetTelemetry(wanted))?;
    match client.wait(id)? {
        node_message::Body::TelemetryReport(report) => {
            Ok(report.telemetry.map_or_else(Vec::new, |t| t.disks))
        }
        _ => Err(unexpected()),
    }
}

/// Disks, each with its partitions behind it.
pub fn device_table(devices: &[BlockDevice]) -> String {
    let head = ["DISK", "SIZE", "ADDRESS", "SERIAL", "MODEL", "FLAGS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for device in devices {
        let indent = if device.parent.is_empty() { "" } else { "  " };
        let flags = [
            (device.read_only, "read-only"),
            (device.discards, "discards"),
        ];
        let flags = flags.iter().filter(|flag| flag.0);
        let mut flags: Vec<String> = flags.map(|flag| flag.1.to_owned()).collect();
        if !device.made_of.is_empty() {
            flags.push(format!("on {}", device.made_of.join(", ")));
        }
        rows.push(vec![
            format!("{indent}{}", plain(&device.name)),
            bytes(device.size),
            or_dash(&device.address),
            or_dash(&device.serial),
            or_dash(&device.model),
            or_dash(&flags.join(", ")),
        ]);
    }
    table(&rows)
}

/// The same for programs.
pub fn device_json(device: &BlockDevice) -> Value {
    json!({
        "name": device.name,
        "size": device.size,
        "model": given(&device.model),
        "serial": given(&device.serial),
        "address": given(&device.address),
        "read_only": device.read_only,
        "discards": device.discards,
        "parent": given(&device.parent),
        "made_of": device.made_of,
    })
}

/// Of a disk that takes no discards, and of a file system that knows none (errno(3)).
const EOPNOTSUPP: u32 = 95;
const ENOTTY: u32 = 25;

/// `qx-node trim`
pub fn trim(typed: &Typed) -> Result<u8, Trouble> {
    let (name, mount_points) = vm_and_words(typed, "the mount point")?;
    let request = Trim {
        mount_points,
        minimum: typed
            .number("minimum")
            .map_err(Trouble::Usage)?
            .unwrap_or(0)
            .into(),
    };
    let named = !request.mount_points.is_empty();
    let mut client = client(typed)?;
    client.stop_on_signals()?;
    let id = client.ask_agent(name, Body::Trim(request))?;
    let Body::TrimResponse(report) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    if typed.has("json") {
        let mounts = report.mounts.iter().map(|mount| {
            json!({
                "mount_point": mount.mount_point,
                "trimmed": mount.trimmed,
                "reason": given(&mount.reason),
                "errno": Some(mount.errno).filter(|errno| *errno > 0),
            })
        });
        print_json(&json!({ "vm": name, "mounts": mounts.collect::<Vec<_>>() }))?;
    } else {
        let head = ["MOUNT", "TRIMMED", "WHY NOT"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(report.mounts.iter().map(|mount| {
            vec![
                plain(&mount.mount_point),
                bytes(mount.trimmed),
                plain(&mount.reason),
            ]
        }));
        if report.mounts.iter().all(|mount| mount.reason.is_empty()) {
            rows.iter_mut().for_each(|row| row.truncate(2));
        }
        print(&table(&rows))?;
    }
    // Of all mounts those that cannot be are left out; of those that were named each is meant.
    let failed = report.mounts.iter().find(|mount| {
        let is_unable = matches!(mount.errno, 0 | EOPNOTSUPP | ENOTTY);
        !mount.reason.is_empty() && (named || !is_unable)
    });
    match failed {
        None => Ok(0),
        Some(mount) => {
            let why = format!("{}: {}", mount.mount_point, mount.reason);
            Err(Trouble::Failed(Failure::new(Code::Internal, why)))
        }
    }
}
