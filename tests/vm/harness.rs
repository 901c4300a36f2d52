//! VMs, daemons and commands, and that nothing of them outlives the tests.
//!
//! Every process runs below a shell that kills it as soon as its standard input ends, so it is gone
//! even when the test process was killed. The shell is in a process group of its own: an interrupt
//! from the keyboard ends the tests first.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use quantix::message::node::{NodeMessage, node_message};
use serde_json::{Value, json};

use super::qmp::Qmp;

/// What an emulated guest on a busy machine may need for anything; nothing takes this long that works.
pub const PATIENCE: u64 = 60;

/// Waits until there is something.
#[track_caller]
pub fn wait_for<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {seconds} s for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until something holds.
#[track_caller]
pub fn wait_until(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    wait_for(what, seconds, || holds().then_some(()));
}

/// Sends a signal to a process.
#[track_caller]
pub fn signal(pid: u32, name: &str) {
    let line = format!("kill -{name} {pid}");
    let sent = Command::new("sh").args(["-c", &line]).status().unwrap();
    assert!(sent.success(), "{line}");
}

/// The right to work with a VM: two at once, or guests that are emulated would starve each other.
pub struct Turn(());

static TURNS: (Mutex<i32>, Condvar) = (Mutex::new(2), Condvar::new());

impl Turn {
    pub fn wait() -> Self {
        let (free, freed) = &TURNS;
        let free = free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = freed
            .wait_while(free, |free| *free <= 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Self(())
    }

    /// Takes a turn without waiting for one: the next to begin waits for one more to end.
    fn back() -> Self {
        *TURNS.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (free, freed) = &TURNS;
        *free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        freed.notify_one();
    }
}

/// A program of this repository.
pub fn program(name: &str) -> PathBuf {
    let debug = match name {
        "qx-node" => env!("CARGO_BIN_EXE_qx-node"),
        _ => env!("CARGO_BIN_EXE_quantix-kvm-agent"),
    };
    if std::env::var_os("QX_TEST_RELEASE").is_none_or(|value| value != "1") {
        return PathBuf::from(debug);
    }
    let target = Path::new(debug).ancestors().nth(2).unwrap();
    let release = target.join("release").join(name);
    let path = release.display();
    assert!(release.exists(), "no {path}: cargo build --release");
    release
}

/// A file beside the tests.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vm")
        .join(name)
}

/// The image with the agent, made once in each run.
static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm");
    make("image.sh", &[&program("quantix-kvm-agent"), &image]);
    image
});

/// Has a script make something that guests need: what it printed.
pub fn make(name: &str, args: &[&Path]) -> String {
    let made = Command::new("sh")
        .arg(script(name))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&made.stderr);
    assert!(
        made.status.success(),
        "{name} failed; tests/vm/install.sh installs what the VM tests need\n{why}"
    );
    String::from_utf8(made.stdout).unwrap()
}

/// Where the image with the agent is.
pub fn image() -> PathBuf {
    IMAGE.clone()
}

/// A shell that runs a process, or none, kills it when its standard input ends, and then removes a
/// directory, or none.
pub struct Keeper {
    shell: Child,
    pid: Option<u32>,
}

const KEEPER: &str = r#"
    log=$1 directory=$2
    shift 2
    pid=
    if [ $# -gt 0 ]; then
        "$@" </dev/null >>"$log" 2>&1 &
        pid=$!
    fi
    echo "$pid"
    read -r _
    if [ -n "$pid" ]; then
        kill -KILL "$pid"
        wait "$pid"
    fi
    if [ -n "$directory" ]; then
        # The others' keepers have lost their input at the same moment.
        [ -z "$(ls "$directory"/*.keep)" ] || sleep 1
        rm -rf "$directory"
    fi
"#;

impl Keeper {
    /// Runs the command.
    pub fn run(command: &Command, log: &Path) -> Self {
        let words = [log.as_os_str(), "".as_ref(), command.get_program()];
        let words = words.into_iter().chain(command.get_args());
        let mut shell = Command::new("sh");
        shell.args(["-c", KEEPER, "keeper"]).args(words);
        for (key, value) in command.get_envs() {
            shell.env(key, value.unwrap_or_default());
        }
        Self::start(&mut shell)
    }

    /// Removes the directory in the end.
    fn of_directory(directory: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", KEEPER, "keeper", "/dev/null"]);
        Self::start(shell.arg(directory))
    }

    fn start(shell: &mut Command) -> Self {
        let mut shell = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let pid = line.trim().parse().ok();
        Self { shell, pid }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Where a test's VMs and daemon meet: a directory with a short name, since a socket's path has to
/// fit into 107 bytes.
pub struct Place {
    pub dir: PathBuf,
    _keeper: Keeper,
}

static PLACES: AtomicU32 = AtomicU32::new(0);

impl Place {
    pub fn new() -> Self {
        let number = PLACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("qx-test-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _keeper = Keeper::of_directory(&dir);
        fs::create_dir_all(dir.join("vms")).unwrap();
        // Tells the keeper that there are others.
        fs::write(dir.join("a.keep"), "").unwrap();
        Self { dir, _keeper }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The agent's socket of this VM.
    pub fn socket(&self, vm: &str) -> PathBuf {
        self.dir.join("vms").join(format!("{vm}.agent.sock"))
    }

    /// Where QEMU is to serve a monitor to the daemon, for its `-qmp`.
    pub fn monitor(&self, vm: &str) -> String {
        let path = self.dir.join("vms").join(format!("{vm}.qmp.sock"));
        format!("unix:{},server=on,wait=off", path.display())
    }

    /// A client of the VM's socket that is no daemon of ours.
    pub fn raw_client(&self, vm: &str) -> UnixStream {
        let socket = self.socket(vm);
        let stream = wait_for("the VM's socket", 10, || UnixStream::connect(&socket).ok());
        let limit = Some(Duration::from_millis(1500));
        stream.set_read_timeout(limit).unwrap();
        stream
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.dir.join("a.keep"));
    }
}

/// A guest in QEMU. It ends with this value.
pub struct Vm {
    pub id: String,
    console: PathBuf,
    qmp: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    command: Command,
    keeper: Option<Keeper>,
}

/// How a VM is to be.
#[derive(Default)]
pub struct Options<'a> {
    /// For the kernel's command line.
    pub append: &'a str,
    pub qemu: &'a [&'a str],
}

impl Vm {
    /// Starts QEMU. Its sockets are there when this returns; the guest boots for seconds more.
    #[track_caller]
    pub fn start(place: &Place, id: &str, options: &Options) -> Self {
        let mut command = Command::new("sh");
        command
            .arg(script("qemu.sh"))
            .arg(&place.dir)
            .args([id, "--"])
            .args(options.qemu)
            .env("QX_VMS_DIR", place.dir.join("vms"))
            .env("QX_IMAGE_DIR", &*IMAGE)
            .env("QX_APPEND", format!("qx.hostname={id} {}", options.append));
        let mut vm = Self {
            id: id.to_owned(),
            console: place.file(&format!("{id}.console")),
            qmp: place.file(&format!("{id}.qmp")),
            socket: place.socket(id),
            log: place.file(&format!("{id}.qemu.log")),
            command,
            keeper: None,
        };
        vm.start_again();
        vm
    }

    /// Starts QEMU after it has ended, with a new console.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.kill();
        let _ = fs::remove_file(&self.console);
        self.keeper = Some(Keeper::run(&self.command, &self.log));
        wait_until("QEMU's sockets", 30, || {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            let mut lines = said.lines().filter(|line| !line.contains(": warning: "));
            let fault = lines.find(|line| line.contains("qemu"));
            assert!(fault.is_none(), "QEMU does not start: {said}");
            UnixStream::connect(&self.qmp).is_ok() && self.socket.exists()
        });
    }

    /// Kills QEMU; its sockets stay behind.
    pub fn kill(&mut self) {
        self.keeper = None;
    }

    /// Waits until QEMU has ended by itself.
    #[track_caller]
    pub fn wait_end(&self) {
        let pid = self.pid();
        // It stays a zombie until its keeper is asked to look.
        let exe = format!("/proc/{pid}/exe");
        wait_until("QEMU to end", PATIENCE, || fs::read_link(&exe).is_err());
    }

    /// QEMU.
    pub fn pid(&self) -> u32 {
        self.keeper.as_ref().and_then(|keeper| keeper.pid).unwrap()
    }

    /// The monitor. One client is served at a time.
    pub fn qmp(&self) -> Qmp {
        Qmp::connect(&self.qmp)
    }

    /// What the guest has printed so far, but for the agent's record of command lines: those have the words that are
    /// waited for.
    pub fn console(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        let lines = text.split_inclusive('\n');
        lines.filter(|line| !line.contains("action=exec")).collect()
    }

    /// Waits until the guest has printed this.
    #[track_caller]
    pub fn wait_console(&self, text: &str) {
        wait_until(&format!("the guest to print {text:?}"), PATIENCE, || {
            self.console().contains(text)
        });
    }

    /// The agent runs, and has the port.
    #[track_caller]
    pub fn wait_agent(&self) {
        self.wait_console("is open");
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if thread::panicking() {
            show(&format!("console of {}", self.id), &self.console());
        }
    }
}

fn show(title: &str, text: &str) {
    let from = text.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
    eprintln!("--- {title} ---\n{}\n---", &text[from..]);
}

/// A daemon. It ends with this value, by SIGKILL.
pub struct Node {
    pub control: PathBuf,
    log: PathBuf,
    command: Command,
    keeper: Option<Keeper>,
}

/// What a command came to.
#[derive(Debug)]
pub struct Outcome {
    /// 137 if it hung.
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    /// Its output; it must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Vec<u8> {
        assert_eq!(self.status, 0, "{}", self.stderr);
        assert_eq!(self.stderr, "");
        self.stdout
    }

    /// The same as text, without the newline at its end.
    #[track_caller]
    pub fn text(self) -> String {
        let text = String::from_utf8(self.ok()).unwrap();
        text.trim_end_matches('\n').to_owned()
    }

    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_slice(&self.ok()).unwrap()
    }

    /// It must have failed with this status, and one line about it that has these words.
    #[track_caller]
    pub fn failed(self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.stdout, b"", "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:?}");
        }
    }
}

impl Node {
    /// The place's daemon; it is not started yet.
    pub fn new(place: &Place) -> Self {
        let control = place.file("qx.sock");
        let mut command = Command::new(program("qx-node"));
        command.arg("serve").arg("--vms-dir");
        command.arg(place.dir.join("vms"));
        command.arg("--control").arg(&control);
        Self {
            control,
            log: place.file("qx-node.log"),
            command,
            keeper: None,
        }
    }

    /// Starts the daemon; it serves when this returns.
    #[track_caller]
    pub fn start(&mut self) {
        self.kill();
        self.keeper = Some(Keeper::run(&self.command, &self.log));
        wait_until("the daemon to serve", 10, || {
            UnixStream::connect(&self.control).is_ok()
        });
    }

    /// From its next start on it has these options too.
    pub fn options(&mut self, options: &[&str]) {
        self.command.args(options);
    }

    /// Kills the daemon as the kernel does when memory runs out: it says nothing to anybody.
    pub fn kill(&mut self) {
        self.keeper = None;
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.keeper.as_ref().and_then(|keeper| keeper.pid).unwrap()
    }

    /// What it has logged; an earlier daemon in the same place too.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A command of the command line. It may take a minute.
    pub fn cli(&self, words: &[&str]) -> Outcome {
        self.cli_with(words, Stdio::null())
    }

    pub fn cli_with(&self, words: &[&str], stdin: impl Into<Stdio>) -> Outcome {
        let out = Command::new("timeout")
            .args(["-s", "KILL", "60"])
            .arg(program("qx-node"))
            .args(words)
            .env("QX_NODE_SOCK", &self.control)
            .stdin(stdin)
            .output()
            .unwrap();
        Outcome {
            // timeout(1) ends by the signal that it sent.
            status: out.status.code().unwrap_or(137),
            stdout: out.stdout,
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// A command that goes on; its streams are pipes.
    pub fn begin(&self, words: &[&str]) -> Running {
        self.begin_to(words, Stdio::piped())
    }

    /// The same; its output goes elsewhere.
    pub fn begin_to(&self, words: &[&str], stdout: impl Into<Stdio>) -> Running {
        let child = Command::new(program("qx-node"))
            .args(words)
            .env("QX_NODE_SOCK", &self.control)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running { child }
    }

    /// Runs a shell line in the guest; it must succeed.
    #[track_caller]
    pub fn sh(&self, vm: &str, line: &str) -> String {
        self.cli(&["exec", vm, "--", line]).text()
    }

    /// The guest's processes whose words begin with these.
    #[track_caller]
    pub fn processes(&self, vm: &str, words: &str) -> Vec<String> {
        let line = format!(
            "for p in /proc/[0-9]*; do c=$(tr '\\0' ' ' 2>/dev/null <$p/cmdline); \
             case $c in '{words}'*) echo ${{p#/proc/}};; esac; done"
        );
        self.sh(vm, &line).lines().map(str::to_owned).collect()
    }

    /// What the daemon says of the VM; null if it knows none of that name.
    #[track_caller]
    pub fn vm(&self, vm: &str) -> Value {
        let all = self.cli(&["vms", "--json"]).json();
        let found = all.as_array().unwrap().iter().find(|v| v["vm"] == vm);
        found.cloned().unwrap_or_default()
    }

    #[track_caller]
    pub fn state(&self, vm: &str) -> String {
        self.vm(vm)["state"]
            .as_str()
            .unwrap_or("unknown")
            .to_owned()
    }

    /// Waits until the VM's state is this; what the daemon says of it then.
    #[track_caller]
    pub fn wait_state(&self, vm: &str, state: &str) -> Value {
        let mut last = Value::Null;
        let until = Instant::now() + Duration::from_secs(PATIENCE);
        while last["state"] != state {
            assert!(
                Instant::now() < until,
                "waited for {vm} to be {state}: {last}"
            );
            thread::sleep(Duration::from_millis(20));
            last = self.vm(vm);
        }
        last
    }

    /// Waits until the guest answers a command: the channel is well from end to end.
    #[track_caller]
    pub fn wait_usable(&self, vm: &str) {
        let mut last = String::new();
        let until = Instant::now() + Duration::from_secs(PATIENCE);
        loop {
            let outcome = self.cli(&["exec", vm, "--", "echo well"]);
            if outcome.stdout == b"well\n" {
                return;
            }
            last.clone_from(&outcome.stderr);
            assert!(Instant::now() < until, "{vm} does not come back: {last}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            show("log of the daemon", &self.log());
        }
    }
}

/// A command that goes on. It ends with this value.
pub struct Running {
    pub child: Child,
}

impl Running {
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Reads exactly so many bytes.
    #[track_caller]
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let stdout = self.child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads a line.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(self.read(1));
        }
        String::from_utf8(line).unwrap()
    }

    /// Reads no more of its output.
    pub fn close_output(&mut self) {
        self.child.stdout = None;
    }

    /// Ends its input and waits for it.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        drop(self.child.stdin.take());
        let (mut stdout, mut stderr) = (Vec::new(), String::new());
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_end(&mut stdout).unwrap();
        }
        let mut pipe = self.child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        let status = wait_for("a command to end", PATIENCE, || {
            self.child.try_wait().unwrap()
        });
        Outcome {
            status: status.code().unwrap_or(137),
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that speaks the control socket's protocol itself.
pub struct Client(UnixStream);

impl Client {
    pub fn connect(node: &Node) -> Self {
        let stream = UnixStream::connect(&node.control).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(PATIENCE)))
            .unwrap();
        Self(stream)
    }

    pub fn send(&mut self, vm: &str, body: quantix::message::Body) {
        let body = node_message::Body::Agent(quantix::message::message("", body));
        let message = NodeMessage {
            id: 1,
            vm: vm.to_owned(),
            body: Some(body),
        };
        let bytes = message.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap();
        self.0.write_all(&length.to_be_bytes()).unwrap();
        self.0.write_all(&bytes).unwrap();
    }

    #[track_caller]
    pub fn receive(&mut self) -> quantix::message::Body {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut bytes).unwrap();
        match NodeMessage::decode(&bytes[..]).unwrap().body {
            Some(node_message::Body::Agent(message)) => message.body.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// The guest of all tests that leave it as they found it: `web1`, with a disk and a network.
pub struct Shared {
    pub place: Place,
    pub vm: Vm,
    pub node: Node,
}

/// A test's use of the shared guest.
pub struct Use(&'static Shared, #[allow(dead_code)] Turn);

impl std::ops::Deref for Use {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if thread::panicking() {
            show("console of the shared guest", &self.0.vm.console());
            show("log of its daemon", &self.0.node.log());
        }
    }
}

/// A disk of so many MiB with an ext4 on it, for QEMU's `-drive`, as `disk0`.
#[track_caller]
pub fn drive(disk: &Path, mib: u64) -> String {
    make_disk(disk, mib, &["mke2fs", "-q", "-t", "ext4"]);
    format!("file={},format=raw,if=none,id=disk0", disk.display())
}

/// A disk of so many MiB on which this tool of the system has made a file system.
#[track_caller]
pub fn make_disk(disk: &Path, mib: u64, make: &[&str]) {
    File::create(disk).unwrap().set_len(mib << 20).unwrap();
    system(&[make, &[disk.to_str().unwrap()]].concat());
}

/// Runs a tool of the system, which has to succeed.
#[track_caller]
pub fn system(words: &[&str]) {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}: tests/vm/install.sh installs it", words[0]));
    let said = [out.stdout, out.stderr].concat();
    assert!(
        out.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&said)
    );
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let place = Place::new();
    let mut node = Node::new(&place);
    node.start();
    let drive = drive(&place.file("disk"), 32);
    let qemu = [
        "-drive",
        &drive,
        "-device",
        "virtio-blk-pci,drive=disk0",
        "-netdev",
        "hubport,id=net0,hubid=0",
        "-device",
        "virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,romfile=",
    ];
    let options = Options {
        qemu: &qemu,
        ..Default::default()
    };
    let vm = Vm::start(&place, "web1", &options);
    node.wait_state("web1", "ready");
    Shared { place, vm, node }
});

/// The shared guest, well.
#[track_caller]
pub fn shared() -> Use {
    let turn = Turn::wait();
    Use(&SHARED, turn)
}

/// A guest of a test's own, `db1`, with its daemon.
pub struct Own {
    // In the order in which they end.
    pub node: Node,
    pub vm: Vm,
    pub place: Place,
    turn: Option<Turn>,
}

impl Own {
    /// The guest boots, and no daemon runs.
    #[track_caller]
    pub fn boot(options: &Options) -> Self {
        Self::boot_in(Place::new(), options)
    }

    /// The same in a place where there is something already, as the guest's disks.
    #[track_caller]
    pub fn boot_in(place: Place, options: &Options) -> Self {
        let turn = Some(Turn::wait());
        let node = Node::new(&place);
        let vm = Vm::start(&place, "db1", options);
        Self {
            node,
            vm,
            place,
            turn,
        }
    }

    /// Lets this time pass while nothing happens here: other tests have the turn meanwhile.
    pub fn rest(&mut self, seconds: u64) {
        self.turn = None;
        thread::sleep(Duration::from_secs(seconds));
        self.turn = Some(Turn::back());
    }

    /// The guest runs, and the daemon has a session with it.
    #[track_caller]
    pub fn ready(options: &Options) -> Self {
        let mut own = Self::boot(options);
        own.node.start();
        own.node.wait_state("db1", "ready");
        own
    }

    /// Does this, and waits until another agent has come. It is not asked which it is: a command that asked would
    /// be cut off with the old one.
    #[track_caller]
    pub fn until_next_agent(&self, act: impl FnOnce()) {
        let sessions = || count(&self.node.vm("db1"), "sessions");
        let before = sessions();
        act();
        wait_until("the next agent", 3 * PATIENCE, || {
            sessions() != before && self.node.state("db1") == "ready"
        });
    }

    /// The guest's agent and what it has forked, the agent first.
    #[track_caller]
    pub fn agents(&self) -> Vec<u32> {
        // By the kernel's name for it, which pidof would not tell from that of a command's keeper.
        let line = "grep -ls ^quantix-kvm-age /proc/[0-9]*/comm | cut -d/ -f3";
        let pids = self.node.sh("db1", line);
        let mut pids: Vec<u32> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
        pids.sort_unstable();
        pids
    }
}

/// What the VM's counters say under this name.
#[track_caller]
pub fn count(vm: &Value, name: &str) -> u64 {
    let counters = vm.get("counters").cloned().unwrap_or(json!({}));
    counters[name].as_u64().unwrap_or_else(|| panic!("{vm}"))
}
