//! What an operator does to a guest, a kind of request a file. Each is done in a child of its own, which
//! may block, and answers once.

mod processes;
mod services;
mod time;

use mio::{Registry, Token};
use quantix::error::{Code, Failure};
use quantix::message::{Body, message};
use quantix::rt::sys::process::Pid;

use crate::job::Worker;

/// Starts the child for a request.
///
/// # Errors
/// No process or descriptor is left.
pub fn start(
    request: &Body,
    registry: &Registry,
    token: impl Fn(usize) -> Token,
) -> Result<(Pid, Worker), Failure> {
    Worker::start(("start", "a worker"), [], registry, token, |[]| {
        Ok(message("", answer(request)?))
    })
}

/// In the child.
fn answer(request: &Body) -> Result<Body, Failure> {
    match request {
        Body::SyncTime(request) => time::sync(request).map(Body::SyncTimeResponse),
        Body::ListProcesses(request) => processes::list(request).map(Body::ProcessList),
        Body::KillProcess(request) => processes::kill(request).map(Body::KillProcessResponse),
        Body::ListServices(request) => services::list(request).map(Body::ServiceList),
        Body::ServiceControl(request) => {
            services::control(request).map(Body::ServiceControlResponse)
        }
        _ => {
            let why = "this agent does not know the request";
            Err(Failure::new(Code::Unsupported, why))
        }
    }
}
