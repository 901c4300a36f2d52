//! How an interface is configured, from now on and at boot, through what manages it in this guest; undone unless the
//! host confirms it.
//!
//! A guard makes the change, looks for it in the kernel, and waits for the confirm: a process that outlives the request,
//! the session and the agent. Whatever ends it, the record on disk is left, and who finds one that nobody
//! guards undoes it: the guard's parent, the next request, the next agent, at the latest after a boot.

mod files;
mod manager;
mod plan;
mod record;
#[cfg(test)]
mod tests;

use std::ffi::CStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write as _};
use std::path::Path;
use std::time::Duration;

use prost::Message;
use quantix::error::{Code, Failure, system_text};
use quantix::message::agent::{ConfigureNetwork, NetworkChange, NetworkOutcome, NetworkState};
use quantix::rt::route::{Address, Link, Network};
use quantix::rt::sys::fd::{Wait, pipe, rest, try_lock, wait};
use quantix::rt::sys::netlink::Listener;
use quantix::rt::sys::process::{self, Keep, Signal, Watch, set_name};
use quantix::rt::tool::Tool;
use quantix::rt::{clock, random};

use super::network::{has_lease, of, routes};
use crate::names::processes;
use manager::{Edit, Manager, Site, words};
use plan::Plan;
use record::{Home, Record, Stage};

/// Until the confirm, in seconds.
const USUAL: u32 = 60;
const LEAST: u32 = 5;
const MOST: u32 = 3600;

/// For one program of a manager: a DHCP client that nobody answers takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// For the kernel to have what was asked for, once its manager was told; and for what was before.
const SHOWN: Duration = Duration::from_secs(30);
const STEADY: Duration = Duration::from_secs(1);
const BACK: Duration = Duration::from_secs(10);

/// A change that is undone for somebody who waits for it is by then.
const UNDONE: Duration = Duration::from_secs(150);

/// Addresses that are told.
const MAX_ADDRESSES: usize = 64;

/// Characters of what a program says.
const MAX_WORDS: usize = 400;

/// What a guard is called.
const NAME: &CStr = c"qx-network";
const GUARD: &str = "qx-network";

/// Makes a change, or settles one.
pub fn configure(request: &ConfigureNetwork) -> Result<NetworkChange, Failure> {
    let home = Home::new(Path::new("/"));
    match request.confirm {
        0 => begin(home, request),
        _ => settle(&home, request),
    }
}

/// A change is left that nobody guards: [`recover`] has something to do.
pub fn is_left() -> bool {
    let home = Home::new(Path::new("/"));
    home.left().is_some() && matches!(lock(&home), Ok(Some(_)))
}

/// In a child: undoes what is left.
pub fn recover() -> i32 {
    set_name(NAME);
    let home = Home::new(Path::new("/"));
    match lock(&home) {
        Ok(Some(_lock)) => {
            let why = "the guest or its agent was started again before the change was confirmed";
            undo(&home, why);
            0
        }
        _ => 1,
    }
}

fn lock(home: &Home) -> Result<Option<File>, Failure> {
    let locked = home
        .open()
        .and_then(|file| try_lock(&file).map(|is| is.then_some(file)));
    locked.map_err(|e| Failure::system("lock", &home.shown(), &e))
}

fn read_network() -> Result<Network, Failure> {
    Network::read().map_err(|e| Failure::system("ask for", "the network", &e))
}

/// What runs beside the request, and outlives it.
struct Guard {
    home: Home,
    record: Record,
    plan: Plan,
    manager: &'static Manager,
    edit: Edit,
    seconds: u32,
}

fn begin(home: Home, request: &ConfigureNetwork) -> Result<NetworkChange, Failure> {
    let plan = Plan::read(request)?;
    let seconds = match request.confirm_seconds {
        0 => USUAL,
        seconds if (LEAST..=MOST).contains(&seconds) => seconds,
        _ => {
            let why = format!("a confirm is waited for from {LEAST} s to {MOST} s");
            return Err(Failure::new(Code::Invalid, why));
        }
    };
    let Some(lock) = lock(&home)? else {
        return Err(Failure::new(Code::Busy, under_way(&home)));
    };
    undo(&home, "nobody was left to wait for its confirm");
    let network = read_network()?;
    let link = plan.fit(&network)?;
    let running: Vec<String> = processes().into_iter().map(|(_, name)| name).collect();
    let site = Site {
        root: Path::new("/"),
        link,
        running: &running,
        ask: &ask,
    };
    let (manager, profile) = Manager::find(&site)?;
    let edit = manager.edit(&site, &plan, &profile)?;
    let change = NetworkChange {
        change: random::number().max(1),
        interface: plan.interface.clone(),
        manager: manager.name.to_owned(),
        profile,
        before: Some(state(&network, link)),
        ..Default::default()
    };
    let guard = Guard {
        home,
        record: Record {
            request: request.clone(),
            change,
            ..Default::default()
        },
        plan,
        manager,
        edit,
        seconds,
    };
    let system = |e| Failure::system("start", "a guard for the change", &e);
    let (mut said, end) = pipe().map_err(system)?;
    let keep = Keep::from(&[&lock, &end]);
    process::spawn(keep, || guard.watch(&lock, end)).map_err(system)?;
    drop(lock);
    let mut bytes = Vec::new();
    let read = said.read_to_end(&mut bytes).is_ok() && !bytes.is_empty();
    let change = NetworkChange::decode(&bytes[..]).ok().filter(|_| read);
    change.ok_or_else(|| {
        let why = "the guard of the change was ended; the change is being undone";
        Failure::new(Code::Internal, why)
    })
}

fn under_way(home: &Home) -> String {
    match home.read(Stage::Pending) {
        Some(of) => format!(
            "a change of {} is to be confirmed or undone first: `qx-node network VM confirm {:x}`",
            of.change.interface, of.change.change
        ),
        None => "another change of the network is under way; try again later".to_owned(),
    }
}

impl Guard {
    /// In the guard's parent, which is there for the time when the guard is not.
    fn watch(mut self, lock: &File, end: File) -> i32 {
        set_name(NAME);
        let keep = Keep::from(&[lock, &end]);
        let home = Home::new(Path::new("/"));
        // With it goes our end of the pipe, so that its own is the last.
        let guard = process::spawn(keep, || self.run(end));
        if let Ok(pid) = guard {
            let _ = process::wait(pid);
        }
        undo(&home, "the guest has ended what waited for its confirm");
        0
    }

    /// In the guard.
    fn run(&mut self, mut end: File) -> i32 {
        let Ok(watch) = Watch::new() else { return 1 };
        self.record.guard = i32::try_from(std::process::id()).unwrap_or(0);
        let report = match self.make() {
            Ok(network) => {
                let change = &mut self.record.change;
                change.set_outcome(NetworkOutcome::Pending);
                change.after = find(&network, &self.plan.interface);
                change.remaining_seconds = self.seconds;
                change.clone()
            }
            Err(why) => match undo(&self.home, &why) {
                Some(change) => change,
                None => NetworkChange {
                    outcome: NetworkOutcome::Undone.into(),
                    reason: why,
                    ..self.record.change.clone()
                },
            },
        };
        let is_heard = end.write_all(&report.encode_to_vec()).is_ok();
        drop(end);
        if report.outcome() == NetworkOutcome::Undone {
            return 0;
        }
        let why = match is_heard {
            true => self.wait(&watch),
            false => "whoever asked for it has gone".to_owned(),
        };
        undo(&self.home, &why);
        0
    }

    fn make(&mut self) -> Result<Network, String> {
        self.home.begin(&mut self.record, &self.edit.files)?;
        let (name, profile) = (&self.plan.interface, &self.record.change.profile);
        for command in self.manager.down {
            let _ = tell(words(command, name, profile).unwrap_or_default());
        }
        let before = self.record.change.before.clone().unwrap_or_default();
        if profile.is_empty() {
            // By hand: nobody takes them away.
            for old in before.addresses.iter().filter(|old| !old.dynamic) {
                let line = format!("ip addr del {} dev {name}", old.address);
                let _ = tell(line.split(' ').map(str::to_owned).collect());
            }
        }
        self.home.write_files(&self.record, &self.edit.files)?;
        for command in std::mem::take(&mut self.edit.commands) {
            tell(command)?;
        }
        let lacks = |network: &Network| {
            let lease = lease(network, name);
            self.plan.lacks(network, &before, lease)
        };
        for command in self.manager.up {
            let told = tell(words(command, name, profile).unwrap_or_default());
            // With what it has not done, where that says more.
            told.map_err(|why| match until(Duration::ZERO, &lacks) {
                Err(lacks) => format!("{why}; {lacks}"),
                Ok(_) => why,
            })?;
        }
        until(SHOWN, &lacks)?;
        // A manager that works on when it has answered may only just begin.
        rest(STEADY);
        until(SHOWN, &lacks)
    }

    /// Until the change is confirmed or its time is up: why it is undone, if it still can be.
    fn wait(&self, watch: &Watch) -> String {
        let end = clock::now() + Duration::from_secs(self.seconds.into());
        loop {
            let left = end.since(clock::now());
            if left.is_zero() {
                return format!("no confirm has come within {} s", self.seconds);
            }
            let _ = wait(&mut [Wait::read(watch)], Some(left));
            if watch.take() {
                return "it was taken back".to_owned();
            }
        }
    }
}

/// Waits for the kernel.
fn until(
    patience: Duration,
    lacks: &dyn Fn(&Network) -> Option<String>,
) -> Result<Network, String> {
    let mut told = Listener::network().ok();
    let end = clock::now() + patience;
    loop {
        let network = Network::read().map_err(|e| format!("the network: {}", system_text(&e)))?;
        let Some(why) = lacks(&network) else {
            return Ok(network);
        };
        let left = end.since(clock::now());
        if left.is_zero() {
            return Err(why);
        }
        // Of a lease nothing is told.
        let left = left.min(Duration::from_millis(500));
        let _ = wait(&mut [Wait::read_any(told.as_ref())], Some(left));
        if let Some(told) = &mut told {
            told.drain();
        }
    }
}

fn lease(network: &Network, name: &str) -> bool {
    let mut links = network.links.iter();
    links.any(|link| *link.name == *name && has_lease(link))
}

fn find(network: &Network, name: &str) -> Option<NetworkState> {
    let mut links = network.links.iter();
    let link = links.find(|link| *link.name == *name)?;
    Some(state(network, link))
}

fn state(network: &Network, link: &Link) -> NetworkState {
    let own = |address: &&Address| address.index == link.index && address.is_global();
    let addresses = network.addresses.iter().filter(own).take(MAX_ADDRESSES);
    let mut routes = routes(network);
    routes.retain(|route| *route.interface == *link.name);
    NetworkState {
        addresses: addresses.map(of).collect(),
        routes,
        mtu: link.mtu,
    }
}

/// Has a program do something.
fn tell(words: Vec<String>) -> Result<(), String> {
    let [name, args @ ..] = &words[..] else {
        return Ok(());
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Tool::new(name, &args, PATIENCE).succeed().map_err(|why| {
        let why: String = why.chars().take(MAX_WORDS).collect();
        format!("{}: {why}", words.join(" "))
    })
}

fn ask(name: &str, args: &[&str]) -> Option<String> {
    let said = Tool::new(name, args, BACK).run().ok()?;
    let text = said.is_success().then_some(said.output)?;
    String::from_utf8(text).ok()
}

/// Undoes the change that is left, if there is one and nobody else settles it. With the lock.
fn undo(home: &Home, why: &str) -> Option<NetworkChange> {
    if home.left()? == Stage::Pending {
        home.turn(Stage::Pending, Stage::Undoing).ok()?;
    }
    let Some(mut record) = home.read(Stage::Undoing) else {
        // Not ours, or spoilt: it is out of the way.
        let _ = home.turn(Stage::Undoing, Stage::Undone);
        return None;
    };
    let change = &record.change;
    let (name, profile) = (change.interface.clone(), change.profile.clone());
    let manager = Manager::named(&change.manager);
    let (down, back) = manager.map_or((&[][..], &[][..]), |of| (of.down, of.back));
    for command in down {
        let _ = tell(words(command, &name, &profile).unwrap_or_default());
    }
    let mut problem = home.restore(&record);
    for command in back {
        let told = tell(words(command, &name, &profile).unwrap_or_default());
        // Who did not have the interface before has nothing to do with it.
        if let Err(why) = told
            && !profile.is_empty()
        {
            problem = problem.or(Some(why));
        }
    }
    if record.is_of_this_boot {
        problem = problem.or(put_back(&record));
    }
    let change = &mut record.change;
    change.after = Network::read().ok().and_then(|of| find(&of, &name));
    change.set_outcome(NetworkOutcome::Undone);
    change.remaining_seconds = 0;
    why.clone_into(&mut change.reason);
    change.problem = problem.unwrap_or_default();
    if let Err(e) = home.finish(&record) {
        let why = format!("{}: {}", home.shown(), system_text(&e));
        record.change.problem = why;
    }
    Some(record.change)
}

/// What an administrator gave the interface by hand no manager brings back. The first fault.
fn put_back(record: &Record) -> Option<String> {
    let change = &record.change;
    let name = &*change.interface;
    let before = change.before.clone().unwrap_or_default();
    let plan = Plan::read(&record.request).ok();
    let missing = |network: &Network| todo(network, name, &before, plan.as_ref());
    // Who manages it is on its way.
    let patience = match &*change.profile {
        "" => Duration::ZERO,
        _ => BACK,
    };
    let waits = |network: &Network| missing(network).first().map(|line| line.join(" "));
    let _ = until(patience, &waits);
    let mut fault = None;
    let network = Network::read().unwrap_or_default();
    for line in missing(&network) {
        if let Err(why) = tell(line.clone()) {
            // Its manager, which goes on by itself, may have come first.
            let network = Network::read().unwrap_or_default();
            if missing(&network).contains(&line) {
                fault.get_or_insert(why);
            }
        }
    }
    if before.addresses.iter().any(|of| of.dynamic) {
        let none = |network: &Network| {
            let now = find(network, name).unwrap_or_default();
            let is_none = now.addresses.is_empty();
            is_none.then(|| "no address has come by DHCP yet".to_owned())
        };
        fault = fault.or(until(BACK, &none).err());
    }
    fault
}

/// Commands of ip(8) after which an interface is as it was.
fn todo(
    network: &Network,
    name: &str,
    before: &NetworkState,
    plan: Option<&Plan>,
) -> Vec<Vec<String>> {
    let mut todo = Vec::new();
    let Some(link) = network.links.iter().find(|link| *link.name == *name) else {
        return todo;
    };
    let mut ip = |line: String| {
        let line = format!("ip {line} dev {name}");
        todo.push(line.split(' ').map(str::to_owned).collect());
    };
    let now = state(network, link);
    let was = |text: &str| before.addresses.iter().any(|of| of.address == text);
    for net in plan.iter().flat_map(|plan| &plan.addresses) {
        let text = net.to_string();
        if !was(&text) && now.addresses.iter().any(|of| of.address == text) {
            ip(format!("addr del {text}"));
        }
    }
    if before.mtu != link.mtu {
        ip(format!("link set mtu {}", before.mtu));
    }
    if !link.is_up() && !before.addresses.is_empty() {
        ip("link set up".to_owned());
    }
    for old in before.addresses.iter().filter(|old| !old.dynamic) {
        if !now.addresses.iter().any(|of| of.address == old.address) {
            ip(format!("addr add {}", old.address));
        }
    }
    for old in &before.routes {
        let is_there = now.routes.iter().any(|of| of.gateway == old.gateway);
        let family = if old.ipv6 { "-6" } else { "-4" };
        if !old.gateway.is_empty() && !is_there {
            let (gateway, metric) = (&old.gateway, old.metric);
            // Another interface may have one with the same metric, which `add` takes for this one.
            ip(format!(
                "{family} route append default via {gateway} metric {metric}"
            ));
        }
    }
    todo
}

/// Has a guard look at what has become of its change.
fn wake(guard: i32) {
    // Its number may have become another's.
    let is_one = |(pid, name): &(i32, String)| *pid == guard && name == GUARD;
    if processes().iter().any(is_one) {
        process::signal(guard, Signal::TERMINATE);
    }
}

/// Confirms a change, or undoes it.
fn settle(home: &Home, request: &ConfigureNetwork) -> Result<NetworkChange, Failure> {
    let id = request.confirm;
    let at = |stage| home.read(stage).filter(|of| of.change.change == id);
    let Some(record) = at(Stage::Pending) else {
        return settled(home, id);
    };
    let mut reason = "it was taken back".to_owned();
    if !request.undo {
        let plan = Plan::read(&record.request)?;
        let mut change = record.change.clone();
        let before = change.before.clone().unwrap_or_default();
        let lacks =
            |network: &Network| plan.lacks(network, &before, lease(network, &change.interface));
        match until(Duration::ZERO, &lacks) {
            Ok(network) => {
                let turned = home.turn(Stage::Pending, Stage::Previous);
                return match turned {
                    Ok(()) => {
                        wake(record.guard);
                        change.set_outcome(NetworkOutcome::Confirmed);
                        change.after = find(&network, &change.interface);
                        change.remaining_seconds = 0;
                        Ok(change)
                    }
                    Err(e) if e.kind() == ErrorKind::NotFound => settled(home, id),
                    Err(e) => Err(Failure::system("keep", &home.shown(), &e)),
                };
            }
            Err(why) => reason = format!("when it was confirmed: {why}"),
        }
    }
    wake(record.guard);
    let end = clock::now() + UNDONE;
    let lock = loop {
        match lock(home)? {
            Some(lock) => break lock,
            None if clock::now() < end => rest(Duration::from_millis(50)),
            None => {
                let why = "the change is still being undone; `qx-node network VM` shows how it is";
                return Err(Failure::new(Code::TimedOut, why));
            }
        }
    };
    // Its guard may have been killed.
    undo(home, &reason);
    drop(lock);
    settled(home, id).map(|change| match change.outcome() {
        NetworkOutcome::Undone => NetworkChange { reason, ..change },
        _ => change,
    })
}

/// What has become of a change that is no longer to be confirmed.
fn settled(home: &Home, id: u64) -> Result<NetworkChange, Failure> {
    for (stage, outcome) in [
        (Stage::Undone, NetworkOutcome::Undone),
        (Stage::Previous, NetworkOutcome::Confirmed),
    ] {
        if let Some(record) = home.read(stage)
            && record.change.change == id
        {
            let mut change = record.change;
            change.set_outcome(outcome);
            return Ok(change);
        }
    }
    match home.left() {
        Some(Stage::Undoing) => Err(Failure::new(Code::Busy, "a change is being undone")),
        _ => {
            let why = format!("no change {id:x} is to be confirmed");
            Err(Failure::new(Code::NotFound, why))
        }
    }
}
