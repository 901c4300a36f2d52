//! `qx-node events`: what has happened to the VMs, and what happens.

use std::ffi::OsStr;

use quantix::message::node::{self, Event, EventKind, node_message};
use serde_json::{Value, json};

use super::client::unexpected;
use super::options::Typed;
use super::render::{iso_time, plain};
use super::report::behind_json;
use super::run::print_json;
use super::{Trouble, client, print, utf8};
use crate::daemon::{event_text, state_text, state_word};

/// `qx-node events`
pub fn events(typed: &Typed) -> Result<u8, Trouble> {
    if let Some(word) = typed.words.get(1) {
        let word = word.to_string_lossy();
        return Err(Trouble::Usage(format!("{word} is one word too many")));
    }
    let name = typed.words.first().map_or(OsStr::new(""), |word| word);
    let name = utf8("name", name)?;
    let mut client = client(typed)?;
    let follow = typed.has("follow");
    let asked = node_message::Body::GetEvents(node::GetEvents { follow });
    let id = client.ask(name, asked)?;
    let mut lines = Lines::default();
    client.gather(id, |body| {
        let node_message::Body::EventList(list) = body else {
            return Err(unexpected());
        };
        if typed.has("json") {
            for event in &list.events {
                print_json(&event_json(event))?;
            }
        } else {
            print(&lines.text(&list.events))?;
        }
        Ok(list.more)
    })?;
    Ok(0)
}

/// Columns that only grow: a follower's next line has to stand below those it has printed.
#[derive(Debug, Default)]
struct Lines {
    vm: usize,
    what: usize,
}

impl Lines {
    fn text(&mut self, events: &[Event]) -> String {
        let cells: Vec<_> = events
            .iter()
            .map(|event| (time(event), plain(&event.vm), plain(&what(event)), event))
            .collect();
        for (_, vm, what, _) in &cells {
            self.vm = self.vm.max(vm.chars().count());
            self.what = self.what.max(what.chars().count());
        }
        let mut text = String::new();
        for (time, vm, what, event) in cells {
            let (vm_width, what_width) = (self.vm, self.what);
            let why = plain(&event.reason);
            let line = format!("{time}  {vm:vm_width$}  {what:what_width$}  {why}");
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

fn time(event: &Event) -> String {
    iso_time(event.time.map_or(0, |time| time.seconds))
}

/// `connecting -> ready`
fn what(event: &Event) -> String {
    if event.kind() != EventKind::State {
        return event_text(event.kind()).to_owned();
    }
    let to = state_text(event.to(), event.behind.as_ref());
    match event.from() {
        node::VmState::Unspecified => to,
        from if from == event.to() => to,
        from => format!("{} -> {to}", state_word(from)),
    }
}

fn event_json(event: &Event) -> Value {
    let state = |state| match state {
        node::VmState::Unspecified => Value::Null,
        state => state_word(state).into(),
    };
    json!({
        "number": event.number,
        "time": time(event),
        "vm": event.vm,
        "event": kind_word(event.kind()),
        "from": state(event.from()),
        "to": state(event.to()),
        "reason": event.reason,
        "behind": behind_json(event.behind.as_ref()),
    })
}

/// A kind for programs.
const fn kind_word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Unspecified => "unknown",
        EventKind::State => "state",
        EventKind::SessionLost => "session_lost",
        EventKind::GuestBooted => "guest_booted",
        EventKind::GuestReverted => "guest_reverted",
        EventKind::ClockSetBack => "clock_set_back",
        EventKind::AgentRestarted => "agent_restarted",
        EventKind::GuestResumed => "guest_resumed",
        EventKind::ClockCorrected => "clock_corrected",
        EventKind::GuestSick => "guest_sick",
        EventKind::GuestWell => "guest_well",
    }
}

#[cfg(test)]
mod tests {
    use quantix::message::agent::Timestamp;
    use quantix::message::node::{Behind, VmState};

    use super::*;

    fn state(vm: &str, from: VmState, to: VmState, reason: &str) -> Event {
        Event {
            time: Some(Timestamp {
                seconds: 1_795_382_405,
                nanos: 999_999_999,
            }),
            vm: vm.to_owned(),
            kind: EventKind::State.into(),
            from: from.into(),
            to: to.into(),
            reason: reason.to_owned(),
            ..Event::default()
        }
    }

    #[test]
    fn lines_align_and_hide_nothing() {
        let found = state("a", VmState::Unspecified, VmState::Connecting, "found /a");
        let mut queued = state("web1", VmState::Connecting, VmState::Queued, "end it");
        queued.behind = Some(Behind {
            pid: 7,
            command: "evil\x1b[2J".to_owned(),
            position: 1,
            of: 1,
        });
        let ready = state("a", VmState::Queued, VmState::Ready, "");
        let mut lines = Lines::default();
        let text = lines.text(&[found, queued.clone()]) + &lines.text(&[ready]);
        let gap = " ".repeat(36);
        let expected = format!(
            "2026-11-22T21:20:05Z  a     connecting{gap}  found /a\n\
             2026-11-22T21:20:05Z  web1  connecting -> queued behind evil\\x1b[2J, pid 7  end it\n\
             2026-11-22T21:20:05Z  a     queued -> ready\n"
        );
        assert_eq!(text, expected);
        let json = event_json(&queued);
        assert_eq!(json["time"], "2026-11-22T21:20:05Z");
        assert_eq!(
            (&json["from"], &json["to"]),
            (&"connecting".into(), &"queued".into())
        );
        assert_eq!(json["behind"]["pid"], 7);
    }
}
