//! After a restore, a revert or as a clone: the guest has to learn what happened while it was not there, and
//! what it shares with a twin is made its own. One step after the other, and one report; a step that fails
//! does not keep the others.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use quantix::error::{Failure, system_text};
use quantix::message::agent::{Hook, Restored, RestoredReport, RestoredStep, SyncTime};
use quantix::rt::replace::Replacement;
use quantix::rt::sys::entropy;
use quantix::rt::sys::process::{self, Signal};
use quantix::rt::tool::Tool;
use quantix::rt::{clock, random};
use quantix::time::Time;

use super::time;
use crate::{hooks, names};

/// What the operator wants to be done, too.
const HOOKS: &str = "/etc/quantix-kvm/restore.d";

/// Of all hooks together.
const HOOKS_PATIENCE: Duration = Duration::from_secs(60);

/// Of one program.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of all host keys together: a large one takes an emulated processor a minute.
const KEYS_PATIENCE: Duration = Duration::from_secs(90);

/// Kinds of host keys that sshd(8) takes.
const KINDS: [&str; 3] = ["rsa", "ecdsa", "ed25519"];

/// Fewer bytes are no secret.
const LEAST: usize = 32;

/// What a step has done, or why it has not.
type Outcome = Result<String, String>;

/// Takes all steps.
pub fn restored(request: &Restored) -> RestoredReport {
    let mut report = RestoredReport::default();
    let mut step = |name: &str, outcome: Outcome| {
        let failed = outcome.is_err();
        let (Ok(detail) | Err(detail)) = outcome;
        report.steps.push(RestoredStep {
            name: name.to_owned(),
            failed,
            detail,
        });
    };
    step("clock", set_clock(request.step_ns));
    // Before anything is made of random numbers.
    step("random", reseed(&request.entropy));
    if request.new_machine_id {
        step("machine-id", new_machine_id(Path::new("/")));
    }
    if request.new_ssh_host_keys {
        step("ssh-host-keys", new_host_keys(Path::new("/etc/ssh")));
    }
    step("dhcp", renew());
    let mut called = Vec::new();
    if !request.skip_hooks {
        step("hooks", call_hooks(&mut called));
    }
    report.hooks = called;
    report
}

fn set_clock(step_ns: i64) -> Outcome {
    let asked = SyncTime {
        step_ns,
        ..Default::default()
    };
    let report = time::sync(&asked).map_err(|failure: Failure| failure.message)?;
    let millis = step_ns / 1_000_000;
    match (step_ns, &*report.rtc_problem) {
        (0, _) => Ok("as it was".to_owned()),
        (_, "") => Ok(format!("stepped by {millis:+} ms")),
        (_, problem) => Ok(format!("stepped by {millis:+} ms; rtc: {problem}")),
    }
}

fn reseed(bytes: &[u8]) -> Outcome {
    if bytes.len() < LEAST {
        return Err(format!("the host has sent fewer than {LEAST} bytes"));
    }
    match entropy::reseed(bytes) {
        Ok(true) => Ok(format!("reseeded with {} bytes of the host", bytes.len())),
        Ok(false) => Ok(format!(
            "{} bytes of the host added; this kernel, one before 4.17, takes them up within minutes",
            bytes.len()
        )),
        Err(e) => Err(format!("/dev/urandom: {}", system_text(&e))),
    }
}

/// As machine-id(5) has it: a random UUID of version 4, without dashes.
fn new_machine_id(root: &Path) -> Outcome {
    let mut id = random::bytes::<16>();
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    let mut text = String::new();
    for byte in id {
        text += &format!("{byte:02x}");
    }
    text.push('\n');
    let mut changed = Vec::new();
    // The second is a link to the first, or older than it.
    for name in ["etc/machine-id", "var/lib/dbus/machine-id"] {
        let path = root.join(name);
        let Ok(before) = fs::symlink_metadata(&path) else {
            continue;
        };
        if before.is_file() {
            let replaced = Replacement::new(&path).and_then(|mut new| {
                new.file().write_all(text.as_bytes())?;
                new.place(Some(&before), 0o444)
            });
            replaced.map_err(|e: io::Error| format!("/{name}: {}", system_text(&e)))?;
            changed.push(name);
        }
    }
    match &changed[..] {
        [] => Err("this guest has no /etc/machine-id".to_owned()),
        _ => Ok("another one; services take it up when the guest starts again".to_owned()),
    }
}

/// Of the kinds that there are, made beside the old ones, so that there are always some.
fn new_host_keys(directory: &Path) -> Outcome {
    let file = |directory: &Path, kind: &str| directory.join(["ssh_host_", kind, "_key"].concat());
    let mut kinds = KINDS.to_vec();
    kinds.retain(|kind| file(directory, kind).exists());
    if kinds.is_empty() {
        return Ok("there were none".to_owned());
    }
    let place = directory.join(".qx-new");
    let failed = |e: io::Error| format!("{}: {}", place.display(), system_text(&e));
    let _ = fs::remove_dir_all(&place);
    let mut done = DirBuilder::new().mode(0o700).create(&place).map_err(failed);
    let end = clock::now() + KEYS_PATIENCE;
    for kind in &kinds {
        let new = file(&place, kind);
        let new = new.to_string_lossy();
        let args = ["-q", "-N", "", "-t", kind, "-f", &new];
        done = done.and_then(|()| tool_until("ssh-keygen", &args, end));
    }
    for name in names::all(&place).unwrap_or_default() {
        done = done.and_then(|()| {
            let renamed = fs::rename(place.join(&name), directory.join(&name));
            renamed.map_err(failed)
        });
    }
    let _ = fs::remove_dir_all(&place);
    done.map(|()| format!("{} new ones: {}", kinds.len(), kinds.join(", ")))
}

/// Whoever has leases asks for them again. dhclient(8) takes no word for that, and does it in its own time.
fn renew() -> Outcome {
    let cards = cards();
    let cards: Vec<&str> = cards.iter().map(String::as_str).collect();
    let mut told = Vec::new();
    for (pid, name) in names::processes() {
        match &*name {
            // busybox, udhcpc --help: SIGUSR1 renews.
            "udhcpc" => drop(process::signal(pid, Signal::USR1)),
            "systemd-network" => tool("networkctl", &[&["renew"], &cards[..]].concat())?,
            "NetworkManager" => {
                for card in &cards {
                    tool("nmcli", &["device", "reapply", card])?;
                }
            }
            "dhcpcd" => tool("dhcpcd", &["--rebind"])?,
            _ => continue,
        }
        told.push(name);
    }
    told.dedup();
    match &told[..] {
        [] => Ok("nobody here has leases".to_owned()),
        told => Ok(format!("told {}", told.join(", "))),
    }
}

/// Interfaces that have a device.
fn cards() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten();
    let cards = entries.filter(|entry| entry.path().join("device").exists());
    let names = cards.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.collect()
}

fn tool(name: &str, args: &[&str]) -> Result<(), String> {
    tool_until(name, args, clock::now() + PATIENCE)
}

fn tool_until(name: &str, args: &[&str], end: Time) -> Result<(), String> {
    let tool = Tool::new(name, args, end.since(clock::now()));
    tool.succeed().map_err(|why| format!("{name}: {why}"))
}

fn call_hooks(called: &mut Vec<Hook>) -> Outcome {
    let end = clock::now() + HOOKS_PATIENCE;
    let mut failed = Ok(());
    for hook in hooks::find(Path::new(HOOKS))? {
        let one = hooks::call(&hook, "restore", end);
        if let Some(why) = hooks::failure(&one) {
            failed = failed.and(Err(why));
        }
        called.push(one);
    }
    failed.map(|()| match called.len() {
        0 => format!("none in {HOOKS}"),
        count => format!("{count} called"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_a_random_uuid_and_links_stay_links() {
        let root = std::env::temp_dir().join(format!("qx-restored-{}", std::process::id()));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("var/lib/dbus")).unwrap();
        assert!(new_machine_id(&root).is_err());
        let path = root.join("etc/machine-id");
        fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        std::os::unix::fs::symlink(&path, root.join("var/lib/dbus/machine-id")).unwrap();
        new_machine_id(&root).unwrap();
        let id = fs::read_to_string(&path).unwrap();
        assert_eq!((id.len(), &id[12..13]), (33, "4"));
        assert!(id.trim_end().bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert_ne!(id, "0123456789abcdef0123456789abcdef\n");
        assert!(root.join("var/lib/dbus/machine-id").is_symlink());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn host_keys_of_kinds_that_there_are_not_are_not_made() {
        let directory = std::env::temp_dir().join(format!("qx-host-keys-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        assert_eq!(new_host_keys(&directory).unwrap(), "there were none");
        for name in [
            "ssh_host_ed25519_key",
            "ssh_host_ed25519_key.pub",
            "ssh_host_old_key",
        ] {
            fs::write(directory.join(name), "old").unwrap();
        }
        let told = new_host_keys(&directory);
        let text = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        match told {
            Ok(told) => {
                assert_eq!(told, "1 new ones: ed25519");
                assert!(text("ssh_host_ed25519_key").contains("PRIVATE KEY"));
                assert!(text("ssh_host_ed25519_key.pub").starts_with("ssh-ed25519 "));
            }
            // Where there is no such program the old ones stay.
            Err(why) => {
                assert!(why.starts_with("ssh-keygen: No such file"), "{why}");
                assert_eq!(text("ssh_host_ed25519_key"), "old");
            }
        }
        assert_eq!(text("ssh_host_old_key"), "old");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3);
        fs::remove_dir_all(&directory).unwrap();
    }
}
