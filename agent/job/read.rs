//! A file on its way to the host: a child reads it into slots, which the loop sends as far as the host's
//! credit goes.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use mio::{Registry, Token};
use quantix::error::{Code, Failure};
use quantix::limits::CHUNK;
use quantix::message::{AgentMessage, Body, agent, message};
use quantix::rt::replace::{checksum, partial};
use quantix::rt::sys::process::Pid;
use quantix::rt::tree::pack::kind_name;

use super::bulk::{Filler, Outgoing};
use super::write::resolve;
use crate::policy::Policy;

/// Starts reading the file.
pub fn start(
    request: &agent::ReadFile,
    policy: &Policy,
    slots: usize,
    registry: &Registry,
    token: &dyn Fn(usize) -> Token,
) -> Result<(Pid, Outgoing), Failure> {
    Outgoing::start(&request.path, slots, registry, token, &|data| {
        read_file(request, policy, data)
    })
}

/// In the child.
fn read_file(
    request: &agent::ReadFile,
    policy: &Policy,
    mut data: Filler,
) -> Result<AgentMessage, Failure> {
    let path = &request.path;
    let system = |doing| move |e: io::Error| Failure::system(doing, path, &e);
    let asked = Path::new(path);
    let place = match request.partial {
        true => {
            policy.writes.judge_path(asked)?;
            let partial = partial(&resolve(path, &request.name)?.0);
            policy.writes.hold_name(asked, &partial)?
        }
        false => policy.reads.hold(asked)?,
    };
    // Without O_NONBLOCK the open of a FIFO would wait for a writer.
    let wait = if request.special { 0 } else { libc::O_NONBLOCK };
    let follow = if request.partial { libc::O_NOFOLLOW } else { 0 };
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(wait | follow | libc::O_NOCTTY)
        .open(&place.path)
        .map_err(system("open"))?;
    let meta = file.metadata().map_err(system("stat"))?;
    if !meta.is_file() && (!request.special || meta.is_dir()) {
        let kind = kind_name(meta.file_type());
        let why = format!("read {path}: Is {kind}, not a file");
        return Err(Failure::new(Code::Invalid, why));
    }
    if request.offset > 0 {
        file.seek(SeekFrom::Start(request.offset))
            .map_err(system("seek in"))?;
    }
    if request.checksum {
        let length = if request.partial {
            u64::MAX
        } else {
            request.length
        };
        let (checksum, offset) = checksum(&file, length).map_err(system("read"))?;
        let mut answer = response(&meta);
        (answer.checksum, answer.offset) = (checksum, offset);
        return Ok(message("", Body::ReadFileResponse(answer)));
    }
    let length = if request.length == 0 {
        u64::MAX
    } else {
        request.length
    };
    let chunk = match usize::try_from(request.chunk_size) {
        Ok(wanted @ 1..) => wanted,
        _ => CHUNK,
    };
    let sent = data.copy(&file, length, chunk, !meta.is_file());
    let sent = match sent {
        // The loop has closed its end: nobody wants the rest.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => 0,
        sent => sent.map_err(system("read"))?,
    };
    let end = request.offset.saturating_add(sent);
    let mut answer = response(&meta);
    // Files under /proc have no size.
    answer.eof = sent < length || (meta.len() > 0 && end >= meta.len());
    answer.offset = end;
    if let Ok(now) = file.metadata() {
        let of = |meta: &Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec());
        answer.changed = meta.is_file() && of(&now) != of(&meta);
        answer.size_now = now.len();
    }
    Ok(message("", Body::ReadFileResponse(answer)))
}

fn response(meta: &Metadata) -> agent::ReadFileResponse {
    agent::ReadFileResponse {
        success: true,
        total_size: meta.len(),
        mode: meta.mode() & 0o7777,
        modified_at: Some(agent::Timestamp {
            seconds: meta.mtime(),
            nanos: i32::try_from(meta.mtime_nsec()).unwrap_or(0),
        }),
        ..Default::default()
    }
}
