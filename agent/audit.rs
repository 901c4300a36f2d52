//! The guest's own record: who on the host had what done here, and what came of it. A line when it begins and one when it
//! has ended, with the number of the request that the host's audit has, too; one for what the policy forbids.

use std::fmt;
use std::time::Duration;

use quantix::action::{Action, MAX_USER, Record};
use quantix::error::Failure;
use quantix::ids::MessageId;
use quantix::message::agent::Caller;
use quantix::rt::log::{Level, Log, Share, Target};
use quantix::text::cut;

/// Lines about what is forbidden: so many at once, and another after each pause.
const DENIED: u32 = 100;
/// See [`DENIED`].
const DENIED_EVERY: Duration = Duration::from_secs(1);

/// The log of it.
pub struct Audit {
    log: Log,
    denied: Share,
    /// What has begun and not ended, with its line: as many as there are requests at once.
    begun: Vec<(MessageId, Record)>,
}

impl Audit {
    /// It goes where the agent's log goes.
    pub fn new(target: Target) -> Self {
        Self {
            log: Log::of_all("quantix-kvm-agent", target),
            denied: Share::new(DENIED, DENIED_EVERY),
            begun: Vec::new(),
        }
    }

    /// What is frozen takes no line.
    pub fn hold(&mut self, hold: bool) {
        self.log.hold(hold);
    }

    /// A request is allowed, and begins.
    pub fn begun(&mut self, id: &MessageId, caller: Option<&Caller>, action: &Action) {
        if !action.counts {
            return;
        }
        let record = Record::new(who(caller), action, id.as_str());
        self.log.info(format_args!("{}", record.line(&"begun")));
        self.begun.push((id.clone(), record));
    }

    /// A request is not allowed.
    pub fn denied(
        &mut self,
        id: &MessageId,
        caller: Option<&Caller>,
        action: &Action,
        why: &Failure,
    ) {
        let record = Record::new(who(caller), action, id.as_str());
        let line = record.line(&why.code.as_str());
        self.log
            .about(&mut self.denied, Level::Warning, format_args!("{line}"));
    }

    /// A request has its answer.
    pub fn ended(&mut self, id: &MessageId, result: &dyn fmt::Display) {
        if let Some(at) = self.begun.iter().position(|(begun, _)| begun == id) {
            let (_, record) = self.begun.swap_remove(at);
            self.log.info(format_args!("{}", record.line(result)));
        }
    }

    /// Nobody is answered any more.
    pub fn session_over(&mut self) {
        for (_, record) in std::mem::take(&mut self.begun) {
            self.log
                .info(format_args!("{}", record.line(&"DISCONNECTED")));
        }
    }
}

fn who(caller: Option<&Caller>) -> String {
    match caller {
        Some(Caller { uid, user }) => format!("uid={uid} user={:?}", cut(user, MAX_USER)),
        None => "uid=? user=?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_the_hosts_passes_for_a_word_of_ours() {
        let caller = Caller {
            uid: 7,
            user: "a\" uid=0".to_owned() + &"x".repeat(100),
        };
        let expected = format!("uid=7 user=\"a\\\" uid=0{}\"", "x".repeat(56));
        assert_eq!(who(Some(&caller)), expected);
        assert_eq!(who(None), "uid=? user=?");
    }
}
