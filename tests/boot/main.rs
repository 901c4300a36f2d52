//! How soon after its start a Debian answers its host, by our agent and by qemu-ga: `make bench-boot`. Both are in the
//! same image, from their packages, each has a port of its own in the same VM, and both are asked from the first moment
//! on. Prints figures and judges none; every figure is a median. `BENCH_BOOTS` (5) says of how many boots.
// A benchmark reads clocks, waits and prints; where it fails it has nothing else to do.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Whatever goes wrong ends the run.
type Outcome<T> = Result<T, Box<dyn Error>>;

const QX_NODE: &str = env!("CARGO_BIN_EXE_qx-node");

/// Under emulation, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Outcome<()> {
    let boots = std::env::var("BENCH_BOOTS").map_or(Ok(5), |text| text.parse())?;
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boot");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let disk = make(&dir)?;
    let mut found = [Vec::new(), Vec::new()];
    for boot in 1..=boots {
        eprintln!("boot {boot} of {boots}");
        for (times, time) in found.iter_mut().zip(measure(&dir, &disk)?) {
            times.push(time.as_secs_f64());
        }
    }
    let [ours, theirs] = found.map(median);
    println!("| | Ours | qemu-ga | Ours : qemu-ga |\n|---|---|---|---|");
    println!(
        "| Start of the VM to the first answer | {ours:.2} s | {theirs:.2} s | {:.2} |",
        ours / theirs
    );
    Ok(())
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The disk, and beside it what boots it.
fn make(dir: &Path) -> Outcome<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = dir.join("packages");
    let programs = Path::new(QX_NODE).parent().ok_or("no programs")?;
    run(Command::new(root.join("deb/build"))
        .arg(&packages)
        .env("QX_BIN", programs))?;
    let package = fs::read_dir(&packages)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.to_string_lossy().ends_with("_amd64.deb")
                && path.to_string_lossy().contains("agent_")
        })
        .ok_or("no package")?;
    run(Command::new(root.join("tests/vm/image.sh"))
        .arg("-")
        .arg(dir.join("image")))?;
    let disk = run(Command::new(root.join("tests/vm/debian.sh")).arg(package))?;
    Ok(PathBuf::from(disk.trim_end()))
}

fn run(command: &mut Command) -> Outcome<String> {
    let out = command.stderr(Stdio::inherit()).output()?;
    if !out.status.success() {
        return Err(format!("{command:?} failed").into());
    }
    Ok(String::from_utf8(out.stdout)?)
}

/// Of one boot: the time to the first answer of each.
fn measure(dir: &Path, disk: &Path) -> Outcome<[Duration; 2]> {
    let copy = dir.join("disk");
    run(Command::new("cp")
        .arg("--sparse=always")
        .arg(disk)
        .arg(&copy))?;
    let (vms, control, qga) = (dir.join("vms"), dir.join("qx.sock"), dir.join("qga"));
    // Of the boot before.
    let _ = (fs::remove_dir_all(&vms), fs::remove_file(&qga));
    fs::create_dir_all(&vms)?;
    let serve = Command::new(QX_NODE)
        .args(["serve", "--log-level", "error", "--vms-dir"])
        .arg(&vms)
        .arg("--control")
        .arg(&control)
        .spawn()?;
    let _serve = Process(serve);
    until(|| UnixStream::connect(&control).is_ok())?;
    let mut events = Process(
        Command::new(QX_NODE)
            .args(["events", "--follow", "--json", "--control"])
            .arg(&control)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let events = events.0.stdout.take().ok_or("no events")?;

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let begun = Instant::now();
    let qemu = Command::new(root.join("tests/vm/qemu.sh"))
        .arg(dir)
        .arg("db1")
        .env("QX_VMS_DIR", &vms)
        .env("QX_IMAGE_DIR", dir.join("image"))
        .env("QX_VM_MEM", "384")
        .env("QX_APPEND", "qx.root=/dev/vda rw net.ifnames=0")
        .args(["--", "-drive"])
        .arg(format!(
            "file={},format=raw,if=none,id=root",
            copy.display()
        ))
        .args(["-device", "virtio-blk-pci,drive=root", "-chardev"])
        .arg(format!(
            "socket,id=qga,path={},server=on,wait=off",
            qga.display()
        ))
        .args([
            "-device",
            "virtserialport,bus=serial0.0,nr=2,chardev=qga,name=org.qemu.guest_agent.0",
        ])
        .stdin(Stdio::null())
        .spawn()?;
    let _qemu = Process(qemu);
    until(|| qga.exists())?;
    let (tell, told) = mpsc::channel();
    let ours = tell.clone();
    thread::spawn(move || {
        let lines = BufReader::new(events).lines().map_while(Result::ok);
        if lines.into_iter().any(|line| line.contains("\"ready\"")) {
            let _ = ours.send((0, begun.elapsed()));
        }
    });
    let stream = UnixStream::connect(&qga)?;
    thread::spawn(move || {
        if let Ok(()) = first_answer(stream) {
            let _ = tell.send((1, begun.elapsed()));
        }
    });
    let mut found = [Duration::ZERO; 2];
    for _ in 0..2 {
        let (which, time) = told.recv_timeout(PATIENCE)?;
        found[which] = time;
    }
    Ok(found)
}

/// As libvirt asks: again and again, as what a guest has not read may be lost.
fn first_answer(mut stream: UnixStream) -> Outcome<()> {
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        stream.write_all(b"{\"execute\":\"guest-sync\",\"arguments\":{\"id\":1}}\n")?;
        let mut bytes = [0; 512];
        if let Ok(1..) = stream.read(&mut bytes) {
            return Ok(());
        }
    }
    Err("no answer".into())
}

fn until(mut holds: impl FnMut() -> bool) -> Outcome<()> {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > PATIENCE {
            return Err("waited in vain".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
