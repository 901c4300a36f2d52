//! `qx-node hardware`, and `cpus` and `memory`, which also take those online and offline.

use quantix::error::{Code, Failure};
use quantix::message::Body;
use quantix::message::agent::{
    Cpu, GetHardware, GetStorage, Hardware, HardwareKind, InterfaceKind, MemoryBlocks,
    NetworkInterface, Numbers, OnlineReport, SetOnline,
};
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::network;
use super::options::Typed;
use super::render::{bytes, given, or_dash, pairs, plain, table};
use super::run::print_json;
use super::storage::{device_json, device_table};
use super::{Trouble, client, print, vm};

/// `qx-node hardware`
pub fn hardware(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let mut client = client(typed)?;
    let found = ask(&mut client, name)?;
    let id = client.ask_agent(name, Body::GetStorage(GetStorage {}))?;
    let Body::Storage(storage) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    let mut cards = network::ask(&mut client, name, true)?.interfaces;
    cards.retain(|card| card.kind() == InterfaceKind::Physical);
    if typed.has("json") {
        let devices = storage.devices.iter().map(device_json);
        let cards = cards.iter().map(|card| {
            let link = network::link(card);
            json!({
                "name": link.name,
                "mac": given(&link.mac),
                "mtu": link.mtu,
                "state": network::state(card),
            })
        });
        let mut value = json!({
            "vm": name,
            "machine": {
                "vendor": given(&found.vendor),
                "product": given(&found.product),
                "version": given(&found.version),
                "serial": given(&found.serial),
                "uuid": given(&found.uuid),
                "asset_tag": given(&found.asset_tag),
            },
            "firmware": {
                "vendor": given(&found.firmware_vendor),
                "version": given(&found.firmware_version),
                "date": given(&found.firmware_date),
            },
            "cpu_model": given(&found.cpu_model),
        });
        value["cpus"] = cpus_json(&found.cpus);
        value["memory_block"] = found.memory_block.into();
        value["memory"] = memory_json(&found.memory);
        value["disks"] = devices.collect();
        value["network_cards"] = cards.collect();
        return print_json(&value);
    }
    let words = |words: &[&str]| {
        let known = words.iter().filter(|word| !word.is_empty());
        plain(&known.copied().collect::<Vec<_>>().join(" "))
    };
    let mut text = pairs(&[
        (
            "Machine",
            words(&[&found.vendor, &found.product, &found.version]),
        ),
        ("Serial", plain(&found.serial)),
        ("UUID", plain(&found.uuid)),
        ("Asset tag", plain(&found.asset_tag)),
        (
            "Firmware",
            words(&[
                &found.firmware_vendor,
                &found.firmware_version,
                &found.firmware_date,
            ]),
        ),
        ("CPUs", cpu_words(&found)),
        ("Memory", memory_words(&found)),
    ]);
    if !storage.devices.is_empty() {
        text += &format!("\n{}", device_table(&storage.devices));
    }
    if !cards.is_empty() {
        text += &format!("\n{}", card_table(&cards));
    }
    print(&text)
}

fn ask(client: &mut Client, name: &str) -> Result<Hardware, Trouble> {
    let id = client.ask_agent(name, Body::GetHardware(GetHardware {}))?;
    match client.wait_agent(id)? {
        Body::Hardware(found) => Ok(found),
        _ => Err(unexpected()),
    }
}

/// "2 of 4 online: QEMU Virtual CPU"
fn cpu_words(found: &Hardware) -> String {
    let online = found.cpus.iter().filter(|cpu| cpu.online).count();
    let count = match found.cpus.len() {
        all if all == online => all.to_string(),
        all => format!("{online} of {all} online"),
    };
    match &*found.cpu_model {
        "" => count,
        model => format!("{count}, {}", plain(model)),
    }
}

/// By its blocks; nothing where the kernel has none.
fn memory_words(found: &Hardware) -> String {
    let (mut all, mut online) = (0_u64, 0_u64);
    for run in &found.memory {
        all = all.saturating_add(run.count.into());
        online = online.saturating_add(if run.online { run.count.into() } else { 0 });
    }
    let size = |blocks: u64| bytes(blocks.saturating_mul(found.memory_block));
    match all {
        0 => String::new(),
        _ if all == online => size(all),
        _ => format!("{} of {} online", size(online), size(all)),
    }
}

fn card_table(cards: &[NetworkInterface]) -> String {
    let head = ["NETWORK CARD", "MAC", "MTU", "STATE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for card in cards {
        let link = network::link(card);
        rows.push(vec![
            plain(&link.name),
            or_dash(&link.mac),
            link.mtu.to_string(),
            network::state(card).to_owned(),
        ]);
    }
    table(&rows)
}

/// `qx-node cpus`
pub fn cpus(typed: &Typed) -> Result<u8, Trouble> {
    list_or_set(typed, HardwareKind::Cpu)
}

/// `qx-node memory`
pub fn memory(typed: &Typed) -> Result<u8, Trouble> {
    list_or_set(typed, HardwareKind::Memory)
}

fn list_or_set(typed: &Typed, kind: HardwareKind) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let word = |long| {
        let word = typed.value(long).map(|word| word.to_str().unwrap_or("?"));
        word.map(numbers).transpose().map_err(Trouble::Usage)
    };
    let (online, offline) = (word("online")?, word("offline")?);
    let request = match (online, offline) {
        (None, None) => None,
        (Some(numbers), None) => Some((true, numbers)),
        (None, Some(numbers)) => Some((false, numbers)),
        (Some(_), Some(_)) => {
            let why = "--online and --offline do not go together";
            return Err(Trouble::Usage(why.to_owned()));
        }
    };
    let mut client = client(typed)?;
    if let Some((online, numbers)) = request {
        client.stop_on_signals()?;
        let request = SetOnline {
            kind: kind.into(),
            online,
            numbers,
        };
        let id = client.ask_agent(name, Body::SetOnline(request))?;
        let Body::OnlineReport(report) = client.wait_agent(id)? else {
            return Err(unexpected());
        };
        return told(typed, name, online, &report);
    }
    let found = ask(&mut client, name)?;
    let value = match kind {
        HardwareKind::Memory => memory_json(&found.memory),
        _ => cpus_json(&found.cpus),
    };
    if typed.has("json") {
        return print_json(&match kind {
            HardwareKind::Memory => {
                json!({ "vm": name, "memory_block": found.memory_block, "memory": value })
            }
            _ => json!({ "vm": name, "cpu_model": given(&found.cpu_model), "cpus": value }),
        });
    }
    print(&match kind {
        HardwareKind::Memory => memory_table(&found)?,
        _ => cpu_table(&found.cpus),
    })
}

/// What became of it, and a status of 1 for a failure.
fn told(typed: &Typed, name: &str, online: bool, report: &OnlineReport) -> Result<u8, Trouble> {
    let to = if online { "online" } else { "offline" };
    if typed.has("json") {
        let failures = report.failures.iter().map(|failure| {
            json!({ "number": failure.id, "reason": failure.reason, "errno": failure.errno })
        });
        print_json(&json!({
            "vm": name,
            "to": to,
            "changed": report.changed,
            "unchanged": report.unchanged,
            "failed": report.failed,
            "failures": failures.collect::<Vec<_>>(),
        }))?;
    } else {
        let mut text = format!("{} now {to}", report.changed);
        if report.unchanged > 0 {
            text += &format!(", {} left as they are", report.unchanged);
        }
        if report.failed > 0 {
            text += &format!(", {} failed", report.failed);
        }
        print(&(text + "\n"))?;
    }
    match report.failures.first() {
        None => Ok(0),
        Some(failure) => {
            let why = format!("{}: {}", failure.id, failure.reason);
            Err(Trouble::Failed(Failure::new(Code::Internal, why)))
        }
    }
}

/// "all", or numbers and ranges as in "1,3-5", as the kernel writes them.
fn numbers(text: &str) -> Result<Vec<Numbers>, String> {
    if text == "all" {
        return Ok(Vec::new());
    }
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = Numbers {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
        };
        (range.first <= range.last).then_some(range)
    };
    let ranges: Option<Vec<Numbers>> = text.split(',').map(range).collect();
    ranges.ok_or_else(|| format!("{}: give numbers as 1,3-5, or all", plain(text)))
}

/// A run of CPUs that are alike takes one line.
fn cpu_table(cpus: &[Cpu]) -> String {
    let head = ["CPUS", "STATE", "SOCKET"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let alike = |a: &Cpu, b: &Cpu| {
        (a.online, a.fixed, a.socket) == (b.online, b.fixed, b.socket)
            && a.id.checked_add(1) == Some(b.id)
    };
    for run in cpus.chunk_by(alike) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            continue;
        };
        let state = match (first.online, first.fixed) {
            (true, true) => "online, always",
            (true, false) => "online",
            (false, _) => "offline",
        };
        let socket = match first.online {
            true => first.socket.to_string(),
            // Its place is not known before it is online.
            false => "-".to_owned(),
        };
        rows.push(vec![span(first.id, last.id), state.to_owned(), socket]);
    }
    table(&rows)
}

fn memory_table(found: &Hardware) -> Result<String, Trouble> {
    if found.memory.is_empty() {
        let why = "the guest's kernel has no blocks of memory that go online and offline";
        return Err(Trouble::Failed(Failure::new(Code::Unsupported, why)));
    }
    let head = ["BLOCKS", "SIZE", "STATE", "NODE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for run in &found.memory {
        rows.push(vec![
            span(run.first, last(run)),
            bytes(u64::from(run.count).saturating_mul(found.memory_block)),
            if run.online { "online" } else { "offline" }.to_owned(),
            run.node.to_string(),
        ]);
    }
    Ok(table(&rows))
}

const fn last(run: &MemoryBlocks) -> u32 {
    run.first.saturating_add(run.count.saturating_sub(1))
}

fn span(first: u32, last: u32) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    }
}

fn cpus_json(cpus: &[Cpu]) -> Value {
    let cpus = cpus.iter().map(|cpu| {
        json!({
            "number": cpu.id,
            "online": cpu.online,
            "fixed": cpu.fixed,
            "socket": cpu.socket,
            "core": cpu.core,
        })
    });
    cpus.collect()
}

fn memory_json(runs: &[MemoryBlocks]) -> Value {
    let runs = runs.iter().map(|run| {
        json!({
            "first": run.first,
            "last": last(run),
            "online": run.online,
            "node": run.node,
        })
    });
    runs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_the_kernel_writes_them() {
        let range = |first, last| Numbers { first, last };
        assert_eq!(numbers("all"), Ok(vec![]));
        assert_eq!(numbers("1,3-5"), Ok(vec![range(1, 1), range(3, 5)]));
        for wrong in ["", "a", "1-", "-1", "5-3", "1,,2", "4294967296", "1 2"] {
            assert!(numbers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpus_that_are_alike_take_one_line() {
        let cpu = |id, online| Cpu {
            id,
            online,
            fixed: id == 0,
            socket: 0,
            core: id,
        };
        let cpus = [
            cpu(0, true),
            cpu(1, true),
            cpu(2, true),
            cpu(3, false),
            cpu(5, false),
        ];
        let text = cpu_table(&cpus);
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|w| !w.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            words,
            [
                vec!["CPUS", "STATE", "SOCKET"],
                vec!["0", "online, always", "0"],
                vec!["1-2", "online", "0"],
                vec!["3", "offline", "-"],
                vec!["5", "offline", "-"],
            ]
        );
    }

    #[test]
    fn a_guest_that_makes_up_its_memory_does_no_harm() {
        let run = MemoryBlocks {
            first: u32::MAX,
            count: u32::MAX,
            online: true,
            node: 0,
        };
        let found = Hardware {
            memory_block: u64::MAX,
            memory: vec![run; 3],
            ..Default::default()
        };
        assert!(memory_table(&found).is_ok());
        assert!(!memory_words(&found).is_empty());
        let cpus = [Cpu {
            id: u32::MAX,
            ..Default::default()
        }; 2];
        assert_eq!(cpu_table(&cpus).lines().count(), 3);
    }
}
