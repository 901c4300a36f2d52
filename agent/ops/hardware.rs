//! The machine as its kernel sees it: DMI, processors, blocks of memory (/sys/class/dmi, /sys/devices/system),
//! and taking the latter two online and offline.
//!
//! What cannot be read is empty or 0. A write may take long: memory that is in use moves elsewhere first.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use quantix::error::{Code, Failure, system_text};
use quantix::message::agent::{
    Cpu, Hardware, HardwareKind, MemoryBlocks, Numbers, OnlineFailure, OnlineReport, SetOnline,
};

use super::storage::{number, word};
use crate::names;

/// Processors that are told of, and runs of blocks.
const MAX_CPUS: usize = 4096;
const MAX_RUNS: usize = 1024;

/// Failures that are told of one by one.
const MAX_FAILURES: usize = 32;

/// Everything there is to tell; /sys is at `sys`, /proc at `proc`.
pub fn report(sys: &Path, proc: &Path) -> Hardware {
    let dmi = sys.join("class/dmi/id");
    let word = |name: &str| cut(&word(&dmi, name));
    let blocks = Kind::Memory.all(sys);
    Hardware {
        vendor: word("sys_vendor"),
        product: word("product_name"),
        version: word("product_version"),
        serial: word("product_serial"),
        uuid: word("product_uuid"),
        asset_tag: word("chassis_asset_tag"),
        firmware_vendor: word("bios_vendor"),
        firmware_version: word("bios_version"),
        firmware_date: word("bios_date"),
        cpu_model: cpu_model(&fs::read(proc.join("cpuinfo")).unwrap_or_default()),
        cpus: cpus(sys),
        memory_block: match blocks[..] {
            [] => 0,
            _ => block_size(sys),
        },
        memory: runs(sys, &blocks),
    }
}

/// The first line about a model: there is one for each processor.
fn cpu_model(cpuinfo: &[u8]) -> String {
    let text = String::from_utf8_lossy(cpuinfo);
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let model = lines.find(|(key, _)| matches!(key.trim(), "model name" | "Model" | "cpu model"));
    model.map_or_else(String::new, |(_, value)| cut(value))
}

fn cpus(sys: &Path) -> Vec<Cpu> {
    let ids = Kind::Cpu.all(sys).into_iter().take(MAX_CPUS);
    let cpus = ids.map(|id| {
        let path = sys.join(Kind::Cpu.place(id));
        let online = word(&path, "online");
        let place = |name: &str| u32::try_from(number(&path.join("topology"), name)).unwrap_or(0);
        Cpu {
            id,
            online: online != "0",
            fixed: online.is_empty(),
            socket: place("physical_package_id"),
            core: place("core_id"),
        }
    });
    cpus.collect()
}

/// In hexadecimal, without a mark (Documentation/admin-guide/mm/memory-hotplug.rst).
fn block_size(sys: &Path) -> u64 {
    let text = word(&sys.join("devices/system/memory"), "block_size_bytes");
    u64::from_str_radix(&text, 16).unwrap_or(0)
}

fn runs(sys: &Path, blocks: &[u32]) -> Vec<MemoryBlocks> {
    let mut runs: Vec<MemoryBlocks> = Vec::new();
    for &id in blocks {
        let path = sys.join(Kind::Memory.place(id));
        let online = Kind::Memory.is_online(&path) == Some(true);
        let node = node_of(&path);
        if let Some(run) = runs.last_mut()
            && run.first.checked_add(run.count) == Some(id)
            && (run.online, run.node) == (online, node)
        {
            run.count += 1;
        } else if runs.len() < MAX_RUNS {
            runs.push(MemoryBlocks {
                first: id,
                count: 1,
                online,
                node,
            });
        }
    }
    runs
}

/// Of a block of memory: it has a link to its node.
fn node_of(path: &Path) -> u32 {
    let names = numbers(path, "node");
    names.first().copied().unwrap_or(0)
}

/// Takes them online or offline, one after the other, whatever becomes of the others.
pub fn set_online(request: &SetOnline, sys: &Path) -> Result<OnlineReport, Failure> {
    let kind = match request.kind() {
        HardwareKind::Cpu => Kind::Cpu,
        HardwareKind::Memory => Kind::Memory,
        HardwareKind::Unspecified => {
            let why = "this agent does not know what is to go online or offline";
            return Err(Failure::new(Code::Unsupported, why));
        }
    };
    let all = kind.all(sys);
    if all.is_empty() {
        let why = format!("this kernel cannot take {} online or offline", kind.name());
        return Err(Failure::new(Code::Unsupported, why));
    }
    let is_meant = |id: &u32| {
        let mut ranges = request.numbers.iter();
        request.numbers.is_empty() || ranges.any(|r| (r.first..=r.last).contains(id))
    };
    // Before anything is changed.
    for Numbers { first, last } in &request.numbers {
        if first > last || !all.contains(first) || !all.contains(last) {
            let (first_known, last_known) = (all[0], all[all.len() - 1]);
            let why = format!(
                "{} {first}-{last}: there are {first_known} to {last_known}",
                kind.name()
            );
            return Err(Failure::new(Code::NotFound, why));
        }
    }
    let mut report = OnlineReport::default();
    let mut meant: Vec<u32> = all.into_iter().filter(is_meant).collect();
    if !request.online {
        // The last ones first: those were plugged last.
        meant.reverse();
    }
    for id in meant {
        let path = sys.join(kind.place(id));
        let state = kind.is_online(&path);
        // One without a state is online for good; where all are asked for it is not meant.
        let is_left_out = state.is_none() && request.numbers.is_empty();
        if is_left_out || state.unwrap_or(true) == request.online {
            report.unchanged += 1;
            continue;
        }
        let changed = match state {
            None => Err(io::Error::from_raw_os_error(libc::EPERM)),
            Some(_) => fs::write(path.join(kind.file()), kind.word(request.online)),
        };
        let Err(e) = changed else {
            report.changed += 1;
            continue;
        };
        report.failed += 1;
        if report.failures.len() < MAX_FAILURES {
            report.failures.push(OnlineFailure {
                id,
                reason: kind.reason(&e),
                errno: e.raw_os_error().unwrap_or(0).unsigned_abs(),
            });
        }
    }
    Ok(report)
}

#[derive(Clone, Copy)]
enum Kind {
    Cpu,
    Memory,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUs",
            Self::Memory => "memory blocks",
        }
    }

    /// The numbers of all there are, in order.
    fn all(self, sys: &Path) -> Vec<u32> {
        let (directory, prefix) = match self {
            Self::Cpu => ("devices/system/cpu", "cpu"),
            Self::Memory => ("devices/system/memory", "memory"),
        };
        numbers(&sys.join(directory), prefix)
    }

    fn place(self, id: u32) -> String {
        match self {
            Self::Cpu => format!("devices/system/cpu/cpu{id}"),
            Self::Memory => format!("devices/system/memory/memory{id}"),
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Cpu => "online",
            Self::Memory => "state",
        }
    }

    const fn word(self, online: bool) -> &'static str {
        match (self, online) {
            (Self::Cpu, true) => "1",
            (Self::Cpu, false) => "0",
            (Self::Memory, true) => "online",
            (Self::Memory, false) => "offline",
        }
    }

    /// None: it has no such file, and is online for good.
    fn is_online(self, path: &Path) -> Option<bool> {
        match &*word(path, self.file()) {
            "" => None,
            "1" | "online" => Some(true),
            _ => Some(false),
        }
    }

    /// What the system's word for it means here.
    fn reason(self, e: &io::Error) -> String {
        let text = system_text(e);
        match (self, e.raw_os_error()) {
            (Self::Cpu, Some(libc::EPERM)) => "it cannot be taken offline".to_owned(),
            (Self::Cpu, Some(libc::EBUSY)) => format!("{text}: it is the last one, or holds tasks"),
            (Self::Memory, Some(libc::EBUSY | libc::EAGAIN | libc::EINVAL)) => {
                format!("{text}: the kernel has pages in it that it cannot move")
            }
            _ => text,
        }
    }
}

/// The numbers behind `prefix` of a directory's entries, in order.
fn numbers(directory: &Path, prefix: &str) -> Vec<u32> {
    let names = names::all(directory).unwrap_or_default();
    let number = |name: &OsString| name.to_str()?.strip_prefix(prefix)?.parse().ok();
    let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

fn cut(text: &str) -> String {
    text.trim().chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A /sys of its own for a test, gone with it.
    struct Sys(std::path::PathBuf);

    impl Sys {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("qx-{name}-{}", std::process::id()));
            let sys = Self(path);
            for (cpu, online) in [(0, None), (1, Some("1")), (2, Some("0")), (10, Some("0"))] {
                let place = format!("devices/system/cpu/cpu{cpu}");
                sys.write(&format!("{place}/topology/core_id"), &format!("{cpu}\n"));
                if let Some(online) = online {
                    sys.write(&format!("{place}/online"), online);
                }
            }
            sys.write("devices/system/cpu/cpufreq/policy0", "");
            sys.write("devices/system/cpu/online", "0-1\n");
            for (block, state) in [(0, "online"), (1, "online"), (2, "offline"), (9, "online")] {
                let place = format!("devices/system/memory/memory{block}");
                sys.write(&format!("{place}/state"), state);
            }
            sys.write("devices/system/memory/block_size_bytes", "8000000\n");
            sys
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.0.join("devices/system").join(path)).unwrap()
        }
    }

    impl Drop for Sys {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn ask(kind: HardwareKind, online: bool, ranges: &[(u32, u32)]) -> SetOnline {
        let numbers = ranges.iter().map(|&(first, last)| Numbers { first, last });
        SetOnline {
            kind: kind.into(),
            online,
            numbers: numbers.collect(),
        }
    }

    #[test]
    fn a_machine_is_read() {
        let sys = Sys::new("hardware");
        sys.write("class/dmi/id/sys_vendor", "QEMU\n");
        sys.write("class/dmi/id/product_uuid", "0-1\n");
        sys.write(
            "proc/cpuinfo",
            "processor\t: 0\nmodel name\t: QEMU Virtual CPU: 2.5\n",
        );
        let found = report(&sys.0, &sys.0.join("proc"));
        assert_eq!(
            (&*found.vendor, &*found.uuid, &*found.product),
            ("QEMU", "0-1", "")
        );
        assert_eq!(found.cpu_model, "QEMU Virtual CPU: 2.5");
        let cpus: Vec<_> = found
            .cpus
            .iter()
            .map(|c| (c.id, c.online, c.fixed, c.core))
            .collect();
        assert_eq!(
            cpus,
            [
                (0, true, true, 0),
                (1, true, false, 1),
                (2, false, false, 2),
                (10, false, false, 10)
            ]
        );
        assert_eq!(found.memory_block, 128 << 20);
        let runs: Vec<_> = found
            .memory
            .iter()
            .map(|r| (r.first, r.count, r.online))
            .collect();
        assert_eq!(runs, [(0, 2, true), (2, 1, false), (9, 1, true)]);
        let nothing = report(&sys.0.join("none"), &sys.0.join("none"));
        assert_eq!(nothing, Hardware::default());
    }

    #[test]
    fn all_that_can_go_online_do() {
        let sys = Sys::new("online");
        let report = set_online(&ask(HardwareKind::Cpu, true, &[]), &sys.0).unwrap();
        assert_eq!((report.changed, report.unchanged, report.failed), (2, 2, 0));
        assert_eq!(sys.read("cpu/cpu10/online"), "1");
        let report = set_online(&ask(HardwareKind::Memory, true, &[]), &sys.0).unwrap();
        assert_eq!((report.changed, report.unchanged), (1, 3));
        assert_eq!(sys.read("memory/memory2/state"), "online");
    }

    #[test]
    fn of_those_that_are_named_one_that_cannot_is_a_failure() {
        let sys = Sys::new("offline");
        let report = set_online(&ask(HardwareKind::Cpu, false, &[(0, 1)]), &sys.0).unwrap();
        assert_eq!((report.changed, report.failed), (1, 1));
        assert_eq!(
            (report.failures[0].id, &*report.failures[0].reason),
            (0, "it cannot be taken offline")
        );
        assert_eq!(sys.read("cpu/cpu1/online"), "0");
        // Of all it is left as it is.
        let report = set_online(&ask(HardwareKind::Cpu, false, &[]), &sys.0).unwrap();
        assert_eq!((report.unchanged, report.failed), (4, 0));
    }

    #[test]
    fn what_was_plugged_last_goes_offline_first() {
        let sys = Sys::new("order");
        for block in ["memory0", "memory1"] {
            let state = format!("devices/system/memory/{block}/state");
            fs::remove_file(sys.0.join(state)).unwrap();
        }
        let order = |online| {
            let asked = ask(HardwareKind::Memory, online, &[(0, 1)]);
            let failures = set_online(&asked, &sys.0).unwrap().failures;
            failures.iter().map(|of| of.id).collect::<Vec<_>>()
        };
        assert_eq!(order(false), [1, 0]);
        assert_eq!(order(true), []);
    }

    #[test]
    fn what_is_not_there_changes_nothing() {
        let sys = Sys::new("absent");
        for ranges in [&[(1, 3)][..], &[(1, 1), (7, 7)], &[(2, 1)]] {
            let failure = set_online(&ask(HardwareKind::Cpu, false, ranges), &sys.0).unwrap_err();
            assert_eq!(failure.code, Code::NotFound, "{ranges:?}");
        }
        assert_eq!(sys.read("cpu/cpu1/online"), "1");
        let none = sys.0.join("none");
        let failure = set_online(&ask(HardwareKind::Memory, true, &[]), &none).unwrap_err();
        assert_eq!(failure.code, Code::Unsupported);
        let failure = set_online(&SetOnline::default(), &sys.0).unwrap_err();
        assert_eq!(failure.code, Code::Unsupported);
    }
}
