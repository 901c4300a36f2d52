//! What one side writes, read before anything happens to it: messages and idle bytes alone, numbered
//! by one from 1 in each session, and never two sessions mixed.

use std::collections::{BTreeSet, VecDeque};

use prost::Message;
use quantix::message::{AgentMessage, Body};

use super::super::naive::{Naive, seal};

pub struct Written {
    naive: Naive,
    is_guest: bool,
    session: Option<u64>,
    number: u64,
    /// The sessions that were opened and of which no frame was written yet: one may end before its first frame is.
    next: VecDeque<u64>,
    former: BTreeSet<u64>,
    /// The last session was left inside a frame, which idle bytes have to fill.
    cut: bool,
    pub total: u64,
}

impl Written {
    pub fn new(is_guest: bool) -> Self {
        Self {
            naive: Naive::default(),
            is_guest,
            session: None,
            number: 0,
            next: VecDeque::new(),
            former: BTreeSet::new(),
            cut: false,
            total: 0,
        }
    }

    /// A host's new connection: another stream.
    pub fn reset(&mut self) {
        *self = Self {
            former: std::mem::take(&mut self.former),
            total: self.total,
            ..Self::new(self.is_guest)
        };
    }

    /// The host has this session now.
    pub fn open(&mut self, session: u64) {
        assert!(self.former.insert(session), "a session is opened again");
        self.next.push_back(session);
    }

    /// The guest has a session, whose Pong comes now; what it left unfinished it will not finish.
    pub fn restart(&mut self) {
        self.cut = self.naive.is_cut();
        self.session = None;
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        self.naive.feed(bytes);
        while let Some(body) = self.naive.next() {
            self.judge(&body);
        }
        assert!(
            self.cut || self.naive.garbage == 0,
            "no side writes garbage"
        );
    }

    /// What was written ends with a frame's end.
    pub fn is_whole(&self) -> bool {
        !self.naive.is_cut()
    }

    fn judge(&mut self, body: &[u8]) {
        let message = AgentMessage::decode(body).ok().and_then(|m| m.body);
        let seal = seal(body);
        // What was cut may have its seal's beginning.
        if self.cut && !matches!((seal, &message), (None, Some(Body::Pong(_)))) {
            return;
        }
        let Some((session, number)) = seal else {
            return match message {
                Some(Body::Ping(_)) if !self.is_guest => {}
                Some(Body::Pong(pong)) if self.is_guest => {
                    self.open(pong.session);
                    self.cut = false;
                    self.naive.garbage = 0;
                }
                other => panic!("a frame without a seal: {other:?}"),
            };
        };
        if let Some(at) = self.next.iter().position(|next| *next == session) {
            self.next.drain(..=at);
            self.session = Some(session);
            self.number = 0;
        }
        assert_eq!(
            self.session,
            Some(session),
            "a frame of no session that is open"
        );
        assert_eq!(number, self.number + 1, "frames number up by one");
        self.number = number;
        let message = message.expect("a sealed frame is a message");
        assert!(!matches!(message, Body::Ping(_)), "a Ping needs no seal");
        if let Body::SessionEnded(_) = message {
            self.session = None;
        }
    }
}
