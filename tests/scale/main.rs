//! What a daemon with many VMs costs, and how fast it is then: `make bench-scale`. Prints figures, judges none.
//!
//! The VMs are guests' cores in one other process, 200 of them real agents, and it is the same daemon, the
//! same channel and the same reports as with real ones. `BENCH_VMS` (500 1000 2000 5000) are the rows of the
//! table, `BENCH_AGENTS` (200) how many of each are real, `BENCH_SECONDS` (60) for how long processor time is
//! looked at, and histories grow: 3600 fills them.
// A benchmark reads clocks, waits and prints; where it fails it has nothing else to do.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod client;
#[path = "../bench/control.rs"]
mod control;
mod fleet;

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use client::{Client, Daemon};

/// Whatever goes wrong ends the run.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(120);

const AGENT: &str = env!("CARGO_BIN_EXE_quantix-kvm-agent");

/// Our first word where we are the fleet.
const FLEET: &str = "--fleet";

/// From one ping to the next.
const PING_EVERY: Duration = Duration::from_millis(10);

/// Commands at once, as `exec --all` has them.
const AT_ONCE: usize = 64;

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, first, dir, count, agents] = &words[..]
        && first == FLEET
    {
        return fleet::serve(Path::new(dir), count.parse()?, agents.parse()?, AGENT);
    }
    let rows = setting("BENCH_VMS", "500 1000 2000 5000");
    let agents: usize = setting("BENCH_AGENTS", "200").parse()?;
    let seconds: u64 = setting("BENCH_SECONDS", "60").parse()?;
    println!(
        "| VMs | All ready | Again after a restart | Memory | a VM | after {seconds} s | Processor | \
         Ping, median | 99 of 100 | 99 of 100 while all report | `exec` in all |"
    );
    println!("|{}", "---|".repeat(11));
    for row in rows.split_whitespace() {
        println!("{}", measure(row.parse()?, agents, seconds)?);
    }
    Ok(())
}

fn setting(name: &str, usual: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| usual.to_owned())
}

/// A row of the table.
fn measure(count: usize, agents: usize, seconds: u64) -> Outcome<String> {
    let dir = std::env::temp_dir().join(format!("qx-scale-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("vms"))?;
    let mut fleet = Fleet::start(&dir, count, agents)?;
    let daemon = Daemon::start(&dir)?;
    let mut client = Client::connect(&dir)?;
    client.wait_ready(count)?;
    let first = daemon.begun.elapsed();
    drop(client);
    drop(daemon);
    let daemon = Daemon::start(&dir)?;
    let mut client = Client::connect(&dir)?;
    client.wait_ready(count)?;
    let again = daemon.begun.elapsed();
    eprintln!("{count}: all ready after {first:?}, and {again:?}");

    // Every guest has reported once by then.
    sleep(Duration::from_secs(11));
    let rss = daemon.rss_kib()?;
    let (cpu, begun) = (daemon.cpu()?, Instant::now());
    sleep(Duration::from_secs(seconds));
    let share = (daemon.cpu()? - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    // With the histories of this time.
    let full = daemon.rss_kib()?;

    let mut at = 0;
    let mut ping = |client: &mut Client| {
        at = (at + 7919) % count;
        sleep(PING_EVERY);
        client.ping(&fleet::name(at))
    };
    let until = Instant::now() + Duration::from_secs(seconds.min(20));
    let mut calm = Vec::new();
    while Instant::now() < until {
        calm.push(ping(&mut client)?);
    }
    let mut busy = Vec::new();
    for _ in 0..10 {
        fleet.report(1)?;
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            busy.push(ping(&mut client)?);
        }
    }
    let all: Vec<String> = (0..count).map(fleet::name).collect();
    let exec = client.fan_out(&all, AT_ONCE)?;
    drop((client, daemon, fleet));
    fs::remove_dir_all(&dir)?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    let millis = |of: Duration| of.as_secs_f64() * 1e3;
    Ok(format!(
        "| {count} | {:.1} s | {:.1} s | {:.1} MiB | {:.1} KiB | {:.1} MiB | {:.1} % | {:.2} ms | {:.2} ms | {:.2} ms | {:.2} s |",
        first.as_secs_f64(),
        again.as_secs_f64(),
        mib(rss),
        rss as f64 / count as f64,
        mib(full),
        share * 100.0,
        millis(percentile(&mut calm, 50)),
        millis(percentile(&mut calm, 99)),
        millis(percentile(&mut busy, 99)),
        exec.as_secs_f64(),
    ))
}

fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    samples[(samples.len() * percent / 100).min(samples.len() - 1)]
}

/// The process of [`fleet`].
struct Fleet {
    process: Child,
    /// It ends, and with it its agents, when this does.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Fleet {
    fn start(dir: &Path, count: usize, agents: usize) -> Outcome<Self> {
        let agents = agents.min(count);
        let mut process = Command::new(std::env::current_exe()?)
            .arg(FLEET)
            .arg(dir)
            .args([count.to_string(), agents.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        let mut fleet = Self {
            process,
            input,
            output,
        };
        fleet.wait()?;
        Ok(fleet)
    }

    /// Has all guests report at once.
    fn report(&mut self, times: usize) -> Outcome<()> {
        let input = self.input.as_mut().ok_or("no stdin")?;
        writeln!(input, "{times}")?;
        self.wait()
    }

    fn wait(&mut self) -> Outcome<()> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("the fleet has ended".into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}
