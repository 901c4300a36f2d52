//! Sizes of file systems, measured in a child, because statvfs(2) on a sick disk or a dead network
//! mount may never return. The mount that hangs is named and left alone until it comes back.

use std::fs::File;
use std::time::Duration;

use mio::{Registry, Token};
use prost::Message;
use quantix::error::system_text;
use quantix::message::agent::Disk;
use quantix::rt::sys::process::{self, Pid, Signal};
use quantix::rt::sys::seccomp::ALL_BUT_READS;
use quantix::time::Time;

use crate::job::confine;
use crate::probe::Probe;
use crate::telemetry::disk::{self, Mount};

/// How long all mounts together may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Mounts that may hang at once; with so many nothing more is measured.
const MAX_STUCK: usize = 4;

/// The file systems as they were last measured.
#[derive(Debug)]
pub struct Disks {
    token: Token,
    looking: Option<Looking>,
    known: Vec<Disk>,
    stuck: Vec<Stuck>,
}

#[derive(Debug)]
struct Looking {
    probe: Probe,
    mounts: Vec<String>,
}

#[derive(Debug)]
struct Stuck {
    mount: String,
    pid: Pid,
}

impl Disks {
    /// Nothing measured yet.
    pub const fn new(token: Token) -> Self {
        Self {
            token,
            looking: None,
            known: Vec::new(),
            stuck: Vec::new(),
        }
    }

    /// Begins to measure, unless it is being measured.
    pub fn begin(&mut self, now: Time, registry: &Registry) {
        if self.looking.is_some() {
            return;
        }
        let mut mounts = disk::read().unwrap_or_default();
        mounts.retain(|mount| !self.stuck.iter().any(|stuck| stuck.mount == mount.name()));
        if mounts.is_empty() || self.stuck.len() >= MAX_STUCK {
            self.known.clear();
            return;
        }
        let names = mounts.iter().map(Mount::name).collect();
        let work = |pipe: &File| measure(&mounts, pipe);
        let probe = Probe::start(now, PATIENCE, registry, self.token, work);
        self.looking = probe.ok().map(|probe| Looking {
            probe,
            mounts: names,
        });
    }

    /// It is being measured.
    pub const fn is_pending(&self) -> bool {
        self.looking.is_some()
    }

    /// An event came for the child's pipe. True: the measurement is complete.
    pub fn on_ready(&mut self) -> bool {
        let Some(looking) = self
            .looking
            .take_if(|looking| looking.probe.on_ready(MAX_BYTES))
        else {
            return false;
        };
        self.known = decode(&looking.probe.bytes).into_iter().flatten().collect();
        true
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.looking.as_ref().map(|looking| looking.probe.deadline)
    }

    /// True: the measurement is over, without the mount that hangs.
    pub fn on_timeout(&mut self, now: Time) -> bool {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return false;
        }
        let Some(Looking { probe, mounts }) = self.looking.take() else {
            return false;
        };
        let measured = decode(&probe.bytes);
        if let Some(mount) = mounts.get(measured.len()) {
            self.stuck.push(Stuck {
                mount: mount.clone(),
                pid: probe.pid,
            });
        }
        self.known = measured.into_iter().flatten().collect();
        // One that hangs in the kernel goes when the disk comes back.
        process::signal_group(probe.pid, Signal::KILL);
        true
    }

    /// A child has ended: what it hung on answers again.
    pub fn on_exit(&mut self, pid: Pid) {
        self.stuck.retain(|stuck| stuck.pid != pid);
    }

    /// The file systems that answered, and the mount points of those that did not.
    pub fn results(&self) -> (Vec<Disk>, Vec<String>) {
        let stuck = self.stuck.iter().map(|stuck| stuck.mount.clone());
        (self.known.clone(), stuck.collect())
    }
}

/// What a child may send: 64 mounts with names of at most 1 KiB.
const MAX_BYTES: usize = 128 * 1024;

/// In the child: one message for each mount, as soon as it is known; an empty one for a failure, so
/// that the number of messages tells which mount is next.
fn measure(mounts: &[Mount], mut pipe: &File) -> i32 {
    use std::io::Write;
    confine(ALL_BUT_READS);
    for mount in mounts {
        // The first answers from memory where the disk is local.
        let mut disk = mount.measure().unwrap_or_default();
        if let Err(e) = mount.read_block()
            && !disk.mount_point.is_empty()
        {
            disk.problem = system_text(&e);
        }
        if pipe
            .write_all(&disk.encode_length_delimited_to_vec())
            .is_err()
        {
            return 1;
        }
    }
    0
}

fn decode(mut bytes: &[u8]) -> Vec<Option<Disk>> {
    let mut disks = Vec::new();
    while let Ok(disk) = Disk::decode_length_delimited(&mut bytes) {
        disks.push((!disk.mount_point.is_empty()).then_some(disk));
    }
    disks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_before_a_mount_hung_is_kept() {
        let disk = Disk {
            mount_point: "/".into(),
            total: 10,
            ..Default::default()
        };
        let mut bytes = disk.encode_length_delimited_to_vec();
        bytes.extend(Disk::default().encode_length_delimited_to_vec());
        bytes.extend(&disk.encode_length_delimited_to_vec()[..3]);
        assert_eq!(decode(&bytes), [Some(disk), None]);
    }
}
