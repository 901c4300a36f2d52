//! What the agent says by itself: telemetry, and who this guest is when that changes.

use std::time::Duration;

use quantix::rt::clock;
use quantix::time::Time;

use super::Agent;
use crate::telemetry::os;

impl Agent {
    /// The first report of a session goes out at once.
    pub(super) fn schedule_reports(&mut self, now: Time) {
        let wanted = !self.interval().is_zero() && self.guest.is_open();
        self.report_at = wanted.then_some(now);
    }

    pub(super) fn begin_report(&mut self, now: Time) {
        self.report_at = Some(now + self.interval());
        self.reporting = true;
        self.links.begin(now, self.poll.registry());
        // What is frozen is not asked; process 1 may wait for it.
        if !self.freezing.is_active() {
            self.orphan.begin(now, self.poll.registry());
            self.disks.begin(now, self.poll.registry());
        }
        self.report();
    }

    pub(super) fn on_links(&mut self, now: Time) {
        if self.links.on_ready(now, self.poll.registry()) {
            self.announce_changes();
            self.report();
        }
    }

    pub(super) fn on_disks(&mut self) {
        if self.disks.on_ready() {
            self.report();
        }
    }

    /// Sends the report that is due, if all that it waits for is there.
    pub(super) fn report(&mut self) {
        if !self.reporting || self.disks.is_pending() || self.links.is_pending() {
            return;
        }
        self.reporting = false;
        self.announce_changes();
        let mut telemetry = self.sampler.sample();
        telemetry
            .interfaces
            .clone_from(&self.links.known().interfaces);
        (telemetry.disks, telemetry.stuck_mounts) = self.disks.results();
        telemetry.init_hangs = self.orphan.is_left(clock::now()) && !self.freezing.is_active();
        telemetry.coalesced = self.guest.coalesced();
        self.guest.report(telemetry);
    }

    pub(super) fn announce_changes(&mut self) {
        if self.refresh_ready() {
            self.guest.announce(self.ready.clone());
        }
    }

    /// Looks again at what may have changed. What os-release says does not, and is on a disk.
    pub(super) fn refresh_ready(&mut self) -> bool {
        let mut now = self.ready.clone();
        now.hostname = os::hostname();
        now.frozen = self.freezing.is_active();
        let links = self.links.known();
        now.ip_addresses.clone_from(&links.addresses);
        now.primary_address.clone_from(&links.primary);
        let changed = now != self.ready;
        self.ready = now;
        changed
    }

    pub(super) fn interval(&self) -> Duration {
        self.options
            .telemetry_interval
            .unwrap_or(self.telemetry_interval)
    }
}
