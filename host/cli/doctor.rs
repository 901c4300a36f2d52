//! `doctor`: looks at everything between a VM's agent and this host, and names what is wrong. It needs no
//! daemon, and changes nothing.

mod bundle;
mod daemons;
mod ends;
mod facts;
mod guest;
mod judge;
mod libvirt;
mod monitor;
mod qga;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quantix::rt::check::{self, Check, Status};
use quantix::rt::clock;
use quantix::rt::sys::fd::rest;
use quantix::rt::sys::process::effective_user;

use super::options::Typed;
use super::{Client, Trouble, VMS_DIR, channel, check_name, control, print, vms_dir};
use crate::daemon::{SUFFIX, vm_of};
use bundle::Bundle;
use ends::Ends;
use facts::{Facts, File, Stuck};
use libvirt::Libvirt;
use quantix::message::node::VmState;

/// What all VMs together may take to be asked, each by its own monitor or doctor.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at queues, and the pause between two: what stays in all of them is stuck. On a busy host a daemon
/// may not get to read for a while.
const LOOKS: usize = 6;
const PAUSE: Duration = Duration::from_millis(100);

/// A VM, and its socket.
type Vm = (String, PathBuf);

/// A VM, and what was found.
type Report = (String, Vec<Check>);

/// `qx-node doctor`
pub fn doctor(typed: &Typed) -> Result<u8, Trouble> {
    let place = Place::of(typed)?;
    let vms = place.vms();
    let reports = examine(&place, &vms, typed.has("probe"));
    let worst = reports
        .iter()
        .map(|(_, checks)| check::worst(checks).exit());
    let worst = worst.max().unwrap_or_default();
    let colour = io::stdout().is_terminal();
    let is_long = place.named.len() == 1 || place.direct.is_some() || typed.has("verbose");
    let text = if typed.has("json") {
        json(&reports)
    } else if reports.is_empty() {
        format!("no VM has a socket in {}\n", place.directory.path.display())
    } else if is_long {
        let long = |(name, checks): &Report| check::text(name, checks, healthy(checks), colour);
        reports.iter().map(long).collect()
    } else {
        overview(&reports, colour)
    };
    print(&text)?;
    if let Some(file) = typed.value("bundle") {
        place.bundle(&reports).write(Path::new(file))?;
    }
    Ok(worst)
}

/// A line for each VM, and one for all of which the same is to be said; how many of them are well.
fn overview(reports: &[Report], colour: bool) -> String {
    let key = |checks: &[Check]| {
        let found = check::verdict(checks)?;
        Some((found.cause.clone(), found.remedy.clone()))
    };
    let mut groups: Vec<(Vec<&str>, &[Check])> = Vec::new();
    for (name, checks) in reports {
        let mut same = groups.iter_mut();
        match same.find(|(_, other)| key(checks).is_some() && key(checks) == key(other)) {
            Some((names, _)) => names.push(name),
            None => groups.push((vec![name], checks)),
        }
    }
    let one = |(names, checks): &(Vec<&str>, &[Check])| {
        let more = match names.len().saturating_sub(MAX_NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let names = names.get(..MAX_NAMES).unwrap_or(names).join(", ") + &more;
        check::headline(&names, checks, healthy(checks), colour)
    };
    let mut text: String = groups.iter().map(one).collect();
    if let count @ 2.. = reports.len() {
        let of = |status| {
            let of = |(_, checks): &&Report| check::worst(checks) == status;
            reports.iter().filter(of).count()
        };
        let all = [Status::Ok, Status::Warn, Status::Fail, Status::Unknown];
        let counts = all.map(|status| (of(status), status.word()));
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts.map(|(n, word)| format!("{n} {word}")).collect();
        text += &format!("{count} VMs: {}\n", counts.join(", "));
    }
    text
}

/// Names of VMs in one line.
const MAX_NAMES: usize = 5;

/// What there is to say where nothing is wrong.
fn healthy(checks: &[Check]) -> &str {
    session(checks).map_or("nothing wrong is seen", |session| &session.evidence)
}

fn session(checks: &[Check]) -> Option<&Check> {
    checks.iter().find(|check| check.name == "session")
}

/// One object a VM: its name, its status, the name of the check that explains it, and all checks.
fn json(reports: &[Report]) -> String {
    let one = |(name, checks): &Report| {
        let verdict =
            check::verdict(checks).map_or("null".to_owned(), |check| check::quoted(check.name));
        format!(
            "{{\"vm\":{},\"status\":\"{}\",\"verdict\":{verdict},\"checks\":{}}}\n",
            check::quoted(name),
            check::worst(checks).word(),
            check::json(checks)
        )
    };
    reports.iter().map(one).collect()
}

/// Where to look.
struct Place {
    directory: File,
    /// These, or all.
    named: Vec<String>,
    /// One socket, whatever its directory.
    direct: Option<PathBuf>,
    control: PathBuf,
    /// For commands of ours that go the same way.
    options: Vec<String>,
    libvirt: Libvirt,
}

impl Place {
    fn of(typed: &Typed) -> Result<Self, Trouble> {
        let direct = typed.value("direct").map(PathBuf::from);
        let control = control(typed);
        let mut named = Vec::new();
        for word in &typed.words {
            let name = word.to_str().unwrap_or_default();
            check_name(name)?;
            named.push(name.to_owned());
        }
        if direct.is_some() && named.len() > 1 {
            return Err(Trouble::Usage("--direct is one VM's socket".to_owned()));
        }
        let directory = match direct.as_deref().and_then(Path::parent) {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => vms_dir(typed),
        };
        let option = |name: &str, path: &Path| vec![name.to_owned(), path.display().to_string()];
        Ok(Self {
            options: match &direct {
                Some(socket) => option("--direct", socket),
                None => option("--control", &control),
            },
            directory: File::look(&directory),
            named,
            direct,
            control,
            libvirt: libvirt::look(),
        })
    }

    /// The findings, and what they were found from.
    fn bundle(&self, reports: &[Report]) -> Bundle {
        let mut bundle = Bundle::new(&self.options);
        bundle.add("doctor.json", json(reports));
        let text = reports
            .iter()
            .map(|(name, checks)| check::text(name, checks, healthy(checks), false));
        bundle.add("doctor.txt", text.collect::<String>());
        for (name, checks) in reports {
            bundle.add_domain(name);
            let is_ready = session(checks).is_some_and(|check| check.status == Status::Ok);
            if is_ready && let Ok(mut client) = self.client() {
                bundle.add_guest(&mut client, name);
            }
        }
        bundle
    }

    /// The daemon, or the one socket.
    fn client(&self) -> Result<Client, Trouble> {
        match &self.direct {
            Some(socket) => Client::direct(socket.clone()),
            None => Client::connect(&self.control),
        }
    }

    /// Those that were named; else all that have a socket, or should have one.
    fn vms(&self) -> Vec<Vm> {
        let path = |name: &str| self.directory.path.join(format!("{name}{SUFFIX}"));
        if let Some(socket) = &self.direct {
            let file = socket.file_name().unwrap_or_default().to_string_lossy();
            let name = vm_of(&file).unwrap_or(&file).to_owned();
            let name = self.named.first().cloned().unwrap_or(name);
            return vec![(name, socket.clone())];
        }
        let mut names: BTreeSet<String> = self.named.iter().cloned().collect();
        if names.is_empty() {
            let entries = fs::read_dir(&self.directory.path).into_iter().flatten();
            for file in entries.flatten().map(|entry| entry.file_name()) {
                names.extend(file.to_str().and_then(vm_of).map(ToOwned::to_owned));
            }
            let domains = self.libvirt.iter().flatten();
            let ours = domains.filter(|(_, domain)| {
                domain.channel(channel::PORT).is_some() && domain.state != "shut off"
            });
            names.extend(ours.map(|(name, _)| name.clone()));
        }
        names
            .into_iter()
            .map(|name| (name.clone(), path(&name)))
            .collect()
    }
}

/// All checks of these VMs.
fn examine(place: &Place, vms: &[Vm], with_probe: bool) -> Vec<Report> {
    let sockets: Vec<File> = vms.iter().map(|(_, path)| File::look(path)).collect();
    let files: Vec<ends::File> = sockets
        .iter()
        .map(|socket| (socket.path.clone(), socket.inode().unwrap_or(0)))
        .collect();
    let seen = ends::look(&files).ok();
    let stuck = seen.as_deref().map(stuck).unwrap_or_default();
    let daemons = place
        .direct
        .is_none()
        .then(|| daemons::look(&place.control, &place.directory.path, Path::new(VMS_DIR)));
    let end = clock::now() + PATIENCE;
    let mut reports = Vec::new();
    for (at, ((name, path), socket)) in vms.iter().zip(&sockets).enumerate() {
        let ends = seen.as_ref().and_then(|seen| seen.get(at));
        let mut facts = Facts {
            name,
            is_root: effective_user() == 0,
            directory: &place.directory,
            socket: socket.clone(),
            ends,
            stuck: ends.map(|ends| held(ends, &stuck)).unwrap_or_default(),
            libvirt: &place.libvirt,
            daemons: daemons.as_ref(),
            monitor: None,
            guest: None,
            other: None,
            probe: None,
        };
        let in_time = clock::now() < end;
        // The daemon asks it already, and it serves one at a time.
        if facts.told().is_none() && in_time {
            facts.monitor = monitor::look(path, name);
        }
        let is_ready = facts.told().is_some_and(|vm| vm.state() == VmState::Ready);
        if is_ready && in_time {
            let client = place.client().map_err(|trouble| trouble.to_string());
            facts.guest = Some(client.and_then(|mut client| guest::ask(&mut client, name)));
        }
        if !is_ready && in_time && facts.may_ask_qemus() {
            let (other, guest) = qga::ask(name);
            (facts.other, facts.guest) = (Some(other), guest);
        }
        if with_probe && (is_ready || daemons.is_none()) {
            facts.probe = Some(guest::probe(name, &place.options));
        }
        reports.push((name.clone(), judge::judge(&facts)));
    }
    reports
}

/// The bytes that no look has found gone, by their socket.
fn stuck(seen: &[Ends]) -> BTreeMap<u32, u32> {
    let ends = seen.iter().flat_map(|ends| &ends.served);
    let ends = ends.flat_map(|pair| [&pair.server, &pair.client]);
    let waiting = ends.filter(|end| end.unread > 0);
    let mut stuck: BTreeMap<u32, u32> = waiting.map(|end| (end.inode, end.unread)).collect();
    for _ in 1..LOOKS {
        if stuck.is_empty() {
            break;
        }
        rest(PAUSE);
        let Ok(unread) = ends::unread() else {
            return BTreeMap::new();
        };
        stuck.retain(|inode, before| unread.get(inode).is_some_and(|now| now >= before));
    }
    stuck
}

fn held(ends: &Ends, stuck: &BTreeMap<u32, u32>) -> Stuck {
    let of = |inode: u32| stuck.get(&inode).copied().unwrap_or(0);
    let sum = |side: fn(&ends::Pair) -> u32| ends.served.iter().map(side).map(of).sum();
    Stuck {
        to_host: sum(|pair| pair.client.inode),
        to_guest: sum(|pair| pair.server.inode),
    }
}
