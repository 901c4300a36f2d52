//! Several streams at once, to a host that takes all it can get.

use std::collections::BTreeMap;
use std::fs::File;

use quantix::message::{Body, agent};

use crate::util::agent::Agent;

#[test]
fn streams_take_turns_however_much_each_may_send() {
    let (agent, mut talk) = Agent::ready();
    let path = agent.dir.text("endless");
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let ids = ["a", "b", "c", "d"];
    for id in ids {
        let read = agent::ReadFile {
            path: path.clone(),
            ..Default::default()
        };
        talk.send(id, Body::ReadFile(read));
        talk.credit(id, 1 << 40);
    }
    // Until each has begun; from then on none waits for another.
    let mut chunks = BTreeMap::new();
    while chunks.len() < ids.len() {
        *chunks.entry(talk.next().message_id).or_insert(0) += 1;
    }
    chunks.values_mut().for_each(|count| *count = 0);
    // A worker may have to wait for a processor, but not for ever.
    while chunks.values().any(|count| *count < 50) {
        let message = talk.next();
        assert!(matches!(message.body, Some(Body::StreamChunk(_))));
        *chunks.get_mut(&message.message_id).unwrap() += 1;
        assert!(chunks.values().all(|count| *count < 1000), "{chunks:?}");
    }
}
