//! `quantix-kvm-agent --check-config`: what a policy comes to, and what in it is not what it looks like.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use quantix::action::Group;
use quantix::error::{Failure, system_text};

use super::paths::Paths;
use super::{Allow, Policy, RunAs};
use crate::config;

/// Programs that run what they are told to.
const RUNNERS: [&str; 12] = [
    "sh", "bash", "dash", "busybox", "env", "sudo", "su", "find", "xargs", "perl", "python3", "awk",
];

/// Who may write here has the guest.
const DELICATE: [&str; 8] = [
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/root",
    "/boot",
    "/var/spool/cron",
];

/// What a configuration comes to, and whether all of it makes sense.
///
/// # Errors
/// It was named and cannot be read.
pub fn check(named: Option<&Path>) -> Result<(String, bool), Failure> {
    let (config, faults) = config::load(named)?;
    let policy = &config.policy;
    let mut text = match policy.file.as_str() {
        file if named.is_none() && !Path::new(file).exists() => {
            format!("{file} is not there: everything has its default.\n")
        }
        file => format!("{file}:\n"),
    };
    for fault in &faults {
        let _ = writeln!(text, "  wrong: {fault}");
    }
    let (interval, level) = (config.telemetry_interval.as_secs(), config.log_level.word());
    let _ = writeln!(
        text,
        "  telemetry_interval  {interval} s\n  log_level           {level}\n"
    );
    text += &explain(policy);
    let doubts = doubts(policy);
    if !doubts.is_empty() {
        text += "\nIs that meant?\n";
        for doubt in doubts {
            let _ = writeln!(text, "  {doubt}");
        }
    }
    Ok((text, faults.is_empty()))
}

/// What the host may do, a line a group.
pub fn explain(policy: &Policy) -> String {
    let mut text = String::from("The host may ask for Ping and telemetry, and beside that for:\n");
    for (group, word, about) in Group::ALL {
        let mut limits = limits(policy, group);
        let first = match limits.is_empty() {
            true => String::new(),
            false => limits.remove(0),
        };
        let line = match verdict(policy, group) {
            Ok(()) if first.is_empty() => format!("  {word:10} yes  {about}"),
            Ok(()) => format!("  {word:10} yes  {first}"),
            Err(why) => format!("  {word:10} no   {why}"),
        };
        text += line.trim_end();
        text += "\n";
        if policy.allows(group) {
            for limit in limits {
                let _ = writeln!(text, "  {:10}      {limit}", "");
            }
        }
    }
    text
}

fn verdict(policy: &Policy, group: Group) -> Result<(), String> {
    match &policy.allow {
        _ if policy.fault.is_some() => Err("until the file is mended".to_owned()),
        Some(Allow { line, text, .. }) if !policy.allows(group) => {
            Err(format!("line {line}: allow = {text}"))
        }
        _ => Ok(()),
    }
}

fn limits(policy: &Policy, group: Group) -> Vec<String> {
    let paths = |paths: &Paths| -> Vec<_> {
        let lines = paths.lines().iter();
        let shown = lines.map(|(line, path)| format!("line {line}: below {}", path.display()));
        shown.collect()
    };
    let mut all = match group {
        Group::Read => paths(&policy.reads),
        Group::Write => paths(&policy.writes),
        Group::Exec => {
            let commands = policy.commands.iter();
            let commands = commands.map(|one| format!("line {}: {}", one.line, one.text));
            let run_as = policy.run_as.iter();
            let run_as =
                run_as.map(|RunAs { line, users }| format!("line {line}: as {}", users.join(", ")));
            commands.chain(run_as).collect()
        }
        _ => Vec::new(),
    };
    let rates = policy.limits.iter().filter(|limit| limit.group == group);
    all.extend(rates.map(|limit| {
        let often = limit.text.split_whitespace().nth(1).unwrap_or_default();
        format!("line {}: at most {often}", limit.line)
    }));
    all
}

/// What its author may not have meant.
pub fn doubts(policy: &Policy) -> Vec<String> {
    let mut all = Vec::new();
    let writes = policy.writes.lines();
    let restricts =
        policy.allow.is_some() || !policy.reads.lines().is_empty() || !writes.is_empty();
    if policy.fault.is_none() && restricts {
        if policy.allows(Group::Exec) && policy.commands.is_empty() {
            all.push(
                "exec is allowed without `command` lines: a command may do whatever its user may, \
                 and root all that the other lines forbid"
                    .to_owned(),
            );
        }
        if policy.allows(Group::Write) && writes.is_empty() {
            all.push(
                "write is allowed without `write_path` lines: who may write /etc may do everything"
                    .to_owned(),
            );
        }
    }
    for (line, path) in writes {
        let is_in =
            |delicate: &&&str| Path::new(delicate).starts_with(path) || path.starts_with(delicate);
        if let Some(found) = DELICATE.iter().find(is_in) {
            let path = path.display();
            all.push(format!(
                "line {line}: write_path = {path}: who may write in {found} may do everything, and change this file"
            ));
        }
    }
    for command in &policy.commands {
        let program = command.program();
        let name = program.rsplit('/').next().unwrap_or_default();
        if let Err(e) = fs::metadata(program) {
            let why = system_text(&e);
            all.push(format!("line {}: {program}: {why}", command.line));
        } else if RUNNERS.contains(&name) && command.is_loose() {
            all.push(format!(
                "line {}: {name} runs what its arguments say, and these may be anything",
                command.line
            ));
        }
    }
    let groups = Group::ALL.into_iter().map(|(group, ..)| group);
    for group in groups.filter(|group| !policy.allows(*group) && policy.fault.is_none()) {
        if let Some(limit) = limits(policy, group).first() {
            let word = group.word();
            all.push(format!(
                "{limit}: counts for nothing, {word} is not allowed"
            ));
        }
    }
    all
}
