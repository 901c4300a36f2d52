//! The guest's disks and their partitions, from /sys/block (Documentation/ABI/stable/sysfs-block).

use std::fs;
use std::path::Path;

use prost::Message;
use quantix::message::agent::{BlockDevice, Storage};

use super::PAGE;

/// Devices that are told of, and devices below one of them.
const MAX_DEVICES: usize = 256;
const MAX_BELOW: usize = 16;

/// Characters of a word: as many as a name of device-mapper has.
const MAX_WORD: usize = 128;

/// What /sys, which is at `sys`, says.
pub fn devices(sys: &Path) -> Storage {
    let mut storage = Storage::default();
    for name in names(&sys.join("block")) {
        let path = sys.join("block").join(&name);
        let mut disk = device(&path, &name);
        // Loop devices and drives without anything in them.
        if disk.size == 0 {
            continue;
        }
        disk.model = word(&path, "device/model");
        disk.serial = word(&path, "serial");
        if disk.serial.is_empty() {
            disk.serial = word(&path, "device/serial");
        }
        disk.address = address(&path);
        disk.discards = number(&path, "queue/discard_max_bytes") > 0;
        disk.made_of = made_of(&path);
        let mapped = word(&path, "dm/name");
        if !mapped.is_empty() {
            disk.name = ["mapper/", &mapped].concat();
        }
        storage.devices.push(disk);
        for part in names(&path) {
            let path = path.join(&part);
            if path.join("partition").exists() {
                let mut partition = device(&path, &part);
                name.clone_into(&mut partition.parent);
                storage.devices.push(partition);
            }
        }
    }
    storage.devices.truncate(MAX_DEVICES);
    while storage.encoded_len() > PAGE {
        storage.devices.pop();
    }
    storage
}

fn device(path: &Path, name: &str) -> BlockDevice {
    BlockDevice {
        // The kernel writes a ! for a / in the middle of a name.
        name: name.replace('!', "/"),
        size: number(path, "size").saturating_mul(SECTOR),
        read_only: number(path, "ro") > 0,
        ..Default::default()
    }
}

/// The devices below it, or the file of a loop device.
fn made_of(path: &Path) -> Vec<String> {
    let mut below = names(&path.join("slaves"));
    let file = word(path, "loop/backing_file");
    if !file.is_empty() {
        below.push(file);
    }
    below.truncate(MAX_BELOW);
    below
}

/// Sizes in /sys/block are in these, whatever the disk's own are.
pub(super) const SECTOR: u64 = 512;

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

pub(super) fn word(path: &Path, name: &str) -> String {
    let text = fs::read(path.join(name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.trim().chars().take(MAX_WORD).collect()
}

pub(super) fn number(path: &Path, name: &str) -> u64 {
    word(path, name).parse().unwrap_or(0)
}

/// The innermost directory on its way through /sys that is an address: of a controller, of a disk behind one.
fn address(path: &Path) -> String {
    let way = fs::canonicalize(path).unwrap_or_default();
    let parts = way.components().rev();
    let mut words = parts.map(|part| part.as_os_str().to_string_lossy().into_owned());
    words.find(|word| is_address(word)).unwrap_or_default()
}

/// Four numbers, as 0000:00:04.0 and 2:0:0:1.
fn is_address(word: &str) -> bool {
    let mut numbers = word.split([':', '.']);
    let all = numbers
        .by_ref()
        .take(4)
        .filter(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_hexdigit()));
    all.count() == 4 && numbers.next().is_none()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_made_of_others_says_of_which() {
        let sys = std::env::temp_dir().join(format!("qx-storage-{}-dm", std::process::id()));
        let block = |name: &str| sys.join("block").join(name);
        for (name, file, text) in [
            ("dm-0", "dm/name", "data-logs\n"),
            ("dm-0", "slaves/vdb1/x", ""),
            ("dm-0", "slaves/vdc/x", ""),
            ("loop0", "loop/backing_file", "/srv/my image (deleted)\n"),
            ("vdc", "ro", "0\n"),
        ] {
            let path = block(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            fs::write(block(name).join("size"), "8\n").unwrap();
        }
        let found = devices(&sys).devices;
        fs::remove_dir_all(&sys).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|one| (&*one.name, &one.made_of[..]))
            .collect();
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let (below, file) = (words(&["vdb1", "vdc"]), words(&["/srv/my image (deleted)"]));
        let wanted = [
            ("mapper/data-logs", &below[..]),
            ("loop0", &file[..]),
            ("vdc", &[][..]),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn disks_have_their_address_and_their_partitions() {
        let sys = std::env::temp_dir().join(format!("qx-storage-{}", std::process::id()));
        let disk = sys.join("devices/pci0000:00/0000:00:04.0/virtio2/block/vda");
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(&disk.join("size"), "2048\n");
        write(&disk.join("serial"), "disk0\n");
        write(&disk.join("queue/discard_max_bytes"), "2147483136\n");
        write(&disk.join("vda1/size"), "1024\n");
        write(&disk.join("vda1/partition"), "1\n");
        write(&disk.join("vda1/ro"), "1\n");
        write(&sys.join("devices/virtual/block/loop0/size"), "0\n");
        fs::create_dir(sys.join("block")).unwrap();
        symlink(&disk, sys.join("block/vda")).unwrap();
        symlink(
            sys.join("devices/virtual/block/loop0"),
            sys.join("block/loop0"),
        )
        .unwrap();
        let found = devices(&sys).devices;
        fs::remove_dir_all(&sys).unwrap();
        let [disk, part] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(
            (&*disk.name, disk.size, &*disk.serial),
            ("vda", 1 << 20, "disk0")
        );
        assert_eq!((&*disk.address, disk.discards), ("0000:00:04.0", true));
        assert_eq!(
            (&*part.name, &*part.parent, part.read_only),
            ("vda1", "vda", true)
        );
        assert!(is_address("2:0:0:1") && !is_address("pci0000:00") && !is_address("1:2:3:4:5"));
        assert!(!is_address("vda") && !is_address("0000:00:04.") && !is_address(""));
    }
}
