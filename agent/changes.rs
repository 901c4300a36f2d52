//! When to look again at what the agent says of its guest: the kernel tells of links, addresses, routes and of the
//! host name. Only while a session is open, and however much it tells, once a second.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use quantix::rt::sys::netlink::Listener;
use quantix::time::Time;

/// Changes come in bursts: a link, its address, a route.
const BURST: Duration = Duration::from_millis(100);

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Polled, it tells of a change (proc(5)).
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// What the kernel tells by.
#[derive(Debug)]
pub struct Changes {
    token: Token,
    network: Option<Listener>,
    hostname: Option<File>,
    /// A change was told; until then nothing more is heard.
    look_at: Option<Time>,
    looked: Option<Time>,
}

impl Changes {
    /// Listens to nothing.
    pub const fn new(token: Token) -> Self {
        Self {
            token,
            network: None,
            hostname: None,
            look_at: None,
            looked: None,
        }
    }

    /// A session has begun: whatever changes from now on is told. Without sockets it is only seen with each report.
    pub fn open(&mut self, now: Time, registry: &Registry) {
        self.close(registry);
        self.network = Listener::network().ok();
        self.hostname = File::open(HOSTNAME).ok();
        self.looked = Some(now);
        self.listen(registry);
    }

    /// It has ended.
    pub fn close(&mut self, registry: &Registry) {
        self.rest(registry);
        self.network = None;
        self.hostname = None;
        self.look_at = None;
    }

    /// Something has changed.
    pub fn on_ready(&mut self, now: Time, registry: &Registry) {
        if self.look_at.is_none() && self.network.is_some() {
            self.rest(registry);
            let soon = now + BURST;
            self.look_at = Some(self.looked.map_or(soon, |last| soon.max(last + PAUSE)));
        }
    }

    /// When to call [`on_timeout`](Self::on_timeout).
    pub const fn poll_timeout(&self) -> Option<Time> {
        self.look_at
    }

    /// True: it is time to look.
    pub fn on_timeout(&mut self, now: Time, registry: &Registry) -> bool {
        if self.look_at.is_none_or(|at| at > now) {
            return false;
        }
        self.look_at = None;
        self.looked = Some(now);
        // In this order: what changes behind it is told again.
        if let Some(network) = &mut self.network {
            network.drain();
        }
        self.listen(registry);
        true
    }

    fn listen(&self, registry: &Registry) {
        for (fd, interest) in self.sources() {
            let _ = registry.register(&mut SourceFd(&fd), self.token, interest);
        }
    }

    fn rest(&self, registry: &Registry) {
        for (fd, _) in self.sources() {
            let _ = registry.deregister(&mut SourceFd(&fd));
        }
    }

    fn sources(&self) -> impl Iterator<Item = (RawFd, Interest)> {
        let network = self.network.as_ref().map(AsRawFd::as_raw_fd);
        let hostname = self.hostname.as_ref().map(AsRawFd::as_raw_fd);
        let network = network.map(|fd| (fd, Interest::READABLE));
        let hostname = hostname.map(|fd| (fd, Interest::PRIORITY));
        network.into_iter().chain(hostname)
    }
}
