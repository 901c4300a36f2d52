//! `cp` and `cat`: what is copied where, and how. Bytes are passed on as they come; neither side holds
//! more than a stream's window.

mod file;
pub mod progress;
pub mod stream;
mod tree;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;

use quantix::error::Failure;
use quantix::message::agent;

use super::options::Typed;
use super::{Trouble, client, render, utf8, vm};

pub use file::read;

/// `qx-node cat`
pub fn cat(typed: &Typed) -> Result<u8, Trouble> {
    let (name, words) = vm(typed, 1)?;
    let path = utf8(
        "path",
        words.first().map(OsString::as_os_str).unwrap_or_default(),
    )?;
    let request = agent::ReadFile {
        path: path.to_owned(),
        ..Default::default()
    };
    let mut out = io::stdout().lock();
    file::read(&mut client(typed)?, name, request, &mut |bytes| {
        out.write_all(bytes).map_err(Trouble::from)
    })?;
    out.flush()?;
    Ok(0)
}

/// How to copy.
struct How {
    recursive: bool,
    preserve: bool,
    parents: bool,
    resume: bool,
    device: bool,
    mode: Option<u32>,
}

/// One side of a copy.
enum End<'a> {
    Guest { vm: &'a str, path: &'a str },
    Here(file::End),
}

/// `qx-node cp`
pub fn cp(typed: &Typed) -> Result<u8, Trouble> {
    let usage = |why: &str| Trouble::Usage(why.to_owned());
    let words: Vec<&OsString> = typed
        .words
        .iter()
        .chain(typed.rest.iter().flatten())
        .collect();
    let Some((target, sources @ [_, ..])) = words.split_last() else {
        return Err(usage("takes a source and a target"));
    };
    let how = How {
        recursive: typed.has("recursive"),
        preserve: typed.has("preserve"),
        parents: typed.has("parents"),
        resume: typed.has("resume"),
        device: typed.has("device"),
        mode: mode(typed)?,
    };
    let mut ends = Vec::new();
    for source in sources {
        ends.push(End::parse(source)?);
    }
    let is_tree = how.recursive || how.preserve || ends.len() > 1;
    if is_tree && (how.resume || how.device || how.mode.is_some()) {
        let why = "--resume, --device and --mode are for one file, without -r and -p";
        return Err(usage(why));
    }
    let good = match End::parse(target)? {
        End::Guest { vm, path } => put(typed, &how, ends, vm, path),
        End::Here(target) => fetch(typed, &how, &ends, target),
    };
    good.map(|good| u8::from(!good))
        .map_err(|trouble| match trouble {
            Trouble::Failed(failure) => {
                let message = hinted(&failure.message);
                Trouble::Failed(Failure::new(failure.code, message))
            }
            Trouble::Local(why) => Trouble::Local(hinted(&why)),
            other => other,
        })
}

impl<'a> End<'a> {
    fn parse(word: &'a OsStr) -> Result<Self, Trouble> {
        if word == "-" {
            return Ok(Self::Here(file::End::Standard));
        }
        // As scp has it: a colon behind a slash belongs to a local name.
        let is_remote = word
            .to_string_lossy()
            .split('/')
            .next()
            .is_some_and(|s| s.contains(':'));
        let here = || Self::Here(file::End::File(PathBuf::from(word)));
        if !is_remote {
            return Ok(here());
        }
        Ok(match utf8("path", word)?.split_once(':') {
            Some((vm, path)) => Self::Guest { vm, path },
            None => here(),
        })
    }
}

/// From guests. True: all of it.
fn fetch(typed: &Typed, how: &How, sources: &[End], target: file::End) -> Result<bool, Trouble> {
    let mut from = Vec::new();
    for source in sources {
        match source {
            End::Guest { vm, path } => from.push((*vm, *path)),
            End::Here(_) => {
                let why = "one side is in a guest: VM:PATH";
                return Err(Trouble::Usage(why.to_owned()));
            }
        }
    }
    let mut client = client(typed)?;
    if let file::End::File(_) = target {
        client.stop_on_signals()?;
    }
    if let ([(vm, path)], false) = (&from[..], how.recursive || how.preserve) {
        return file::fetch(&mut client, how, vm, path, target);
    }
    let file::End::File(target) = target else {
        return Err(standard());
    };
    let mut missing = 0;
    for source in &from {
        missing += tree::fetch(&mut client, how, *source, &target, from.len() > 1)?;
    }
    Ok(missing == 0)
}

/// Into a guest. True: all of it.
fn put(typed: &Typed, how: &How, sources: Vec<End>, vm: &str, path: &str) -> Result<bool, Trouble> {
    let mut from = Vec::new();
    for source in sources {
        match source {
            End::Here(source) => from.push(source),
            End::Guest { .. } => {
                let why = "from one guest to another: copy to this host first, or through a pipe";
                return Err(Trouble::Usage(why.to_owned()));
            }
        }
    }
    if let ([source], false) = (&from[..], how.recursive || how.preserve) {
        return file::put(&mut client(typed)?, how, source, vm, path);
    }
    let mut files = Vec::new();
    for source in from {
        match source {
            file::End::File(path) => files.push(path),
            file::End::Standard => return Err(standard()),
        }
    }
    let missing = tree::put(&mut client(typed)?, how, &files, vm, path)?;
    Ok(missing == 0)
}

fn standard() -> Trouble {
    Trouble::Usage("- is one file, without -r and -p".to_owned())
}

/// A line of what failed, with what to do next where that is known. It may hold a guest's words.
fn hinted(line: &str) -> String {
    let next = NEXT
        .iter()
        .find(|(begin, end, _)| line.starts_with(begin) && line.ends_with(end));
    let next = next.map(|(_, _, next)| *next).unwrap_or_default();
    render::plain(line) + next
}

/// How a line begins and ends, and what to do next.
const NEXT: [(&str, &str, &str); 10] = [
    (
        "write",
        "No space left on device",
        "; make room there, or choose another target",
    ),
    (
        "write",
        "Disk quota exceeded",
        "; make room there, or choose another target",
    ),
    (
        "write",
        "Read-only file system",
        "; mount it writable, or choose another target",
    ),
    (
        "write",
        "No such file or directory",
        "; --parents makes missing directories",
    ),
    (
        "write",
        "Is a directory",
        "; give the file a name that is free",
    ),
    (
        "",
        "Not a directory",
        "; a file is in the way: choose another path",
    ),
    ("", "File name too long", "; choose a shorter name"),
    ("read", "Is a directory, not a file", "; copy it with -r"),
    (
        "",
        ", not a file",
        "; --device copies what can be read from it",
    ),
    (
        "",
        "does not know the request",
        "; install the present agent in the guest",
    ),
];

fn mode(typed: &Typed) -> Result<Option<u32>, Trouble> {
    let Some(value) = typed.value("mode") else {
        return Ok(None);
    };
    let parsed = value
        .to_str()
        .and_then(|text| u32::from_str_radix(text, 8).ok());
    match parsed.filter(|mode| (1..=0o7777).contains(mode)) {
        Some(mode) => Ok(Some(mode)),
        None => Err(Trouble::Usage(
            "--mode takes octal digits, as 0644".to_owned(),
        )),
    }
}
