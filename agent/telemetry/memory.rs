//! Memory and swap: /proc/meminfo (proc_meminfo(5)).

use super::{number, read as read_file};

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
