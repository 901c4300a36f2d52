//! The outbox against a model that is too simple to be wrong: lists, and a look at all of them.

use proptest::collection::vec;
use proptest::prelude::*;

use quantix::ids::MessageId;
use quantix::limits::{CONTROL_BYTES, CONTROL_FRAMES};
use quantix::outbox::{About, Item, Load, Next, Outbox, Taken};

/// A request, by a small number so that operations meet.
type Request = u8;

#[derive(Clone, Debug)]
enum Op {
    /// Several bodies, so that a list of few operations reaches the bound of frames.
    PushControl(Says, Size, usize),
    PushChunk(Request, Size),
    PushFinal(Request, Size),
    SetTelemetry(Size),
    Take(usize),
    Withdraw(Request),
    DropStream(Request),
    KeepRequests,
    Clear,
    /// What was taken from the control lane since the last time goes back.
    PutBack,
    /// Fills the control lane to so many bytes below its bound.
    Fill(usize),
}

#[derive(Clone, Copy, Debug)]
enum Says {
    Request(Request),
    Of(Request),
    Nothing,
}

type Size = usize;

fn op() -> impl Strategy<Value = Op> {
    let request = || 0u8..4;
    let size = || prop_oneof![4 => 4usize..40, 1 => 4usize..130_000];
    let says = prop_oneof![
        request().prop_map(Says::Request),
        request().prop_map(Says::Of),
        Just(Says::Nothing),
    ];
    let times = prop_oneof![8 => Just(1usize), 1 => 100usize..300];
    let taken = prop_oneof![8 => 1usize..3, 1 => 3usize..600];
    prop_oneof![
        8 => (says, size(), times).prop_map(|(says, size, times)| {
            // Many small ones, or one of any size: else the bytes are always at their bound first.
            Op::PushControl(says, if times == 1 { size } else { 4 + size % 40 }, times)
        }),
        5 => (request(), size()).prop_map(|(request, size)| Op::PushChunk(request, size)),
        3 => (request(), size()).prop_map(|(request, size)| Op::PushFinal(request, size)),
        2 => size().prop_map(Op::SetTelemetry),
        6 => taken.prop_map(Op::Take),
        2 => request().prop_map(Op::Withdraw),
        1 => request().prop_map(Op::DropStream),
        1 => Just(Op::KeepRequests),
        1 => Just(Op::Clear),
        2 => Just(Op::PutBack),
        1 => (0usize..20).prop_map(Op::Fill),
    ]
}

fn id(request: Request) -> MessageId {
    MessageId::parse(&format!("request-{request}")).unwrap()
}

impl Says {
    fn about(self) -> About {
        match self {
            Self::Request(request) => About::Request(id(request)),
            Self::Of(request) => About::Of(id(request)),
            Self::Nothing => About::Nothing,
        }
    }
}

/// What the lanes must hold.
#[derive(Default)]
struct Model {
    control: Vec<Item>,
    /// Chunks and the answers behind them, in the order in which they came.
    chunks: Vec<(MessageId, Vec<u8>)>,
    /// When a request last came to the end of the row: the one that waits longest is next.
    turns: Vec<(MessageId, usize)>,
    turn: usize,
    telemetry: Option<Vec<u8>>,
    coalesced: u64,
}

impl Model {
    fn bytes(&self) -> usize {
        self.control.iter().map(|item| item.body.len()).sum()
    }

    fn push_control(&mut self, about: About, body: Vec<u8>) -> bool {
        let fits =
            self.control.len() < CONTROL_FRAMES && self.bytes() + body.len() <= CONTROL_BYTES;
        if fits {
            self.control.push(Item { about, body });
        }
        fits
    }

    fn has_chunks(&self, request: &MessageId) -> bool {
        self.chunks.iter().any(|(id, _)| id == request)
    }

    fn push_chunk(&mut self, request: MessageId, body: Vec<u8>) {
        if !self.has_chunks(&request) {
            self.queue_again(&request);
        }
        self.chunks.push((request, body));
    }

    fn queue_again(&mut self, request: &MessageId) {
        self.turn += 1;
        self.turns.retain(|(id, _)| id != request);
        self.turns.push((request.clone(), self.turn));
    }

    /// Where in `chunks` the next one stands.
    fn next_chunk(&self) -> Option<usize> {
        let waits = self.turns.iter().filter(|(id, _)| self.has_chunks(id));
        let (next, _) = waits.min_by_key(|(_, turn)| *turn)?;
        self.chunks.iter().position(|(id, _)| id == next)
    }

    fn peek(&self) -> Option<Next> {
        if let Some(item) = self.control.first() {
            return Some(Next::Message(item.body.len()));
        }
        let chunk = self.next_chunk().map(|at| self.chunks[at].1.len());
        let report = self.telemetry.as_ref().map(|body| Next::Report(body.len()));
        chunk.map(Next::Message).or(report)
    }

    fn take(&mut self) -> Option<(Option<About>, Vec<u8>)> {
        if !self.control.is_empty() {
            let item = self.control.remove(0);
            return Some((Some(item.about), item.body));
        }
        if let Some(at) = self.next_chunk() {
            let (request, body) = self.chunks.remove(at);
            self.queue_again(&request);
            return Some((None, body));
        }
        self.telemetry.take().map(|body| (None, body))
    }

    /// The order of the requests is theirs; what is said of one that is not kept goes.
    fn keep_requests(&mut self) -> Vec<MessageId> {
        self.chunks.clear();
        self.telemetry = None;
        let mut kept = Vec::new();
        for item in std::mem::take(&mut self.control) {
            match &item.about {
                About::Request(id) => kept.push(id.clone()),
                About::Of(id) if kept.contains(id) => {}
                _ => continue,
            }
            self.control.push(item);
        }
        kept
    }

    fn withdraw(&mut self, request: &MessageId) -> bool {
        let is_request = |item: &Item| item.about == About::Request(request.clone());
        let found = self.control.iter().any(is_request);
        if found {
            let said = About::Of(request.clone());
            self.control
                .retain(|item| !is_request(item) && item.about != said);
        }
        found
    }
}

/// Both, and what the caller holds between them.
#[derive(Default)]
struct Both {
    outbox: Outbox,
    model: Model,
    bodies: u32,
    taken: Vec<Item>,
}

impl Both {
    /// A body like no other.
    fn body(&mut self, size: Size) -> Vec<u8> {
        self.bodies += 1;
        let mut body = self.bodies.to_be_bytes().to_vec();
        body.resize(size.max(4), 0);
        body
    }

    fn push_control(&mut self, about: About, size: Size) {
        let body = self.body(size);
        let taken = self.outbox.push_control(about.clone(), body.clone());
        assert_eq!(taken.is_ok(), self.model.push_control(about, body));
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::PushControl(says, size, times) => {
                for _ in 0..times {
                    self.push_control(says.about(), size);
                }
            }
            Op::PushChunk(request, size) => {
                let body = self.body(size);
                let load = Load::Encoded(body.clone());
                self.outbox.push_chunk(&id(request), load);
                self.model.push_chunk(id(request), body);
            }
            Op::PushFinal(request, size) => {
                let body = self.body(size);
                let taken = self.outbox.push_final(&id(request), body.clone()).is_ok();
                if self.model.has_chunks(&id(request)) {
                    self.model.push_chunk(id(request), body);
                    assert!(taken);
                } else {
                    assert_eq!(taken, self.model.push_control(About::Nothing, body));
                }
            }
            Op::SetTelemetry(size) => {
                let body = self.body(size);
                self.outbox.set_telemetry(body.clone());
                self.model.coalesced += u64::from(self.model.telemetry.replace(body).is_some());
            }
            Op::Take(times) => (0..times).for_each(|_| self.take()),
            Op::Withdraw(request) => {
                let found = self.outbox.withdraw(&id(request));
                assert_eq!(found, self.model.withdraw(&id(request)));
            }
            Op::DropStream(request) => {
                self.outbox.drop_stream(&id(request));
                self.model.chunks.retain(|(other, _)| *other != id(request));
            }
            Op::KeepRequests => {
                let kept = self.outbox.keep_requests();
                assert_eq!(kept, self.model.keep_requests());
            }
            Op::Clear => {
                self.outbox.clear();
                self.model = Model {
                    coalesced: self.model.coalesced,
                    ..Model::default()
                };
            }
            Op::PutBack => {
                let items = std::mem::take(&mut self.taken);
                self.outbox.put_back(items.clone());
                self.model.control.splice(0..0, items);
            }
            Op::Fill(below) => {
                let used = self.model.bytes() + below;
                if used + 4 <= CONTROL_BYTES {
                    self.push_control(About::Nothing, CONTROL_BYTES - used);
                }
            }
        }
        self.compare();
    }

    fn take(&mut self) {
        let expected = self.model.take();
        let found = self.outbox.take().map(|taken| match taken {
            Taken::Control(item) => {
                self.taken.push(item.clone());
                (Some(item.about), item.body)
            }
            Taken::Stream(load) => (None, load.bytes().to_vec()),
            Taken::Report(body) => (None, body),
        });
        assert!(found == expected, "taken {found:?}, not {expected:?}");
    }

    fn compare(&self) {
        let Self { outbox, model, .. } = self;
        assert_eq!(outbox.peek(), model.peek());
        assert_eq!(outbox.is_empty(), model.peek().is_none());
        assert_eq!(outbox.wants_chunk(), model.chunks.is_empty());
        assert_eq!(outbox.coalesced(), model.coalesced);
        // The accounting, to the byte.
        let frames = model.control.len() < CONTROL_FRAMES;
        match CONTROL_BYTES.checked_sub(model.bytes()) {
            Some(free) => {
                assert_eq!(outbox.has_control_room(free), frames);
                assert!(!outbox.has_control_room(free + 1));
            }
            None => assert!(!outbox.has_control_room(0)),
        }
    }
}

proptest! {
    #[test]
    fn an_outbox_does_what_its_model_does(ops in vec(op(), 1..80)) {
        let mut both = Both::default();
        for op in ops {
            both.run(op);
        }
        both.run(Op::Take(10_000));
        prop_assert!(both.outbox.is_empty());
    }
}
