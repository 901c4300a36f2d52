//! The last hour of a guest, as far as it fits: a ring of samples of 24 bytes. Pure.
//!
//! Bounds: an hour; a sample a second; and for all VMs together [`BYTES`], for which those of many are further
//! apart, but never further than a guest's usual 10 seconds.

use std::collections::VecDeque;
use std::time::Duration;

use quantix::message::agent::Telemetry;
use quantix::message::node;
use quantix::time::Time;

use super::own;

/// What all histories together should not exceed.
const BYTES: usize = 64 * 1024 * 1024;

/// What is older is forgotten.
pub const SPAN: Duration = Duration::from_secs(3600);

/// Samples of one VM.
const MOST: usize = 3600;
const FEWEST: usize = 360;

/// How many samples each of so many VMs may have.
pub fn share(vms: usize) -> usize {
    (BYTES / vms.max(1) / size_of::<Packed>()).clamp(FEWEST, MOST)
}

/// What a guest has reported in the last hour.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<Packed>,
    /// What the newest is compared with.
    last: Option<Counted>,
}

/// What a guest counts, as of a time.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Time,
    disk_read: u64,
    disk_written: u64,
    received: u64,
    sent: u64,
}

/// A sample, as it is kept.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// Since the one before, in tenths of a second.
    after: u16,
    /// Hundredths of a percent.
    cpu: u16,
    disk_used: u16,
    /// Hundredths.
    load: u16,
    /// Numbers as [`pack`] has them: bytes, and bytes a second.
    memory_used: u16,
    memory_total: u16,
    rates: [u16; 4],
    /// Halves of a percent.
    swap_used: u8,
    waiting: [u8; 3],
}

impl History {
    /// A report has come, of a VM that may have so many samples.
    pub fn push(&mut self, now: Time, report: &Telemetry, share: usize) {
        let gap = SPAN / u32::try_from(share.max(1)).unwrap_or(1);
        // A report that is a little early is not one too many.
        let gap = gap.mul_f64(0.9);
        let after = self.last.map_or(Duration::ZERO, |last| now.since(last.at));
        if self.last.is_some() && after < gap {
            return;
        }
        let own = report
            .interfaces
            .iter()
            .filter(|of| own::interface(&of.name));
        let (mut received, mut sent) = (0u64, 0u64);
        for interface in own {
            received = received.saturating_add(interface.rx_bytes);
            sent = sent.saturating_add(interface.tx_bytes);
        }
        let counted = Counted {
            at: now,
            disk_read: report.disk_read,
            disk_written: report.disk_written,
            received,
            sent,
        };
        let Ok(tenths) = u16::try_from(after.as_millis() / 100) else {
            // It was away for longer than all that is kept.
            self.samples.clear();
            self.last = None;
            return self.push(now, report, share);
        };
        let packed = Packed::new(report, tenths, self.rates(&counted));
        self.last = Some(counted);
        if self.samples.len() == self.samples.capacity() {
            // As much as is needed: it is for thousands.
            self.samples.reserve_exact(STEP);
        }
        self.samples.push_back(packed);
        self.forget(share);
    }

    fn rates(&self, counted: &Counted) -> [u16; 4] {
        let Some(last) = &self.last else {
            return [UNKNOWN; 4];
        };
        let micros = u128::from(counted.at.micros() - last.at.micros()).max(1);
        let rate = |now: u64, before: u64| {
            // It was booted anew: what it had counted in between is not known.
            let Some(more) = now.checked_sub(before) else {
                return UNKNOWN;
            };
            pack(u64::try_from(u128::from(more) * 1_000_000 / micros).unwrap_or(u64::MAX))
        };
        [
            rate(counted.disk_read, last.disk_read),
            rate(counted.disk_written, last.disk_written),
            rate(counted.received, last.received),
            rate(counted.sent, last.sent),
        ]
    }

    fn forget(&mut self, share: usize) {
        let span = u64::try_from(SPAN.as_millis() / 100).unwrap_or(u64::MAX);
        while self.samples.len() > share {
            self.samples.pop_front();
        }
        let mut tenths: u64 = self
            .samples
            .iter()
            .skip(1)
            .map(|of| u64::from(of.after))
            .sum();
        while tenths > span {
            self.samples.pop_front();
            tenths -= self
                .samples
                .front()
                .map_or(tenths, |of| u64::from(of.after));
        }
    }

    /// The newest.
    pub fn latest(&self, now: Time) -> Option<node::Sample> {
        let age = now.since(self.last?.at);
        let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let newest = self.samples.back().filter(|_| age <= SPAN);
        newest.map(|newest| newest.sample(millis))
    }

    /// Those that are not older than `since`, the oldest first.
    pub fn samples(&self, now: Time, since: Duration) -> Vec<node::Sample> {
        let Some(last) = &self.last else {
            return Vec::new();
        };
        let mut age = u64::try_from(now.since(last.at).as_millis()).unwrap_or(u64::MAX);
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut found = Vec::new();
        for packed in self.samples.iter().rev() {
            if age > since {
                break;
            }
            found.push(packed.sample(age));
            age = age.saturating_add(u64::from(packed.after) * 100);
        }
        found.reverse();
        found
    }
}

impl Packed {
    fn new(report: &Telemetry, after: u16, rates: [u16; 4]) -> Self {
        let percent = |of: f64| hundredths(of.clamp(0.0, 100.0));
        let fullest = report.disks.iter().map(|disk| disk.usage_percent);
        let waiting = |resource: &str| {
            let mut of = report.pressures.iter().filter(|of| of.resource == resource);
            of.next().map_or(u8::MAX, |of| halves(of.some_10))
        };
        let swap_used = match report.swap_total {
            0 => 0.0,
            total => report.swap_used as f64 * 100.0 / total as f64,
        };
        Self {
            after,
            cpu: percent(report.cpu_usage_percent),
            disk_used: percent(fullest.fold(0.0, f64::max)),
            load: hundredths(report.load_avg_1m),
            memory_used: pack(report.memory_used),
            memory_total: pack(report.memory_total),
            rates,
            swap_used: halves(swap_used),
            waiting: [waiting("cpu"), waiting("memory"), waiting("io")],
        }
    }

    fn sample(&self, age_ms: u64) -> node::Sample {
        let percent = |of: u16| f64::from(of) / 100.0;
        let share = |of: u8| (of != u8::MAX).then(|| f64::from(of) / 2.0);
        let [disk_read, disk_written, received, sent] = self.rates.map(unpack);
        let [cpu_waiting, memory_waiting, io_waiting] = self.waiting.map(share);
        node::Sample {
            age_ms,
            cpu_usage_percent: percent(self.cpu),
            load_avg_1m: percent(self.load),
            memory_used: unpack(self.memory_used).unwrap_or(0),
            memory_total: unpack(self.memory_total).unwrap_or(0),
            swap_used_percent: f64::from(self.swap_used) / 2.0,
            fullest_disk_percent: percent(self.disk_used),
            disk_read,
            disk_written,
            received,
            sent,
            cpu_waiting,
            memory_waiting,
            io_waiting,
        }
    }
}

/// Room is made for so many samples at a time.
const STEP: usize = 36;

/// What is not known.
const UNKNOWN: u16 = u16::MAX;

// A number that was brought into its range.
#[allow(clippy::cast_possible_truncation)]
fn hundredths(of: f64) -> u16 {
    match of.is_nan() {
        true => 0,
        // The cast takes what is below 0 to 0.
        false => (of * 100.0).round().min(65_534.0) as u16,
    }
}

// As above.
#[allow(clippy::cast_possible_truncation)]
fn halves(percent: f64) -> u8 {
    (percent.clamp(0.0, 100.0) * 2.0).round() as u8
}

/// Eleven bits of it, and how far they are shifted: at most 1 in 2,000 is lost, up to 4 TB.
fn pack(of: u64) -> u16 {
    let shift = (64 - of.leading_zeros()).saturating_sub(11).min(31);
    let bits = (of >> shift).min(2047) as u16;
    (((shift as u16) << 11) | bits).min(UNKNOWN - 1)
}

fn unpack(of: u16) -> Option<u64> {
    (of != UNKNOWN).then(|| u64::from(of & 2047) << (of >> 11))
}

#[cfg(test)]
mod tests {
    use quantix::message::agent::{Disk, Interface, Pressure};

    use super::*;

    fn report(bytes: u64) -> Telemetry {
        let interface = |name: &str| Interface {
            name: name.to_owned(),
            rx_bytes: bytes * 3,
            tx_bytes: bytes * 4,
            ..Default::default()
        };
        let disk = |usage_percent| Disk {
            usage_percent,
            ..Default::default()
        };
        Telemetry {
            cpu_usage_percent: 12.34,
            load_avg_1m: 1.25,
            memory_total: 8 << 30,
            memory_used: 3 << 30,
            swap_total: 1000,
            swap_used: 255,
            disks: vec![disk(30.0), disk(91.5)],
            interfaces: vec![interface("eth0"), interface("veth12"), interface("lo")],
            disk_read: bytes,
            disk_written: bytes * 2,
            pressures: vec![Pressure {
                resource: "io".to_owned(),
                some_10: 7.6,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn at(seconds: u64) -> Time {
        Time::from_micros((1_000_000 + seconds) * 1_000_000)
    }

    #[test]
    fn a_sample_says_what_the_report_said_and_the_rates_since_the_one_before() {
        let mut history = History::default();
        history.push(at(0), &report(0), MOST);
        history.push(at(10), &report(10_000), MOST);
        let found = history.samples(at(13), SPAN);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].age_ms, found[1].age_ms), (13_000, 3_000));
        assert_eq!(found[0].received, None);
        let of = &found[1];
        assert_eq!((of.cpu_usage_percent, of.load_avg_1m), (12.34, 1.25));
        assert_eq!((of.memory_used, of.memory_total), (3 << 30, 8 << 30));
        assert_eq!(
            (of.fullest_disk_percent, of.swap_used_percent),
            (91.5, 25.5)
        );
        // Of the guest's own interface alone.
        assert_eq!((of.disk_read, of.disk_written), (Some(1000), Some(2000)));
        assert_eq!((of.received, of.sent), (Some(3000), Some(4000)));
        assert_eq!((of.cpu_waiting, of.io_waiting), (None, Some(7.5)));
        assert_eq!(history.samples(at(13), Duration::from_secs(5)).len(), 1);
        assert_eq!(history.samples(at(20), Duration::from_secs(5)).len(), 0);
        assert_eq!(history.latest(at(13)).as_ref(), found.last());
        assert_eq!(history.latest(at(3_611)), None);
    }

    #[test]
    fn an_hour_is_kept_and_no_more_than_a_share() {
        let mut history = History::default();
        for second in 0..10_000 {
            history.push(at(second), &report(second), MOST);
        }
        assert_eq!(history.samples.len(), MOST);
        let oldest = history.samples(at(9_999), SPAN)[0].age_ms;
        assert!((3_590_000..=3_600_000).contains(&oldest), "{oldest}");
        // One of many: as long, and further apart.
        let mut history = History::default();
        for second in 0..10_000 {
            history.push(at(second), &report(second), FEWEST);
        }
        assert!(history.samples.len() <= FEWEST);
        assert!(history.samples.capacity() < FEWEST + 2 * STEP);
        let oldest = history.samples(at(9_999), SPAN)[0].age_ms;
        assert!(oldest > 3_200_000, "{oldest}");
        // The usual report is never left out.
        let mut history = History::default();
        for second in (0..3_600).step_by(10) {
            history.push(at(second), &report(second), share(100_000));
        }
        assert_eq!(history.samples.len(), 360);
    }

    #[test]
    fn a_guest_that_floods_or_was_away_or_was_booted_is_kept_as_it_should_be() {
        let mut history = History::default();
        for _ in 0..1000 {
            history.push(at(1), &report(500), MOST);
        }
        assert_eq!(history.samples.len(), 1);
        // It counts from 0 again.
        history.push(at(11), &report(5), MOST);
        assert_eq!(history.samples(at(11), SPAN)[1].disk_read, None);
        history.push(at(8_000), &report(9), MOST);
        assert_eq!(history.samples(at(8_000), SPAN).len(), 1);
        // And whatever a hostile one counts.
        let mut wild = report(u64::MAX / 4);
        wild.cpu_usage_percent = f64::NAN;
        wild.load_avg_1m = f64::INFINITY;
        wild.disks[0].usage_percent = -1e300;
        wild.memory_used = u64::MAX;
        history.push(at(8_010), &wild, MOST);
        let of = &history.samples(at(8_010), SPAN)[1];
        assert_eq!((of.cpu_usage_percent, of.load_avg_1m), (0.0, 655.34));
        assert!(of.disk_read.is_some_and(|rate| rate > 1 << 41));
    }

    #[test]
    fn numbers_are_kept_to_one_in_two_thousand() {
        for of in [
            0,
            1,
            2047,
            2048,
            5000,
            123_456_789,
            8 << 30,
            (1 << 41) + 12_345,
        ] {
            let kept = unpack(pack(of)).unwrap();
            assert!(kept <= of && of - kept <= of / 1024, "{of} {kept}");
        }
        assert!(unpack(pack(u64::MAX)).is_some());
    }

    #[test]
    fn five_thousand_hours_fit() {
        assert_eq!(size_of::<Packed>(), 24);
        assert!(share(5000) * 5000 * size_of::<Packed>() <= BYTES);
        assert_eq!((share(0), share(1), share(1_000_000)), (MOST, MOST, FEWEST));
    }
}
