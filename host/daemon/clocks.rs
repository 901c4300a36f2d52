//! Guests that were paused, or put back to a snapshot: where that is wanted, the daemon steps their clock to the
//! host's, and tells one that was put back what it has to know.

use quantix::error::Failure;
use quantix::message::agent::{Restored, SyncTime};
use quantix::message::node::{EventKind, NodeMessage};
use quantix::message::{Body, message};
use quantix::rt::random;
use quantix::time::Time;

use super::broker::{ClientKey, VmKey};
use super::{Daemon, journal};

/// When a guest's clock is set without being asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeSync {
    /// By nobody but its operator, or NTP in the guest.
    #[default]
    Never,
    /// After a pause or a revert, if it is off.
    OnResume,
    /// After a pause; and after a revert with all that `qx-node restored` does.
    Restored,
}

impl TimeSync {
    pub const ALL: [Self; 3] = [Self::Never, Self::OnResume, Self::Restored];

    /// `never`, `on-resume` or `restored`.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|when| when.word() == word)
    }

    /// As [`parse`](Self::parse) takes it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnResume => "on-resume",
            Self::Restored => "restored",
        }
    }
}

/// In place of a client, for what the daemon asks itself: no client has this key.
pub const OWN: ClientKey = ClientKey(0);

/// A clock that is off by less is left to NTP, which does not step it.
const SLACK_MS: i64 = 500;

/// A Pong that took longer tells too little.
const PROMPT_US: u64 = 1_000_000;

/// What has happened to a guest, as far as its clock is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// It stood still.
    Paused,
    /// It was put back.
    Reverted,
}

impl Away {
    /// Nothing, for events of other kinds.
    pub const fn of(kind: EventKind) -> Option<Self> {
        match kind {
            EventKind::GuestReverted => Some(Self::Reverted),
            EventKind::GuestResumed => Some(Self::Paused),
            _ => None,
        }
    }
}

impl Daemon {
    /// A Pong came. Steps the clock of a guest that was away by what it is off.
    pub(super) fn correct_clock(&mut self, now: Time, key: VmKey) {
        let Some(vm) = self.vms.get_mut(&key) else {
            return;
        };
        let Some(away) = vm.away.take_if(|_| vm.round_trip_us <= PROMPT_US) else {
            return;
        };
        let step_ns = vm.skew_ms.saturating_mul(-1_000_000);
        let asked = match (self.config.time_sync, away) {
            (TimeSync::Restored, Away::Reverted) => Body::Restored(Restored {
                step_ns,
                entropy: random::bytes::<64>().to_vec(),
                ..Default::default()
            }),
            (TimeSync::Never, _) => return,
            _ if vm.skew_ms.abs() < SLACK_MS => return,
            _ => Body::SyncTime(SyncTime {
                step_ns,
                ..Default::default()
            }),
        };
        let asked = message("", asked);
        let request = NodeMessage::default();
        self.on_agent_request(now, OWN, key, &request, &asked, None);
    }

    /// The guest has done so, or has not.
    pub(super) fn on_corrected(&mut self, key: VmKey, answer: &Body) {
        let Some(vm) = self.vms.get(&key) else { return };
        let name = vm.name.clone();
        let why = match answer {
            Body::SyncTimeResponse(report) if report.rtc_problem.is_empty() => {
                format!("by {:+} ms", -vm.skew_ms)
            }
            Body::SyncTimeResponse(report) => {
                format!(
                    "by {:+} ms, but its rtc: {}",
                    -vm.skew_ms, report.rtc_problem
                )
            }
            Body::RestoredResponse(report) => {
                let mut failed = report.steps.iter().filter(|step| step.failed);
                match failed.next() {
                    None => format!("by {:+} ms, and all else done", -vm.skew_ms),
                    Some(step) => format!(
                        "by {:+} ms, but {}: {}",
                        -vm.skew_ms, step.name, step.detail
                    ),
                }
            }
            Body::Error(error) => format!("no: {}", Failure::from_wire(error)),
            _ => return,
        };
        let kind = EventKind::ClockCorrected;
        self.log
            .info(format_args!("{name}: {}: {why}", journal::text(kind)));
        self.record(&name, journal::notice(kind, why));
    }
}
