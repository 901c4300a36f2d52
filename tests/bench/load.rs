//! Four bulk transfers and a command that never stops writing, all at once: what a ping is like
//! meanwhile, and what the agent takes.

use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use crate::node::{Daemon, command};
use crate::vm::NAME;
use crate::{Outcome, Samples, rss_kb};

/// Pings each time, and the pause between two.
const PINGS: usize = 500;
const APART: Duration = Duration::from_millis(10);

/// Until what was started is at work.
const BEGIN: Duration = Duration::from_millis(500);

/// What was found.
pub struct Load {
    /// Round trips in microseconds, as far apart as those under load.
    pub idle: Samples,
    /// Under four transfers, and under these and the command.
    pub transfers: Samples,
    pub all: Samples,
    /// The most memory that the agent had, in KiB.
    pub most_kb: u64,
}

/// Transfers that begin again when they end.
struct Transfers<'a> {
    dir: &'a Path,
    running: Vec<(Vec<String>, Child)>,
}

impl Transfers<'_> {
    fn start(&mut self, words: &[&str]) -> Outcome<()> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let child = command(self.dir, &words).spawn()?;
        self.running.push((words, child));
        Ok(())
    }

    fn keep_up(&mut self) -> Outcome<()> {
        for (words, child) in &mut self.running {
            match child.try_wait()? {
                Some(status) if status.success() => *child = command(self.dir, words).spawn()?,
                Some(status) => return Err(format!("{words:?}: {status}").into()),
                None => {}
            }
        }
        Ok(())
    }
}

impl Drop for Transfers<'_> {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Measures. There is a file `/tmp/data` in the guest, and `data` here.
pub fn measure(dir: &Path, daemon: &mut Daemon) -> Outcome<Load> {
    let data = dir.join("data");
    let data = data.to_str().ok_or("a path that is not UTF-8")?;
    let mut load = Load {
        idle: Samples::default(),
        transfers: Samples::default(),
        all: Samples::default(),
        most_kb: 0,
    };
    let mut transfers = Transfers {
        dir,
        running: Vec::new(),
    };
    ping(daemon, &mut transfers, &mut load.idle)?;
    for _ in 0..2 {
        transfers.start(&["cat", NAME, "/tmp/data"])?;
        transfers.start(&["cp", data, &format!("{NAME}:/dev/null")])?;
    }
    sleep(BEGIN);
    ping(daemon, &mut transfers, &mut load.transfers)?;
    transfers.start(&["exec", NAME, "--", "yes a chatty command"])?;
    sleep(BEGIN);
    ping(daemon, &mut transfers, &mut load.all)?;
    for _ in 0..20 {
        transfers.keep_up()?;
        load.most_kb = load.most_kb.max(rss_kb(daemon)?.parse()?);
    }
    Ok(load)
}

fn ping(daemon: &mut Daemon, transfers: &mut Transfers, pings: &mut Samples) -> Outcome<()> {
    for _ in 0..PINGS {
        pings.add(daemon.ping()?.1);
        transfers.keep_up()?;
        sleep(APART);
    }
    Ok(())
}
