//! What is installed, from the database of the guest's package manager: dpkg's and apk's text files, and
//! rpm(8) for its own, whose form changes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use prost::Message;
use quantix::error::{Code, Failure};
use quantix::message::agent::{ListPackages, Package, PackageList};
use quantix::rt::tool::Tool;

use super::PAGE;
use crate::telemetry::next_line;

/// Packages of a guest; the largest have some thousands.
const MAX_PACKAGES: usize = 100_000;

/// Bytes of a database that are read, and of one line of it.
const MAX_BYTES: u64 = 256 << 20;
const MAX_LINE: u64 = 64 * 1024;

/// Characters of a word.
const MAX_WORD: usize = 160;

const DPKG: &str = "var/lib/dpkg/status";
/// The latter since Alpine 3.22.
const APK: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];
/// The latter is where openSUSE and Fedora have it.
const RPM: [&str; 2] = ["var/lib/rpm", "usr/lib/sysimage/rpm"];

/// A part of the list; the guest's root is at `root`.
pub fn list(request: &ListPackages, root: &Path) -> Result<PackageList, Failure> {
    let (manager, packages) = all(root)?;
    let keyed = packages.into_iter().map(|package| (key(&package), package));
    let mut packages: Vec<(String, Package)> = keyed.collect();
    packages.retain(|(key, _)| *key > request.after);
    packages.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut list = PackageList {
        manager: manager.to_owned(),
        ..Default::default()
    };
    let (mut bytes, mut last) = (0, String::new());
    for (key, package) in packages {
        // With the last package, of 2 KiB at most, it is well below a frame.
        if bytes >= PAGE {
            list.last = last;
            break;
        }
        bytes += package.encoded_len() + 4;
        list.packages.push(package);
        last = key;
    }
    Ok(list)
}

/// Several may have one name: of other architectures, and kernels of other versions.
fn key(package: &Package) -> String {
    format!(
        "{} {} {}",
        package.name, package.version, package.architecture
    )
}

fn all(root: &Path) -> Result<(&'static str, Vec<Package>), Failure> {
    let texts = [
        ("dpkg", DPKG, Form::DPKG),
        ("apk", APK[0], Form::APK),
        ("apk", APK[1], Form::APK),
    ];
    for (manager, place, form) in texts {
        let path = root.join(place);
        match File::open(&path) {
            Ok(file) => {
                let read = form.read(BufReader::new(file.take(MAX_BYTES)));
                let packages =
                    read.map_err(|e| Failure::system("read", &path.to_string_lossy(), &e))?;
                return Ok((manager, packages));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::system("open", &path.to_string_lossy(), &e)),
        }
    }
    if RPM.iter().any(|place| root.join(place).exists()) {
        return rpm().map(|packages| ("rpm", packages));
    }
    let why = format!(
        "this guest has no packages: neither /{DPKG} nor /{} nor /{}",
        APK[0], RPM[0]
    );
    Err(Failure::new(Code::Unsupported, why))
}

/// How a database calls things: a line each, and an empty one behind each package.
struct Form {
    name: &'static str,
    version: &'static str,
    architecture: &'static str,
    size: &'static str,
    /// What `size` counts in.
    unit: u64,
    status: &'static str,
}

impl Form {
    /// deb-status(5).
    const DPKG: Self = Self {
        name: "Package: ",
        version: "Version: ",
        architecture: "Architecture: ",
        size: "Installed-Size: ",
        unit: 1024,
        status: "Status: ",
    };
    /// apk-v2(5), "installed database".
    const APK: Self = Self {
        name: "P:",
        version: "V:",
        architecture: "A:",
        size: "I:",
        unit: 1,
        status: "f:",
    };

    fn read(&self, mut text: impl BufRead) -> io::Result<Vec<Package>> {
        let mut packages = Vec::new();
        let mut package = Package::default();
        let mut is_there = true;
        let mut line = Vec::new();
        loop {
            let is_there_more = next_line(&mut text, MAX_LINE, &mut line)?;
            let said = String::from_utf8_lossy(&line);
            let said = said.trim_end();
            if said.is_empty() {
                let done = std::mem::take(&mut package);
                if is_there && !done.name.is_empty() && packages.len() < MAX_PACKAGES {
                    packages.push(done);
                }
                is_there = true;
                if !is_there_more {
                    return Ok(packages);
                }
            } else if let Some(word) = said.strip_prefix(self.name) {
                package.name = cut(word);
            } else if let Some(word) = said.strip_prefix(self.version) {
                package.version = cut(word);
            } else if let Some(word) = said.strip_prefix(self.architecture) {
                package.architecture = cut(word);
            } else if let Some(word) = said.strip_prefix(self.size) {
                package.size = word.parse().unwrap_or(0_u64).saturating_mul(self.unit);
            } else if let Some(word) = said.strip_prefix(self.status) {
                // dpkg: what is wanted, whether that failed, what it is. apk: only where it is broken.
                match word.rsplit(' ').next().unwrap_or_default() {
                    "installed" => {}
                    // Gone, but for its configuration at most.
                    "not-installed" | "config-files" => is_there = false,
                    trouble => package.trouble = cut(trouble),
                }
            }
        }
    }
}

fn rpm() -> Result<Vec<Package>, Failure> {
    let query = "%{NAME}\\t%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{SIZE}\\n";
    let args = ["-qa", "--queryformat", query];
    let mut tool = Tool::new("rpm", &args, Duration::from_secs(15));
    tool.limit = 8 << 20;
    let said = tool
        .run()
        .map_err(|e| Failure::system("start", "rpm", &e))?;
    if !said.is_success() {
        return Err(Failure::new(Code::Internal, format!("rpm: {}", said.why())));
    }
    Ok(rpm_lines(&String::from_utf8_lossy(&said.output)))
}

fn rpm_lines(text: &str) -> Vec<Package> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split('\t');
        Some(Package {
            name: words.next().filter(|name| !name.is_empty()).map(cut)?,
            version: words.next().map(cut)?,
            // Keys of signatures have none.
            architecture: words
                .next()
                .filter(|arch| *arch != "(none)")
                .map_or_else(String::new, cut),
            size: words.next().and_then(|size| size.parse().ok()).unwrap_or(0),
            trouble: String::new(),
        })
    });
    lines.take(MAX_PACKAGES).collect()
}

fn cut(word: &str) -> String {
    word.trim().chars().take(MAX_WORD).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const STATUS: &str = "\
Package: libc6
Status: install ok installed
Installed-Size: 12986
Architecture: amd64
Version: 2.36-9+deb12u13
Description: GNU C Library
 Package: of nobody
 .
 more

Package: gone
Status: deinstall ok config-files
Version: 1

Package: apt
Status: install reinstreq half-configured
Architecture: amd64
Version: 2.6.1
";

    fn names(packages: &[Package]) -> Vec<(&str, &str, u64, &str)> {
        let names = packages.iter();
        let names = names.map(|p| (&*p.name, &*p.version, p.size, &*p.trouble));
        names.collect()
    }

    #[test]
    fn the_status_of_dpkg_is_read() {
        let found = Form::DPKG.read(STATUS.as_bytes()).unwrap();
        let libc = ("libc6", "2.36-9+deb12u13", 12_986 * 1024, "");
        let apt = ("apt", "2.6.1", 0, "half-configured");
        assert_eq!(names(&found), [libc, apt]);
    }

    #[test]
    fn the_database_of_apk_is_read() {
        let text = "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\nS:383\nI:622592\nF:lib\nR:ld.so\n\n\
            P:bad\nV:1\nI:many\nf:S\n\n";
        let found = Form::APK.read(text.as_bytes()).unwrap();
        assert_eq!(
            names(&found),
            [("musl", "1.2.5-r0", 622_592, ""), ("bad", "1", 0, "S")]
        );
    }

    #[test]
    fn what_rpm_says_is_read() {
        let found =
            rpm_lines("bash\t5.2-1.fc40\tx86_64\t8300000\ngpg-pubkey\t1-2\t(none)\t0\n\nx\n");
        assert_eq!(
            names(&found),
            [
                ("bash", "5.2-1.fc40", 8_300_000, ""),
                ("gpg-pubkey", "1-2", 0, "")
            ]
        );
        assert_eq!(found[1].architecture, "");
    }

    #[test]
    fn odd_databases_do_no_harm() {
        let long = format!(
            "Package: a\nDescription: {}\nVersion: 1\n\n\n\nVersion: 2\n\n",
            "x".repeat(200_000)
        );
        let found = Form::DPKG.read(long.as_bytes()).unwrap();
        assert_eq!(names(&found), [("a", "1", 0, "")]);
        let found = Form::DPKG
            .read(&b"Package: \xff\xfe\nInstalled-Size: -1\n"[..])
            .unwrap();
        assert_eq!(names(&found), [("\u{fffd}\u{fffd}", "", 0, "")]);
        assert!(Form::APK.read(&b""[..]).unwrap().is_empty());
    }

    #[test]
    fn every_page_follows_the_one_before() {
        let root = std::env::temp_dir().join(format!("qx-packages-{}", std::process::id()));
        fs::create_dir_all(root.join("var/lib/dpkg")).unwrap();
        let mut status = String::new();
        for number in (0..6000).rev() {
            status +=
                &format!("Package: package-{number}\nStatus: install ok installed\nVersion: 1\n\n");
        }
        // One name, two architectures.
        for arch in ["i386", "amd64"] {
            status += &format!("Package: package-7\nVersion: 1\nArchitecture: {arch}\n\n");
        }
        fs::write(root.join(DPKG), status).unwrap();
        let mut request = ListPackages::default();
        let (mut all, mut pages) = (Vec::new(), 0);
        loop {
            let page = list(&request, &root).unwrap();
            assert!(page.encoded_len() < 100_000);
            all.extend(page.packages.iter().map(key));
            pages += 1;
            if page.last.is_empty() {
                break;
            }
            request.after = page.last;
        }
        fs::remove_dir_all(&root).unwrap();
        assert!(
            pages > 1 && all.len() == 6002 && all.is_sorted(),
            "{pages}, {}",
            all.len()
        );
        let failure = list(&request, &root).unwrap_err();
        assert_eq!(failure.code, Code::Unsupported);
    }
}
