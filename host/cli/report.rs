//! What is shown of VMs, pings, telemetry and commands: for people and as JSON.

use quantix::message::agent::{
    AgentReady, Disk, ExecuteResponse, Interface, LinkState, Pressure, Telemetry,
};
use quantix::message::node::{Behind, PingResult, Vm, VmState};
use quantix::rt::clock;
use serde_json::{Value, json};

use super::history::sample_json;
use super::render::{bytes, given, millis, pairs, plain, span, table};
use crate::daemon::{state_text, state_word};

fn state(vm: &Vm) -> String {
    plain(&state_text(vm.state(), vm.behind.as_ref()))
}

/// Who is ahead of us, for programs.
pub fn behind_json(behind: Option<&Behind>) -> Value {
    let known = |number: u32| Some(number).filter(|number| *number > 0);
    behind.map_or(Value::Null, |behind| {
        json!({
            "pid": known(behind.pid),
            "command": known(behind.pid).map(|_| &behind.command),
            "position": known(behind.position),
            "of": behind.of,
        })
    })
}

/// What there is to be said of its state.
fn why(vm: &Vm) -> String {
    let frozen = vm.agent.as_ref().is_some_and(|ready| ready.frozen);
    match (&*vm.reason, vm.state()) {
        ("", VmState::Ready) if !vm.ills.is_empty() => plain(&vm.ills),
        ("", VmState::Ready) if frozen => "its file systems are frozen".to_owned(),
        (reason, _) => plain(reason),
    }
}

/// Empty before the first Ping of a session that was open already.
fn round_trip(vm: &Vm) -> String {
    match vm.rtt_us {
        0 => String::new(),
        us => millis(us),
    }
}

/// By which the guest is known; of an earlier agent the first of its addresses.
fn known_by(ready: &AgentReady) -> &str {
    match &*ready.primary_address {
        "" => ready.ip_addresses.first().map_or("", |first| first),
        primary => primary,
    }
}

/// `qx-node vms`
pub fn vm_table(vms: &[Vm]) -> String {
    if vms.is_empty() {
        return "no VMs: `qx-node channel VM` shows how to give one its channel\n".to_owned();
    }
    let head = [
        "VM", "STATE", "SINCE", "UP", "PING", "AGENT", "OS", "ADDRESS", "WHY",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for vm in vms {
        let ready = vm.agent.clone().unwrap_or_default();
        // What a guest said before its channel was lost is not shown as if it were so now.
        let known = vm.agent.is_some() && vm.state() == VmState::Ready;
        let or_dash = |text: String| {
            if known && !text.is_empty() {
                text
            } else {
                "-".to_owned()
            }
        };
        rows.push(vec![
            plain(&vm.name),
            state(vm),
            span(vm.since_ms / 1000),
            or_dash(span(vm.uptime_seconds)),
            or_dash(round_trip(vm)),
            or_dash(plain(&ready.version)),
            or_dash(plain(
                format!("{} {}", ready.os_name, ready.os_version).trim(),
            )),
            or_dash(plain(known_by(&ready))),
            why(vm),
        ]);
    }
    if vms.iter().all(|vm| why(vm).is_empty()) {
        rows.iter_mut().for_each(|row| row.truncate(head.len() - 1));
    }
    table(&rows)
}

/// `qx-node info`
pub fn vm_details(vm: &Vm) -> String {
    let ready = vm.agent.clone().unwrap_or_default();
    let counters = vm.counters.unwrap_or_default();
    let text = |text: &str| plain(text);
    let with = |known: bool, text: String| if known { text } else { String::new() };
    let ever = counters.sessions > 0;
    let dropped = format!(
        "{} stale and {} bad frames, {} of garbage",
        counters.stale_frames,
        counters.bad_frames,
        bytes(counters.garbage_bytes)
    );
    pairs(&[
        ("VM", text(&vm.name)),
        (
            "State",
            format!("{} for {}", state(vm), span(vm.since_ms / 1000)),
        ),
        ("Why", why(vm)),
        ("Hostname", text(&ready.hostname)),
        (
            "OS",
            text(format!("{} {}", ready.os_name, ready.os_version).trim()),
        ),
        (
            "Kernel",
            text(format!("{} {}", ready.kernel_version, ready.architecture).trim()),
        ),
        ("Address", text(&ready.primary_address)),
        ("Addresses", text(&ready.ip_addresses.join(", "))),
        ("Up", with(ever, span(vm.uptime_seconds))),
        ("Boot", text(&vm.boot_id)),
        (
            "Clock",
            with(ever, format!("{:+} ms against this host", vm.clock_skew_ms)),
        ),
        ("Agent", text(&ready.version)),
        ("Can", text(&ready.capabilities.join(", "))),
        ("Socket", text(&vm.socket)),
        ("Ping", round_trip(vm)),
        (
            "Last frame",
            with(ever, format!("{} ms ago", vm.last_frame_ms)),
        ),
        (
            "Sessions",
            format!("{} in {} connects", counters.sessions, counters.connects),
        ),
        (
            "Received",
            format!(
                "{} in {} frames",
                bytes(counters.bytes_in),
                counters.frames_in
            ),
        ),
        (
            "Sent",
            format!(
                "{} in {} frames",
                bytes(counters.bytes_out),
                counters.frames_out
            ),
        ),
        ("Dropped", dropped),
        ("Coalesced", format!("{} reports", counters.coalesced)),
    ])
}

/// The same for programs.
pub fn vm_json(vm: &Vm) -> Value {
    let counters = vm.counters.unwrap_or_default();
    let agent = vm.agent.as_ref().map(|ready| {
        json!({
            "version": ready.version,
            "os_name": ready.os_name,
            "os_version": ready.os_version,
            "kernel_version": ready.kernel_version,
            "architecture": ready.architecture,
            "hostname": ready.hostname,
            "ip_addresses": ready.ip_addresses,
            "primary_address": given(&ready.primary_address),
            "capabilities": ready.capabilities,
            "frozen": ready.frozen,
        })
    });
    json!({
        "vm": vm.name,
        "state": state_word(vm.state()),
        "reason": vm.reason,
        "ills": given(&vm.ills),
        "behind": behind_json(vm.behind.as_ref()),
        "since_ms": vm.since_ms,
        "socket": vm.socket,
        "agent": agent,
        "boot_id": vm.boot_id,
        "uptime_seconds": vm.uptime_seconds,
        "rtt_us": vm.rtt_us,
        "clock_skew_ms": vm.clock_skew_ms,
        "last_frame_ms": vm.last_frame_ms,
        "held_bytes": vm.held_bytes,
        "latest": vm.latest.as_ref().map(|of| sample_json(of, clock::wall().seconds)),
        "counters": {
            "sessions": counters.sessions,
            "connects": counters.connects,
            "frames_in": counters.frames_in,
            "frames_out": counters.frames_out,
            "bytes_in": counters.bytes_in,
            "bytes_out": counters.bytes_out,
            "stale_frames": counters.stale_frames,
            "bad_frames": counters.bad_frames,
            "garbage_bytes": counters.garbage_bytes,
            "coalesced": counters.coalesced,
        },
    })
}

/// `qx-node ping`
pub fn ping_line(name: &str, sequence: u32, result: &PingResult) -> String {
    format!(
        "{}{}seq={sequence} time={} agent={} up={}\n",
        plain(name),
        if name.is_empty() { "" } else { ": " },
        millis(result.rtt_us),
        plain(&result.version),
        span(result.uptime_seconds),
    )
}

/// The same for programs.
pub fn ping_json(name: &str, sequence: u32, result: &PingResult) -> Value {
    json!({
        "vm": name,
        "sequence": sequence,
        "rtt_us": result.rtt_us,
        "version": result.version,
        "uptime_seconds": result.uptime_seconds,
    })
}

/// Behind several pings.
pub fn ping_summary(times: &[u64]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |index: usize| millis(sorted.get(index).copied().unwrap_or_default());
    let last = sorted.len().saturating_sub(1);
    format!(
        "{} answered; min {}, median {}, max {}\n",
        sorted.len(),
        at(0),
        at(last / 2),
        at(last)
    )
}

/// `qx-node telemetry`
pub fn telemetry_text(t: &Telemetry, age_ms: u64) -> String {
    let used = |used: u64, total: u64| match total {
        0 => "none".to_owned(),
        _ => format!(
            "{} of {} ({:.0} %)",
            bytes(used),
            bytes(total),
            used as f64 * 100.0 / total as f64
        ),
    };
    let mut text = pairs(&[
        ("Hostname", plain(&t.hostname)),
        ("Up", span(t.uptime_seconds)),
        ("CPU", format!("{:.1} %", t.cpu_usage_percent)),
        (
            "Load",
            format!(
                "{:.2} {:.2} {:.2}",
                t.load_avg_1m, t.load_avg_5m, t.load_avg_15m
            ),
        ),
        ("Processes", t.process_count.to_string()),
        ("Memory", used(t.memory_used, t.memory_total)),
        ("Swap", used(t.swap_used, t.swap_total)),
        ("Paged", paged(t)),
        ("Disks", disk_io(t)),
        ("Balloon", balloon(t.ballooned)),
        ("Waiting", waiting(t)),
        ("Stuck", plain(&t.stuck_mounts.join(", "))),
        ("Failing", failing(t)),
        (
            "Process 1",
            if t.init_hangs {
                HANGS.to_owned()
            } else {
                String::new()
            },
        ),
        ("Age", format!("{:.1} s", age_ms as f64 / 1000.0)),
    ]);
    if !t.disks.is_empty() {
        text += &format!("\n{}", disk_table(&t.disks));
    }
    if !t.interfaces.is_empty() {
        let head = [
            "INTERFACE",
            "STATE",
            "MAC",
            "MTU",
            "RECEIVED",
            "SENT",
            "ADDRESSES",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(t.interfaces.iter().map(interface_row));
        text += &format!("\n{}", table(&rows));
    }
    text
}

/// Of what was swapped since boot, and what came of it; nothing for a guest that never did.
fn paged(t: &Telemetry) -> String {
    let swapped = t.swapped_in.saturating_add(t.swapped_out) > 0;
    let mut words = Vec::new();
    if swapped {
        let (read, written) = (bytes(t.swapped_in), bytes(t.swapped_out));
        words.push(format!("{read} in, {written} out since boot"));
    }
    match t.oom_kills {
        0 => {}
        1 => words.push("1 process killed for memory".to_owned()),
        count => words.push(format!("{count} processes killed for memory")),
    }
    words.join("; ")
}

/// Of a guest whose process 1 does not do its work.
const HANGS: &str = "takes no process that has died";

/// Of all disks, since boot.
fn disk_io(t: &Telemetry) -> String {
    let (read, written) = (bytes(t.disk_read), bytes(t.disk_written));
    match (t.disk_read, t.disk_written) {
        (0, 0) => String::new(),
        _ => format!("{read} read, {written} written since boot"),
    }
}

fn failing(t: &Telemetry) -> String {
    let failing = t.disks.iter().filter(|disk| !disk.problem.is_empty());
    let words =
        failing.map(|disk| format!("{}: {}", plain(&disk.mount_point), plain(&disk.problem)));
    words.collect::<Vec<_>>().join(", ")
}

fn balloon(ballooned: u64) -> String {
    match ballooned {
        0 => String::new(),
        taken => format!("has taken {}", bytes(taken)),
    }
}

/// The shares of the last minute in which some task waited.
fn waiting(t: &Telemetry) -> String {
    let shares = t.pressures.iter().map(|pressure| {
        let name = match &*pressure.resource {
            "cpu" => "CPU",
            "io" => "disks",
            other => other,
        };
        format!("{:.1} % for {}", pressure.some_60, plain(name))
    });
    shares.collect::<Vec<_>>().join(", ")
}

fn pressure_json(of: &Pressure) -> Value {
    json!({
        "resource": of.resource,
        "some_10": of.some_10,
        "some_60": of.some_60,
        "some_us": of.some_us,
        "full_10": of.full_10,
        "full_60": of.full_60,
        "full_us": of.full_us,
    })
}

/// File systems, with what is free.
pub fn disk_table(disks: &[Disk]) -> String {
    let head = [
        "MOUNT", "FS", "DEVICE", "SIZE", "USED", "FREE", "USE", "INODES",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(disks.iter().map(disk_row));
    table(&rows)
}

fn disk_row(disk: &Disk) -> Vec<String> {
    let inodes = match disk.inodes_total {
        0 => "-".to_owned(),
        total => format!("{:.0} %", disk.inodes_used as f64 * 100.0 / total as f64),
    };
    vec![
        plain(&disk.mount_point),
        plain(&disk.filesystem),
        plain(&disk.device),
        bytes(disk.total),
        bytes(disk.used),
        bytes(disk.available),
        format!("{:.0} %", disk.usage_percent),
        inodes,
    ]
}

fn interface_row(interface: &Interface) -> Vec<String> {
    let addresses = [&interface.ipv4[..], &interface.ipv6[..]].concat();
    vec![
        plain(&interface.name),
        link(interface).to_owned(),
        plain(&interface.mac),
        interface.mtu.to_string(),
        bytes(interface.rx_bytes),
        bytes(interface.tx_bytes),
        plain(&addresses.join(" ")),
    ]
}

fn link(interface: &Interface) -> &'static str {
    match interface.state() {
        LinkState::Unknown => "unknown",
        LinkState::Up => "up",
        LinkState::Down => "down",
    }
}

/// A file system, for programs.
pub fn disk_json(disk: &Disk) -> Value {
    json!({
        "mount_point": disk.mount_point,
        "filesystem": disk.filesystem,
        "device": disk.device,
        "total": disk.total,
        "used": disk.used,
        "available": disk.available,
        "usage_percent": disk.usage_percent,
        "inodes_total": disk.inodes_total,
        "inodes_used": disk.inodes_used,
        "problem": given(&disk.problem),
    })
}

/// The same for programs, one object a report.
pub fn telemetry_json(name: &str, t: &Telemetry, age_ms: u64) -> Value {
    let disks = t.disks.iter().map(disk_json);
    let interfaces = t.interfaces.iter().map(|interface| {
        json!({
            "name": interface.name,
            "mac": interface.mac,
            "ipv4": interface.ipv4,
            "ipv6": interface.ipv6,
            "state": link(interface),
            "mtu": interface.mtu,
            "rx_bytes": interface.rx_bytes,
            "tx_bytes": interface.tx_bytes,
            "rx_packets": interface.rx_packets,
            "tx_packets": interface.tx_packets,
        })
    });
    json!({
        "vm": name,
        "age_ms": age_ms,
        "hostname": t.hostname,
        "uptime_seconds": t.uptime_seconds,
        "cpu_usage_percent": t.cpu_usage_percent,
        "load_avg": [t.load_avg_1m, t.load_avg_5m, t.load_avg_15m],
        "process_count": t.process_count,
        "memory": {
            "total": t.memory_total,
            "used": t.memory_used,
            "available": t.memory_available,
        },
        "swap": { "total": t.swap_total, "used": t.swap_used },
        "paging": {
            "swapped_in": t.swapped_in,
            "swapped_out": t.swapped_out,
            "major_faults": t.major_faults,
            "oom_kills": t.oom_kills,
        },
        "disk_io": { "read": t.disk_read, "written": t.disk_written },
        "ballooned": t.ballooned,
        "pressures": t.pressures.iter().map(pressure_json).collect::<Vec<_>>(),
        "disks": disks.collect::<Vec<_>>(),
        "interfaces": interfaces.collect::<Vec<_>>(),
        "coalesced": t.coalesced,
        "stuck_mounts": t.stuck_mounts,
        "init_hangs": t.init_hangs,
    })
}

/// `qx-node exec --json`
pub fn exec_json(name: &str, answer: &ExecuteResponse) -> Value {
    json!({
        "vm": name,
        "exit_code": answer.exit_code,
        "signal": Some(answer.signal).filter(|signal| *signal > 0),
        "stdout": String::from_utf8_lossy(&answer.stdout),
        "stderr": String::from_utf8_lossy(&answer.stderr),
        "truncated": answer.truncated,
        "timed_out": answer.timed_out,
        "duration_ms": answer.duration_ms,
    })
}

/// `qx-node exec --detach`
pub fn started_json(name: &str, answer: &ExecuteResponse) -> Value {
    json!({ "vm": name, "job": answer.job, "pid": answer.pid })
}
