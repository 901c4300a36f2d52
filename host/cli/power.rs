//! `qx-node shutdown`, `reboot`, `suspend`.

use std::time::Duration;

use quantix::error::{Code, Failure};
use quantix::message::Body;
use quantix::message::agent::{PowerAction, Shutdown};
use quantix::message::node::{self, Vm, VmState, node_message};
use quantix::rt::clock;
use serde_json::json;

use super::client::{Client, unexpected};
use super::options::Typed;
use super::render::{plain, span};
use super::run::{look, print_json};
use super::{Trouble, client, print, utf8, vm};
use crate::daemon::state_word;

/// `qx-node shutdown`
pub fn shutdown(typed: &Typed) -> Result<u8, Trouble> {
    let action = match typed.has("halt") {
        true => PowerAction::Halt,
        false => PowerAction::PowerOff,
    };
    run(typed, action)
}

/// `qx-node reboot`
pub fn reboot(typed: &Typed) -> Result<u8, Trouble> {
    run(typed, PowerAction::Reboot)
}

/// `qx-node suspend`
pub fn suspend(typed: &Typed) -> Result<u8, Trouble> {
    let action = match typed.has("disk") {
        true => PowerAction::SuspendToDisk,
        false => PowerAction::SuspendToRam,
    };
    run(typed, action)
}

const PATIENCE: u32 = 120;

fn run(typed: &Typed, action: PowerAction) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let number = |long| typed.number(long).map_err(Trouble::Usage);
    let delay = number("delay")?.unwrap_or(0);
    let patience = Duration::from_secs(number("timeout")?.unwrap_or(PATIENCE).into());
    let message = typed.value("message").map(|text| utf8("--message", text));
    let request = Shutdown {
        r#type: action.into(),
        delay_seconds: delay,
        message: message.transpose()?.unwrap_or_default().to_owned(),
        force: typed.has("force"),
        cancel: typed.has("cancel"),
    };
    let waits = typed.has("wait") && !request.cancel;
    if waits && typed.has("direct") {
        let why = "--wait needs the daemon: it sees the guest come and go";
        return Err(Trouble::Usage(why.to_owned()));
    }
    let mut client = client(typed)?;
    let before = match waits {
        true => Some(look(&mut client, name, false)?),
        false => None,
    };
    // From before it is asked, so that nothing is missed.
    let follower = match waits {
        true => Some(Follower::new(typed, name)?),
        false => None,
    };
    let cancel = request.cancel;
    let id = client.ask_agent(name, Body::Shutdown(request))?;
    let Body::ShutdownResponse(_) = client.wait_agent(id)? else {
        return Err(unexpected());
    };
    let begun = clock::now();
    if let (Some(before), Some(mut follower)) = (before, follower) {
        let patience = patience + Duration::from_secs(delay.into());
        follower.wait(&mut client, &before, action, patience)?;
    }
    let took = clock::now().since(begun);
    let said = said(action, cancel, waits, delay);
    if typed.has("json") {
        let seconds = waits.then_some(took.as_secs_f64());
        return print_json(&json!({ "vm": name, "state": said, "seconds": seconds }));
    }
    match waits {
        true => print(&format!(
            "{}: {said} after {:.1} s\n",
            plain(name),
            took.as_secs_f64()
        )),
        false => print(&format!("{}: {said}\n", plain(name))),
    }
}

fn said(action: PowerAction, cancel: bool, waited: bool, delay: u32) -> String {
    let (coming, done) = match action {
        PowerAction::PowerOff => ("switches off", "switched off"),
        PowerAction::Reboot => ("starts again", "started again"),
        PowerAction::Halt => ("halts", "halted"),
        PowerAction::SuspendToRam => ("goes to sleep", ""),
        PowerAction::SuspendToDisk => ("goes to sleep, and switches off", ""),
    };
    match (cancel, waited, delay) {
        (true, _, _) => "taken back".to_owned(),
        (false, true, _) => done.to_owned(),
        (false, false, 0) => coming.to_owned(),
        (false, false, delay) => format!("{coming} in {}", span(delay.into())),
    }
}

/// A connection of its own for what happens to a VM.
struct Follower {
    events: Client,
    id: u64,
}

impl Follower {
    fn new(typed: &Typed, name: &str) -> Result<Self, Trouble> {
        let mut events = client(typed)?;
        let follow = node_message::Body::GetEvents(node::GetEvents { follow: true });
        let id = events.ask(name, follow)?;
        Ok(Self { events, id })
    }

    /// Waits until it has ended in the way that was meant.
    fn wait(
        &mut self,
        client: &mut Client,
        before: &Vm,
        action: PowerAction,
        patience: Duration,
    ) -> Result<(), Trouble> {
        let end = clock::now() + patience;
        loop {
            let seen = look(client, &before.name, false)?;
            if is_done(before, &seen, action) {
                return Ok(());
            }
            let left = end.since(clock::now());
            let next = match left.is_zero() {
                true => None,
                false => {
                    self.events.limit(left)?;
                    Some(self.events.wait(self.id))
                }
            };
            match next {
                Some(Ok(_)) => {}
                Some(Err(trouble)) if clock::now() < end => return Err(trouble),
                _ => {
                    let why = overdue(&seen, action, patience);
                    return Err(Trouble::Failed(Failure::new(Code::TimedOut, why)));
                }
            }
        }
    }
}

/// Why it is not done, and what is left to do: an agent that has ended can force nothing any more.
fn overdue(seen: &Vm, action: PowerAction, patience: Duration) -> String {
    let (name, state) = (&seen.name, state_word(seen.state()));
    let (missing, next) = match (seen.state(), action) {
        (VmState::Ready, _) => ("ended", "--force ends it".to_owned()),
        (_, PowerAction::Reboot) => (
            "come back",
            format!("qx-node doctor {name} tells what it waits for"),
        ),
        _ => (
            "ended",
            "its agent has, so only its hypervisor can end it".to_owned(),
        ),
    };
    format!(
        "{name} has not {missing} within {}: it is {state}; {next}",
        span(patience.as_secs())
    )
}

fn is_done(before: &Vm, seen: &Vm, action: PowerAction) -> bool {
    match action {
        PowerAction::Reboot => seen.boot_id != before.boot_id && seen.state() == VmState::Ready,
        PowerAction::Halt => seen.state() != VmState::Ready,
        // Nobody serves its socket, if it is there at all.
        _ => matches!(seen.state(), VmState::Absent | VmState::Connecting),
    }
}
