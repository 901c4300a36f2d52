//! Messages on the daemon's control socket, for both benches.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use prost::Message;
use quantix::message::node::{NodeMessage, node_message};

use crate::Outcome;

/// Sends a request.
pub fn send(stream: &mut UnixStream, id: u64, vm: &str, body: node_message::Body) -> Outcome<()> {
    let asked = NodeMessage {
        id,
        vm: vm.to_owned(),
        body: Some(body),
    };
    let mut bytes = u32::try_from(asked.encoded_len())?.to_be_bytes().to_vec();
    asked.encode_raw(&mut bytes);
    Ok(stream.write_all(&bytes)?)
}

/// Waits for the next answer.
pub fn next(stream: &mut UnixStream) -> Outcome<node_message::Body> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body)?;
    let answer = NodeMessage::decode(&body[..])?;
    answer.body.ok_or_else(|| "an empty answer".into())
}
