//! The answer of a child that has one: an envelope through a pipe of its own.

use std::fs::File;
use std::io::Write as _;

use prost::Message;
use quantix::error::{Code, Failure};
use quantix::limits::MAX_FRAME;
use quantix::message::{AgentMessage, Body, message};
use quantix::rt::sys::process::Ended;

use super::pipe::Inlet;

/// What a child has to say at its end, through a pipe of its own.
#[derive(Debug)]
pub struct Answer {
    inlet: Inlet,
    bytes: Vec<u8>,
}

impl Answer {
    pub const fn new(inlet: Inlet) -> Self {
        Self {
            inlet,
            bytes: Vec::new(),
        }
    }

    pub const fn on_ready(&mut self) {
        self.inlet.on_ready();
    }

    pub fn gather(&mut self) {
        if self.inlet.is_ready() {
            self.inlet.read_into(&mut self.bytes, MAX_FRAME);
        }
    }

    /// The child has ended, and what it said is not a success.
    pub fn is_failure(&mut self) -> bool {
        self.on_ready();
        self.gather();
        !matches!(
            AgentMessage::decode(&self.bytes[..]).map(|answer| answer.body),
            Ok(Some(body)) if !matches!(body, Body::Error(_))
        )
    }

    /// The child has ended: its answer, or why there is none.
    pub fn take(&mut self, ended: Ended) -> Result<Body, Failure> {
        self.inlet.on_ready();
        self.gather();
        match AgentMessage::decode(&self.bytes[..]).map(|answer| answer.body) {
            Ok(Some(Body::Error(error))) => Err(Failure::from_wire(&error)),
            Ok(Some(body)) => Ok(body),
            _ => {
                let why = match ended {
                    Ended::Exited(status) => format!("the worker ended with status {status}"),
                    Ended::Signalled(signal) => format!("the worker was ended by signal {signal}"),
                };
                Err(Failure::new(Code::Internal, why))
            }
        }
    }
}

/// In a child: writes its answer and returns its exit status.
pub fn report(mut pipe: &File, outcome: Result<AgentMessage, Failure>) -> i32 {
    let answer = outcome.unwrap_or_else(|failure| message("", Body::Error(failure.to_wire())));
    i32::from(pipe.write_all(&answer.encode_to_vec()).is_err())
}
