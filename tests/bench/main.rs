//! What the agent costs and what its channel brings, against a bare C program on the same port of the
//! same VM: `make bench`. Prints figures and judges none.
//!
//! Ours and bare take turns, round by round, so that a machine that slows down meanwhile slows both.
//! Every figure is a median. The environment can make it shorter or longer: `BENCH_ROUNDS` (3),
//! `BENCH_MIB` (256, each transfer's size), `BENCH_IDLE` (60, seconds without a host), `BENCH_TOTAL`
//! (2048, MiB transferred before memory and processor time are looked at), `QX_BENCH_ROUNDS` (100, sessions opened in each
//! way).
// A benchmark reads clocks, waits and prints; where it fails it has nothing else to do.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod bare;
mod control;
mod host;
mod load;
mod node;
mod qga;
mod sessions;
mod tables;
mod vm;

// It panics where QEMU does not do as it is told; what it has for tests alone is unused here.
#[allow(clippy::expect_used, clippy::unwrap_used, dead_code)]
#[path = "../vm/qmp.rs"]
mod qmp;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bare::Bare;
use node::{Daemon, QX_NODE};
use qga::Qga;
use vm::{NAME, Vm};

/// Whatever goes wrong ends the run.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

const AGENT: &str = env!("CARGO_BIN_EXE_quantix-kvm-agent");

/// Round trips at full speed in a round, and those that come first and do not count.
const PINGS: usize = 300;
const WARM_UP: usize = 20;

/// Round trips a second apart in a round.
const SLOW_PINGS: usize = 5;

/// Round trips in a round that each come first after a revert.
const REVERTS: usize = 10;

/// Commands in a round.
const COMMANDS: usize = 40;

/// Samples of one figure. Times are in microseconds, rates in MB/s.
#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn add(&mut self, sample: f64) {
        self.0.push(sample);
    }

    fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The sample that so many of a hundred are below.
    fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = sorted.len() * percent / 100;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }

    fn worst(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }
}

/// All that is compared or timed.
#[derive(Default)]
struct Figures {
    ping: Samples,
    ping_client: Samples,
    echo: Samples,
    echo_reverted: Samples,
    slow_ping: Samples,
    slow_echo: Samples,
    download: Samples,
    source: Samples,
    source_file: Samples,
    upload: Samples,
    sink: Samples,
    upload_file: Samples,
    sink_file: Samples,
    exec: Samples,
    exec_process: Samples,
    qga_read: Samples,
    qga_read_large: Samples,
    qga_write: Samples,
    qga_write_large: Samples,
    qga_exec: Samples,
}

/// What moving a gigabyte took, in seconds of processor time: of the agent and its workers, and of the
/// daemon and its clients.
#[derive(Default)]
struct Cost {
    guest: f64,
    host: f64,
}

/// What the environment says.
struct Plan {
    rounds: usize,
    bytes: usize,
    idle: u64,
    total: usize,
    sessions: usize,
}

fn main() -> Outcome<()> {
    // `cargo bench` hands us `--bench`; anything else is a filter, and there is nothing to filter.
    let plan = Plan {
        rounds: number("BENCH_ROUNDS", 3)?,
        bytes: number("BENCH_MIB", 256)? << 20,
        idle: number("BENCH_IDLE", 60)? as u64,
        total: number("BENCH_TOTAL", 2048)? << 20,
        sessions: number("QX_BENCH_ROUNDS", 100)?,
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("data"), vec![b'q'; plan.bytes])?;

    eprintln!("booting");
    let vm = Vm::boot(&dir, AGENT)?;
    vm.qmp().add_snapshot_disk(&dir.join("snapshots"));
    let mut daemon = Daemon::start(&dir)?;
    let release = daemon.shell("uname -r")?;
    sleep(Duration::from_secs(3));
    let idle_rss = rss_kb(&mut daemon)?;

    eprintln!("{} s without a host", plan.idle);
    let (mut daemon, switches) = wakeups(&dir, daemon, plan.idle)?;

    // Memory that the guest has not used yet is slow: QEMU has to get it first.
    daemon.shell(&make_data(plan.bytes))?;
    for name in ["/tmp/up", "/tmp/back"] {
        upload_to(&dir, name)?;
    }
    daemon.shell("rm /tmp/up /tmp/back")?;
    let mut figures = Figures::default();
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}", plan.rounds);
        ours(&plan, &dir, &mut daemon, &mut figures)?;
        if let Some(socket) = vm.qga() {
            measure_qga(&plan, &mut daemon, socket, &mut figures)?;
        }
        let mut bare = Bare::borrow_port(&vm, daemon, round, plan.bytes)?;
        measure_bare(&plan, &vm, &mut bare, &mut figures)?;
        bare.give_back(&vm)?;
        direct(&vm, &mut figures)?;
        daemon = Daemon::start(&dir)?;
    }

    eprintln!("{} MiB of transfers", plan.total >> 20);
    let (down, up) = costs(&plan, &dir, &mut daemon)?;
    let worn_rss = rss_kb(&mut daemon)?;
    eprintln!("four transfers and a chatty command at once");
    let load = load::measure(&dir, &mut daemon)?;

    daemon.stop();
    let sessions = sessions::measure(&vm, plan.sessions)?;

    let size = fs::metadata(AGENT)?.len();
    tables::print_head(&vm, release.trim());
    println!("| | |\n|---|---|");
    println!("| Agent, file | {:.2} MB |", size as f64 / 1e6);
    println!("| Agent, memory when idle | {idle_rss} KiB |");
    let mib = (2 * plan.total) >> 20;
    println!("| Agent, memory after {mib} MiB of transfers | {worn_rss} KiB |");
    let most = load.most_kb;
    println!("| Agent, most memory with four transfers and a command at once | {most} KiB |");
    let idle = plan.idle;
    println!("| Agent, wake-ups in {idle} s without a host | {switches} |");
    tables::print(&figures, &load, &down, &up);
    sessions.print(figures.echo.median(), figures.echo_reverted.median());
    Ok(())
}

fn number(variable: &str, default: usize) -> Outcome<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().map_err(|e| format!("{variable}: {e}").into()),
        Err(_) => Ok(default),
    }
}

/// The parent of a shell in the guest is its keeper, whose parent is the agent.
fn rss_kb(daemon: &mut Daemon) -> Outcome<String> {
    let line = daemon.shell("probe wakeups $(cut -d' ' -f4 /proc/$PPID/stat) 0")?;
    let mut words = line.split_whitespace();
    let found = words.by_ref().any(|word| word == "rss_kb");
    let kb = words.next().filter(|_| found).ok_or("no rss_kb")?;
    Ok(kb.to_owned())
}

/// How often the agent ran while no host was connected. The command that counts outlives the session
/// that began it.
fn wakeups(dir: &Path, mut daemon: Daemon, seconds: u64) -> Outcome<(Daemon, String)> {
    let agent = daemon.shell("cut -d' ' -f4 /proc/$PPID/stat")?;
    let agent = agent.trim();
    daemon.spawn(&format!(
        "sleep 2; probe wakeups {agent} {seconds} > /tmp/wakeups"
    ))?;
    daemon.stop();
    sleep(Duration::from_secs(seconds + 4));
    let mut daemon = Daemon::start(dir)?;
    let line = daemon.shell("cat /tmp/wakeups")?;
    let switches = line.split_whitespace().nth(1).ok_or("no wake-ups")?;
    Ok((daemon, switches.to_owned()))
}

fn make_data(bytes: usize) -> String {
    format!("[ -f /tmp/data ] || head -c {bytes} /dev/zero | tr '\\0' q > /tmp/data")
}

/// The cost of downloads, and that of uploads.
fn costs(plan: &Plan, dir: &Path, daemon: &mut Daemon) -> Outcome<(Cost, Cost)> {
    daemon.shell(&make_data(plan.bytes))?;
    let mut costs = [Cost::default(), Cost::default()];
    let ways: [fn(&Path) -> Outcome<f64>; 2] = [download, upload];
    for (cost, way) in costs.iter_mut().zip(ways) {
        let before = spent(daemon)?;
        let mut moved = 0;
        while moved < plan.total {
            way(dir)?;
            moved += plan.bytes;
        }
        let after = spent(daemon)?;
        let gigabytes = moved as f64 / 1e9;
        cost.guest = (after.guest - before.guest) / gigabytes;
        cost.host = (after.host - before.host) / gigabytes;
    }
    let [down, up] = costs;
    Ok((down, up))
}

/// Processor time so far, of both sides; that of clients and workers counts when they have ended.
fn spent(daemon: &mut Daemon) -> Outcome<Cost> {
    let pid = daemon.pid();
    let of_clients = ticks(&fs::read_to_string("/proc/self/stat")?, 15..17)?;
    let of_daemon = ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?, 13..15)?;
    let stat = daemon.shell("cat /proc/$(cut -d' ' -f4 /proc/$PPID/stat)/stat")?;
    Ok(Cost {
        guest: ticks(&stat, 13..17)?,
        host: of_clients + of_daemon,
    })
}

/// The sum of some fields of a process's stat, in seconds: USER_HZ is 100 on x86 (proc(5)).
fn ticks(stat: &str, fields: std::ops::Range<usize>) -> Outcome<f64> {
    let words: Vec<&str> = stat.split_whitespace().collect();
    let words = words.get(fields).ok_or("a short stat")?;
    let ticks: Result<Vec<f64>, _> = words.iter().map(|word| word.parse::<f64>()).collect();
    Ok(ticks?.iter().sum::<f64>() / 100.0)
}

fn ours(plan: &Plan, dir: &Path, daemon: &mut Daemon, figures: &mut Figures) -> Outcome<()> {
    daemon.shell(&make_data(plan.bytes))?;
    for turn in 0..WARM_UP + PINGS {
        let (client, daemons) = daemon.ping()?;
        if turn >= WARM_UP {
            figures.ping.add(daemons);
            figures.ping_client.add(client);
        }
    }
    for _ in 0..COMMANDS {
        let begun = Instant::now();
        daemon.shell("true")?;
        figures.exec.add(micros(begun));
    }
    for _ in 0..COMMANDS / 4 {
        let begun = Instant::now();
        node::run(dir, &["exec", NAME, "--", "true"])?;
        figures.exec_process.add(micros(begun));
    }
    figures.download.add(rate(plan.bytes, download(dir)?));
    figures.upload.add(rate(plan.bytes, upload(dir)?));
    figures
        .upload_file
        .add(rate(plan.bytes, upload_to(dir, "/tmp/up")?));
    daemon.shell("rm /tmp/up")?;
    Ok(())
}

/// Less than all: it would take minutes.
fn measure_qga(
    plan: &Plan,
    daemon: &mut Daemon,
    socket: &Path,
    figures: &mut Figures,
) -> Outcome<()> {
    let mut qga = Qga::start(daemon, socket)?;
    let bytes = plan.bytes.min(16 << 20);
    let (from, to) = ("/tmp/data", "/dev/null");
    figures.qga_read.add(qga.read(from, bytes, qga::PIECE)?);
    figures
        .qga_read_large
        .add(qga.read(from, bytes, qga::LARGE)?);
    figures.qga_write.add(qga.write(to, bytes, qga::PIECE)?);
    figures
        .qga_write_large
        .add(qga.write(to, bytes, qga::LARGE)?);
    for _ in 0..COMMANDS / 2 {
        figures.qga_exec.add(qga.exec()?);
    }
    daemon.shell("killall qemu-ga")?;
    Ok(())
}

fn download(dir: &Path) -> Outcome<f64> {
    let begun = Instant::now();
    node::run(dir, &["cat", NAME, "/tmp/data"])?;
    Ok(micros(begun))
}

/// Into the guest's /dev/null, as the bare program throws away what it reads.
fn upload(dir: &Path) -> Outcome<f64> {
    upload_to(dir, "/dev/null")
}

fn upload_to(dir: &Path, path: &str) -> Outcome<f64> {
    let data = dir.join("data");
    let data = data.to_str().ok_or("a path that is not UTF-8")?;
    let begun = Instant::now();
    node::run(dir, &["cp", data, &format!("{NAME}:{path}")])?;
    Ok(micros(begun))
}

fn measure_bare(plan: &Plan, vm: &Vm, bare: &mut Bare, figures: &mut Figures) -> Outcome<()> {
    for turn in 0..WARM_UP + PINGS {
        let micros = bare.echo()?;
        if turn >= WARM_UP {
            figures.echo.add(micros);
        }
    }
    for _ in 0..SLOW_PINGS {
        sleep(Duration::from_secs(1));
        figures.slow_echo.add(bare.echo()?);
    }
    let mut qmp = vm.qmp();
    qmp.human("savevm bare");
    for _ in 0..REVERTS {
        figures.echo_reverted.add(bare.echo_reverted(&mut qmp)?);
    }
    figures.source.add(rate(plan.bytes, bare.source(false)?));
    figures.sink.add(rate(plan.bytes, bare.sink(false)?));
    figures
        .source_file
        .add(rate(plan.bytes, bare.source(true)?));
    figures.sink_file.add(rate(plan.bytes, bare.sink(true)?));
    Ok(())
}

/// Pings without a daemon, a second apart. The first opens the session and does not count.
fn direct(vm: &Vm, figures: &mut Figures) -> Outcome<()> {
    let count = (SLOW_PINGS + 1).to_string();
    let out = Command::new(QX_NODE)
        .args(["ping", NAME, "--json", "--count", &count, "--direct"])
        .arg(vm.socket())
        .output()?;
    let text = String::from_utf8(out.stdout)?;
    for line in text.lines().skip(1) {
        let (_, rest) = line.split_once("\"rtt_us\":").ok_or("no rtt_us")?;
        let digits = rest.split(',').next().unwrap_or_default();
        figures.slow_ping.add(digits.parse()?);
    }
    if out.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into())
    }
}

fn micros(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6
}

/// MB/s: bytes a microsecond.
fn rate(bytes: usize, micros: f64) -> f64 {
    bytes as f64 / micros
}
