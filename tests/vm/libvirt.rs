//! A libvirt of our own, whose domains run our image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{Keeper, PATIENCE, Place, image, script, wait_until};

/// It ends with this value, and all its domains with it.
pub struct Libvirt {
    pub uri: String,
    dir: PathBuf,
    _keeper: Keeper,
}

/// What a domain is to have.
pub struct Domain<'a> {
    pub name: &'a str,
    /// Where its channel for our agent leads; without one it has none.
    pub socket: Option<&'a Path>,
    /// For the kernel's command line.
    pub append: &'a str,
}

impl Libvirt {
    pub fn start(place: &Place) -> Self {
        let dir = place.file("libvirt");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg("sh").arg(script("libvirt.sh")).arg(&dir);
        let log = place.file("libvirt.log");
        let _keeper = Keeper::run(&command, &log);
        let socket = dir.join("run/libvirt-sock");
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        let libvirt = Self { uri, dir, _keeper };
        wait_until("libvirt", PATIENCE, || {
            libvirt
                .command(&["version"])
                .output()
                .unwrap()
                .status
                .success()
        });
        libvirt
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut virsh = Command::new("virsh");
        virsh.args(["--quiet"]).args(words);
        virsh.env("LIBVIRT_DEFAULT_URI", &self.uri);
        virsh
    }

    #[track_caller]
    pub fn virsh(&self, words: &[&str]) -> String {
        let said = self.command(words).output().unwrap();
        let why = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "virsh {words:?}: {why}");
        String::from_utf8(said.stdout).unwrap()
    }

    /// A domain that is not started, with a channel for QEMU's own guest agent.
    #[track_caller]
    pub fn define(&self, domain: &Domain) {
        let channel = domain.socket.map_or(String::new(), |socket| {
            format!(
                "<channel type='unix'><source mode='bind' path='{}'/>\
                 <target type='virtio' name='org.quantix.agent.0'/></channel>",
                socket.display()
            )
        });
        let (name, image) = (domain.name, image());
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type>\
             <kernel>{kernel}</kernel><initrd>{initrd}</initrd>\
             <cmdline>console=ttyS0 quiet panic=-1 qx.hostname={name} {append}</cmdline></os>\
             <features><acpi/></features>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{channel}\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
             <serial type='file'><source path='{console}'/></serial>\
             <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\
             <controller type='pci' model='pcie-root'/>\
             <controller type='pci' model='pcie-root-port'/>\
             <controller type='pci' model='pcie-root-port'/>\
             <controller type='pci' model='pcie-root-port'/>\
             <memballoon model='none'/></devices></domain>",
            kernel = image.join("vmlinuz").display(),
            initrd = self.initrd(&image).display(),
            append = domain.append,
            console = self.dir.join(format!("{name}.console")).display(),
        );
        let file = self.dir.join(format!("{name}.xml"));
        fs::write(&file, xml).unwrap();
        self.virsh(&["define", file.to_str().unwrap()]);
    }

    /// The image's, and QEMU's guest agent behind it: the kernel unpacks both.
    fn initrd(&self, image: &Path) -> PathBuf {
        let path = self.dir.join("initrd");
        if !path.exists() {
            let archive = self.dir.join("qemu-ga.cpio");
            let made = Command::new("sh")
                .arg(script("../bench/qemu-ga.sh"))
                .arg(&archive)
                .output()
                .unwrap();
            assert!(
                made.status.success(),
                "{}",
                String::from_utf8_lossy(&made.stderr)
            );
            let mut all = fs::read(image.join("initrd")).unwrap();
            // The kernel wants each archive to begin at a multiple of four bytes.
            all.resize(all.len().next_multiple_of(4), 0);
            all.extend(fs::read(archive).unwrap());
            fs::write(&path, all).unwrap();
        }
        path
    }
}
