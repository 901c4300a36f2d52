//! What systemd is told (sd_notify(3)): that we serve, that we stop, that we read our configuration again, and, where
//! it wants to know, that the loop still turns. Without systemd nothing of this happens.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::clock;
use crate::time::Time;

/// Whoever is told.
#[derive(Debug, Default)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants a sign of life, half of what it allows, and when the next is due.
    every: Option<Duration>,
    next: Option<Time>,
}

impl Notify {
    /// Of `$NOTIFY_SOCKET` and `$WATCHDOG_USEC`.
    pub fn from_environment() -> Self {
        let Some(to) = env::var_os("NOTIFY_SOCKET").and_then(|name| connect(name.as_bytes()))
        else {
            return Self::default();
        };
        let text = |name| env::var(name).ok();
        // For us, and not for whoever started us.
        let is_ours = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let micros = text("WATCHDOG_USEC").and_then(|micros| micros.parse::<u64>().ok());
        let every = micros.filter(|micros| is_ours && *micros > 0);
        Self {
            to: Some(to),
            every: every.map(|micros| Duration::from_micros(micros / 2)),
            next: None,
        }
    }

    /// All is set up from now on; and how, in one line for `systemctl status`.
    pub fn ready(&mut self, now: Time, how: &str) {
        self.say(&format!("READY=1\nSTATUS={how}"));
        self.next = self.every.map(|every| now + every);
    }

    /// The configuration is read; [`ready`](Self::ready) says that it has been.
    pub fn reloading(&self) {
        self.say(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}",
            clock::now().micros()
        ));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.say(&format!("STATUS={line}"));
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called.
    pub const fn poll_timeout(&self) -> Option<Time> {
        self.next
    }

    /// Gives a sign of life, if one is due. True: it was.
    pub fn on_timeout(&mut self, now: Time) -> bool {
        let is_due = self.next.is_some_and(|at| at <= now);
        if is_due {
            self.say("WATCHDOG=1");
            self.next = self.every.map(|every| now + every);
        }
        is_due
    }

    fn say(&self, text: &str) {
        if let Some((socket, to)) = &self.to {
            // It does not wait for systemd.
            let _ = socket.send_to_addr(text.as_bytes(), to);
        }
    }
}

fn connect(name: &[u8]) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address.ok()?))
}
