//! Everything that a support case needs of both sides, in one archive. No secrets: libvirt leaves
//! passwords out of its XML, and of processes only names are told.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use quantix::error::system_text;
use quantix::message::{Body, agent};
use quantix::rt::clock;
use quantix::rt::replace::Replacement;
use tar::{Builder, Header};

use super::super::{Client, Trouble, tool};

/// How long each piece of evidence may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of one piece; of more the end is kept.
const MAX_PIECE: usize = 1 << 20;

/// What is asked of each guest that answers: a file's name, and a line for its shell.
const OF_GUEST: [(&str, &str); 4] = [
    ("kernel.log", "dmesg | tail -n 500"),
    (
        "system.txt",
        "uname -a; cat /etc/os-release; uptime; mount; df; free",
    ),
    ("agent.conf", "cat /etc/quantix-kvm/agent.conf"),
    (
        "agent.log",
        "journalctl -b -u quantix-kvm-agent -n 500 --no-pager || logread | grep quantix | tail -n 500",
    ),
];

/// What is asked of this host.
const OF_HOST: [(&str, &[&str]); 4] = [
    ("uname.txt", &["uname", "-a"]),
    (
        "daemon.log",
        &[
            "journalctl",
            "-u",
            "quantix-node",
            "-n",
            "2000",
            "--no-pager",
        ],
    ),
    ("qemu.txt", &["qemu-system-x86_64", "--version"]),
    ("libvirt.txt", &["virsh", "version"]),
];

/// The archive before it is a file.
pub struct Bundle(Vec<(String, Vec<u8>)>);

impl Bundle {
    /// Evidence of this host; `options` say by which daemon.
    pub fn new(options: &[String]) -> Self {
        let mut bundle = Self(Vec::new());
        bundle.add(
            "version.txt",
            format!("{} ({})\n", quantix::VERSION, quantix::REVISION),
        );
        for (name, words) in OF_HOST {
            let mut command = Command::new(words[0]);
            bundle.take(&format!("host/{name}"), command.args(&words[1..]));
        }
        for (name, word) in [("vms.json", "vms"), ("events.json", "events")] {
            let mut command = tool::own();
            command.args([word, "--json"]).args(options);
            bundle.take(&format!("host/{name}"), &mut command);
        }
        bundle
    }

    /// A piece of evidence.
    pub fn add(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        let mut bytes = bytes.into();
        let over = bytes.len().saturating_sub(MAX_PIECE);
        bytes.drain(..over);
        self.0.push((name.to_owned(), bytes));
    }

    /// What a program says, or why it does not.
    fn take(&mut self, name: &str, command: &mut Command) {
        match tool::run(command, b"", PATIENCE) {
            Ok(bytes) => self.add(name, bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => self.add(name, format!("failed: {e}\n")),
        }
    }

    /// What a domain is in libvirt.
    pub fn add_domain(&mut self, vm: &str) {
        if let Ok(xml) = tool::virsh(&["--readonly", "dumpxml", vm], b"") {
            self.add(&format!("vms/{vm}/libvirt.xml"), xml);
        }
    }

    /// Evidence of a guest that answers.
    pub fn add_guest(&mut self, client: &mut Client, vm: &str) {
        for (name, line) in OF_GUEST {
            let request = agent::Execute {
                command: format!("exec 2>&1; {line}"),
                wait_for_exit: true,
                timeout_seconds: 5,
                ..Default::default()
            };
            let said = client
                .ask_agent(vm, Body::Execute(request))
                .and_then(|id| client.wait_agent(id));
            let name = format!("vms/{vm}/{name}");
            match said {
                Ok(Body::ExecuteResponse(answer)) => self.add(&name, answer.stdout),
                Ok(_) => {}
                Err(trouble) => return self.add(&name, format!("failed: {trouble}\n")),
            }
        }
    }

    /// Writes it, whole or not at all; only its owner may read it.
    pub fn write(self, path: &Path) -> Result<(), Trouble> {
        let failed = |e: io::Error| {
            let path = path.display();
            Trouble::Local(format!("write {path}: {}", system_text(&e)))
        };
        let mut target = Replacement::new(path).map_err(failed)?;
        let time = u64::try_from(clock::wall().seconds).unwrap_or(0);
        let mut archive = Builder::new(target.file());
        for (name, bytes) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(time);
            let name = format!("qx-doctor/{name}");
            archive
                .append_data(&mut header, name, &bytes[..])
                .map_err(failed)?;
        }
        archive.finish().map_err(failed)?;
        drop(archive);
        let before = fs::metadata(path).ok();
        target.place(before.as_ref(), 0o600).map_err(failed)
    }
}
