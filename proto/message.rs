//! The generated message types, and the few helpers that both sides need around them.

use prost::Message;

use crate::ids::MessageId;
use crate::limits::{HEADER, MAX_FRAME, SEAL};

/// Between guest and host: `proto/agent.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod agent {
    include!(concat!(env!("OUT_DIR"), "/quantix.agent.rs"));
}

/// Between client and daemon: `proto/node.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod node {
    include!(concat!(env!("OUT_DIR"), "/quantix.node.rs"));
}

pub use agent::agent_message::Body;
pub use agent::{AgentMessage, Stream};

/// The types of the wire, for those who fill many of them.
pub use agent as wire;

impl std::fmt::Debug for agent::SetPassword {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "SetPassword({}, {:?})", self.username, self.action())
    }
}

/// A message with this body; `id` is empty for what belongs to no request.
pub fn message(id: &str, body: Body) -> AgentMessage {
    AgentMessage {
        message_id: id.to_owned(),
        body: Some(body),
        ..Default::default()
    }
}

/// The encoded message, to which the framing adds length and seal.
///
/// # Errors
/// The message's size in bytes if it does not fit into a frame.
pub fn encode(message: &AgentMessage) -> Result<Vec<u8>, usize> {
    let size = message.encoded_len();
    if size + SEAL > MAX_FRAME {
        return Err(size);
    }
    let mut body = Vec::with_capacity(HEADER + size + SEAL);
    message.encode_raw(&mut body);
    Ok(body)
}

/// The message id of a frame that did not decode as a whole, so that its sender can still be
/// answered: field 1 where it stands first, as every encoder writes it.
pub fn peek_message_id(body: &[u8]) -> Option<MessageId> {
    let (&tag, rest) = body.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let text = rest.get(..usize::from(length))?;
    (tag == 0x0A && length < 0x80)
        .then_some(text)
        .and_then(|text| std::str::from_utf8(text).ok())
        .and_then(MessageId::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let body = Body::SetPassword(agent::SetPassword {
            username: "alice".into(),
            password: "hunter2".into(),
            ..Default::default()
        });
        let shown = format!("{:?}", message("1", body));
        assert!(
            shown.contains("alice") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    #[test]
    fn an_undecodable_request_still_has_an_id() {
        let mut body = encode(&message(
            "abc-1",
            Body::ReadFile(agent::ReadFile {
                path: "/x".into(),
                ..Default::default()
            }),
        ))
        .unwrap();
        let at = body.iter().position(|b| *b == b'/').unwrap();
        body[at] = 0xC3;
        assert!(AgentMessage::decode(&body[..]).is_err());
        assert_eq!(peek_message_id(&body).unwrap().as_str(), "abc-1");
        assert_eq!(peek_message_id(&[]), None);
        assert_eq!(peek_message_id(&[0x0A, 5, b'a']), None);
    }

    #[test]
    fn what_does_not_fit_is_not_encoded() {
        let big = message(
            "a",
            Body::ExecuteResponse(agent::ExecuteResponse {
                stdout: vec![0; MAX_FRAME],
                ..Default::default()
            }),
        );
        assert!(encode(&big).is_err());
    }
}
