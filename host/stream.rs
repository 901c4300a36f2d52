//! Messages on the control socket: a 4-byte big-endian length, then one NodeMessage. Bytes in and
//! out only; who reads and writes them, and whether it waits, is the caller's business.

use prost::Message;
use quantix::message::node::NodeMessage;
use quantix::wipe::wipe;

/// Longest message in bytes: a frame of the channel with room for its envelope.
pub const MAX_MESSAGE: usize = 192 * 1024;

const HEADER: usize = 4;

/// What has arrived and was not yet taken.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    at: usize,
}

/// The other side does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbled;

impl Inbox {
    /// Adds bytes that were read.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.shrink_to(64 * 1024);
        } else if self.at > MAX_MESSAGE {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// A length of 0 or over the limit, or a message that does not decode.
    pub fn next(&mut self) -> Result<Option<NodeMessage>, Garbled> {
        let rest = &self.bytes[self.at..];
        let Some((length, rest)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 || length > MAX_MESSAGE {
            return Err(Garbled);
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = NodeMessage::decode(body).map_err(|_| Garbled)?;
        self.at += HEADER + length;
        if self.at == self.bytes.len() {
            wipe(&mut self.bytes);
            self.bytes.clear();
            self.at = 0;
        }
        Ok(Some(message))
    }
}

/// The message as it goes onto the socket.
pub fn encode(message: &NodeMessage, out: &mut Vec<u8>) {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    message.encode_raw(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_split_and_garbage_is_refused() {
        let message = NodeMessage {
            id: 7,
            vm: "web1".into(),
            body: None,
        };
        let mut wire = Vec::new();
        encode(&message, &mut wire);
        encode(&message, &mut wire);
        let mut inbox = Inbox::default();
        let mut found = Vec::new();
        for byte in wire {
            inbox.extend(&[byte]);
            found.extend(inbox.next().unwrap());
        }
        assert_eq!(found, [message.clone(), message]);
        for bad in [&[0u8, 0, 0, 0][..], b"GET / HTTP/1.1\r\n"] {
            let mut inbox = Inbox::default();
            inbox.extend(bad);
            assert_eq!(inbox.next(), Err(Garbled));
        }
    }
}
