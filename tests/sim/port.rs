//! A model of one virtio-serial port: the host's socket, QEMU, and the guest's two rings, with what
//! they lose when a side comes or goes.

use std::collections::VecDeque;

use super::queue::{Piece, Queue, SOCKET, overhead};

/// Buffers of either ring, and the size of those that the guest receives into.
pub const RING: usize = 128;
pub const BUFFER: usize = 4096;
/// Clients that wait behind the one that QEMU serves; one more is refused.
const BACKLOG: usize = 2;

/// A connection with QEMU's socket, served or waiting.
struct Client {
    id: u64,
    to_guest: Queue,
    to_host: Queue,
}

pub struct Port {
    clients: u64,
    served: Option<Client>,
    waiting: VecDeque<Client>,
    /// QEMU has ended: nobody listens.
    gone: bool,
    running: bool,
    /// A client left while the VM was paused, and QEMU was not told.
    orphaned: bool,
    /// QEMU will not send to this client whatever the guest writes; a disconnect ends it.
    mute: bool,
    /// QEMU waits until the socket is nearly empty.
    throttled: bool,
    open: bool,
    /// What the guest's driver believes. It is told late, so a fast reconnect goes unseen.
    sees_host: bool,
    /// The message that tells it was lost; the next client's arrives.
    blind: bool,
    /// A buffer to the host was sent twice, so that it acknowledges more than it should.
    pub doubled: bool,
    /// To the guest, not yet read by its agent.
    ring: Queue,
    /// From the guest, not yet taken by QEMU.
    vring: Queue,
}

/// A port in a snapshot.
#[derive(Clone)]
pub struct Rings {
    open: bool,
    sees_host: bool,
    ring: Queue,
    vring: Queue,
}

/// What the guest's read(2) gives.
pub enum Read {
    Bytes(Vec<u8>),
    Again,
    /// 0: no host.
    Gone,
}

impl Port {
    pub fn new() -> Self {
        Self {
            clients: 0,
            served: None,
            waiting: VecDeque::new(),
            gone: false,
            running: true,
            orphaned: false,
            mute: false,
            throttled: false,
            open: false,
            sees_host: false,
            blind: false,
            doubled: false,
            ring: Queue::default(),
            vring: Queue::default(),
        }
    }

    // The host's end.

    pub fn connect(&mut self) -> Option<u64> {
        if self.gone || self.waiting.len() >= BACKLOG {
            return None;
        }
        self.clients += 1;
        self.waiting.push_back(Client {
            id: self.clients,
            to_guest: Queue::default(),
            to_host: Queue::default(),
        });
        self.serve();
        Some(self.clients)
    }

    /// The client closes. `reads`: how often QEMU still reads from it before it notices.
    pub fn close(&mut self, id: u64, reads: usize) {
        self.waiting.retain(|c| c.id != id);
        if self.served.as_ref().is_some_and(|c| c.id == id) {
            for _ in 0..reads {
                self.carry_to_guest(BUFFER);
            }
            self.end_service();
        }
    }

    /// QEMU closes the connection that it serves.
    pub fn hang_up(&mut self) {
        self.end_service();
    }

    /// Whether this client is the one that QEMU serves.
    pub fn serves(&self, id: u64) -> bool {
        self.served.as_ref().is_some_and(|client| client.id == id)
    }

    /// Clients ever connected.
    pub const fn connects(&self) -> u64 {
        self.clients
    }

    /// All of `bytes` or nothing, as one write.
    pub fn host_write(&mut self, id: u64, bytes: &[u8]) -> usize {
        let Some(client) = self.client(id) else {
            return bytes.len();
        };
        if !client.to_guest.has_room() {
            return 0;
        }
        client.to_guest.push(Piece {
            bytes: bytes.to_vec(),
            read: 0,
            mark: 0,
        });
        bytes.len()
    }

    /// What has come, `None` for the connection's end.
    pub fn host_read(&mut self, id: u64, most: usize) -> Option<Vec<u8>> {
        let client = self.client(id)?;
        let bytes = client.to_host.read(most);
        if self.throttled
            && self
                .served
                .as_ref()
                .is_none_or(|c| c.to_host.cost < SOCKET / 4)
        {
            self.throttled = false;
        }
        Some(bytes)
    }

    /// As SIOCOUTQ shows it: QEMU has read all that this client sent.
    pub fn is_taken(&mut self, id: u64) -> bool {
        self.client(id).is_none_or(|c| c.to_guest.is_empty())
    }

    // The guest's end.

    pub fn open(&mut self) {
        self.open = true;
    }

    /// The agent is gone. What it had not read is dropped; what it had written still arrives.
    pub fn close_port(&mut self) {
        self.open = false;
        self.ring = Queue::default();
    }

    pub fn guest_read(&mut self, most: usize) -> Read {
        match self.ring.pieces.front() {
            Some(piece) => {
                let rest = piece.bytes.len() - piece.read;
                Read::Bytes(self.ring.read(rest.min(most)))
            }
            None if self.sees_host => Read::Again,
            None => Read::Gone,
        }
    }

    /// All of `bytes` or nothing; what is written to a host that has just gone is dropped.
    /// `mark` is counted by [`in_flight`](Self::in_flight).
    pub fn guest_write(&mut self, bytes: &[u8], mark: u64) -> usize {
        if !self.sees_host || self.vring.pieces.len() >= RING {
            return 0;
        }
        if self.served.is_some() || self.orphaned {
            self.vring.push(Piece {
                bytes: bytes.to_vec(),
                read: 0,
                mark,
            });
        }
        bytes.len()
    }

    /// The agent has bytes to read.
    pub fn has_unread(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Some of what the host wrote has reached the guest's ring, and some waits in the socket.
    pub fn is_carrying(&self) -> bool {
        let waits = self.served.as_ref().is_some_and(|c| !c.to_guest.is_empty());
        waits && self.ring.pieces.len() >= 24
    }

    /// What the guest has written and the host has not read: bytes, and bytes with the cost of each
    /// write. With a mark only what bears it.
    pub fn in_flight(&self, mark: Option<u64>) -> (usize, usize) {
        let socket = self.served.iter().flat_map(|c| &c.to_host.pieces);
        socket
            .chain(&self.vring.pieces)
            .filter(|piece| mark.is_none_or(|mark| mark == piece.mark))
            .fold((0, 0), |(bytes, cost), piece| {
                let left = piece.bytes.len() - piece.read;
                (bytes + left, cost + left + overhead(piece.bytes.len()))
            })
    }

    // QEMU and the VM.

    /// QEMU reads once from the client, `most` bytes. False: nothing moved.
    pub fn carry_to_guest(&mut self, most: usize) -> bool {
        let Some(client) = &mut self.served else {
            return false;
        };
        if !self.running || !self.open || self.ring.pieces.len() >= RING {
            return false;
        }
        let bytes = client.to_guest.read(most.min(BUFFER));
        if bytes.is_empty() {
            return false;
        }
        self.ring.push(Piece {
            bytes,
            read: 0,
            mark: 0,
        });
        true
    }

    /// QEMU passes one of the guest's writes on. False: nothing moved.
    pub fn carry_to_host(&mut self) -> bool {
        if !self.running || self.mute || self.throttled || self.vring.is_empty() {
            return false;
        }
        match &mut self.served {
            Some(client) if client.to_host.has_room() => {
                if let Some(piece) = self.vring.remove(0) {
                    client.to_host.push(piece);
                }
                true
            }
            Some(_) => {
                self.throttled = true;
                false
            }
            None => {
                // The write fails, and the port waits for a room that no later client can make.
                self.mute = self.orphaned;
                false
            }
        }
    }

    pub const fn is_running(&self) -> bool {
        self.running
    }

    pub fn pause(&mut self) {
        self.running = false;
    }

    pub fn resume(&mut self) {
        self.running = true;
    }

    /// The guest's driver learns whether there is a host.
    pub fn inform(&mut self) {
        if self.has_news() {
            self.sees_host = !self.sees_host;
        }
    }

    /// The guest's driver does not know yet that its host has come or gone.
    pub const fn has_news(&self) -> bool {
        let has_host = (self.served.is_some() || self.orphaned) && !self.blind;
        self.running && self.sees_host != has_host
    }

    /// The message that tells the guest of its host is lost.
    pub fn lose_sight(&mut self) {
        self.blind = true;
        self.sees_host = false;
    }

    /// The guest reboots: the connection stays, the rings do not.
    pub fn reset(&mut self) {
        self.close_port();
        self.vring = Queue::default();
    }

    /// What a snapshot keeps of the port: the guest's rings and what its driver believes, and nothing
    /// of the host's socket. `None`: QEMU is throttled in the middle of a buffer, and such a snapshot
    /// would not give a working port (W3).
    pub fn save(&self) -> Option<Rings> {
        (!self.throttled).then(|| Rings {
            open: self.open,
            sees_host: self.sees_host,
            ring: self.ring.clone(),
            vring: self.vring.clone(),
        })
    }

    /// The guest is put back. What it had been sent is read again, what it had written is written
    /// again, with nobody there to a port that then stays mute.
    pub fn load(&mut self, saved: Rings) {
        self.open = saved.open;
        self.sees_host = saved.sees_host;
        self.ring = saved.ring;
        self.vring = saved.vring;
        self.running = true;
        self.throttled = false;
        self.orphaned = false;
        self.mute = self.served.is_none() && !self.vring.is_empty();
        self.doubled = true;
    }

    /// Only another connect makes it work again.
    pub const fn is_sick(&self) -> bool {
        self.mute || self.blind || self.orphaned
    }

    /// One buffer on its way to the guest is lost, and nobody is told.
    pub fn lose_to_guest(&mut self, buffer: usize) {
        self.ring.remove(buffer);
    }

    /// One buffer on its way to the host is lost, or sent twice as after a migration.
    pub fn damage_to_host(&mut self, buffer: usize, twice: bool) {
        let Some(piece) = self.vring.remove(buffer) else {
            return;
        };
        if twice {
            self.doubled = true;
            for _ in 0..2 {
                let (bytes, read) = (piece.bytes.clone(), piece.read);
                let again = Piece {
                    bytes,
                    read,
                    mark: 0,
                };
                self.vring.cost += again.bytes.len() + overhead(again.bytes.len());
                self.vring.pieces.insert(buffer, again);
            }
        }
    }

    /// QEMU ends, and the VM with it.
    pub fn quit(&mut self) {
        *self = Self {
            clients: self.clients,
            gone: true,
            ..Self::new()
        };
    }

    pub const fn is_gone(&self) -> bool {
        self.gone
    }

    /// Another QEMU, another guest.
    pub fn restart(&mut self) {
        self.quit();
        self.gone = false;
    }

    fn client(&mut self, id: u64) -> Option<&mut Client> {
        self.served
            .iter_mut()
            .chain(&mut self.waiting)
            .find(|c| c.id == id)
    }

    fn end_service(&mut self) {
        if self.served.take().is_none() {
            return;
        }
        if self.running {
            self.vring = Queue::default();
            self.mute = false;
            self.throttled = false;
        } else {
            self.orphaned = true;
            self.mute |= self.throttled;
        }
        self.serve();
    }

    fn serve(&mut self) {
        if self.served.is_none()
            && let Some(client) = self.waiting.pop_front()
        {
            self.served = Some(client);
            self.orphaned = false;
            self.blind = false;
        }
    }
}
