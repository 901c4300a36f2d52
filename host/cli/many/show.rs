//! What many children print, told apart: line by line as it comes, VM by VM, or a JSON value for each.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::Trouble;
use super::super::copy::progress::Progress;
use super::super::render::{plain, table};
use super::child::{Ended, Stream};

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Each line behind its VM's name, as it comes.
    Lines,
    /// All of a VM together when it has ended.
    Collected,
    /// A value a VM.
    Json,
}

/// What is kept of a VM until it has ended: of its output, and of a line. What is more is shown in parts; JSON that
/// is longer is left out.
const KEPT: usize = 1024 * 1024;
const JSON_KEPT: usize = 16 * 1024 * 1024;

/// How this program's own words begin.
const OURS: &[u8] = b"qx-node: ";

/// Failures that are told of.
const TOLD: usize = 20;

/// What is to be shown of the VMs.
pub struct Show {
    style: Style,
    width: usize,
    of: BTreeMap<String, Kept>,
    all: usize,
    done: usize,
    failures: Vec<(String, String)>,
    worst: u8,
}

/// What a VM has said and was not shown.
#[derive(Default)]
struct Kept {
    out: Vec<u8>,
    err: Vec<u8>,
    /// There was more of it.
    is_cut: bool,
    /// The last line of its stderr.
    last: Vec<u8>,
}

impl Show {
    /// For these.
    pub fn new(style: Style, names: &[&str]) -> Self {
        let widths = names.iter().map(|name| plain(name).chars().count());
        Self {
            style,
            width: widths.max().unwrap_or(0),
            of: BTreeMap::new(),
            all: names.len(),
            done: 0,
            failures: Vec::new(),
            worst: 0,
        }
    }

    /// So many have ended.
    pub const fn done(&self) -> usize {
        self.done
    }

    /// So many of them otherwise than they should.
    pub fn failed(&self) -> usize {
        self.failures.len()
    }

    /// The greatest of their statuses.
    pub const fn worst(&self) -> u8 {
        self.worst
    }

    /// One has said something.
    pub fn say(
        &mut self,
        progress: &Progress,
        name: &str,
        stream: Stream,
        bytes: &[u8],
    ) -> Result<(), Trouble> {
        let kept = self.of.entry(name.to_owned()).or_default();
        let buffer = match stream {
            Stream::Out => &mut kept.out,
            Stream::Err => &mut kept.err,
        };
        buffer.extend_from_slice(bytes);
        let shown = match self.style {
            Style::Json => {
                if buffer.len() > JSON_KEPT {
                    buffer.clear();
                    kept.is_cut = true;
                }
                return Ok(());
            }
            Style::Collected if buffer.len() < KEPT => return Ok(()),
            Style::Collected => buffer.len(),
            Style::Lines => whole_lines(buffer),
        };
        if shown == 0 {
            return Ok(());
        }
        let part: Vec<u8> = buffer.drain(..shown).collect();
        if stream == Stream::Err {
            kept.last = last_line(&part);
        }
        self.print(progress, name, stream, &part)
    }

    /// One has ended.
    pub fn end(&mut self, progress: &Progress, ended: Ended) -> Result<(), Trouble> {
        let mut kept = self.of.remove(&ended.name).unwrap_or_default();
        if !kept.err.is_empty() {
            kept.last = last_line(&kept.err);
        }
        self.done += 1;
        self.worst = self.worst.max(ended.status);
        let why = ended
            .why
            .clone()
            .unwrap_or_else(|| why(ended.status, &kept.last));
        if ended.status != 0 {
            self.failures.push((ended.name.clone(), why.clone()));
        }
        if self.style == Style::Json {
            let value = json!({
                "vm": ended.name,
                "status": ended.status,
                "result": result(&kept),
                "error": Some(why).filter(|_| ended.status != 0),
            });
            return aside(progress, format!("{value}\n").as_bytes(), Stream::Out);
        }
        for (stream, rest) in [(Stream::Out, &kept.out), (Stream::Err, &kept.err)] {
            // What we have said of it is said once, with the others' at the end.
            let is_told = stream == Stream::Err
                && ended.status != 0
                && self.failures.len() <= TOLD
                && rest.starts_with(OURS);
            if !is_told && !rest.is_empty() {
                self.print(progress, &ended.name, stream, rest)?;
            }
        }
        Ok(())
    }

    fn print(
        &self,
        progress: &Progress,
        name: &str,
        stream: Stream,
        bytes: &[u8],
    ) -> Result<(), Trouble> {
        let name = plain(name);
        let mut text = Vec::with_capacity(bytes.len() + 64);
        if self.style == Style::Collected && stream == Stream::Out {
            text.extend_from_slice(format!("== {name}\n").as_bytes());
            text.extend_from_slice(bytes);
            if !bytes.ends_with(b"\n") {
                text.push(b'\n');
            }
            return aside(progress, &text, stream);
        }
        let own = format!("{name}: ");
        let width = self.width + 2;
        for line in bytes
            .strip_suffix(b"\n")
            .unwrap_or(bytes)
            .split(|byte| *byte == b'\n')
        {
            // One that says whose it is does not need to be told.
            let line = line.strip_prefix(own.as_bytes()).unwrap_or(line);
            text.extend_from_slice(format!("{own:width$}").as_bytes());
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        aside(progress, &text, stream)
    }

    /// What is said at the end, if there is something to say.
    pub fn sum_up(&self, off: usize, took: Duration, is_watched: bool) {
        let mut text = String::new();
        let (all, done, failed) = (self.all, self.done, self.failures.len());
        if failed > 0 {
            text += &format!("qx-node: failed in {failed} of {}:\n", vms(all));
            let rows = self.failures.iter().take(TOLD);
            let rows: Vec<Vec<String>> = rows
                .map(|(name, why)| vec![format!("  {}", plain(name)), why.clone()])
                .collect();
            text += &table(&rows);
            if failed > TOLD {
                text += &format!("  and {} more; --json tells of all\n", failed - TOLD);
            }
        } else if is_watched {
            text += &format!(
                "qx-node: done in {} in {:.1} s\n",
                vms(done),
                took.as_secs_f64()
            );
        }
        if done < all {
            text += &format!("qx-node: not begun in {}\n", vms(all - done));
        }
        if off > 0 {
            let are = if off == 1 { "is" } else { "are" };
            text += &format!("qx-node: {} {are} off, and left out\n", vms(off));
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

fn vms(count: usize) -> String {
    format!("{count} VM{}", if count == 1 { "" } else { "s" })
}

/// Beside the bar, if there is one.
fn aside(progress: &Progress, text: &[u8], stream: Stream) -> Result<(), Trouble> {
    progress.aside(|| match stream {
        Stream::Out => {
            let mut out = io::stdout().lock();
            out.write_all(text)?;
            out.flush()
        }
        Stream::Err => {
            let _ = io::stderr().write_all(text);
            Ok(())
        }
    })?;
    Ok(())
}

/// How much of it is shown now: up to the end of a line. Our own last words are kept, since they may be why it
/// failed.
fn whole_lines(bytes: &[u8]) -> usize {
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        return if bytes.len() < KEPT { 0 } else { bytes.len() };
    };
    let last = bytes[..end].iter().rposition(|byte| *byte == b'\n');
    let last = last.map_or(0, |at| at + 1);
    match bytes[last..].starts_with(OURS) {
        true => last,
        false => end + 1,
    }
}

fn last_line(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = lines
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    line[..line.len().min(1024)].to_vec()
}

/// What a program printed: a value, or several.
fn result(kept: &Kept) -> Value {
    let values = serde_json::Deserializer::from_slice(&kept.out).into_iter::<Value>();
    let mut values: Vec<Value> = values.map_while(Result::ok).collect();
    match (kept.is_cut, values.len()) {
        (true, _) | (_, 0) => Value::Null,
        (_, 1) => values.remove(0),
        _ => Value::Array(values),
    }
}

/// Our own words, if it was we who failed.
fn why(status: u8, last: &[u8]) -> String {
    let last = plain(String::from_utf8_lossy(last).trim());
    match last.strip_prefix("qx-node: ") {
        Some(why) => why.to_owned(),
        None if status > 128 => format!("ended by signal {}", status - 128),
        None if last.is_empty() => format!("exit status {status}"),
        None => format!("exit status {status}: {last}"),
    }
}
