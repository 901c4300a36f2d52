//! The guest's program: as much of an agent as the channel needs.

use quantix::chunk::Packed;
use quantix::credit::ReceiveCredit;
use quantix::guest::{Event, Guest, Identity, Moment};
use quantix::ids::MessageId;
use quantix::limits::{CHUNK, MAX_WRITE, STREAM_WINDOW};
use quantix::message::{Body, Stream, agent};
use quantix::time::{Time, earliest};

use super::ledger::{answer, chunk};
use super::pair::World;
use super::port::{BUFFER, Read};

#[derive(Clone)]
pub struct Agent {
    pub guest: Guest,
    jobs: Vec<Job>,
    /// A Ping was answered and the host has not gone since.
    may_write: bool,
    /// By the guest's clock, as all that is due.
    pub report: Time,
    /// The mark of this session's bytes.
    session: u64,
    /// Runs again then; not before.
    pub stalled: Time,
    /// Dies of the next request, when it has acted on it and before it writes a byte.
    pub poisoned: bool,
    dying: bool,
    /// Has other work between any two writes.
    pub is_busy: bool,
    /// The last write was full: the frame goes on in the next.
    pub is_mid_frame: bool,
}

#[derive(Clone)]
struct Job {
    id: MessageId,
    due: Time,
    answer: usize,
    stream: u64,
    sent: u64,
    /// Bytes that the host still has to send, and what it may.
    upload: u64,
    credit: ReceiveCredit,
    /// Bytes of it that came and were not taken yet.
    untaken: usize,
}

impl Agent {
    pub fn new(now: Time) -> Self {
        Self {
            guest: Guest::new(Identity::default()),
            jobs: Vec::new(),
            may_write: false,
            report: now,
            session: 0,
            stalled: now,
            poisoned: false,
            dying: false,
            is_busy: false,
            is_mid_frame: false,
        }
    }

    /// Reads from the port and acts on it, and on time. False: there was nothing to do.
    pub fn read(&mut self, world: &mut World) -> bool {
        if !self.runs(world) {
            return false;
        }
        let now = world.guest_now();
        let mut moved = false;
        for _ in 0..world.random.size(64) {
            // Into the frame where it can be, as the agent does.
            let in_place = world.random.percent(50);
            let space = self.guest.space().filter(|_| in_place);
            let room = space.as_ref().map_or(BUFFER, |space| space.len());
            match world.port.guest_read(world.random.size(room.min(BUFFER))) {
                Read::Bytes(bytes) => {
                    moved = true;
                    let random = &mut world.random;
                    let moment = Moment {
                        now,
                        ..Default::default()
                    };
                    let draw = &mut || random.next();
                    if let Some(space) = space {
                        space[..bytes.len()].copy_from_slice(&bytes);
                        self.guest.handle_filled(&moment, bytes.len(), draw);
                    } else {
                        self.guest.handle_bytes(&moment, &bytes, draw);
                    }
                    self.act(world);
                }
                Read::Again => break,
                Read::Gone => {
                    self.guest.handle_host_gone();
                    self.act(world);
                    self.may_write = false;
                    break;
                }
            }
        }
        self.guest.handle_timeout(now);
        self.act(world);
        if self.report <= now {
            self.report = now + world.report_every;
            if self.guest.is_open() {
                world.ledger.reported += 1;
                self.guest.report(agent::Telemetry {
                    process_count: world.ledger.reported,
                    ..Default::default()
                });
            }
            moved = true;
        }
        world.check_held(self.guest.held());
        self.work(now) || moved
    }

    /// Writes what may be written. False: nothing moved.
    pub fn write(&mut self, world: &mut World) -> bool {
        if !self.runs(world) {
            return false;
        }
        let mut moved = false;
        while let Some(bytes) = self.guest.poll_transmit() {
            assert!(self.may_write, "the guest speaks unasked");
            assert!(bytes.len() <= MAX_WRITE);
            let more = bytes.len() == MAX_WRITE;
            let written = world.port.guest_write(bytes, self.session);
            if written == 0 {
                break;
            }
            moved = true;
            self.is_mid_frame = more;
            self.guest.on_written(written);
            self.work(world.guest_now());
            world.check_in_flight(self.session);
            // The loop has other work between two writes.
            if self.is_busy || world.random.percent(20) {
                break;
            }
        }
        moved
    }

    /// When there is something to do without any byte.
    pub fn next(&self, world: &World) -> Option<Time> {
        if self.stalled > world.now {
            return Some(self.stalled);
        }
        let now = world.guest_now();
        let jobs = self.jobs.iter().map(|job| job.due);
        let due = earliest(self.guest.poll_timeout(), Some(self.report));
        let due = earliest(due, jobs.filter(|due| *due > now).min());
        due.map(|own| world.guest_clock.world(own))
    }

    pub const fn is_doomed(&self) -> bool {
        self.dying
    }

    fn runs(&self, world: &World) -> bool {
        world.port.is_running() && self.stalled <= world.now
    }

    fn act(&mut self, world: &mut World) {
        while let Some(event) = self.guest.poll_event() {
            match event {
                Event::Opened => {
                    self.may_write = true;
                    world.marks += 1;
                    self.session = world.marks;
                    world.port.doubled = false;
                    world.note(|| format!("guest: opened {}", world.marks));
                    self.guest.announce(agent::AgentReady::default());
                }
                Event::Ended(why) => {
                    world.note(|| format!("guest: ended, {why}"));
                    self.jobs.clear();
                    if why.starts_with("no Ping") {
                        self.may_write = false;
                    }
                }
                Event::Request(id, Body::WriteFile(write), _) => {
                    world.note(|| format!("guest: executes {id}"));
                    let order = world.ledger.on_executed(&id, &write);
                    self.dying = self.poisoned;
                    self.jobs.push(Job {
                        id,
                        due: world.guest_now() + order.takes,
                        answer: order.answer,
                        stream: order.stream,
                        sent: 0,
                        upload: order.upload,
                        credit: ReceiveCredit::new(STREAM_WINDOW),
                        untaken: 0,
                    });
                }
                Event::Chunk(id, found) => {
                    let job = self.jobs.iter_mut().find(|job| job.id == id);
                    let job = job.unwrap_or_else(|| panic!("{id} sends and does not run"));
                    let (offset, bytes) = (found.head.offset, found.data().len());
                    let taken = job.credit.receive(offset, bytes);
                    assert_eq!(taken, Ok(()), "{id}: {bytes} bytes at {offset}");
                    assert!(found.data().iter().all(|b| *b == offset as u8), "{id}");
                    job.untaken += bytes;
                    assert!(job.untaken as u64 <= STREAM_WINDOW);
                    job.upload = job
                        .upload
                        .checked_sub(bytes as u64)
                        .expect("no more than all");
                    self.guest.recycle(found);
                }
                Event::Answered(..) => {}
                other => panic!("the host sends no {other:?}"),
            }
        }
    }

    /// Sends what is due, as far as there is room for it. True: something was.
    fn work(&mut self, now: Time) -> bool {
        let before = self.jobs.len();
        let mut chunks = 0;
        let guest = &mut self.guest;
        self.jobs.retain_mut(|job| {
            if job.due > now {
                return true;
            }
            job.credit.consume(std::mem::take(&mut job.untaken));
            if job.upload > 0 {
                if let Some(total) = job.credit.grant() {
                    guest.grant(&job.id, Stream::Data, total);
                    chunks += 1;
                }
                return true;
            }
            if job.sent < job.stream {
                if guest.wants_chunk() {
                    let bytes = (job.stream - job.sent).min(CHUNK as u64) as usize;
                    let sent = Packed::of(&job.id, &chunk(job.sent, bytes));
                    guest.send_chunk(&job.id, sent.unwrap());
                    job.sent += bytes as u64;
                    chunks += 1;
                }
                return true;
            }
            if !guest.has_room(job.answer + 256) {
                return true;
            }
            let response = agent::ReadFileResponse {
                data: answer(job.id.as_str(), job.answer),
                ..Default::default()
            };
            guest.answer(&job.id, Body::ReadFileResponse(response));
            false
        });
        // Each stream in its turn.
        if chunks > 0 {
            self.jobs.rotate_left(1);
        }
        chunks > 0 || self.jobs.len() < before
    }
}
