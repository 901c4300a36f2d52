//! Trees on their way to the host, and from it: a child packs or unpacks, the loop passes the archive
//! on as it passes a file's bytes.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mio::{Registry, Token};
use quantix::archive::{self, Decoder};
use quantix::error::{Code, Failure};
use quantix::message::agent::TreeKind;
use quantix::message::{AgentMessage, Body, agent, message};
use quantix::rt::sys::process::{self, Pid};
use quantix::rt::sys::slots::{Consumer, Taken};
use quantix::rt::tree::pack::{Judge, pack, size_of};
use quantix::rt::tree::unpack::{Order, Unpack};

use super::bulk::{Filler, Incoming, Outgoing};
use crate::policy::paths::Paths;

/// Bytes that a response has to say of entries that could not be made; the rest is counted.
const MAX_LINES: usize = 8 * 1024;

/// Starts sending a tree.
pub fn read(
    request: &agent::Tree,
    reads: &Paths,
    slots: usize,
    registry: &Registry,
    token: &dyn Fn(usize) -> Token,
) -> Result<(Pid, Outgoing), Failure> {
    let what = &String::from_utf8_lossy(&request.path);
    Outgoing::start(what, slots, registry, token, &|data| {
        let path = Path::new(OsStr::from_bytes(&request.path));
        // Before anything of it is measured.
        reads.judge_path(path)?;
        let judge = |root: &File| {
            let judged = reads.judge(path, root, Path::new(""));
            judged.map_err(|failure| io::Error::other(failure.message))
        };
        read_tree(request, &judge, data).map_err(|e| Failure::system("send", what, &e))
    })
}

/// Starts making a tree.
pub fn write(
    request: &agent::Tree,
    writes: &Paths,
    slots: usize,
    registry: &Registry,
    token: &dyn Fn(usize) -> Token,
) -> Result<(Pid, Incoming), Failure> {
    let what = &String::from_utf8_lossy(&request.path);
    Incoming::start(what, slots, registry, token, &|feed| {
        write_tree(request, writes, feed)
    })
}

/// In the child.
fn read_tree(request: &agent::Tree, judge: &Judge, mut out: Filler) -> io::Result<AgentMessage> {
    let mut answer = agent::TreeResponse::default();
    let mut bytes = Vec::new();
    let mut emit = |record: agent::TreeRecord| {
        match record.kind() {
            TreeKind::Problem => answer.problems += 1,
            TreeKind::Data | TreeKind::Total | TreeKind::End => {}
            _ => answer.entries += 1,
        }
        if record.kind() != TreeKind::Symlink {
            answer.bytes += record.data.len() as u64;
        }
        bytes.clear();
        match archive::encode(&record, &mut bytes) {
            true => out.write_all(&bytes),
            false => Err(ErrorKind::InvalidData.into()),
        }
    };
    let path = Path::new(OsStr::from_bytes(&request.path));
    if request.measure {
        emit(archive::total(size_of(path)))?;
    }
    pack(path, request.recursive, judge, &mut emit)?;
    emit(archive::end())?;
    out.flush()?;
    Ok(message("", Body::ReadTreeResponse(answer)))
}

/// In the child.
fn write_tree(
    request: &agent::Tree,
    writes: &Paths,
    mut feed: Consumer,
) -> Result<AgentMessage, Failure> {
    let target = Path::new(OsStr::from_bytes(&request.path));
    writes.judge_path(target)?;
    process::set_umask(0o022);
    let mut answer = agent::TreeResponse::default();
    let mut said = 0;
    let mut report = |failure: Failure| {
        answer.problems += 1;
        said += failure.message.len();
        if said <= MAX_LINES {
            answer.lines.push(failure.message);
        }
    };
    let order = Order {
        target: target.to_owned(),
        into: request.into,
        root: None,
        preserve: request.preserve,
        parents: request.create_parents,
    };
    let mut unpack = Unpack::new(order, &mut report)?;
    let (base, name) = unpack.base();
    writes.judge(target, base, Path::new(OsStr::from_bytes(name)))?;
    let mut decoder = Decoder::default();
    // A host that has left leaves an archive without its end, which is told apart there.
    while let Ok(Taken::Slot(slot)) = feed.wait() {
        decoder.extend(slot.data());
        drop(slot);
        let garbled = |_| Failure::new(Code::Invalid, "what came is no archive");
        while let Some(record) = decoder.take().map_err(garbled)? {
            unpack.apply(record)?;
        }
    }
    unpack.finish()?;
    let (entries, bytes) = (unpack.entries, unpack.bytes);
    drop(unpack);
    (answer.entries, answer.bytes) = (entries, bytes);
    Ok(message("", Body::WriteTreeResponse(answer)))
}
