//! Tables as sgdisk(8) and sfdisk(8) make and check them, and writes that are cut off.

use std::path::PathBuf;
use std::process::Command;

use super::*;

const BLOCK: u64 = 512;
const MIB: u64 = 1 << 20;

/// A disk of so many bytes with nothing on it.
fn empty(bytes: u64) -> Vec<u8> {
    vec![0; usize::try_from(bytes).unwrap()]
}

fn apply(disk: &mut [u8], at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).unwrap();
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

fn take(disk: &[u8], block: u64, at: u64, blocks: u64) -> Result<Vec<u8>, Failure> {
    let start = at
        .checked_mul(block)
        .and_then(|at| usize::try_from(at).ok());
    let length = usize::try_from(blocks * block).unwrap();
    assert!(length <= MAX_ENTRIES + 4096, "reads a table, not a disk");
    let bytes = start.and_then(|start| disk.get(start..start.checked_add(length)?));
    bytes
        .map(<[u8]>::to_vec)
        .ok_or_else(|| Failure::new(Code::Internal, "behind the end"))
}

/// What [`grow`] says of partition `n` of a disk, of which the kernel has these blocks.
fn plan(disk: &[u8], block: u64, n: u32, (first, end): (u64, u64)) -> Result<Plan, String> {
    let place = Place {
        block,
        blocks: disk.len() as u64 / block,
        number: n,
        first,
        end,
    };
    let read = |at, blocks| take(disk, block, at, blocks);
    grow(&place, &read).map_err(|failure| failure.message)
}

fn done(disk: &mut [u8], plan: &Plan) {
    for write in &plan.writes {
        apply(disk, write.at, &write.bytes);
    }
}

/// A GPT for a disk of `blocks`: partitions by number, first and last block.
fn make_gpt(disk: &mut [u8], block: u64, partitions: &[(u64, u64, u64)]) {
    let last = disk.len() as u64 / block - 1;
    let blocks = 128 * 128 / block;
    let mut gpt = Gpt {
        header: empty(block),
        entries: empty(128 * 128),
        entries_at: 2,
        entry: 128,
        count: 128,
    };
    gpt.header[..12].copy_from_slice(b"EFI PART\0\0\x01\0");
    gpt.header[DISK_ID].fill(7);
    put(&mut gpt.header, SIZE, 4, 92);
    put(&mut gpt.header, FIRST_USABLE, 8, 2 + blocks);
    put(&mut gpt.header, LAST_USABLE, 8, last - blocks - 1);
    put(&mut gpt.header, COUNT, 4, 128);
    put(&mut gpt.header, ENTRY_SIZE, 4, 128);
    for (number, first, end) in partitions {
        let at = usize::try_from((number - 1) * 128).unwrap();
        gpt.entries[at..at + 32].fill(9);
        put(&mut gpt.entries, at + FIRST, 8, *first);
        put(&mut gpt.entries, at + LAST, 8, *end);
    }
    apply(disk, 2 * block, &gpt.entries);
    apply(disk, block, &gpt.header_at(1, last, 2));
    apply(disk, (last - blocks) * block, &gpt.entries);
    apply(disk, last * block, &gpt.header_at(last, 1, last - blocks));
    let size = last.min(u32::MAX.into());
    make_mbr(disk, &[(1, PROTECTIVE, 1, size)]);
}

/// Entries by number: kind, first block, blocks.
fn make_mbr(disk: &mut [u8], entries: &[(usize, u64, u64, u64)]) {
    put(disk, 510, 2, 0xAA55);
    for (number, kind, first, blocks) in entries {
        let at = 446 + (number - 1) * 16;
        put(disk, at + 4, 1, *kind);
        put(disk, at + 8, 4, *first);
        put(disk, at + 12, 4, *blocks);
    }
}

/// The headers of [`grown`]'s GPT.
const COPIES: [usize; 2] = [1, 8191];

/// Makes copies of a GPT say this of themselves, with the right checksums.
fn forge(disk: &mut [u8], copies: &[usize], field: usize, length: usize, value: u64) {
    for at in copies {
        let header = &mut disk[at * 512..(at + 1) * 512];
        put(header, field, length, value);
        put(header, CHECKSUM, 4, 0);
        let size = index(header, SIZE).min(512);
        let sum = crc32(&header[..size]);
        put(header, CHECKSUM, 4, sum.into());
    }
}

/// Two partitions on 4 MiB, of which the disk then has 8.
fn grown() -> Vec<u8> {
    let mut disk = empty(4 * MIB);
    make_gpt(&mut disk, BLOCK, &[(1, 2048, 4095), (3, 4096, 8158)]);
    disk.resize(8 << 20, 0);
    disk
}

const OURS: (u64, u64) = (4096, 8159);

#[test]
fn the_checksum_is_that_of_zip() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
}

#[test]
fn the_last_partition_of_a_gpt_reaches_the_last_whole_mib() {
    let mut disk = grown();
    let plan = plan(&disk, BLOCK, 3, OURS).unwrap();
    assert_eq!((plan.table, plan.end), ("GPT", 7 * 2048));
    done(&mut disk, &plan);
    let last = 8 * 2048 - 1;
    assert_eq!(number(&disk, 512 + OTHER_PLACE, 8), last);
    assert_eq!(number(&disk, 512 + LAST_USABLE, 8), last - 33);
    assert_eq!(number(&disk, KINDS + 8, 4), last);
    // Asked for again, by a kernel that has been told and by one that has not.
    for end in [OURS.1, plan.end] {
        let again = super::tests::plan(&disk, BLOCK, 3, (4096, end)).unwrap();
        assert_eq!((again.end, again.writes.len()), (7 * 2048, 0));
    }
}

#[test]
fn blocks_of_4096_bytes() {
    let mut disk = empty(4 * MIB);
    make_gpt(&mut disk, 4096, &[(2, 256, 900)]);
    disk.resize(8 << 20, 0);
    let plan = plan(&disk, 4096, 2, (256, 901)).unwrap();
    assert_eq!(plan.end, 7 * 256);
    done(&mut disk, &plan);
    let again = super::tests::plan(&disk, 4096, 2, (256, plan.end)).unwrap();
    assert!(again.writes.is_empty());
}

#[test]
fn what_is_not_a_mib_is_not_worth_a_write() {
    for more in [0, 512, 20 * 512] {
        let mut disk = empty(4 * MIB);
        make_gpt(&mut disk, BLOCK, &[(1, 2048, 8158)]);
        disk.resize(disk.len() + more, 0);
        let plan = plan(&disk, BLOCK, 1, (2048, 8159)).unwrap();
        assert_eq!((plan.end, plan.writes.len()), (8159, 0));
    }
}

/// Of a disk that may have been left in the middle of a write: one copy is whole, and each that is says what
/// was before or what is after.
fn holds(disk: &[u8]) -> bool {
    let place = Place {
        block: BLOCK,
        blocks: disk.len() as u64 / BLOCK,
        number: 3,
        first: OURS.0,
        end: OURS.1,
    };
    let read = |at, blocks| take(disk, BLOCK, at, blocks);
    let copies = [1, 8191, place.blocks - 1].map(|at| Gpt::read(at, &place, &read).ok());
    for gpt in copies.iter().flatten() {
        assert_eq!(gpt.entry(0), Some((2048, 4096)));
        let (first, end) = gpt.entry(2).unwrap();
        assert!(first == 4096 && [OURS.1, 7 * 2048].contains(&end));
    }
    let [primary, _, new] = copies;
    primary.is_some() || new.is_some()
}

#[test]
fn a_crash_at_any_block_leaves_a_whole_table() {
    let plan = plan(&grown(), BLOCK, 3, OURS).unwrap();
    let mut disk = grown();
    for write in &plan.writes {
        let blocks: Vec<_> = write.bytes.chunks(512).enumerate().collect();
        for cut in 0..=blocks.len() {
            // Blocks may reach the disk from the front, and from the back.
            for some in [&blocks[..cut], &blocks[cut..]] {
                let mut torn = disk.clone();
                for (at, bytes) in some {
                    apply(&mut torn, write.at + *at as u64 * BLOCK, bytes);
                }
                assert!(holds(&torn), "{cut} of the write at {}", write.at);
            }
        }
        apply(&mut disk, write.at, &write.bytes);
        // Whoever is ended between two writes goes on, or has to repair first; nothing else.
        match super::tests::plan(&disk, BLOCK, 3, OURS) {
            Ok(again) => assert_eq!(again.end, plan.end),
            Err(why) => panic!("{why}"),
        }
    }
}

#[test]
fn a_backup_that_was_written_over_by_the_new_one_does_not_stop_the_next_try() {
    let mut disk = empty(4 * MIB + 1024 * 1024 - 8 * 512);
    make_gpt(&mut disk, BLOCK, &[(1, 2048, 8000)]);
    // 20 blocks: the new entries are where the old header is.
    disk.resize(disk.len() + 20 * 512, 0);
    let first = plan(&disk, BLOCK, 1, (2048, 8001)).unwrap();
    apply(&mut disk, first.writes[0].at, &first.writes[0].bytes);
    let again = plan(&disk, BLOCK, 1, (2048, 8001)).unwrap();
    done(&mut disk, &again);
    assert!(
        plan(&disk, BLOCK, 1, (2048, again.end))
            .unwrap()
            .writes
            .is_empty()
    );
}

#[test]
fn a_broken_gpt_is_refused() {
    let refused = |change: &dyn Fn(&mut Vec<u8>), words: &str| {
        let mut disk = grown();
        change(&mut disk);
        let why = plan(&disk, BLOCK, 3, OURS).unwrap_err();
        assert!(why.contains(words), "{why:?} has no {words:?}");
    };
    let both = &COPIES;
    refused(
        &|disk| disk[512 + 20] ^= 1,
        "block 1 of its disk is broken: its header's checksum",
    );
    refused(&|disk| forge(disk, &[1], OWN_PLACE, 8, 3), "elsewhere");
    refused(
        &|disk| forge(disk, &[8191], DISK_ID.start, 8, 3),
        "of two disks",
    );
    refused(&|disk| forge(disk, both, SIZE, 4, 91), "its header's size");
    refused(&|disk| forge(disk, both, SIZE, 4, 513), "its header's size");
    refused(
        &|disk| forge(disk, both, FIRST_USABLE, 8, 33),
        "among its entries",
    );
    refused(
        &|disk| forge(disk, both, FIRST_USABLE, 8, 4097),
        "among its entries",
    );
    for place in [0, 1, 16_353, u64::MAX] {
        refused(
            &|disk| forge(disk, both, ENTRIES_PLACE, 8, place),
            "the place of its entries",
        );
    }
    refused(&|disk| disk[1024 + 300] ^= 1, "entries' checksum");
    refused(&|disk| disk[8191 * 512 + 80] ^= 1, "in block 8191");
    refused(&|disk| disk[8170 * 512] ^= 1, "in block 8191");
    refused(&|disk| disk.truncate(3 << 20), "the disk ends before it");
    refused(&|disk| disk[510] = 0, "neither");
    refused(&|disk| disk[512] = 0, "no header");
    // What the kernel has is another table.
    refused(
        &|disk| make_gpt(disk, BLOCK, &[(3, 4096, 8000)]),
        "not what the kernel",
    );
    refused(
        &|disk| make_gpt(disk, BLOCK, &[(3, 4097, 8158)]),
        "not what the kernel",
    );
    refused(
        &|disk| make_gpt(disk, BLOCK, &[(2, 4096, 8158)]),
        "not what the kernel",
    );
    let behind = [(3, 4096, 8158), (128, 10000, 10001)];
    refused(
        &|disk| make_gpt(disk, BLOCK, &behind),
        "partition 128 lies behind",
    );
    let across = [(3, 4096, 8158), (1, 2048, 4096)];
    refused(
        &|disk| make_gpt(disk, BLOCK, &across),
        "partition 1 lies behind",
    );
    let turned = [(3, 4096, 8158), (4, 12000, 5)];
    refused(
        &|disk| make_gpt(disk, BLOCK, &turned),
        "partition 4 lies behind",
    );
    let endless = [(3, 4096, 8158), (4, 5, u64::MAX)];
    refused(
        &|disk| make_gpt(disk, BLOCK, &endless),
        "partition 4 lies behind",
    );
}

#[test]
fn a_hostile_gpt_is_refused_and_nothing_is_written_elsewhere() {
    let values = [
        0,
        1,
        2,
        3,
        91,
        93,
        127,
        129,
        512,
        513,
        2047,
        32766,
        8191,
        16_383,
        16_384,
        1 << 31,
        u64::from(u32::MAX),
        u64::MAX - 1,
        u64::MAX,
    ];
    let fields = [
        (SIZE, 4),
        (OWN_PLACE, 8),
        (OTHER_PLACE, 8),
        (FIRST_USABLE, 8),
        (LAST_USABLE, 8),
        (ENTRIES_PLACE, 8),
        (COUNT, 4),
        (ENTRY_SIZE, 4),
        (ENTRIES_CHECKSUM, 4),
    ];
    let mut taken = 0;
    for (field, length) in fields {
        for value in values {
            let mut disk = grown();
            forge(&mut disk, &COPIES, field, length, value);
            let Ok(plan) = plan(&disk, BLOCK, 3, OURS) else {
                continue;
            };
            taken += 1;
            for write in &plan.writes {
                let end = write.at + write.bytes.len() as u64;
                let is_front = end <= 2048 * BLOCK;
                let is_back = write.at >= plan.end * BLOCK && end <= 8 * MIB;
                assert!(
                    is_front || is_back,
                    "{field} {value}: {} to {end}",
                    write.at
                );
            }
        }
    }
    assert!(taken > 0, "some of them do not matter");
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let disk = grown();
    let place = |block, blocks, number, first, end| Place {
        block,
        blocks,
        number,
        first,
        end,
    };
    let read = |_: u64, _: u64| Ok(disk[..512].to_vec());
    for place in [
        place(0, 1000, 1, 1, 2),
        place(513, 1000, 1, 1, 2),
        place(1 << 40, 1000, 1, 1, 2),
        place(512, 0, 1, 1, 2),
        place(512, 1000, 0, 1, 2),
        place(512, 1000, u32::MAX, 1, 2),
        place(512, 1000, 1, 2, 2),
        place(512, u64::MAX, 1, u64::MAX - 1, u64::MAX),
    ] {
        assert!(grow(&place, &read).is_err(), "{place:?}");
    }
}

#[test]
fn the_last_partition_of_an_mbr_reaches_the_end() {
    let mut disk = empty(8 * MIB);
    make_mbr(&mut disk, &[(1, 0x83, 2048, 2048), (2, 0x83, 4096, 4000)]);
    disk[4] = 0x90;
    let plan = plan(&disk, BLOCK, 2, (4096, 8096)).unwrap();
    assert_eq!((plan.table, plan.end), ("MBR", 8 * 2048));
    let before = disk.clone();
    done(&mut disk, &plan);
    assert_eq!(number(&disk, 446 + 16 + 12, 4), 8 * 2048 - 4096);
    let differ: Vec<_> = (0..disk.len())
        .filter(|at| disk[*at] != before[*at])
        .collect();
    assert!(
        differ.iter().all(|at| (446 + 16..446 + 32).contains(at)),
        "{differ:?}"
    );
    assert!(
        super::tests::plan(&disk, BLOCK, 2, (4096, plan.end))
            .unwrap()
            .writes
            .is_empty()
    );
}

#[test]
fn an_mbr_that_cannot_grow_is_refused() {
    let refused = |entries: &[_], n, ours, words: &str| {
        let mut disk = empty(8 * MIB);
        make_mbr(&mut disk, entries);
        let why = plan(&disk, BLOCK, n, ours).unwrap_err();
        assert!(why.contains(words), "{why:?} has no {words:?}");
    };
    let one = (1, 0x83, 2048, 2048);
    let ours = (2048, 4096);
    refused(&[one], 5, ours, "a logical partition");
    refused(&[(1, 0x05, 2048, 2048)], 1, ours, "an extended partition");
    refused(
        &[one, (2, 0x83, 8192, 1)],
        1,
        ours,
        "partition 2 lies behind",
    );
    refused(
        &[one, (4, 0x0F, 8192, 9000)],
        1,
        ours,
        "partition 4 lies behind",
    );
    refused(
        &[(1, 0x83, 2048, u64::from(u32::MAX))],
        1,
        ours,
        "not what the kernel",
    );
    refused(&[(1, 0x83, 2049, 2048)], 1, ours, "not what the kernel");
    refused(&[], 1, ours, "not what the kernel");
    // 4 TiB, of which it has 2.
    let place = Place {
        block: 512,
        blocks: 1 << 33,
        number: 1,
        first: 2048,
        end: u64::from(u32::MAX) - 2047,
    };
    let mut sector = empty(512);
    make_mbr(&mut sector, &[(1, 0x83, 2048, place.end - 2048)]);
    let why = grow(&place, &|_, _| Ok(sector.clone()))
        .unwrap_err()
        .message;
    assert!(why.contains("needs a GPT"), "{why}");
}

/// Runs a tool of the system on a disk; None: it is not there.
fn tool(words: &[&str], disk: &PathBuf, stdin: &str) -> Option<String> {
    use std::io::Write as _;
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .arg(disk)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(stdin.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(out.status.success(), "{words:?}: {said}");
    Some(said)
}

/// Has this tool make a table for 4 MiB with a last partition from 2 MiB on; grows it to 8 MiB; returns
/// where the file is.
fn by_tool(name: &str, make: &[&str], script: &str) -> Option<PathBuf> {
    let path = std::env::temp_dir().join(format!("qx-table-{}-{name}", std::process::id()));
    std::fs::write(&path, empty(4 * MIB)).unwrap();
    if tool(make, &path, script).is_none() {
        eprintln!("skipped: no {}", make[0]);
        std::fs::remove_file(&path).unwrap();
        return None;
    }
    let mut disk = std::fs::read(&path).unwrap();
    let end = match number(&disk, KINDS, 1) {
        PROTECTIVE => number(&disk, 1024 + 128 + LAST, 8) + 1,
        _ => 4096 + number(&disk, 446 + 16 + 12, 4),
    };
    disk.resize(8 << 20, 0);
    let plan = plan(&disk, BLOCK, 2, (4096, end)).unwrap();
    assert!(plan.end >= 7 * 2048);
    done(&mut disk, &plan);
    std::fs::write(&path, &disk).unwrap();
    Some(path)
}

#[test]
fn other_programs_find_the_table_right() {
    let both = "label: LABEL\nstart=2048, size=2048\nstart=4096\n";
    let (gpt, mbr) = (both.replace("LABEL", "gpt"), both.replace("LABEL", "dos"));
    let sgdisk = ["sgdisk", "-a2048", "-n1:2048:4095", "-n2:4096:0"];
    for (name, make, script) in [
        ("sgdisk", &sgdisk[..], ""),
        ("gpt", &["sfdisk", "-q"], &gpt),
        ("mbr", &["sfdisk", "-q"], &mbr),
    ] {
        let Some(path) = by_tool(name, make, script) else {
            continue;
        };
        if let Some(said) = tool(&["sfdisk", "--verify"], &path, "") {
            assert!(
                !said.contains("PMBR") && said.contains("No errors detected"),
                "{said}"
            );
        }
        if name != "mbr"
            && let Some(said) = tool(&["sgdisk", "-v"], &path, "")
        {
            assert!(said.contains("No problems found"), "{said}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
