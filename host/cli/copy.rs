//! Files between this host and a guest. Bytes are passed on as they come; neither side holds more
//! than a stream's window, and a target changes in one step or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use quantix::credit::{ReceiveCredit, SendCredit};
use quantix::error::{Code, Failure, system_text};
use quantix::limits::CHUNK;
use quantix::message::{Body, Stream, agent};
use quantix::rt::replace::Replacement;

use super::client::{Client, unexpected};
use super::options::Typed;
use super::{Trouble, client, utf8, vm};

/// `qx-node cat`
pub fn cat(typed: &Typed) -> Result<u8, Trouble> {
    let (name, words) = vm(typed, 1)?;
    let path = utf8(
        "path",
        words.first().map(OsString::as_os_str).unwrap_or_default(),
    )?;
    let mut out = io::stdout().lock();
    download(&mut client(typed)?, name, path, &mut |bytes| {
        out.write_all(bytes).map_err(Trouble::from)
    })?;
    out.flush()?;
    Ok(0)
}

/// One side of a copy.
enum End<'a> {
    Guest {
        vm: &'a str,
        path: &'a str,
    },
    File(PathBuf),
    /// stdin or stdout.
    Standard,
}

/// `qx-node cp`
pub fn cp(typed: &Typed) -> Result<u8, Trouble> {
    let [source, target] = &typed.words[..] else {
        return Err(Trouble::Usage("takes a source and a target".to_owned()));
    };
    match (End::parse(source)?, End::parse(target)?) {
        (End::Guest { vm, path }, target) => fetch(typed, vm, path, target),
        (source, End::Guest { vm, path }) => put(typed, source, vm, path),
        _ => {
            let why = "one side is in a guest: VM:PATH";
            Err(Trouble::Usage(why.to_owned()))
        }
    }
}

impl<'a> End<'a> {
    fn parse(word: &'a OsStr) -> Result<Self, Trouble> {
        if word == "-" {
            return Ok(Self::Standard);
        }
        // As scp has it: a colon behind a slash belongs to a local name.
        let is_remote = word
            .to_string_lossy()
            .split('/')
            .next()
            .is_some_and(|s| s.contains(':'));
        if !is_remote {
            return Ok(Self::File(PathBuf::from(word)));
        }
        let text = utf8("path", word)?;
        match text.split_once(':') {
            Some((vm, path)) => Ok(Self::Guest { vm, path }),
            None => Ok(Self::File(PathBuf::from(word))),
        }
    }
}

/// From the guest.
fn fetch(typed: &Typed, vm: &str, path: &str, target: End) -> Result<u8, Trouble> {
    let mut client = client(typed)?;
    match target {
        End::Standard => {
            let mut out = io::stdout().lock();
            download(&mut client, vm, path, &mut |bytes| {
                out.write_all(bytes).map_err(Trouble::from)
            })?;
            out.flush()?;
        }
        End::File(target) => {
            let target = into_directory(target, path);
            let mut file = Local::new(&target)?;
            let answer = download(&mut client, vm, path, &mut |bytes| file.write(bytes))?;
            let mode = mode(typed)?.unwrap_or(answer.mode);
            file.finish(mode)?;
        }
        End::Guest { .. } => {
            let why = "from one guest to another: copy to this host first, or through a pipe";
            return Err(Trouble::Usage(why.to_owned()));
        }
    }
    Ok(0)
}

/// Into the guest.
fn put(typed: &Typed, source: End, vm: &str, path: &str) -> Result<u8, Trouble> {
    let mode = mode(typed)?;
    let (mut file, name, source_mode): (Box<dyn Read>, _, _) = match &source {
        End::Standard => (Box::new(io::stdin().lock()), None, 0),
        End::File(path) => {
            let trouble = |e: io::Error| local("open", path, &e);
            let file = File::open(path).map_err(trouble)?;
            let meta = file.metadata().map_err(trouble)?;
            if meta.is_dir() {
                let why = format!("{}: Is a directory; only files are copied", path.display());
                return Err(Trouble::Local(why));
            }
            let mode = meta.mode() & 0o777;
            (Box::new(file), path.file_name().map(OsStr::to_owned), mode)
        }
        End::Guest { .. } => return Err(unexpected()),
    };
    let mut path = path.to_owned();
    if path.ends_with('/') {
        let name = name.ok_or_else(|| {
            Trouble::Usage(format!("{path}: stdin has no name; give the file one"))
        })?;
        path += utf8("name", &name)?;
    }
    let request = agent::WriteFile {
        path,
        mode: mode.unwrap_or(source_mode),
        create_parents: typed.has("parents"),
        ..Default::default()
    };
    upload(&mut client(typed)?, vm, request, &mut file).map_err(|trouble| match trouble {
        Trouble::Failed(failure) if failure.message.ends_with("Is a directory") => {
            let why = format!("{}; end it with / to copy into it", failure.message);
            Trouble::Failed(Failure::new(failure.code, why))
        }
        other => other,
    })?;
    Ok(0)
}

fn download(
    client: &mut Client,
    vm: &str,
    path: &str,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Trouble>,
) -> Result<agent::ReadFileResponse, Trouble> {
    let id = client.ask_agent(
        vm,
        Body::ReadFile(agent::ReadFile {
            path: path.to_owned(),
            ..Default::default()
        }),
    )?;
    let mut credit = ReceiveCredit::default();
    loop {
        if let Some(bytes) = credit.grant() {
            let stream = Stream::Data.into();
            client.tell_agent(id, vm, Body::Credit(agent::Credit { stream, bytes }))?;
        }
        match client.wait_agent(id)? {
            Body::StreamChunk(chunk) => {
                if credit.receive(chunk.offset, chunk.data.len()).is_err() {
                    return Err(unexpected());
                }
                sink(&chunk.data)?;
                credit.consume(chunk.data.len());
            }
            Body::ReadFileResponse(answer) => {
                // The guest counts too: fewer bytes than it sent must not pass for the whole file.
                if answer.offset != credit.received() {
                    let why = format!("{path}: bytes were lost on the way");
                    return Err(Trouble::Failed(Failure::new(Code::Internal, why)));
                }
                return Ok(answer);
            }
            _ => return Err(unexpected()),
        }
    }
}

fn upload(
    client: &mut Client,
    vm: &str,
    request: agent::WriteFile,
    source: &mut dyn Read,
) -> Result<agent::WriteFileResponse, Trouble> {
    let id = client.ask_agent(vm, Body::WriteFile(request))?;
    let mut credit = SendCredit::default();
    let mut buffer = vec![0; CHUNK];
    let mut ended = false;
    loop {
        while !ended && credit.available() > 0 {
            let room = usize::try_from(credit.available())
                .unwrap_or(CHUNK)
                .min(CHUNK);
            let read = fill(source, &mut buffer[..room])
                .map_err(|e| Trouble::Local(format!("read: {}", system_text(&e))))?;
            ended = read < room;
            let chunk = agent::StreamChunk {
                stream: Stream::Data.into(),
                offset: credit.spend(read),
                data: buffer[..read].to_vec(),
                eof: ended,
                ..Default::default()
            };
            client.tell_agent(id, vm, Body::StreamChunk(chunk))?;
        }
        match client.wait_agent(id)? {
            Body::Credit(more) => credit.allow(more.bytes),
            Body::WriteFileResponse(answer) => return Ok(answer),
            _ => return Err(unexpected()),
        }
    }
}

/// Reads until the buffer is full or the source has ended.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match source.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

/// A local file that takes its target's place when it is complete, or a device or pipe that is
/// written to as the bytes come.
enum Local {
    Beside(Replacement, PathBuf),
    InPlace(File, PathBuf),
}

impl Local {
    fn new(target: &Path) -> Result<Self, Trouble> {
        // Through a link to the file it names.
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        let opened = if fs::metadata(&target).is_ok_and(|meta| !meta.is_file()) {
            let file = File::options().write(true).open(&target);
            file.map(|file| Self::InPlace(file, target.clone()))
        } else {
            Replacement::new(&target).map(|new| Self::Beside(new, target.clone()))
        };
        opened.map_err(|e| local("write", &target, &e))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let (file, target) = match self {
            Self::Beside(new, target) => (new.file(), target),
            Self::InPlace(file, target) => (file, target),
        };
        file.write_all(bytes)
            .map_err(|e| local("write", target, &e))
    }

    /// A new file gets the guest's permissions, without set-id bits.
    fn finish(self, mode: u32) -> Result<(), Trouble> {
        let Self::Beside(new, target) = self else {
            return Ok(());
        };
        let before = fs::metadata(&target).ok();
        new.place(before.as_ref(), mode & 0o777)
            .map_err(|e| local("write", &target, &e))
    }
}

/// A target that is a directory gets the file under its own name.
fn into_directory(target: PathBuf, path: &str) -> PathBuf {
    let name = Path::new(path).file_name().filter(|_| target.is_dir());
    match name {
        Some(name) => target.join(name),
        None => target,
    }
}

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

fn local(doing: &str, path: &Path, error: &io::Error) -> Trouble {
    Trouble::Local(Failure::system(doing, &path.to_string_lossy(), error).message)
}
