//! What the agent reports about its guest: readings of /proc and the network interfaces.
//!
//! Each file keeps a parser (bytes in, values out) apart from a thin reader. Nothing here reads a
//! clock, and nothing but [`disk::Mount::measure`] touches a file system that has a device behind
//! it: a sick disk cannot hold up a sample. What cannot be read is 0 or empty, never an error.

pub mod cpu;
pub mod disk;
pub mod memory;
pub mod network;
pub mod os;
pub mod pressure;

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::str::{self, FromStr};

use quantix::message::wire::Telemetry;

use cpu::CpuTimes;

/// Takes one report after another; keeps what a reading has to be compared with.
#[derive(Debug)]
pub struct Sampler {
    /// Of the sample before; zero until there is one, so that the first counts from boot.
    cpu: CpuTimes,
    /// Reused for every file that is read.
    buffer: Vec<u8>,
}

impl Sampler {
    /// Reads nothing yet.
    pub fn new() -> Self {
        Self {
            cpu: CpuTimes::default(),
            buffer: Vec::with_capacity(BUFFER),
        }
    }

    /// Reads everything anew. `interfaces`, `disks`, `stuck_mounts` and `coalesced` are left empty for
    /// the caller. CPU usage is that of the time since the sample before, of the first that since boot.
    pub fn sample(&mut self) -> Telemetry {
        let buffer = &mut self.buffer;
        let now = cpu::read(buffer).unwrap_or(self.cpu);
        let cpu_usage_percent = cpu::usage_percent(self.cpu, now);
        self.cpu = now;
        let (memory, swap) = memory::read(buffer);
        let paging = memory::read_paging(buffer);
        let load = os::load_averages(buffer);
        Telemetry {
            cpu_usage_percent,
            memory_total: memory.total,
            memory_used: memory.used,
            memory_available: memory.available,
            swap_total: swap.total,
            swap_used: swap.used,
            load_avg_1m: load[0],
            load_avg_5m: load[1],
            load_avg_15m: load[2],
            process_count: os::process_count(),
            uptime_seconds: os::uptime_seconds(),
            hostname: os::hostname(),
            pressures: pressure::read(buffer),
            swapped_in: paging.swapped_in,
            swapped_out: paging.swapped_out,
            major_faults: paging.major_faults,
            oom_kills: paging.oom_kills,
            ballooned: paging.ballooned,
            disk_read: paging.disk_read,
            disk_written: paging.disk_written,
            ..Telemetry::default()
        }
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

/// The first `limit` bytes of a file, or nothing where it cannot be read. Replaces what `buffer`
/// held. For /proc and /sys, and small files of /etc: it waits for the answer.
fn read(path: impl AsRef<Path>, limit: u64, buffer: &mut Vec<u8>) -> &[u8] {
    buffer.clear();
    if let Ok(file) = File::open(path)
        && file.take(limit).read_to_end(buffer).is_err()
    {
        // Half a file could end in half a number.
        buffer.clear();
    }
    buffer
}

/// The next line without its end, of a long one the first `limit` bytes. Replaces what `line` held; false behind
/// the last. Errors: the reader's.
pub fn next_line(text: &mut impl BufRead, limit: u64, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if text.by_ref().take(limit).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else {
        text.skip_until(b'\n')?;
    }
    Ok(true)
}

/// A number between white space; None for anything else and for what does not fit.
fn number<T: FromStr>(text: &[u8]) -> Option<T> {
    str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// The fields between white space, as awk(1) sees them.
fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty())
}

/// Enough for what is read in each sample, so that it never grows: /proc/vmstat is 4 kB, and more with every kernel.
const BUFFER: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_machine() {
        let mut sampler = Sampler::new();
        let first = sampler.sample();
        assert!(first.cpu_usage_percent > 0.0 && first.cpu_usage_percent <= 100.0);
        assert!(first.memory_total > 0);
        assert!(first.process_count > 0);
        assert!(first.uptime_seconds > 0);
        let second = sampler.sample();
        assert!((0.0..=100.0).contains(&second.cpu_usage_percent));
        assert_eq!(sampler.buffer.capacity(), BUFFER);
    }

    #[test]
    fn read_is_bounded_and_forgets() {
        let mut buffer = b"from before".to_vec();
        assert_eq!(read("/proc/self/mountinfo", 5, &mut buffer).len(), 5);
        assert_eq!(read("/no/such/file", 5, &mut buffer), b"");
        // Opens, but cannot be read.
        assert_eq!(read("/proc", 5, &mut buffer), b"");
    }

    #[test]
    fn numbers() {
        assert_eq!(number::<u64>(b" 42\n"), Some(42));
        assert_eq!(number::<u64>(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number::<u64>(b"18446744073709551616"), None);
        assert_eq!(number::<u32>(b"4294967296"), None);
        for garbage in [&b""[..], b"-1", b"4 2", b"0x1", b"\xff", b"1e3"] {
            assert_eq!(number::<u64>(garbage), None);
        }
    }
}
