//! What QEMU is between the daemon and an agent: it serves one client of the VM's socket at a time,
//! keeps what is meant for a guest that has not opened its port, and throws away what a guest
//! writes while no client is there. It can also be told to hold, swallow, cut and inject bytes.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use quantix::rt::sys::socket::set_backlog;

use super::until_so;

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// They are not taken: the sender's socket fills.
    Hold,
    /// They are taken, and lost.
    Swallow,
}

/// One VM's relay. Its threads end when it is dropped.
pub struct Relay(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    to_guest: Mode,
    to_host: Mode,
    guest: Option<UnixStream>,
    host: Option<UnixStream>,
    bytes_to_guest: u64,
    bytes_to_host: u64,
    over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToGuest,
    ToHost,
}

impl Relay {
    /// Serves the VM's socket `host`, and for the agent the socket `guest`.
    pub fn new(host: &Path, guest: &Path) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                to_guest: Mode::Pass,
                to_host: Mode::Pass,
                guest: None,
                host: None,
                bytes_to_guest: 0,
                bytes_to_host: 0,
                over: false,
            }),
            changed: Condvar::new(),
        });
        for (path, way) in [(host, Way::ToGuest), (guest, Way::ToHost)] {
            let listener = super::listen(path);
            listener.set_nonblocking(true).unwrap();
            // As QEMU: one more may wait, and the next one's connect is refused with EAGAIN.
            set_backlog(&listener, 1).unwrap();
            let shared = shared.clone();
            thread::spawn(move || shared.serve(&listener, way));
        }
        Self(shared)
    }

    /// What happens to bytes from now on.
    pub fn set(&self, to_guest: Mode, to_host: Mode) {
        let mut state = self.0.lock();
        (state.to_guest, state.to_host) = (to_guest, to_host);
        self.0.changed.notify_all();
    }

    /// Hangs up on the daemon.
    pub fn cut_host(&self) {
        hang_up(&self.0.lock().host);
    }

    /// Hangs up on the agent.
    pub fn cut_guest(&self) {
        hang_up(&self.0.lock().guest);
    }

    /// Bytes that the agent did not write.
    pub fn inject_to_host(&self, bytes: &[u8]) {
        let state = self.0.lock();
        state.host.as_ref().unwrap().write_all(bytes).unwrap();
    }

    /// Bytes passed on to the guest and to the host.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.bytes_to_guest, state.bytes_to_host)
    }

    #[track_caller]
    pub fn wait_guest(&self, there: bool) {
        until_so("the agent's connection", || {
            self.0.lock().guest.is_some() == there
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.over = true;
        hang_up(&state.host);
        hang_up(&state.guest);
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// One client after the other.
    fn serve(&self, listener: &UnixListener, way: Way) {
        while !self.lock().over {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(std::time::Duration::from_millis(2));
                continue;
            };
            stream.set_nonblocking(false).unwrap();
            {
                let mut state = self.lock();
                *state.end(way) = Some(stream.try_clone().unwrap());
                self.changed.notify_all();
            }
            self.pump(stream, way);
            let mut state = self.lock();
            hang_up(state.end(way));
            *state.end(way) = None;
        }
    }

    /// From one end to the other, until it ends.
    fn pump(&self, mut from: UnixStream, way: Way) {
        let mut buffer = [0; 32 * 1024];
        loop {
            // Not even read while they are held.
            let Some(_) = self.wait(way) else { return };
            let Ok(n @ 1..) = from.read(&mut buffer) else {
                return;
            };
            let Some(to) = self.wait(way) else { return };
            let mut state = self.lock();
            match way {
                Way::ToGuest => state.bytes_to_guest += n as u64,
                Way::ToHost => state.bytes_to_host += n as u64,
            }
            drop(state);
            if let Some(mut to) = to {
                let _ = to.write_all(&buffer[..n]);
            }
        }
    }

    /// Waits until bytes may go this way: where to (`None`: nowhere). `None`: it is over.
    fn wait(&self, way: Way) -> Option<Option<UnixStream>> {
        let mut state = self.lock();
        loop {
            if state.over {
                return None;
            }
            let (mode, to) = match way {
                Way::ToGuest => (state.to_guest, &state.guest),
                Way::ToHost => (state.to_host, &state.host),
            };
            match (mode, to, way) {
                (Mode::Swallow, ..) => return Some(None),
                (Mode::Pass, Some(to), _) => return to.try_clone().ok().map(Some),
                (Mode::Pass, None, Way::ToHost) => return Some(None),
                (Mode::Hold, ..) | (Mode::Pass, None, Way::ToGuest) => {}
            }
            state = self.changed.wait(state).unwrap();
        }
    }
}

impl State {
    /// The end from which bytes come that go this way.
    fn end(&mut self, way: Way) -> &mut Option<UnixStream> {
        match way {
            Way::ToGuest => &mut self.host,
            Way::ToHost => &mut self.guest,
        }
    }
}

fn hang_up(end: &Option<UnixStream>) {
    if let Some(end) = end {
        let _ = end.shutdown(Shutdown::Both);
    }
}
