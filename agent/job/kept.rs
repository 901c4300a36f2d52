//! Commands that outlive what started them: a directory each, below [`Root`], in which the keeper
//! writes and everyone else reads.
//!
//! `job` says what it is, and is locked for as long as its keeper lives; `stdout` and `stderr` are
//! [rings](super::ring); `end` says how it ended. Only forked children come here: files can hang.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use prost::Message;
use quantix::error::{Code, Failure};
use quantix::message::agent::{Job, JobState};
use quantix::rt::clock;
use quantix::rt::sys::fd::{is_locked, try_lock};

use super::ring::{Reader, Writer};
use crate::names;

/// Kept commands that run at once.
const MAX_RUNNING: usize = 32;

/// Kept commands that have ended.
const MAX_ENDED: usize = 16;

/// One that has ended is forgotten after this, in ms.
const KEPT_FOR: u64 = 10 * 60 * 1000;

const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// The directory of all of them: below /run, so that a boot forgets them.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

/// One that this process keeps.
#[derive(Debug)]
pub struct Kept {
    directory: PathBuf,
    /// Locked as long as it is open.
    _lock: Option<File>,
    rings: [Writer; 2],
    /// Its number.
    pub job: u32,
}

/// One as others see it.
#[derive(Debug)]
pub struct Found {
    /// Where its files are.
    pub directory: PathBuf,
    /// With its state, and how much it has written.
    pub job: Job,
}

impl Root {
    /// In the agent's directory for what does not outlive a boot.
    pub fn new(run: &Path) -> Self {
        Self(run.join("jobs"))
    }

    /// A new directory for a command whose streams have so many bytes that went elsewhere.
    ///
    /// # Errors
    /// BUSY, or what the system says: nothing was made.
    pub fn create(&self, starts: [u64; 2]) -> Result<Kept, Failure> {
        let system = |e: io::Error| {
            let path = self.0.to_string_lossy();
            Failure::system("keep the command in", &path, &e)
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(system)?;
        let found = self.tidy();
        let runs = |found: &&Found| found.job.state() == JobState::Running;
        if found.iter().filter(runs).count() >= MAX_RUNNING {
            let why = format!("{MAX_RUNNING} kept commands run in this guest; end one");
            return Err(Failure::new(Code::Busy, why));
        }
        let (job, directory) = self.make().map_err(system)?;
        let ring = |at: usize| Writer::create(&directory.join(STREAMS[at]), starts[at]);
        let rings = ring(0).and_then(|stdout| Ok([stdout, ring(1)?]));
        match rings {
            Ok(rings) => Ok(Kept {
                directory,
                _lock: None,
                rings,
                job,
            }),
            Err(e) => {
                let _ = fs::remove_dir_all(&directory);
                Err(system(e))
            }
        }
    }

    /// The next number that is free.
    fn make(&self) -> io::Result<(u32, PathBuf)> {
        let mut job = self.numbers().into_iter().max().unwrap_or(0);
        loop {
            job = job.checked_add(1).ok_or(ErrorKind::StorageFull)?;
            let directory = self.0.join(job.to_string());
            match DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => return Ok((job, directory)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn numbers(&self) -> Vec<u32> {
        let mut numbers = names::numbers(&self.0);
        numbers.sort_unstable();
        numbers
    }

    /// All of them, by number, once what has had its time is forgotten.
    pub fn tidy(&self) -> Vec<Found> {
        let look = |job: u32| Found::look(self.0.join(job.to_string())).ok();
        let all = self.numbers().into_iter().filter_map(look);
        let (mut kept, mut over): (Vec<_>, Vec<_>) =
            all.partition(|found| found.job.state() == JobState::Running);
        let now = clock::now().micros() / 1000;
        for Found { directory, job } in &mut over {
            // Nobody has said when: its time begins where that is seen.
            if job.state() == JobState::Lost && job.ended_at == 0 {
                job.ended_at = now;
                let _ = put(directory, "end", job);
            }
        }
        over.sort_by_key(|found| found.job.ended_at);
        let surplus = over.len().saturating_sub(MAX_ENDED);
        for (at, found) in over.into_iter().enumerate() {
            if at < surplus || found.job.ended_at.saturating_add(KEPT_FOR) < now {
                let _ = fs::remove_dir_all(&found.directory);
            } else {
                kept.push(found);
            }
        }
        kept.sort_by_key(|found| found.job.job);
        kept
    }

    /// The one with this number, or where that is 0 with this token.
    pub fn find(&self, job: u32, token: &str) -> Result<Found, Failure> {
        let is_it = |found: &Found| match job {
            0 => !token.is_empty() && found.job.token == token,
            job => found.job.job == job,
        };
        self.tidy().into_iter().find(is_it).ok_or_else(|| {
            let why = match job {
                0 => "no such command is kept".to_owned(),
                job => format!("no job {job} in this guest; `qx-node jobs` lists them"),
            };
            Failure::new(Code::NotFound, why)
        })
    }
}

impl Kept {
    /// Says what it is: from now on others see it.
    pub fn begin(&mut self, job: &Job) -> io::Result<()> {
        let file = put(&self.directory, "job", job)?;
        self._lock = Some(file);
        Ok(())
    }

    /// Puts bytes behind the others of a stream: 0 is stdout, 1 is stderr.
    pub fn append(&mut self, stream: usize, bytes: &[u8]) -> io::Result<()> {
        self.rings[stream].append(bytes)
    }

    /// Says how it ended.
    pub fn end(self, mut job: Job) -> io::Result<()> {
        [job.stdout_bytes, job.stderr_bytes] = self.rings.each_ref().map(Writer::total);
        job.set_state(JobState::Ended);
        job.ended_at = clock::now().micros() / 1000;
        put(&self.directory, "end", &job).map(|_| ())
    }

    /// It never was.
    pub fn forget(self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Found {
    /// Looks at one again.
    pub fn look(directory: PathBuf) -> io::Result<Self> {
        if let Ok(job) = get(&directory.join("end")) {
            return Ok(Self { directory, job });
        }
        let path = directory.join("job");
        let mut job = get(&path)?;
        let lives = is_locked(&File::open(&path)?)?;
        // It may have ended between the two looks.
        if !lives && let Ok(job) = get(&directory.join("end")) {
            return Ok(Self { directory, job });
        }
        job.set_state(match lives {
            true => JobState::Running,
            false => JobState::Lost,
        });
        let total = |at: usize| Reader::open(&directory.join(STREAMS[at]), 0)?.total();
        job.stdout_bytes = total(0).unwrap_or(0);
        job.stderr_bytes = total(1).unwrap_or(0);
        Ok(Self { directory, job })
    }

    /// A reader for each of its streams.
    pub fn readers(&self, from: [u64; 2]) -> io::Result<[Reader; 2]> {
        let open = |at: usize| Reader::open(&self.directory.join(STREAMS[at]), from[at]);
        Ok([open(0)?, open(1)?])
    }
}

/// Writes a file whole, locked before anyone sees it.
fn put(directory: &Path, name: &str, job: &Job) -> io::Result<File> {
    let new = directory.join(format!("{name}.new"));
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new)?;
    file.write_all(&job.encode_to_vec())?;
    try_lock(&file)?;
    fs::rename(&new, directory.join(name))?;
    Ok(file)
}

fn get(path: &Path) -> io::Result<Job> {
    Ok(Job::decode(&fs::read(path)?[..])?)
}
