//! What an operator does to a guest, a kind of request a file. Each is done in a child of its own, which
//! may block, and answers once.

mod grow;
mod hardware;
mod keys;
mod name;
mod network;
mod packages;
mod password;
mod processes;
mod restored;
mod services;
pub mod setup;
mod storage;
mod time;
mod trim;
pub mod who;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use mio::{Registry, Token};
use quantix::error::{Code, Failure};
use quantix::message::{Body, Stream, message};
use quantix::rt::clock;
use quantix::rt::sys::fd::rest;
use quantix::rt::sys::process::Pid;
use quantix::rt::sys::seccomp::{ALL_BUT_FILES, ALL_BUT_READS, Reach};

use crate::job::{Source, Worker};

/// Starts the child for a request.
///
/// # Errors
/// No process or descriptor is left.
pub fn start(
    request: &Body,
    registry: &Registry,
    token: impl Fn(usize) -> Token,
) -> Result<(Pid, Worker), Failure> {
    let (worker, without) = (("start", "a worker"), without(request));
    if let Body::Trim(request) = request
        && request.progress
    {
        let stream: [&dyn Fn(_) -> Source; 1] = [&|inlet| Source::new(inlet, Stream::Data)];
        return Worker::start(worker, stream, without, registry, token, |[end]| {
            let report = trim::trim(request, Some(&end))?;
            Ok(message("", Body::TrimResponse(report)))
        });
    }
    Worker::start(worker, [], without, registry, token, |[]| {
        Ok(message("", answer(request)?))
    })
}

/// What the child does without. Where it is nothing the guest's own programs are called, which may need anything.
const fn without(request: &Body) -> &'static [Reach] {
    use Reach::{Children, Netlink, Programs, Signals, Sockets, System, Writes};
    match request {
        Body::ListUsers(_)
        | Body::ListProcesses(_)
        | Body::GetStorage(_)
        | Body::GetHardware(_) => ALL_BUT_READS,
        // It asks the kernel by a socket.
        Body::GetNetwork(_) => &[Programs, Children, Sockets, Writes, Signals, System],
        Body::SetPassword(_)
        | Body::AuthorizedKeys(_)
        | Body::SetOnline(_)
        | Body::Grow(_)
        | Body::Trim(_) => ALL_BUT_FILES,
        Body::KillProcess(_) => &[Programs, Children, Sockets, Netlink, Writes, System],
        Body::SyncTime(_) => &[Programs, Children, Sockets, Netlink, Signals],
        Body::SetName(_) => &[Programs, Children, Sockets, Netlink],
        _ => &[],
    }
}

/// In the child.
fn answer(request: &Body) -> Result<Body, Failure> {
    match request {
        Body::SyncTime(request) => time::sync(request).map(Body::SyncTimeResponse),
        Body::SetPassword(request) => password::set(request).map(Body::SetPasswordResponse),
        Body::ListUsers(request) => Ok(Body::UserList(who::list(request))),
        Body::AuthorizedKeys(request) => keys::keys(request).map(Body::AuthorizedKeysResponse),
        Body::GetNetwork(request) => network::report(request).map(Body::Network),
        Body::ConfigureNetwork(request) => {
            setup::configure(request).map(Body::ConfigureNetworkResponse)
        }
        Body::SetName(request) => name::set(request).map(Body::NameReport),
        Body::ListProcesses(request) => processes::list(request).map(Body::ProcessList),
        Body::KillProcess(request) => processes::kill(request).map(Body::KillProcessResponse),
        Body::ListServices(request) => services::list(request).map(Body::ServiceList),
        Body::ServiceControl(request) => {
            services::control(request).map(Body::ServiceControlResponse)
        }
        Body::GetStorage(_) => Ok(Body::Storage(storage::devices(Path::new("/sys")))),
        Body::GetHardware(_) => Ok(Body::Hardware(hardware::report(
            Path::new("/sys"),
            Path::new("/proc"),
        ))),
        Body::SetOnline(request) => {
            hardware::set_online(request, Path::new("/sys")).map(Body::OnlineReport)
        }
        Body::ListPackages(request) => {
            packages::list(request, Path::new("/")).map(Body::PackageList)
        }
        Body::Restored(request) => Ok(Body::RestoredResponse(restored::restored(request))),
        Body::Grow(request) => grow::grow(request).map(Body::GrowResponse),
        Body::Trim(request) => trim::trim(request, None).map(Body::TrimResponse),
        _ => {
            let why = "this agent does not know the request";
            Err(Failure::new(Code::Unsupported, why))
        }
    }
}

/// The bytes of a file that has `limit` at most.
///
/// # Errors
/// As read(2); EFBIG.
fn read_all(file: File, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(bytes)
}

/// A regular file that is not larger; else it is none of those.
fn read_regular(path: &Path, limit: usize) -> Option<Vec<u8>> {
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return None;
    }
    read_all(file, limit).ok()
}

/// Waits until a lock is taken, as long as others may reasonably have it.
///
/// # Errors
/// BUSY; what `take` fails with.
fn take_lock(path: &str, take: &dyn Fn() -> io::Result<bool>) -> Result<(), Failure> {
    let end = clock::now() + Duration::from_secs(10);
    while !take().map_err(|e| Failure::system("lock", path, &e))? {
        if clock::now() >= end {
            let why = format!("{path} is locked by another program; try again later");
            return Err(Failure::new(Code::Busy, why));
        }
        rest(Duration::from_millis(20));
    }
    Ok(())
}

/// Bytes of a list that an answer holds.
const PAGE: usize = 64 * 1024;
