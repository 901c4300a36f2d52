//! The VM that is measured in, and what its console says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::qmp::Qmp;

/// What the VM is called.
pub const NAME: &str = "bench";

/// MiB: the data twice, and once more while it takes its own place.
const MEMORY: &str = "1600";

/// Under emulation, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A VM that ends with this value.
pub struct Vm {
    qemu: Child,
    console: PathBuf,
    socket: PathBuf,
    monitor: PathBuf,
    qga: Option<PathBuf>,
    accel: String,
}

impl Vm {
    /// Makes the image, and boots it.
    pub fn boot(dir: &Path, agent: &str) -> Outcome<Self> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm");
        let image = dir.join("image");
        let made = Command::new(scripts.join("image.sh"))
            .arg(agent)
            .arg(&image)
            .status()?;
        if !made.success() {
            return Err("tests/vm/image.sh failed".into());
        }
        let has_qga = crate::qga::add_to(&image.join("initrd"))?;
        let qga = dir.join(format!("{NAME}.qga"));
        let accel = Command::new(scripts.join("accel.sh")).output()?.stdout;
        let accel = String::from_utf8(accel)?.trim().to_owned();
        let qemu = Command::new(scripts.join("qemu.sh"))
            .arg(dir)
            .arg(NAME)
            .env("QX_VMS_DIR", dir.join("vms"))
            .env("QX_IMAGE_DIR", &image)
            .env("QX_ACCEL", &accel)
            .env("QX_VM_MEM", MEMORY)
            .args(["--", "-chardev"])
            .arg(format!(
                "socket,id=qga,path={},server=on,wait=off",
                qga.display()
            ))
            .arg("-device")
            .arg("virtserialport,bus=serial0.0,nr=2,chardev=qga,name=org.qemu.guest_agent.0")
            .stdin(Stdio::null())
            .spawn()?;
        let vm = Self {
            qemu,
            console: dir.join(format!("{NAME}.console")),
            socket: dir.join("vms").join(format!("{NAME}.agent.sock")),
            monitor: dir.join(format!("{NAME}.qmp")),
            accel,
            qga: has_qga.then_some(qga),
        };
        vm.wait_for("qx-guest: init done", 1)?;
        Ok(vm)
    }

    /// The agent's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The socket of qemu-ga's port, where its program is in the guest.
    pub fn qga(&self) -> Option<&Path> {
        self.qga.as_deref()
    }

    /// The monitor.
    pub fn qmp(&self) -> Qmp {
        Qmp::connect(&self.monitor)
    }

    /// What QEMU runs the guest with.
    pub fn accel(&self) -> &str {
        &self.accel
    }

    /// How many lines of the console begin with this.
    pub fn count(&self, begin: &str) -> usize {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().filter(|line| line.starts_with(begin)).count()
    }

    /// Waits until the console has this many lines that begin so.
    pub fn wait_for(&self, begin: &str, lines: usize) -> Outcome<()> {
        let begun = Instant::now();
        while self.count(begin) < lines {
            if begun.elapsed() > PATIENCE {
                let console = self.console.display();
                return Err(format!("no {begin:?} in {console}").into());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
