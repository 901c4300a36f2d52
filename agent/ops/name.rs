//! What the guest is called and which time it shows: hostname(5) and localtime(5), read and set.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use quantix::error::{Code, Failure};
use quantix::message::agent::{NameReport, SetName};
use quantix::rt::replace::Replacement;
use quantix::rt::sys::process::{self, Signal};
use quantix::rt::sys::uname::set_hostname;
use quantix::rt::{clock, random, zone};

use super::read_regular;
use crate::names::processes;
use crate::telemetry::os;

const ZONES: &str = "/usr/share/zoneinfo";

/// Sets what is asked for, and says how it is then.
pub fn set(request: &SetName) -> Result<NameReport, Failure> {
    let root = Path::new("/");
    check_name(&request.hostname)?;
    let zone = match &*request.timezone {
        "" => None,
        name => Some(check_zone(root, name)?),
    };
    if !request.hostname.is_empty() {
        set_name(root, &request.hostname, &set_hostname)?;
    }
    if let Some(zone) = zone {
        set_zone(root, &request.timezone, &zone)?;
        forget_zone();
    }
    Ok(NameReport {
        hostname: os::hostname(),
        static_hostname: static_name(root),
        timezone: zone_name(root),
        utc_offset_seconds: offset(root).unwrap_or(0),
    })
}

/// The kernel's longest.
const MAX_NAME: usize = 64;

/// Labels of letters, digits and hyphens inside, as RFC 1123 has them.
fn check_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() {
        return Ok(());
    }
    let is_label = |label: &str| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_edge = label.starts_with('-') || label.ends_with('-');
        (1..=63).contains(&label.len()) && !is_edge && label.bytes().all(inside)
    };
    let why = if name.len() > MAX_NAME {
        "a host name has 64 bytes at most"
    } else if !name.split('.').all(is_label) {
        "a host name has letters, digits, hyphens inside, and dots between its labels"
    } else {
        return Ok(());
    };
    Err(Failure::new(Code::Invalid, why))
}

fn set_name(root: &Path, name: &str, set: &dyn Fn(&str) -> io::Result<()>) -> Result<(), Failure> {
    let before = os::hostname();
    set(name).map_err(|e| Failure::system("set", "the host name", &e))?;
    let path = root.join("etc/hostname");
    replace(&path, name).inspect_err(|_| {
        // Both or none of them.
        let _ = set(&before);
    })
}

/// Puts a file of one line in the place of another, or where a link to it leads.
fn replace(path: &Path, line: &str) -> Result<(), Failure> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let put = || {
        let mut new = Replacement::new(&target)?;
        new.file().write_all(line.as_bytes())?;
        new.file().write_all(b"\n")?;
        new.place(fs::metadata(&target).ok().as_ref(), 0o644)
    };
    put().map_err(|e| Failure::system("write", &target.to_string_lossy(), &e))
}

/// The file's first line that is no comment.
fn static_name(root: &Path) -> String {
    first_line(&root.join("etc/hostname"))
}

fn first_line(path: &Path) -> String {
    let text = read_regular(path, 4096).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    line.unwrap_or_default().chars().take(256).collect()
}

/// The file of a zone.
fn check_zone(root: &Path, name: &str) -> Result<PathBuf, Failure> {
    let invalid = |why: &str| Err(Failure::new(Code::Invalid, why));
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"+-_".contains(&byte);
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(inside);
    if name.len() > 128 || !name.split('/').all(is_part) {
        return invalid("a timezone is named as \"Europe/Berlin\" or \"UTC\"");
    }
    let zones = root.join(ZONES.trim_start_matches('/'));
    if !zones.is_dir() {
        let why = [ZONES, ": the guest has no timezones; install its tzdata"].concat();
        return Err(Failure::new(Code::NotFound, why));
    }
    let path = zones.join(name);
    let file = read_regular(&path, MAX_ZONE);
    if file.is_some_and(|file| zone::offset(&file, 0).is_some()) {
        return Ok(path);
    }
    let why = [ZONES, "/", name, ": the guest knows no such timezone"].concat();
    Err(Failure::new(Code::NotFound, why))
}

/// Real ones have 4 kB.
const MAX_ZONE: usize = 256 * 1024;

fn set_zone(root: &Path, name: &str, zone: &Path) -> Result<(), Failure> {
    let localtime = root.join("etc/localtime");
    let temporary = localtime.with_extension(format!("qx-{:016x}.tmp", random::number()));
    let put = || {
        // Relative, so that it is right below any root.
        let zone = Path::new("..").join(zone.strip_prefix(root).unwrap_or(zone));
        symlink(zone, &temporary)?;
        fs::rename(&temporary, &localtime).inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })?;
        fs::File::open(root.join("etc"))?.sync_all()
    };
    put().map_err(|e| Failure::system("replace", &localtime.to_string_lossy(), &e))?;
    let written = root.join("etc/timezone");
    match fs::symlink_metadata(&written) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        _ => replace(&written, name),
    }
}

/// timedated remembers the zone from its start on, tells of the old one for another half minute, and would take an
/// order to set that one for done. It is started again by whoever asks it next.
fn forget_zone() {
    for (pid, name) in processes() {
        // As much as the kernel keeps of its name.
        if name == "systemd-timedat" {
            process::signal(pid, Signal::TERMINATE);
        }
    }
}

/// By the link, which always is what holds; else by what Debian and others write beside it.
fn zone_name(root: &Path) -> String {
    let link = fs::read_link(root.join("etc/localtime")).unwrap_or_default();
    let link = link.to_string_lossy();
    match link.split_once("zoneinfo/") {
        Some((_, name)) => name.chars().take(128).collect(),
        None => first_line(&root.join("etc/timezone")),
    }
}

fn offset(root: &Path) -> Option<i32> {
    let file = read_regular(&root.join("etc/localtime"), MAX_ZONE)?;
    zone::offset(&file, clock::wall().seconds)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new() -> Self {
            let root = std::env::temp_dir().join(format!("qx-name-{:x}", random::number()));
            for directory in ["etc", "usr/share/zoneinfo/Europe"] {
                fs::create_dir_all(root.join(directory)).unwrap();
            }
            Self(root)
        }

        fn put(&self, name: &str, content: impl AsRef<[u8]>) {
            fs::write(self.0.join(name), content).unwrap();
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap()
        }

        fn count(&self) -> usize {
            fs::read_dir(self.0.join("etc")).unwrap().count()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Of version 1, with one offset.
    fn zone_file(offset: i32) -> Vec<u8> {
        let mut bytes = b"TZif".to_vec();
        bytes.extend([0; 16]);
        for count in [0u32, 0, 0, 0, 1, 4] {
            bytes.extend(count.to_be_bytes());
        }
        bytes.extend(offset.to_be_bytes());
        bytes.extend(b"\0\0ABC\0");
        bytes
    }

    #[test]
    fn names_are_those_of_rfc_1123() {
        let long = ["a"; 33].join(".");
        for good in ["", "a", "web-1", "WEB1.example.org", "1a", &"a".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "-a",
            "a-",
            "a.-b",
            "a..b",
            ".a",
            "a.",
            "a_b",
            "a b",
            "a\nb",
            "ä",
            "a/b",
            &long,
            &"a".repeat(64),
            "$(reboot)",
        ] {
            assert_eq!(check_name(bad).unwrap_err().code, Code::Invalid, "{bad}");
        }
    }

    #[test]
    fn a_name_is_set_in_both_places_or_in_none() {
        let root = Root::new();
        let said = RefCell::new(Vec::new());
        let set = |name: &str| {
            said.borrow_mut().push(name.to_owned());
            Ok(())
        };
        root.put("etc/hostname", "# mine\nold\n");
        fs::set_permissions(
            root.0.join("etc/hostname"),
            fs::Permissions::from_mode(0o640),
        )
        .unwrap();
        assert_eq!(static_name(&root.0), "old");
        set_name(&root.0, "new", &set).unwrap();
        assert_eq!(root.text("etc/hostname"), "new\n");
        assert_eq!(static_name(&root.0), "new");
        let mode = fs::metadata(root.0.join("etc/hostname"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o640);
        assert_eq!(*said.borrow(), ["new"]);
        assert_eq!(root.count(), 1);

        // One that the kernel does not take is not written.
        let refuse = |_: &str| Err(io::Error::from_raw_os_error(libc::EPERM));
        let why = set_name(&root.0, "other", &refuse).unwrap_err();
        assert_eq!(why.code, Code::Permission);
        assert_eq!(root.text("etc/hostname"), "new\n");

        // One that cannot be written is taken back.
        fs::remove_dir_all(root.0.join("etc")).unwrap();
        assert!(set_name(&root.0, "third", &set).is_err());
        assert_eq!(*said.borrow(), ["new", "third", &os::hostname()]);
    }

    #[test]
    fn a_link_to_the_name_stays_one() {
        let root = Root::new();
        root.put("etc/real", "old\n");
        symlink("real", root.0.join("etc/hostname")).unwrap();
        set_name(&root.0, "new", &|_| Ok(())).unwrap();
        assert_eq!(root.text("etc/real"), "new\n");
        assert!(root.0.join("etc/hostname").is_symlink());
    }

    #[test]
    fn a_zone_is_one_that_the_guest_knows() {
        let root = Root::new();
        root.put("usr/share/zoneinfo/Europe/Berlin", zone_file(3600));
        root.put("usr/share/zoneinfo/tzdata", "text");
        root.put("etc/shadow", "secret");
        for bad in [
            "/etc/shadow",
            "../../../etc/shadow",
            "Europe/../Europe/Berlin",
            "Europe//Berlin",
            "Europe/Berlin/",
            "Europe/Berlin\n",
            "./Europe/Berlin",
            &"a".repeat(200),
        ] {
            assert_eq!(
                check_zone(&root.0, bad).unwrap_err().code,
                Code::Invalid,
                "{bad}"
            );
        }
        for none in ["Europe/Nowhere", "Europe", "tzdata"] {
            let why = check_zone(&root.0, none).unwrap_err();
            assert_eq!(why.code, Code::NotFound, "{none}");
            assert!(why.message.contains("knows no such timezone"), "{why}");
        }

        let zone = check_zone(&root.0, "Europe/Berlin").unwrap();
        root.put("etc/localtime", zone_file(0));
        set_zone(&root.0, "Europe/Berlin", &zone).unwrap();
        assert_eq!(zone_name(&root.0), "Europe/Berlin");
        assert_eq!(offset(&root.0), Some(3600));
        // Only where there is one already.
        assert!(!root.0.join("etc/timezone").exists());
        root.put("etc/timezone", "Etc/UTC\n");
        set_zone(&root.0, "Europe/Berlin", &zone).unwrap();
        assert_eq!(root.text("etc/timezone"), "Europe/Berlin\n");
        assert_eq!(root.count(), 3);

        fs::remove_dir_all(root.0.join("usr")).unwrap();
        let why = check_zone(&root.0, "Europe/Berlin").unwrap_err();
        assert!(why.message.contains("the guest has no timezones"), "{why}");
    }

    #[test]
    fn a_zone_that_is_a_copy_is_named_beside_it() {
        let root = Root::new();
        assert_eq!((zone_name(&root.0), offset(&root.0)), (String::new(), None));
        root.put("etc/localtime", zone_file(-18_000));
        root.put("etc/timezone", "America/New_York\n");
        assert_eq!(zone_name(&root.0), "America/New_York");
        assert_eq!(offset(&root.0), Some(-18_000));
    }
}
