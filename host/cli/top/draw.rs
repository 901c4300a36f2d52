//! A view, drawn on a terminal of any size. Pure.

mod details;
mod marks;

use std::time::Duration;

use quantix::message::node::{Sample, Vm, VmState};
use quantix::time::Time;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::column::{By, Column, GAP, current, fit};
use super::past::{RECENT_SECONDS, cells};
use super::view::{Mode, View};
use crate::cli::history::memory_percent;
use crate::cli::render::{bytes, iso_time, plain, span};
use crate::daemon::{state_text, state_word};
pub use marks::Looks;

/// Times as of now: ours, and the wall's in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: Time,
    pub wall: i64,
}

/// Draws all of it.
pub fn draw(frame: &mut Frame, view: &mut View, looks: &Looks, moment: Moment) {
    let [head, titles, list, below, foot] = areas(frame.area(), view.examined().is_some());
    let name = view.all().iter().map(|vm| vm.name.chars().count()).max();
    let columns = fit(list.width.into(), name.unwrap_or(0));
    view.fit(list.height.into());
    frame.render_widget(summary(view, looks, moment), head);
    frame.render_widget(title_line(view, &columns, looks), titles);
    let rows = view.in_sight();
    let rows: Vec<Line> = rows
        .map(|vm| row(view, vm, &columns, looks, moment))
        .collect();
    if rows.is_empty() {
        frame.render_widget(nothing(view), list);
    }
    for (row, area) in rows.into_iter().zip(list.rows()) {
        // The line, not its text alone: a selected one is marked from end to end.
        frame.buffer_mut().set_style(area, row.style);
        frame.render_widget(row, area);
    }
    if let Some(examined) = view.examined_vm() {
        details::draw(frame, below, examined, view.past(examined.0), looks, moment);
    }
    if view.mode == Mode::Help {
        help(frame, list.union(below));
    }
    frame.render_widget(foot_line(view, looks), foot);
}

/// From above: summary, titles, list, what is examined, keys.
fn areas(all: Rect, is_examining: bool) -> [Rect; 5] {
    let mut left = all;
    let mut take = |height| down(&mut left, height);
    let (head, titles) = (take(1), take(1));
    let rest = all.height.saturating_sub(3);
    let below = match is_examining {
        // Some of the others stay in sight.
        true => (rest * 3 / 5).min(details::HEIGHT),
        false => 0,
    };
    let list = take(rest - below);
    [head, titles, list, take(below), take(1)]
}

/// Takes so many lines from above.
fn down(left: &mut Rect, height: u16) -> Rect {
    let height = height.min(left.height);
    let taken = Rect { height, ..*left };
    left.y += height;
    left.height -= height;
    taken
}

/// `qx-node top  20:31:05  12 VMs: 9 ready, 2 stalled`, or why nothing new comes.
fn summary(view: &View, looks: &Looks, moment: Moment) -> Line<'static> {
    let time = iso_time(moment.wall);
    let time = time.get(11..19).unwrap_or_default();
    let mut spans = vec![Span::raw(format!("qx-node top  {time}Z  "))];
    if let Some(trouble) = &view.trouble {
        spans.push(Span::styled(plain(trouble), looks.loud(Color::Red)));
        return Line::from(spans);
    }
    let count = view.all().len();
    spans.push(Span::raw(match count {
        1 => "1 VM".to_owned(),
        count => format!("{count} VMs"),
    }));
    let states = [
        VmState::Ready,
        VmState::Stalled,
        VmState::Queued,
        VmState::Waiting,
        VmState::Connecting,
        VmState::Absent,
    ];
    let mut between = ": ";
    for state in states {
        let count = view.all().iter().filter(|vm| vm.state() == state).count();
        if count > 0 {
            spans.push(Span::raw(between));
            let text = format!("{count} {}", state_word(state));
            spans.push(Span::styled(text, looks.of_state(state)));
            between = ", ";
        }
    }
    if view.is_paused() {
        spans.push(Span::styled("  paused", looks.loud(Color::Yellow)));
    }
    Line::from(spans)
}

fn title_line(view: &View, columns: &[(Column, usize)], looks: &Looks) -> Line<'static> {
    let mut cells = Vec::new();
    for (column, width) in columns {
        let style = match column.by() == view.by {
            true => Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            false => Style::new().add_modifier(Modifier::BOLD),
        };
        let cell = Span::styled(column.title(), style);
        cells.extend(padded(vec![cell], *width, column.is_text()));
        cells.push(Span::raw(" ".repeat(GAP)));
    }
    Line::from(cells).style(looks.style(Color::Cyan))
}

fn row(
    view: &View,
    vm: &Vm,
    columns: &[(Column, usize)],
    looks: &Looks,
    moment: Moment,
) -> Line<'static> {
    let mut cells = Vec::new();
    for (column, width) in columns {
        if *column == Column::State && vm.state() != VmState::Ready {
            // There is nothing but its reason to be shown, which has all the room.
            cells.push(Span::styled(lost(vm), looks.of_state(vm.state())));
            break;
        }
        let spans = cell(view, vm, *column, *width, looks, moment);
        cells.extend(padded(spans, *width, column.is_text()));
        cells.push(Span::raw(" ".repeat(GAP)));
    }
    let style = match view.is_selected(vm) {
        true => looks.selected(),
        false => Style::new(),
    };
    Line::from(cells).style(style)
}

/// `stalled 5m 3s: no answer to our Ping`
fn lost(vm: &Vm) -> String {
    let state = state_text(vm.state(), vm.behind.as_ref());
    let since = span(vm.since_ms / 1000);
    match &*vm.reason {
        "" => plain(&format!("{state}, {since}")),
        reason => plain(&format!("{state}, {since}: {reason}")),
    }
}

fn cell(
    view: &View,
    vm: &Vm,
    column: Column,
    width: usize,
    looks: &Looks,
    moment: Moment,
) -> Vec<Span<'static>> {
    let of = current(vm);
    let percent = |value: fn(&Sample) -> f64| of.map_or(unknown(), |of| looks.percent(value(of)));
    let rate = |value: fn(&Sample) -> Option<u64>| {
        of.and_then(value)
            .map_or(unknown(), |rate| Span::raw(bytes(rate)))
    };
    let past = |value: fn(&Sample) -> f64| {
        let Some(past) = view.past(vm) else {
            return Vec::new();
        };
        let age = moment.now.since(past.at);
        let recent = Duration::from_secs(RECENT_SECONDS.into());
        let cells = cells(&past.samples, age, recent, width, |of| Some(value(of)));
        cells.iter().map(|cell| looks.spark(*cell)).collect()
    };
    let one = match column {
        Column::Name => Span::raw(plain(&vm.name)),
        Column::State => of_ready(vm, looks),
        Column::Cpu => percent(|of| of.cpu_usage_percent),
        Column::Memory => percent(memory_percent),
        Column::Disk => percent(|of| of.fullest_disk_percent),
        Column::Load => of.map_or(unknown(), |of| Span::raw(format!("{:.2}", of.load_avg_1m))),
        Column::Read => rate(|of| of.disk_read),
        Column::Written => rate(|of| of.disk_written),
        Column::Received => rate(|of| of.received),
        Column::Sent => rate(|of| of.sent),
        Column::CpuPast => return past(|of| of.cpu_usage_percent),
        Column::MemoryPast => return past(memory_percent),
    };
    vec![one]
}

fn unknown() -> Span<'static> {
    Span::raw("-")
}

/// One whose session is open, which may be ill nevertheless.
fn of_ready(vm: &Vm, looks: &Looks) -> Span<'static> {
    let is_frozen = vm.agent.as_ref().is_some_and(|agent| agent.frozen);
    match (vm.ills.is_empty(), is_frozen) {
        (false, _) => Span::styled("sick", looks.loud(Color::Red)),
        (true, true) => Span::styled("frozen", looks.loud(Color::Blue)),
        (true, false) => Span::styled(state_word(VmState::Ready), looks.of_state(VmState::Ready)),
    }
}

/// As wide as its column: what is too long is cut, and shows it.
fn padded(mut spans: Vec<Span<'static>>, width: usize, is_text: bool) -> Vec<Span<'static>> {
    let mut used: usize = spans.iter().map(Span::width).sum();
    if used > width
        && let [only] = spans.as_mut_slice()
    {
        let mut text = only.content.to_string();
        while !text.is_empty() && Span::raw(&*text).width() >= width {
            text.pop();
        }
        text.push('~');
        *only = Span::styled(text, only.style);
        used = only.width();
    }
    let space = Span::raw(" ".repeat(width.saturating_sub(used)));
    match is_text {
        true => spans.push(space),
        false => spans.insert(0, space),
    }
    spans
}

fn nothing(view: &View) -> Line<'static> {
    Line::from(match (view.all().is_empty(), &*view.filter) {
        (true, _) => "no VMs: `qx-node channel VM` shows how to give one its channel".to_owned(),
        (false, filter) => format!("no VM is {}: Esc shows all", plain(filter)),
    })
}

/// What keys do, or what is typed.
fn foot_line(view: &View, looks: &Looks) -> Line<'static> {
    if view.mode == Mode::Filter {
        let typed = format!("/{}", plain(&view.filter));
        let found = format!("   {} found; Enter keeps it, Esc shows all", view.count());
        let cursor = Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED));
        return Line::from(vec![Span::raw(typed), cursor, Span::raw(found)]);
    }
    let mut text = String::new();
    if !view.filter.is_empty() {
        text += &format!("only {}  ", plain(&view.filter));
    }
    let end = view.above() + view.in_sight().count();
    if view.count() > end || view.above() > 0 {
        text += &format!("{}-{end} of {}  ", view.above() + 1, view.count());
    }
    let turned = if view.is_reversed {
        ", turned round"
    } else {
        ""
    };
    text += &format!("by {}{turned}  ", view.by.word());
    text += "q quit  ? keys  / find  Enter examine";
    Line::from(text).style(looks.style(Color::DarkGray))
}

fn help(frame: &mut Frame, area: Rect) {
    let orders = By::ALL.map(|by| {
        let (key, rest) = by.word().split_at(1);
        format!("[{key}]{rest}")
    });
    let lines = [
        "Up Down PgUp PgDn Home End   select a VM".to_owned(),
        "Enter                        examine it: its last hour, its mounts".to_owned(),
        "/                            show only what this is part of: of its name, its host name, its".to_owned(),
        "                             state; or a pattern: web*".to_owned(),
        orders[..4].join(" "),
        format!("{}   put in this order; again turns it round", orders[4..].join(" ")),
        "r                            turn the order round".to_owned(),
        "p                            pause, and go on".to_owned(),
        "Esc                          step back: all VMs again in the end".to_owned(),
        "q                            quit".to_owned(),
    ];
    frame.render_widget(ratatui::widgets::Clear, area);
    for (line, area) in lines.into_iter().zip(area.rows()) {
        frame.render_widget(line, area);
    }
}

#[cfg(test)]
mod tests {
    use quantix::message::agent::{AgentReady, Disk, Telemetry};
    use quantix::message::node::TelemetryReport;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::keys::Key;
    use super::*;

    const PLAIN: Looks = Looks {
        has_colour: false,
        has_unicode: false,
    };

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    fn samples() -> Vec<Sample> {
        let sample = |(age, cpu_usage_percent): (u64, f64)| Sample {
            age_ms: age * 1000,
            cpu_usage_percent,
            memory_used: 1 << 30,
            memory_total: 8 << 30,
            fullest_disk_percent: 91.5,
            received: Some(3 << 20),
            sent: Some(0),
            ..Default::default()
        };
        [(500, 99.0), (490, 20.0), (5, 7.0)].map(sample).to_vec()
    }

    fn vm(name: &str, state: VmState, reason: &str) -> Vm {
        Vm {
            name: name.to_owned(),
            state: state.into(),
            reason: reason.to_owned(),
            since_ms: 65_000,
            latest: samples().pop(),
            ..Default::default()
        }
    }

    fn view() -> View {
        let mut view = View::new(By::Name, String::new());
        let ill = Vm {
            ills: "disk vda does not answer".to_owned(),
            ..vm("ill", VmState::Ready, "")
        };
        let frozen = Vm {
            agent: Some(AgentReady {
                frozen: true,
                ..Default::default()
            }),
            ..vm("frozen", VmState::Ready, "")
        };
        let new = Vm {
            latest: None,
            ..vm("new", VmState::Ready, "")
        };
        view.take(vec![
            vm("a\x1b]0;owned\x07", VmState::Stalled, "no answer\x1b[2J"),
            vm(
                "web1-with-a-name-that-is-longer-than-its-column",
                VmState::Ready,
                "",
            ),
            ill,
            frozen,
            new,
        ]);
        view
    }

    fn drawn(view: &mut View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let moment = Moment {
            now: at(1000),
            wall: 1_795_382_405,
        };
        // The pasts of those in sight are known from the second time on.
        for _ in 0..2 {
            terminal
                .draw(|frame| draw(frame, view, &PLAIN, moment))
                .unwrap();
            for (name, _) in view.without_past(at(1000)) {
                view.take_past(name, samples(), at(1000));
            }
        }
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(width.into());
        let text = |row: &[ratatui::buffer::Cell]| {
            let row: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
            row.trim_end().to_owned()
        };
        rows.map(text).collect()
    }

    #[test]
    fn a_line_has_what_its_vm_does_or_why_it_does_nothing() {
        let lines = drawn(&mut view(), 150, 10);
        assert_eq!(
            lines[0],
            "qx-node top  21:20:05Z  5 VMs: 4 ready, 1 stalled"
        );
        assert!(lines[1].starts_with("VM "), "{lines:?}");
        let line = |name: &str| {
            let found = lines.iter().find(|line| line.starts_with(name)).unwrap();
            found.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            line("a\\x1b]0;owned\\x07"),
            "a\\x1b]0;owned\\x07 stalled, 1m 5s: no answer\\x1b[2J"
        );
        assert_eq!(line("new"), "new ready - #: . - : : - - - - - -");
        assert!(line("ill ").starts_with("ill sick 7.0 % "));
        assert!(line("frozen ").starts_with("frozen frozen 7.0 % "));
        let long = line("web1-");
        assert!(
            long.starts_with("web1-with-a-name-that-is-longer~ ready 7.0 % #: . 12.5 % : : "),
            "{long}"
        );
        assert!(long.ends_with(" 91.5 % 0.00 - - 3.0 MiB 0 B"), "{long}");
    }

    #[test]
    fn one_that_is_examined_has_its_hour_and_its_mounts() {
        let mut view = view();
        let disk = |mount_point: &str, filesystem: &str, usage_percent| Disk {
            mount_point: mount_point.to_owned(),
            filesystem: filesystem.to_owned(),
            usage_percent,
            used: 3 << 30,
            total: 4 << 30,
            ..Default::default()
        };
        drawn(&mut view, 100, 30);
        view.key(Key::Home);
        view.key(Key::Down);
        view.key(Key::Enter);
        view.take_report(Some(TelemetryReport {
            telemetry: Some(Telemetry {
                disks: vec![
                    disk("/", "ext4", 75.0),
                    disk("/run", "tmpfs", 99.0),
                    disk("/var\x1b", "xfs", 100.0),
                ],
                ..Default::default()
            }),
            age_ms: 0,
        }));
        let lines = drawn(&mut view, 100, 30);
        let below = lines
            .iter()
            .position(|line| line.starts_with("frozen  ready, 1m 5s"));
        let below = &lines[below.unwrap()..];
        assert!(
            below[1].starts_with("CPU: 7.0 %, 1 h peak 99.0 %"),
            "{below:?}"
        );
        assert!(
            below[1].contains("memory: 12.5 %, 1 h peak 12.5 %"),
            "{below:?}"
        );
        let text = below.join("\n");
        assert!(text.contains("disks: nothing reported"), "{text}");
        assert!(
            text.contains("network: 3.0 MiB/s, 1 h peak 3.0 MiB/s"),
            "{text}"
        );
        let full = "#".repeat(20);
        let var = format!("/var\\x1b  100.0 %  {full}  3.0 GiB of 4.0 GiB  xfs");
        assert!(text.contains(&var), "{text}");
        assert!(text.find("/var") < text.find("\n/  "), "{text}");
        assert!(!text.contains("/run"), "{text}");
    }

    #[test]
    fn no_terminal_is_too_small_or_too_large() {
        let mut view = view();
        for keys in ["", "?", "j\n", "/x"] {
            for key in keys.chars() {
                view.key(match key {
                    '\n' => Key::Enter,
                    key => Key::Char(key),
                });
            }
            for (width, height) in [
                (1, 1),
                (5, 2),
                (20, 3),
                (40, 8),
                (80, 24),
                (300, 100),
                (9, 90),
            ] {
                drawn(&mut view, width, height);
            }
            view.mode = Mode::List;
        }
    }

    #[test]
    fn where_there_is_nothing_it_says_what_to_do() {
        let mut nothing = View::new(By::Cpu, String::new());
        let lines = drawn(&mut nothing, 80, 6);
        assert!(
            lines[2].starts_with("no VMs: `qx-node channel VM`"),
            "{lines:?}"
        );
        let mut view = view();
        for key in "/nobody".chars() {
            view.key(Key::Char(key));
        }
        let lines = drawn(&mut view, 80, 6);
        assert_eq!(lines[2], "no VM is nobody: Esc shows all");
        assert!(lines[5].starts_with("/nobody "), "{lines:?}");
        assert!(lines[5].contains("0 found"), "{lines:?}");
        view.trouble = Some("no daemon on /run/x".to_owned());
        assert!(drawn(&mut view, 80, 6)[0].ends_with("  no daemon on /run/x"));
    }
}
