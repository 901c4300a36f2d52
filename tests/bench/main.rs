//! What the agent costs and what its channel brings, against a bare C program on the same port of the
//! same VM: `make bench`. Prints figures and judges none.
//!
//! Ours and bare take turns, round by round, so that a machine that slows down meanwhile slows both.
//! Every figure is a median. The environment can make it shorter or longer: `BENCH_ROUNDS` (3),
//! `BENCH_MIB` (64, each transfer's size), `BENCH_IDLE` (60, seconds without a host), `BENCH_TOTAL`
//! (1024, MiB transferred before the memory is looked at), `QX_BENCH_ROUNDS` (100, sessions opened in each
//! way).
// A benchmark reads clocks, waits and prints; where it fails it has nothing else to do.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod bare;
mod host;
mod node;
mod sessions;
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
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
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
    upload: Samples,
    sink: Samples,
    exec: Samples,
    exec_process: Samples,
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
        bytes: number("BENCH_MIB", 64)? << 20,
        idle: number("BENCH_IDLE", 60)? as u64,
        total: number("BENCH_TOTAL", 1024)? << 20,
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

    let mut figures = Figures::default();
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}", plan.rounds);
        ours(&plan, &dir, &mut daemon, &mut figures)?;
        let mut bare = Bare::borrow_port(&vm, daemon, round, plan.bytes)?;
        measure_bare(&plan, &vm, &mut bare, &mut figures)?;
        bare.give_back(&vm)?;
        direct(&vm, &mut figures)?;
        daemon = Daemon::start(&dir)?;
    }

    eprintln!("{} MiB of transfers", plan.total >> 20);
    daemon.shell(&make_data(plan.bytes))?;
    let mut moved = 0;
    while moved < plan.total {
        download(&dir)?;
        upload(&dir)?;
        moved += 2 * plan.bytes;
    }
    let worn_rss = rss_kb(&mut daemon)?;

    daemon.stop();
    let sessions = sessions::measure(&vm, plan.sessions)?;

    let size = fs::metadata(AGENT)?.len();
    print_head(&vm, release.trim());
    println!("| | |\n|---|---|");
    println!("| Agent, file | {:.2} MB |", size as f64 / 1e6);
    println!("| Agent, memory when idle | {idle_rss} KiB |");
    let mib = moved >> 20;
    println!("| Agent, memory after {mib} MiB of transfers | {worn_rss} KiB |");
    let idle = plan.idle;
    println!("| Agent, wake-ups in {idle} s without a host | {switches} |");
    print_figures(&figures);
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
    format!("[ -f /tmp/data ] || head -c {bytes} /dev/zero > /tmp/data")
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
    Ok(())
}

fn download(dir: &Path) -> Outcome<f64> {
    let begun = Instant::now();
    node::run(dir, &["cat", NAME, "/tmp/data"])?;
    Ok(micros(begun))
}

/// Into the guest's /dev/null, as the bare program throws away what it reads.
fn upload(dir: &Path) -> Outcome<f64> {
    let data = dir.join("data");
    let data = data.to_str().ok_or("a path that is not UTF-8")?;
    let begun = Instant::now();
    node::run(dir, &["cp", data, &format!("{NAME}:/dev/null")])?;
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
    figures.source.add(rate(plan.bytes, bare.source()?));
    figures.sink.add(rate(plan.bytes, bare.sink()?));
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

fn print_head(vm: &Vm, release: &str) {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .unwrap_or_default()
        .trim_start_matches(['\t', ':', ' ']);
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    let qemu = qemu.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let qemu = qemu.unwrap_or_default();
    let qemu = qemu.split_whitespace().nth(3).unwrap_or("?");
    let accel = vm.accel();
    println!(
        "QEMU {qemu}, accelerator {accel}, guest Linux {release}, 1 CPU; host {count} x {model}\n"
    );
}

fn print_figures(f: &Figures) {
    let line = |what: &str, ours: &Samples, bare: &Samples, unit: &str, scale: f64| {
        let (ours, bare) = (ours.median() / scale, bare.median() / scale);
        let ratio = ours / bare;
        println!("| {what} | {ours:.2} {unit} | {bare:.2} {unit} | {ratio:.2} |");
    };
    let alone = |what: &str, samples: &Samples| {
        println!("| {what} | {:.2} ms | | |", samples.median() / 1e3);
    };
    println!("\n| | Ours | Bare port | Ours : bare |\n|---|---|---|---|");
    line(
        "Round trip, one after the other",
        &f.ping,
        &f.echo,
        "ms",
        1e3,
    );
    alone("the same, as the daemon's client sees it", &f.ping_client);
    let slow = "Round trip, one a second, `--direct`";
    line(slow, &f.slow_ping, &f.slow_echo, "ms", 1e3);
    line("Download, `cat`", &f.download, &f.source, "MB/s", 1.0);
    line("Upload, `cp` to /dev/null", &f.upload, &f.sink, "MB/s", 1.0);
    alone(
        "`true` in the guest's shell, by the control socket",
        &f.exec,
    );
    alone(
        "`qx-node exec VM -- true`, the whole process",
        &f.exec_process,
    );
}
