//! Lists of all VMs. What thousands of guests say of themselves is more than may wait for a client, so a list is
//! made as its client takes it: each VM once, as it is when its turn comes.

use std::ops::Bound;

use prost::Message as _;
use quantix::error::{Code, Failure};
use quantix::message::node::{self, NodeMessage, node_message};
use quantix::time::Time;

use super::Daemon;
use super::broker::ClientKey;

/// Bytes after which a list goes on in another message. One VM has at most 70 KiB, so that a message stays below
/// its limit.
pub const LIST_PART: usize = 64 * 1024;

/// Lists that may wait for one client.
const MAX_LISTS: usize = 16;

/// A list that has not come to its end.
#[derive(Debug)]
pub struct List {
    /// The request.
    id: u64,
    /// It goes on behind this name.
    behind: Option<String>,
}

impl Daemon {
    pub(super) fn list_vms(&mut self, key: ClientKey, request: &NodeMessage) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        if client.lists.len() >= MAX_LISTS {
            let why = format!("{MAX_LISTS} lists are under way: read those first");
            return self.refuse(key, request, &Failure::new(Code::Busy, why));
        }
        client.lists.push_back(List {
            id: request.id,
            behind: None,
        });
        // Its first part is made as all others are.
        self.to_write.insert(key);
    }

    /// The next part of a list, if the client wants one.
    pub(super) fn go_on_listing(&mut self, now: Time, key: ClientKey) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        let Some(list) = client.lists.front_mut() else {
            return;
        };
        let from = match &list.behind {
            Some(name) => Bound::Excluded(&**name),
            None => Bound::Unbounded,
        };
        let (mut vms, mut bytes, mut last) = (Vec::new(), 0, None);
        for (name, vm) in self.names.range::<str, _>((from, Bound::Unbounded)) {
            if self.config.access.role(&client.caller, name).is_none() {
                continue;
            }
            if let Some(vm) = self.vms.get(vm).map(|vm| vm.describe(now)) {
                bytes += vm.encoded_len();
                vms.push(vm);
            }
            if bytes >= LIST_PART {
                last = Some(name.clone());
                break;
            }
        }
        let (id, more) = (list.id, last.is_some());
        match more {
            true => list.behind = last,
            false => drop(client.lists.pop_front()),
        }
        let part = node::VmList { vms, more };
        self.send(key, id, "", node_message::Body::VmList(part));
    }
}
