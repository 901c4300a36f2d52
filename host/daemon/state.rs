//! What people are told of a VM's channel, judged in one place from what was seen: the core's
//! phase, our socket as the kernel shows it, who is ahead of us, and QEMU's monitor. Pure.

use std::fmt;

use quantix::host::Phase;
use quantix::message::node::{Behind, VmState};
use quantix::time::Time;

/// The state of a VM's channel, with why it is so.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// The VM had a socket and has none now.
    Absent,
    /// Nothing has accepted our connection yet.
    Connecting { why: String },
    /// QEMU serves another client.
    Queued { behind: Behind, why: &'static str },
    /// Nothing in the guest has taken our Ping.
    Waiting { why: &'static str },
    /// A session is open.
    Ready,
    /// Something in the guest should answer and does not.
    Stalled { why: &'static str },
}

impl State {
    /// As clients are told.
    pub const fn wire(&self) -> VmState {
        match self {
            Self::Absent => VmState::Absent,
            Self::Connecting { .. } => VmState::Connecting,
            Self::Queued { .. } => VmState::Queued,
            Self::Waiting { .. } => VmState::Waiting,
            Self::Ready => VmState::Ready,
            Self::Stalled { .. } => VmState::Stalled,
        }
    }

    /// Why it is so, and what to do about it; empty where there is nothing to say.
    pub fn why(&self) -> &str {
        match self {
            Self::Absent | Self::Ready => "",
            Self::Connecting { why } => why,
            Self::Queued { why, .. } | Self::Waiting { why } | Self::Stalled { why } => why,
        }
    }

    /// Who is ahead of us.
    pub const fn behind(&self) -> Option<&Behind> {
        match self {
            Self::Queued { behind, .. } => Some(behind),
            _ => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&text(self.wire(), self.behind()))
    }
}

/// A state for people, as `queued behind socat, pid 1234`.
pub fn text(state: VmState, behind: Option<&Behind>) -> String {
    match (state, behind) {
        (VmState::Queued, Some(behind)) => queued(behind),
        (state, _) => word(state).to_owned(),
    }
}

/// A state for programs.
pub const fn word(state: VmState) -> &'static str {
    match state {
        VmState::Unspecified => "unknown",
        VmState::Absent => "absent",
        VmState::Connecting => "connecting",
        VmState::Queued => "queued",
        VmState::Waiting => "waiting for agent",
        VmState::Ready => "ready",
        VmState::Stalled => "stalled",
    }
}

fn queued(behind: &Behind) -> String {
    let holder = match behind.pid {
        0 => "another client".to_owned(),
        pid => format!("{}, pid {pid}", behind.command),
    };
    // Who waits in front of us is ahead of us too.
    let others = match behind.position {
        0 => behind.of,
        position => position - 1,
    };
    match others {
        0 => format!("queued behind {holder}"),
        others => format!("queued behind {holder} and {others} more"),
    }
}

/// Our socket, as the kernel shows it.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// There is no connection: why.
    Down(&'a str),
    /// There is none, because the queue of those that want one is full.
    Full,
    /// It waits in the queue.
    Unaccepted,
    /// It is served, or the kernel does not tell.
    Accepted,
}

/// Who is ahead of us in the socket's queue.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// Nobody: QEMU has not got round to us.
    Nobody,
    /// This one is served; `why` says what to do, or why it has no name.
    Ahead { behind: Behind, why: &'static str },
    /// The kernel did not tell.
    Unknown,
}

/// What QEMU's monitor has told; `None` where it has not, or cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The VM runs; it is not paused.
    pub running: Option<bool>,
    /// Something in the guest has the port open.
    pub open: Option<Open>,
}

/// Whether the port is open in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It has been in a VM that runs since then, as far as we know.
    Since(Time),
    /// It was not when we heard of it last, then.
    NotAt(Time),
}

/// All that a state is judged from.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    pub now: Time,
    pub phase: Phase,
    pub seen: Seen<'a>,
    /// `None`: nobody has looked yet.
    pub line: Option<&'a Line>,
    /// Whether our Ping was taken when that was last looked at.
    pub taken: Option<bool>,
    /// The last session or connection was given up because Pings were taken and not answered, and
    /// nothing has been learnt since.
    pub mute: bool,
    /// When the last valid frame came.
    pub heard: Option<Time>,
    pub told: Told,
}

/// The state that follows from the evidence. Where that does not say enough yet it stays as it was.
pub fn judge(evidence: &Evidence, shown: &State) -> State {
    let is_stalled = matches!(shown, State::Stalled { .. });
    match (evidence.phase, evidence.seen) {
        (Phase::Absent, _) => State::Absent,
        // The reconnect is a cure, and no news.
        (_, Seen::Down(_)) if evidence.mute && is_stalled => shown.clone(),
        (_, Seen::Down(_)) if evidence.mute => State::Stalled { why: MUTE },
        (_, Seen::Down(why)) => connecting(why),
        (_, Seen::Full | Seen::Unaccepted) => in_line(evidence, shown),
        (phase, Seen::Accepted) => served(phase, evidence, shown),
    }
}

fn in_line(evidence: &Evidence, shown: &State) -> State {
    let full = matches!(evidence.seen, Seen::Full);
    match evidence.line {
        Some(Line::Ahead { behind, why }) => State::Queued {
            behind: behind.clone(),
            why,
        },
        // It would not be full; who fills it has just come or left.
        Some(Line::Nobody) if full => keep(shown),
        Some(Line::Nobody) => connecting(NOT_ACCEPTED),
        Some(Line::Unknown) if full => State::Queued {
            behind: Behind::default(),
            why: NO_DIAG,
        },
        Some(Line::Unknown) => connecting(NOT_SEEN),
        None => keep(shown),
    }
}

fn served(phase: Phase, evidence: &Evidence, shown: &State) -> State {
    let told = evidence.told;
    // A frame that came after the news was sent by somebody who had opened the port since.
    let is_closed = match told.open {
        Some(Open::NotAt(at)) => phase != Phase::Ready || evidence.heard.is_none_or(|h| h < at),
        _ => false,
    };
    let is_open = matches!(told.open, Some(Open::Since(_)));
    let reads_soon = match told.open {
        Some(Open::Since(at)) => evidence.now.since(at) < OPEN_GRACE,
        _ => false,
    };
    match phase {
        Phase::Ready | Phase::Stalled if told.running == Some(false) => {
            State::Stalled { why: PAUSED }
        }
        _ if told.running == Some(false) => State::Waiting { why: PAUSED },
        _ if is_closed => State::Waiting { why: CLOSED },
        Phase::Ready => State::Ready,
        // The Ping has only just been sent, or the agent has only just been there to read it.
        _ if (evidence.taken.is_none() || reads_soon) && !matches!(shown, State::Ready) => {
            keep(shown)
        }
        Phase::Stalled if evidence.taken == Some(false) => State::Stalled {
            why: if is_open { NOT_READING } else { NOT_TAKING },
        },
        Phase::Stalled => State::Stalled {
            why: if is_open { NOT_ANSWERING } else { MUTE },
        },
        // It has been taken; a guest that was left inside a frame answers after the flush.
        _ if evidence.taken == Some(true) => keep(shown),
        _ if is_open && evidence.taken == Some(false) => State::Stalled { why: NOT_READING },
        _ => State::Waiting { why: NOT_TAKEN },
    }
}

/// What is shown, unless it has certainly ended.
fn keep(shown: &State) -> State {
    match shown {
        State::Absent | State::Ready => connecting(""),
        shown => shown.clone(),
    }
}

fn connecting(why: &str) -> State {
    State::Connecting {
        why: why.to_owned(),
    }
}

/// An agent that has just opened its port, or whose VM has just resumed, reads at once, but not in
/// the same moment.
const OPEN_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

const NOT_ACCEPTED: &str =
    "nothing has accepted our connection yet: QEMU is still starting, or hangs";
const NOT_SEEN: &str =
    "nothing has accepted our connection yet, and who is ahead of us cannot be found out";
const NO_DIAG: &str =
    "the socket's queue is full, and the kernel does not say of whom (CONFIG_UNIX_DIAG)";
const PAUSED: &str = "the VM is paused";
const CLOSED: &str =
    "the guest has not opened the port: is quantix-kvm-agent installed and running there?";
const NOT_TAKEN: &str =
    "nothing in the guest has taken our Ping: is quantix-kvm-agent running there?";
const NOT_TAKING: &str =
    "the guest no longer takes our bytes: is the VM paused, or the agent stopped?";
const NOT_READING: &str = "the agent has the port open and does not read: is it stopped?";
const NOT_ANSWERING: &str = "the agent has the port open and does not answer: is it stopped?";
const MUTE: &str = "the guest takes our bytes and does not answer";

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_micros(100_000_000);

    fn evidence(phase: Phase, seen: Seen<'static>) -> Evidence<'static> {
        Evidence {
            now: NOW,
            phase,
            seen,
            line: None,
            taken: None,
            mute: false,
            heard: None,
            told: Told::default(),
        }
    }

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    fn socat(position: u32, of: u32) -> Behind {
        Behind {
            pid: 1234,
            command: "socat".to_owned(),
            position,
            of,
        }
    }

    #[test]
    fn queues_are_named_once_they_are_known() {
        let begun = connecting("");
        let mut e = evidence(Phase::Waiting, Seen::Unaccepted);
        assert_eq!(judge(&e, &begun), begun);
        let line = Line::Ahead {
            behind: socat(1, 1),
            why: "",
        };
        e.line = Some(&line);
        let state = judge(&e, &begun);
        assert_eq!(state.to_string(), "queued behind socat, pid 1234");
        // The next look-up may take its time.
        e.line = None;
        assert_eq!(judge(&e, &state), state);
        e.line = Some(&Line::Nobody);
        assert_eq!(judge(&e, &state).why(), NOT_ACCEPTED);
        e.seen = Seen::Full;
        assert_eq!(judge(&e, &state), state);
        e.line = Some(&Line::Unknown);
        let unknown = judge(&e, &begun);
        assert_eq!(unknown.to_string(), "queued behind another client");
        assert_eq!(unknown.why(), NO_DIAG);
    }

    #[test]
    fn all_who_are_ahead_are_counted() {
        let text = |behind| queued(&behind);
        assert_eq!(text(socat(1, 2)), "queued behind socat, pid 1234");
        assert_eq!(
            text(socat(2, 2)),
            "queued behind socat, pid 1234 and 1 more"
        );
        assert_eq!(
            text(socat(0, 2)),
            "queued behind socat, pid 1234 and 2 more"
        );
    }

    #[test]
    fn without_a_monitor_the_ping_tells() {
        let begun = connecting("");
        let mut e = evidence(Phase::Waiting, Seen::Accepted);
        assert_eq!(judge(&e, &begun), begun);
        assert_eq!(judge(&e, &State::Ready).why(), NOT_TAKEN);
        // A guest that was left inside a frame has no flush yet.
        e.taken = Some(true);
        assert_eq!(judge(&e, &begun), begun);
        e.taken = Some(false);
        assert_eq!(judge(&e, &begun).to_string(), "waiting for agent");
        e.phase = Phase::Stalled;
        assert_eq!(judge(&e, &begun).why(), NOT_TAKING);
        e.taken = Some(true);
        assert_eq!(judge(&e, &begun).why(), MUTE);
        // The reconnect that may cure it is no news.
        let stalled = State::Stalled { why: MUTE };
        let mut e = evidence(Phase::Connecting, Seen::Down("closed"));
        e.mute = true;
        assert_eq!(judge(&e, &stalled), stalled);
        let more = State::Stalled { why: NOT_ANSWERING };
        assert_eq!(judge(&e, &more), more);
        assert_eq!(judge(&e, &State::Ready), stalled);
        let e = evidence(Phase::Waiting, Seen::Accepted);
        assert_eq!(judge(&e, &stalled), stalled);
    }

    #[test]
    fn what_the_monitor_tells_is_believed() {
        use Phase::{Ready, Stalled, Waiting};
        let judged = |phase, running, open, taken| {
            let mut e = evidence(phase, Seen::Accepted);
            e.taken = Some(taken);
            e.heard = Some(at(95));
            e.told = Told {
                running: Some(running),
                open: Some(open),
            };
            judge(&e, &State::Ready)
        };
        let (open, closed) = (Open::Since(at(90)), Open::NotAt(at(96)));
        let waiting = |why| State::Waiting { why };
        let stalled = |why| State::Stalled { why };
        assert_eq!(judged(Waiting, false, closed, false), waiting(PAUSED));
        assert_eq!(judged(Ready, false, open, false), stalled(PAUSED));
        for phase in [Waiting, Stalled, Ready] {
            assert_eq!(judged(phase, true, closed, false), waiting(CLOSED));
        }
        for phase in [Waiting, Stalled] {
            assert_eq!(judged(phase, true, open, false), stalled(NOT_READING));
        }
        assert_eq!(judged(Stalled, true, open, true), stalled(NOT_ANSWERING));
        // It has spoken since.
        let before = Open::NotAt(at(94));
        assert_eq!(judged(Ready, true, before, false), State::Ready);
    }

    #[test]
    fn an_agent_that_has_only_just_opened_its_port_may_be_about_to_read() {
        let mut e = evidence(Phase::Waiting, Seen::Accepted);
        e.taken = Some(false);
        e.told.open = Some(Open::Since(NOW));
        let waiting = State::Waiting { why: CLOSED };
        assert_eq!(judge(&e, &waiting), waiting);
        e.now = NOW + OPEN_GRACE;
        assert_eq!(judge(&e, &waiting).why(), NOT_READING);
    }
}
