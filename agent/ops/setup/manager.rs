//! Who has an interface in this guest: one table, in the order in which one stands on the next. By evidence of what
//! runs, not by what is installed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use quantix::error::{Code, Failure};
use quantix::rt::route::Link;

use super::files;
use super::plan::Plan;
use crate::ops::read_regular;

/// Bytes of a file that is changed.
pub const MAX_FILE: usize = 256 * 1024;

/// Files that a change may touch, and bytes of a path: the answer names them all.
const MAX_FILES: usize = 64;
const MAX_PATH: usize = 512;

/// What is looked at.
pub struct Site<'a> {
    /// Everything is below it.
    pub root: &'a Path,
    pub link: &'a Link,
    /// Names of processes.
    pub running: &'a [String],
    /// What a program says, if it succeeds.
    pub ask: &'a dyn Fn(&str, &[&str]) -> Option<String>,
}

/// Who configures interfaces. In commands IFACE and PROFILE stand for their names; one with PROFILE is left out
/// where there is none.
pub struct Manager {
    pub name: &'static str,
    /// What it calls what it has for the interface, if it has it.
    has: fn(&Site) -> Option<String>,
    /// It takes an interface that nobody has.
    takes: fn(&Site) -> bool,
    edit: fn(&Site, &Plan, &str) -> Result<Edit, Failure>,
    /// Before files change. It may fail: the interface may be down already.
    pub down: &'static [&'static str],
    pub up: &'static [&'static str],
    /// Once the old files are there again.
    pub back: &'static [&'static str],
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Edit {
    pub files: Vec<Change>,
    /// By the manager's own program, behind that.
    pub commands: Vec<Vec<String>>,
}

/// A file and what it becomes.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Without the root.
    pub path: PathBuf,
    /// `None`: whatever the manager makes of it.
    pub text: Option<String>,
    /// Of a new one.
    pub mode: u32,
}

/// In this order: netplan writes files for the two behind it.
pub const MANAGERS: [Manager; 4] = [
    Manager {
        name: "netplan",
        has: netplan_has,
        takes: |site| !netplan_files(site.root).is_empty() && has_program(site.root, "netplan"),
        edit: netplan_edit,
        down: &[],
        up: &["netplan apply"],
        back: &["netplan apply"],
    },
    Manager {
        name: "NetworkManager",
        has: |site| nm_profile(site).filter(|profile| !profile.starts_with(NETPLAN_NM)),
        // What it does not even look at it was told to leave alone.
        takes: |site| nm_device(site).is_some(),
        edit: nm_edit,
        down: &[],
        up: &[
            "nmcli connection reload",
            "nmcli --wait 45 connection up id quantix-IFACE ifname IFACE",
        ],
        back: &[
            "nmcli connection reload",
            "nmcli --wait 45 connection up id PROFILE ifname IFACE",
        ],
    },
    Manager {
        name: "systemd-networkd",
        has: |site| networkd_file(site).filter(|file| netplan_id(file).is_none()),
        takes: is_networkd_there,
        edit: networkd_edit,
        down: &[],
        up: &["networkctl reload", "networkctl reconfigure IFACE"],
        back: &["networkctl reload", "networkctl reconfigure IFACE"],
    },
    Manager {
        name: "ifupdown",
        has: ifupdown_has,
        takes: |site| has_ifup(site) && site.root.join(INTERFACES).exists(),
        edit: ifupdown_edit,
        // Debian's word and busybox's.
        down: &["ifdown --force IFACE", "ifdown -f IFACE"],
        up: &["ifup IFACE"],
        back: &["ifup IFACE"],
    },
];

impl Manager {
    /// Who has the interface, and how it is called there; or who takes it, which has no name for it.
    ///
    /// # Errors
    /// UNSUPPORTED, with what was looked for.
    pub fn find(site: &Site) -> Result<(&'static Self, String), Failure> {
        for manager in &MANAGERS {
            if let Some(profile) = (manager.has)(site) {
                return Ok((manager, profile));
            }
        }
        let all = &MANAGERS;
        if let Some(manager) = all.iter().find(|manager| (manager.takes)(site)) {
            return Ok((manager, String::new()));
        }
        let name = site.link.name.to_string_lossy();
        let why = format!(
            "nothing in this guest configures {name}: neither NetworkManager nor systemd-networkd \
            runs and has it, and neither netplan's nor ifupdown's programs and files are there \
            (/etc/netplan/*.yaml, /etc/network/interfaces)"
        );
        Err(Failure::new(Code::Unsupported, why))
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        MANAGERS.iter().find(|manager| manager.name == name)
    }

    /// What is to be done for a plan.
    ///
    /// # Errors
    /// Its files cannot be read, or have no place for it.
    pub fn edit(&self, site: &Site, plan: &Plan, profile: &str) -> Result<Edit, Failure> {
        let mut edit = (self.edit)(site, plan, profile)?;
        let is_long = |file: &Change| file.path.as_os_str().len() > MAX_PATH;
        if edit.files.len() > MAX_FILES || edit.files.iter().any(is_long) {
            let why = format!(
                "{} has more than {MAX_FILES} files here, or one whose path has more than \
                {MAX_PATH} bytes",
                self.name
            );
            return Err(Failure::new(Code::TooLarge, why));
        }
        if !matches!(self.name, "netplan" | "NetworkManager") {
            edit.files.extend(resolver(site, plan, self.name)?);
        }
        Ok(edit)
    }
}

/// A command's words.
pub fn words(command: &str, interface: &str, profile: &str) -> Option<Vec<String>> {
    if profile.is_empty() && command.contains("PROFILE") {
        return None;
    }
    let word = |word: &str| {
        let word = word.replace("IFACE", interface);
        if word == "PROFILE" {
            profile.to_owned()
        } else {
            word
        }
    };
    Some(command.split(' ').map(word).collect())
}

fn runs(site: &Site, name: &str) -> bool {
    // The kernel keeps 15 bytes of it.
    let name = name.get(..15).unwrap_or(name);
    site.running.iter().any(|running| running == name)
}

fn has_program(root: &Path, name: &str) -> bool {
    let places = ["usr/sbin", "usr/bin", "sbin", "bin"];
    places
        .iter()
        .any(|place| root.join(place).join(name).exists())
}

fn read(site: &Site, path: &str) -> Option<String> {
    let bytes = read_regular(&site.root.join(path), MAX_FILE)?;
    String::from_utf8(bytes).ok()
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.take(MAX_FILES + 1).collect();
    names.sort_unstable();
    names
}

fn refuse<T>(why: String) -> Result<T, Failure> {
    Err(Failure::new(Code::Unsupported, why))
}

// systemd-networkd

const NETWORKD: &str = "etc/systemd/network";

fn is_networkd_there(site: &Site) -> bool {
    runs(site, "systemd-networkd")
}

/// The file that it goes by.
fn networkd_file(site: &Site) -> Option<String> {
    if !is_networkd_there(site) {
        return None;
    }
    let state = read(
        site,
        &format!("run/systemd/netif/links/{}", site.link.index),
    )?;
    let value = |key: &str| {
        let mut lines = state.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    if value("ADMIN_STATE") == Some("unmanaged") {
        return None;
    }
    let file = value("NETWORK_FILE").filter(|file| !file.is_empty())?;
    Some(file.to_owned())
}

fn networkd_edit(site: &Site, plan: &Plan, profile: &str) -> Result<Edit, Failure> {
    let name = format!("00-quantix-{}.network", plan.interface);
    let file_name = Path::new(profile).file_name().and_then(OsStr::to_str);
    let old = file_name.unwrap_or_default();
    if !old.is_empty() && *old < *name {
        return refuse(format!(
            "{profile} would be read before {name}, and counts: rename it"
        ));
    }
    let text = read(site, profile.trim_start_matches('/')).unwrap_or_default();
    let text = files::networkd(plan, &files::networkd_kept(&text));
    Ok(Edit {
        files: vec![Change {
            path: Path::new(NETWORKD).join(name),
            text: Some(text),
            mode: 0o644,
        }],
        ..Default::default()
    })
}

// NetworkManager

const NM: &str = "etc/NetworkManager/system-connections";
const NETPLAN_NM: &str = "netplan-";

/// What its resolv.conf begins with.
const NM_WROTE: &str = "# Generated by NetworkManager";

/// What it says of the interface, if it looks after it: whether another has configured it, which it only watches, and
/// the profile, empty for none.
fn nm_device(site: &Site) -> Option<(bool, String)> {
    if !runs(site, "NetworkManager") {
        return None;
    }
    let name = site.link.name.to_str()?;
    let fields = "GENERAL.STATE,GENERAL.CONNECTION";
    let said = (site.ask)("nmcli", &["-e", "no", "-g", fields, "device", "show", name])?;
    let mut lines = said.lines();
    let (number, state) = lines.next()?.split_once(' ')?;
    // NMDeviceState: 10 is unmanaged, and more is more.
    let is_managed = number.parse::<u32>().is_ok_and(|number| number > 10);
    let profile = lines.next().unwrap_or_default();
    let is_one = is_managed && profile.len() <= MAX_PATH;
    is_one.then(|| (state.contains("externally"), profile.to_owned()))
}

/// The profile that it uses for the interface, empty for none.
fn nm_profile(site: &Site) -> Option<String> {
    let (is_external, profile) = nm_device(site)?;
    (!is_external).then_some(profile)
}

fn nm_edit(site: &Site, plan: &Plan, _: &str) -> Result<Edit, Failure> {
    if !site.link.kind.is_empty() && site.link.kind != "veth" {
        let (name, kind) = (&plan.interface, &site.link.kind);
        return refuse(format!(
            "{name} is a {kind}, of which NetworkManager's profile says more than addresses; \
            use nmcli(1)"
        ));
    }
    let name = files::profile(&plan.interface) + ".nmconnection";
    Ok(Edit {
        files: vec![Change {
            path: Path::new(NM).join(name),
            text: Some(files::keyfile(plan)),
            mode: 0o600,
        }],
        ..Default::default()
    })
}

// netplan

const NETPLAN: &str = "etc/netplan";

/// What `netplan set` writes what it finds nowhere to.
const NETPLAN_SET: &str = "70-netplan-set.yaml";

fn netplan_files(root: &Path) -> Vec<String> {
    let mut names = names(&root.join(NETPLAN));
    names.retain(|name| name.ends_with(".yaml"));
    names
}

/// What netplan calls the interface that this file of systemd-networkd is for.
fn netplan_id(file: &str) -> Option<&str> {
    let name = file.rsplit('/').next()?;
    name.strip_prefix("10-netplan-")?.strip_suffix(".network")
}

fn netplan_has(site: &Site) -> Option<String> {
    if let Some(file) = networkd_file(site) {
        return netplan_id(&file).map(str::to_owned);
    }
    let profile = nm_profile(site)?;
    profile.strip_prefix(NETPLAN_NM).map(str::to_owned)
}

fn netplan_edit(site: &Site, plan: &Plan, profile: &str) -> Result<Edit, Failure> {
    let section = match &*site.link.kind {
        "" | "veth" => "ethernets",
        "bridge" => "bridges",
        "bond" => "bonds",
        "vlan" => "vlans",
        kind => return refuse(format!("{}: netplan has no {kind} here", plan.interface)),
    };
    let id = match profile {
        "" => &plan.interface,
        id => id,
    };
    let id = id.replace('.', "\\.");
    let set = |value| {
        let value = format!("{section}.{id}.{value}");
        vec!["netplan".to_owned(), "set".to_owned(), value]
    };
    let mut names = netplan_files(site.root);
    if !names.iter().any(|name| name == NETPLAN_SET) {
        names.push(NETPLAN_SET.to_owned());
    }
    let change = |name| Change {
        path: Path::new(NETPLAN).join(name),
        text: None,
        mode: 0o600,
    };
    Ok(Edit {
        files: names.into_iter().map(change).collect(),
        commands: files::netplan(plan).into_iter().map(set).collect(),
    })
}

// ifupdown

const INTERFACES: &str = "etc/network/interfaces";

fn has_ifup(site: &Site) -> bool {
    has_program(site.root, "ifup") && has_program(site.root, "ifdown")
}

/// The files of interfaces(5), the main one first.
fn interfaces(site: &Site) -> Vec<String> {
    let mut all = vec![INTERFACES.to_owned()];
    let mut at = 0;
    while let Some(path) = all.get(at).cloned().filter(|_| all.len() <= MAX_FILES) {
        at += 1;
        let text = read(site, &path).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (head, pattern) = (words.next(), words.next().unwrap_or_default());
            let is_directory = match head {
                Some("source") => false,
                Some("source-directory" | "source-dir") => true,
                _ => continue,
            };
            let base = Path::new(&path).parent().unwrap_or(Path::new(""));
            let pattern = match pattern.strip_prefix('/') {
                Some(absolute) => PathBuf::from(absolute),
                None => base.join(pattern),
            };
            for found in matching(site, &pattern, is_directory) {
                if !all.contains(&found) {
                    all.push(found);
                }
            }
        }
    }
    all
}

/// Files that a `source` line means: one, or those of a directory. Of wordexp(3) a * in the last component.
fn matching(site: &Site, pattern: &Path, is_directory: bool) -> Vec<String> {
    let name = pattern.file_name().and_then(OsStr::to_str);
    let (directory, name) = match (is_directory, name) {
        (true, _) => (pattern, "*"),
        (false, Some(name)) => (pattern.parent().unwrap_or(pattern), name),
        (false, None) => return Vec::new(),
    };
    let (start, end) = name.split_once('*').unwrap_or((name, ""));
    let is_one = |of: &String| match name.contains('*') {
        true => of.len() >= start.len() + end.len() && of.starts_with(start) && of.ends_with(end),
        false => of == name,
    };
    let is_plain = |of: &String| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        !of.starts_with('.') && (!is_directory || of.bytes().all(inside))
    };
    let names = names(&site.root.join(directory)).into_iter();
    names
        .filter(|name| is_one(name) && is_plain(name))
        .filter_map(|name| Some(directory.join(name).to_str()?.to_owned()))
        .collect()
}

fn ifupdown_has(site: &Site) -> Option<String> {
    let name = site.link.name.to_str()?;
    if !has_ifup(site) {
        return None;
    }
    let mut all = interfaces(site).into_iter();
    let is_in = |path: &String| {
        let text = read(site, path).unwrap_or_default();
        files::stanzas(&text, name).found
    };
    all.find(is_in)
}

fn ifupdown_edit(site: &Site, plan: &Plan, profile: &str) -> Result<Edit, Failure> {
    let main = match profile {
        "" => INTERFACES,
        profile => profile,
    };
    let mut edit = Edit::default();
    let mut kept = Vec::new();
    let mut is_auto = false;
    for path in interfaces(site) {
        let Some(text) = read(site, &path) else {
            if path == main {
                return refuse(format!("/{path} is no text of 256 KiB at most"));
            }
            continue;
        };
        let stanzas = files::stanzas(&text, &plan.interface);
        is_auto |= stanzas.is_auto;
        kept.extend(stanzas.kept);
        if stanzas.found || path == main {
            edit.files.push(Change {
                path: PathBuf::from(path),
                text: Some(stanzas.rest),
                mode: 0o644,
            });
        }
    }
    let main = Path::new(main);
    if let Some(file) = edit.files.iter_mut().find(|file| file.path == main)
        && let Some(text) = &mut file.text
    {
        if !text.is_empty() && !text.ends_with("\n\n") {
            text.push('\n');
        }
        *text += &files::ifupdown(plan, is_auto, &kept);
    }
    Ok(edit)
}

/// resolv.conf(5), where nobody else writes it.
fn resolver(site: &Site, plan: &Plan, manager: &str) -> Result<Option<Change>, Failure> {
    const PATH: &str = "etc/resolv.conf";
    let others = match manager {
        "ifupdown" => has_program(site.root, "resolvconf"),
        _ => runs(site, "systemd-resolved"),
    };
    if plan.dns.is_empty() || others {
        return Ok(None);
    }
    let is_there = fs::symlink_metadata(site.root.join(PATH));
    if is_there.is_ok_and(|meta| !meta.is_file()) {
        return Ok(None);
    }
    let text = read(site, PATH).unwrap_or_default();
    if text.starts_with(NM_WROTE) && runs(site, "NetworkManager") {
        return refuse(format!(
            "NetworkManager writes /{PATH}, and {manager} has {}: leave out its DNS servers, or give them to \
            an interface that NetworkManager has",
            plan.interface
        ));
    }
    Ok(Some(Change {
        path: PathBuf::from(PATH),
        text: Some(files::resolv_conf(&text, &plan.dns)),
        mode: 0o644,
    }))
}
