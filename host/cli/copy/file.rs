//! One file between this host and a guest. A target changes in one step or not at all; an interrupted
//! copy is gone, or waits for `--resume`.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use quantix::error::{Code, Failure, system_text};
use quantix::message::{Body, agent};
use quantix::rt::replace::{Replacement, checksum, partial};
use quantix::rt::tree::pack::kind_name;

use super::super::Trouble;
use super::super::client::{Client, unexpected};
use super::How;
use super::progress::Progress;
use super::stream::{Upload, download};

/// Where bytes come from or go to on this side.
pub enum End {
    File(PathBuf),
    /// stdin or stdout.
    Standard,
}

/// Reads a file of the guest; the answer behind its last byte.
pub fn read(
    client: &mut Client,
    vm: &str,
    request: agent::ReadFile,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Trouble>,
) -> Result<agent::ReadFileResponse, Trouble> {
    let (path, offset) = (request.path.clone(), request.offset);
    let asks_for_bytes = !request.checksum;
    let (answer, came) = download(client, vm, Body::ReadFile(request), sink)?;
    let Body::ReadFileResponse(answer) = answer else {
        return Err(unexpected());
    };
    // The guest counts too: fewer bytes than it sent must not pass for the whole file.
    if asks_for_bytes && answer.offset != offset + came {
        return Err(internal(&path, "bytes were lost on the way"));
    }
    Ok(answer)
}

/// From the guest. True: it is a good copy.
pub fn fetch(
    client: &mut Client,
    how: &How,
    vm: &str,
    path: &str,
    target: End,
) -> Result<bool, Trouble> {
    let request = agent::ReadFile {
        path: path.to_owned(),
        special: how.device,
        ..Default::default()
    };
    let answer = match target {
        End::Standard => {
            let mut out = io::stdout().lock();
            let answer = read(client, vm, request, &mut |bytes| {
                out.write_all(bytes).map_err(Trouble::from)
            })?;
            out.flush()?;
            answer
        }
        End::File(target) => fetch_file(client, how, vm, request, into_directory(target, path))?,
    };
    Ok(!answer.changed)
}

fn fetch_file(
    client: &mut Client,
    how: &How,
    vm: &str,
    mut request: agent::ReadFile,
    target: PathBuf,
) -> Result<agent::ReadFileResponse, Trouble> {
    let path = request.path.clone();
    // Through a link to the file it names.
    let target = fs::canonicalize(&target).unwrap_or(target);
    let mut known = None;
    if how.resume {
        let found = resumable(client, vm, &path, &target)?;
        request.offset = found.0;
        known = Some(found.1);
    }
    let progress = Progress::new(|| {
        let known = known.clone().or_else(|| look(client, vm, &path, 0).ok());
        known.map(|known| known.total_size)
    });
    progress.name(path.as_bytes());
    progress.begin_at(request.offset);
    let mut file = Local::new(&target, how.resume.then_some(request.offset))?;
    let answer = read(client, vm, request, &mut |bytes| {
        progress.add(bytes.len());
        file.write(bytes)
    })?;
    let is_other = known.is_some_and(|known| known.modified_at != answer.modified_at);
    if is_other || (answer.changed && answer.size_now < answer.total_size) {
        let why = "changed while it was read; copy it again";
        return Err(internal(&path, why));
    }
    file.finish(how.mode.unwrap_or(answer.mode))?;
    if answer.changed {
        progress.say(&format!(
            "read {}: changed while it was read; copy it again to be sure",
            super::super::render::plain(&path)
        ));
    }
    Ok(answer)
}

/// How many bytes of the target's partial file are the source's first, and what the source is now.
fn resumable(
    client: &mut Client,
    vm: &str,
    path: &str,
    target: &Path,
) -> Result<(u64, agent::ReadFileResponse), Trouble> {
    let system = |e: io::Error| local("read", &partial(target), &e);
    let (sum, have) = match File::open(partial(target)) {
        Ok(file) => checksum(&file, u64::MAX).map_err(system)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => (0, 0),
        Err(e) => return Err(system(e)),
    };
    let source = look(client, vm, path, have)?;
    let is_same = have > 0 && source.offset == have && source.checksum == sum;
    Ok((if is_same { have } else { 0 }, source))
}

/// What a file of the guest is, with the checksum of its first bytes.
fn look(
    client: &mut Client,
    vm: &str,
    path: &str,
    length: u64,
) -> Result<agent::ReadFileResponse, Trouble> {
    let request = agent::ReadFile {
        path: path.to_owned(),
        length,
        checksum: true,
        ..Default::default()
    };
    read(client, vm, request, &mut |_| Ok(()))
}

/// Into the guest. True: it is a good copy.
pub fn put(
    client: &mut Client,
    how: &How,
    source: &End,
    vm: &str,
    path: &str,
) -> Result<bool, Trouble> {
    let mut request = agent::WriteFile {
        path: path.to_owned(),
        mode: how.mode.unwrap_or_default(),
        create_parents: how.parents,
        ..Default::default()
    };
    let End::File(source) = source else {
        if how.resume || how.device {
            let why = "stdin cannot be resumed and is no device";
            return Err(Trouble::Usage(why.to_owned()));
        }
        if path.ends_with('/') {
            let why = format!("{path}: stdin has no name; give the file one");
            return Err(Trouble::Usage(why));
        }
        upload(client, vm, request, &mut io::stdin().lock(), None)?;
        return Ok(true);
    };
    let (mut file, meta) = open(source, how.device)?;
    if meta.is_file() && request.mode == 0 {
        request.mode = meta.mode() & 0o777;
    }
    request.name = source
        .file_name()
        .map(OsString::from)
        .map(|name| name.as_bytes().to_vec())
        .unwrap_or_default();
    if how.resume {
        request.resume = true;
        request.resume_from = taken(client, vm, &request, &file)?;
        let from = SeekFrom::Start(request.resume_from);
        file.seek(from).map_err(|e| local("read", source, &e))?;
    }
    let is_good = upload(client, vm, request, &mut file, Some((source, &meta)))?;
    Ok(is_good)
}

/// Opens a source, and does not wait for a FIFO's writer unless it is meant.
fn open(source: &Path, device: bool) -> Result<(File, Metadata), Trouble> {
    let trouble = |e: io::Error| local("open", source, &e);
    let meta = fs::metadata(source).map_err(trouble)?;
    if meta.is_dir() {
        let why = format!("read {}: Is a directory; copy it with -r", source.display());
        return Err(Trouble::Local(super::super::render::plain(&why)));
    }
    if !meta.is_file() && !device {
        let kind = kind_name(meta.file_type());
        let why = format!("read {}: Is {kind}, not a file", source.display());
        return Err(Trouble::Local(super::super::render::plain(&why)));
    }
    let file = File::open(source).map_err(trouble)?;
    Ok((file, meta))
}

/// How many first bytes of the source the guest has in its partial file.
fn taken(
    client: &mut Client,
    vm: &str,
    request: &agent::WriteFile,
    source: &File,
) -> Result<u64, Trouble> {
    let look = agent::ReadFile {
        path: request.path.clone(),
        name: request.name.clone(),
        checksum: true,
        partial: true,
        ..Default::default()
    };
    let there = match read(client, vm, look, &mut |_| Ok(())) {
        Ok(there) => there,
        Err(Trouble::Failed(failure)) if failure.code == Code::NotFound => return Ok(0),
        Err(trouble) => return Err(trouble),
    };
    let ours = checksum(source, there.total_size)
        .map_err(|e| Trouble::Local(format!("read: {}", system_text(&e))))?;
    let is_same = ours == (there.checksum, there.total_size);
    Ok(if is_same { there.total_size } else { 0 })
}

fn upload(
    client: &mut Client,
    vm: &str,
    request: agent::WriteFile,
    source: &mut dyn Read,
    known: Option<(&Path, &Metadata)>,
) -> Result<bool, Trouble> {
    let progress = Progress::new(|| known.map(|(_, meta)| meta.len()));
    let name = known.map_or(Path::new("stdin"), |(path, _)| path);
    progress.name(name.as_os_str().as_bytes());
    progress.begin_at(request.resume_from);
    let mut upload = Upload::begin(client, vm, Body::WriteFile(request))?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                progress.add(n);
                // The guest's answer says why it takes no more.
                if upload.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(local("read", name, &e)),
        }
    }
    let now = known.and_then(|(path, _)| fs::metadata(path).ok());
    let before = known.map(|(_, meta)| meta).filter(|meta| meta.is_file());
    let of = |meta: &Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec());
    let changed = matches!((&now, before), (Some(now), Some(before)) if of(now) != of(before));
    let shrank = matches!((&now, before), (Some(now), Some(before)) if now.len() < before.len());
    let shown = name.to_string_lossy();
    if shrank && !upload.is_over() {
        return Err(internal(&shown, "changed while it was read; copy it again"));
    }
    match upload.finish()? {
        Body::WriteFileResponse(_) => {}
        _ => return Err(unexpected()),
    }
    if changed {
        let shown = super::super::render::plain(&shown);
        progress.say(&format!(
            "read {shown}: changed while it was read; copy it again to be sure"
        ));
    }
    Ok(!changed)
}

/// A local file that takes its target's place when it is complete, or a device or pipe that is
/// written to as the bytes come.
enum Local {
    Beside(Replacement, PathBuf),
    InPlace(File, PathBuf),
}

impl Local {
    /// With `resume` behind so many bytes of the partial file, which stays until the rest has come.
    fn new(target: &Path, resume: Option<u64>) -> Result<Self, Trouble> {
        let opened = if fs::metadata(target).is_ok_and(|meta| !meta.is_file()) {
            let file = File::options().write(true).open(target);
            file.map(|file| Self::InPlace(file, target.to_owned()))
        } else {
            let new = match resume {
                Some(length) => Replacement::resume(target, length),
                None => Replacement::new(target),
            };
            new.map(|new| Self::Beside(new, target.to_owned()))
        };
        opened.map_err(|e| local("write", target, &e))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        match self {
            Self::Beside(new, target) => new.append(bytes).map_err(|e| local("write", target, &e)),
            Self::InPlace(file, target) => {
                let written = file.write_all(bytes);
                written.map_err(|e| local("write", target, &e))
            }
        }
    }

    /// A new file gets the guest's permissions, without set-id bits.
    fn finish(self, mode: u32) -> Result<(), Trouble> {
        let Self::Beside(mut new, target) = self else {
            return Ok(());
        };
        let before = fs::metadata(&target).ok();
        let placed = new
            .end()
            .and_then(|()| new.place(before.as_ref(), mode & 0o777));
        placed.map_err(|e| local("write", &target, &e))
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

fn internal(path: &str, why: &str) -> Trouble {
    Trouble::Failed(Failure::new(Code::Internal, format!("read {path}: {why}")))
}

fn local(doing: &str, path: &Path, error: &io::Error) -> Trouble {
    let line = Failure::system(doing, &path.to_string_lossy(), error).message;
    Trouble::Local(super::super::render::plain(&line))
}
