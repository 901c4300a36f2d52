//! Another program, run to its end or to a deadline, with what it says. For processes without a loop: it
//! waits.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use super::clock;
use super::sys::fd::{Wait, pipe, set_nonblocking, wait};
use super::sys::process::{self, Ended, Signal, Watch};
use super::sys::program::Program;
use crate::error::system_text;

/// Where programs of the system are.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A program, and how it is to run.
#[derive(Debug)]
pub struct Tool<'a> {
    /// Looked for in the system's directories, unless there is a `/` in it.
    pub name: &'a str,
    /// Without its own name.
    pub args: &'a [&'a str],
    /// Its stdin.
    pub input: &'a [u8],
    /// It is killed then, with its process group.
    pub patience: Duration,
    /// Bytes of stdout, and of stderr, that are kept. The rest is read and dropped.
    pub limit: usize,
    /// What it writes to stderr goes to its stdout.
    pub merged: bool,
}

/// What became of it.
#[derive(Debug)]
pub struct Said {
    /// `None`: its time was up, and it was killed.
    pub ended: Option<Ended>,
    /// Its stdout.
    pub output: Vec<u8>,
    /// Its stderr.
    pub complaint: Vec<u8>,
}

impl Said {
    /// It ended with status 0.
    pub fn is_success(&self) -> bool {
        self.ended == Some(Ended::Exited(0))
    }

    /// Of a program that failed: what it said last, or how it ended.
    pub fn why(&self) -> String {
        let text = String::from_utf8_lossy(&self.complaint);
        let other = String::from_utf8_lossy(&self.output);
        let said = last_words(other.lines().chain(text.lines()));
        match (self.ended, said) {
            (None, _) => "it did not end in time, and was killed".to_owned(),
            (Some(_), Some(words)) => words,
            (Some(Ended::Exited(status)), None) => format!("it ended with status {status}"),
            (Some(Ended::Signalled(signal)), None) => format!("signal {signal} ended it"),
        }
    }
}

/// The last line that says something, behind the one before it if the program put its name before both: of what
/// went wrong, that is what it came to.
fn last_words<'a>(lines: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut words: [&str; 2] = [""; 2];
    for line in lines.map(str::trim) {
        if line == "^" {
            // The line above is quoted from a file, and this points into it.
            words = ["", words[0]];
        } else if line.chars().any(char::is_alphanumeric) && !line.starts_with("Hint:") {
            words = [words[1], line];
        }
    }
    let [first, last] = words;
    let name = last.split_inclusive(": ").next().unwrap_or_default();
    let is_name = name.ends_with(": ") && !name.trim_end().contains(' ');
    match (first, last) {
        (_, "") => None,
        _ if is_name && first != last && first.starts_with(name) => {
            Some([first, "; ", &last[name.len()..]].concat())
        }
        // Of ip(8), by a script that says no more than that it failed.
        _ if first.starts_with("RTNETLINK answers: ") => Some([first, "; ", last].concat()),
        _ => Some(last.to_owned()),
    }
}

/// So often its end is looked for without a signal: of several threads, as tests have, another may be told of it.
const LOOK: Duration = Duration::from_secs(1);

impl<'a> Tool<'a> {
    /// One that gets no input, and is listened to.
    pub const fn new(name: &'a str, args: &'a [&'a str], patience: Duration) -> Self {
        Self {
            name,
            args,
            input: &[],
            patience,
            limit: 256 * 1024,
            merged: false,
        }
    }

    /// Runs one that has to succeed.
    ///
    /// # Errors
    /// Why it did not, or could not be started.
    pub fn succeed(&self) -> Result<(), String> {
        match self.run() {
            Ok(said) if said.is_success() => Ok(()),
            Ok(said) => Err(said.why()),
            Err(e) => Err(system_text(&e)),
        }
    }

    /// Runs it. Comes back at its end, whoever still has its pipes open, or when its time is up.
    ///
    /// # Errors
    /// It cannot be started: NotFound where there is no such program.
    pub fn run(&self) -> io::Result<Said> {
        let watch = Watch::new()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let (out, out_end) = pipe()?;
        let (err, err_end) = pipe()?;
        let stdin = match self.input {
            [] => None,
            _ => Some(pipe()?),
        };
        let input = stdin.as_ref().map_or(&null, |(reader, _)| reader);
        let err_to = if self.merged { &out_end } else { &err_end };
        let started = self.program()?.start([input, &out_end, err_to]);
        let pid = started.map_err(|(_, error)| error)?;
        drop((out_end, err_end));
        let stdin = stdin.map(|(_, writer)| writer);
        for pipe in [Some(&out), Some(&err), stdin.as_ref()]
            .into_iter()
            .flatten()
        {
            set_nonblocking(pipe)?;
        }
        let mut talk = Talk {
            streams: [Stream::new(out, self.limit), Stream::new(err, self.limit)],
            stdin,
            input: self.input,
        };
        let end = clock::now() + self.patience;
        let ended = loop {
            // Before its pipes are emptied: what it wrote last is in them.
            let ended = process::reap_one(pid);
            talk.turn();
            let left = end.since(clock::now());
            if ended.is_some() || left.is_zero() {
                break ended;
            }
            talk.wait(&watch, left.min(LOOK))?;
            watch.take();
        };
        if ended.is_none() {
            process::signal_group(pid, Signal::KILL);
            process::wait(pid)?;
        }
        let [output, complaint] = talk.streams.map(|stream| stream.bytes);
        Ok(Said {
            ended,
            output,
            complaint,
        })
    }

    fn program(&self) -> io::Result<Program> {
        let words = [self.name].into_iter().chain(self.args.iter().copied());
        let words = words.map(CString::new).collect::<Result<Vec<_>, _>>();
        Ok(Program {
            paths: Program::candidates(self.name, PATH),
            args: words.map_err(|_| io::Error::from(ErrorKind::InvalidInput))?,
            environment: vec![
                c"LC_ALL=C".to_owned(),
                c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ],
            directories: vec![c"/".to_owned()],
            user: None,
            with_terminal: false,
        })
    }
}

struct Talk<'a> {
    streams: [Stream; 2],
    /// `None`: it has had all, or wants no more.
    stdin: Option<File>,
    input: &'a [u8],
}

struct Stream {
    /// `None`: closed at the other end.
    pipe: Option<File>,
    bytes: Vec<u8>,
    limit: usize,
}

impl Talk<'_> {
    /// Moves what can be moved.
    fn turn(&mut self) {
        for stream in &mut self.streams {
            stream.read();
        }
        if let Some(stdin) = &mut self.stdin {
            match stdin.write(self.input) {
                Ok(n) => self.input = &self.input[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.input = &[],
            }
        }
        self.stdin.take_if(|_| self.input.is_empty());
    }

    fn wait(&self, watch: &Watch, limit: Duration) -> io::Result<()> {
        let [out, err] = &self.streams;
        let mut waits = [
            Wait::read(watch),
            Wait::read_any(out.pipe.as_ref()),
            Wait::read_any(err.pipe.as_ref()),
            Wait::write_any(self.stdin.as_ref()),
        ];
        wait(&mut waits, Some(limit)).map(|_| ())
    }
}

impl Stream {
    const fn new(pipe: File, limit: usize) -> Self {
        Self {
            pipe: Some(pipe),
            bytes: Vec::new(),
            limit,
        }
    }

    /// Reads what is there, but no more than a pipe holds: who writes without end is not to outlast its time.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..32 {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    let room = self.limit - self.bytes.len();
                    self.bytes.extend_from_slice(&buffer[..n.min(room)]);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// In a child, as it is meant for: this test program has threads.
    fn run(tool: &Tool, look: impl Fn(io::Result<Said>) -> bool) {
        let pid = process::spawn_for_test(|| i32::from(!look(tool.run()))).unwrap();
        assert_eq!(process::wait(pid).unwrap(), Ended::Exited(0));
    }

    #[test]
    fn programs_are_looked_for_where_root_alone_writes_and_told_to_do_so_too() {
        let tool = Tool::new("systemctl", &[], Duration::ZERO);
        let program = tool.program().unwrap();
        let known = ["/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"];
        let known = known.map(|place| CString::new(format!("{place}systemctl")).unwrap());
        assert_eq!(program.paths, known);
        let path = c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        assert!(program.environment.contains(&path));
        assert_eq!(program.directories, [c"/".to_owned()]);
    }

    #[test]
    fn what_it_says_and_how_it_ends_is_told() {
        let line = "cat; echo oops >&2; exit 3";
        let args = ["-c", line];
        let mut tool = Tool::new("sh", &args, LONG);
        tool.input = b"in\n";
        run(&tool, |said| {
            let said = said.unwrap();
            said.output == b"in\n"
                && said.complaint == b"oops\n"
                && said.ended == Some(Ended::Exited(3))
                && said.why() == "oops"
        });
        tool.merged = true;
        run(&tool, |said| said.unwrap().output == b"in\noops\n");
        let missing = Tool::new("no-such-program", &[], LONG);
        run(&missing, |said| {
            said.unwrap_err().kind() == ErrorKind::NotFound
        });
    }

    #[test]
    fn the_last_words_name_the_cause() {
        for (text, words) in [
            ("", None),
            ("one\n\ntwo\n", Some("two")),
            (
                "a.yaml:3:19: invalid boolean value 'maybe'\n    eth9: {dhcp4: maybe}\n          ^\n",
                Some("a.yaml:3:19: invalid boolean value 'maybe'"),
            ),
            (
                "Error: no carrier\nHint: use 'journalctl' to get more details.\n",
                Some("Error: no carrier"),
            ),
            (
                "x\nifup: interfaces:5: misplaced option\nifup: couldn't read interfaces\n",
                Some("ifup: interfaces:5: misplaced option; couldn't read interfaces"),
            ),
            (
                "RTNETLINK answers: File exists\nifup: failed to bring up eth0\n",
                Some("RTNETLINK answers: File exists; ifup: failed to bring up eth0"),
            ),
            ("ifup: a\nip: b\n", Some("ip: b")),
            ("ip: a\nip: a\n", Some("ip: a")),
            ("^\n", None),
        ] {
            assert_eq!(last_words(text.lines()).as_deref(), words, "{text}");
        }
    }

    #[test]
    fn more_than_is_wanted_is_dropped_and_waited_for_by_nobody() {
        // More than a pipe holds, both ways, and one that does not read.
        let input = vec![7; 300_000];
        let args = ["-c", "head -c 300000 /dev/zero; exec cat >/dev/null"];
        let mut tool = Tool::new("sh", &args, LONG);
        tool.input = &input;
        tool.limit = 100;
        run(&tool, |said| {
            let said = said.unwrap();
            said.is_success() && said.output.len() == 100
        });
        let args = ["-c", "exit 0"];
        let mut tool = Tool::new("sh", &args, LONG);
        tool.input = &input;
        run(&tool, |said| said.unwrap().is_success());
    }

    #[test]
    fn a_daemon_that_it_leaves_behind_with_its_pipes_is_not_waited_for() {
        let args = ["-c", "echo said; setsid sleep 1000 & exit 0"];
        let tool = Tool::new("sh", &args, LONG);
        run(&tool, |said| said.unwrap().output == b"said\n");
    }

    #[test]
    fn one_that_writes_without_end_is_killed_in_time() {
        let mut tool = Tool::new("yes", &[], Duration::from_millis(100));
        tool.limit = 100;
        run(&tool, |said| {
            let said = said.unwrap();
            said.ended.is_none() && said.output.len() == 100
        });
    }

    #[test]
    fn one_that_hangs_is_killed_with_its_children() {
        let args = ["-c", "echo first; sleep 1000 & sleep 1000"];
        let tool = Tool::new("sh", &args, Duration::from_millis(100));
        run(&tool, |said| {
            let said = said.unwrap();
            said.ended.is_none() && said.output == b"first\n" && said.why().contains("killed")
        });
    }
}
