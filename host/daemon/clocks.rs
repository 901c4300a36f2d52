//! Guests whose clock is behind, since they were paused or put back to a snapshot: where that is wanted, the
//! daemon steps it to the host's.

use quantix::error::Failure;
use quantix::message::agent::SyncTime;
use quantix::message::node::{EventKind, NodeMessage};
use quantix::message::{Body, message};
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
}

impl TimeSync {
    /// `never` or `on-resume`.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "never" => Some(Self::Never),
            "on-resume" => Some(Self::OnResume),
            _ => None,
        }
    }
}

/// In place of a client, for what the daemon asks itself: no client has this key.
pub const OWN: ClientKey = ClientKey(0);

/// A clock that is off by less is left to NTP, which does not step it.
const SLACK_MS: i64 = 500;

/// A Pong that took longer tells too little.
const PROMPT_US: u64 = 1_000_000;

/// Whether a guest's clock may be off after this.
pub const fn may_be_off(kind: EventKind) -> bool {
    matches!(kind, EventKind::GuestReverted | EventKind::GuestResumed)
}

impl Daemon {
    /// A Pong came. Steps the clock of a guest that was away by what it is off.
    pub(super) fn correct_clock(&mut self, now: Time, key: VmKey) {
        let Some(vm) = self.vms.get_mut(&key) else {
            return;
        };
        if !vm.clock_due || vm.round_trip_us > PROMPT_US {
            return;
        }
        vm.clock_due = false;
        if self.time_sync == TimeSync::Never || vm.skew_ms.abs() < SLACK_MS {
            return;
        }
        let step_ns = vm.skew_ms.saturating_mul(-1_000_000);
        let asked = SyncTime {
            step_ns,
            ..Default::default()
        };
        let asked = message("", Body::SyncTime(asked));
        let request = NodeMessage::default();
        self.on_agent_request(now, OWN, key, &request, &asked);
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
            Body::Error(error) => format!("no: {}", Failure::from_wire(error)),
            _ => return,
        };
        let kind = EventKind::ClockCorrected;
        self.log
            .info(format_args!("{name}: {}: {why}", journal::text(kind)));
        self.record(&name, journal::notice(kind, why));
    }
}
