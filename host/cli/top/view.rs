//! What is shown: which VMs, in which order, from which on, and what a key changes of it. Pure.

use std::collections::HashMap;
use std::time::Duration;

use quantix::message::agent::Telemetry;
use quantix::message::node::{Sample, TelemetryReport, Vm, VmState};
use quantix::time::Time;

use super::column::By;
use super::keys::Key;
use crate::cli::many::matches;
use crate::daemon::state_word;

/// A past that is older is asked for again. Cells of what is shown are longer than this.
const PAST: Duration = Duration::from_secs(10);

/// Pasts that are asked for at once: what waits for a client has a bound.
const AT_ONCE: usize = 16;

/// Characters of a filter.
const MAX_FILTER: usize = 64;

/// Who gets the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    List,
    /// They are typed into the filter.
    Filter,
    Help,
}

/// What a key asks for that is not the view's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    None,
    Quit,
    /// To the background, as Ctrl-Z does with all programs.
    Stop,
    /// Ask the daemon now.
    Refresh,
    /// Draw all of it: something else has written on the terminal.
    Redraw,
}

/// What a VM has reported, as of a time.
#[derive(Debug)]
pub struct Past {
    pub samples: Vec<Sample>,
    pub at: Time,
    /// All that there is, not the last minutes alone.
    whole: bool,
}

/// See the module.
#[derive(Debug)]
pub struct View {
    /// All of them, in order.
    vms: Vec<Vm>,
    /// Those that the filter lets through, as places in `vms`.
    shown: Vec<usize>,
    pub by: By,
    pub is_reversed: bool,
    pub filter: String,
    pub mode: Mode,
    /// By name: the others move around it.
    selected: Option<String>,
    /// The selected one is shown closely.
    is_examining: bool,
    is_paused: bool,
    /// The first in sight, and how many there is room for.
    first: usize,
    rows: usize,
    pasts: HashMap<String, Past>,
    report: Option<Telemetry>,
    /// Why nothing new comes.
    pub trouble: Option<String>,
}

impl View {
    pub fn new(by: By, filter: String) -> Self {
        Self {
            vms: Vec::new(),
            shown: Vec::new(),
            by,
            is_reversed: false,
            filter,
            mode: Mode::List,
            selected: None,
            is_examining: false,
            is_paused: false,
            first: 0,
            rows: 0,
            pasts: HashMap::new(),
            report: None,
            trouble: None,
        }
    }

    /// All VMs, as they are now.
    pub fn take(&mut self, vms: Vec<Vm>) {
        self.vms = vms;
        self.arrange();
    }

    /// What the VM that is [`examined`](Self::examined) has reported last.
    pub fn take_report(&mut self, report: Option<TelemetryReport>) {
        self.report = report.and_then(|report| report.telemetry);
    }

    /// What this VM has reported up to now.
    pub fn take_past(&mut self, name: String, samples: Vec<Sample>, at: Time) {
        let whole = self.examined() == Some(&*name);
        let past = Past { samples, at, whole };
        self.pasts.insert(name, past);
    }

    fn arrange(&mut self) {
        let (by, is_reversed) = (self.by, self.is_reversed);
        self.vms.sort_by(|a, b| match is_reversed {
            true => by.compare(b, a),
            false => by.compare(a, b),
        });
        let shown = self.vms.iter().enumerate();
        let shown = shown.filter(|(_, vm)| lets_through(&self.filter, vm));
        self.shown = shown.map(|(at, _)| at).collect();
        if self.selected_at().is_none() {
            self.select(None);
        }
    }

    /// There is room for so many: those are in sight from now on.
    pub fn fit(&mut self, rows: usize) {
        self.rows = rows;
        if let Some(at) = self.selected_at() {
            let lowest = (at + 1).saturating_sub(rows);
            self.first = self.first.clamp(lowest.min(at), at);
        }
        self.first = self.first.min(self.shown.len().saturating_sub(rows));
        let kept: Vec<String> = self.in_sight().map(|vm| vm.name.clone()).collect();
        self.pasts.retain(|name, _| kept.contains(name));
    }

    pub fn in_sight(&self) -> impl Iterator<Item = &Vm> {
        let shown = self.shown.iter().skip(self.first).take(self.rows);
        shown.filter_map(|at| self.vms.get(*at))
    }

    /// All that there are, whatever the filter is.
    pub fn all(&self) -> &[Vm] {
        &self.vms
    }

    /// How many the filter lets through.
    pub fn count(&self) -> usize {
        self.shown.len()
    }

    /// How many are above what is in sight.
    pub fn above(&self) -> usize {
        self.first
    }

    pub fn past(&self, vm: &Vm) -> Option<&Past> {
        self.pasts.get(&vm.name)
    }

    /// Those in sight whose past is not known, or was a while ago, the next few; true: all of it is wanted.
    pub fn without_past(&self, now: Time) -> Vec<(String, bool)> {
        let examined = self.examined();
        self.in_sight()
            .map(|vm| (vm, examined == Some(&*vm.name)))
            .filter(|(vm, whole)| {
                let past = self.past(vm);
                past.is_none_or(|past| now.since(past.at) >= PAST || (*whole && !past.whole))
            })
            .map(|(vm, whole)| (vm.name.clone(), whole))
            .take(AT_ONCE)
            .collect()
    }

    pub fn is_selected(&self, vm: &Vm) -> bool {
        self.selected.as_deref() == Some(&*vm.name)
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// The name of the VM that is shown closely.
    pub fn examined(&self) -> Option<&str> {
        self.selected.as_deref().filter(|_| self.is_examining)
    }

    /// As [`examined`](Self::examined): the VM, and what it has reported last.
    pub fn examined_vm(&self) -> Option<(&Vm, Option<&Telemetry>)> {
        let name = self.examined()?;
        let vm = self.vms.iter().find(|vm| vm.name == name)?;
        let report = self
            .report
            .as_ref()
            .filter(|_| vm.state() == VmState::Ready);
        Some((vm, report))
    }

    /// Where it is among those that are shown.
    fn selected_at(&self) -> Option<usize> {
        let name = self.selected.as_deref()?;
        let mut shown = self.shown.iter();
        shown.position(|at| self.vms.get(*at).is_some_and(|vm| vm.name == name))
    }

    fn select(&mut self, at: Option<usize>) {
        let vm = at.and_then(|at| self.vms.get(*self.shown.get(at)?));
        let name = vm.map(|vm| vm.name.clone());
        if name != self.selected {
            self.report = None;
        }
        self.is_examining &= name.is_some();
        self.selected = name;
    }

    /// A key was pressed.
    pub fn key(&mut self, key: Key) -> Act {
        match key {
            Key::Control('c') => return Act::Quit,
            Key::Control('z') => return Act::Stop,
            Key::Control('l') => return Act::Redraw,
            _ => {}
        }
        match self.mode {
            Mode::List => self.list_key(key),
            Mode::Filter => self.filter_key(key),
            Mode::Help => {
                self.mode = Mode::List;
                match key {
                    Key::Char('q') => Act::Quit,
                    _ => Act::None,
                }
            }
        }
    }

    fn filter_key(&mut self, key: Key) -> Act {
        match key {
            Key::Char(char) if self.filter.chars().count() < MAX_FILTER => self.filter.push(char),
            Key::Backspace => {
                if self.filter.pop().is_none() {
                    self.mode = Mode::List;
                }
            }
            Key::Enter => self.mode = Mode::List,
            Key::Escape => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            _ => return self.move_key(key),
        }
        self.first = 0;
        self.arrange();
        Act::None
    }

    fn list_key(&mut self, key: Key) -> Act {
        match key {
            Key::Char('q') => return Act::Quit,
            Key::Char('/') => self.mode = Mode::Filter,
            Key::Char('?' | 'h') => self.mode = Mode::Help,
            Key::Char('p' | ' ') => {
                self.is_paused = !self.is_paused;
                return Act::Refresh;
            }
            Key::Char('r') => {
                self.is_reversed = !self.is_reversed;
                self.arrange();
            }
            Key::Enter => {
                if self.selected.is_none() {
                    self.select(Some(self.first));
                }
                self.is_examining = self.selected.is_some() && !self.is_examining;
                return Act::Refresh;
            }
            Key::Escape => self.step_back(),
            Key::Char(char) => {
                if let Some(by) = By::of_key(char) {
                    self.is_reversed = by == self.by && !self.is_reversed;
                    self.by = by;
                    self.first = 0;
                    self.arrange();
                } else {
                    return self.move_key(match char {
                        'k' => Key::Up,
                        'j' => Key::Down,
                        'g' => Key::Home,
                        'G' => Key::End,
                        _ => return Act::None,
                    });
                }
            }
            _ => return self.move_key(key),
        }
        Act::None
    }

    /// One thing less.
    fn step_back(&mut self) {
        if self.is_examining {
            self.is_examining = false;
        } else if self.selected.is_some() {
            self.select(None);
        } else {
            self.filter.clear();
            self.arrange();
        }
    }

    fn move_key(&mut self, key: Key) -> Act {
        let Some(last) = self.shown.len().checked_sub(1) else {
            return Act::None;
        };
        let page = self.rows.max(1);
        let at = self.selected_at();
        let to = match key {
            Key::Up => at.map_or(last, |at| at.saturating_sub(1)),
            Key::Down => at.map_or(self.first, |at| at + 1),
            Key::PageUp => at.unwrap_or(self.first).saturating_sub(page),
            Key::PageDown => at.unwrap_or(self.first) + page,
            Key::Home => 0,
            Key::End => last,
            _ => return Act::None,
        };
        self.select(Some(to.min(last)));
        match self.is_examining {
            true => Act::Refresh,
            false => Act::None,
        }
    }
}

/// By a part of its name, its host name or its state, or by a pattern for its name.
fn lets_through(filter: &str, vm: &Vm) -> bool {
    if filter.contains(['*', '?', '[']) {
        return matches(filter, &vm.name);
    }
    let filter = filter.to_lowercase();
    let hostname = vm.agent.as_ref().map_or("", |agent| &agent.hostname);
    let state = state_word(vm.state());
    let mut texts = [&vm.name, hostname, state].into_iter();
    texts.any(|text| text.to_lowercase().contains(&filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str, state: VmState, cpu: f64) -> Vm {
        Vm {
            name: name.to_owned(),
            state: state.into(),
            latest: Some(Sample {
                cpu_usage_percent: cpu,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn fleet() -> Vec<Vm> {
        let mut vms: Vec<Vm> = (0..50)
            .map(|at| vm(&format!("web{at:02}"), VmState::Ready, f64::from(at)))
            .collect();
        vms.push(vm("db1", VmState::Stalled, 0.0));
        vms
    }

    fn view() -> View {
        let mut view = View::new(By::Cpu, String::new());
        view.take(fleet());
        view.fit(10);
        view
    }

    fn names(view: &View) -> Vec<&str> {
        view.in_sight().map(|vm| &*vm.name).collect()
    }

    fn press(view: &mut View, keys: &str) {
        for key in keys.chars() {
            let _ = view.key(match key {
                '\n' => Key::Enter,
                '\x1b' => Key::Escape,
                '<' => Key::Backspace,
                'v' => Key::Down,
                '^' => Key::Up,
                key => Key::Char(key),
            });
            view.fit(10);
        }
    }

    #[test]
    fn the_busiest_are_in_sight_and_the_others_can_be_reached() {
        let mut view = view();
        assert_eq!((names(&view)[0], names(&view).len()), ("web49", 10));
        view.key(Key::PageDown);
        view.key(Key::PageDown);
        view.fit(10);
        assert!(names(&view).contains(&"web29"), "{:?}", names(&view));
        view.key(Key::End);
        view.fit(10);
        assert_eq!(names(&view)[9], "db1");
        view.key(Key::Home);
        view.fit(10);
        assert_eq!(names(&view)[0], "web49");
        // Nothing is beyond the ends.
        press(&mut view, "^^");
        assert!(view.is_selected(&vm("web49", VmState::Ready, 0.0)));
    }

    #[test]
    fn the_selected_one_stays_selected_wherever_it_goes() {
        let mut view = view();
        press(&mut view, "v");
        let mut vms = fleet();
        vms[49].latest = None;
        view.take(vms);
        view.fit(10);
        assert_eq!(names(&view).len(), 10);
        assert!(names(&view).contains(&"web49"), "{:?}", names(&view));
        // It is gone.
        press(&mut view, "\n");
        assert_eq!(view.examined(), Some("web49"));
        view.take(vec![vm("web01", VmState::Ready, 1.0)]);
        assert_eq!(view.examined(), None);
        view.fit(10);
        assert_eq!(names(&view), ["web01"]);
    }

    #[test]
    fn a_key_changes_the_order_and_again_turns_it_round() {
        let mut view = view();
        press(&mut view, "n");
        assert_eq!(names(&view)[..2], ["db1", "web00"]);
        press(&mut view, "n");
        assert_eq!(names(&view)[0], "web49");
        press(&mut view, "r");
        assert_eq!(names(&view)[0], "db1");
        press(&mut view, "cr");
        assert_eq!(names(&view)[0], "db1");
        press(&mut view, "s");
        assert_eq!((names(&view)[0], view.is_reversed), ("db1", false));
    }

    #[test]
    fn what_is_typed_after_a_slash_is_looked_for_in_names_and_states() {
        let mut view = view();
        press(&mut view, "/web1");
        assert_eq!(view.count(), 10);
        press(&mut view, "3\n");
        assert_eq!((names(&view), view.mode), (vec!["web13"], Mode::List));
        press(&mut view, "\x1b");
        assert_eq!(view.count(), 51);
        for (filter, count) in [
            ("/STALL\n", 1),
            ("/w*4?\n", 10),
            ("/nothing\n", 0),
            ("/\u{e4}\n", 0),
        ] {
            press(&mut view, filter);
            assert_eq!(view.count(), count, "{filter}");
            // Nothing to be moved in, or examined.
            press(&mut view, "v\n\x1b\x1b\x1b");
        }
        press(&mut view, "/q<<");
        assert_eq!((view.mode, view.count()), (Mode::List, 51));
        press(&mut view, &format!("/{}", "x".repeat(1000)));
        assert_eq!(view.filter.len(), MAX_FILTER);
    }

    #[test]
    fn pasts_are_asked_for_as_they_come_into_sight_and_grow_old() {
        let mut view = view();
        let at = |seconds: u64| Time::from_micros(seconds * 1_000_000);
        let wanted = view.without_past(at(100));
        assert_eq!(wanted.len(), 10);
        for (name, whole) in wanted {
            assert!(!whole);
            view.take_past(name, Vec::new(), at(100));
        }
        assert_eq!(view.without_past(at(105)), []);
        assert_eq!(view.without_past(at(110)).len(), 10);
        // Examined, all of it is wanted.
        press(&mut view, "\n");
        assert_eq!(view.without_past(at(105)), [("web49".to_owned(), true)]);
        view.take_past("web49".to_owned(), Vec::new(), at(105));
        assert_eq!(view.without_past(at(106)), []);
        // No more is kept than there is room for.
        view.key(Key::End);
        view.fit(10);
        assert_eq!(view.without_past(at(106)).len(), 10);
        assert!(view.pasts.is_empty());
    }

    #[test]
    fn keys_that_are_not_the_views_are_passed_on() {
        let mut view = view();
        assert_eq!(view.key(Key::Char('?')), Act::None);
        assert_eq!(
            (view.mode, view.key(Key::Char('x'))),
            (Mode::Help, Act::None)
        );
        assert_eq!(view.mode, Mode::List);
        assert_eq!(view.key(Key::Control('z')), Act::Stop);
        assert_eq!(view.key(Key::Char('p')), Act::Refresh);
        assert!(view.is_paused());
        view.key(Key::Char('/'));
        assert_eq!(view.key(Key::Char('q')), Act::None);
        assert_eq!(view.key(Key::Control('c')), Act::Quit);
    }
}
