//! What a client asks of the daemon, as the audit and the roles have it. Pure.

use quantix::action::{Action, Outcome, Role};
use quantix::message::AgentMessage;
use quantix::message::node::node_message;

/// Of a request.
pub fn action(body: &node_message::Body) -> Action {
    let view = |word| Action::look(Role::View, word);
    match body {
        node_message::Body::ListVms(_) => view("vms"),
        node_message::Body::PingVm(_) => view("ping"),
        node_message::Body::GetTelemetry(_) => view("telemetry"),
        node_message::Body::GetEvents(_) => view("events"),
        node_message::Body::GetHistory(_) => view("history"),
        node_message::Body::Agent(AgentMessage {
            body: Some(body), ..
        }) => Action::of(body),
        // Answers are none.
        _ => Action::unknown(),
    }
}

/// Of an answer.
pub fn outcome(body: &node_message::Body) -> Outcome {
    match body {
        node_message::Body::Agent(AgentMessage {
            body: Some(body), ..
        }) => Outcome::of(body),
        _ => Outcome::Done,
    }
}
