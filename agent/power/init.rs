//! Process 1, whichever it is, and how it is told to end the system: by its own signals and pipes, since a
//! small image has no shutdown(8).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quantix::error::system_text;
use quantix::rt::sys::fd::rest;
use quantix::rt::sys::power::{self, End, InitSignal};
use quantix::rt::tool::Tool;

use crate::telemetry::disk;

/// Who keeps this system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// Takes real-time signals (systemd(1)).
    Systemd,
    /// Takes signals (busybox, init/init.c).
    Busybox,
    /// Takes requests by a pipe (sysvinit, initreq.h).
    Sysv(PathBuf),
    /// Has programs of its own for it: runit, s6, openrc-init, upstart.
    Other,
    /// Process 1 is none: the agent's parent, or a shell.
    None,
}

/// What sysvinit's pipe may be called, newest first.
const PIPES: [&str; 2] = ["run/initctl", "dev/initctl"];

/// Programs that are process 1 and bring poweroff(8) and reboot(8) with them.
const OTHERS: [&str; 6] = [
    "runit",
    "s6-svscan",
    "openrc-init",
    "dinit",
    "upstart",
    "init",
];

impl Init {
    /// Finds it, below this root.
    pub fn find(root: &Path) -> Self {
        if root.join("run/systemd/system").is_dir() {
            return Self::Systemd;
        }
        let command = fs::read(root.join("proc/1/cmdline")).unwrap_or_default();
        let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        // sysvinit writes its runlevel behind its name.
        let name = first.split_whitespace().next().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        let program = fs::read_link(root.join("proc/1/exe")).unwrap_or_default();
        let is_busybox = program.file_name().is_some_and(|name| name == "busybox");
        if is_busybox {
            return match name {
                "init" | "linuxrc" => Self::Busybox,
                _ => Self::None,
            };
        }
        let is_pipe = |path: &PathBuf| {
            let file = fs::metadata(path);
            file.is_ok_and(|file| file.file_type().is_fifo())
        };
        let mut pipes = PIPES.map(|pipe| root.join(pipe)).into_iter();
        match (name, pipes.find(is_pipe)) {
            ("init", Some(pipe)) => Self::Sysv(pipe),
            (name, _) if OTHERS.contains(&name) => Self::Other,
            _ => Self::None,
        }
    }

    /// Tells it. Comes back when it has been told, which takes its time to be done; or, without one, not
    /// at all.
    ///
    /// # Errors
    /// For people.
    pub fn tell(&self, end: End) -> Result<(), String> {
        let said = match self {
            Self::Systemd => power::signal_init(InitSignal::RealTime(match end {
                End::Halt => 3,
                End::PowerOff => 4,
                End::Reboot => 5,
            })),
            Self::Busybox => power::signal_init(InitSignal::Standard(match end {
                End::Halt => libc::SIGUSR1,
                End::PowerOff => libc::SIGUSR2,
                End::Reboot => libc::SIGTERM,
            })),
            Self::Sysv(pipe) => request(pipe, end),
            Self::Other => return run(end),
            Self::None => {
                leave();
                power::end(end)
            }
        };
        said.map_err(|e| format!("process 1 cannot be told: {}", system_text(&e)))
    }
}

/// `struct init_request`: magic number, command 1, and a runlevel; 384 bytes.
fn request(pipe: &Path, end: End) -> io::Result<()> {
    // Runlevel 0 switches off, whatever was asked for: what a halt would be is configured.
    let runlevel = match end {
        End::Halt | End::PowerOff => b'0',
        End::Reboot => b'6',
    };
    let mut bytes = [0; 384];
    let fields = [0x0309_1969, 1, i32::from(runlevel)];
    for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
        place.copy_from_slice(&field.to_ne_bytes());
    }
    // ENXIO: nobody reads it any more.
    let mut pipe = File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(pipe)?;
    pipe.write_all(&bytes)
}

/// What the init that is here has brought with it.
fn run(end: End) -> Result<(), String> {
    let name = match end {
        End::PowerOff => "poweroff",
        End::Reboot => "reboot",
        End::Halt => "halt",
    };
    let said = Tool::new(name, &[], Duration::from_secs(60)).run();
    let said = said.map_err(|e| format!("{name}: {}", system_text(&e)))?;
    match said.is_success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", said.why())),
    }
}

/// Ends all processes, and writes out all file systems, as an init would.
fn leave() {
    power::signal_all(false);
    rest(Duration::from_secs(3));
    power::signal_all(true);
    power::sync();
    for mount in disk::read().unwrap_or_default().iter().rev() {
        let _ = power::make_read_only(&mount.mount_point);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, command: &[u8], program: &str) -> Self {
            let root = std::env::temp_dir().join(format!("qx-init-{}-{name}", std::process::id()));
            fs::create_dir_all(root.join("proc/1")).unwrap();
            fs::create_dir(root.join("run")).unwrap();
            fs::write(root.join("proc/1/cmdline"), command).unwrap();
            symlink(program, root.join("proc/1/exe")).unwrap();
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn each_init_is_known_by_what_it_is_and_not_by_what_lies_about() {
        let find = |name: &str, command: &[u8], program: &str| {
            let root = Root::new(name, command, program);
            Init::find(&root.0)
        };
        assert_eq!(find("busybox", b"init\0", "/bin/busybox"), Init::Busybox);
        assert_eq!(
            find("path", b"/sbin/init\0x\0", "/bin/busybox"),
            Init::Busybox
        );
        // A shell that is process 1, as in a container or a rescue system.
        assert_eq!(
            find("shell", b"/bin/sh\0/init\0", "/bin/busybox"),
            Init::None
        );
        assert_eq!(
            find(
                "agent",
                b"/sbin/quantix-kvm-agent\0",
                "/sbin/quantix-kvm-agent"
            ),
            Init::None
        );
        assert_eq!(find("runit", b"runit\0", "/sbin/runit"), Init::Other);
        assert_eq!(find("upstart", b"/sbin/init\0", "/sbin/init"), Init::Other);
        assert_eq!(find("nothing", b"", "/"), Init::None);
        let root = Root::new("systemd", b"/sbin/init\0", "/usr/lib/systemd/systemd");
        fs::create_dir_all(root.0.join("run/systemd/system")).unwrap();
        assert_eq!(Init::find(&root.0), Init::Systemd);
    }

    #[test]
    fn sysvinit_gets_a_request_of_its_own_form() {
        let root = Root::new("sysv", b"init [2]\0\0", "/sbin/init");
        // A file is no pipe.
        let path = root.0.join("run/initctl");
        fs::write(&path, "").unwrap();
        assert_eq!(Init::find(&root.0), Init::Other);
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let init = Init::find(&root.0);
        assert_eq!(init, Init::Sysv(path.clone()));
        let said = init.tell(End::Reboot).unwrap_err();
        assert!(said.contains("No such device or address"), "{said}");
        let mut reader = File::options().read(true).write(true).open(&path).unwrap();
        init.tell(End::Reboot).unwrap();
        let mut bytes = [0xFF; 384];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(
            bytes[..12],
            [0x69, 0x19, 0x09, 0x03, 1, 0, 0, 0, b'6', 0, 0, 0]
        );
        assert!(bytes[12..].iter().all(|byte| *byte == 0));
    }
}
