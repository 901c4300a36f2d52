//! The daemon's side towards its clients: taken, read, answered, dropped.

use std::io::{self, Write};

use mio::Interest;
use mio::net::UnixStream;
use quantix::action::Action;
use quantix::error::{Code, Failure};
use quantix::message::node::{NodeMessage, node_message};
use quantix::message::{AgentMessage, Body, message};
use quantix::rt::log::Level;
use quantix::time::Time;

use super::broker::{CallKey, ClientKey};
use super::client::Client;
use super::descriptors::is_short;
use super::{
    ACCEPT_AGAIN, ACCEPTS_A_TURN, CLIENT, Daemon, MAX_CLIENTS, MAX_OF_ONE, actions, callers, token,
};
use crate::access::Caller;
use crate::stream::encode;

impl Daemon {
    /// Adds a client that is already connected.
    ///
    /// # Errors
    /// epoll_ctl(2) refuses it.
    pub fn add_client(&mut self, mut stream: UnixStream, caller: Caller) -> io::Result<()> {
        let key = ClientKey(self.make_key() + CLIENT);
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, token(key.0), both)?;
        self.clients.insert(key, Client::new(stream, caller));
        self.ready_clients.insert(key);
        Ok(())
    }

    pub(super) fn accept(&mut self, now: Time) {
        // Whoever may nothing can come as often as it likes, and is not to keep the loop: on with the others, and back.
        self.accept_at = Some(now);
        for _ in 0..ACCEPTS_A_TURN {
            let Some(listener) = &self.listener else {
                self.accept_at = None;
                return;
            };
            match listener.accept() {
                // Dropping it here disconnects it.
                Ok(_) if self.clients.len() >= MAX_CLIENTS => {
                    let line = format_args!("{MAX_CLIENTS} clients are connected");
                    self.log
                        .about(&mut self.said_of_clients, Level::Warning, line);
                }
                Ok((stream, _)) => {
                    if let Err(e) = self.let_in(stream) {
                        let line = format_args!("client not taken: {e}");
                        self.log
                            .about(&mut self.said_of_clients, Level::Warning, line);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_at = None;
                    return;
                }
                Err(e) => {
                    match is_short(&e) {
                        true => self.warn_of_descriptors(now),
                        false => self.log.about(
                            &mut self.said_of_clients,
                            Level::Warning,
                            format_args!("accept: {e}"),
                        ),
                    }
                    self.accept_at = Some(now + ACCEPT_AGAIN);
                    return;
                }
            }
        }
    }

    /// A client has connected: whoever may nothing is told so and gone, and nobody but the owner takes all places.
    fn let_in(&mut self, mut stream: UnixStream) -> io::Result<()> {
        let caller = callers::of(&stream)?;
        let others = || {
            self.clients
                .values()
                .filter(|client| !client.caller.is_owner())
        };
        let of_one = || others().filter(|client| client.caller.uid == caller.uid);
        let why = if !self.config.access.knows(&caller) {
            self.audit.refused_entry(&caller);
            let why = format!(
                "{} may do nothing here: see node.conf on the host",
                caller.user
            );
            Failure::new(Code::Permission, why)
        } else if !caller.is_owner() && others().count() >= MAX_CLIENTS / 2 {
            Failure::new(
                Code::Busy,
                "too many clients are connected; try again later",
            )
        } else if !caller.is_owner() && of_one().count() >= MAX_OF_ONE {
            let why = format!("{MAX_OF_ONE} clients of {} are connected", caller.user);
            Failure::new(Code::Busy, why)
        } else {
            return self.add_client(stream, caller);
        };
        let error = message("", Body::Error(why.to_wire()));
        let mut out = Vec::new();
        encode(
            &NodeMessage {
                id: 0,
                vm: String::new(),
                body: Some(node_message::Body::Agent(error)),
            },
            &mut out,
        );
        // There is room for it in any socket; whoever has left does not miss it.
        let _ = stream.write(&out);
        Ok(())
    }

    /// Whether a client may have this done. What is refused is in the audit.
    pub(super) fn allow(
        &mut self,
        client: ClientKey,
        vm: &str,
        action: &Action,
    ) -> Result<(), Failure> {
        let Some(client) = self.clients.get(&client) else {
            return Err(Failure::new(Code::Cancelled, "the client has left"));
        };
        let caller = &client.caller;
        let checked = self
            .config
            .access
            .check(caller, vm, action.role, action.word);
        if checked.is_err() {
            self.audit.refused(caller, vm, action);
        }
        checked
    }

    /// Whether a client may see that there is this VM.
    pub(super) fn may_see(&self, client: ClientKey, vm: &str) -> bool {
        let client = self.clients.get(&client);
        client.is_some_and(|client| self.config.access.role(&client.caller, vm).is_some())
    }

    pub(super) fn on_client_ready(&mut self, key: ClientKey, read: bool, write: bool) {
        if let Some(client) = self.clients.get_mut(&key) {
            client.on_ready(read, write);
            if read {
                self.ready_clients.insert(key);
            }
            if write {
                self.to_write.insert(key);
            }
        }
    }

    pub(super) fn read_client(&mut self, now: Time, key: ClientKey) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        match client.read() {
            Ok(messages) => {
                if client.is_readable() {
                    self.ready_clients.insert(key);
                }
                for message in messages {
                    self.on_request(now, key, message);
                }
            }
            Err(why) => self.drop_client(now, key, &why),
        }
    }

    /// Writes what there is, and has the next part of a list made for the next turn.
    pub(super) fn write_client(&mut self, now: Time, key: ClientKey) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        match client.write() {
            Ok(()) if client.wants_list() => self.go_on_listing(now, key),
            Ok(()) => {}
            Err(why) => self.drop_client(now, key, &why),
        }
    }

    /// A client has left: what it asked for is taken back.
    pub(super) fn drop_client(&mut self, now: Time, key: ClientKey, why: &str) {
        self.clients.remove(&key);
        self.ready_clients.remove(&key);
        self.to_write.remove(&key);
        self.journal.forget(key);
        if why != "left" {
            let line = format_args!("client disconnected: {why}");
            self.log
                .about(&mut self.said_of_clients, Level::Warning, line);
        }
        for call in self.broker.of_client(key).collect::<Vec<_>>() {
            self.cancel_in_guest(call);
            if let Some(call) = self.broker.end(call) {
                if let Some(begun) = &call.audited {
                    self.audit.ended(begun, &Code::Cancelled.as_str());
                }
                self.settle(now, call.vm);
            }
        }
    }

    pub(super) fn refuse(&mut self, client: ClientKey, request: &NodeMessage, failure: &Failure) {
        let error = message("", Body::Error(failure.to_wire()));
        let body = node_message::Body::Agent(error);
        self.send(client, request.id, &request.vm, body);
    }

    pub(super) fn fail(&mut self, key: CallKey, failure: &Failure) {
        let error = message("", Body::Error(failure.to_wire()));
        self.finish(key, node_message::Body::Agent(error));
    }

    /// The request's only final answer.
    pub(super) fn finish(&mut self, key: CallKey, body: node_message::Body) {
        if let Some(call) = self.broker.end(key) {
            if let Some(begun) = &call.audited {
                self.audit.ended(begun, &actions::outcome(&body));
            }
            let name = self.vms.get(&call.vm).map(|vm| vm.name.clone());
            self.send(call.client, call.request, &name.unwrap_or_default(), body);
        }
    }

    pub(super) fn pass_on(&mut self, key: CallKey, message: AgentMessage) {
        if let Some(call) = self.broker.get(key) {
            let (client, request) = (call.client, call.request);
            self.send(client, request, "", node_message::Body::Agent(message));
        }
    }

    pub(super) fn send(&mut self, key: ClientKey, id: u64, vm: &str, body: node_message::Body) {
        if let Some(client) = self.clients.get_mut(&key) {
            client.push(&NodeMessage {
                id,
                vm: vm.to_owned(),
                body: Some(body),
            });
            self.to_write.insert(key);
        }
    }
}
