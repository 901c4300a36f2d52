//! How busy the processors are, all together: the first line of /proc/stat (proc_stat(5)).

use super::{fields, number, read as read_file};

/// Time since boot, summed over all CPUs, in ticks (1/100 s on every kernel that people run; only
/// ratios are used here).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CpuTimes {
    /// Everything but the two below. Guest time is inside user and nice already (kernel,
    /// `account_guest_time`) and is not added again. Stolen time is busy: there was work to do,
    /// and 100 % is to mean that this VM cannot get more done.
    busy: u64,
    idle: u64,
    /// Idle as well; apart because it may go backwards (proc_stat(5)).
    iowait: u64,
}

impl CpuTimes {
    /// Reads the text of /proc/stat. None without a line `cpu` of at least the four numbers that
    /// every kernel has, or with anything but a number among the first eight.
    pub fn parse(stat: &[u8]) -> Option<Self> {
        let line = stat
            .split(|b| *b == b'\n')
            .find_map(|line| line.strip_prefix(b"cpu "))?;
        let mut times = [0u64; 8];
        let mut found = 0;
        for (time, field) in times.iter_mut().zip(fields(line)) {
            *time = number(field)?;
            found += 1;
        }
        if found < 4 {
            return None;
        }
        let [user, nice, system, idle, iowait, irq, softirq, steal] = times;
        let busy = [user, nice, system, irq, softirq, steal];
        Some(Self {
            busy: busy.into_iter().fold(0, u64::saturating_add),
            idle,
            iowait,
        })
    }
}

/// Reads /proc/stat; None where that fails.
pub fn read(buffer: &mut Vec<u8>) -> Option<CpuTimes> {
    CpuTimes::parse(read_file("/proc/stat", LIMIT, buffer))
}

/// The share of busy time between two readings, 0 to 100. A counter that went backwards counts as
/// one that stood still; 0 where no time has passed.
pub fn usage_percent(prev: CpuTimes, now: CpuTimes) -> f64 {
    let busy = now.busy.saturating_sub(prev.busy) as f64;
    let idle = now.idle.saturating_sub(prev.idle) as f64;
    let iowait = now.iowait.saturating_sub(prev.iowait) as f64;
    let total = busy + idle + iowait;
    if total > 0.0 {
        (busy / total * 100.0).clamp(0.0, 100.0)
    } else {
        0.0
    }
}

/// The line wanted is the first, of at most 214 bytes; interrupts behind it can take 100 kB.
const LIMIT: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn times(busy: u64, idle: u64, iowait: u64) -> CpuTimes {
        CpuTimes { busy, idle, iowait }
    }

    #[test]
    fn parses_a_real_file() {
        let stat = b"cpu  100 20 30 4000 500 6 7 8 50 10\n\
                     cpu0 50 10 15 2000 250 3 3 4 25 5\n\
                     intr 33 0 9\nctxt 1990473\nbtime 1062191376\n";
        assert_eq!(CpuTimes::parse(stat), Some(times(171, 4000, 500)));
    }

    #[test]
    fn old_kernels_have_four_fields() {
        assert_eq!(CpuTimes::parse(b"cpu 1 2 3 4\n"), Some(times(6, 4, 0)));
    }

    #[test]
    fn garbage_is_none() {
        let texts = [
            "",
            "cpu",
            "cpu \n",
            "cpu 1 2 3\n",
            "cpu0 1 2 3 4\n",
            "cpu 1 -2 3 4",
            "cpu a b c d",
        ];
        for text in texts {
            assert_eq!(CpuTimes::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(CpuTimes::parse(b"cpu 1 2 \xff 4\n"), None);
    }

    #[test]
    fn huge_values_saturate() {
        let max = u64::MAX;
        let stat = format!("cpu {max} {max} {max} {max} {max} {max} {max} {max} {max} {max}\n");
        let huge = CpuTimes::parse(stat.as_bytes()).unwrap();
        assert_eq!(huge, times(max, max, max));
        let usage = usage_percent(times(0, 0, 0), huge);
        assert!((33.3..33.4).contains(&usage));
    }

    #[test]
    fn usage_between_samples() {
        assert_eq!(usage_percent(times(0, 0, 0), times(25, 70, 5)), 25.0);
        assert_eq!(usage_percent(times(10, 10, 10), times(20, 10, 10)), 100.0);
        assert_eq!(usage_percent(times(10, 10, 10), times(10, 20, 10)), 0.0);
    }

    #[test]
    fn counters_that_go_backwards() {
        // iowait alone.
        assert_eq!(usage_percent(times(0, 0, 50), times(50, 50, 40)), 50.0);
        // Everything, as after a snapshot was restored.
        assert_eq!(usage_percent(times(9, 9, 9), times(1, 1, 1)), 0.0);
        // No time.
        assert_eq!(usage_percent(times(9, 9, 9), times(9, 9, 9)), 0.0);
    }
}
