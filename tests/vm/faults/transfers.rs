//! Transfers for something to go wrong in, and what has to be true of their files afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::vm::harness::{Node, Outcome, Own, Place, Running, wait_until};

/// A transfer in each direction, both in the middle: neither can end before [`Moving::end`].
pub struct Moving {
    download: Running,
    upload: Running,
}

impl Moving {
    #[track_caller]
    pub fn start(own: &Own) -> Self {
        let line =
            "truncate -s 64M /tmp/out; rm -rf /tmp/in; mkdir /tmp/in; echo old >/tmp/in/kept";
        own.node.sh("db1", line);
        let mut download = own.node.begin(&["cat", "db1", "/tmp/out"]);
        let mut upload = own.node.begin(&["cp", "-", "db1:/tmp/in/kept"]);
        // More than the channel's buffers hold, so it has begun; the rest is not asked for.
        assert_eq!(download.read(2_000_000), vec![0; 2_000_000]);
        upload.write(&[1; 2_000_000]);
        Self { download, upload }
    }

    /// What the commands have come to; nobody hangs.
    #[track_caller]
    pub fn end(self) -> [Outcome; 2] {
        [self.download.finish(), self.upload.finish()]
    }

    /// Both have failed with this status and words, and the guest has kept its file.
    #[track_caller]
    pub fn have_failed(self, own: &Own, status: i32, words: &str) {
        for outcome in self.end() {
            assert_eq!(outcome.status, status, "{}", outcome.stderr);
            assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
            assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
            assert!(outcome.stdout.len() < 60_000_000);
        }
        own.node.wait_usable("db1");
        nothing_left(own);
    }
}

#[track_caller]
pub fn nothing_left(own: &Own) {
    wait_until("nothing of the upload to be left", 20, || {
        own.node.sh("db1", "ls -A /tmp/in; cat /tmp/in/kept") == "kept\nold"
    });
    wait_until("the transfers' processes to be gone", 20, || {
        own.agents().len() == 1
    });
}

/// Transfers in both directions, all as fast as they can be, onto targets that were there before. The
/// downloads have no end; the upload has one, if nothing goes wrong for seconds.
pub struct Flowing(Vec<Running>);

/// The targets of the downloads. Together their credit is more than the channel's window.
const DOWN: [&str; 3] = ["kept0", "kept1", "kept2"];

/// All transfers.
pub const ALL: usize = DOWN.len() + 1;

/// Of the upload. The guest's /tmp takes it once.
const SIZE: u64 = 80 << 20;

impl Flowing {
    /// Makes the files: once for any number of transfers.
    #[track_caller]
    pub fn prepare(node: &Node, place: &Place) {
        let line = "truncate -s 8G /tmp/out; mkdir /tmp/in; echo old >/tmp/in/kept";
        node.sh("db1", line);
        fs::create_dir(place.file("down")).unwrap();
        for name in DOWN {
            fs::write(place.file("down").join(name), "old").unwrap();
        }
        // No two blocks are the same.
        let bytes: Vec<u8> = (0..SIZE / 8).flat_map(u64::to_be_bytes).collect();
        fs::write(place.file("source"), bytes).unwrap();
    }

    pub fn start(node: &Node, place: &Place) -> Self {
        let word = |path: PathBuf| path.to_str().unwrap().to_owned();
        let down = DOWN.map(|name| word(place.file("down").join(name)));
        let down = down.map(|target| node.begin(&["cp", "db1:/tmp/out", &target]));
        let source = word(place.file("source"));
        let upload = node.begin(&["cp", &source, "db1:/tmp/in/kept"]);
        Self(down.into_iter().chain([upload]).collect())
    }

    /// Makes the files, and brings transfers into their middle.
    #[track_caller]
    pub fn begin(node: &Node, place: &Place) -> Self {
        Self::prepare(node, place);
        let mut flowing = Self::start(node, place);
        flowing.wait_moved(2_000_000);
        flowing
    }

    /// Waits until each has moved so many bytes.
    #[track_caller]
    pub fn wait_moved(&mut self, bytes: u64) {
        for transfer in &mut self.0 {
            wait_until("bytes to be moved", 30, || {
                let ended = transfer.child.try_wait().unwrap();
                assert!(ended.is_none(), "a transfer has ended: {ended:?}");
                position(transfer.child.id()) >= bytes
            });
        }
    }

    /// Each has come to one end, with one line if it has failed, and then with one of these statuses.
    /// How many have failed.
    #[track_caller]
    pub fn end(self, failed: &[i32]) -> usize {
        let mut count = 0;
        for outcome in self.0.into_iter().map(Running::finish) {
            if outcome.status == 0 {
                assert_eq!(outcome.stderr, "");
                continue;
            }
            assert!(failed.contains(&outcome.status), "{outcome:?}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
            count += 1;
        }
        count
    }
}

/// How far the process has come in the file in which it is furthest.
fn position(pid: u32) -> u64 {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let texts = files.into_iter().flatten().flatten();
    let texts = texts.filter_map(|file| fs::read_to_string(file.path()).ok());
    let position = |text: String| {
        text.lines()
            .next()?
            .strip_prefix("pos:")?
            .trim()
            .parse()
            .ok()
    };
    texts.filter_map(position).max().unwrap_or(0)
}

/// Each target is what it was or all of its source, and nothing else is left of a transfer on either
/// side. The guest's target is what it was when this returns.
#[track_caller]
pub fn files_whole(node: &Node, place: &Place) {
    let down = fs::read_dir(place.file("down")).unwrap();
    let mut down: Vec<_> = down.map(|entry| entry.unwrap().file_name()).collect();
    down.sort();
    assert_eq!(down, DOWN);
    for name in DOWN {
        let bytes = fs::read(place.file("down").join(name)).unwrap();
        assert_eq!(bytes, b"old", "{name}");
    }
    let line = "ls -A /tmp/in; stat -c %s /tmp/in/kept; \
        grep -ls ^quantix-kvm-age /proc/[0-9]*/comm | wc -l";
    let mut said = String::new();
    let whole = format!("kept\n{SIZE}\n1");
    wait_until("nothing of the transfers to be left", 20, || {
        said = node.sh("db1", line);
        said == "kept\n4\n1" || said == whole
    });
    if said == whole {
        let sum = node.sh("db1", "sha256sum </tmp/in/kept; echo old >/tmp/in/kept");
        assert_eq!(sum[..64], sha256(&place.file("source")));
    }
    assert_eq!(node.sh("db1", "cat /tmp/in/kept"), "old");
}

fn sha256(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(out.stdout).unwrap()[..64].to_owned()
}

/// The same agent serves, and the files are whole.
#[track_caller]
pub fn well_again(own: &Own) {
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    files_whole(&own.node, &own.place);
    assert_eq!(own.vm.console().matches("started").count(), 1);
}
