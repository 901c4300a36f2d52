//! Memory and swap: /proc/meminfo (proc_meminfo(5)), and what is paged: /proc/vmstat (proc_vmstat(5)).

use quantix::rt::sys::process::page_size;

use super::{fields, number, read as read_file};

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    /// `total - available`.
    pub used: u64,
    pub available: u64,
}

/// Swap in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    pub total: u64,
    pub used: u64,
}

/// Since boot; in bytes where nothing else is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    pub swapped_in: u64,
    pub swapped_out: u64,
    /// How often a page had to come from a disk.
    pub major_faults: u64,
    /// How often a process had to die for memory.
    pub oom_kills: u64,
    /// Read from and written to block devices, those that are made of others counted once.
    pub disk_read: u64,
    pub disk_written: u64,
    /// At present. 0 where the kernel has no balloon.
    pub ballooned: u64,
}

/// Reads the text of /proc/vmstat, which counts in pages of so many bytes; 0 for what is missing.
pub fn paging(vmstat: &[u8], page: u64) -> Paging {
    let mut found = Paging::default();
    let (mut inflated, mut deflated) = (0, 0);
    for line in vmstat.split(|b| *b == b'\n') {
        let mut fields = fields(line);
        let Some(place) = fields.next().and_then(|name| match name {
            b"pswpin" => Some(&mut found.swapped_in),
            b"pswpout" => Some(&mut found.swapped_out),
            b"pgmajfault" => Some(&mut found.major_faults),
            b"oom_kill" => Some(&mut found.oom_kills),
            b"pgpgin" => Some(&mut found.disk_read),
            b"pgpgout" => Some(&mut found.disk_written),
            b"balloon_inflate" => Some(&mut inflated),
            b"balloon_deflate" => Some(&mut deflated),
            _ => None,
        }) else {
            continue;
        };
        *place = fields.next().and_then(number::<u64>).unwrap_or(0);
    }
    found.swapped_in = found.swapped_in.saturating_mul(page);
    found.swapped_out = found.swapped_out.saturating_mul(page);
    // Despite their names these count KiB (mm/vmstat.c, vmstat_start).
    found.disk_read = found.disk_read.saturating_mul(1024);
    found.disk_written = found.disk_written.saturating_mul(1024);
    found.ballooned = inflated.saturating_sub(deflated).saturating_mul(page);
    found
}

/// Reads /proc/vmstat; zeros where that fails.
pub fn read_paging(buffer: &mut Vec<u8>) -> Paging {
    paging(read_file("/proc/vmstat", VMSTAT, buffer), page_size())
}

/// Reads the text of /proc/meminfo; sizes in bytes, 0 for what is missing or no number.
///
/// Kernels before 3.14 have no `MemAvailable`: it is then estimated as free memory and the page
/// cache, as free(1) did, which is too much by what cannot be dropped.
pub fn parse(meminfo: &[u8]) -> (Memory, Swap) {
    let total = bytes(meminfo, b"MemTotal:").unwrap_or(0);
    let available = bytes(meminfo, b"MemAvailable:").unwrap_or_else(|| {
        [&b"MemFree:"[..], b"Buffers:", b"Cached:"]
            .into_iter()
            .filter_map(|key| bytes(meminfo, key))
            .fold(0, u64::saturating_add)
    });
    let available = available.min(total);
    let swap_total = bytes(meminfo, b"SwapTotal:").unwrap_or(0);
    let swap_free = bytes(meminfo, b"SwapFree:").unwrap_or(0);
    let memory = Memory {
        total,
        used: total - available,
        available,
    };
    let swap = Swap {
        total: swap_total,
        used: swap_total.saturating_sub(swap_free),
    };
    (memory, swap)
}

/// Reads /proc/meminfo; zeros where that fails.
pub fn read(buffer: &mut Vec<u8>) -> (Memory, Swap) {
    parse(read_file("/proc/meminfo", LIMIT, buffer))
}

/// The value of one line in bytes; the file says kB and means 1024.
fn bytes(meminfo: &[u8], key: &[u8]) -> Option<u64> {
    let value = meminfo
        .split(|b| *b == b'\n')
        .find_map(|line| line.strip_prefix(key))?;
    let value = value.trim_ascii_end();
    let kilobytes: u64 = number(value.strip_suffix(b"kB").unwrap_or(value))?;
    Some(kilobytes.saturating_mul(1024))
}

/// The file is 1.5 kB; what is wanted stands in the first third.
const LIMIT: u64 = 4096;

/// The file is 4 kB.
const VMSTAT: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_real_file() {
        let text = b"MemTotal:       16283344 kB\nMemFree:          853612 kB\n\
            MemAvailable:   12345678 kB\nBuffers:          712340 kB\nCached:          9876543 kB\n\
            SwapCached:            0 kB\nSwapTotal:       2097148 kB\nSwapFree:        2000000 kB\n\
            HugePages_Total:       0\n";
        let (memory, swap) = parse(text);
        assert_eq!(memory.total, 16_283_344 * 1024);
        assert_eq!(memory.available, 12_345_678 * 1024);
        assert_eq!(memory.used, (16_283_344 - 12_345_678) * 1024);
        assert_eq!(
            swap,
            Swap {
                total: 2_097_148 * 1024,
                used: 97_148 * 1024
            }
        );
    }

    #[test]
    fn what_is_paged_is_counted_in_bytes() {
        let text = b"nr_free_pages 1\npgpgin 7\npgpgout 9\npswpin 2\npswpout 3\npgmajfault 40\noom_kill 1\n\
            balloon_inflate 100\nballoon_deflate 36\nballoon_migrate 7\n";
        let found = Paging {
            swapped_in: 8192,
            swapped_out: 12_288,
            major_faults: 40,
            oom_kills: 1,
            disk_read: 7168,
            disk_written: 9216,
            ballooned: 64 * 4096,
        };
        assert_eq!(paging(text, 4096), found);
        assert_eq!(paging(b"", 4096), Paging::default());
        // Counters that run over, or are none.
        let text = b"pswpin 18446744073709551615\npswpout -1\nballoon_deflate 5\n";
        let found = paging(text, 4096);
        assert_eq!(
            (found.swapped_in, found.swapped_out, found.ballooned),
            (u64::MAX, 0, 0)
        );
    }

    #[test]
    fn old_kernels_are_estimated() {
        let text = b"MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 300 kB\n\
            SwapCached: 7 kB\n";
        let (memory, swap) = parse(text);
        assert_eq!(memory.available, 420 * 1024);
        assert_eq!(memory.used, 580 * 1024);
        assert_eq!(swap, Swap::default());
    }

    #[test]
    fn odd_input_is_zero_and_never_negative() {
        assert_eq!(parse(b""), (Memory::default(), Swap::default()));
        assert_eq!(
            parse(b"MemTotal: many kB\nSwapTotal:\n\xff\n").0,
            Memory::default()
        );
        // More available than there is, as with memory unplugged in between.
        let (memory, _) = parse(b"MemTotal: 10 kB\nMemAvailable: 20 kB\n");
        assert_eq!(
            memory,
            Memory {
                total: 10_240,
                used: 0,
                available: 10_240
            }
        );
        let (_, swap) = parse(b"SwapTotal: 1 kB\nSwapFree: 2 kB\n");
        assert_eq!(
            swap,
            Swap {
                total: 1024,
                used: 0
            }
        );
        let (memory, _) = parse(b"MemTotal: 18446744073709551615 kB\n");
        assert_eq!(memory.total, u64::MAX);
        // Without a unit, and with no line end.
        assert_eq!(parse(b"MemTotal: 3").0.total, 3072);
    }
}
