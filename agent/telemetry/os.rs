//! Which system this is and how it fares: os-release(5), uname(2) and the small files of /proc.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use quantix::message::wire::AgentReady;
use quantix::rt::sys::uname::uname;

use super::{fields, number, read};

/// What the agent says of itself and its guest. `version` is the agent's, `capabilities` are the
/// requests that it answers. Reads /etc/os-release: call it when the root file system answers.
pub fn ready(version: &str, capabilities: &[&str]) -> AgentReady {
    let mut buffer = Vec::new();
    let mut release = OsRelease::default();
    for path in OS_RELEASE {
        let text = read(path, OS_RELEASE_LIMIT, &mut buffer);
        if !text.is_empty() {
            release = OsRelease::parse(text);
            break;
        }
    }
    let mut ready = AgentReady {
        version: version.to_owned(),
        os_name: release.os_name(),
        os_version: release.version,
        capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
        ..AgentReady::default()
    };
    if let Ok(name) = uname() {
        ready.kernel_version = name.release;
        ready.architecture = name.machine;
        ready.hostname = name.nodename;
    }
    ready
}

/// The guest's host name as the kernel has it, at most 64 bytes: no name service is asked.
pub fn hostname() -> String {
    uname().map(|name| name.nodename).unwrap_or_default()
}

/// The kernel's random UUID of this boot, 36 characters; empty where /proc does not tell
/// (proc_sys_kernel(5)).
pub fn boot_id() -> String {
    let mut buffer = Vec::new();
    let text = read("/proc/sys/kernel/random/boot_id", LINE_LIMIT, &mut buffer);
    String::from_utf8_lossy(text.trim_ascii()).into_owned()
}

/// Whole seconds since boot, time asleep included (proc_uptime(5)).
pub fn uptime_seconds() -> u64 {
    parse_uptime(read("/proc/uptime", LINE_LIMIT, &mut Vec::new()))
}

/// Over the last 1, 5 and 15 minutes (proc_loadavg(5)).
pub fn load_averages(buffer: &mut Vec<u8>) -> [f64; 3] {
    parse_load_averages(read("/proc/loadavg", LINE_LIMIT, buffer))
}

/// Processes, not threads: the directories of /proc that are named by a number.
pub fn process_count() -> u32 {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let processes = entries
        .flatten()
        .filter(|entry| is_process(entry.file_name().as_bytes()));
    u32::try_from(processes.count()).unwrap_or(u32::MAX)
}

/// The fields of os-release(5) that are reported; empty where missing.
#[derive(Debug, Default, PartialEq, Eq)]
struct OsRelease {
    id: String,
    name: String,
    version: String,
}

impl OsRelease {
    /// Reads assignments as a shell would, as far as os-release(5) allows them. Lines that are none
    /// are passed over; of two assignments to a name the later counts.
    fn parse(text: &[u8]) -> Self {
        let mut release = Self::default();
        for line in text.split(|b| *b == b'\n') {
            // Comments have a # before the first =, so that their name matches nothing.
            let mut parts = line.splitn(2, |b| *b == b'=');
            let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
                continue;
            };
            let place = match name.trim_ascii() {
                b"ID" => &mut release.id,
                b"NAME" => &mut release.name,
                b"VERSION_ID" => &mut release.version,
                _ => continue,
            };
            *place = unquote(value.trim_ascii());
        }
        release
    }

    /// ID, else NAME, else what os-release(5) has readers assume.
    fn os_name(&mut self) -> String {
        let names = [&mut self.id, &mut self.name];
        let name = names.into_iter().find(|name| !name.is_empty());
        name.map_or_else(|| "linux".to_owned(), std::mem::take)
    }
}

/// Removes one pair of quotes, and the backslashes in front of other characters outside '...'. Ends
/// at the closing quote, or with the line where that is missing.
fn unquote(value: &[u8]) -> String {
    let (quote, value) = match value {
        [quote @ (b'"' | b'\''), rest @ ..] => (Some(*quote), rest),
        _ => (None, value),
    };
    let mut text = Vec::with_capacity(value.len());
    let mut rest = value.iter().copied();
    while let Some(byte) = rest.next() {
        if Some(byte) == quote {
            break;
        }
        if byte == b'\\' && quote != Some(b'\'') {
            text.extend(rest.next());
        } else {
            text.push(byte);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The number before the point of the first field.
fn parse_uptime(text: &[u8]) -> u64 {
    let whole = text.split(|b| *b == b'.' || b.is_ascii_whitespace()).next();
    whole.and_then(number).unwrap_or(0)
}

/// The first three fields; 0 for what is missing or no plain number.
fn parse_load_averages(text: &[u8]) -> [f64; 3] {
    let mut loads = [0.0; 3];
    for (load, field) in loads.iter_mut().zip(fields(text)) {
        *load = number(field)
            .filter(|value: &f64| value.is_finite() && *value >= 0.0)
            .unwrap_or(0.0);
    }
    loads
}

fn is_process(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

/// In this order; the second only where the first is missing (os-release(5)).
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// Real ones are below 1 kB.
const OS_RELEASE_LIMIT: u64 = 64 << 10;

/// For files of one short line.
const LINE_LIMIT: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> (String, String) {
        let mut release = OsRelease::parse(text.as_bytes());
        (release.os_name(), release.version)
    }

    fn pair(name: &str, version: &str) -> (String, String) {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn real_os_releases() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\n\
            VERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(release(debian), pair("debian", "12"));
        let rocky = "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"";
        assert_eq!(release(rocky), pair("rocky", "9.4"));
        let arch = "NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n";
        assert_eq!(release(arch), pair("arch", ""));
    }

    #[test]
    fn odd_os_releases() {
        assert_eq!(release(""), pair("linux", ""));
        assert_eq!(release("NAME='Home Grown'\n"), pair("Home Grown", ""));
        assert_eq!(
            release("#ID=no\n # VERSION_ID=1\nID=yes # no comment"),
            pair("yes # no comment", "")
        );
        assert_eq!(
            release("  ID = spaced\r\nVERSION_ID=1\r\n"),
            pair("spaced", "1")
        );
        assert_eq!(release("ID=a\nID=b\nID\n=\nVERSION_ID=\n"), pair("b", ""));
        assert_eq!(
            release("ID=\"a\\\"b\\$c\\\\d\\`e\"x\n"),
            pair("a\"b$c\\d`e", "")
        );
        assert_eq!(
            release("ID='a\\b'\nVERSION_ID=1\\ 2\n"),
            pair("a\\b", "1 2")
        );
        assert_eq!(release("ID=\"open\nVERSION_ID='\n"), pair("open", ""));
        assert_eq!(release("ID=end\\"), pair("end", ""));
        assert_eq!(OsRelease::parse(b"ID=\xffx\n\xff\xfe=3\n").id, "\u{fffd}x");
    }

    #[test]
    fn uptimes() {
        assert_eq!(parse_uptime(b"350735.47 234388.90\n"), 350_735);
        assert_eq!(parse_uptime(b"12\n"), 12);
        for text in [
            &b""[..],
            b".5",
            b"-3.0 1.0",
            b"x",
            b"99999999999999999999.0",
        ] {
            assert_eq!(parse_uptime(text), 0);
        }
    }

    #[test]
    fn loads() {
        assert_eq!(
            parse_load_averages(b"0.20 1.18 12.00 1/80 11206\n"),
            [0.20, 1.18, 12.0]
        );
        assert_eq!(parse_load_averages(b"nan inf -1.0"), [0.0; 3]);
        assert_eq!(parse_load_averages(b"1.5 \xff"), [1.5, 0.0, 0.0]);
        assert_eq!(parse_load_averages(b""), [0.0; 3]);
    }

    #[test]
    fn processes_have_numbers() {
        assert!(is_process(b"1"));
        assert!(is_process(b"4194304"));
        for name in [&b""[..], b"self", b"1a", b"thread-self", b"\xff"] {
            assert!(!is_process(name));
        }
    }

    #[test]
    fn this_machine() {
        assert_eq!(boot_id().len(), 36);
        assert!(uptime_seconds() > 0);
        let ready = ready("1.0.0", &["execute", "read_file"]);
        assert_eq!(ready.version, "1.0.0");
        assert_eq!(ready.capabilities, ["execute", "read_file"]);
        assert!(!ready.os_name.is_empty() && !ready.kernel_version.is_empty());
        assert_eq!(ready.hostname, hostname());
    }
}
