//! The audit: who had what done to which VM, and what came of it. A line when it begins and one when it has ended,
//! with the same request, which is the guest's number for it; one for what was refused.

use std::fmt;
use std::time::Duration;

use quantix::action::{Action, Record};
use quantix::rt::log::{Level, Log, Share, Target};

use crate::access::Caller;

/// Refused requests: so many at once, and another after each pause. Anybody can have them made.
const REFUSED: u32 = 100;
/// See [`REFUSED`].
const REFUSED_EVERY: Duration = Duration::from_secs(1);

/// The log of it. A private daemon has none: it is its user's own.
pub struct Audit {
    log: Option<Log>,
    refused: Share,
}

impl Audit {
    /// It goes there, whatever else is logged.
    pub fn new(target: Target) -> Self {
        Self {
            log: Some(Log::of_all("qx-node", target)),
            ..Self::none()
        }
    }

    pub fn none() -> Self {
        let refused = Share::new(REFUSED, REFUSED_EVERY);
        Self { log: None, refused }
    }

    fn denied(&mut self, line: fmt::Arguments) {
        if let Some(log) = &mut self.log {
            log.about(&mut self.refused, Level::Warning, line);
        }
    }

    /// A request that changes something goes to its guest, with this number.
    pub fn begun(&mut self, caller: &Caller, vm: &str, action: &Action, request: &str) -> Record {
        let record = Record::new(who(caller, vm), action, request);
        self.ended(&record, &"begun");
        record
    }

    /// It has come to this.
    pub fn ended(&mut self, record: &Record, result: &dyn fmt::Display) {
        if let Some(log) = &mut self.log {
            log.info(format_args!("{}", record.line(result)));
        }
    }

    /// Somebody came who may nothing.
    pub fn refused_entry(&mut self, caller: &Caller) {
        let Caller { uid, pid, user, .. } = caller;
        self.denied(format_args!(
            "audit: uid={uid} user={user:?} pid={pid} action=connect result=DENIED"
        ));
    }

    /// A request was refused.
    pub fn refused(&mut self, caller: &Caller, vm: &str, action: &Action) {
        let record = Record::new(who(caller, vm), action, "");
        self.denied(format_args!("{}", record.line(&"DENIED")));
    }
}

fn who(caller: &Caller, vm: &str) -> String {
    let Caller { uid, pid, user, .. } = caller;
    format!("uid={uid} user={user:?} pid={pid} vm={vm:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_passes_for_a_word_of_ours() {
        let caller = Caller::owner(1000, 7, "al\" uid=0".to_owned());
        let expected = "uid=1000 user=\"al\\\" uid=0\" pid=7 vm=\"a b\"";
        assert_eq!(who(&caller, "a b"), expected);
    }
}
