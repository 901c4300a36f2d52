//! What the host asks: judged, written down, and begun.

use quantix::action::Action;
use quantix::error::{Code, Failure};
use quantix::ids::MessageId;
use quantix::message::{Body, agent};
use quantix::time::Time;

use super::Agent;
use crate::freeze;

impl Agent {
    pub(super) fn on_request(
        &mut self,
        now: Time,
        id: &MessageId,
        mut body: Body,
        caller: Option<&agent::Caller>,
    ) {
        let action = Action::of(&body);
        if let Err(failure) = self.judge.judge(now, &action, &mut body) {
            self.audit.denied(id, caller, &action, &failure);
            return self.guest.refuse(id, &failure);
        }
        self.audit.begun(id, caller, &action);
        if let Err(failure) = self.begin(now, id, &body) {
            if failure.code == Code::Internal {
                self.log.error(format_args!("request refused: {failure}"));
            }
            self.guest.refuse(id, &failure);
        }
        self.hold_logs();
    }

    /// Does it, or has it done.
    fn begin(&mut self, now: Time, id: &MessageId, body: &Body) -> Result<(), Failure> {
        let registry = self.poll.registry();
        let freezing = &mut self.freezing;
        match body {
            Body::Freeze(request) => freezing.freeze(now, id.clone(), request, registry),
            Body::Thaw(request) => freezing.thaw(now, id.clone(), request, registry),
            Body::GetFreezeStatus(_) => {
                let report = freezing.report(now);
                self.guest.answer(id, Body::FreezeStatus(report));
                Ok(())
            }
            _ if freezing.is_active() && !freeze::may_pass(body) => Err(freezing.refusal(now)),
            Body::Shutdown(request) => {
                let accepted = self.power.request(request)?;
                self.guest.answer(id, Body::ShutdownResponse(accepted));
                Ok(())
            }
            _ => {
                let policy = self.judge.policy();
                self.jobs.start(now, id.clone(), body, policy, registry)
            }
        }
    }

    /// File systems have become frozen, or are not any more.
    pub(super) fn on_frozen(&mut self, now: Time) {
        let report = self.freezing.report(now);
        match (self.freezing.is_active(), &*report.error) {
            (true, _) => self.log.info(format_args!("file systems are frozen")),
            (false, "") => self.log.info(format_args!("file systems are thawed")),
            (false, why) => self
                .log
                .warning(format_args!("file systems are thawed: {why}")),
        }
        self.hold_logs();
        self.announce_changes();
    }

    fn hold_logs(&mut self) {
        let frozen = self.freezing.is_active();
        self.log.hold(frozen);
        self.audit.hold(frozen);
    }
}
