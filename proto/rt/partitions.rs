//! Partition tables: what has to be written so that the last partition reaches to the disk's end. GPT (UEFI 2.10,
//! 5.3) and MBR. Pure: it is given what is on the disk, and says what is to be there.
//!
//! What does not look as it should is refused. The writes of a [`Plan`] are done in their order, each on the disk
//! before the next: then at each moment one copy of the table is whole, and so says its checksum.

use crate::error::{Code, Failure};

/// A partition, as the kernel has it. In blocks of the disk.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Bytes of a block: 512 to 4096.
    pub block: u64,
    /// Of the disk.
    pub blocks: u64,
    /// From 1 on.
    pub number: u32,
    /// Its first one.
    pub first: u64,
    /// The first one behind it.
    pub end: u64,
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// "GPT", "MBR".
    pub table: &'static str,
    /// The first block behind the partition then.
    pub end: u64,
    /// None: the table says so already.
    pub writes: Vec<Write>,
}

/// Some bytes of the table.
#[derive(Debug)]
pub struct Write {
    /// The byte of the disk where they go.
    pub at: u64,
    /// Whole blocks.
    pub bytes: Vec<u8>,
}

/// Reads so many blocks from this one on: exactly as many, or it fails.
pub type Read<'a> = &'a dyn Fn(u64, u64) -> Result<Vec<u8>, Failure>;

/// How the partition gets as long as can be, to a whole MiB.
///
/// # Errors
/// INVALID: the table is broken, of an unknown kind, not what the kernel has, or another partition lies behind.
pub fn grow(place: &Place, read: Read) -> Result<Plan, Failure> {
    let block = place.block;
    if !(512..=4096).contains(&block) || !block.is_power_of_two() || place.first >= place.end {
        return Err(refused("its disk's sizes make no sense"));
    }
    let sector = read(0, 1)?;
    if number(&sector, 510, 2) != 0xAA55 {
        return Err(refused("its disk has neither a GPT nor an MBR"));
    }
    // As the kernel tells them apart (block/partitions/efi.c).
    if (0..4).any(|at| number(&sector, KINDS + at * MBR_ENTRY, 1) == PROTECTIVE) {
        gpt(place, sector, read)
    } else {
        mbr(place, sector)
    }
}

/// Where a partition that may reach to `limit` ends: at a whole MiB, and nowhere nearer than now.
const fn aligned(place: &Place, limit: u64, now: u64) -> u64 {
    let unit = (1 << 20) / place.block;
    let end = limit - limit % unit;
    if end > now { end } else { now }
}

fn refused(why: &str) -> Failure {
    Failure::new(Code::Invalid, why)
}

/// The table's entry against what the kernel has. A table that is ahead was written, and its writer ended then.
fn check(place: &Place, first: u64, end: u64) -> Result<(), Failure> {
    if first != place.first || !(place.end..=place.blocks).contains(&end) {
        let why = "what the disk's partition table says is not what the kernel has: was it changed by hand?";
        return Err(refused(why));
    }
    Ok(())
}

fn is_last(place: &Place, other: usize, end: u64) -> Result<(), Failure> {
    if end > place.first {
        let why = format!("partition {other} lies behind it: only the last partition can grow");
        return Err(refused(&why));
    }
    Ok(())
}

/// Of the four entries of an MBR: the first one's kind, and what is from one to the next.
const KINDS: usize = 446 + 4;
const MBR_ENTRY: usize = 16;
const PROTECTIVE: u64 = 0xEE;
const EXTENDED: [u64; 3] = [0x05, 0x0F, 0x85];

fn mbr(place: &Place, mut sector: Vec<u8>) -> Result<Plan, Failure> {
    let at = match usize::try_from(place.number) {
        Ok(number @ 1..=4) => KINDS - 4 + (number - 1) * MBR_ENTRY,
        _ => {
            let why = "a logical partition of an MBR: those do not grow here, since what they lie in would have to";
            return Err(refused(why));
        }
    };
    if EXTENDED.contains(&number(&sector, at + 4, 1)) {
        return Err(refused("an extended partition, which holds others"));
    }
    let first = number(&sector, at + 8, 4);
    let now = first + number(&sector, at + 12, 4);
    check(place, first, now)?;
    for other in (0..4).map(|n| KINDS - 4 + n * MBR_ENTRY) {
        let length = number(&sector, other + 12, 4);
        if other != at && length > 0 {
            let index = (other - (KINDS - 4)) / MBR_ENTRY + 1;
            is_last(place, index, number(&sector, other + 8, 4) + length)?;
        }
    }
    // It counts in 32 bits.
    let limit = place.blocks.min(u32::MAX.into());
    let end = aligned(place, limit, now);
    if end == now && aligned(place, place.blocks, now) > now {
        let why = format!(
            "an MBR reaches no further than block {}: the rest of the disk needs a GPT",
            u32::MAX
        );
        return Err(refused(&why));
    }
    let mut writes = Vec::new();
    if end > now {
        // The place by heads and cylinders is the largest: none of today's disks has any.
        put(&mut sector, at + 5, 3, 0xFF_FFFE);
        put(&mut sector, at + 12, 4, end - first);
        writes.push(Write {
            at: 0,
            bytes: sector,
        });
    }
    Ok(Plan {
        table: "MBR",
        end,
        writes,
    })
}

/// One of the two copies of a GPT, which is whole.
struct Gpt {
    /// A block.
    header: Vec<u8>,
    /// Blocks.
    entries: Vec<u8>,
    /// Where these are.
    entries_at: u64,
    entry: usize,
    count: usize,
}

/// Fields of the header: where they are. All but the checksums and sizes have 8 bytes.
const SIZE: usize = 12;
const CHECKSUM: usize = 16;
const OWN_PLACE: usize = 24;
const OTHER_PLACE: usize = 32;
const FIRST_USABLE: usize = 40;
const LAST_USABLE: usize = 48;
const DISK_ID: std::ops::Range<usize> = 56..72;
const ENTRIES_PLACE: usize = 72;
const COUNT: usize = 80;
const ENTRY_SIZE: usize = 84;
const ENTRIES_CHECKSUM: usize = 88;
const MIN_HEADER: usize = 92;

/// Of an entry.
const FIRST: usize = 32;
const LAST: usize = 40;
const MIN_ENTRY: usize = 128;

/// Of all entries together, in bytes: 16 KiB is what everybody has. Less than a partition grows by.
const MAX_ENTRIES: usize = 256 * 1024;

impl Gpt {
    /// The copy whose header is in this block.
    fn read(at: u64, place: &Place, read: Read) -> Result<Self, Failure> {
        let broken = |what: &str| {
            let why =
                format!("the GPT in block {at} of its disk is broken: {what}. Repair it first");
            Failure::new(Code::Invalid, why)
        };
        if at >= place.blocks {
            return Err(broken("the disk ends before it"));
        }
        let header = read(at, 1)?;
        if header.get(..12) != Some(b"EFI PART\0\0\x01\0") {
            return Err(broken("no header of revision 1.0"));
        }
        let size = index(&header, SIZE);
        let body = header.get(..size).filter(|_| size >= MIN_HEADER);
        let mut body = body.ok_or_else(|| broken("its header's size"))?.to_vec();
        put(&mut body, CHECKSUM, 4, 0);
        if number(&header, CHECKSUM, 4) != u64::from(crc32(&body)) {
            return Err(broken("its header's checksum"));
        }
        if number(&header, OWN_PLACE, 8) != at {
            return Err(broken("its header says that it is elsewhere"));
        }
        let (entry, count) = (index(&header, ENTRY_SIZE), index(&header, COUNT));
        let bytes = entry.checked_mul(count).filter(|bytes| {
            entry >= MIN_ENTRY && entry.is_power_of_two() && (1..=MAX_ENTRIES).contains(bytes)
        });
        let bytes = bytes.ok_or_else(|| broken("the size or number of its entries"))?;
        let entries_at = number(&header, ENTRIES_PLACE, 8);
        let blocks = (bytes as u64).div_ceil(place.block);
        let end = entries_at.checked_add(blocks);
        if entries_at < 2 || end.is_none_or(|end| end > place.blocks) {
            return Err(broken("the place of its entries"));
        }
        let entries = read(entries_at, blocks)?;
        let sum = entries.get(..bytes).map(crc32).map(u64::from);
        if sum != Some(number(&header, ENTRIES_CHECKSUM, 4)) {
            return Err(broken("its entries' checksum"));
        }
        Ok(Self {
            header,
            entries,
            entries_at,
            entry,
            count,
        })
    }

    /// The entry, if it is in use: its first block, and the one behind its last. A last one before the first
    /// is taken for as far as either says.
    fn entry(&self, at: usize) -> Option<(u64, u64)> {
        let entry = self.entries.chunks_exact(self.entry).nth(at)?;
        let first = number(entry, FIRST, 8);
        let last = number(entry, LAST, 8).max(first);
        let is_used = entry.iter().take(16).any(|byte| *byte > 0);
        is_used.then_some((first, last.saturating_add(1)))
    }

    /// The header as it is at one place, when the other copy is at another.
    fn header_at(&self, own: u64, other: u64, entries_at: u64) -> Vec<u8> {
        let mut header = self.header.clone();
        put(&mut header, OWN_PLACE, 8, own);
        put(&mut header, OTHER_PLACE, 8, other);
        put(&mut header, ENTRIES_PLACE, 8, entries_at);
        let entries = self.entries.get(..self.entry * self.count);
        let sum = crc32(entries.unwrap_or_default());
        put(&mut header, ENTRIES_CHECKSUM, 4, sum.into());
        put(&mut header, CHECKSUM, 4, 0);
        let size = index(&header, SIZE);
        let sum = crc32(header.get(..size).unwrap_or_default());
        put(&mut header, CHECKSUM, 4, sum.into());
        header
    }
}

fn gpt(place: &Place, mut sector: Vec<u8>, read: Read) -> Result<Plan, Failure> {
    let mut gpt = Gpt::read(1, place, read)?;
    let last = place.blocks.saturating_sub(1);
    let other = number(&gpt.header, OTHER_PLACE, 8);
    // A grow that was ended early may have written over the old backup, and then has the new one in its place.
    let backup = Gpt::read(other, place, read).or_else(|failure| {
        let new = if other < last {
            Gpt::read(last, place, read)
        } else {
            Err(failure.clone())
        };
        new.map_err(|_| failure)
    })?;
    if backup.header.get(DISK_ID) != gpt.header.get(DISK_ID) {
        return Err(refused(
            "the two copies of its disk's GPT are of two disks: repair it first",
        ));
    }
    let blocks = gpt.entries.len() as u64 / place.block;
    let first_usable = number(&gpt.header, FIRST_USABLE, 8);
    if gpt.entries_at + blocks > first_usable || first_usable > place.first {
        return Err(refused(
            "the GPT of its disk has a partition among its entries: repair it first",
        ));
    }
    let at = usize::try_from(place.number).unwrap_or(0).wrapping_sub(1);
    let own = (at < gpt.count).then(|| gpt.entry(at)).flatten();
    let (first, now) = own.unwrap_or_default();
    check(place, first, now)?;
    for other in (0..gpt.count).filter(|other| *other != at) {
        if let Some((_, end)) = gpt.entry(other) {
            is_last(place, other + 1, end)?;
        }
    }
    let backup_at = last.saturating_sub(blocks);
    let end = aligned(place, backup_at, now);
    let plan = |writes| Plan {
        table: "GPT",
        end,
        writes,
    };
    if end == now {
        return Ok(plan(Vec::new()));
    }
    put(&mut gpt.entries, at * gpt.entry + LAST, 8, end - 1);
    put(&mut gpt.header, LAST_USABLE, 8, backup_at - 1);
    // Where nothing is yet, or the old backup, beside which the primary holds.
    let mut writes = vec![Write {
        at: backup_at * place.block,
        bytes: [&gpt.entries[..], &gpt.header_at(last, 1, backup_at)].concat(),
    }];
    // From here on the backup holds.
    let header = gpt.header_at(1, last, gpt.entries_at);
    let entries_at = gpt.entries_at * place.block;
    if gpt.entries_at == 2 {
        writes.push(Write {
            at: place.block,
            bytes: [header, gpt.entries].concat(),
        });
    } else {
        let parts = [(entries_at, gpt.entries), (place.block, header)];
        writes.extend(parts.map(|(at, bytes)| Write { at, bytes }));
    }
    // What old programs are kept away by: to the end as well, if it went there.
    for at in (0..4).map(|n| KINDS - 4 + n * MBR_ENTRY) {
        let kind = number(&sector, at + 4, 1);
        if (kind, number(&sector, at + 12, 4)) == (PROTECTIVE, other.min(u32::MAX.into())) {
            put(&mut sector, at + 12, 4, last.min(u32::MAX.into()));
            writes.push(Write {
                at: 0,
                bytes: sector,
            });
            break;
        }
    }
    Ok(plan(writes))
}

/// So many bytes, little-endian. What is not there is 0.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let field = bytes.get(at..at + length).unwrap_or_default();
    field
        .iter()
        .rfold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Of 4 bytes, as a size.
fn index(bytes: &[u8], at: usize) -> usize {
    usize::try_from(number(bytes, at, 4)).unwrap_or(usize::MAX)
}

fn put(bytes: &mut [u8], at: usize, length: usize, value: u64) {
    let field = bytes.get_mut(at..at + length).unwrap_or_default();
    field
        .iter_mut()
        .zip(value.to_le_bytes())
        .for_each(|(to, byte)| *to = byte);
}

/// That of zip and Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests;
