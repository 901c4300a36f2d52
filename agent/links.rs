//! Interfaces and addresses, asked of the kernel in a child: its answer waits for a lock that whoever makes or
//! ends interfaces by the hundred has for seconds (`rtnl_lock`, net/core/rtnetlink.c).

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use mio::{Registry, Token};
use prost::Message;
use quantix::message::agent::{AgentReady, Interface, Telemetry};
use quantix::rt::route::Network;
use quantix::time::Time;

use crate::network::Primary;
use crate::probe::Probe;
use crate::telemetry::network::{addresses, interfaces};

/// A report waits for it no longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a child may send: 64 interfaces with 32 addresses each, and 64 addresses more.
const MAX_BYTES: usize = 256 * 1024;

/// What was seen last.
#[derive(Debug)]
pub struct Links {
    token: Token,
    looking: Option<Looking>,
    known: Known,
}

#[derive(Debug)]
struct Looking {
    probe: Probe,
    /// A report still waits for it.
    is_waited_for: bool,
    /// Something has changed since it began.
    again: bool,
}

/// As it is sent.
#[derive(Debug, Default)]
pub struct Known {
    pub interfaces: Vec<Interface>,
    pub addresses: Vec<String>,
    pub primary: String,
}

impl Links {
    /// Nothing seen yet.
    pub fn new(token: Token) -> Self {
        Self {
            token,
            looking: None,
            known: Known::default(),
        }
    }

    /// Begins to look, unless a look is under way.
    pub fn begin(&mut self, now: Time, registry: &Registry) {
        if self.looking.is_none() {
            let probe = Probe::start(now, PATIENCE, registry, self.token, look);
            self.looking = probe.ok().map(|probe| Looking {
                probe,
                is_waited_for: true,
                again: false,
            });
        }
    }

    /// Something has changed: a look that is under way may not have seen it.
    pub fn on_change(&mut self, now: Time, registry: &Registry) {
        match &mut self.looking {
            Some(looking) => looking.again = true,
            None => self.begin(now, registry),
        }
    }

    /// A look is under way that is worth waiting for.
    pub fn is_pending(&self) -> bool {
        self.looking
            .as_ref()
            .is_some_and(|looking| looking.is_waited_for)
    }

    /// An event came for the token. True: something was seen.
    pub fn on_ready(&mut self, now: Time, registry: &Registry) -> bool {
        let Some(looking) = self
            .looking
            .take_if(|looking| looking.probe.on_ready(MAX_BYTES))
        else {
            return false;
        };
        if let Some(known) = decode(&looking.probe.bytes) {
            self.known = known;
        }
        if looking.again {
            self.begin(now, registry);
        }
        true
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        let looking = self
            .looking
            .as_ref()
            .filter(|looking| looking.is_waited_for)?;
        Some(looking.probe.deadline)
    }

    /// True: a report does not wait for it any more. The child does, and what it sees counts.
    pub fn on_timeout(&mut self, now: Time) -> bool {
        match &mut self.looking {
            Some(looking) if looking.is_waited_for && looking.probe.deadline <= now => {
                looking.is_waited_for = false;
                true
            }
            _ => false,
        }
    }

    /// What was seen last.
    pub const fn known(&self) -> &Known {
        &self.known
    }
}

/// In the child.
fn look(mut pipe: &File) -> i32 {
    let Ok(network) = Network::read() else {
        return 1;
    };
    let primary = Primary::of(&network).any;
    let ready = AgentReady {
        ip_addresses: addresses(&network),
        primary_address: primary.map_or(String::new(), |of| of.ip.to_string()),
        ..Default::default()
    };
    let report = Telemetry {
        interfaces: interfaces(&network),
        ..Default::default()
    };
    let mut bytes = ready.encode_length_delimited_to_vec();
    bytes.extend(report.encode_length_delimited_to_vec());
    i32::from(pipe.write_all(&bytes).is_err())
}

/// Nothing, of a child that was killed or saw nothing.
fn decode(mut bytes: &[u8]) -> Option<Known> {
    let ready = AgentReady::decode_length_delimited(&mut bytes).ok()?;
    let report = Telemetry::decode_length_delimited(&mut bytes).ok()?;
    Some(Known {
        interfaces: report.interfaces,
        addresses: ready.ip_addresses,
        primary: ready.primary_address,
    })
}
