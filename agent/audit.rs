//! The guest's own record: who on the host had what done here, and what came of it. A line when it begins and one when it
//! has ended, with the number of the request that the host's audit has, too; one for what the policy forbids.

use std::fmt;
use std::time::Duration;

use quantix::action::{Action, cut};
use quantix::error::Failure;
use quantix::ids::MessageId;
use quantix::message::agent::Caller;
use quantix::rate::Rate;
use quantix::rt::log::{Level, Log, Share, Target};

/// Lines about what is forbidden: so many at once, and another after each pause.
const DENIED: u32 = 100;
/// See [`DENIED`].
const DENIED_EVERY: Duration = Duration::from_secs(1);

/// Bytes of a user's name.
const MAX_USER: usize = 64;

/// The log of it.
pub struct Audit {
    log: Log,
    denied: Share,
    /// What has begun and not ended, with its line: as many as there are requests at once.
    begun: Vec<(MessageId, String)>,
}

impl Audit {
    /// It goes where the agent's log goes.
    pub fn new(target: Target) -> Self {
        let mut log = Log::new("quantix-kvm-agent", target, Level::Info);
        // Two lines a request, and none of a request is to be missed.
        log.set_rate(Rate::new(u32::MAX, Duration::from_micros(1)));
        Self {
            log,
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
        let line = line(id, caller, action);
        self.log.info(format_args!("audit: {line} result=begun"));
        self.begun.push((id.clone(), line));
    }

    /// A request is not allowed.
    pub fn denied(
        &mut self,
        id: &MessageId,
        caller: Option<&Caller>,
        action: &Action,
        why: &Failure,
    ) {
        let line = line(id, caller, action);
        let why = why.code.as_str();
        self.log.about(
            &mut self.denied,
            Level::Warning,
            format_args!("audit: {line} result={why}"),
        );
    }

    /// A request has its answer.
    pub fn ended(&mut self, id: &MessageId, result: impl fmt::Display) {
        if let Some(at) = self.begun.iter().position(|(begun, _)| begun == id) {
            let (_, line) = self.begun.swap_remove(at);
            self.log.info(format_args!("audit: {line} result={result}"));
        }
    }

    /// Nobody is answered any more.
    pub fn session_over(&mut self) {
        for (_, line) in std::mem::take(&mut self.begun) {
            self.log
                .info(format_args!("audit: {line} result=DISCONNECTED"));
        }
    }
}

/// Words of others stand in quotes, so that none of them passes for a word of ours.
fn line(id: &MessageId, caller: Option<&Caller>, action: &Action) -> String {
    let id = id.as_str();
    match caller {
        Some(Caller { uid, user }) => {
            let user = cut(user, MAX_USER);
            format!("uid={uid} user={user:?} request={id:?} {action}")
        }
        None => format!("uid=? user=? request={id:?} {action}"),
    }
}

#[cfg(test)]
mod tests {
    use quantix::message::{Body, agent};

    use super::*;

    #[test]
    fn no_word_of_the_hosts_passes_for_one_of_ours() {
        let id = MessageId::parse("1\" result=ok\n").unwrap();
        let caller = Caller {
            uid: 7,
            user: "a\" uid=0".to_owned() + &"x".repeat(100),
        };
        let action = Action::of(&Body::Execute(agent::Execute {
            command: "x\" result=ok\n".to_owned(),
            ..Default::default()
        }));
        let expected = format!(
            "uid=7 user=\"a\\\" uid=0{}\" request=\"1\\\" result=ok\\n\" action=exec what=\"x\\\" result=ok\\n\"",
            "x".repeat(56)
        );
        assert_eq!(line(&id, Some(&caller), &action), expected);
        assert!(line(&id, None, &action).starts_with("uid=? user=? "));
    }
}
