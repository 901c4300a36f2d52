//! Guests whose agent answers and whose disk or process 1 does not, by what their reports say. Where that is
//! wanted it is an event; `qx-node vms` shows it in any case.

use std::time::Duration;

use quantix::message::agent::Telemetry;
use quantix::message::node::EventKind;
use quantix::time::Time;

use super::broker::VmKey;
use super::{Daemon, journal};

/// Mounts that are told of by name.
const NAMED: usize = 4;

/// Characters of a name.
const NAME: usize = 64;

/// Between two events about one guest.
const PAUSE: Duration = Duration::from_secs(5);

/// What is wrong with a guest, as far as that is known.
#[derive(Debug, Default)]
pub struct Watch {
    /// By its last report, and by the one before.
    last: Vec<String>,
    before: Vec<String>,
    /// What an event has told of, and when.
    told: String,
    told_at: Option<Time>,
}

impl Watch {
    /// A report has come.
    pub fn on_report(&mut self, report: &Telemetry) {
        self.before = std::mem::replace(&mut self.last, ills(report));
    }

    /// What is wrong in two reports that follow each other: a disk may be slow once.
    pub fn ills(&self) -> String {
        let lasting = self.last.iter().filter(|ill| self.before.contains(ill));
        let lasting: Vec<&str> = lasting.map(String::as_str).collect();
        lasting.join("; ")
    }

    /// What has changed since it was asked last: what is wrong now, empty for nothing. A guest that changes from
    /// report to report is heard now and then.
    fn news(&mut self, now: Time) -> Option<&str> {
        let ills = self.ills();
        let is_early = self.told_at.is_some_and(|at| now.since(at) < PAUSE);
        if ills == self.told || is_early {
            return None;
        }
        self.told = ills;
        self.told_at = Some(now);
        Some(&self.told)
    }
}

fn ills(report: &Telemetry) -> Vec<String> {
    let name = |text: &str| text.chars().take(NAME).collect::<String>();
    let mut ills = Vec::new();
    if report.init_hangs {
        ills.push("its process 1 takes no process that has died".to_owned());
    }
    let stuck = report.stuck_mounts.iter().take(NAMED);
    ills.extend(stuck.map(|mount| format!("its disk at {} does not answer", name(mount))));
    let sick = report.disks.iter().filter(|disk| !disk.problem.is_empty());
    ills.extend(sick.take(NAMED).map(|disk| {
        let (mount, problem) = (name(&disk.mount_point), name(&disk.problem));
        format!("its disk at {mount} fails: {problem}")
    }));
    ills
}

impl Daemon {
    /// A report has come from the VM.
    pub(super) fn watch(&mut self, now: Time, key: VmKey) {
        let Some(vm) = self.vms.get_mut(&key).filter(|_| self.config.watchdog) else {
            return;
        };
        let Some(ills) = vm.watch.news(now).map(str::to_owned) else {
            return;
        };
        let kind = match &*ills {
            "" => EventKind::GuestWell,
            _ => EventKind::GuestSick,
        };
        let name = vm.name.clone();
        self.log
            .warning(format_args!("{name}: {}: {ills}", journal::text(kind)));
        self.record(&name, journal::notice(kind, ills));
    }
}

#[cfg(test)]
mod tests {
    use quantix::message::agent::Disk;

    use super::*;

    fn report(stuck: &[&str], problem: &str) -> Telemetry {
        Telemetry {
            stuck_mounts: stuck.iter().map(|&mount| mount.into()).collect(),
            disks: vec![Disk {
                mount_point: "/srv".into(),
                problem: problem.into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn what_two_reports_say_is_told_once_and_its_end_too() {
        let mut watch = Watch::default();
        let mut seconds = 0;
        let mut next = |stuck: &[&str], problem, pause| {
            seconds += pause;
            watch.on_report(&report(stuck, problem));
            watch
                .news(Time::from_micros(seconds * 1_000_000))
                .map(str::to_owned)
        };
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(next(&["/var"], "", 10), None);
        assert_eq!(
            next(&["/var"], "Input/output error", 10),
            said("its disk at /var does not answer")
        );
        assert_eq!(next(&["/var"], "", 10), None);
        assert_eq!(next(&[], "Input/output error", 10), said(""));
        assert_eq!(next(&[], "Input/output error", 1), None);
        assert_eq!(
            next(&[], "Input/output error", 4),
            said("its disk at /srv fails: Input/output error")
        );
    }

    #[test]
    fn a_guest_that_makes_up_mounts_is_cut_short() {
        let long = "x".repeat(100_000);
        let mut made_up = report(&[&*long; 1000], &long);
        made_up.init_hangs = true;
        let mut watch = Watch::default();
        watch.on_report(&made_up);
        watch.on_report(&made_up);
        assert!(watch.ills().len() < 1000);
        assert!(watch.ills().starts_with("its process 1"));
    }
}
