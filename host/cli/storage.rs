//! `qx-node disks`, `trim`, `grow`.

use prost::Message as _;
use quantix::error::{Code, Failure};
use quantix::message::Body;
use quantix::message::agent::{BlockDevice, Disk, GetStorage, Grow, GrowReport, Trim, TrimMount};
use quantix::message::node::{self, node_message};
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::copy::progress::Progress;
use super::copy::stream::download;
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
    let progress = Progress::new(|| None);
    let request = Trim {
        mount_points,
        minimum: typed
            .number("minimum")
            .map_err(Trouble::Usage)?
            .unwrap_or(0)
            .into(),
        progress: progress.is_watched(),
    };
    let named = !request.mount_points.is_empty();
    let mut client = client(typed)?;
    client.stop_on_signals()?;
    let mut records = Records::default();
    let (answer, _) = download(&mut client, name, Body::Trim(request), &mut |bytes| {
        for mount in records.push(bytes)? {
            let trimmed = self::bytes(mount.trimmed);
            let what = format!("{}: {trimmed} trimmed", mount.mount_point);
            progress.stand(&what, mount.done, mount.size);
        }
        Ok(())
    })?;
    drop(progress);
    let Body::TrimResponse(report) = answer else {
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

/// How far a trim is, as its guest tells it: what has come of the record that is not whole yet.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    /// Those that are whole with these bytes.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<TrimMount>, Trouble> {
        self.0.extend_from_slice(bytes);
        let mut rest = &self.0[..];
        let mut records = Vec::new();
        while let Some((length, body)) = rest.split_first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > MAX_RECORD {
                return Err(unexpected());
            }
            let Some((record, behind)) = body.split_at_checked(length) else {
                break;
            };
            records.push(TrimMount::decode(record).map_err(|_| unexpected())?);
            rest = behind;
        }
        self.0 = rest.to_vec();
        Ok(records)
    }
}

/// In bytes.
const MAX_RECORD: usize = 4092;

/// `qx-node grow`
pub fn grow(typed: &Typed) -> Result<u8, Trouble> {
    let (name, mounts) = vm_and_words(typed, "the mount point")?;
    let Ok([mount_point]) = <[String; 1]>::try_from(mounts) else {
        let why = "which file system? Give the one place where it is mounted";
        return Err(Trouble::Usage(why.to_owned()));
    };
    let request = Grow {
        mount_point: mount_point.clone(),
        dry_run: typed.has("dry-run"),
    };
    let dry_run = request.dry_run;
    let mut client = client(typed)?;
    client.stop_on_signals()?;
    let id = client.ask_agent(name, Body::Grow(request))?;
    let Body::GrowResponse(report) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    let grows = report.device_after > report.device_before
        || report.filesystem_after > report.filesystem_before;
    if typed.has("json") {
        let device = (!report.disk.is_empty()).then(|| {
            json!({
                "name": report.device,
                "table": report.table,
                "before": report.device_before,
                "after": report.device_after,
            })
        });
        return print_json(&json!({
            "vm": name,
            "mount_point": mount_point,
            "dry_run": dry_run,
            "grown": grows && !dry_run,
            "disk": { "name": whole(&report), "size": report.disk_size },
            "partition": device,
            "filesystem": {
                "type": report.filesystem,
                "before": report.filesystem_before,
                "after": report.filesystem_after,
            },
        }));
    }
    let size = report.disk_size;
    let row = |what: &str, name: &str, before, after| {
        vec![plain(what), plain(name), bytes(before), bytes(after)]
    };
    let mut rows = vec![
        ["WHAT", "NAME", "BEFORE", "AFTER"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.push(row("disk", whole(&report), size, size));
    if !report.disk.is_empty() {
        let what = format!("{} partition", report.table);
        let (before, after) = (report.device_before, report.device_after);
        rows.push(row(&what, &report.device, before, after));
    }
    let (before, after) = (report.filesystem_before, report.filesystem_after);
    rows.push(row(&report.filesystem, &mount_point, before, after));
    let end = match (grows, dry_run) {
        (false, _) => "nothing to grow\n",
        (true, true) => "nothing was written: this is what would be\n",
        (true, false) => "",
    };
    print(&(table(&rows) + end))
}

/// The disk's name.
fn whole(report: &GrowReport) -> &str {
    match &*report.disk {
        "" => &report.device,
        disk => disk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_however_it_is_cut_and_no_longer_record_is_waited_for() {
        let mount = |done| TrimMount {
            mount_point: "/srv".into(),
            done,
            size: 9,
            ..Default::default()
        };
        let bytes: Vec<u8> = (1..4)
            .flat_map(|done| {
                let record = mount(done).encode_to_vec();
                let length = u32::try_from(record.len()).unwrap().to_be_bytes();
                [&length[..], &record].concat()
            })
            .collect();
        for piece in 1..bytes.len() {
            let mut records = Records::default();
            let pieces = bytes.chunks(piece);
            let came: Vec<_> = pieces.flat_map(|p| records.push(p).unwrap()).collect();
            assert_eq!(came, [mount(1), mount(2), mount(3)]);
        }
        assert!(Records::default().push(&4093u32.to_be_bytes()).is_err());
        assert!(Records::default().push(&[0, 0, 0, 1, 0xFF]).is_err());
    }
}
